// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GObject of a machine: follows the port, executes actions, and finds out why the
//! machine is not running.

use std::cell::{Cell, OnceCell, RefCell};
use std::time::Duration;

use gio::prelude::*;
use glib::subclass::Signal;
use glib::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::action_group::{ActionGroup, Actions};
use super::actions::{Action, Menu, Situation};
use super::cause::{self, Cause};
use super::condition::Condition;
use super::drives::Drives;
use super::fetch::Fetch;
use super::follow::{connect, is_reachable};
use super::jobs::{Jobs, ShownMigration};
#[cfg(unix)]
use super::leftover::Leftover;
use super::list::List;
use super::schema::Schema;
use super::snapshots::Snapshots;
use crate::handlers::disconnect;
use crate::home::Home;
use crate::port::{CallOptions, Event, PortState, QmpPort, Status};

pub(super) const ACTION_FAILED: &str = "action-failed";

/// How long to ask QEMU which drive has failed, before the condition is shown without it.
const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(1);

/// After the port's dispatches, which may come at idle priority.
const AFTER_THE_PORT: i32 = glib::ffi::G_PRIORITY_DEFAULT_IDLE + 1;

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::Machine)]
pub struct Machine {
    /// The port that leads to the machine.
    #[property(get, set, construct_only, nullable)]
    /// Why the machine is not running, unless it is just paused; NULL while it is running.
    #[property(name = "condition", type = Option<Condition>, get = Self::condition)]
    /// The drives, and the media in them.
    #[property(name = "drives", type = List, get = Self::drives)]
    /// QEMU's [`Job`](super::Job)s, oldest first. They are loaded when they are first
    /// requested, and kept up to date by events. Progress is not an event: QEMU is asked for it
    /// every 500 ms while a job runs, and not otherwise.
    ///
    /// A job leaves the list when QEMU forgets it, which for most jobs on disks is when
    /// they end: `notify::status` of the job is emitted before. A migration is listed while
    /// [`run_job`](super::Machine::run_job) runs it; other migrations are not.
    #[property(name = "jobs", type = List, get = Self::jobs)]
    /// The [`Snapshot`](super::Snapshot)s on the disks, in the order in which the disks list
    /// them. They are loaded when they are first requested, and again when a job has ended.
    #[property(name = "snapshots", type = List, get = Self::snapshots)]
    port: RefCell<Option<QmpPort>>,
    /// The port's home. Set in the construction.
    home: OnceCell<Home>,
    handlers: RefCell<Vec<glib::SignalHandlerId>>,
    /// The menu that the program was last notified of.
    menu: Cell<Menu>,
    condition: RefCell<Option<Condition>>,
    /// The first cause since the machine last ran; it is not shown while the machine has not
    /// stopped yet.
    cause: RefCell<Option<Cause>>,
    /// Counts the causes: an answer about one may arrive after its end.
    causes: Cell<u64>,
    /// Whether QEMU is being asked about the cause, which is shown afterwards.
    looks_up: Cell<bool>,
    was_ready: Cell<bool>,
    /// The schema, once it has been requested.
    schema: RefCell<Option<Fetch<Schema>>>,
    drives: OnceCell<List>,
    /// The list of jobs and its source, once it has been requested.
    jobs: OnceCell<(List, Jobs)>,
    snapshots: OnceCell<List>,
    /// The last snapshot operation that was started.
    last_deed: RefCell<Option<Fetch<()>>>,
    /// What QEMU has kept of screenshots.
    #[cfg(unix)]
    leftovers: RefCell<Vec<Leftover>>,
}

#[glib::object_subclass]
impl ObjectSubclass for Machine {
    const NAME: &'static str = "SpiceQmp1Machine";
    type Type = super::Machine;
    type Interfaces = (ActionGroup,);
}

impl ObjectImpl for Machine {
    fn properties() -> &'static [glib::ParamSpec] {
        Self::derived_properties()
    }

    fn property(&self, id: usize, property: &glib::ParamSpec) -> glib::Value {
        if self.may_use(property.name()) {
            self.derived_property(id, property)
        } else {
            property.default_value().clone()
        }
    }

    fn set_property(&self, id: usize, value: &glib::Value, property: &glib::ParamSpec) {
        self.derived_set_property(id, value, property);
    }

    fn signals() -> &'static [Signal] {
        static SIGNALS: Lazy<[Signal; 1]> = Lazy::new(|| {
            [Signal::builder(ACTION_FAILED)
                .param_types([String::static_type(), glib::Error::static_type()])
                .run_last()
                .build()]
        });
        &*SIGNALS
    }

    fn constructed(&self) {
        self.parent_constructed();
        let Some(port) = self.port() else {
            return;
        };
        if !port.is_on_its_thread() {
            glib::g_critical!(
                "SpiceQmp",
                "a machine was made on another thread than its port"
            );
            return;
        }
        let _ = self.home.set(Home::on(port.main_context()));
        let machine = self.obj();
        let mut handlers = vec![
            connect(&*machine, &port, "notify::status", |machine, _| {
                machine.imp().status_changed();
            }),
            connect(&*machine, &port, "notify::state", |machine, _| {
                machine.imp().state_changed();
            }),
            connect(&*machine, &port, "notify::version", |machine, _| {
                machine.imp().keep_schema(None);
            }),
        ];
        handlers.extend(cause::EVENTS.map(|name| {
            let signal = format!("qmp-event::{name}");
            connect(&*machine, &port, &signal, |machine, values| {
                if let Ok(event) = values[1].get::<Event>() {
                    machine.imp().event(&event);
                }
            })
        }));
        self.handlers.replace(handlers);
        self.was_ready.set(port.ready());
        self.menu.set(self.menu_now());
        self.status_changed();
    }

    // On any thread: the handlers may be dropped anywhere, and so may the port.
    fn dispose(&self) {
        let handlers = self.handlers.take();
        if let Some(port) = self.port.take() {
            for handler in handlers {
                disconnect(&port, handler);
            }
        }
    }
}

