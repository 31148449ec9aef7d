// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads the schema: several askers share one fetch, and what it brought.

use std::future::poll_fn;

use glib::prelude::*;
use glib::subclass::prelude::*;

use super::Machine;
use super::fetch::Fetch;
use super::schema::{COMMAND, Schema};
use crate::port::{CallOptions, QmpPort};
use crate::qmp::{Error, UsageError};

impl Machine {
    /// The names of QEMU's commands and their arguments, which QEMU is asked for when this
    /// is first awaited. It is kept until the connection ends or QEMU's version changes;
    /// who asks while it is being loaded waits for the same reply. Dropping the future
    /// leaves the others alone.
    ///
    /// # Errors
    ///
    /// Those of every command: it has the deadline of the port's property
    /// `command-timeout`. [`UsageError::NotSupported`] at once while a SPICE port is
    /// [mute](QmpPort::is_mute), and
    /// [`PeerError::UnexpectedReply`](crate::PeerError::UnexpectedReply) for a schema that
    /// is none, or is far larger than QEMU's.
    pub async fn load_schema(&self) -> Result<Schema, Error> {
        let fetch = self.fetch()?;
        poll_fn(|cx| fetch.poll(cx)).await
    }

    fn fetch(&self) -> Result<Fetch<Schema>, Error> {
        if !self.imp().home().is_here() {
            return Err(not_supported("a machine is used on its port's thread"));
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
            // An error is for those who wait: the next one asks again.
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
