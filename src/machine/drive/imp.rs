// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GObject of a drive: its properties.

use std::cell::{OnceCell, RefCell};

use glib::prelude::*;
use glib::subclass::prelude::*;

use super::State;
use crate::home::Home;
use crate::machine::list::List;
use crate::port::QmpPort;

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::Drive)]
pub struct Drive {
    /// The drive's id in QEMU's commands.
    #[property(name = "id", type = String, default = "", get = Self::id)]
    id: OnceCell<String>,
    /// A name to show.
    #[property(name = "name", get, type = String, default = "", member = name)]
    /// Whether its medium can be changed.
    #[property(name = "removable", get, type = bool, member = removable)]
    /// The file name of its medium, as QEMU knows it.
    #[property(name = "medium", get, type = Option<String>, member = medium)]
    /// Whether the guest cannot write to the medium.
    #[property(name = "read-only", get, type = bool, member = read_only)]
    /// Whether the guest has locked the tray.
    #[property(name = "locked", get, type = bool, member = locked)]
    /// Whether its tray is open.
    #[property(name = "tray-open", get, type = bool, member = tray_open)]
    /// `ok`, or why the machine was stopped: `nospace`, `failed`.
    #[property(name = "io-status", get, type = Option<String>, member = io_status)]
    state: RefCell<State>,
    /// The medium that a change removed before it failed, while the drive is empty.
    #[property(get, nullable)]
    lost_medium: RefCell<Option<String>>,
    port: RefCell<Option<QmpPort>>,
    list: glib::WeakRef<List>,
    /// The port's home. Set in the construction.
    home: OnceCell<Home>,
}

#[glib::object_subclass]
impl ObjectSubclass for Drive {
    const NAME: &'static str = "SpiceQmp1Drive";
    type Type = super::Drive;
}

impl ObjectImpl for Drive {
    fn properties() -> &'static [glib::ParamSpec] {
        Self::derived_properties()
    }

    fn property(&self, id: usize, property: &glib::ParamSpec) -> glib::Value {
        if self.home().may_use("a drive", property.name()) {
            self.derived_property(id, property)
        } else {
            property.default_value().clone()
        }
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.home();
    }
}

impl Drive {
    pub(super) fn set_up(&self, id: String, state: State, list: &List, port: &QmpPort) {
        let _ = self.id.set(id);
        self.state.replace(state);
        self.list.set(Some(list));
        self.port.replace(Some(port.clone()));
    }

    /// Updates the properties and notifies of changes.
    pub(super) fn update(&self, state: State) {
        let before = self.state.replace(state);
        let (now, drive) = (self.state.borrow().clone(), self.obj());
        if now.medium.is_some() && self.lost_medium.take().is_some() {
            drive.notify_lost_medium();
        }
        if now.name != before.name {
            drive.notify_name();
        }
        if now.removable != before.removable {
            drive.notify_removable();
        }
        if now.medium != before.medium {
            drive.notify_medium();
        }
        if now.read_only != before.read_only {
            drive.notify_read_only();
        }
        if now.locked != before.locked {
            drive.notify_locked();
        }
        if now.tray_open != before.tray_open {
            drive.notify_tray_open();
        }
        if now.io_status != before.io_status {
            drive.notify_io_status();
        }
    }

    pub(super) fn lose(&self, medium: &str) {
        self.lost_medium.replace(Some(medium.to_owned()));
        self.obj().notify_lost_medium();
    }

    fn id(&self) -> String {
        self.id.get().cloned().unwrap_or_default()
    }

    pub(super) fn port(&self) -> Option<QmpPort> {
        self.port.borrow().clone()
    }

    pub(super) fn list(&self) -> Option<List> {
        self.list.upgrade()
    }

    pub(super) fn home(&self) -> &Home {
        self.home.get_or_init(Home::here)
    }
}
