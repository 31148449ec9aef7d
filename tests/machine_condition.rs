// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a machine is not running, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::main_loop::{MainLoop, with_own};
use common::script::{self, Ends, Server, paused, running};
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{
    Condition, ConditionCode as Code, ConditionSeverity as Severity, Machine, PortState,
};

/// A running machine.
fn ready(main: &MainLoop) -> (Machine, Server) {
    let (port, server) = script::ready(main);
    (Machine::new(&port), server)
}

type Shown = Rc<RefCell<Vec<Option<String>>>>;

/// The notified messages; `None` for no condition.
fn shown(machine: &Machine) -> Shown {
    let seen = Shown::default();
    let notes = seen.clone();
    machine.connect_condition_notify(move |machine| {
        let condition = machine.condition();
        let message = condition.map(|condition| condition.message().to_owned());
        notes.borrow_mut().push(message);
    });
    seen
}

/// Runs a test on a running machine, with the conditions that it shows.
fn with_machine(test: impl Fn(&MainLoop, &Machine, &Server, &Shown)) {
    with_own(|main| {
        let (machine, server) = ready(main);
        test(main, &machine, &server, &shown(&machine));
    });
}

fn stopped(state: &str) -> Value {
    json!({ "running": false, "status": state })
}

/// Answers the questions of the port and the machine.
fn answer(main: &MainLoop, server: &Server, state: &str, drives: &Value) {
    main.drain();
    for request in server.requests() {
        match request.command.as_str() {
            "query-status" => server.reply(&request, stopped(state)),
            "query-block" => server.reply(&request, drives.clone()),
            other => panic!("{other}"),
        }
    }
    main.drain();
}

fn condition(machine: &Machine) -> Condition {
    machine.condition().expect("there is a reason")
}

fn drives() -> Value {
    json!([
        { "device": "", "qdev": "cd0", "io-status": "ok" },
        { "device": "", "qdev": "hd0", "io-status": "nospace",
          "inserted": { "node-name": "n0" } },
    ])
}

const FULL: &str = "Disk full: the host has no space left for the drive hd0";

fn disk_full() -> Value {
    json!({
        "device": "", "node-name": "n0", "nospace": true, "operation": "write",
        "reason": "No space left on device", "action": "stop",
    })
}

#[test]
fn the_drive_is_named_before_the_condition_is_shown() {
    with_machine(|main, machine, server, seen| {
        server.event_with("BLOCK_IO_ERROR", &disk_full());
        server.event("STOP");
        main.drain();
        assert_eq!(machine.condition(), None, "QEMU is asked first");
        answer(main, server, "io-error", &drives());
        assert_eq!(seen.take(), [Some(FULL.to_owned())]);
        let condition = condition(machine);
        assert_eq!(condition.code(), Code::DiskFull);
        assert_eq!(condition.severity(), Severity::Warning);
        assert_eq!(condition.subject(), Some("hd0"));
        let detail: Value = serde_json::from_str(condition.detail().unwrap()).unwrap();
        assert_eq!(detail, disk_full());

        server.event("RESUME");
        main.drain();
        assert_eq!(seen.take(), [None]);
        server.answer("query-status", running());
        main.drain();
        assert_eq!(machine.condition(), None);
    });
}

#[test]
fn without_an_answer_about_the_drive_the_event_is_shown() {
    with_machine(|main, _, server, seen| {
        server.event_with("BLOCK_IO_ERROR", &disk_full());
        main.drain();
        for request in server.requests() {
            match request.command.as_str() {
                "query-status" => server.reply(&request, stopped("io-error")),
                command => server.refuse(&request, "CommandNotFound", command),
            }
        }
        main.drain();
        let full = FULL.replace("hd0", "n0");
        assert_eq!(seen.take(), [Some(full)]);
    });
}

