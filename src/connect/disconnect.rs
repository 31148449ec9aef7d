// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disconnects a SPICE session at a moment at which spice-gtk frees it.

use std::time::Duration;

use crate::port::within;
use crate::spawn::spawn_on;
use crate::transport::spice::{Channel, Connection, Session};

/// Disconnects `session`, and waits until its connections are gone, but not for long. A
/// channel that is still being connected is disconnected afterwards.
pub(super) async fn disconnect(session: Session) {
    let mut freeing = Box::pin(until_freed(session));
    if within(PATIENCE, &mut freeing).await.is_none() {
        spawn_on(&glib::MainContext::default(), freeing);
    }
}

/// Longer than spice-gtk takes once its channels are connected.
const PATIENCE: Duration = Duration::from_secs(1);

/// spice-gtk frees a session, and ends its connections, only if it is disconnected
///
/// - when no channel is being connected: a channel that lost its session meanwhile waits for
///   ever, or stays connected;
/// - after all channels that the server has listed were created, for which spice-gtk uses
///   idle sources.
///
/// A TLS handshake ends only with its connection.
async fn until_freed(session: Session) {
    let is_connecting = || session.channels().iter().any(Channel::is_connecting);
    for pause in pauses() {
        if !is_connecting() {
            break;
        }
        idle_after(pause).await;
    }
    let is_connected = |channel: &Channel| channel.connection() != Connection::None;
    let mut channels = Vec::new();
    for (number, pause) in pauses().enumerate() {
        let new = session.channels();
        if new.is_empty() && !channels.iter().any(is_connected) {
            break;
        }
        if number >= HALF_A_SECOND {
            channels.iter().for_each(Channel::shut_down);
        }
        if !new.is_empty() {
            session.disconnect();
            channels.extend(new);
        }
        idle_after(pause).await;
    }
}

/// Waits until `pause` has passed and all idle sources of spice-gtk have run that exist now.
async fn idle_after(pause: Duration) {
    glib::timeout_future_with_priority(glib::Priority::DEFAULT_IDLE, pause).await;
}

/// Growing pauses, which end after about a minute: a name server and spice-gtk have their own,
/// shorter timeouts.
fn pauses() -> impl Iterator<Item = Duration> {
    let pause = |number: u64| Duration::from_millis((number / 4).clamp(1, 20));
    (0..3_000).map(pause)
}

/// So many of the [`pauses`] take about half a second.
const HALF_A_SECOND: usize = 64;
