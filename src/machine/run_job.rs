// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs a job, from the command that starts it to its end.

use std::fmt;
use std::future::{Future, IntoFuture};
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use glib::subclass::prelude::*;

use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::Machine;
use super::job::Job;
use super::job_course::{Stage, Subject};
use super::job_progress::Progress;
use super::migration::{Migration, Standing};
use super::started_job::StartedJob;
use crate::port::QmpPort;
use crate::qmp::{Error, PeerError, UsageError, misfit};

/// A job that is started and followed until it ends: [`Machine::run_job`].
#[must_use = "a job is started when this is awaited"]
pub struct RunJob {
    machine: Machine,
    command: String,
    arguments: Result<Option<String>, Error>,
    progress: Option<Progress>,
}

impl Machine {
    /// Runs a job: executes the `command` that starts it, such as `blockdev-backup`, waits
    /// until the job is over, and makes QEMU forget it. `arguments` serializes to a
    /// JSON object, or is `()`; a `job-id` is added if there is none.
    ///
    /// Dropping the future cancels the job, which may take QEMU a while. To do that from a
    /// task, wrap the future in a [`gio::CancellableFuture`]: GLib's `JoinHandle::abort` drops a
    /// future only when it is next woken.
    ///
    /// ```no_run
    /// # async fn f(machine: spice_qmp::Machine) -> Result<(), spice_qmp::Error> {
    /// use serde_json::json;
    /// let disks = json!({"device": "disk", "target": "copy", "sync": "full"});
    /// machine.run_job("blockdev-backup", disks).await?;
    /// # Ok(()) }
    /// ```
    ///
    /// A job has no deadline: the port's `command-timeout` does not apply. Some jobs wait
    /// for another command before they end: a mirror for [`Job::complete`], one with
    /// `auto-finalize` off for [`Job::finalize`]. Pass a `job-id` for those.
    ///
    /// # Errors
    ///
    /// [`Error::Command`] if QEMU refuses the command, or the job fails, with QEMU's
    /// message; [`Error::Cancelled`] if another client cancels it;
    /// [`UsageError::NotSupported`] at once while a SPICE port is
    /// [mute](QmpPort::is_mute). It ends with the connection, as every call does;
    /// the job may continue.
    pub fn run_job(&self, command: &str, arguments: impl Serialize) -> RunJob {
        let arguments = serde_json::to_string(&arguments).map_err(|error| {
            Error::from(UsageError::InvalidArgument(
                format!("arguments: {error}").into(),
            ))
        });
        let arguments = arguments.map(|text| (text != "null").then_some(text));
        RunJob::new(self, command, arguments)
    }

    /// [`run_job`](Self::run_job) with arguments as JSON text, for bindings to other
    /// languages.
    pub fn run_job_with(&self, command: &str, arguments: Option<&str>) -> RunJob {
        RunJob::new(self, command, Ok(arguments.map(str::to_owned)))
    }
}

impl RunJob {
    fn new(machine: &Machine, command: &str, arguments: Result<Option<String>, Error>) -> Self {
        Self {
            machine: machine.clone(),
            command: command.to_owned(),
            arguments,
            progress: None,
        }
    }

    /// Calls `f` with the job when it appears, and whenever its progress changes:
    /// about every 500 ms while it runs. Not for a job that ends at once.
    ///
    /// This loads the machine's list of [`jobs`](Machine::jobs), which the job comes from.
    pub fn progress(mut self, f: impl Fn(&Job) + 'static) -> Self {
        self.progress = Some(Progress::new(self.machine.jobs(), Rc::new(f)));
        self
    }

    async fn run(self) -> Result<(), Error> {
        let Self {
            machine,
            command,
            arguments,
            progress,
        } = self;
        let Some(port) = machine.port() else {
            return Err(Error::Closed("the machine has no port".into()));
        };
        if port.is_mute() {
            return Err(not_supported(&command, MUTE));
        }
        let arguments = arguments?.unwrap_or_else(|| "{}".to_owned());
        if command == MIGRATE {
            return migrate(&machine, &port, &arguments, progress).await;
        }
        let (id, arguments) = with_id(&command, arguments)?;
        let subject = Subject::Job(id.clone());
        let mut job = StartedJob::start(&port, &command, &arguments, subject, progress);
        loop {
            let stage = job.stopped().await?;
            if stage == Stage::Gone {
                return job.result(&command, None);
            }
            let jobs = port.execute::<Vec<Listed>>("query-jobs", ());
            let jobs = jobs.timeout(Duration::MAX).await?;
            let listed = jobs.into_iter().find(|it| it.id == id);
            match (stage, listed) {
                (_, Some(Listed { status, error, .. })) if status == "concluded" => {
                    let dismiss = port.execute::<IgnoredAny>("job-dismiss", json!({ "id": id }));
                    // Another client may have been faster.
                    let _ = dismiss.timeout(Duration::MAX).await;
                    job.set_stage(Stage::Gone);
                    return job.result(&command, error.as_deref());
                }
                // An event is still to come, or was not delivered.
                (Stage::Unknown, Some(_)) => job.found_alive(),
                (Stage::Unknown, None) => {
                    job.set_stage(Stage::Gone);
                    return Err(nothing_started(&command));
                }
                _ => job.set_stage(Stage::Gone),
            }
        }
    }
}

