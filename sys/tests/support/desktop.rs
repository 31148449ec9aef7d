// SPDX-License-Identifier: MIT OR Apache-2.0
//! A virtual desktop, for programs with windows.

use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use super::run;

/// A program that ends with the thread that started it, at the latest.
#[derive(Debug)]
pub struct Process(Child);

impl Process {
    /// Waits for the program to end by itself.
    pub fn wait(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        loop {
            let exit = self.0.try_wait().expect("an own child can be waited for");
            if exit.is_some() || Instant::now() > deadline {
                return exit;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The first line of its output.
    fn first_line(&mut self) -> String {
        let mut line = String::new();
        let stdout = self.0.stdout.as_mut().expect("a pipe was asked for");
        BufReader::new(stdout)
            .read_line(&mut line)
            .expect("a line from an own child");
        line.trim().to_owned()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// An X server with a window manager, and a message bus.
#[derive(Debug)]
pub struct Desktop {
    display: String,
    bus: String,
    dir: PathBuf,
    _processes: [Process; 3],
    /// Dropped last: two X servers that start at once may take the same number.
    _alone: MutexGuard<'static, ()>,
}

impl Desktop {
    /// Starts one. It keeps its files in this folder.
    pub fn start(dir: &Path) -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let mut server = command("Xvfb");
        server.args(["-displayfd", "1", "-screen", "0", "1100x640x24"]);
        // A server that has lost its only client resets, and disconnects one that is connecting.
        server.args(["-noreset", "-nolisten", "tcp"]);
        server.stdout(Stdio::piped());
        let mut server = spawn(&mut server, "xvfb");
        let display = format!(":{}", server.first_line());
        assert_ne!(display, ":", "Xvfb does not start. {XVFB}");

        let mut bus = command("dbus-daemon");
        bus.args(["--session", "--nofork", "--nopidfile", "--print-address=1"]);
        let mut bus = spawn(bus.stdout(Stdio::piped()), "dbus-daemon");
        let address = bus.first_line();
        assert!(address.starts_with("unix:"), "dbus-daemon does not start");

        let manager = spawn(command("openbox").env("DISPLAY", &display), "openbox");
        let desktop = Self {
            display,
            bus: address,
            dir: dir.to_owned(),
            _processes: [server, bus, manager],
            _alone: alone,
        };
        until("the window manager", || {
            desktop.xdotool(&["get_num_desktops"]).is_some()
        });
        desktop
    }

    /// Starts a program, whose whole output is written to `LOG` in the folder.
    pub fn spawn(&self, program: &mut Command, packages: &str, log: &str) -> Process {
        let log = File::create(self.dir.join(log)).expect("a file in an own folder");
        let mut guarded = command(program.get_program().to_str().expect("a name in UTF-8"));
        guarded.args(program.get_args());
        for (name, value) in program.get_envs() {
            guarded.env(name, value.unwrap_or_default());
        }
        guarded
            .env("DISPLAY", &self.display)
            .env("DBUS_SESSION_BUS_ADDRESS", &self.bus)
            // The user's settings, and the accessibility of the user's desktop.
            .env("HOME", &self.dir)
            .env("XDG_CONFIG_HOME", &self.dir)
            .env("XDG_RUNTIME_DIR", &self.dir)
            .env("GSETTINGS_BACKEND", "memory")
            .env("NO_AT_BRIDGE", "1")
            .env("GDK_BACKEND", "x11")
            .stdout(log.try_clone().expect("a second handle"))
            .stderr(log);
        spawn(&mut guarded, packages)
    }

    /// The contents of a log.
    pub fn log(&self, log: &str) -> String {
        let bytes = fs::read(self.dir.join(log)).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The window with this class or name, as soon as it is shown.
    pub fn window(&self, how: &str, name: &str) -> String {
        let mut window = String::new();
        until(name, || {
            let found = self.xdotool(&["search", "--onlyvisible", how, name]);
            let last = found.as_deref().and_then(|found| found.lines().next_back());
            last.unwrap_or_default().clone_into(&mut window);
            !window.is_empty()
        });
        window
    }

    /// Clicks at this position in a window.
    pub fn click(&self, window: &str, x: u32, y: u32) {
        let (x, y) = (x.to_string(), y.to_string());
        // GTK accepts no click while the pointer is still moving.
        self.xdotool(&["mousemove", "--sync", "--window", window, &x, &y])
            .expect("the pointer moves");
        thread::sleep(Duration::from_millis(200));
        self.xdotool(&["click", "1"]).expect("the pointer clicks");
    }

    /// Presses a key.
    pub fn key(&self, key: &str) {
        self.xdotool(&["key", key]).expect("a key");
    }

    /// Types a text.
    pub fn type_text(&self, text: &str) {
        self.xdotool(&["type", "--delay", "50", text])
            .expect("a text");
    }

    /// Takes a picture of the screen, if `ImageMagick` is installed.
    pub fn picture(&self, to: &Path) {
        let mut import = Command::new("import");
        import.args(["-window", "root"]).arg(to);
        let _ = import.env("DISPLAY", &self.display).status();
    }

    fn xdotool(&self, args: &[&str]) -> Option<String> {
        let mut xdotool = Command::new("timeout");
        xdotool.args(["10", "xdotool"]).args(args);
        let output = xdotool
            .env("DISPLAY", &self.display)
            .output()
            .expect("timeout is a core utility");
        assert_ne!(
            output.status.code(),
            Some(127),
            "xdotool does not run. Install it: apt-get install xdotool"
        );
        let found = output.status.success();
        found.then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }
}

/// Waits for something that takes a while.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "timed out waiting for {what}");
        thread::sleep(Duration::from_millis(50));
    }
}

/// A program that ends with its parent.
fn command(program: &str) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", "--", program]);
    command.stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

fn spawn(command: &mut Command, packages: &str) -> Process {
    let program = command.get_args().nth(3).expect("a program").to_owned();
    run(
        Command::new("sh")
            .args(["-c", "command -v \"$0\""])
            .arg(program),
        packages,
    );
    Process(command.spawn().expect("setpriv is of util-linux"))
}

const PATIENCE: Duration = Duration::from_secs(30);
const XVFB: &str = "Install it: apt-get install xvfb";
