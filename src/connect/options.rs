// SPDX-License-Identifier: MIT OR Apache-2.0
//! Options for connecting: for how long, and how often.

use std::time::Duration;

use crate::port::CONNECT_TIMEOUT;
use crate::qmp::{ConnectError, Error, Origin};
use crate::transport::io_kind;

/// How [`QmpPort::open_with`](crate::QmpPort::open_with) and
/// [`QmpPort::find_with`](crate::QmpPort::find_with) connect.
///
/// ```
/// # use std::time::Duration;
/// use spice_qmp::ConnectOptions;
/// let patient = ConnectOptions::new().timeout(Duration::from_secs(60)).wait(true);
/// ```
#[derive(Debug, Clone)]
pub struct ConnectOptions {
    pub(super) timeout: Duration,
    wait: bool,
}

impl ConnectOptions {
    /// [`CONNECT_TIMEOUT`], without waiting for a server that cannot be reached yet.
    #[must_use]
    pub fn new() -> Self {
        Self {
            timeout: CONNECT_TIMEOUT,
            wait: false,
        }
    }

    /// How long the whole operation may take.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Whether to try again, within the timeout, while there is no server at the
    /// address: the socket does not exist, or refuses the connection; QEMU is not on the bus,
    /// or its D-Bus display has another client. Otherwise connecting fails at once. A server
    /// whose queue of connections is full is tried again in any case.
    #[must_use]
    pub fn wait(mut self, wait: bool) -> Self {
        self.wait = wait;
        self
    }

    #[cfg(unix)]
    pub(super) fn waits(&self) -> bool {
        self.wait
    }

    /// Whether to try again after a failure of this kind.
    pub(super) fn tries_again(&self, kind: std::io::ErrorKind) -> bool {
        match kind {
            std::io::ErrorKind::WouldBlock => true,
            std::io::ErrorKind::NotFound | std::io::ErrorKind::ConnectionRefused => self.wait,
            _ => false,
        }
    }
}

impl Default for ConnectOptions {
    fn default() -> Self {
        Self::new()
    }
}

/// Pauses between attempts to connect: a server that starts is noticed soon, and one
/// that does not costs little.
pub(super) const FIRST_PAUSE: Duration = Duration::from_millis(10);
pub(super) const LONGEST_PAUSE: Duration = Duration::from_millis(250);

/// The timeout that the caller passed, not what was left of it.
pub(super) fn with_timeout(error: Error, timeout: Duration) -> Error {
    match error {
        Error::TimedOut { what, hint, .. } => Error::TimedOut {
            what,
            after: timeout,
            hint,
        },
        error => error,
    }
}

/// An error of GIO's that prevented a connection.
pub(super) fn unreachable(error: &glib::Error, message: impl Into<Box<str>>) -> ConnectError {
    ConnectError::Unreachable {
        kind: io_kind(error),
        message: message.into(),
        origin: Some(Origin {
            domain: error.domain().as_str(),
            code: error.code(),
        }),
    }
}
