// SPDX-License-Identifier: MIT OR Apache-2.0
//! spice-gtk and its dependencies are loaded only when needed: that takes 10 ms.

use std::fs;
use std::process::Command;

use crate::common::qemu::{Config, Program};
use crate::tool::{Tool, assert_has, run};
use crate::unix;

#[test]
fn spice_gtk_is_loaded_for_spice() {
    let program = Program::system();
    let qemu = Config::new().start(&program);
    for (address, spice) in [(unix(&qemu), false), (qemu.spice_uri(), true)] {
        let watch = Tool::start(&address, &["watch"]);
        assert_has(&watch.line(), "prelaunch");
        let maps = fs::read_to_string(format!("/proc/{}/maps", watch.child.id()));
        let maps = maps.expect("/proc");
        assert_eq!(maps.contains("libspice-client-glib"), spice, "{address}");
        watch.signal(rustix::process::Signal::INT);
        watch.end();
    }
    let mut ldd = Command::new("ldd");
    let list = ldd
        .arg(env!("CARGO_BIN_EXE_spice-qmp"))
        .output()
        .expect("ldd");
    let list = String::from_utf8(list.stdout).expect("text");
    assert!(
        list.contains("libgio-2.0") && !list.contains("spice") && !list.contains("json"),
        "{list}"
    );
}

#[test]
fn spice_gtk_that_cannot_be_loaded() {
    let qemu = Config::new().start(&Program::system());
    let library = qemu.dir().join("libspice-client-glib-2.0.so.8");
    fs::write(&library, "no library").expect("a file");
    let folder = qemu.dir().display().to_string();
    let with = |address: &str| {
        let env = [("LD_LIBRARY_PATH", folder.as_str())];
        Tool::start_with(address, &["status"], &env).end()
    };
    let error = with(&qemu.spice_uri()).failed(3);
    assert_has(&error, "SPICE needs spice-gtk: ");
    assert_has(&error, "hint: install libspice-client-glib-2.0");
    with(&unix(&qemu)).ok();
    run(&qemu.spice_uri(), &["status"]).ok();
}
