// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library in place of spice-gtk's own helper: in programs that were built
//! for that one, and beside it.

#[path = "../../tests/common/qemu.rs"]
#[allow(dead_code, unreachable_pub)]
mod qemu;
mod support;

use std::path::PathBuf;
use std::process::Command;
use std::thread;
use std::time::Duration;

use qemu::{Config, Mode, Program, Qemu};
use support::desktop::{Desktop, Process, until};
use support::{flags_of, here, library, library_dir, run, scratch};

// --- a client in C --------------------------------------------------------

/// How the same object file is linked with one helper or the other.
#[derive(Clone, Copy, Debug)]
enum Helper {
    SpiceGtk,
    Preloaded,
    LinkedFirst,
}

impl Helper {
    /// The client's output for a machine.
    fn told(self, program: &Program, config: Config) -> Told {
        let qemu = config.start(program);
        let mut client = Command::new("timeout");
        client.arg("60");
        match self {
            Helper::SpiceGtk => client.arg(client_of_spice_gtk()),
            Helper::Preloaded => client
                .arg(client_of_spice_gtk())
                .env("LD_PRELOAD", library()),
            Helper::LinkedFirst => client
                .arg(client_linked_first())
                .env("LD_LIBRARY_PATH", library_dir()),
        };
        let text = run(client.arg(qemu.spice_uri()), "coreutils");
        println!("{self:?} on {}:\n{text}", program.version());
        Told::new(&text)
    }
}

/// The client's output, and how often GLib complained.
#[derive(Debug, PartialEq)]
struct Told {
    lines: Vec<String>,
    complaints: u32,
}

impl Told {
    fn new(text: &str) -> Self {
        let mut told = Told {
            lines: Vec::new(),
            complaints: 0,
        };
        for line in text.lines() {
            match line.trim().strip_prefix("complaints: ") {
                Some(number) => told.complaints += number.parse::<u32>().expect("a number"),
                None => told.lines.push(line.to_owned()),
            }
        }
        told
    }

    fn has(&self, line: &str) -> bool {
        self.lines.iter().any(|told| told == line)
    }
}

const SPICE_GTK: &[&str] = &["spice-client-glib-2.0"];
const SPICE_GTK_DEV: &str = "gcc libc6-dev pkg-config libspice-client-glib-2.0-dev";

fn compile(source: &str, to: &str, args: &[&str]) -> PathBuf {
    let to = scratch().join(to);
    let mut cc = Command::new("cc");
    cc.args(["-g", "-Wall", "-Wextra", "-Werror"]).args(args);
    cc.arg(here().join("tests/c").join(source));
    cc.args(flags_of("--cflags", SPICE_GTK, SPICE_GTK_DEV));
    run(cc.arg("-o").arg(&to), SPICE_GTK_DEV);
    to
}

/// Links with the libraries that precede spice-gtk's.
fn link(object: &PathBuf, to: &str, before: &[String]) -> PathBuf {
    let to = scratch().join(to);
    let mut cc = Command::new("cc");
    cc.arg(object).args(before);
    cc.args(flags_of("--libs", SPICE_GTK, SPICE_GTK_DEV));
    run(cc.arg("-o").arg(&to), SPICE_GTK_DEV);
    to
}

fn client_of_spice_gtk() -> PathBuf {
    static CLIENT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let build = || link(client_object(), "client", &[]);
    CLIENT.get_or_init(build).clone()
}

fn client_linked_first() -> PathBuf {
    static CLIENT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    let ours = [
        format!("-L{}", library_dir().display()),
        "-lspice-qmp-1".into(),
    ];
    let build = || link(client_object(), "client-linked-first", &ours);
    CLIENT.get_or_init(build).clone()
}

/// The client, compiled with nothing but spice-gtk's header.
fn client_object() -> &'static PathBuf {
    static OBJECT: std::sync::OnceLock<PathBuf> = std::sync::OnceLock::new();
    OBJECT.get_or_init(|| compile("spice_gtk_client.c", "spice_gtk_client.o", &["-c"]))
}

#[test]
fn a_client_of_spice_gtk_works_unchanged_and_better() {
    for program in Program::all() {
        let before = Helper::SpiceGtk.told(&program, Config::new().running());
        let now = Helper::Preloaded.told(&program, Config::new().running());
        let linked = Helper::LinkedFirst.told(&program, Config::new().running());
        assert_eq!(now, linked);

        // The same until the port is reopened.
        let common = now
            .lines
            .iter()
            .position(|line| line.starts_with("ready while closed"))
            .expect("the client has closed its port");
        assert_eq!(before.lines[..common], now.lines[..common]);
        for line in ["ready: 1", "the same again: 1", "status: running 1"] {
            assert!(now.has(line), "{line}");
        }
        for line in ["pause: done", "paused: paused 0", "continue: done", "left"] {
            assert!(now.has(line), "{line}");
        }
        assert!(before.has("opened again: 1") && now.has("opened again: 1"));
        assert!(before.has("ready while closed: 1") && now.has("ready while closed: 0"));
        assert!(before.has("status again: (null)") && now.has("status again: running 1"));
        // Two complaints are about reopening, two about QEMU 9 and newer: one for each query.
        let of_queries = if program.major() >= 9 { 2 } else { 0 };
        assert_eq!(before.complaints, 2 + of_queries);
        assert_eq!(now.complaints, 0);
    }
}

