// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats jobs as lines of text and of JSON.

use serde::Serialize;
use spice_qmp::Job;

use crate::clock::{local_time, utc_now};
use crate::failure::Stop;
use crate::output::Output;

/// A job, in the form of `query-jobs`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Entry {
    id: String,
    #[serde(rename = "type")]
    kind: String,
    status: String,
    current_progress: u64,
    total_progress: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// A job at a point in time, in the format of `--json`.
#[derive(Serialize)]
struct EntryLine<'a> {
    time: &'a str,
    #[serde(flatten)]
    job: &'a Entry,
}

impl Entry {
    pub(crate) fn of(job: &Job) -> Self {
        Self {
            id: job.id(),
            kind: job.kind(),
            status: job.status(),
            current_progress: job.current(),
            total_progress: job.total(),
            error: job.error(),
        }
    }

    /// QEMU has forgotten it.
    pub(crate) fn gone(mut self) -> Self {
        "null".clone_into(&mut self.status);
        self
    }

    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    pub(crate) fn current(&self) -> u64 {
        self.current_progress
    }

    pub(crate) fn total(&self) -> u64 {
        self.total_progress
    }

    /// Its kind, and its status.
    pub(crate) fn what(&self) -> String {
        let error = self.error.iter().map(|error| format!(": {error}"));
        let error: String = error.collect();
        format!("{} {}{error}", self.kind, self.status)
    }

    pub(crate) fn row(&self) -> [String; 5] {
        let error = self.error.clone().unwrap_or_default();
        let (id, kind, status) = (self.id.clone(), self.kind.clone(), self.status.clone());
        [id, kind, status, self.percent(), error]
    }

    /// Rounded down: 100 % means that everything is done.
    fn percent(&self) -> String {
        if self.total_progress == 0 {
            return "-".to_owned();
        }
        let (current, total) = (self.current_progress, self.total_progress);
        let percent = u128::from(current.min(total)) * 100 / u128::from(total);
        format!("{percent} %")
    }

    /// The line with the time, for people.
    pub(crate) fn line(&self) -> String {
        let row = self.row();
        let cells = row.iter().filter(|cell| !cell.is_empty());
        let cells: Vec<_> = cells.map(String::as_str).collect();
        format!("{}  {}", local_time(), cells.join("  "))
    }

    /// Prints the line with the time.
    pub(crate) async fn print(&self, output: &mut Output) -> Result<(), Stop> {
        if output.is_json() {
            let (time, job) = (&utc_now(), self);
            return output.json(&EntryLine { time, job }).await;
        }
        output.line(self.line()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_reach_100_only_when_everything_is_done() {
        let percent = |current_progress, total_progress| {
            let entry = Entry {
                id: "j".into(),
                kind: "backup".into(),
                status: "running".into(),
                current_progress,
                total_progress,
                error: None,
            };
            entry.percent()
        };
        assert_eq!(percent(0, 0), "-");
        assert_eq!(percent(5, 0), "-");
        assert_eq!(percent(999, 1000), "99 %");
        assert_eq!(percent(u64::MAX - 1, u64::MAX), "99 %");
        assert_eq!(percent(u64::MAX, u64::MAX), "100 %");
        assert_eq!(percent(7, 5), "100 %");
    }
}
