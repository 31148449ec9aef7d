// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `snapshot`: snapshots of the machine, which are saved on its disks.

use std::pin::pin;

use serde::Serialize;
use serde_json::json;
use spice_qmp::{Error, Snapshot};

use crate::cli::SnapshotAction;
use crate::clock::local_date;
use crate::commands::model;
use crate::connect::Target;
use crate::failure::{Failure, Stop, note};
use crate::monitor::Monitor;
use crate::output::Output;
use crate::table;

/// A snapshot, in JSON.
#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Entry {
    tag: String,
    /// Seconds since 1970.
    date: i64,
    state_size: u64,
    /// Microseconds.
    clock: i64,
    loadable: bool,
}

impl Entry {
    fn of(snapshot: &Snapshot) -> Self {
        Self {
            tag: snapshot.tag(),
            date: snapshot.date(),
            state_size: snapshot.state_size(),
            clock: snapshot.clock(),
            loadable: snapshot.loadable(),
        }
    }

    fn row(self) -> [String; 4] {
        let size = match self.state_size {
            0 => "disks only".to_owned(),
            size => format!("{} MiB", size.div_ceil(1 << 20)),
        };
        let note = if self.loadable {
            ""
        } else {
            "cannot be loaded"
        };
        [self.tag, local_date(self.date), size, note.to_owned()]
    }
}

/// Lists, saves, loads or deletes snapshots.
pub(crate) async fn run(
    target: &Target,
    action: &SnapshotAction,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let machine = model::machine(monitor, port);
            let json = output.is_json();
            let (done, tag) = match action {
                SnapshotAction::List => {
                    let list = machine.snapshots();
                    let all = model::load::<Snapshot>(&list, "query-block", monitor, port).await?;
                    return print(&all, output).await;
                }
                SnapshotAction::Save { tag } => {
                    to_the_end(monitor, json, machine.save_snapshot(tag)).await?;
                    ("Saved", tag)
                }
                SnapshotAction::Load { tag } => {
                    to_the_end(monitor, json, machine.load_snapshot(tag)).await?;
                    ("Loaded", tag)
                }
                SnapshotAction::Delete { tag } => {
                    to_the_end(monitor, json, machine.delete_snapshot(tag)).await?;
                    ("Deleted", tag)
                }
            };
            if json {
                return output.json(&json!({ done.to_lowercase(): tag })).await;
            }
            output.line(format!("{done} {tag}.")).await
        })
        .await
}

async fn print(snapshots: &[Snapshot], output: &mut Output) -> Result<(), Stop> {
    let snapshots = snapshots.iter().map(Entry::of);
    if output.is_json() {
        return output.json(&snapshots.collect::<Vec<_>>()).await;
    }
    let rows: Vec<_> = snapshots.map(Entry::row).collect();
    if rows.is_empty() {
        note(false, "the machine has no snapshots");
    }
    for line in table::lines(&rows) {
        output.line(line).await?;
    }
    Ok(())
}

/// QEMU does not stop half way, and a paused machine must be resumed: the first signal
/// ends the tool after that, a second one at once.
async fn to_the_end(
    monitor: &Monitor,
    json: bool,
    work: impl Future<Output = Result<(), Error>>,
) -> Result<(), Stop> {
    let mut work = pin!(work);
    let signal = match monitor.signals.or(work.as_mut()).await {
        Ok(end) => return Ok(end.map_err(explain)?),
        Err(signal) => signal,
    };
    note(
        json,
        "QEMU does not stop this half way: its end is awaited. Press Ctrl+C again to leave at once",
    );
    let end = monitor.signals.or(work).await.map_err(Stop::Signal)?;
    note(
        json,
        &end.map_or_else(
            |error| error.to_string(),
            |()| "it has ended with success".into(),
        ),
    );
    Err(Stop::Signal(signal))
}

/// Adds a hint about what to do next.
fn explain(error: Error) -> Failure {
    let is_missing =
        matches!(&error, Error::Command { desc, .. } if desc.starts_with("there is no snapshot"));
    let failure = Failure::from(error);
    if is_missing {
        failure.hint("spice-qmp snapshot list lists them")
    } else {
        failure
    }
}
