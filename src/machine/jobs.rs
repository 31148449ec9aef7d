// SPDX-License-Identifier: MIT OR Apache-2.0
//! The list of a machine's jobs.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use serde::Deserialize;

use super::job::{Job, JobRecord};
use super::list::{List, Source};
use super::migration::{MIGRATION_ID, Migration};
use crate::port::{Event, QmpPort};
use crate::qmp::Error;

/// How often QEMU is asked for the progress of jobs while one runs.
const POLL: Duration = Duration::from_millis(500);

/// The source of the jobs: what QEMU lists, corrected by events.
#[derive(Debug, Default, Clone)]
pub(super) struct Jobs(Arc<Known>);

#[derive(Debug, Default)]
struct Known {
    /// How many events have arrived: a list that was requested before one may be outdated.
    events: AtomicU64,
    /// Whether the machine is being migrated by `run_job`.
    migrates: AtomicBool,
}

/// The migration among the jobs, until dropped.
pub(super) struct ShownMigration {
    jobs: Jobs,
    list: List,
}

impl ShownMigration {
    pub(super) fn new(jobs: &Jobs, list: &List) -> Self {
        jobs.0.migrates.store(true, Relaxed);
        list.reload_soon();
        Self {
            jobs: jobs.clone(),
            list: list.clone(),
        }
    }

    /// The migration has ended with this error, or successfully.
    pub(super) fn end(&self, error: Option<&str>) {
        if let Some(job) = self.list.find::<Job>(MIGRATION_ID) {
            job.set_end(error);
            job.set_status("concluded");
        }
    }
}

impl Drop for ShownMigration {
    fn drop(&mut self) {
        let Known { events, migrates } = &*self.jobs.0;
        migrates.store(false, Relaxed);
        // The load under way may still contain it.
        events.fetch_add(1, Relaxed);
        self.list.remove(MIGRATION_ID);
    }
}

impl Source for Jobs {
    type Record = JobRecord;

    const COMMAND: &'static str = "query-jobs";

    const EVENTS: &'static [&'static str] = &[
        "JOB_STATUS_CHANGE",
        "BLOCK_JOB_COMPLETED",
        "BLOCK_JOB_CANCELLED",
        "MIGRATION",
    ];

    fn load(
        &self,
        port: &QmpPort,
    ) -> impl Future<Output = Result<Vec<JobRecord>, Error>> + 'static {
        let (known, port) = (self.0.clone(), port.clone());
        async move {
            loop {
                let events = known.events.load(Relaxed);
                let mut jobs: Vec<JobRecord> = port.execute(Self::COMMAND, ()).await?;
                // QEMU lists the newest first.
                jobs.reverse();
                if known.migrates.load(Relaxed) {
                    let migration: Migration = port.execute("query-migrate", ()).await?;
                    jobs.extend(migration.record());
                }
                // An event that came after the reply has been applied already.
                if known.events.load(Relaxed) == events {
                    return Ok(jobs);
                }
            }
        }
    }

    fn event(&self, list: &List, event: &Event) {
        #[derive(Deserialize)]
        struct Data {
            #[serde(alias = "device")]
            id: Option<String>,
            status: Option<String>,
            error: Option<String>,
        }

        if event.name() == "MIGRATION" {
            if self.0.migrates.load(Relaxed) {
                list.reload_soon();
            }
            return;
        }
        self.0.events.fetch_add(1, Relaxed);
        let Ok(data) = event.decode::<Data>() else {
            return;
        };
        let id = data.id.unwrap_or_default();
        let Some(job) = list.find::<Job>(&id) else {
            // Only the list has its kind. The job may be over by then.
            return list.reload_soon();
        };
        match (event.name(), data.status.as_deref()) {
            ("BLOCK_JOB_COMPLETED", _) => job.set_end(data.error.as_deref()),
            ("JOB_STATUS_CHANGE", Some("null")) => {
                job.set_status("null");
                list.remove(&id);
            }
            // QEMU pauses jobs for moments in which it does not list them as paused.
            ("JOB_STATUS_CHANGE", Some("paused" | "standby")) => list.reload_soon(),
            ("JOB_STATUS_CHANGE", Some(status)) => {
                job.set_status(status);
                match status {
                    "running" => list.reload_in(POLL),
                    // The reason for its failure, if no event reports that, and its last progress.
                    "ready" | "pending" | "concluded" => list.reload_soon(),
                    _ => {}
                }
            }
            _ => {}
        }
    }

    fn loaded(&self, list: &List) {
        let jobs = list.items::<Job>();
        if jobs.iter().any(|job| job.status() == "running") {
            list.reload_in(POLL);
        }
    }
}
