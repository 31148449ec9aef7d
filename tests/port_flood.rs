// SPDX-License-Identifier: MIT OR Apache-2.0
//! A peer that sends without end, and a program that calls without end: neither
//! fills the memory, and a window is drawn meanwhile.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::io::{ErrorKind, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use common::main_loop::{MainLoop, at_home, home, with_own};
use common::script::{self, Ends, GREETING, call, running};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{CallOptions, Error, PeerError, QmpPort};

/// GTK's priority for drawing.
const REDRAW: i32 = 120;
/// This many iterations of the main loop are enough for one read's input.
const TURNS: usize = 64;
/// How many of the peer's bytes the port may hold.
const HELD: usize = 128 << 10;

/// The far end of a stream, which sends lines as fast as they are read.
struct Flood {
    far: RefCell<UnixStream>,
    /// Makes a line from its number.
    line: fn(usize) -> String,
    lines: Cell<usize>,
    /// What the socket has not accepted yet.
    unsent: RefCell<Vec<u8>>,
    /// How many bytes it accepted.
    sent: Cell<usize>,
}

impl Flood {
    /// A port that is ready, and the flood that it will receive.
    fn start(main: &MainLoop, line: fn(usize) -> String) -> (QmpPort, Rc<Self>) {
        let (near, far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let socket = gio::Socket::from_fd(OwnedFd::from(near)).unwrap();
        let port = at_home(|| QmpPort::for_stream(&socket.connection_factory_create_connection()));
        let flood = Self {
            far: RefCell::new(far),
            line,
            lines: Cell::new(0),
            unsent: RefCell::default(),
            sent: Cell::new(0),
        };
        flood.say(GREETING);
        flood.answer(main, "qmp_capabilities", &json!({}));
        flood.answer(main, "query-status", &running());
        main.until("the status", || port.status().is_some());
        flood.sent.set(0);
        (port, Rc::new(flood))
    }

    /// Sends a line behind all others.
    fn say(&self, line: &str) {
        let line = format!("{line}\n");
        self.unsent.borrow_mut().extend(line.bytes());
        self.push();
    }

    /// Waits for a command, and answers it behind all others.
    #[track_caller]
    fn answer(&self, main: &MainLoop, command: &str, value: &Value) {
        let mut bytes = Vec::new();
        let mut id = None;
        main.until(command, || {
            self.push();
            let _ = self.far.borrow_mut().read_to_end(&mut bytes);
            id = bytes.split(|byte| *byte == b'\n').find_map(|line| {
                let request: Value = serde_json::from_slice(line).ok()?;
                (request["execute"] == command).then(|| request["id"].clone())
            });
            id.is_some()
        });
        self.say(&json!({ "return": value, "id": id }).to_string());
    }

    /// The result of a call that is answered behind all others.
    #[track_caller]
    fn last_call(&self, main: &MainLoop, port: &QmpPort) -> Result<String, Error> {
        let ends = Ends::default();
        call(port, "query-name", &ends);
        self.answer(main, "query-name", &json!("last"));
        main.until("the reply", || {
            self.push();
            !ends.borrow().is_empty()
        });
        ends.take().remove(0).1
    }

    /// Sends as much of the pending data as the socket accepts.
    fn push(&self) {
        let mut unsent = self.unsent.borrow_mut();
        while !unsent.is_empty() {
            match self.far.borrow_mut().write(&unsent) {
                Ok(count) => {
                    unsent.drain(..count);
                    self.sent.set(self.sent.get() + count);
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Sends lines until the socket accepts no more.
    fn fill(&self) {
        loop {
            self.push();
            let mut unsent = self.unsent.borrow_mut();
            if !unsent.is_empty() {
                return;
            }
            while unsent.len() < 16 << 10 {
                let number = self.lines.get();
                unsent.extend((self.line)(number).bytes());
                self.lines.set(number + 1);
            }
        }
    }

    /// The total length of the first lines in bytes.
    fn size(&self, lines: usize) -> usize {
        (0..lines).map(|number| (self.line)(number).len()).sum()
    }
}

/// How much a pair of sockets buffers if nothing is read.
fn capacity() -> usize {
    let (near, mut far) = UnixStream::pair().unwrap();
    far.set_nonblocking(true).unwrap();
    let mut count = 0;
    while let Ok(sent) = far.write(&[0; 16 << 10]) {
        count += sent;
    }
    drop(near);
    count
}

/// Iterates the main loop until `done`, which must not take long.
#[track_caller]
fn soon(main: &MainLoop, what: &str, each: impl Fn(), done: impl Fn() -> bool) {
    for _ in 0..TURNS {
        if done() {
            return;
        }
        each();
        main.turn();
    }
    assert!(done(), "not within {TURNS} turns: {what}");
}

/// Requests a redraw as GTK does, and waits for it.
#[track_caller]
fn redraw(main: &MainLoop, each: impl Fn()) {
    let drawn = Rc::new(Cell::new(false));
    let seen = drawn.clone();
    let draw = async move { seen.set(true) };
    main.context()
        .spawn_local_with_priority(REDRAW.into(), draw);
    soon(main, "the redraw", each, || drawn.get());
}

/// Counts the events that a port delivers in order: their data is their number.
fn count_events(port: &QmpPort, name: Option<&str>) -> Rc<Cell<usize>> {
    let told = Rc::new(Cell::new(0));
    let count = told.clone();
    port.connect_qmp_event(name, move |_, event| {
        if event.data() == Some(&count.get().to_string()) {
            count.set(count.get() + 1);
        }
    });
    told
}

fn event(number: usize) -> String {
    format!("{{\"event\": \"A\", \"data\": {number}}}\n")
}

fn shutdown(number: usize) -> String {
    format!("{{\"event\": \"SHUTDOWN\", \"data\": {number}}}\n")
}

fn garbage_and_event(number: usize) -> String {
    format!("x\n{}", event(number))
}

#[test]
fn no_more_is_read_than_is_delivered_and_a_window_is_drawn() {
    let most = capacity() + HELD;
    for (name, line) in [
        (None, event as fn(usize) -> String),
        (Some("SHUTDOWN"), shutdown),
        (Some("A"), garbage_and_event),
    ] {
        with_own(|main| {
            let (port, flood) = Flood::start(main, line);
            let told = count_events(&port, name);
            for _ in 0..20 {
                let before = told.get();
                let fill = || flood.fill();
                soon(main, "an event", fill, || told.get() > before);
                redraw(main, fill);
                let pending = flood.sent.get() - flood.size(told.get());
                assert!(pending < most, "{name:?}: {pending} bytes not delivered");
            }

            // All of it arrives in order, and so does what follows.
            let last = flood.last_call(main, &port);
            match last {
                Err(Error::Peer(PeerError::Malformed(_))) if name == Some("A") => {
                    main.until("the rest", || {
                        flood.push();
                        told.get() == flood.lines.get()
                    });
                }
                _ => assert_eq!(last, Ok(r#""last""#.into())),
            }
            assert_eq!(told.get(), flood.lines.get(), "{name:?}");
        });
    }
}

#[test]
fn a_flood_without_listeners_does_not_block_a_window() {
    for line in [
        event as fn(usize) -> String,
        shutdown,
        garbage_and_event,
        // Longer than one read.
        |number| format!("{{\"event\": \"A\", \"data\": \"{number:60000}\"}}\n"),
    ] {
        with_own(|main| {
            let (port, flood) = Flood::start(main, line);
            let fill = || flood.fill();
            for _ in 0..20 {
                let before = flood.sent.get();
                soon(main, "a read", fill, || flood.sent.get() > before);
                redraw(main, fill);
            }
            match flood.last_call(main, &port) {
                Err(Error::Peer(PeerError::Malformed(_))) if line(0).starts_with('x') => {}
                last => assert_eq!(last, Ok(r#""last""#.into())),
            }
        });
    }
}

#[test]
fn a_nested_main_loop_in_a_handler_receives_further_events() {
    with_own(|main| {
        let (port, flood) = Flood::start(main, event);
        // More than was read and more than the socket holds.
        let goal = 2 * (capacity() + HELD) / event(0).len();
        let told = count_events(&port, None);
        let nested = Rc::new(Cell::new(None));
        port.connect_qmp_event(None, {
            let (flood, told, nested) = (flood.clone(), told.clone(), nested.clone());
            move |_, _| {
                if nested.get().is_some() {
                    return;
                }
                nested.set(Some(0));
                let context = home();
                let mut turns = 10 * TURNS * goal / 1000;
                while told.get() < goal && turns > 0 {
                    flood.fill();
                    context.iteration(false);
                    turns -= 1;
                }
                nested.set(Some(told.get()));
            }
        });
        flood.fill();
        main.until("the nested main loop", || nested.get().unwrap_or(0) > 0);
        let heard = nested.get().unwrap_or(0);
        assert!(heard >= goal, "heard {heard} of {goal}");
        main.until("the rest", || {
            flood.push();
            told.get() == flood.lines.get()
        });
    });
}

#[test]
fn a_flood_ends_with_its_port() {
    with_own(|main| {
        for closed in [false, true] {
            let (port, flood) = Flood::start(main, event);
            let told = count_events(&port, None);
            let fill = || flood.fill();
            soon(main, "an event", fill, || told.get() > 0);
            if closed {
                main.block_on(port.close());
            }
            let weak = port.downgrade();
            drop(port);
            main.drain();
            assert!(weak.upgrade().is_none());
            let last = told.get();
            main.drain();
            assert_eq!(told.get(), last);
            assert!(!main.context().pending(), "a source is left");
        }
    });
}

/// Executes a command again whenever it fails.
fn retry(port: &QmpPort, command: &'static str, failures: Rc<Cell<usize>>) {
    let weak = port.downgrade();
    port.execute_with(command, None, CallOptions::default(), move |end| {
        if end.is_err() {
            failures.set(failures.get() + 1);
            if let Some(port) = weak.upgrade() {
                retry(&port, command, failures);
            }
        }
    });
}

#[test]
fn a_command_that_is_retried_whenever_it_fails_does_not_block_a_window() {
    with_own(|main| {
        let (unopened, _server) = script::port();
        let (closed, server) = script::ready(main);
        server.peer.close("gone");
        let (shut, _server) = script::ready(main);
        main.block_on(shut.close());
        let (ready, _server) = script::ready(main);
        for (port, command) in [
            (unopened, "stop"),
            (closed, "stop"),
            (shut, "stop"),
            (ready, "bad name!"),
        ] {
            let failures = Rc::new(Cell::new(0));
            for _ in 0..3 {
                retry(&port, command, failures.clone());
            }
            for _ in 0..20 {
                let before = failures.get();
                soon(main, "a failure", || {}, || failures.get() > before);
                redraw(main, || {});
            }
            // It ends with the port.
            drop(port);
            main.drain();
            let last = failures.get();
            main.drain();
            assert_eq!(failures.get(), last);
        }
    });
}
