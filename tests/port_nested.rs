// SPDX-License-Identifier: MIT OR Apache-2.0
//! A handler may do anything: call, close, drop references, or run a main loop.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::main_loop::{MainLoop, PATIENCE, home, with_own};
use common::script::{self, Ends, Server, call};
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{CallOptions, Error, PortState, QmpPort};

type Log = Rc<RefCell<Vec<String>>>;

fn note(log: &Log, text: impl Into<String>) {
    log.borrow_mut().push(text.into());
}

/// Iterates the context of this thread until `done`, from within a handler.
fn nest(what: &str, mut done: impl FnMut() -> bool) {
    let context = home();
    let started = Instant::now();
    while !done() {
        assert!(
            started.elapsed() < PATIENCE,
            "a nested main loop times out: {what}"
        );
        context.iteration(false);
    }
}

/// The same, where nothing that has yet to come is needed, nor a timer.
fn nest_without_waiting(done: impl Fn() -> bool) {
    let context = home();
    while !done() {
        assert!(context.iteration(false), "the main loop is idle");
    }
}

#[test]
fn a_handler_may_give_commands() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        port.connect_qmp_event(None, {
            let ends = ends.clone();
            move |port, event| {
                call(port, &event.name().to_lowercase(), &ends);
            }
        });
        port.connect_ready_notify({
            let ends = ends.clone();
            move |port| {
                call(port, "on-ready", &ends);
            }
        });
        server.event("A");
        server.event("B");
        main.drain();
        assert_eq!(server.commands(), ["a", "b"]);
        server.peer.close("gone");
        main.drain();
        let names: Vec<_> = ends.borrow().iter().map(|(name, _)| name.clone()).collect();
        assert_eq!(names, ["a", "b", "on-ready"]);
        assert!(matches!(ends.borrow()[2].1, Err(Error::Usage(_))));
    });
}

/// Where the program's code runs.
const PLACES: [&str; 4] = ["event", "ready", "status", "callback"];

/// Answers the request: with 7, except the port's own question.
fn answer_all(main: &MainLoop, server: &Server) {
    for request in server.requests() {
        let own = request.command == "query-status";
        server.reply(&request, if own { script::running() } else { json!(7) });
    }
    main.drain();
}

/// Runs `deed` once in each place, and then `check`.
fn in_each_place(
    deed: impl Fn(&QmpPort, &Ends) + Clone + 'static,
    check: impl Fn(&str, &MainLoop, &QmpPort, &Server, &Ends),
) {
    for place in PLACES {
        with_own(|main| {
            let (port, server) = script::port();
            let ends = Ends::default();
            let once = Cell::new(false);
            let run = Rc::new({
                let (deed, ends) = (deed.clone(), ends.clone());
                move |port: &QmpPort| {
                    if !once.replace(true) {
                        deed(port, &ends);
                    }
                }
            });
            let act = run.clone();
            match place {
                "ready" => drop(port.connect_ready_notify(move |port| act(port))),
                "status" => drop(port.connect_status_notify(move |port| act(port))),
                "event" => drop(port.connect_qmp_event(None, move |port, _| act(port))),
                _ => {}
            }
            server.peer.open();
            server.line(script::GREETING);
            main.drain();
            server.answer("qmp_capabilities", json!({}));
            main.drain();
            answer_all(main, &server);
            match place {
                "event" => server.event("A"),
                "callback" => {
                    let weak = port.downgrade();
                    port.execute_with("first", None, CallOptions::default(), move |_| {
                        run(&weak.upgrade().expect("the test has it"));
                    });
                    main.drain();
                    server.answer("first", json!({}));
                }
                _ => {}
            }
            main.drain();
            check(place, main, &port, &server, &ends);
        });
    }
}

#[test]
fn a_command_may_be_given_anywhere() {
    in_each_place(
        |port, ends| {
            call(port, "again", ends);
            assert!(ends.borrow().is_empty(), "not from within the call");
        },
        |place, main, port, server, ends| {
            answer_all(main, server);
            let answered = ("again".to_owned(), Ok("7".to_owned()));
            assert_eq!(*ends.borrow(), [answered], "{place}");
            assert_eq!(port.pending(), 0);
        },
    );
}

