// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port is released in every way that a program may choose: its calls end on
//! the main loop, and its channel is free for the next port.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::{Rc, Weak};

use common::main_loop::{with_default, with_own};
use common::script::{self, Ends, call};
use common::spice::{finish_lone, lone_channel};
use glib::prelude::*;
use serde_json::json;
use spice_qmp::{CallOptions, Error, PortState, QmpPort, Session};

/// Drops one reference more than the caller has, as viewers in C do with a
/// port that its channel only lends them.
#[allow(unsafe_code)]
fn unref_once_more(port: QmpPort) {
    let object = port.upcast_ref::<glib::Object>().as_ptr();
    drop(port);
    // SAFETY: the channel's reference keeps the object alive until here. The port
    // handles a caller that drops it.
    unsafe { glib::gobject_ffi::g_object_unref(object) };
}

/// Disposes of an object, like the end of a program's window.
#[allow(unsafe_code)]
fn run_dispose(object: &impl IsA<glib::Object>) {
    // SAFETY: the object is live, and tolerates use after its disposal.
    unsafe { glib::gobject_ffi::g_object_run_dispose(object.upcast_ref().as_ptr()) };
}

/// A value that is freed with the object: a disposal alone clears weak references.
#[allow(unsafe_code)]
fn tie(object: &impl IsA<glib::Object>) -> Weak<()> {
    let tied = Rc::new(());
    let weak = Rc::downgrade(&tied);
    // SAFETY: nothing else uses this key.
    unsafe { object.as_ref().set_data("spice-qmp-test", tied) };
    weak
}

