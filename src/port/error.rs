// SPDX-License-Identifier: MIT OR Apache-2.0
//! Maps errors to GLib's: a domain, a code, a message.

use std::io;

use glib::error::ErrorDomain;

use crate::qmp::{ConnectError, Error, ErrorClass, Origin, PeerError, UsageError, for_c};

/// The codes of the error domain `SPICE_QMP_ERROR`. New ones are appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, glib::ErrorDomain)]
#[error_domain(name = "spice-qmp-error-quark")]
#[non_exhaustive]
#[repr(i32)]
pub enum QmpErrorCode {
    /// QEMU's `GenericError`, or a class that this library does not know.
    Generic = 0,
    /// QEMU's `CommandNotFound`.
    CommandNotFound = 1,
    /// QEMU's `DeviceNotActive`.
    DeviceNotActive = 2,
    /// QEMU's `DeviceNotFound`.
    DeviceNotFound = 3,
    /// QEMU's `KVMMissingCap`.
    KvmMissingCap = 4,
    /// The port is not ready.
    NotReady = 5,
    /// The peer broke the protocol.
    Protocol = 6,
    /// A message was over `max-message-size`.
    TooLarge = 7,
    /// The peer does not speak QMP.
    NotQmp = 8,
    /// An argument has the wrong form.
    InvalidArgument = 9,
    /// The server does not offer what was asked for.
    NotSupported = 10,
}

impl QmpErrorCode {
    /// All codes of this version.
    pub const ALL: &[Self] = &[
        Self::Generic,
        Self::CommandNotFound,
        Self::DeviceNotActive,
        Self::DeviceNotFound,
        Self::KvmMissingCap,
        Self::NotReady,
        Self::Protocol,
        Self::TooLarge,
        Self::NotQmp,
        Self::InvalidArgument,
        Self::NotSupported,
    ];
}

/// The domain and code of an error.
enum Code {
    Qmp(QmpErrorCode),
    Io(gio::IOErrorEnum),
    Tls(gio::TlsError),
    Original(Origin),
}

impl From<Error> for glib::Error {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        let message = for_c(&message);
        match code(&error) {
            Code::Qmp(code) => Self::new(code, &message),
            Code::Io(code) => Self::new(code, &message),
            Code::Tls(code) => Self::new(code, &message),
            Code::Original(Origin { domain, code }) => {
                Self::with_domain(glib::Quark::from_str(domain), code, &message)
            }
        }
    }
}

fn code(error: &Error) -> Code {
    use QmpErrorCode as Qmp;
    use gio::IOErrorEnum as Io;

    match error {
        Error::Command { class, .. } => Code::Qmp(match class {
            ErrorClass::Generic | ErrorClass::Other(_) => Qmp::Generic,
            ErrorClass::CommandNotFound => Qmp::CommandNotFound,
            ErrorClass::DeviceNotActive => Qmp::DeviceNotActive,
            ErrorClass::DeviceNotFound => Qmp::DeviceNotFound,
            ErrorClass::KvmMissingCap => Qmp::KvmMissingCap,
        }),
        Error::Peer(error) => Code::Qmp(match error {
            PeerError::Malformed(_)
            | PeerError::NegotiationRefused(_)
            | PeerError::UnexpectedReply { .. } => Qmp::Protocol,
            PeerError::TooLarge { .. } | PeerError::TreeTooLarge { .. } => Qmp::TooLarge,
            PeerError::NotQmp { .. } | PeerError::NoGreeting(_) => Qmp::NotQmp,
        }),
        Error::Usage(error) => Code::Qmp(match error {
            UsageError::NotReady { .. } => Qmp::NotReady,
            UsageError::InvalidArgument(_) => Qmp::InvalidArgument,
            UsageError::NotSupported(_) => Qmp::NotSupported,
        }),
        Error::Connect(error) => match error {
            ConnectError::NoPort | ConnectError::NoChardev => Code::Io(Io::NotFound),
            ConnectError::Busy(_) => Code::Io(Io::Busy),
            ConnectError::OnlyHumanMonitor(_) => Code::Qmp(Qmp::NotQmp),
            ConnectError::Authentication(_) => Code::Io(Io::PermissionDenied),
            ConnectError::Tls(_) => Code::Tls(gio::TlsError::Handshake),
            ConnectError::Unreachable { kind, origin, .. } => origin
                .filter(is_of_gio)
                .map_or_else(|| Code::Io(io_code(*kind)), Code::Original),
        },
        Error::Closed(_) => Code::Io(Io::Closed),
        Error::Cancelled(_) => Code::Io(Io::Cancelled),
        Error::TimedOut { .. } => Code::Io(Io::TimedOut),
    }
}

/// Whether GIO's documentation explains the error.
fn is_of_gio(origin: &Origin) -> bool {
    let domains = [
        gio::IOErrorEnum::domain(),
        gio::ResolverError::domain(),
        gio::DBusError::domain(),
        gio::TlsError::domain(),
    ];
    domains
        .iter()
        .any(|domain| domain.as_str() == origin.domain)
}

fn io_code(kind: io::ErrorKind) -> gio::IOErrorEnum {
    use gio::IOErrorEnum as Io;

    match kind {
        io::ErrorKind::NotFound => Io::NotFound,
        io::ErrorKind::PermissionDenied => Io::PermissionDenied,
        io::ErrorKind::ConnectionRefused => Io::ConnectionRefused,
        io::ErrorKind::HostUnreachable => Io::HostUnreachable,
        io::ErrorKind::NetworkUnreachable => Io::NetworkUnreachable,
        io::ErrorKind::TimedOut => Io::TimedOut,
        io::ErrorKind::WouldBlock => Io::WouldBlock,
        _ => Io::Failed,
    }
}
