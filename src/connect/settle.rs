// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ends searches without harm to QEMU, which may freeze or crash if a SPICE client
//! disconnects while an answer is due.

use std::cell::Cell;
use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use super::options::ConnectOptions;
use super::spice;
use crate::port::{PortState, QmpPort};
use crate::qmp::Error;
use crate::spawn::spawn_on;
use crate::transport::spice::{Channel, Connection, Session};

/// The QMP port of `session`. After a timeout, it ends when QEMU has answered; if the
/// future is dropped, QEMU's answers are still awaited.
pub(super) async fn find(session: Session, options: &ConnectOptions) -> Result<QmpPort, Error> {
    let search = spice::search(session.clone(), options);
    finished(&session, search).await
}

/// The names of all ports of `session`; otherwise like [`find`].
pub(super) async fn port_names(
    session: Session,
    options: &ConnectOptions,
) -> Result<Vec<String>, Error> {
    let search = spice::port_names(session.clone(), options);
    finished(&session, search).await
}

async fn finished<T>(
    session: &Session,
    search: impl Future<Output = Result<T, Error>>,
) -> Result<T, Error> {
    let unfinished = Unfinished::new(session);
    let found = search.await;
    if let Err(Error::TimedOut { .. }) = found {
        settle(session).await;
    }
    unfinished.end();
    found
}

/// `search` until `cancelled` ends, and QEMU has answered.
pub(super) async fn cancellable<T>(
    session: &Session,
    search: impl Future<Output = Result<T, Error>>,
    cancelled: impl Future<Output = ()>,
) -> Result<T, Error> {
    let found = {
        let mut search = pin!(search);
        let mut cancelled = pin!(cancelled);
        poll_fn(|cx| {
            if let Poll::Ready(found) = search.as_mut().poll(cx) {
                return Poll::Ready(Some(found));
            }
            cancelled.as_mut().poll(cx).map(|()| None)
        })
        .await
    };
    if let Some(found) = found {
        return found;
    }
    // The dropped search settles the session, too, but nothing awaits that.
    settle(session).await;
    Err(Error::Cancelled("the search for ports".into()))
}

/// Work on a session that may be owed answers by QEMU. If it is dropped before its end, a
/// source on the default context holds the session until it is settled.
struct Unfinished(Cell<Option<Session>>);

impl Unfinished {
    fn new(session: &Session) -> Self {
        Self(Cell::new(Some(session.clone())))
    }

    fn end(&self) {
        self.0.take();
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(session) = self.0.take() {
            let context = glib::MainContext::default();
            spawn_on(&context, async move { settle(&session).await });
        }
    }
}

/// Waits until nothing is owed to the ports of `session`.
///
/// A search that was abandoned may have left a port channel that is still being
/// connected, and QEMU crashes if that is cut off: so it is completed.
pub(super) async fn settle(session: &Session) {
    let started = Instant::now();
    let main = session.channels().into_iter().find(Channel::is_main);
    if !main.is_some_and(|main| main.connection() == Connection::Up) {
        return;
    }
    if ports(session).is_empty() {
        // The result of the search does not matter any more.
        let options = ConnectOptions::new().timeout(SEARCH_TIMEOUT);
        let _ = spice::search(session.clone(), &options).await;
    }
    for port in ports(session) {
        let longest = match port.state() {
            PortState::Greeting => GREETING_TIMEOUT,
            _ => Duration::from_millis(port.close_timeout().into()),
        };
        port.settled(longest.saturating_sub(started.elapsed()))
            .await;
    }
}

/// The existing ports on channels of `session`.
fn ports(session: &Session) -> Vec<QmpPort> {
    let channels = session.channels().into_iter();
    let channels = channels.filter_map(|channel: Channel| channel.port());
    let ports = channels.filter_map(|channel| QmpPort::of_channel(&channel));
    ports.filter(QmpPort::is_on_its_thread).collect()
}

/// How long to complete a search.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(1);

/// How long to wait for a greeting: QEMU sends it within milliseconds, unless the port
/// is mute. Then nothing was written, and disconnecting does no harm.
const GREETING_TIMEOUT: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests {
    use glib::prelude::*;

    use super::*;

    #[test]
    fn work_that_is_dropped_holds_its_session_until_it_is_settled() {
        let context = glib::MainContext::default();
        let _owner = loop {
            // Another test may run the context.
            if let Ok(owner) = context.acquire() {
                break owner;
            }
            std::thread::yield_now();
        };
        let session = Session::new();
        let before = session.ref_count();
        drop(Unfinished::new(&session));
        assert_eq!(session.ref_count(), before + 1, "held");
        while session.ref_count() > before {
            context.iteration(true);
        }

        let ended = Unfinished::new(&session);
        ended.end();
        assert_eq!(session.ref_count(), before);
        drop(ended);
        assert_eq!(session.ref_count(), before);
    }
}
