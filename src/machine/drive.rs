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
    /// It holds the port, and belongs to its thread. A drive that was unplugged is in the
    /// list no more, and stays as it was.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | `id` | string | what QEMU's commands know it by (`qdev`): the device's id, or its path where it has none. It never changes |
    /// | `name` | string | a name to show: that of its `-drive`, or else what is short of the id |
    /// | `removable` | boolean | whether its medium can be changed |
    /// | `medium` | string or NULL | the file name of its medium, as QEMU knows it; NULL without one |
    /// | `read-only` | boolean | whether the guest cannot write to the medium |
    /// | `locked` | boolean | whether the guest has locked the tray. QEMU does not report that it changes |
    /// | `tray-open` | boolean | whether its tray is open; never where it has none, as floppy drives |
    /// | `io-status` | string or NULL | `ok`, or why the machine was stopped: `nospace`, `failed`. It may stay as it is when the machine runs again |
    /// | `lost-medium` | string or NULL | what was in the drive before an [`insert`](Self::insert) that failed too late, while the drive is empty |
    pub struct Drive(ObjectSubclass<imp::Drive>);
}

impl Drive {
    pub(super) fn port(&self) -> Option<QmpPort> {
        self.imp().port()
    }

    /// Ends when the list shows what QEMU says after this was called, or cannot.
    pub(super) async fn reloaded(&self) {
        if let Some(list) = self.imp().list() {
            list.reloaded().await;
        }
    }

    /// Says that a change that failed has left nothing of `medium`.
    pub(super) fn lose(&self, medium: &str) {
        self.imp().lose(medium);
    }

    /// Whether the calling thread is the one of the port, and runs its main context or
    /// could: no other may use the drive. For bindings to languages that do not see to that.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }

    /// The main context of the port, on which all of the drive happens.
    pub fn main_context(&self) -> glib::MainContext {
        self.imp().home().context().clone()
    }
}

/// What QEMU says of a drive.
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

/// [`State`], and which drive it is of.
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
