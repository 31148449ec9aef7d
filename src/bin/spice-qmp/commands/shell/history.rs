// SPDX-License-Identifier: MIT OR Apache-2.0
//! The history of typed lines: a file that only its owner may read, without secrets.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde_json::json;
use spice_qmp::qmp::redacted;

use crate::words::{self, Entry};

/// How many lines are kept.
const LINES: usize = 1000;

/// How many bytes of the file are read.
const LONGEST: u64 = 4 << 20;

/// The file in the user's state folder.
pub(crate) struct History(Option<PathBuf>);

/// Whether a line may be remembered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Memory {
    /// It contains a secret, or starts with a space.
    Nothing,
    /// It could not be parsed, so its contents are unknown.
    ThisTime,
    Always,
}

impl History {
    pub(crate) fn of_user() -> Self {
        let absolute = |name| {
            let path = std::env::var_os(name).map(PathBuf::from);
            path.filter(|path| path.is_absolute())
        };
        let state = absolute("XDG_STATE_HOME");
        let state = state.or_else(|| absolute("HOME").map(|home| home.join(".local/state")));
        Self(state.map(|state| state.join("spice-qmp/history")))
    }

    /// The lines so far, the oldest first.
    pub(crate) fn load(&self) -> Vec<String> {
        let mut text = String::new();
        let file = self.0.as_ref().and_then(|path| File::open(path).ok());
        // An unreadable file counts as no history.
        let read = file.map(|file| file.take(LONGEST).read_to_string(&mut text));
        if !matches!(read, Some(Ok(_))) {
            return Vec::new();
        }
        let lines: Vec<String> = text.lines().map(str::to_owned).collect();
        let too_many = lines.len().saturating_sub(LINES);
        if too_many > LINES {
            let kept = lines[too_many..].join("\n") + "\n";
            let _ = self.0.as_ref().map(|path| write(path, &kept, false));
        }
        lines[too_many..].to_vec()
    }

    /// Appends a line, if possible.
    pub(crate) fn append(&self, line: &str) {
        // A shell works without a history, too.
        let _ = self
            .0
            .as_ref()
            .map(|path| write(path, &format!("{line}\n"), true));
    }
}

fn write(path: &Path, text: &str, append: bool) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    let mut file = OpenOptions::new()
        .create(true)
        .append(append)
        .write(true)
        .truncate(!append)
        .mode(0o600)
        .open(path)?;
    if file.metadata()?.permissions().mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o600))?;
    }
    file.write_all(text.as_bytes())
}

/// Whether a line may be remembered.
pub(crate) fn memory_of(line: &str) -> Memory {
    if line.contains(char::is_control) {
        return Memory::ThisTime;
    }
    if line.starts_with(' ') {
        return Memory::Nothing;
    }
    let shown = match words::parse(line) {
        Ok(Entry::Command(command)) => {
            let arguments = command.arguments.as_ref().map(|it| it.get());
            redacted(&command.name, arguments)
        }
        Ok(Entry::Human(text)) if PLAIN.contains(&first_word(text)) => return Memory::Always,
        Ok(Entry::Human(text)) => {
            let arguments = json!({ "command-line": text }).to_string();
            redacted("human-monitor-command", Some(&arguments))
        }
        Ok(Entry::Own(..)) => return Memory::Always,
        Ok(Entry::Nothing) => return Memory::Nothing,
        Err(_) => return Memory::ThisTime,
    };
    if shown.contains("***") {
        Memory::Nothing
    } else {
        Memory::Always
    }
}

/// Commands of the human monitor that take no secrets.
const PLAIN: [&str; 12] = [
    "?",
    "cont",
    "delvm",
    "device_del",
    "eject",
    "help",
    "info",
    "loadvm",
    "savevm",
    "stop",
    "x",
    "xp",
];

fn first_word(text: &str) -> &str {
    text.split_whitespace().next().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_not_remembered() {
        for (line, memory) in [
            ("query-block", Memory::Always),
            ("device_del id=disk1", Memory::Always),
            ("hmp info block", Memory::Always),
            (".help stop", Memory::Always),
            (" query-block", Memory::Nothing),
            ("", Memory::Nothing),
            ("set_password protocol=vnc password=geheim", Memory::Nothing),
            (
                "object-add qom-type=secret id=s data=geheim",
                Memory::Nothing,
            ),
            (
                r#"{"execute": "set_password", "arguments": {"password": "x"}}"#,
                Memory::Nothing,
            ),
            ("hmp set_password vnc geheim", Memory::Nothing),
            ("hmp change vnc password geheim", Memory::Nothing),
            ("set_password {\"password\": \"geheim\"", Memory::ThisTime),
        ] {
            assert_eq!(memory_of(line), memory, "{line}");
        }
    }

    #[test]
    fn the_file_is_private_and_stays_short() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a/b/history");
        let history = History(Some(path.clone()));
        assert!(history.load().is_empty());
        history.append("stop");
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        history.append("cont");
        assert_eq!(history.load(), ["stop", "cont"]);
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        for i in 0..2 * LINES {
            history.append(&i.to_string());
        }
        let lines = history.load();
        assert_eq!((lines.len(), lines[0].as_str()), (LINES, "1000"));
        assert_eq!(fs::read_to_string(&path).unwrap().lines().count(), LINES);
        assert_eq!(mode(&path), 0o600);
    }

    #[test]
    fn without_a_folder_there_is_no_history() {
        let history = History(None);
        history.append("stop");
        assert!(history.load().is_empty());
    }
}
