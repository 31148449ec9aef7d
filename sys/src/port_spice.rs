// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPort` on SPICE channels and sessions: everything that names spice-gtk.
//!
//! Each function is marked with the feature `spice`, for the header.

use std::ffi::{c_char, c_uint};
use std::future::Future;
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, GFALSE, gboolean, gpointer};
use glib::object::ObjectType;
use glib::translate::{Borrowed, ToGlibPtr, from_glib_borrow, from_glib_none};
use spice_client_glib_sys::{SpicePortChannel, SpiceSession};
use spice_qmp::{ConnectOptions, Error, PortChannel, QmpPort, Session};

use crate::guard::{
    IS_THREAD_OF, IS_THREAD_OF_SPICE, SPICE_IS_PORT_CHANNEL, SPICE_IS_QMP_PORT, SPICE_IS_SESSION,
    g_return_val_if_fail, no_panic,
};
use crate::instance::{SpiceQmpPort, borrow};
use crate::task::{Answer, Caller, Operation, finish_pointer, g_task_return_if_fail, timeout_of};

/// spice_qmp_port_get:
/// @channel: a SPICE port channel whose name is that of a QMP monitor, see
///   spice_qmp_port_is_qmp_name(). It may be connected already, or be connected later.
///
/// Gets the port of a SPICE port channel. It is created if there is none, or if the
/// previous one was closed with spice_qmp_port_close_async().
///
/// The channel owns the port and releases it when the channel is disposed of. The
/// port does not keep the channel alive.
///
/// ```c
/// static void
/// on_channel_new (SpiceSession *session, SpiceChannel *channel, gpointer window)
/// {
///     g_autofree char *name = NULL;
///
///     if (!SPICE_IS_PORT_CHANNEL (channel))
///         return;
///     g_object_get (channel, "port-name", &name, NULL);
///     if (name && spice_qmp_port_is_qmp_name (name))
///         use_port (window, spice_qmp_port_get (SPICE_PORT_CHANNEL (channel)));
/// }
/// ```
///
/// Returns: (transfer none): the port of @channel
///
/// Since: 0.2
#[cfg(all(not(spice_gtk_declares), feature = "spice"))]
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

/// spice_qmp_port_find_async:
/// @session: a SPICE session, which is connected if it is not yet
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or with an error
/// @user_data: for @callback
///
/// Finds the QMP monitor among the ports of a SPICE session and waits until it is
/// ready and its first #SpiceQmpPort:status is known, for at most 10 seconds. The
/// port channels of the session are connected to learn their names.
///
/// ```c
/// SpiceSession *session = spice_session_new ();
///
/// g_object_set (session, "uri", "spice://localhost:5900", NULL);
/// spice_qmp_port_find_async (session, NULL, on_found, window);
/// ```
///
/// Since: 0.2
#[cfg(feature = "spice")]
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
        let options = ConnectOptions::new();
        // SAFETY: C passes an object or NULL.
        unsafe {
            search(caller, session, |session, caller| {
                QmpPort::find_cancellable(session, options, caller.cancelled())
            });
        }
    });
}

/// spice_qmp_port_find_finish:
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_find_async().
///
/// The error is %G_IO_ERROR_NOT_FOUND if the server has no QMP port,
/// %SPICE_QMP_ERROR_NOT_QMP if it has only a human monitor,
/// %G_IO_ERROR_PERMISSION_DENIED if it rejects the login, another %G_IO_ERROR if it
/// cannot be reached, or %G_IO_ERROR_TIMED_OUT, %G_IO_ERROR_CLOSED or
/// %G_IO_ERROR_CANCELLED.
///
/// Returns: (transfer full): a reference to the port that spice_qmp_port_get()
///   returns for the channel that was found; %NULL on error
///
/// Since: 0.2
#[cfg(feature = "spice")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_find_finish(
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpPort {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::Find, null_mut(), result, error) }
}

