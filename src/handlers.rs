// SPDX-License-Identifier: MIT OR Apache-2.0
//! Signal handlers of objects that the program, too, has in its hands.
#![allow(unsafe_code)]

use glib::prelude::*;
use glib::translate::from_glib;

/// Disconnects a handler, if it is still there: an object that was disposed of has none any
/// more, and GLib warns where one is disconnected twice.
pub(crate) fn disconnect(object: &impl IsA<glib::Object>, handler: glib::SignalHandlerId) {
    let instance = object.as_ref().as_ptr();
    // SAFETY: the object lives, and GLib looks the number up.
    let is_there: bool = unsafe {
        from_glib(glib::gobject_ffi::g_signal_handler_is_connected(
            instance,
            handler.as_raw(),
        ))
    };
    if is_there {
        object.disconnect(handler);
    }
}
