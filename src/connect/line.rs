// SPDX-License-Identifier: MIT OR Apache-2.0
//! The transport of a connector's port: connects, and connects again when the connection has ended.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::Poll;
use std::time::{Duration, Instant};

use gio::prelude::*;

use super::address::Address;
use super::dial::Dial;
use super::options::{ConnectOptions, with_timeout};
use super::usable;
use crate::home::Home;
use crate::port::QmpPort;
use crate::qmp::{ConnectError, Error, UsageError};
use crate::spawn::spawn_on;
use crate::transport::{Closed, Fds, Flow, Incoming, Sink, Transport};

/// Connects according to `dial`, and returns its port when that is ready and its status is
/// known. From then on it connects again when its connection ends, after `reconnect`, unless
/// that is zero.
///
/// It ends early if `cancelled` ends. If it fails, it first disconnects from a SPICE server
/// without harming QEMU.
pub(super) async fn open(
    dial: Dial,
    reconnect: Duration,
    cancelled: impl Future<Output = ()>,
) -> Result<QmpPort, Error> {
    let home = home_of(&dial.address);
    let link = Link::new(dial, reconnect, home.clone());
    let transport = Box::new(Line { link: link.clone() });
    let port = home.enter(|| QmpPort::for_transport(transport));
    let port = port.ok_or_else(|| UsageError::InvalidArgument(FOREIGN_THREAD.into()))?;
    link.port.set(Some(&port));
    let opened = {
        let work = pin!(link.open(&port));
        let cancelled = pin!(cancelled);
        match first(work, cancelled).await {
            Some(opened) => opened,
            None => Err(Error::Cancelled("the connecting".into())),
        }
    };
    match opened {
        Ok(()) => {
            link.lasts.set(true);
            Ok(port)
        }
        Err(error) => {
            if let Error::TimedOut { .. } | Error::Cancelled(_) = error {
                port.close().await;
            }
            Err(error)
        }
    }
}

const FOREIGN_THREAD: &str = "another thread runs the main context of the port";

/// The result of `work`, or `None` if `end` comes first.
pub(super) async fn first<T>(
    mut work: Pin<&mut impl Future<Output = T>>,
    mut end: Pin<&mut impl Future<Output = ()>>,
) -> Option<T> {
    poll_fn(|cx| {
        if let Poll::Ready(yielded) = work.as_mut().poll(cx) {
            return Poll::Ready(Some(yielded));
        }
        end.as_mut().poll(cx).map(|()| None)
    })
    .await
}

/// The home of a port: spice-gtk uses GLib's default main context only.
#[cfg(feature = "spice")]
fn home_of(address: &Address) -> Home {
    if address.is_spice() {
        Home::of_spice()
    } else {
        Home::here()
    }
}

#[cfg(not(feature = "spice"))]
fn home_of(_: &Address) -> Home {
    Home::here()
}

/// The transport. It uses another one below, while there is a connection.
struct Line {
    link: Rc<Link>,
}

struct Link {
    home: Home,
    dial: Dial,
    reconnect: Duration,
    /// The port that uses it.
    port: glib::WeakRef<QmpPort>,
    sink: RefCell<Option<Sink>>,
    below: RefCell<Option<Rc<dyn Transport>>>,
    /// Counts the transports below: an earlier one may still report.
    number: Cell<u64>,
    /// Whether the program has the port: before that, an end is final.
    lasts: Cell<bool>,
    /// Whether it will never connect again.
    over: Cell<bool>,
    closed: Cell<bool>,
    opened: Cell<Option<Instant>>,
    /// The longest pause before the next attempt.
    pause: Cell<Duration>,
    /// Ends the attempts that are under way.
    attempts: RefCell<Option<gio::Cancellable>>,
}

/// The longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// The shortest first pause.
const SHORTEST_PAUSE: Duration = Duration::from_millis(10);

impl Link {
    fn new(dial: Dial, reconnect: Duration, home: Home) -> Rc<Self> {
        let link = Rc::new(Self {
            home,
            dial,
            reconnect,
            port: glib::WeakRef::new(),
            sink: RefCell::default(),
            below: RefCell::default(),
            number: Cell::default(),
            lasts: Cell::default(),
            over: Cell::default(),
            closed: Cell::default(),
            opened: Cell::default(),
            pause: Cell::default(),
            attempts: RefCell::default(),
        });
        link.pause.set(link.first_pause());
        link
    }

