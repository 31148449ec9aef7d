// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hints about what to do next if connecting fails, depending on the cause.

use std::io::ErrorKind;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::Path;

use gio::prelude::*;
use spice_qmp::{Address, AddressError, AddressFault, ConnectError, Error, PeerError};

use crate::failure::Failure;
use crate::tls;
use crate::trust::Tls;

/// The forms of addresses.
const FORMS: &str = "spice://host:port, spice+unix:///path, unix:/path, tcp:host:port, \
                     dbus:NAME or fd:N";

/// The options for a chardev that speaks QMP; QEMU 11.1 announces the second form instead.
const MONITOR: &str = "-mon chardev=...,mode=control (or -object monitor-qmp,chardev=...)";

/// The options for a QMP chardev on a D-Bus display.
const DBUS_OPTIONS: &str = "-display dbus -chardev dbus,id=qmp,name=org.qemu.monitor.qmp.0 \
                            -mon chardev=qmp,mode=control";

/// No address was given. `on_bus` are the QEMUs on the session bus.
pub(crate) fn no_address(on_bus: &[String]) -> Failure {
    let failure = Failure::usage(
        "no address: give --connect ADDRESS, or set SPICE_QMP_ADDRESS in the environment",
    );
    if on_bus.is_empty() {
        failure.hint(format!("an address is {FORMS}"))
    } else {
        let found = on_bus.join(" or ");
        failure.hint(format!(
            "an address is {FORMS}. A QEMU is on the session bus: --connect {found}"
        ))
    }
}

/// `host:port`, which may be the address of a socket or of a SPICE server.
pub(crate) fn ambiguous(text: &str) -> Failure {
    Failure::usage(format!(
        "{text:?} may be the address of two kinds of servers"
    ))
    .hint(format!(
        "use tcp:{text} for a QMP socket, spice://{text} for a SPICE server"
    ))
}

/// A text that is not an address.
pub(crate) fn wrong_address(text: &str, error: &AddressError) -> Failure {
    let failure = Failure::usage(error.to_string());
    let spice = text.starts_with("spice");
    failure.hint(match (error.fault(), error.instead()) {
        (AddressFault::Password, _) => {
            "leave it out and use --password-file FILE or SPICE_QMP_PASSWORD".to_owned()
        }
        (AddressFault::PathTooLong { .. }, _) => shorter_path(text),
        (AddressFault::QemuOptions, None) if text.starts_with("dbus") => {
            "a display with p2p=yes has no address: give QEMU a bus, or a QMP socket (-qmp)"
                .to_owned()
        }
        (AddressFault::BadBusName, None) => {
            "a name is like org.qemu; the address of a bus is given as \
             dbus:address=unix:path=/path,name=NAME"
                .to_owned()
        }
        (AddressFault::BadBus, None) => {
            "use an address as in DBUS_SESSION_BUS_ADDRESS: dbus:address=unix:path=/path".to_owned()
        }
        (AddressFault::RelativePath, Some(instead)) => {
            let path = text.trim_start_matches("spice+unix://");
            format!("use {instead}, or spice+unix://./{path} for a relative path")
        }
        (_, Some(instead)) if text.to_ascii_lowercase().starts_with("telnet") => format!(
            "a monitor for telnet is for people: \
             start QEMU with -qmp {instead},server=on,wait=off and use {instead}"
        ),
        (AddressFault::QemuOptions, Some(instead)) => {
            format!("leave QEMU's options out: use {instead}")
        }
        (AddressFault::Form, Some(instead)) if !spice && instead.starts_with("unix:/") => {
            let path = instead.trim_start_matches("unix:");
            format!("use unix:{path} for a QMP socket, spice+unix://{path} for a SPICE server")
        }
        (_, Some(instead)) => format!("use {instead}"),
        (AddressFault::NoPort, None) if spice => {
            "add the port of QEMU's -spice port=..., as in spice://host:5900".to_owned()
        }
        (AddressFault::NoPort, None) => {
            "add the port of QEMU's -qmp tcp:host:port, as in tcp:localhost:4444".to_owned()
        }
        (AddressFault::Ipv6Brackets, None) => {
            "put brackets around the host, as in tcp:[::1]:4444".to_owned()
        }
        _ => format!("use {FORMS}"),
    })
}

fn shorter_path(text: &str) -> String {
    let scheme = if text.starts_with("spice+unix://") {
        "spice+unix://./"
    } else {
        "unix:./"
    };
    let path = text
        .trim_start_matches("spice+unix://")
        .trim_start_matches("unix:");
    match (path.starts_with('@'), path.rsplit_once('/')) {
        (false, Some((folder, name))) if !folder.is_empty() => {
            format!(
                "use a relative path: cd {} first, then use {scheme}{name}",
                quoted(folder)
            )
        }
        _ => "give the socket a shorter name".to_owned(),
    }
}

/// A word quoted for the shell.
fn quoted(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+@:".contains(c);
    if text.chars().all(plain) {
        text.to_owned()
    } else {
        format!("'{}'", text.replace('\'', r"'\''"))
    }
}

