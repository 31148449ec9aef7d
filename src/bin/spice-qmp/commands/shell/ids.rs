// SPDX-License-Identifier: MIT OR Apache-2.0
//! Lists the names of existing objects of a QEMU: devices, drives, jobs.

use serde::Deserialize;
use serde_json::{Value, json};

/// A kind of objects that commands refer to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ids {
    Devices,
    Objects,
    Chardevs,
    Jobs,
    Nodes,
    /// Drives, by device.
    Drives,
    /// Drives, by the name of their backend.
    Backends,
}

impl Ids {
    /// The kind of existing objects that an argument refers to.
    pub(crate) fn of(command: &str, key: &str) -> Option<Self> {
        Some(match (command, key) {
            ("blockdev-add" | "chardev-add" | "device_add" | "object-add", _) => return None,
            ("device_del", "id") => Self::Devices,
            ("object-del", "id") => Self::Objects,
            (command, "id") if command.starts_with("chardev-") => Self::Chardevs,
            (command, "id") if command.starts_with("job-") => Self::Jobs,
            (command, "device" | "id") if command.starts_with("block-job-") => Self::Jobs,
            (_, "base-node" | "node" | "node-name" | "overlay" | "top-node" | "vmstate") => {
                Self::Nodes
            }
            (command, "id") if is_of_drives(command) => Self::Drives,
            (command, "device") if is_of_drives(command) => Self::Backends,
            _ => return None,
        })
    }

    /// The command that lists them.
    pub(crate) fn question(self) -> (&'static str, Value) {
        match self {
            Self::Devices => ("qom-list", json!({"path": "/machine/peripheral"})),
            Self::Objects => ("qom-list", json!({"path": "/objects"})),
            Self::Chardevs => ("query-chardev", json!({})),
            Self::Jobs => ("query-jobs", json!({})),
            Self::Nodes => ("query-named-block-nodes", json!({"flat": true})),
            Self::Drives | Self::Backends => ("query-block", json!({})),
        }
    }

    /// The names in the answer.
    pub(crate) fn names(self, reply: &str) -> Vec<String> {
        let things: Vec<Thing> = serde_json::from_str(reply).unwrap_or_default();
        let name = |thing: Thing| match self {
            Self::Devices | Self::Objects => {
                let child = thing.of.is_some_and(|of| of.starts_with("child<"));
                thing.name.filter(|_| child)
            }
            Self::Chardevs => thing.label,
            Self::Jobs => thing.id,
            Self::Nodes => thing.node_name,
            Self::Drives => thing.qdev,
            Self::Backends => thing.device,
        };
        things.into_iter().filter_map(name).collect()
    }
}

fn is_of_drives(command: &str) -> bool {
    let starts = ["block", "drive-", "eject"];
    starts.iter().any(|start| command.starts_with(start))
}

/// An element of a reply, whichever that is.
#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Thing {
    name: Option<String>,
    #[serde(rename = "type")]
    of: Option<String>,
    label: Option<String>,
    id: Option<String>,
    node_name: Option<String>,
    qdev: Option<String>,
    device: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_arguments_name() {
        for (command, key, ids) in [
            ("device_del", "id", Some(Ids::Devices)),
            ("device_add", "id", None),
            ("job-cancel", "id", Some(Ids::Jobs)),
            ("block-job-cancel", "device", Some(Ids::Jobs)),
            ("blockdev-del", "node-name", Some(Ids::Nodes)),
            ("blockdev-add", "node-name", None),
            ("eject", "id", Some(Ids::Drives)),
            ("eject", "device", Some(Ids::Backends)),
            ("chardev-remove", "id", Some(Ids::Chardevs)),
            ("set_password", "password", None),
        ] {
            assert_eq!(Ids::of(command, key), ids, "{command} {key}");
        }
    }

    #[test]
    fn names_in_answers() {
        let list =
            r#"[{"name": "type", "type": "string"}, {"name": "net0", "type": "child<e1000>"}]"#;
        assert_eq!(Ids::Devices.names(list), ["net0"]);
        let drives = r#"[{"device": "cd0", "qdev": "cdrom", "type": "unknown"}, {"device": ""}]"#;
        assert_eq!(Ids::Drives.names(drives), ["cdrom"]);
        assert_eq!(Ids::Backends.names(drives), ["cd0", ""]);
        assert!(Ids::Jobs.names("{}").is_empty());
    }
}
