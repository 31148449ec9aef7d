// SPDX-License-Identifier: MIT OR Apache-2.0
//! The demo, when QEMU is killed or stopped at any line of its output.
#![cfg(feature = "spice")]

mod common;

use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;

use common::main_loop::PATIENCE;
use common::qemu::{Config, Program, Qemu};
use rustix::process::{Pid, Signal, kill_process};

/// How the demo ended.
struct Ended {
    exit: ExitStatus,
    lines: usize,
    stderr: String,
}

/// What happens to QEMU.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Killed,
    Stopped,
}

fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| common::example::build("demo"))
}

/// Runs the demo. After its `line`th line, `act` is done to QEMU.
fn run(qemu: &mut Qemu, line: usize, act: impl Fn(&mut Qemu)) -> Ended {
    let mut demo = Command::new(program())
        .arg(qemu.spice_uri())
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the demo runs");
    let (sender, printed) = channel();
    let stdout = BufReader::new(demo.stdout.take().expect("a pipe"));
    let reader = thread::spawn(move || {
        for line in stdout.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    let mut lines = 0;
    loop {
        match printed.recv_timeout(PATIENCE) {
            Ok(_) => lines += 1,
            Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => hung(&mut demo, lines),
        }
        if lines == line {
            act(qemu);
        }
    }
    reader.join().expect("no panic");
    let mut stderr = String::new();
    let mut pipe = demo.stderr.take().expect("a pipe");
    pipe.read_to_string(&mut stderr).expect("text");
    // It has closed its output, and so it ends.
    let exit = demo.wait().expect("an own child");
    Ended {
        exit,
        lines,
        stderr,
    }
}

fn hung(demo: &mut Child, lines: usize) -> ! {
    let _ = demo.kill();
    panic!("the demo prints nothing after line {lines}, and does not end");
}

#[test]
fn it_ends_whatever_happens_to_qemu() {
    for version in Program::all() {
        let mut qemu = Config::new().start(&version);
        let whole = run(&mut qemu, 0, |_| {});
        assert!(whole.exit.success(), "{}", whole.stderr);
        assert!(whole.lines > 10, "it reports what it does");

        for fate in [Fate::Killed, Fate::Stopped] {
            // A stop costs the demo a timeout: they wait for it together.
            thread::scope(|scope| {
                for line in 1..=whole.lines {
                    let version = &version;
                    scope.spawn(move || check(version, fate, line, whole.lines));
                }
            });
        }
    }
}

/// It ends in order: with all lines, if it was fast enough, or else with
/// a reason.
fn check(version: &Program, fate: Fate, line: usize, all: usize) {
    let mut qemu = Config::new().start(version);
    let ended = run(&mut qemu, line, |qemu| match fate {
        Fate::Killed => {
            qemu.kill();
        }
        // It may just be ending by itself, and then cannot be stopped any more.
        Fate::Stopped => {
            let pid = qemu.pid().try_into().ok().and_then(Pid::from_raw);
            kill_process(pid.expect("a process"), Signal::STOP).expect("an own child");
        }
    });
    let context = format!(
        "QEMU {} {fate:?} after line {line}: the demo printed {}: {}",
        version.version(),
        ended.lines,
        ended.stderr
    );
    println!("{context}");
    match ended.exit.code() {
        Some(0) => assert_eq!(ended.lines, all, "{context}"),
        Some(1) => assert!(ended.stderr.contains("demo: "), "{context}"),
        other => panic!("{other:?}: {context}"),
    }
}
