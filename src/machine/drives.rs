// SPDX-License-Identifier: MIT OR Apache-2.0
//! The drives of a machine, as `query-block` lists them.

use std::borrow::Cow;
use std::future::Future;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::drive::{Described, State};
use super::list::{List, Source, text};
use crate::port::{Event, QmpPort};
use crate::qmp::{Error, PeerError, misfit};

/// The source of the items of [`Machine::drives`](super::Machine::drives).
pub(super) struct Drives;

/// A longer reply is not parsed; a drive takes about 1 kB, and a snapshot on it 200 bytes.
const MAX_REPLY: usize = 4 << 20;

impl Source for Drives {
    type Record = Described;

    const COMMAND: &'static str = "query-block";

    const EVENTS: &'static [&'static str] = &[
        "DEVICE_TRAY_MOVED",
        "DEVICE_DELETED",
        // These affect `io-status`, and a reset unlocks the tray.
        STOPPED_BY_DISK,
        "RESUME",
        "RESET",
    ];

    fn load(
        &self,
        port: &QmpPort,
    ) -> impl Future<Output = Result<Vec<Described>, Error>> + 'static {
        let reply = port.execute::<Box<RawValue>>(Self::COMMAND, ());
        async move { read(reply.await?.get()) }
    }

    fn event(&self, list: &List, event: &Event) {
        // QEMU 7.2 reports each failed request of the guest, even if the machine continues.
        if event.name() != STOPPED_BY_DISK || stops(event) {
            list.reload_soon();
        }
    }
}

const STOPPED_BY_DISK: &str = "BLOCK_IO_ERROR";

fn stops(event: &Event) -> bool {
    #[derive(Deserialize)]
    struct Data {
        action: String,
    }

    event.decode().is_ok_and(|data: Data| data.action == "stop")
}

/// An element of the reply (QAPI type `BlockInfo`).
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow)]
    device: Cow<'a, str>,
    /// Set if a device uses the drive.
    #[serde(borrow)]
    qdev: Option<Cow<'a, str>>,
    removable: bool,
    locked: bool,
    #[serde(default)]
    tray_open: bool,
    #[serde(borrow, rename = "io-status")]
    io_status: Option<Cow<'a, str>>,
    #[serde(borrow)]
    inserted: Option<Inserted<'a>>,
}

#[derive(Deserialize)]
struct Inserted<'a> {
    #[serde(borrow)]
    file: Cow<'a, str>,
    ro: bool,
}

/// The drives in a reply. A backend without a device is not a drive.
fn read(reply: &str) -> Result<Vec<Described>, Error> {
    let unexpected = |reason: String| PeerError::UnexpectedReply {
        command: Drives::COMMAND.into(),
        reason: reason.into(),
    };
    if reply.len() > MAX_REPLY {
        return Err(unexpected(format!("it has more than {MAX_REPLY} bytes")).into());
    }
    let blocks: Vec<Block<'_>> =
        serde_json::from_str(reply).map_err(|error| unexpected(misfit(&error)))?;
    Ok(blocks.into_iter().filter_map(Block::describe).collect())
}

impl Block<'_> {
    fn describe(self) -> Option<Described> {
        let id = text(&self.qdev.filter(|qdev| !qdev.is_empty())?);
        let name = if self.device.is_empty() {
            short(&id).to_owned()
        } else {
            text(&self.device)
        };
        let read_only = self.inserted.as_ref().is_some_and(|it| it.ro);
        let state = State {
            name,
            removable: self.removable,
            medium: self.inserted.map(|it| text(&it.file)),
            read_only,
            locked: self.locked,
            tray_open: self.tray_open,
            io_status: self.io_status.map(|it| text(&it)),
        };
        Some(Described { id, state })
    }
}

/// The name of the device in a path such as `/machine/peripheral/us0/us0.0/legacy[0]`.
pub(super) fn short(id: &str) -> &str {
    let below = |folder| id.strip_prefix(folder)?.split('/').next();
    let folders = [
        "/machine/peripheral/",
        "/machine/peripheral-anon/",
        "/machine/unattached/",
    ];
    folders.into_iter().find_map(below).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A reply of QEMU 10.0, without members that are not parsed.
    const REPLY: &str = r#"[
        {"io-status": "ok", "device": "", "locked": true, "removable": true, "qdev": "cd0",
         "tray_open": true, "type": "unknown"},
        {"device": "ide1-cd0", "locked": false, "removable": true, "type": "unknown",
         "qdev": "/machine/unattached/device[18]",
         "inserted": {"file": "/a \u00e4.iso", "ro": true, "image": {"format": "raw"}}},
        {"device": "", "locked": false, "removable": false, "type": "unknown",
         "qdev": "/machine/peripheral/vb0/virtio-backend", "io-status": "nospace",
         "inserted": {"file": "d.qcow2", "ro": false}},
        {"device": "floppy", "locked": false, "removable": true, "type": "unknown"}
    ]"#;

    #[test]
    fn each_device_has_its_drive() {
        let cd = State {
            name: "cd0".into(),
            removable: true,
            locked: true,
            tray_open: true,
            io_status: Some("ok".into()),
            ..State::default()
        };
        let anonymous = State {
            name: "ide1-cd0".into(),
            removable: true,
            medium: Some("/a ä.iso".into()),
            read_only: true,
            ..State::default()
        };
        let disk = State {
            name: "vb0".into(),
            medium: Some("d.qcow2".into()),
            io_status: Some("nospace".into()),
            ..State::default()
        };
        let expected = [
            ("cd0", cd),
            ("/machine/unattached/device[18]", anonymous),
            ("/machine/peripheral/vb0/virtio-backend", disk),
        ];
        let expected = expected.map(|(id, state)| Described {
            id: id.into(),
            state,
        });
        assert_eq!(read(REPLY).unwrap(), expected);
    }

    #[test]
    fn a_reply_that_is_not_a_list_of_drives_is_an_error() {
        for reply in ["{}", "[{}]", "[1]", r#"[{"device": "", "qdev": 7}]"#] {
            let error = read(reply).unwrap_err().to_string();
            assert!(error.contains("query-block"), "{error}");
        }
        let padded = |len: usize| format!("[{}]", " ".repeat(len - 2));
        assert_eq!(read(&padded(MAX_REPLY)).unwrap(), []);
        let error = read(&padded(MAX_REPLY + 1)).unwrap_err().to_string();
        assert!(error.contains("4194304 bytes"), "{error}");
    }

    #[test]
    fn names_are_short() {
        for (id, name) in [
            ("cd0", "cd0"),
            ("/machine/peripheral/us0/us0.0/legacy[0]", "us0"),
            ("/machine/peripheral-anon/device[0]", "device[0]"),
            ("/machine/unattached/device[3]", "device[3]"),
            ("/elsewhere/x", "/elsewhere/x"),
        ] {
            assert_eq!(short(id), name);
        }
    }
}
