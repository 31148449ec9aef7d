// SPDX-License-Identifier: MIT OR Apache-2.0
//! QMP on a plain socket: a Unix or TCP connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
#[cfg(unix)]
use std::time::Duration;

use gio::prelude::*;
use glib::{ControlFlow, IOCondition, Priority};

use super::{Closed, END_OF_STREAM, Fds, Flow, Incoming, Sink, Transport, gio_async};
use crate::home::Home;

/// Reads and writes the socket of a [`gio::UnixConnection`] or [`gio::TcpConnection`], on
/// the main context that is the thread-default one at its creation.
///
/// One source waits for input, whereas GIO's asynchronous streams create a task and a source
/// for each read and each write. A write is tried at once, and continued from the main loop
/// if the kernel's buffer is full.
///
/// The socket's blocking mode is not changed, and does not matter.
#[derive(Debug)]
pub struct SocketTransport {
    link: Rc<Link>,
}

/// What the sources share.
struct Link {
    home: Home,
    connection: gio::SocketConnection,
    socket: gio::Socket,
    sink: RefCell<Option<Sink>>,
    /// Where a read stores its bytes.
    buffer: RefCell<Vec<u8>>,
    /// Whether the last read suggests that there is more to read.
    busy: Cell<bool>,
    /// Whether input is wanted.
    wanted: Cell<Wanted>,
    /// Waits for input, or did so when input was last wanted.
    reading: RefCell<Option<glib::Source>>,
    /// Waits for room for the bytes in `unsent`.
    writing: RefCell<Option<glib::Source>>,
    unsent: RefCell<Unsent>,
    /// Why the write failed, while data that the peer sent before is read.
    failure: RefCell<Option<String>>,
    /// Whether that data is not read first if the sink wants no more.
    fails_while_waiting: Cell<bool>,
    closed: Cell<bool>,
}

/// Whether more input is wanted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Wanted {
    #[default]
    Now,
    /// The sink has not returned.
    AfterThis,
    /// After [`Transport::resume`].
    Later,
}

/// A write, and how much of it the kernel has taken.
#[derive(Default)]
struct Unsent {
    bytes: Vec<u8>,
    sent: usize,
    /// File descriptors that are sent with the first byte.
    fds: Option<Fds>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("connection", &self.connection)
            .field("open", &self.sink.borrow().is_some())
            .finish_non_exhaustive()
    }
}

/// The read buffer of an idle connection, in bytes.
const SMALL_READ: usize = 2 << 10;
/// The read buffer of a busy one, in bytes.
const LARGE_READ: usize = 64 << 10;

impl SocketTransport {
    /// A transport on `stream`, from which nothing has been read yet. `None` if it is
    /// of neither of the two types itself: a subclass may do more than move
    /// bytes. A [`gio::TcpWrapperConnection`] has TLS or a proxy above its socket.
    #[must_use]
    pub fn new(stream: &impl IsA<gio::IOStream>) -> Option<Self> {
        let plain = [
            #[cfg(unix)]
            gio::UnixConnection::static_type(),
            gio::TcpConnection::static_type(),
        ];
        let stream: &gio::IOStream = stream.upcast_ref();
        if !plain.contains(&stream.type_()) {
            return None;
        }
        let connection = stream.downcast_ref::<gio::SocketConnection>()?;
        Some(Self {
            link: Rc::new(Link {
                home: Home::here(),
                connection: connection.clone(),
                socket: connection.socket(),
                sink: RefCell::default(),
                buffer: RefCell::default(),
                busy: Cell::default(),
                wanted: Cell::default(),
                reading: RefCell::default(),
                writing: RefCell::default(),
                unsent: RefCell::default(),
                failure: RefCell::default(),
                fails_while_waiting: Cell::default(),
                closed: Cell::default(),
            }),
        })
    }
}

impl Transport for SocketTransport {
    fn start(&self, sink: Sink) {
        self.link.sink.replace(Some(sink));
        self.link.report(Incoming::Opened { late: false });
        self.link.watch();
    }

    fn write(&self, bytes: Vec<u8>) {
        self.link.begin(bytes, None);
    }

