// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stopped a machine, according to events, run states and drives: data only.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::Value;

use super::condition::{Condition, ConditionCode};

/// The events that say why a machine stops.
pub(super) const EVENTS: [&str; 5] = [
    "BLOCK_IO_ERROR",
    "GUEST_PANICKED",
    "WATCHDOG",
    "SHUTDOWN",
    "MEMORY_FAILURE",
];

/// Longer data of an event is not kept: QEMU's has a few hundred bytes.
const LONGEST_DETAIL: usize = 64 << 10;
/// Longer names are not kept.
const LONGEST_NAME: usize = 4 << 10;

/// What stopped a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Cause {
    pub(super) code: ConditionCode,
    /// Whether it was inferred without an event.
    pub(super) inferred: bool,
    /// The drive's names in the event.
    names: DriveNames,
    /// The drive's name in `query-block`.
    drive: Option<String>,
    /// Further details, in English.
    reason: Option<String>,
    /// Whether a read or a write failed.
    operation: Option<String>,
    detail: Option<String>,
}

/// The names of a drive in `BLOCK_IO_ERROR`, some of which are empty.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct DriveNames {
    /// Since QEMU 9.2: the device's path. It is the `qdev` itself if the device has no
    /// id.
    path: Option<String>,
    /// The backend, with `-drive`.
    device: Option<String>,
    /// The root node of the backend.
    node: Option<String>,
}

/// The data of all [`EVENTS`] together.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Data<'a> {
    #[serde(borrow)]
    action: Cow<'a, str>,
    nospace: bool,
    #[serde(borrow)]
    operation: Cow<'a, str>,
    #[serde(borrow)]
    reason: Cow<'a, str>,
    #[serde(borrow)]
    device: Cow<'a, str>,
    #[serde(borrow)]
    node_name: Cow<'a, str>,
    #[serde(borrow)]
    qom_path: Cow<'a, str>,
    guest: Option<bool>,
    info: Value,
}

/// A drive in the reply to `query-block`.
#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Drive<'a> {
    #[serde(borrow)]
    device: Cow<'a, str>,
    #[serde(borrow)]
    qdev: Cow<'a, str>,
    #[serde(borrow)]
    io_status: Cow<'a, str>,
    #[serde(borrow)]
    inserted: Option<Inserted<'a>>,
}

#[derive(Debug, Deserialize, Default)]
#[serde(rename_all = "kebab-case", default)]
struct Inserted<'a> {
    #[serde(borrow)]
    node_name: Cow<'a, str>,
}

impl Cause {
    fn new(code: ConditionCode) -> Self {
        Self {
            code,
            inferred: false,
            names: DriveNames::default(),
            drive: None,
            reason: None,
            operation: None,
            detail: None,
        }
    }

    /// The cause that an event reports; `None` if the machine continues after it.
    pub(super) fn of_event(name: &str, data: Option<&str>) -> Option<Self> {
        use ConditionCode as Code;

        let detail = data.filter(|data| data.len() <= LONGEST_DETAIL);
        let data: Data<'_> = detail
            .and_then(|data| serde_json::from_str(data).ok())
            .unwrap_or_default();
        let code = match name {
            "BLOCK_IO_ERROR" if data.action != "stop" => return None,
            "BLOCK_IO_ERROR" if data.nospace => Code::DiskFull,
            "BLOCK_IO_ERROR" => Code::DiskError,
            "GUEST_PANICKED" if data.action != "run" => Code::GuestPanicked,
            // After `shutdown` the guest is asked to power down, and continues meanwhile.
            "WATCHDOG" if matches!(&*data.action, "pause" | "poweroff") => Code::Watchdog,
            "SHUTDOWN" => data.shutdown(),
            "MEMORY_FAILURE" if data.action == "fatal" => Code::MemoryFailure,
            _ => return None,
        };
        Some(Self {
            names: DriveNames {
                path: given(&data.qom_path),
                device: given(&data.device),
                node: given(&data.node_name),
            },
            reason: match code {
                Code::DiskError => given(&data.reason),
                Code::GuestPanicked => crash(&data.info),
                _ => None,
            },
            operation: given(&data.operation),
            detail: detail.map(str::to_owned),
            ..Self::new(code)
        })
    }

    /// The cause that can be inferred from a run state, for a machine that stopped unobserved.
    pub(super) fn of_state(state: &str) -> Option<Self> {
        let code = match state {
            "io-error" => ConditionCode::DiskError,
            "guest-panicked" => ConditionCode::GuestPanicked,
            "watchdog" => ConditionCode::Watchdog,
            "internal-error" => ConditionCode::InternalError,
            "shutdown" => ConditionCode::Shutdown,
            "postmigrate" => ConditionCode::Migrated,
            _ => return None,
        };
        Some(Self {
            inferred: true,
            ..Self::new(code)
        })
    }

