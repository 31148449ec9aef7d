//! A scripted QMP server on a Unix socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::thread;

use serde::Deserialize;
use serde_json::value::RawValue;
use tempfile::TempDir;

/// Serves one client after the other, until the test ends.
pub(crate) struct Server {
    folder: TempDir,
}

pub(crate) const GREETING: &str = r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":"test"},"capabilities":[]}}"#;

impl Server {
    /// `script` gives what the server says to a command of this name: lines of text,
    /// in which `$ID` stands for the command's id and `$ARGUMENTS` for its arguments.
    pub(crate) fn start(
        greeting: &'static str,
        script: impl Fn(&str) -> Vec<String> + Send + 'static,
    ) -> Self {
        let folder = TempDir::new_in("/tmp").expect("a folder in /tmp");
        let listener = UnixListener::bind(folder.path().join("qmp")).expect("a socket");
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                // A client may leave at any time.
                let _ = serve(&stream, greeting, &script);
            }
        });
        Self { folder }
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
) -> std::io::Result<()> {
    writeln!(stream, "{greeting}\r")?;
    for line in BufReader::new(stream).lines() {
        let request: Request = serde_json::from_str(&line?)?;
        let arguments = request.arguments.as_ref().map_or("null", |it| it.get());
        let mut lines = script(&request.execute);
        if lines.is_empty() {
            lines.push(r#"{"return":{},"id":$ID}"#.to_owned());
        }
        for line in lines {
            if line == CLOSE {
                return Ok(());
            }
            let line = line.replace("$ID", request.id.get());
            let line = line.replace("$ARGUMENTS", arguments);
            stream.write_all((line + "\r\n").as_bytes())?;
        }
    }
    Ok(())
}

/// A line that closes the connection.
pub(crate) const CLOSE: &str = "close";
