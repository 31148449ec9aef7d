// SPDX-License-Identifier: MIT OR Apache-2.0
//! A job of QEMU's, as a GObject.

use std::future::Future;

use glib::prelude::*;
use glib::subclass::prelude::*;
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::json;

use super::list::{List, Record, text};
use crate::home::Home;
use crate::port::QmpPort;
use crate::qmp::{Error, UsageError};

glib::wrapper! {
    /// A job that QEMU runs in the background, such as a backup of a disk: an item of
    /// [`Machine::jobs`](super::Machine::jobs).
    ///
    /// It stays the same object until QEMU has forgotten the job, and then keeps its last
    /// values.
    ///
    /// ```no_run
    /// # fn f(machine: spice_qmp::Machine) {
    /// use spice_qmp::Job;
    /// use spice_qmp::gio::prelude::*;
    ///
    /// for job in machine.jobs().iter::<Job>().flatten() {
    ///     println!("{} {}: {:.0} %", job.kind(), job.id(), 100.0 * job.progress());
    /// }
    /// # }
    /// ```
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | [`id`](Self::id) | string | its id in QEMU's commands |
    /// | [`kind`](Self::kind) | string | its kind, such as `backup`, `mirror` or `snapshot-save` (QAPI enum `JobType`), or `migrate` |
    /// | [`status`](Self::status) | string | `created`, `running`, `paused`, `ready`, `standby`, `waiting`, `pending`, `aborting`, `concluded` or `null` (QAPI enum `JobStatus`) |
    /// | [`progress`](Self::progress) | double | how much of it is done, from 0 to 1 |
    /// | [`current`](Self::current), [`total`](Self::total) | unsigned | the same as numbers, usually of bytes; `total` may grow |
    /// | [`error`](Self::error) | string or NULL | why it failed: QEMU's message |
    ///
    /// QEMU itself pauses jobs for moments, which is not shown: they are `paused` or `standby`
    /// only if a client or an error has paused them.
    pub struct Job(ObjectSubclass<imp::Job>);
}

impl Job {
    /// Cancels the job. It ends later: follow the property `status`.
    ///
    /// # Errors
    ///
    /// Those of every command: [`Error::Command`] if the job's state does not allow that, or
    /// the job is gone.
    pub fn cancel(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.execute("job-cancel", Some("migrate_cancel"))
    }

    /// Pauses the job until [`resume`](Self::resume) is called.
    ///
    /// # Errors
    ///
    /// As for [`cancel`](Self::cancel); [`UsageError::NotSupported`] for a migration.
    pub fn pause(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.execute("job-pause", None)
    }

    /// Resumes a job that was paused.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn resume(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.execute("job-resume", None)
    }

    /// Completes a job that is `ready`, such as a mirror: the machine uses the copy from
    /// then on.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn complete(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.execute("job-complete", None)
    }

    /// Finalizes a job that is `pending`, and waits there because it was started with
    /// `auto-finalize` off: what it has done takes effect.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn finalize(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.execute("job-finalize", None)
    }

    /// Makes QEMU forget a job that is, and stays, `concluded`.
    ///
    /// # Errors
    ///
    /// As for [`pause`](Self::pause).
    pub fn dismiss(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.execute("job-dismiss", None)
    }

    /// Whether the calling thread is the port's, and runs its main context or could run it:
    /// no other may use the job. For bindings to languages that do not ensure that themselves.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }

    /// The main context of the port, which the job uses, too.
    pub fn main_context(&self) -> glib::MainContext {
        self.imp().home().context().clone()
    }

    /// Executes a command for the job, or for the migration that it represents.
    fn execute(
        &self,
        command: &'static str,
        about_migration: Option<&'static str>,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        let (port, id) = (self.imp().port(), self.id());
        let is_migration = self.imp().is_migration();
        async move {
            let Some(port) = port else {
                return Err(Error::Closed("the job has no port".into()));
            };
            let call = match (is_migration, about_migration) {
                (false, _) => port.execute::<IgnoredAny>(command, json!({ "id": id })),
                (true, Some(command)) => port.execute::<IgnoredAny>(command, ()),
                (true, None) => {
                    let why = format!("{command}: not for a migration");
                    return Err(UsageError::NotSupported(why.into()).into());
                }
            };
            call.await.map(|_| ())
        }
    }

    /// Applies an event that reports its status.
    pub(super) fn set_status(&self, status: &str) {
        let _later = self.freeze_notify();
        self.imp().set_status(status);
    }

    /// The job has ended: with this error, or successfully.
    pub(super) fn set_end(&self, error: Option<&str>) {
        let _later = self.freeze_notify();
        match error {
            Some(error) => self.imp().set_error(error),
            None => self.imp().set_progress(self.total(), self.total()),
        }
    }
}

