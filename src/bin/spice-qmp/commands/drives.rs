// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands for drives and their media: `drives`, `insert` and `eject`.

use serde::Serialize;
use spice_qmp::{Drive, Error, Machine, QmpPort};

use crate::cli::{Eject, Insert};
use crate::commands::model;
use crate::connect::Target;
use crate::failure::{Failure, Kind, Stop, note};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::table;

/// A drive, in JSON.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
#[allow(clippy::struct_excessive_bools, reason = "each is a property")]
struct Entry {
    id: String,
    name: String,
    removable: bool,
    medium: Option<String>,
    read_only: bool,
    locked: bool,
    tray_open: bool,
    io_status: Option<String>,
}

impl Entry {
    fn of(drive: &Drive) -> Self {
        Self {
            id: drive.id(),
            name: drive.name(),
            removable: drive.removable(),
            medium: drive.medium(),
            read_only: drive.read_only(),
            locked: drive.locked(),
            tray_open: drive.tray_open(),
            io_status: drive.io_status(),
        }
    }

    fn row(self) -> [String; 3] {
        let notes = [
            (!self.removable, "fixed"),
            (self.removable, "removable"),
            (self.read_only, "read-only"),
            (self.locked, "locked"),
            (self.tray_open, "tray open"),
        ];
        let notes = notes.iter().filter(|it| it.0).map(|it| it.1.to_owned());
        let failed = self.io_status.filter(|status| status != "ok");
        let notes: Vec<_> = notes.chain(failed).collect();
        let medium = self.medium.unwrap_or_else(|| "-".to_owned());
        [self.name, notes.join(", "), medium]
    }
}

/// Prints the drives.
pub(crate) async fn list(target: &Target, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| show(monitor, port, output).await)
        .await
}

/// Queries the drives and prints them.
pub(crate) async fn show(
    monitor: &Monitor,
    port: &QmpPort,
    output: &mut Output,
) -> Result<(), Stop> {
    let machine = model::machine(monitor, port);
    let drives = drives(&machine, monitor, port).await?;
    let drives = drives.iter().map(Entry::of);
    if output.is_json() {
        return output.json(&drives.collect::<Vec<_>>()).await;
    }
    let rows: Vec<_> = drives.map(Entry::row).collect();
    if rows.is_empty() {
        note(false, "the machine has no drives");
    }
    for line in table::lines(&rows) {
        output.line(line).await?;
    }
    Ok(())
}

/// Inserts a medium into a drive.
pub(crate) async fn insert(
    target: &Target,
    insert: &Insert,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            // Its list keeps the drives up to date.
            let machine = model::machine(monitor, port);
            let drive = find(&insert.drive, &machine, monitor, port).await?;
            let mut change = drive.insert(&insert.file).timeout(monitor.timeout());
            if let Some(format) = &insert.format {
                change = change.format(format);
            }
            if insert.read_only || insert.writable {
                change = change.read_only(insert.read_only);
            }
            if insert.force {
                change = change.force();
            }
            change.await.map_err(|error| explain(error, &drive))?;
            let text = format!("Inserted {} into {}.", insert.file, insert.drive);
            print(&drive, text, output).await
        })
        .await
}

/// Removes the medium of a drive.
pub(crate) async fn eject(target: &Target, eject: &Eject, output: &mut Output) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let machine = model::machine(monitor, port);
            let drive = find(&eject.drive, &machine, monitor, port).await?;
            let ejected = drive.eject(eject.force).await;
            ejected.map_err(|error| explain(error, &drive))?;
            print(&drive, format!("Ejected {}.", eject.drive), output).await
        })
        .await
}

/// Prints the new state of the drive.
async fn print(drive: &Drive, text: String, output: &mut Output) -> Result<(), Stop> {
    if output.is_json() {
        output.json(&Entry::of(drive)).await
    } else {
        output.line(text).await
    }
}

async fn drives(machine: &Machine, monitor: &Monitor, port: &QmpPort) -> Result<Vec<Drive>, Stop> {
    model::load(&machine.drives(), "query-block", monitor, port).await
}

/// The drive with this id, or otherwise the only one with this name, or on the device with
/// this id.
async fn find(
    name: &str,
    machine: &Machine,
    monitor: &Monitor,
    port: &QmpPort,
) -> Result<Drive, Stop> {
    let drives = drives(machine, monitor, port).await?;
    if let Some(drive) = drives.iter().find(|it| it.id() == name) {
        return Ok(drive.clone());
    }
    let drives = drives.into_iter();
    let named: Vec<_> = drives
        .filter(|it| it.name() == name || is_device(&it.id(), name))
        .collect();
    match &named[..] {
        [drive] => Ok(drive.clone()),
        [] => Err(
            Failure::new(Kind::Qmp, format!("there is no drive {name:?}"))
                .hint("spice-qmp drives lists them")
                .into(),
        ),
        several => {
            let ids: Vec<_> = several.iter().map(Drive::id).collect();
            Err(
                Failure::new(Kind::Qmp, format!("several drives are called {name:?}"))
                    .hint(format!("use the id: {}", ids.join(" or ")))
                    .into(),
            )
        }
    }
}

/// Whether the drive with this id, such as `/machine/peripheral/hd0/virtio-backend`, is on
/// the device with that name (`hd0`).
fn is_device(id: &str, name: &str) -> bool {
    let path = id.strip_prefix("/machine/peripheral/");
    path.and_then(|path| path.split('/').next()) == Some(name)
}

/// Adds a hint about what to do next.
fn explain(error: Error, drive: &Drive) -> Failure {
    let is_locked = matches!(&error, Error::Command { desc, .. } if desc.contains("is locked"));
    let failure = Failure::from(error);
    if drive.lost_medium().is_some() {
        return failure.hint("spice-qmp insert puts that back");
    }
    if is_locked {
        return failure.hint(
            "the guest was asked to unlock it, and may do so soon; --force does not wait for that",
        );
    }
    failure
}
