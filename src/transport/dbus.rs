// SPDX-License-Identifier: MIT OR Apache-2.0
//! QMP over a chardev of QEMU's D-Bus display.
//!
//! QEMU is given one end of a pair of sockets, and the transport speaks QMP on the other
//! one; D-Bus itself carries no QMP.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use gio::prelude::*;

use super::display::{Changes, Display, NotOpened};
use super::{Closed, Fds, Flow, Incoming, Sink, Transport, gdbus, on_stream};
use crate::spawn::spawn_on;

/// Reads and writes a chardev of a D-Bus display. When the connection to it ends, it
/// waits until QEMU is on the bus with a free chardev, and opens that.
pub struct DbusTransport {
    link: Rc<Link>,
}

struct Link {
    display: Display,
    wanted: fn(&str) -> bool,
    sink: RefCell<Option<Sink>>,
    stream: RefCell<Option<Rc<dyn Transport>>>,
    /// Ends the search for a chardev that is under way.
    search: RefCell<Option<gio::Cancellable>>,
    opened: Cell<Option<Instant>>,
    /// How long the next search waits first.
    pause: Cell<Duration>,
    closed: Cell<bool>,
}

/// Limits the attempts with a peer that ends every connection at once. The pause
/// doubles with each attempt, and is reset by a connection that lasted.
const FIRST_PAUSE: Duration = Duration::from_millis(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

impl std::fmt::Debug for DbusTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DbusTransport")
            .field("display", &self.link.display)
            .field("open", &self.link.stream.borrow().is_some())
            .finish_non_exhaustive()
    }
}

impl DbusTransport {
    /// A transport on the first chardev with a wanted name, as soon as there is one:
    /// of the QEMU with this name on the bus of `connection`, or at its other end. It runs on
    /// the thread-default main context.
    ///
    /// # Panics
    ///
    /// If `name` is not a valid D-Bus name.
    #[must_use]
    pub fn new(
        connection: &gio::DBusConnection,
        name: Option<&str>,
        wanted: fn(&str) -> bool,
    ) -> Self {
        assert!(name.is_none_or(gio::dbus_is_name), "not a D-Bus name");
        Self::on(Display::new(connection, name), wanted)
    }

    fn on(display: Display, wanted: fn(&str) -> bool) -> Self {
        Self {
            link: Rc::new(Link {
                display,
                wanted,
                sink: RefCell::default(),
                stream: RefCell::default(),
                search: RefCell::default(),
                opened: Cell::default(),
                pause: Cell::default(),
                closed: Cell::default(),
            }),
        }
    }

    /// A transport on what [`Display::open`] has opened.
    pub(crate) fn opened(
        display: Display,
        wanted: fn(&str) -> bool,
        socket: &gio::SocketConnection,
    ) -> Self {
        let transport = Self::on(display, wanted);
        transport.link.keep(socket);
        transport
    }
}

impl Transport for DbusTransport {
    fn start(&self, sink: Sink) {
        self.link.sink.replace(Some(sink));
        let stream = self.link.stream.borrow().clone();
        if let Some(stream) = stream {
            self.link.start(&stream);
        } else {
            self.link.report(Incoming::Connecting);
            self.link.search();
        }
    }

    fn write(&self, bytes: Vec<u8>) {
        let stream = self.link.stream.borrow().clone();
        if let Some(stream) = stream {
            stream.write(bytes);
        }
    }

    /// Its socket is one of a pair.
    fn carries_fds(&self) -> bool {
        cfg!(unix)
    }

    fn write_with_fds(&self, bytes: Vec<u8>, fds: Fds) {
        let stream = self.link.stream.borrow().clone();
        if let Some(stream) = stream {
            stream.write_with_fds(bytes, fds);
        }
    }

    fn resume(&self) {
        let stream = self.link.stream.borrow().clone();
        if let Some(stream) = stream {
            stream.resume();
        }
    }

    fn has_input(&self) -> bool {
        let stream = self.link.stream.borrow().clone();
        stream.is_some_and(|stream| stream.has_input())
    }

    fn close(&self) {
        self.close_then(Box::new(|| ()));
    }

    fn close_then(&self, done: Closed) {
        self.link.close(done);
    }

    fn reopens(&self) -> bool {
        !self.link.closed.get() && !self.link.display.connection.is_closed()
    }
}

impl Drop for DbusTransport {
    fn drop(&mut self) {
        if !self.link.closed.get() {
            self.close();
        }
    }
}

