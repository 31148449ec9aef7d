// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every call ends exactly once, even without a reply.
#![cfg(feature = "gobject")]

mod common;

use std::pin::Pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use common::main_loop::{FAR, with_own};
use common::script::{self, Ends, GREETING, OOB_GREETING, call, call_with};
use serde_json::{Value, json};
use spice_qmp::qmp::limits::MAX_BAD_LINES;
use spice_qmp::{Call, CallOptions, Error, PeerError, VmAction};

/// Polls a call once, which sends it.
fn poll<R>(call: &mut Call<R>) -> Poll<Result<R, Error>> {
    Pin::new(call).poll(&mut Context::from_waker(Waker::noop()))
}

fn timeout(millis: u64) -> CallOptions {
    CallOptions {
        timeout: Some(Duration::from_millis(millis)),
        ..CallOptions::default()
    }
}

#[test]
fn a_call_cancelled_before_it_is_sent_is_not_sent() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        // The first one is sent at once, and the others together.
        call(&port, "first", &ends);
        let id = call(&port, "a", &ends);
        call(&port, "b", &ends);
        assert!(port.cancel(id));
        assert!(!port.cancel(id), "it has ended");
        assert!(ends.borrow().is_empty(), "never inline");
        main.drain();
        assert_eq!(
            *ends.borrow(),
            [("a".into(), Err(Error::Cancelled("a".into())))]
        );
        assert_eq!(server.commands(), ["first", "b"]);
    });
}

#[test]
fn the_answer_to_a_cancelled_call_is_dropped() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        let id = call(&port, "a", &ends);
        call(&port, "b", &ends);
        main.drain();
        let requests = server.requests();
        assert!(port.cancel(id));
        main.drain();
        assert_eq!(port.pending(), 1);
        server.reply(&requests[0], json!("late"));
        server.reply(&requests[1], json!("in time"));
        main.drain();
        assert_eq!(
            *ends.borrow(),
            [
                ("a".into(), Err(Error::Cancelled("a".into()))),
                ("b".into(), Ok(r#""in time""#.into()))
            ]
        );
        assert!(port.last_error().is_none());
    });
}

#[test]
fn a_dropped_future_cancels_its_call_and_nothing_else() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        // Never polled: never sent.
        drop(port.execute::<Value>("a", ()));
        // Not sent yet: only the first command is sent at once.
        let mut first = port.execute::<Value>("first", ());
        assert!(poll(&mut first).is_pending());
        let mut unsent = port.execute::<Value>("b", ());
        assert!(poll(&mut unsent).is_pending());
        let other = main.spawn(port.execute::<Value>("c", ()));
        drop(unsent);
        main.drain();
        let [sent, request] = &server.requests()[..] else {
            panic!("b was sent");
        };
        assert_eq!((&*sent.command, &*request.command), ("first", "c"));
        server.reply(sent, json!({}));
        main.block_on(first).unwrap();
        // Sent already.
        let mut sent = port.execute::<Value>("d", ());
        assert!(poll(&mut sent).is_pending());
        main.drain();
        let dropped = server.request("d");
        drop(sent);
        assert_eq!(port.pending(), 1);

        server.reply(request, json!(1));
        server.reply(&dropped, json!(2));
        assert_eq!(main.join("c", &other).unwrap(), 1);
        assert_eq!(port.pending(), 0);
        assert!(port.ready());

        // A call whose reply arrived, but was not read.
        let mut answered = port.execute::<Value>("e", ());
        assert!(poll(&mut answered).is_pending());
        main.drain();
        server.answer("e", json!(3));
        main.drain();
        drop(answered);
        main.drain();
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn the_command_timeout_ends_calls() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        port.set_command_timeout(30);
        let ends = Ends::default();
        call(&port, "slow", &ends);
        // Its own deadline is different.
        call_with(&port, "patient", timeout(60_000), &ends);
        main.until("the deadline", || !ends.borrow().is_empty());
        let Err(Error::TimedOut { what, after, .. }) = ends.borrow()[0].1.clone() else {
            panic!("{ends:?}");
        };
        assert_eq!((&*what, after), ("slow", Duration::from_millis(30)));

        let requests = server.requests();
        server.reply(&requests[0], json!("late"));
        server.reply(&requests[1], json!("in time"));
        main.drain();
        assert_eq!(
            ends.borrow()[1],
            ("patient".into(), Ok(r#""in time""#.into()))
        );
        assert_eq!(ends.borrow().len(), 2);
        assert!(port.ready());
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn deadlines_end_calls_in_their_order() {
    with_own(|main| {
        let (port, _server) = script::ready(main);
        let ends = Ends::default();
        call_with(&port, "third", timeout(60), &ends);
        call_with(&port, "first", timeout(1), &ends);
        call_with(&port, "second", timeout(20), &ends);
        call_with(&port, "never", timeout(u64::MAX), &ends);
        let future = main.spawn(
            port.execute::<Value>("future", ())
                .timeout(Duration::from_millis(40)),
        );
        main.until("three deadlines", || ends.borrow().len() == 3);
        let names: Vec<_> = ends.borrow().iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["first", "second", "third"]);
        assert!(matches!(
            main.join("the future", &future),
            Err(Error::TimedOut { .. })
        ));
        assert_eq!(port.pending(), 1);
    });
}

#[test]
fn a_deadline_ends_a_call_that_cannot_be_sent() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.peer.block(true);
        let ends = Ends::default();
        call_with(&port, "stuck", timeout(10), &ends);
        main.drain();
        call_with(&port, "behind-it", timeout(10), &ends);
        main.until("both deadlines", || ends.borrow().len() == 2);
        server.peer.block(false);
        main.drain();
        assert_eq!(server.commands(), ["stuck"], "what is late is not sent");
    });
}

