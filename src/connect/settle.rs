//! Waiting until a SPICE session may be disconnected without harm to QEMU: it may
//! freeze or crash where a client leaves that it owes an answer.

use std::time::{Duration, Instant};

use super::{ConnectOptions, spice};
use crate::port::QmpPort;
use crate::transport::spice::{Channel, Connection, Session};

/// Waits until nothing is owed to the ports of `session`.
///
/// A search that was given up may have left a port channel that is still being
/// connected, and QEMU crashes where that is cut off: so it is completed.
pub(super) async fn settle(session: &Session) {
    let started = Instant::now();
    let main = session.channels().into_iter().find(Channel::is_main);
    if !main.is_some_and(|main| main.connection() == Connection::Up) {
        return;
    }
    if ports(session).is_empty() {
        let options = ConnectOptions::new().timeout(CLOSE_TIMEOUT);
        // What it finds, or why it does not, matters to nobody any more.
        let _ = spice::search(session.clone(), &options).await;
    }
    for port in ports(session) {
        let rest = close_timeout(&port).saturating_sub(started.elapsed());
        port.settled(rest).await;
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
fn close_timeout(port: &QmpPort) -> Duration {
    Duration::from_millis(port.close_timeout().into())
}

/// For a search that has no port yet.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(10);
