// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hostile SPICE server: `tests/hostile/spice-server.c`, controlled by the test.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, mem, thread};

use rustix::process::{Pid, Signal, WaitOptions, kill_process, waitpid};
use spice_qmp::PortChannel;
use tempfile::TempDir;

use super::main_loop::{MainLoop, PATIENCE};
use super::peers::Peer;
use super::spice::Client;

/// The name of the server's port, unless a test has it otherwise.
pub const PORT: &str = "org.qemu.monitor.qmp.0";

/// The server: a process of its own, killed when this is dropped.
pub struct SpiceServer {
    process: Process,
    ports: Vec<String>,
    /// The folder of the socket, which outlives a process.
    folder: TempDir,
}

/// One process of the server.
struct Process {
    child: Child,
    input: Mutex<ChildStdin>,
    told: Arc<Told>,
}

/// What the server reported.
#[derive(Default)]
struct Told {
    reports: Mutex<Reports>,
    news: Condvar,
}

#[derive(Default)]
struct Reports {
    /// It serves, or has ended.
    up: bool,
    ended: bool,
    /// How many of the test's questions it answered.
    synced: usize,
    ports: Vec<PortReport>,
}

#[derive(Default)]
struct PortReport {
    connected: bool,
    received: Vec<u8>,
}

impl SpiceServer {
    /// A server with one port.
    pub fn start() -> Self {
        Self::with_ports(&[PORT])
    }

    /// A server with ports of these names.
    pub fn with_ports(names: &[&str]) -> Self {
        // Not TMPDIR: the path of a Unix socket must stay under 108 bytes.
        let folder = tempfile::Builder::new()
            .prefix("spice-qmp-")
            .tempdir_in("/tmp")
            .expect("a folder in /tmp is needed: make /tmp writable");
        let ports: Vec<_> = names.iter().map(|&name| name.to_owned()).collect();
        Self {
            process: Process::start(folder.path(), &ports),
            ports,
            folder,
        }
    }

    /// Its address.
    pub fn uri(&self) -> String {
        format!("spice+unix://{}", socket(self.folder.path()).display())
    }

    /// Opens a port.
    pub fn open(&self, port: usize) {
        self.tell(&format!("{port} open"));
    }

    /// Closes a port.
    pub fn close(&self, port: usize) {
        self.tell(&format!("{port} close"));
    }

    /// Sends bytes through a port, in one message.
    pub fn send(&self, port: usize, bytes: &[u8]) {
        let mut command = format!("{port} write ");
        for byte in bytes {
            write!(command, "{byte:02x}").expect("a string takes all");
        }
        self.tell(&command);
    }

    /// Accepts no more bytes from a port (`true`), or accepts them again.
    pub fn stall(&self, port: usize, stalled: bool) {
        let command = if stalled { "stall" } else { "read" };
        self.tell(&format!("{port} {command}"));
    }

    /// The bytes received through a port since the last call.
    pub fn received(&self, port: usize) -> Vec<u8> {
        mem::take(&mut self.process.told.reports().ports[port].received)
    }

    /// Whether a client has the channel of a port.
    pub fn is_connected(&self, port: usize) -> bool {
        self.process.told.reports().ports[port].connected
    }

    /// Cuts all connections.
    pub fn kick(&self) {
        self.tell("kick");
    }

    /// Cuts each new connection at once (`true`), or accepts it.
    pub fn refuse(&self, refuses: bool) {
        self.tell(if refuses { "refuse" } else { "accept" });
    }

    /// Freezes the server: its sockets stay open, and it does nothing any more.
    pub fn stop(&self) {
        let pid = Pid::from_child(&self.process.child);
        kill_process(pid, Signal::STOP).expect("an own child takes signals");
        let stopped = waitpid(Some(pid), WaitOptions::UNTRACED).expect("an own child");
        assert!(stopped.is_some_and(|(_, status)| status.stopped()));
    }

    /// Lets a frozen server continue.
    pub fn cont(&self) {
        let pid = Pid::from_child(&self.process.child);
        kill_process(pid, Signal::CONT).expect("an own child takes signals");
    }

    /// Ends the server as a crash would.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Ends the server, and starts another one at the same address.
    pub fn restart(&mut self) {
        self.process.kill();
        let _ = fs::remove_file(socket(self.folder.path()));
        self.process = Process::start(self.folder.path(), &self.ports);
    }

    /// Sends a command, and waits until it is done. The server must not be frozen.
    #[track_caller]
    fn tell(&self, command: &str) {
        let told = &self.process.told;
        let before = told.reports().synced;
        let lines = format!("{command}\nsync\n");
        let mut input = self.process.input();
        input.write_all(lines.as_bytes()).expect("the server runs");
        drop(input);
        told.wait(command, |reports| reports.synced > before || reports.ended);
        assert!(!told.reports().ended, "{command}: {}", self.stderr());
    }

    fn stderr(&self) -> String {
        fs::read_to_string(self.folder.path().join("stderr")).unwrap_or_default()
    }
}

