// SPDX-License-Identifier: MIT OR Apache-2.0
//! `examples/machine-manager.py` on a virtual screen, with two machines.

#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
#[path = "../../tests/common/run_states.rs"]
#[allow(dead_code, unreachable_pub)]
mod run_states;
mod support;

use std::fs::{self, File};
use std::path::Path;
use std::time::Duration;

use qemu::{Config, Program};
use run_states::{Machine, RunState};
use support::desktop::Desktop;
use support::{here, scratch, typelib, with_library};

const LOG: &str = "manager.log";
const DISK_SIZE: u64 = 64 << 20;

#[test]
fn a_person_manages_two_machines() {
    let gir = scratch().join("python");
    fs::create_dir_all(&gir).expect("a folder in target/tmp");
    typelib(&gir);
    for program in Program::all() {
        let folder = tempfile::Builder::new()
            .prefix("spice-qmp-")
            .tempdir_in("/tmp")
            .expect("a folder in /tmp is needed: make /tmp writable");
        manage(&program, folder.path(), &gir);
    }
}

fn manage(program: &Program, folder: &Path, gir: &Path) {
    let other = folder.join("other");
    fs::create_dir(&other).expect("a folder in a new one");
    for (name, size) in [
        ("disc.iso", 1 << 20),
        ("other/disk", DISK_SIZE),
        ("other/copy", DISK_SIZE),
    ] {
        let file = File::create(folder.join(name)).expect("a file in a new folder");
        file.set_len(size).expect("a sparse file");
    }
    let full = RunState::IO_ERROR.start_with(serving(&folder.join("full.sock")), program);
    let debian = RunState::RUNNING.start_with(with_disks(&other), program);

    let desktop = Desktop::start(full.qemu.dir());
    // Debian's: another one in PATH does not have its GObject.
    let mut python = with_library("/usr/bin/python3");
    python
        .arg(here().join("../tests/bindings/manager.py"))
        .arg(here().join("../examples/machine-manager.py"))
        .arg(folder)
        .arg(scratch().join(format!("manager-{}.png", program.major())))
        .args([&full, &debian].map(|machine: &Machine| machine.qemu.qmp_socket()))
        .env("GI_TYPELIB_PATH", gir)
        .env("GTK_A11Y", "none")
        .env("GSK_RENDERER", "cairo");
    let mut process = desktop.spawn(&mut python, "gir1.2-gtk-4.0", LOG);
    let exit = process.wait(Duration::from_secs(150));
    let log = desktop.log(LOG);
    assert!(
        exit.is_some_and(|exit| exit.success()),
        "QEMU {}, {exit:?}: {log}",
        program.version()
    );
    assert!(!log.contains("CRITICAL"), "{log}");
    // Exceptions in callbacks are only printed.
    assert!(!log.contains("Traceback"), "{log}");
}

/// With one more monitor, which is for the manager.
fn serving(socket: &Path) -> Config {
    let monitor = format!("unix:{},server=on,wait=off", socket.display());
    Config::new().arg("-qmp").arg(monitor)
}

fn with_disks(folder: &Path) -> Config {
    let node = |name| {
        let file = folder.join(name);
        format!("file,node-name={name},filename={}", file.display())
    };
    [
        ("-drive", "if=none,id=cd".to_owned()),
        ("-device", "ide-cd,id=cd0,bus=ide.1,drive=cd".to_owned()),
        ("-blockdev", node("disk")),
        ("-device", "ide-hd,id=hd0,bus=ide.0,drive=disk".to_owned()),
        ("-blockdev", node("copy")),
    ]
    .into_iter()
    .fold(
        serving(&folder.join("debian.sock")),
        |config, (name, value)| config.arg(name).arg(value),
    )
}
