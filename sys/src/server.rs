// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpServer`

use std::ffi::{CStr, c_char};
use std::ptr::null_mut;

use gio::ffi::GIOStream;
use glib::ffi::{GError, GFALSE, GType, gboolean};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, IntoGlibPtr, ToGlibPtr, from_glib_borrow};
use spice_qmp::ServerObject;

use crate::error::worked;
use crate::guard::{
    G_IS_IO_STREAM, IS_THREAD_OF_MAIN_CONTEXT, are_strings, g_return_if_fail, g_return_val_if_fail,
    g_utf8_validate, is_a, no_panic,
};

pub struct SpiceQmpServer(());

/// spice_qmp_server_get_type:
///
/// Returns: the #GType of #SpiceQmpServer
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_server_get_type() -> GType {
    ServerObject::static_type().into_glib()
}

/// spice_qmp_server_new:
/// @stream: an open stream, such as a #GSocketConnection, from which nothing has been read;
///   the client is at its other end
/// @version: (nullable): QEMU's version in the greeting, such as `10.0.2`, or %NULL for a
///   recent one
/// @capabilities: (nullable) (array zero-terminated=1): the capabilities that the greeting
///   offers, such as `oob`, or %NULL for none
///
/// Creates a server, which greets the client and lets it negotiate.
///
/// Returns: (transfer full): a new server
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_new(
    stream: *mut GIOStream,
    version: *const c_char,
    capabilities: *const *const c_char,
) -> *mut SpiceQmpServer {
    no_panic("spice_qmp_server_new", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_server_new: G_IS_IO_STREAM(stream), null_mut());
        g_return_val_if_fail!(spice_qmp_server_new: version.is_null() || IS_VERSION(version), null_mut());
        g_return_val_if_fail!(spice_qmp_server_new: capabilities.is_null() || are_strings(capabilities), null_mut());
        g_return_val_if_fail!(spice_qmp_server_new: IS_THREAD_OF_MAIN_CONTEXT(), null_mut());
        // SAFETY: all three were checked.
        let server = unsafe {
            let stream: Borrowed<gio::IOStream> = from_glib_borrow(stream);
            let capabilities = glib::StrV::from_glib_none(capabilities);
            ServerObject::new(&*stream, text(version), &capabilities)
        };
        let server: *mut <ServerObject as ObjectType>::GlibType = server.into_glib_ptr();
        server.cast()
    })
}

/// spice_qmp_server_dup_version: (get-property version)
/// @server: a #SpiceQmpServer
///
/// QEMU's version in the greeting: the property #SpiceQmpServer:version.
///
/// Returns: (transfer full): the version
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_dup_version(server: *mut SpiceQmpServer) -> *mut c_char {
    no_panic("spice_qmp_server_dup_version", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_server_dup_version: SPICE_IS_QMP_SERVER(server), null_mut());
        // SAFETY: it was found to be a SpiceQmpServer.
        unsafe { borrow(server) }.version().to_glib_full()
    })
}

/// spice_qmp_server_dup_capabilities: (get-property capabilities)
/// @server: a #SpiceQmpServer
///
/// The capabilities that the greeting offers: the property #SpiceQmpServer:capabilities.
///
/// Returns: (transfer full) (array zero-terminated=1): the names
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_dup_capabilities(
    server: *mut SpiceQmpServer,
) -> *mut *mut c_char {
    no_panic("spice_qmp_server_dup_capabilities", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_server_dup_capabilities: SPICE_IS_QMP_SERVER(server), null_mut());
        // SAFETY: it was found to be a SpiceQmpServer.
        unsafe { borrow(server) }.capabilities().into_raw()
    })
}

/// spice_qmp_server_get_negotiated: (get-property negotiated)
/// @server: a #SpiceQmpServer
///
/// Whether the client has negotiated: the property #SpiceQmpServer:negotiated.
///
/// Returns: %TRUE if it has
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_get_negotiated(server: *mut SpiceQmpServer) -> gboolean {
    no_panic("spice_qmp_server_get_negotiated", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_server_get_negotiated: SPICE_IS_QMP_SERVER(server), GFALSE);
        // SAFETY: it was found to be a SpiceQmpServer.
        unsafe { borrow(server) }.negotiated().into_glib()
    })
}

