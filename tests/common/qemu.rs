// SPDX-License-Identifier: MIT OR Apache-2.0
//! Real QEMU processes to test against.
//!
//! Plain blocking code, so that a test can run a `GLib` main loop of its own.
//!
//! ```ignore
//! for program in Program::all() {
//!     let qemu = Config::new().start(&program);
//!     // ... talk to qemu.spice_uri(), then look from outside:
//!     let status = qemu.monitor().execute("query-status", None);
//! } // QEMU is killed and its folder removed
//! ```

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, ErrorKind, Write};
use std::net::TcpListener;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// A QEMU that is installed here.
#[derive(Clone, Debug)]
pub struct Program {
    path: PathBuf,
    args: Vec<OsString>,
    env: Vec<(&'static str, PathBuf)>,
    version: String,
}

impl Program {
    /// The system's QEMU, and 10.0 from `./dev qemu10` if the system's is older.
    ///
    /// `SPICE_QMP_TEST_QEMU=system` in the environment leaves the second one out.
    pub fn all() -> Vec<Program> {
        static ALL: OnceLock<Vec<Program>> = OnceLock::new();
        ALL.get_or_init(|| {
            let system = Program::system();
            let only_system = env::var_os("SPICE_QMP_TEST_QEMU").is_some_and(|v| v == "system");
            if only_system || system.major() >= 10 {
                vec![system]
            } else {
                vec![system, Program::unpacked()]
            }
        })
        .clone()
    }

    /// The QEMU found in `PATH`.
    pub fn system() -> Program {
        Program::new("qemu-system-x86_64".into(), Vec::new(), Vec::new()).expect(
            "no qemu-system-x86_64 found: run ./dev setup (or: apt-get install qemu-system-x86)",
        )
    }

    /// The QEMU 10.0 that `./dev qemu10` unpacks into the cache folder.
    fn unpacked() -> Program {
        let root = cache_dir().join("spice-qmp/qemu-10");
        let firmware = ["usr/share/qemu", "usr/share/seabios"];
        let args = firmware
            .iter()
            .flat_map(|folder| ["-L".into(), root.join(folder).into()])
            .collect();
        let env = modules_dir(&root).map(|dir| ("QEMU_MODULE_DIR", dir));
        Program::new(
            root.join("usr/bin/qemu-system-x86_64"),
            args,
            env.into_iter().collect(),
        )
        .expect(
            "QEMU 10 is needed beside the system's older one: run ./dev qemu10 \
             (or leave it out: SPICE_QMP_TEST_QEMU=system)",
        )
    }

    /// Asks the program for its version. An error means that it does not run.
    fn new(
        path: PathBuf,
        args: Vec<OsString>,
        env: Vec<(&'static str, PathBuf)>,
    ) -> io::Result<Program> {
        let output = Command::new(&path)
            .arg("--version")
            .envs(env.iter().cloned())
            .output()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let version = text
            .strip_prefix("QEMU emulator version ")
            .and_then(|rest| rest.split_whitespace().next())
            .ok_or_else(|| {
                let stderr = String::from_utf8_lossy(&output.stderr);
                io::Error::other(format!("no version in {text:?}, {stderr:?}"))
            })?
            .to_owned();
        Ok(Program {
            path,
            args,
            env,
            version,
        })
    }

    /// The version, such as `10.0.2`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The first number of the version.
    pub fn major(&self) -> u32 {
        let first = self.version.split('.').next().unwrap_or_default();
        first
            .parse()
            .unwrap_or_else(|_| panic!("not a QEMU version: {:?}", self.version))
    }
}

/// The protocol of a monitor on a SPICE port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// QMP, one line for each message.
    Control,
    /// QMP, with each message spread over several lines.
    ControlPretty,
    /// The human monitor.
    Readline,
}

impl Mode {
    fn option(self) -> &'static str {
        match self {
            Mode::Control => "mode=control",
            Mode::ControlPretty => "mode=control,pretty=on",
            Mode::Readline => "mode=readline",
        }
    }
}

/// The options that a QEMU is started with.
///
/// By default: SPICE on a Unix socket without a ticket, one QMP port, a QMP
/// socket, and a machine that waits for `cont`.
#[derive(Clone, Debug)]
pub struct Config {
    spice: Spice,
    ports: Option<Vec<(String, Mode)>>,
    pretty_socket: bool,
    args: Vec<OsString>,
    running: bool,
}

#[derive(Clone, Debug)]
enum Spice {
    /// A Unix socket: the given one, or one in QEMU's folder.
    Unix(Option<PathBuf>),
    /// A free TCP port and a ticket.
    Tcp { password: String },
}

