// SPDX-License-Identifier: MIT OR Apache-2.0
//! Everything at once, at random: calls, events, closes, nested main loops. Each
//! call ends once, events keep their order, and nothing is left behind.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::io::Write;
use std::rc::Rc;
use std::time::Duration;

use common::main_loop::{MainLoop, home, with_own};
use common::random::Random;
use common::script::{self, GREETING, Request, Server};
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::qmp::CallId;
use spice_qmp::{CallOptions, EventStream, QmpPort};

/// Each run uses its number as the seed.
const ROUNDS: u64 = 1000;
const STEPS: usize = 120;

/// A port, its server, and their expected state.
struct World {
    random: Random,
    port: RefCell<Option<QmpPort>>,
    server: Server,
    unanswered: RefCell<Vec<Request>>,
    calls: RefCell<Vec<CallId>>,
    streams: RefCell<Vec<EventStream>>,
    /// How many events were sent, and the number of the last that was delivered.
    sent: Cell<u64>,
    told: Cell<u64>,
    issued: Cell<usize>,
    ended: Cell<usize>,
    succeeded: Cell<u64>,
    depth: Cell<usize>,
    /// Errors within a callback, which must not panic.
    wrong: RefCell<Vec<String>>,
}

const DEEPEST: usize = 4;

impl World {
    fn new(seed: u64) -> Rc<Self> {
        let (port, server) = script::port();
        let world = Rc::new(Self {
            random: Random::new(seed),
            port: RefCell::new(Some(port.clone())),
            server,
            unanswered: RefCell::default(),
            calls: RefCell::default(),
            streams: RefCell::default(),
            sent: Cell::default(),
            told: Cell::default(),
            issued: Cell::default(),
            ended: Cell::default(),
            succeeded: Cell::default(),
            depth: Cell::default(),
            wrong: RefCell::default(),
        });
        let weak = Rc::downgrade(&world);
        port.connect_qmp_event(None, move |_, event| {
            if let Some(world) = weak.upgrade() {
                let number = event.decode::<u64>().unwrap_or(0);
                if world.told.replace(number) >= number {
                    world.note(format!("event {number} is out of order"));
                }
                world.reenter();
            }
        });
        let weak = Rc::downgrade(&world);
        port.connect_notify_local(None, move |_, _| {
            if let Some(world) = weak.upgrade() {
                world.reenter();
            }
        });
        world
    }

    fn note(&self, text: String) {
        self.wrong.borrow_mut().push(text);
    }

    /// An action of a handler or a callback.
    fn reenter(self: &Rc<Self>) {
        if self.depth.get() >= DEEPEST {
            return;
        }
        self.depth.set(self.depth.get() + 1);
        match self.random.below(6) {
            0 => {
                let context = home();
                for _ in 0..3 {
                    context.iteration(false);
                }
            }
            1 | 2 => self.step(),
            _ => {}
        }
        self.depth.set(self.depth.get() - 1);
    }

    /// A random action.
    fn step(self: &Rc<Self>) {
        match self.random.below(32) {
            0..8 => self.call(),
            8 | 9 => self.call_as_future(),
            10 => self.call_within_a_deadline(),
            11 => self.cancel(),
            12..18 => self.answer(),
            18..23 => self.send_events(),
            23 => {
                self.server.peer.close("gone");
                self.unanswered.take();
            }
            24 | 25 => {
                self.server.peer.open();
                self.server.line(GREETING);
            }
            26 => self.server.line("garbage"),
            27 | 28 => self.server.peer.block(self.random.below(4) == 0),
            29 => self.server.peer.fail_write("no"),
            _ => self.listen(),
        }
    }

    fn port(&self) -> Option<QmpPort> {
        self.port.borrow().clone()
    }

    fn call(self: &Rc<Self>) {
        let Some(port) = self.port() else {
            return;
        };
        let timeout = match self.random.below(4) {
            0 => Some(Duration::from_micros(300)),
            1 => Some(Duration::ZERO),
            _ => None,
        };
        let options = CallOptions {
            timeout,
            ..CallOptions::default()
        };
        let command = ["stop", "quit", "query-name", "bad name!"][self.random.below(4)];
        self.issued.set(self.issued.get() + 1);
        let world = self.clone();
        let id = port.execute_with(command, None, options, move |end| {
            world.ended.set(world.ended.get() + 1);
            world
                .succeeded
                .set(world.succeeded.get() + u64::from(end.is_ok()));
            world.reenter();
        });
        self.calls.borrow_mut().push(id);
    }

