// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpList`

use std::ptr::null_mut;

use glib::ffi::{GError, GFALSE, GType, gboolean};
use glib::object::ObjectType;
use glib::prelude::*;
use glib::translate::{Borrowed, IntoGlib, ToGlibPtr, from_glib_borrow};
use spice_qmp::List;

use crate::guard::{g_return_if_fail, g_return_val_if_fail, is_a, no_panic};

pub struct SpiceQmpList(());

/// spice_qmp_list_get_type:
///
/// Returns: the #GType of #SpiceQmpList
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_list_get_type() -> GType {
    List::static_type().into_glib()
}

/// spice_qmp_list_refresh:
/// @list: a #SpiceQmpList
///
/// Loads the items again. This is only needed for changes that QEMU does not report. If
/// the port is not ready, they are loaded when it is.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_list_refresh(list: *mut SpiceQmpList) {
    no_panic("spice_qmp_list_refresh", (), || {
        g_return_if_fail!(spice_qmp_list_refresh: SPICE_IS_QMP_LIST(list));
        g_return_if_fail!(spice_qmp_list_refresh: IS_THREAD_OF_LIST(list));
        // SAFETY: it was found to be a SpiceQmpList.
        unsafe { borrow(list) }.refresh();
    });
}

/// spice_qmp_list_get_loading: (get-property loading)
/// @list: a #SpiceQmpList
///
/// Whether items are being loaded: the property #SpiceQmpList:loading.
///
/// Returns: %TRUE if they are
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_list_get_loading(list: *mut SpiceQmpList) -> gboolean {
    no_panic("spice_qmp_list_get_loading", GFALSE, || {
        g_return_val_if_fail!(spice_qmp_list_get_loading: SPICE_IS_QMP_LIST(list), GFALSE);
        // SAFETY: it was found to be a SpiceQmpList.
        unsafe { borrow(list) }.loading().into_glib()
    })
}

/// spice_qmp_list_dup_error: (get-property error)
/// @list: a #SpiceQmpList
///
/// Why the items could not be loaded: the property #SpiceQmpList:error.
///
/// Returns: (transfer full) (nullable): the error, or %NULL if there was none
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_list_dup_error(list: *mut SpiceQmpList) -> *mut GError {
    no_panic("spice_qmp_list_dup_error", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_list_dup_error: SPICE_IS_QMP_LIST(list), null_mut());
        // SAFETY: it was found to be a SpiceQmpList.
        unsafe { borrow(list) }.error().to_glib_full()
    })
}

#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn SPICE_IS_QMP_LIST(list: *mut SpiceQmpList) -> bool {
    is_a(list.cast(), List::static_type())
}

/// Whether this thread created the port of the list, which was found to be one.
#[allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]
fn IS_THREAD_OF_LIST(list: *mut SpiceQmpList) -> bool {
    // SAFETY: it is a live SpiceQmpList; any thread may ask.
    unsafe { borrow(list) }.is_on_its_thread()
}

/// # Safety
///
/// `list` is a live `SpiceQmpList`, and stays so while the result is used.
unsafe fn borrow(list: *mut SpiceQmpList) -> Borrowed<List> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(list.cast::<<List as ObjectType>::GlibType>()) }
}
