// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a port becomes ready: greeting, negotiation, late attachment, and failures.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use common::main_loop::{FAR, MainLoop, at_home, with_own};
use common::script::{self, GREETING, OOB_GREETING, Server};
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::qmp::limits::MAX_BAD_LINES;
use spice_qmp::transport::{Transport, pair};
use spice_qmp::{Error, PeerError, PortState, QmpErrorCode, QmpPort, UsageError};

fn states(port: &QmpPort) -> Rc<RefCell<Vec<PortState>>> {
    let states = Rc::<RefCell<Vec<_>>>::default();
    let seen = states.clone();
    port.connect_state_notify(move |port| seen.borrow_mut().push(port.state()));
    states
}

#[test]
fn a_greeting_leads_to_ready() {
    with_own(|main| {
        let (port, server) = script::port();
        let states = states(&port);
        let readies = Rc::<RefCell<Vec<_>>>::default();
        port.connect_ready_notify({
            let readies = readies.clone();
            move |port| {
                let seen = (port.ready(), port.state(), port.version());
                readies.borrow_mut().push(seen);
            }
        });
        assert_eq!(port.state(), PortState::Connecting);
        assert!(!port.ready());

        server.peer.open();
        main.drain();
        assert_eq!(port.state(), PortState::Greeting);
        assert_eq!(port.version(), None);
        assert_eq!(server.peer.writes(), 0, "the server speaks first");

        server.line(GREETING);
        main.drain();
        assert_eq!(port.state(), PortState::Negotiating);
        assert!(!port.ready());
        let request = server.request("qmp_capabilities");
        let exact = format!(r#"{{"execute":"qmp_capabilities","id":{}}}"#, request.id);
        assert_eq!(request.line, exact);
        let id = request.id.as_u64().unwrap();
        assert!((1 << 24..1 << 31).contains(&id), "{id}");

        server.reply(&request, json!({}));
        assert!(
            readies.borrow().is_empty(),
            "delivered from the main loop only"
        );
        main.drain();
        assert!(port.ready());
        assert_eq!(port.version().as_deref(), Some("10.0.2"));
        assert_eq!(port.package().as_deref(), Some("Debian 1:10.0.2"));
        assert!(port.capabilities().is_empty());
        assert!(port.last_error().is_none());
        assert_eq!(
            *readies.borrow(),
            [(true, PortState::Ready, Some("10.0.2".to_owned()))]
        );
        assert_eq!(states.borrow().last(), Some(&PortState::Ready));

        server.peer.close("gone");
        main.drain();
        assert_eq!(port.state(), PortState::Closed);
        assert!(!port.ready());
        assert_eq!((port.version(), port.package()), (None, None));
        assert!(port.last_error().unwrap().matches(gio::IOErrorEnum::Closed));
        assert_eq!(readies.borrow().len(), 2);
    });
}

#[test]
fn properties_agree_in_every_notification() {
    with_own(|main| {
        let (port, server) = script::port();
        port.connect_notify_local(None, |port, property| {
            let ready = port.ready();
            assert_eq!(ready, port.state() == PortState::Ready, "{property:?}");
            assert!(!ready || port.version().is_some());
            assert!(ready || port.status().is_none());
        });
        for _ in 0..2 {
            server.peer.open();
            server.make_ready(main, GREETING);
            assert!(port.ready());
            server.peer.close("gone");
            main.drain();
        }
    });
}

#[test]
fn a_line_by_bytes_is_as_good_as_whole() {
    with_own(|main| {
        let (port, server) = script::port();
        server.peer.open();
        for byte in format!("\r\n{GREETING}\n").bytes() {
            server.peer.send(&[byte]);
            main.drain();
        }
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        assert!(port.ready());
    });
}

#[test]
fn oob_is_enabled_only_if_it_is_offered() {
    with_own(|main| {
        for (greeting, arguments) in [
            (GREETING, Value::Null),
            (OOB_GREETING, json!({ "enable": ["oob"] })),
        ] {
            let (port, server) = script::port();
            server.peer.open();
            server.line(greeting);
            main.drain();
            let request = server.request("qmp_capabilities");
            assert_eq!(request.arguments, arguments);
            server.reply(&request, json!({}));
            main.drain();
            assert!(port.ready());
            let offered: Vec<_> = port
                .capabilities()
                .iter()
                .map(ToString::to_string)
                .collect();
            assert_eq!(offered.is_empty(), arguments.is_null(), "{offered:?}");
        }
    });
}

/// A port on a connection that was open before.
fn late() -> (QmpPort, Server) {
    let (transport, peer) = pair();
    peer.open();
    let port = at_home(|| QmpPort::for_transport(Box::new(transport)));
    (port, Server::new(peer))
}

#[test]
fn a_late_port_probes() {
    with_own(|main| {
        let (port, server) = late();
        main.drain();
        assert_eq!(port.state(), PortState::Negotiating);
        let probe = server.request("qmp_capabilities");
        assert!(!port.ready());
        // As QEMU answers if an earlier client has negotiated.
        server.refuse(
            &probe,
            "CommandNotFound",
            "Capabilities negotiation is already complete, command ignored",
        );
        main.drain();
        assert!(port.ready());
        assert_eq!(port.version(), None, "not known yet");

        let questions = server.requests();
        let asked: Vec<_> = questions.iter().map(|r| r.command.as_str()).collect();
        assert_eq!(asked, ["query-version", "query-status"]);
        server.reply(
            &questions[0],
            json!({ "qemu": { "micro": 22, "minor": 2, "major": 7 }, "package": "Debian" }),
        );
        server.reply(&questions[1], script::running());
        main.drain();
        assert_eq!(port.version().as_deref(), Some("7.2.22"));
        assert_eq!(port.package().as_deref(), Some("Debian"));
        assert_eq!(port.status().unwrap().status(), "running");
    });
}

#[test]
fn a_late_port_that_is_the_first_is_ready_too() {
    with_own(|main| {
        let (port, server) = late();
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        assert!(port.ready());
    });
}

#[test]
fn a_late_port_that_is_still_greeted_negotiates_once_more() {
    with_own(|main| {
        let (port, server) = late();
        main.drain();
        let probe = server.request("qmp_capabilities");
        server.line(GREETING);
        main.drain();
        let second = server.request("qmp_capabilities");
        assert_ne!(probe.id, second.id);
        // The probe was lost with the session before.
        server.reply(&second, json!({}));
        main.drain();
        assert!(port.ready());
        assert_eq!(port.version().as_deref(), Some("10.0.2"));
    });
}

#[test]
fn a_human_monitor_is_detected_at_its_first_line() {
    with_own(|main| {
        for late_port in [false, true] {
            let (port, server) = if late_port {
                late()
            } else {
                let (port, server) = script::port();
                server.peer.open();
                (port, server)
            };
            main.drain();
            server.line("QEMU 7.2.22 monitor - type 'help' for more information\r\n(qemu) ");
            main.drain();
            assert_eq!(port.state(), PortState::Failed);
            let error = port.last_error().unwrap();
            assert_eq!(
                error.kind::<spice_qmp::QmpErrorCode>(),
                Some(spice_qmp::QmpErrorCode::NotQmp)
            );
            assert!(error.message().contains("human monitor"), "{error}");

            let call = main.spawn(port.execute::<Value>("query-name", ()));
            let end = main.join("the call on a failed port", &call);
            assert_eq!(
                end.unwrap_err(),
                PeerError::NotQmp {
                    human_monitor: true
                }
                .into()
            );
            assert!(!server.commands().contains(&"query-name".to_owned()));
        }
    });
}

#[test]
fn other_input_in_place_of_a_greeting_is_not_qmp() {
    with_own(|main| {
        let (port, server) = script::port();
        server.peer.open();
        // No line ends.
        server.peer.send(b"SSH-2.0-OpenSSH");
        main.drain();
        assert_eq!(port.state(), PortState::Failed);
        let error = main.block_on(port.wait_ready()).unwrap_err();
        let expected = "there is no greeting (it sent \"SSH-2.0-OpenSSH\")";
        assert_eq!(error, PeerError::NoGreeting(expected.into()).into());
        let error = glib::Error::from(error);
        assert_eq!(error.kind(), Some(QmpErrorCode::NotQmp));

        // A failed port may be reopened, by a better server.
        server.peer.close("gone");
        server.peer.open();
        server.make_ready(main, GREETING);
        assert!(port.ready());
        assert!(port.last_error().is_none());
    });
}

#[test]
fn a_good_line_makes_up_for_bad_ones() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        for _ in 0..4 {
            for _ in 1..MAX_BAD_LINES {
                server.line("what?");
            }
            server.event("NICE");
            main.drain();
        }
        assert!(port.ready());
    });
}

