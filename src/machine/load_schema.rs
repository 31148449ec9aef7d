// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads the schema: concurrent calls share one fetch and its result.

use std::future::poll_fn;

use glib::prelude::*;
use glib::subclass::prelude::*;

use super::Machine;
use super::fetch::Fetch;
use super::schema::{COMMAND, Schema};
use crate::port::{CallOptions, QmpPort};
use crate::qmp::{Error, UsageError};

impl Machine {
    /// Loads the names of QEMU's commands and their arguments when it is
    /// first awaited. They are kept until the connection ends or QEMU's version changes;
    /// a call that is made meanwhile waits for the same reply. Dropping the future
    /// does not affect the other calls.
    ///
    /// # Errors
    ///
    /// Those of every command: its deadline is the port's property
    /// `command-timeout`. [`UsageError::NotSupported`] at once while a SPICE port is
    /// [mute](QmpPort::is_mute), and
    /// [`PeerError::UnexpectedReply`](crate::PeerError::UnexpectedReply) for an invalid
    /// schema, or one that is far larger than QEMU's.
    pub async fn load_schema(&self) -> Result<Schema, Error> {
        let fetch = self.fetch()?;
        poll_fn(|cx| fetch.poll(cx)).await
    }

    fn fetch(&self) -> Result<Fetch<Schema>, Error> {
        if !self.imp().home().is_here() {
            return Err(not_supported("a machine must be used on its port's thread"));
        }
        if let Some(fetch) = self.imp().schema() {
            return Ok(fetch);
        }
        let Some(port) = self.port() else {
            return Err(Error::Closed("the machine has no port".into()));
        };
        if port.is_mute() {
            return Err(not_supported(
                "QEMU does not answer on SPICE while the machine is stopped by an error",
            ));
        }
        Ok(self.start_fetch(&port))
    }

    fn start_fetch(&self, port: &QmpPort) -> Fetch<Schema> {
        let fetch = Fetch::new();
        self.imp().keep_schema(Some(fetch.clone()));
        let (machine, own) = (self.downgrade(), fetch.clone());
        port.execute_with(COMMAND, None, CallOptions::default(), move |reply| {
            let result = reply.and_then(|reply| Schema::from_json(&reply));
            // An error goes to the waiting calls; the next call asks again.
            if let (Err(_), Some(machine)) = (&result, machine.upgrade())
                && machine.imp().schema().is_some_and(|kept| kept.is(&own))
            {
                machine.imp().keep_schema(None);
            }
            own.end(result);
        });
        fetch
    }
}

fn not_supported(why: &str) -> Error {
    UsageError::NotSupported(format!("{COMMAND}: {why}").into()).into()
}
