// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpInsertFlags`

use std::ffi::c_uint;

use glib::ffi::GType;
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_qmp::Insert;

/// SpiceQmpInsertFlags:
/// @SPICE_QMP_INSERT_FLAGS_NONE: none: the medium is read-only if the previous one was; the
///   first medium is read-only
/// @SPICE_QMP_INSERT_FLAGS_READ_ONLY: the guest can only read the medium
/// @SPICE_QMP_INSERT_FLAGS_READ_WRITE: the guest can write to the medium, too; not
///   together with %SPICE_QMP_INSERT_FLAGS_READ_ONLY
/// @SPICE_QMP_INSERT_FLAGS_FORCE: open the tray even if the guest has locked it (QEMU 7.1
///   and later)
///
/// How spice_qmp_drive_insert_async() inserts a medium.
///
/// Since: 0.2
#[allow(non_camel_case_types)]
#[repr(C)]
pub enum SpiceQmpInsertFlags {
    SPICE_QMP_INSERT_FLAGS_NONE = 0,
    SPICE_QMP_INSERT_FLAGS_READ_ONLY = 1,
    SPICE_QMP_INSERT_FLAGS_READ_WRITE = 2,
    SPICE_QMP_INSERT_FLAGS_FORCE = 4,
}

/// `SpiceQmpInsertFlags` from C, which may have any bits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct InsertFlagsOfC(c_uint);

impl InsertFlagsOfC {
    /// Whether all bits have a meaning, and none of them contradict each other.
    pub(crate) fn are_sound(self) -> bool {
        let both = InsertFlags::READ_ONLY | InsertFlags::READ_WRITE;
        InsertFlags::from_bits(self.0).is_some_and(|flags| !flags.contains(both))
    }

    pub(crate) fn apply_to(self, mut insert: Insert) -> Insert {
        let flags = InsertFlags::from_bits_truncate(self.0);
        if flags.intersects(InsertFlags::READ_ONLY | InsertFlags::READ_WRITE) {
            insert = insert.read_only(flags.contains(InsertFlags::READ_ONLY));
        }
        if flags.contains(InsertFlags::FORCE) {
            insert = insert.force();
        }
        insert
    }
}

/// spice_qmp_insert_flags_get_type:
///
/// Returns: the #GType of #SpiceQmpInsertFlags
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_insert_flags_get_type() -> GType {
    InsertFlags::static_type().into_glib()
}

/// The flags as a GLib type.
#[glib::flags(name = "SpiceQmp1InsertFlags")]
enum InsertFlags {
    #[flags_value(name = "SPICE_QMP_INSERT_FLAGS_NONE", nick = "none")]
    NONE = 0,
    #[flags_value(name = "SPICE_QMP_INSERT_FLAGS_READ_ONLY", nick = "read-only")]
    READ_ONLY = SpiceQmpInsertFlags::SPICE_QMP_INSERT_FLAGS_READ_ONLY as u32,
    #[flags_value(name = "SPICE_QMP_INSERT_FLAGS_READ_WRITE", nick = "read-write")]
    READ_WRITE = SpiceQmpInsertFlags::SPICE_QMP_INSERT_FLAGS_READ_WRITE as u32,
    #[flags_value(name = "SPICE_QMP_INSERT_FLAGS_FORCE", nick = "force")]
    FORCE = SpiceQmpInsertFlags::SPICE_QMP_INSERT_FLAGS_FORCE as u32,
}
