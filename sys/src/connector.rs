// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpConnector`

use std::ffi::{CStr, c_char, c_uint};
use std::ptr::null_mut;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult, GCancellable};
use glib::ffi::{GError, GFALSE, GType, gboolean, gpointer};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, IntoGlibPtr, ToGlibPtr, from_glib_borrow};
use spice_qmp::Connector;

use crate::guard::{
    IS_THREAD_OF_MAIN_CONTEXT, g_return_if_fail, g_return_val_if_fail, g_utf8_validate, is_a,
    no_panic,
};
use crate::instance::SpiceQmpPort;
use crate::task::{Caller, Operation, finish_pointer, g_task_return_if_fail};

pub struct SpiceQmpConnector(());

/// spice_qmp_connector_get_type:
///
/// Returns: the #GType of #SpiceQmpConnector
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_connector_get_type() -> GType {
    Connector::static_type().into_glib()
}

/// spice_qmp_connector_new:
/// @address: (nullable): where to connect, or %NULL to set #SpiceQmpConnector:address
///   later
///
/// Creates a connector.
///
/// Returns: (transfer full): a new connector
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_new(address: *const c_char) -> *mut SpiceQmpConnector {
    no_panic("spice_qmp_connector_new", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_connector_new: address.is_null() || g_utf8_validate(address), null_mut());
        let connector = Connector::new();
        // SAFETY: it is NULL, or was found to be a string.
        connector.set_address(unsafe { text(address) });
        let connector: *mut <Connector as ObjectType>::GlibType = connector.into_glib_ptr();
        connector.cast()
    })
}

/// spice_qmp_connector_dup_address: (get-property address)
/// @connector: a #SpiceQmpConnector
///
/// The address to connect to: the property #SpiceQmpConnector:address.
///
/// Returns: (transfer full) (nullable): a copy of it, or %NULL
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_dup_address(
    connector: *mut SpiceQmpConnector,
) -> *mut c_char {
    no_panic("spice_qmp_connector_dup_address", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_connector_dup_address: SPICE_IS_QMP_CONNECTOR(connector), null_mut());
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.address().to_glib_full()
    })
}

/// spice_qmp_connector_set_address: (set-property address)
/// @connector: a #SpiceQmpConnector
/// @address: (nullable): an address, or %NULL
///
/// Sets the property #SpiceQmpConnector:address, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_set_address(
    connector: *mut SpiceQmpConnector,
    address: *const c_char,
) {
    no_panic("spice_qmp_connector_set_address", (), || {
        g_return_if_fail!(spice_qmp_connector_set_address: SPICE_IS_QMP_CONNECTOR(connector));
        g_return_if_fail!(spice_qmp_connector_set_address: address.is_null() || g_utf8_validate(address));
        // SAFETY: both were checked.
        unsafe { borrow(connector).set_address(text(address)) };
    });
}

/// spice_qmp_connector_dup_ca_file: (get-property ca-file)
/// @connector: a #SpiceQmpConnector
///
/// The file of trusted certificates: the property #SpiceQmpConnector:ca-file.
///
/// Returns: (transfer full) (nullable): a copy of it, or %NULL
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_dup_ca_file(
    connector: *mut SpiceQmpConnector,
) -> *mut c_char {
    no_panic("spice_qmp_connector_dup_ca_file", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_connector_dup_ca_file: SPICE_IS_QMP_CONNECTOR(connector), null_mut());
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.ca_file().to_glib_full()
    })
}

/// spice_qmp_connector_set_ca_file: (set-property ca-file)
/// @connector: a #SpiceQmpConnector
/// @ca_file: (nullable): the path of a file of certificates (PEM), or %NULL
///
/// Sets the property #SpiceQmpConnector:ca-file, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_set_ca_file(
    connector: *mut SpiceQmpConnector,
    ca_file: *const c_char,
) {
    no_panic("spice_qmp_connector_set_ca_file", (), || {
        g_return_if_fail!(spice_qmp_connector_set_ca_file: SPICE_IS_QMP_CONNECTOR(connector));
        g_return_if_fail!(spice_qmp_connector_set_ca_file: ca_file.is_null() || g_utf8_validate(ca_file));
        // SAFETY: both were checked.
        unsafe { borrow(connector).set_ca_file(text(ca_file)) };
    });
}

/// spice_qmp_connector_dup_host_subject: (get-property host-subject)
/// @connector: a #SpiceQmpConnector
///
/// The subject that the server's certificate must have: the property #SpiceQmpConnector:host-subject.
///
/// Returns: (transfer full) (nullable): a copy of it, or %NULL
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_dup_host_subject(
    connector: *mut SpiceQmpConnector,
) -> *mut c_char {
    no_panic("spice_qmp_connector_dup_host_subject", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_connector_dup_host_subject: SPICE_IS_QMP_CONNECTOR(connector), null_mut());
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.host_subject().to_glib_full()
    })
}

