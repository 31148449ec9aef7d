// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plays a script: the server's part itself, the program's through [`Program`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use serde_json::{Value, json};

use super::cases::{Case, Use};
use super::expected::{Expected, expected};
use super::program::{Call, DRIVE, Program, SNAPSHOT, SUPPORTED, What};
use super::script::Step;
use crate::common::peers::Peer;

const GREETING: &str = concat!(
    r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Test 1"}, "#,
    r#""capabilities": []}}"#
);
/// All answers start like this.
const HALF: &str = r#"{"return": "#;

/// The right answer to this command, or one that must never be delivered. `job` is the last
/// job begun.
fn answer(id: u64, command: Option<&str>, job: &str) -> String {
    let status =
        |name| json!({ "running": name == "running", "singlestep": false, "status": name });
    let value = match command {
        Some("query-qmp-schema") => json!([{ "name": SUPPORTED, "meta-type": "command" }]),
        Some("query-block") => json!([
            { "device": DRIVE, "qdev": DRIVE, "removable": true, "locked": false },
            { "device": "", "qdev": "hd0", "removable": false, "locked": false,
              "inserted": { "file": "d", "ro": false, "drv": "qcow2", "node-name": "n0",
                            "image": { "snapshots": [snapshot()] } } },
        ]),
        Some("query-jobs") => json!([
            { "id": job, "type": "backup", "status": "concluded", "current-progress": 1,
              "total-progress": 1 },
        ]),
        Some(_) => status("running"),
        None => status("debug"),
    };
    format!("{HALF}{value}, \"id\": {id}}}\r\n")
}

/// The one that is loaded.
fn snapshot() -> Value {
    json!({ "id": "1", "name": SNAPSHOT, "vm-state-size": 1, "date-sec": 1, "date-nsec": 0,
            "vm-clock-sec": 1, "vm-clock-nsec": 0 })
}

/// The slots of the calls.
pub const COMMAND: usize = 0;
pub const WAIT: usize = 1;
pub const CLOSE: usize = 2;
pub const FURTHER: usize = 3;

/// One connection, and its messages.
pub struct Player {
    pub program: Rc<dyn Program>,
    case: Case,
    /// The expected result.
    pub expected: Expected,
    pub peer: Rc<dyn Peer>,
    /// The remaining steps. A nested main loop continues with them.
    steps: RefCell<VecDeque<Step>>,
    server: RefCell<Server>,
    /// Errors: no panic may cross GLib's frames.
    pub failure: RefCell<Option<String>>,
    /// When the program started to close the port.
    pub shut_at: Cell<Option<i64>>,
}

#[derive(Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is a step of the scripts"
)]
struct Server {
    closed: bool,
    greeted: bool,
    muted: bool,
    stalled: bool,
    failing: bool,
    split: Option<usize>,
    /// Requests, of which the last may be incomplete.
    received: Vec<u8>,
    /// In order.
    unanswered: VecDeque<Request>,
    /// The id of the request that was awaited or answered last.
    current: Option<u64>,
    /// Whether half of its answer has been sent.
    half: bool,
    last_id: u64,
    job: String,
}

#[derive(Debug)]
struct Request {
    command: String,
    id: u64,
}

impl Server {
    /// The first request, where this command is not among them.
    fn next_but(&self, command: &str) -> Option<u64> {
        let has_come = self.unanswered.iter().any(|it| it.command == command);
        let first = self.unanswered.front();
        first.filter(|_| !self.stalled && !has_come).map(|it| it.id)
    }