    fn carries_fds(&self) -> bool {
        cfg!(unix) && self.link.socket.family() == gio::SocketFamily::Unix
    }

    fn write_with_fds(&self, bytes: Vec<u8>, fds: Fds) {
        self.link.begin(bytes, Some(fds));
    }

    fn resume(&self) {
        if self.link.wanted.get() == Wanted::Later {
            self.link.wanted.set(Wanted::Now);
            self.link.watch();
        }
    }

    fn fail_while_waiting(&self) {
        self.link.fails_while_waiting.set(true);
    }

    fn has_input(&self) -> bool {
        self.link.has_input()
    }

    fn close(&self) {
        self.close_then(Box::new(|| ()));
    }

    fn close_then(&self, done: Closed) {
        self.link.close(done);
    }

    fn reopens(&self) -> bool {
        false
    }
}

impl Drop for SocketTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl Link {
    fn is_open(&self) -> bool {
        self.sink.borrow().is_some()
    }

    fn has_input(&self) -> bool {
        !SocketExt::condition_check(&self.socket, IOCondition::IN).is_empty()
    }

    fn report(&self, incoming: Incoming<'_>) -> Option<Flow> {
        let sink = self.sink.borrow().clone();
        sink.map(|sink| sink(incoming))
    }

    /// Ensures that `read` is called when there is something to read.
    fn watch(self: &Rc<Self>) {
        if !self.is_open() || self.reading.borrow().is_some() {
            return;
        }
        // Like spice-gtk's, this priority leaves time to draw a window.
        let priority = Priority::DEFAULT_IDLE;
        if self.socket.is_closed() {
            // Closed by other code: GIO has no source for it. The read reports that.
            let link = Rc::downgrade(self);
            self.home.idle(priority, move || {
                if let Some(link) = link.upgrade() {
                    link.read();
                }
            });
            return;
        }
        let source = self.source(IOCondition::IN, priority, |link| {
            if link.wanted.get() == Wanted::Now {
                link.read();
                return ControlFlow::Continue;
            }
            // Otherwise it would fire again and again.
            link.reading.take();
            ControlFlow::Break
        });
        self.reading.replace(Some(source));
    }

    /// Reads once, and reports the result.
    fn read(self: &Rc<Self>) {
        if !self.is_open() {
            return;
        }
        let mut flow = None;
        let mut buffer = self.buffer.take();
        if buffer.is_empty() {
            buffer = vec![0; self.read_size()];
        }
        match self.receive(&mut buffer) {
            Ok(0) => self.lost(END_OF_STREAM),
            Ok(count) => {
                self.busy.set(count >= SMALL_READ);
                self.wanted.set(Wanted::AfterThis);
                flow = self.report(Incoming::Data(&buffer[..count]));
                self.go_on(flow);
                let failure = self.failure.take();
                if let Some(reason) = failure {
                    self.write_failed(reason);
                }
            }
            Err(error) if would_block(&error) => {}
            Err(error) => self.lost(error.message()),
        }
        if buffer.len() == self.read_size() {
            self.buffer.replace(buffer);
        }
        if flow == Some(Flow::Wait) {
            // Nothing is under way here: a main loop may run, and read more.
            self.report(Incoming::Pause);
        }
    }

    fn read_size(&self) -> usize {
        if self.busy.get() {
            LARGE_READ
        } else {
            SMALL_READ
        }
    }

    /// What follows when the sink has returned. If it wants no more for now, the
    /// source stays all the same: usually nothing arrives before more is wanted.
    fn go_on(self: &Rc<Self>, flow: Option<Flow>) {
        if flow == Some(Flow::Wait) {
            self.wanted.set(Wanted::Later);
            // A socket with a timeout would count the pause.
            if self.socket.timeout() > 0 {
                remove(&self.reading);
            }
        } else {
            self.wanted.set(Wanted::Now);
            self.watch();
        }
    }

    fn begin(self: &Rc<Self>, bytes: Vec<u8>, fds: Option<Fds>) {
        if self.is_open() {
            let sent = 0;
            self.unsent.replace(Unsent { bytes, sent, fds });
            self.write();
        }
    }

