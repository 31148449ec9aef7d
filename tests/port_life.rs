// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports are created and released, and leave nothing behind.
#![cfg(feature = "spice")]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::main_loop::{with_default, with_own};
use common::script::{self, Ends, call, call_with};
use common::spice::{finish_lone, lone_channel};
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{CallOptions, Error, PortState, QmpPort, Session};

#[test]
fn the_last_reference_ends_a_port_whatever_it_does() {
    with_own(|main| {
        for doing in [
            "idle",
            "calling",
            "unsent",
            "blocked",
            "deadline",
            "half a line",
        ] {
            let (port, server) = script::ready(main);
            let ends = Ends::default();
            match doing {
                "calling" => {
                    call(&port, "a", &ends);
                    main.drain();
                }
                "unsent" => {
                    call(&port, "a", &ends);
                }
                "blocked" => {
                    server.peer.block(true);
                    call(&port, "a", &ends);
                    main.drain();
                    call(&port, "b", &ends);
                }
                "deadline" => {
                    let options = CallOptions {
                        timeout: Some(Duration::from_millis(20)),
                        ..CallOptions::default()
                    };
                    call_with(&port, "a", options, &ends);
                    main.drain();
                }
                "half a line" => server.peer.send(b"{\"event\": \"A"),
                _ => {}
            }
            let mut events = port.events();
            let weak = port.downgrade();
            drop(port);
            assert!(weak.upgrade().is_none(), "{doing}: it lives");
            assert!(!server.peer.is_used(), "{doing}: its transport lives");
            let expected = match doing {
                "idle" | "half a line" => 0,
                "blocked" => 2,
                _ => 1,
            };
            assert!(ends.borrow().is_empty(), "{doing}: delivered re-entrantly");
            main.drain();
            assert_eq!(ends.borrow().len(), expected, "{doing}");
            for (_, end) in &*ends.borrow() {
                assert!(matches!(end, Err(Error::Closed(_))), "{doing}: {end:?}");
            }
            assert_eq!(main.block_on(events.next()), None, "{doing}");
            main.run_for(Duration::from_millis(30));
            assert!(!main.context().pending(), "{doing}: a source is left");
        }
    });
}

#[test]
fn a_callback_may_hold_the_port() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let weak = port.downgrade();
        let held = port.clone();
        port.execute_with("a", None, CallOptions::default(), move |_| drop(held));
        drop(port);
        main.drain();
        assert!(weak.upgrade().is_some(), "the call is in flight");
        server.answer("a", json!({}));
        main.drain();
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn a_future_holds_the_port_until_it_ends() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let weak = port.downgrade();
        let call = main.spawn(port.execute::<Value>("a", ()));
        drop(port);
        main.drain();
        server.answer("a", json!(1));
        assert_eq!(main.join("a", &call).unwrap(), 1);
        main.drain();
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn callbacks_are_dropped_with_their_calls() {
    struct Drops(Rc<Cell<u32>>);
    impl Drop for Drops {
        fn drop(&mut self) {
            self.0.set(self.0.get() + 1);
        }
    }
    with_own(|main| {
        let drops = Rc::new(Cell::new(0));
        let (port, server) = script::ready(main);
        let mut ids = Vec::new();
        for name in ["replied", "cancelled", "closed"] {
            let held = Drops(drops.clone());
            let id = port.execute_with(name, None, CallOptions::default(), move |_| drop(held));
            ids.push(id);
        }
        main.drain();
        server.reply(&server.requests()[0], json!({}));
        port.cancel(ids[1]);
        main.drain();
        assert_eq!(drops.get(), 2);
        main.block_on(port.close());
        main.drain();
        assert_eq!(drops.get(), 3);
    });
}

#[test]
fn many_ports_come_and_go() {
    with_own(|main| {
        let ends = Ends::default();
        let ports: Vec<_> = (0..200).map(|_| script::ready(main)).collect();
        let weaks: Vec<_> = ports.iter().map(|(port, _)| port.downgrade()).collect();
        for (port, _) in &ports {
            call(port, "a", &ends);
        }
        drop(ports);
        main.drain();
        assert!(weaks.iter().all(|weak| weak.upgrade().is_none()));
        assert_eq!(ends.borrow().len(), 200);
    });
}