impl Link {
    fn report(&self, incoming: Incoming<'_>) -> Option<Flow> {
        let sink = self.sink.borrow().clone();
        sink.map(|sink| sink(incoming))
    }

    fn keep(&self, socket: &gio::SocketConnection) -> Option<Rc<dyn Transport>> {
        let stream: Rc<dyn Transport> = self.display.home.enter(|| on_stream(socket))?.into();
        self.stream.replace(Some(stream.clone()));
        Some(stream)
    }

    fn start(self: &Rc<Self>, stream: &Rc<dyn Transport>) {
        self.opened.set(Some(Instant::now()));
        let link = Rc::downgrade(self);
        stream.start(Rc::new(move |incoming| {
            let link = link.upgrade();
            link.map_or(Flow::On, |link| link.incoming(incoming))
        }));
    }

    /// A report of the stream.
    fn incoming(self: &Rc<Self>, incoming: Incoming<'_>) -> Flow {
        let reason = match &incoming {
            Incoming::Closed(reason) | Incoming::WriteFailed(reason) => reason.clone(),
            _ => return self.report(incoming).unwrap_or(Flow::On),
        };
        let was_open = self.stream.take().is_some();
        if matches!(incoming, Incoming::WriteFailed(_)) {
            self.report(incoming);
        }
        if was_open {
            self.report(Incoming::Closed(reason));
            self.search();
        }
        Flow::On
    }

    /// Waits for a chardev, and opens it.
    fn search(self: &Rc<Self>) {
        if self.sink.borrow().is_none() || self.display.connection.is_closed() {
            return;
        }
        let lasted = self.opened.take().map(|opened| opened.elapsed());
        if lasted.is_some_and(|lasted| lasted >= LONGEST_PAUSE) {
            self.pause.set(Duration::ZERO);
        }
        let (display, wanted) = (self.display.clone(), self.wanted);
        let link = Rc::downgrade(self);
        let next_pause = move || {
            let link = link.upgrade()?;
            let pause = link.pause.get();
            let next = (pause * 2).clamp(FIRST_PAUSE, LONGEST_PAUSE);
            link.pause.set(next);
            Some(pause)
        };
        let link = Rc::downgrade(self);
        let work = async move {
            let found = search(&display, wanted, next_pause).await;
            // Before the program gets what may close the port.
            drop(display);
            if let Some(link) = link.upgrade() {
                link.found(found);
            }
        };
        let cancellable = gio::Cancellable::new();
        self.search.replace(Some(cancellable.clone()));
        spawn_on(self.display.home.context(), async move {
            // If it is cancelled, nothing is left to do.
            let _ = gio::CancellableFuture::new(work, cancellable).await;
        });
    }

    fn found(self: &Rc<Self>, found: Option<gio::SocketConnection>) {
        self.search.take();
        match found.map(|socket| self.keep(&socket)) {
            Some(Some(stream)) => self.start(&stream),
            // It will not open any more.
            _ => {
                self.report(Incoming::Closed("the D-Bus connection is closed".into()));
            }
        }
    }

    fn close(&self, done: Closed) {
        self.closed.set(true);
        self.sink.take();
        let search = self.search.take();
        if let Some(search) = &search {
            search.cancel();
        }
        let display = self.display.clone();
        let done: Closed = Box::new(move || {
            if display.owned {
                // If another thread runs the main context, nothing is called.
                gdbus::close(&display.home, &display.connection, done);
            } else {
                done();
            }
        });
        let stream = self.stream.take();
        match stream {
            Some(stream) => stream.close_then(done),
            // Cancelled operations end from an idle source; this one comes after that.
            None if search.is_some() => {
                self.display.home.idle(glib::Priority::DEFAULT_IDLE, done);
            }
            None => done(),
        }
    }
}

/// Tries to open a chardev until that succeeds; returns `None` if the connection is gone.
async fn search(
    display: &Display,
    wanted: fn(&str) -> bool,
    next_pause: impl Fn() -> Option<Duration>,
) -> Option<gio::SocketConnection> {
    let changes = Changes::watch(display);
    loop {
        let pause = next_pause()?;
        if !pause.is_zero() {
            glib::timeout_future(pause).await;
        }
        match display.open(wanted).await {
            Ok(socket) => return Some(socket),
            Err(_) if display.connection.is_closed() => return None,
            // A QEMU that was blocked does not signal that it continues.
            Err(NotOpened::Failed(error)) if gdbus::is_timeout(&error) => {}
            Err(_) => changes.next().await,
        }
    }
}