impl Actions for Machine {
    fn menu(&self) -> Menu {
        if self.may_use("action group") {
            self.menu.get()
        } else {
            Menu::default()
        }
    }

    fn activate(&self, action: Action, parameter: Option<&glib::Variant>) {
        if parameter.is_some() {
            let name = action.name();
            glib::g_critical!("SpiceQmp", "the action {name:?} takes no parameter");
        } else {
            self.execute(action, self.menu());
        }
    }

    fn change_state(&self, action: Action, value: &glib::Variant) {
        match (action, value.get::<bool>()) {
            (Action::Pause, Some(paused)) => {
                let menu = self.menu();
                if paused != menu.paused {
                    self.execute(action, menu);
                }
            }
            (Action::Pause, None) => {
                let type_ = value.type_();
                glib::g_critical!(
                    "SpiceQmp",
                    "the state of 'pause' must be a boolean, not of type '{type_}'"
                );
            }
            (action, _) => {
                let name = action.name();
                glib::g_critical!("SpiceQmp", "the action {name:?} has no state");
            }
        }
    }
}

/// Actions.
impl Machine {
    fn execute(&self, action: Action, menu: Menu) {
        let Some(port) = self.port().filter(|_| menu.is_enabled(action)) else {
            return;
        };
        let machine = self.obj().downgrade();
        let command = action.command(menu.paused);
        port.execute_with(command, None, CallOptions::default(), move |reply| {
            if let (Some(machine), Err(error)) = (machine.upgrade(), reply) {
                let error = glib::Error::from(error);
                machine.emit_by_name::<()>(ACTION_FAILED, &[&action.name(), &error]);
            }
        });
    }

    fn menu_now(&self) -> Menu {
        let Some(port) = self.port() else {
            return Menu::default();
        };
        let status = port.status();
        Menu::of(Situation {
            reachable: is_reachable(&port),
            state: status.as_ref().map(Status::status),
        })
    }

    /// Notifies of changes in the menu. If a handler changes it again, the new state is
    /// what is notified.
    fn update_menu(&self) {
        let menu = self.menu_now();
        let before = self.menu.replace(menu);
        let machine = self.obj();
        for action in Action::ALL {
            if menu.is_enabled(action) != before.is_enabled(action) {
                let enabled = self.menu.get().is_enabled(action);
                machine.action_enabled_changed(action.name(), enabled);
            }
        }
        if menu.paused != before.paused {
            let paused = self.menu.get().paused.to_variant();
            machine.action_state_changed(Action::Pause.name(), &paused);
        }
    }
}

/// Condition.
impl Machine {
    fn condition(&self) -> Option<Condition> {
        self.condition.borrow().clone()
    }

    fn event(&self, event: &Event) {
        let known = self.cause.borrow().as_ref().is_some_and(|it| !it.inferred);
        // The first cause also explains those that follow.
        if !known && let Some(cause) = Cause::of_event(event.name(), event.data()) {
            self.set_cause(Some(cause));
        }
    }

    fn status_changed(&self) {
        self.update_menu();
        match self.port().and_then(|port| port.status()) {
            Some(status) if status.running() => self.set_cause(None),
            // The event with the cause follows the state.
            Some(_) if self.cause.borrow().is_none() => self.infer_later(),
            Some(_) => self.show(),
            // The connection has ended, or is just beginning.
            None => {}
        }
    }

    fn state_changed(&self) {
        if !self.port().is_some_and(|port| port.ready()) {
            self.keep_schema(None);
        }
        self.update_menu();
        match self.port().map(|port| port.state()) {
            Some(PortState::Ready) => {
                // It ended the last connection. The run state follows.
                self.was_ready.set(true);
                self.set_cause(None);
            }
            Some(PortState::Closed | PortState::Failed) if self.was_ready.replace(false) => {
                let known = self.cause.borrow().is_some();
                if !known && !self.port().is_some_and(|port| port.is_closing()) {
                    self.set_cause(Some(Cause::connection_lost()));
                }
                self.looks_up.set(false);
                self.show();
            }
            _ => {}
        }
    }