impl Process {
    fn start(folder: &Path, ports: &[String]) -> Self {
        let log = File::create(folder.join("stderr")).expect("a file in a new folder");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program())
            .arg(socket(folder))
            .args(ports)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .expect("setpriv does not run: apt-get install util-linux");
        let input = child.stdin.take().expect("a pipe");
        let output = child.stdout.take().expect("a pipe");
        let told = Arc::<Told>::default();
        told.reports()
            .ports
            .resize_with(ports.len(), PortReport::default);
        thread::spawn({
            let told = told.clone();
            move || told.listen(output)
        });
        told.wait("the server's start", |reports| reports.up);
        Self {
            child,
            input: Mutex::new(input),
            told,
        }
    }

    fn input(&self) -> MutexGuard<'_, ChildStdin> {
        self.input.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn kill(&mut self) {
        // SIGKILL ends a frozen process too.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

impl Told {
    fn reports(&self) -> MutexGuard<'_, Reports> {
        self.reports.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[track_caller]
    fn wait(&self, what: &str, mut done: impl FnMut(&Reports) -> bool) {
        let (reports, timeout) = self
            .news
            .wait_timeout_while(self.reports(), PATIENCE, |reports| !done(reports))
            .unwrap_or_else(PoisonError::into_inner);
        drop(reports);
        assert!(!timeout.timed_out(), "timed out after {PATIENCE:?}: {what}");
    }

    /// Reads the server's output to its end.
    fn listen(&self, output: ChildStdout) {
        for line in BufReader::new(output).lines() {
            let Ok(line) = line else { break };
            self.reports().take(&line);
            self.news.notify_all();
        }
        let mut reports = self.reports();
        reports.up = true;
        reports.ended = true;
        for port in &mut reports.ports {
            port.connected = false;
        }
        self.news.notify_all();
    }
}

impl Reports {
    fn take(&mut self, line: &str) {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["listening"] => self.up = true,
            ["synced"] => self.synced += 1,
            [port, "connected"] => self.port(port).connected = true,
            [port, "gone"] => self.port(port).connected = false,
            [port, "read", hex] => self.port(port).received.extend(from_hex(hex)),
            _ => panic!("the server prints {line:?}"),
        }
    }

    fn port(&mut self, number: &str) -> &mut PortReport {
        let number: usize = number.parse().expect("the number of a port");
        &mut self.ports[number]
    }
}

fn from_hex(hex: &str) -> impl Iterator<Item = u8> {
    let digit = |at| u8::from_str_radix(&hex[at..at + 2], 16).expect("two hexadecimal digits");
    (0..hex.len()).step_by(2).map(digit)
}

fn socket(folder: &Path) -> PathBuf {
    folder.join("spice.sock")
}

/// The program, compiled once by each test binary.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(compile)
}

fn compile() -> PathBuf {
    let test = env::current_exe().expect("the test has a name");
    let name = test.file_stem().expect("the test has a name");
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    fs::create_dir_all(&folder).expect("a folder in target/tmp");
    let program = folder.join("spice-server");
    let flags = run(
        Command::new("pkg-config").args(["--cflags", "--libs", "spice-server", "glib-2.0"]),
        "pkg-config libspice-server-dev libglib2.0-dev",
    );
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/hostile/spice-server.c");
    let mut compiler = Command::new("cc");
    compiler
        .args(["-std=gnu11", "-g", "-Wall", "-Wextra", "-Werror", "-o"])
        .arg(&program)
        .arg(source)
        .args(flags.split_whitespace());
    run(&mut compiler, "gcc libc6-dev");
    program
}

/// The output of a command. `packages` are what it needs.
fn run(command: &mut Command, packages: &str) -> String {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{error}: apt-get install {packages}"));
    assert!(
        output.status.success(),
        "{command:?} failed. Is all there? apt-get install {packages}\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

/// A port of the server, and a SPICE client that is connected to it.
pub struct SpicePeer {
    pub server: SpiceServer,
    pub client: Client,
}

impl SpicePeer {
    /// Starts a server, and connects a SPICE client to its port.
    pub fn start(main: &MainLoop) -> Self {
        let server = SpiceServer::start();
        let client = Client::to(&server.uri());
        client.connect(main);
        Self { server, client }
    }

    /// The channel of the port.
    pub fn channel(&self) -> PortChannel {
        self.client.ports().remove(0)
    }
}

impl Peer for SpicePeer {
    fn may_send_a_rest(&self) -> bool {
        true
    }

    fn open(&self) {
        self.server.open(0);
    }

    fn send(&self, bytes: &[u8]) {
        self.server.send(0, bytes);
    }

    fn received(&self) -> Vec<u8> {
        // Its earlier messages have been read once it has answered twice.
        for _ in 0..2 {
            self.server.refuse(false);
        }
        self.server.received(0)
    }

    fn block(&self, blocked: bool) -> bool {
        self.server.stall(0, blocked);
        true
    }

    fn close(&self) {
        self.server.close(0);
    }

    fn reopens(&self) -> bool {
        true
    }

    fn keeps_early_bytes(&self) -> bool {
        false
    }

    fn holds_back(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, main: &MainLoop) {
        self.client.finish(main);
    }
}