    /// Connects for the first time, until the port is ready and its status known.
    async fn open(self: &Rc<Self>, port: &QmpPort) -> Result<(), Error> {
        let started = Instant::now();
        let options = &self.dial.options;
        let adopt = self.adopter();
        if let Some(found) = self.dial.find(port, &adopt).await {
            return found;
        }
        self.dial.connect(options, &adopt).await?;
        let rest = options.timeout.saturating_sub(started.elapsed());
        let usable = usable::wait(port, rest).await;
        usable.map_err(|error| with_timeout(error, options.timeout))
    }

    fn adopter(self: &Rc<Self>) -> impl Fn(Box<dyn Transport>) + use<> {
        let link = Rc::downgrade(self);
        move |transport| {
            if let Some(link) = link.upgrade()
                && !link.closed.get()
            {
                link.adopt(&transport.into());
            }
        }
    }

    fn adopt(self: &Rc<Self>, transport: &Rc<dyn Transport>) {
        let number = self.number.get() + 1;
        self.number.set(number);
        let earlier = self.below.replace(Some(transport.clone()));
        if let Some(earlier) = earlier {
            earlier.close();
        }
        let link = Rc::downgrade(self);
        transport.start(Rc::new(move |incoming| {
            let link = link.upgrade().filter(|it| it.number.get() == number);
            link.map_or(Flow::On, |link| link.incoming(incoming))
        }));
    }

    fn below(&self) -> Option<Rc<dyn Transport>> {
        self.below.borrow().clone()
    }

    fn report(&self, incoming: Incoming<'_>) -> Flow {
        let sink = self.sink.borrow().clone();
        sink.map_or(Flow::On, |sink| sink(incoming))
    }

    /// Whether it connects again after an end.
    fn reconnects(&self) -> bool {
        let wanted = self.lasts.get() && !self.reconnect.is_zero();
        wanted && !self.over.get() && !self.closed.get()
    }

    /// A report of the transport below.
    fn incoming(self: &Rc<Self>, incoming: Incoming<'_>) -> Flow {
        match incoming {
            Incoming::Opened { .. } => self.opened.set(Some(Instant::now())),
            Incoming::Closed(_) | Incoming::WriteFailed(_) => {
                self.ended(incoming);
                return Flow::On;
            }
            Incoming::Connecting | Incoming::Data(_) | Incoming::Pause | Incoming::Written => {}
        }
        self.report(incoming)
    }

    fn ended(self: &Rc<Self>, incoming: Incoming<'_>) {
        if self.port.upgrade().is_some_and(|port| port.is_not_qmp()) {
            self.over.set(true);
        }
        let comes_back = self.below().is_some_and(|below| below.reopens());
        if comes_back || !self.reconnects() {
            self.report(incoming);
        } else {
            self.number.set(self.number.get() + 1);
            let below = self.below.take();
            self.report(incoming);
            if let Some(below) = below {
                below.close();
            }
            self.connect_again();
        }
        if self.reconnects() {
            self.report(Incoming::Connecting);
        }
    }

    fn first_pause(&self) -> Duration {
        self.reconnect.clamp(SHORTEST_PAUSE, LONGEST_PAUSE)
    }

    /// The next pause: longer each time, and different from those of other clients of
    /// the same server.
    fn next_pause(&self) -> Duration {
        let pause = self.pause.get();
        self.pause.set((pause * 2).min(LONGEST_PAUSE));
        pause.mul_f64(glib::random_double_range(0.5, 1.0))
    }

    fn connect_again(self: &Rc<Self>) {
        // The pauses grow for a server that ends each connection.
        let lasted = self.opened.take().map(|opened| opened.elapsed());
        if lasted.is_some_and(|lasted| lasted >= LONGEST_PAUSE) {
            self.pause.set(self.first_pause());
        }
        let cancellable = gio::Cancellable::new();
        let work = attempts(Rc::downgrade(self), cancellable.clone());
        let earlier = self.attempts.replace(Some(cancellable.clone()));
        if let Some(earlier) = earlier {
            // A connection may end before its attempt knows that it succeeded.
            earlier.cancel();
        }
        spawn_on(self.home.context(), async move {
            // If it is cancelled, nothing is left to do.
            let _ = gio::CancellableFuture::new(work, cancellable).await;
        });
    }

