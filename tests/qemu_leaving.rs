// SPDX-License-Identifier: MIT OR Apache-2.0
//! Disconnecting from a machine over SPICE does it no harm, whatever it is doing.
//!
//! QEMU freezes for ever if a client disconnects during a reply, and dies on `cont` if
//! one disconnected that had written to a mute port.
#![cfg(feature = "spice")]

mod common;

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::Command;
use std::thread;
use std::time::Duration;

use common::main_loop::{MainLoop, with_default};
use common::qemu::{Config, Monitor, Program};
use common::random::Random;
use common::run_states::{Machine, RunState};
use common::script::{Ends, call};
use common::spice::{Client, disconnect};
use serde_json::{Value, json};
use spice_qmp::{Error, QmpPort};

/// How often each thing is done on each QEMU.
const LEAVES: usize = 20;
/// Longer than any test waits: a close that needs it does not end.
const FOR_EVER: u32 = 3_600_000;

fn find(main: &MainLoop, client: &Client) -> QmpPort {
    let port = main.block_on(QmpPort::find(&client.session)).unwrap();
    port.set_close_timeout(FOR_EVER);
    port
}

/// A frozen QEMU does not answer, a dead one has closed the connection.
fn assert_alive(monitor: &mut Monitor, what: &str) {
    let answer = monitor.execute("query-status", None);
    assert!(answer.is_ok(), "{what}: {answer:?}");
}

#[test]
fn a_port_that_was_closed_may_disconnect_during_a_long_reply() {
    with_default(|main| {
        let random = Random::new(1);
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let mut monitor = qemu.monitor();
            for round in 0..LEAVES {
                let client = Client::new(&qemu);
                let port = find(main, &client);
                let ends = Ends::default();
                let first = call(&port, "query-qmp-schema", &ends);
                call(&port, "query-qmp-schema", &ends);
                main.run_for(Duration::from_millis(random.below(16) as u64));
                if random.coin() {
                    port.cancel(first);
                }
                main.block_on(port.close());
                assert_eq!(ends.borrow().len(), 2);
                drop(port);
                client.finish(main);
                assert_alive(&mut monitor, &format!("leave {round}"));
            }
        }
    });
}

#[test]
fn a_port_closes_only_when_a_slow_command_is_over() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let client = Client::new(&qemu);
            let port = find(main, &client);
            let fifo = fifo(qemu.dir());
            let arguments = json!({ "val": 0, "size": 1 << 20, "filename": fifo });
            let save = port.execute::<Value>("pmemsave", arguments);
            let late = main.block_on(save.timeout(Duration::from_millis(100)));
            assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");

            // Abandoned, but QEMU is still executing it.
            let close = main.spawn({
                let port = port.clone();
                async move { port.close().await }
            });
            main.run_for(Duration::from_millis(300));
            assert!(!close.is_done());
            let reader = thread::spawn(move || {
                io::copy(&mut File::open(fifo).expect("a FIFO"), &mut io::sink())
            });
            main.join("the close", &close);
            assert_eq!(reader.join().unwrap().unwrap(), 1 << 20);
            drop(port);
            client.finish(main);
            assert_alive(&mut qemu.monitor(), "after a slow command");
        }
    });
}

fn fifo(dir: &Path) -> std::path::PathBuf {
    let fifo = dir.join("fifo");
    let made = Command::new("mkfifo").arg(&fifo).status();
    assert!(made.expect("mkfifo is a core utility").success());
    fifo
}

/// Runs the loop until a port over SPICE knows everything that it can.
fn settle(main: &MainLoop, port: &QmpPort, machine: &mut Machine) {
    machine.reach();
    main.run_for(Duration::from_millis(20));
    assert!(port.ready());
}

#[test]
fn a_port_may_disconnect_from_a_mute_machine_that_runs_again_later() {
    with_default(|main| {
        for program in Program::all() {
            for state in RunState::all_mute() {
                let mut machine = state.start(&program);
                for round in 0..LEAVES {
                    let client = Client::new(&machine.qemu);
                    let port = find(main, &client);
                    settle(main, &port, &mut machine);
                    match round % 3 {
                        0 => main.block_on(port.close()),
                        1 => disconnect(&port.channel().unwrap()),
                        _ => {}
                    }
                    drop(port);
                    client.finish(main);
                    machine.resume();
                }
            }
        }
    });
}

#[test]
fn a_command_that_a_mute_machine_did_not_read_does_no_harm_later() {
    with_default(|main| {
        for program in Program::all() {
            // Its event reports that.
            for state in [RunState::GUEST_PANICKED, RunState::IO_ERROR] {
                for _ in 0..LEAVES / 4 {
                    // A new one: QEMU 10 sends one BLOCK_IO_ERROR a second.
                    let mut machine = state.start(&program);
                    let client = Client::new(&machine.qemu);
                    let port = find(main, &client);
                    settle(main, &port, &mut machine);
                    let resume = port.execute::<Value>("cont", ());
                    let failed = main.block_on(resume.timeout(Duration::from_millis(50)));
                    assert!(failed.is_err(), "{failed:?}");
                    port.set_close_timeout(100);
                    main.block_on(port.close());
                    drop(port);
                    client.finish(main);
                    machine.resume();
                }
            }
        }
    });
}

#[test]
fn a_port_may_connect_to_a_mute_machine_and_disconnect() {
    with_default(|main| {
        for program in Program::all() {
            for state in RunState::all_mute() {
                let mut machine = state.start(&program);
                machine.reach();
                let client = Client::new(&machine.qemu);
                let patience = Duration::from_millis(200);
                let found = main.block_on(QmpPort::find_within(&client.session, patience));
                let error = found.expect_err("QEMU says nothing");
                assert!(matches!(error, Error::TimedOut { .. }), "{error:?}");
                client.finish(main);
                machine.resume();
            }
        }
    });
}

#[test]
fn a_search_may_end_early() {
    with_default(|main| {
        let random = Random::new(2);
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let mut monitor = qemu.monitor();
            for round in 0..2 * LEAVES {
                let client = Client::new(&qemu);
                let patience = Duration::from_millis(random.below(25) as u64);
                let _ = main.block_on(QmpPort::find_within(&client.session, patience));
                client.finish(main);
                assert_alive(&mut monitor, &format!("search {round}"));
            }
        }
    });
}

#[test]
fn a_search_may_be_dropped() {
    with_default(|main| {
        let random = Random::new(3);
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let mut monitor = qemu.monitor();
            for round in 0..LEAVES {
                let client = Client::new(&qemu);
                let patience = Duration::from_millis(random.below(25) as u64);
                let found = QmpPort::find(&client.session);
                let _ = main.block_on(glib::future_with_timeout(patience, found));
                // As its documentation says, however slow QEMU is.
                main.block_on(QmpPort::settle(&client.session));
                client.finish(main);
                assert_alive(&mut monitor, &format!("search {round}"));
            }
        }
    });
}