impl IntoFuture for RunJob {
    type Output = Result<(), Error>;
    type IntoFuture = Pin<Box<dyn Future<Output = Self::Output>>>;

    fn into_future(self) -> Self::IntoFuture {
        Box::pin(self.run())
    }
}

impl fmt::Debug for RunJob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Arguments may contain secrets.
        f.debug_struct("RunJob")
            .field("command", &self.command)
            .finish_non_exhaustive()
    }
}

/// Migrates the machine. QEMU sends no events about that unless asked to.
async fn migrate(
    machine: &Machine,
    port: &QmpPort,
    arguments: &str,
    progress: Option<Progress>,
) -> Result<(), Error> {
    let status = port.status();
    let is_stopped = status.is_some_and(|it| matches!(it.status(), "paused" | "prelaunch"));
    if port.is_spice_port() && !is_stopped {
        return Err(not_supported(MIGRATE, MUTE_WHEN_MIGRATED));
    }
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    let set = port.execute::<IgnoredAny>("migrate-set-capabilities", events);
    set.timeout(Duration::MAX).await?;
    last_one_is_gone(port).await?;
    let mut job = StartedJob::start(port, MIGRATE, arguments, Subject::Migration, progress);
    let shown = machine.imp().show_migration();
    let end = end_of_migration(port, &mut job).await;
    let error = end.as_ref().err().map(|error| match error {
        Error::Command { desc, .. } => desc.to_string(),
        error => error.to_string(),
    });
    shown.end(error.as_deref());
    end
}

/// Waits until QEMU has cleaned up after a failed migration: a new one that begins
/// earlier may make QEMU 7.2 exit ("Unknown ending state").
async fn last_one_is_gone(port: &QmpPort) -> Result<(), Error> {
    #[derive(Deserialize)]
    struct Instance {
        #[serde(rename = "type")]
        kind: String,
    }

    loop {
        let instances = port.execute::<Vec<Instance>>("query-yank", ());
        let instances = match instances.timeout(Duration::MAX).await {
            // It is older than 6.0.
            Err(Error::Command { .. }) => return Ok(()),
            instances => instances?,
        };
        let call = port.execute::<Migration>("query-migrate", ());
        // QEMU itself refuses a second one.
        let under_way = call.timeout(Duration::MAX).await?.standing() == Standing::UnderWay;
        if under_way || !instances.iter().any(|it| it.kind == "migration") {
            return Ok(());
        }
        glib::timeout_future(CLEAN_UP).await;
    }
}

/// How long QEMU has to clean up before it is asked again.
const CLEAN_UP: Duration = Duration::from_millis(20);

async fn end_of_migration(port: &QmpPort, job: &mut StartedJob) -> Result<(), Error> {
    loop {
        let stage = job.stopped().await?;
        if stage == Stage::Gone {
            return job.result(MIGRATE, None);
        }
        let call = port.execute::<Migration>("query-migrate", ());
        match call.timeout(Duration::MAX).await?.standing() {
            // QEMU 10.0 may send the first event after the reply.
            Standing::UnderWay if stage == Stage::Unknown => job.found_alive(),
            Standing::None => {
                job.set_stage(Stage::Gone);
                return Err(nothing_started(MIGRATE));
            }
            Standing::Cancelled => {
                job.set_stage(Stage::Gone);
                return Err(Error::Cancelled(MIGRATE.into()));
            }
            Standing::Failed(error) => {
                job.set_stage(Stage::Gone);
                return job.result(MIGRATE, Some(&error));
            }
            Standing::Completed | Standing::UnderWay => job.set_stage(Stage::Gone),
        }
    }
}

const MIGRATE: &str = "migrate";
const MUTE: &str = "QEMU does not answer on SPICE while the machine is stopped by an error";
const MUTE_WHEN_MIGRATED: &str =
    "QEMU does not answer on SPICE once a running machine was migrated: pause it first";

fn not_supported(command: &str, why: &str) -> Error {
    UsageError::NotSupported(format!("{command}: {why}").into()).into()
}

fn nothing_started(command: &str) -> Error {
    PeerError::UnexpectedReply {
        command: command.into(),
        reason: "it has not started a job".into(),
    }
    .into()
}

/// A job in the reply to `query-jobs`.
#[derive(Deserialize)]
struct Listed {
    id: String,
    status: String,
    error: Option<String>,
}

/// The id of the job, and the arguments including it.
fn with_id(command: &str, arguments: String) -> Result<(String, String), Error> {
    #[derive(Deserialize)]
    struct Named {
        #[serde(rename = "job-id")]
        id: Option<String>,
    }

    let invalid = |why: &str| UsageError::InvalidArgument(format!("arguments: {why}").into());
    let named: Named =
        serde_json::from_str(&arguments).map_err(|error| invalid(&misfit(&error)))?;
    let Some(members) = arguments.trim_start().strip_prefix('{') else {
        return Err(invalid("not an object").into());
    };
    if let Some(id) = named.id {
        return Ok((id, arguments));
    }
    let id = format!("{command}-{}", &glib::uuid_string_random()[..8]);
    let comma = if members.trim_start().starts_with('}') {
        ""
    } else {
        ","
    };
    let text = format!(r#"{{"job-id":{}{comma}{members}"#, Value::from(&*id));
    Ok((id, text))
}
