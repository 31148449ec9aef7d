//! Leaving a SPICE session without harm to QEMU: it may freeze or crash where a client
//! goes while it owes that client an answer.

use std::time::Duration;

use crate::port::{QmpPort, within};
use crate::transport::spice::{Channel, Session};

/// Waits until nothing is owed to the ports of `session`.
pub(super) async fn settle(session: &Session) {
    for port in ports(session) {
        within(close_timeout(&port), port.settled()).await;
    }
}

/// Settles a session where it goes out of use, unless that is done or not needed.
pub(super) struct Leave {
    session: Option<Session>,
}

impl Leave {
    pub(super) fn new(session: &Session) -> Self {
        Self {
            session: Some(session.clone()),
        }
    }

    /// There is no more to do.
    pub(super) fn done(mut self) {
        self.session.take();
    }
}

impl Drop for Leave {
    fn drop(&mut self) {
        let Some(session) = self.session.take() else {
            return;
        };
        if ports(&session).iter().all(QmpPort::is_settled) {
            return;
        }
        // What spice-gtk receives it delivers there. Where another thread runs it,
        // nothing of the session's was ever delivered to this one.
        let context = glib::MainContext::default();
        if context.acquire().is_ok() {
            drop(context.spawn_local(async move { settle(&session).await }));
        }
    }
}

/// The ports that there are on channels of `session`.
fn ports(session: &Session) -> Vec<QmpPort> {
    let channels = session.channels().into_iter();
    let channels = channels.filter_map(|channel: Channel| channel.port());
    let ports = channels.filter_map(|channel| QmpPort::of_channel(&channel));
    ports.filter(QmpPort::is_on_its_thread).collect()
}

/// How long to wait for QEMU's answers at most.
fn close_timeout(_port: &QmpPort) -> Duration {
    CLOSE_TIMEOUT
}

/// Of ports on SPICE channels.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