impl Default for Config {
    fn default() -> Config {
        Config {
            spice: Spice::Unix(None),
            ports: None,
            pretty_socket: false,
            args: Vec::new(),
            running: false,
        }
    }
}

impl Config {
    /// The default described above.
    pub fn new() -> Config {
        Config::default()
    }

    /// SPICE on a free TCP port of 127.0.0.1, behind this ticket.
    pub fn spice_tcp_password(mut self, password: &str) -> Config {
        let password = password.to_owned();
        self.spice = Spice::Tcp { password };
        self
    }

    /// SPICE on this Unix socket. For a server that restarts at the same address.
    pub fn spice_unix(mut self, path: impl Into<PathBuf>) -> Config {
        self.spice = Spice::Unix(Some(path.into()));
        self
    }

    /// A monitor on a SPICE port with this name. Replaces the default port; call
    /// it once for each port.
    pub fn port(mut self, name: &str, mode: Mode) -> Config {
        let ports = self.ports.get_or_insert_default();
        ports.push((name.to_owned(), mode));
        self
    }

    /// No monitor on any SPICE port.
    pub fn no_ports(mut self) -> Config {
        self.ports = Some(Vec::new());
        self
    }

    /// A second QMP socket, where each message is spread over several lines.
    pub fn pretty_socket(mut self) -> Config {
        self.pretty_socket = true;
        self
    }

    /// One more argument for QEMU.
    pub fn arg(mut self, arg: impl Into<OsString>) -> Config {
        self.args.push(arg.into());
        self
    }

    /// Lets the machine run at once, instead of waiting for `cont`.
    pub fn running(mut self) -> Config {
        self.running = true;
        self
    }

    /// Starts QEMU, and waits until it serves all its sockets.
    ///
    /// QEMU ends with the thread that started it, at the latest, so that a
    /// crashed test leaves nothing behind.
    pub fn start(self, program: &Program) -> Qemu {
        // Another process can take the free TCP port before QEMU does.
        for _ in 0..5 {
            match self.try_start(program) {
                Ok(qemu) => return qemu,
                Err(stderr) if stderr.contains("Address already in use") => {}
                Err(stderr) => panic!(
                    "QEMU {} did not start: mend the arguments of the test \
                     (or run ./dev setup, if a part of QEMU is missing)\n{self:#?}\n{stderr}",
                    program.version
                ),
            }
        }
        panic!("no free TCP port was found for SPICE: end what holds the ports, then try again");
    }

    /// If QEMU ends early, this returns its standard error.
    fn try_start(&self, program: &Program) -> Result<Qemu, String> {
        // Not TMPDIR: the path of a Unix socket must stay under 108 bytes.
        let dir = tempfile::Builder::new()
            .prefix("spice-qmp-")
            .tempdir_in("/tmp")
            .expect("a folder in /tmp is needed: make /tmp writable");
        let (spice_args, spice_uri) = self.spice_args(dir.path());
        let log = File::create(dir.path().join("stderr")).expect("a file in a new folder");

        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(&program.path);
        command
            .args(&program.args)
            .envs(program.env.iter().cloned());
        command.args([
            "-machine",
            "pc",
            "-display",
            "none",
            "-nodefaults",
            "-m",
            "64",
        ]);
        command.args(&spice_args);
        command.args(self.monitor_args(dir.path()));
        if !self.running {
            command.arg("-S");
        }
        command.args(&self.args);
        command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);

        let child = command
            .spawn()
            .expect("setpriv does not run: apt-get install util-linux");
        let mut qemu = Qemu {
            child,
            dir,
            spice_uri,
            exit: None,
        };
        qemu.wait_until_serving()?;
        Ok(qemu)
    }

    fn spice_args(&self, dir: &Path) -> (Vec<String>, String) {
        match &self.spice {
            Spice::Unix(path) => {
                let path = path.clone().unwrap_or_else(|| dir.join("spice.sock"));
                let path = path.display();
                let options = format!("unix=on,addr={path},disable-ticketing=on");
                (
                    vec!["-spice".into(), options],
                    format!("spice+unix://{path}"),
                )
            }
            Spice::Tcp { password } => {
                let port = free_port();
                let secret = format!("secret,id=ticket,data={password}");
                let options = format!("addr=127.0.0.1,ipv4=on,port={port},password-secret=ticket");
                (
                    vec!["-object".into(), secret, "-spice".into(), options],
                    format!("spice://127.0.0.1:{port}"),
                )
            }
        }
    }

    fn monitor_args(&self, dir: &Path) -> Vec<String> {
        let default = [("org.qemu.monitor.qmp.0".to_owned(), Mode::Control)];
        let ports = self.ports.as_deref().unwrap_or(&default);
        let mut args = Vec::new();
        for (number, (name, mode)) in ports.iter().enumerate() {
            args.push("-chardev".into());
            args.push(format!("spiceport,id=port{number},name={name}"));
            args.push("-mon".into());
            args.push(format!("chardev=port{number},{}", mode.option()));
        }

        let mut sockets = vec![("qmp", Mode::Control), ("outside", Mode::Control)];
        if self.pretty_socket {
            sockets.push(("pretty", Mode::ControlPretty));
        }
        for (name, mode) in sockets {
            let path = dir.join(format!("{name}.sock"));
            args.push("-chardev".into());
            args.push(format!(
                "socket,id={name},path={},server=on,wait=off",
                path.display()
            ));
            args.push("-mon".into());
            args.push(format!("chardev={name},{}", mode.option()));
        }
        args
    }
}