/// Why connecting failed, and what to do about it.
pub(crate) fn explain(error: Error, address: &Address, tls: &Tls) -> Failure {
    if let Error::Connect(ConnectError::Tls(text)) = &error {
        return tls::failure(text, address, tls);
    }
    let hint = match &error {
        Error::Connect(ConnectError::Busy(_)) => Some(
            "one client at a time has the monitor: end that one (--wait waits for it), or give \
             QEMU a second chardev for it"
                .to_owned(),
        ),
        Error::Connect(ConnectError::Unreachable { message, .. })
            if message.starts_with("QEMU is not on the bus") =>
        {
            Some(format!(
                "is QEMU running with {DBUS_OPTIONS} ? (--wait waits for it; for the name on \
                 another bus use dbus:address=ADDRESS,name=NAME)"
            ))
        }
        Error::Connect(ConnectError::Unreachable { kind, origin, .. }) => {
            let resolver = origin.is_some_and(|origin| origin.domain.contains("resolver"));
            Some(unreachable(*kind, resolver, address))
        }
        Error::TimedOut { what, .. } => silent(what, address),
        Error::Closed(text) if text.contains("after its QMP greeting") => {
            Some("QEMU ended, or is just ending: its standard error says why".to_owned())
        }
        Error::Peer(PeerError::NoGreeting(_))
            if address.is_spice() || matches!(address, Address::Dbus { .. }) =>
        {
            Some(format!("is the chardev of this port one of {MONITOR} ?"))
        }
        Error::Peer(PeerError::NoGreeting(_)) => Some(
            "the answer is not QMP: is this QEMU's -qmp socket, and not that of -monitor, \
             -serial or telnet=on ?"
                .to_owned(),
        ),
        Error::Peer(PeerError::NotQmp { .. }) if matches!(address, Address::Dbus { .. }) => {
            Some(format!("is the chardev of this name one of {MONITOR} ?"))
        }
        Error::Peer(PeerError::NotQmp { .. }) | Error::Closed(_) if !address.is_spice() => {
            Some("QEMU opens a QMP socket with -qmp, not with -monitor".to_owned())
        }
        _ => None,
    };
    let failure = Failure::from(error);
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

fn unreachable(kind: ErrorKind, resolver: bool, address: &Address) -> String {
    if resolver {
        return format!("is the name of the host right in {address} ?");
    }
    let path = match address {
        Address::Unix(path) => Some(&**path),
        Address::Spice(uri) => uri.strip_prefix("spice+unix://"),
        _ => None,
    };
    match (kind, path) {
        (ErrorKind::PermissionDenied, Some(path)) => return who_owns(Path::new(path)),
        (ErrorKind::ConnectionRefused, Some(path)) => {
            let metadata = std::fs::metadata(path);
            return if metadata.is_ok_and(|file| file.file_type().is_socket()) {
                "no process listens on this socket any more: \
                 QEMU has ended, and has to be started again"
                    .to_owned()
            } else {
                format!("{path} is not a socket")
            };
        }
        (ErrorKind::ConnectionReset, None) if address.is_spice() => {
            return tls::link_hint(address);
        }
        _ => {}
    }
    if let Address::Dbus { bus, .. } = address {
        return match bus {
            Some(_) => "does a bus run at this address ? (--wait waits for it)".to_owned(),
            None => "does a session bus run ? For another one use dbus:address=ADDRESS".to_owned(),
        };
    }
    match address {
        Address::Unix(_) | Address::Abstract(_) | Address::Tcp { .. } => format!(
            "is QEMU running with -qmp {},server=on,wait=off ? (--wait waits for it)",
            as_for_qemu(address)
        ),
        _ => match path {
            Some(path) => format!(
                "is QEMU running with -spice unix=on,addr={path} ? \
                 (for a QMP socket use unix:{path}; --wait waits for it)"
            ),
            None => "is QEMU running with -spice port=PORT,... ? \
                     (for a QMP socket use tcp:host:port; --wait waits for it)"
                .to_owned(),
        },
    }
}

/// An address as QEMU's option `-qmp` takes it.
fn as_for_qemu(address: &Address) -> String {
    match address {
        Address::Abstract(name) => format!("unix:{name},abstract=on"),
        address => address.to_string(),
    }
}

/// Who may use a socket that this user cannot.
fn who_owns(path: &Path) -> String {
    // The first accessible folder on the way contains the obstacle.
    for file in path.ancestors() {
        let file = if file.as_os_str().is_empty() {
            Path::new(".")
        } else {
            file
        };
        let Ok(metadata) = std::fs::metadata(file) else {
            continue;
        };
        let what = if metadata.is_dir() {
            "the folder"
        } else {
            "the socket"
        };
        let info = gio::File::for_path(file).query_info(
            "owner::user,owner::group",
            gio::FileQueryInfoFlags::NONE,
            gio::Cancellable::NONE,
        );
        let name = |attribute| {
            let info = info.as_ref().ok()?;
            info.attribute_string(attribute).map(String::from)
        };
        let user = name("owner::user").unwrap_or_else(|| format!("user {}", metadata.uid()));
        let group = name("owner::group").unwrap_or_else(|| format!("{}", metadata.gid()));
        return format!(
            "{what} {} belongs to {user}, group {group}, with mode {:03o}: \
             run spice-qmp as {user} (sudo -u {user}), or have them let you in",
            file.display(),
            metadata.mode() & 0o7777
        );
    }
    "run spice-qmp as the user of QEMU's".to_owned()
}

fn silent(what: &str, address: &Address) -> Option<String> {
    let spice = match address {
        Address::Spice(_) => return None,
        Address::Dbus { .. } => {
            return Some("QEMU, or the bus, does not answer: it is stopped, or busy".to_owned());
        }
        Address::Unix(path) => format!("; if it is a SPICE server, use spice+unix://{path}"),
        Address::Tcp { .. } => {
            let host_and_port = address.to_string();
            let host_and_port = host_and_port.trim_start_matches("tcp:");
            format!("; if it is a SPICE server, use spice://{host_and_port}")
        }
        _ => String::new(),
    };
    Some(if what.starts_with("the connection") {
        "QEMU does not accept connections: it is stopped, or busy with other clients".to_owned()
    } else {
        format!("another client may hold the monitor, or QEMU may be stopped{spice}")
    })
}
