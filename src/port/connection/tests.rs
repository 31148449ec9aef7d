// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests the connection alone, with a mock owner: no GObject, no main loop, no clock.

use std::cell::{Cell, RefCell};
use std::mem;
use std::rc::{Rc, Weak};
use std::time::Duration;

use serde_json::Value;

use super::{Change, Connection, MAX_NESTING, OwnedEvent, Owner, Urgency};
use crate::port::requests::Request;
use crate::port::waits::{WaitCallback, WaitFor, WaitId};
use crate::qmp::{self, Band, CallId, Error, State, limits};
use crate::transport::{Closed, Flow, PairPeer, PairTransport, Sink, Transport, pair};

const MILLI: i64 = 1_000;
const SECOND: i64 = 1_000_000;
/// Longer than anything that a test waits for.
const LONG: Duration = Duration::from_hours(1);
const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"major":9,"minor":1,"micro":0},"package":""},"capabilities":[]}}"#;

struct Event {
    name: String,
    data: Option<String>,
}

impl From<&qmp::Event<'_>> for Event {
    fn from(event: &qmp::Event<'_>) -> Self {
        Self {
            name: event.name.as_ref().to_owned(),
            data: event.data.as_deref().map(str::to_owned),
        }
    }
}

impl OwnedEvent for Event {
    fn name(&self) -> &str {
        &self.name
    }

    fn data(&self) -> Option<&str> {
        self.data.as_deref()
    }
}

/// What the program does in each of its callbacks and handlers.
type Handler = Rc<dyn Fn(&Rc<Program>, &str)>;

/// A mock owner that records what is delivered to it.
struct Program {
    me: Weak<Self>,
    connection: Connection<Self>,
    peer: PairPeer,
    wire: Rc<Wire>,
    now: Cell<i64>,
    scheduled: Cell<Option<Urgency>>,
    armed: Cell<Option<i64>>,
    log: RefCell<Vec<String>>,
    handler: RefCell<Option<Handler>>,
}

/// What a transport has beyond a pair's.
#[derive(Default)]
struct Wire {
    is_spice: bool,
    /// Whether bytes have arrived that were not reported.
    has_input: Cell<bool>,
    /// Whether closing lasts until [`Program::transport_closed`].
    closes_late: Cell<bool>,
    closing: RefCell<Option<Closed>>,
    resumed: Cell<usize>,
}

struct TestTransport {
    pair: PairTransport,
    wire: Rc<Wire>,
}

impl Transport for TestTransport {
    fn start(&self, sink: Sink) {
        self.pair.start(sink);
    }

    fn write(&self, bytes: Vec<u8>) {
        self.pair.write(bytes);
    }

    fn resume(&self) {
        self.wire.resumed.set(self.wire.resumed.get() + 1);
    }

    fn has_input(&self) -> bool {
        self.wire.has_input.get()
    }

    fn close(&self) {
        self.pair.close();
    }

    fn close_then(&self, done: Closed) {
        self.close();
        if self.wire.closes_late.get() {
            self.wire.closing.replace(Some(done));
        } else {
            done();
        }
    }

    fn reopens(&self) -> bool {
        true
    }

    fn is_spice_port(&self) -> bool {
        self.wire.is_spice
    }
}

impl Owner for Program {
    type Event = Event;

    fn wants(&self, _name: &str) -> bool {
        true
    }

    fn hears_pending(&self) -> bool {
        true
    }

    fn event(&self, event: Event) {
        self.happened(event.name);
    }

    fn changed(&self, changes: &[Change]) {
        for change in changes {
            let text = match change {
                Change::State => format!("state {}", self.connection.state()),
                Change::Pending => format!("pending {}", self.connection.pending()),
                Change::Responsive => format!("responsive {}", self.connection.is_responsive()),
                Change::Status => match self.connection.status() {
                    Some(status) => format!("status {}", status.status),
                    None => "status".into(),
                },
                change => format!("{change:?}"),
            };
            self.happened(text);
        }
    }

    fn call(&self, callback: impl FnOnce()) {
        callback();
    }

    fn ended(&self) {
        self.happened("ended");
    }

    fn schedule(&self, urgency: Urgency) {
        self.scheduled.set(self.scheduled.get().max(Some(urgency)));
    }

