// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine behind a port: power actions, why it is not running, its drives, jobs and
//! snapshots, and the commands that its QEMU has.
//!
//! It only uses the public API of a port; the port does not know the machine.

mod action_group;
mod actions;
mod cause;
mod condition;
mod drive;
mod drives;
mod fetch;
mod follow;
mod imp;
mod insert;
mod job;
mod job_course;
mod job_progress;
mod jobs;
#[cfg(unix)]
mod leftover;
mod list;
mod load_schema;
#[cfg(unix)]
mod medium_fd;
mod migration;
mod run_job;
mod schema;
#[cfg(unix)]
mod screenshot;
mod snapshot;
mod snapshot_deeds;
mod snapshots;
mod started_job;
mod unplug;

use glib::prelude::*;
use glib::subclass::prelude::*;

pub use condition::{Condition, ConditionCode, ConditionSeverity};
pub use drive::Drive;
pub use insert::Insert;
pub use job::Job;
pub use list::List;
pub use run_job::RunJob;
pub use schema::Schema;
#[cfg(unix)]
pub use screenshot::Screenshot;
pub use snapshot::Snapshot;
pub use unplug::Unplug;

use crate::port::QmpPort;

glib::wrapper! {
    /// The virtual machine behind a [`QmpPort`]: actions for a power menu, and why the
    /// machine is not running.
    ///
    /// It holds the port, which it uses as any program could, and belongs to the port's
    /// thread. It survives reconnects of the port.
    ///
    /// # Actions
    ///
    /// It is a `GActionGroup`, which can be inserted into a window with
    /// `window.insert_action_group("vm", Some(&machine))`:
    ///
    /// | name | | enabled |
    /// |---|---|---|
    /// | `pause` | boolean state: whether the machine is stopped and could be resumed. Activating it toggles, changing its state sets | if the machine can be paused or resumed |
    /// | `reset` | resets the machine hard | if the machine is running, or a reset helps after it has stopped |
    /// | `power-down` | asks the guest to shut down, as the power button does | while the machine is running |
    /// | `quit` | quits QEMU at once | if commands reach QEMU |
    /// | `wakeup` | wakes a guest that has suspended the machine | in `suspended` |
    /// | `nmi` | sends a non-maskable interrupt to the guest | while the machine is running |
    ///
    /// The state of `pause` follows the machine, whoever controls it: it
    /// does not change before the machine does. QEMU accepts most commands even in states in
    /// which they have no effect; the actions are disabled in those. They are also disabled if
    /// commands do not reach QEMU: while the port is not ready, and on a SPICE port that QEMU has
    /// [muted](QmpPort::is_mute).
    ///
    /// ```no_run
    /// # fn f(port: spice_qmp::QmpPort) {
    /// use spice_qmp::Machine;
    /// use spice_qmp::gio::prelude::*;
    ///
    /// let machine = Machine::new(&port);
    /// machine.connect_condition_notify(|machine| {
    ///     if let Some(condition) = machine.condition() {
    ///         println!("{}", condition.message());
    ///     }
    /// });
    /// machine.connect_action_failed(|_, action, error| eprintln!("{action} failed: {error}"));
    /// if machine.is_action_enabled("pause") {
    ///     machine.activate_action("pause", None);
    /// }
    /// # }
    /// ```
    ///
    /// # Drives
    ///
    /// `drives` is a `GListModel` that loads its items when they are first requested. It
    /// follows what QEMU reports: trays that move, drives that are unplugged, disks that
    /// fail. QEMU does not report new drives, locks, or media that another client changes in a
    /// drive without a tray: call [`List::refresh`] for these, for example when a menu is opened.
    ///
    /// # Snapshots
    ///
    /// `snapshots` lists the states of the machine that are saved on its disks, and follows
    /// jobs, whoever starts them. [`save_snapshot`](Self::save_snapshot),
    /// [`load_snapshot`](Self::load_snapshot) and [`delete_snapshot`](Self::delete_snapshot)
    /// use all disks that can be written to, like `savevm` of QEMU's human monitor,
    /// but not block nodes without a drive.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | [`port`](Self::port) | [`QmpPort`], construct only | the port |
    /// | [`drives`](Self::drives) | [`List`] of [`Drive`]s | the drives, and the media in them |
    /// | [`condition`](Self::condition) | [`Condition`] or NULL | why the machine is not running, unless it is just paused |
    /// | [`jobs`](Self::jobs) | [`List`] of [`Job`]s | jobs that QEMU runs in the background |
    /// | [`snapshots`](Self::snapshots) | [`List`] of [`Snapshot`]s | states of the machine saved on its disks, to which it can return |
    ///
    /// # Signals
    ///
    /// - `action-failed (name: string, error: GError)`: an action was not executed.
    pub struct Machine(ObjectSubclass<imp::Machine>) @implements gio::ActionGroup;
}

impl Machine {
    /// The machine behind `port`, on the port's thread.
    pub fn new(port: &QmpPort) -> Self {
        glib::Object::builder().property("port", port).build()
    }

    /// Calls `f` with the name of an action that was not executed, and the error.
    pub fn connect_action_failed(
        &self,
        f: impl Fn(&Self, &str, &glib::Error) + 'static,
    ) -> glib::SignalHandlerId {
        self.connect_local(imp::ACTION_FAILED, false, move |values| {
            if let (Ok(machine), Ok(name), Ok(error)) = (
                values[0].get::<Self>(),
                values[1].get::<&str>(),
                values[2].get(),
            ) {
                f(&machine, name, &error);
            }
            None
        })
    }

    /// Whether the calling thread is the port's, and runs its main context or could run it:
    /// no other may use the machine. For bindings to languages that do not ensure that
    /// themselves.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }

    /// The main context of the port, which the machine uses, too.
    pub fn main_context(&self) -> glib::MainContext {
        self.imp().home().context().clone()
    }
}
