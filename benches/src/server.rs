// SPDX-License-Identifier: MIT OR Apache-2.0
//! The servers: QEMU itself, and two that answer at once.

use std::collections::HashSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;

use tempfile::TempDir;

use crate::common::qemu::{Config, Mode, Program, Qemu};
use crate::measure::pin;
use crate::subjects::RUNNING;
use crate::work::events;

/// The core that the clients run on.
pub const CLIENT_CORE: usize = 1;
/// The core that servers run on if they have their own.
const SERVER_CORE: usize = 0;

/// A client's server: each client has one of its own.
pub struct Server {
    pub address: String,
    _process: Process,
}

enum Process {
    Qemu { _qemu: Qemu, _dir: TempDir },
    Responder { _child: Guard, _dir: TempDir },
}

/// A child process that ends with this.
pub struct Guard(pub Child);

impl Drop for Guard {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The kind of a server.
#[derive(Clone, Copy)]
pub enum Where {
    /// An instant responder on the core of its client, or on its own.
    Spice {
        alone: bool,
    },
    Socket {
        alone: bool,
    },
    QemuSpice,
    QemuSocket,
}

impl Where {
    /// Starts the server; the error says why it is not available.
    pub fn start(self) -> Result<Server, String> {
        let dir = tempfile::tempdir().expect("a folder for sockets");
        let path = dir.path().join("server.sock");
        match self {
            Where::Spice { alone } => {
                let mut program =
                    Command::new(compile("spice-responder", "spice-server glib-2.0")?);
                program.arg(&path);
                Ok(Server::responder(
                    alone,
                    &program,
                    dir,
                    format!("spice+unix://{}", path.display()),
                ))
            }
            Where::Socket { alone } => {
                let mut program = Command::new(near("spice-qmp-bench"));
                program.arg("--respond").arg(&path);
                Ok(Server::responder(
                    alone,
                    &program,
                    dir,
                    path.display().to_string(),
                ))
            }
            Where::QemuSpice | Where::QemuSocket => {
                let config = Config::new()
                    .port("org.qemu.monitor.qmp.0", Mode::Control)
                    .arg("-qmp")
                    .arg(format!("unix:{},server=on,wait=off", path.display()));
                let qemu = on_core(SERVER_CORE, || config.start(&Program::system()));
                let spice = matches!(self, Where::QemuSpice);
                Ok(Server {
                    address: if spice {
                        qemu.spice_uri()
                    } else {
                        path.display().to_string()
                    },
                    _process: Process::Qemu {
                        _qemu: qemu,
                        _dir: dir,
                    },
                })
            }
        }
    }
}

impl Server {
    /// Starts a responder, and waits until it says "ready".
    fn responder(alone: bool, program: &Command, dir: TempDir, address: String) -> Self {
        let core = if alone { SERVER_CORE } else { CLIENT_CORE };
        let mut program = guarded(program);
        program.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = on_core(core, || program.spawn().expect("setpriv (util-linux) runs"));
        let mut line = String::new();
        let out = child.stdout.take().expect("a pipe was asked for");
        BufReader::new(out).read_line(&mut line).expect("a line");
        assert_eq!(line, "ready\n", "a responder did not start");
        Self {
            address,
            _process: Process::Responder {
                _child: Guard(child),
                _dir: dir,
            },
        }
    }
}

/// The same command, but the process ends with this program.
pub fn guarded(program: &Command) -> Command {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program.get_program())
        .args(program.get_args());
    command
}

fn on_core<T>(core: usize, start: impl FnOnce() -> T) -> T {
    pin(core);
    let started = start();
    pin(CLIENT_CORE);
    started
}

/// A file beside this program.
pub fn near(name: &str) -> PathBuf {
    let program = std::env::current_exe().expect("this program");
    program.with_file_name(name)
}

/// Compiles a program in C, once in a run.
pub fn compile(name: &'static str, packages: &str) -> Result<PathBuf, String> {
    static DONE: Mutex<Option<HashSet<&str>>> = Mutex::new(None);
    let program = near(&format!("bench-{name}"));
    let mut done = DONE.lock().expect("no panic within");
    let done = done.get_or_insert_default();
    if done.contains(name) {
        return Ok(program);
    }
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs"])
        .args(packages.split(' '))
        .output();
    let flags = match flags {
        Ok(output) if output.status.success() => output.stdout,
        _ => return Err(format!("pkg-config does not find all of {packages}")),
    };
    let compiled = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(format!("{}/{name}.c", env!("CARGO_MANIFEST_DIR")))
        .args(String::from_utf8_lossy(&flags).split_whitespace())
        .status();
    if compiled.is_ok_and(|status| status.success()) {
        done.insert(name);
        Ok(program)
    } else {
        Err(format!("benches/{name}.c does not compile"))
    }
}

/// Plays the server of one client on a Unix socket.
pub fn respond(path: &Path) {
    let listener = UnixListener::bind(path).expect("a new path");
    println!("ready");
    let (stream, _) = listener.accept().expect("a client");
    // A client that disconnects is not an error.
    let _ = serve(stream);
}

fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    stream.write_all(br#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#)?;
    stream.write_all(b"\r\n")?;
    let mut buffer = vec![0; 64 << 10];
    let mut request = Vec::new();
    let mut depth = 0;
    // Made before anything is measured: that takes a third as long as reading them.
    let storm = Storm::new();
    loop {
        let count = stream.read(&mut buffer)?;
        if count == 0 {
            return Ok(());
        }
        let mut out = Vec::new();
        // Not every request ends with a line end: count braces.
        for &byte in &buffer[..count] {
            request.push(byte);
            match byte {
                b'{' => depth += 1,
                b'}' => depth -= 1,
                _ => continue,
            }
            if depth == 0 {
                if let Some(count) = Storm::asked(&request) {
                    stream.write_all(&std::mem::take(&mut out))?;
                    storm.send(count, &mut stream)?;
                }
                answer(&request, &mut out);
                request.clear();
            }
        }
        stream.write_all(&out)?;
    }
}

/// Events that are sent again and again.
struct Storm(Vec<u8>);

impl Storm {
    const COUNT: usize = 1000;

    fn new() -> Self {
        Self(events(Self::COUNT))
    }

    /// How many events a request asks for, where it asks for some.
    fn asked(request: &[u8]) -> Option<usize> {
        memchr::memmem::find(request, b"bench-storm")?;
        number_after(request, b"\"count\":")?.parse().ok()
    }

    fn send(&self, count: usize, stream: &mut UnixStream) -> std::io::Result<()> {
        let event = self.0.len() / Self::COUNT;
        for sent in (0..count).step_by(Self::COUNT) {
            let part = (count - sent).min(Self::COUNT);
            stream.write_all(&self.0[..part * event])?;
        }
        Ok(())
    }
}

fn number_after<'a>(request: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let at = memchr::memmem::rfind(request, key)? + key.len();
    let digits = request[at..].trim_ascii_start();
    let end = digits.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&digits[..end]).ok()
}

fn answer(request: &[u8], out: &mut Vec<u8>) {
    let asked = memchr::memmem::find(request, b"query-status").is_some();
    let value = if asked { RUNNING } else { "{}" };
    let id =
        number_after(request, b"\"id\":").map_or_else(String::new, |id| format!(", \"id\": {id}"));
    write!(out, "{{\"return\": {value}{id}}}\r\n").expect("memory");
}
