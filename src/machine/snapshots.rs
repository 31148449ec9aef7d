// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's disks and their snapshots, as `query-block` lists them.

use std::collections::{HashMap, HashSet};
use std::future::Future;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::drives::short;
use super::list::{List, Source};
use super::snapshot::{Described, Details};
use crate::port::{Event, QmpPort};
use crate::qmp::{Error, PeerError, misfit};

/// The source of the items of [`Machine::snapshots`](super::Machine::snapshots).
pub(super) struct Snapshots;

/// A longer reply is not parsed; a snapshot takes about 200 bytes of it on each disk.
const MAX_REPLY: usize = 4 << 20;

impl Source for Snapshots {
    type Record = Described;

    const COMMAND: &'static str = "query-block";

    const EVENTS: &'static [&'static str] = &["JOB_STATUS_CHANGE"];

    fn load(
        &self,
        port: &QmpPort,
    ) -> impl Future<Output = Result<Vec<Described>, Error>> + 'static {
        let disks = disks(port);
        async move { Ok(snapshots(&disks.await?)) }
    }

    fn event(&self, list: &List, event: &Event) {
        #[derive(Deserialize)]
        struct Data {
            status: String,
        }

        // It may be another client's job that saves or deletes a snapshot.
        let ended = |data: Data| data.status == "concluded";
        if event.decode().is_ok_and(ended) {
            list.reload_soon();
        }
    }
}

/// A disk that a snapshot of the machine must be on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Disk {
    /// Its id for block jobs.
    pub(super) node: String,
    /// Its name in messages.
    pub(super) name: String,
    pub(super) format: String,
    pub(super) snapshots: Vec<OnDisk>,
}

/// A snapshot in the reply (QAPI type `SnapshotInfo`).
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct OnDisk {
    #[serde(rename = "name")]
    pub(super) tag: String,
    #[serde(rename = "vm-state-size")]
    state_size: i64,
    #[serde(rename = "date-sec")]
    date: i64,
    #[serde(rename = "vm-clock-sec")]
    clock: i64,
    #[serde(rename = "vm-clock-nsec")]
    clock_nsec: i64,
}

impl OnDisk {
    /// Whether the machine's state is on this disk.
    pub(super) fn has_state(&self) -> bool {
        self.state_size > 0
    }

    fn details(&self) -> Details {
        Details {
            date: self.date,
            state_size: u64::try_from(self.state_size).unwrap_or_default(),
            clock: self
                .clock
                .saturating_mul(1_000_000)
                .saturating_add(self.clock_nsec / 1000),
            loadable: false,
        }
    }
}

/// Asks QEMU for the disks.
pub(super) fn disks(
    port: &QmpPort,
) -> impl Future<Output = Result<Vec<Disk>, Error>> + use<> + 'static {
    let reply = port.execute::<Box<RawValue>>(Snapshots::COMMAND, ());
    async move { read(reply.await?.get()) }
}

/// The snapshots on these disks.
pub(super) fn snapshots(disks: &[Disk]) -> Vec<Described> {
    let mut all: Vec<(Described, usize)> = Vec::new();
    let mut places = HashMap::new();
    for disk in disks {
        // QEMU finds the first one with a name.
        let mut seen = HashSet::new();
        for snapshot in &disk.snapshots {
            if !seen.insert(&*snapshot.tag) {
                continue;
            }
            let place = *places.entry(&*snapshot.tag).or_insert_with(|| {
                let described = Described {
                    tag: snapshot.tag.clone(),
                    details: snapshot.details(),
                };
                all.push((described, 0));
                all.len() - 1
            });
            let (described, count) = &mut all[place];
            *count += 1;
            if described.details.state_size == 0 {
                described.details = snapshot.details();
            }
        }
    }
    let loadable = |(mut it, count): (Described, usize)| {
        it.details.loadable = count == disks.len() && it.details.state_size > 0;
        it
    };
    all.into_iter().map(loadable).collect()
}

/// The disks in a reply: those that can be written to, as QEMU's own `savevm` uses them.
fn read(reply: &str) -> Result<Vec<Disk>, Error> {
    #[derive(Deserialize)]
    struct Block {
        device: String,
        qdev: Option<String>,
        inserted: Option<Inserted>,
    }

    #[derive(Deserialize)]
    struct Inserted {
        ro: bool,
        #[serde(default)]
        drv: String,
        #[serde(rename = "node-name")]
        node: Option<String>,
        #[serde(default)]
        image: Image,
    }

    #[derive(Default, Deserialize)]
    struct Image {
        #[serde(default)]
        snapshots: Vec<OnDisk>,
    }

    let unexpected = |reason: String| PeerError::UnexpectedReply {
        command: Snapshots::COMMAND.into(),
        reason: reason.into(),
    };
    if reply.len() > MAX_REPLY {
        return Err(unexpected(format!("it has more than {MAX_REPLY} bytes")).into());
    }
    let blocks: Vec<Block> =
        serde_json::from_str(reply).map_err(|error| unexpected(misfit(&error)))?;
    let mut nodes = HashSet::new();
    let disks = blocks.into_iter().filter_map(|block| {
        let inserted = block.inserted.filter(|it| !it.ro)?;
        let node = inserted.node?;
        // Two devices may share one.
        nodes.insert(node.clone()).then(|| Disk {
            name: match &block.qdev {
                Some(qdev) if block.device.is_empty() => short(qdev).to_owned(),
                _ => block.device,
            },
            node,
            format: inserted.drv,
            snapshots: inserted.image.snapshots,
        })
    });
    Ok(disks.collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reply_that_is_too_long_is_not_read() {
        let padded = |len: usize| format!("[{}]", " ".repeat(len - 2));
        assert_eq!(read(&padded(MAX_REPLY)), Ok(Vec::new()));
        let error = read(&padded(MAX_REPLY + 1)).unwrap_err().to_string();
        assert!(error.contains("4194304 bytes"), "{error}");
    }

    /// A reply of QEMU 10.0, without members that are not parsed.
    #[test]
    fn disks_are_what_can_be_written_to() {
        let reply = r##"[
            {"device": "", "qdev": "cd0", "removable": true, "locked": false},
            {"device": "ide1-cd0", "qdev": "/machine/unattached/device[18]",
             "inserted": {"file": "a.iso", "ro": true, "drv": "raw", "node-name": "#block1",
                          "image": {"format": "raw"}}},
            {"device": "", "qdev": "/machine/peripheral/vb0/virtio-backend",
             "inserted": {"file": "d", "ro": false, "drv": "qcow2", "node-name": "n0",
                          "image": {"format": "qcow2", "snapshots": [
                {"id": "1", "name": "a \u00e4", "vm-state-size": 7, "date-sec": 5,
                 "date-nsec": 6, "vm-clock-sec": 1, "vm-clock-nsec": 2999}]}}},
            {"device": "floppy0", "qdev": "fl0",
             "inserted": {"file": "f", "ro": false, "node-name": "#block2"}},
            {"device": "old", "inserted": {"ro": false, "drv": "qcow2"}}
        ]"##;
        let disks = read(reply).unwrap();
        let names: Vec<_> = disks.iter().map(|it| (&*it.name, &*it.node)).collect();
        assert_eq!(names, [("vb0", "n0"), ("floppy0", "#block2")]);
        let details = Details {
            date: 5,
            state_size: 7,
            clock: 1_000_002,
            loadable: false,
        };
        let tag = "a ä".to_owned();
        assert_eq!(snapshots(&disks), [Described { tag, details }]);
    }
}
