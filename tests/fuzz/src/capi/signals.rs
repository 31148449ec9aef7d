// SPDX-License-Identifier: MIT OR Apache-2.0
//! The handlers of the port's signals.

use std::ffi::c_char;
use std::ptr::null_mut;

use glib::ffi::{GFALSE, gboolean, gpointer};
use glib::gobject_ffi::GObject;
use glib::object::{ObjectExt, ObjectType};
use glib::translate::{ToGlibPtr, from_glib_full};
use spice_qmp::QmpPort;
use spice_qmp_1::event::{
    SpiceQmpEvent, spice_qmp_event_get_data, spice_qmp_event_get_data_variant,
    spice_qmp_event_get_name, spice_qmp_event_get_timestamp, spice_qmp_event_ref,
    spice_qmp_event_unref,
};

use super::{World, current};

impl World {
    pub(super) fn connect_signals(&self) {
        self.with_port(|port| {
            let instance: *mut <QmpPort as ObjectType>::GlibType = port.to_glib_none().0;
            for (signal, handler) in [
                (c"event", on_event as *const ()),
                (c"qmp-event", on_qmp_event as *const ()),
                (c"qmp-event::STOP", on_qmp_event as *const ()),
            ] {
                // SAFETY: the handlers have the signatures of the signals.
                unsafe {
                    glib::gobject_ffi::g_signal_connect_data(
                        instance.cast(),
                        signal.as_ptr(),
                        Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                            handler,
                        )),
                        null_mut(),
                        None,
                        0,
                    );
                }
            }
            port.connect_notify_local(None, |port, property| {
                let value = port.property_value(property.name());
                assert!(value.type_().is_a(property.value_type()));
            });
        });
    }
}

// spice-qmp links JSON-GLib.
unsafe extern "C" {
    fn json_to_string(node: gpointer, pretty: gboolean) -> *mut c_char;
}

unsafe extern "C" fn on_event(_: *mut GObject, name: *const c_char, node: gpointer, _: gpointer) {
    assert!(!name.is_null());
    if !node.is_null() {
        // SAFETY: it is a JsonNode, which lives as long as the handler runs.
        let text: glib::GString = unsafe { from_glib_full(json_to_string(node, GFALSE)) };
        assert!(!text.is_empty());
    }
    told_event();
}

unsafe extern "C" fn on_qmp_event(_: *mut GObject, event: *mut SpiceQmpEvent, _: gpointer) {
    // SAFETY: the event lives as long as the handler runs, and what its functions
    // lend; the variant is the caller's.
    unsafe {
        let event = spice_qmp_event_ref(event);
        assert!(!spice_qmp_event_get_name(event).is_null());
        assert!(spice_qmp_event_get_timestamp(event) >= -1);
        let has_data = !spice_qmp_event_get_data(event).is_null();
        let variant = spice_qmp_event_get_data_variant(event);
        if !variant.is_null() {
            assert!(has_data);
            glib::ffi::g_variant_unref(variant);
        }
        spice_qmp_event_unref(event);
    }
    told_event();
}

/// Every fourth handler runs a main loop, every tenth drops the port.
fn told_event() {
    let world = current();
    let events = world.events.get() + 1;
    world.events.set(events);
    if events.is_multiple_of(4) {
        world.iterate();
    }
    if events.is_multiple_of(10) {
        world.give_up();
    }
}