    /// Consumes bytes, and stores the complete requests.
    fn take(&mut self, bytes: &[u8]) {
        self.received.extend(bytes);
        // Not by lines: requests do not end in a line feed on a SPICE port.
        let mut values = serde_json::Deserializer::from_slice(&self.received).into_iter();
        let mut whole = 0;
        while let Some(Ok(value)) = values.next() {
            let value: Value = value;
            whole = values.byte_offset();
            let id = value["id"].as_u64().expect("a request has an id");
            if let Some(job) = value["arguments"]["job-id"].as_str() {
                job.clone_into(&mut self.job);
            }
            // The guess made before it could be read is confirmed.
            if id > self.last_id {
                self.last_id = id;
                let command = value["execute"].as_str().expect("a request").to_owned();
                self.unanswered.push_back(Request { command, id });
            }
        }
        self.received.drain(..whole);
    }
}

impl Player {
    /// Creates a connection to play on.
    pub fn connect(program: Rc<dyn Program>, case: Case) -> Rc<Self> {
        let peer = program.connect(case);
        let expected = expected(case, program.kind(), &*peer);
        Rc::new(Self {
            program,
            case,
            expected,
            peer,
            steps: RefCell::default(),
            server: RefCell::default(),
            failure: RefCell::default(),
            shut_at: Cell::default(),
        })
    }

    /// Plays these steps. Those that a nested main loop plays are done when it returns.
    pub fn play(self: &Rc<Self>, steps: Vec<Step>) {
        self.steps.borrow_mut().extend(steps);
        self.go_on();
    }

    fn go_on(self: &Rc<Self>) {
        loop {
            let step = self.steps.borrow_mut().pop_front();
            match step {
                Some(step) if self.failure.borrow().is_none() => self.step(step),
                _ => break,
            }
        }
    }

    fn step(self: &Rc<Self>, step: Step) {
        match step {
            Step::Open => self.open(),
            Step::Close => self.close(),
            Step::Send(bytes) => self.send(&bytes),
            Step::Greet => self.greet(),
            Step::Await(command) => self.wait_for(&command),
            Step::Half => {
                self.server.borrow_mut().half = true;
                self.send(HALF.as_bytes());
            }
            Step::Reply(id) => self.reply(id),
            Step::Serve => self.serve(),
            Step::Split(size) => self.server.borrow_mut().split = Some(size),
            Step::Mute => self.server.borrow_mut().muted = true,
            Step::Stall => self.stall(true),
            Step::Read => self.stall(false),
            Step::Fail => self.fail(),
            Step::Call => self.call(),
            Step::Shut => self.shut(),
            Step::Fault | Step::Early => unreachable!("they stand for other steps"),
        }
    }

    fn settle(&self) {
        self.program.settle();
        if self.server.borrow().failing {
            self.peer.fail_write();
            self.program.settle();
        }
    }

    fn open(&self) {
        let fresh = !self.server.borrow().closed;
        if fresh || self.peer.reopens() {
            self.server.replace(Server::default());
            self.peer.open();
            self.settle();
        }
    }

    fn close(&self) {
        self.server.borrow_mut().closed = true;
        self.peer.close();
        self.settle();
    }

    fn send(&self, bytes: &[u8]) {
        let (quiet, split) = {
            let server = self.server.borrow();
            (server.muted || server.closed, server.split)
        };
        if quiet {
            return;
        }
        for chunk in bytes.chunks(split.unwrap_or(usize::MAX)) {
            self.peer.send(chunk);
            self.settle();
        }
    }

    fn greet(&self) {
        self.server.borrow_mut().greeted = true;
        self.send(format!("{GREETING}\r\n").as_bytes());
    }

    fn stall(&self, stalled: bool) {
        self.server.borrow_mut().stalled = self.peer.block(stalled) && stalled;
        self.settle();
    }

    /// If a write cannot fail, the connection breaks instead.
    fn fail(&self) {
        if self.case.may_fail_writes(&*self.peer) {
            let mut server = self.server.borrow_mut();
            server.failing = true;
            // It has not stopped to answer what it has.
            server.stalled = false;
            drop(server);
            self.settle();
        } else {
            self.close();
        }
    }

    /// Reads what has arrived, and what arrives because of that.
    fn read(&self) {
        self.settle();
        while !self.server.borrow().stalled {
            let bytes = self.peer.received();
            if bytes.is_empty() {
                break;
            }
            self.server.borrow_mut().take(&bytes);
            self.settle();
        }
    }