/// spice_qmp_connector_set_host_subject: (set-property host-subject)
/// @connector: a #SpiceQmpConnector
/// @host_subject: (nullable): a subject such as `C=DE,O=Example,CN=host`, or %NULL
///
/// Sets the property #SpiceQmpConnector:host-subject, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_set_host_subject(
    connector: *mut SpiceQmpConnector,
    host_subject: *const c_char,
) {
    no_panic("spice_qmp_connector_set_host_subject", (), || {
        g_return_if_fail!(spice_qmp_connector_set_host_subject: SPICE_IS_QMP_CONNECTOR(connector));
        g_return_if_fail!(spice_qmp_connector_set_host_subject: host_subject.is_null() || g_utf8_validate(host_subject));
        // SAFETY: both were checked.
        unsafe { borrow(connector).set_host_subject(text(host_subject)) };
    });
}

/// spice_qmp_connector_set_password: (set-property password)
/// @connector: a #SpiceQmpConnector
/// @password: (nullable): a password (ticket), or %NULL
///
/// Sets the property #SpiceQmpConnector:password, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_set_password(
    connector: *mut SpiceQmpConnector,
    password: *const c_char,
) {
    no_panic("spice_qmp_connector_set_password", (), || {
        g_return_if_fail!(spice_qmp_connector_set_password: SPICE_IS_QMP_CONNECTOR(connector));
        g_return_if_fail!(spice_qmp_connector_set_password: password.is_null() || g_utf8_validate(password));
        // SAFETY: both were checked.
        unsafe { borrow(connector).set_password(text(password)) };
    });
}

/// spice_qmp_connector_get_timeout: (get-property timeout)
/// @connector: a #SpiceQmpConnector
///
/// The time that connecting may take: the property #SpiceQmpConnector:timeout.
///
/// Returns: the longest time in milliseconds, or 0 if there is no limit
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_get_timeout(
    connector: *mut SpiceQmpConnector,
) -> c_uint {
    no_panic("spice_qmp_connector_get_timeout", 0, || {
        g_return_val_if_fail!(spice_qmp_connector_get_timeout: SPICE_IS_QMP_CONNECTOR(connector), 0);
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.timeout()
    })
}

/// spice_qmp_connector_set_timeout: (set-property timeout)
/// @connector: a #SpiceQmpConnector
/// @timeout: milliseconds, or 0 for no limit
///
/// Sets the property #SpiceQmpConnector:timeout, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_set_timeout(
    connector: *mut SpiceQmpConnector,
    timeout: c_uint,
) {
    no_panic("spice_qmp_connector_set_timeout", (), || {
        g_return_if_fail!(spice_qmp_connector_set_timeout: SPICE_IS_QMP_CONNECTOR(connector));
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.set_timeout(timeout);
    });
}

/// spice_qmp_connector_get_wait: (get-property wait)
/// @connector: a #SpiceQmpConnector
///
/// Whether to wait for a server: the property #SpiceQmpConnector:wait.
///
/// Returns: %TRUE if it waits
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_get_wait(
    connector: *mut SpiceQmpConnector,
) -> gboolean {
    no_panic("spice_qmp_connector_get_wait", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_connector_get_wait: SPICE_IS_QMP_CONNECTOR(connector), GFALSE);
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.wait().into_glib()
    })
}

/// spice_qmp_connector_set_wait: (set-property wait)
/// @connector: a #SpiceQmpConnector
/// @wait: whether to wait for a server that cannot be reached yet
///
/// Sets the property #SpiceQmpConnector:wait, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_set_wait(
    connector: *mut SpiceQmpConnector,
    wait: gboolean,
) {
    no_panic("spice_qmp_connector_set_wait", (), || {
        g_return_if_fail!(spice_qmp_connector_set_wait: SPICE_IS_QMP_CONNECTOR(connector));
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.set_wait(wait != GFALSE);
    });
}

/// spice_qmp_connector_get_reconnect: (get-property reconnect)
/// @connector: a #SpiceQmpConnector
///
/// The pause before connecting again: the property #SpiceQmpConnector:reconnect.
///
/// Returns: the first pause in milliseconds, or 0 if it does not connect again
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_get_reconnect(
    connector: *mut SpiceQmpConnector,
) -> c_uint {
    no_panic("spice_qmp_connector_get_reconnect", 0, || {
        g_return_val_if_fail!(spice_qmp_connector_get_reconnect: SPICE_IS_QMP_CONNECTOR(connector), 0);
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.reconnect()
    })
}

/// spice_qmp_connector_set_reconnect: (set-property reconnect)
/// @connector: a #SpiceQmpConnector
/// @reconnect: the first pause in milliseconds, or 0 to never connect again
///
/// Sets the property #SpiceQmpConnector:reconnect, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_set_reconnect(
    connector: *mut SpiceQmpConnector,
    reconnect: c_uint,
) {
    no_panic("spice_qmp_connector_set_reconnect", (), || {
        g_return_if_fail!(spice_qmp_connector_set_reconnect: SPICE_IS_QMP_CONNECTOR(connector));
        // SAFETY: it was found to be a SpiceQmpConnector.
        unsafe { borrow(connector) }.set_reconnect(reconnect);
    });
}

