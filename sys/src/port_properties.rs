// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPort`: its properties as functions, which bindings and C programs use.
//!
//! The properties themselves check the thread: on another one, reading logs a critical
//! and returns the property's default, and writing only logs a critical.

use std::ffi::{c_char, c_uint};
use std::ptr::null_mut;

use glib::ffi::{GError, GFALSE, gboolean};
use glib::translate::{GlibPtrDefault, IntoGlib, ToGlibPtr};
use spice_qmp::Status;

use crate::guard::{
    IS_THREAD_OF, SPICE_IS_QMP_PORT, g_return_if_fail, g_return_val_if_fail, no_panic,
};
use crate::instance::{SpiceQmpPort, borrow};
use crate::state::{SpiceQmpPortState, in_header};
use crate::status::SpiceQmpStatus;

/// spice_qmp_port_get_ready: (get-property ready)
/// @port: a #SpiceQmpPort
///
/// Whether the port accepts commands: the property #SpiceQmpPort:ready.
///
/// Returns: %TRUE if it does
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_ready(port: *mut SpiceQmpPort) -> gboolean {
    no_panic("spice_qmp_port_get_ready", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_port_get_ready: SPICE_IS_QMP_PORT(port), GFALSE);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.ready().into_glib()
    })
}

/// spice_qmp_port_get_state: (get-property state)
/// @port: a #SpiceQmpPort
///
/// The state of the connection: the property #SpiceQmpPort:state.
///
/// Returns: the state
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_state(port: *mut SpiceQmpPort) -> SpiceQmpPortState {
    no_panic(
        "spice_qmp_port_get_state",
        SpiceQmpPortState::SPICE_QMP_PORT_STATE_CLOSED,
        || {
            g_return_val_if_fail!(spice_qmp_port_get_state: SPICE_IS_QMP_PORT(port), SpiceQmpPortState::SPICE_QMP_PORT_STATE_CLOSED);
            // SAFETY: it was found to be a SpiceQmpPort.
            in_header(unsafe { borrow(port) }.state())
        },
    )
}

/// spice_qmp_port_get_pending: (get-property pending)
/// @port: a #SpiceQmpPort
///
/// How many of the program's calls have not ended: the property
/// #SpiceQmpPort:pending.
///
/// Returns: the number of calls
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_pending(port: *mut SpiceQmpPort) -> c_uint {
    no_panic("spice_qmp_port_get_pending", 0, || {
        g_return_val_if_fail!(spice_qmp_port_get_pending: SPICE_IS_QMP_PORT(port), 0);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.pending()
    })
}

/// spice_qmp_port_get_responsive: (get-property responsive)
/// @port: a #SpiceQmpPort
///
/// Whether QEMU answers: the property #SpiceQmpPort:responsive.
///
/// Returns: %FALSE if an answer has been due for 3 seconds without a byte from
///   QEMU
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_responsive(port: *mut SpiceQmpPort) -> gboolean {
    no_panic("spice_qmp_port_get_responsive", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_port_get_responsive: SPICE_IS_QMP_PORT(port), GFALSE);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.responsive().into_glib()
    })
}

/// spice_qmp_port_is_mute:
/// @port: a #SpiceQmpPort
///
/// Whether QEMU neither reads nor answers on this SPICE port until the machine is running
/// again. That is so if the machine was stopped by an error, a shutdown or a migration;
/// only another monitor can resume it. Calls then wait until it is running, or for their
/// deadline. It changes together with #SpiceQmpPort:status.
///
/// Returns: %TRUE if QEMU does not answer; %FALSE on ports other than SPICE ports
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_is_mute(port: *mut SpiceQmpPort) -> gboolean {
    no_panic("spice_qmp_port_is_mute", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_port_is_mute: SPICE_IS_QMP_PORT(port), GFALSE);
        g_return_val_if_fail!(spice_qmp_port_is_mute: IS_THREAD_OF(port), GFALSE);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.is_mute().into_glib()
    })
}

/// spice_qmp_port_get_command_timeout: (get-property command-timeout)
/// @port: a #SpiceQmpPort
///
/// The deadline of each call: the property #SpiceQmpPort:command-timeout.
///
/// Returns: the deadline in milliseconds, or 0 if there is none
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_command_timeout(port: *mut SpiceQmpPort) -> c_uint {
    no_panic("spice_qmp_port_get_command_timeout", 0, || {
        g_return_val_if_fail!(spice_qmp_port_get_command_timeout: SPICE_IS_QMP_PORT(port), 0);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.command_timeout()
    })
}

/// spice_qmp_port_get_reconnect: (get-property reconnect)
/// @port: a #SpiceQmpPort
///
/// The pause before the port first tries to connect again: the property
/// #SpiceQmpPort:reconnect.
///
/// Returns: the first pause in milliseconds, or 0 if it does not connect again
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_reconnect(port: *mut SpiceQmpPort) -> c_uint {
    no_panic("spice_qmp_port_get_reconnect", 0, || {
        g_return_val_if_fail!(spice_qmp_port_get_reconnect: SPICE_IS_QMP_PORT(port), 0);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.reconnect()
    })
}

/// spice_qmp_port_set_command_timeout: (set-property command-timeout)
/// @port: a #SpiceQmpPort
/// @timeout: the deadline of each call in milliseconds, or 0 for none
///
/// Sets the property #SpiceQmpPort:command-timeout, for later calls.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_set_command_timeout(
    port: *mut SpiceQmpPort,
    timeout: c_uint,
) {
    no_panic("spice_qmp_port_set_command_timeout", (), || {
        g_return_if_fail!(spice_qmp_port_set_command_timeout: SPICE_IS_QMP_PORT(port));
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.set_command_timeout(timeout);
    });
}

