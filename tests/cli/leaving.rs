// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool leaves QEMU alive, whenever and however it is ended.
//!
//! QEMU freezes for ever if its SPICE client disconnects while an answer is due.

use std::fs::{File, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::common::qemu::{Config, Program, Qemu};
use crate::common::random::Random;
use crate::tool::{LIMIT, Tool, assert_has, command, run, wait};
use crate::unix;

const SIGNALS: [(Signal, i32); 3] = [(Signal::INT, 130), (Signal::TERM, 143), (Signal::HUP, 129)];

/// A command that QEMU executes until its output is read.
struct SlowCommand {
    fifo: File,
    path: String,
}

impl SlowCommand {
    fn new(qemu: &Qemu) -> Self {
        let path = qemu.dir().join("fifo");
        let path = path.display().to_string();
        let _ = std::fs::remove_file(&path);
        let made = Command::new("mkfifo").arg(&path).status().expect("mkfifo");
        assert!(made.success());
        let fifo = OpenOptions::new()
            .read(true)
            .custom_flags(rustix::fs::OFlags::NONBLOCK.bits().cast_signed())
            .open(Path::new(&path))
            .expect("a fifo");
        Self { fifo, path }
    }

    fn start(&mut self, address: &str, options: &[&str]) -> Tool {
        let file = format!("filename={}", self.path);
        let exec = ["exec", "pmemsave", "val=0", "size=1048576", &file];
        let tool = Tool::start(address, &[options, &exec[..]].concat());
        self.read(1);
        tool
    }

    /// Reads this many bytes, or all.
    fn read(&mut self, mut left: usize) {
        let deadline = Instant::now() + LIMIT;
        let mut buffer = vec![0; 1 << 16];
        let mut any = false;
        while left > 0 {
            assert!(Instant::now() < deadline, "QEMU does not write");
            let size = left.min(buffer.len());
            match self.fifo.read(&mut buffer[..size]) {
                // There is no writer yet, or no more.
                Ok(0) if any => return,
                Ok(0) => thread::sleep(Duration::from_millis(2)),
                Ok(read) => {
                    any = true;
                    left -= read;
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    thread::sleep(Duration::from_millis(2));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    fn finish(&mut self) {
        self.read(usize::MAX);
    }
}

#[track_caller]
fn assert_lives(qemu: &Qemu) {
    let status = qemu.monitor().execute("query-status", None);
    assert!(status.is_ok(), "{status:?}");
}

#[test]
fn after_a_timeout_it_waits_for_the_answer() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let mut slow = SlowCommand::new(&qemu);
        let mut tool = slow.start(&qemu.spice_uri(), &["--timeout", "3"]);
        tool.wait_error_line("error: pmemsave: no answer within 3000 ms");
        tool.wait_error_line(
            "note: QEMU is still executing pmemsave; leaving now would freeze the machine. \
             Press Ctrl+C to leave anyway",
        );
        assert!(tool.is_running());
        slow.finish();
        let ended = tool.end();
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""));
        assert_has(&ended.stderr, "note: pmemsave has ended with success");
        assert_lives(&qemu);
    }
}

#[test]
fn after_a_signal_it_waits_for_the_answer() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for (signal, code) in SIGNALS {
            let mut slow = SlowCommand::new(&qemu);
            let mut tool = slow.start(&qemu.spice_uri(), &[]);
            tool.signal(signal);
            tool.wait_error_line("still executing pmemsave");
            assert!(tool.is_running());
            slow.finish();
            let ended = tool.end();
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""));
            assert_has(&ended.stderr, "Press Ctrl+C again to leave anyway");
            assert_lives(&qemu);
        }
    }
}

