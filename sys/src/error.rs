// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpError`

use glib::error::ErrorDomain;
use glib::ffi::{GError, GFALSE, GQuark, GTRUE, gboolean};
use glib::translate::{IntoGlib, IntoGlibPtr};
use spice_qmp::{Error, QmpErrorCode};

/// SpiceQmpError:
/// @SPICE_QMP_ERROR_GENERIC: QEMU's `GenericError`, or an unknown error class, which
///   the message then names
/// @SPICE_QMP_ERROR_COMMAND_NOT_FOUND: QEMU's `CommandNotFound`: this QEMU does not
///   have the command, or not in its current state
/// @SPICE_QMP_ERROR_DEVICE_NOT_ACTIVE: QEMU's `DeviceNotActive`
/// @SPICE_QMP_ERROR_DEVICE_NOT_FOUND: QEMU's `DeviceNotFound`
/// @SPICE_QMP_ERROR_KVM_MISSING_CAP: QEMU's `KVMMissingCap`
/// @SPICE_QMP_ERROR_NOT_READY: the port is not ready for commands
/// @SPICE_QMP_ERROR_PROTOCOL: the peer violated the protocol
/// @SPICE_QMP_ERROR_TOO_LARGE: a message was larger than `max-message-size`, or too
///   large for a #GVariant
/// @SPICE_QMP_ERROR_NOT_QMP: the peer does not speak QMP; it may be a human monitor
/// @SPICE_QMP_ERROR_INVALID_ARGUMENT: an argument is invalid
/// @SPICE_QMP_ERROR_NOT_SUPPORTED: the server does not support the request
///
/// The codes of the error domain %SPICE_QMP_ERROR.
///
/// The message of an error that QEMU returned is the name of the command and QEMU's
/// description, which differs between versions of QEMU: show it, do not parse it.
///
/// Other failures are in the domain %G_IO_ERROR: %G_IO_ERROR_CLOSED if the
/// connection has ended, %G_IO_ERROR_CANCELLED and %G_IO_ERROR_TIMED_OUT.
///
/// Since: 0.2
#[allow(non_camel_case_types)]
#[repr(C)]
pub enum SpiceQmpError {
    SPICE_QMP_ERROR_GENERIC = 0,
    SPICE_QMP_ERROR_COMMAND_NOT_FOUND = 1,
    SPICE_QMP_ERROR_DEVICE_NOT_ACTIVE = 2,
    SPICE_QMP_ERROR_DEVICE_NOT_FOUND = 3,
    SPICE_QMP_ERROR_KVM_MISSING_CAP = 4,
    SPICE_QMP_ERROR_NOT_READY = 5,
    SPICE_QMP_ERROR_PROTOCOL = 6,
    SPICE_QMP_ERROR_TOO_LARGE = 7,
    SPICE_QMP_ERROR_NOT_QMP = 8,
    SPICE_QMP_ERROR_INVALID_ARGUMENT = 9,
    SPICE_QMP_ERROR_NOT_SUPPORTED = 10,
}

/// spice_qmp_error_quark:
///
/// The error domain of QMP; see #SpiceQmpError.
///
/// Returns: the quark
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_error_quark() -> GQuark {
    QmpErrorCode::domain().into_glib()
}

/// What a function returns that may fail.
///
/// # Safety
///
/// `error` is NULL, or a place for an error in which there is none.
pub(crate) unsafe fn worked(result: Result<(), Error>, error: *mut *mut GError) -> gboolean {
    match result {
        Ok(()) => GTRUE,
        Err(failure) => {
            let failure = glib::Error::from(failure);
            // SAFETY: as the caller promises; the place takes the error over.
            unsafe { glib::ffi::g_propagate_error(error, failure.into_glib_ptr()) };
            GFALSE
        }
    }
}

/// The code in the header. A new code does not compile until it is mapped.
const fn in_header(code: QmpErrorCode) -> SpiceQmpError {
    match code {
        QmpErrorCode::Generic => SpiceQmpError::SPICE_QMP_ERROR_GENERIC,
        QmpErrorCode::CommandNotFound => SpiceQmpError::SPICE_QMP_ERROR_COMMAND_NOT_FOUND,
        QmpErrorCode::DeviceNotActive => SpiceQmpError::SPICE_QMP_ERROR_DEVICE_NOT_ACTIVE,
        QmpErrorCode::DeviceNotFound => SpiceQmpError::SPICE_QMP_ERROR_DEVICE_NOT_FOUND,
        QmpErrorCode::KvmMissingCap => SpiceQmpError::SPICE_QMP_ERROR_KVM_MISSING_CAP,
        QmpErrorCode::NotReady => SpiceQmpError::SPICE_QMP_ERROR_NOT_READY,
        QmpErrorCode::Protocol => SpiceQmpError::SPICE_QMP_ERROR_PROTOCOL,
        QmpErrorCode::TooLarge => SpiceQmpError::SPICE_QMP_ERROR_TOO_LARGE,
        QmpErrorCode::NotQmp => SpiceQmpError::SPICE_QMP_ERROR_NOT_QMP,
        QmpErrorCode::InvalidArgument => SpiceQmpError::SPICE_QMP_ERROR_INVALID_ARGUMENT,
        QmpErrorCode::NotSupported => SpiceQmpError::SPICE_QMP_ERROR_NOT_SUPPORTED,
        // Found below: this is evaluated for each of them when it is compiled.
        _ => panic!("the header lacks a code"),
    }
}

const _: () = {
    let codes = QmpErrorCode::ALL;
    let mut i = 0;
    while i < codes.len() {
        assert!(codes[i] as i32 == in_header(codes[i]) as i32);
        i += 1;
    }
};
