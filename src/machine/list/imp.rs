// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GObject of a list: loads the items, shows them, and notifies of changes.

use std::cell::{Cell, OnceCell, RefCell};
use std::collections::{HashMap, HashSet};
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use gio::prelude::*;
use gio::subclass::prelude::*;

use super::splice::Splice;
use super::{MAX_ITEMS, Record, Source, check_number};
use crate::handlers::disconnect;
use crate::home::{Bound, Home};
use crate::machine::follow::{connect, is_reachable};
use crate::port::{Event, PortState, QmpPort};
use crate::qmp::{Error, UsageError};
use crate::spawn::spawn_on;

/// The pause between the beginnings of two loads that events request: a guest
/// may cause any number of events.
const PAUSE: Duration = Duration::from_millis(100);

#[derive(Default, glib::Properties)]
#[properties(wrapper_type = super::List)]
pub struct List {
    /// Whether requested items are being loaded, or wait for the port to become
    /// ready; not while they are only kept up to date.
    #[property(get)]
    loading: Cell<bool>,
    /// Why the items could not be loaded the last time.
    #[property(get, nullable)]
    error: RefCell<Option<glib::Error>>,
    port: RefCell<Option<QmpPort>>,
    source: OnceCell<Box<dyn AnySource>>,
    /// The port's home. Set in the construction.
    home: OnceCell<Home>,
    handlers: RefCell<Vec<glib::SignalHandlerId>>,
    /// The items that handlers have been notified of.
    shown: RefCell<Vec<glib::Object>>,
    /// The items to show, and their ids.
    target: RefCell<Vec<Entry>>,
    /// Whether a handler of `items-changed` is running.
    emits: Cell<bool>,
    /// Whether the items have been requested.
    wanted: Cell<bool>,
    /// Whether another load is to begin as soon as possible.
    due: Cell<Due>,
    load: RefCell<Option<Load>>,
    /// How many loads have begun.
    loads: Cell<u64>,
    /// When the last one began.
    began: Cell<i64>,
    timer: RefCell<Option<Timer>>,
    /// The tasks that wait for the end of a load.
    wakers: RefCell<Vec<Waker>>,
}

#[derive(Debug, Clone)]
struct Entry {
    id: Box<str>,
    item: glib::Object,
}

/// Whether another load is to begin.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Due {
    #[default]
    No,
    /// After a pause.
    Soon,
    Now,
}

/// A load that is under way.
struct Load {
    number: u64,
    /// Whether QEMU may have been asked already.
    asked: bool,
    /// `None` while it is being polled.
    future: Option<Bound<LoadFuture>>,
}

struct Timer {
    at: i64,
    source: glib::Source,
}

pub(super) type LoadFuture = Pin<Box<dyn Future<Output = Result<Show, Error>>>>;

/// Shows what was loaded.
pub(super) type Show = Box<dyn FnOnce(&super::List)>;

/// A [`Source`] of any type.
pub(super) trait AnySource: Send {
    fn item_type(&self) -> glib::Type;
    fn events(&self) -> &'static [&'static str];
    fn event(&self, list: &super::List, event: &Event);
    fn load(&self, port: &QmpPort) -> LoadFuture;
    fn loaded(&self, list: &super::List);
}

impl<S: Source> AnySource for S {
    fn item_type(&self) -> glib::Type {
        <S::Record as Record>::Item::static_type()
    }

    fn events(&self) -> &'static [&'static str] {
        S::EVENTS
    }

    fn event(&self, list: &super::List, event: &Event) {
        Source::event(self, list, event);
    }

    fn load(&self, port: &QmpPort) -> LoadFuture {
        let load = Source::load(self, port);
        Box::pin(async move {
            let records = load.await?;
            check_number(S::COMMAND, records.len())?;
            Ok(Box::new(move |list: &super::List| list.set(records)) as Show)
        })
    }

    fn loaded(&self, list: &super::List) {
        Source::loaded(self, list);
    }
}

#[glib::object_subclass]
impl ObjectSubclass for List {
    const NAME: &'static str = "SpiceQmp1List";
    type Type = super::List;
    type Interfaces = (gio::ListModel,);
}

impl ObjectImpl for List {
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

