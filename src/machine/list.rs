// SPDX-License-Identifier: MIT OR Apache-2.0
//! A list of what a machine has, which loads its items and keeps them up to date.

mod imp;
mod splice;
#[cfg(test)]
mod tests;

use std::future::{Future, poll_fn};
use std::time::Duration;

use glib::prelude::*;
use glib::subclass::prelude::*;

use crate::port::{Event, QmpPort};
use crate::qmp::{Error, PeerError};

glib::wrapper! {
    /// A list of what a machine has, such as its drives: a `GListModel` for a list view,
    /// which loads its items when they are first asked for, and keeps them up to date.
    ///
    /// An item stays the same object for as long as what it stands for is there; its
    /// properties change. While the connection is gone the items stay as they were last
    /// known, and are loaded again when it is back. The list holds the port, and belongs to
    /// its thread; it does not need the machine that it came from.
    ///
    /// # Properties
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | `loading` | boolean | whether items that were asked for are being loaded, or wait for the port to become ready; not while they are only kept up to date |
    /// | `error` | `GError` or NULL | why the items could not be loaded the last time |
    pub struct List(ObjectSubclass<imp::List>) @implements gio::ListModel;
}

impl List {
    /// Loads the items again: for what QEMU does not report, as where another client
    /// changes the medium of a drive that has no tray. While the port is not ready, that is
    /// done when it is.
    pub fn refresh(&self) {
        self.imp().refresh();
    }

    /// Whether the calling thread is the one of the port, and runs its main context or
    /// could: no other may use the list. For bindings to languages that do not see to that.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }
}

/// Where the items of a list come from. Any thread may drop it.
pub(super) trait Source: Send + 'static {
    type Record: Record;

    /// The command that lists them, for errors.
    const COMMAND: &'static str;

    /// The events that change them.
    const EVENTS: &'static [&'static str];

    /// Asks QEMU for all of them. What this returns holds no list.
    fn load(
        &self,
        port: &QmpPort,
    ) -> impl Future<Output = Result<Vec<Self::Record>, Error>> + 'static;

    /// What such an event changes; usually that they are to be loaded again.
    fn event(&self, list: &List, _event: &Event) {
        list.reload_soon();
    }

    /// They were loaded, and the list shows them.
    fn loaded(&self, _list: &List) {}
}

/// A string for properties, which end at a NUL. Those of a peer may have one inside.
pub(super) fn text(text: &str) -> String {
    text.replace('\0', "\u{fffd}")
}

/// What QEMU says of an item.
pub(super) trait Record: 'static {
    type Item: IsA<glib::Object>;

    /// What no other item of the list has, and what stays.
    fn id(&self) -> &str;

    /// An item that nothing was known of.
    fn make(self, list: &List, port: &QmpPort) -> Self::Item;

    /// Sets and notifies of what has changed. No handler runs before this returns.
    fn update(self, item: &Self::Item);
}

/// For the lists' own models.
impl List {
    pub(super) fn new<S: Source>(port: Option<&QmpPort>, source: S) -> Self {
        let context = port.map_or_else(glib::MainContext::ref_thread_default, |port| {
            port.main_context()
        });
        let list: Option<Self> = context.with_thread_default(glib::Object::new).ok();
        // Another thread runs the port's.
        let list = list.unwrap_or_else(glib::Object::new);
        list.imp().set_up(port, Box::new(source));
        list
    }

    /// Shows these items and no others. Those that were there before stay the same.
    ///
    /// Handlers run in here and may do anything. If this is called from one, it is done
    /// when that returns, so that all handlers are notified of all steps in order.
    pub(super) fn set<R: Record>(&self, records: Vec<R>) {
        self.imp().set(records);
    }

    /// Shows an item, or changes the one with its id.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn put<R: Record>(&self, record: R) {
        self.imp().put(record);
    }

    /// Shows an item no more.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn remove(&self, id: &str) {
        self.imp().remove(id);
    }

    /// The item with this id.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn find<T: IsA<glib::Object>>(&self, id: &str) -> Option<T> {
        self.imp().find(id)?.downcast().ok()
    }

    /// All items. It loads none.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn items<T: IsA<glib::Object>>(&self) -> Vec<T> {
        let all = self.imp().items().into_iter();
        all.filter_map(|item| item.downcast().ok()).collect()
    }

    /// Loads the items again where they were asked for, and ends when the list shows what
    /// QEMU says after this was called, or cannot.
    pub(super) fn reloaded(&self) -> impl Future<Output = ()> + use<> {
        let (list, load) = (self.clone(), self.imp().reload());
        poll_fn(move |cx| list.imp().poll_ended(load, cx))
    }

    /// Loads the items again after an event, of which there may be many.
    pub(super) fn reload_soon(&self) {
        self.imp().reload_soon();
    }

    /// Loads the items again after this time, unless that happens before.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn reload_in(&self, time: Duration) {
        self.imp().reload_in(time);
    }

    /// The port, but for a list that has been disposed of.
    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn port(&self) -> Option<QmpPort> {
        self.imp().port()
    }
}

/// So many items are accepted; a peer could list millions.
const MAX_ITEMS: usize = 4096;

/// Refuses what is no list of QEMU's.
fn check_number(command: &str, number: usize) -> Result<(), Error> {
    if number <= MAX_ITEMS {
        return Ok(());
    }
    Err(PeerError::UnexpectedReply {
        command: command.into(),
        reason: format!("it has {number} items, of which {MAX_ITEMS} are accepted").into(),
    }
    .into())
}
