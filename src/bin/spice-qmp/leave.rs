// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disconnects from a machine: over SPICE only after QEMU has answered.
//!
//! QEMU (7.2, 10.0) freezes for ever if its SPICE client disconnects while an answer is being
//! written, or still to come. Disconnecting from a socket is harmless.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use glib::future_with_timeout;
use spice_qmp::QmpPort;

use crate::failure::{Stop, note};
use crate::monitor::Monitor;

/// How long disconnecting may take before the tool says what it waits for.
const SILENCE: Duration = Duration::from_millis(500);

/// The same after a success, where it is less urgent.
const SILENCE_AFTER_SUCCESS: Duration = Duration::from_secs(2);

/// Disconnects after the work has ended with `end`. The error is a signal that
/// arrived meanwhile: its sender does not want to wait.
pub(crate) async fn leave(
    monitor: &Monitor,
    end: &Result<(), Stop>,
    json: bool,
) -> Result<(), i32> {
    if !monitor.opening.is_any() {
        return Ok(());
    }
    let leaving = Leaving {
        monitor,
        signalled: matches!(end, Err(Stop::Signal(_))),
        json,
        announced: Cell::new(false),
    };
    let silence = if end.is_ok() {
        SILENCE_AFTER_SUCCESS
    } else {
        SILENCE
    };
    monitor.signals.or(leaving.run(silence)).await
}

struct Leaving<'a> {
    monitor: &'a Monitor,
    /// Whether a signal made the tool disconnect.
    signalled: bool,
    json: bool,
    /// Whether the tool has said that it waits.
    announced: Cell<bool>,
}

impl Leaving<'_> {
    async fn run(&self, silence: Duration) {
        let mut settled = pin!(self.settle());
        let soon = future_with_timeout(silence, settled.as_mut()).await;
        if soon.is_err() {
            self.announced.set(true);
            let again = if self.signalled { " again" } else { "" };
            let reason = self.reason();
            let message = format!("{reason}. Press Ctrl+C{again} to leave anyway");
            note(self.json, &message);
            settled.await;
        }
    }

    /// Why the tool does not disconnect yet.
    fn reason(&self) -> String {
        let (what, harm) = match self.monitor.unanswered() {
            Some(command) => (format!("QEMU is still executing {command}"), "would"),
            None => ("QEMU has not answered yet".to_owned(), "could"),
        };
        let port = self.monitor.opening.port().filter(QmpPort::is_mute);
        match port.and_then(|port| port.status()) {
            Some(status) => format!(
                "{what}: over SPICE it answers when the machine, which is stopped ({}), runs \
                 again; resume it over another monitor. If you leave now, QEMU may crash then",
                status.status()
            ),
            None => format!("{what}; leaving now {harm} freeze the machine"),
        }
    }

    /// Waits until QEMU owes nothing, and disconnects.
    async fn settle(&self) {
        self.monitor.opening.end().await;
        if let Some(command) = self.monitor.unanswered() {
            let answer = self.monitor.answer().await;
            if self.announced.get() {
                let message = match answer {
                    Ok(_) => format!("{command} has ended with success"),
                    Err(error) => error.to_string(),
                };
                note(self.json, &message);
            }
        }
        if let Some(port) = self.monitor.opening.port() {
            // The wait for QEMU's answers has no limit; a signal ends it.
            port.set_close_timeout(u32::MAX);
            port.close().await;
        }
    }
}