#[test]
fn a_port_may_be_disposed_of_anywhere() {
    #[allow(unsafe_code)]
    fn dispose(port: &QmpPort) {
        // SAFETY: the port tolerates use after its disposal.
        unsafe { port.run_dispose() };
    }
    in_each_place(
        |port, ends| {
            call(port, "again", ends);
            dispose(port);
            assert!(ends.borrow().is_empty(), "not from within the disposal");
        },
        |place, main, port, server, ends| {
            assert_eq!(ends.borrow().len(), 1, "{place}");
            assert!(
                matches!(ends.borrow()[0].1, Err(Error::Closed(_))),
                "{place}"
            );
            assert_eq!(port.state(), PortState::Closed);
            assert!(!server.peer.is_used());
            server.event("B");
            call(port, "late", ends);
            main.drain();
            assert!(
                matches!(ends.borrow()[1].1, Err(Error::Usage(_))),
                "{place}"
            );
        },
    );
}

#[test]
fn a_callback_may_give_the_next_command() {
    fn chain(port: &QmpPort, left: u32, done: Rc<Cell<bool>>) {
        let next = port.clone();
        port.execute_with("step", None, CallOptions::default(), move |reply| {
            reply.unwrap();
            if left == 0 {
                done.set(true);
            } else {
                chain(&next, left - 1, done);
            }
        });
    }
    with_own(|main| {
        let (port, server) = script::ready(main);
        let done = Rc::new(Cell::new(false));
        chain(&port, 100, done.clone());
        main.until("a hundred steps", || {
            for request in server.requests() {
                server.reply(&request, json!({}));
            }
            done.get()
        });
    });
}

#[test]
fn a_handler_may_close_the_port() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        call(&port, "a", &ends);
        main.drain();
        let log = Log::default();
        port.connect_qmp_event(None, {
            let log = log.clone();
            move |port, event| {
                note(&log, event.name());
                let port = port.clone();
                home().spawn_local(async move { port.close().await });
            }
        });
        server.event("A");
        // The call is not answered, so the close ends it.
        main.until("the close", || port.state() == PortState::Closed);
        main.drain();
        assert!(!server.peer.is_used());
        assert!(matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]));
        assert_eq!(*log.borrow(), ["A"]);
    });
}

#[test]
fn a_handler_may_drop_the_last_reference() {
    with_own(|main| {
        for what in ["event", "callback", "notify"] {
            let (port, server) = script::ready(main);
            let weak = port.downgrade();
            let ends = Ends::default();
            let owner = Rc::new(RefCell::new(None));
            call(&port, "pending", &ends);
            match what {
                "event" => {
                    let owner = owner.clone();
                    port.connect_qmp_event(None, move |_, _| {
                        owner.take();
                    });
                }
                "callback" => {
                    let owner = owner.clone();
                    port.execute_with("x", None, CallOptions::default(), move |_| {
                        owner.take();
                    });
                }
                _ => {
                    let owner = owner.clone();
                    port.connect_ready_notify(move |_| {
                        owner.take();
                    });
                }
            }
            owner.replace(Some(port));
            main.drain();
            let requests = server.requests();
            match what {
                "event" => server.event("A"),
                "callback" => server.reply(&requests[1], json!({})),
                _ => server.peer.close("gone"),
            }
            server.event("B");
            server.event("C");
            main.drain();
            assert!(weak.upgrade().is_none(), "{what}: the port lives");
            assert!(
                matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]),
                "{what}: {ends:?}"
            );
            assert!(!server.peer.is_used());
        }
    });
}

#[test]
fn a_handler_may_disconnect_itself_and_others() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let log = Log::default();
        let ids = Rc::new(RefCell::new(Vec::new()));
        for name in ["first", "second"] {
            let (log, all) = (log.clone(), ids.clone());
            let id = port.connect_qmp_event(Some("A"), move |port, _| {
                note(&log, name);
                for id in all.take() {
                    port.disconnect(id);
                }
            });
            ids.borrow_mut().push(id);
        }
        server.event("A");
        server.event("A");
        main.drain();
        assert_eq!(*log.borrow(), ["first"]);
    });
}

#[test]
fn a_handler_may_connect_another() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let log = Log::default();
        port.connect_qmp_event(Some("A"), {
            let log = log.clone();
            move |port, _| {
                note(&log, "A");
                let log = log.clone();
                port.connect_qmp_event(Some("B"), move |_, _| note(&log, "B"));
            }
        });
        // Both arrive at once: B is not decoded before A's handler ran.
        server
            .peer
            .send(b"{\"event\": \"A\"}\r\n{\"event\": \"B\"}\r\n");
        main.drain();
        assert_eq!(*log.borrow(), ["A", "B"]);
    });
}

/// Answers with the command's name, from the main loop, for as long as it lives.
fn answering(main: &MainLoop, server: Server) -> Rc<Server> {
    let server = Rc::new(server);
    let weak = Rc::downgrade(&server);
    main.context().spawn_local(async move {
        while let Some(server) = weak.upgrade() {
            for request in server.requests() {
                server.reply(&request, json!(request.command));
            }
            drop(server);
            glib::timeout_future(std::time::Duration::from_millis(1)).await;
        }
    });
    server
}