#[test]
fn a_client_of_spice_gtk_receives_qemus_errors() {
    for program in Program::all() {
        let config = || Config::new().arg("--preconfig");
        let before = Helper::SpiceGtk.told(&program, config());
        let now = Helper::Preloaded.told(&program, config());
        assert!(before.has("pause: (null)"));
        assert!(before.complaints > 0);
        assert!(now.has(
            "pause: stop: The command 'stop' is permitted only after machine initialization \
             has completed"
        ));
        assert_eq!(now.complaints, 0);
        assert_eq!(now, Helper::LinkedFirst.told(&program, config()));
    }
}

// --- both -----------------------------------------------------------------

#[test]
fn both_helpers_live_in_one_process() {
    let modules = ["-ldl"];
    let object = compile("both_helpers.c", "both_helpers.o", &["-c"]);
    let both = link(&object, "both_helpers", &modules.map(str::to_owned));
    for program in Program::all() {
        for order in ["ours-first", "theirs-first"] {
            let qemu = Config::new()
                .port("org.qemu.monitor.qmp.0", Mode::Control)
                .port("org.qemu.monitor.qmp.1", Mode::Control)
                .start(&program);
            let mut command = Command::new("timeout");
            command
                .arg("60")
                .arg(&both)
                .args([order, &qemu.spice_uri()]);
            let told = run(command.arg(library()), "coreutils");
            assert_eq!(told.trim(), "both work");
        }
    }
}

// --- remote-viewer --------------------------------------------------------

/// Debian's unmodified remote-viewer, on a machine with a screen.
struct Viewer {
    process: Process,
    desktop: Desktop,
    window: String,
    qemu: Qemu,
}

const LOG: &str = "remote-viewer.log";
const VIRT_VIEWER: &str = "virt-viewer";

impl Viewer {
    fn start(program: &Program) -> Self {
        let qemu = Config::new()
            .running()
            .arg("-vga")
            .arg("std")
            .start(program);
        let desktop = Desktop::start(qemu.dir());
        let menu = compile("machine_menu.c", "machine_menu.so", &["-shared", "-fPIC"]);
        let mut viewer = Command::new("remote-viewer");
        viewer
            .arg(format!("--gtk-module={}", menu.display()))
            .arg(qemu.spice_uri())
            .env("LD_PRELOAD", library())
            .env("G_MESSAGES_DEBUG", "SpiceQmp");
        let process = desktop.spawn(&mut viewer, VIRT_VIEWER, LOG);
        // The window is named after the machine when its screen is shown.
        let window = desktop.window("--name", "QEMU .*");
        until("the port", || {
            let log = desktop.log(LOG);
            let mut replies = log.lines().filter(|line| line.contains("<- return "));
            replies.any(|line| line.contains("\"status\":\"running\""))
        });
        Self {
            process,
            desktop,
            window,
            qemu,
        }
    }

    fn status(&self) -> String {
        let status = self.qemu.monitor().execute("query-status", None);
        status.expect("QEMU answers")["status"]
            .as_str()
            .expect("a name")
            .to_owned()
    }

    /// Clicks on Pause in the Machine menu until the machine is in this state.
    /// remote-viewer 11.0 sometimes confuses the two, with any helper.
    fn toggle_pause(&self, state: &str) {
        for _ in 0..4 {
            self.desktop.click(&self.window, 112, 27);
            thread::sleep(Duration::from_millis(700));
            self.picture(&format!("menu-{state}"));
            self.desktop.click(&self.window, 90, 120);
            thread::sleep(Duration::from_millis(700));
            self.desktop.key("Escape");
            thread::sleep(Duration::from_millis(300));
            if self.status() == state {
                return;
            }
        }
        self.picture("failed");
        panic!("the machine is not {state}: {}", self.desktop.log(LOG));
    }

    /// Closes the window, which ends it.
    fn close(&mut self) {
        self.desktop.click(&self.window, 702, 27);
        let mut question = String::new();
        until("the question", || {
            question = self.desktop.window("--class", "remote-viewer");
            question != self.window
        });
        thread::sleep(Duration::from_millis(500));
        self.picture("question");
        self.desktop.click(&question, 220, 105);
        let exit = self.process.wait(Duration::from_secs(10));
        assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}");
        assert!(self.log().contains("-> quit"));
    }

    fn picture(&self, name: &str) {
        let version = self.qemu_version();
        let file = format!("remote-viewer-{version}-{name}.png");
        self.desktop.picture(&scratch().join(file));
    }

    fn qemu_version(&self) -> u64 {
        let version = self.qemu.monitor().execute("query-version", None);
        version.expect("QEMU answers")["qemu"]["major"]
            .as_u64()
            .expect("a number")
    }

    /// Its log, which must have no complaints.
    fn log(&self) -> String {
        let log = self.desktop.log(LOG);
        assert!(!log.contains("CRITICAL"), "{log}");
        assert!(!log.contains("WARNING"), "{log}");
        log
    }
}

#[test]
fn remote_viewer_pauses_and_resumes_a_machine() {
    for program in Program::all() {
        let mut viewer = Viewer::start(&program);
        viewer.toggle_pause("paused");
        viewer.toggle_pause("running");
        let log = viewer.log();
        assert!(log.contains("-> stop") && log.contains("<- event STOP"));
        assert!(log.contains("-> cont") && log.contains("<- event RESUME"));
        viewer.close();
    }
}

#[test]
fn remote_viewer_survives_the_end_of_its_machine() {
    for program in Program::all() {
        let mut viewer = Viewer::start(&program);
        let _ = viewer.qemu.monitor().execute("quit", None);
        let exit = viewer.process.wait(Duration::from_secs(20));
        assert!(exit.is_some_and(|exit| exit.success()), "{exit:?}");
        assert!(viewer.log().contains("SHUTDOWN"));
    }
}
