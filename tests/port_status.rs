// SPDX-License-Identifier: MIT OR Apache-2.0
//! The property `status` keeps itself up to date.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::main_loop::{at_home, with_own};
use common::script::{self, Ends, GREETING, Server, call, paused, running};
use glib::prelude::*;
use serde_json::json;
use spice_qmp::transport::pair;
use spice_qmp::{Error, PeerError, QmpPort};

/// The values of `status` at its notifications.
fn notes(port: &QmpPort) -> Rc<RefCell<Vec<Option<String>>>> {
    let seen = Rc::<RefCell<Vec<_>>>::default();
    let notes = seen.clone();
    port.connect_status_notify(move |port| {
        let status = port.status().map(|status| status.status().to_owned());
        notes.borrow_mut().push(status);
    });
    seen
}

#[test]
fn it_is_known_once_the_port_is_ready() {
    with_own(|main| {
        let (port, server) = script::port();
        let notes = notes(&port);
        server.peer.open();
        server.line(GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        assert!(port.ready());
        assert_eq!(port.status(), None);
        assert_eq!(
            port.pending(),
            0,
            "the port's own question is not the program's"
        );

        let reply = json!({ "status": "internal-error", "running": false, "singlestep": true });
        server.answer("query-status", reply);
        main.drain();
        let status = port.status().unwrap();
        assert_eq!(status.status(), "internal-error");
        assert!(!status.running());
        assert!(status.singlestep());
        assert_eq!(*notes.borrow(), [Some("internal-error".into())]);
    });
}

#[test]
fn events_that_change_it_ask_again() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let notes = notes(&port);
        let names = [
            "STOP",
            "RESUME",
            "SUSPEND",
            "SUSPEND_DISK",
            "WAKEUP",
            "SHUTDOWN",
            "RESET",
            "GUEST_PANICKED",
        ];
        for name in names {
            let before = server.peer.writes();
            server.event(name);
            main.drain();
            // QEMU usually exits after this one, and is not asked at once.
            let later = name == "SHUTDOWN";
            assert_eq!(server.peer.writes() > before, !later, "{name}");
            main.until(name, || server.peer.writes() > before);
            let odd = json!({ "status": name.to_lowercase(), "running": false });
            server.answer("query-status", odd);
            main.drain();
            assert_eq!(port.status().unwrap().status(), name.to_lowercase());
        }
        let answers = notes.borrow();
        for name in names {
            assert!(answers.contains(&Some(name.to_lowercase())), "{name}");
        }
        drop(answers);

        for name in ["RTC_CHANGE", "JOB_STATUS_CHANGE", "POWERDOWN", "stop"] {
            server.event(name);
        }
        main.drain();
        assert!(server.requests().is_empty(), "nothing to ask");
    });
}

#[test]
fn it_is_notified_only_when_it_changes() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let notes = notes(&port);
        server.event("RESET");
        main.drain();
        server.answer("query-status", running());
        main.drain();
        assert!(notes.borrow().is_empty());
        assert_eq!(port.status().unwrap().status(), "running");
    });
}

#[test]
fn a_storm_of_events_asks_one_question_at_a_time() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        for _ in 0..100 {
            server.event("STOP");
            server.event("RESUME");
        }
        main.drain();
        let first = server.request("query-status");
        for _ in 0..100 {
            server.event("STOP");
            main.drain();
        }
        assert!(server.requests().is_empty(), "one is in flight");
        server.reply(&first, running());
        main.drain();
        // It was asked before the last event, so it is asked once more.
        server.answer("query-status", paused());
        main.drain();
        assert_eq!(port.status().unwrap().status(), "paused");
        assert!(server.requests().is_empty());
    });
}

#[test]
fn it_is_unknown_when_the_port_closes() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let notes = notes(&port);
        server.event("STOP");
        main.drain();
        server.request("query-status");
        server.event("RESUME");
        server.peer.close("gone");
        main.drain();
        assert_eq!(port.status(), None);
        let (paused, running) = (Some("paused".into()), Some("running".into()));
        let before = [paused, running.clone(), None];
        assert_eq!(*notes.borrow(), before);

        server.peer.open();
        server.make_ready(main, GREETING);
        assert_eq!(notes.borrow()[before.len()..], [running]);
        assert!(server.requests().is_empty());
    });
}

