//! The servers that answer: QEMU itself, and two that answer at once.

use std::ffi::OsString;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;

use tempfile::TempDir;

use crate::common::qemu::{Config, Mode, Program, Qemu};
use crate::measure::pin;

/// The core that the clients run on.
pub const CLIENT_CORE: usize = 1;
/// The core that servers run on where they have their own.
pub const SERVER_CORE: usize = 0;

/// An event as both responders send it.
const EVENT: &str = concat!(
    r#"{"timestamp": {"seconds": 1700000000, "microseconds": 100000}, "event": "RTC_CHANGE", "#,
    r#""data": {"offset": 78, "qom-path": "/machine/unattached/device[8]"}}"#,
    "\r\n"
);

/// What clients connect to.
pub struct Server {
    pub spice: Option<String>,
    /// One socket for each client: QEMU serves one at a time on each.
    pub sockets: Vec<PathBuf>,
    _process: Process,
}

enum Process {
    Qemu { _qemu: Qemu, _dir: TempDir },
    Responder { child: Child, _dir: TempDir },
}

impl Drop for Process {
    fn drop(&mut self) {
        if let Process::Responder { child, .. } = self {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Starts a process on a core of its own, or on that of the clients.
fn on_core<T>(core: usize, start: impl FnOnce() -> T) -> T {
    pin(core);
    let started = start();
    pin(CLIENT_CORE);
    started
}

/// A QEMU with as many ports and sockets as clients want.
pub fn qemu(ports: usize, sockets: usize) -> Server {
    let dir = tempfile::tempdir().expect("a folder for sockets");
    let mut config = Config::new();
    for number in 0..ports {
        config = config.port(&format!("org.qemu.monitor.qmp.{number}"), Mode::Control);
    }
    let mut paths = Vec::new();
    for number in 0..sockets {
        let path = dir.path().join(format!("{number}.sock"));
        let option = format!("unix:{},server=on,wait=off", path.display());
        config = config.arg("-qmp").arg(option);
        paths.push(path);
    }
    let qemu = on_core(SERVER_CORE, || config.start(&Program::system()));
    Server {
        spice: Some(qemu.spice_uri()),
        sockets: paths,
        _process: Process::Qemu {
            _qemu: qemu,
            _dir: dir,
        },
    }
}

/// A SPICE server that answers at once; why not, where there is none.
pub fn spice_responder(core: usize, ports: usize) -> Result<Server, String> {
    let dir = tempfile::tempdir().expect("a folder for sockets");
    let program = compile(dir.path())?;
    let path = dir.path().join("spice.sock");
    let mut command = Command::new(program);
    command.arg(&path).arg(ports.to_string());
    let child = on_core(core, || ready(command));
    Ok(Server {
        spice: Some(format!("spice+unix://{}", path.display())),
        sockets: Vec::new(),
        _process: Process::Responder { child, _dir: dir },
    })
}

fn compile(dir: &Path) -> Result<OsString, String> {
    let flags = Command::new("pkg-config")
        .args(["--cflags", "--libs", "spice-server", "glib-2.0"])
        .output();
    let flags = match flags {
        Ok(output) if output.status.success() => {
            String::from_utf8_lossy(&output.stdout).into_owned()
        }
        _ => return Err("no libspice-server: apt-get install libspice-server-dev".into()),
    };
    let program = dir.join("spice-responder");
    let status = Command::new("cc")
        .args(["-O2", "-o"])
        .arg(&program)
        .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/spice-responder.c"))
        .args(flags.split_whitespace())
        .status();
    match status {
        Ok(status) if status.success() => Ok(program.into()),
        _ => Err("benches/spice-responder.c does not compile".into()),
    }
}

/// A server on a Unix socket that answers at once: this program as a child.
pub fn socket_responder(core: usize, sockets: usize) -> Server {
    let dir = tempfile::tempdir().expect("a folder for sockets");
    let path = dir.path().join("qmp.sock");
    let mut command = Command::new(std::env::current_exe().expect("this program"));
    command.arg("--respond").arg(&path);
    let child = on_core(core, || ready(command));
    Server {
        spice: None,
        sockets: vec![path; sockets],
        _process: Process::Responder { child, _dir: dir },
    }
}

/// Starts a program that ends with this one, and waits until it says "ready".
fn ready(mut program: Command) -> Child {
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .arg(program.get_program())
        .args(program.get_args())
        .stdin(Stdio::null())
        .stdout(Stdio::piped());
    program = command;
    let mut child = program.spawn().expect("setpriv (util-linux) runs");
    let mut line = String::new();
    let out = child.stdout.take().expect("a pipe was asked for");
    BufReader::new(out).read_line(&mut line).expect("a line");
    assert_eq!(line, "ready\n", "a responder did not start");
    child
}

/// Plays the server on a Unix socket, for ever.
pub fn respond(path: &Path) {
    let listener = UnixListener::bind(path).expect("a new path");
    println!("ready");
    for stream in listener.incoming() {
        let stream = stream.expect("a client");
        thread::spawn(move || {
            // A client that leaves is no error.
            let _ = serve(stream);
        });
    }
}

fn serve(mut stream: UnixStream) -> std::io::Result<()> {
    stream.write_all(br#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": ["oob"]}}"#)?;
    stream.write_all(b"\r\n")?;
    let mut buffer = vec![0; 64 << 10];
    let mut request = Vec::new();
    let mut depth = 0;
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
                answer(&request, &mut out);
                request.clear();
            }
        }
        stream.write_all(&out)?;
    }
}

fn answer(request: &[u8], out: &mut Vec<u8>) {
    if memchr::memmem::find(request, b"bench-storm").is_some() {
        for _ in 0..number_after(request, b"\"count\":")
            .map_or(200_000, |count| count.parse().expect("a count"))
        {
            out.extend_from_slice(EVENT.as_bytes());
        }
    }
    let value: &[u8] = if memchr::memmem::find(request, b"query-status").is_some() {
        crate::subjects::RUNNING.as_bytes()
    } else {
        b"{}"
    };
    out.extend_from_slice(b"{\"return\": ");
    out.extend_from_slice(value);
    if let Some(at) = memchr::memmem::rfind(request, b"\"id\":") {
        let id = request[at + 5..].trim_ascii_start();
        let end = id.iter().position(|byte| matches!(byte, b',' | b'}'));
        out.extend_from_slice(b", \"id\": ");
        out.extend_from_slice(&id[..end.unwrap_or(id.len())]);
    }
    out.extend_from_slice(b"}\r\n");
}

fn number_after<'a>(request: &'a [u8], key: &[u8]) -> Option<&'a str> {
    let at = memchr::memmem::find(request, key)? + key.len();
    let rest = request[at..].trim_ascii_start();
    let end = rest.iter().position(|byte| !byte.is_ascii_digit())?;
    std::str::from_utf8(&rest[..end]).ok()
}