#[test]
fn a_refused_negotiation_fails() {
    with_own(|main| {
        let (port, server) = script::port();
        server.peer.open();
        server.line(GREETING);
        main.drain();
        server.refuse(&server.request("qmp_capabilities"), "GenericError", "no");
        main.drain();
        assert_eq!(port.state(), PortState::Failed);
        let error = main.block_on(port.wait_ready()).unwrap_err();
        assert_eq!(error, PeerError::NegotiationRefused("no".into()).into());
    });
}

#[test]
fn waiting_ends_when_the_port_is_ready() {
    with_own(|main| {
        let (port, server) = script::port();
        let waits: Vec<_> = (0..3)
            .map(|_| {
                let port = port.clone();
                main.spawn(async move { port.wait_ready().await })
            })
            .collect();
        main.drain();
        server.peer.open();
        main.drain();
        assert!(!waits[0].is_done());
        server.make_ready(main, GREETING);
        for wait in &waits {
            assert_eq!(wait.take(), Ok(()));
        }
        assert_eq!(main.block_on(port.wait_ready()), Ok(()));
    });
}

#[test]
fn waiting_ends_when_the_port_closes() {
    with_own(|main| {
        let (port, server) = script::port();
        server.peer.open();
        main.drain();
        let wait = main.spawn({
            let port = port.clone();
            async move { port.wait_ready().await }
        });
        main.drain();
        server.peer.close("it fell over");
        let error = main.join("the wait", &wait).unwrap_err();
        assert_eq!(error, Error::Closed("it fell over".into()));

        // A closed port may be reopened, so a new wait waits.
        let wait = main.spawn({
            let port = port.clone();
            async move { port.wait_ready().await }
        });
        main.drain();
        assert!(!wait.is_done());
        main.block_on(port.close());
        assert!(matches!(
            main.join("the wait", &wait),
            Err(Error::Closed(_))
        ));
        assert!(matches!(
            main.block_on(port.wait_ready()),
            Err(Error::Closed(_))
        ));
    });
}

