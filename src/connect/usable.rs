// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits until a program can use a port.

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use glib::signal::SignalHandlerId;

use crate::handlers::disconnect;
use crate::port::{PortState, QmpPort};
use crate::qmp::Error;

/// Waits until commands may be executed and the run state is known or was refused; in the
/// latter case `last-error` says why.
pub(super) async fn wait(port: &QmpPort, timeout: Duration) -> Result<(), Error> {
    let greeted = Greeted::watch(port);
    let usable = port.wait_status(timeout).await;
    usable.map_err(|error| greeted.explain(error))
}

/// Whether the server of a port has spoken QMP.
struct Greeted {
    port: QmpPort,
    seen: Rc<Cell<bool>>,
    handler: Option<SignalHandlerId>,
}

impl Greeted {
    fn watch(port: &QmpPort) -> Self {
        let speaks =
            |port: &QmpPort| matches!(port.state(), PortState::Negotiating | PortState::Ready);
        let seen = Rc::new(Cell::new(speaks(port)));
        let handler = port.connect_state_notify({
            let seen = seen.clone();
            move |port| {
                if speaks(port) {
                    seen.set(true);
                }
            }
        });
        Self {
            port: port.clone(),
            seen,
            handler: Some(handler),
        }
    }

    /// Adds to the error of a connection that ended whether QEMU was at the other end.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Closed(text) if self.seen.get() => {
                Error::Closed(format!("{text}, after its QMP greeting").into())
            }
            error => error,
        }
    }
}

impl Drop for Greeted {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            disconnect(&self.port, handler);
        }
    }
}