#[test]
fn a_call_inside_a_nested_main_loop_completes() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let server = answering(main, server);
        let log = Log::default();
        port.connect_qmp_event(None, {
            let log = log.clone();
            move |port, event| {
                note(&log, format!("{} begins", event.name()));
                let ends = Ends::default();
                call(port, "inner", &ends);
                // Waits in real time, too: the answer comes from a timer.
                let context = home();
                while ends.borrow().is_empty() {
                    context.iteration(true);
                }
                note(&log, format!("{} ends", event.name()));
            }
        });
        server.event("A");
        main.until("the handler", || log.borrow().len() == 2);
        assert_eq!(*log.borrow(), ["A begins", "A ends"]);
        drop(server);
        main.run_for(std::time::Duration::from_millis(5));
    });
}

#[test]
fn messages_keep_their_order_in_a_nested_main_loop() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let log = Log::default();
        let nested = Rc::new(Cell::new(false));
        port.connect_qmp_event(None, {
            let (log, nested) = (log.clone(), nested.clone());
            move |_, event| {
                note(&log, event.name());
                if !nested.replace(true) {
                    let log = log.clone();
                    nest("the rest", || log.borrow().len() == 5);
                    note(&log, "nested loop ended");
                }
            }
        });
        for name in ["x", "y"] {
            let log = log.clone();
            port.execute_with(name, None, CallOptions::default(), move |_| {
                note(&log, name);
            });
        }
        main.drain();
        let requests = server.requests();
        // All of it in one piece.
        let all = format!(
            "{}\n{}\n{}\n{}\n{}\n",
            json!({ "event": "A" }),
            json!({ "return": 1, "id": requests[0].id }),
            json!({ "event": "B" }),
            json!({ "return": 2, "id": requests[1].id }),
            json!({ "event": "C" }),
        );
        server.peer.send(all.as_bytes());
        main.drain();
        assert_eq!(
            *log.borrow(),
            ["A", "x", "B", "y", "C", "nested loop ended"]
        );
    });
}

#[test]
fn a_callback_may_run_a_nested_main_loop() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        let done = Rc::new(Cell::new(false));
        port.execute_with("outer", None, CallOptions::default(), {
            let (port, ends, done) = (port.clone(), ends.clone(), done.clone());
            move |_| {
                nest("the other call", || ends.borrow().len() == 1);
                // A close within, with a call that is not answered, ends within it.
                call(&port, "third", &ends);
                let context = home();
                context.spawn_local(async move { port.close().await });
                nest("the close", || ends.borrow().len() == 2);
                done.set(true);
            }
        });
        call(&port, "other", &ends);
        main.drain();
        for request in server.requests() {
            server.reply(&request, json!({}));
        }
        main.drain();
        assert!(done.get());
        assert!(matches!(ends.borrow()[1].1, Err(Error::Closed(_))));
    });
}

/// It is the last callback before the close's own, and has a dispatch of its own, as on a
/// busy machine.
#[test]
fn a_close_ends_within_a_main_loop_of_the_last_callback() {
    with_own(|main| {
        let (port, server) = script::port();
        server.peer.open();
        main.drain();
        port.connect_state_notify(|_| std::thread::sleep(Duration::from_millis(5)));
        let closed = Rc::new(Cell::new(false));
        let done = Rc::new(Cell::new(false));
        port.wait_ready_with(Duration::MAX, {
            let (closed, done) = (closed.clone(), done.clone());
            move |_| {
                nest_without_waiting(|| closed.get());
                done.set(true);
            }
        });
        port.close_with({
            let closed = closed.clone();
            move |_| closed.set(true)
        });
        main.until("the callback", || done.get());
    });
}

/// Each of several closes ends, though the callback of the first one runs a main loop.
#[test]
fn further_closes_end_within_a_main_loop_of_the_first() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let (closed, done) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(false)));
        for number in 0..3 {
            let (closed, done) = (closed.clone(), done.clone());
            port.close_with(move |_| {
                closed.set(closed.get() + 1);
                if number == 0 {
                    nest_without_waiting(|| closed.get() == 3);
                    done.set(true);
                }
            });
        }
        server.peer.close("gone");
        main.until("the closes", || done.get());
    });
}

