// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the objects above a port have in common: they follow its signals, on its thread.

use glib::prelude::*;

use crate::home::Home;
use crate::port::QmpPort;

/// Calls `handler` at a signal of the port, which does not keep `object`. Any thread may
/// disconnect it.
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

/// Whether commands get through to QEMU.
pub(super) fn is_reachable(port: &QmpPort) -> bool {
    // What is written to a port within the blink of an eye after it was mute waits there:
    // it gets through.
    let running = || port.status().is_some_and(|status| status.running());
    port.ready() && (!port.is_mute() || running())
}

/// Whether the calling thread may use `object`, which is at this home; if not, that is a
/// critical.
pub(super) fn may_use(home: &Home, object: &str, what: &str) -> bool {
    let here = home.is_my_thread();
    if !here {
        glib::g_critical!(
            "SpiceQmp",
            "{what:?} of {object} was used on another thread than its port's"
        );
    }
    here
}