/// spice_qmp_port_find_full_async:
/// @session: a SPICE session, which is connected if it is not yet
/// @timeout_ms: the deadline in milliseconds, after which the call fails with
///   %G_IO_ERROR_TIMED_OUT, or 0 for none
/// @wait: whether to try again, until the deadline, while the server cannot be reached:
///   its socket does not exist, or refuses the connection
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or with an error
/// @user_data: for @callback
///
/// Like spice_qmp_port_find_async(), with a deadline of your own.
///
/// Since: 0.2
#[cfg(feature = "spice")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_find_full_async(
    session: *mut SpiceSession,
    timeout_ms: c_uint,
    wait: gboolean,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::FindFull, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_find_full_async", (), || {
        let options = options(timeout_ms, wait);
        // SAFETY: C passes an object or NULL.
        unsafe {
            search(caller, session, |session, caller| {
                QmpPort::find_cancellable(session, options, caller.cancelled())
            });
        }
    });
}

/// spice_qmp_port_find_full_finish:
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_find_full_async(). The errors are those of
/// spice_qmp_port_find_finish().
///
/// Returns: (transfer full): a reference to the port that spice_qmp_port_get()
///   returns for the channel that was found; %NULL on error
///
/// Since: 0.2
#[cfg(feature = "spice")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_find_full_finish(
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpPort {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::FindFull, null_mut(), result, error) }
}

/// spice_qmp_port_port_names_async:
/// @session: a SPICE session, which is connected if it is not yet
/// @timeout_ms: the deadline in milliseconds, after which the call fails with
///   %G_IO_ERROR_TIMED_OUT, or 0 for none
/// @wait: whether to try again, until the deadline, while the server cannot be reached:
///   its socket does not exist, or refuses the connection
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called with the names, or
///   with an error
/// @user_data: for @callback
///
/// Lists the names of all ports of a SPICE session, whether they are QMP monitors or
/// not. The port channels of the session are connected to learn their names.
///
/// Since: 0.2
#[cfg(feature = "spice")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_port_names_async(
    session: *mut SpiceSession,
    timeout_ms: c_uint,
    wait: gboolean,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::PortNames, cancellable, callback, user_data) };
    no_panic("spice_qmp_port_port_names_async", (), || {
        let options = options(timeout_ms, wait);
        // SAFETY: C passes an object or NULL.
        unsafe {
            search(caller, session, |session, caller| {
                QmpPort::port_names_cancellable(session, options, caller.cancelled())
            });
        }
    });
}

/// spice_qmp_port_port_names_finish:
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_port_port_names_async(). The errors are those of
/// spice_qmp_port_find_finish() if the server cannot be reached.
///
/// Returns: (transfer full) (array zero-terminated=1): the names, sorted; %NULL on error
///
/// Since: 0.2
#[cfg(feature = "spice")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_port_names_finish(
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut *mut c_char {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::PortNames, null_mut(), result, error) }
}

/// spice_qmp_port_ref_channel: (get-property channel)
/// @port: a #SpiceQmpPort
///
/// The SPICE channel that the port is attached to: the property
/// #SpiceQmpPort:channel.
///
/// Returns: (transfer full) (nullable): the channel, or %NULL if there is none, or
///   it no longer exists
///
/// Since: 0.2
#[cfg(feature = "spice")]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_ref_channel(
    port: *mut SpiceQmpPort,
) -> *mut SpicePortChannel {
    no_panic("spice_qmp_port_ref_channel", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_ref_channel: SPICE_IS_QMP_PORT(port), null_mut());
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.channel().to_glib_full()
    })
}

/// Begins a search on a valid session.
///
/// # Safety
///
/// `session` is NULL or an object.
unsafe fn search<A: Answer + 'static, F: Future<Output = Result<A, Error>> + 'static>(
    caller: Caller,
    session: *mut SpiceSession,
    begin: impl FnOnce(Session, &Caller) -> F,
) {
    g_task_return_if_fail!(caller: SPICE_IS_SESSION(session));
    g_task_return_if_fail!(caller: IS_THREAD_OF_SPICE());
    g_task_return_if_fail!(caller: caller.cancellable_fits());
    // SAFETY: it was found to be a SpiceSession.
    let search = begin(unsafe { from_glib_none(session) }, &caller);
    // spice-gtk, and so the port, runs on GLib's default context, whatever is pushed.
    caller.future_to_its_end(&glib::MainContext::default(), None, search);
}

fn options(timeout_ms: c_uint, wait: gboolean) -> ConnectOptions {
    ConnectOptions::new()
        .timeout(timeout_of(timeout_ms))
        .wait(wait != GFALSE)
}