    /// Writes as much as there is room for, and reports when everything was written.
    fn write(self: &Rc<Self>) {
        let mut unsent = self.unsent.take();
        let rest = &unsent.bytes[unsent.sent..];
        let result = match &unsent.fds {
            None => self.send(rest),
            Some(fds) => self.send_with_fds(rest, fds),
        };
        match result {
            Ok(count) => {
                unsent.sent += count;
                unsent.fds = None;
            }
            Err(error) if would_block(&error) => {}
            Err(error) => {
                remove(&self.writing);
                let reason = error.message().to_owned();
                let link = Rc::downgrade(self);
                self.home.idle(Priority::DEFAULT, move || {
                    if let Some(link) = link.upgrade() {
                        link.write_failed(reason);
                    }
                });
                return;
            }
        }
        if unsent.sent == unsent.bytes.len() {
            remove(&self.writing);
            self.report(Incoming::Written);
            return;
        }
        self.unsent.replace(unsent);
        if self.writing.borrow().is_none() {
            let source = self.source(IOCondition::OUT, Priority::DEFAULT, |link| {
                link.write();
                ControlFlow::Continue
            });
            self.writing.replace(Some(source));
        }
    }

    /// Receives bytes.
    fn receive(&self, buffer: &mut [u8]) -> Result<usize, glib::Error> {
        self.socket
            .receive_with_blocking(buffer, false, gio::Cancellable::NONE)
    }

    /// Sends bytes.
    fn send(&self, bytes: &[u8]) -> Result<usize, glib::Error> {
        self.socket
            .send_with_blocking(bytes, false, gio::Cancellable::NONE)
    }

    #[cfg(unix)]
    fn send_with_fds(&self, bytes: &[u8], fds: &Fds) -> Result<usize, glib::Error> {
        let (result, count) = self.socket.send_message_with_timeout(
            gio::SocketAddress::NONE,
            &[gio::OutputVector::new(bytes)],
            &[gio_async::fd_message(fds)],
            0,
            Some(Duration::ZERO),
            gio::Cancellable::NONE,
        )?;
        match result {
            gio::PollableReturn::WouldBlock => {
                let full = "there is no room";
                Err(glib::Error::new(gio::IOErrorEnum::WouldBlock, full))
            }
            _ => Ok(count),
        }
    }

    #[cfg(not(unix))]
    fn send_with_fds(&self, _bytes: &[u8], fds: &Fds) -> Result<usize, glib::Error> {
        match *fds {}
    }

    /// Reports that the write failed, after data that the peer sent before: it may say why.
    fn write_failed(&self, reason: String) {
        let waits = self.fails_while_waiting.get() && self.wanted.get() == Wanted::Later;
        if self.is_open() && self.has_input() && !waits {
            self.failure.replace(Some(reason));
        } else {
            self.report(Incoming::WriteFailed(reason));
        }
    }

    fn lost(&self, reason: &str) {
        self.stop();
        let sink = self.sink.take();
        if let Some(sink) = sink {
            sink(Incoming::Closed(reason.to_owned()));
        }
    }

    fn stop(&self) {
        remove(&self.reading);
        remove(&self.writing);
        self.unsent.take();
    }

    fn close(&self, done: Closed) {
        self.sink.take();
        self.stop();
        if self.closed.replace(true) {
            return done();
        }
        // If another thread runs the main context, the connection ends with its last
        // reference.
        gio_async::close(&self.home, self.connection.upcast_ref(), done);
    }

    /// Calls `ready` from the main loop while the socket is ready. The source does not hold the
    /// link: that would hold the main context, and the context the source.
    fn source(
        self: &Rc<Self>,
        condition: IOCondition,
        priority: Priority,
        ready: fn(&Rc<Self>) -> ControlFlow,
    ) -> glib::Source {
        let link = Rc::downgrade(self);
        let ready = move || {
            link.upgrade()
                .map_or(ControlFlow::Break, |link| ready(&link))
        };
        gio_async::watch(&self.home, &self.socket, condition, priority, ready)
    }
}

fn remove(source: &RefCell<Option<glib::Source>>) {
    if let Some(source) = source.take() {
        source.destroy();
    }
}

fn would_block(error: &glib::Error) -> bool {
    error.matches(gio::IOErrorEnum::WouldBlock)
}
