// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reports how a command that runs until the connection ends is over, and what was lost.

use std::cell::Cell;
use std::rc::Rc;

use spice_qmp::{PortState, QmpPort};

use crate::connect::Target;
use crate::failure::{Failure, Stop, note};
use crate::output::Output;

/// Determines how a connection ends: with QEMU, or by accident.
pub(crate) struct End {
    shutdown: Rc<Cell<bool>>,
    /// Whether only a connection that cannot be restored ends.
    reconnects: bool,
}

impl End {
    pub(crate) fn watch(port: &QmpPort) -> Self {
        let shutdown = Rc::new(Cell::new(false));
        port.connect_qmp_event(Some("SHUTDOWN"), {
            let shutdown = shutdown.clone();
            move |_, _| shutdown.set(true)
        });
        Self {
            shutdown,
            reconnects: false,
        }
    }

    /// If the port connects again, only has `report` called with a message when the
    /// connection has ended, and when there is a new one.
    pub(crate) fn watch_or_report(
        port: &QmpPort,
        target: &Target,
        report: impl Fn(&str) + 'static,
    ) -> Self {
        if target.reconnects {
            watch_losses(port, report);
            return Self {
                shutdown: Rc::default(),
                reconnects: true,
            };
        }
        Self::watch(port)
    }

    /// Whether QEMU reported that the machine shuts down.
    pub(crate) fn was_shut_down(&self) -> bool {
        self.shutdown.get()
    }

    /// Success if the machine was shut down first.
    pub(crate) fn result(&self, port: &QmpPort) -> Result<(), Stop> {
        if self.reconnects {
            return Err(ended(port, "and is not tried again"));
        }
        if self.shutdown.get() {
            return Ok(());
        }
        Err(ended(port, "and the machine was not shut down"))
    }
}

/// Whether the connection has ended for good.
pub(crate) fn is_over(port: &QmpPort) -> bool {
    match port.state() {
        PortState::Failed => true,
        PortState::Closed | PortState::Connecting => port.reconnect() == 0,
        _ => false,
    }
}

fn watch_losses(port: &QmpPort, report: impl Fn(&str) + 'static) {
    port.connect_ready_notify(move |port| {
        let reason = port.last_error();
        let reason = reason.as_ref().map(glib::Error::message);
        match (port.ready(), reason) {
            (true, _) => report("connected again"),
            (false, Some(reason)) => report(&format!("{reason}; connecting again")),
            (false, None) => report("the connection has ended; connecting again"),
        }
    });
}

/// The connection ended too early, for the reason that the port has.
pub(crate) fn ended(port: &QmpPort, when: &str) -> Stop {
    let reason = port.last_error();
    let reason = reason
        .as_ref()
        .map_or("the connection ended", |error| error.message());
    Failure::connection(format!("{reason} ({when})")).into()
}

/// Reports that the output is read more slowly than QEMU writes.
pub(crate) fn report_dropped(output: &Output, what: &str, dropped: u64) {
    if dropped > 0 {
        let message = format!("{dropped} {what} were lost: the output is read too slowly");
        note(output.is_json(), &message);
    }
}
