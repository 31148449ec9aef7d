//! How the tool leaves a machine: over SPICE not before QEMU has answered.
//!
//! A QEMU (7.2, 10.0) whose SPICE client goes away while an answer is being
//! written, or still to come, freezes for ever. Leaving a socket is harmless.

use std::cell::Cell;
use std::pin::pin;
use std::time::Duration;

use glib::future_with_timeout;
use spice_qmp::transport::spice::Channel;
use spice_qmp::{QmpPort, Session};

use crate::channels::{is_connected, muting_state, qmp_ports};
use crate::failure::{Stop, note};
use crate::monitor::Monitor;
use crate::wait::until;

/// How long leaving may take before the tool says what it waits for.
const SILENCE: Duration = Duration::from_millis(500);

/// The same after a success, where there is time.
const SILENCE_AFTER_SUCCESS: Duration = Duration::from_secs(2);

/// How long a port is waited for that is just being opened. One that QEMU mutes,
/// because the machine was stopped by an error, never opens.
const OPENING: Duration = Duration::from_secs(10);

/// The same, where it was waited for already.
const OPENING_AFTER_TIMEOUT: Duration = Duration::from_secs(2);

/// Leaves what was connected, after a work that ended so. The error is a signal that
/// came meanwhile: whoever sent it does not want to wait.
pub(crate) async fn leave(
    monitor: &Monitor,
    end: &Result<(), Stop>,
    json: bool,
) -> Result<(), i32> {
    let Some(session) = monitor.session.take() else {
        return Ok(());
    };
    let signalled = matches!(end, Err(Stop::Signal(_)));
    let leaving = Leaving {
        monitor,
        session: &session,
        signalled,
        json,
        announced: Cell::new(false),
    };
    let silence = if end.is_ok() {
        SILENCE_AFTER_SUCCESS
    } else {
        SILENCE
    };
    let result = monitor.signals.or(leaving.run(silence)).await;
    session.disconnect();
    result
}

struct Leaving<'a> {
    monitor: &'a Monitor,
    session: &'a Session,
    /// Whether a signal made the tool leave.
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

    /// Why the tool does not leave yet.
    fn reason(&self) -> String {
        let (what, harm) = match self.monitor.unanswered() {
            Some(command) => (format!("QEMU is still executing {command}"), "would"),
            None => ("QEMU has not answered yet".to_owned(), "could"),
        };
        match muting_state(self.session) {
            Some(state) => format!(
                "{what}: over SPICE it answers when the machine, which is stopped ({state}), runs \
                 again; resume it over another monitor. If you leave now, QEMU may crash then"
            ),
            None => format!("{what}; leaving now {harm} freeze the machine"),
        }
    }

    /// Waits until QEMU owes nothing on any port of the session.
    async fn settle(&self) {
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
        for port in self.session.channels().iter().filter_map(Channel::port) {
            let signals = ["notify::port-name", "channel-event"];
            let named = until(&port, &signals, |port| {
                port.port_name().is_some() || !is_connected(port)
            });
            // A port that is still unknown then is left as it is.
            let _ = future_with_timeout(self.opening(), named).await;
        }
        for channel in qmp_ports(self.session) {
            let port = QmpPort::get(channel);
            // What QEMU owes is awaited without limit; a signal ends that.
            port.set_close_timeout(u32::MAX);
            port.close().await;
        }
    }

    fn opening(&self) -> Duration {
        if self.signalled {
            OPENING
        } else {
            OPENING_AFTER_TIMEOUT
        }
    }
}