/// A running QEMU. Dropping it kills the process and removes its folder.
#[derive(Debug)]
pub struct Qemu {
    child: Child,
    dir: TempDir,
    spice_uri: String,
    exit: Option<ExitStatus>,
}

impl Qemu {
    /// Where SPICE is served: `spice+unix:///...` or `spice://127.0.0.1:PORT`.
    pub fn spice_uri(&self) -> String {
        self.spice_uri.clone()
    }

    /// The QMP socket. It is the test's own: the harness never connects to it.
    pub fn qmp_socket(&self) -> PathBuf {
        self.dir().join("qmp.sock")
    }

    /// The socket that [`Config::pretty_socket`] asks for.
    pub fn pretty_socket(&self) -> PathBuf {
        self.dir().join("pretty.sock")
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// QEMU's folder, removed with it. Free for the test's own files.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// What QEMU wrote to its standard error so far.
    pub fn stderr(&self) -> String {
        let bytes = fs::read(self.dir().join("stderr")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// Freezes QEMU: its sockets stay open, and nothing answers any more.
    pub fn stop(&self) {
        self.signal(Signal::STOP);
        let deadline = Instant::now() + START_TIMEOUT;
        while !self.is_frozen() {
            assert!(Instant::now() < deadline, "QEMU does not stop on SIGSTOP");
            thread::sleep(POLL);
        }
    }

    /// Lets a frozen QEMU continue.
    pub fn cont(&self) {
        self.signal(Signal::CONT);
    }

    /// Ends QEMU as a crash would, and waits until it is gone.
    pub fn kill(&mut self) -> ExitStatus {
        if let Some(exit) = self.exit {
            return exit;
        }
        // SIGKILL ends a frozen process too.
        self.child.kill().expect("an own child can be killed");
        let exit = self.child.wait().expect("an own child can be waited for");
        self.exit = Some(exit);
        exit
    }

    /// Waits for QEMU to exit by itself. `None` if it is still running by then.
    pub fn wait_exit(&mut self, timeout: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + timeout;
        while self.exit.is_none() {
            self.exit = self
                .child
                .try_wait()
                .expect("an own child can be waited for");
            if self.exit.is_none() {
                if Instant::now() >= deadline {
                    break;
                }
                thread::sleep(POLL);
            }
        }
        self.exit
    }

    /// A QMP client of the harness, for observing QEMU from outside.
    ///
    /// It has a socket of its own, so it does not disturb a test that uses
    /// [`Qemu::qmp_socket`]. Only one at a time is served.
    pub fn monitor(&self) -> Monitor {
        let path = self.outside_socket();
        Monitor::open(&path).unwrap_or_else(|error| {
            panic!(
                "no QMP session with QEMU ({error}): drop the other Monitor first, \
                 and let a stopped QEMU continue\n{}",
                self.stderr()
            )
        })
    }

    fn outside_socket(&self) -> PathBuf {
        self.dir().join("outside.sock")
    }

    fn signal(&self, signal: Signal) {
        assert!(self.exit.is_none(), "QEMU has ended: start another one");
        kill_process(Pid::from_child(&self.child), signal).expect("an own child takes signals");
    }

    /// Whether every thread of the process is stopped.
    fn is_frozen(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid())) else {
            return false;
        };
        threads.flatten().all(|thread| {
            let stat = fs::read_to_string(thread.path().join("stat")).unwrap_or_default();
            // The state follows the name, which stands in brackets.
            stat.rsplit(") ")
                .next()
                .is_some_and(|rest| rest.starts_with('T'))
        })
    }

    /// QEMU answers on a monitor only after all its sockets listen, SPICE too.
    fn wait_until_serving(&mut self) -> Result<(), String> {
        let deadline = Instant::now() + START_TIMEOUT;
        loop {
            let session = Monitor::open(&self.outside_socket());
            if session.is_ok() {
                return Ok(());
            }
            if self.wait_exit(POLL).is_some() {
                return Err(self.stderr());
            }
            assert!(
                Instant::now() < deadline,
                "QEMU does not answer after {START_TIMEOUT:?} ({}): run fewer tests at once, \
                 with -- --test-threads=1\n{}",
                session.err().map(|e| e.to_string()).unwrap_or_default(),
                self.stderr()
            );
        }
    }
}

impl Drop for Qemu {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A blocking QMP client, kept apart from the library under test.
#[derive(Debug)]
pub struct Monitor {
    stream: BufReader<UnixStream>,
    /// The bytes of an unfinished line.
    line: Vec<u8>,
    events: Vec<Value>,
    last_id: u64,
}

impl Monitor {
    fn open(path: &Path) -> io::Result<Monitor> {
        let mut monitor = Monitor {
            stream: BufReader::new(UnixStream::connect(path)?),
            line: Vec::new(),
            events: Vec::new(),
            last_id: 0,
        };
        let deadline = Instant::now() + REPLY_TIMEOUT;
        // Events can come before the greeting, if an earlier session has just ended.
        while monitor.read(deadline)?.get("QMP").is_none() {}
        match monitor.execute("qmp_capabilities", None) {
            Ok(_) => Ok(monitor),
            Err(error) => Err(io::Error::other(error.to_string())),
        }
    }

