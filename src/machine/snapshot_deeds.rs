// SPDX-License-Identifier: MIT OR Apache-2.0
//! Saves, loads and deletes snapshots.

use std::future::{Future, IntoFuture, poll_fn};
use std::pin::pin;
use std::task::Poll;
use std::time::Duration;

use futures_core::Stream;
use glib::subclass::prelude::*;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::Machine;
use super::fetch::Fetch;
use super::snapshots::{Disk, OnDisk, disks};
use crate::port::{QmpPort, within};
use crate::qmp::{Error, ErrorClass, UsageError};
use crate::spawn::spawn_on;

impl Machine {
    /// Saves the current state of the machine and of its disks under a new name
    /// (`snapshot-save`). A running machine continues when this ends.
    ///
    /// All disks that can be written to must be able to hold snapshots, such as those in the
    /// format qcow2. The state is saved on the first one. Meanwhile QEMU does nothing
    /// else and answers no client; that may take a while, and has neither progress nor a deadline.
    ///
    /// Once begun, the operation continues even if the future is dropped. Later snapshot
    /// operations on the machine wait for it.
    ///
    /// ```no_run
    /// # async fn f(machine: spice_qmp::Machine) -> Result<(), spice_qmp::Error> {
    /// machine.save_snapshot("before the update").await?;
    /// // ...
    /// machine.load_snapshot("before the update").await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if a snapshot of this name exists, the machine has no disk, or one that
    /// cannot hold snapshots, or QEMU cannot write the state: then nothing has changed.
    /// [`UsageError::InvalidArgument`] for a name that is empty or has more than 255 bytes,
    /// [`UsageError::NotSupported`] while a SPICE port is [mute](QmpPort::is_mute), and
    /// the errors of every command.
    pub fn save_snapshot(&self, tag: &str) -> impl Future<Output = Result<(), Error>> + use<> {
        self.begin(Deed::Save, tag)
    }

    /// Returns to a snapshot: restores the memory and all disks
    /// (`snapshot-load`). Their current contents are lost.
    ///
    /// A running machine is paused, and resumed when this ends, even if it fails; one
    /// that is not running stays as it is, even if it ran when the snapshot was taken. So
    /// a load that fails does not end in the run state `restore-vm`, in which a SPICE port
    /// is mute. If the connection ends meanwhile, the machine may stay paused.
    ///
    /// As for [`save_snapshot`](Self::save_snapshot), QEMU does nothing else meanwhile, and
    /// the operation continues even if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if there is no such snapshot, a disk does not have it, or it is
    /// one of disks only: then nothing was done. Also if its state does not fit the
    /// machine, which may have had other devices or a different amount of memory: QEMU finds that
    /// out only when it has restored the disks and reset the machine. And the errors of every command.
    pub fn load_snapshot(&self, tag: &str) -> impl Future<Output = Result<(), Error>> + use<> {
        self.begin(Deed::Load, tag)
    }

    /// Deletes a snapshot from all disks that have it (`snapshot-delete`). The operation
    /// continues even if the future is dropped.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if there is no such snapshot. Also the errors of every command.
    pub fn delete_snapshot(&self, tag: &str) -> impl Future<Output = Result<(), Error>> + use<> {
        self.begin(Deed::Delete, tag)
    }

    /// Completes the operation, even if the future is dropped: QEMU does not stop half way, and
    /// the machine must be resumed.
    fn begin(&self, deed: Deed, tag: &str) -> impl Future<Output = Result<(), Error>> + use<> {
        let (machine, tag) = (self.clone(), tag.to_owned());
        async move {
            if !machine.is_on_its_thread() {
                return Err(deed.not_supported("a machine must be used on its port's thread"));
            }
            let end = Fetch::new();
            let before = machine.imp().note_deed(end.clone());
            let (own, context) = (end.clone(), machine.main_context());
            spawn_on(&context, async move {
                if let Some(before) = before {
                    let _ = poll_fn(|cx| before.poll(cx)).await;
                }
                own.end(deed.perform(&machine, &tag).await);
            });
            poll_fn(|cx| end.poll(cx)).await
        }
    }
}

/// An operation on a snapshot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Deed {
    Save,
    Load,
    Delete,
}