/// spice_qmp_connector_answer:
/// @connector: a #SpiceQmpConnector
/// @password: (nullable): the password, or %NULL to give up
///
/// Answers the signal #SpiceQmpConnector::need-password, in its handler or later, for
/// example when a dialog is closed. With %NULL, connecting fails with
/// %G_IO_ERROR_PERMISSION_DENIED.
///
/// If several calls need a password, the signal is emitted for one after the other. If
/// no password is being asked for, nothing happens. #SpiceQmpConnector:password does not change.
///
/// ```c
/// static void
/// on_response (GtkDialog *dialog, int response, SpiceQmpConnector *connector)
/// {
///     const char *password = gtk_entry_get_text (password_entry);
///
///     spice_qmp_connector_answer (connector, response == GTK_RESPONSE_OK ? password : NULL);
/// }
/// ```
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_answer(
    connector: *mut SpiceQmpConnector,
    password: *const c_char,
) {
    no_panic("spice_qmp_connector_answer", (), || {
        g_return_if_fail!(spice_qmp_connector_answer: SPICE_IS_QMP_CONNECTOR(connector));
        g_return_if_fail!(spice_qmp_connector_answer: IS_THREAD_OF_CONNECTOR(connector));
        g_return_if_fail!(spice_qmp_connector_answer: password.is_null() || g_utf8_validate(password));
        // SAFETY: both were checked.
        unsafe { borrow(connector).answer(text(password)) };
    });
}

/// spice_qmp_connector_open_async:
/// @connector: a #SpiceQmpConnector
/// @cancellable: (nullable): a #GCancellable, or %NULL
/// @callback: (scope async) (closure user_data) (nullable): called when the port
///   is ready, or with an error
/// @user_data: for @callback
///
/// Connects to #SpiceQmpConnector:address and waits until the port is ready and its
/// first #SpiceQmpPort:status is known. The options are copied: later changes
/// affect later calls only.
///
/// A port on a SPICE server owns its SPICE session, which is disconnected with it;
/// #SpiceQmpPort:channel is %NULL. If the call is cancelled or times out, it
/// ends only when QEMU has answered the pending commands: QEMU may freeze if a SPICE client
/// disconnects earlier.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_open_async(
    connector: *mut SpiceQmpConnector,
    cancellable: *mut GCancellable,
    callback: GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: C passes a cancellable or NULL, and the callback's own data.
    let caller = unsafe { Caller::new(Operation::ConnectorOpen, cancellable, callback, user_data) };
    no_panic("spice_qmp_connector_open_async", (), || {
        g_task_return_if_fail!(caller: SPICE_IS_QMP_CONNECTOR(connector));
        g_task_return_if_fail!(caller: IS_THREAD_OF_CONNECTOR(connector));
        g_task_return_if_fail!(caller: IS_THREAD_OF_MAIN_CONTEXT());
        g_task_return_if_fail!(caller: caller.cancellable_fits());
        // SAFETY: it was found to be a SpiceQmpConnector.
        let connector = unsafe { borrow(connector) };
        let open = connector.open_until(caller.cancelled());
        let context = glib::MainContext::ref_thread_default();
        caller.future_to_its_end(&context, Some(connector.upcast_ref()), open);
    });
}

/// spice_qmp_connector_open_finish:
/// @connector: a #SpiceQmpConnector
/// @result: the #GAsyncResult passed to the callback
/// @error: return location for a #GError, or %NULL
///
/// Ends spice_qmp_connector_open_async(). The errors are those of
/// spice_qmp_port_open_finish(), and for SPICE servers those of
/// spice_qmp_port_find_finish(): %G_IO_ERROR_PERMISSION_DENIED if the login is rejected.
///
/// Returns: (transfer full): a new port, which is ready, or %NULL on error
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_connector_open_finish(
    connector: *mut SpiceQmpConnector,
    result: *mut GAsyncResult,
    error: *mut *mut GError,
) -> *mut SpiceQmpPort {
    // SAFETY: C passes a result and a place for an error, or NULL.
    unsafe { finish_pointer(Operation::ConnectorOpen, connector.cast(), result, error) }
}

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn SPICE_IS_QMP_CONNECTOR(connector: *mut SpiceQmpConnector) -> bool {
    is_a(connector.cast(), Connector::static_type())
}

/// Whether this thread created the connector, which was found to be one.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn IS_THREAD_OF_CONNECTOR(connector: *mut SpiceQmpConnector) -> bool {
    // SAFETY: it is a live SpiceQmpConnector; any thread may ask.
    unsafe { borrow(connector) }.is_on_its_thread()
}

/// # Safety
///
/// `connector` is a live `SpiceQmpConnector`, and stays so while the result is used.
unsafe fn borrow(connector: *mut SpiceQmpConnector) -> Borrowed<Connector> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(connector.cast::<<Connector as ObjectType>::GlibType>()) }
}

/// # Safety
///
/// `text` is NULL or NUL-terminated, and stays so while the result is used.
unsafe fn text<'a>(text: *const c_char) -> Option<&'a str> {
    // SAFETY: as the caller promises.
    (!text.is_null()).then(|| unsafe { CStr::from_ptr(text) }.to_str().unwrap_or_default())
}
