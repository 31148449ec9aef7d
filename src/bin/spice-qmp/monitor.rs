// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connection of the tool, with the command that QEMU has yet to answer.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::task::Poll;
use std::time::Duration;

use serde::Serialize;
use serde_json::value::RawValue;
#[cfg(feature = "spice")]
use spice_qmp::Connector;
use spice_qmp::{Call, Error, QmpPort};

#[cfg(feature = "spice")]
use crate::opening::Opening;
use crate::signals::Signals;

/// Why a command was not even sent.
const MUTE: &str = ": QEMU does not answer on SPICE while the machine is stopped by an error; \
                    resume it over another monitor";

/// A connection to QEMU, from the first attempt until it is closed.
pub(crate) struct Monitor {
    timeout: Duration,
    /// The signals that end the tool early.
    pub(crate) signals: Signals,
    /// The connections to a SPICE server, which must be closed without harming QEMU.
    #[cfg(feature = "spice")]
    pub(crate) opening: Opening,
    call: RefCell<Option<Call<Box<RawValue>>>>,
    command: RefCell<String>,
}

impl Monitor {
    pub(crate) fn new(timeout: Duration) -> Self {
        Self {
            timeout,
            signals: Signals::default(),
            #[cfg(feature = "spice")]
            opening: Opening::default(),
            call: RefCell::default(),
            command: RefCell::default(),
        }
    }

    /// How long an answer may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Executes a command and waits for its reply until the timeout, one at a time.
    ///
    /// The call itself continues after that: QEMU still owes the answer.
    pub(crate) async fn execute(
        &self,
        port: &QmpPort,
        command: &str,
        arguments: impl Serialize,
    ) -> Result<Box<RawValue>, Error> {
        self.command.replace(command.to_owned());
        #[cfg(feature = "spice")]
        let held_back = self.is_mute();
        #[cfg(not(feature = "spice"))]
        let held_back = false;
        self.call.replace(Some(port.execute(command, arguments)));
        glib::future_with_timeout(self.timeout, self.answer())
            .await
            .unwrap_or_else(|_| {
                if held_back {
                    // It was not sent, and will not be.
                    self.call.take();
                }
                Err(self.late(command, held_back))
            })
    }

    /// The error of a command that was not answered in time, or not even sent.
    pub(crate) fn late(&self, command: &str, held_back: bool) -> Error {
        Error::TimedOut {
            what: command.into(),
            after: self.timeout,
            hint: if held_back { MUTE } else { "" },
        }
    }

    /// Whether the port holds commands back until the machine runs again.
    #[cfg(feature = "spice")]
    fn is_mute(&self) -> bool {
        self.opening.port().is_some_and(|port| port.is_mute())
    }

    /// Connects to a SPICE server.
    #[cfg(feature = "spice")]
    pub(crate) async fn open(&self, connector: &Connector) -> Result<QmpPort, Error> {
        let port = self.opening.run(|end| connector.open_until(end)).await?;
        self.opening.keep(&port);
        Ok(port)
    }

    /// The names of the ports of a SPICE server.
    #[cfg(feature = "spice")]
    pub(crate) async fn port_names(&self, connector: &Connector) -> Result<Vec<String>, Error> {
        self.opening
            .run(|end| connector.port_names_until(end))
            .await
    }

    /// The command that QEMU has not answered yet.
    #[cfg(feature = "spice")]
    pub(crate) fn unanswered(&self) -> Option<String> {
        let owed = self.call.borrow().is_some();
        owed.then(|| self.command.borrow().clone())
    }

    /// The answer to the command that is [`unanswered`](Self::unanswered).
    pub(crate) async fn answer(&self) -> Result<Box<RawValue>, Error> {
        poll_fn(|cx| {
            let mut call = self.call.borrow_mut();
            let answer = match call.as_mut() {
                Some(call) => Pin::new(call).poll(cx),
                None => Poll::Pending,
            };
            if answer.is_ready() {
                call.take();
            }
            answer
        })
        .await
    }
}