    fn close(&self, done: Closed, close_below: impl FnOnce(&dyn Transport, Closed)) {
        self.closed.set(true);
        self.sink.take();
        let attempts = self.attempts.take();
        if let Some(attempts) = &attempts {
            attempts.cancel();
        }
        match self.below.take() {
            Some(below) => close_below(&*below, done),
            // Cancelled operations end from an idle source; this one comes after that.
            None if attempts.is_some() => {
                self.home.idle(glib::Priority::DEFAULT_IDLE, done);
            }
            None => done(),
        }
    }
}

/// Tries to connect again until that succeeds, or never will, or is cancelled.
async fn attempts(link: Weak<Link>, cancellable: gio::Cancellable) {
    let mut was_absent = false;
    loop {
        let Some(pause) = link.upgrade().map(|link| link.next_pause()) else {
            return;
        };
        glib::timeout_future(pause).await;
        let Some(link) = link.upgrade() else {
            return;
        };
        // An absent server is tried again here.
        let options = ConnectOptions::new().timeout(link.dial.options.timeout);
        let adopt = link.adopter();
        let connected = link.dial.connect(&options, &adopt).await;
        if cancellable.is_cancelled() {
            return;
        }
        let Err(error) = connected else {
            link.attempts.take();
            if was_absent {
                // This server is another one, and has ended no connection yet.
                link.pause.set(link.first_pause());
            }
            return;
        };
        if let Some(below) = link.below.take() {
            below.close();
        }
        if is_final(&error) {
            link.over.set(true);
            link.attempts.take();
            if let Some(port) = link.port.upgrade() {
                port.give_up(error);
            }
            return;
        }
        // The server has exited, and did not just end the connection: a new one is
        // noticed soon.
        if is_absent(&error) && !was_absent {
            was_absent = true;
            link.pause.set(link.first_pause());
        }
    }
}

/// Whether there is no point in trying again.
fn is_final(error: &Error) -> bool {
    match error {
        Error::Connect(error) => matches!(
            error,
            ConnectError::Authentication(_)
                | ConnectError::Tls(_)
                | ConnectError::OnlyHumanMonitor(_)
        ),
        Error::Usage(_) => true,
        _ => false,
    }
}

fn is_absent(error: &Error) -> bool {
    match error {
        Error::Connect(ConnectError::Unreachable { kind, .. }) => matches!(
            kind,
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
        ),
        _ => false,
    }
}

impl Transport for Line {
    fn start(&self, sink: Sink) {
        self.link.sink.replace(Some(sink));
        self.link.report(Incoming::Connecting);
    }

    fn write(&self, bytes: Vec<u8>) {
        if let Some(below) = self.link.below() {
            below.write(bytes);
        }
    }

    fn carries_fds(&self) -> bool {
        self.link.dial.carries_fds()
    }

    fn write_with_fds(&self, bytes: Vec<u8>, fds: Fds) {
        if let Some(below) = self.link.below() {
            below.write_with_fds(bytes, fds);
        }
    }

    fn resume(&self) {
        if let Some(below) = self.link.below() {
            below.resume();
        }
    }

    fn has_input(&self) -> bool {
        self.link.below().is_some_and(|below| below.has_input())
    }

    fn close(&self) {
        self.close_then(Box::new(|| ()));
    }

    fn close_then(&self, done: Closed) {
        self.link.close(done, |below, done| below.close_then(done));
    }

    fn close_owed(&self, done: Closed) {
        self.link.close(done, |below, done| below.close_owed(done));
    }

    fn reopens(&self) -> bool {
        let comes_back = || self.link.below().is_some_and(|below| below.reopens());
        self.link.reconnects() || !self.link.over.get() && comes_back()
    }

    fn reconnect(&self) -> u32 {
        u32::try_from(self.link.reconnect.as_millis()).unwrap_or(u32::MAX)
    }

    fn is_spice_port(&self) -> bool {
        matches!(self.link.dial.address, Address::Spice(_))
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if !self.link.closed.get() {
            self.close();
        }
    }
}
