// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's actions in every run state of real QEMU.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};

use common::main_loop::{MainLoop, PATIENCE, with_default, with_own_pushed};
use common::qemu::{Program, Qemu};
use common::run_states::{Machine as Guest, RunState};
use common::spice::Client;
use gio::prelude::*;
use serde_json::Value;
use spice_qmp::{Machine, QmpPort};

const ALL: [&str; 6] = ["pause", "reset", "power-down", "quit", "wakeup", "nmi"];
const RUNNING: &[&str] = &["pause", "reset", "power-down", "quit", "nmi"];
const STOPPED: &[&str] = &["pause", "reset", "quit"];

fn open(main: &MainLoop, qemu: &Qemu) -> QmpPort {
    let address = format!("unix:{}", qemu.qmp_socket().display());
    main.block_on(QmpPort::open(&address))
        .expect("QEMU listens")
}

/// The enabled actions in a state, and whether it counts as paused.
fn menu_of(state: &str) -> (&'static [&'static str], bool) {
    match state {
        "running" => (RUNNING, false),
        "inmigrate" | "finish-migrate" => (&["quit"], false),
        "suspended" => (&["reset", "quit", "wakeup"], false),
        "shutdown" => (&["reset", "quit"], false),
        _ => (STOPPED, true),
    }
}

fn enabled(machine: &Machine) -> Vec<&'static str> {
    let enabled = |action: &&str| machine.is_action_enabled(action);
    ALL.into_iter().filter(enabled).collect()
}

fn is_paused(machine: &Machine) -> bool {
    let state = machine.action_state("pause").expect("it is stateful");
    state.get().expect("a boolean")
}

fn until_menu(main: &MainLoop, machine: &Machine, menu: (&[&str], bool)) {
    main.until(&format!("{menu:?}"), || {
        (&enabled(machine)[..], is_paused(machine)) == menu
    });
}

fn failures(machine: &Machine) -> Rc<RefCell<Vec<String>>> {
    let seen = Rc::<RefCell<Vec<String>>>::default();
    let notes = seen.clone();
    machine.connect_action_failed(move |_, name, error| {
        notes.borrow_mut().push(format!("{name}: {error}"));
    });
    seen
}

/// Waits for an event on the other monitor, after this many others.
fn until_event(guest: &mut Guest, seen: usize, names: &[&str]) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        guest.status().expect("QEMU answers");
        let news = &guest.monitor.events()[seen..];
        if news
            .iter()
            .any(|event| names.iter().any(|name| event["event"] == *name))
        {
            return;
        }
        assert!(Instant::now() < deadline, "no {names:?}, but {news:?}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Each enabled action has an effect that QEMU reports to all monitors.
#[test]
fn every_enabled_action_has_an_effect() {
    with_own_pushed(|main| {
        for program in Program::all() {
            for state in RunState::ALL {
                let (actions, _) = menu_of(state.name);
                for &action in actions {
                    let mut guest = state.start(&program);
                    let port = open(main, &guest.qemu);
                    let machine = Machine::new(&port);
                    let failed = failures(&machine);
                    guest.reach();
                    until_menu(main, &machine, menu_of(state.name));
                    println!("{} {}: {action}", program.version(), state.name);
                    let seen = guest.monitor.events().len();
                    machine.activate_action(action, None);
                    main.until("an answer", || port.pending() == 0);
                    match action {
                        "quit" => {
                            let exit = guest.qemu.wait_exit(PATIENCE);
                            assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}");
                            until_menu(main, &machine, (&[], false));
                        }
                        "pause" => until_event(&mut guest, seen, &["STOP", "RESUME"]),
                        "reset" => until_event(&mut guest, seen, &["RESET"]),
                        "power-down" => until_event(&mut guest, seen, &["POWERDOWN"]),
                        "wakeup" => until_event(&mut guest, seen, &["WAKEUP"]),
                        // The guest's own actions: the next test.
                        "nmi" => {}
                        other => panic!("{other}"),
                    }
                    assert!(failed.borrow().is_empty(), "{failed:?}");
                    main.block_on(port.close());
                }
            }
        }
    });
}

#[test]
fn an_interrupt_reaches_the_guest() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let mut guest = RunState::GUEST_PANICKED.start(&program);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            machine.activate_action("nmi", None);
            // The guest panics.
            until_menu(main, &machine, menu_of("guest-panicked"));
            guest.until("guest-panicked");
            main.block_on(port.close());
        }
    });
}

#[test]
fn the_menu_follows_another_monitor() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let mut guest = RunState::PAUSED.start(&program);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            for _ in 0..10 {
                guest.execute("stop", Value::Null);
                until_menu(main, &machine, (STOPPED, true));
                // Now by the machine, which the other monitor observes.
                machine.activate_action("pause", None);
                until_menu(main, &machine, (RUNNING, false));
                guest.until("running");
                machine.change_action_state("pause", &true.to_variant());
                until_menu(main, &machine, (STOPPED, true));
                guest.execute("cont", Value::Null);
                until_menu(main, &machine, (RUNNING, false));
            }
            main.block_on(port.close());
        }
    });
}

/// On a mute SPICE port, no command reaches QEMU.
#[test]
fn nothing_is_enabled_on_a_mute_port() {
    with_default(|main| {
        for program in Program::all() {
            for state in RunState::ALL {
                let mut guest = state.start(&program);
                let client = Client::new(&guest.qemu);
                let port = main.block_on(QmpPort::find(&client.session)).unwrap();
                let machine = Machine::new(&port);
                guest.reach();
                println!("{} {}", program.version(), state.name);
                match state.name {
                    // No event reports that it is mute.
                    "finish-migrate" | "postmigrate" | "debug" | "restore-vm" => {}
                    name if state.mute => {
                        until_menu(main, &machine, (&[], menu_of(name).1));
                        assert!(port.is_mute());
                    }
                    name => until_menu(main, &machine, menu_of(name)),
                }
                if state.name != "inmigrate" {
                    guest.resume();
                    until_menu(main, &machine, (RUNNING, false));
                    let failed = failures(&machine);
                    machine.activate_action("pause", None);
                    until_menu(main, &machine, (STOPPED, true));
                    assert!(failed.borrow().is_empty(), "{failed:?}");
                }
                main.block_on(port.close());
                drop((machine, port));
                client.finish(main);
            }
        }
    });
}
