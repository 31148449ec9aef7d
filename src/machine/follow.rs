// SPDX-License-Identifier: MIT OR Apache-2.0
//! Helpers for the objects above a port: they follow its signals, on its thread.

use glib::prelude::*;

use crate::port::QmpPort;

/// Calls `handler` on a signal of the port. The connection does not keep `object` alive, and
/// any thread may disconnect it.
pub(super) fn connect<T: IsA<glib::Object>>(
    object: &T,
    port: &QmpPort,
    signal: &str,
    handler: fn(&T, &[glib::Value]),
) -> glib::SignalHandlerId {
    let object: glib::SendWeakRef<T> = object.downgrade().into();
    let closure = glib::RustClosure::new(move |values| {
        let port = values[0].get::<QmpPort>();
        // Another thread could emit it.
        if port.is_ok_and(|port| port.is_on_its_thread())
            && let Some(object) = object.upgrade()
        {
            handler(&object, values);
        }
        None
    });
    port.connect_closure(signal, false, closure)
}

/// Whether commands reach QEMU.
pub(super) fn is_reachable(port: &QmpPort) -> bool {
    // What is written to a port just after it was mute waits there briefly,
    // and then reaches QEMU.
    let running = || port.status().is_some_and(|status| status.running());
    port.ready() && (!port.is_mute() || running())
}
