// SPDX-License-Identifier: MIT OR Apache-2.0
//! Deadlines: what has arrived wins over them, and a storm leaves time for other timers.
#![cfg(feature = "gobject")]

mod common;

use std::cell::Cell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

use common::main_loop::{at_home, with_own};
use common::script::{self, Ends, GREETING, call_with};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{CallOptions, QmpPort};

const SHORT: CallOptions = CallOptions {
    band: spice_qmp::qmp::Band::In,
    timeout: Some(Duration::from_millis(20)),
};

#[test]
fn an_answer_on_a_socket_during_a_blocked_main_loop_wins() {
    with_own(|main| {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let socket = gio::Socket::from_fd(OwnedFd::from(near)).unwrap();
        let stream = socket.connection_factory_create_connection();
        let port = at_home(|| QmpPort::for_stream(&stream));
        let say = |line: &str| (&far).write_all(format!("{line}\r\n").as_bytes()).unwrap();
        let next = |command: &str| {
            let mut bytes = Vec::new();
            let mut id = Value::Null;
            main.until(command, || {
                let _ = std::io::Read::read_to_end(&mut &far, &mut bytes);
                let request = bytes
                    .strip_suffix(b"\n")
                    .map(serde_json::from_slice::<Value>);
                if let Some(Ok(request)) = request {
                    assert_eq!(request["execute"], command);
                    id = request["id"].clone();
                }
                !id.is_null()
            });
            id
        };
        say(GREETING);
        let id = next("qmp_capabilities");
        say(&json!({ "return": {}, "id": id }).to_string());
        let id = next("query-status");
        say(&json!({ "return": script::running(), "id": id }).to_string());
        main.until("the status", || port.status().is_some());
        let ends = Ends::default();
        for number in 0..20 {
            call_with(&port, "query-name", SHORT, &ends);
            let id = next("query-name");
            say(&json!({ "return": number, "id": id }).to_string());
            // The answer arrives in time, but the main loop is blocked.
            thread::sleep(Duration::from_millis(30));
            main.until("the end", || !ends.borrow().is_empty());
            assert_eq!(ends.take()[0].1, Ok(number.to_string()));
        }
    });
}

#[test]
fn an_answer_on_a_pair_during_a_blocked_main_loop_wins() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        for _ in 0..20 {
            call_with(&port, "query-name", SHORT, &ends);
            main.drain();
            // Behind events that take some time.
            server.event("A");
            server.answer("query-name", json!(7));
            thread::sleep(Duration::from_millis(30));
            main.until("the end", || !ends.borrow().is_empty());
            assert_eq!(ends.take()[0].1, Ok("7".into()));
        }
    });
}

/// A handler takes 2 ms: at most two of them run between two iterations.
#[test]
fn a_storm_does_not_monopolise_the_main_loop() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let (run, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let total = Rc::new(Cell::new(0));
        port.connect_qmp_event(None, {
            let (run, total) = (run.clone(), total.clone());
            move |_, _| {
                let start = Instant::now();
                while start.elapsed() < Duration::from_millis(2) {}
                run.fetch_add(1, Relaxed);
                total.set(total.get() + 1);
            }
        });
        let tick =
            glib::timeout_source_new(Duration::from_millis(1), None, glib::Priority::DEFAULT, {
                let (run, most) = (run.clone(), most.clone());
                move || {
                    most.fetch_max(run.swap(0, Relaxed), Relaxed);
                    glib::ControlFlow::Continue
                }
            });
        tick.attach(Some(main.context()));
        server
            .peer
            .send("{\"event\":\"A\"}\n".repeat(100).as_bytes());
        main.until("the storm's end", || total.get() == 100);
        tick.destroy();
        assert!(
            (1..=2).contains(&most.load(Relaxed)),
            "{} in a row",
            most.load(Relaxed)
        );
    });
}
