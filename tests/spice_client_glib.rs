// SPDX-License-Identifier: MIT OR Apache-2.0
//! The feature `spice-client-glib`: that crate's types are accepted as they are.
#![cfg(feature = "spice-client-glib")]

mod common;

use common::main_loop::with_default;
use common::qemu::{Config, Program};
use glib::prelude::*;
use spice_client_glib::prelude::*;
use spice_qmp::QmpPort;

#[test]
fn its_session_and_its_port_channel_lead_to_the_same_port() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let session = spice_client_glib::Session::new();
            session.set_uri(Some(&qemu.spice_uri()));
            let port = main.block_on(QmpPort::find(&session)).unwrap();
            assert!(port.ready());

            let channel = session
                .channels()
                .into_iter()
                .find_map(|channel| channel.downcast::<spice_client_glib::PortChannel>().ok())
                .expect("the session has a port channel");
            assert_eq!(
                channel.port_name().as_deref(),
                Some("org.qemu.monitor.qmp.0")
            );
            assert_eq!(QmpPort::get(&channel), port);

            let status = main.block_on(port.query_status()).unwrap();
            assert_eq!(status.status(), "prelaunch");
            session.disconnect();
            main.until("the port to close", || !port.ready());
        }
    });
}