    /// The connection has ended. The port's `last-error` says why.
    pub(super) fn connection_lost() -> Self {
        Self::new(ConditionCode::ConnectionLost)
    }

    /// Whether `query-block` has more information.
    pub(super) fn concerns_drive(&self) -> bool {
        matches!(
            self.code,
            ConditionCode::DiskFull | ConditionCode::DiskError
        )
    }

    /// Finds the drive in the reply to `query-block`: the one that the event names. Without
    /// an event it is the drive that failed, if it is the only one: QEMU reports a drive as
    /// failed long after it works again.
    pub(super) fn find_drive(&mut self, reply: &str) {
        let Ok(drives) = serde_json::from_str::<Vec<Drive<'_>>>(reply) else {
            return;
        };
        if !self.inferred {
            let drive = drives.iter().find(|drive| self.names.fit(drive));
            self.drive = drive.and_then(|drive| given(&drive.qdev));
            return;
        }
        let failed = |drive: &&Drive<'_>| matches!(&*drive.io_status, "nospace" | "failed");
        let failed: Vec<_> = drives.iter().filter(failed).collect();
        if !failed.is_empty() && failed.iter().all(|drive| drive.io_status == "nospace") {
            self.code = ConditionCode::DiskFull;
        }
        if let [drive] = failed[..] {
            self.drive = given(&drive.qdev).or_else(|| given(&drive.device));
        }
    }

    /// The condition that the program sees.
    pub(super) fn condition(&self) -> Condition {
        let subject = self.subject();
        let message = self.message(subject);
        Condition::new(self.code, subject, &message, self.detail.as_deref())
    }

    fn subject(&self) -> Option<&str> {
        if !self.concerns_drive() {
            return None;
        }
        self.drive.as_deref().or_else(|| self.names.best())
    }

    fn message(&self, subject: Option<&str>) -> Cow<'static, str> {
        use ConditionCode as Code;

        let drive = subject.map_or_else(|| "a drive".into(), |name| format!("the drive {name}"));
        let with_reason = |text: &str| match &self.reason {
            Some(reason) => format!("{text}: {reason}"),
            None => text.to_owned(),
        };
        match self.code {
            Code::DiskFull => format!("Disk full: the host has no space left for {drive}").into(),
            Code::DiskError => {
                let done = match self.operation.as_deref() {
                    Some("read") => "read",
                    Some("write") => "written",
                    _ => "read or written",
                };
                with_reason(&format!("Disk error: {drive} cannot be {done}")).into()
            }
            Code::GuestPanicked => with_reason("The guest has crashed").into(),
            Code::Watchdog => "The guest does not respond: its watchdog has expired".into(),
            Code::InternalError => "QEMU cannot go on with the machine: an internal error".into(),
            Code::MemoryFailure => "The memory of the host is defective".into(),
            Code::GuestShutdown => "The guest has shut down".into(),
            Code::HostShutdown => "The machine was shut down on the host".into(),
            Code::GuestReset => "The guest has restarted, and is shut down instead".into(),
            Code::HostReset => "The machine was reset, and is shut down instead".into(),
            Code::Shutdown => "The machine is shut down".into(),
            Code::Migrated => "The machine has migrated".into(),
            Code::ConnectionLost => "The connection to QEMU has ended".into(),
        }
    }
}

impl Data<'_> {
    /// Who shut the machine down (QAPI enum `ShutdownCause`; future versions may add more).
    fn shutdown(&self) -> ConditionCode {
        use ConditionCode as Code;

        match &*self.reason {
            "guest-panic" => Code::GuestPanicked,
            "guest-reset" | "subsystem-reset" => Code::GuestReset,
            "host-qmp-system-reset" => Code::HostReset,
            "host-error" => Code::InternalError,
            _ => match self.guest {
                Some(true) => Code::GuestShutdown,
                Some(false) => Code::HostShutdown,
                None => Code::Shutdown,
            },
        }
    }
}

impl DriveNames {
    fn fit(&self, drive: &Drive<'_>) -> bool {
        let is = |name: &Option<String>, other: &str| name.as_deref() == Some(other);
        let node = drive.inserted.as_ref().map_or("", |it| &it.node_name);
        match &self.path {
            Some(path) => *path == drive.qdev || named(path) == drive.qdev,
            None => is(&self.device, &drive.device) || is(&self.node, node),
        }
    }

