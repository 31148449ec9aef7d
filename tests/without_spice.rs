// SPDX-License-Identifier: MIT OR Apache-2.0
//! The library and its tool built without the feature `spice`.
#![cfg(all(feature = "gobject", not(feature = "spice")))]

mod common;

use std::env;
use std::process::Command;

use common::main_loop::with_default;
use glib::prelude::*;
use spice_qmp::{Error, QmpErrorCode, QmpPort, UsageError};

#[test]
fn a_program_does_not_link_spice_gtk() {
    let program = env::current_exe().unwrap();
    let output = Command::new("ldd").arg(program).output().unwrap();
    let libraries = String::from_utf8(output.stdout).unwrap();
    assert!(libraries.contains("libgio-2.0"), "{libraries}");
    assert!(!libraries.contains("spice"), "{libraries}");
}

#[test]
fn a_port_has_no_channel() {
    let class = glib::Class::<QmpPort>::from_type(QmpPort::static_type()).unwrap();
    assert!(class.find_property("status").is_some());
    assert!(class.find_property("channel").is_none());
}

#[test]
fn a_spice_server_is_not_supported() {
    with_default(|main| {
        for address in ["spice://localhost:5900", "spice+unix:///run/vm.sock"] {
            let error = main.block_on(QmpPort::open(address)).unwrap_err();
            assert!(matches!(error, Error::Usage(UsageError::NotSupported(_))));
            assert!(error.to_string().contains(address), "{error}");
            let error = glib::Error::from(error);
            assert!(error.matches(QmpErrorCode::NotSupported), "{error}");
        }
    });
}

#[cfg(feature = "cli")]
#[test]
fn the_tool_is_for_sockets() {
    let tool = |command| {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_spice-qmp"));
        let tool = tool.args(["--connect", "spice://localhost:5900", command]);
        let output = tool.output().unwrap();
        let errors = String::from_utf8(output.stderr).unwrap();
        (output.status.code(), errors)
    };
    for command in ["status", "ports"] {
        let (code, errors) = tool(command);
        assert_eq!(code, Some(2), "{errors}");
        assert!(errors.contains("built without SPICE"), "{errors}");
        assert!(errors.contains("unix:/path"), "{errors}");
    }
}
