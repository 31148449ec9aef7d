// SPDX-License-Identifier: MIT OR Apache-2.0
//! Failures in GLib's terms: domain, code and message.
#![cfg(feature = "gobject")]

mod common;

use std::io;
use std::time::Duration;

use glib::error::ErrorDomain;
use spice_qmp::qmp::State;
use spice_qmp::{ConnectError, Error, ErrorClass, Origin, PeerError, QmpErrorCode, UsageError};

/// An error of QEMU's.
fn command(class: ErrorClass) -> Error {
    Error::Command {
        command: "device_del".into(),
        class,
        desc: "Device 'x' not found".into(),
    }
}

fn unreachable(kind: io::ErrorKind) -> Error {
    ConnectError::unreachable(kind, "where").into()
}

#[test]
fn errors_of_qmp_have_its_domain_and_code() {
    let other = ErrorClass::Other("NewClass".into());
    let cases: &[(Error, QmpErrorCode, i32)] = &[
        (command(ErrorClass::Generic), QmpErrorCode::Generic, 0),
        (command(other), QmpErrorCode::Generic, 0),
        (
            command(ErrorClass::CommandNotFound),
            QmpErrorCode::CommandNotFound,
            1,
        ),
        (
            command(ErrorClass::DeviceNotActive),
            QmpErrorCode::DeviceNotActive,
            2,
        ),
        (
            command(ErrorClass::DeviceNotFound),
            QmpErrorCode::DeviceNotFound,
            3,
        ),
        (
            command(ErrorClass::KvmMissingCap),
            QmpErrorCode::KvmMissingCap,
            4,
        ),
        (
            UsageError::NotReady {
                command: "x".into(),
                state: State::Closed,
            }
            .into(),
            QmpErrorCode::NotReady,
            5,
        ),
        (
            PeerError::Malformed("x".into()).into(),
            QmpErrorCode::Protocol,
            6,
        ),
        (
            PeerError::NegotiationRefused("x".into()).into(),
            QmpErrorCode::Protocol,
            6,
        ),
        (
            PeerError::UnexpectedReply {
                command: "x".into(),
                reason: "y".into(),
            }
            .into(),
            QmpErrorCode::Protocol,
            6,
        ),
        (
            PeerError::TooLarge { limit: 9 }.into(),
            QmpErrorCode::TooLarge,
            7,
        ),
        (
            PeerError::NotQmp {
                human_monitor: true,
            }
            .into(),
            QmpErrorCode::NotQmp,
            8,
        ),
        (
            ConnectError::OnlyHumanMonitor("org.qemu.monitor.hmp.0".into()).into(),
            QmpErrorCode::NotQmp,
            8,
        ),
        (
            UsageError::InvalidArgument("x".into()).into(),
            QmpErrorCode::InvalidArgument,
            9,
        ),
        (
            UsageError::NotSupported("x".into()).into(),
            QmpErrorCode::NotSupported,
            10,
        ),
    ];
    for (error, code, number) in cases {
        let glib: glib::Error = error.clone().into();
        assert_eq!(glib.domain().as_str(), "spice-qmp-error-quark", "{error}");
        assert_eq!(glib.kind::<QmpErrorCode>(), Some(*code), "{error}");
        assert_eq!(code.code(), *number, "codes are never renumbered");
        assert_eq!(glib.message(), error.to_string());
    }
}

#[test]
fn errors_of_the_connection_are_those_of_gio() {
    use gio::IOErrorEnum as Io;

    let cases = [
        (Error::Closed("gone".into()), Io::Closed),
        (Error::Cancelled("x".into()), Io::Cancelled),
        (
            Error::TimedOut {
                what: "x".into(),
                after: Duration::from_millis(7),
                hint: "",
            },
            Io::TimedOut,
        ),
        (ConnectError::NoPort.into(), Io::NotFound),
        (ConnectError::NoChardev.into(), Io::NotFound),
        (ConnectError::Busy(None).into(), Io::Busy),
        (ConnectError::Busy(Some(":1.7".into())).into(), Io::Busy),
        (
            ConnectError::Authentication("no".into()).into(),
            Io::PermissionDenied,
        ),
        (unreachable(io::ErrorKind::NotFound), Io::NotFound),
        (
            unreachable(io::ErrorKind::PermissionDenied),
            Io::PermissionDenied,
        ),
        (
            unreachable(io::ErrorKind::ConnectionRefused),
            Io::ConnectionRefused,
        ),
        (
            unreachable(io::ErrorKind::HostUnreachable),
            Io::HostUnreachable,
        ),
        (
            unreachable(io::ErrorKind::NetworkUnreachable),
            Io::NetworkUnreachable,
        ),
        (unreachable(io::ErrorKind::TimedOut), Io::TimedOut),
        (unreachable(io::ErrorKind::WouldBlock), Io::WouldBlock),
        (unreachable(io::ErrorKind::Other), Io::Failed),
    ];
    for (error, code) in cases {
        let glib: glib::Error = error.clone().into();
        assert_eq!(glib.kind::<Io>(), Some(code), "{error}");
        assert_eq!(glib.message(), error.to_string());
    }
}

#[test]
fn messages_say_what_and_whose() {
    let told = |error: Error| glib::Error::from(error).message().to_owned();
    assert_eq!(
        told(command(ErrorClass::DeviceNotFound)),
        "device_del: Device 'x' not found"
    );
    // A class without its own code is kept in the message.
    assert!(told(command(ErrorClass::Other("NewClass".into()))).contains("NewClass"));
    assert!(told(ConnectError::NoPort.into()).contains("-chardev spiceport"));
    assert!(told(ConnectError::NoChardev.into()).contains("-chardev dbus,"));
    assert!(told(ConnectError::Busy(None).into()).ends_with("held by another client"));
    assert!(told(ConnectError::Busy(Some(":1.7".into())).into()).ends_with("held by :1.7"));
    assert!(
        told(ConnectError::OnlyHumanMonitor("org.qemu.monitor.hmp.0".into()).into())
            .contains("org.qemu.monitor.hmp.0")
    );
    assert_eq!(
        told(Error::TimedOut {
            what: "stop".into(),
            after: Duration::from_secs(3),
            hint: " (why)",
        }),
        "stop: no answer within 3000 ms (why)"
    );
}

/// Only GIO's own; those of other libraries are translated.
#[test]
fn the_domain_and_code_of_a_failure_to_connect_are_kept() {
    fn with_origin<D: ErrorDomain>(code: D) -> glib::Error {
        let mut error = ConnectError::unreachable(io::ErrorKind::NotFound, "where");
        if let ConnectError::Unreachable { origin, .. } = &mut error {
            *origin = Some(Origin {
                domain: D::domain().as_str(),
                code: code.code(),
            });
        }
        Error::from(error).into()
    }
    use gio::{IOErrorEnum as Io, ResolverError, TlsError};
    for code in [ResolverError::NotFound, ResolverError::TemporaryFailure] {
        assert!(with_origin(code).matches(code));
    }
    for code in [Io::HostNotFound, Io::ProxyFailed, Io::NotFound, Io::Failed] {
        assert!(with_origin(code).matches(code));
    }
    assert!(with_origin(TlsError::BadCertificate).matches(TlsError::BadCertificate));
    assert!(with_origin(glib::FileError::Acces).matches(Io::NotFound));

    let tls = glib::Error::from(Error::from(ConnectError::Tls("why".into())));
    assert!(tls.matches(TlsError::Handshake));
}