/// Deadlines are met in a main loop of a callback that a deadline has called.
#[test]
fn a_deadline_is_met_within_a_main_loop_of_an_earlier_one() {
    with_own(|main| {
        let (port, _server) = script::ready(main);
        let ends = Ends::default();
        let done = Rc::new(Cell::new(false));
        let within = |millis| CallOptions {
            timeout: Some(Duration::from_millis(millis)),
            ..CallOptions::default()
        };
        port.execute_with("first", None, within(20), {
            let (ends, done) = (ends.clone(), done.clone());
            move |_| {
                nest("the other deadline", || ends.borrow().len() == 1);
                done.set(true);
            }
        });
        script::call_with(&port, "second", within(60), &ends);
        main.until("both", || done.get());
        assert!(matches!(ends.borrow()[0].1, Err(Error::TimedOut { .. })));
    });
}

/// A handler runs a main loop until everything has happened that its delivery leads to,
/// whatever is left of the dispatch.
#[test]
fn what_follows_a_delivery_happens_within_a_main_loop_of_its_handler() {
    with_own(|main| {
        let (port, server) = script::port();
        let (waited, done) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(0)));
        port.wait_ready_with(Duration::MAX, {
            let waited = waited.clone();
            move |_| waited.set(true)
        });
        port.connect_ready_notify({
            let (waited, done) = (waited.clone(), done.clone());
            move |port| {
                if port.ready() {
                    nest_without_waiting(|| waited.get());
                    done.set(done.get() + 1);
                }
            }
        });
        let seen = Rc::new(Cell::new(u32::MAX));
        port.connect_pending_notify({
            let seen = seen.clone();
            move |port| seen.set(port.pending())
        });
        server.peer.open();
        server.line(script::GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.until("the wait", || done.get() == 1);
        port.execute_with("it", None, CallOptions::default(), {
            let (seen, done) = (seen.clone(), done.clone());
            move |_| {
                nest_without_waiting(|| seen.get() == 0);
                done.set(done.get() + 1);
            }
        });
        main.drain();
        assert_eq!(seen.get(), 1);
        answer_all(main, &server);
        main.until("the notification", || done.get() == 2);
    });
}

#[test]
fn a_port_may_be_released_within_a_nested_main_loop() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let weak = port.downgrade();
        let owner = Rc::new(RefCell::new(None));
        let log = Log::default();
        port.connect_qmp_event(None, {
            let (owner, log) = (owner.clone(), log.clone());
            move |_, event| {
                note(&log, event.name());
                if event.name() == "B" {
                    owner.take();
                } else {
                    let log = log.clone();
                    nest("B", || log.borrow().len() == 2);
                }
            }
        });
        owner.replace(Some(port));
        server
            .peer
            .send(b"{\"event\": \"A\"}\r\n{\"event\": \"B\"}\r\n");
        main.drain();
        assert_eq!(*log.borrow(), ["A", "B"]);
        assert!(weak.upgrade().is_none());
    });
}

#[test]
fn a_handler_may_cancel_the_call_that_comes_next() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        let id = call(&port, "a", &ends);
        port.connect_qmp_event(None, move |port, _| {
            port.cancel(id);
        });
        main.drain();
        let request = server.request("a");
        let both = format!(
            "{}\n{}\n",
            json!({ "event": "A" }),
            json!({ "return": 1, "id": request.id })
        );
        server.peer.send(both.as_bytes());
        main.drain();
        // The reply was behind the event: so the cancellation came first.
        assert_eq!(
            *ends.borrow(),
            [("a".into(), Err(Error::Cancelled("a".into())))]
        );
    });
}

#[test]
fn dropping_a_future_in_a_callback_is_fine() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let other = main.spawn(port.execute::<Value>("b", ()));
        let held = Rc::new(RefCell::new(Some(port.execute::<Value>("c", ()))));
        port.execute_with("a", None, CallOptions::default(), {
            let held = held.clone();
            move |_| {
                held.take();
            }
        });
        main.drain();
        for request in server.requests() {
            server.reply(&request, json!(1));
        }
        assert_eq!(main.join("b", &other).unwrap(), 1);
        assert!(held.borrow().is_none());
    });
}

#[test]
fn a_command_issued_while_pending_is_notified_is_notified_too() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let told = Rc::new(RefCell::new(Vec::new()));
        let ends = Ends::default();
        port.connect_pending_notify({
            let (told, ends) = (told.clone(), ends.clone());
            move |port| {
                told.borrow_mut().push(port.pending());
                if told.borrow().len() == 1 {
                    call(port, "b", &ends);
                }
            }
        });
        call(&port, "a", &ends);
        main.drain();
        assert_eq!(*told.borrow(), [1, 2]);
        for request in server.requests() {
            server.reply(&request, json!({}));
        }
        main.drain();
        assert_eq!(*told.borrow(), [1, 2, 0]);
        assert_eq!(ends.borrow().len(), 2);
    });
}
