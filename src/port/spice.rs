// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports on SPICE channels: the one port of a channel, which owns it.

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

/// Under which a channel keeps its port. Not spice-gtk's `spice-qmp-port`, where
/// its own helper lives.
static PORT_QUARK: Lazy<glib::Quark> = Lazy::new(|| glib::Quark::from_str("spice-qmp1-port"));

impl QmpPort {
    /// The one port of a SPICE port channel, which is made if there is none, or
    /// if the last one was [closed](Self::close).
    ///
    /// The channel owns the port; the port does not keep the channel alive.
    pub fn get(channel: impl Into<PortChannel>) -> Self {
        let channel = channel.into();
        let owned = channel.owned(*PORT_QUARK);
        // What another thread has, only that thread may look into.
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

    /// Waits until nothing is owed that QEMU is to answer before it is left, or for
    /// `timeout`.
    pub(crate) async fn settled(&self, timeout: Duration) {
        // The only error is that it took too long.
        let wait = |callback| self.imp().wait(WaitFor::Settled, timeout, callback);
        let _ = Waiting::new(self, wait).await;
    }

    /// The port that `channel` has, if any.
    pub(crate) fn of_channel(channel: &PortChannel) -> Option<Self> {
        channel.owned(*PORT_QUARK)
    }
}

impl imp::QmpPort {
    /// Speaks QMP over the channel that the port was made for, if any.
    pub(super) fn attach_channel(&self) {
        if let Some(channel) = self.channel.upgrade() {
            // spice-gtk's own I/O is on GLib's default context, whatever is pushed now.
            let _ = self.home.set(Home::of_spice());
            self.attach(Box::new(SpiceTransport::new(&channel)));
        }
    }

    /// Has the channel forget the port. `given_back`: whether somebody gave back
    /// the channel's reference.
    pub(super) fn leave_channel(&self, given_back: bool) {
        if let Some(channel) = self.channel.upgrade() {
            channel.disown(*PORT_QUARK, &*self.obj(), given_back);
        }
    }
}