/// Releases a port.
type Way = (&'static str, fn(QmpPort));

/// The ways in which a port is released while its channel stays.
const WAYS: [Way; 2] = [
    ("the last reference", unref_once_more),
    ("the disposal", |port| run_dispose(&port)),
];

#[test]
fn a_callback_may_ask_the_channel_for_the_next_port() {
    with_default(|main| {
        for (way, go) in WAYS {
            let session = Session::new();
            let channel = lone_channel(&session);
            let port = QmpPort::get(&channel);
            let tied = tie(&port);
            let next = Rc::new(RefCell::new(None));
            port.execute_with("stop", None, CallOptions::default(), {
                let (next, channel) = (next.clone(), channel.clone());
                move |end| {
                    assert!(end.is_err());
                    next.replace(Some(QmpPort::get(&channel)));
                }
            });
            go(port);
            assert!(next.borrow().is_none(), "{way}: delivered re-entrantly");
            assert!(tied.upgrade().is_none(), "{way}: the port lives");
            main.drain();
            let next = next.take().expect("the callback ran");
            assert_eq!(next.state(), PortState::Connecting, "{way}");
            assert_eq!(QmpPort::get(&channel), next, "{way}");
            let ends = Ends::default();
            call(&next, "a", &ends);
            main.drain();
            assert!(
                matches!(ends.borrow()[..], [(_, Err(Error::Usage(_)))]),
                "{way}: {ends:?}"
            );
            drop(next);
            finish_lone(main, session, channel);
        }
    });
}

#[test]
fn a_port_that_was_disposed_of_leaves_nothing_behind() {
    with_default(|main| {
        for (way, go) in WAYS {
            let session = Session::new();
            let channel = lone_channel(&session);
            for _ in 0..3 {
                let port = QmpPort::get(&channel);
                let tied = tie(&port);
                main.drain();
                go(port);
                assert!(tied.upgrade().is_none(), "{way}: the port lives");
            }
            main.drain();
            let last = tie(&QmpPort::get(&channel));
            // Waits until the channel is gone, too.
            finish_lone(main, session, channel);
            assert!(last.upgrade().is_none(), "{way}");
        }
    });
}

#[test]
fn a_port_that_was_disposed_of_may_still_be_used() {
    with_default(|main| {
        let session = Session::new();
        let channel = lone_channel(&session);
        let port = QmpPort::get(&channel);
        let mut events = port.events();
        run_dispose(&port);
        run_dispose(&port);
        assert_eq!(port.state(), PortState::Closed);
        assert_ne!(port, QmpPort::get(&channel), "the channel has another");
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        assert!(matches!(ends.borrow()[..], [(_, Err(Error::Usage(_)))]));
        assert_eq!(main.block_on(events.next()), None);
        assert!(main.block_on(port.wait_ready()).is_err());
        main.block_on(port.close());
        let tied = tie(&port);
        drop(port);
        main.drain();
        assert!(tied.upgrade().is_none());
        finish_lone(main, session, channel);
    });
}

#[test]
fn a_channel_that_is_disposed_of_does_not_harm_its_port() {
    with_default(|main| {
        let session = Session::new();
        let channel = lone_channel(&session);
        let port = QmpPort::get(&channel);
        let ends = Ends::default();
        call(&port, "a", &ends);
        let weak = port.downgrade();
        run_dispose(&channel);
        main.drain();
        assert_eq!(ends.borrow().len(), 1);
        main.block_on(port.close());
        drop(port);
        finish_lone(main, session, channel);
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn callbacks_do_not_run_within_the_disposal_of_the_channel() {
    with_default(|main| {
        let session = Session::new();
        let channel = lone_channel(&session);
        let port = QmpPort::get(&channel).downgrade();
        let lived = Rc::new(Cell::new(None));
        // The last moment before spice-gtk drops the channel, and the channel its port.
        session.connect_local("channel-destroy", false, {
            let (port, lived) = (port.clone(), lived.clone());
            let told = lived.clone();
            move |_| {
                let (weak, lived) = (port.clone(), lived.clone());
                let port = port.upgrade()?;
                port.execute_with("a", None, CallOptions::default(), move |_| {
                    lived.set(Some(weak.upgrade().is_some()));
                });
                assert_eq!(told.get(), None, "delivered re-entrantly");
                None
            }
        });
        finish_lone(main, session, channel);
        main.drain();
        assert!(port.upgrade().is_none());
        // The port delivers what ended with its channel before it is freed, too.
        assert_eq!(lived.get(), Some(true));
    });
}

#[test]
fn callbacks_do_not_run_within_a_drop() {
    with_own(|main| {
        for sent in [false, true] {
            let (port, _server) = script::ready(main);
            let owner = Rc::new(RefCell::new(Some(port)));
            let told = Rc::new(Cell::new(None));
            let callback = {
                let (owner, told) = (owner.clone(), told.clone());
                move |_| told.set(Some(owner.try_borrow().is_ok()))
            };
            if let Some(port) = &*owner.borrow() {
                port.execute_with("a", None, CallOptions::default(), callback);
                if sent {
                    main.drain();
                }
            }
            // As any program may do: the port is dropped while the cell is borrowed.
            *owner.borrow_mut() = None;
            assert_eq!(told.get(), None, "sent: {sent}");
            main.drain();
            assert_eq!(told.get(), Some(true), "sent: {sent}");
        }
    });
}

#[test]
fn all_callbacks_come_before_the_end_of_a_close() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        for name in ["a", "b"] {
            call(&port, name, &ends);
        }
        main.drain();
        server.requests();
        // The calls are not answered, so the close ends them.
        let closed = main.spawn({
            let (port, ends) = (port.clone(), ends.clone());
            async move {
                port.close().await;
                ends.borrow().len()
            }
        });
        assert!(ends.borrow().is_empty(), "called from within it");
        assert_eq!(main.join("the close", &closed), 2);
        main.drain();
        assert_eq!(ends.borrow().len(), 2);
    });
}

#[test]
fn a_callback_of_a_released_port_may_use_another() {
    with_own(|main| {
        let (port, _server) = script::ready(main);
        let (other, others_server) = script::ready(main);
        let ends = Ends::default();
        for name in ["a", "b"] {
            let (other, ends) = (other.clone(), ends.clone());
            port.execute_with("x", None, CallOptions::default(), move |_| {
                call(&other, name, &ends);
            });
        }
        drop(port);
        assert_eq!(other.pending(), 0);
        main.drain();
        assert_eq!(other.pending(), 2);
        for request in others_server.requests() {
            others_server.reply(&request, json!(request.command));
        }
        main.drain();
        let named = |name: &str| (name.to_owned(), Ok(format!("{name:?}")));
        assert_eq!(*ends.borrow(), [named("a"), named("b")]);
    });
}

#[test]
fn a_callback_of_a_released_port_may_release_the_others() {
    with_own(|main| {
        let ports: Vec<_> = (0..3).map(|_| script::ready(main).0).collect();
        let weaks: Vec<_> = ports.iter().map(ObjectExt::downgrade).collect();
        let first = ports[0].clone();
        let ends = Ends::default();
        let others = Cell::new(Some(ports));
        call(&first, "a", &ends);
        first.execute_with("b", None, CallOptions::default(), move |_| drop(others));
        call(&first, "c", &ends);
        run_dispose(&first);
        drop(first);
        main.drain();
        assert_eq!(ends.borrow().len(), 2);
        assert!(weaks.iter().all(|weak| weak.upgrade().is_none()));
    });
}
