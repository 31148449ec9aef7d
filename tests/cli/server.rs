// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scripted QMP server on a Unix socket.

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

/// Serves one client after the other, until the test ends.
pub(crate) struct Server {
    folder: TempDir,
    /// Whether the client has received the [repeated](REPEAT) event.
    goes_on: Arc<AtomicBool>,
}

pub(crate) const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":"test"},"capabilities":[]}}"#;

impl Server {
    /// `script` returns the server's output for a command of this name: lines of text,
    /// in which `$ID` stands for the command's id and `$ARGUMENTS` for its arguments.
    pub(crate) fn start(
        greeting: &'static str,
        script: impl Fn(&str) -> Vec<String> + Send + 'static,
    ) -> Self {
        let folder = TempDir::new_in("/tmp").expect("a folder in /tmp");
        let listener = UnixListener::bind(folder.path().join("qmp")).expect("a socket");
        let goes_on = Arc::<AtomicBool>::default();
        let flag = goes_on.clone();
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client may disconnect at any time.
                let _ = serve(&stream, greeting, &script, &flag);
            }
        });
        Self { folder, goes_on }
    }

    /// Ends the [repetition](REPEAT); the following lines are sent.
    pub(crate) fn go_on(&self) {
        self.goes_on.store(true, Ordering::Relaxed);
    }

    pub(crate) fn address(&self) -> String {
        format!("unix:{}", self.folder.path().join("qmp").display())
    }
}

#[derive(Deserialize)]
struct Request {
    execute: String,
    arguments: Option<Box<RawValue>>,
    id: Box<RawValue>,
}

fn serve(
    mut stream: &UnixStream,
    greeting: &str,
    script: &impl Fn(&str) -> Vec<String>,
    goes_on: &Arc<AtomicBool>,
) -> std::io::Result<()> {
    writeln!(stream, "{greeting}\r")?;
    let output = Arc::new(Mutex::new(stream.try_clone()?));
    let mut repeats = false;
    for line in BufReader::new(stream).lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let arguments = request.arguments.as_ref().map_or("null", |it| it.get());
        let mut lines = script(&request.execute);
        if lines.is_empty() {
            lines.push(r#"{"return":{},"id":$ID}"#.to_owned());
        }
        let mut lines = lines.into_iter();
        while let Some(line) = lines.next() {
            if let Some(event) = line.strip_prefix(REPEAT) {
                let (event, rest) = (event.to_owned(), lines.collect());
                if !std::mem::replace(&mut repeats, true) {
                    let (output, goes_on) = (output.clone(), goes_on.clone());
                    thread::spawn(move || repeat(&output, &goes_on, &event, rest));
                }
                break;
            }
            if line == CLOSE {
                return Ok(());
            }
            let line = line.replace("$ID", request.id.get());
            let line = line.replace("$ARGUMENTS", arguments);
            send(&output, &line)?;
        }
    }
    Ok(())
}

fn send(output: &Mutex<UnixStream>, line: &str) -> std::io::Result<()> {
    let mut output = output.lock().expect("no panic while it was locked");
    output.write_all(format!("{line}\r\n").as_bytes())
}

/// Repeats an event until the test continues, or the client disconnects; then sends the rest.
fn repeat(
    output: &Mutex<UnixStream>,
    goes_on: &AtomicBool,
    event: &str,
    rest: Vec<String>,
) -> std::io::Result<()> {
    while !goes_on.load(Ordering::Relaxed) {
        send(output, event)?;
        thread::sleep(Duration::from_millis(5));
    }
    for line in rest {
        if line == CLOSE {
            let output = output.lock().expect("no panic while it was locked");
            return output.shutdown(Shutdown::Both);
        }
        send(output, &line)?;
    }
    Ok(())
}

/// The start of a line with an event that is repeated: a client that has just connected
/// does not listen yet. The lines that follow are sent after [`Server::go_on`].
pub(crate) const REPEAT: &str = "repeat ";

/// A line that closes the connection.
pub(crate) const CLOSE: &str = "close";