#[test]
fn a_wait_that_takes_too_long_says_what_is_missing() {
    fn missing(main: &MainLoop, port: &QmpPort) -> String {
        let after = Duration::from_millis(30);
        let error = main.block_on(port.wait_ready_within(after)).unwrap_err();
        let Error::TimedOut {
            what, after: told, ..
        } = &error
        else {
            panic!("{error:?}");
        };
        assert_eq!(*told, after);
        assert!(error.to_string().contains("30 ms"), "{error}");
        what.to_string()
    }
    with_own(|main| {
        let (port, server) = script::port();
        assert_eq!(missing(main, &port), "the SPICE port's opening");
        server.peer.open();
        assert_eq!(missing(main, &port), "the QMP greeting");
        server.line(GREETING);
        assert_eq!(missing(main, &port), "the QMP negotiation");
        server.answer("qmp_capabilities", json!({}));
        assert_eq!(main.block_on(port.wait_ready()), Ok(()));
    });
}

#[test]
fn before_ready_a_call_ends_with_not_ready_and_never_inline() {
    with_own(|main| {
        let (port, server) = script::port();
        let check = |state| {
            let ends = script::Ends::default();
            script::call(&port, "query-name", &ends);
            assert!(ends.borrow().is_empty(), "the callback was called inline");
            main.drain();
            let error = Error::from(UsageError::NotReady {
                command: "query-name".into(),
                state,
            });
            assert_eq!(*ends.borrow(), [("query-name".into(), Err(error))]);
        };
        check(spice_qmp::qmp::State::Connecting);
        server.peer.open();
        check(spice_qmp::qmp::State::Greeting);
        server.line(GREETING);
        check(spice_qmp::qmp::State::Negotiating);
        server.peer.close("gone");
        check(spice_qmp::qmp::State::Closed);
        assert_eq!(server.commands(), ["qmp_capabilities"]);
    });
}

#[test]
fn a_transport_that_never_connects_leaves_the_port_closed() {
    /// Reports nothing.
    struct Silent;
    impl Transport for Silent {
        fn start(&self, _sink: spice_qmp::transport::Sink) {}
        fn write(&self, _bytes: Vec<u8>) {}
        fn close(&self) {}
        fn reopens(&self) -> bool {
            false
        }
    }
    with_own(|main| {
        let port = at_home(|| QmpPort::for_transport(Box::new(Silent)));
        assert_eq!(port.state(), PortState::Closed);
        let error = main.block_on(port.wait_ready()).unwrap_err();
        assert!(matches!(error, Error::Closed(_)), "{error:?}");
    });
}

#[test]
fn a_wait_far_from_its_deadline_continues() {
    with_own(|main| {
        for far in FAR {
            let (port, server) = script::port();
            let wait = main.spawn({
                let port = port.clone();
                async move { port.wait_ready_within(far).await }
            });
            main.run_for(Duration::from_millis(20));
            assert!(!wait.is_done(), "{far:?}");
            server.peer.open();
            server.make_ready(main, GREETING);
            assert_eq!(main.join("the wait", &wait), Ok(()));
        }
    });
}

#[test]
fn a_wait_sees_a_close_that_came_before_its_first_poll() {
    with_own(|main| {
        let (port, server) = script::port();
        let ready = port.wait_ready();
        server.peer.open();
        server.peer.close("gone");
        assert_eq!(main.block_on(ready), Err(Error::Closed("gone".into())));
    });
}
