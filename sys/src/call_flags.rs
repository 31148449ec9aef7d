// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpCallFlags`

use std::ffi::c_uint;

use glib::ffi::GType;
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_qmp::qmp::Band;

/// SpiceQmpCallFlags:
/// @SPICE_QMP_CALL_FLAGS_NONE: none
/// @SPICE_QMP_CALL_FLAGS_OUT_OF_BAND: execute the command out of band: immediately,
///   ahead of the commands in QEMU's queue
///
/// How spice_qmp_port_execute_full_async() executes a command.
///
/// Since: 0.2
#[allow(non_camel_case_types)]
#[repr(C)]
pub enum SpiceQmpCallFlags {
    SPICE_QMP_CALL_FLAGS_NONE = 0,
    SPICE_QMP_CALL_FLAGS_OUT_OF_BAND = 1,
}

/// `SpiceQmpCallFlags` from C, which may have any bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct FlagsOfC(c_uint);

impl FlagsOfC {
    /// Whether all bits have a meaning.
    pub(crate) fn are_known(self) -> bool {
        CallFlags::from_bits(self.0).is_some()
    }

    pub(crate) fn band(self) -> Band {
        if CallFlags::from_bits_truncate(self.0).contains(CallFlags::OUT_OF_BAND) {
            Band::Out
        } else {
            Band::In
        }
    }
}

/// spice_qmp_call_flags_get_type:
///
/// Returns: the #GType of #SpiceQmpCallFlags
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_call_flags_get_type() -> GType {
    CallFlags::static_type().into_glib()
}

/// The flags as a GLib type.
#[glib::flags(name = "SpiceQmp1CallFlags")]
enum CallFlags {
    #[flags_value(name = "SPICE_QMP_CALL_FLAGS_NONE", nick = "none")]
    NONE = 0,
    #[flags_value(name = "SPICE_QMP_CALL_FLAGS_OUT_OF_BAND", nick = "out-of-band")]
    OUT_OF_BAND = SpiceQmpCallFlags::SPICE_QMP_CALL_FLAGS_OUT_OF_BAND as u32,
}