    /// The name that is closest to `qdev`.
    fn best(&self) -> Option<&str> {
        let path = self.path.as_deref().map(named);
        path.or(self.device.as_deref()).or(self.node.as_deref())
    }
}

/// The id of the device with this path, if it has one: `query-block` uses that as
/// `qdev`, and otherwise the path.
fn named(path: &str) -> &str {
    path.strip_prefix("/machine/peripheral/")
        .filter(|name| !name.contains('/'))
        .unwrap_or(path)
}

/// What a crashed guest has reported (QAPI type `GuestPanicInformation`).
fn crash(info: &Value) -> Option<String> {
    let text = |name: &str| info[name].as_str().and_then(given);
    match info["type"].as_str()? {
        "hyper-v" => Some(format!("stop code 0x{:x}", info["arg1"].as_u64()?)),
        "s390" => text("reason"),
        _ => text("message"),
    }
}

/// A name, if it is not empty.
fn given(name: &str) -> Option<String> {
    (!name.is_empty() && name.len() <= LONGEST_NAME).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn of_event(name: &str, data: &Value) -> Option<Cause> {
        Cause::of_event(name, Some(&data.to_string()))
    }

    fn message(name: &str, data: &Value) -> String {
        let cause = of_event(name, data).unwrap_or_else(|| panic!("{name} {data}"));
        cause.condition().message().to_owned()
    }

    #[test]
    fn events_after_which_the_machine_continues_are_not_causes() {
        for (name, data) in [
            (
                "BLOCK_IO_ERROR",
                json!({ "action": "report", "nospace": true }),
            ),
            ("BLOCK_IO_ERROR", json!({ "action": "ignore" })),
            ("BLOCK_IO_ERROR", json!({})),
            ("GUEST_PANICKED", json!({ "action": "run" })),
            ("WATCHDOG", json!({ "action": "reset" })),
            ("WATCHDOG", json!({ "action": "shutdown" })),
            ("WATCHDOG", json!({ "action": "none" })),
            (
                "MEMORY_FAILURE",
                json!({ "recipient": "guest", "action": "inject" }),
            ),
            ("STOP", json!({})),
        ] {
            assert_eq!(of_event(name, &data), None, "{name} {data}");
        }
    }

    #[test]
    fn each_shutdown_has_its_code() {
        use ConditionCode as Code;

        for (guest, reason, code) in [
            (json!(true), "guest-shutdown", Code::GuestShutdown),
            (json!(true), "guest-reset", Code::GuestReset),
            (json!(true), "guest-panic", Code::GuestPanicked),
            (json!(true), "subsystem-reset", Code::GuestReset),
            (json!(false), "host-qmp-quit", Code::HostShutdown),
            (json!(false), "host-qmp-system-reset", Code::HostReset),
            (json!(false), "host-signal", Code::HostShutdown),
            (json!(false), "host-ui", Code::HostShutdown),
            (json!(false), "host-error", Code::InternalError),
            (json!(true), "a new one", Code::GuestShutdown),
        ] {
            let cause = of_event("SHUTDOWN", &json!({ "guest": guest, "reason": reason }));
            assert_eq!(cause.map(|it| it.code), Some(code), "{reason}");
        }
        // QEMU 2.10 has no reason, and 2.9 no data.
        let old = Cause::of_event("SHUTDOWN", Some(r#"{"guest": false}"#));
        assert_eq!(old.map(|it| it.code), Some(Code::HostShutdown));
        let oldest = Cause::of_event("SHUTDOWN", None);
        assert_eq!(oldest.map(|it| it.code), Some(Code::Shutdown));
    }

    #[test]
    fn messages_name_the_drive_and_what_happened() {
        let full = json!({
            "device": "", "node-name": "n0", "action": "stop", "nospace": true,
            "operation": "write", "reason": "No space left on device",
            "qom-path": "/machine/peripheral/hd0",
        });
        assert_eq!(
            message("BLOCK_IO_ERROR", &full),
            "Disk full: the host has no space left for the drive hd0"
        );
        let broken = json!({
            "device": "hda", "node-name": "#block388", "action": "stop",
            "operation": "read", "reason": "Input/output error",
        });
        assert_eq!(
            message("BLOCK_IO_ERROR", &broken),
            "Disk error: the drive hda cannot be read: Input/output error"
        );
        let bare = json!({ "action": "stop" });
        assert_eq!(
            message("BLOCK_IO_ERROR", &bare),
            "Disk error: a drive cannot be read or written"
        );
    }

    #[test]
    fn a_crash_is_described_as_the_guest_reported_it() {
        for (info, message_) in [
            (json!(null), "The guest has crashed"),
            (
                json!({ "type": "hyper-v", "arg1": 0x7b, "arg2": 0, "arg3": 0, "arg4": 0, "arg5": 0 }),
                "The guest has crashed: stop code 0x7b",
            ),
            (
                json!({ "type": "s390", "core": 0, "reason": "disabled-wait" }),
                "The guest has crashed: disabled-wait",
            ),
            (
                json!({ "type": "tdx", "error-code": 1, "message": "no more" }),
                "The guest has crashed: no more",
            ),
            (json!({ "type": "a new one" }), "The guest has crashed"),
        ] {
            let data = json!({ "action": "pause", "info": info });
            assert_eq!(message("GUEST_PANICKED", &data), message_);
        }
    }

    #[test]
    fn the_drive_of_an_event_is_found_by_each_of_its_names() {
        let drives = json!([
            { "device": "", "qdev": "cd0", "locked": false },
            { "device": "hda", "qdev": "hd0", "inserted": { "node-name": "#block1" } },
            { "device": "", "qdev": "/machine/peripheral/vd0/virtio-backend",
              "inserted": { "node-name": "n1" } },
            { "device": "", "qdev": "/machine/unattached/device[4]" },
        ])
        .to_string();
        for (names, drive) in [
            (json!({ "device": "hda", "node-name": "#block1" }), "hd0"),
            (json!({ "device": "", "node-name": "#block1" }), "hd0"),
            (
                json!({ "device": "", "node-name": "n1" }),
                "/machine/peripheral/vd0/virtio-backend",
            ),
            (json!({ "qom-path": "/machine/peripheral/cd0" }), "cd0"),
            (
                json!({ "qom-path": "/machine/unattached/device[4]", "device": "hda" }),
                "/machine/unattached/device[4]",
            ),
            // None of them: the name in the event.
            (json!({ "node-name": "n7" }), "n7"),
            (json!({ "qom-path": "/machine/peripheral/hd7" }), "hd7"),
        ] {
            let mut data = names.clone();
            data["action"] = json!("stop");
            let mut cause = of_event("BLOCK_IO_ERROR", &data).unwrap();
            cause.find_drive(&drives);
            assert_eq!(cause.condition().subject(), Some(drive), "{names}");
        }
    }

    #[test]
    fn without_an_event_the_drive_is_named_only_if_one_failed() {
        let infer = |statuses: &[&str]| {
            let drives: Vec<_> = statuses
                .iter()
                .enumerate()
                .map(|(at, status)| json!({ "qdev": format!("d{at}"), "io-status": status }))
                .collect();
            let mut cause = Cause::of_state("io-error").unwrap();
            cause.find_drive(&json!(drives).to_string());
            let condition = cause.condition();
            (condition.code(), condition.subject().map(str::to_owned))
        };
        let d1 = || Some("d1".to_owned());
        assert_eq!(infer(&["ok", "nospace"]), (ConditionCode::DiskFull, d1()));
        assert_eq!(infer(&["ok", "failed"]), (ConditionCode::DiskError, d1()));
        assert_eq!(infer(&["nospace"; 2]), (ConditionCode::DiskFull, None));
        assert_eq!(
            infer(&["failed", "nospace"]),
            (ConditionCode::DiskError, None)
        );
        assert_eq!(infer(&["ok"]), (ConditionCode::DiskError, None));
        assert_eq!(infer(&[]), (ConditionCode::DiskError, None));
    }

    #[test]
    fn what_is_kept_of_a_peer_is_limited() {
        let long = "x".repeat(LONGEST_DETAIL);
        assert_eq!(
            of_event("BLOCK_IO_ERROR", &json!({ "action": "stop", "x": long })),
            None
        );
        let cause = of_event("SHUTDOWN", &json!({ "guest": true, "x": long })).unwrap();
        assert_eq!(cause.condition().detail(), None);
        let data = json!({ "action": "stop", "device": "y".repeat(LONGEST_NAME + 1) });
        let cause = of_event("BLOCK_IO_ERROR", &data).unwrap();
        assert_eq!(cause.condition().subject(), None);
        let nul = of_event(
            "BLOCK_IO_ERROR",
            &json!({ "action": "stop", "device": "a\u{0}b" }),
        );
        assert_eq!(nul.unwrap().condition().subject(), Some("a\u{fffd}b"));
        // A member of the wrong type is ignored.
        let odd = Cause::of_event("SHUTDOWN", Some(r#"{"guest": 5}"#)).unwrap();
        assert_eq!(odd.code, ConditionCode::Shutdown);
    }
}
