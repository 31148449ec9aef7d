// SPDX-License-Identifier: MIT OR Apache-2.0
//! All errors of this library, sorted by whose fault they are.

use std::{io, time::Duration};

use super::State;

/// Why a call, a connection or a port failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// QEMU refused the command.
    #[error("{command}: {desc}{}", class.note())]
    Command {
        /// The command that was refused.
        command: Box<str>,
        /// QEMU's error class.
        class: ErrorClass,
        /// QEMU's own message. It changes between versions: show it, do not parse it.
        desc: Box<str>,
    },
    /// The peer broke the protocol.
    #[error(transparent)]
    Peer(#[from] PeerError),
    /// The program asked for something that is not possible.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// Connecting failed.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The connection is gone; the text says how.
    #[error("the QMP connection is closed: {0}")]
    Closed(Box<str>),
    /// The caller cancelled the call.
    #[error("{0} was cancelled")]
    Cancelled(Box<str>),
    /// No answer came within the deadline.
    #[error("{what}: no answer within {} ms{hint}", after.as_millis())]
    TimedOut {
        /// What was awaited: the name of a command, or what was missing on the connection.
        what: Box<str>,
        /// The deadline.
        after: Duration,
        /// A possible cause, starting with punctuation, or an empty string.
        hint: &'static str,
    },
}

/// QEMU's error classes (QAPI enum `QapiErrorClass`).
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum ErrorClass {
    /// `GenericError`: the usual class.
    Generic,
    /// `CommandNotFound`: this QEMU does not have the command, or not in this state.
    CommandNotFound,
    /// `DeviceNotActive`: the device exists but is not in use.
    DeviceNotActive,
    /// `DeviceNotFound`: there is no such device.
    DeviceNotFound,
    /// `KVMMissingCap`: the host's KVM lacks a capability.
    KvmMissingCap,
    /// A class that this library does not know.
    Other(Box<str>),
}

impl ErrorClass {
    pub(crate) fn from_name(name: &str) -> Self {
        match name {
            "GenericError" => Self::Generic,
            "CommandNotFound" => Self::CommandNotFound,
            "DeviceNotActive" => Self::DeviceNotActive,
            "DeviceNotFound" => Self::DeviceNotFound,
            "KVMMissingCap" => Self::KvmMissingCap,
            other => Self::Other(other.into()),
        }
    }

    /// The class as QEMU writes it.
    #[must_use]
    pub fn name(&self) -> &str {
        match self {
            Self::Generic => "GenericError",
            Self::CommandNotFound => "CommandNotFound",
            Self::DeviceNotActive => "DeviceNotActive",
            Self::DeviceNotFound => "DeviceNotFound",
            Self::KvmMissingCap => "KVMMissingCap",
            Self::Other(name) => name,
        }
    }

    /// Shows an unknown class, so that it is not lost when only an error code is kept.
    fn note(&self) -> String {
        match self {
            Self::Other(name) => format!(" ({name})"),
            _ => String::new(),
        }
    }
}

/// The peer's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeerError {
    /// A line was not a QMP message, or the reply to a call was malformed.
    #[error("the peer sent a line that is not QMP: {0}")]
    Malformed(Box<str>),
    /// A message was longer than the limit and was skipped.
    #[error("the peer sent a message of more than {limit} bytes; it was skipped")]
    TooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// A payload was too long to build a `GVariant` or `JsonNode` tree; its text is available.
    #[error("JSON text of more than {limit} bytes is too large for a GVariant")]
    TreeTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// Nothing on this connection is QMP.
    #[error(
        "the peer does not speak QMP{}",
        if *.human_monitor { ": this looks like a human monitor (start QEMU with mode=control)" } else { "" }
    )]
    NotQmp {
        /// The peer greeted like QEMU's human monitor (HMP).
        human_monitor: bool,
    },
    /// What the server sent in place of its greeting is not QMP. The text says what is
    /// wrong, and quotes the first bytes, escaped.
    #[error("the peer does not speak QMP: {0}")]
    NoGreeting(Box<str>),
    /// The peer refused `qmp_capabilities`.
    #[error("the peer refused the capabilities negotiation: {0}")]
    NegotiationRefused(Box<str>),
    /// A reply does not have the form that QEMU's schema specifies.
    #[error("{command}: the reply has an unexpected form: {reason}")]
    UnexpectedReply {
        /// The command that was answered.
        command: Box<str>,
        /// What does not match.
        reason: Box<str>,
    },
}

/// The caller's fault.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum UsageError {
    /// A command was executed while the port was not ready.
    #[error("{command}: the QMP port is not ready (it is {state})")]
    NotReady {
        /// The command.
        command: Box<str>,
        /// The state of the port.
        state: State,
    },
    /// An argument has the wrong form.
    #[error("invalid argument: {0}")]
    InvalidArgument(Box<str>),
    /// The server does not offer what was asked for.
    #[error("{0}")]
    NotSupported(Box<str>),
}

