// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds the QMP port among the channels of a SPICE session.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use glib::prelude::*;
use glib::signal::SignalHandlerId;

use super::address::check_spice_path;
use super::options::{ConnectOptions, FIRST_PAUSE, LONGEST_PAUSE, unreachable, with_timeout};
use super::usable;
use crate::port::{QmpPort, within};
use crate::qmp::{ConnectError, Error, is_human_monitor_name, is_qmp_port_name};
use crate::spawn::spawn_at;
use crate::transport::spice::{Channel, ChannelEvent, Connection, PortChannel, Session};

/// Called with the QMP channel as soon as its name is known, once, before it opens.
/// QEMU may be mute there, and then nothing may be written to find out.
pub(super) type Attach = Rc<dyn Fn(&PortChannel)>;

/// The QMP port of `session`, which its channel owns, when it is ready and its status is
/// known. The caller handles what QEMU owes when this ends or is dropped.
pub(super) async fn search(session: Session, options: &ConnectOptions) -> Result<QmpPort, Error> {
    let attach = Rc::new(|channel: &PortChannel| drop(QmpPort::get(channel)));
    wait_usable(session, options, attach, |channel| QmpPort::get(channel)).await
}

/// [Attaches](Attach) the QMP channel of `session`.
pub(super) async fn attach(
    session: Session,
    options: &ConnectOptions,
    attach: Attach,
) -> Result<(), Error> {
    Search::start(session, options, Some(attach))?
        .channel()
        .await
        .map(drop)
}

/// [`attach`], then waits until the port that was attached is ready and its status known.
pub(super) async fn wait_usable(
    session: Session,
    options: &ConnectOptions,
    attach: Attach,
    port: impl FnOnce(&PortChannel) -> QmpPort,
) -> Result<QmpPort, Error> {
    let started = Instant::now();
    let search = Search::start(session, options, Some(attach))?;
    let channel = search.channel().await?;
    let port = port(&channel);
    let rest = options.timeout.saturating_sub(started.elapsed());
    let mut usable = pin!(usable::wait(&port, rest));
    // The session may still turn out to be over.
    let usable = poll_fn(|cx| match search.poll(cx.waker(), |_| None) {
        Poll::Pending => usable.as_mut().poll(cx),
        over @ Poll::Ready(_) => over,
    });
    match usable.await {
        Ok(()) => Ok(port.clone()),
        Err(Error::TimedOut { what, .. }) if channel.is_port_opened() => Err(Error::TimedOut {
            what,
            after: options.timeout,
            hint: MUTE,
        }),
        Err(error) => Err(with_timeout(error, options.timeout)),
    }
}

/// Why an open port does not answer: spice-server reads and writes nothing while the
/// machine is stopped by anything but a `stop`.
const MUTE: &str = ": QEMU does not answer on SPICE while the machine is stopped by an error; \
                    resume it over another monitor";

/// The names of all ports of `session`, sorted.
pub(super) async fn port_names(
    session: Session,
    options: &ConnectOptions,
) -> Result<Vec<String>, Error> {
    let search = Search::start(session, options, None)?;
    let named = poll_fn(|cx| search.poll(cx.waker(), |search| search.names().map(Ok)));
    search.within(named).await
}

/// A check of a session that is repeated whenever something changes in it.
struct Search {
    session: Session,
    shared: Rc<Shared>,
    channel_new: Cell<Option<SignalHandlerId>>,
}

/// What the signal handlers share.
struct Shared {
    options: ConnectOptions,
    /// What to do with the QMP port; `None` if only the ports' names are wanted.
    attach: Option<Attach>,
    attached: RefCell<Option<PortChannel>>,
    /// Why the last attempt to connect failed, and how long to wait for the next one.
    failed: RefCell<Option<String>>,
    pause: Cell<Duration>,
    waker: RefCell<Option<Waker>>,
    watched: RefCell<Vec<Watched>>,
    /// Whether the session turned out to be over, and is to be connected again.
    lost: Cell<bool>,
    /// Whether the server's list of channels has arrived.
    listed: Cell<bool>,
    /// Why there is no session.
    error: RefCell<Option<ConnectError>>,
}

