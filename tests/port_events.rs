// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events reach all listeners: handlers, handlers of one name, and streams.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use common::main_loop::with_own;
use common::script;
use glib::prelude::*;
use serde::Deserialize;
use serde_json::{Value, json};
use spice_qmp::{EVENT_QUEUE, EVENT_QUEUE_BYTES, Event, EventStream, QmpPort};

type Seen = Rc<RefCell<Vec<String>>>;

fn note_names(port: &QmpPort, name: Option<&str>) -> (Seen, glib::SignalHandlerId) {
    let seen = Seen::default();
    let notes = seen.clone();
    let handler = port.connect_qmp_event(name, move |_, event| {
        notes.borrow_mut().push(event.name().to_owned());
    });
    (seen, handler)
}

/// The names of the events that wait in a stream.
fn waiting(stream: &mut EventStream) -> Vec<String> {
    let mut context = Context::from_waker(Waker::noop());
    let mut names = Vec::new();
    while let Poll::Ready(Some(event)) = pin!(stream.next()).poll(&mut context) {
        names.push(event.name().to_owned());
    }
    names
}

#[test]
fn the_signal_for_c_has_a_node_only_if_there_is_data() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let seen = Seen::default();
        port.connect_local("event", false, {
            let seen = seen.clone();
            move |values| {
                assert_eq!(values.len(), 3);
                values[0].get::<QmpPort>().unwrap();
                let name: String = values[1].get().unwrap();
                let node: glib::Pointer = values[2].get().unwrap();
                let kind = if node.is_null() { "NULL" } else { "node" };
                seen.borrow_mut().push(format!("{name} {kind}"));
                None
            }
        });
        server.event("STOP");
        server.event_with("SHUTDOWN", &json!({ "guest": true }));
        server.event_with("EMPTY", &json!({}));
        assert!(
            seen.borrow().is_empty(),
            "delivered from the main loop only"
        );
        main.drain();
        assert_eq!(*seen.borrow(), ["STOP NULL", "SHUTDOWN node", "EMPTY node"]);
    });
}

#[test]
fn an_event_holds_what_was_sent() {
    #[derive(Deserialize)]
    struct Shutdown {
        guest: bool,
        reason: String,
    }
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut events = port.events();
        server.line(
            r#"{"timestamp": {"seconds": 1700000000, "microseconds": 42}, "event": "SHUTDOWN", "data": {"guest":  true, "reason": "é", "new": 1}, "unknown": 2}"#,
        );
        server.line(r#"{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "BARE"}"#);
        server.line(r#"{"event": "NO_TIME", "data": null}"#);
        server.line(r#"{"event": "odd \u00e9 name", "data": [1]}"#);
        let event = main.block_on(events.next()).unwrap();
        assert_eq!(event.name(), "SHUTDOWN");
        assert_eq!(event.timestamp(), 1_700_000_000_000_042);
        assert_eq!(
            event.data(),
            Some(r#"{"guest":  true, "reason": "é", "new": 1}"#)
        );
        let data: Shutdown = event.decode().unwrap();
        assert!(data.guest);
        assert_eq!(data.reason, "é");

        let event = main.block_on(events.next()).unwrap();
        assert_eq!((event.data(), event.timestamp()), (None, -1));
        assert_eq!(event.decode::<Value>().unwrap(), Value::Null);
        assert!(event.decode::<u32>().is_err());

        let event = main.block_on(events.next()).unwrap();
        assert_eq!(event.timestamp(), -1);
        let event = main.block_on(events.next()).unwrap();
        assert_eq!(event.name(), "odd é name");
        assert_eq!(event.decode::<Vec<u32>>().unwrap(), [1]);
    });
}

#[test]
fn a_handler_of_one_name_receives_only_that() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let (all, _) = note_names(&port, None);
        let (stops, handler) = note_names(&port, Some("STOP"));
        for name in ["STOP", "RESUME", "STOPPED", "STOP"] {
            server.event(name);
        }
        main.drain();
        assert_eq!(*all.borrow(), ["STOP", "RESUME", "STOPPED", "STOP"]);
        assert_eq!(*stops.borrow(), ["STOP", "STOP"]);

        port.disconnect(handler);
        server.event("STOP");
        main.drain();
        assert_eq!(all.borrow().len(), 5);
        assert_eq!(stops.borrow().len(), 2);
    });
}

#[test]
fn a_handler_of_one_name_alone_is_enough() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let (seen, _) = note_names(&port, Some("ONLY_THIS"));
        server.event("OTHER");
        server.event("ONLY_THIS");
        main.drain();
        assert_eq!(*seen.borrow(), ["ONLY_THIS"]);
    });
}