/// What QEMU reports about a job.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub(super) struct JobRecord {
    pub(super) id: String,
    #[serde(rename = "type")]
    pub(super) kind: String,
    pub(super) status: String,
    #[serde(rename = "current-progress")]
    pub(super) current: u64,
    #[serde(rename = "total-progress")]
    pub(super) total: u64,
    pub(super) error: Option<String>,
    /// Whether it represents the machine's migration, which is not a job of QEMU's.
    #[serde(skip)]
    pub(super) is_migration: bool,
}

impl Record for JobRecord {
    type Item = Job;

    fn id(&self) -> &str {
        &self.id
    }

    fn make(self, _: &List, port: &QmpPort) -> Job {
        let job: Job = glib::Object::new();
        job.imp().set_up(port, &self);
        job.imp().show(&self);
        job
    }

    fn update(self, job: &Job) {
        job.imp().show(&self);
    }
}

mod imp {
    use std::cell::{Cell, OnceCell, RefCell};

    use super::{Home, JobRecord, QmpPort, text};
    use glib::prelude::*;
    use glib::subclass::prelude::*;

    #[derive(Default, glib::Properties)]
    #[properties(wrapper_type = super::Job)]
    pub struct Job {
        /// The job's id in QEMU's commands.
        #[property(get, default = "")]
        id: RefCell<String>,
        /// The kind, such as `backup`.
        #[property(get, default = "")]
        kind: RefCell<String>,
        /// The status, such as `running`.
        #[property(get, default = "")]
        status: RefCell<String>,
        /// How much of it is done.
        #[property(name = "progress", type = f64, minimum = 0.0, maximum = 1.0,
                   get = Self::progress)]
        /// How much of it is done, of `total`.
        #[property(get)]
        current: Cell<u64>,
        /// The work that there is to do, as far as QEMU knows.
        #[property(get)]
        total: Cell<u64>,
        /// Why it failed: QEMU's message.
        #[property(get, nullable)]
        error: RefCell<Option<String>>,
        port: OnceCell<QmpPort>,
        home: OnceCell<Home>,
        is_migration: Cell<bool>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Job {
        const NAME: &'static str = "SpiceQmp1Job";
        type Type = super::Job;
    }

    impl ObjectImpl for Job {
        fn properties() -> &'static [glib::ParamSpec] {
            Self::derived_properties()
        }

        fn property(&self, id: usize, property: &glib::ParamSpec) -> glib::Value {
            if self.home().may_use("a job", property.name()) {
                self.derived_property(id, property)
            } else {
                property.default_value().clone()
            }
        }
    }

    impl Job {
        pub(super) fn set_up(&self, port: &QmpPort, record: &JobRecord) {
            let _ = self.home.set(Home::on(port.main_context()));
            let _ = self.port.set(port.clone());
            self.id.replace(text(&record.id));
            self.kind.replace(text(&record.kind));
            self.is_migration.set(record.is_migration);
        }

        /// Applies what QEMU lists.
        pub(super) fn show(&self, record: &JobRecord) {
            self.set_progress(record.current, record.total);
            if let Some(error) = &record.error {
                self.set_error(error);
            }
            self.set_status(&record.status);
        }

        pub(super) fn set_status(&self, status: &str) {
            let status = text(status);
            if *self.status.borrow() != status {
                self.status.replace(status);
                self.obj().notify_status();
            }
        }

        pub(super) fn set_progress(&self, current: u64, total: u64) {
            let job = self.obj();
            let before = (self.current.replace(current), self.total.replace(total));
            if before.0 != current {
                job.notify_current();
            }
            if before.1 != total {
                job.notify_total();
            }
            if before != (current, total) {
                job.notify_progress();
            }
        }

        pub(super) fn set_error(&self, error: &str) {
            let error = Some(text(error));
            if *self.error.borrow() != error {
                self.error.replace(error);
                self.obj().notify_error();
            }
        }

        #[allow(clippy::cast_precision_loss, reason = "it is a part of a progress bar")]
        fn progress(&self) -> f64 {
            match (self.current.get(), self.total.get()) {
                (_, 0) => 0.0,
                (current, total) => (current as f64 / total as f64).min(1.0),
            }
        }

        pub(super) fn port(&self) -> Option<QmpPort> {
            self.port.get().cloned()
        }

        pub(super) fn is_migration(&self) -> bool {
            self.is_migration.get()
        }

        pub(super) fn home(&self) -> &Home {
            self.home.get_or_init(Home::here)
        }
    }
}