#[test]
fn a_second_signal_ends_it_at_once() {
    for program in Program::all() {
        for (signal, code) in SIGNALS {
            let qemu = Config::new().start(&program);
            let mut slow = SlowCommand::new(&qemu);
            let mut tool = slow.start(&qemu.spice_uri(), &["--json"]);
            tool.signal(signal);
            tool.wait_error_line(r#"{"note":{"message":"QEMU is still executing pmemsave;"#);
            tool.signal(signal);
            assert_eq!(tool.end().code, Some(code));
        }
    }
}

#[test]
fn it_does_not_wait_for_a_qemu_that_has_exited() {
    for program in Program::all() {
        let mut qemu = Config::new().start(&program);
        let mut slow = SlowCommand::new(&qemu);
        let mut tool = slow.start(&qemu.spice_uri(), &[]);
        tool.signal(Signal::INT);
        tool.wait_error_line("still executing pmemsave");
        qemu.kill();
        let ended = tool.end();
        assert_eq!(ended.code, Some(130));
        assert_has(&ended.stderr, "the QMP connection is closed");
    }
}

/// QEMU tolerates clients that disconnect from a socket.
#[test]
fn it_does_not_stay_on_a_socket() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for (signal, code) in SIGNALS {
            let mut slow = SlowCommand::new(&qemu);
            let tool = slow.start(&unix(&qemu), &[]);
            tool.signal(signal);
            let ended = tool.end();
            assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""));
            slow.finish();
            assert_lives(&qemu);
        }
        let mut slow = SlowCommand::new(&qemu);
        let ended = slow.start(&unix(&qemu), &["--timeout", "3"]).end();
        assert_has(&ended.failed(4), "pmemsave: no answer within 3000 ms");
        slow.finish();
        assert_lives(&qemu);
    }
}

/// From the first connection to the last byte of a long reply.
#[test]
fn signals_at_random_moments() {
    let random = Random::new(7);
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for round in 0..40 {
            let (signal, code) = SIGNALS[round % 3];
            let tool = Tool::start(&qemu.spice_uri(), &["exec", "query-qmp-schema"]);
            thread::sleep(Duration::from_micros(random.below(60_000) as u64));
            tool.signal(signal);
            let ended = tool.end();
            // Before there is a connection the signal kills; at the end it is too late.
            let fits = [Some(code), None, Some(0)].contains(&ended.code);
            assert!(
                fits && !ended.stderr.contains("error"),
                "{:?} {}",
                ended.code,
                ended.stderr
            );
            assert_lives(&qemu);
        }
    }
}

#[test]
fn timeouts_at_random_moments() {
    let random = Random::new(11);
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for _ in 0..40 {
            let timeout = format!("0.{:03}", 1 + random.below(50));
            let args = ["--timeout", &timeout, "exec", "query-qmp-schema"];
            let ended = run(&qemu.spice_uri(), &args);
            assert!([Some(0), Some(4)].contains(&ended.code), "{ended:?}");
            assert_lives(&qemu);
        }
    }
}

#[test]
fn signals_end_commands_that_would_run_for_ever() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for address in [qemu.spice_uri(), unix(&qemu)] {
            for (signal, code) in SIGNALS {
                let tool = Tool::start(&address, &["watch"]);
                assert_has(&tool.line(), "prelaunch");
                tool.signal(signal);
                let ended = tool.end();
                assert_eq!(ended.code, Some(code));
                assert!(!ended.stderr.contains("error"), "{}", ended.stderr);
                assert_lives(&qemu);
            }
        }
    }
}

/// Its output is not read, as behind a pager.
#[test]
fn signals_end_it_while_its_output_is_blocked() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for address in [qemu.spice_uri(), unix(&qemu)] {
            let mut command = command(&address, &["exec", "query-qmp-schema"]);
            let mut child = command.stdout(Stdio::piped()).spawn().expect("the tool");
            let mut first = [0];
            let stdout = child.stdout.as_mut().expect("a pipe");
            stdout.read_exact(&mut first).expect("the first byte");
            thread::sleep(Duration::from_millis(100));
            assert!(child.try_wait().expect("an own child").is_none());
            let pid = rustix::process::Pid::from_child(&child);
            rustix::process::kill_process(pid, Signal::TERM).expect("an own child");
            assert_eq!(wait(&mut child), Some(143));
            assert_lives(&qemu);
        }
    }
}

#[test]
fn a_signal_that_was_ignored_stays_ignored() {
    let qemu = Config::new().start(&Program::system());
    let mut shell = Command::new("sh");
    shell
        .args(["-c", "trap '' HUP; exec \"$0\" watch"])
        .arg(env!("CARGO_BIN_EXE_spice-qmp"))
        .env("SPICE_QMP_ADDRESS", qemu.spice_uri())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let tool = Tool::spawn(&mut shell);
    assert_has(&tool.line(), "prelaunch");
    tool.signal(Signal::HUP);
    qemu.monitor().execute("cont", None).expect("cont");
    assert_has(&tool.line(), "running");
    tool.signal(Signal::TERM);
    assert_eq!(tool.end().code, Some(143));
}
