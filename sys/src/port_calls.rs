// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPort`: commands.

use std::ffi::{CStr, c_char, c_uint};
use std::time::Duration;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable, GUnixFDList};
use glib::ffi::{GError, GVariant, gboolean, gpointer};
use glib::prelude::*;
use glib::translate::from_glib_none;
use spice_qmp::qmp::Band;
use spice_qmp::{CallOptions, Status, duplicate_list, json_to_variant, variant_to_json};

use crate::call_flags::FlagsOfC;
use crate::guard::{G_IS_UNIX_FD_LIST, IS_THREAD_OF, SPICE_IS_QMP_PORT, g_utf8_validate, no_panic};
use crate::instance::{SpiceQmpPort, borrow};
use crate::status::SpiceQmpStatus;
use crate::task::{Caller, Operation, finish_boolean, finish_pointer, g_task_return_if_fail};
use crate::vm_action::ActionOfC;

/// spice_qmp_port_vm_action_async:
/// @port: a #SpiceQmpPort
/// @action: what to do
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Pauses, resumes, resets, powers down or quits the virtual machine.
///
/// ```c
/// static void
/// on_paused (GObject *port, GAsyncResult *result, gpointer window)
/// {
///     g_autoptr (GError) error = NULL;
///
///     if (!spice_qmp_port_vm_action_finish (SPICE_QMP_PORT (port), result, &error))
///         show_error (window, error->message);
/// }
///
/// spice_qmp_port_vm_action_async (port, SPICE_QMP_PORT_VM_ACTION_PAUSE, NULL, on_paused, window);
/// ```
///
/// Since: 0.2
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
        caller.command(&port, action.command(), None, |_| Ok(()));
    });
}

/// spice_qmp_port_vm_action_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_vm_action_async(). The errors are those of
/// spice_qmp_port_execute_finish().
///
/// Returns: %TRUE if QEMU accepted the command, which a guest may still ignore, such
///   as a power-down. %SPICE_QMP_PORT_VM_ACTION_QUIT also succeeds if QEMU exits
///   before it answers.
///
/// Since: 0.2
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
/// Queries whether the virtual machine is running, and if not, why. The property
/// #SpiceQmpPort:status holds the same information and is kept up to date.
///
/// Since: 0.2
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
        caller.command(&port, "query-status", None, |reply| {
            Status::from_json(&reply)
        });
    });
}

/// spice_qmp_port_query_status_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_query_status_async(). The errors are those of
/// spice_qmp_port_execute_finish().
///
/// Returns: (transfer full): the status, or %NULL on error
///
/// Since: 0.2
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
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Executes a QMP command.
///
/// ```c
/// spice_qmp_port_execute_async (port, "device_del", "{\"id\": \"usb1\"}",
///                               NULL, on_executed, NULL);
/// ```
///
/// The call fails with %G_IO_ERROR_TIMED_OUT after #SpiceQmpPort:command-timeout.
/// There is no such deadline by default: if the server stops answering, the call
/// ends only when it is cancelled or the connection is closed.
///
/// A command that is cancelled before it has been sent is never sent. If it has
/// been sent, QEMU still executes it, and its reply is ignored.
///
/// Since: 0.2
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
        let options = CallOptions::default();
        // SAFETY: C passes a port and strings, or NULL.
        unsafe { execute(caller, port, command, arguments, options, None) }
    });
}

/// spice_qmp_port_execute_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_execute_async().
///
/// If QEMU returns an error, it is in the domain %SPICE_QMP_ERROR with the code of
/// its class, usually %SPICE_QMP_ERROR_GENERIC. The same domain has
/// %SPICE_QMP_ERROR_NOT_READY, %SPICE_QMP_ERROR_INVALID_ARGUMENT, and
/// %SPICE_QMP_ERROR_PROTOCOL and %SPICE_QMP_ERROR_TOO_LARGE for replies that cannot
/// be read. Other errors are %G_IO_ERROR_CLOSED, %G_IO_ERROR_TIMED_OUT and
/// %G_IO_ERROR_CANCELLED.
///
/// Returns: (transfer full): what the command returned as JSON text, often `{}`;
///   %NULL on error
///
/// Since: 0.2
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
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Executes a QMP command out of band: QEMU executes it immediately, ahead of the
/// commands in its queue. The server must support this, which it shows by `oob` in
/// #SpiceQmpPort:capabilities. SPICE ports do not.
///
/// Since: 0.2
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
        let options = CallOptions {
            band: Band::Out,
            timeout: None,
        };
        // SAFETY: C passes a port and strings, or NULL.
        unsafe { execute(caller, port, command, arguments, options, None) }
    });
}