    fn dispatch_now(&self) {
        if self.scheduled.get() == Some(Urgency::Soon) {
            self.scheduled.set(None);
            self.connection.dispatch(self);
        }
    }

    fn unschedule(&self) {
        self.scheduled.set(None);
    }

    fn arm(&self, at: Option<i64>) {
        self.armed.set(at);
    }

    fn rest(&self) {}

    fn transport_gone(&self) -> Closed {
        let me = self.me.clone();
        Box::new(move || {
            let me = me.upgrade().expect("the test has it");
            me.connection.transport_gone(&me);
        })
    }

    fn now(&self) -> i64 {
        self.now.get()
    }
}

impl Program {
    fn start(is_spice: bool) -> Rc<Self> {
        let (pair, peer) = pair();
        let wire = Rc::new(Wire {
            is_spice,
            ..Wire::default()
        });
        let program = Rc::new_cyclic(|me| Self {
            me: me.clone(),
            connection: Connection::new(1 << 24),
            peer,
            wire: wire.clone(),
            now: Cell::new(SECOND),
            scheduled: Cell::default(),
            armed: Cell::default(),
            log: RefCell::default(),
            handler: RefCell::default(),
        });
        let transport: Rc<dyn Transport> = Rc::new(TestTransport { pair, wire });
        program.connection.attach(transport.clone());
        let me = program.me.clone();
        transport.start(Rc::new(move |incoming| {
            me.upgrade()
                .map_or(Flow::On, |me| me.connection.incoming(&me, incoming))
        }));
        program.connection.started(&program);
        program
    }

    /// A program whose port is ready and idle.
    fn ready(is_spice: bool) -> Rc<Self> {
        let program = Self::start(is_spice);
        program.peer.open();
        program.line(GREETING);
        program.drain();
        program.answer("qmp_capabilities", "{}");
        program.answer(
            "query-status",
            r#"{"running":true,"singlestep":false,"status":"running"}"#,
        );
        assert_eq!(program.connection.state(), State::Ready);
        assert_eq!(program.scheduled.get(), None);
        program.take_log();
        program
    }

    /// Records a notification.
    fn happened(&self, what: impl Into<String>) {
        let what = what.into();
        let handler = self.handler.borrow().clone();
        self.log.borrow_mut().push(what.clone());
        if let (Some(handler), Some(me)) = (handler, self.me.upgrade()) {
            handler(&me, &what);
        }
    }

    fn on_all(&self, handler: impl Fn(&Rc<Self>, &str) + 'static) {
        self.handler.replace(Some(Rc::new(handler)));
    }

    /// One iteration of the main loop. False if there was nothing to do.
    fn turn(&self) -> bool {
        if self.armed.get().is_some_and(|at| at <= self.now.get()) {
            self.armed.set(None);
            self.connection.expire(self);
        } else if self.scheduled.take().is_some() {
            self.connection.dispatch(self);
        } else {
            return false;
        }
        true
    }

    fn drain(&self) {
        for _ in 0..100_000 {
            if !self.turn() {
                return;
            }
        }
        panic!("the main loop never comes to rest");
    }

    /// Advances the clock, and runs everything that becomes due.
    fn pass(&self, micros: i64) {
        let end = self.now.get() + micros;
        self.drain();
        while let Some(at) = self.armed.get().filter(|at| *at <= end) {
            self.now.set(at.max(self.now.get()));
            self.drain();
        }
        self.now.set(end);
        self.drain();
    }

    fn take_log(&self) -> Vec<String> {
        mem::take(&mut *self.log.borrow_mut())
    }

    fn count(&self, what: &str) -> usize {
        self.log.borrow().iter().filter(|it| *it == what).count()
    }

    /// Sends a line.
    fn line(&self, line: &str) {
        self.peer.send(format!("{line}\n").as_bytes());
    }

