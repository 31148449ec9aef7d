// SPDX-License-Identifier: MIT OR Apache-2.0
//! Calls and their replies: each reply finds its call, and no other.
#![cfg(feature = "gobject")]

mod common;

use std::cell::Cell;
use std::rc::Rc;

use common::main_loop::with_own;
use common::script::{self, Ends, OOB_GREETING, Request, call, call_with};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use spice_qmp::qmp::Band;
use spice_qmp::{CallOptions, Error, ErrorClass, PeerError, UsageError, VmAction};

#[test]
fn a_reply_ends_a_call() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "query-name", &ends);
        assert_eq!(port.pending(), 1);
        main.drain();
        let request = server.request("query-name");
        let exact = format!(r#"{{"execute":"query-name","id":{}}}"#, request.id);
        assert_eq!(request.line, exact);
        assert!(ends.borrow().is_empty());

        server.line(&format!(
            r#"{{"id": {}, "return": {{"a":  [1, "é"]}}}}"#,
            request.id
        ));
        assert!(
            ends.borrow().is_empty(),
            "delivered from the main loop only"
        );
        main.drain();
        // The text is the server's own, to the byte.
        let end = (
            "query-name".to_owned(),
            Ok(r#"{"a":  [1, "é"]}"#.to_owned()),
        );
        assert_eq!(*ends.borrow(), [end]);
        assert_eq!(port.pending(), 0);

        // A second reply with the same id matches no call.
        server.reply(&request, json!(2));
        main.drain();
        assert_eq!(ends.borrow().len(), 1);
        assert!(port.last_error().is_none());
    });
}

#[test]
fn replies_are_decoded_as_the_requested_type() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let answer = |value: Value| {
            main.drain();
            server.reply(&server.requests().remove(0), value);
        };

        let call = main.spawn(port.execute::<Vec<u32>>("numbers", ()));
        answer(json!([1, 2]));
        assert_eq!(main.join("numbers", &call).unwrap(), [1, 2]);

        let call = main.spawn(port.execute::<Box<RawValue>>("text", ()));
        answer(json!("x"));
        assert_eq!(main.join("text", &call).unwrap().get(), r#""x""#);

        let call = main.spawn(port.execute::<u32>("numbers", ()));
        answer(json!("not a number"));
        let error = main.join("numbers", &call).unwrap_err();
        let Error::Peer(PeerError::UnexpectedReply { command, .. }) = error else {
            panic!("{error:?}");
        };
        assert_eq!(&*command, "numbers");

        let call = main.spawn(port.query_status());
        answer(json!({ "status": "odd\u{e9}", "running": false }));
        let status = main.join("query-status", &call).unwrap();
        assert_eq!(status.status(), "oddé");
        assert!(!status.running());
        assert!(!status.singlestep());
    });
}

#[test]
fn arguments_are_sent_and_checked() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let call = main.spawn(port.execute::<Value>("device_del", json!({ "id": "é\n" })));
        main.drain();
        let request = server.request("device_del");
        assert_eq!(request.arguments, json!({ "id": "é\n" }));
        server.reply(&request, json!({}));
        main.join("device_del", &call).unwrap();

        let bad = [
            main.spawn(port.execute::<Value>("device_del", [1])),
            main.spawn(port.execute::<Value>("device_del", "text")),
            main.spawn(port.execute::<Value>("", ())),
            main.spawn(port.execute::<Value>("x", f64::NAN.to_string())),
        ];
        for call in bad {
            let error = main.join("a bad argument", &call).unwrap_err();
            assert!(
                matches!(error, Error::Usage(UsageError::InvalidArgument(_))),
                "{error:?}"
            );
        }
        let ends = Ends::default();
        let text = Some("{\"a\":1}\n{\"execute\":\"quit\"}");
        let noted = ends.clone();
        port.execute_with("x", text, CallOptions::default(), move |result| {
            let result = result.map(|_| String::new());
            noted.borrow_mut().push(("x".into(), result));
        });
        assert!(ends.borrow().is_empty());
        main.drain();
        assert!(matches!(
            ends.borrow()[0].1,
            Err(Error::Usage(UsageError::InvalidArgument(_)))
        ));
        assert!(server.requests().is_empty(), "nothing bad is sent");
    });
}

#[test]
fn a_refusal_ends_a_call() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let call = main.spawn(port.vm_action(VmAction::Continue));
        main.drain();
        server.refuse(
            &server.request("cont"),
            "GenericError",
            "it does not want to",
        );
        let error = main.join("cont", &call).unwrap_err();
        assert_eq!(error.to_string(), "cont: it does not want to");

        let ends = Ends::default();
        script::call(&port, "x", &ends);
        main.drain();
        server.refuse(&server.request("x"), "NewClass", "news");
        main.drain();
        let Err(Error::Command { class, .. }) = &ends.borrow()[0].1 else {
            panic!("{ends:?}");
        };
        assert_eq!(*class, ErrorClass::Other("NewClass".into()));
    });
}

#[test]
fn an_error_without_an_id_ends_the_oldest_call() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        call(&port, "b", &ends);
        main.drain();
        let requests = server.requests();
        server.line(r#"{"error": {"class": "GenericError", "desc": "JSON parse error"}}"#);
        server.reply(&requests[1], json!(1));
        main.drain();
        let ends = ends.borrow();
        assert!(matches!(&ends[0], (name, Err(Error::Command { .. })) if name == "a"));
        assert_eq!(ends[1], ("b".into(), Ok("1".into())));
    });
}

