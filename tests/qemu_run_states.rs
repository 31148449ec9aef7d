//! The property `status` in every run state that real QEMU gets into.
#![cfg(feature = "gobject")]

mod common;

use common::main_loop::{MainLoop, with_own};
use common::qemu::{Program, Qemu};
use common::run_states::RunState;
use spice_qmp::QmpPort;

fn open(main: &MainLoop, qemu: &Qemu) -> QmpPort {
    let address = format!("unix:{}", qemu.qmp_socket().display());
    main.block_on(QmpPort::open(&address)).expect("QEMU listens")
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

                // Who comes late knows it as soon as the port is open.
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
