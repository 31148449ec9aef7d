// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fault matrix on C programs.

#[path = "../../tests/common/mod.rs"]
mod common;
#[path = "../../tests/matrix/mod.rs"]
mod matrix;
mod support;

use std::cell::{Cell, RefCell};
use std::io::{BufRead, BufReader, ErrorKind, Write};
use std::os::unix::net::UnixListener;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

use common::peers::{Peer, StreamPeer};
use matrix::cases::{Case, Use};
use matrix::drive::{Share, play};
use matrix::expected::Outcome;
use matrix::program::{BACKUP, Call, Kind, Program, What};
use spice_qmp::PortState;
use support::{Compiler, valgrind, with_library};

#[test]
fn every_case() {
    let program = Compiler::c().compile("matrix", "matrix");
    play_programs("", Share::All, 24, || with_library(&program));
}

/// The port's main context is not the thread's default when it is used.
#[test]
fn every_case_while_another_context_is_pushed() {
    let program = Compiler::c().compile("matrix", "matrix-other");
    play_programs("while another context is pushed", Share::Most, 24, || {
        let mut command = with_library(&program);
        command.arg("other");
        command
    });
}

/// No invalid access, and no definite or indirect leak.
#[test]
fn every_case_under_valgrind() {
    let program = Compiler::c().compile("matrix", "matrix-valgrind");
    play_programs("under valgrind", Share::Most, 8, || {
        let mut command = valgrind(&program);
        command.stderr(Stdio::inherit());
        command
    });
}

/// As in `capi.rs`, but also looks for leaks of the C program.
#[test]
fn every_case_with_address_sanitizer() {
    let program = Compiler::c()
        .arg("-fsanitize=address")
        .compile("matrix", "matrix-asan");
    play_programs("with ASan and LSan", Share::Most, 8, || {
        let mut command = with_library(&program);
        command.env("ASAN_OPTIONS", "detect_leaks=1");
        command
    });
}

fn play_programs(how: &str, share: Share, programs: usize, command: impl Fn() -> Command + Sync) {
    let count = play(share, programs, || Ports::start(command()));
    let line = format!("fault matrix: {count} cases of C programs {how}");
    common::say(line.trim_end());
}

/// A C program, `tests/c/matrix.c`.
struct Ports {
    child: RefCell<Child>,
    input: RefCell<Option<ChildStdin>>,
    output: RefCell<BufReader<ChildStdout>>,
    listener: UnixListener,
    folder: tempfile::TempDir,
    /// Whether one of its callbacks runs a main loop.
    nested: Cell<bool>,
    /// The slots of calls without a callback.
    forgotten: RefCell<Vec<usize>>,
}

impl Ports {
    fn start(mut command: Command) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let listener = UnixListener::bind(folder.path().join("s")).expect("a socket");
        listener.set_nonblocking(true).expect("a socket");
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| {
                panic!("{command:?} does not run ({error}). Install it: apt-get install valgrind")
            });
        Self {
            input: RefCell::new(child.stdin.take()),
            output: RefCell::new(BufReader::new(child.stdout.take().expect("a pipe"))),
            child: RefCell::new(child),
            listener,
            folder,
            nested: Cell::default(),
            forgotten: RefCell::default(),
        }
    }

    /// Sends a command, and reads its answer.
    fn tell(&self, command: &str) -> String {
        let mut answer = String::new();
        let mut input = self.input.borrow_mut();
        let input = input.as_mut().expect("the program runs");
        writeln!(input, "{command}")
            .and_then(|()| self.output.borrow_mut().read_line(&mut answer))
            .expect("the program runs");
        let answer = answer.trim_end().to_owned();
        assert!(!answer.is_empty(), "the program ended: {command}");
        if answer == "nested" {
            assert!(!self.nested.replace(true), "one callback runs a main loop");
        }
        answer
    }

    /// The state, the number of pending calls, and how calls have ended.
    fn report(&self) -> (i32, u32, Vec<(usize, Outcome)>) {
        let report = self.tell("report");
        let mut words = report.split(' ');
        let mut number = || words.next().expect("a report is a few words");
        let state = number().parse().expect("a state");
        let pending = number().parse().expect("a number");
        let ends = words.map(|end| {
            let parts: Vec<_> = end.split(':').collect();
            let slot = parts[0].parse().expect("a slot");
            let code = parts[2].parse().expect("a code");
            (
                slot,
                match parts[1] {
                    "ok" => Outcome::Success,
                    domain => Outcome::of_error(domain, code),
                },
            )
        });
        (state, pending, ends.collect())
    }
}

