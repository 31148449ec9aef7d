// SPDX-License-Identifier: MIT OR Apache-2.0
//! The property `status` in every run state of real QEMU.
#![cfg(feature = "spice")]

mod common;

use common::main_loop::{MainLoop, with_default, with_own};
use common::qemu::{Config, Program, Qemu};
use common::run_states::{Machine, RunState};
use common::spice::Client;
use serde_json::json;
use spice_qmp::QmpPort;

fn open(main: &MainLoop, qemu: &Qemu) -> QmpPort {
    let address = format!("unix:{}", qemu.qmp_socket().display());
    main.block_on(QmpPort::open(&address))
        .expect("QEMU listens")
}

fn status(port: &QmpPort) -> Option<String> {
    port.status().map(|status| status.status().to_owned())
}

fn until(main: &MainLoop, port: &QmpPort, name: &str) {
    main.until(name, || status(port).as_deref() == Some(name));
}

#[test]
fn a_socket_shows_every_run_state() {
    with_own(|main| {
        for program in Program::all() {
            for state in RunState::ALL {
                let mut machine = state.start(&program);
                let port = open(main, &machine.qemu);
                machine.reach();
                until(main, &port, state.name);
                main.block_on(port.close());

                // A late client knows it as soon as the port is open.
                let port = open(main, &machine.qemu);
                assert_eq!(status(&port).as_deref(), Some(state.name));
                if state.name != "inmigrate" {
                    machine.resume();
                    until(main, &port, "running");
                }
                main.block_on(port.close());
            }
        }
    });
}

/// The value of `status` over SPICE: what an event established, even if QEMU does not
/// answer any more. No event reports the others before the machine runs again.
fn shown_over_spice(state: RunState) -> &'static str {
    match state.name {
        "finish-migrate" | "postmigrate" | "debug" | "restore-vm" => "running",
        name => name,
    }
}

#[test]
fn spice_shows_what_events_establish() {
    with_default(|main| {
        for program in Program::all() {
            for state in RunState::ALL {
                let mut machine = state.start(&program);
                let client = Client::new(&machine.qemu);
                let port = main.block_on(QmpPort::find(&client.session)).unwrap();
                machine.reach();
                until(main, &port, shown_over_spice(state));
                if state.name != "inmigrate" {
                    machine.resume();
                    until(main, &port, "running");
                }
                main.block_on(port.close());
                drop(port);
                client.finish(main);
            }
        }
    });
}

#[test]
fn a_machine_that_starts_again_and_stops_at_once_is_not_shown_as_running() {
    with_default(|main| {
        for program in Program::all() {
            let mut machine = RunState::GUEST_PANICKED.start(&program);
            let client = Client::new(&machine.qemu);
            let port = main.block_on(QmpPort::find(&client.session)).unwrap();
            for _ in 0..10 {
                machine.reach();
                until(main, &port, "guest-panicked");
                // STOP and RESUME of the first panic come with the event of the next one.
                machine.resume();
                machine.reach();
                until(main, &port, "guest-panicked");
                machine.resume();
                until(main, &port, "running");
            }
            main.block_on(port.close());
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn a_migration_is_followed_to_its_end_on_both_sides() {
    with_own(|main| {
        for program in Program::all() {
            for events in [false, true] {
                for (config, end) in [
                    (Config::new(), "paused"),
                    (Config::new().running(), "running"),
                ] {
                    let mut source = RunState::RUNNING.start(&program);
                    let mut target = RunState::INMIGRATE.start_with(config, &program);
                    for machine in [&mut source, &mut target] {
                        send_migration_events(machine, events);
                    }
                    let port = open(main, &source.qemu);
                    let other = open(main, &target.qemu);
                    let uri = json!({
                        "uri": format!("unix:{}", target.qemu.dir().join("migration").display()),
                    });
                    target.execute("migrate-incoming", uri.clone());
                    source.execute("migrate", uri);
                    until(main, &port, "postmigrate");
                    until(main, &other, end);
                    main.block_on(port.close());
                    main.block_on(other.close());
                }
            }
        }
    });
}

fn send_migration_events(machine: &mut Machine, events: bool) {
    let capability = json!({ "capability": "events", "state": events });
    let capabilities = json!({ "capabilities": [capability] });
    machine.execute("migrate-set-capabilities", capabilities);
}
