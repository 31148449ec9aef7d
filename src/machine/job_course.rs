// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tracks one job by its events: data only.

use serde::Deserialize;
use serde_json::json;

use super::migration::MIGRATION_ID;
use crate::port::Event;
use crate::qmp::{Error, ErrorClass};

/// How far the job that a command started has got.
#[derive(Debug)]
pub(super) struct Course {
    subject: Subject,
    stage: Stage,
    /// Whether its command has been answered.
    answered: bool,
    /// Whether it has failed or was cancelled.
    aborted: bool,
    /// The error of a job on disks: QEMU reports it before the job is concluded, and only once.
    end: Option<End>,
}

/// The job that is tracked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Subject {
    /// The job with this id.
    Job(String),
    /// The machine's migration, which QEMU does not list among its jobs.
    Migration,
}

/// The stage of the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    /// Nothing is known about it yet.
    Unknown,
    /// It has begun, and has not ended.
    Alive,
    /// It has ended, and the result is not known. A job keeps its id until it is dismissed.
    Concluded,
    /// QEMU has forgotten it.
    Gone,
}

/// How it ended.
#[derive(Debug, PartialEq, Eq)]
enum End {
    Success,
    Failure(Box<str>),
    Cancelled,
}

impl Subject {
    /// Its id among the machine's jobs.
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Job(id) => id,
            Self::Migration => MIGRATION_ID,
        }
    }

    /// The events that report its progress.
    pub(super) fn events(&self) -> &'static [&'static str] {
        match self {
            Self::Job(_) => &[
                "JOB_STATUS_CHANGE",
                "BLOCK_JOB_COMPLETED",
                "BLOCK_JOB_CANCELLED",
            ],
            Self::Migration => &["MIGRATION"],
        }
    }

    /// The command that cancels it, and its arguments.
    pub(super) fn cancel(&self) -> (&'static str, Option<String>) {
        match self {
            Self::Job(id) => ("job-cancel", Some(json!({ "id": id }).to_string())),
            Self::Migration => ("migrate_cancel", None),
        }
    }

    /// The command that makes QEMU forget it, and its arguments.
    pub(super) fn dismiss(&self) -> Option<(&'static str, Option<String>)> {
        match self {
            Self::Job(id) => Some(("job-dismiss", Some(json!({ "id": id }).to_string()))),
            Self::Migration => None,
        }
    }
}

impl Course {
    /// The course of the job that the next command is to start.
    pub(super) fn new(subject: Subject) -> Self {
        Self {
            subject,
            stage: Stage::Unknown,
            answered: false,
            aborted: false,
            end: None,
        }
    }

    pub(super) fn subject(&self) -> &Subject {
        &self.subject
    }

    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Sets the stage, which QEMU has reported in another way than by an event.
    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
    }

    /// The command was answered.
    pub(super) fn answered(&mut self) {
        self.answered = true;
    }

    /// Applies an event.
    pub(super) fn event(&mut self, event: &Event) {
        #[derive(Deserialize)]
        struct Data {
            #[serde(alias = "device")]
            id: Option<String>,
            status: Option<String>,
            error: Option<Box<str>>,
        }

        let Ok(data) = event.decode::<Data>() else {
            return;
        };
        let status = data.status.as_deref().unwrap_or_default();
        match &self.subject {
            Subject::Migration => self.migration(status),
            Subject::Job(id) if data.id.as_ref() == Some(id) => match event.name() {
                "JOB_STATUS_CHANGE" => self.status(status),
                "BLOCK_JOB_COMPLETED" => {
                    self.set_end(data.error.map_or(End::Success, End::Failure));
                }
                "BLOCK_JOB_CANCELLED" => self.set_end(End::Cancelled),
                _ => {}
            },
            Subject::Job(_) => {}
        }
    }

    fn status(&mut self, status: &str) {
        match status {
            // Another client may use the same id. A job is created by its command, so it is the
            // last one that was created before the reply.
            "created" if !self.answered => self.begin(),
            "created" | "null" if self.stage != Stage::Unknown => self.stage = Stage::Gone,
            "aborting" if self.stage == Stage::Alive => self.aborted = true,
            "concluded" if self.stage == Stage::Alive => self.stage = Stage::Concluded,
            _ => {}
        }
    }

    fn migration(&mut self, status: &str) {
        match status {
            // One at a time: QEMU 10.0 may send this after the reply.
            "setup" if !self.answered || self.stage == Stage::Unknown => self.begin(),
            "completed" if self.stage == Stage::Alive => {
                self.set_end(End::Success);
                self.stage = Stage::Gone;
            }
            "cancelled" if self.stage == Stage::Alive => {
                self.set_end(End::Cancelled);
                self.stage = Stage::Gone;
            }
            "failed" if self.stage == Stage::Alive => {
                self.aborted = true;
                self.stage = Stage::Concluded;
            }
            _ => {}
        }
    }

    fn begin(&mut self) {
        self.stage = Stage::Alive;
        self.aborted = false;
        self.end = None;
    }

    fn set_end(&mut self, end: End) {
        if matches!(self.stage, Stage::Alive | Stage::Concluded) {
            self.end = Some(end);
        }
    }

    /// The result of the job that `command` started; `error` is QEMU's reply to the question for it.
    pub(super) fn result(&self, command: &str, error: Option<&str>) -> Result<(), Error> {
        let why = match (&self.end, error) {
            (Some(End::Cancelled), _) => return Err(Error::Cancelled(command.into())),
            (_, Some(error)) => error,
            (Some(End::Failure(error)), None) => error,
            (Some(End::Success), None) => return Ok(()),
            (None, None) if !self.aborted => return Ok(()),
            (None, None) => "the job has failed, and was dismissed by another client",
        };
        Err(Error::Command {
            command: command.into(),
            class: ErrorClass::Generic,
            desc: why.into(),
        })
    }
}