#[test]
fn a_stream_hears_all_since_it_was_made() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.event("BEFORE");
        main.drain();
        let mut events = port.events();
        // Subscribed before the command: none of the events that it causes is lost.
        let call = main.spawn(port.execute::<Value>("stop", ()));
        main.drain();
        server.event("STOP");
        server.reply(&server.requests()[0], json!({}));
        server.event("AFTER");
        main.join("stop", &call).unwrap();
        main.drain();
        assert_eq!(waiting(&mut events), ["STOP", "AFTER"]);
    });
}

#[test]
fn a_stream_of_names_hears_only_those() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut some = port.events_named(["A", "C"]);
        let mut all = port.events();
        for name in ["A", "B", "C", "AA"] {
            server.event(name);
        }
        main.drain();
        assert_eq!(waiting(&mut some), ["A", "C"]);
        assert_eq!(waiting(&mut all), ["A", "B", "C", "AA"]);
    });
}

#[test]
fn a_stream_that_is_not_read_is_bounded() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut events = port.events();
        for number in 0..EVENT_QUEUE + 10 {
            server.event(&format!("E{number}"));
        }
        main.drain();
        assert_eq!(events.take_dropped(), 10);
        assert_eq!(events.take_dropped(), 0);
        let names = waiting(&mut events);
        assert_eq!(names.len(), EVENT_QUEUE);
        assert_eq!(names[0], "E10", "the oldest go");
        server.event("MORE");
        main.drain();
        assert_eq!(waiting(&mut events), ["MORE"]);
    });
}

#[test]
fn a_stream_wakes_its_reader_and_ends_with_the_port() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut events = port.events();
        let reader = main.spawn(async move {
            let mut names = Vec::new();
            while let Some(event) = events.next().await {
                names.push(event.name().to_owned());
            }
            (names, events.next().await)
        });
        main.drain();
        server.event("A");
        main.drain();
        server.peer.close("gone");
        server.peer.open();
        server.make_ready(main, script::GREETING);
        server.event("B");
        main.drain();
        assert!(!reader.is_done(), "the port lives on");
        let weak = port.downgrade();
        drop(port);
        let (names, after) = main.join("the end of the stream", &reader);
        assert_eq!(names, ["A", "B"]);
        assert_eq!(after, None);
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn a_stream_ends_when_the_program_closes_the_port() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut events = port.events();
        server.event("LAST");
        let reader = main.spawn(async move {
            let last = events.next().await.map(|event| event.name().to_owned());
            (last, events.next().await)
        });
        main.block_on(port.close());
        let (last, end) = main.join("the end of the stream", &reader);
        assert_eq!((last.as_deref(), end), (Some("LAST"), None));
        let mut late = port.events();
        assert_eq!(main.block_on(late.next()), None, "of a closed port");
    });
}

#[test]
fn many_streams_come_and_go() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut kept = port.events();
        for _ in 0..1000 {
            drop(port.events_named(["A"]));
        }
        let other = port.events();
        server.event("A");
        main.drain();
        drop(other);
        server.event("A");
        main.drain();
        assert_eq!(waiting(&mut kept), ["A", "A"]);
    });
}

#[test]
fn events_and_replies_keep_their_order() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let seen = Seen::default();
        port.connect_qmp_event(None, {
            let seen = seen.clone();
            move |_, event: &Event| seen.borrow_mut().push(event.name().to_owned())
        });
        for name in ["one", "two"] {
            let seen = seen.clone();
            port.execute_with(name, None, spice_qmp::CallOptions::default(), move |_| {
                seen.borrow_mut().push(name.to_owned());
            });
        }
        main.drain();
        let requests = server.requests();
        server.event("A");
        server.reply(&requests[0], json!({}));
        server.event("B");
        main.drain();
        server.event("C");
        server.reply(&requests[1], json!({}));
        server.event("D");
        main.drain();
        assert_eq!(*seen.borrow(), ["A", "one", "B", "C", "two", "D"]);
    });
}

#[test]
fn events_come_before_ready_and_before_the_greeting() {
    with_own(|main| {
        let (port, server) = script::port();
        let (seen, _) = note_names(&port, None);
        server.peer.open();
        server.event("EARLY");
        server.line(script::GREETING);
        server.event("BETWEEN");
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        assert!(port.ready());
        assert_eq!(*seen.borrow(), ["EARLY", "BETWEEN"]);
    });
}