#[test]
fn a_close_ends_calls() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "sent", &ends);
        main.drain();
        call(&port, "unsent", &ends);
        server.peer.close("it fell over");
        assert!(ends.borrow().is_empty(), "never inline");
        main.drain();
        let closed = Error::Closed("it fell over".into());
        assert_eq!(
            *ends.borrow(),
            [
                ("sent".into(), Err(closed.clone())),
                ("unsent".into(), Err(closed))
            ]
        );
    });
}

#[test]
fn a_failed_write_ends_calls() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        server.peer.block(true);
        call(&port, "quit", &ends);
        main.drain();
        server.peer.fail_write("broken pipe");
        main.drain();
        // It cannot have ended a QEMU that it did not reach.
        let closed = Error::Closed("broken pipe".into());
        assert_eq!(*ends.borrow(), [("quit".into(), Err(closed))]);
        assert!(!port.ready());
    });
}

#[test]
fn a_quit_that_ends_the_connection_has_succeeded() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "query-name", &ends);
        let quit = main.spawn(port.vm_action(VmAction::Quit));
        main.drain();
        assert_eq!(server.commands(), ["query-name", "quit"]);
        server.peer.close("the end");
        assert_eq!(main.join("quit", &quit), Ok(()));
        assert!(matches!(ends.borrow()[0].1, Err(Error::Closed(_))));

        // An unsent one has not: it waits for another write.
        let (port, server) = script::ready(main);
        server.peer.block(true);
        call(&port, "stop", &Ends::default());
        call(&port, "quit", &ends);
        server.peer.close("the end");
        main.drain();
        assert!(matches!(ends.borrow()[1].1, Err(Error::Closed(_))));
    });
}

#[test]
fn failing_for_good_ends_calls() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        server.line("garbage");
        main.drain();
        assert!(matches!(
            ends.borrow()[0].1,
            Err(Error::Peer(PeerError::Malformed(_)))
        ));
        assert!(port.ready(), "one bad line is no reason to give up");
        for _ in 0..20 {
            server.line("garbage");
        }
        for name in ["sent", "not-sent"] {
            call(&port, name, &ends);
        }
        main.drain();
        let ends = ends.borrow();
        let [_, (first, sent), (second, unsent)] = &ends[..] else {
            panic!("{ends:?}");
        };
        assert_eq!((&**first, &**second), ("sent", "not-sent"));
        assert!(matches!(sent, Err(Error::Peer(PeerError::Malformed(_)))));
        assert!(matches!(unsent, Err(Error::Peer(PeerError::NotQmp { .. }))));
    });
}

#[test]
fn a_quit_that_qemu_did_not_end_has_not_succeeded() {
    with_own(|main| {
        let bad_lines = "garbage\n".repeat(MAX_BAD_LINES.try_into().unwrap());
        for said in [GREETING, OOB_GREETING, &bad_lines, "garbage"] {
            let (port, server) = script::ready(main);
            let ends = Ends::default();
            call(&port, "quit", &ends);
            main.drain();
            server.request("quit");
            server.line(said);
            main.drain();
            // What comes after that is too late.
            server.peer.close("the end");
            main.drain();
            assert!(
                matches!(ends.borrow()[..], [(_, Err(_))]),
                "{said:?}: {ends:?}"
            );
        }

        // Nor one that the program abandoned.
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "quit", &ends);
        main.drain();
        main.block_on(port.close());
        main.drain();
        assert!(matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]));
        let (port, other) = script::ready(main);
        call(&port, "quit", &ends);
        main.drain();
        drop(port);
        main.drain();
        assert!(matches!(ends.borrow()[1], (_, Err(Error::Closed(_)))));
        drop((server, other));
    });
}

#[test]
fn a_deadline_that_is_far_off_is_not_near() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        for far in FAR {
            let options = CallOptions {
                timeout: Some(far),
                ..CallOptions::default()
            };
            call_with(&port, "callback", options, &ends);
            let future = main.spawn(port.execute::<Value>("future", ()).timeout(far));
            // Truncated timeouts would have expired by now.
            main.run_for(Duration::from_millis(20));
            assert!(ends.borrow().is_empty(), "{far:?}: {ends:?}");
            assert!(!future.is_done(), "{far:?}");
            for request in server.requests() {
                server.reply(&request, json!(1));
            }
            assert_eq!(main.join("the future", &future), Ok(json!(1)));
            assert_eq!(ends.take(), [("callback".into(), Ok("1".into()))]);
        }
    });
}
