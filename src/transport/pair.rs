// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two connected ends within one process, for tests of programs that speak QMP.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};

use super::{Incoming, Sink, Transport};

/// Creates a transport and the peer that plays its server.
///
/// ```
/// use spice_qmp::{QmpPort, transport};
///
/// let (transport, peer) = transport::pair();
/// let port = QmpPort::for_transport(Box::new(transport));
/// peer.open();
/// peer.send(b"{\"QMP\":{\"version\":{\"qemu\":{\"major\":9,\"minor\":1,\"micro\":0}},\"capabilities\":[]}}\n");
/// while glib::MainContext::default().iteration(false) {}
/// assert!(peer.received().starts_with(b"{\"execute\":\"qmp_capabilities\""));
/// ```
#[must_use]
pub fn pair() -> (PairTransport, PairPeer) {
    let wire = Rc::new(Wire::default());
    let peer = PairPeer {
        wire: Rc::downgrade(&wire),
    };
    (PairTransport { wire }, peer)
}

/// The end that a port uses.
#[derive(Debug)]
pub struct PairTransport {
    wire: Rc<Wire>,
}

/// The end that plays the server. It may outlive the other end.
#[derive(Debug, Clone)]
pub struct PairPeer {
    wire: Weak<Wire>,
}

#[derive(Default)]
struct Wire {
    sink: RefCell<Option<Sink>>,
    open: Cell<bool>,
    /// Whether the peer accepts no bytes for now.
    blocked: Cell<bool>,
    /// A write that a blocked peer has not accepted.
    waiting: RefCell<Option<Vec<u8>>>,
    received: RefCell<VecDeque<u8>>,
    /// How many writes there were.
    writes: Cell<usize>,
}

impl std::fmt::Debug for Wire {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Wire")
            .field("open", &self.open)
            .field("blocked", &self.blocked)
            .finish_non_exhaustive()
    }
}

impl Wire {
    fn report(&self, incoming: Incoming<'_>) {
        let sink = self.sink.borrow().clone();
        if let Some(sink) = sink {
            // The peer is a test, which knows how much it sends.
            let _ = sink(incoming);
        }
    }

    fn take(&self, bytes: Vec<u8>) {
        self.received.borrow_mut().extend(bytes);
        self.report(Incoming::Written);
    }
}

impl Transport for PairTransport {
    fn start(&self, sink: Sink) {
        self.wire.sink.replace(Some(sink));
        self.wire.report(if self.wire.open.get() {
            Incoming::Opened { late: true }
        } else {
            Incoming::Connecting
        });
    }

    fn write(&self, bytes: Vec<u8>) {
        self.wire.writes.set(self.wire.writes.get() + 1);
        if !self.wire.open.get() {
            self.wire
                .report(Incoming::WriteFailed("the port is not open".into()));
        } else if self.wire.blocked.get() {
            self.wire.waiting.replace(Some(bytes));
        } else {
            self.wire.take(bytes);
        }
    }

    fn close(&self) {
        self.wire.sink.replace(None);
        self.wire.open.set(false);
    }

    fn reopens(&self) -> bool {
        true
    }
}

impl PairPeer {
    /// Opens the connection.
    pub fn open(&self) {
        self.with(|wire| {
            wire.open.set(true);
            wire.report(Incoming::Opened { late: false });
        });
    }

    /// Sends bytes.
    pub fn send(&self, bytes: &[u8]) {
        self.with(|wire| {
            if wire.open.get() {
                wire.report(Incoming::Data(bytes));
            }
        });
    }

    /// Closes the connection.
    pub fn close(&self, reason: &str) {
        self.with(|wire| {
            wire.waiting.replace(None);
            if wire.open.replace(false) {
                wire.report(Incoming::Closed(reason.into()));
            }
        });
    }

    /// Accepts no more bytes (`true`), or accepts what waits and continues (`false`).
    pub fn block(&self, blocked: bool) {
        self.with(|wire| {
            wire.blocked.set(blocked);
            let waiting = wire.waiting.take();
            match waiting {
                Some(bytes) if blocked => {
                    wire.waiting.replace(Some(bytes));
                }
                Some(bytes) => wire.take(bytes),
                None => {}
            }
        });
    }

    /// Makes the pending write fail.
    pub fn fail_write(&self, reason: &str) {
        self.with(|wire| {
            if wire.waiting.take().is_some() {
                wire.report(Incoming::WriteFailed(reason.into()));
            }
        });
    }

    /// The bytes received since the last call.
    #[must_use]
    pub fn received(&self) -> Vec<u8> {
        self.with(|wire| wire.received.borrow_mut().drain(..).collect())
            .unwrap_or_default()
    }

    /// How many writes the other end made.
    #[must_use]
    pub fn writes(&self) -> usize {
        self.with(|wire| wire.writes.get()).unwrap_or_default()
    }

    /// Whether the other end still exists and listens.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.with(|wire| wire.sink.borrow().is_some())
            .unwrap_or_default()
    }

    fn with<R>(&self, act: impl FnOnce(&Wire) -> R) -> Option<R> {
        self.wire.upgrade().map(|wire| act(&wire))
    }
}