/// spice_qmp_port_get_close_timeout: (get-property close-timeout)
/// @port: a #SpiceQmpPort
///
/// How long closing waits for QEMU: the property #SpiceQmpPort:close-timeout.
///
/// Returns: the longest wait in milliseconds
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_close_timeout(port: *mut SpiceQmpPort) -> c_uint {
    no_panic("spice_qmp_port_get_close_timeout", 0, || {
        g_return_val_if_fail!(spice_qmp_port_get_close_timeout: SPICE_IS_QMP_PORT(port), 0);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.close_timeout()
    })
}

/// spice_qmp_port_set_close_timeout: (set-property close-timeout)
/// @port: a #SpiceQmpPort
/// @timeout: the longest wait in milliseconds
///
/// Sets the property #SpiceQmpPort:close-timeout.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_set_close_timeout(
    port: *mut SpiceQmpPort,
    timeout: c_uint,
) {
    no_panic("spice_qmp_port_set_close_timeout", (), || {
        g_return_if_fail!(spice_qmp_port_set_close_timeout: SPICE_IS_QMP_PORT(port));
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.set_close_timeout(timeout);
    });
}

/// spice_qmp_port_get_max_message_size: (get-property max-message-size)
/// @port: a #SpiceQmpPort
///
/// The longest message that is accepted: the property
/// #SpiceQmpPort:max-message-size.
///
/// Returns: the size in bytes
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_get_max_message_size(port: *mut SpiceQmpPort) -> u64 {
    no_panic("spice_qmp_port_get_max_message_size", 0, || {
        g_return_val_if_fail!(spice_qmp_port_get_max_message_size: SPICE_IS_QMP_PORT(port), 0);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.max_message_size()
    })
}

/// spice_qmp_port_set_max_message_size: (set-property max-message-size)
/// @port: a #SpiceQmpPort
/// @size: the longest message that is accepted, in bytes; at least 1
///
/// Sets the property #SpiceQmpPort:max-message-size.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_set_max_message_size(port: *mut SpiceQmpPort, size: u64) {
    no_panic("spice_qmp_port_set_max_message_size", (), || {
        g_return_if_fail!(spice_qmp_port_set_max_message_size: SPICE_IS_QMP_PORT(port));
        g_return_if_fail!(spice_qmp_port_set_max_message_size: size > 0);
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.set_max_message_size(size);
    });
}

/// spice_qmp_port_dup_status: (get-property status)
/// @port: a #SpiceQmpPort
///
/// The run state of the virtual machine: the property #SpiceQmpPort:status.
///
/// Returns: (transfer full) (nullable): the status, or %NULL if it is not known
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_dup_status(port: *mut SpiceQmpPort) -> *mut SpiceQmpStatus {
    no_panic("spice_qmp_port_dup_status", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_dup_status: SPICE_IS_QMP_PORT(port), null_mut());
        // SAFETY: it was found to be a SpiceQmpPort.
        let status = unsafe { borrow(port) }.status();
        let status: <Status as GlibPtrDefault>::GlibType = status.to_glib_full();
        status.cast()
    })
}

/// spice_qmp_port_dup_version: (get-property version)
/// @port: a #SpiceQmpPort
///
/// QEMU's version: the property #SpiceQmpPort:version.
///
/// Returns: (transfer full) (nullable): the version, such as `10.0.2`, or %NULL if
///   it is not known
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_dup_version(port: *mut SpiceQmpPort) -> *mut c_char {
    no_panic("spice_qmp_port_dup_version", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_dup_version: SPICE_IS_QMP_PORT(port), null_mut());
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.version().to_glib_full()
    })
}

/// spice_qmp_port_dup_package: (get-property package)
/// @port: a #SpiceQmpPort
///
/// The distributor's package of QEMU: the property #SpiceQmpPort:package.
///
/// Returns: (transfer full) (nullable): the package, or %NULL if it is not known
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_dup_package(port: *mut SpiceQmpPort) -> *mut c_char {
    no_panic("spice_qmp_port_dup_package", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_dup_package: SPICE_IS_QMP_PORT(port), null_mut());
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.package().to_glib_full()
    })
}

/// spice_qmp_port_dup_capabilities: (get-property capabilities)
/// @port: a #SpiceQmpPort
///
/// What the server offered in its greeting: the property
/// #SpiceQmpPort:capabilities.
///
/// Returns: (transfer full) (array zero-terminated=1): the names, such as `oob`;
///   none before the greeting
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_dup_capabilities(
    port: *mut SpiceQmpPort,
) -> *mut *mut c_char {
    no_panic("spice_qmp_port_dup_capabilities", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_dup_capabilities: SPICE_IS_QMP_PORT(port), null_mut());
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.capabilities().into_raw()
    })
}

/// spice_qmp_port_dup_last_error: (get-property last-error)
/// @port: a #SpiceQmpPort
///
/// Why the port is not ready, or the last thing that went wrong on it: the property
/// #SpiceQmpPort:last-error.
///
/// Returns: (transfer full) (nullable): the error, or %NULL if there was none
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_port_dup_last_error(port: *mut SpiceQmpPort) -> *mut GError {
    no_panic("spice_qmp_port_dup_last_error", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_port_dup_last_error: SPICE_IS_QMP_PORT(port), null_mut());
        // SAFETY: it was found to be a SpiceQmpPort.
        unsafe { borrow(port) }.last_error().to_glib_full()
    })
}
