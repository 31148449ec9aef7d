// SPDX-License-Identifier: MIT OR Apache-2.0
//! A SPICE session that a port owns, as its transport.
//!
//! The channel does not own the port, as it does elsewhere: that would be a reference cycle.
//! When the transport is closed, the session is disconnected, but not before QEMU has answered:
//! it may freeze or crash if a SPICE client disconnects while an answer is due.

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use glib::prelude::*;
use glib::signal::SignalHandlerId;

use super::disconnect::disconnect;
use super::options::ConnectOptions;
use super::settle;
use crate::home::{Bound, Home};
use crate::qmp::Error;
use crate::spawn::spawn_on;
use crate::transport::spice::{Channel, ChannelEvent, PortChannel, Session};
use crate::transport::{Closed, Flow, Incoming, Sink, SpiceTransport, Transport};

/// A session, and its QMP channel once that is [attached](Self::attach).
#[derive(Clone)]
pub(super) struct OwnedSession {
    link: Rc<Link>,
}

struct Link {
    session: Session,
    sink: RefCell<Option<Sink>>,
    channel: RefCell<Option<Rc<SpiceTransport>>>,
    handlers: RefCell<Vec<(Channel, SignalHandlerId)>>,
    /// Whether the session is over: its channels will not reconnect.
    lost: Cell<bool>,
    closed: Cell<bool>,
}

impl OwnedSession {
    /// The owner of `session`, which may be connected later.
    pub(super) fn new(session: &Session) -> Self {
        Self {
            link: Rc::new(Link {
                session: session.clone(),
                sink: RefCell::default(),
                channel: RefCell::default(),
                handlers: RefCell::default(),
                lost: Cell::default(),
                closed: Cell::default(),
            }),
        }
    }

    pub(super) fn session(&self) -> Session {
        self.link.session.clone()
    }

    /// Uses `channel` from now on. Called once.
    pub(super) fn attach(&self, channel: &PortChannel) {
        let link = &self.link;
        if link.closed.get() || link.channel.borrow().is_some() {
            return;
        }
        // Before the transport's own handlers: they report, and it must be known then
        // whether the session is over.
        let main = link.session.channels().into_iter().find(Channel::is_main);
        for channel in main.into_iter().chain([channel.clone().upcast()]) {
            let weak = Home::of_spice().bind(Rc::downgrade(link));
            let handler =
                channel.connect_channel_event(move |_, event| channel_event(&weak, &event));
            link.handlers.borrow_mut().push((channel, handler));
        }
        let transport = Rc::new(SpiceTransport::new(channel));
        let weak = Rc::downgrade(link);
        let sink: Sink = Rc::new(move |incoming| {
            weak.upgrade()
                .and_then(|link| link.report(incoming))
                .unwrap_or(Flow::On)
        });
        link.channel.replace(Some(transport.clone()));
        transport.start(sink);
    }
}

fn channel_event(link: &Bound<Weak<Link>>, event: &ChannelEvent) {
    let text = match event {
        ChannelEvent::Opened | ChannelEvent::Switching => return,
        ChannelEvent::Closed => {
            "the SPICE server closed the connection (did another SPICE client connect?)"
        }
        ChannelEvent::ConnectFailed(_, text)
        | ChannelEvent::AuthenticationFailed(text)
        | ChannelEvent::TlsFailed(text)
        | ChannelEvent::Broken(text) => text,
    };
    if let Some(link) = link.get().and_then(Weak::upgrade)
        && !link.lost.replace(true)
    {
        link.report(Incoming::Closed(text.to_owned()));
    }
}

/// Whoever had the transport may have dropped it without closing it.
impl Drop for Link {
    fn drop(&mut self) {
        self.leave(true, Box::new(|| ()));
    }
}

impl Link {
    fn report(&self, incoming: Incoming<'_>) -> Option<Flow> {
        let sink = self.sink.borrow().clone();
        sink.map(|sink| sink(incoming))
    }

    fn channel(&self) -> Option<Rc<SpiceTransport>> {
        self.channel.borrow().clone()
    }

    /// Releases the session, after QEMU has answered if that is needed.
    fn leave(&self, owed: bool, done: Closed) {
        if self.closed.replace(true) {
            return done();
        }
        self.sink.take();
        for (channel, handler) in self.handlers.take() {
            ObjectExt::disconnect(&channel, handler);
        }
        let channel = self.channel.take();
        // A channel that is just being connected must be completed.
        let settles = !self.lost.get() && (owed || channel.is_none());
        if let Some(channel) = channel {
            channel.close();
        }
        let session = self.session.clone();
        let context = glib::MainContext::default();
        spawn_on(&context, async move {
            if settles {
                settle::settle(&session).await;
            }
            disconnect(session).await;
            done();
        });
    }
}

/// The names of the ports of the server that `session` is connected to, until `cancelled`
/// ends. The session is disconnected without harming QEMU.
pub(super) async fn port_names(
    session: Session,
    options: &ConnectOptions,
    cancelled: impl Future<Output = ()>,
) -> Result<Vec<String>, Error> {
    // It leaves the session if this future is dropped.
    let owned = OwnedSession::new(&session);
    let search = settle::port_names(session.clone(), options);
    let names = settle::cancellable(&session, search, cancelled).await;
    disconnect(session).await;
    owned.link.closed.set(true);
    names
}

impl Transport for OwnedSession {
    fn start(&self, sink: Sink) {
        self.link.sink.replace(Some(sink));
    }

    fn write(&self, bytes: Vec<u8>) {
        if let Some(channel) = self.link.channel() {
            channel.write(bytes);
        }
    }

    fn has_input(&self) -> bool {
        self.link
            .channel()
            .is_some_and(|channel| channel.has_input())
    }

    fn close(&self) {
        self.link.leave(false, Box::new(|| ()));
    }

    fn close_then(&self, done: Closed) {
        self.link.leave(false, done);
    }

    /// The answers are awaited in the background.
    fn close_owed(&self, done: Closed) {
        self.link.leave(true, Box::new(|| ()));
        done();
    }

    fn reopens(&self) -> bool {
        !self.link.lost.get() && !self.link.closed.get()
    }

    fn is_spice_port(&self) -> bool {
        true
    }
}