#[test]
fn a_stream_that_is_not_read_is_bounded_in_bytes() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut events = port.events();
        let third = "x".repeat(EVENT_QUEUE_BYTES / 3 + 1);
        for name in ["A", "B", "C", "D"] {
            server.event_with(name, &json!(third));
            main.drain();
        }
        assert_eq!(events.take_dropped(), 2);
        assert_eq!(waiting(&mut events), ["C", "D"]);

        // The newest event always waits.
        server.event("E");
        server.event_with("F", &json!("x".repeat(EVENT_QUEUE_BYTES)));
        main.drain();
        assert_eq!(events.take_dropped(), 1);
        assert_eq!(waiting(&mut events), ["F"]);
        server.event("G");
        main.drain();
        assert_eq!(waiting(&mut events), ["G"]);
        assert_eq!(events.take_dropped(), 0);
    });
}

#[test]
fn names_that_no_event_has() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        for name in ["", "A\0B", "\0", "a::b", "é"] {
            let (seen, _) = note_names(&port, Some(name));
            server.event("C");
            main.drain();
            assert!(seen.borrow().is_empty(), "{name:?}");
        }
    });
}

#[test]
fn an_event_without_a_name_is_an_event() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut events = port.events();
        let mut named = port.events_named([""]);
        let (seen, handler) = note_names(&port, Some(""));
        server.event("");
        main.drain();
        port.disconnect(handler);
        server.event("");
        main.drain();
        assert_eq!(*seen.borrow(), [""]);
        assert_eq!(waiting(&mut events), ["", ""]);
        assert_eq!(waiting(&mut named), ["", ""]);
    });
}

#[test]
fn a_handler_connected_when_the_status_follows_an_event_receives_that_event() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let seen = Seen::default();
        port.connect_status_notify({
            let seen = seen.clone();
            move |port| {
                let seen = seen.clone();
                port.connect_local("event", false, move |values| {
                    seen.borrow_mut().push(values[1].get().unwrap());
                    None
                });
            }
        });
        let _stream = port.events_named(["FIRST"]);
        // That there is no handler is found out for the second event, during the third.
        let names = ["FIRST", "IGNORED", "SHUTDOWN"];
        let lines = names.map(|name| format!("{{\"event\": \"{name}\"}}\r\n"));
        server.peer.send(lines.concat().as_bytes());
        main.drain();
        assert_eq!(*seen.borrow(), ["SHUTDOWN"]);
    });
}

#[test]
fn kept_events_do_not_change() {
    let describe = |event: &Event| {
        let data = event.data().map(str::to_owned);
        (event.name().to_owned(), data, event.timestamp())
    };
    with_own(|main| {
        let (port, server) = script::ready(main);
        let kept = Rc::<RefCell<Vec<Event>>>::default();
        let expected = Rc::<RefCell<Vec<_>>>::default();
        for to in [kept.clone(), Rc::default()] {
            let port = port.clone();
            let (count, notes) = (Cell::new(0), expected.clone());
            let is_kept = Rc::ptr_eq(&to, &kept);
            port.connect_qmp_event(None, move |_, event| {
                // Every third one is kept, the others make room for the next.
                count.set(count.get() + 1);
                if count.get() % 3 == 0 {
                    to.borrow_mut().push(event.clone());
                    if is_kept {
                        notes.borrow_mut().push(describe(event));
                    }
                }
            });
        }
        for number in 0..300_usize {
            let text = "x".repeat(number * number % 997);
            let name = &"NAME_OF_SOME_LENGTH"[..number % 19];
            let time = json!({ "seconds": number, "microseconds": number });
            let mut event = json!({ "event": name, "timestamp": time });
            if number % 4 > 0 {
                event["data"] = json!({ "number": number, "text": text });
            }
            server.line(&event.to_string());
        }
        main.drain();
        assert_eq!(kept.borrow().len(), 100);
        let now: Vec<_> = kept.borrow().iter().map(describe).collect();
        assert_eq!(now, *expected.borrow());
        let data = now.iter().filter(|(_, data, _)| data.is_some()).count();
        assert_eq!(data, 75, "of 100, of which each fourth has none");
        assert!(now.windows(2).all(|pair| pair[0].2 < pair[1].2));
    });
}

#[test]
fn events_are_equal_by_what_they_hold() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let mut events = port.events();
        let lines = [
            r#"{"event": "A", "data": {"b": 1}}"#,
            r#"{"event": "A", "data": {"b": 2}}"#,
            r#"{"event": "A", "data": {"b": 1}}"#,
            r#"{"event": "A"}"#,
        ];
        for line in lines {
            server.line(line);
        }
        let all: Vec<_> = (0..lines.len())
            .map(|_| main.block_on(events.next()).unwrap())
            .collect();
        assert_eq!(all[0], all[2]);
        assert_ne!(all[0], all[1]);
        assert_ne!(all[0], all[3]);
        let text = format!("{:?}", all[0]);
        assert_eq!(
            text,
            r#"Event { name: "A", data: Some("{\"b\": 1}"), timestamp: -1 }"#
        );
    });
}
