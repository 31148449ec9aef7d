// SPDX-License-Identifier: MIT OR Apache-2.0
//! `examples/viewer.c` on a virtual screen: its menus are used.

#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
#[path = "../../tests/common/run_states.rs"]
#[allow(dead_code, unreachable_pub)]
mod run_states;
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::Duration;

use qemu::{Config, Program};
use run_states::{Machine, RunState};
use serde_json::json;
use support::desktop::{Desktop, Process, until};
use support::{flags_of, here, include_dirs, library_dir, run, scratch};
use tempfile::TempDir;

const LOG: &str = "viewer.log";
const GTK: &str = "libspice-client-gtk-3.0-dev";

/// The viewer, on a machine with a screen.
struct Viewer {
    process: Process,
    desktop: Desktop,
    window: String,
    guest: Machine,
}

impl Viewer {
    fn start(state: RunState, program: &Program) -> Self {
        Self::start_with(Config::new(), state, program)
    }

    fn start_with(config: Config, state: RunState, program: &Program) -> Self {
        let config = config.arg("-vga").arg("std");
        let guest = state.start_with(config, program);
        let desktop = Desktop::start(guest.qemu.dir());
        let mut viewer = Command::new(compile());
        viewer
            .arg(guest.qemu.spice_uri())
            .env("LD_LIBRARY_PATH", library_dir())
            .env("G_MESSAGES_DEBUG", "SpiceQmp");
        let process = desktop.spawn(&mut viewer, GTK, LOG);
        let window = desktop.window("--name", "Virtual machine");
        let viewer = Self {
            process,
            desktop,
            window,
            guest,
        };
        viewer.until_logged("\"status\":\"running\"");
        viewer
    }

    fn until_logged(&self, part: &str) {
        until(part, || {
            let log = self.desktop.log(LOG).replace("\": ", "\":");
            log.contains(part)
        });
    }

    /// Waits until QEMU reports this about the drives.
    fn until_block(&mut self, condition: impl Fn(&str) -> bool) {
        until("the drives", || {
            let block = self.guest.monitor.execute("query-block", None);
            condition(&block.expect("QEMU answers").to_string())
        });
    }

    /// Clicks on an item of the power menu.
    fn choose(&self, y: u32) {
        // Until the main loop has shown what was logged.
        thread::sleep(Duration::from_millis(500));
        self.desktop.click(&self.window, 42, 22);
        thread::sleep(Duration::from_millis(700));
        self.desktop.click(&self.window, 50, y);
        thread::sleep(Duration::from_millis(300));
        self.desktop.key("Escape");
    }

    /// Opens the menu with the button there, and presses keys in it.
    fn press(&self, x: u32, keys: &[&str]) {
        self.desktop.click(&self.window, x, 22);
        thread::sleep(Duration::from_millis(700));
        self.press_here(keys);
    }

    fn press_here(&self, keys: &[&str]) {
        for key in keys {
            self.desktop.key(key);
            thread::sleep(Duration::from_millis(200));
        }
    }

    fn close(mut self) {
        self.desktop.click(&self.window, 978, 22);
        let exit = self.process.wait(Duration::from_secs(15));
        let log = self.desktop.log(LOG);
        assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}: {log}");
        // GTK 3 itself logs the latter for a dialog that a key has closed.
        let is_bad =
            |line: &str| line.contains("CRITICAL") && !line.contains("WIDGET_REALIZED_FOR_EVENT");
        assert!(!log.lines().any(is_bad), "{log}");
        self.guest.status().expect("QEMU lives");
    }
}

/// The positions of the menus' buttons.
const DRIVES: u32 = 146;
const SNAPSHOTS: u32 = 258;
/// The positions of the power menu's items.
const PAUSE: u32 = 83;
const RESET: u32 = 109;

/// The viewer as a program.
fn compile() -> PathBuf {
    fs::create_dir_all(scratch()).expect("a folder in target/tmp");
    let program = scratch().join("viewer");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-Wall", "-Wextra", "-Werror"])
        .args(include_dirs().map(|dir| format!("-I{}", dir.display())))
        .arg(here().join("../examples/viewer.c"))
        .arg("-o")
        .arg(&program)
        // Before spice-gtk, which has some of the functions, too.
        .arg("-L")
        .arg(library_dir())
        .arg("-lspice-qmp-1")
        .args(flags_of("--cflags", &["spice-client-gtk-3.0"], GTK))
        .args(flags_of("--libs", &["spice-client-gtk-3.0"], GTK));
    run(&mut compiler, GTK);
    program
}

