// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine behind a port: what a power menu does with it, why it does not run, what it
//! has, and which commands it takes.
//!
//! It uses only what a program can use of a port, which knows nothing of it.

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
    /// machine does not run.
    ///
    /// It holds the port, which it uses as any program could, and belongs to the port's
    /// thread. It lives through reconnects of the port.
    ///
    /// # Actions
    ///
    /// It is a `GActionGroup`, which a window takes with
    /// `window.insert_action_group("vm", Some(&machine))`:
    ///
    /// | name | | enabled |
    /// |---|---|---|
    /// | `pause` | boolean state: whether the machine is stopped and could be resumed. Activating it toggles, changing its state sets | where it can be paused or resumed |
    /// | `reset` | resets the machine hard | where it runs, or a reset gets it out of where it stopped |
    /// | `power-down` | asks the guest to shut down, as the power button does | while it runs |
    /// | `quit` | ends QEMU at once | where commands get through |
    /// | `wakeup` | wakes a guest that has suspended the machine | in `suspended` |
    /// | `nmi` | sends an interrupt that a guest cannot mask | while it runs |
    ///
    /// The state of `pause` follows the machine and whoever else controls it: it
    /// does not change before the machine does. QEMU accepts most commands in states in
    /// which they do nothing; there the actions are disabled. So they are where nothing
    /// gets through: while the port is not ready, and on a SPICE port that QEMU has
    /// [muted](QmpPort::is_mute).
    ///
    /// # Drives
    ///
    /// `drives` is a `GListModel` that loads its items when they are first asked for. It
    /// follows what QEMU reports: trays that move, drives that are unplugged, disks that
    /// fail. QEMU does not report new drives, locks, and what another client does to a drive
    /// without a tray: [`List::refresh`] is for these, such as when a menu is opened.
    ///
    /// # Snapshots
    ///
    /// `snapshots` lists the states of the machine that are kept on its disks, and follows
    /// jobs, whoever starts them. [`save_snapshot`](Self::save_snapshot),
    /// [`load_snapshot`](Self::load_snapshot) and [`delete_snapshot`](Self::delete_snapshot)
    /// take what can be written to for its disks, as `savevm` of QEMU's human monitor does.
    /// But a block node that no drive has is left alone.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | `port` | [`QmpPort`], construct only | the port |
    /// | `drives` | [`List`] of [`Drive`]s | the drives, and what is in them |
    /// | `condition` | [`Condition`] or NULL | why the machine does not run, where that is not just a pause |
    /// | `jobs` | [`List`] of [`Job`]s | what QEMU does in the background |
    /// | `snapshots` | [`List`] of [`Snapshot`]s | states of the machine on its disks, to which it can return |
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

    /// Calls `f` with the name of an action that was not executed, and why.
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

    /// Whether the calling thread is the one of the port, and runs its main context or
    /// could: no other may use the machine. For bindings to languages that do not see to
    /// that.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }

    /// The main context of the port, on which all of the machine happens.
    pub fn main_context(&self) -> glib::MainContext {
        self.imp().home().context().clone()
    }
}
