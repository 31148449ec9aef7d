//! `SpiceQmpPort`: how a port comes about, and how it ends.

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable, GIOStream};
use glib::ffi::{GError, GFALSE, GType, gboolean, gpointer};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow, from_glib_none};
use spice_client_glib_sys::{SpicePortChannel, SpiceSession};
use spice_qmp::{PortChannel, QmpPort, Session};

use crate::guard::{
    G_IS_IO_STREAM, IS_THREAD_OF, IS_THREAD_OF_MAIN_CONTEXT, IS_THREAD_OF_SPICE,
    SPICE_IS_PORT_CHANNEL, SPICE_IS_QMP_PORT, SPICE_IS_SESSION, g_return_val_if_fail,
    g_utf8_validate, no_panic,
};
use crate::instance::{SpiceQmpPort, borrow, give};
use crate::task::{Caller, Operation, finish_boolean, finish_pointer, g_task_return_if_fail};

/// spice_qmp_port_get_type:
///
/// Returns: the #GType of #SpiceQmpPort
///
/// Since: 0.1
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_port_get_type() -> GType {
    QmpPort::static_type().into_glib()
}

/// spice_qmp_port_get:
/// @channel: a SPICE port channel whose name is one of a QMP monitor, see
///   spice_qmp_port_is_qmp_name(). It may be connected already or later.
///
/// The one port of a SPICE port channel, which is made if there is none, or if
/// the last one was closed with spice_qmp_port_close_async().
///
/// The channel owns the port and gives it up when it goes; the port does not
/// keep the channel alive.
///
/// Returns: (transfer none): the port of @channel
///
/// Since: 0.1
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get(channel: *mut SpicePortChannel) -> *mut SpiceQmpPort {
    no_panic("spice_qmp_port_get", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_get: SPICE_IS_PORT_CHANNEL(channel), null_mut());
        g_return_val_if_fail!(spice_qmp_port_get: IS_THREAD_OF_SPICE(), null_mut());
        // SAFETY: it was found to be a SpicePortChannel.
        let channel: Borrowed<PortChannel> = unsafe { from_glib_borrow(channel) };
        let port = QmpPort::get(&*channel);
        // The channel's reference keeps it.
        let port: *mut <QmpPort as ObjectType>::GlibType = port.to_glib_none().0;
        let port = port.cast();
        g_return_val_if_fail!(spice_qmp_port_get: IS_THREAD_OF(port), null_mut());
        port
    })
}

/// spice_qmp_port_new_for_stream:
/// @stream: an open stream to a QMP monitor, such as a #GSocketConnection, of
///   which nothing has been read: the server's greeting is still to come
///
/// Makes a port on any stream. It becomes ready when the server has answered;
/// see spice_qmp_port_wait_ready_async().
///
/// Returns: (transfer full): a new port
///
/// Since: 0.1
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
/// @address: `unix:/path`, `tcp:host:port` or `host:port` (`[::1]:4444`)
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or cannot be
/// @user_data: for @callback
///
/// Connects to the QMP socket of a QEMU and waits until the port is ready, for
/// at most 10 seconds.
///
/// Since: 0.1
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
        caller.future(None::<&glib::Object>, open);
    });
}

/// spice_qmp_port_open_finish:
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_open_async().
///
/// The errors are those of #GSocketClient where the server cannot be reached
/// (%G_IO_ERROR_NOT_FOUND, %G_IO_ERROR_CONNECTION_REFUSED and others),
/// %G_IO_ERROR_TIMED_OUT where it does not greet (QEMU serves one client of a
/// monitor at a time), %G_IO_ERROR_CLOSED, %G_IO_ERROR_CANCELLED,
/// %SPICE_QMP_ERROR_NOT_QMP, and %SPICE_QMP_ERROR_INVALID_ARGUMENT for an
/// address of another form.
///
/// Returns: (transfer full): a new port, which is ready, or %NULL on error
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_open_finish(
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpPort {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::Open, null_mut(), result, error) }
}

/// spice_qmp_port_find_async:
/// @session: a SPICE session, which is connected if it is not yet
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or cannot be
/// @user_data: for @callback
///
/// Finds the QMP monitor among the ports of a SPICE session and waits until it
/// is ready, for at most 10 seconds. The port channels of the session are
/// connected to learn their names.
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_find_async(
    session: *mut SpiceSession,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::Find, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_find_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_SESSION(session));
        g_task_return_if_fail!(caller: IS_THREAD_OF_SPICE());
        g_task_return_if_fail!(caller: IS_THREAD_OF_MAIN_CONTEXT());
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceSession.
        let session: Session = unsafe { from_glib_none(session) };
        caller.future(None::<&glib::Object>, QmpPort::find(session));
    });
}

/// spice_qmp_port_find_finish:
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_find_async().
///
/// The error is %G_IO_ERROR_NOT_FOUND where the server offers no QMP port,
/// %SPICE_QMP_ERROR_NOT_QMP where it offers only a human monitor,
/// %G_IO_ERROR_PERMISSION_DENIED where it refuses the login, another
/// %G_IO_ERROR where it cannot be reached, or %G_IO_ERROR_TIMED_OUT,
/// %G_IO_ERROR_CLOSED or %G_IO_ERROR_CANCELLED.
///
/// Returns: (transfer full): the port of the channel that was found, as
///   spice_qmp_port_get() gives it, but with a reference for the caller; %NULL
///   on error
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_find_finish(
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpPort {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::Find, null_mut(), result, error) }
}

/// spice_qmp_port_is_qmp_name:
/// @name: the name of a SPICE port: the property `port-name` of its channel
///
/// Whether a SPICE port of this name is a QMP monitor by QEMU's conventions:
/// `org.qemu.monitor`, `org.qemu.monitor.qmp` and `org.qemu.monitor.qmp.N`.
///
/// Returns: %TRUE if it is one
///
/// Since: 0.1
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
///   is ready, or cannot be
/// @user_data: for @callback
///
/// Waits until commands may be given, for at most 10 seconds.
///
/// Since: 0.1
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
        caller.future(Some(&*port), port.wait_ready());
    });
}

/// spice_qmp_port_wait_ready_finish:
/// @port: a #SpiceQmpPort
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_wait_ready_async().
///
/// The error is %G_IO_ERROR_TIMED_OUT, with what is missing in its message,
/// %G_IO_ERROR_CLOSED where the connection ends, %SPICE_QMP_ERROR_NOT_QMP or
/// another %SPICE_QMP_ERROR where the peer does not speak QMP as it should, or
/// %G_IO_ERROR_CANCELLED.
///
/// Returns: %TRUE if the port is ready
///
/// Since: 0.1
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
/// Ends the port for good: what was asked for is sent and answered, for which QEMU
/// has a second; then what is left fails with %G_IO_ERROR_CLOSED and the connection is
/// let go. A SPICE channel itself is left as it is.
///
/// Close the port before the SPICE session is disconnected: QEMU (7.2 and 10.0)
/// may crash when a SPICE client leaves a monitor that has not answered it.
///
/// Since: 0.1
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
        let port = unsafe { borrow(port) }.clone();
        let source = port.clone();
        caller.future(Some(&source), async move {
            port.close().await;
            Ok(())
        });
    });
}

/// spice_qmp_port_close_finish:
/// @port: a #SpiceQmpPort
/// @result: what the callback got
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_close_async(). The only error is %G_IO_ERROR_CANCELLED:
/// the port is open still.
///
/// Returns: %TRUE if the port is closed
///
/// Since: 0.1
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_close_finish(
    port: *mut SpiceQmpPort,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> gboolean {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_boolean(Operation::Close, port.cast(), result, error) }
}