/// Why connecting failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConnectError {
    /// The SPICE server offers no QMP port.
    #[error(
        "the SPICE server offers no QMP port; start QEMU with \
         -chardev spiceport,id=qmp,name=org.qemu.monitor.qmp.0 -mon chardev=qmp,mode=control"
    )]
    NoPort,
    /// QEMU's D-Bus display offers no QMP chardev.
    #[error(
        "QEMU's D-Bus display offers no QMP chardev; start QEMU with \
         -chardev dbus,id=qmp,name=org.qemu.monitor.qmp.0 -mon chardev=qmp,mode=control"
    )]
    NoChardev,
    /// The SPICE server, or the D-Bus display, offers a human monitor, but no QMP port.
    #[error(
        "there is only a human monitor ({0}), which does not speak QMP; start QEMU with \
         -mon chardev=qmp,mode=control for a chardev with name=org.qemu.monitor.qmp.0"
    )]
    OnlyHumanMonitor(Box<str>),
    /// Another client uses the QMP chardev of a D-Bus display; its name on the bus, if
    /// known.
    #[error("the QMP monitor is busy: held by {}", .0.as_deref().unwrap_or("another client"))]
    Busy(Option<Box<str>>),
    /// The SPICE server refused the password.
    #[error("the SPICE server refused the login: {0}")]
    Authentication(Box<str>),
    /// The TLS connection failed, for example because the server's certificate is not
    /// trusted. spice-gtk only logs the cause (domains `Spice` and `GSpice`).
    #[error("cannot connect: {0}")]
    Tls(Box<str>),
    /// The server cannot be reached.
    #[error("cannot connect: {message}")]
    #[non_exhaustive]
    Unreachable {
        /// The kind of failure, as the standard library classifies it.
        kind: io::ErrorKind,
        /// What failed.
        message: Box<str>,
        /// The original error of the underlying library, which is more precise than `kind`.
        origin: Option<Origin>,
    },
}

impl ConnectError {
    /// The error for a server that cannot be reached, without an [`Origin`].
    #[must_use]
    pub fn unreachable(kind: io::ErrorKind, message: impl Into<Box<str>>) -> Self {
        Self::Unreachable {
            kind,
            message: message.into(),
            origin: None,
        }
    }
}

/// An error of another library: its domain and its code there, such as GLib's
/// `g-resolver-error-quark` and 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin {
    /// The name of the domain.
    pub domain: &'static str,
    /// The code within the domain.
    pub code: i32,
}

/// Why JSON text does not match the expected type. Nothing of the text is quoted, since
/// it may contain a secret.
#[cfg(any(test, feature = "gobject"))]
pub(crate) fn misfit(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let starts = |kinds: &[&'static str]| kinds.iter().copied().find(|kind| text.starts_with(kind));
    // All other kinds of errors, and the ones in `kinds`, do not quote.
    if !error.is_data() || starts(&["missing field", "duplicate field"]).is_some() {
        return text;
    }
    let kinds = [
        "invalid type",
        "invalid value",
        "invalid length",
        "unknown variant",
        "unknown field",
    ];
    let kind = starts(&kinds).unwrap_or("a value does not fit");
    let expected = text.rfind(", expected ").map_or("", |at| &text[at..]);
    format!("{kind}{expected}")
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;

    use super::misfit;

    #[derive(Debug, Deserialize)]
    #[allow(dead_code, reason = "the tests read what does not fit")]
    struct Form {
        name: u8,
        kind: Option<Kind>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(rename_all = "lowercase")]
    enum Kind {
        Known,
    }

    #[test]
    fn a_misfit_does_not_quote() {
        let cases = [
            (
                r#"{"name": "geheim, expected geheim"}"#,
                "invalid type, expected u8 at line 1 column 34",
            ),
            (
                r#"{"name": 4711}"#,
                "invalid value, expected u8 at line 1 column 13",
            ),
            (
                r#"{"name": 1, "kind": "geheim"}"#,
                "unknown variant, expected `known` at line 1 column 28",
            ),
            (
                r#""geheim""#,
                "invalid type, expected struct Form at line 1 column 8",
            ),
            (
                r#"{"x": "geheim"}"#,
                "missing field `name` at line 1 column 15",
            ),
            (
                r#"{"name": 1, "name": 2}"#,
                "duplicate field `name` at line 1 column 18",
            ),
            (r#"{"name": geheim}"#, "expected value at line 1 column 10"),
        ];
        for (text, expected) in cases {
            let error = serde_json::from_str::<Form>(text).unwrap_err();
            assert_eq!(misfit(&error), expected, "{text}");
        }
    }
}