struct Watched {
    channel: Channel,
    handlers: Vec<SignalHandlerId>,
    /// Whether the connection of the channel ended.
    ended: Cell<bool>,
}

impl Search {
    fn start(
        session: Session,
        options: &ConnectOptions,
        attach: Option<Attach>,
    ) -> Result<Self, Error> {
        if let Some(path) = session.unix_path() {
            check_spice_path(&path)?;
        }
        let shared = Rc::new(Shared {
            options: options.clone(),
            attach,
            attached: RefCell::default(),
            failed: RefCell::default(),
            pause: Cell::new(FIRST_PAUSE),
            waker: RefCell::default(),
            watched: RefCell::default(),
            lost: Cell::default(),
            listed: Cell::default(),
            error: RefCell::default(),
        });
        let main = session.channels().into_iter().find(Channel::is_main);
        match main.as_ref().map(|main| (main, main.connection())) {
            None => shared.connect(&session),
            Some((_, Connection::Up)) => {}
            // The end will be noticed later: an event will follow.
            Some((_, Connection::Lost)) => shared.lost.set(true),
            // Over, perhaps just noticed; or just being connected.
            Some((main, Connection::None)) => {
                shared.lost.set(true);
                connect_again(&shared, main);
            }
        }
        for channel in session.channels() {
            // Channels of a session that is over end with it.
            if channel.is_main() || !shared.lost.get() {
                watch(&shared, &channel);
            }
        }
        let channel_new = session.connect_channel_new({
            let shared = shared.clone();
            move |channel| {
                watch(&shared, channel);
                shared.wake();
            }
        });
        Ok(Self {
            session,
            shared,
            channel_new: Cell::new(Some(channel_new)),
        })
    }

    /// The QMP port's channel, which is attached.
    async fn channel(&self) -> Result<PortChannel, Error> {
        let found = poll_fn(|cx| self.poll(cx.waker(), Self::qmp_port));
        let channel = self.within(found).await?;
        // Its name was known before it was checked.
        self.shared.attach(&channel);
        Ok(channel)
    }

    /// The result of `work` within the timeout.
    async fn within<T>(&self, work: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        let timeout = self.shared.options.timeout;
        within(timeout, work).await.unwrap_or_else(|| {
            let failed = self.shared.failed.take();
            let why = failed.map_or_else(String::new, |text| format!(" ({text})"));
            Err(Error::TimedOut {
                what: format!("the SPICE server{why}").into(),
                after: timeout,
                hint: "",
            })
        })
    }

    fn poll<T>(
        &self,
        waker: &Waker,
        look: impl Fn(&Self) -> Option<Result<T, Error>>,
    ) -> Poll<Result<T, Error>> {
        self.shared.waker.replace(Some(waker.clone()));
        if let Some(error) = self.shared.error.borrow().clone() {
            return Poll::Ready(Err(error.into()));
        }
        look(self).map_or(Poll::Pending, Poll::Ready)
    }

    /// The QMP port, once one is known, or why there is none, once all are known.
    fn qmp_port(&self) -> Option<Result<PortChannel, Error>> {
        if let Some(port) = &*self.shared.attached.borrow() {
            return Some(Ok(port.clone()));
        }
        let ports = self.shared.ports();
        for (port, _) in &ports {
            if port.port_name().is_some_and(|name| is_qmp_port_name(&name)) {
                return Some(Ok(port.clone()));
            }
        }
        let names = self.names()?;
        if names.len() < ports.len() {
            // That channel may have been any port.
            return Some(Err(ConnectError::unreachable(
                io::ErrorKind::ConnectionReset,
                "the SPICE server closed a port channel before it was known",
            )
            .into()));
        }
        let human = names.into_iter().find(|name| is_human_monitor_name(name));
        Some(Err(match human {
            Some(name) => ConnectError::OnlyHumanMonitor(name.into()),
            None => ConnectError::NoPort,
        }
        .into()))
    }