#[test]
fn the_menu_pauses_resumes_and_resets() {
    for program in Program::all() {
        let mut viewer = Viewer::start(RunState::PAUSED, &program);
        viewer.choose(PAUSE);
        viewer.guest.until("paused");
        // It follows another monitor.
        viewer.guest.wake();
        viewer.choose(PAUSE);
        viewer.guest.until("paused");
        viewer.choose(RESET);
        viewer.guest.until("prelaunch");
        viewer.choose(PAUSE);
        viewer.guest.until("running");
        viewer.close();
    }
}

#[test]
fn a_full_disk_is_shown_and_disables_the_menu() {
    for program in Program::all() {
        let mut viewer = Viewer::start(RunState::IO_ERROR, &program);
        viewer.guest.reach();
        viewer.until_logged("BLOCK_IO_ERROR");
        let written = || viewer.desktop.log(LOG).matches("-> ").count();
        let before = written();
        viewer.choose(PAUSE);
        viewer.choose(RESET);
        let picture = format!("full-{}.png", program.major());
        viewer.desktop.picture(&scratch().join(picture));
        assert_eq!(written(), before, "a mute port is written to");
        viewer.guest.resume();
        viewer.until_logged("RESUME");
        viewer.choose(PAUSE);
        viewer.guest.until("paused");
        viewer.close();
    }
}

#[test]
fn discs_snapshots_and_jobs_are_shown_and_used() {
    for program in Program::all() {
        let folder = TempDir::with_prefix("spice-qmp-").expect("a folder");
        let mut viewer = Viewer::start_with(disks(folder.path()), RunState::RUNNING, &program);

        viewer.press(DRIVES, &["Return"]);
        viewer.desktop.window("--name", "Change disc$");
        viewer.press_here(&["ctrl+l"]);
        let disc = folder.path().join("disc.iso").display().to_string();
        viewer.desktop.type_text(&disc);
        // The dialog reads the folder first, and ignores the key meanwhile.
        thread::sleep(Duration::from_secs(1));
        viewer.press_here(&["Return"]);
        viewer.until_block(|block| block.contains(&disc));
        viewer.press_here(&["Escape"]);

        viewer.press(SNAPSHOTS, &[]);
        viewer.desktop.type_text("before");
        viewer.press_here(&["Tab", "space"]);
        viewer.until_block(|block| block.contains("\"name\":\"before\""));

        let backup = json!({
            "job-id": "nightly", "device": "disk", "target": "copy", "sync": "full",
            "speed": 1 << 20,
        });
        viewer.guest.execute("blockdev-backup", backup);
        viewer.until_logged("\"type\":\"backup\"");
        let picture = format!("disks-{}.png", program.major());
        viewer.desktop.picture(&scratch().join(picture));
        let cancel = json!({ "id": "nightly" });
        viewer.guest.execute("job-cancel", cancel);

        // Back to the name, which is deleted, and to the list, which has it as well.
        viewer.press_here(&["shift+Tab", "ctrl+a", "BackSpace", "shift+Tab", "Return"]);
        // On to the last button.
        viewer.press_here(&["Tab", "Tab", "Tab", "Tab", "space"]);
        viewer.until_block(|block| !block.contains("\"name\":\"before\""));
        viewer.press_here(&["Escape"]);
        viewer.close();
    }
}

/// A disk that can hold snapshots, an empty drive, a disc and a file for a backup.
fn disks(folder: &Path) -> Config {
    let path = |name: &str| folder.join(name).display().to_string();
    let mut image = Command::new("qemu-img");
    image.args(["create", "-q", "-f", "qcow2", &path("disk"), "64M"]);
    run(&mut image, "qemu-utils");
    for (name, size) in [("disc.iso", 1 << 20), ("copy", 64 << 20)] {
        let file = File::create(folder.join(name)).expect("a file in a new folder");
        file.set_len(size).expect("a sparse file");
    }
    let disk = format!(
        "qcow2,node-name=disk,file.driver=file,file.filename={}",
        path("disk")
    );
    let copy = format!("file,node-name=copy,filename={}", path("copy"));
    let drives = [
        "ide-hd,id=hd0,bus=ide.0,drive=disk",
        "ide-cd,id=cd0,bus=ide.1,drive=cd",
    ];
    Config::new()
        .arg("-blockdev")
        .arg(disk)
        .arg("-blockdev")
        .arg(copy)
        .arg("-drive")
        .arg("if=none,id=cd")
        .arg("-device")
        .arg(drives[0])
        .arg("-device")
        .arg(drives[1])
}
