// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port that is closed and reopened, and bad messages.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

use common::main_loop::with_own;
use common::script::{self, Ends, GREETING, call};
use serde_json::json;
use spice_qmp::{Error, PeerError, PortState, QmpErrorCode};

#[test]
fn a_port_is_ready_again_after_each_opening() {
    with_own(|main| {
        let (port, server) = script::port();
        let mut ids = HashSet::new();
        let mut seen = 0;
        for round in 0..5 {
            server.peer.open();
            server.line(GREETING);
            main.drain();
            let ends = Ends::default();
            let negotiation = server.request("qmp_capabilities");
            server.reply(&negotiation, json!({}));
            main.drain();
            assert!(port.ready(), "round {round}");
            call(&port, "query-name", &ends);
            main.drain();
            let requests = server.requests();
            for id in requests.iter().chain([&negotiation]).map(|r| &r.id) {
                ids.insert(id.to_string());
                seen += 1;
            }
            server.peer.close("gone");
            main.drain();
            assert_eq!(
                *ends.borrow(),
                [("query-name".into(), Err(Error::Closed("gone".into())))]
            );
            assert_eq!(port.state(), PortState::Closed);
        }
        assert_eq!(ids.len(), seen, "an id was used twice");
    });
}

#[test]
fn a_late_reply_to_the_last_session_matches_no_call() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        let late = server.request("a");
        server.peer.close("gone");
        server.peer.open();
        server.make_ready(main, GREETING);
        call(&port, "a", &ends);
        main.drain();
        server.reply(&late, json!("late"));
        server.answer("a", json!("right"));
        main.drain();
        assert_eq!(ends.borrow().len(), 2);
        assert_eq!(ends.borrow()[1].1, Ok(r#""right""#.into()));
    });
}

#[test]
fn half_a_line_is_discarded_with_its_session() {
    with_own(|main| {
        for half in [&b"{\"event\": \"HA"[..], b"{\r\n    \"event\":", b"\"\\"] {
            let (port, server) = script::ready(main);
            server.peer.send(half);
            main.drain();
            server.peer.close("gone");
            server.peer.open();
            server.make_ready(main, GREETING);
            assert!(port.ready());
            assert!(port.last_error().is_none());
        }
    });
}

#[test]
fn an_opening_without_a_close_is_a_new_session() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        server.request("a");
        server.peer.send(b"{\"half");
        server.peer.open();
        server.make_ready(main, GREETING);
        assert!(port.ready());
        assert!(matches!(ends.borrow()[0].1, Err(Error::Closed(_))));
    });
}

#[test]
fn a_second_greeting_starts_a_new_session() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        let old = server.request("a");
        server.line(&GREETING.replace("10", "11"));
        main.drain();
        assert_eq!(port.state(), PortState::Negotiating);
        assert!(!port.ready());
        assert!(matches!(ends.borrow()[0].1, Err(Error::Closed(_))));
        let request = server.request("qmp_capabilities");
        server.reply(&old, json!("late"));
        main.drain();
        assert!(!port.ready(), "that was not the answer");
        server.reply(&request, json!({}));
        main.drain();
        assert!(port.ready());
        assert_eq!(port.version().as_deref(), Some("11.0.2"));
        server.answer("query-status", script::paused());
        main.drain();
        assert_eq!(port.status().unwrap().status(), "paused");
        assert_eq!(ends.borrow().len(), 1);
    });
}

#[test]
fn greetings_without_end_cost_nothing() {
    with_own(|main| {
        let (port, server) = script::port();
        server.peer.open();
        server.peer.block(true);
        for _ in 0..1000 {
            server.line(GREETING);
            main.drain();
        }
        server.peer.block(false);
        main.drain();
        let requests = server.requests();
        assert!(requests.len() <= 2, "{} negotiations", requests.len());
        server.reply(requests.last().unwrap(), json!({}));
        main.drain();
        assert!(port.ready());
    });
}