    /// The names of the ports, once all are known.
    fn names(&self) -> Option<Vec<String>> {
        let ports = self.shared.ports();
        let known = |(port, ended): &(PortChannel, bool)| *ended || port.port_name().is_some();
        if !self.shared.listed.get() || !ports.iter().all(known) {
            return None;
        }
        let mut names: Vec<_> = ports.iter().filter_map(|(p, _)| p.port_name()).collect();
        names.sort();
        Some(names)
    }
}

impl Drop for Search {
    fn drop(&mut self) {
        if let Some(handler) = self.channel_new.take() {
            ObjectExt::disconnect(&self.session, handler);
        }
        for watched in self.shared.watched.take() {
            for handler in watched.handlers {
                ObjectExt::disconnect(&watched.channel, handler);
            }
        }
    }
}

impl Shared {
    fn wake(&self) {
        let waker = self.waker.borrow_mut().take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn attach(&self, port: &PortChannel) {
        let is_qmp = || port.port_name().is_some_and(|name| is_qmp_port_name(&name));
        if let Some(attach) = &self.attach
            && self.attached.borrow().is_none()
            && is_qmp()
        {
            attach(port);
            self.attached.replace(Some(port.clone()));
        }
    }

    fn connect(&self, session: &Session) {
        if session.has_address() && !session.connect() {
            self.fail(ConnectError::unreachable(
                io::ErrorKind::Other,
                "the SPICE session cannot be connected in its state",
            ));
        }
    }

    fn fail(&self, error: ConnectError) {
        self.error.replace(Some(error));
        self.wake();
    }

    /// The port channels, and whether their connection has ended.
    fn ports(&self) -> Vec<(PortChannel, bool)> {
        let watched = self.watched.borrow();
        let port = |watched: &Watched| Some((watched.channel.port()?, watched.ended.get()));
        watched.iter().filter_map(port).collect()
    }
}

fn watch(shared: &Rc<Shared>, channel: &Channel) {
    let is_main = channel.is_main();
    let mut handlers = vec![channel.connect_channel_event({
        let shared = shared.clone();
        move |channel, event| {
            if is_main && shared.lost.get() {
                if event != ChannelEvent::Opened {
                    connect_again(&shared, channel);
                }
            } else if is_main {
                main_channel_event(&shared, channel, event);
            } else if event != ChannelEvent::Opened {
                let watched = shared.watched.borrow();
                if let Some(watched) = watched.iter().find(|w| w.channel == *channel) {
                    watched.ended.set(true);
                }
            }
            shared.wake();
        }
    })];
    if let Some(port) = channel.port() {
        handlers.push(port.connect_notify_local(Some("port-name"), {
            let shared = shared.clone();
            move |port, _| {
                shared.attach(port);
                shared.wake();
            }
        }));
    }
    shared.watched.borrow_mut().push(Watched {
        channel: channel.clone(),
        handlers,
        ended: Cell::new(false),
    });
    if !is_main {
        await_list(shared);
    } else if channel.is_initialized() {
        await_quiet(shared, channel);
    } else {
        let handler = channel.connect_notify_local(Some("mouse-mode"), {
            let shared = shared.clone();
            move |channel, _| await_quiet(&shared, channel)
        });
        let mut watched = shared.watched.borrow_mut();
        if let Some(watched) = watched.last_mut() {
            watched.handlers.push(handler);
        }
    }
    if let Some(port) = channel.port() {
        // A channel that is connected already is not touched.
        port.upcast_ref::<Channel>().connect();
    }
}

/// spice-gtk announces the channels one after the other, each from an idle
/// source of its own, and does not report when it is done. It creates all these
/// sources at once, so one that is created now comes after them.
fn await_list(shared: &Rc<Shared>) {
    if shared.listed.get() {
        return;
    }
    let shared = Rc::downgrade(shared);
    when_idle(async move {
        if let Some(shared) = shared.upgrade() {
            shared.listed.set(true);
            shared.wake();
        }
    });
}

/// A server that has only the main channel lists nothing, which spice-gtk
/// does not report. The list is sent soon after the first message: if nothing
/// more has been received for a while, it was empty.
fn await_quiet(shared: &Rc<Shared>, main: &Channel) {
    let (shared, main) = (Rc::downgrade(shared), main.downgrade());
    when_idle(async move {
        let mut received = None;
        loop {
            glib::timeout_future(QUIET).await;
            let (Some(shared), Some(main)) = (shared.upgrade(), main.upgrade()) else {
                return;
            };
            let before = received.replace(main.received());
            if shared.listed.get() || before == received {
                shared.listed.set(true);
                return shared.wake();
            }
        }
    });
}

/// Longer than a message from anywhere takes.
const QUIET: Duration = Duration::from_millis(500);

/// Connects a session that is over, once spice-gtk has signalled that. It does so from
/// an idle source, after which this one comes, and until then connects nothing.
fn connect_again(shared: &Rc<Shared>, main: &Channel) {
    let (shared, main) = (Rc::downgrade(shared), main.downgrade());
    when_idle(async move {
        if let (Some(shared), Some(main)) = (shared.upgrade(), main.upgrade())
            && shared.lost.get()
        {
            shared.lost.set(false);
            if main.connection() == Connection::None
                && let Some(session) = main.session()
            {
                shared.connect(&session);
            }
        }
    });
}

/// Connects once more after a failure.
fn connect_later(shared: &Rc<Shared>, main: &Channel, failure: String) {
    shared.failed.replace(Some(failure));
    let pause = shared.pause.get();
    shared.pause.set((pause * 2).min(LONGEST_PAUSE));
    let (shared, main) = (Rc::downgrade(shared), main.downgrade());
    when_idle(async move {
        glib::timeout_future(pause).await;
        if let (Some(shared), Some(main)) = (shared.upgrade(), main.upgrade())
            && let Some(session) = main.session()
        {
            shared.failed.take();
            shared.connect(&session);
        }
    });
}

/// Runs `work` from an idle source of GLib's default main context, like spice-gtk's
/// own sources.
fn when_idle(work: impl Future<Output = ()> + 'static) {
    let context = glib::MainContext::default();
    spawn_at(glib::Priority::DEFAULT_IDLE, &context, work);
}

fn main_channel_event(shared: &Rc<Shared>, main: &Channel, event: ChannelEvent) {
    match event {
        ChannelEvent::Opened | ChannelEvent::Switching => {}
        ChannelEvent::AuthenticationFailed(text) => {
            shared.fail(ConnectError::Authentication(text.into()));
        }
        ChannelEvent::TlsFailed(text) => shared.fail(ConnectError::Tls(text.into())),
        ChannelEvent::ConnectFailed(kind, text) if shared.options.tries_again(kind) => {
            connect_later(shared, main, text);
        }
        ChannelEvent::ConnectFailed(kind, text) => shared.fail(match main.error() {
            Some(error) => unreachable(&error, text),
            None => ConnectError::unreachable(kind, text),
        }),
        ChannelEvent::Broken(text) => {
            shared.fail(ConnectError::unreachable(
                io::ErrorKind::ConnectionReset,
                text,
            ));
        }
        // The reason, if any, was reported before.
        ChannelEvent::Closed if shared.error.borrow().is_some() => {}
        ChannelEvent::Closed if shared.failed.borrow().is_some() => {}
        ChannelEvent::Closed => shared.fail(ConnectError::unreachable(
            io::ErrorKind::ConnectionReset,
            "the SPICE server closed the connection",
        )),
    }
}