#[test]
fn a_thousand_calls_end_with_their_port() {
    with_own(|main| {
        for closed in [false, true] {
            let ends = Ends::default();
            let (port, _server) = script::ready(main);
            let mut events = port.events();
            for _ in 0..1000 {
                call(&port, "a", &ends);
            }
            main.drain();
            if closed {
                main.block_on(port.close());
            }
            drop(port);
            main.drain();
            assert_eq!(ends.borrow().len(), 1000, "closed: {closed}");
            assert_eq!(main.block_on(events.next()), None);
        }
    });
}

#[test]
fn a_closed_port_goes_like_any_other() {
    with_own(|main| {
        let (port, _server) = script::ready(main);
        let weak = port.downgrade();
        main.block_on(port.close());
        drop(port);
        main.drain();
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn a_channel_has_one_port() {
    with_default(|main| {
        let session = Session::new();
        let first = lone_channel(&session);
        let second = lone_channel(&session);
        let port = QmpPort::get(&first);
        assert_eq!(port, QmpPort::get(&first));
        assert_eq!(port, QmpPort::get(first.clone()));
        assert_ne!(port, QmpPort::get(&second));
        assert_eq!(port.channel(), Some(first.clone()));
        assert_eq!(port.state(), PortState::Connecting);
        assert!(!port.ready());
        drop(port);
        drop(second);
        finish_lone(main, session, first);
    });
}

#[test]
fn the_channel_owns_its_port_and_not_vice_versa() {
    with_default(|main| {
        let session = Session::new();
        let channel = lone_channel(&session);
        let weak = QmpPort::get(&channel).downgrade();
        main.drain();
        let port = weak.upgrade().expect("the channel owns it");
        assert_eq!(QmpPort::get(&channel), port);
        drop(port);
        finish_lone(main, session, channel);
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn a_port_outlives_its_channel() {
    with_default(|main| {
        let session = Session::new();
        let channel = lone_channel(&session);
        let port = QmpPort::get(&channel);
        let mut events = port.events();
        let wait = main.spawn({
            let port = port.clone();
            async move { port.wait_ready().await }
        });
        main.drain();
        finish_lone(main, session, channel);
        assert!(matches!(
            main.join("the wait", &wait),
            Err(Error::Closed(_))
        ));
        assert_eq!(port.channel(), None);
        assert_eq!(port.state(), PortState::Closed);
        assert_eq!(main.block_on(events.next()), None);
        let end = main.block_on(port.execute::<Value>("query-name", ()));
        assert!(matches!(end, Err(Error::Usage(_))), "{end:?}");
        assert!(matches!(
            main.block_on(port.wait_ready()),
            Err(Error::Closed(_))
        ));
        let weak = port.downgrade();
        drop(port);
        main.drain();
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn a_port_that_was_closed_is_replaced() {
    with_default(|main| {
        let session = Session::new();
        let channel = lone_channel(&session);
        let port = QmpPort::get(&channel);
        main.block_on(port.close());
        let next = QmpPort::get(&channel);
        assert_ne!(port, next);
        assert_eq!(next, QmpPort::get(&channel));
        assert_eq!(next.state(), PortState::Connecting);

        // Releasing the first one does not affect the second.
        let weak = port.downgrade();
        drop(port);
        main.drain();
        assert!(weak.upgrade().is_none());
        assert_eq!(next, QmpPort::get(&channel));
        drop(next);
        finish_lone(main, session, channel);
    });
}

#[test]
fn bytes_of_a_channel_that_cannot_be_written_to() {
    with_default(|main| {
        let session = Session::new();
        let channel = lone_channel(&session);
        let port = QmpPort::get(&channel);
        let greeting = format!("{}\r\n", script::GREETING);
        let data: glib::Pointer = greeting.as_ptr().cast_mut().cast();
        let size = i32::try_from(greeting.len()).unwrap();
        channel.emit_by_name::<()>("port-data", &[&data, &size]);
        // The negotiation cannot be sent: the channel has no connection.
        let error = main.block_on(port.wait_ready()).unwrap_err();
        assert!(matches!(error, Error::Closed(_)), "{error:?}");
        assert_eq!(port.state(), PortState::Closed);
        drop(port);
        finish_lone(main, session, channel);
    });
}
