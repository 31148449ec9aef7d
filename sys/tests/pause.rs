// SPDX-License-Identifier: MIT OR Apache-2.0
//! `examples/pause.c` and `pause.py`: the same code for every transport, on real QEMU. And
//! a dialog for a password in Python; the one in C is in `tests/c/qemu.c`.

#[path = "../../tests/common/dbus.rs"]
#[allow(dead_code, unreachable_pub)]
mod dbus;
#[path = "../../tests/common/main_loop.rs"]
#[allow(dead_code, unreachable_pub)]
mod main_loop;
#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use dbus::{Bus, with_monitor};
use qemu::{Config, Program};
use support::{Compiler, here, run, scratch, typelib, with_library};

/// The maximum number of lines for the task.
const LINES: usize = 60;

fn example(name: &str) -> PathBuf {
    let path = here().join("../examples").join(name);
    let text = fs::read_to_string(&path).expect("an example");
    let lines = text.lines().filter(|line| !line.contains("SPDX")).count();
    assert!(lines <= LINES, "{name} has more lines");
    path
}

/// Python with the library.
fn python(script: &PathBuf) -> Command {
    static TYPELIB: OnceLock<PathBuf> = OnceLock::new();
    let dir = TYPELIB.get_or_init(|| {
        let dir = scratch().join("python");
        fs::create_dir_all(&dir).expect("a folder in target/tmp");
        typelib(&dir);
        dir
    });
    // Debian's: another one in PATH does not have its GObject.
    let mut python = with_library("/usr/bin/python3");
    python.arg(script).env("GI_TYPELIB_PATH", dir);
    python
}

fn pauses_and_resumes(command: impl Fn() -> Command) {
    for program in Program::all() {
        let bus = Bus::start();
        let config = with_monitor(bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
        let qemu = bus.start_qemu(config.running(), &program);
        let mut outside = qemu.monitor();
        for address in [
            qemu.spice_uri(),
            format!("unix:{}", qemu.qmp_socket().display()),
            format!("dbus:address={}", bus.address()),
        ] {
            let output = run(command().arg(&address), "");
            assert_eq!(output, "paused\nrunning\n", "{address}");
            for event in ["STOP", "RESUME"] {
                let seen = outside.wait_event(event, Duration::from_secs(20));
                assert!(seen.is_some(), "{address}: no {event}");
            }
            let status = outside.execute("query-status", None);
            assert_eq!(status.expect("QEMU answers")["status"], "running");
        }
        for (address, text) in [
            ("unix:/nowhere", "pause: cannot connect: "),
            ("nowhere", "pause: invalid argument: \"nowhere\": "),
        ] {
            let failed = command().arg(address).stdin(Stdio::null()).output();
            let failed = failed.expect("the program runs");
            assert_eq!(failed.status.code(), Some(1));
            let stderr = String::from_utf8_lossy(&failed.stderr);
            assert!(stderr.contains(text), "{stderr}");
        }
    }
}

#[test]
fn in_c() {
    let source = example("pause.c");
    let program = Compiler::c().compile_file(&source, "pause");
    pauses_and_resumes(|| with_library(&program));
}

#[test]
fn in_python() {
    let script = example("pause.py");
    pauses_and_resumes(|| python(&script));
}

#[test]
fn a_dialog_in_python() {
    let script = here().join("../tests/bindings/need_password.py");
    for program in Program::all() {
        let qemu = Config::new().spice_tcp_password("geheim").start(&program);
        let mut command = python(&script);
        let output = run(command.args([qemu.spice_uri(), "geheim".into()]), "");
        assert_eq!(output, "all answered\n");
    }
}
