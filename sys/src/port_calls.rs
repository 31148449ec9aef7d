//! `SpiceQmpPort`: commands.

use std::ffi::{CStr, c_char};

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, GVariant, gboolean, gpointer};
use glib::translate::from_glib_none;
use spice_qmp::qmp::Band;
use spice_qmp::{Status, json_to_variant, variant_to_json};

use crate::guard::{IS_THREAD_OF, SPICE_IS_QMP_PORT, g_utf8_validate, no_panic};
use crate::instance::{SpiceQmpPort, borrow};
use crate::status::SpiceQmpStatus;
use crate::task::{Caller, Operation, finish_boolean, finish_pointer, g_task_return_if_fail};
use crate::vm_action::ActionOfC;

/// spice_qmp_port_vm_action_async:
/// @port: a #SpiceQmpPort
/// @action: what to do
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered; %NULL to not know
/// @user_data: for @callback
///
/// Pauses, resumes, resets, powers down or ends the virtual machine.
///
/// Since: 0.1
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_vm_action_async(
    port: *mut SpiceQmpPort,
    action: ActionOfC,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::VmAction, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_vm_action_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        let Some(action) = action.action() else {
            return caller.refuse("action >= 0 && action < SPICE_QMP_PORT_VM_ACTION_LAST");
        };
        // SAFETY: it was found to be a SpiceQmpPort.
        let port = unsafe { borrow(port) };
        caller.command(&port, action.command(), None, Band::In, |_| Ok(()));
    });
}

/// spice_qmp_port_vm_action_finish:
/// @port: a #SpiceQmpPort
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_vm_action_async(). The errors are those of
/// spice_qmp_port_execute_finish().
///
/// Returns: %TRUE if QEMU took the order: a guest may ignore a power-down.
///   %SPICE_QMP_PORT_VM_ACTION_QUIT also succeeds where QEMU ends before it
///   answers.
///
/// Since: 0.1
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_vm_action_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::VmAction, port.cast(), result, error) }
}

/// spice_qmp_port_query_status_async:
/// @port: a #SpiceQmpPort
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered
/// @user_data: for @callback
///
/// Asks whether the virtual machine runs, and if not, why. The property
/// #SpiceQmpPort:status tells the same at any time, without asking.
///
/// Since: 0.1
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_query_status_async(
    port: *mut SpiceQmpPort,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::QueryStatus, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_query_status_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceQmpPort.
        let port = unsafe { borrow(port) };
        caller.command(&port, "query-status", None, Band::In, |reply| {
            Status::from_json(&reply)
        });
    });
}

/// spice_qmp_port_query_status_finish:
/// @port: a #SpiceQmpPort
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_query_status_async(). The errors are those of
/// spice_qmp_port_execute_finish().
///
/// Returns: (transfer full): the status, or %NULL on error
///
/// Since: 0.1
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_query_status_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpStatus {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::QueryStatus, port.cast(), result, error) }
}

/// spice_qmp_port_execute_async:
/// @port: a #SpiceQmpPort
/// @command: the name of a QMP command, such as `query-block`
/// @arguments: (nullable): the text of a JSON object, or %NULL for no arguments
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered; %NULL to not know
/// @user_data: for @callback
///
/// Gives any command. The deadline is the property
/// #SpiceQmpPort:command-timeout.
///
/// A command that is cancelled before it was sent will not be sent; the answer
/// to one that was is dropped, and it has its effect in QEMU.
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_async(
    port: *mut SpiceQmpPort,
    command: *const c_char,
    arguments: *const c_char,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Execute, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_execute_async", (), || {
        // SAFETY: C passes a port and strings, or NULL.
        unsafe { execute(caller, port, command, arguments, Band::In) }
    });
}

/// spice_qmp_port_execute_finish:
/// @port: a #SpiceQmpPort
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_execute_async().
///
/// QEMU's refusal is a %SPICE_QMP_ERROR of the code of its class, mostly
/// %SPICE_QMP_ERROR_GENERIC. Of the same domain are %SPICE_QMP_ERROR_NOT_READY,
/// %SPICE_QMP_ERROR_INVALID_ARGUMENT, and %SPICE_QMP_ERROR_PROTOCOL and
/// %SPICE_QMP_ERROR_TOO_LARGE for answers that cannot be read. Else the error is
/// %G_IO_ERROR_CLOSED, %G_IO_ERROR_TIMED_OUT or %G_IO_ERROR_CANCELLED.
///
/// Returns: (transfer full): what the command returned as JSON text, often `{}`;
///   %NULL on error
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut c_char {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::Execute, port.cast(), result, error) }
}

