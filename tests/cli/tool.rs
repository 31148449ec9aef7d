// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool as a process, which is killed if it takes too long.

use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// How long the tool may take for anything.
pub(crate) const LIMIT: Duration = Duration::from_secs(20);

/// A running tool.
pub(crate) struct Tool {
    pub(crate) child: Child,
    lines: Receiver<String>,
    error_lines: Receiver<String>,
    /// The lines of its standard error that were checked.
    seen: String,
    started: Instant,
}

/// How the tool ended.
#[derive(Debug)]
pub(crate) struct Ended {
    pub(crate) code: Option<i32>,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
    pub(crate) took: Duration,
}

impl Tool {
    pub(crate) fn start(address: &str, args: &[&str]) -> Self {
        Self::start_with(address, args, &[])
    }

    pub(crate) fn start_with(address: &str, args: &[&str], env: &[(&str, &str)]) -> Self {
        let mut command = command(address, args);
        command.envs(env.iter().copied()).stdout(Stdio::piped());
        Self::spawn(&mut command)
    }

    /// Starts a command; reads its standard output if that is a pipe.
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let mut child = command.spawn().expect("the tool runs");
        let lines = child.stdout.take().map(lines_of);
        let stderr = child.stderr.take().expect("a pipe");
        Self {
            child,
            lines: lines.unwrap_or_else(|| mpsc::channel().1),
            error_lines: lines_of(stderr),
            seen: String::new(),
            started: Instant::now(),
        }
    }

    /// The next line of its output.
    pub(crate) fn line(&self) -> String {
        self.lines.recv_timeout(LIMIT).expect("a line in time")
    }

    /// The next line, if it arrives within the time.
    pub(crate) fn line_within(&self, time: Duration) -> Option<String> {
        self.lines.recv_timeout(time).ok()
    }

    /// Waits for a line with this substring on standard error.
    #[track_caller]
    pub(crate) fn wait_error_line(&mut self, part: &str) {
        loop {
            let line = self.error_lines.recv_timeout(LIMIT);
            let line = line.unwrap_or_else(|_| panic!("no {part:?} in {:?}", self.seen));
            self.seen += &(line.clone() + "\n");
            if line.contains(part) {
                return;
            }
        }
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).expect("an own child takes signals");
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().expect("an own child").is_none()
    }

    pub(crate) fn end(mut self) -> Ended {
        let code = wait(&mut self.child);
        let took = self.started.elapsed();
        let all =
            |lines: &Receiver<String>| lines.iter().map(|line| line + "\n").collect::<String>();
        Ended {
            code,
            stdout: all(&self.lines),
            stderr: std::mem::take(&mut self.seen) + &all(&self.error_lines),
            took,
        }
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines_of(stream: impl Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = mpsc::channel();
    thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    lines
}

pub(crate) fn command(address: &str, args: &[&str]) -> Command {
    // These tests may run with ignored signals: in the background of a script, say.
    let mut command = Command::new("env");
    command.args([
        "--default-signal=HUP,INT,TERM",
        env!("CARGO_BIN_EXE_spice-qmp"),
    ]);
    command
        .args(args)
        .env_remove("SPICE_QMP_PASSWORD")
        .env_remove("G_MESSAGES_DEBUG")
        .env("SPICE_QMP_ADDRESS", address)
        .stdin(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// The exit code; the tool is killed after the limit.
pub(crate) fn wait(child: &mut Child) -> Option<i32> {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(status) = child.try_wait().expect("an own child") {
            return status.code();
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            panic!("the tool did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the tool to its end.
pub(crate) fn run(address: &str, args: &[&str]) -> Ended {
    Tool::start(address, args).end()
}

impl Ended {
    /// Its output, if it succeeded without warnings.
    #[track_caller]
    pub(crate) fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }

    #[track_caller]
    pub(crate) fn ok_json(self) -> Value {
        let stdout = self.ok();
        assert_eq!(stdout.lines().count(), 1, "{stdout}");
        serde_json::from_str(&stdout).expect(&stdout)
    }

    /// Its error, if it printed nothing else and ended with `code`.
    #[track_caller]
    pub(crate) fn failed(self, code: i32) -> String {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (Some(code), ""),
            "{self:?}"
        );
        assert!(
            self.stderr.starts_with("spice-qmp: error: "),
            "{}",
            self.stderr
        );
        self.stderr
    }

    /// The error as `--json` reports it.
    #[track_caller]
    pub(crate) fn failed_json(self, code: i32) -> Value {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (Some(code), ""),
            "{self:?}"
        );
        let mut error: Value = serde_json::from_str(&self.stderr).expect(&self.stderr);
        error["error"].take()
    }
}

#[track_caller]
pub(crate) fn assert_has(text: &str, part: &str) {
    assert!(text.contains(part), "no {part:?} in: {text}");
}