/// QEMU 10.0 may send the second `BLOCK_IO_ERROR` of a drive a second after its STOP.
#[test]
fn the_event_may_come_after_the_machine_has_stopped() {
    with_machine(|main, machine, server, seen| {
        server.event("STOP");
        main.drain();
        // The state shows it first, then the drive.
        answer(main, server, "io-error", &drives());
        answer(main, server, "io-error", &drives());
        assert_eq!(seen.take(), [Some(FULL.to_owned())]);
        assert_eq!(condition(machine).detail(), None);

        server.event_with("BLOCK_IO_ERROR", &disk_full());
        answer(main, server, "io-error", &drives());
        assert_eq!(seen.take(), [Some(FULL.to_owned())], "now with detail");
        assert!(condition(machine).detail().is_some());
    });
}

#[test]
fn an_answer_after_the_machine_runs_again_shows_nothing() {
    with_machine(|main, machine, server, seen| {
        server.event_with("BLOCK_IO_ERROR", &disk_full());
        server.event("STOP");
        main.drain();
        let asked = server.requests();
        server.event("RESUME");
        main.drain();
        for request in asked {
            match request.command.as_str() {
                "query-status" => server.reply(&request, running()),
                _ => server.reply(&request, drives()),
            }
        }
        answer(main, server, "running", &drives());
        assert_eq!(seen.take(), []);
        assert_eq!(machine.condition(), None);
    });
}

#[test]
fn the_first_reason_stays_until_the_machine_runs() {
    with_machine(|main, machine, server, seen| {
        // It continues to run until QEMU exits.
        let info =
            json!({ "type": "hyper-v", "arg1": 0x1a, "arg2": 0, "arg3": 0, "arg4": 0, "arg5": 0 });
        server.event_with(
            "GUEST_PANICKED",
            &json!({ "action": "poweroff", "info": info }),
        );
        main.drain();
        assert_eq!(machine.condition(), None, "it runs");
        server.event_with(
            "SHUTDOWN",
            &json!({ "guest": true, "reason": "guest-panic" }),
        );
        main.drain();
        server.peer.close("QEMU has ended");
        main.drain();
        let crashed = "The guest has crashed: stop code 0x1a";
        assert_eq!(seen.take(), [Some(crashed.to_owned())]);
        assert_eq!(condition(machine).code(), Code::GuestPanicked);
    });
}

#[test]
fn a_pause_is_no_condition() {
    with_machine(|main, _, server, seen| {
        server.event("STOP");
        main.drain();
        server.answer("query-status", paused());
        main.drain();
        // These do not stop it.
        server.event_with("BLOCK_IO_ERROR", &json!({ "action": "report" }));
        server.event_with("WATCHDOG", &json!({ "action": "reset" }));
        main.drain();
        server.commands();
        assert_eq!(seen.take(), []);
    });
}

#[test]
fn an_exit_of_qemu_is_explained_by_the_event_before_it() {
    with_own(|main| {
        for (name, data, code) in [
            ("WATCHDOG", json!({ "action": "poweroff" }), Code::Watchdog),
            (
                "MEMORY_FAILURE",
                json!({ "recipient": "hypervisor", "action": "fatal",
                        "flags": { "action-required": true, "recursive": false } }),
                Code::MemoryFailure,
            ),
        ] {
            let (machine, server) = ready(main);
            server.event_with(name, &data);
            main.drain();
            assert_eq!(machine.condition(), None);
            server.peer.close("QEMU has ended");
            main.drain();
            assert_eq!(condition(&machine).code(), code);
            assert_eq!(condition(&machine).severity(), Severity::Error);
        }
    });
}

#[test]
fn an_internal_error_has_no_event_but_its_state() {
    with_own(|main| {
        let (machine, server) = ready(main);
        server.event("STOP");
        answer(main, &server, "internal-error", &json!([]));
        assert_eq!(condition(&machine).code(), Code::InternalError);
        assert_eq!(condition(&machine).subject(), None);
    });
}