    /// Runs a command. An error is QEMU's, with `class` and `desc`; the class is
    /// `Closed` if the connection ended instead. A `quit` that ends like that has succeeded.
    pub fn execute(&mut self, name: &str, arguments: Option<Value>) -> Result<Value, Value> {
        self.last_id += 1;
        let mut request = json!({ "execute": name, "id": self.last_id });
        if let Some(arguments) = arguments {
            request["arguments"] = arguments;
        }
        match self.exchange(&request) {
            Ok(mut reply) => match reply.get_mut("error") {
                Some(error) => Err(error.take()),
                None => Ok(reply["return"].take()),
            },
            Err(error) if is_timeout(&error) => {
                panic!("no reply to {name} in {REPLY_TIMEOUT:?}: let a stopped QEMU continue first")
            }
            Err(_) if name == "quit" => Ok(Value::Null),
            Err(error) => Err(json!({ "class": "Closed", "desc": error.to_string() })),
        }
    }

    /// The events seen so far, oldest first.
    pub fn events(&self) -> &[Value] {
        &self.events
    }

    /// The first event with this name, seen already or arriving within the time.
    pub fn wait_event(&mut self, name: &str, timeout: Duration) -> Option<Value> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(event) = self.events.iter().find(|event| event["event"] == name) {
                return Some(event.clone());
            }
            let message = self.read(deadline).ok()?;
            self.keep_event(message);
        }
    }

    fn exchange(&mut self, request: &Value) -> io::Result<Value> {
        let deadline = Instant::now() + REPLY_TIMEOUT;
        self.stream
            .get_mut()
            .write_all(format!("{request}\n").as_bytes())?;
        loop {
            let message = self.read(deadline)?;
            if message.get("id") == request.get("id") {
                return Ok(message);
            }
            self.keep_event(message);
        }
    }

    fn keep_event(&mut self, message: Value) {
        if message.get("event").is_some() {
            self.events.push(message);
        }
    }

    fn read(&mut self, deadline: Instant) -> io::Result<Value> {
        while self.line.last() != Some(&b'\n') {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ErrorKind::TimedOut.into());
            }
            self.stream.get_ref().set_read_timeout(Some(left))?;
            match self.stream.read_until(b'\n', &mut self.line) {
                Ok(0) => return Err(ErrorKind::UnexpectedEof.into()),
                Ok(_) => {}
                Err(error) if is_timeout(&error) => {}
                Err(error) => return Err(error),
            }
        }
        let message = serde_json::from_slice(&self.line)?;
        self.line.clear();
        Ok(message)
    }
}

fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut)
}

fn cache_dir() -> PathBuf {
    let set = |name| env::var_os(name).filter(|value| !value.is_empty());
    set("XDG_CACHE_HOME").map_or_else(
        || PathBuf::from(set("HOME").expect("HOME is not set: set it")).join(".cache"),
        PathBuf::from,
    )
}

/// QEMU's modules below a root: `usr/lib/TRIPLET/qemu`.
fn modules_dir(root: &Path) -> Option<PathBuf> {
    let folders = fs::read_dir(root.join("usr/lib")).ok()?;
    folders
        .flatten()
        .map(|folder| folder.path().join("qemu"))
        .find(|path| path.join("ui-spice-core.so").exists())
}

fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0))
        .and_then(|listener| listener.local_addr())
        .expect("a free TCP port is needed on 127.0.0.1: bring up the loopback device")
        .port()
}

const START_TIMEOUT: Duration = Duration::from_secs(20);
const REPLY_TIMEOUT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(5);