impl Deed {
    fn command(self) -> &'static str {
        match self {
            Self::Save => "snapshot-save",
            Self::Load => "snapshot-load",
            Self::Delete => "snapshot-delete",
        }
    }

    async fn perform(self, machine: &Machine, tag: &str) -> Result<(), Error> {
        let Some(port) = machine.port() else {
            return Err(Error::Closed("the machine has no port".into()));
        };
        if port.is_mute() {
            return Err(self.not_supported(MUTE));
        }
        let disks = disks(&port).await?;
        let arguments = self.arguments(tag, &disks)?;
        let job = machine.run_job(self.command(), arguments);
        let end = match self {
            Self::Load => while_paused(&port, job.into_future()).await,
            Self::Save | Self::Delete => {
                let end = job.await;
                let _ = within(RELOAD_TIMEOUT, machine.imp().snapshots().reloaded()).await;
                end
            }
        };
        end.map_err(|error| explain(error, &disks))
    }

    /// The arguments of the command, if it is safe to ask QEMU for this: loading a missing
    /// snapshot would harm the machine.
    fn arguments(self, tag: &str, disks: &[Disk]) -> Result<Value, Error> {
        let has = |disk: &&Disk| disk.snapshots.iter().any(|it| it.tag == tag);
        let nodes = |disks: &[&Disk]| disks.iter().map(|it| it.node.clone()).collect::<Vec<_>>();
        let all: Vec<_> = disks.iter().collect();
        let having: Vec<_> = disks.iter().filter(has).collect();
        if self != Self::Save && having.is_empty() {
            return Err(self.refused(format!("there is no snapshot {tag:?}")));
        }
        let (vmstate, devices) = match self {
            Self::Save => {
                if tag.is_empty() || tag.len() > LONGEST_TAG {
                    let why = format!("the name of a snapshot has 1 to {LONGEST_TAG} bytes");
                    return Err(UsageError::InvalidArgument(why.into()).into());
                }
                if let Some(disk) = having.first() {
                    let why = format!("the drive {} has a snapshot {tag:?} already", disk.name);
                    return Err(self.refused(why));
                }
                let Some(first) = all.first() else {
                    let why = "the machine has no disk that can be written to".to_owned();
                    return Err(self.refused(why));
                };
                (Some(&first.node), nodes(&all))
            }
            Self::Load => {
                if let Some(disk) = all.iter().find(|it| !has(it)) {
                    let why = format!("the snapshot {tag:?} is not on the drive {}", disk.name);
                    return Err(self.refused(why));
                }
                // QEMU loads the first one with this name.
                let holds_state = |disk: &&&Disk| {
                    let first = disk.snapshots.iter().find(|it| it.tag == tag);
                    first.is_some_and(OnDisk::has_state)
                };
                let Some(holder) = all.iter().find(holds_state) else {
                    let why = format!("the snapshot {tag:?} is of disks only, not of the machine");
                    return Err(self.refused(why));
                };
                (Some(&holder.node), nodes(&all))
            }
            Self::Delete => (None, nodes(&having)),
        };
        let mut arguments = json!({ "tag": tag, "devices": devices });
        if let Some(vmstate) = vmstate {
            arguments["vmstate"] = Value::from(vmstate.as_str());
        }
        Ok(arguments)
    }

    fn refused(self, why: String) -> Error {
        Error::Command {
            command: self.command().into(),
            class: ErrorClass::Generic,
            desc: why.into(),
        }
    }

    fn not_supported(self, why: &str) -> Error {
        UsageError::NotSupported(format!("{}: {why}", self.command()).into()).into()
    }
}

/// QEMU cuts longer names.
const LONGEST_TAG: usize = 255;

/// How long to wait for the list after a change.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(1);

const MUTE: &str = "QEMU does not answer on SPICE while the machine is stopped by an error";

/// Loads a snapshot while the machine is paused: QEMU leaves a running one in `restore-vm`
/// if that fails.
async fn while_paused(
    port: &QmpPort,
    load: impl Future<Output = Result<(), Error>>,
) -> Result<(), Error> {
    let paused = pause(port).await?;
    let end = load.await;
    if !paused {
        return end;
    }
    let resumed = port.execute::<IgnoredAny>("cont", ());
    let resumed = resumed.timeout(Duration::MAX).await;
    end.and(resumed.map(|IgnoredAny| ()))
}

/// Pauses the machine. Returns false if it was not running, which `stop` does not change.
async fn pause(port: &QmpPort) -> Result<bool, Error> {
    // In these states QEMU records that the machine is not to run in the end.
    if port.status().is_some_and(|it| it.status() == "inmigrate") {
        return Ok(false);
    }
    let mut stops = pin!(port.events_named(["STOP"]));
    let stop = port.execute::<IgnoredAny>("stop", ());
    stop.timeout(Duration::MAX).await?;
    // The event comes before the reply.
    let stopped = poll_fn(|cx| {
        let event = stops.as_mut().poll_next(cx);
        Poll::Ready(matches!(event, Poll::Ready(Some(_))))
    });
    Ok(stopped.await)
}

/// The error, with an explanation of QEMU's message if that is not plain.
fn explain(error: Error, disks: &[Disk]) -> Error {
    let Error::Command {
        command,
        class,
        desc,
    } = error
    else {
        return error;
    };
    let unfit = disks
        .iter()
        .find(|it| it.format != "qcow2" && desc.contains(&format!("'{}'", it.node)));
    let meaning = if let Some(Disk { name, format, .. }) = unfit {
        format!("the drive {name} has the format {format}, which holds no snapshots")
    } else if &*command == Deed::Save.command() && is_about_writing(&desc) {
        "the state of the machine cannot be written: the host may have no space left".into()
    } else if desc.contains("loading VM state") {
        "the state does not fit the machine: its memory or devices may be others now".into()
    } else {
        return Error::Command {
            command,
            class,
            desc,
        };
    };
    Error::Command {
        command,
        class,
        desc: format!("{meaning} ({desc})").into(),
    }
}

/// Whether QEMU could not write: it also says "I/O error" if a disk is full.
fn is_about_writing(desc: &str) -> bool {
    let errors = ["Input/output error", "No space left on device"];
    errors.iter().any(|error| desc.contains(error))
}
