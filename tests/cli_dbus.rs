// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool on a real QEMU's D-Bus display.
#![cfg(feature = "cli")]

mod common;
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[path = "common/tool.rs"]
mod tool;

use common::dbus::{Bus, with_monitor};
use common::qemu::Program;
use tool::Tool;

const QMP: &str = "org.qemu.monitor.qmp.0";

#[test]
fn each_form_of_address() {
    for program in Program::all() {
        let bus = Bus::start();
        let config = with_monitor(bus.qemu().arg("-vga").arg("std"), "q", QMP, "control");
        let qemu = bus.start_qemu(config, &program);
        let picture = qemu.dir().join("screen.png").display().to_string();
        let address = format!("dbus:address={}", bus.address());
        for address in ["dbus:", "dbus:org.qemu", &address] {
            let run = |words: &[&str]| {
                let tool = Tool::new(address, words);
                let session = tool.env("DBUS_SESSION_BUS_ADDRESS", bus.address());
                session.run().ok()
            };
            assert!(run(&["status"]).contains("prelaunch"), "{address}");
            run(&["resume"]);
            run(&["pause"]);
            assert!(run(&["status"]).contains("paused"), "{address}");
            assert!(run(&["exec", "query-name"]).contains("{}"), "{address}");
            assert!(run(&["screenshot", &picture]).starts_with("Saved "));
            run(&["reset"]);
        }
    }
}

#[test]
fn what_keeps_it_from_connecting() {
    let mut bus = Bus::start();
    let address = format!("dbus:address={}", bus.address());
    let status = || Tool::new(&address, &["status"]).run();
    let with_dbus = "-display dbus -chardev dbus,id=qmp,name=org.qemu.monitor.qmp.0";
    status().says(3, "QEMU is not on the bus: nobody owns", with_dbus);
    for program in Program::all() {
        let qemu = bus.start_qemu(bus.qemu(), &program);
        status().says(3, "start QEMU with -chardev dbus,", "");
        drop(qemu);

        let hmp = with_monitor(bus.qemu(), "h", "org.qemu.monitor.hmp.0", "readline");
        let qemu = bus.start_qemu(hmp, &program);
        status().says(3, "only a human monitor (org.qemu.monitor.hmp.0)", "");
        drop(qemu);

        let hmp = with_monitor(bus.qemu(), "q", QMP, "readline");
        let qemu = bus.start_qemu(hmp, &program);
        status().says(
            3,
            "human monitor",
            "one of -mon chardev=...,mode=control (or -object monitor-qmp",
        );
        drop(qemu);

        let config = with_monitor(bus.qemu(), "q", QMP, "control");
        let _qemu = bus.start_qemu(config, &program);
        let mut events = Tool::new(&address, &["events", "--wait"]).spawn();
        let mut runs = std::iter::repeat_with(status).take(100);
        let busy = runs.find(|ended| ended.code != Some(0));
        let busy = busy.expect("the events have the monitor in the end");
        busy.says(
            3,
            "the QMP monitor is busy: held by :1.",
            "--wait waits for it",
        );
        events.kill().expect("an own child");
        events.wait().expect("an own child");
        status().ok();
        Tool::new(&address, &["ports"])
            .run()
            .says(2, "is not a SPICE server", "use spice://");
    }
    bus.kill();
    status().says(3, "the bus at", "does a bus run at this address ?");
    let nowhere = || {
        Tool::new("dbus:", &["status"])
            .env("DBUS_SESSION_BUS_ADDRESS", "")
            .env("XDG_RUNTIME_DIR", "/nonexistent")
    };
    let session = "does a session bus run ?";
    nowhere().run().says(3, "No such file", session);
    let nothing = nowhere().env("XDG_RUNTIME_DIR", "").run();
    nothing.says(3, "there is no session bus", session);
    let launched = nowhere().env("DBUS_SESSION_BUS_ADDRESS", "autolaunch:");
    launched
        .run()
        .says(2, "the address of the bus is not a D-Bus address", "");
}

#[test]
fn waiting_for_a_qemu_that_comes_late() {
    for program in Program::all() {
        let bus = Bus::start();
        let address = format!("dbus:address={}", bus.address());
        let waiting = Tool::new(&address, &["status", "--wait"]).spawn();
        let config = with_monitor(bus.qemu(), "q", QMP, "control");
        let _qemu = config.start(&program);
        assert!(tool::end(waiting).ok().contains("prelaunch"));
    }
}
