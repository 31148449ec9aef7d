// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for events and run states.
#![cfg(feature = "gobject")]

mod common;

use std::time::Duration;

use common::main_loop::{MainLoop, with_own, with_own_pushed};
use common::script::{self, Server, paused, running};
use serde_json::{Value, json};
use spice_qmp::{Error, QmpPort};

/// When the server sends the event: before its reply, with it, or after it.
#[derive(Clone, Copy, Debug)]
enum Order {
    Before,
    With,
    After,
}

/// Executes a command and waits for its event, which the server sends in this order.
fn round(main: &MainLoop, port: &QmpPort, server: &Server, number: usize, order: Order) {
    let (client, event) = (port.clone(), port.wait_event(["RESET"]));
    let task = main.spawn(async move {
        let reply: Value = client.execute("system_reset", ()).await?;
        assert_eq!(reply, json!({}));
        event.await
    });
    main.drain();
    let request = server.request("system_reset");
    let data = json!({ "number": number });
    match order {
        Order::Before => {
            server.event_with("RESET", &data);
            main.drain();
            server.reply(&request, json!({}));
        }
        Order::With => {
            server.reply(&request, json!({}));
            server.event_with("RESET", &data);
        }
        Order::After => {
            server.reply(&request, json!({}));
            main.drain();
            server.event_with("RESET", &data);
        }
    }
    let event = main.join("the event", &task).expect("it came");
    assert_eq!(event.name(), "RESET");
    assert_eq!(event.data(), Some(data.to_string().as_str()), "{order:?}");
    main.drain();
    // RESET may have changed the run state.
    for request in server.requests() {
        server.reply(&request, running());
    }
    main.drain();
}

#[test]
fn a_command_and_its_event_lose_none() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        for number in 0..1000 {
            for order in [Order::Before, Order::With, Order::After] {
                round(main, &port, &server, number, order);
            }
        }
    });
}

#[test]
fn a_wait_begins_when_it_is_made() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.event("POWERDOWN");
        main.drain();
        let wait = port.wait_event(["POWERDOWN", "RTC_CHANGE"]);
        let any = port.wait_event([]);
        server.event("OTHER");
        server.event_with("RTC_CHANGE", &json!({ "offset": 1 }));
        server.event("POWERDOWN");
        main.drain();
        let event = main.block_on(wait).unwrap();
        assert_eq!(event.name(), "RTC_CHANGE", "the first since");
        assert_eq!(main.block_on(any).unwrap().name(), "OTHER");
    });
}

#[test]
fn events_that_do_not_match_are_ignored() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let wait = port.wait_event(["DEVICE_DELETED"]).matching(|event| {
            let data: Value = event.decode().unwrap_or_default();
            data["device"] == "n1"
        });
        for device in ["n0", "n1", "n2"] {
            server.event_with("DEVICE_DELETED", &json!({ "device": device }));
        }
        let event = main.block_on(wait).unwrap();
        assert!(event.data().unwrap().contains("n1"));
    });
}

#[test]
fn a_wait_ends_at_its_deadline() {
    with_own(|main| {
        let (port, _server) = script::ready(main);
        let soon = Duration::from_millis(30);
        let event = port.wait_event(["STOP", "RESUME"]).timeout(soon);
        let any = port.wait_event([]).timeout(soon);
        let status = port.wait_for_status(["paused"]).timeout(soon);
        let text = |error: Error| error.to_string();
        assert_eq!(
            text(main.block_on(event).unwrap_err()),
            "waiting for STOP or RESUME: no answer within 30 ms"
        );
        assert_eq!(
            text(main.block_on(any).unwrap_err()),
            "waiting for an event: no answer within 30 ms"
        );
        assert_eq!(
            text(main.block_on(status).unwrap_err()),
            "waiting for paused: no answer within 30 ms"
        );
    });
}

#[test]
fn waits_end_when_the_port_closes() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let event = main.spawn(port.wait_event(["STOP"]));
        let status = main.spawn(port.wait_for_status(["paused"]));
        main.drain();
        server.peer.close("cut");
        // It is reopened before anything has checked.
        server.peer.open();
        main.drain();
        let closed = Err(Error::Closed("cut".into()));
        let again = || main.join("an end", &status);
        let end = main.join("an end", &event).map(|_| ());
        assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
        assert!(matches!(again(), Err(Error::Closed(_))));

        server.make_ready(main, script::GREETING);
        let event = main.spawn(port.wait_event(["STOP"]));
        let status = main.spawn(port.wait_for_status(["paused"]));
        main.drain();
        server.peer.close("cut");
        main.drain();
        assert_eq!(event.take().map(|_| ()), closed);
        assert_eq!(status.take(), closed);

        // What came before the end counts.
        server.peer.open();
        server.make_ready(main, script::GREETING);
        let event = main.spawn(port.wait_event(["STOP"]));
        server.event("STOP");
        server.peer.close("cut");
        main.drain();
        assert_eq!(event.take().unwrap().name(), "STOP");

        main.block_on(port.close());
        let event = main.block_on(port.wait_event(["STOP"]));
        assert!(matches!(event, Err(Error::Closed(_))), "{event:?}");
        let status = main.block_on(port.wait_for_status(["paused"]));
        assert!(matches!(status, Err(Error::Closed(_))), "{status:?}");
    });
}

#[test]
fn closing_ends_waits_first() {
    with_own(|main| {
        let (port, _server) = script::ready(main);
        let event = main.spawn(port.wait_event(["STOP"]));
        main.drain();
        main.block_on(port.close());
        main.drain();
        let event = event.take();
        assert!(matches!(event, Err(Error::Closed(_))), "{event:?}");
    });
}

#[test]
fn a_wait_may_begin_before_the_port_is_ready() {
    with_own(|main| {
        let (port, server) = script::port();
        let event = port.wait_event(["STOP"]);
        let status = port.wait_for_status(["running"]);
        server.peer.open();
        server.make_ready(main, script::GREETING);
        main.block_on(status).unwrap();
        server.event("STOP");
        assert_eq!(main.block_on(event).unwrap().name(), "STOP");
    });
}

#[test]
fn a_state_that_passes_at_once_is_seen() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        main.block_on(port.wait_for_status(["paused", "running"]))
            .expect("it runs");
        let wait = port.wait_for_status(["paused"]);
        server.event("STOP");
        server.event("RESUME");
        main.block_on(wait).expect("it was paused");
        for request in server.requests() {
            server.reply(&request, paused());
        }
    });
}

#[test]
fn a_wait_that_is_dropped_leaves_nothing() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        drop(port.wait_event(["STOP"]).timeout(Duration::from_mins(1)));
        drop(port.wait_for_status(["paused"]));
        main.drain();
        server.event("RTC_CHANGE");
        main.drain();
        assert!(!main.turn());
    });
}
