// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a machine is not running, with real QEMU.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::main_loop::{MainLoop, with_default, with_own_pushed};
use common::qemu::{Program, Qemu};
use common::run_states::RunState;
use common::spice::Client;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use spice_qmp::{Condition, ConditionCode, ConditionSeverity, Machine, QmpPort};

fn open(main: &MainLoop, qemu: &Qemu) -> QmpPort {
    let address = format!("unix:{}", qemu.qmp_socket().display());
    main.block_on(QmpPort::open(&address))
        .expect("QEMU listens")
}

/// The conditions of a machine, in order: codes, or `None`.
fn shown(machine: &Machine) -> Rc<RefCell<Vec<Option<ConditionCode>>>> {
    let seen = Rc::<RefCell<Vec<_>>>::default();
    let notes = seen.clone();
    machine.connect_condition_notify(move |machine| {
        let code = machine.condition().map(|condition| condition.code());
        notes.borrow_mut().push(code);
    });
    seen
}

#[track_caller]
fn until_shown(main: &MainLoop, machine: &Machine) -> Condition {
    main.until("a condition", || machine.condition().is_some());
    machine.condition().expect("it is there")
}

#[track_caller]
fn until_none(main: &MainLoop, machine: &Machine) {
    main.until("no condition", || machine.condition().is_none());
}

