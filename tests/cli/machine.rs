// SPDX-License-Identifier: MIT OR Apache-2.0
//! The power menu prints the actual state if QEMU accepts a command that has no effect,
//! or not yet.

use std::cell::Cell;

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::qemu::{Config, Program};
use crate::common::run_states::RunState;
use crate::server::{GREETING, Server};
use crate::tool::{Tool, assert_has, run};
use crate::{on_each_of, unix};

#[test]
fn a_machine_that_waits_for_a_migration() {
    let config = || Config::new().arg("-incoming").arg("defer");
    on_each_of(config, |_, address| {
        let resumed = run(address, &["resume"]).ok();
        assert_has(&resumed, "(inmigrate); when that is over, it will run.");
        let paused = run(address, &["pause"]).ok();
        assert_has(
            &paused,
            "(inmigrate); when that is over, it will be paused.",
        );
    });
}

#[test]
fn a_machine_that_is_stopped_already() {
    on_each_of(Config::new, |_, address| {
        let paused = run(address, &["pause"]).ok();
        assert_eq!(paused, "The machine is stopped already (prelaunch).\n");
        assert_eq!(run(address, &["resume"]).ok(), "Resumed.\n");
        assert_eq!(run(address, &["pause"]).ok(), "Paused.\n");
    });
}

/// The machine is shut down in place of a reset, which mutes a SPICE port.
#[test]
fn a_machine_that_does_not_reboot() {
    let config = || {
        Config::new()
            .arg("-no-reboot")
            .arg("-no-shutdown")
            .running()
    };
    for program in Program::all() {
        let qemu = config().start(&program);
        let reset = run(&unix(&qemu), &["reset"]).ok();
        assert_has(&reset, "shut down in place of a reset");
        let paused = run(&unix(&qemu), &["pause"]).ok();
        assert_eq!(paused, "The machine is stopped already (shutdown).\n");
        let resumed = run(&unix(&qemu), &["resume"]).failed(1);
        assert_has(&resumed, "hint: the guest has shut down: spice-qmp reset");

        let qemu = config().start(&program);
        let mut tool = Tool::start(&qemu.spice_uri(), &["--timeout", "3", "reset"]);
        tool.wait_error_line("system_reset: no answer within 3000 ms");
        tool.wait_error_line("which is stopped (shutdown), runs again; resume it over another");
        assert!(tool.is_running());
        let mut monitor = qemu.monitor();
        let reboot = Some(serde_json::json!({"reboot": "reset"}));
        monitor.execute("set-action", reboot).expect("set-action");
        monitor.execute("system_reset", None).expect("system_reset");
        monitor.execute("cont", None).expect("cont");
        assert_eq!(tool.end().code, Some(4));
        monitor.execute("query-status", None).expect("QEMU answers");
    }
}

/// A server without a machine, such as qemu-storage-daemon: there is nothing to watch.
#[test]
fn a_server_that_has_no_run_state() {
    let server = Server::start(GREETING, |command| {
        match command {
        "query-status" => vec![
            r#"{"id":$ID,"error":{"class":"CommandNotFound","desc":"The command query-status has not been found"}}"#
                .to_owned(),
        ],
        _ => Vec::new(),
    }
    });
    for command in ["watch", "status"] {
        let refusal = run(&server.address(), &[command]).failed(1);
        assert_has(
            &refusal,
            "query-status: The command query-status has not been found",
        );
    }
}

/// A server that executes a command, and then answers nothing more.
#[test]
fn a_server_that_does_not_report_the_new_state() {
    let paused = Cell::new(false);
    let server = Server::start(GREETING, move |command| match command {
        "query-status" if !paused.get() => {
            vec![r#"{"return":{"status":"running","running":true},"id":$ID}"#.to_owned()]
        }
        "query-status" => {
            vec![r#"{"event":"NOTHING","timestamp":{"seconds":1,"microseconds":1}}"#.to_owned()]
        }
        command => {
            paused.set(command == "stop");
            Vec::new()
        }
    });
    let paused = run(&server.address(), &["pause"]).ok();
    assert_eq!(
        paused,
        "Paused. QEMU has not said in which state the machine is now.\n"
    );
}

/// A machine whose disk is full, before the tool connects and while it watches.
#[test]
fn a_machine_that_has_stopped_for_a_reason() {
    let full = "Disk full: the host has no space left for the drive hd0";
    for program in Program::all() {
        let mut guest = RunState::IO_ERROR.start(&program);
        let address = unix(&guest.qemu);
        let reason = |status: &str| status.contains("reason ");
        assert!(!reason(&run(&address, &["status"]).ok()));

        let watch = Tool::start(&address, &["watch"]);
        assert_has(&watch.line(), "running");
        guest.reach();
        assert_has(&watch.line(), "io-error");
        assert_has(&watch.line(), full);
        guest.resume();
        assert_has(&watch.line(), "running");
        watch.signal(Signal::INT);
        watch.end();

        guest.reach();
        let status = run(&address, &["status"]).ok();
        assert_has(&status, &format!("\nreason   {full}\n"));
        let status = run(&address, &["--json", "status"]).ok_json();
        let condition = json!({ "code": "disk-full", "subject": "hd0", "message": full });
        assert_eq!(status["condition"], condition);
        let watch = Tool::start(&address, &["--json", "watch"]);
        let line: Value = serde_json::from_str(&watch.line()).expect("JSON");
        assert_eq!(line["status"], "io-error");
        let line: Value = serde_json::from_str(&watch.line()).expect("JSON");
        assert_eq!(line["condition"], condition);
        watch.signal(Signal::INT);
        watch.end();
    }
}