/// spice_qmp_server_dup_close_reason: (get-property close-reason)
/// @server: a #SpiceQmpServer
///
/// Why the connection has ended: the property #SpiceQmpServer:close-reason.
///
/// Returns: (transfer full) (nullable): the reason, or %NULL if it has not ended
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_dup_close_reason(
    server: *mut SpiceQmpServer,
) -> *mut c_char {
    no_panic("spice_qmp_server_dup_close_reason", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_server_dup_close_reason: SPICE_IS_QMP_SERVER(server), null_mut());
        // SAFETY: it was found to be a SpiceQmpServer.
        unsafe { borrow(server) }.close_reason().to_glib_full()
    })
}

/// spice_qmp_server_emit_event:
/// @server: a #SpiceQmpServer
/// @name: the name of the event, such as `STOP`
/// @data: (nullable): the text of a JSON object, or %NULL for an event without data
/// @error: return location for a #GError, or %NULL
///
/// Sends an event to the client, with the current time. As from QEMU, a client receives no
/// event before it has negotiated (#SpiceQmpServer:negotiated). If it is gone, nothing happens.
///
/// The error is %SPICE_QMP_ERROR_INVALID_ARGUMENT if @data is not a JSON object.
///
/// Returns: %TRUE, or %FALSE on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_emit_event(
    server: *mut SpiceQmpServer,
    name: *const c_char,
    data: *const c_char,
    error: *mut *mut GError,
) -> gboolean {
    no_panic("spice_qmp_server_emit_event", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_server_emit_event: SPICE_IS_QMP_SERVER(server), GFALSE);
        g_return_val_if_fail!(spice_qmp_server_emit_event: IS_THREAD_OF_SERVER(server), GFALSE);
        g_return_val_if_fail!(spice_qmp_server_emit_event: g_utf8_validate(name), GFALSE);
        g_return_val_if_fail!(spice_qmp_server_emit_event: data.is_null() || g_utf8_validate(data), GFALSE);
        // SAFETY: all three were checked.
        let emitted = unsafe {
            let name = text(name).unwrap_or_default();
            borrow(server).emit_event(name, text(data))
        };
        // SAFETY: C passes a place for an error, or NULL.
        unsafe { worked(emitted, error) }
    })
}

/// spice_qmp_server_close:
/// @server: a #SpiceQmpServer
///
/// Closes the connection at once: the client may lose what it has not read. If it is
/// closed already, nothing happens.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_close(server: *mut SpiceQmpServer) {
    no_panic("spice_qmp_server_close", (), || {
        g_return_if_fail!(spice_qmp_server_close: SPICE_IS_QMP_SERVER(server));
        g_return_if_fail!(spice_qmp_server_close: IS_THREAD_OF_SERVER(server));
        // SAFETY: it was found to be a SpiceQmpServer.
        unsafe { borrow(server) }.close();
    });
}

/// spice_qmp_server_flush_and_close:
/// @server: a #SpiceQmpServer
///
/// Closes the connection when everything has been sent to the client, such as the
/// answer to `quit`. No more requests are read. A client that does not read keeps the
/// connection open: spice_qmp_server_close() closes it nevertheless.
///
/// #SpiceQmpServer:close-reason is set when it is closed.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_server_flush_and_close(server: *mut SpiceQmpServer) {
    no_panic("spice_qmp_server_flush_and_close", (), || {
        g_return_if_fail!(spice_qmp_server_flush_and_close: SPICE_IS_QMP_SERVER(server));
        g_return_if_fail!(spice_qmp_server_flush_and_close: IS_THREAD_OF_SERVER(server));
        // SAFETY: it was found to be a SpiceQmpServer.
        unsafe { borrow(server) }.flush_and_close();
    });
}

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn SPICE_IS_QMP_SERVER(server: *mut SpiceQmpServer) -> bool {
    is_a(server.cast(), ServerObject::static_type())
}

/// Whether this thread created the server, which was found to be one.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn IS_THREAD_OF_SERVER(server: *mut SpiceQmpServer) -> bool {
    // SAFETY: it is a live SpiceQmpServer; any thread may ask.
    unsafe { borrow(server) }.is_on_its_thread()
}

/// Whether it is a string, and a version of QEMU.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn IS_VERSION(version: *const c_char) -> bool {
    // SAFETY: it is NULL or NUL-terminated.
    unsafe { text(version) }.is_some_and(ServerObject::is_version)
}

/// # Safety
///
/// `server` is a live `SpiceQmpServer`, and stays so while the result is used.
unsafe fn borrow(server: *mut SpiceQmpServer) -> Borrowed<ServerObject> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(server.cast::<<ServerObject as ObjectType>::GlibType>()) }
}

/// # Safety
///
/// `text` is NULL or NUL-terminated, and stays so while the result is used.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: as the caller promises.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default())
}
