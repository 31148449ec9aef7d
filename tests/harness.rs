// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests the harness itself: `common::qemu` boots, freezes and ends each QEMU.
#![cfg(feature = "gobject")]

mod common;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use common::qemu::{Config, Mode, Monitor, Program, Qemu};
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(300);

#[test]
fn boots_each_program() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let mut monitor = qemu.monitor();

        let version = monitor.execute("query-version", None).unwrap();
        assert_eq!(version["qemu"]["major"], program.major());
        assert_eq!(chardevs(&mut monitor), ["outside", "port0", "qmp"]);
        assert_eq!(status(&mut monitor), "prelaunch");
        let error = monitor.execute("no-such-command", None).unwrap_err();
        assert_eq!(error["class"], "CommandNotFound");
        connect_unix(&qemu);
    }
}

#[test]
fn keeps_what_the_config_says() {
    for program in Program::all() {
        let qemu = Config::new()
            .port("org.qemu.monitor.qmp.7", Mode::ControlPretty)
            .port("org.qemu.monitor.hmp.0", Mode::Readline)
            .pretty_socket()
            .arg("-name")
            .arg("harness")
            .running()
            .start(&program);
        let mut monitor = qemu.monitor();

        let expected = ["outside", "port0", "port1", "pretty", "qmp"];
        assert_eq!(chardevs(&mut monitor), expected);
        assert_eq!(status(&mut monitor), "running");
        let name = monitor.execute("query-name", None).unwrap();
        assert_eq!(name["name"], "harness");
        assert!(greeting(&qemu.qmp_socket()).starts_with(r#"{"QMP": {"#));
        assert!(greeting(&qemu.pretty_socket()).starts_with("{\r\n"));

        let bare = Config::new().no_ports().start(&program);
        assert_eq!(chardevs(&mut bare.monitor()), ["outside", "qmp"]);
    }
}

#[test]
fn serves_spice_over_tcp_behind_a_ticket() {
    for program in Program::all() {
        let qemu = Config::new().spice_tcp_password("secret").start(&program);
        let uri = qemu.spice_uri();
        TcpStream::connect(uri.strip_prefix("spice://").unwrap()).unwrap();

        let spice = qemu.monitor().execute("query-spice", None).unwrap();
        assert_eq!(spice["auth"], "spice");
    }
}

#[test]
fn comes_back_at_the_same_address() {
    for program in Program::all() {
        let mut first = Config::new().start(&program);
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let socket = folder.path().join("again.sock");
        for _ in 0..2 {
            let mut qemu = Config::new().spice_unix(&socket).start(&program);
            assert_eq!(
                qemu.spice_uri(),
                format!("spice+unix://{}", socket.display())
            );
            connect_unix(&qemu);
            qemu.kill();
        }
        assert!(first.wait_exit(Duration::ZERO).is_none(), "others live on");
    }
}

#[test]
fn stop_freezes_and_cont_thaws() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let mut monitor = qemu.monitor();
        let mut own = UnixStream::connect(qemu.qmp_socket()).unwrap();
        assert!(read_some(&mut own).is_some(), "the greeting");

        qemu.stop();
        own.write_all(b"{\"execute\":\"qmp_capabilities\"}\n")
            .unwrap();
        own.set_read_timeout(Some(MOMENT)).unwrap();
        assert_eq!(read_some(&mut own), None, "a frozen QEMU answers nothing");

        qemu.cont();
        own.set_read_timeout(Some(SOON)).unwrap();
        assert_eq!(read_some(&mut own).as_deref(), Some("{\"return\": {}}\r\n"));
        assert_eq!(status(&mut monitor), "prelaunch");
    }
}

#[test]
fn kill_and_drop_leave_nothing_behind() {
    for program in Program::all() {
        let mut qemu = Config::new().start(&program);
        let mut monitor = qemu.monitor();
        let (pid, dir) = (qemu.pid(), qemu.dir().to_owned());
        assert!(!qemu.kill().success());
        assert!(!runs(pid));
        let error = monitor.execute("query-status", None).unwrap_err();
        assert_eq!(error["class"], "Closed");
        drop(qemu);
        assert!(!dir.exists());

        let frozen = Config::new().start(&program);
        let (pid, dir) = (frozen.pid(), frozen.dir().to_owned());
        frozen.stop();
        drop(frozen);
        assert!(!runs(pid) && !dir.exists());
    }
}

#[test]
fn sees_the_orderly_end() {
    for program in Program::all() {
        let mut qemu = Config::new().running().start(&program);
        let mut monitor = qemu.monitor();
        monitor.execute("stop", None).unwrap();
        assert!(monitor.wait_event("STOP", SOON).is_some());
        assert!(monitor.wait_event("RESUME", MOMENT).is_none());

        assert!(monitor.execute("quit", None).is_ok());
        let exit = qemu.wait_exit(SOON).expect("quit ends QEMU");
        assert!(exit.success(), "{exit}: {}", qemu.stderr());
        let shutdown = monitor.wait_event("SHUTDOWN", SOON).unwrap();
        assert_eq!(shutdown["data"]["reason"], "host-qmp-quit");
        assert_eq!(monitor.events().len(), 2);
    }
}

#[test]
fn monitors_take_turns() {
    let qemu = Config::new().start(&Program::system());
    for _ in 0..20 {
        let mut monitor = qemu.monitor();
        let arguments = json!({ "path": "/machine", "property": "type" });
        let machine = monitor.execute("qom-get", Some(arguments)).unwrap();
        assert!(machine.as_str().unwrap().starts_with("pc-"), "{machine}");
    }
}

#[test]
fn an_early_end_shows_what_qemu_said() {
    let started = Instant::now();
    let config = Config::new().arg("-no-such-option");
    let panic = std::panic::catch_unwind(|| config.start(&Program::system())).unwrap_err();
    let text = panic.downcast_ref::<String>().unwrap();
    assert!(text.contains("no-such-option: invalid option"), "{text}");
    assert!(started.elapsed() < SOON);
}

fn status(monitor: &mut Monitor) -> Value {
    monitor.execute("query-status", None).unwrap()["status"].take()
}

/// The names of the character devices, except those that QEMU creates by itself.
fn chardevs(monitor: &mut Monitor) -> Vec<String> {
    let list = monitor.execute("query-chardev", None).unwrap();
    let labels = list.as_array().unwrap().iter().map(|c| &c["label"]);
    let mut labels: Vec<String> = labels.map(|l| l.as_str().unwrap().to_owned()).collect();
    labels.sort();
    labels
}

fn greeting(socket: &Path) -> String {
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    read_some(&mut stream).unwrap()
}

/// `None` when nothing came in time.
fn read_some(stream: &mut impl Read) -> Option<String> {
    let mut buffer = [0; 4096];
    let length = stream.read(&mut buffer).ok()?;
    Some(String::from_utf8(buffer[..length].to_vec()).unwrap())
}

fn connect_unix(qemu: &Qemu) {
    let uri = qemu.spice_uri();
    UnixStream::connect(uri.strip_prefix("spice+unix://").unwrap()).unwrap();
}

/// Whether a process with this id exists.
fn runs(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}