impl Drop for Ports {
    fn drop(&mut self) {
        // The last line: the program ends.
        self.input.take();
        let status = self.child.borrow_mut().wait().expect("it was started");
        if !std::thread::panicking() {
            assert!(status.success(), "the C program: {status}");
        }
    }
}

/// The function of the library that makes a call.
fn function(call: Call) -> &'static str {
    match (call.what, call.way) {
        (What::WaitReady, _) => "wait",
        (What::Close, _) => "close",
        (What::Command, Use::Supports) => "supports",
        (What::Command, Use::List) => "list",
        (What::Command, Use::RunJob) => "run-job",
        (What::Command, Use::Insert) => "insert",
        (What::Command, Use::Snapshot) => "snapshot",
        (What::Command, Use::Future) => "variant",
        // The others have no arguments.
        (What::Command, _) if call.long => "execute",
        (What::Command, Use::Cancelled | Use::Deadline) => "execute",
        (What::Command, Use::Callback | Use::NestedLoop) => "status",
        (What::Command, Use::NullCallback) => "menu",
        (What::Command, Use::UnrefInCallback) => "action",
    }
}

impl Program for Ports {
    fn connect(&self, case: Case) -> Rc<dyn Peer> {
        let path = self.folder.path().join("s");
        // An open ends when the port is ready; and the write of a long command
        // must not end by itself, for which the stream is prepared.
        let by_stream = case.is_early() || case.stalls() || case.way == Use::Insert;
        let how = if by_stream { "connect" } else { "open" };
        self.tell(&format!("{how} {}", path.display()));
        if case.way == Use::Insert {
            self.tell("drives");
        }
        loop {
            match self.listener.accept() {
                Ok((stream, _)) => return Rc::new(StreamPeer::new(stream)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => self.idle(),
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn forget(&self) {
        self.tell("forget");
        self.forgotten.borrow_mut().clear();
    }

    fn kind(&self) -> Kind {
        Kind::C
    }

    fn settle(&self) {
        self.tell("settle");
    }

    fn idle(&self) {
        self.tell("idle");
    }

    fn call(&self, call: Call, _rest: Rc<dyn Fn()>) {
        let how = match call.way {
            Use::NullCallback => "null",
            Use::UnrefInCallback => "unref",
            Use::NestedLoop => "nested",
            _ => "callback",
        };
        if call.way == Use::NullCallback {
            self.forgotten.borrow_mut().push(call.slot);
        }
        let (slot, what, long) = (call.slot, function(call), u8::from(call.long));
        let timeout = call.deadline.map_or(0, |deadline| deadline.as_millis());
        self.tell(&format!("call {slot} {what} {how} {long} {timeout}"));
    }

    fn command(&self, call: Call) -> &'static str {
        match function(call) {
            "action" | "menu" => "stop",
            "supports" => "query-qmp-schema",
            "list" => "query-block",
            "run-job" => BACKUP,
            "insert" => "blockdev-change-medium",
            // The first one, where the server does not read.
            "snapshot" if call.long => "query-block",
            "snapshot" => "snapshot-load",
            _ => "query-status",
        }
    }

    fn cancel(&self, slot: usize) {
        self.tell(&format!("cancel {slot}"));
    }

    fn drop_port(&self) {
        self.tell("drop");
    }

    fn leave_nested(&self) {
        if self.nested.replace(false) {
            self.tell("unnest");
        }
    }

    fn state(&self) -> Option<PortState> {
        match self.report().0 {
            0 => Some(PortState::Closed),
            1 => Some(PortState::Connecting),
            2 => Some(PortState::Greeting),
            3 => Some(PortState::Negotiating),
            4 => Some(PortState::Ready),
            5 => Some(PortState::Failed),
            -1 => None,
            // It was dropped, and is still in use by pending calls.
            -2 => Some(PortState::Closed),
            other => panic!("no such state: {other}"),
        }
    }

    fn pending(&self) -> u32 {
        self.report().1
    }

    fn ends(&self, slot: usize) -> Vec<Outcome> {
        let (_, pending, ends) = self.report();
        if self.forgotten.borrow().contains(&slot) {
            return if pending == 0 {
                vec![Outcome::Unseen]
            } else {
                Vec::new()
            };
        }
        let of_slot = ends.into_iter().filter(|(of, _)| *of == slot);
        of_slot.map(|(_, outcome)| outcome).collect()
    }
}
