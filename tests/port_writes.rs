// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port's output: few writes, and all of it before a close.
#![cfg(feature = "gobject")]

mod common;

use std::time::{Duration, Instant};

use common::main_loop::with_own;
use common::script::{self, Ends, Server, call};
use serde_json::{Value, json};
use spice_qmp::{Error, PortState, UsageError};

#[test]
fn the_first_command_is_written_at_once_and_later_ones_in_one_write() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let before = server.peer.writes();
        let ends = Ends::default();
        for name in ["a", "b", "c"] {
            call(&port, name, &ends);
        }
        assert_eq!(server.peer.writes() - before, 1);
        main.drain();
        assert_eq!(server.peer.writes() - before, 2);
        assert_eq!(server.commands(), ["a", "b", "c"]);

        let calls: Vec<_> = (0..10)
            .map(|n| main.spawn(port.execute::<Value>("d", json!({ "n": n }))))
            .collect();
        main.drain();
        assert_eq!(server.peer.writes() - before, 4);
        for request in server.requests() {
            server.reply(&request, json!({}));
        }
        main.drain();
        assert!(calls.iter().all(|call| call.take().is_ok()));
    });
}

#[test]
fn requests_from_callbacks_are_sent_in_one_write() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        for name in ["a", "b", "c"] {
            let (again, ends) = (port.clone(), ends.clone());
            port.execute_with(name, None, spice_qmp::CallOptions::default(), move |_| {
                call(&again, "next", &ends);
            });
        }
        main.drain();
        let before = server.peer.writes();
        let replies: Vec<_> = server
            .requests()
            .iter()
            .map(|request| json!({ "return": 1, "id": request.id }).to_string() + "\n")
            .collect();
        server.peer.send(replies.concat().as_bytes());
        main.drain();
        assert_eq!(server.commands(), ["next", "next", "next"]);
        assert_eq!(server.peer.writes() - before, 1);
    });
}

#[test]
fn one_write_at_a_time() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let before = server.peer.writes();
        let ends = Ends::default();
        server.peer.block(true);
        for _ in 0..5 {
            call(&port, "a", &ends);
            main.drain();
        }
        assert_eq!(server.peer.writes() - before, 1);
        assert!(server.requests().is_empty());
        server.peer.block(false);
        main.drain();
        assert_eq!(server.peer.writes() - before, 2);
        assert_eq!(server.requests().len(), 5);
    });
}

#[test]
fn an_idle_port_writes_nothing_and_never_wakes_up() {
    with_own(|main| {
        let (_port, server) = script::ready(main);
        let before = server.peer.writes();
        let turns = main.turns();
        assert!(!main.turn(), "a source is ready");
        main.run_for(Duration::from_millis(50));
        assert!(!main.turn());
        assert_eq!(main.turns(), turns + 2);
        assert_eq!(server.peer.writes(), before);
    });
}

#[test]
fn a_close_sends_what_was_asked_for() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        call(&port, "b", &ends);
        main.block_on(port.close());
        assert!(!server.peer.is_used());
        assert_eq!(port.state(), PortState::Closed);
        main.drain();
        assert_eq!(ends.borrow().len(), 2);
        for (_, end) in &*ends.borrow() {
            let closed = Error::Closed("the program closed the port".into());
            assert_eq!(*end, Err(closed));
        }
        call(&port, "c", &ends);
        main.drain();
        assert!(matches!(
            ends.borrow()[2].1,
            Err(Error::Usage(UsageError::NotReady { .. }))
        ));
        main.block_on(port.close());
    });
}

/// The bytes reach the peer: it must be read before it is dropped.
#[test]
fn what_a_close_sends_arrives() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.peer.block(true);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        call(&port, "b", &ends);
        let close = main.spawn({
            let port = port.clone();
            async move { port.close().await }
        });
        main.drain();
        assert!(!close.is_done(), "bytes wait to be taken");
        assert!(server.peer.is_used());
        server.peer.block(false);
        let arrived = server.requests();
        main.join("the close", &close);
        let arrived: Vec<_> = arrived
            .into_iter()
            .chain(server.requests())
            .map(|request| request.command)
            .collect();
        assert_eq!(arrived, ["a", "b"]);
    });
}

#[test]
fn a_peer_that_does_not_read_cannot_delay_a_close() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.peer.block(true);
        let ends = Ends::default();
        call(&port, "a", &ends);
        let begun = Instant::now();
        main.block_on(port.close());
        assert!(
            begun.elapsed() >= Duration::from_secs(1),
            "it was waited for"
        );
        assert!(!server.peer.is_used());
        main.drain();
        assert!(matches!(ends.borrow()[0].1, Err(Error::Closed(_))));
    });
}

#[test]
fn a_close_ends_even_if_the_peer_closes_meanwhile() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.peer.block(true);
        let ends = Ends::default();
        call(&port, "a", &ends);
        let close = main.spawn({
            let port = port.clone();
            async move { port.close().await }
        });
        main.drain();
        let turns = main.turns();
        server.peer.close("gone");
        main.drain();
        assert!(close.is_done(), "after {} turns", main.turns() - turns);
        assert_eq!(ends.borrow().len(), 1);
    });
}

#[test]
fn a_close_before_anything_was_opened() {
    with_own(|main| {
        let (port, server) = script::port();
        main.block_on(port.close());
        assert!(!server.peer.is_used());
        assert_eq!(port.state(), PortState::Closed);
        assert!(port.last_error().unwrap().matches(gio::IOErrorEnum::Closed));
    });
}

/// A message that stops in the middle is no reason to write on this transport,
/// which does not stall.
#[test]
fn no_nudge_where_the_peer_does_not_stall() {
    with_own(|main| {
        let (port, server): (_, Server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        let request = server.request("a");
        server.peer.send(br#"{"return": "#);
        main.run_for(Duration::from_millis(100));
        assert!(server.requests().is_empty());
        server.line(&format!(r#"1, "id": {}}}"#, request.id));
        main.drain();
        assert_eq!(*ends.borrow(), [("a".into(), Ok("1".into()))]);
    });
}
