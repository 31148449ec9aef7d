// SPDX-License-Identifier: MIT OR Apache-2.0
//! `spice-qmp share` on a monitor of QEMU's, and simple blocking clients.

#![allow(dead_code, reason = "shared by tests that use a part each")]

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

/// How long anything may take.
pub(crate) const LIMIT: Duration = Duration::from_mins(1);

/// The tool at work.
pub(crate) struct Shared {
    child: Child,
    dir: TempDir,
}

impl Shared {
    /// Shares the monitor at `address`, and waits until clients can connect.
    pub(crate) fn start(address: &str, options: &[&str]) -> Self {
        let dir = tempfile::tempdir_in("/tmp").expect("a folder");
        let listen = format!("unix:{}", dir.path().join("shared.sock").display());
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(env!("CARGO_BIN_EXE_spice-qmp"))
            .args(["--connect", address, "--timeout", "30"])
            .args(options)
            .args(["share", &listen])
            .env_remove("G_MESSAGES_DEBUG")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the tool runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("its output");
        BufReader::new(stdout).read_line(&mut line).expect("text");
        assert_eq!(line, format!("listening on {listen}\n"));
        Self { child, dir }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("shared.sock")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("an own child").is_none()
    }

    /// A client that has negotiated.
    pub(crate) fn client(&self) -> Client {
        let mut client = Client::connect(&self.path()).expect("it is served");
        client.negotiate().expect("it negotiates");
        client
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("an own child");
    }

    /// Its exit code, when it ends by itself.
    pub(crate) fn end(mut self) -> Option<i32> {
        let code = self.child.wait().expect("an own child").code();
        assert!(!self.path().exists(), "the socket is removed");
        code
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A client of the shared monitor.
pub(crate) struct Client {
    stream: BufReader<UnixStream>,
    pub(crate) greeting: Value,
    pub(crate) events: Vec<Value>,
}

impl Client {
    /// Connects, and reads the greeting. `None` if the connection is closed at once.
    pub(crate) fn connect(path: &Path) -> Option<Self> {
        Self::on(UnixStream::connect(path).ok()?)
    }

    /// The same on an existing connection.
    pub(crate) fn on(stream: UnixStream) -> Option<Self> {
        stream.set_read_timeout(Some(LIMIT)).expect("a time");
        stream.set_write_timeout(Some(LIMIT)).expect("a time");
        let mut client = Self {
            stream: BufReader::new(stream),
            greeting: Value::Null,
            events: Vec::new(),
        };
        client.greeting = client.read()?;
        assert!(client.greeting["QMP"].is_object(), "{}", client.greeting);
        Some(client)
    }

    pub(crate) fn negotiate(&mut self) -> Option<()> {
        let greeting = &self.greeting["QMP"]["capabilities"];
        let offers_oob = greeting
            .as_array()
            .is_some_and(|it| it.contains(&json!("oob")));
        let enable = if offers_oob {
            json!(["oob"])
        } else {
            json!([])
        };
        self.send(&json!({"execute": "qmp_capabilities", "arguments": {"enable": enable}}))?;
        assert_eq!(self.answer()?, json!({"return": {}}));
        Some(())
    }

    /// `None` if the connection has ended.
    pub(crate) fn send(&mut self, request: &Value) -> Option<()> {
        self.send_bytes(request.to_string().as_bytes())
    }

    pub(crate) fn send_bytes(&mut self, bytes: &[u8]) -> Option<()> {
        match self.stream.get_mut().write_all(bytes) {
            Ok(()) => Some(()),
            Err(error) if is_timeout(error.kind()) => panic!("it is not read for {LIMIT:?}"),
            Err(_) => None,
        }
    }

    /// The next message; `None` if the connection has ended.
    pub(crate) fn read(&mut self) -> Option<Value> {
        let mut line = Vec::new();
        match self.stream.read_until(b'\n', &mut line) {
            Ok(_) if line.ends_with(b"\n") => {
                Some(serde_json::from_slice(&line).expect("lines are JSON"))
            }
            Err(error) if is_timeout(error.kind()) => panic!("no answer for {LIMIT:?}"),
            Ok(_) | Err(_) => None,
        }
    }

    /// The next message that is not an event.
    pub(crate) fn answer(&mut self) -> Option<Value> {
        loop {
            let message = self.read()?;
            if message.get("event").is_none() {
                return Some(message);
            }
            self.events.push(message);
        }
    }

    pub(crate) fn execute(&mut self, command: &str, arguments: &Value) -> Value {
        self.send(&json!({"execute": command, "arguments": arguments, "id": command}))
            .expect("it is connected");
        let answer = self.answer().expect("it is answered");
        assert_eq!(answer["id"], command);
        answer
    }

    /// Waits for an event of this name.
    pub(crate) fn event(&mut self, name: &str) -> Value {
        loop {
            if let Some(at) = self.events.iter().position(|it| it["event"] == name) {
                return self.events.drain(..=at).next_back().expect("it is there");
            }
            let message = self.read().expect("it is connected");
            assert!(message.get("event").is_some(), "{message}");
            self.events.push(message);
        }
    }

    /// Everything until the connection ends.
    pub(crate) fn rest(mut self) -> Vec<Value> {
        let mut rest = Vec::new();
        while let Some(message) = self.read() {
            rest.push(message);
        }
        rest
    }

    pub(crate) fn stream(&mut self) -> &mut UnixStream {
        self.stream.get_mut()
    }

    /// Whether the connection ends without another byte.
    pub(crate) fn is_closed(&mut self) -> bool {
        let mut byte = [0];
        !matches!(self.stream.read(&mut byte), Ok(1))
    }
}

fn is_timeout(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::WouldBlock | ErrorKind::TimedOut)
}
