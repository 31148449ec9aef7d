// SPDX-License-Identifier: MIT OR Apache-2.0
//! Screenshots of a machine.

use std::future::{Future, IntoFuture};
use std::io::{self, Read};
use std::pin::Pin;
use std::time::Duration;

use glib::subclass::prelude::*;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use super::Machine;
use super::leftover::{Leftover, Memory};
use crate::port::{Call, CallOptions, QmpPort, within};
use crate::qmp::{Error, PeerError, UsageError};
use crate::spawn::spawn_on;

/// The largest image that is accepted, in bytes. A peer could write without end.
const MAX_SCREENSHOT: usize = 64 << 20;

/// A screenshot that is being taken: [`Machine::screenshot`].
#[derive(Debug)]
#[must_use = "a screenshot is taken when this is awaited"]
pub struct Screenshot {
    machine: Machine,
    device: Option<String>,
    head: Option<u32>,
    timeout: Option<Duration>,
}

impl Machine {
    /// Takes a screenshot of the machine's first screen: a PNG file. QEMU 7.1 or
    /// later writes it (`screendump`) to memory of this process: a file descriptor is sent,
    /// and QEMU's descriptor set for it is removed, even if the command fails or this is dropped.
    ///
    /// ```no_run
    /// # async fn f(machine: spice_qmp::Machine) -> Result<(), Box<dyn std::error::Error>> {
    /// let png = machine.screenshot().await?;
    /// std::fs::write("screen.png", &png)?;
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`UsageError::NotSupported`] if the port cannot send file descriptors, before
    /// anything is sent: see [`Call::fds`]; also on systems other than Linux.
    /// [`Error::Command`] if QEMU has no screen or no such device.
    /// [`PeerError::UnexpectedReply`] for anything but a PNG file of at most
    /// 64 MiB. Also the errors of every command.
    pub fn screenshot(&self) -> Screenshot {
        Screenshot {
            machine: self.clone(),
            device: None,
            head: None,
            timeout: None,
        }
    }
}

impl Screenshot {
    /// The id of the display device.
    pub fn device(mut self, id: &str) -> Self {
        self.device = Some(id.to_owned());
        self
    }

    /// The head of the [`device`](Self::device), counted from 0.
    pub fn head(mut self, head: u32) -> Self {
        self.head = Some(head);
        self
    }

    /// Ends with [`Error::TimedOut`] if it takes longer; overrides the port's
    /// `command-timeout`.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    async fn run(self) -> Result<glib::Bytes, Error> {
        let Some(port) = self.machine.port() else {
            return Err(Error::Closed("the machine has no port".into()));
        };
        let after = self
            .timeout
            .unwrap_or_else(|| match port.command_timeout() {
                0 => Duration::MAX,
                millis => Duration::from_millis(millis.into()),
            });
        let dump = within(after, self.dump(&port)).await;
        dump.unwrap_or_else(|| {
            Err(Error::TimedOut {
                what: COMMAND.into(),
                after,
                hint: "",
            })
        })
    }

    /// Makes QEMU write the image, and reads it.
    async fn dump(&self, port: &QmpPort) -> Result<glib::Bytes, Error> {
        let mut set = FdSet::new(&self.machine, port).map_err(|error| no_memory(&error))?;
        let id = set.fill().await?;
        let mut arguments = json!({ "filename": format!("/dev/fdset/{id}"), "format": "png" });
        if let Some(device) = &self.device {
            arguments["device"] = Value::from(device.as_str());
        }
        if let Some(head) = self.head {
            arguments["head"] = Value::from(head);
        }
        let command = port.execute::<IgnoredAny>(COMMAND, arguments);
        let dumped = command.timeout(Duration::MAX).await;
        if let Err(Error::Closed(_)) = dumped {
            // The next connection may be to a different QEMU.
            set.id = None;
            set.left = None;
        }
        dumped?;
        read(&set.memory()?.file)
    }
}

impl IntoFuture for Screenshot {
    type Output = Result<glib::Bytes, Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

const COMMAND: &str = "screendump";

/// A descriptor set of QEMU's with one file descriptor. It is removed when this is dropped:
/// QEMU executes commands in order, so that happens after the commands that use it.
///
/// QEMU keeps the empty set of an image that it has written, and QEMU 7.2 keeps the
/// descriptor, too, while the machine is not running. The machine's next screenshot reuses
/// what is left, so that leftovers do not accumulate.
struct FdSet {
    machine: Machine,
    port: QmpPort,
    /// `Some` until this is dropped.
    memory: Option<Memory>,
    /// The id of the set that holds the descriptor.
    id: Option<u64>,
    /// The id of the set that may be left of the last screenshot.
    left: Option<u64>,
    adding: Option<Call<Added>>,
}

/// The reply to `add-fd`.
#[derive(Deserialize)]
struct Added {
    #[serde(rename = "fdset-id")]
    id: u64,
}

/// A set in the reply to `query-fdsets`.
#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "fdset-id")]
    id: u64,
    fds: Vec<ListedFd>,
}

#[derive(Deserialize)]
struct ListedFd {
    opaque: Option<String>,
}

impl FdSet {
    fn new(machine: &Machine, port: &QmpPort) -> io::Result<Self> {
        let (left, memory) = match machine.imp().take_leftover() {
            Some(Leftover { id, memory }) => (Some(id), memory),
            None => (None, Memory::new()?),
        };
        Ok(Self {
            machine: machine.clone(),
            port: port.clone(),
            memory: Some(memory),
            id: None,
            left,
            adding: None,
        })
    }

