// SPDX-License-Identifier: MIT OR Apache-2.0
//! The feature `qapi`: typed commands of the whole schema.
#![cfg(feature = "qapi")]

mod common;

use common::main_loop::with_own_pushed;
use common::qemu::{Config, Program};
use qapi_qmp::{device_del, query_name, query_version};
use spice_qmp::{Error, ErrorClass, QmpPort};

#[test]
fn typed_commands_have_typed_replies_and_errors() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let address = format!("unix:{}", qemu.qmp_socket().display());
            let port = main.block_on(QmpPort::open(&address)).unwrap();

            let version = main.block_on(port.run(&query_version {})).unwrap();
            assert_eq!(version.qemu.major, i64::from(program.major()));
            assert_eq!(main.block_on(port.run(&query_name {})).unwrap().name, None);

            let id = "no-such-disk".into();
            let refused = main.block_on(port.run(&device_del { id })).unwrap_err();
            let Error::Command { class, desc, .. } = refused else {
                panic!("{refused}");
            };
            assert_eq!(class, ErrorClass::DeviceNotFound);
            assert!(desc.contains("no-such-disk"), "{desc}");
        }
    });
}