    fn event(&self, name: &str) {
        self.line(&format!(r#"{{"event":"{name}"}}"#));
    }

    /// The commands and ids received since the last call.
    fn requests(&self) -> Vec<(String, u64)> {
        let received = self.peer.received();
        let requests = serde_json::Deserializer::from_slice(&received).into_iter::<Value>();
        let request = |value: Result<Value, _>| {
            let value = value.expect("requests are JSON");
            let command = value["execute"].as_str().expect("a command");
            (command.to_owned(), value["id"].as_u64().expect("an id"))
        };
        requests.map(request).collect()
    }

    /// Takes the only request that was received, and answers it.
    #[track_caller]
    fn answer(&self, command: &str, value: &str) {
        let requests = self.requests();
        assert_eq!(requests.len(), 1, "{requests:?}");
        assert_eq!(requests[0].0, command);
        self.reply(requests[0].1, value);
        self.drain();
    }

    fn reply(&self, id: u64, value: &str) {
        self.line(&format!(r#"{{"return":{value},"id":{id}}}"#));
    }

    /// Executes a command and records how it ends.
    fn execute(&self, command: &'static str, timeout: Option<Duration>) -> CallId {
        let me = self.me.clone();
        let request = Request {
            command,
            arguments: None,
            band: Band::In,
            timeout,
            fds: None,
            at_once: false,
        };
        let callback = Box::new(move |result: Result<String, Error>| {
            let me = me.upgrade().expect("the test has it");
            me.happened(match result {
                Ok(value) => format!("{command} {value}"),
                Err(error) => format!("{command} failed: {error}"),
            });
        });
        self.connection.execute(self, request, callback)
    }

    fn noted(&self, what: &'static str) -> WaitCallback {
        let me = self.me.clone();
        Box::new(move |result| {
            let me = me.upgrade().expect("the test has it");
            me.happened(match result {
                Ok(()) => what.to_owned(),
                Err(error) => format!("{what} failed: {error}"),
            });
        })
    }

    fn wait_ready(&self) -> WaitId {
        let callback = self.noted("wait");
        self.connection.wait(self, WaitFor::Ready, LONG, callback)
    }

    fn close(&self, timeout: Duration) -> WaitId {
        let callback = self.noted("closed");
        self.connection.close(self, timeout, callback)
    }

    fn transport_closed(&self) {
        let done = self.wire.closing.take().expect("it is being closed");
        done();
    }
}

#[test]
fn deliveries_are_in_order_and_never_reentrant() {
    let program = Program::ready(false);
    program.execute("a", None);
    program.execute("b", None);
    assert!(program.log.borrow().is_empty());
    program.drain();
    let ids: Vec<_> = program.requests().into_iter().map(|it| it.1).collect();
    let all = format!(
        "{{\"event\":\"X\"}}\n{{\"return\":1,\"id\":{}}}\n{{\"event\":\"STOP\"}}\n\
         {{\"return\":2,\"id\":{}}}\n{{\"event\":\"Y\"}}\n",
        ids[0], ids[1]
    );
    program.take_log();
    program.peer.send(all.as_bytes());
    program.peer.close("gone");
    assert!(
        program.log.borrow().is_empty(),
        "nothing is delivered re-entrantly"
    );
    program.drain();
    assert_eq!(
        program.take_log(),
        [
            "X",
            "a 1",
            "status paused",
            "STOP",
            "b 2",
            "Y",
            "LastError",
            "Version",
            "Capabilities",
            "status",
            "state closed",
            "Ready",
            "pending 0",
        ]
    );
}

#[test]
fn a_port_is_not_notified_of_how_it_was_made() {
    let program = Program::start(true);
    assert_eq!(program.connection.state(), State::Connecting);
    assert_eq!(program.scheduled.get(), None);
    program.peer.open();
    program.drain();
    assert_eq!(program.take_log(), ["state waiting for the greeting"]);
}

#[test]
fn what_callbacks_request_is_sent_in_one_write() {
    let program = Program::ready(false);
    let writes = program.peer.writes();
    program.on_all(|program, what| {
        if what == "X" {
            program.execute("a", None);
        }
    });
    for _ in 0..10 {
        program.event("X");
    }
    program.drain();
    assert_eq!(program.peer.writes(), writes + 1);
    assert_eq!(program.requests().len(), 10);
}

#[test]
fn the_first_command_is_written_at_once_and_later_ones_together() {
    let program = Program::ready(false);
    let writes = program.peer.writes();
    for _ in 0..5 {
        program.execute("a", None);
    }
    assert_eq!(program.requests().len(), 1);
    program.drain();
    assert_eq!(program.requests().len(), 4);
    assert_eq!(program.peer.writes(), writes + 2);
    program.execute("b", None);
    assert_eq!(
        program.requests().len(),
        1,
        "the others wait for a dispatch"
    );
}

#[test]
fn a_batch_is_sent_before_the_rest_is_delivered() {
    // A transport that sends within the write, and one that needs the main loop for it.
    for blocked in [false, true] {
        let program = Program::ready(false);
        let writes = program.peer.writes();
        program.peer.block(blocked);
        program.on_all(|program, what| {
            if what == "X" {
                program.execute("a", None);
            }
        });
        program
            .peer
            .send("{\"event\":\"X\"}\n".repeat(80).as_bytes());
        assert!(program.turn());
        let (delivered, written) = if blocked { (32, 1) } else { (80, 3) };
        assert_eq!(program.count("X"), delivered);
        assert_eq!(program.peer.writes(), writes + written);
        // One that is under way is not waited for.
        program.drain();
        assert_eq!(program.count("X"), 80);
        program.peer.block(false);
        assert_eq!(program.requests().len(), 80);
        assert_eq!(program.peer.writes(), writes + if blocked { 2 } else { 3 });
    }
}

#[test]
fn a_dispatch_ends_after_256_deliveries() {
    let program = Program::ready(false);
    program
        .peer
        .send("{\"event\":\"X\"}\n".repeat(600).as_bytes());
    for expected in [256, 512, 600] {
        assert!(program.scheduled.get().is_some());
        assert!(program.turn());
        assert_eq!(program.count("X"), expected);
    }
    assert_eq!(program.scheduled.get(), None);
}

#[test]
fn a_dispatch_ends_after_three_milliseconds() {
    let program = Program::ready(false);
    program.on_all(|program, _| program.now.set(program.now.get() + 2 * MILLI));
    program
        .peer
        .send("{\"event\":\"X\"}\n".repeat(9).as_bytes());
    for delivered in [2, 4, 6, 8, 9] {
        assert!(program.turn());
        assert_eq!(program.count("X"), delivered);
        // The rest must not delay drawing a window.
        let left = delivered < 9;
        assert_eq!(program.scheduled.get(), left.then_some(Urgency::Idle));
    }
}

#[test]
fn input_is_paused_while_a_delivery_waits() {
    let program = Program::ready(false);
    program
        .peer
        .send("{\"event\":\"X\"}\n".repeat(600).as_bytes());
    let resumed = program.wire.resumed.get();
    program.turn();
    assert_eq!(program.wire.resumed.get(), resumed);
    program.drain();
    assert!(program.wire.resumed.get() > resumed);
}

/// The main loop was blocked while the answer arrived; the timer comes first.
#[test]
fn an_answer_that_has_arrived_wins_over_a_deadline() {
    let timeout = Some(Duration::from_millis(10));
    for arrived in [true, false] {
        let program = Program::ready(false);
        program.execute("a", timeout);
        program.drain();
        let id = program.requests()[0].1;
        program.now.set(program.now.get() + 500 * MILLI);
        program.wire.has_input.set(arrived);
        // The answer has not been read before this.
        assert!(program.turn());
        assert!(program.armed.get().is_some_and(|at| at > program.now.get()));
        program.drain();
        program.now.set(program.armed.get().unwrap());
        program.drain();
        if arrived {
            assert_eq!(program.connection.pending(), 1);
            program.reply(id, "1");
            program.wire.has_input.set(false);
            program.drain();
            assert_eq!(program.count("a 1"), 1);
            assert_eq!(program.armed.get(), None);
        } else {
            assert_eq!(program.connection.pending(), 0);
            assert_eq!(program.count("a 1"), 0);
        }
    }
}

/// As above, with the answer behind many events that were read but not delivered.
#[test]
fn an_answer_that_waits_to_be_decoded_wins_over_a_deadline() {
    let program = Program::ready(false);
    program.execute("a", Some(Duration::from_millis(10)));
    program.drain();
    let id = program.requests()[0].1;
    program.on_all(|program, _| program.now.set(program.now.get() + 2 * MILLI));
    program
        .peer
        .send("{\"event\":\"X\"}\n".repeat(300).as_bytes());
    program.reply(id, "1");
    program.drain();
    assert_eq!((program.count("X"), program.count("a 1")), (300, 1));
}

#[test]
fn a_deadline_passes_in_a_storm() {
    let program = Program::ready(false);
    program.execute("a", Some(Duration::from_millis(10)));
    program.drain();
    program.wire.has_input.set(true);
    // It may be delayed by one second.
    let end = program.now.get() + 1_100 * MILLI;
    while program.now.get() < end {
        program.event("X");
        program.drain();
        program.now.set(program.now.get() + MILLI / 2);
    }
    assert_eq!(program.connection.pending(), 0);
    assert!(
        program
            .log
            .borrow()
            .iter()
            .any(|it| it.starts_with("a failed"))
    );
}

/// Runs a main loop in each handler of the program, and records the greatest depth.
fn nest(
    program: &Rc<Program>,
    deepest: &Rc<Cell<u32>>,
    at_the_bottom: impl Fn(&Rc<Program>) + 'static,
) {
    let depth = Rc::new(Cell::new(0));
    let deepest = deepest.clone();
    program.on_all(move |program, what| {
        if what != "X" {
            return;
        }
        depth.set(depth.get() + 1);
        deepest.set(deepest.get().max(depth.get()));
        program.event("X");
        if depth.get() == MAX_NESTING {
            at_the_bottom(program);
        }
        program.drain();
        depth.set(depth.get() - 1);
    });
}

#[test]
fn handlers_nest_no_deeper_than_the_bound() {
    let program = Program::ready(false);
    let deepest = Rc::new(Cell::new(0));
    nest(&program, &deepest, |program| {
        for _ in 0..1000 {
            program.event("X");
        }
    });
    program.event("X");
    program.drain();
    assert_eq!(deepest.get(), MAX_NESTING);
    assert_eq!(program.connection.dropped(), 1001);
    assert_eq!(program.count("Dropped"), 1);
    assert_eq!(program.count("X"), MAX_NESTING as usize);
    // Afterwards everything is as before.
    program.on_all(|_, _| ());
    program.event("Y");
    program.drain();
    assert_eq!(program.count("Y"), 1);
}

#[test]
fn a_handler_that_nests_too_deep_gets_its_reply() {
    let program = Program::ready(false);
    let deepest = Rc::new(Cell::new(0));
    nest(&program, &deepest, |program| {
        program.execute("a", None);
        program.execute("late", Some(Duration::from_millis(10)));
        program.drain();
        let id = program.requests()[0].1;
        program
            .peer
            .send("{\"event\":\"X\"}\n".repeat(10).as_bytes());
        program.reply(id, "1");
        program.drain();
        assert_eq!(program.count("a 1"), 1);
        program.pass(20 * MILLI);
        assert_eq!(program.connection.pending(), 0, "deadlines pass, too");
        // Only ends of calls are delivered.
        assert_eq!(program.count("pending 1") + program.count("pending 2"), 0);
    });
    program.event("X");
    program.drain();
    assert_eq!(program.count("a 1"), 1);
}

#[test]
fn held_back_deliveries_do_not_pile_up() {
    let program = Program::ready(false);
    let deepest = Rc::new(Cell::new(0));
    nest(&program, &deepest, |program| {
        for _ in 0..1000 {
            program.peer.close("gone");
            program.peer.open();
            program.line("no JSON");
            program.drain();
        }
        let held = program.connection.deliveries.borrow().len();
        assert!(held <= 2_001, "{held} deliveries are held back");
        for _ in 0..1000 {
            program.peer.close("gone");
            program.peer.open();
            program.drain();
        }
        let more = program.connection.deliveries.borrow().len() - held;
        assert!(more <= 1, "{more} states are held back");
    });
    program.event("X");
    program.drain();
    // The last state is delivered in the end.
    let last = program
        .log
        .borrow()
        .iter()
        .rfind(|it| it.starts_with("state"))
        .cloned();
    assert_eq!(last, Some(format!("state {}", program.connection.state())));
}

#[test]
fn input_from_spice_meanwhile_is_bounded() {
    let program = Program::ready(true);
    let chunk = format!(
        "{{\"event\":\"Y\",\"data\":{{\"a\":\"{}\"}}}}\n",
        "x".repeat(1 << 20)
    );
    // A delivery waits, so nothing is decoded.
    for _ in 0..=limits::MAX_BUFFERED / chunk.len() + 1 {
        program.peer.send(chunk.as_bytes());
    }
    assert_eq!(program.connection.state(), State::Failed);
    program.drain();
    assert_eq!(program.count("Y"), 1, "what came before");
    assert!(
        program.connection.last_error().is_some_and(
            |it| it.to_string().contains("64 MiB") || it.to_string().contains("67108864")
        )
    );
}

#[test]
fn a_close_ends_last() {
    let program = Program::start(false);
    program.peer.open();
    program.line(GREETING);
    program.drain();
    program.wire.closes_late.set(true);
    program.close(Duration::from_millis(10));
    program.wait_ready();
    program.close(Duration::from_millis(10));
    program.pass(20 * MILLI);
    assert_eq!(
        program.count("closed"),
        0,
        "the transport is not closed yet"
    );
    assert_eq!(program.count("ended"), 1);
    program.transport_closed();
    program.turn();
    // What ends meanwhile is delivered before, too.
    program.execute("b", None);
    program.drain();
    let log = program.take_log();
    assert_eq!(log[log.len() - 2..], ["closed", "closed"]);
    assert!(log.iter().any(|it| it.starts_with("b failed")));
    assert!(
        log[..log.len() - 2]
            .iter()
            .any(|it| it.starts_with("wait failed"))
    );
    assert_eq!(program.armed.get(), None);
}

#[test]
fn a_close_ends_after_a_hundred_thousand_chained_calls() {
    let calls = if cfg!(miri) { 1_000 } else { 100_000 };
    let program = Program::ready(false);
    for _ in 0..calls {
        program.execute("a", None);
    }
    let once = Cell::new(false);
    program.on_all(move |program, what| {
        if what.starts_with("a failed") && !once.replace(true) {
            program.execute("b", None);
            program.wait_ready();
        }
    });
    program.close(Duration::ZERO);
    program.pass(MILLI);
    program.drain();
    let log = program.take_log();
    assert_eq!(log.last().map(String::as_str), Some("closed"));
    let ended = |what: &str| log.iter().filter(|it| it.starts_with(what)).count();
    assert_eq!(ended("a failed"), calls);
    assert_eq!((ended("b failed"), ended("wait failed")), (1, 1));
    assert_eq!(ended("closed"), 1);
}

#[test]
fn a_close_waits_for_what_is_owed_and_no_longer() {
    let timeout = Duration::from_secs(10);
    // Nothing is owed.
    let program = Program::ready(true);
    program.close(timeout);
    program.drain();
    assert_eq!(program.count("closed"), 1);
    // A command, answered in time.
    let program = Program::ready(true);
    program.execute("a", None);
    program.close(timeout);
    program.pass(9 * SECOND);
    assert!(!program.connection.is_released());
    program.answer("a", "1");
    assert_eq!((program.count("a 1"), program.count("closed")), (1, 1));
    // A command that is never answered, and was cancelled.
    let program = Program::ready(true);
    let call = program.execute("a", None);
    program.drain();
    assert!(program.connection.cancel(&program, call));
    program.close(timeout);
    program.pass(9_999 * MILLI);
    assert!(!program.connection.is_released(), "QEMU still executes it");
    program.pass(2 * MILLI);
    assert_eq!(program.count("closed"), 1);
    // Half a message.
    let program = Program::ready(true);
    program.peer.send(br#"{"event":"#);
    program.close(timeout);
    program.pass(9_999 * MILLI);
    assert!(!program.connection.is_released());
    program.pass(2 * MILLI);
    assert_eq!(program.count("closed"), 1);
}

#[test]
fn a_close_that_is_cancelled_leaves_the_port_open() {
    let program = Program::ready(false);
    program.execute("a", None);
    let close = program.close(Duration::from_secs(1));
    program.drain();
    assert!(program.connection.cancel_wait(&program, close, "close"));
    program.pass(2 * SECOND);
    program.answer("a", "1");
    assert_eq!((program.count("a 1"), program.count("closed")), (1, 0));
    assert_eq!(program.connection.state(), State::Ready);
}

#[test]
fn a_peer_that_is_silent_is_not_responsive() {
    let program = Program::ready(false);
    program.pass(10 * SECOND);
    assert!(program.connection.is_responsive(), "nothing is due");
    program.execute("a", None);
    program.pass(2_999 * MILLI);
    assert!(program.connection.is_responsive());
    program.pass(MILLI);
    assert_eq!(program.count("responsive false"), 1);
    // Any byte counts, even of another message.
    program.peer.send(b"{");
    program.drain();
    assert_eq!(program.count("responsive true"), 1);
    program.pass(3 * SECOND);
    assert_eq!(program.count("responsive false"), 2);
    program.peer.close("gone");
    program.drain();
    assert_eq!(program.count("responsive true"), 2, "nothing is due");
}

#[test]
fn a_peer_that_does_not_greet_is_not_responsive() {
    let program = Program::start(true);
    program.pass(10 * SECOND);
    assert!(program.connection.is_responsive(), "it is not open");
    program.peer.open();
    program.pass(3 * SECOND);
    assert_eq!(program.count("responsive false"), 1);
    program.line(GREETING);
    program.drain();
    assert_eq!(program.count("responsive true"), 1);
}

#[test]
fn a_mute_port_is_not_written_to_and_closes_at_once() {
    let program = Program::ready(true);
    program.line(r#"{"event":"BLOCK_IO_ERROR","data":{"action":"stop"}}"#);
    program.drain();
    assert_eq!(program.count("status io-error"), 1);
    let writes = program.peer.writes();
    program.execute("query-name", None);
    program.pass(60 * SECOND);
    assert_eq!(program.peer.writes(), writes, "nothing is written");
    program.close(Duration::from_secs(10));
    program.drain();
    assert_eq!(program.count("closed"), 1);
    assert!(program.connection.is_released());
}

/// QEMU answers a command that crossed the event when the machine runs again.
#[test]
fn a_mute_port_does_not_wait_for_earlier_commands() {
    let program = Program::ready(true);
    program.execute("query-name", None);
    program.drain();
    program.line(r#"{"event":"GUEST_PANICKED","data":{"action":"pause"}}"#);
    program.drain();
    program.close(Duration::from_secs(10));
    program.drain();
    assert_eq!(program.count("closed"), 1);
    let failed = "query-name failed: the QMP connection is closed: the program closed the port";
    assert_eq!(program.count(failed), 1);
}

/// The answer to `quit` may come after the event.
#[test]
fn a_port_that_shuts_down_waits_for_an_answer_that_is_on_its_way() {
    let program = Program::ready(true);
    program.execute("quit", None);
    program.drain();
    program.event("SHUTDOWN");
    program.drain();
    program.close(Duration::from_secs(10));
    program.pass(99 * MILLI);
    assert!(!program.connection.is_released());
    program.answer("quit", "{}");
    assert_eq!((program.count("quit {}"), program.count("closed")), (1, 1));
}

/// QEMU exits, or was asked not to: then it says nothing more.
#[test]
fn a_port_that_shut_down_waits_no_longer_than_qemu_takes_to_exit() {
    let program = Program::ready(true);
    program.execute("query-name", None);
    program.drain();
    program.event("SHUTDOWN");
    program.drain();
    program.close(Duration::from_secs(10));
    program.pass(99 * MILLI);
    assert_eq!(program.count("closed"), 0);
    program.pass(2 * MILLI);
    assert_eq!(program.count("closed"), 1);
}

#[test]
fn a_close_right_after_the_machine_runs_again_waits_for_delayed_answers() {
    let program = Program::ready(true);
    program.line(r#"{"event":"BLOCK_IO_ERROR","data":{"action":"stop"}}"#);
    program.drain();
    program.execute("query-name", None);
    program.event("RESUME");
    program.drain();
    program.close(Duration::from_secs(10));
    program.pass(251 * MILLI);
    let requests = program.requests();
    let commands: Vec<_> = requests.iter().map(|it| &*it.0).collect();
    assert_eq!(commands, ["query-name", "query-status"]);
    program.reply(requests[0].1, "{}");
    program.reply(requests[1].1, r#"{"running":true,"status":"running"}"#);
    program.drain();
    assert_eq!(
        (program.count("query-name {}"), program.count("closed")),
        (1, 1)
    );
}

#[test]
fn commands_for_a_mute_port_are_sent_when_the_machine_runs() {
    let program = Program::ready(true);
    program.line(r#"{"event":"BLOCK_IO_ERROR","data":{"action":"stop"}}"#);
    program.drain();
    program.execute("query-name", None);
    program.pass(SECOND);
    program.event("RESUME");
    program.pass(249 * MILLI);
    assert!(program.requests().is_empty(), "it may stop again at once");
    program.pass(2 * MILLI);
    let commands: Vec<_> = program.requests().into_iter().map(|it| it.0).collect();
    assert_eq!(commands, ["query-name", "query-status"]);
}
