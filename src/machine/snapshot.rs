// SPDX-License-Identifier: MIT OR Apache-2.0
//! A snapshot of a machine, as a GObject.

use glib::subclass::prelude::*;

use super::list::{List, Record, text};
use crate::home::Home;
use crate::port::QmpPort;

glib::wrapper! {
    /// A state of a machine that is saved on its disks: an item of
    /// [`Machine::snapshots`](super::Machine::snapshots).
    ///
    /// It belongs to the port's thread. A deleted snapshot is no longer in the list, and
    /// keeps its last values; one that is saved under the same name becomes the same object.
    ///
    /// ```no_run
    /// # async fn f(machine: spice_qmp::Machine) -> Result<(), spice_qmp::Error> {
    /// use spice_qmp::Snapshot;
    /// use spice_qmp::gio::prelude::*;
    ///
    /// machine.save_snapshot("before-update").await?;
    /// for snapshot in machine.snapshots().iter::<Snapshot>().flatten() {
    ///     println!("{}: {} bytes", snapshot.tag(), snapshot.state_size());
    /// }
    /// # Ok(()) }
    /// ```
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | [`tag`](Self::tag) | string | its name. It never changes |
    /// | [`date`](Self::date) | signed | when it was taken: seconds since 1970, UTC |
    /// | [`state-size`](Self::state_size) | unsigned | the size of the machine's state in bytes, most of which is its memory; 0 for a snapshot of disks only, such as `qemu-img` takes |
    /// | [`clock`](Self::clock) | signed | for how long the machine had been running: microseconds |
    /// | [`loadable`](Self::loadable) | boolean | whether each disk has it, and one has the machine's state: other snapshots can only be deleted |
    pub struct Snapshot(ObjectSubclass<imp::Snapshot>);
}

impl Snapshot {
    /// Whether the calling thread is the port's, and runs its main context or could run it:
    /// no other may use the snapshot. For bindings to languages that do not ensure that
    /// themselves.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }
}

/// What is known about a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Details {
    pub(super) date: i64,
    pub(super) state_size: u64,
    pub(super) clock: i64,
    pub(super) loadable: bool,
}

/// [`Details`] with the tag of the snapshot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Described {
    pub(super) tag: String,
    pub(super) details: Details,
}

impl Record for Described {
    type Item = Snapshot;

    fn id(&self) -> &str {
        &self.tag
    }

    fn make(self, _: &List, port: &QmpPort) -> Snapshot {
        let snapshot: Snapshot = glib::Object::new();
        snapshot.imp().set_up(port, self);
        snapshot
    }

    fn update(self, snapshot: &Snapshot) {
        snapshot.imp().update(self.details);
    }
}

mod imp {
    use std::cell::{OnceCell, RefCell};

    use glib::prelude::*;
    use glib::subclass::prelude::*;

    use super::{Described, Details, Home, QmpPort, text};

    #[derive(Default, glib::Properties)]
    #[properties(wrapper_type = super::Snapshot)]
    pub struct Snapshot {
        /// Its name.
        #[property(name = "tag", type = String, default = "", get = Self::tag)]
        tag: OnceCell<String>,
        /// When it was taken: seconds since 1970, UTC.
        #[property(name = "date", get, type = i64, member = date)]
        /// The size of the machine's state in bytes, most of which is its memory.
        #[property(name = "state-size", get, type = u64, member = state_size)]
        /// For how long the machine had been running: microseconds.
        #[property(name = "clock", get, type = i64, member = clock)]
        /// Whether the machine can return to it.
        #[property(name = "loadable", get, type = bool, member = loadable)]
        details: RefCell<Details>,
        /// The port's home.
        home: OnceCell<Home>,
    }

    #[glib::object_subclass]
    impl ObjectSubclass for Snapshot {
        const NAME: &'static str = "SpiceQmp1Snapshot";
        type Type = super::Snapshot;
    }

    impl ObjectImpl for Snapshot {
        fn properties() -> &'static [glib::ParamSpec] {
            Self::derived_properties()
        }

        fn property(&self, id: usize, property: &glib::ParamSpec) -> glib::Value {
            if self.home().may_use("a snapshot", property.name()) {
                self.derived_property(id, property)
            } else {
                property.default_value().clone()
            }
        }
    }

    impl Snapshot {
        pub(super) fn set_up(&self, port: &QmpPort, described: Described) {
            let _ = self.home.set(Home::on(port.main_context()));
            let _ = self.tag.set(text(&described.tag));
            self.details.replace(described.details);
        }

        /// Updates the properties and notifies of changes.
        pub(super) fn update(&self, details: Details) {
            let before = self.details.replace(details);
            let (now, snapshot) = (self.details.borrow().clone(), self.obj());
            if now.date != before.date {
                snapshot.notify_date();
            }
            if now.state_size != before.state_size {
                snapshot.notify_state_size();
            }
            if now.clock != before.clock {
                snapshot.notify_clock();
            }
            if now.loadable != before.loadable {
                snapshot.notify_loadable();
            }
        }

        fn tag(&self) -> String {
            self.tag.get().cloned().unwrap_or_default()
        }

        pub(super) fn home(&self) -> &Home {
            self.home.get_or_init(Home::here)
        }
    }
}