    /// Waits for a command, and answers those before it. One that cannot be read has the id
    /// after the last.
    fn wait_for(&self, command: &str) {
        let command = match command {
            "it" => self.program.command(self.the_call(What::Command)),
            command => command,
        };
        self.read();
        let next = || self.server.borrow().next_but(command);
        while let Some(other) = next() {
            self.reply(Some(other));
            self.read();
        }
        let mut server = self.server.borrow_mut();
        let server = &mut *server;
        if server.stalled {
            server.last_id += 1;
            server.unanswered.push_back(Request {
                command: command.into(),
                id: server.last_id,
            });
        }
        let found = server.unanswered.iter().find(|it| it.command == command);
        if let Some(found) = found {
            server.current = Some(found.id);
        } else if self.program.ends(COMMAND).is_empty() {
            // A deadline may end a call before it is sent.
            self.note(format!("{command} did not come: {:?}", server.unanswered));
        }
    }

    fn reply(&self, id: Option<u64>) {
        let mut server = self.server.borrow_mut();
        let sent = if std::mem::take(&mut server.half) {
            HALF.len()
        } else {
            0
        };
        // If there is none, it is one that was never issued.
        let id = id.unwrap_or(server.current.unwrap_or(0));
        let due = server.unanswered.iter().position(|it| it.id == id);
        let due = due.and_then(|at| server.unanswered.remove(at));
        let answer = answer(id, due.as_ref().map(|it| &*it.command), &server.job);
        drop(server);
        self.send(&answer.as_bytes()[sent..]);
    }

    fn serve(&self) {
        loop {
            self.read();
            let next = {
                let mut server = self.server.borrow_mut();
                if server.muted || server.closed {
                    return;
                }
                if server.greeted && server.stalled {
                    return;
                }
                if !server.half && server.greeted {
                    let Some(next) = server.unanswered.front() else {
                        return;
                    };
                    server.current = Some(next.id);
                }
                server.greeted
            };
            if next {
                self.reply(None);
            } else {
                self.greet();
            }
        }
    }

    /// The call of the case.
    fn the_call(&self, what: What) -> Call {
        // Before the port is ready it is the wait; the command is refused.
        let early = self.case.is_early() && what == What::Command;
        let plain = early && !self.case.way.is_of_machine();
        Call {
            slot: if what == What::Command { COMMAND } else { WAIT },
            what,
            way: if plain { Use::Callback } else { self.case.way },
            long: self.case.stalls(),
            deadline: self.expected.deadline,
        }
    }

    fn call(self: &Rc<Self>) {
        let early = self.case.is_early();
        let player = self.clone();
        let rest: Rc<dyn Fn()> = Rc::new(move || player.go_on());
        self.program
            .call(self.the_call(What::Command), rest.clone());
        self.settle();
        if early {
            self.program.call(self.the_call(What::WaitReady), rest);
            self.settle();
        }
        if self.case.way == Use::Cancelled {
            self.program.cancel(if early { WAIT } else { COMMAND });
            self.settle();
        }
    }

    /// The program starts to close the port.
    pub fn shut(&self) {
        self.shut_at.set(Some(glib::monotonic_time()));
        self.plain(What::Close, CLOSE);
    }

    /// The program makes a call that is not affected.
    pub fn plain(&self, what: What, slot: usize) {
        let call = Call {
            slot,
            what,
            way: Use::Callback,
            long: false,
            deadline: None,
        };
        self.program.call(call, Rc::new(|| ()));
        self.settle();
    }

    /// Reopens the connection, as a good server.
    pub fn reopen(self: &Rc<Self>) {
        self.close();
        self.peer.block(false);
        self.play(vec![Step::Open, Step::Serve]);
    }

    fn note(&self, failure: String) {
        self.failure.borrow_mut().get_or_insert(failure);
    }
}
