// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a machine is not running, as printed by programs in C and Python with real QEMU, over
//! a socket and over SPICE.

#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
#[path = "../../tests/common/run_states.rs"]
#[allow(dead_code, unreachable_pub)]
mod run_states;
mod support;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use qemu::{Program, Qemu};
use run_states::RunState;
use serde_json::Value;
use support::{Compiler, here, scratch, typelib, with_library};

/// A way to stop, and the line printed for it.
const CASES: [(RunState, &str); 8] = [
    (
        RunState::IO_ERROR,
        "disk-full|warning|hd0|Disk full: the host has no space left for the drive hd0",
    ),
    (
        RunState::WRITE_ERROR,
        "disk-error|error|hd0|Disk error: the drive hd0 cannot be written: Input/output error",
    ),
    (
        RunState::READ_ERROR,
        "disk-error|error|hd0|Disk error: the drive hd0 cannot be read: Input/output error",
    ),
    (
        RunState::GUEST_PANICKED,
        "guest-panicked|error||The guest has crashed",
    ),
    (
        RunState::WATCHDOG,
        "watchdog|error||The guest does not respond: its watchdog has expired",
    ),
    (
        RunState::SHUTDOWN,
        "guest-shutdown|info||The guest has shut down",
    ),
    (
        RunState::RESTARTED,
        "guest-reset|info||The guest has restarted, and is shut down instead",
    ),
    (
        RunState::RESET_TO_END,
        "host-reset|info||The machine was reset, and is shut down instead",
    ),
];

/// The program's connection to QEMU.
#[derive(Debug, Clone, Copy)]
enum Over {
    Socket,
    /// QEMU reports why the machine stops before it becomes mute.
    Spice,
}

impl Over {
    fn address(self, qemu: &Qemu) -> String {
        match self {
            Self::Socket => format!("unix:{}", qemu.qmp_socket().display()),
            Self::Spice => qemu.spice_uri(),
        }
    }

    /// The name for the drive hd0 of a QEMU that cannot be queried there: its event has the name
    /// of the device since 9.2.
    fn drive(self, program: &Program) -> &'static str {
        match self {
            Self::Spice if program.major() < 10 => "disk0",
            _ => "hd0",
        }
    }
}

/// A program that prints conditions.
struct Printer {
    child: Child,
    lines: Receiver<String>,
}

impl Printer {
    fn start(mut command: Command, address: &str) -> Self {
        command
            .arg(address)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program runs: ./dev setup");
        let output = child.stdout.take().expect("it is piped");
        let (sender, lines) = channel();
        thread::spawn(move || {
            for line in BufReader::new(output).lines() {
                let _ = sender.send(line.expect("text"));
            }
        });
        let printer = Self { child, lines };
        assert_eq!(printer.line(), "none");
        printer
    }

    fn line(&self) -> String {
        let line = self.lines.recv_timeout(Duration::from_secs(20));
        line.expect("the program prints a line")
    }

    fn finish(mut self) {
        drop(self.child.stdin.take());
        let status = self.child.wait().expect("an own child");
        assert!(status.success(), "{status}");
    }
}

fn prints_every_condition(command: impl Fn() -> Command) {
    for program in Program::all() {
        for over in [Over::Socket, Over::Spice] {
            prints_conditions(&program, over, &command);
        }
    }
}

fn prints_conditions(program: &Program, over: Over, command: &impl Fn() -> Command) {
    let start = |qemu: &Qemu| Printer::start(command(), &over.address(qemu));
    let version = program.version();
    for (state, expected) in CASES {
        let mut guest = state.start(program);
        let printer = start(&guest.qemu);
        guest.reach();
        let expected = expected.replace("hd0", over.drive(program));
        assert_eq!(printer.line(), expected, "QEMU {version}, {over:?}");
        guest.resume();
        assert_eq!(printer.line(), "none", "QEMU {version}, {over:?}");
        printer.finish();
        // QEMU is not affected by its disconnecting.
        guest.execute("query-status", Value::Null);
    }

    let mut guest = RunState::RUNNING.start(program);
    let printer = start(&guest.qemu);
    guest.execute("quit", Value::Null);
    let ended = "host-shutdown|info||The machine was shut down on the host";
    assert_eq!(printer.line(), ended, "QEMU {version}, {over:?}");
    printer.finish();

    let mut guest = RunState::RUNNING.start(program);
    let printer = start(&guest.qemu);
    guest.qemu.kill();
    let lost = "connection-lost|error||The connection to QEMU has ended";
    assert_eq!(printer.line(), lost, "QEMU {version}, {over:?}");
    printer.finish();
}

#[test]
fn c() {
    let program = Compiler::c().compile("conditions", "conditions");
    prints_every_condition(|| with_library(&program));
}

#[test]
fn python() {
    let dir = scratch().join("python");
    fs::create_dir_all(&dir).expect("a folder in target/tmp");
    typelib(&dir);
    let script = here().join("../tests/bindings/conditions.py");
    prints_every_condition(|| {
        // Debian's: another one in PATH does not have its GObject.
        let mut python = with_library("/usr/bin/python3");
        python.arg(&script).env("GI_TYPELIB_PATH", &dir);
        python
    });
}
