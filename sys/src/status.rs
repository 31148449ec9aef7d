// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpStatus`

use std::ffi::c_char;

use glib::ffi::{GType, gboolean};
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_qmp::Status;

use crate::guard::{g_return_val_if_fail, no_panic};

/// SpiceQmpStatus:
/// @version: the version of the structure, 1
/// @running: %TRUE if the virtual CPUs are running
/// @singlestep: %TRUE if the virtual CPUs run in single-step mode; always %FALSE
///   with QEMU 9.0 and newer, which no longer report it
/// @status: QEMU's name of the run state, such as `running`, `paused` or
///   `guest-panicked` (the QAPI enum `RunState`, which may grow)
///
/// The run state of the virtual machine, as returned by QEMU's command
/// `query-status`. Do not modify it: references to the same structure may be held
/// elsewhere.
///
/// ```c
/// g_autoptr (SpiceQmpStatus) status = spice_qmp_port_dup_status (port);
///
/// gtk_label_set_text (label, status ? status->status : "");
/// ```
///
/// Since: 0.2
#[cfg(not(spice_gtk_declares))]
#[repr(C)]
pub struct SpiceQmpStatus {
    // It is preceded by `int ref`, private: cbindgen.toml declares it.
    version: std::ffi::c_int,
    running: gboolean,
    singlestep: gboolean,
    status: *mut c_char,
}

/// spice_qmp_status_get_type:
///
/// Returns: the #GType of #SpiceQmpStatus
///
/// Since: 0.2
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_status_get_type() -> GType {
    Status::static_type().into_glib()
}

/// spice_qmp_status_ref:
/// @status: a #SpiceQmpStatus
///
/// Takes a reference to @status, from any thread.
///
/// Returns: (transfer full): the same @status
///
/// Since: 0.2
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_status_ref(status: *mut SpiceQmpStatus) -> *mut SpiceQmpStatus {
    let null = std::ptr::null_mut();
    no_panic("spice_qmp_status_ref", null, || {
        g_return_val_if_fail!(spice_qmp_status_ref: !status.is_null(), null);
        // SAFETY: `status` is a live structure of this library, a boxed `Status`.
        unsafe {
            glib::gobject_ffi::g_boxed_copy(Status::static_type().into_glib(), status.cast()).cast()
        }
    })
}

/// spice_qmp_status_unref:
/// @status: (nullable) (transfer full): a #SpiceQmpStatus
///
/// Releases a reference, from any thread. Releasing the last one frees @status.
///
/// Since: 0.2
#[cfg(not(spice_gtk_declares))]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_status_unref(status: *mut SpiceQmpStatus) {
    no_panic("spice_qmp_status_unref", (), || {
        if !status.is_null() {
            // SAFETY: the caller gives up its reference to a boxed `Status`.
            unsafe {
                glib::gobject_ffi::g_boxed_free(Status::static_type().into_glib(), status.cast());
            }
        }
    });
}
