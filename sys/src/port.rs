// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPort`: creating, finding on a bus, opening and closing a port.

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable, GDBusConnection, GIOStream};
use glib::ffi::{GError, GFALSE, GType, gboolean, gpointer};
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, from_glib_borrow, from_glib_none};
use spice_qmp::{CONNECT_TIMEOUT, QmpPort};

use crate::guard::{
    G_IS_DBUS_CONNECTION, G_IS_IO_STREAM, IS_THREAD_OF, IS_THREAD_OF_MAIN_CONTEXT,
    SPICE_IS_QMP_PORT, g_return_val_if_fail, g_utf8_validate, no_panic,
};
use crate::instance::{SpiceQmpPort, borrow, give};
use crate::task::{Caller, Operation, finish_boolean, finish_pointer, g_task_return_if_fail};

/// spice_qmp_port_get_type:
///
/// Returns: the #GType of #SpiceQmpPort
///
/// Since: 0.2
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_port_get_type() -> GType {
    QmpPort::static_type().into_glib()
}

/// spice_qmp_port_new_for_stream:
/// @stream: an open stream to a QMP monitor, such as a #GSocketConnection, from
///   which nothing has been read: the server's greeting is still to come
///
/// Creates a port on any stream. It becomes ready when the server has answered;
/// see spice_qmp_port_wait_ready_async().
///
/// ```c
/// GSocketConnection *stream = g_socket_client_connect_finish (client, result, &error);
/// SpiceQmpPort *port = spice_qmp_port_new_for_stream (G_IO_STREAM (stream));
///
/// spice_qmp_port_wait_ready_async (port, NULL, on_ready, window);
/// ```
///
/// Returns: (transfer full): a new port
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_new_for_stream(
    stream: *mut GIOStream,
) -> *mut SpiceQmpPort {
    no_panic("spice_qmp_port_new_for_stream", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_new_for_stream: G_IS_IO_STREAM(stream), null_mut());
        g_return_val_if_fail!(spice_qmp_port_new_for_stream: IS_THREAD_OF_MAIN_CONTEXT(), null_mut());
        // SAFETY: it was found to be a GIOStream.
        let stream: Borrowed<gio::IOStream> = unsafe { from_glib_borrow(stream) };
        give(QmpPort::for_stream(&*stream))
    })
}

/// spice_qmp_port_open_async:
/// @address: `unix:/path`, `tcp:host:port` or `host:port` (`[::1]:4444`); a D-Bus
///   display: `dbus:` (`org.qemu` on the session bus), `dbus:NAME` or
///   `dbus:address=ADDRESS,name=NAME`; or a SPICE server: `spice://host:port`,
///   `spice+tls://host:port` or `spice+unix:///path`
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or with an error
/// @user_data: for @callback
///
/// Connects to a QMP socket, a D-Bus display or a SPICE server of QEMU and waits until
/// the port is ready and its first #SpiceQmpPort:status is known, for at most 10 seconds.
/// #SpiceQmpConnector has options, such as a password.
///
/// ```c
/// spice_qmp_port_open_async ("unix:/run/vm/qmp.sock", NULL, on_opened, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_open_async(
    address: *const c_char,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Open, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_open_async", (), || {
        g_task_return_if_fail!(caller: g_utf8_validate(address));
        g_task_return_if_fail!(caller: IS_THREAD_OF_MAIN_CONTEXT());
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: the address is not NULL, and NUL-terminated.
        let address = unsafe { CStr::from_ptr(address) }
            .to_string_lossy()
            .into_owned();
        let open = async move { QmpPort::open(&address).await };
        caller.future(&glib::MainContext::ref_thread_default(), open);
    });
}

/// spice_qmp_port_open_finish:
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_open_async().
///
/// The errors are those of #GSocketClient if the server cannot be reached
/// (%G_IO_ERROR_NOT_FOUND, %G_IO_ERROR_CONNECTION_REFUSED and others),
/// %G_IO_ERROR_TIMED_OUT if it sends no greeting (QEMU serves one client per
/// monitor at a time), %G_IO_ERROR_CLOSED, %G_IO_ERROR_CANCELLED,
/// %SPICE_QMP_ERROR_NOT_QMP, and %SPICE_QMP_ERROR_INVALID_ARGUMENT for an invalid
/// address; %SPICE_QMP_ERROR_NOT_SUPPORTED for the address of a SPICE server if the library
/// was built without SPICE. For D-Bus displays there are those of
/// spice_qmp_port_find_on_bus_finish(), too, and for SPICE servers those of
/// spice_qmp_port_find_finish().
///
/// Returns: (transfer full): a new port, which is ready, or %NULL on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_open_finish(
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpPort {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::Open, null_mut(), result, error) }
}

