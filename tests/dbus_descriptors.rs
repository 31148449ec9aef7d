// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports on D-Bus displays leave no file descriptors. Alone in its process.
#![cfg(feature = "spice")]

mod common;

use std::fs;

use common::dbus::{Bus, with_monitor};
use common::display::DisplayPeer;
use common::main_loop::{MainLoop, at_home, with_own};
use common::peers::Peer;
use common::qemu::Program;
use spice_qmp::transport::DbusTransport;
use spice_qmp::{PortState, QmpPort};

fn descriptors() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux").count()
}

/// Done once, it may leave some of GLib's; done again, none.
fn leaves_none(main: &MainLoop, work: impl Fn()) {
    work();
    main.drain();
    let before = descriptors();
    for _ in 0..10 {
        work();
    }
    // GDBus closes unused descriptors on a thread of its own.
    main.until("the end of them", || descriptors() <= before);
}

#[test]
fn none_is_left() {
    with_own(|main| {
        leaves_none(main, || {
            let display = DisplayPeer::start();
            let make = || DbusTransport::new(display.connection(), None, QmpPort::is_qmp_name);
            let port = at_home(|| QmpPort::for_transport(Box::new(make())));
            for _ in 0..5 {
                display.open();
                assert_eq!(port.state(), PortState::Greeting);
                display.close();
                main.until("the close", || port.state() == PortState::Closed);
            }
        });
        let bus = Bus::start();
        let config = with_monitor(bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
        let _qemu = bus.start_qemu(config, &Program::system());
        let connection = bus.connect();
        leaves_none(main, || {
            let found = QmpPort::find_on_bus(&connection, Some("org.qemu"));
            let port = main.block_on(found).expect("the port");
            main.block_on(port.close());
        });
        let address = format!("dbus:address={}", bus.address());
        leaves_none(main, || {
            let port = main.block_on(QmpPort::open(&address)).expect("the port");
            main.block_on(port.close());
        });
        let nobody = format!("dbus:address={},name=org.example", bus.address());
        leaves_none(main, || {
            let found = main.block_on(QmpPort::open(&nobody));
            found.expect_err("nobody owns the name");
        });
        leaves_none(main, || {
            let found = main.block_on(QmpPort::find_on_bus(&connection, Some("org.example")));
            found.expect_err("nobody owns the name");
        });
    });
}
