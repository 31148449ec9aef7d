// SPDX-License-Identifier: MIT OR Apache-2.0
//! Unplugs a device, and waits until it is gone.

use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::time::Duration;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::Machine;
use crate::port::{Event, QmpPort};
use crate::qmp::{Error, ErrorClass};

/// A device that is being unplugged: [`Machine::unplug`].
#[derive(Debug)]
#[must_use = "a device is unplugged when this is awaited"]
pub struct Unplug {
    port: Option<QmpPort>,
    id: String,
    timeout: Duration,
}

impl Machine {
    /// Unplugs a device by its id or path: executes `device_del`, and waits for the outcome. QEMU
    /// answers that command before the guest has released the device, and reports nothing
    /// more if the guest does not respond: set a [`timeout`](Unplug::timeout).
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if QEMU or the guest refuses, [`Error::TimedOut`], and those
    /// of every command. The guest may still release the device after a timeout.
    pub fn unplug(&self, id: &str) -> Unplug {
        Unplug {
            port: self.port(),
            id: id.to_owned(),
            timeout: Duration::MAX,
        }
    }
}

impl Unplug {
    /// Ends with [`Error::TimedOut`] if it takes longer.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    async fn run(self) -> Result<(), Error> {
        let Self { port, id, timeout } = self;
        let Some(port) = port else {
            return Err(Error::Closed("the machine has no port".into()));
        };
        // The guest may be faster than the reply.
        let end = port.wait_event(END).timeout(timeout).matching({
            let id = id.clone();
            move |event| end_of(&id, event).is_some()
        });
        let arguments = json!({ "id": id });
        let command = port.execute::<IgnoredAny>(COMMAND, arguments);
        command.timeout(timeout).await?;
        let event = end.await.map_err(|error| late(&id, error))?;
        match end_of(&id, &event) {
            Some(End::Refused) => Err(Error::Command {
                command: COMMAND.into(),
                class: ErrorClass::Generic,
                desc: format!("the guest does not let go of {id}").into(),
            }),
            _ => Ok(()),
        }
    }
}

impl IntoFuture for Unplug {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

const COMMAND: &str = "device_del";

/// The events that end the wait.
const END: [&str; 4] = [
    "DEVICE_DELETED",
    "DEVICE_UNPLUG_GUEST_ERROR",
    // Until QEMU 9.0, for memory.
    "MEM_UNPLUG_ERROR",
    "ACPI_DEVICE_OST",
];

/// The outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Deleted,
    Refused,
}

/// The outcome that an event reports for the device.
fn end_of(id: &str, event: &Event) -> Option<End> {
    #[derive(Deserialize, Default)]
    #[serde(default)]
    struct Data {
        device: Option<String>,
        path: Option<String>,
        info: Option<Report>,
    }

    /// What a guest reports through ACPI (`_OST`).
    #[derive(Deserialize)]
    struct Report {
        device: Option<String>,
        source: u64,
        status: u64,
    }

    let data: Data = event.decode().ok()?;
    let is = |name: &Option<String>| name.as_deref() == Some(id);
    let is_named = |name: &Option<String>| {
        let named = |name: &str| id.strip_prefix("/machine/peripheral/") == Some(name);
        is(name) || name.as_deref().is_some_and(named)
    };
    match event.name() {
        "DEVICE_DELETED" => (is(&data.device) || is(&data.path)).then_some(End::Deleted),
        "ACPI_DEVICE_OST" => {
            let report = data.info.filter(|report| is_named(&report.device))?;
            // Of an eject request; neither success nor in progress.
            let failed = matches!(report.source, 0x3 | 0x103) && !matches!(report.status, 0 | 0x84);
            failed.then_some(End::Refused)
        }
        _ => (is_named(&data.device) || is(&data.path)).then_some(End::Refused),
    }
}

/// The error, naming what took too long.
fn late(id: &str, error: Error) -> Error {
    match error {
        Error::TimedOut { after, .. } => Error::TimedOut {
            what: format!("unplugging {id}").into(),
            after,
            hint: " (the guest has not let go of it)",
        },
        error => error,
    }
}