/// spice_qmp_port_execute_oob_async:
/// @port: a #SpiceQmpPort
/// @command: the name of a QMP command that QEMU's schema marks `allow-oob`
/// @arguments: (nullable): the text of a JSON object, or %NULL for no arguments
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered; %NULL to not know
/// @user_data: for @callback
///
/// Gives a command out of band: QEMU executes it at once, past those that wait.
/// Only where the server offers it: #SpiceQmpPort:capabilities holds `oob` then.
/// SPICE ports do not offer it.
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_oob_async(
    port: *mut SpiceQmpPort,
    command: *const c_char,
    arguments: *const c_char,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::ExecuteOob, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_execute_oob_async", (), || {
        // SAFETY: C passes a port and strings, or NULL.
        unsafe { execute(caller, port, command, arguments, Band::Out) }
    });
}

/// spice_qmp_port_execute_oob_finish:
/// @port: a #SpiceQmpPort
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_execute_oob_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED where the
/// server does not offer out-of-band execution.
///
/// Returns: (transfer full): what the command returned as JSON text, or %NULL on
///   error
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_oob_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut c_char {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::ExecuteOob, port.cast(), result, error) }
}

/// spice_qmp_port_execute_variant_async:
/// @port: a #SpiceQmpPort
/// @command: the name of a QMP command, such as `query-block`
/// @arguments: (nullable): a dictionary with strings as keys, such as `a{sv}`, or
///   %NULL for no arguments; a floating reference is consumed
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered; %NULL to not know
/// @user_data: for @callback
///
/// Gives any command, with #GVariant in place of JSON text, for languages where
/// that is easier to use.
///
/// JSON becomes #GVariant so: objects `a{sv}`, arrays `av`, whole numbers `x`, or
/// `t` above its range, other numbers `d`, strings `s`, booleans `b`, and null
/// the value nothing of the type `mv`. The way back takes other types, too:
/// smaller integers, typed arrays, dictionaries and tuples.
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_variant_async(
    port: *mut SpiceQmpPort,
    command: *const c_char,
    arguments: *mut GVariant,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    let operation = Operation::ExecuteVariant;
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(operation, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_execute_variant_async", (), || {
        // SAFETY: it is a GVariant or NULL; a floating reference is taken over.
        let arguments: Option<glib::Variant> = unsafe { from_glib_none(arguments) };
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        g_task_return_if_fail!(caller: g_utf8_validate(command));
        // SAFETY: port and command were checked.
        let (port, command) = unsafe { (borrow(port), CStr::from_ptr(command)) };
        let command = command.to_string_lossy();
        match arguments.as_ref().map(variant_to_json).transpose() {
            Ok(json) => caller.command(&port, &command, json.as_deref(), Band::In, |reply| {
                json_to_variant(&reply)
            }),
            Err(error) => caller.fail(Some(&*port), error),
        }
    });
}

/// spice_qmp_port_execute_variant_finish:
/// @port: a #SpiceQmpPort
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_execute_variant_async(). The errors are those of
/// spice_qmp_port_execute_finish().
///
/// Returns: (transfer full): what the command returned, mostly of the type
///   `a{sv}`; never floating; %NULL on error
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_variant_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut GVariant {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::ExecuteVariant, port.cast(), result, error) }
}

/// # Safety
///
/// `port` is an object or NULL, the strings are NUL-terminated or NULL.
unsafe fn execute(
    caller: Caller,
    port: *mut SpiceQmpPort,
    command: *const c_char,
    arguments: *const c_char,
    band: Band,
) {
    g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
    g_task_return_if_fail!(caller: IS_THREAD_OF(port));
    g_task_return_if_fail!(caller: caller.cancellable_fits());
    g_task_return_if_fail!(caller: g_utf8_validate(command));
    g_task_return_if_fail!(caller: (arguments.is_null() || g_utf8_validate(arguments)));
    // SAFETY: all were checked above.
    let (port, command, arguments) = unsafe {
        let arguments = (!arguments.is_null()).then(|| CStr::from_ptr(arguments).to_string_lossy());
        (
            borrow(port),
            CStr::from_ptr(command).to_string_lossy(),
            arguments,
        )
    };
    caller.command(&port, &command, arguments.as_deref(), band, Ok);
}
