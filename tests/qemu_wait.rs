// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for events of real QEMU, and unplugging devices.
#![cfg(feature = "spice")]

mod common;

use std::future::IntoFuture;
use std::time::Duration;

use common::main_loop::{MainLoop, with_default, with_own_pushed};
use common::qemu::{Config, Program, Qemu};
use common::run_states::RunState;
use common::spice::Client;
use serde_json::{Value, json};
use spice_qmp::{Error, Machine, QmpPort};

fn open(main: &MainLoop, qemu: &Qemu) -> QmpPort {
    let address = format!("unix:{}", qemu.qmp_socket().display());
    main.block_on(QmpPort::open(&address))
        .expect("QEMU listens")
}

/// Pauses and resumes the machine this many times, and waits for the events.
async fn pause_and_resume(port: &QmpPort, rounds: usize) -> Result<(), Error> {
    for _ in 0..rounds {
        for (command, event) in [("stop", "STOP"), ("cont", "RESUME")] {
            let wait = port.wait_event([event]).timeout(Duration::from_secs(10));
            port.execute::<Value>(command, ()).await?;
            assert_eq!(wait.await?.name(), event);
        }
    }
    Ok(())
}

#[test]
fn a_thousand_commands_and_their_events_over_a_socket() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let guest = RunState::RUNNING.start(&program);
            let port = open(main, &guest.qemu);
            let rounds = pause_and_resume(&port, 500);
            main.context().block_on(rounds).expect("none is lost");
            main.block_on(port.wait_for_status(["running"])).unwrap();
            main.block_on(port.close());
        }
    });
}

#[test]
fn commands_and_their_events_over_spice() {
    with_default(|main| {
        for program in Program::all() {
            let guest = RunState::RUNNING.start(&program);
            let client = Client::new(&guest.qemu);
            let port = main.block_on(QmpPort::find(&client.session)).unwrap();
            let rounds = pause_and_resume(&port, 50);
            main.context().block_on(rounds).expect("none is lost");
            main.block_on(port.close());
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn a_device_is_unplugged_when_its_guest_releases_it() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let mut guest = RunState::LETS_GO.start(&program);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            for id in ["n1", "/machine/peripheral/n1"] {
                guest.execute(
                    "device_add",
                    json!({ "driver": "virtio-net-pci", "id": "n1" }),
                );
                let unplugged = main.spawn(machine.unplug(id).into_future());
                // QEMU has accepted the command, and no more.
                main.until("an answer", || {
                    main.drain();
                    port.pending() == 0
                });
                assert!(!unplugged.is_done());
                guest.reach();
                main.join("the end", &unplugged).expect("it is unplugged");
            }
            let again = main.block_on(machine.unplug("n1").into_future());
            assert!(matches!(again, Err(Error::Command { .. })), "{again:?}");
            main.block_on(port.close());
        }
    });
}

#[test]
fn a_guest_may_keep_a_device() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let mut guest = RunState::KEEPS_MEMORY.start(&program);
            let memory = json!({ "qom-type": "memory-backend-ram", "id": "m1", "size": 128 << 20 });
            guest.execute("object-add", memory);
            let dimm = json!({ "driver": "pc-dimm", "id": "d1", "memdev": "m1" });
            guest.execute("device_add", dimm);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            let unplugged = main.spawn(machine.unplug("d1").into_future());
            main.until("an answer", || {
                main.drain();
                port.pending() == 0
            });
            guest.reach();
            let error = main.join("the end", &unplugged).unwrap_err();
            let told = "device_del: the guest does not let go of d1";
            assert_eq!(error.to_string(), told);
            main.block_on(port.close());
        }
    });
}

#[test]
fn a_guest_that_does_not_respond_causes_a_timeout() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let config = Config::new().arg("-device").arg("qemu-xhci,id=usb");
            let mut guest = RunState::RUNNING.start_with(config, &program);
            let port = open(main, &guest.qemu);
            let machine = Machine::new(&port);
            guest.execute("device_add", json!({ "driver": "e1000", "id": "e1" }));
            let wait = machine.unplug("e1").timeout(Duration::from_millis(100));
            let error = main.block_on(wait.into_future()).unwrap_err();
            assert_eq!(
                error.to_string(),
                "unplugging e1: no answer within 100 ms (the guest has not let go of it)"
            );
            // The guest is not asked for those.
            guest.execute("device_add", json!({ "driver": "usb-tablet", "id": "t1" }));
            main.block_on(machine.unplug("t1").into_future()).unwrap();
            // QEMU exits meanwhile.
            guest.execute("device_add", json!({ "driver": "e1000", "id": "e2" }));
            let wait = main.spawn(machine.unplug("e2").into_future());
            main.until("an answer", || {
                main.drain();
                port.pending() == 0
            });
            guest.qemu.kill();
            let error = main.join("the end", &wait).unwrap_err();
            assert!(matches!(error, Error::Closed(_)), "{error}");
        }
    });
}
