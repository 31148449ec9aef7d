//! How the tool ends when it does not succeed: what it says, and its exit code.

use std::io;
use std::process::ExitCode;

use anstyle::{AnsiColor, Style};
use serde::Serialize;
use spice_qmp::{Error, ErrorClass, UsageError};

use crate::output::styled;

/// Why a command ended early.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Nobody reads standard output any more, as in `spice-qmp events | head -1`.
    StdoutClosed,
    /// The person at the terminal pressed Ctrl-C at the password prompt.
    Interrupted,
    /// It went wrong.
    Failed(Failure),
}

/// What went wrong, told to people and programs.
#[derive(Debug, Serialize)]
pub(crate) struct Failure {
    kind: Kind,
    /// QEMU's error class, where QEMU refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    class: Option<String>,
    message: String,
    /// What to do next.
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
    /// The tool was called wrongly.
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

    /// Adds what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Tells it on standard error.
    pub(crate) fn report(&self, json: bool) -> ExitCode {
        if json {
            let error = serde_json::to_string(self).unwrap_or_default();
            anstream::eprintln!("{{\"error\":{error}}}");
        } else {
            let red = Style::new().fg_color(Some(AnsiColor::Red.into())).bold();
            let error = styled("error:", red);
            anstream::eprintln!("spice-qmp: {error} {}", self.message);
            if let Some(hint) = &self.hint {
                let label = styled("hint:", Style::new().bold());
                anstream::eprintln!("spice-qmp: {label} {hint}");
            }
        }
        self.kind.exit_code()
    }
}

impl Stop {
    /// Whether the peer said nothing in time.
    pub(crate) fn is_timeout(&self) -> bool {
        matches!(self, Self::Failed(failure) if failure.kind == Kind::Timeout)
    }

    pub(crate) fn report(&self, json: bool) -> ExitCode {
        match self {
            Self::StdoutClosed => ExitCode::SUCCESS,
            Self::Interrupted => ExitCode::from(130),
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
                return failure.hint("spice-qmp exec query-commands lists what this QEMU knows");
            }
        }
        failure
    }
}
