// SPDX-License-Identifier: MIT OR Apache-2.0
//! A SPICE port channel as a transport.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use glib::object::WeakRefNotify;
use glib::prelude::*;
use glib::signal::SignalHandlerId;

use super::spice::{Channel, ChannelEvent, PortChannel, PortHandler};
use super::{Incoming, Sink, Transport};
use crate::home::{Bound, Home};

/// Reads and writes a [`PortChannel`]. It does not keep the channel alive.
pub struct SpiceTransport {
    channel: glib::WeakRef<PortChannel>,
    home: Home,
    link: Rc<Link>,
    handlers: RefCell<Option<[SignalHandlerId; 4]>>,
    gone: RefCell<Option<WeakRefNotify<PortChannel>>>,
}

impl std::fmt::Debug for SpiceTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SpiceTransport")
            .field("channel", &self.channel.upgrade())
            .field("link", &self.link)
            .finish_non_exhaustive()
    }
}

/// What the handlers share.
#[derive(Default)]
struct Link {
    sink: OnceCell<Sink>,
    open: Cell<bool>,
    /// How many times it was opened.
    openings: Cell<u64>,
    ended: Cell<bool>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

impl SpiceTransport {
    /// A transport on `channel`, which may be connected already, or be connected later.
    #[must_use]
    pub fn new(channel: &PortChannel) -> Self {
        Self {
            channel: channel.downgrade(),
            home: Home::of_spice(),
            link: Rc::default(),
            handlers: RefCell::default(),
            gone: RefCell::default(),
        }
    }
}

impl Transport for SpiceTransport {
    fn start(&self, sink: Sink) {
        let Some(channel) = self.channel.upgrade() else {
            return;
        };
        if self.link.sink.set(sink).is_err() {
            return;
        }
        // Signals that spice-gtk emits on another thread have no effect.
        let link = || self.home.bind(self.link.clone());
        let handlers = channel.connect_all(&Arc::new(link()));
        self.handlers.replace(Some(handlers));
        let gone = channel.add_weak_ref_notify({
            let link = link();
            move || {
                with(&link, |link| {
                    // It will not open any more, even if it never was open.
                    link.open.set(false);
                    link.report(Incoming::Closed("the SPICE channel is gone".into()));
                });
            }
        });
        let link = &self.link;
        self.gone.replace(Some(gone));
        if channel.is_port_opened() {
            link.open.set(true);
            // Data that spice-gtk has not read is still to come.
            let late = !channel.is_fresh();
            link.report(Incoming::Opened { late });
        } else {
            link.report(Incoming::Connecting);
        }
    }

    fn write(&self, bytes: Vec<u8>) {
        let link = self.link.clone();
        let opening = link.openings.get();
        match self.channel.upgrade() {
            Some(channel) => channel.write(bytes, move |result| {
                // The answer may come when the channel has been reopened.
                if link.openings.get() == opening {
                    link.report(match result {
                        Ok(()) => Incoming::Written,
                        Err(error) => Incoming::WriteFailed(error.message().to_owned()),
                    });
                }
            }),
            None => link.report(Incoming::WriteFailed("the SPICE channel is gone".into())),
        }
    }

    fn has_input(&self) -> bool {
        let channel = self.channel.upgrade();
        channel.is_some_and(|channel| channel.upcast_ref::<Channel>().has_input())
    }

    fn close(&self) {
        self.link.ended.set(true);
        if let Some(gone) = self.gone.take() {
            gone.disconnect();
        }
        let handlers = self.handlers.take();
        if let Some(channel) = self.channel.upgrade() {
            for handler in handlers.into_iter().flatten() {
                channel.disconnect(handler);
            }
        }
    }

    fn reopens(&self) -> bool {
        self.channel.upgrade().is_some()
    }

    fn is_spice_port(&self) -> bool {
        true
    }
}

impl Drop for SpiceTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl PortHandler for Bound<Rc<Link>> {
    fn data(&self, bytes: &[u8]) {
        with(self, |link| link.data(bytes));
    }

    fn event(&self, event: i32) {
        if event == PORT_EVENT_CLOSED {
            with(self, |link| {
                link.closed("the virtual machine closed the port");
            });
        }
    }

    fn opened(&self, channel: &PortChannel) {
        with(self, |link| {
            if channel.is_port_opened() {
                link.opened();
            } else {
                link.closed("the virtual machine closed the port");
            }
        });
    }

    fn channel_event(&self, event: ChannelEvent) {
        with(self, |link| link.channel_event(event));
    }
}

fn with(link: &Bound<Rc<Link>>, act: impl FnOnce(&Link)) {
    if let Some(link) = link.get() {
        act(link);
    }
}

impl Link {
    fn channel_event(&self, event: ChannelEvent) {
        match event {
            ChannelEvent::Opened => {}
            ChannelEvent::Switching => self.closed("the SPICE channel moves to another server"),
            ChannelEvent::Closed => {
                self.closed("the SPICE channel was closed (did another SPICE client connect?)");
            }
            ChannelEvent::ConnectFailed(_, text)
            | ChannelEvent::AuthenticationFailed(text)
            | ChannelEvent::TlsFailed(text)
            | ChannelEvent::Broken(text) => self.closed(&text),
        }
    }

    fn report(&self, incoming: Incoming<'_>) {
        if !self.ended.get()
            && let Some(sink) = self.sink.get()
        {
            // spice-gtk delivers the next data when the main loop is idle.
            let _ = sink(incoming);
        }
    }

    /// spice-gtk reports "opened" only on a change. If the channel was considered open here,
    /// it was reset in between, which has no signal.
    fn opened(&self) {
        self.closed("the SPICE channel was reset");
        self.open.set(true);
        self.openings.set(self.openings.get() + 1);
        self.report(Incoming::Opened { late: false });
    }

    fn closed(&self, reason: &str) {
        if self.open.replace(false) {
            self.report(Incoming::Closed(reason.to_owned()));
        }
    }

    fn data(&self, bytes: &[u8]) {
        if !self.open.get() {
            self.opened();
        }
        self.report(Incoming::Data(bytes));
    }
}

/// `SPICE_PORT_EVENT_CLOSED` of the SPICE protocol.
const PORT_EVENT_CLOSED: i32 = 1;