/// A way to stop, and the condition that it shows.
struct Case {
    state: RunState,
    code: ConditionCode,
    message: &'static str,
    /// What a late client can still learn.
    late: (ConditionCode, &'static str),
}

const fn case(
    state: RunState,
    code: ConditionCode,
    message: &'static str,
    late: (ConditionCode, &'static str),
) -> Case {
    Case {
        state,
        code,
        message,
        late,
    }
}

use ConditionCode as Code;

const CASES: [Case; 8] = [
    case(
        RunState::IO_ERROR,
        Code::DiskFull,
        "Disk full: the host has no space left for the drive hd0",
        (
            Code::DiskFull,
            "Disk full: the host has no space left for the drive hd0",
        ),
    ),
    case(
        RunState::WRITE_ERROR,
        Code::DiskError,
        "Disk error: the drive hd0 cannot be written: Input/output error",
        (
            Code::DiskError,
            "Disk error: the drive hd0 cannot be read or written",
        ),
    ),
    case(
        RunState::READ_ERROR,
        Code::DiskError,
        "Disk error: the drive hd0 cannot be read: Input/output error",
        (
            Code::DiskError,
            "Disk error: the drive hd0 cannot be read or written",
        ),
    ),
    case(
        RunState::GUEST_PANICKED,
        Code::GuestPanicked,
        "The guest has crashed",
        (Code::GuestPanicked, "The guest has crashed"),
    ),
    case(
        RunState::WATCHDOG,
        Code::Watchdog,
        "The guest does not respond: its watchdog has expired",
        (
            Code::Watchdog,
            "The guest does not respond: its watchdog has expired",
        ),
    ),
    case(
        RunState::SHUTDOWN,
        Code::GuestShutdown,
        "The guest has shut down",
        (Code::Shutdown, "The machine is shut down"),
    ),
    case(
        RunState::RESTARTED,
        Code::GuestReset,
        "The guest has restarted, and is shut down instead",
        (Code::Shutdown, "The machine is shut down"),
    ),
    case(
        RunState::RESET_TO_END,
        Code::HostReset,
        "The machine was reset, and is shut down instead",
        (Code::Shutdown, "The machine is shut down"),
    ),
];

fn is_of_drive(code: ConditionCode) -> bool {
    matches!(code, Code::DiskFull | Code::DiskError)
}

#[test]
fn a_socket_says_why_the_machine_stopped() {
    with_own_pushed(|main| {
        for program in Program::all() {
            for case in CASES {
                println!("{} {:?}", program.version(), case.code);
                let mut guest = case.state.start(&program);
                let port = open(main, &guest.qemu);
                let machine = Machine::new(&port);
                let seen = shown(&machine);
                for round in 0..2 {
                    guest.reach();
                    let condition = until_shown(main, &machine);
                    assert_eq!(condition.code(), case.code);
                    let drive = is_of_drive(case.code).then_some("hd0");
                    assert_eq!(condition.subject(), drive);
                    // QEMU may send the second event of a kind a second late. Until then, what
                    // the state and the drives suggest is shown.
                    if round == 0 {
                        assert_eq!(condition.message(), case.message);
                        let detail = condition.detail().expect("an event said it");
                        let detail: Value = serde_json::from_str(detail).expect("JSON");
                        assert!(detail.is_object(), "{detail}");
                    }
                    guest.resume();
                    until_none(main, &machine);
                }
                let mut codes = seen.take();
                codes.dedup();
                assert_eq!(codes, [Some(case.code), None].repeat(2));
                main.block_on(port.close());
            }
        }
    });
}

#[test]
fn a_late_client_learns_what_can_be_known() {
    with_own_pushed(|main| {
        for program in Program::all() {
            for case in CASES {
                println!("{} {:?}", program.version(), case.code);
                let mut guest = case.state.start(&program);
                guest.reach();
                let port = open(main, &guest.qemu);
                let machine = Machine::new(&port);
                let condition = until_shown(main, &machine);
                assert_eq!((condition.code(), condition.message()), case.late);
                let drive = is_of_drive(case.code).then_some("hd0");
                assert_eq!(condition.subject(), drive);
                assert_eq!(condition.detail(), None);
                guest.resume();
                until_none(main, &machine);
                main.block_on(port.close());
            }
            for (state, code) in [
                (RunState::POSTMIGRATE, Some(Code::Migrated)),
                (RunState::PAUSED, None),
                (RunState::SUSPENDED, None),
                (RunState::INMIGRATE, None),
                (RunState::DEBUG, None),
            ] {
                let mut guest = state.start(&program);
                guest.reach();
                let port = open(main, &guest.qemu);
                let machine = Machine::new(&port);
                main.drain();
                assert_eq!(machine.condition().map(|it| it.code()), code, "{state:?}");
                main.block_on(port.close());
            }
        }
    });
}

/// QEMU sends it before it becomes mute; with the drive's name only since 9.2.
#[test]
fn a_mute_spice_port_says_why_the_machine_stopped() {
    with_default(|main| {
        for program in Program::all() {
            for case in CASES {
                println!("{} {:?}", program.version(), case.code);
                let mut guest = case.state.start(&program);
                let client = Client::new(&guest.qemu);
                let port = main.block_on(QmpPort::find(&client.session)).unwrap();
                let machine = Machine::new(&port);
                guest.reach();
                let condition = until_shown(main, &machine);
                assert!(port.is_mute());
                assert_eq!(condition.code(), case.code);
                let drive = if program.major() < 10 { "disk0" } else { "hd0" };
                assert_eq!(condition.message(), case.message.replace("hd0", drive));
                guest.resume();
                until_none(main, &machine);
                main.block_on(port.close());
                drop((machine, port));
                client.finish(main);
            }
        }
    });
}

#[test]
fn an_end_of_qemu_has_its_reason() {
    with_own_pushed(|main| {
        for program in Program::all() {
            // The first reason stays when the connection ends.
            let mut guest = RunState::RUNNING.start(&program);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            let seen = shown(&machine);
            guest.execute("quit", Value::Null);
            main.until("the end", || !port.ready());
            main.drain();
            assert_eq!(seen.take(), [Some(Code::HostShutdown)]);
            let condition = machine.condition().unwrap();
            assert_eq!(condition.message(), "The machine was shut down on the host");
            assert_eq!(condition.severity(), ConditionSeverity::Info);

            let guest = RunState::RUNNING.start(&program);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            let seen = shown(&machine);
            let pid = Pid::from_raw(guest.qemu.pid().cast_signed()).unwrap();
            kill_process(pid, Signal::TERM).expect("an own child");
            main.until("the end", || !port.ready());
            main.drain();
            assert_eq!(seen.take(), [Some(Code::HostShutdown)]);

            let mut guest = RunState::RUNNING.start(&program);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            let seen = shown(&machine);
            guest.qemu.kill();
            main.until("the end", || !port.ready());
            main.drain();
            assert_eq!(seen.take(), [Some(Code::ConnectionLost)]);
            let condition = machine.condition().unwrap();
            assert_eq!(condition.message(), "The connection to QEMU has ended");
            assert_eq!(condition.severity(), ConditionSeverity::Error);
        }
    });
}

/// QEMU exits because of its guest.
#[test]
fn a_guest_that_ends_qemu_has_its_reason() {
    with_own_pushed(|main| {
        for program in Program::all() {
            for (state, what, action, code) in [
                (
                    RunState::SHUTDOWN,
                    "shutdown",
                    "poweroff",
                    Code::GuestShutdown,
                ),
                (
                    RunState::RESTARTED,
                    "shutdown",
                    "poweroff",
                    Code::GuestReset,
                ),
                (
                    RunState::GUEST_PANICKED,
                    "panic",
                    "shutdown",
                    Code::GuestPanicked,
                ),
                (RunState::WATCHDOG, "watchdog", "poweroff", Code::Watchdog),
            ] {
                println!("{} {code:?}", program.version());
                let mut guest = state.start(&program);
                guest.execute("set-action", json!({ what: action }));
                let port = open(main, &guest.qemu);
                let machine = Machine::new(&port);
                let seen = shown(&machine);
                // QEMU may exit before it answers.
                let _ = guest.monitor.execute("inject-nmi", None);
                main.until("the end", || !port.ready());
                main.drain();
                assert_eq!(seen.take(), [Some(code)]);
            }
        }
    });
}