    /// If no event says why the machine stopped, infers it from the state.
    fn infer_later(&self) {
        let machine = self.obj().downgrade();
        self.home().idle(AFTER_THE_PORT.into(), move || {
            if let Some(machine) = machine.upgrade() {
                machine.imp().infer();
            }
        });
    }

    fn infer(&self) {
        let status = self.port().and_then(|port| port.status());
        let stopped = status.filter(|status| !status.running());
        if self.cause.borrow().is_none()
            && let Some(cause) = stopped.and_then(|status| Cause::of_state(status.status()))
        {
            self.set_cause(Some(cause));
        }
    }

    fn set_cause(&self, cause: Option<Cause>) {
        let concerns_drive = cause.as_ref().is_some_and(Cause::concerns_drive);
        self.cause.replace(cause);
        self.causes.set(self.causes.get() + 1);
        self.looks_up.set(concerns_drive && self.look_up());
        self.show();
    }

    /// Asks QEMU which drive has failed. Returns false if it cannot be asked.
    fn look_up(&self) -> bool {
        let Some(port) = self.port().filter(|port| port.ready() && !port.is_mute()) else {
            return false;
        };
        let (machine, cause) = (self.obj().downgrade(), self.causes.get());
        let options = CallOptions {
            timeout: Some(LOOK_UP_TIMEOUT),
            ..CallOptions::default()
        };
        port.execute_with("query-block", None, options, move |reply| {
            if let Some(machine) = machine.upgrade() {
                machine.imp().looked_up(cause, reply.ok().as_deref());
            }
        });
        true
    }

    fn looked_up(&self, cause: u64, reply: Option<&str>) {
        if cause == self.causes.get() && self.looks_up.replace(false) {
            if let (Some(cause), Some(reply)) = (&mut *self.cause.borrow_mut(), reply) {
                cause.find_drive(reply);
            }
            self.show();
        }
    }

    /// Shows why the machine is not running, once it has stopped.
    fn show(&self) {
        if self.looks_up.get() {
            return;
        }
        let port = self.port();
        let status = port.as_ref().and_then(QmpPort::status);
        let stopped = status.is_some_and(|status| !status.running());
        let lost = port.is_none_or(|port| !port.ready());
        let cause = self.cause.borrow();
        let condition = cause.as_ref().filter(|_| stopped || lost);
        let condition = condition.map(Cause::condition);
        drop(cause);
        let changed = *self.condition.borrow() != condition;
        if changed {
            self.condition.replace(condition);
            self.obj().notify_condition();
        }
    }
}

/// Lists.
impl Machine {
    fn drives(&self) -> List {
        let new = || List::new(self.port().as_ref(), Drives);
        self.drives.get_or_init(new).clone()
    }

    pub(super) fn snapshots(&self) -> List {
        let new = || List::new(self.port().as_ref(), Snapshots);
        self.snapshots.get_or_init(new).clone()
    }

    /// Records a snapshot operation that starts now, and returns the previous one.
    pub(super) fn note_deed(&self, deed: Fetch<()>) -> Option<Fetch<()>> {
        self.last_deed.replace(Some(deed))
    }
}

/// Jobs.
impl Machine {
    pub(super) fn jobs(&self) -> List {
        self.list_of_jobs().0.clone()
    }

    /// Shows the migration among the jobs, until the result is dropped.
    pub(super) fn show_migration(&self) -> ShownMigration {
        let (list, jobs) = self.list_of_jobs();
        ShownMigration::new(jobs, list)
    }

    fn list_of_jobs(&self) -> &(List, Jobs) {
        self.jobs.get_or_init(|| {
            let jobs = Jobs::default();
            (List::new(self.port().as_ref(), jobs.clone()), jobs)
        })
    }
}

/// Schema.
impl Machine {
    pub(super) fn schema(&self) -> Option<Fetch<Schema>> {
        self.schema.borrow().clone()
    }

    /// Keeps this fetch, or none. Callers that wait for the previous one still get its result.
    pub(super) fn keep_schema(&self, schema: Option<Fetch<Schema>>) {
        self.schema.replace(schema);
    }
}

#[cfg(unix)]
impl Machine {
    /// Screenshot leftovers, for the next one.
    pub(super) fn keep(&self, leftover: Leftover) {
        self.leftovers.borrow_mut().push(leftover);
    }

    pub(super) fn take_leftover(&self) -> Option<Leftover> {
        self.leftovers.borrow_mut().pop()
    }
}

impl Machine {
    pub(super) fn port(&self) -> Option<QmpPort> {
        self.port.borrow().clone()
    }

    pub(super) fn home(&self) -> &Home {
        self.home.get_or_init(Home::here)
    }

    /// Whether the calling thread may use the machine; if not, logs a critical.
    fn may_use(&self, what: &str) -> bool {
        self.home().may_use("a machine", what)
    }
}
