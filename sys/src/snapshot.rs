// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpSnapshot`

use std::ffi::c_char;
use std::ptr::null_mut;

use glib::ffi::{GFALSE, GType, gboolean};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow};
use spice_qmp::Snapshot;

use crate::guard::{g_return_val_if_fail, is_a, no_panic};

pub struct SpiceQmpSnapshot(());

/// spice_qmp_snapshot_get_type:
///
/// Returns: the #GType of #SpiceQmpSnapshot
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_snapshot_get_type() -> GType {
    Snapshot::static_type().into_glib()
}

/// spice_qmp_snapshot_dup_tag: (get-property tag)
/// @snapshot: a #SpiceQmpSnapshot
///
/// The name of the snapshot: the property #SpiceQmpSnapshot:tag.
///
/// Returns: (transfer full): the name
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_snapshot_dup_tag(
    snapshot: *mut SpiceQmpSnapshot,
) -> *mut c_char {
    no_panic("spice_qmp_snapshot_dup_tag", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_snapshot_dup_tag: SPICE_IS_QMP_SNAPSHOT(snapshot), null_mut());
        // SAFETY: it was found to be a SpiceQmpSnapshot.
        unsafe { borrow(snapshot) }.tag().to_glib_full()
    })
}

/// spice_qmp_snapshot_get_date: (get-property date)
/// @snapshot: a #SpiceQmpSnapshot
///
/// When the snapshot was taken: the property #SpiceQmpSnapshot:date.
///
/// Returns: the seconds since 1970, UTC
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_snapshot_get_date(snapshot: *mut SpiceQmpSnapshot) -> i64 {
    no_panic("spice_qmp_snapshot_get_date", 0, || {
        g_return_val_if_fail!(spice_qmp_snapshot_get_date: SPICE_IS_QMP_SNAPSHOT(snapshot), 0);
        // SAFETY: it was found to be a SpiceQmpSnapshot.
        unsafe { borrow(snapshot) }.date()
    })
}

/// spice_qmp_snapshot_get_state_size: (get-property state-size)
/// @snapshot: a #SpiceQmpSnapshot
///
/// The size of the state of the machine: the property #SpiceQmpSnapshot:state-size.
///
/// Returns: the number of bytes, or 0 if the snapshot is of disks only
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_snapshot_get_state_size(snapshot: *mut SpiceQmpSnapshot) -> u64 {
    no_panic("spice_qmp_snapshot_get_state_size", 0, || {
        g_return_val_if_fail!(spice_qmp_snapshot_get_state_size: SPICE_IS_QMP_SNAPSHOT(snapshot), 0);
        // SAFETY: it was found to be a SpiceQmpSnapshot.
        unsafe { borrow(snapshot) }.state_size()
    })
}

/// spice_qmp_snapshot_get_clock: (get-property clock)
/// @snapshot: a #SpiceQmpSnapshot
///
/// For how long the machine had been running: the property #SpiceQmpSnapshot:clock.
///
/// Returns: a time span in microseconds, as #GTimeSpan
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_snapshot_get_clock(snapshot: *mut SpiceQmpSnapshot) -> i64 {
    no_panic("spice_qmp_snapshot_get_clock", 0, || {
        g_return_val_if_fail!(spice_qmp_snapshot_get_clock: SPICE_IS_QMP_SNAPSHOT(snapshot), 0);
        // SAFETY: it was found to be a SpiceQmpSnapshot.
        unsafe { borrow(snapshot) }.clock()
    })
}

/// spice_qmp_snapshot_get_loadable: (get-property loadable)
/// @snapshot: a #SpiceQmpSnapshot
///
/// Whether the machine can return to the snapshot: the property #SpiceQmpSnapshot:loadable.
///
/// Returns: %TRUE if it can
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_snapshot_get_loadable(
    snapshot: *mut SpiceQmpSnapshot,
) -> gboolean {
    no_panic("spice_qmp_snapshot_get_loadable", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_snapshot_get_loadable: SPICE_IS_QMP_SNAPSHOT(snapshot), GFALSE);
        // SAFETY: it was found to be a SpiceQmpSnapshot.
        unsafe { borrow(snapshot) }.loadable().into_glib()
    })
}

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn SPICE_IS_QMP_SNAPSHOT(snapshot: *mut SpiceQmpSnapshot) -> bool {
    is_a(snapshot.cast(), Snapshot::static_type())
}

/// # Safety
///
/// `snapshot` is a live `SpiceQmpSnapshot`, and stays so while the result is used.
unsafe fn borrow(snapshot: *mut SpiceQmpSnapshot) -> Borrowed<Snapshot> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(snapshot.cast::<<Snapshot as ObjectType>::GlibType>()) }
}
