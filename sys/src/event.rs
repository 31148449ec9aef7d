// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpEvent`

use std::ffi::c_char;
use std::ptr::{null, null_mut};

use glib::ffi::{GType, GVariant};
use glib::prelude::*;
use glib::translate::{Borrowed, FromGlibPtrBorrow, GlibPtrDefault, IntoGlib, ToGlibPtr};
use spice_qmp::Event;

use crate::guard::{g_return_if_fail, g_return_val_if_fail, no_panic};

/// SpiceQmpEvent:
///
/// An event of the virtual machine, as emitted by #SpiceQmpPort::qmp-event. It is
/// immutable and may be used from any thread.
///
/// ```c
/// static void
/// on_shutdown (SpiceQmpPort *port, SpiceQmpEvent *event, gpointer user_data)
/// {
///     const char *data = spice_qmp_event_get_data (event);
///
///     g_print ("%s %s\n", spice_qmp_event_get_name (event), data ? data : "");
/// }
///
/// g_signal_connect (port, "qmp-event::SHUTDOWN", G_CALLBACK (on_shutdown), NULL);
/// ```
///
/// Since: 0.2
pub struct SpiceQmpEvent(());

/// spice_qmp_event_get_type:
///
/// Returns: the #GType of #SpiceQmpEvent
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_event_get_type() -> GType {
    Event::static_type().into_glib()
}

/// spice_qmp_event_ref:
/// @event: a #SpiceQmpEvent
///
/// Takes a reference to @event, from any thread.
///
/// Returns: (transfer full): the same @event
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_event_ref(event: *mut SpiceQmpEvent) -> *mut SpiceQmpEvent {
    no_panic("spice_qmp_event_ref", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_event_ref: !event.is_null(), null_mut());
        // SAFETY: `event` is a live boxed `Event`.
        unsafe {
            glib::gobject_ffi::g_boxed_copy(Event::static_type().into_glib(), event.cast()).cast()
        }
    })
}

/// spice_qmp_event_unref:
/// @event: (transfer full): a #SpiceQmpEvent
///
/// Releases a reference, from any thread. Releasing the last one frees @event.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_event_unref(event: *mut SpiceQmpEvent) {
    no_panic("spice_qmp_event_unref", (), || {
        g_return_if_fail!(spice_qmp_event_unref: !event.is_null());
        // SAFETY: the caller gives up its reference to a boxed `Event`.
        unsafe {
            glib::gobject_ffi::g_boxed_free(Event::static_type().into_glib(), event.cast());
        }
    });
}

/// spice_qmp_event_get_name:
/// @event: a #SpiceQmpEvent
///
/// Gets the name of the event.
///
/// Returns: (transfer none): the name, such as `STOP`; it lives as long as @event
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_event_get_name(event: *const SpiceQmpEvent) -> *const c_char {
    no_panic("spice_qmp_event_get_name", null(), || {
        g_return_val_if_fail!(spice_qmp_event_get_name: !event.is_null(), null());
        // SAFETY: `event` is a live `SpiceQmpEvent`.
        unsafe { borrow(event) }.name_gstr().as_ptr()
    })
}

/// spice_qmp_event_get_data:
/// @event: a #SpiceQmpEvent
///
/// Gets the data of the event as JSON text.
///
/// Returns: (transfer none) (nullable): the text of a JSON object, or %NULL if
///   the event has no data; it lives as long as @event
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_event_get_data(event: *const SpiceQmpEvent) -> *const c_char {
    no_panic("spice_qmp_event_get_data", null(), || {
        g_return_val_if_fail!(spice_qmp_event_get_data: !event.is_null(), null());
        // SAFETY: `event` is a live `SpiceQmpEvent`.
        let event = unsafe { borrow(event) };
        event.data_gstr().map_or(null(), glib::GStr::as_ptr)
    })
}

/// spice_qmp_event_get_data_variant:
/// @event: a #SpiceQmpEvent
///
/// Gets the data of the event as a #GVariant of the type `a{sv}`, for languages in which
/// that is easier to use than JSON text. The conversion is described at
/// spice_qmp_port_execute_variant_async().
///
/// Returns: (transfer full) (nullable): the data, or %NULL if the event has none or
///   they cannot be converted: more than 1 MiB of JSON text, or nested more than 60
///   levels deep. spice_qmp_event_get_data() returns them in either case.
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_event_get_data_variant(
    event: *const SpiceQmpEvent,
) -> *mut GVariant {
    no_panic("spice_qmp_event_get_data_variant", null_mut(), || {
        g_return_val_if_fail!(spice_qmp_event_get_data_variant: !event.is_null(), null_mut());
        // SAFETY: `event` is a live `SpiceQmpEvent`.
        let data = unsafe { borrow(event) }.data_variant().ok().flatten();
        data.to_glib_full()
    })
}

/// spice_qmp_event_get_timestamp:
/// @event: a #SpiceQmpEvent
///
/// Gets the time when the event occurred, by the host's clock.
///
/// Returns: microseconds since 1970-01-01 00:00 UTC, as g_get_real_time() counts
///   them, or -1 if QEMU could not determine it
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_qmp_event_get_timestamp(event: *const SpiceQmpEvent) -> i64 {
    no_panic("spice_qmp_event_get_timestamp", -1, || {
        g_return_val_if_fail!(spice_qmp_event_get_timestamp: !event.is_null(), -1);
        // SAFETY: `event` is a live `SpiceQmpEvent`.
        unsafe { borrow(event) }.timestamp()
    })
}

/// # Safety
///
/// `event` is a live `SpiceQmpEvent`, and stays so while the result is used.
unsafe fn borrow(event: *const SpiceQmpEvent) -> Borrowed<Event> {
    let event: <Event as GlibPtrDefault>::GlibType = event.cast_mut().cast();
    // SAFETY: a `SpiceQmpEvent *` is the pointer of a boxed `Event`.
    unsafe { FromGlibPtrBorrow::from_glib_borrow(event) }
}
