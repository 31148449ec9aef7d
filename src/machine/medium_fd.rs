// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file descriptor of a medium that was sent to QEMU, in a descriptor set of its own.

use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use crate::port::{Call, CallOptions, QmpPort};
use crate::qmp::Error;
use crate::spawn::spawn_on;

/// A descriptor set of QEMU's with one descriptor. It is removed when this is dropped; a
/// medium that was opened through it stays.
pub(super) struct MediumFd {
    port: QmpPort,
    /// `Some` once QEMU has it.
    id: Option<u64>,
    adding: Option<Call<Added>>,
}

/// The reply to `add-fd`.
#[derive(Deserialize)]
struct Added {
    #[serde(rename = "fdset-id")]
    id: u64,
}

impl MediumFd {
    /// Sends a descriptor; `name` is for QEMU's lists. QEMU chooses the id: another client's
    /// set must not be used.
    pub(super) async fn send(port: &QmpPort, fd: &OwnedFd, name: &str) -> Result<Self, Error> {
        let call = port.execute("add-fd", json!({ "opaque": name })).fds([fd]);
        let mut set = Self {
            port: port.clone(),
            id: None,
            // A timeout would leave a set whose id is unknown.
            adding: Some(call.timeout(Duration::MAX)),
        };
        if let Some(adding) = &mut set.adding {
            let added = adding.await;
            set.adding = None;
            set.id = Some(added?.id);
        }
        Ok(set)
    }

    pub(super) fn path(&self) -> String {
        format!("/dev/fdset/{}", self.id.unwrap_or_default())
    }
}

impl Drop for MediumFd {
    fn drop(&mut self) {
        if let Some(id) = self.id {
            remove(&self.port, id);
        } else if let Some(adding) = self.adding.take() {
            let port = self.port.clone();
            spawn_on(&self.port.main_context(), async move {
                if let Ok(Added { id }) = adding.await {
                    remove(&port, id);
                }
            });
        }
    }
}

fn remove(port: &QmpPort, id: u64) {
    let arguments = format!(r#"{{"fdset-id":{id}}}"#);
    let options = CallOptions {
        timeout: Some(Duration::MAX),
        ..CallOptions::default()
    };
    port.execute_with("remove-fd", Some(&arguments), options, |_| ());
}

/// Whether a descriptor is read-only, if that can be determined.
#[cfg(target_os = "linux")]
pub(super) fn is_read_only(fd: BorrowedFd<'_>) -> Option<bool> {
    use rustix::fs::{OFlags, fcntl_getfl};

    let flags = fcntl_getfl(fd).ok()?;
    Some(flags & OFlags::RWMODE == OFlags::RDONLY)
}

#[cfg(not(target_os = "linux"))]
pub(super) fn is_read_only(_: BorrowedFd<'_>) -> Option<bool> {
    None
}