/// spice_qmp_port_find_on_bus_async:
/// @connection: a #GDBusConnection to the message bus that QEMU is on, or to QEMU itself
/// @name: (nullable): QEMU's name on the bus, usually `org.qemu`, or %NULL if QEMU is
///   the other end of a peer-to-peer connection
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or with an error
/// @user_data: for @callback
///
/// Finds the QMP monitor among the chardevs of QEMU's D-Bus display (`-display dbus`)
/// and waits until it is ready and its first #SpiceQmpPort:status is known, for at most
/// 10 seconds. A chardev is a QMP monitor if spice_qmp_port_is_qmp_name() is %TRUE for
/// its property `Name`. QEMU is not started if it is not on the bus.
///
/// The port uses a socket of its own. When that ends, the port is closed. It becomes
/// ready again when QEMU returns to the bus, or when another client that had taken the
/// monitor disconnects. If @connection is closed, the port works until its socket ends.
///
/// ```c
/// spice_qmp_port_find_on_bus_async (connection, "org.qemu", NULL, on_found, window);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_find_on_bus_async(
    connection: *mut GDBusConnection,
    name: *const c_char,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::FindOnBus, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_find_on_bus_async", (), || {
        g_task_return_if_fail!(caller: G_IS_DBUS_CONNECTION(connection));
        g_task_return_if_fail!(caller: name.is_null() || g_utf8_validate(name));
        g_task_return_if_fail!(caller: IS_THREAD_OF_MAIN_CONTEXT());
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a GDBusConnection, and the name to be NULL or UTF-8.
        let (connection, name): (gio::DBusConnection, Option<String>) =
            unsafe { (from_glib_none(connection), from_glib_none(name)) };
        let find = async move { QmpPort::find_on_bus(&connection, name.as_deref()).await };
        caller.future(&glib::MainContext::ref_thread_default(), find);
    });
}

/// spice_qmp_port_find_on_bus_finish:
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_find_on_bus_async().
///
/// The error is %G_IO_ERROR_NOT_FOUND if QEMU is not on the bus or has no QMP monitor
/// there, %SPICE_QMP_ERROR_NOT_QMP if it has only a human monitor, %G_IO_ERROR_BUSY if
/// another client uses the monitor (the message names it), %G_IO_ERROR_CLOSED if the
/// connection is closed, another %G_IO_ERROR or %G_DBUS_ERROR if D-Bus fails,
/// %SPICE_QMP_ERROR_INVALID_ARGUMENT if @name is not a valid name, or does not go with
/// @connection, %SPICE_QMP_ERROR_NOT_SUPPORTED if the connection cannot pass file
/// descriptors, %G_IO_ERROR_TIMED_OUT or %G_IO_ERROR_CANCELLED.
///
/// Returns: (transfer full): a new port, which is ready, or %NULL on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_find_on_bus_finish(
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpPort {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::FindOnBus, null_mut(), result, error) }
}

/// spice_qmp_port_is_qmp_name:
/// @name: the name of a SPICE port: the property `port-name` of its channel; or of a
///   chardev of a D-Bus display: its property `Name`
///
/// Whether, by QEMU's conventions, a SPICE port, or a chardev, with this name is a QMP
/// monitor: `org.qemu.monitor`, `org.qemu.monitor.qmp` and `org.qemu.monitor.qmp.N`.
///
/// Returns: %TRUE if it is one
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_is_qmp_name(name: *const c_char) -> gboolean {
    no_panic("spice_qmp_port_is_qmp_name", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_port_is_qmp_name: !name.is_null(), GFALSE);
        // SAFETY: it is not NULL, and NUL-terminated.
        let name = unsafe { CStr::from_ptr(name) }.to_string_lossy();
        QmpPort::is_qmp_name(&name).into_glib()
    })
}

/// spice_qmp_port_wait_ready_async:
/// @port: a #SpiceQmpPort
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or with an error
/// @user_data: for @callback
///
/// Waits until the port accepts commands, for at most 10 seconds.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_ready_async(
    port: *mut SpiceQmpPort,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::WaitReady, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_wait_ready_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceQmpPort.
        let port = unsafe { borrow(port) };
        caller.wait(&port, |port, end| {
            port.wait_ready_with(CONNECT_TIMEOUT, end)
        });
    });
}

/// spice_qmp_port_wait_ready_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_wait_ready_async().
///
/// The error is %G_IO_ERROR_TIMED_OUT, with a message that says what is missing,
/// %G_IO_ERROR_CLOSED if the connection ends, %SPICE_QMP_ERROR_NOT_QMP or another
/// %SPICE_QMP_ERROR if the peer violates the protocol, or %G_IO_ERROR_CANCELLED.
///
/// Returns: %TRUE if the port is ready
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_wait_ready_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::WaitReady, port.cast(), result, error) }
}

/// spice_qmp_port_close_async:
/// @port: a #SpiceQmpPort
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is closed
/// @user_data: for @callback
///
/// Closes the port for good. Pending commands are still sent, and their replies
/// awaited for up to #SpiceQmpPort:close-timeout. Calls that are still pending then
/// fail with %G_IO_ERROR_CLOSED, and the connection is closed. @callback is the last
/// callback of the port. A SPICE channel itself stays connected.
///
/// Close the port before you disconnect the SPICE session, and disconnect that in the
/// callback: QEMU (7.2 and 10.0) may crash, or freeze for ever with all its
/// monitors, when a SPICE client disconnects while a reply is due. For the same
/// reason, do not set #SpiceQmpPort:close-timeout below the time that your slowest
/// command takes.
///
/// ```c
/// static void
/// on_closed (GObject *port, GAsyncResult *result, gpointer session)
/// {
///     spice_qmp_port_close_finish (SPICE_QMP_PORT (port), result, NULL);
///     spice_session_disconnect (session);
/// }
///
/// spice_qmp_port_close_async (port, NULL, on_closed, session);
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_close_async(
    port: *mut SpiceQmpPort,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Close, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_close_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_PORT(port));
        g_task_return_if_fail!(caller: IS_THREAD_OF(port));
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceQmpPort.
        let port = unsafe { borrow(port) };
        caller.wait(&port, QmpPort::close_with);
    });
}

/// spice_qmp_port_close_finish:
/// @port: a #SpiceQmpPort
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_close_async(). The only error is %G_IO_ERROR_CANCELLED, after
/// which the port is still open.
///
/// Returns: %TRUE if the port is closed
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_close_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::Close, port.cast(), result, error) }
}