/// spice_qmp_port_execute_oob_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_execute_oob_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_NOT_SUPPORTED if the
/// server does not support out-of-band execution.
///
/// Returns: (transfer full): what the command returned as JSON text, or %NULL on
///   error
///
/// Since: 0.2
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
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Executes a QMP command, with #GVariant instead of JSON text, for languages in
/// which that is easier to use.
///
/// JSON objects are converted to `a{sv}`, arrays to `av`, integers to `x`, or to `t`
/// above its range, other numbers to `d`, strings to `s`, booleans to `b`, and null
/// to nothing of the type `mv`. Arguments may also contain smaller integers, typed
/// arrays, dictionaries and tuples.
///
/// ```c
/// GVariantDict arguments;
///
/// g_variant_dict_init (&arguments, NULL);
/// g_variant_dict_insert (&arguments, "id", "s", "usb1");
/// spice_qmp_port_execute_variant_async (port, "device_del", g_variant_dict_end (&arguments),
///                                       NULL, on_executed, window);
/// ```
///
/// Since: 0.2
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
            Ok(json) => caller.command(&port, &command, json.as_deref(), |reply| {
                json_to_variant(&reply)
            }),
            Err(error) => caller.fail(Some(port.upcast_ref()), error),
        }
    });
}

/// spice_qmp_port_execute_variant_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_execute_variant_async(). The errors are those of
/// spice_qmp_port_execute_finish(), and %SPICE_QMP_ERROR_TOO_LARGE for a reply of
/// more than 1 MiB of JSON text: use spice_qmp_port_execute_async() for those.
///
/// Returns: (transfer full): what the command returned, usually of the type
///   `a{sv}`; never floating; %NULL on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_variant_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut GVariant {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::ExecuteVariant, port.cast(), result, error) }
}

/// spice_qmp_port_execute_full_async:
/// @port: a #SpiceQmpPort
/// @command: the name of a QMP command, such as `getfd`
/// @arguments: (nullable): the text of a JSON object, or %NULL for no arguments
/// @timeout_ms: the deadline of the call in milliseconds, or 0 for that of
///   #SpiceQmpPort:command-timeout
/// @fds: (nullable): the file descriptors to send with the command, or %NULL
/// @flags: how to execute it
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when QEMU has
///   answered, or %NULL if you do not need the result
/// @user_data: for @callback
///
/// Executes a QMP command like spice_qmp_port_execute_async(), with all options.
///
/// File descriptors can be sent over Unix sockets and to D-Bus displays. They are
/// duplicated before the function returns, so you may close yours at once; the duplicates are closed when they
/// have been sent, or when the call ends before that. QEMU passes the first one to the
/// command, such as `getfd` or `add-fd`, and closes the others. If the command does not
/// need one, or fails before it takes it, QEMU keeps it for the next command that has
/// no file descriptor of its own. At most 253 can be sent with a command.
///
/// One command with file descriptors is in flight at a time, because QEMU would mix up
/// those of two: the second one waits for the reply to the first, and the commands
/// issued after it wait with it.
///
/// With %SPICE_QMP_CALL_FLAGS_OUT_OF_BAND, the command is executed as
/// spice_qmp_port_execute_oob_async() does.
///
/// ```c
/// g_autoptr (GUnixFDList) fds = g_unix_fd_list_new ();
///
/// if (g_unix_fd_list_append (fds, fd, &error) >= 0)
///     spice_qmp_port_execute_full_async (port, "add-fd", "{\"fdset-id\": 1}", 10000, fds,
///                                        SPICE_QMP_CALL_FLAGS_NONE, NULL, on_added, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_full_async(
    port: *mut SpiceQmpPort,
    command: *const c_char,
    arguments: *const c_char,
    timeout_ms: c_uint,
    fds: *mut GUnixFDList,
    flags: FlagsOfC,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::ExecuteFull, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_execute_full_async", (), || {
        g_task_return_if_fail!(caller: (fds.is_null() || G_IS_UNIX_FD_LIST(fds)));
        if !flags.are_known() {
            return caller.refuse("(flags & ~SPICE_QMP_CALL_FLAGS_OUT_OF_BAND) == 0");
        }
        let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms.into()));
        let band = flags.band();
        let options = CallOptions { band, timeout };
        // SAFETY: C passes a port and strings, or NULL, and what was found to be a list of
        // descriptors, or NULL.
        unsafe {
            let fds: Option<gio::UnixFDList> = from_glib_none(fds);
            execute(caller, port, command, arguments, options, fds.as_ref());
        }
    });
}

/// spice_qmp_port_execute_full_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_execute_full_async(). The errors are those of
/// spice_qmp_port_execute_finish(), %SPICE_QMP_ERROR_NOT_SUPPORTED if file
/// descriptors cannot be sent over the connection, or the server does not support
/// out-of-band execution, and %SPICE_QMP_ERROR_INVALID_ARGUMENT for too many file
/// descriptors. Nothing was sent then.
///
/// Returns: (transfer full): what the command returned as JSON text, or %NULL on
///   error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_execute_full_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut c_char {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::ExecuteFull, port.cast(), result, error) }
}

/// # Safety
///
/// `port` is an object or NULL, the strings are NUL-terminated or NULL.
unsafe fn execute(
    caller: Caller,
    port: *mut SpiceQmpPort,
    command: *const c_char,
    arguments: *const c_char,
    options: CallOptions,
    fds: Option<&gio::UnixFDList>,
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
    match fds.map(duplicate_list).transpose() {
        Ok(fds) => {
            let (arguments, fds) = (arguments.as_deref(), fds.flatten());
            caller.command_with(&port, &command, arguments, options, fds, Ok);
        }
        Err(error) => caller.fail(Some(port.upcast_ref()), error),
    }
}
