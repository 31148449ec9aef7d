// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports on SPICE channels: a channel owns its single port.

use std::time::Duration;

use glib::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::QmpPort;
use super::imp;
use super::waiting::Waiting;
use super::waits::WaitFor;
use crate::home::Home;
use crate::transport::SpiceTransport;
use crate::transport::spice::PortChannel;

/// The key under which a channel keeps its port. Not spice-gtk's `spice-qmp-port`, where
/// its own helper is kept.
static PORT_QUARK: Lazy<glib::Quark> = Lazy::new(|| glib::Quark::from_str("spice-qmp1-port"));

impl QmpPort {
    /// The port of a SPICE port channel, which is created if there is none, or
    /// if the last one was [closed](Self::close).
    ///
    /// The channel owns the port; the port does not keep the channel alive.
    pub fn get(channel: impl Into<PortChannel>) -> Self {
        let channel = channel.into();
        let owned = channel.owned(*PORT_QUARK);
        // Another thread's data may only be accessed on that thread.
        let usable = |port: &Self| !port.is_on_its_thread() || !port.imp().connection.is_released();
        if let Some(port) = owned.filter(usable) {
            return port;
        }
        let port: Self = glib::Object::builder()
            .property("channel", &channel)
            .build();
        channel.own(*PORT_QUARK, &port);
        port
    }

    /// Waits until QEMU may be disconnected without harm, because it owes no answer, for at most
    /// `timeout`.
    pub(crate) async fn settled(&self, timeout: Duration) {
        // It can only fail by timing out.
        let wait = |callback| self.imp().wait(WaitFor::Settled, timeout, callback);
        let _ = Waiting::new(self, wait).await;
    }

    /// The port of `channel`, if it has one.
    pub(crate) fn of_channel(channel: &PortChannel) -> Option<Self> {
        channel.owned(*PORT_QUARK)
    }
}

impl imp::QmpPort {
    /// Speaks QMP over the channel that the port was created for, if any.
    pub(super) fn attach_channel(&self) {
        if let Some(channel) = self.channel.upgrade() {
            // spice-gtk's own I/O runs on GLib's default context, whatever is pushed now.
            let _ = self.home.set(Home::of_spice());
            self.attach(Box::new(SpiceTransport::new(&channel)));
        }
    }

    /// Removes the port from its channel. `given_back`: whether someone dropped the channel's
    /// reference.
    pub(super) fn leave_channel(&self, given_back: bool) {
        if let Some(channel) = self.channel.upgrade() {
            channel.disown(*PORT_QUARK, &*self.obj(), given_back);
        }
    }
}
