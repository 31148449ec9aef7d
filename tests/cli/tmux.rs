// SPDX-License-Identifier: MIT OR Apache-2.0
//! A private terminal in which a test types: tmux.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::tool::LIMIT;

/// A terminal with the tool, and a shell that reports its exit code.
pub(crate) struct Terminal {
    folder: TempDir,
}

impl Terminal {
    /// Starts the tool's shell. Its whole output is kept, byte by byte.
    pub(crate) fn shell(address: &str) -> Self {
        Self::shell_with(address, "")
    }

    /// The same with an option.
    pub(crate) fn shell_with(address: &str, option: &str) -> Self {
        let folder = TempDir::new_in("/tmp").expect("a folder in /tmp");
        let terminal = Self { folder };
        let script = format!(
            "echo $$ >pid; env --default-signal=HUP,INT,TERM {tool} --connect '{address}' shell {option}; \
             echo ended with $?; stty -a | tr ' ;' '\\n' | grep -x -e -icanon -e -echo; \
             echo terminal shown; exec cat",
            tool = env!("CARGO_BIN_EXE_spice-qmp")
        );
        // The tool starts once its output is captured.
        let script = format!("until [ -e go ]; do sleep 0.01; done; {script}");
        let folder = terminal.folder.path().to_owned();
        let state = format!("XDG_STATE_HOME={}", folder.join("state").display());
        terminal.tmux(&[
            "new-session",
            "-d",
            "-x",
            "200",
            "-y",
            "50",
            "-c",
            &folder.display().to_string(),
            "-e",
            &state,
            &script,
        ]);
        let pipe = format!("cat >{}", folder.join("raw").display());
        terminal.tmux(&["pipe-pane", &pipe]);
        fs::write(folder.join("go"), "").expect("an own folder");
        terminal
    }

    /// Presses keys with the names that tmux gives them: `Tab`, `C-c`; others are typed.
    pub(crate) fn press(&self, keys: &[&str]) {
        self.tmux(&[&["send-keys"][..], keys].concat());
    }

    /// Types a text.
    pub(crate) fn type_text(&self, text: &str) {
        self.tmux(&["send-keys", "-l", "--", text]);
    }

    /// Types a line.
    pub(crate) fn enter(&self, line: &str) {
        self.type_text(line);
        self.press(&["Enter"]);
    }

    /// The text on the screen.
    pub(crate) fn screen(&self) -> String {
        let text = self.tmux(&["capture-pane", "-p"]);
        text.lines()
            .map(|line| line.trim_end().to_owned() + "\n")
            .collect()
    }

    /// Waits until the screen shows something.
    #[track_caller]
    pub(crate) fn wait(&self, is_shown: impl Fn(&str) -> bool) -> String {
        let deadline = Instant::now() + LIMIT;
        loop {
            let screen = self.screen();
            if is_shown(&screen) {
                return screen;
            }
            assert!(Instant::now() < deadline, "not shown:\n{screen}");
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until the screen has this text.
    #[track_caller]
    pub(crate) fn wait_text(&self, text: &str) -> String {
        self.wait(|screen| screen.contains(text))
    }

    /// Waits until the last line with text is this one.
    #[track_caller]
    pub(crate) fn wait_last(&self, line: &str) -> String {
        self.wait(|screen| screen.trim_end().lines().last() == Some(line))
    }

    /// Waits until the tool has ended with `code`, and left the terminal as it was.
    #[track_caller]
    pub(crate) fn ended(&self, code: i32) -> String {
        let screen = self.wait_text("\nterminal shown\n");
        let end = format!("\nended with {code}\nterminal shown\n");
        assert!(screen.contains(&end), "{screen}");
        screen
    }

    /// Sends the tool a signal.
    pub(crate) fn signal_tool(&self, signal: &str) {
        let parent = fs::read_to_string(self.path().join("pid")).expect("a number");
        let killed = Command::new("pkill")
            .args([&format!("-{signal}"), "-P", parent.trim()])
            .status();
        let killed = killed.expect("pkill does not run: apt-get install procps");
        assert!(killed.success());
    }

    /// Everything that was written to the terminal so far.
    pub(crate) fn raw(&self) -> String {
        let bytes = fs::read(self.path().join("raw")).expect("an own file");
        String::from_utf8(bytes).expect("UTF-8")
    }

    pub(crate) fn history(&self) -> PathBuf {
        self.path().join("state/spice-qmp/history")
    }

    fn path(&self) -> &Path {
        self.folder.path()
    }

    fn tmux(&self, args: &[&str]) -> String {
        let output = Command::new("tmux")
            .arg("-S")
            .arg(self.path().join("tmux"))
            .args(["-f", "/dev/null"])
            .args(args)
            .env_remove("TMUX")
            .env_remove("SPICE_QMP_ADDRESS")
            .env("LC_ALL", "C.UTF-8")
            .stdin(Stdio::null())
            .output()
            .expect("tmux does not run: apt-get install tmux");
        let complaint = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{args:?}: {complaint}");
        String::from_utf8(output.stdout).expect("UTF-8")
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        let _ = Command::new("tmux")
            .arg("-S")
            .arg(self.path().join("tmux"))
            .arg("kill-server")
            .output();
    }
}