    fn call_as_future(self: &Rc<Self>) {
        let Some(port) = self.port() else {
            return;
        };
        let call = port.execute::<Value>("query-name", ());
        self.spawn(async move { drop(call.await) });
    }

    /// A future that is usually dropped before the call ends.
    fn call_within_a_deadline(self: &Rc<Self>) {
        let Some(port) = self.port() else {
            return;
        };
        let call = port.execute::<Value>("query-name", ());
        let deadline = Duration::from_micros(200);
        self.spawn(async move { drop(glib::future_with_timeout(deadline, call).await) });
    }

    fn spawn(self: &Rc<Self>, call: impl Future<Output = ()> + 'static) {
        self.issued.set(self.issued.get() + 1);
        let world = self.clone();
        home().spawn_local(async move {
            call.await;
            world.ended.set(world.ended.get() + 1);
        });
    }

    fn cancel(&self) {
        let calls = self.calls.borrow().clone();
        if let (Some(port), false) = (self.port(), calls.is_empty()) {
            port.cancel(calls[self.random.below(calls.len())]);
        }
    }

    /// Answers the negotiations, and usually the rest in one piece.
    fn answer(&self) {
        for request in self.server.requests() {
            if request.command == "qmp_capabilities" {
                self.server.reply(&request, json!({}));
            } else {
                self.unanswered.borrow_mut().push(request);
            }
        }
        let mut replies = Vec::new();
        for request in self.unanswered.take() {
            let status = format!("status {}", request.id);
            let value = json!({ "running": true, "status": status });
            let reply = json!({ "return": value, "id": request.id });
            replies.extend(format!("{reply}\n").bytes());
        }
        self.server.peer.send(&replies);
    }

    /// Sends a few events, split anywhere.
    fn send_events(&self) {
        let mut lines = Vec::new();
        for _ in 0..=self.random.below(4) {
            self.sent.set(self.sent.get() + 1);
            let name = ["A", "STOP"][self.random.below(2)];
            let event = json!({ "event": name, "data": self.sent.get() });
            lines.extend(format!("{event}\n").bytes());
        }
        let (head, tail) = lines.split_at(self.random.below(lines.len()));
        self.server.peer.send(head);
        self.server.peer.send(tail);
    }

    fn listen(&self) {
        if self.random.coin() {
            let stream = self.port().map(|port| port.events());
            self.streams.borrow_mut().extend(stream);
        } else {
            // Dropped outside the borrow.
            let _last = self.streams.borrow_mut().pop();
        }
    }
}

fn round(main: &MainLoop, seed: u64) -> Rc<World> {
    let world = World::new(seed);
    world.server.peer.open();
    world.server.line(GREETING);
    for _ in 0..STEPS {
        world.step();
        if world.random.below(3) == 0 {
            main.turn();
        }
    }
    // The end, when handlers do nothing any more.
    world.depth.set(DEEPEST);
    world.server.peer.block(false);
    world.server.peer.close("the end");
    main.until("the end of all calls", || {
        world.ended.get() >= world.issued.get()
    });
    main.drain();
    assert_eq!(world.ended.get(), world.issued.get(), "a call ended twice");
    assert_eq!(*world.wrong.borrow(), [""; 0]);

    let port = world.port.take().unwrap();
    assert_eq!(port.pending(), 0);
    world.streams.take();
    let weak = port.downgrade();
    drop(port);
    main.drain();
    assert!(weak.upgrade().is_none(), "the port lives");
    assert_eq!(Rc::strong_count(&world), 1, "a callback lives");
    world
}

thread_local! {
    static SEED_OF_ROUND: Cell<u64> = const { Cell::new(0) };
}

/// A panic within a callback aborts the test, whose output is lost then.
fn tell_the_seed_of_a_panic() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        let seed = SEED_OF_ROUND.get();
        // Unlike `eprintln`, this bypasses the test's captured output.
        let _ = writeln!(std::io::stderr(), "seed {seed}: {info}");
        usual(info);
    }));
}

#[test]
fn everything_at_once() {
    tell_the_seed_of_a_panic();
    let (mut told, mut succeeded) = (0, 0);
    for seed in 1..=ROUNDS {
        SEED_OF_ROUND.set(seed);
        with_own(|main| {
            let world = round(main, seed);
            told += world.told.get();
            succeeded += world.succeeded.get();
        });
    }
    // The run was not trivial.
    assert!(told > ROUNDS, "{told} events");
    assert!(succeeded > ROUNDS, "{succeeded} calls");
}
