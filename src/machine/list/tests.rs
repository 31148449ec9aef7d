// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests a list without a server: the items that it shows, and the notifications.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::{Arc, Mutex};

use gio::prelude::*;
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::transport::{PairPeer, pair};

/// An item with a number.
#[derive(Debug, Clone, PartialEq)]
struct Numbered {
    id: String,
    number: u32,
}

impl Record for Numbered {
    type Item = glib::BoxedAnyObject;

    fn id(&self) -> &str {
        &self.id
    }

    fn make(self, _: &List, _: &QmpPort) -> Self::Item {
        glib::BoxedAnyObject::new(self)
    }

    fn update(self, item: &Self::Item) {
        item.replace(self);
    }
}

/// Loads the prepared items, if any.
#[derive(Clone, Default)]
struct Prepared {
    loads: Arc<Mutex<Vec<Loaded>>>,
}

type Loaded = Result<Vec<Numbered>, Error>;

impl Source for Prepared {
    type Record = Numbered;

    const COMMAND: &'static str = "query-numbers";
    const EVENTS: &'static [&'static str] = &[];

    fn load(&self, _: &QmpPort) -> impl Future<Output = Loaded> + 'static {
        let loads = self.loads.clone();
        poll_fn(move |_| match loads.lock().unwrap().pop() {
            Some(result) => result.into(),
            None => std::task::Poll::Pending,
        })
    }
}

/// What is loaded here needs no connection.
fn list(source: Prepared) -> (List, PairPeer) {
    let (transport, peer) = pair();
    let port = QmpPort::for_transport(Box::new(transport));
    peer.open();
    peer.close("gone");
    while port.main_context().iteration(false) {}
    (List::new(Some(&port), source), peer)
}

fn with_context(test: impl Fn(&glib::MainContext)) {
    let context = glib::MainContext::new();
    let run = context.with_thread_default(|| test(&context));
    run.expect("a new main context");
}

fn numbered(id: &(impl ToString + ?Sized), number: u32) -> Numbered {
    let id = id.to_string();
    Numbered { id, number }
}

fn contents(list: &List) -> Vec<Numbered> {
    let items = list.iter::<glib::BoxedAnyObject>();
    let values = items.map(|item| item.unwrap().borrow::<Numbered>().clone());
    values.collect()
}

/// Replays the notifications into a copy, which must always equal the list.
fn replay(list: &List) -> Rc<RefCell<Vec<glib::Object>>> {
    let seen = Rc::<RefCell<Vec<glib::Object>>>::default();
    let copy = seen.clone();
    list.connect_items_changed(move |list, at, removed, added| {
        assert!(removed + added > 0);
        let new = (at..at + added).map(|nth| list.item(nth).unwrap());
        let (at, removed) = (at as usize, removed as usize);
        copy.borrow_mut().splice(at..at + removed, new);
        assert_eq!(*copy.borrow(), snapshot(list));
    });
    seen
}

fn snapshot(list: &List) -> Vec<glib::Object> {
    list.snapshot()
}

#[derive(Debug, Clone)]
enum Change {
    Set(Vec<(u8, u32)>),
    Put(u8, u32),
    Remove(u8),
}

impl Change {
    fn apply(&self, list: &List) {
        match self {
            Self::Set(all) => list.set(all.iter().map(|(id, n)| numbered(id, *n)).collect()),
            Self::Put(id, number) => list.put(numbered(id, *number)),
            Self::Remove(id) => list.remove(&id.to_string()),
        }
    }

    /// The same, in the simplest way.
    fn apply_to(&self, model: &mut Vec<Numbered>) {
        match self {
            Self::Set(all) => {
                model.clear();
                for (id, number) in all {
                    if !model.iter().any(|it| it.id == id.to_string()) {
                        model.push(numbered(id, *number));
                    }
                }
            }
            Self::Put(id, number) => {
                let new = numbered(id, *number);
                match model.iter_mut().find(|it| it.id == new.id) {
                    Some(old) => *old = new,
                    None => model.push(new),
                }
            }
            Self::Remove(id) => model.retain(|it| it.id != id.to_string()),
        }
    }
}

fn change() -> impl Strategy<Value = Change> {
    let id = || 0..12_u8;
    prop_oneof![
        vec((id(), any::<u32>()), 0..10).prop_map(Change::Set),
        (id(), any::<u32>()).prop_map(|(id, number)| Change::Put(id, number)),
        id().prop_map(Change::Remove),
    ]
}

