// SPDX-License-Identifier: MIT OR Apache-2.0
//! The failures of the tool: their messages and exit codes.

use std::io;
use std::process::ExitCode;

use anstyle::Style;
use serde::Serialize;
use serde_json::json;
use spice_qmp::{Error, ErrorClass, QmpErrorCode, UsageError};

use crate::json_text::compact;
use crate::style::{Line, error_style, label_style, print_error_line};

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Standard output was closed by its reader, as in `spice-qmp events | head -1`.
    StdoutClosed,
    /// The person at the terminal pressed Ctrl-C at the password prompt.
    #[cfg(feature = "spice")]
    Interrupted,
    /// A signal asked the tool to end.
    Signal(i32),
    /// QEMU refused something, which has been reported already.
    Reported,
    /// Another failure.
    Failed(Failure),
}

/// What went wrong, reported to people and programs.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    kind: Kind,
    /// QEMU's error class, if QEMU refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    message: String,
    /// A hint about what to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<String>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    /// QEMU refused the command.
    Qmp,
    /// The output cannot be written.
    Output,
    /// The tool was called with wrong arguments.
    Usage,
    /// There is no QMP connection, or it ended.
    Connection,
    /// No answer came in time.
    Timeout,
}

impl Kind {
    fn exit_code(self) -> ExitCode {
        ExitCode::from(match self {
            Self::Qmp | Self::Output => 1,
            Self::Usage => 2,
            Self::Connection => 3,
            Self::Timeout => 4,
        })
    }
}

impl Failure {
    pub(crate) fn new(kind: Kind, message: impl Into<String>) -> Self {
        Self {
            kind,
            class: None,
            message: message.into(),
            hint: None,
        }
    }

    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Kind::Usage, message)
    }

    pub(crate) fn connection(message: impl Into<String>) -> Self {
        Self::new(Kind::Connection, message)
    }

    /// Adds a hint about what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the number of the line that it is about.
    pub(crate) fn in_line(mut self, line: Option<usize>) -> Self {
        if let Some(line) = line {
            self.message = format!("line {line}: {}", self.message);
        }
        self
    }

    /// Whether QEMU refused the command.
    pub(crate) fn is_refusal(&self) -> bool {
        self.kind == Kind::Qmp
    }

    /// Reports it on standard error.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            print_error_line(in_json(&json!({ "error": self })));
        } else {
            print_error_line(labelled("error:", error_style(), &self.message));
            if let Some(hint) = &self.hint {
                print_error_line(labelled("hint:", label_style(), hint));
            }
        }
        self.kind.exit_code()
    }
}

/// Prints a message that is not an error on standard error.
pub(crate) fn note(json: bool, message: &str) {
    print_error_line(note_line(json, message));
}

/// The line that [`note`] writes.
pub(crate) fn note_line(json: bool, message: &str) -> Line {
    if json {
        in_json(&json!({ "note": { "message": message } }))
    } else {
        labelled("note:", label_style(), message)
    }
}

/// The exit code after a signal, as in shells.
pub(crate) fn signal_exit_code(signal: i32) -> ExitCode {
    ExitCode::from(u8::try_from(128 + signal).unwrap_or(u8::MAX))
}

fn labelled(label: &str, style: Style, message: &str) -> Line {
    let line = Line::from("spice-qmp: ").styled(label, style);
    line.plain(" ").plain(message)
}

fn in_json(value: &serde_json::Value) -> Line {
    // JSON has its own escapes, which stay JSON.
    compact(&value.to_string()).into()
}

impl Stop {
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        match self {
            Self::StdoutClosed => ExitCode::SUCCESS,
            #[cfg(feature = "spice")]
            Self::Interrupted => ExitCode::from(130),
            Self::Signal(signal) => signal_exit_code(*signal),
            Self::Reported => Kind::Qmp.exit_code(),
            Self::Failed(failure) => failure.report(json),
        }
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Self::Failed(error.into())
    }
}

/// An error of standard output.
impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::StdoutClosed;
        }
        Failure::new(Kind::Output, format!("cannot write the output: {error}")).into()
    }
}

/// An error of a list.
impl From<&glib::Error> for Failure {
    fn from(error: &glib::Error) -> Self {
        use QmpErrorCode as Code;

        let kind = match error.kind::<Code>() {
            Some(
                Code::Generic
                | Code::CommandNotFound
                | Code::DeviceNotActive
                | Code::DeviceNotFound
                | Code::KvmMissingCap,
            ) => Kind::Qmp,
            None if error.matches(gio::IOErrorEnum::TimedOut) => Kind::Timeout,
            _ => Kind::Connection,
        };
        Self::new(kind, error.message())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let kind = match &error {
            Error::Command { .. } => Kind::Qmp,
            Error::Usage(UsageError::NotReady { .. })
            | Error::Peer(_)
            | Error::Connect(_)
            | Error::Closed(_) => Kind::Connection,
            Error::TimedOut { .. } => Kind::Timeout,
            Error::Usage(_) | Error::Cancelled(_) => Kind::Usage,
            // A kind that is newer than the tool.
            _ => Kind::Connection,
        };
        let mut failure = Self::new(kind, error.to_string());
        if let Error::Command { class, .. } = &error {
            failure.class = Some(class.name().to_owned());
            if *class == ErrorClass::CommandNotFound {
                return failure.hint("spice-qmp commands lists what this QEMU knows");
            }
        }
        failure
    }
}
