// SPDX-License-Identifier: MIT OR Apache-2.0
//! A command as a future.

use std::cell::RefCell;
use std::fmt;
use std::future::Future;
#[cfg(unix)]
use std::os::fd::AsFd;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glib::subclass::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::QmpPort;
#[cfg(unix)]
use super::fds;
use super::requests::CallOptions;
use crate::qmp::{Band, CallId, Error, PeerError, UsageError, misfit};
use crate::transport::Fds;

/// A command that is sent when it is first polled, and yields its reply.
///
/// Dropping it cancels the call and nothing else: a command that was not sent
/// yet will not be sent, and the reply to one that was sent is dropped.
#[must_use = "a command is sent when it is awaited"]
pub struct Call<R> {
    port: QmpPort,
    command: Box<str>,
    arguments: Result<Option<String>, Error>,
    options: CallOptions,
    fds: Result<Option<Fds>, Error>,
    decode: Decode<R>,
    stage: Stage,
}

/// Converts the reply to the named command to a value.
type Decode<R> = fn(&str, &str) -> Result<R, Error>;

enum Stage {
    New,
    Running(CallId, Rc<RefCell<Slot>>),
    Done,
}

/// Where the callback stores the reply.
#[derive(Default)]
struct Slot {
    reply: Option<Result<String, Error>>,
    waker: Option<Waker>,
}

impl<R> Call<R> {
    pub(super) fn new(
        port: &QmpPort,
        command: &str,
        arguments: &impl Serialize,
        band: Band,
        decode: Decode<R>,
    ) -> Self {
        Self {
            port: port.clone(),
            command: command.into(),
            arguments: encode(arguments),
            options: CallOptions {
                band,
                timeout: None,
            },
            fds: Ok(None),
            decode,
            stage: Stage::New,
        }
    }

    /// Ends the call with [`Error::TimedOut`] if no reply arrives within `timeout`
    /// of its start; overrides the port's `command-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.options.timeout = Some(timeout);
        self
    }

    /// Sends file descriptors with the command, as `getfd` and `add-fd` require.
    ///
    /// They are duplicated now, so you may close yours at once; the duplicates are closed
    /// once they have been sent, or when the call ends before that. QEMU passes the first one to
    /// the command and closes the others.
    ///
    /// One such command is in flight at a time, because QEMU would mix up the descriptors
    /// of two: commands issued after a second one wait with it. If a command fails
    /// before QEMU looks for its descriptor, or needs none, the descriptor goes to the next
    /// command that has none of its own.
    ///
    /// The call fails with [`UsageError::NotSupported`], and nothing is sent, if the port is
    /// neither on a Unix socket nor on a D-Bus display. It fails with
    /// [`UsageError::InvalidArgument`] for more than [`MAX_FDS`](super::MAX_FDS) descriptors,
    /// or if one cannot be duplicated.
    ///
    /// ```no_run
    /// # async fn f(port: spice_qmp::QmpPort) -> Result<(), Box<dyn std::error::Error>> {
    /// use serde_json::{Value, json};
    /// let disk = std::fs::File::open("disk.qcow2")?;
    /// let added: Value = port
    ///     .execute("add-fd", json!({"fdset-id": 1}))
    ///     .fds([disk])
    ///     .await?;
    /// # Ok(()) }
    /// ```
    #[cfg(unix)]
    pub fn fds(mut self, fds: impl IntoIterator<Item = impl AsFd>) -> Self {
        self.fds = fds::duplicate(fds);
        self
    }

    fn start(&mut self) -> Result<(), Error> {
        let arguments = std::mem::replace(&mut self.arguments, Ok(None))?;
        let fds = std::mem::replace(&mut self.fds, Ok(None))?;
        let slot = Rc::new(RefCell::new(Slot::default()));
        let callback = Box::new({
            let slot = slot.clone();
            move |reply| {
                let waker = {
                    let mut slot = slot.borrow_mut();
                    slot.reply = Some(reply);
                    slot.waker.take()
                };
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        });
        let id = self.port.imp().execute(
            &self.command,
            arguments.as_deref(),
            self.options,
            fds,
            callback,
        );
        self.stage = Stage::Running(id, slot);
        Ok(())
    }
}

// Nothing in it is pinned.
impl<R> Unpin for Call<R> {}

impl<R> Future for Call<R> {
    type Output = Result<R, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if let Stage::New = self.stage
            && let Err(error) = self.start()
        {
            self.stage = Stage::Done;
            return Poll::Ready(Err(error));
        }
        let Stage::Running(_, slot) = &self.stage else {
            return Poll::Pending;
        };
        let reply = {
            let mut slot = slot.borrow_mut();
            if slot.reply.is_none() {
                slot.waker = Some(cx.waker().clone());
            }
            slot.reply.take()
        };
        let Some(reply) = reply else {
            return Poll::Pending;
        };
        self.stage = Stage::Done;
        Poll::Ready(reply.and_then(|reply| (self.decode)(&self.command, &reply)))
    }
}

impl<R> Drop for Call<R> {
    fn drop(&mut self) {
        if let Stage::Running(id, _) = self.stage {
            self.port.imp().forget(id);
        }
    }
}

impl<R> fmt::Debug for Call<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Arguments may contain secrets.
        f.debug_struct("Call")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// The JSON text of a command's arguments; `None` for `()`.
fn encode(arguments: &impl Serialize) -> Result<Option<String>, Error> {
    let text = serde_json::to_string(arguments)
        .map_err(|error| UsageError::InvalidArgument(format!("arguments: {error}").into()))?;
    Ok((text != "null").then_some(text))
}

/// Decodes a reply as any type.
pub(super) fn decode<R: DeserializeOwned>(command: &str, reply: &str) -> Result<R, Error> {
    serde_json::from_str(reply).map_err(|error| {
        PeerError::UnexpectedReply {
            command: command.into(),
            reason: misfit(&error).into(),
        }
        .into()
    })
}