    fn memory(&self) -> Result<&Memory, Error> {
        let gone = || Error::Closed("the screenshot was dropped".into());
        self.memory.as_ref().ok_or_else(gone)
    }

    /// Sends the descriptor, unless QEMU has it already. QEMU chooses the id: another
    /// client's set must not be used.
    async fn fill(&mut self) -> Result<u64, Error> {
        let holds = self.look_at_left().await?;
        // A cancelled call may have written until now.
        self.memory()?.rewind().map_err(|error| no_memory(&error))?;
        if let (Some(id), true) = (self.left, holds) {
            self.id = Some(id);
            return Ok(id);
        }
        let memory = self.memory()?;
        let mut arguments = json!({ "opaque": memory.name });
        if let Some(id) = self.left {
            arguments["fdset-id"] = Value::from(id);
        }
        let call = self.port.execute("add-fd", arguments).fds([&memory.end]);
        // A timeout would leave a set whose id is unknown.
        let call = call.timeout(Duration::MAX);
        let added = self.adding.insert(call).await;
        self.adding = None;
        let id = added?.id;
        self.id = Some(id);
        Ok(id)
    }

    /// Whether the descriptor is still in the last screenshot's set. Forgets a set that no
    /// longer exists.
    async fn look_at_left(&mut self) -> Result<bool, Error> {
        let (Some(id), memory) = (self.left, self.memory()?) else {
            return Ok(false);
        };
        let sets = self.port.execute::<Vec<Listed>>("query-fdsets", ());
        let sets = sets.timeout(Duration::MAX).await?;
        let set = sets.into_iter().find(|set| set.id == id);
        match set.as_ref().map(|set| &set.fds[..]) {
            Some([]) => Ok(false),
            Some([fd]) if fd.opaque.as_ref() == Some(&memory.name) => Ok(true),
            // A different QEMU's, or another client's.
            _ => {
                self.left = None;
                Ok(false)
            }
        }
    }
}

impl Drop for FdSet {
    fn drop(&mut self) {
        let Some(memory) = self.memory.take() else {
            return;
        };
        let (machine, port) = (self.machine.clone(), self.port.clone());
        if let Some(id) = self.id {
            remove(&machine, &port, Leftover { id, memory });
        } else if let Some(adding) = self.adding.take() {
            spawn_on(&self.port.main_context(), async move {
                if let Ok(Added { id }) = adding.await {
                    remove(&machine, &port, Leftover { id, memory });
                }
            });
        } else if let Some(id) = self.left {
            machine.imp().keep(Leftover { id, memory });
        }
    }
}

/// Removes the descriptor, and remembers what may be left.
fn remove(machine: &Machine, port: &QmpPort, leftover: Leftover) {
    let arguments = format!(r#"{{"fdset-id":{}}}"#, leftover.id);
    let options = CallOptions {
        timeout: Some(Duration::MAX),
        ..CallOptions::default()
    };
    port.execute_with("remove-fd", Some(&arguments), options, |_| ());
    leftover.memory.clear();
    machine.imp().keep(leftover);
}

fn no_memory(error: &io::Error) -> Error {
    UsageError::NotSupported(format!("{COMMAND}: no file in memory: {error}").into()).into()
}

/// Reads what QEMU wrote, which must be a complete PNG file.
fn read(picture: impl Read) -> Result<glib::Bytes, Error> {
    let mut bytes = Vec::new();
    let limit = MAX_SCREENSHOT as u64 + 1;
    let reason = match picture.take(limit).read_to_end(&mut bytes) {
        Err(error) => format!("the picture cannot be read: {error}"),
        Ok(0) => "no picture was written".into(),
        Ok(_) if bytes.len() > MAX_SCREENSHOT => {
            format!("a picture of more than {MAX_SCREENSHOT} bytes was written")
        }
        Ok(_) if !bytes.starts_with(PNG_START) => "what was written is not a PNG file".into(),
        Ok(_) if !bytes.ends_with(PNG_END) => "the PNG file that was written has no end".into(),
        Ok(_) => return Ok(glib::Bytes::from_owned(bytes)),
    };
    Err(PeerError::UnexpectedReply {
        command: COMMAND.into(),
        reason: reason.into(),
    }
    .into())
}

const PNG_START: &[u8] = b"\x89PNG\r\n\x1a\n";
/// The chunk IEND.
const PNG_END: &[u8] = b"\0\0\0\0IEND\xaeB`\x82";

#[cfg(test)]
mod tests {
    use std::io::repeat;

    use super::*;

    fn refusal(picture: impl Read) -> String {
        read(picture).unwrap_err().to_string()
    }

    #[test]
    fn only_a_whole_png_file_is_accepted() {
        let whole = [PNG_START, b"pixels", PNG_END].concat();
        assert_eq!(read(&whole[..]).unwrap(), whole);
        assert!(refusal(&whole[..whole.len() - 1]).contains("has no end"));
        assert!(refusal(&whole[1..]).contains("not a PNG file"));
        assert!(refusal(&b"P6 640 480 255"[..]).contains("not a PNG file"));
        assert!(refusal(&[][..]).contains("no picture"));
    }

    #[test]
    fn a_picture_has_a_limit() {
        let of = |len: usize| {
            let pixels = len - PNG_START.len() - PNG_END.len();
            PNG_START
                .chain(repeat(0).take(pixels as u64))
                .chain(PNG_END)
        };
        assert_eq!(read(of(MAX_SCREENSHOT)).unwrap().len(), MAX_SCREENSHOT);
        assert!(refusal(of(MAX_SCREENSHOT + 1)).contains("more than 67108864 bytes"));
        assert!(refusal(repeat(0)).contains("more than 67108864 bytes"));
    }
}
