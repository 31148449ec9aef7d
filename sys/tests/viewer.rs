//! `examples/viewer.c` on a screen that nobody sees: its menu is clicked on.

#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
#[path = "../../tests/common/run_states.rs"]
#[allow(dead_code, unreachable_pub)]
mod run_states;
mod support;

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use qemu::{Config, Program};
use run_states::{Machine, RunState};
use support::desktop::{Desktop, Process, until};
use support::{flags_of, here, include_dirs, library_dir, run, scratch};

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
        let config = Config::new().arg("-vga").arg("std");
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

    fn close(mut self) {
        self.desktop.click(&self.window, 978, 22);
        let exit = self.process.wait(Duration::from_secs(15));
        let log = self.desktop.log(LOG);
        assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}: {log}");
        assert!(!log.contains("CRITICAL"), "{log}");
        self.guest.status().expect("QEMU lives");
    }
}

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
