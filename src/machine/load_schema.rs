//! Loads the schema: several askers share one fetch, and what it brought.

use std::future::poll_fn;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Poll, Waker};

use glib::subclass::prelude::*;

use super::Machine;
use super::schema::{COMMAND, Schema};
use crate::port::{CallOptions, QmpPort};
use crate::qmp::{Error, UsageError};

/// What the machine keeps of its schema: at most one, or a fetch that is under way. Any
/// thread may drop it.
pub(super) type Fetch = Arc<Mutex<Progress>>;

#[derive(Debug, Default)]
pub(super) struct Progress {
    result: Option<Result<Schema, Error>>,
    wakers: Vec<Waker>,
}

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
        let fetch = self.imp().fetch()?;
        poll_fn(|cx| {
            let mut progress = lock(&fetch);
            if let Some(result) = &progress.result {
                return Poll::Ready(result.clone());
            }
            if !progress.wakers.iter().any(|it| it.will_wake(cx.waker())) {
                progress.wakers.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }
}

impl super::imp::Machine {
    fn fetch(&self) -> Result<Fetch, Error> {
        if !self.home().is_here() {
            return Err(not_supported("a machine is used on its port's thread"));
        }
        if let Some(fetch) = &*self.schema.borrow() {
            return Ok(fetch.clone());
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

    fn start_fetch(&self, port: &QmpPort) -> Fetch {
        let fetch = Fetch::default();
        self.schema.replace(Some(fetch.clone()));
        let (machine, own) = (self.obj().downgrade(), fetch.clone());
        port.execute_with(COMMAND, None, CallOptions::default(), move |reply| {
            let result = reply.and_then(|reply| Schema::from_json(&reply));
            // An error is for those who wait: the next one asks again.
            if let (Err(_), Some(machine)) = (&result, machine.upgrade()) {
                machine.imp().forget_schema(Some(&own));
            }
            let mut progress = lock(&own);
            progress.result = Some(result);
            let wakers = std::mem::take(&mut progress.wakers);
            drop(progress);
            wakers.into_iter().for_each(Waker::wake);
        });
        fetch
    }

    /// Forgets the schema, if it is `this` one. Who waits for it gets it all the same.
    pub(super) fn forget_schema(&self, this: Option<&Fetch>) {
        let mut schema = self.schema.borrow_mut();
        let is_it = |kept: &Fetch| this.is_none_or(|this| Arc::ptr_eq(this, kept));
        if schema.as_ref().is_some_and(is_it) {
            *schema = None;
        }
    }
}

fn not_supported(why: &str) -> Error {
    UsageError::NotSupported(format!("{COMMAND}: {why}").into()).into()
}

fn lock(fetch: &Fetch) -> std::sync::MutexGuard<'_, Progress> {
    fetch.lock().unwrap_or_else(PoisonError::into_inner)
}
