// SPDX-License-Identifier: MIT OR Apache-2.0
//! A drive of a machine.

mod imp;

use glib::subclass::prelude::*;

use super::list::{List, Record};
use crate::port::QmpPort;

glib::wrapper! {
    /// A drive of a machine, and the medium in it: an item of
    /// [`Machine::drives`](super::Machine::drives).
    ///
    /// It holds the port, and belongs to its thread. A drive that was unplugged is no longer in
    /// the list, and keeps its properties.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | [`id`](Self::id) | string | its id in QEMU's commands (`qdev`): the device's id, or its path if it has none. It never changes |
    /// | [`name`](Self::name) | string | a name to show: that of its `-drive`, or else a short form of the id |
    /// | [`removable`](Self::removable) | boolean | whether its medium can be changed |
    /// | [`medium`](Self::medium) | string or NULL | the file name of its medium, as QEMU knows it; NULL if there is none |
    /// | [`read-only`](Self::read_only) | boolean | whether the guest cannot write to the medium |
    /// | [`locked`](Self::locked) | boolean | whether the guest has locked the tray. QEMU does not report changes of this |
    /// | [`tray-open`](Self::tray_open) | boolean | whether its tray is open; always false without a tray, as in floppy drives |
    /// | [`io-status`](Self::io_status) | string or NULL | `ok`, or why the machine was stopped: `nospace`, `failed`. It may stay the same when the machine runs again |
    /// | [`lost-medium`](Self::lost_medium) | string or NULL | the medium that an [`insert`](Self::insert) removed before it failed, while the drive is empty |
    pub struct Drive(ObjectSubclass<imp::Drive>);
}

impl Drive {
    pub(super) fn port(&self) -> Option<QmpPort> {
        self.imp().port()
    }

    /// Ends when the list shows what QEMU reports after this call, or cannot be loaded.
    pub(super) async fn reloaded(&self) {
        if let Some(list) = self.imp().list() {
            list.reloaded().await;
        }
    }

    /// Records that a failed change has removed `medium`.
    pub(super) fn lose(&self, medium: &str) {
        self.imp().lose(medium);
    }

    /// Whether the calling thread is the port's, and runs its main context or could run it:
    /// no other may use the drive. For bindings to languages that do not ensure that themselves.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }

    /// The main context of the port, which the drive uses, too.
    pub fn main_context(&self) -> glib::MainContext {
        self.imp().home().context().clone()
    }
}

/// What QEMU reports about a drive.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::struct_excessive_bools, reason = "each is a property")]
pub(super) struct State {
    pub(super) name: String,
    pub(super) removable: bool,
    pub(super) medium: Option<String>,
    pub(super) read_only: bool,
    pub(super) locked: bool,
    pub(super) tray_open: bool,
    pub(super) io_status: Option<String>,
}

/// [`State`] with the id of its drive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) id: String,
    pub(super) state: State,
}

impl Record for Described {
    type Item = Drive;

    fn id(&self) -> &str {
        &self.id
    }

    fn make(self, list: &List, port: &QmpPort) -> Drive {
        let drive: Drive = glib::Object::new();
        drive.imp().set_up(self.id, self.state, list, port);
        drive
    }

    fn update(self, drive: &Drive) {
        drive.imp().update(self.state);
    }
}