#[test]
fn foreign_replies_are_dropped() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        // Before it was sent, it cannot have been answered.
        main.turn();
        main.drain();
        let request = server.request("a");
        let id = request.id.as_u64().unwrap();
        for other in [
            json!(id + 1),
            json!(id - 1),
            json!(id.to_string()),
            json!(-1),
            json!(null),
        ] {
            server.line(&json!({ "return": "wrong", "id": other }).to_string());
        }
        server.line(&format!(r#"{{"return": "wrong", "id": {id}.0}}"#));
        server.line(r#"{"return": "wrong"}"#);
        main.drain();
        assert!(ends.borrow().is_empty(), "{ends:?}");
        server.reply(&request, json!("right"));
        main.drain();
        assert_eq!(*ends.borrow(), [("a".into(), Ok(r#""right""#.into()))]);
    });
}

#[test]
fn a_thousand_calls_are_in_flight_at_once() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let right = Rc::new(Cell::new(0));
        for number in 0..1000 {
            let right = right.clone();
            let arguments = format!(r#"{{"n":{number}}}"#);
            port.execute_with("echo", Some(&arguments), CallOptions::default(), {
                move |reply| {
                    // In the order of issue, each its own.
                    assert_eq!(reply.unwrap(), number.to_string());
                    assert_eq!(right.replace(number + 1), number);
                }
            });
        }
        let writes = server.peer.writes();
        main.drain();
        assert_eq!(server.peer.writes() - writes, 1, "one turn, one write");
        assert_eq!(port.pending(), 1000);
        let mut replies = String::new();
        for Request { arguments, id, .. } in server.requests() {
            replies += &json!({ "return": arguments["n"], "id": id }).to_string();
            replies += "\n";
        }
        for piece in replies.as_bytes().chunks(4096) {
            server.peer.send(piece);
        }
        main.drain();
        assert_eq!(right.get(), 1000);
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn replies_out_of_order_find_their_calls() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        for name in ["a", "b", "c"] {
            call(&port, name, &ends);
        }
        main.drain();
        for request in server.requests().iter().rev() {
            server.reply(request, json!(request.command));
        }
        main.drain();
        let named = |name: &str| (name.to_owned(), Ok(format!("{name:?}")));
        assert_eq!(*ends.borrow(), [named("c"), named("b"), named("a")]);
    });
}

#[test]
fn out_of_band_goes_first_and_eight_in_band_at_most() {
    with_own(|main| {
        let (port, server) = script::ready_with(main, OOB_GREETING);
        let ends = Ends::default();
        let names: Vec<_> = (0..12).map(|n| format!("c{n}")).collect();
        let ids: Vec<_> = names.iter().map(|name| call(&port, name, &ends)).collect();
        let out = CallOptions {
            band: Band::Out,
            ..CallOptions::default()
        };
        call_with(&port, "yank", out, &ends);
        main.drain();
        // The first command is sent at once, the others together.
        let first = server.requests();
        assert_eq!(first[0].command, "c0");
        assert!(first[1].oob);
        assert_eq!(first[1].command, "yank");
        assert_eq!(first.len(), 1 + 8);
        server.reply(&first[0], json!({}));
        main.drain();
        assert_eq!(server.commands(), ["c8"]);

        // A cancelled call keeps its place until QEMU answers, then frees it.
        for id in &ids[1..9] {
            assert!(port.cancel(*id));
        }
        main.drain();
        assert!(server.commands().is_empty());
        server.reply(&first[2], json!({}));
        main.drain();
        assert_eq!(server.commands(), ["c9"]);
        server.reply(&first[1], json!("pulled"));
        main.drain();
        assert!(
            ends.borrow()
                .contains(&("yank".into(), Ok(r#""pulled""#.into())))
        );
    });
}

#[test]
fn out_of_band_is_refused_if_it_is_not_offered() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let call = main.spawn(port.execute_oob::<Value>("yank", ()));
        let error = main.join("yank", &call).unwrap_err();
        assert!(matches!(error, Error::Usage(UsageError::NotSupported(_))));
        assert!(server.requests().is_empty());
    });
}

#[test]
fn fire_and_forget_leaves_nothing_behind() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        port.execute_with("stop", None, CallOptions::default(), |_| {});
        main.drain();
        server.answer("stop", json!({}));
        main.drain();
        assert_eq!(port.pending(), 0);
        assert!(!main.context().pending());
    });
}

#[test]
fn an_abandoned_out_of_band_call_blocks_nothing() {
    with_own(|main| {
        let (port, server) = script::ready_with(main, OOB_GREETING);
        let ends = Ends::default();
        let out = CallOptions {
            band: Band::Out,
            ..CallOptions::default()
        };
        let lost = call_with(&port, "yank", out, &ends);
        let given_up: Vec<_> = (0..7).map(|_| call(&port, "lost", &ends)).collect();
        main.drain();
        assert_eq!(server.requests().len(), 8);
        for id in given_up.into_iter().chain([lost]) {
            assert!(port.cancel(id));
        }

        // QEMU answers in order: earlier calls will not be answered any more.
        call(&port, "a", &ends);
        main.drain();
        server.answer("a", json!({}));
        for _ in 0..8 {
            call(&port, "b", &ends);
        }
        main.drain();
        assert_eq!(server.commands(), ["b"; 8]);
    });
}