#[test]
fn what_cannot_be_read_changes_nothing() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let notes = notes(&port);
        server.event("RESUME");
        main.drain();
        server.answer("query-status", json!({ "state": "other form" }));
        main.drain();
        assert_eq!(port.status().unwrap().status(), "running");

        server.event("RESUME");
        main.drain();
        server.refuse(&server.request("query-status"), "GenericError", "not now");
        main.drain();
        assert_eq!(port.status().unwrap().status(), "running");
        assert!(notes.borrow().is_empty());

        // And the next event asks again.
        server.event("STOP");
        main.drain();
        server.answer("query-status", paused());
        main.drain();
        assert_eq!(*notes.borrow(), [Some("paused".into())]);
    });
}

#[test]
fn its_questions_are_not_counted_as_pending() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let notes = Rc::<RefCell<Vec<u32>>>::default();
        port.connect_pending_notify({
            let notes = notes.clone();
            move |port| notes.borrow_mut().push(port.pending())
        });
        server.event("STOP");
        main.drain();
        let question = server.request("query-status");
        assert_eq!(port.pending(), 0);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        assert_eq!(port.pending(), 1);
        let request = server.request("a");
        server.reply(&question, paused());
        server.reply(&request, json!({}));
        main.drain();
        assert_eq!(port.pending(), 0);
        assert_eq!(*notes.borrow(), [1, 0]);
    });
}

#[test]
fn a_status_is_a_value() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let before = port.status().unwrap();
        server.event("STOP");
        main.drain();
        server.answer("query-status", paused());
        main.drain();
        assert_eq!(before.status(), "running", "a snapshot stays what it was");
        assert_ne!(before, port.status().unwrap());
        server.event("RESUME");
        main.drain();
        server.answer("query-status", running());
        main.drain();
        assert_eq!(before, port.status().unwrap());
    });
}

#[test]
fn no_text_holds_a_nul() {
    with_own(|main| {
        let with_nul = "run\0ning";
        let (port, server) = script::ready(main);
        let notes = notes(&port);
        let asked = main.spawn(port.query_status());
        server.event("RESUME");
        main.drain();
        for request in server.requests() {
            server.reply(&request, json!({ "running": true, "status": with_nul }));
        }
        let error = main.join("the status", &asked).unwrap_err();
        assert!(matches!(
            error,
            Error::Peer(PeerError::UnexpectedReply { .. })
        ));
        main.drain();
        assert!(notes.borrow().is_empty());
        assert_eq!(port.status().unwrap().status(), "running");

        // A port that missed the greeting queries the version.
        let (transport, peer) = pair();
        peer.open();
        let port = at_home(|| QmpPort::for_transport(Box::new(transport)));
        let server = Server::new(peer);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        let version = json!({ "major": 10, "minor": 0, "micro": 2 });
        for request in server.requests() {
            server.reply(&request, json!({ "qemu": version, "package": with_nul }));
        }
        main.drain();
        assert!(port.ready());
        assert_eq!(port.version().as_deref(), Some("10.0.2"));
        assert_eq!(port.package().as_deref(), Some("run\u{fffd}ning"));

        // And so does one that is greeted.
        let (port, server) = script::port();
        server.peer.open();
        server.line(&GREETING.replace("Debian", "De\\u0000bian"));
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        assert!(port.ready());
        let package = port.package().unwrap();
        assert!(package.starts_with("De\u{fffd}bian"), "{package}");
    });
}

#[test]
fn a_change_while_pending_is_notified_is_not_lost() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let server = Rc::new(server);
        let handler = port.connect_pending_notify({
            let server = server.clone();
            move |_| server.event("STOP")
        });
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        port.disconnect(handler);
        let requests = server.requests();
        let asked: Vec<_> = requests.iter().map(|r| r.command.as_str()).collect();
        assert_eq!(asked, ["a", "query-status"]);
        server.reply(&requests[1], paused());
        main.drain();
        assert_eq!(port.status().unwrap().status(), "paused");
    });
}

#[test]
fn an_undelivered_answer_does_not_count() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        server.event("STOP");
        main.drain();
        let question = server.request("query-status");
        let ends = Ends::default();
        for name in ["a", "b"] {
            call(&port, name, &ends);
        }
        main.drain();
        assert_eq!(port.pending(), 2);
        server.reply(&question, paused());
        assert_eq!(port.pending(), 2, "decoded and not delivered");
        main.drain();
        assert_eq!(port.pending(), 2);
    });
}