#[test]
fn a_lost_connection_is_shown_until_there_is_another() {
    with_machine(|main, machine, server, seen| {
        server.peer.close("cut");
        main.drain();
        let lost = "The connection to QEMU has ended";
        assert_eq!(seen.take(), [Some(lost.to_owned())]);
        assert_eq!(condition(machine).code(), Code::ConnectionLost);

        // Another machine may be behind it, whose disk is full.
        server.peer.open();
        server.line(script::GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        assert_eq!(seen.take(), [None]);
        answer(main, server, "io-error", &drives());
        answer(main, server, "io-error", &drives());
        assert_eq!(seen.take(), [Some(FULL.to_owned())]);
    });
}

#[test]
fn a_port_that_the_program_closes_is_not_lost() {
    with_machine(|main, machine, server, seen| {
        let port = machine.port().unwrap();
        let own = port.clone();
        let close = main.spawn(async move { own.close().await });
        main.drain();
        assert!(close.is_done() && port.is_closing());
        assert_eq!((port.state(), port.status()), (PortState::Closed, None));
        assert_eq!(seen.take(), []);
        assert_eq!(machine.condition(), None);
        drop(server.requests());
    });
    // A close waits for what QEMU owes, and QEMU ends meanwhile.
    with_machine(|main, machine, server, seen| {
        let port = machine.port().unwrap();
        let ends = Ends::default();
        script::call(&port, "quit", &ends);
        let own = port.clone();
        let close = main.spawn(async move { own.close().await });
        main.drain();
        assert!(!close.is_done());
        server.peer.close("QEMU has ended");
        main.drain();
        assert!(close.is_done());
        assert_eq!(seen.take(), []);
    });
    // A close that is cancelled leaves the port open, and it may be lost.
    with_machine(|main, machine, server, seen| {
        let port = machine.port().unwrap();
        script::call(&port, "slow", &Ends::default());
        let close = port.close_with(|_| ());
        main.drain();
        assert!(port.is_closing() && port.cancel_wait(close, "close"));
        main.drain();
        assert!(!port.is_closing());
        server.peer.close("cut");
        main.drain();
        assert_eq!(seen.take().len(), 1);
        assert_eq!(condition(machine).code(), Code::ConnectionLost);
    });
}

#[test]
fn a_condition_stays_when_the_program_closes_the_port() {
    with_machine(|main, machine, server, seen| {
        server.event_with("BLOCK_IO_ERROR", &disk_full());
        server.event("STOP");
        answer(main, server, "io-error", &drives());
        main.block_on(machine.port().unwrap().close());
        main.drain();
        assert_eq!(seen.take(), [Some(FULL.to_owned())]);
        assert_eq!(condition(machine).code(), Code::DiskFull);
    });
    // What came before the close is still the reason.
    with_machine(|main, machine, server, seen| {
        server.peer.close("cut");
        main.drain();
        main.block_on(machine.port().unwrap().close());
        main.drain();
        assert_eq!(seen.take().len(), 1);
        assert_eq!(condition(machine).code(), Code::ConnectionLost);
    });
}

#[test]
fn a_port_that_is_disposed_of_is_not_lost() {
    with_machine(|main, machine, _, seen| {
        run_dispose(&machine.port().unwrap());
        main.drain();
        assert_eq!(seen.take(), []);
        assert_eq!(machine.condition(), None);
        assert!(!machine.port().unwrap().ready());
    });
}

/// Disposes of an object, as the end of a program's window does.
#[allow(unsafe_code)]
fn run_dispose(object: &impl IsA<glib::Object>) {
    // SAFETY: the object is live, and bears to be used after its disposal.
    unsafe { glib::gobject_ffi::g_object_run_dispose(object.upcast_ref().as_ptr()) };
}

#[test]
fn a_port_that_never_was_ready_has_no_condition() {
    with_own(|main| {
        let (port, server) = script::port();
        let machine = Machine::new(&port);
        server.peer.open();
        main.drain();
        server.peer.close("nobody is there");
        main.drain();
        assert_eq!(machine.condition(), None);
    });
}

#[test]
fn a_machine_may_go_while_it_asks() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let weak = machine.downgrade();
        server.event_with("BLOCK_IO_ERROR", &disk_full());
        main.drain();
        drop(machine);
        assert!(weak.upgrade().is_none());
        answer(main, &server, "io-error", &drives());
    });
}
