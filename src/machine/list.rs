// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of parts of a machine, which loads its items and keeps them up to date.

mod imp;
mod splice;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::time::Duration;

use glib::prelude::*;
use glib::subclass::prelude::*;

use crate::port::{Event, QmpPort};
use crate::qmp::{Error, PeerError, for_c};

glib::wrapper! {
    /// A list of parts of a machine, such as its drives: a `GListModel` for a list view,
    /// which loads its items when they are first requested, and keeps them up to date.
    ///
    /// An item stays the same object for as long as what it represents exists; its
    /// properties change. While there is no connection, the items keep their last
    /// state; they are loaded again when it is back. The list holds the port, and belongs to
    /// its thread; it does not need the machine that it came from.
    ///
    /// ```no_run
    /// # fn f(machine: spice_qmp::Machine) {
    /// use spice_qmp::Drive;
    /// use spice_qmp::gio::prelude::*;
    ///
    /// machine.drives().connect_items_changed(|drives, _, _, _| {
    ///     for drive in drives.iter::<Drive>().flatten() {
    ///         println!("{}: {}", drive.name(), drive.medium().unwrap_or_default());
    ///     }
    /// });
    /// machine.drives().n_items(); // has them loaded
    /// # }
    /// ```
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | [`loading`](Self::loading) | boolean | whether requested items are being loaded, or wait for the port to become ready; not while they are only kept up to date |
    /// | [`error`](Self::error) | `GError` or NULL | why the items could not be loaded the last time |
    pub struct List(ObjectSubclass<imp::List>) @implements gio::ListModel;
}

impl List {
    /// Loads the items again. This is only needed for changes that QEMU does not report, such
    /// as when another client changes the medium of a drive without a tray. If the port is not
    /// ready, they are loaded when it is.
    pub fn refresh(&self) {
        self.imp().refresh();
    }

    /// Whether the calling thread is the port's, and runs its main context or could run it:
    /// no other may use the list. For bindings to languages that do not ensure that themselves.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }
}

/// The source of a list's items. Any thread may drop it.
pub(super) trait Source: Send + 'static {
    type Record: Record;

    /// The command that lists the items, for errors.
    const COMMAND: &'static str;

    /// The events that change the items.
    const EVENTS: &'static [&'static str];

    /// Asks QEMU for all items. The returned future does not hold the list.
    fn load(
        &self,
        port: &QmpPort,
    ) -> impl Future<Output = Result<Vec<Self::Record>, Error>> + 'static;

    /// Applies such an event; by default, the items are loaded again.
    fn event(&self, list: &List, _event: &Event) {
        list.reload_soon();
    }

    /// The items were loaded, and the list shows them.
    fn loaded(&self, _list: &List) {}
}

/// A peer's string, for properties.
pub(super) fn text(text: &str) -> String {
    for_c(text).into_owned()
}

/// What QEMU reports about an item.
pub(super) trait Record: 'static {
    type Item: IsA<glib::Object>;

    /// Unique within the list, and constant.
    fn id(&self) -> &str;

    /// Creates a new item.
    fn make(self, list: &List, port: &QmpPort) -> Self::Item;

    /// Sets the properties and notifies of changes. No handler runs before this returns.
    fn update(self, item: &Self::Item);
}

/// For the models of the lists.
impl List {
    pub(super) fn new<S: Source>(port: Option<&QmpPort>, source: S) -> Self {
        let context = port.map_or_else(glib::MainContext::ref_thread_default, |port| {
            port.main_context()
        });
        let list: Option<Self> = context.with_thread_default(glib::Object::new).ok();
        // Another thread runs the port's context.
        let list = list.unwrap_or_else(glib::Object::new);
        list.imp().set_up(port, Box::new(source));
        list
    }

    /// Shows exactly these items. Existing items stay the same objects.
    ///
    /// Handlers run in here and may do anything. If this is called from a handler, it is done
    /// when that returns, so that all handlers are notified of all steps in order.
    pub(super) fn set<R: Record>(&self, records: Vec<R>) {
        self.imp().set(records);
    }

    /// Adds an item, or updates the one with its id.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn put<R: Record>(&self, record: R) {
        self.imp().put(record);
    }

    /// Removes an item.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn remove(&self, id: &str) {
        self.imp().remove(id);
    }

    /// The item with this id.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn find<T: IsA<glib::Object>>(&self, id: &str) -> Option<T> {
        self.imp().find(id)?.downcast().ok()
    }

    /// All items. Does not load them.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn items<T: IsA<glib::Object>>(&self) -> Vec<T> {
        let all = self.imp().items().into_iter();
        all.filter_map(|item| item.downcast().ok()).collect()
    }

    /// Loads the items again if they were requested before. Ends when the list shows what
    /// QEMU reports after this call, or cannot be loaded.
    pub(super) fn reloaded(&self) -> impl Future<Output = ()> + use<> {
        let (list, load) = (self.clone(), self.imp().reload());
        poll_fn(move |cx| list.imp().poll_ended(load, cx))
    }

    /// Loads the items again after an event. There may be many of those.
    pub(super) fn reload_soon(&self) {
        self.imp().reload_soon();
    }

    /// Loads the items again after this time, unless that happens earlier.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn reload_in(&self, time: Duration) {
        self.imp().reload_in(time);
    }

    /// The port, unless the list has been disposed of.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn port(&self) -> Option<QmpPort> {
        self.imp().port()
    }
}

/// How many items are accepted; a peer could list millions.
const MAX_ITEMS: usize = 4096;

/// Refuses a list that is longer than QEMU's can be.
fn check_number(command: &str, number: usize) -> Result<(), Error> {
    if number <= MAX_ITEMS {
        return Ok(());
    }
    Err(PeerError::UnexpectedReply {
        command: command.into(),
        reason: format!("it has {number} items, but at most {MAX_ITEMS} are accepted").into(),
    }
    .into())
}
