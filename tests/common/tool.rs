// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the tool to its end, for tests of how it connects.

use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// How long the tool may take for anything.
const LIMIT: Duration = Duration::from_secs(30);

/// A run of the tool.
pub struct Tool(Command);

/// How the tool ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Tool {
    /// With this address and these arguments, in the empty folder `home`.
    pub fn new(address: &str, args: &[&str]) -> Self {
        Self::of_program(Command::new(env!("CARGO_BIN_EXE_spice-qmp")), address, args)
    }

    /// As another, unprivileged user. The caller is root.
    pub fn as_nobody(program: &Path, address: &str, args: &[&str]) -> Self {
        let mut command = Command::new("setpriv");
        command
            .args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"])
            .arg(program);
        Self::of_program(command, address, args)
    }

    fn of_program(mut command: Command, address: &str, args: &[&str]) -> Self {
        command
            .args(args)
            .env_remove("SPICE_QMP_PASSWORD")
            .env_remove("G_MESSAGES_DEBUG")
            .env("SPICE_QMP_ADDRESS", address)
            .env("HOME", "/nonexistent")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        Self(command)
    }

    pub fn env(mut self, key: &str, value: impl AsRef<std::ffi::OsStr>) -> Self {
        self.0.env(key, value);
        self
    }

    pub fn folder(mut self, folder: &Path) -> Self {
        self.0.current_dir(folder);
        self
    }

    pub fn spawn(mut self) -> Child {
        self.0.spawn().expect("the tool runs")
    }

    pub fn run(self) -> Ended {
        end(self.spawn())
    }
}

/// Waits for the tool, which is killed after the limit. Its output fits into a pipe.
pub fn end(mut child: Child) -> Ended {
    let deadline = Instant::now() + LIMIT;
    while child.try_wait().expect("an own child").is_none() {
        if Instant::now() > deadline {
            let _ = child.kill();
            panic!("the tool did not end within {LIMIT:?}");
        }
        thread::sleep(Duration::from_millis(5));
    }
    let output = child.wait_with_output().expect("an own child");
    Ended {
        code: output.status.code(),
        stdout: String::from_utf8(output.stdout).expect("text"),
        stderr: String::from_utf8(output.stderr).expect("text"),
    }
}

impl Ended {
    /// Its output, if it succeeded without warnings.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!((self.code, self.stderr.as_str()), (Some(0), ""), "{self:?}");
        self.stdout
    }

    /// Its error and its hint, if it printed nothing else and ended with `code`.
    #[track_caller]
    pub fn failed(&self, code: i32) -> (&str, &str) {
        assert_eq!(
            (self.code, self.stdout.as_str()),
            (Some(code), ""),
            "{self:?}"
        );
        let mut lines = self.stderr.lines();
        let error = lines
            .next()
            .and_then(|line| line.strip_prefix("spice-qmp: error: "));
        let hint = lines.next().map_or("", |line| {
            line.strip_prefix("spice-qmp: hint: ")
                .unwrap_or_else(|| panic!("{self:?}"))
        });
        assert_eq!(lines.next(), None, "{self:?}");
        (error.unwrap_or_else(|| panic!("{self:?}")), hint)
    }

    /// It failed with these words in its error and in its hint.
    #[track_caller]
    pub fn says(&self, code: i32, error: &str, hint: &str) {
        let (text, advice) = self.failed(code);
        assert!(text.contains(error), "no {error:?} in {text:?}");
        assert!(advice.contains(hint), "no {hint:?} in {advice:?}");
    }
}