    fn constructed(&self) {
        self.parent_constructed();
        self.home();
    }

    // On any thread: the handlers may be dropped anywhere, and so may the port. The load under
    // way is dropped on the port's thread.
    fn dispose(&self) {
        let handlers = self.handlers.take();
        if let Some(port) = self.port.take() {
            for handler in handlers {
                disconnect(&port, handler);
            }
        }
        if let Some(timer) = self.timer.take() {
            timer.source.destroy();
        }
        let load = self.load.take();
        if load.is_some() && !self.home().is_my_thread() {
            self.home()
                .idle(glib::Priority::DEFAULT, move || drop(load));
        }
    }
}

impl ListModelImpl for List {
    fn item_type(&self) -> glib::Type {
        let source = self.source.get();
        source.map_or(glib::Object::static_type(), |source| source.item_type())
    }

    fn n_items(&self) -> u32 {
        if !self.may_use("n-items") {
            return 0;
        }
        self.want();
        let number = self.shown.borrow().len();
        number.try_into().expect("there are not so many")
    }

    fn item(&self, position: u32) -> Option<glib::Object> {
        if !self.may_use("item") {
            return None;
        }
        self.want();
        let shown = self.shown.borrow();
        shown.get(usize::try_from(position).ok()?).cloned()
    }
}

/// Items.
impl List {
    pub(super) fn set<R: Record>(&self, records: Vec<R>) {
        let Some(port) = self.port() else {
            return;
        };
        let list = self.obj();
        let before: HashMap<Box<str>, glib::Object> = {
            let target = self.target.borrow();
            let entries = target.iter().cloned();
            entries.map(|entry| (entry.id, entry.item)).collect()
        };
        let (mut then, mut ids, mut changes) = (Vec::new(), HashSet::new(), Vec::new());
        for record in records {
            let id: Box<str> = record.id().into();
            if !ids.insert(id.clone()) {
                continue;
            }
            let item = if let Some(item) = before.get(&id) {
                changes.extend(change(record, item));
                item.clone()
            } else {
                record.make(&list, &port).upcast()
            };
            then.push(Entry { id, item });
        }
        self.target.replace(then);
        self.show();
        // Handlers run when these are dropped.
        drop(changes);
    }

    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn put<R: Record>(&self, record: R) {
        if let Some(item) = self.find(record.id()) {
            drop(change(record, &item));
        } else if let Some(port) = self.port()
            && self.target.borrow().len() < MAX_ITEMS
        {
            let id = record.id().into();
            let item = record.make(&self.obj(), &port).upcast();
            self.target.borrow_mut().push(Entry { id, item });
            self.show();
        }
    }

    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn remove(&self, id: &str) {
        self.target.borrow_mut().retain(|entry| &*entry.id != id);
        self.show();
    }

    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn find(&self, id: &str) -> Option<glib::Object> {
        let target = self.target.borrow();
        let entry = target.iter().find(|entry| &*entry.id == id)?;
        Some(entry.item.clone())
    }

    /// The items that are shown once all handlers have been notified.
    pub(super) fn items(&self) -> Vec<glib::Object> {
        let target = self.target.borrow();
        target.iter().map(|entry| entry.item.clone()).collect()
    }

    /// Shows the target, step by step: each handler finds the list as it was notified of it.
    /// Within a handler this does nothing; the outer call continues.
    fn show(&self) {
        if self.emits.replace(true) {
            return;
        }
        // A handler may change the target.
        while let Some((step, gone)) = self.step() {
            let number = |n: usize| u32::try_from(n).expect("there are not so many");
            self.obj()
                .items_changed(number(step.at), number(step.removed), number(step.added));
            drop(gone);
        }
        self.emits.set(false);
    }

    /// Makes the next step. Removed items are dropped when nothing is borrowed.
    fn step(&self) -> Option<(Splice, Vec<glib::Object>)> {
        let then = self.items();
        let mut shown = self.shown.borrow_mut();
        let step = Splice::first(&shown, &then)?;
        let gone = step.apply(&mut shown, &then);
        Some((step, gone))
    }
}

