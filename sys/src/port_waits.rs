// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPort`: waiting for readiness, events and run states.

use std::ffi::{CStr, c_char, c_uint};

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, gboolean, gpointer};
use glib::prelude::*;

use crate::event::SpiceQmpEvent;
use crate::guard::{IS_THREAD_OF, SPICE_IS_QMP_PORT, are_strings, no_panic};
use crate::instance::{SpiceQmpPort, borrow};
use crate::task::{
    Caller, Operation, finish_boolean, finish_pointer, g_task_return_if_fail, timeout_of,
};

/// spice_qmp_port_wait_ready_full_async:
/// @port: a #SpiceQmpPort
/// @timeout_ms: the deadline in milliseconds, after which the call fails with
///   %G_IO_ERROR_TIMED_OUT, or 0 for none
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or with an error
/// @user_data: for @callback
///
/// Like spice_qmp_port_wait_ready_async(), with a deadline of your own.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_ready_full_async(
    port: *mut SpiceQmpPort,
    timeout_ms: c_uint,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::WaitReadyFull, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_wait_ready_full_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceQmpPort.
        let port = unsafe { borrow(port) };
        caller.wait(&port, |port, end| {
            port.wait_ready_with(timeout_of(timeout_ms), end)
        });
    });
}

/// spice_qmp_port_wait_ready_full_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_wait_ready_full_async(). The errors are those of
/// spice_qmp_port_wait_ready_finish().
///
/// Returns: %TRUE if the port is ready
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_ready_full_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::WaitReadyFull, port.cast(), result, error) }
}

/// spice_qmp_port_wait_event_async:
/// @port: a #SpiceQmpPort
/// @names: (nullable) (array zero-terminated=1): the names of events, such as `STOP`, or
///   %NULL for any event
/// @timeout_ms: the deadline in milliseconds, after which the call fails with
///   %G_IO_ERROR_TIMED_OUT, or 0 for none
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called with the event, or
///   with an error
/// @user_data: for @callback
///
/// Waits for the next event with one of these names.
///
/// The wait begins immediately: execute the command that causes the event afterwards,
/// and no event is missed, even one that QEMU sends before its reply.
///
/// ```c
/// const char *names[] = { "RESET", NULL };
///
/// spice_qmp_port_wait_event_async (port, names, 5000, NULL, on_reset, NULL);
/// spice_qmp_port_execute_async (port, "system_reset", NULL, NULL, NULL, NULL);
/// ```
///
/// The call fails with %G_IO_ERROR_CLOSED when the connection ends.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_event_async(
    port: *mut SpiceQmpPort,
    names: *const *const c_char,
    timeout_ms: c_uint,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::WaitEvent, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_wait_event_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: (names.is_null() || are_strings(names)));
        if caller.is_alone() {
            // A wait would only keep the port alive.
            return;
        }
        // SAFETY: both were checked.
        let (port, names) = unsafe { (borrow(port), strings(names)) };
        let wait = port.wait_event(names.iter().map(String::as_str));
        let wait = wait.timeout(timeout_of(timeout_ms));
        caller.future_of(port.upcast_ref(), &port.main_context(), wait);
    });
}

/// spice_qmp_port_wait_event_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_wait_event_async(). The errors are %G_IO_ERROR_TIMED_OUT,
/// %G_IO_ERROR_CANCELLED, and %G_IO_ERROR_CLOSED or the error that has ended the
/// connection, as in #SpiceQmpPort:last-error.
///
/// Returns: (transfer full): the event, or %NULL on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_event_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpEvent {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::WaitEvent, port.cast(), result, error) }
}

/// spice_qmp_port_wait_status_async:
/// @port: a #SpiceQmpPort
/// @names: (array zero-terminated=1): names of run states, such as `running`
/// @timeout_ms: the deadline in milliseconds, after which the call fails with
///   %G_IO_ERROR_TIMED_OUT, or 0 for none
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the machine is
///   in one of the states, or with an error
/// @user_data: for @callback
///
/// Waits until #SpiceQmpPort:status is one of these run states, which it may be already.
/// The call fails with %G_IO_ERROR_CLOSED when the connection ends.
///
/// ```c
/// const char *names[] = { "paused", NULL };
///
/// spice_qmp_port_wait_status_async (port, names, 10000, NULL, on_paused, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_status_async(
    port: *mut SpiceQmpPort,
    names: *const *const c_char,
    timeout_ms: c_uint,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::WaitStatus, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_wait_status_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: are_strings(names));
        if caller.is_alone() {
            // A wait would only keep the port alive.
            return;
        }
        // SAFETY: both were checked.
        let (port, names) = unsafe { (borrow(port), strings(names)) };
        let wait = port.wait_for_status(names.iter().map(String::as_str));
        let wait = wait.timeout(timeout_of(timeout_ms));
        caller.future_of(port.upcast_ref(), &port.main_context(), wait);
    });
}

/// spice_qmp_port_wait_status_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_wait_status_async(). The errors are those of
/// spice_qmp_port_wait_event_finish().
///
/// Returns: %TRUE if the machine was in one of the states, %FALSE on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_status_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::WaitStatus, port.cast(), result, error) }
}

/// # Safety
///
/// `names` is NULL or NULL-terminated, and its strings are NUL-terminated.
unsafe fn strings(mut names: *const *const c_char) -> Vec<String> {
    let mut strings = Vec::new();
    if names.is_null() {
        return strings;
    }
    // SAFETY: as the caller promises; the last one is NULL.
    while let name = unsafe { *names }
        && !name.is_null()
    {
        // SAFETY: as the caller promises, and it was not the last.
        let (name, next) = unsafe { (CStr::from_ptr(name), names.add(1)) };
        strings.push(name.to_string_lossy().into_owned());
        names = next;
    }
    strings
}
