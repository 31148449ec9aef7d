//! Finds the QMP port among the channels of a SPICE session.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use glib::prelude::*;
use glib::signal::SignalHandlerId;

use super::connect::with_timeout;
use super::{QmpPort, within};
use crate::qmp::{ConnectError, Error, is_human_monitor_name, is_qmp_port_name};
use crate::transport::spice::{Channel, ChannelEvent, Connection, PortChannel, Session};

/// The ready QMP port of `session`.
pub(super) async fn find(session: Session, timeout: Duration) -> Result<QmpPort, Error> {
    let started = Instant::now();
    let search = Search::start(session);
    let found = poll_fn(|cx| search.poll(cx.waker(), Search::qmp_port));
    let channel = found_within(timeout, found).await?;
    let port = QmpPort::get(&channel);
    let rest = timeout.saturating_sub(started.elapsed());
    let ready = async {
        let mut ready = pin!(port.wait_status(rest));
        // The session may still turn out to be over.
        poll_fn(|cx| match search.poll(cx.waker(), |_| None) {
            Poll::Pending => ready.as_mut().poll(cx),
            over @ Poll::Ready(_) => over,
        })
        .await
    };
    ready.await.map_err(|error| with_timeout(error, timeout))?;
    Ok(port)
}

/// The names of all ports of `session`, sorted.
pub(super) async fn port_names(session: Session, timeout: Duration) -> Result<Vec<String>, Error> {
    let search = Search::start(session);
    let named = poll_fn(|cx| search.poll(cx.waker(), |search| search.names().map(Ok)));
    found_within(timeout, named).await
}

async fn found_within<T>(
    timeout: Duration,
    work: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    within(timeout, work).await.unwrap_or_else(|| {
        Err(Error::TimedOut {
            what: "the SPICE server".into(),
            after: timeout,
            hint: "",
        })
    })
}

/// A look at a session that is repeated whenever something changes in it.
struct Search {
    session: Session,
    shared: Rc<Shared>,
    channel_new: Cell<Option<SignalHandlerId>>,
}

/// What the signal handlers share.
#[derive(Default)]
struct Shared {
    waker: RefCell<Option<Waker>>,
    watched: RefCell<Vec<Watched>>,
    /// Whether the session was found to be over, and is to be connected again.
    lost: Cell<bool>,
    /// Whether the server's list of channels has come.
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
    fn start(session: Session) -> Self {
        let shared = Rc::<Shared>::default();
        let main = session.channels().into_iter().find(Channel::is_main);
        match main.as_ref().map(|main| (main, main.connection())) {
            None => shared.connect(&session),
            Some((_, Connection::Up)) => {}
            // The end is still to be noticed: an event will follow.
            Some((_, Connection::Lost)) => shared.lost.set(true),
            // Over, perhaps just noticed; or just being connected.
            Some((main, Connection::None)) => {
                shared.lost.set(true);
                connect_again(&shared, main);
            }
        }
        for channel in session.channels() {
            // Those of a session that is over go with it.
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
        Self {
            session,
            shared,
            channel_new: Cell::new(Some(channel_new)),
        }
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
        let ports = self.shared.ports();
        for (port, _) in &ports {
            if port.port_name().is_some_and(|name| is_qmp_port_name(&name)) {
                return Some(Ok(port.clone()));
            }
        }
        let names = self.names()?;
        if names.len() < ports.len() {
            // Who knows what that one was.
            return Some(Err(ConnectError::Unreachable {
                kind: std::io::ErrorKind::ConnectionReset,
                message: "the SPICE server closed a port channel before it was known".into(),
            }
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

    fn connect(&self, session: &Session) {
        if session.has_address() && !session.connect() {
            self.fail(
                std::io::ErrorKind::Other,
                "the SPICE session cannot be connected in its state",
            );
        }
    }

    fn fail(&self, kind: std::io::ErrorKind, message: &str) {
        self.error.replace(Some(ConnectError::Unreachable {
            kind,
            message: message.into(),
        }));
        self.wake();
    }

    /// The port channels, and whether their connection ended.
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
                main_channel_event(&shared, event);
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
            move |_, _| shared.wake()
        }));
    }
    shared.watched.borrow_mut().push(Watched {
        channel: channel.clone(),
        handlers,
        ended: Cell::new(false),
    });
    if !is_main {
        await_list(shared);
    }
    if let Some(port) = channel.port() {
        // A channel that is connected already is left as it is.
        port.upcast_ref::<Channel>().connect();
    }
}

/// spice-gtk announces the channels one after the other, each from an idle
/// source of its own, and says nothing when it is done. It makes all these
/// sources at once, so one that is made now comes after them.
fn await_list(shared: &Rc<Shared>) {
    if shared.listed.get() {
        return;
    }
    let shared = Rc::downgrade(shared);
    glib::idle_add_local_full(glib::Priority::DEFAULT_IDLE, move || {
        if let Some(shared) = shared.upgrade() {
            shared.listed.set(true);
            shared.wake();
        }
        glib::ControlFlow::Break
    });
}

/// Connects a session that is over when spice-gtk has told of that. It does so from
/// an idle source, after which this one comes, and until then connects nothing.
fn connect_again(shared: &Rc<Shared>, main: &Channel) {
    let (shared, main) = (Rc::downgrade(shared), main.downgrade());
    glib::idle_add_local_full(glib::Priority::DEFAULT_IDLE, move || {
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
        glib::ControlFlow::Break
    });
}

fn main_channel_event(shared: &Shared, event: ChannelEvent) {
    match event {
        ChannelEvent::Opened | ChannelEvent::Switching => {}
        ChannelEvent::AuthenticationFailed(text) => {
            shared
                .error
                .replace(Some(ConnectError::Authentication(text.into())));
        }
        ChannelEvent::ConnectFailed(kind, text) => shared.fail(kind, &text),
        ChannelEvent::Broken(text) => shared.fail(std::io::ErrorKind::ConnectionReset, &text),
        // The reason, if any, came before.
        ChannelEvent::Closed if shared.error.borrow().is_some() => {}
        ChannelEvent::Closed => shared.fail(
            std::io::ErrorKind::ConnectionReset,
            "the SPICE server closed the connection",
        ),
    }
}