/// Updates an item; its handlers are notified when the result is dropped.
fn change<R: Record>(
    record: R,
    item: &glib::Object,
) -> Option<glib::object::PropertyNotificationFreezeGuard> {
    let item = item.downcast_ref::<R::Item>()?;
    let notifies_later = item.freeze_notify();
    record.update(item);
    Some(notifies_later)
}

/// Loading.
impl List {
    pub(super) fn set_up(&self, port: Option<&QmpPort>, source: Box<dyn AnySource>) {
        let _ = self.source.set(source);
        self.port.replace(port.cloned());
    }

    pub(super) fn refresh(&self) {
        if self.may_use("refresh") && self.port().is_some() && !self.want() {
            self.set_loading(true);
            self.reload();
        }
    }

    /// Follows the port from the first time that the items are requested. Returns true if this
    /// is the first time.
    fn want(&self) -> bool {
        let Some(port) = self.port().filter(|_| !self.wanted.replace(true)) else {
            return false;
        };
        let list = self.obj();
        let mut handlers = vec![
            connect(&*list, &port, "notify::state", |list, _| {
                list.imp().state_changed();
            }),
            connect(&*list, &port, "notify::status", |list, _| {
                list.imp().begin_what_is_due();
            }),
        ];
        let events = self.source.get().map(|source| source.events());
        handlers.extend(events.unwrap_or_default().iter().map(|name| {
            connect(
                &*list,
                &port,
                &format!("qmp-event::{name}"),
                |list, values| {
                    if let (Some(source), Ok(event)) = (list.imp().source.get(), values[1].get()) {
                        source.event(list, &event);
                    }
                },
            )
        }));
        self.handlers.replace(handlers);
        self.set_loading(true);
        self.reload();
        true
    }

    fn state_changed(&self) {
        match self.port().map(|port| port.state()) {
            // It may be a different QEMU.
            Some(PortState::Ready) => {
                self.reload();
            }
            Some(PortState::Closed | PortState::Failed) => {
                self.stop_timer();
                self.begin_what_is_due();
            }
            _ => self.stop_timer(),
        }
    }

    /// Loads the items again. Returns the number of that load, or of one that has
    /// ended if it cannot begin.
    pub(super) fn reload(&self) -> u64 {
        if !self.wanted.get() {
            return 0;
        }
        let asked = self.load.borrow().as_ref().map(|load| load.asked);
        match asked {
            // QEMU has yet to be asked.
            Some(false) => self.loads.get(),
            Some(true) => {
                self.due.set(Due::Now);
                self.loads.get() + 1
            }
            None => {
                self.due.set(Due::Now);
                self.begin_what_is_due();
                self.loads.get()
            }
        }
    }

    pub(super) fn reload_soon(&self) {
        let asked = self.load.borrow().as_ref().map(|load| load.asked);
        match (asked, self.due.get()) {
            (Some(false), _) | (_, Due::Now) => {}
            (Some(true), _) => self.due.set(Due::Soon),
            (None, _) => self.reload_at(self.began.get() + micros(PAUSE)),
        }
    }

    #[allow(dead_code, reason = "for models that are still to come")]
    pub(super) fn reload_in(&self, time: Duration) {
        self.reload_at(glib::monotonic_time().saturating_add(micros(time)));
    }

    fn reload_at(&self, at: i64) {
        let left = at - glib::monotonic_time();
        let is_earlier = |timer: &Timer| timer.at <= at;
        if left <= 0 {
            self.reload();
        } else if self.wanted.get() && !self.timer.borrow().as_ref().is_some_and(is_earlier) {
            self.stop_timer();
            let (here, list) = (self.home().bind(()), self.obj().downgrade());
            let list: glib::SendWeakRef<_> = list.into();
            let time = Duration::from_micros(left.unsigned_abs());
            let priority = glib::Priority::DEFAULT;
            let source = glib::timeout_source_new(time, None, priority, move || {
                if here.get().is_some()
                    && let Some(list) = list.upgrade()
                {
                    list.imp().timer.take();
                    list.imp().reload();
                }
                glib::ControlFlow::Break
            });
            source.attach(Some(self.home().context()));
            self.timer.replace(Some(Timer { at, source }));
        }
    }

    fn stop_timer(&self) {
        if let Some(timer) = self.timer.take() {
            timer.source.destroy();
        }
    }

