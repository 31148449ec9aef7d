// SPDX-License-Identifier: MIT OR Apache-2.0
//! What QEMU reports about the machine's migration: data only.

use serde::Deserialize;

use super::job::JobRecord;

/// The migration's id among the machine's jobs.
pub(super) const MIGRATION_ID: &str = "migrate";

/// The reply to `query-migrate`.
#[derive(Debug, Deserialize)]
pub(super) struct Migration {
    status: Option<String>,
    ram: Option<Ram>,
    #[serde(rename = "error-desc")]
    error: Option<String>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
struct Ram {
    total: u64,
    remaining: u64,
}

/// The state of the migration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Standing {
    /// There is no migration.
    None,
    UnderWay,
    Completed,
    Cancelled,
    Failed(String),
}

impl Migration {
    pub(super) fn standing(self) -> Standing {
        match self.status.as_deref() {
            None | Some("none") => Standing::None,
            Some("completed") => Standing::Completed,
            Some("cancelled") => Standing::Cancelled,
            Some("failed") => {
                let unknown = || "the migration has failed".to_owned();
                Standing::Failed(self.error.unwrap_or_else(unknown))
            }
            Some(_) => Standing::UnderWay,
        }
    }

    /// The migration as a job; `None` before it has begun.
    pub(super) fn record(self) -> Option<JobRecord> {
        let status = match self.status?.as_str() {
            "none" => return None,
            "setup" => "created",
            "pre-switchover" => "pending",
            "cancelling" => "aborting",
            "completed" | "failed" | "cancelled" => "concluded",
            _ => "running",
        };
        let Ram { total, remaining } = self.ram.unwrap_or_default();
        Some(JobRecord {
            id: MIGRATION_ID.into(),
            kind: "migrate".into(),
            status: status.into(),
            current: total.saturating_sub(remaining),
            total,
            error: self.error,
            is_migration: true,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(reply: &str) -> Option<JobRecord> {
        let migration: Migration = serde_json::from_str(reply).unwrap();
        migration.record()
    }

    #[test]
    fn a_migration_is_shown_as_a_job() {
        assert_eq!(record("{}"), None);
        assert_eq!(record(r#"{"status": "none"}"#), None);
        let job = record(r#"{"status": "setup"}"#).unwrap();
        assert_eq!((&*job.status, job.current, job.total), ("created", 0, 0));
        let active =
            r#"{"status": "active", "ram": {"total": 100, "remaining": 40, "transferred": 900}}"#;
        let job = record(active).unwrap();
        assert_eq!((&*job.status, job.current, job.total), ("running", 60, 100));
        // A peer's values need not make sense.
        let odd = r#"{"status": "postcopy-x", "ram": {"total": 1, "remaining": 7}}"#;
        assert_eq!(record(odd).unwrap().current, 0);
        let failed = r#"{"status": "failed", "error-desc": "no route"}"#;
        assert_eq!(record(failed).unwrap().error.as_deref(), Some("no route"));
    }
}
