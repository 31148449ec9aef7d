// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPort`: the type, and the conversion of its C pointer to a value in Rust.

use glib::object::ObjectType;
use glib::translate::{Borrowed, IntoGlibPtr, from_glib_borrow};
use spice_qmp::QmpPort;

#[cfg(not(spice_gtk_declares))]
pub struct SpiceQmpPort(());

/// # Safety
///
/// `port` is a live `SpiceQmpPort`, and stays so while the result is used.
pub(crate) unsafe fn borrow(port: *mut SpiceQmpPort) -> Borrowed<QmpPort> {
    // SAFETY: as the caller promises.
    unsafe { from_glib_borrow(port.cast::<<QmpPort as ObjectType>::GlibType>()) }
}

/// Passes a new reference to C.
pub(crate) fn give(port: QmpPort) -> *mut SpiceQmpPort {
    let port: *mut <QmpPort as ObjectType>::GlibType = port.into_glib_ptr();
    port.cast()
}