    /// Begins a load that is due, if possible.
    fn begin_what_is_due(&self) {
        let Some(port) = self.port() else {
            return;
        };
        let connecting = !matches!(
            port.state(),
            PortState::Ready | PortState::Closed | PortState::Failed
        );
        if self.due.get() == Due::No || self.load.borrow().is_some() || connecting {
            return;
        }
        if port.ready() && !is_reachable(&port) {
            // It stays due.
            let why = "QEMU does not answer on SPICE while the machine is stopped by an error";
            self.set_error(Some(UsageError::NotSupported(why.into()).into()));
            self.set_loading(false);
            return;
        }
        self.due.set(Due::No);
        self.begin(&port);
    }

    fn begin(&self, port: &QmpPort) {
        let Some(source) = self.source.get() else {
            return;
        };
        self.stop_timer();
        let number = self.loads.get() + 1;
        self.loads.set(number);
        self.began.set(glib::monotonic_time());
        self.load.replace(Some(Load {
            number,
            asked: false,
            future: Some(self.home().bind(source.load(port))),
        }));
        // It does not hold the list, which would otherwise live until QEMU answers.
        let list = self.obj().downgrade();
        let load = poll_fn(move |cx| match list.upgrade() {
            Some(list) => list.imp().poll_load(number, cx),
            None => Poll::Ready(()),
        });
        spawn_on(self.home().context(), load);
    }

    fn poll_load(&self, number: u64, cx: &mut Context<'_>) -> Poll<()> {
        let future = {
            let mut load = self.load.borrow_mut();
            let Some(load) = load.as_mut().filter(|load| load.number == number) else {
                return Poll::Ready(());
            };
            load.asked = true;
            load.future.take()
        };
        let Some(mut future) = future.and_then(Bound::take) else {
            return Poll::Ready(());
        };
        match future.as_mut().poll(cx) {
            Poll::Ready(result) => {
                self.load.take();
                self.end(result);
                Poll::Ready(())
            }
            Poll::Pending => {
                if let Some(load) = &mut *self.load.borrow_mut() {
                    load.future = Some(self.home().bind(future));
                }
                Poll::Pending
            }
        }
    }

    /// Shows the result of a load. Handlers run in here and may begin the next one.
    fn end(&self, result: Result<Show, Error>) {
        let (loads, list) = (self.loads.get(), self.obj());
        match result {
            Ok(show) => {
                show(&list);
                // A newer load may have failed meanwhile.
                if self.loads.get() == loads {
                    self.set_error(None);
                }
                if let Some(source) = self.source.get() {
                    source.loaded(&list);
                }
            }
            Err(error) => self.set_error(Some(error)),
        }
        let begun = self.loads.get() > loads;
        if !begun && self.due.get() == Due::Soon {
            self.due.set(Due::No);
            self.reload_soon();
        }
        self.begin_what_is_due();
        if self.due.get() == Due::No && self.load.borrow().is_none() {
            self.set_loading(false);
        }
        let wakers = self.wakers.take();
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether the load with this number has ended, or will not begin.
    pub(super) fn poll_ended(&self, number: u64, cx: &mut Context<'_>) -> Poll<()> {
        let under_way = self.load.borrow().as_ref().map(|load| load.number);
        if under_way.is_none_or(|now| now > number) {
            return Poll::Ready(());
        }
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|it| it.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    fn set_loading(&self, loading: bool) {
        if self.loading.replace(loading) != loading {
            self.obj().notify_loading();
        }
    }

    fn set_error(&self, error: Option<Error>) {
        let error = error.map(glib::Error::from);
        let changed = error.is_some() || self.error.borrow().is_some();
        self.error.replace(error);
        if changed {
            self.obj().notify_error();
        }
    }
}

impl List {
    pub(super) fn port(&self) -> Option<QmpPort> {
        self.port.borrow().clone()
    }

    pub(super) fn home(&self) -> &Home {
        self.home.get_or_init(Home::here)
    }

    fn may_use(&self, what: &str) -> bool {
        self.home().may_use("a list", what)
    }
}

fn micros(time: Duration) -> i64 {
    time.as_micros().try_into().unwrap_or(i64::MAX)
}