proptest! {
    /// Each change may be followed by one that a handler of its first step makes.
    #[test]
    fn replaying_the_notifications_gives_the_same_list(
        changes in vec((change(), proptest::option::of(change())), 0..20)
    ) {
        with_context(|_| {
            let (list, _peer) = list(Prepared::default());
            let before = replay(&list);
            let nested = Rc::<RefCell<Option<Change>>>::default();
            let next = nested.clone();
            list.connect_items_changed(move |list, _, _, _| {
                let next = next.take();
                if let Some(change) = next {
                    change.apply(list);
                }
            });
            let after = replay(&list);

            let mut model = Vec::new();
            let mut known = HashMap::new();
            for (change, inner) in &changes {
                nested.replace(inner.clone());
                change.apply(&list);
                change.apply_to(&mut model);
                // The handler has taken it if anything was emitted.
                if let Some(inner) = inner && nested.take().is_none() {
                    inner.apply_to(&mut model);
                    // An item that was removed and added again is a new object.
                    known.clear();
                }
                assert_eq!(contents(&list), model);
                assert_eq!(*before.borrow(), snapshot(&list));
                assert_eq!(*after.borrow(), snapshot(&list));
                let ids = model.iter().map(|it| it.id.clone());
                let now: HashMap<_, _> = ids.zip(snapshot(&list)).collect();
                for (id, item) in &now {
                    assert!(known.get(id).is_none_or(|old| old == item), "{id} is another");
                }
                known = now;
            }
        });
    }
}

#[test]
fn a_property_changes_without_a_splice() {
    with_context(|_| {
        let (list, _peer) = list(Prepared::default());
        list.set(vec![numbered("a", 1), numbered("b", 2)]);
        let (spliced, item) = (Rc::new(Cell::new(0)), list.item(1).unwrap());
        let count = spliced.clone();
        list.connect_items_changed(move |_, _, _, _| count.set(count.get() + 1));
        list.set(vec![numbered("a", 1), numbered("b", 3)]);
        list.put(numbered("a", 4));
        assert_eq!(spliced.get(), 0);
        assert_eq!(contents(&list), [numbered("a", 4), numbered("b", 3)]);
        assert_eq!(list.item(1), Some(item));
        assert_eq!(list.item(2), None);
        assert_eq!(list.item(u32::MAX), None);
        assert_eq!(list.item_type(), glib::BoxedAnyObject::static_type());
    });
}

#[test]
fn a_handler_may_drop_the_list() {
    with_context(|_| {
        let (list, _peer) = list(Prepared::default());
        let weak = list.downgrade();
        let held = Rc::new(RefCell::new(Some(list)));
        let only = held.clone();
        let list = weak.upgrade().unwrap();
        list.connect_items_changed(move |_, _, _, _| drop(only.take()));
        list.set(vec![numbered("a", 1)]);
        drop(list);
        assert!(held.take().is_none());
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn it_loads_when_it_is_asked() {
    with_context(|context| {
        let source = Prepared::default();
        let (list, _peer) = list(source.clone());
        let notes = Rc::<RefCell<Vec<String>>>::default();
        let seen = notes.clone();
        list.connect_notify_local(None, move |list, property| {
            seen.borrow_mut()
                .push(format!("{} {}", property.name(), list.loading()));
        });
        while context.iteration(false) {}
        assert!(!list.loading(), "the items have not been requested");
        source
            .loads
            .lock()
            .unwrap()
            .push(Ok(vec![numbered("a", 1)]));
        assert_eq!(list.n_items(), 0);
        assert!(list.loading());
        while context.iteration(false) {}
        assert_eq!(contents(&list), [numbered("a", 1)]);
        assert!(!list.loading() && list.error().is_none());

        source
            .loads
            .lock()
            .unwrap()
            .push(Err(Error::Cancelled("it".into())));
        list.refresh();
        while context.iteration(false) {}
        assert!(list.error().unwrap().matches(gio::IOErrorEnum::Cancelled));
        assert_eq!(contents(&list), [numbered("a", 1)], "they are kept");
        let expected = [
            "loading true",
            "loading false",
            "loading true",
            "error true",
            "loading false",
        ];
        assert_eq!(*notes.borrow(), expected);
    });
}

#[test]
fn nothing_keeps_a_list_that_is_being_loaded() {
    with_context(|context| {
        let (list, _peer) = list(Prepared::default());
        list.refresh();
        while context.iteration(false) {}
        assert!(list.loading());
        let (weak, port) = (list.downgrade(), list.port().unwrap().downgrade());
        drop(list);
        while context.iteration(false) {}
        assert!(weak.upgrade().is_none());
        assert!(port.upgrade().is_none());
    });
}

#[test]
fn there_is_a_limit() {
    with_context(|context| {
        let source = Prepared::default();
        let (list, _peer) = list(source.clone());
        let all: Vec<_> = (0..=MAX_ITEMS).map(|n| numbered(&n, 0)).collect();
        let mut loads = source.loads.lock().unwrap();
        loads.push(Ok(all.clone()));
        loads.push(Ok(all[1..].to_vec()));
        drop(loads);
        list.refresh();
        while context.iteration(false) {}
        assert_eq!(list.n_items() as usize, MAX_ITEMS);
        list.refresh();
        while context.iteration(false) {}
        let error = list.error().unwrap().to_string();
        assert!(error.contains("4097 items"), "{error}");
        list.put(numbered("one more", 0));
        assert_eq!(list.n_items() as usize, MAX_ITEMS);
    });
}

#[test]
fn a_list_that_was_constructed_without_a_port_is_empty() {
    let list: List = glib::Object::new();
    list.refresh();
    assert_eq!((list.n_items(), list.item(0)), (0, None));
    assert!(!list.loading());
    list.set(vec![numbered("a", 1)]);
    assert_eq!(list.n_items(), 0);
}