#[test]
fn a_bad_line_fails_only_the_calls_in_flight() {
    with_own(|main| {
        for line in [
            "not JSON",
            "[1]",
            "{\"return\": 1, \"error\": {}}",
            "{\"return\": \"\\ud800\"}",
            "{\"unknown\": 1}",
            "{\"event\": 5}",
        ] {
            let (port, server) = script::ready(main);
            let ends = Ends::default();
            // The first command is sent at once, and the others with the next dispatch.
            call(&port, "in-flight", &ends);
            call(&port, "in-flight-too", &ends);
            main.drain();
            assert_eq!(server.requests().len(), 2);
            call(&port, "sent", &ends);
            call(&port, "not-sent", &ends);
            server.line(line);
            main.drain();
            assert!(
                matches!(
                    &ends.borrow()[..],
                    [
                        (first, Err(Error::Peer(PeerError::Malformed(_)))),
                        (second, Err(Error::Peer(PeerError::Malformed(_)))),
                        (third, Err(Error::Peer(PeerError::Malformed(_)))),
                    ] if first == "in-flight" && second == "in-flight-too" && third == "sent"
                ),
                "{line}: {ends:?}"
            );
            let error = port.last_error().unwrap();
            assert_eq!(error.kind(), Some(QmpErrorCode::Protocol), "{line}");
            assert!(port.ready());
            let requests = server.requests();
            assert_eq!(requests[1].command, "not-sent");
            server.reply(&requests[1], json!({}));
            main.drain();
            assert_eq!(ends.borrow()[3].1, Ok("{}".into()));
        }
    });
}

#[test]
fn invalid_utf8_is_a_bad_line() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let events = port.events();
        server
            .peer
            .send(b"{\"event\": \"\xff\"}\n{\"event\": \"A\", \"data\": \"\x00\"}\n");
        main.drain();
        assert_eq!(
            port.last_error().unwrap().kind(),
            Some(QmpErrorCode::Protocol)
        );
        drop(events);
        assert!(port.ready());
    });
}

#[test]
fn a_message_that_is_too_large_is_skipped() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        assert_eq!(port.max_message_size(), 64 << 20);
        port.set_max_message_size(1000);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        let request = server.request("a");
        server.reply(&request, json!("x".repeat(2000)));
        main.drain();
        let too_large = PeerError::TooLarge { limit: 1000 };
        assert_eq!(*ends.borrow(), [("a".into(), Err(too_large.into()))]);
        let error = port.last_error().unwrap();
        assert_eq!(error.kind(), Some(QmpErrorCode::TooLarge));

        // In pieces, and directly followed by the next message.
        call(&port, "b", &ends);
        call(&port, "c", &ends);
        main.drain();
        let requests = server.requests();
        let large = json!({ "return": "x".repeat(5000), "id": requests[0].id }).to_string();
        for piece in large.as_bytes().chunks(100) {
            server.peer.send(piece);
            main.drain();
        }
        server.line("");
        main.drain();
        assert!(port.ready());
        assert_eq!(ends.borrow().len(), 3, "both were in flight");
        call(&port, "d", &ends);
        main.drain();
        server.answer("d", json!(1));
        main.drain();
        assert_eq!(ends.borrow()[3], ("d".into(), Ok("1".into())));
    });
}

#[test]
fn messages_over_many_lines_are_read() {
    with_own(|main| {
        let (port, server) = script::port();
        server.peer.open();
        let pretty = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            serde_json::to_string_pretty(&value)
                .unwrap()
                .replace('\n', "\r\n")
        };
        server.line(&pretty(GREETING));
        main.drain();
        let request = server.request("qmp_capabilities");
        server.line("{\r\n    \"return\": {\r\n    },");
        server.line(&format!("    \"id\": {}\r\n}}", request.id));
        main.drain();
        assert!(port.ready());
        assert_eq!(port.version().as_deref(), Some("10.0.2"));
    });
}

#[test]
fn last_error_is_reset_when_the_port_is_ready_again() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.peer.close("gone");
        main.drain();
        let error = port.last_error().unwrap();
        assert_eq!(error.message(), "the QMP connection is closed: gone");
        server.peer.open();
        server.make_ready(main, GREETING);
        assert!(port.last_error().is_none());
    });
}

#[test]
fn the_reason_of_a_close_is_reported_even_if_reopened_at_once() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let told = Rc::<RefCell<Vec<_>>>::default();
        port.connect_last_error_notify({
            let told = told.clone();
            move |port| {
                let error = port.last_error().map(|error| error.message().to_owned());
                told.borrow_mut().push(error);
            }
        });
        server.peer.close("gone");
        server.peer.open();
        main.drain();
        let gone = || Some("the QMP connection is closed: gone".to_owned());
        assert_eq!(*told.borrow(), [gone()]);
        assert_eq!(port.state(), PortState::Greeting);
        assert!(port.last_error().is_some());
        server.make_ready(main, GREETING);
        assert_eq!(*told.borrow(), [gone(), None]);
    });
}
