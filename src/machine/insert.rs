// SPDX-License-Identifier: MIT OR Apache-2.0
//! Changes the medium of a drive.

use std::future::{Future, IntoFuture};
#[cfg(unix)]
use std::os::fd::{AsFd, OwnedFd};
use std::pin::Pin;
use std::time::Duration;

use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::drive::Drive;
#[cfg(unix)]
use super::medium_fd::{self, MediumFd};
use crate::port::{QmpPort, within};
use crate::qmp::{Error, UsageError};

/// A medium that is being inserted: [`Drive::insert`].
#[derive(Debug)]
#[must_use = "a medium is inserted when this is awaited"]
pub struct Insert {
    drive: Drive,
    file: String,
    format: Option<String>,
    read_only: Option<bool>,
    force: bool,
    timeout: Option<Duration>,
    #[cfg(unix)]
    fd: Option<Result<OwnedFd, Error>>,
}

/// How long to wait for the list after a change.
const RELOAD_TIMEOUT: Duration = Duration::from_secs(1);

impl Drive {
    /// Inserts a medium in place of the current one, if any
    /// (`blockdev-change-medium`): opens the tray and closes it.
    ///
    /// `file` is a file on QEMU's host, or anything else that QEMU opens by a name. QEMU guesses
    /// its format from the contents: set [`format`](Insert::format) if others, such as a guest,
    /// could write to it.
    ///
    /// The drive's properties have changed when this ends.
    ///
    /// ```no_run
    /// # async fn f(drive: spice_qmp::Drive) -> Result<(), Box<dyn std::error::Error>> {
    /// drive.insert("/srv/debian.iso").format("raw").read_only(true).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if QEMU refuses: the guest has locked the drive (see
    /// [`force`](Insert::force)), it has no removable medium, the file cannot be opened or
    /// does not have the format. Then nothing has changed. But if QEMU finds out only at the end
    /// that another program writes to the file, the old medium is lost and the tray stays open:
    /// the error says so, and `lost-medium` is what to insert again. And the errors of every command.
    pub fn insert(&self, file: &str) -> Insert {
        Insert {
            drive: self.clone(),
            file: file.to_owned(),
            format: None,
            read_only: None,
            force: false,
            timeout: None,
            #[cfg(unix)]
            fd: None,
        }
    }

    /// Opens the tray and removes the medium, if there is one. The tray stays open.
    /// `force`: even if the guest has locked it, which is like pulling the cable.
    ///
    /// The drive's properties have changed when this ends.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if the guest has locked the tray: it is asked to release it,
    /// and may do so later; or if the drive has no removable medium. Also the errors of every
    /// command.
    pub async fn eject(&self, force: bool) -> Result<(), Error> {
        let arguments = json!({ "id": self.id(), "force": force });
        let ejected = port_of(self)?.execute::<IgnoredAny>("eject", arguments);
        let ejected = ejected.await;
        after(self, &ejected).await;
        ejected.map(|IgnoredAny| ())
    }
}

impl Insert {
    /// The format of the file, such as `raw` or `qcow2`, instead of a guess.
    pub fn format(mut self, format: &str) -> Self {
        self.format = Some(format.to_owned());
        self
    }

    /// Whether the guest can only read the medium. By default it is read-only if the previous
    /// medium was; the first one is read-only.
    pub fn read_only(mut self, read_only: bool) -> Self {
        self.read_only = Some(read_only);
        self
    }

    /// Opens the tray even if the guest has locked it. Requires QEMU 7.1 or later.
    pub fn force(mut self) -> Self {
        self.force = true;
        self
    }

    /// Sends an open file, for a QEMU that cannot open it itself; `file` is then
    /// only its name in QEMU's lists of descriptors, and the property `medium` is
    /// QEMU's name for it: `/dev/fdset/1`. It is duplicated now. By default,
    /// the medium is read-only if the descriptor is.
    ///
    /// The call fails with [`UsageError::NotSupported`] if the port cannot send
    /// descriptors: see [`Call::fds`](crate::Call::fds). After a medium was removed, QEMU 7.2
    /// closes its descriptor only while the machine runs.
    #[cfg(unix)]
    pub fn fd(mut self, fd: impl AsFd) -> Self {
        if self.read_only.is_none() {
            self.read_only = medium_fd::is_read_only(fd.as_fd());
        }
        self.fd = Some(fd.as_fd().try_clone_to_owned().map_err(|error| {
            UsageError::InvalidArgument(format!("the descriptor: {error}").into()).into()
        }));
        self
    }

    /// Ends with [`Error::TimedOut`] if QEMU does not answer within this time; overrides
    /// the port's `command-timeout`. QEMU may still change the medium then.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    #[cfg_attr(not(unix), allow(unused_mut, reason = "there are no descriptors"))]
    async fn run(mut self) -> Result<(), Error> {
        let (drive, port) = (self.drive.clone(), port_of(&self.drive)?);
        #[cfg(unix)]
        let fd = match self.fd.take() {
            Some(fd) => Some(MediumFd::send(&port, &fd?, &self.file).await?),
            None => None,
        };
        #[cfg(unix)]
        if let Some(fd) = &fd {
            self.file = fd.path();
        }
        let arguments = self.arguments();
        let before = drive.medium();
        let mut change = port.execute::<IgnoredAny>(COMMAND, arguments);
        if let Some(timeout) = self.timeout {
            change = change.timeout(timeout);
        }
        let changed = change.await;
        // QEMU has a duplicate.
        #[cfg(unix)]
        drop(fd);
        after(&drive, &changed).await;
        match (changed, before) {
            (Ok(IgnoredAny), _) => Ok(()),
            (Err(error), Some(before)) => Err(with_loss(&drive, &before, error)),
            (Err(error), None) => Err(error),
        }
    }

    fn arguments(&self) -> Value {
        let mut arguments = json!({ "id": self.drive.id(), "filename": self.file });
        if let Some(format) = &self.format {
            arguments["format"] = Value::from(format.as_str());
        }
        if let Some(read_only) = self.read_only {
            let mode = if read_only { "read-only" } else { "read-write" };
            arguments["read-only-mode"] = Value::from(mode);
        }
        if self.force {
            arguments["force"] = Value::from(true);
        }
        arguments
    }
}

impl IntoFuture for Insert {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

const COMMAND: &str = "blockdev-change-medium";

fn port_of(drive: &Drive) -> Result<QmpPort, Error> {
    let gone = || Error::Closed("the drive has no port".into());
    drive.port().ok_or_else(gone)
}

/// Waits until the list shows the effect of a command, if QEMU has answered it.
async fn after(drive: &Drive, answer: &Result<IgnoredAny, Error>) {
    if matches!(answer, Ok(_) | Err(Error::Command { .. })) {
        let _ = within(RELOAD_TIMEOUT, drive.reloaded()).await;
    }
}

/// The error, extended by the loss of the medium, if any.
fn with_loss(drive: &Drive, before: &str, error: Error) -> Error {
    match error {
        Error::Command {
            command,
            class,
            desc,
        } if drive.medium().is_none() => {
            drive.lose(before);
            let loss = format!("{desc} (the drive is empty now: {before} was removed)");
            Error::Command {
                command,
                class,
                desc: loss.into(),
            }
        }
        error => error,
    }
}
