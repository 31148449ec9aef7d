// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses the addresses of monitors and SPICE servers, for both the library and the tool.

use std::fmt;
use std::net::Ipv6Addr;

use super::qemu_options::{dbus_as_for_qemu, without_qemu_options};
use crate::qmp::{Error, UsageError};

/// The address of a monitor.
///
/// `Display` prints the address in its usual form.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Address {
    /// A SPICE server: `spice://host:port`, `spice+tls://host:port`,
    /// `spice://host?port=PORT&tls-port=PORT` or `spice+unix:///path`.
    Spice(Box<str>),
    /// A QMP socket in the file system: `unix:/path`.
    Unix(Box<str>),
    /// A QMP socket in Linux' abstract namespace: `unix:@name`, without the `@`.
    Abstract(Box<str>),
    /// A QMP socket on the network: `tcp:host:port`, `host:port` or `[::1]:port`.
    Tcp {
        /// The name or address of the host, without brackets.
        host: Box<str>,
        /// The port, which is not 0.
        port: u16,
    },
    /// QEMU's display on a message bus: `dbus:`, `dbus:NAME` or
    /// `dbus:address=ADDRESS[,name=NAME]`.
    Dbus {
        /// The D-Bus address of the bus; `None` is the session bus.
        bus: Option<Box<str>>,
        /// QEMU's name on the bus: `org.qemu` if the address does not say.
        name: Box<str>,
    },
}

/// Why a text is not a valid [`Address`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}{fault}")]
pub struct AddressError {
    fault: AddressFault,
    /// The address in quotes and a colon, or an empty string if it contains a secret.
    text: Box<str>,
    instead: Option<Box<str>>,
}

/// What is wrong with an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum AddressFault {
    /// The text is empty.
    #[error("the address is empty")]
    Empty,
    /// A password is part of the address. The error does not repeat it.
    #[error("the address contains a password, which others can see")]
    Password,
    /// The path, or the abstract name, is longer than the operating system allows.
    #[error("the path has {length} bytes, but a socket's has at most {MAX_SOCKET_PATH}")]
    PathTooLong {
        /// The length in bytes.
        length: usize,
    },
    /// The address is followed by options of QEMU's.
    #[error("QEMU's options are not part of an address")]
    QemuOptions,
    /// The address has another form than those of [`Address`].
    #[error("this is not an address of a QMP socket, a SPICE server or a D-Bus display")]
    Form,
    /// The path, or the name of an abstract socket, is missing.
    #[error("the path is missing")]
    NoPath,
    /// The path of a SPICE server's socket is relative without saying so (`./path`).
    #[error("the path does not begin with /")]
    RelativePath,
    /// The name of the host is missing.
    #[error("the host is missing")]
    NoHost,
    /// The host contains characters that occur in no name or address.
    #[error("the host is not a name or address")]
    BadHost,
    /// An IPv6 address lacks the brackets that set it apart from the port.
    #[error("an IPv6 address needs brackets")]
    Ipv6Brackets,
    /// The port is missing.
    #[error("the port is missing")]
    NoPort,
    /// The port is not a number between 1 and 65535.
    #[error("the port is not a number between 1 and 65535")]
    BadPort,
    /// QEMU's name on the message bus is not a valid D-Bus name.
    #[error("the name on the bus is not a D-Bus name")]
    BadBusName,
    /// The address of the message bus is not a valid D-Bus address, or of an unsupported kind.
    #[error("the address of the bus is not a D-Bus address")]
    BadBus,
    /// There is misplaced white space.
    #[error("there is white space in it")]
    Space,
    /// There is a NUL byte.
    #[error("there is a NUL byte in it")]
    Nul,
}

/// The longest path of a Unix socket in bytes (`sun_path` of `sockaddr_un`, without the
/// terminating NUL), and the longest abstract name. GLib would cut a longer one, and
/// connect to whatever listens there.
pub const MAX_SOCKET_PATH: usize = 107;

impl AddressError {
    /// What is wrong.
    #[must_use]
    pub fn fault(&self) -> AddressFault {
        self.fault
    }

    /// The valid address that was probably meant.
    #[must_use]
    pub fn instead(&self) -> Option<&str> {
        self.instead.as_deref()
    }
}

impl From<AddressError> for Error {
    fn from(error: AddressError) -> Self {
        UsageError::InvalidArgument(error.to_string().into()).into()
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Spice(uri) => f.write_str(uri),
            Self::Unix(path) => write!(f, "unix:{path}"),
            Self::Abstract(name) => write!(f, "unix:@{name}"),
            Self::Tcp { host, port } if host.contains(':') => write!(f, "tcp:[{host}]:{port}"),
            Self::Tcp { host, port } => write!(f, "tcp:{host}:{port}"),
            Self::Dbus { bus, name } => {
                let qemu = &**name == QEMU_BUS_NAME;
                match bus {
                    None if qemu => f.write_str("dbus:"),
                    None => write!(f, "dbus:{name}"),
                    Some(bus) if qemu => write!(f, "dbus:address={bus}"),
                    Some(bus) => write!(f, "dbus:address={bus},name={name}"),
                }
            }
        }
    }
}

impl std::str::FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        Self::parse(text)
    }
}

/// A fault, and the address that was probably meant.
type Wrong = (AddressFault, Option<String>);

impl Address {
    /// Parses an address.
    ///
    /// # Errors
    ///
    /// What is wrong with it, and what was probably meant.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        parse(text).map_err(|(fault, instead)| {
            let secret = holds_password(text) || fault == AddressFault::Empty;
            AddressError {
                fault,
                text: if secret {
                    "".into()
                } else {
                    format!("{text:?}: ").into()
                },
                instead: instead.and_then(|text| corrected(&text, 4)).map(Into::into),
            }
        })
    }

    /// Whether it names a SPICE server.
    #[must_use]
    pub fn is_spice(&self) -> bool {
        matches!(self, Self::Spice(_))
    }
}

/// The valid address closest to `text`, with at most `left` corrections.
fn corrected(text: &str, left: u32) -> Option<String> {
    match parse(text) {
        Ok(address) => Some(address.to_string()),
        Err((_, Some(instead))) if left > 0 => corrected(&instead, left - 1),
        Err(_) => None,
    }
}

fn parse(text: &str) -> Result<Address, Wrong> {
    if text.trim().is_empty() {
        return Err((AddressFault::Empty, None));
    }
    if holds_password(text) {
        return Err((AddressFault::Password, None));
    }
    if text.contains('\0') {
        return Err((AddressFault::Nul, None));
    }
    if text.trim_start() != text {
        return Err((AddressFault::Space, Some(text.trim().to_owned())));
    }
    // It may contain keywords of QEMU's options.
    if let Some(rest) = text.strip_prefix("dbus:") {
        return dbus(rest);
    }
    if let Some(options) = text.strip_prefix("dbus,") {
        return Err((AddressFault::QemuOptions, dbus_as_for_qemu(options)));
    }
    if let Some(meant) = without_qemu_options(text) {
        return Err((AddressFault::QemuOptions, Some(meant)));
    }
    match text.split_once(':') {
        Some(("unix", path)) => unix(path),
        Some(("spice+unix", path)) => spice_unix(text, path),
        Some(("spice" | "spice+tls", rest)) => spice(text, rest),
        Some(("tcp", rest)) => tcp(rest),
        _ => no_scheme(text),
    }
}

fn unix(path: &str) -> Result<Address, Wrong> {
    if path.is_empty() {
        return Err((AddressFault::NoPath, None));
    }
    if path.trim_start() != path {
        let meant = format!("unix:{}", path.trim_start());
        return Err((AddressFault::Space, Some(meant)));
    }
    if let Some(rest) = path.strip_prefix("//") {
        // unix:///path is a URL; to the operating system it is the same file.
        let path = rest.trim_start_matches('/');
        if rest.starts_with('/') && !path.is_empty() {
            return unix(&format!("/{path}"));
        }
        let meant = (!path.is_empty()).then(|| format!("unix:/{path}"));
        return Err((AddressFault::Form, meant));
    }
    if let Some(path) = path.strip_prefix("path=") {
        return Err((AddressFault::Form, Some(format!("unix:{path}"))));
    }
    if let Some(name) = path.strip_prefix('@') {
        if name.is_empty() {
            return Err((AddressFault::NoPath, None));
        }
        check_length(name)?;
        return Ok(Address::Abstract(name.into()));
    }
    check_length(path)?;
    Ok(Address::Unix(path.into()))
}

/// What follows `dbus:`.
fn dbus(rest: &str) -> Result<Address, Wrong> {
    let Some(bus) = rest.strip_prefix("address=") else {
        if let Some(name) = rest.strip_prefix("name=") {
            return Err((AddressFault::Form, Some(format!("dbus:{name}"))));
        }
        if let Some(bus) = rest.strip_prefix("addr=") {
            return Err((AddressFault::Form, Some(format!("dbus:address={bus}"))));
        }
        // The address of a bus is not a name.
        if gio::dbus_is_address(rest) {
            return Err((AddressFault::Form, Some(format!("dbus:address={rest}"))));
        }
        let name = if rest.is_empty() { QEMU_BUS_NAME } else { rest };
        let bus = None;
        return dbus_name(name).map(|name| Address::Dbus { bus, name });
    };
    if bus.contains(",,") {
        // As on QEMU's command line.
        let meant = format!("dbus:address={}", bus.replace(",,", ","));
        return Err((AddressFault::QemuOptions, Some(meant)));
    }
    // No part of a D-Bus address is called `name`.
    let (bus, name) = bus.rsplit_once(",name=").unwrap_or((bus, QEMU_BUS_NAME));
    match check_bus(bus) {
        Err((AddressFault::BadBus, _)) if bus.starts_with('/') => {
            let path = gio::dbus_address_escape_value(bus);
            let meant = format!("dbus:address=unix:path={path},name={name}");
            return Err((AddressFault::BadBus, Some(meant)));
        }
        checked => checked?,
    }
    let bus = Some(bus.into());
    dbus_name(name).map(|name| Address::Dbus { bus, name })
}

/// Checks the address of a bus. One that starts a program is refused, and so is a path
/// that GLib would cut.
fn check_bus(bus: &str) -> Result<(), Wrong> {
    let launches = bus.split(';').any(|it| it.starts_with("autolaunch:"));
    if launches || bus.is_empty() || gio::dbus_is_supported_address(bus).is_err() {
        return Err((AddressFault::BadBus, None));
    }
    for word in bus.split([';', ',']) {
        let word = word.strip_prefix("unix:").unwrap_or(word);
        if let Some(("path" | "abstract", path)) = word.split_once('=') {
            // An escaped byte takes three characters.
            let length = path.len() - 2 * path.matches('%').count();
            if length > MAX_SOCKET_PATH {
                return Err((AddressFault::PathTooLong { length }, None));
            }
        }
    }
    Ok(())
}

fn dbus_name(name: &str) -> Result<Box<str>, Wrong> {
    if gio::dbus_is_name(name) {
        Ok(name.into())
    } else {
        Err((AddressFault::BadBusName, None))
    }
}

/// The name that QEMU asks for on a bus.
const QEMU_BUS_NAME: &str = "org.qemu";

fn spice_unix(text: &str, rest: &str) -> Result<Address, Wrong> {
    let Some(path) = rest.strip_prefix("//") else {
        let meant = (!rest.starts_with('@')).then(|| format!("spice+unix://{rest}"));
        return Err((AddressFault::Form, meant.filter(|_| !rest.is_empty())));
    };
    if path.trim_matches('/').is_empty() {
        return Err((AddressFault::NoPath, None));
    }
    check_length(path)?;
    // Without a dot, a / was probably forgotten.
    if !["/", "./", "../"]
        .iter()
        .any(|start| path.starts_with(start))
    {
        let meant = format!("spice+unix:///{}", path.trim_start());
        return Err((AddressFault::RelativePath, Some(meant)));
    }
    Ok(Address::Spice(text.into()))
}

/// This check remains for programs that set the properties of a session.
pub(super) fn check_length(path: &str) -> Result<(), Wrong> {
    match path.len() {
        length if length > MAX_SOCKET_PATH => Err((AddressFault::PathTooLong { length }, None)),
        _ => Ok(()),
    }
}

/// Refuses the path of a SPICE server's socket that is too long.
#[cfg(feature = "spice")]
pub(super) fn check_spice_path(path: &str) -> Result<(), AddressError> {
    check_length(path).map_err(|wrong| named(path, wrong))
}

/// Refuses an invalid address of the session bus.
#[cfg(unix)]
pub(super) fn check_session_bus(bus: &str) -> Result<(), AddressError> {
    check_bus(bus).map_err(|wrong| named(bus, wrong))
}

#[cfg(any(unix, feature = "spice"))]
fn named(text: &str, (fault, _): Wrong) -> AddressError {
    AddressError {
        fault,
        text: format!("{text:?}: ").into(),
        instead: None,
    }
}

fn spice(text: &str, rest: &str) -> Result<Address, Wrong> {
    let (scheme, _) = text.split_once(':').unwrap_or_default();
    let Some(rest) = rest.strip_prefix("//") else {
        let meant = (!rest.is_empty()).then(|| format!("{scheme}://{rest}"));
        return Err((AddressFault::Form, meant));
    };
    if rest.starts_with('/') {
        let meant = format!("spice+unix:///{}", rest.trim_start_matches('/'));
        return Err((AddressFault::NoHost, Some(meant)));
    }
    if rest.contains(char::is_whitespace) {
        let meant = rest.split_whitespace().collect::<String>();
        return Err((AddressFault::Space, Some(format!("{scheme}://{meant}"))));
    }
    let (authority, query) = rest.split_once('?').unwrap_or((rest, ""));
    let authority = authority.trim_end_matches('/');
    let authority = authority
        .rsplit_once('@')
        .map_or(authority, |(_, host)| host);
    let meant = |authority: String| match query {
        "" => format!("{scheme}://{authority}"),
        query => format!("{scheme}://{authority}?{query}"),
    };
    let mut named = scheme == "spice";
    if named {
        let ports = query
            .split(['&', ';'])
            .filter_map(|pair| pair.split_once('='));
        let ports = ports.filter(|(key, _)| matches!(*key, "port" | "tls-port"));
        named = false;
        for (_, number) in ports {
            port(number)?;
            named = true;
        }
    }
    match host_and_port(authority) {
        Ok(_) => Ok(Address::Spice(text.into())),
        Err((AddressFault::NoPort, _)) if named => Ok(Address::Spice(text.into())),
        Err((fault, instead)) => Err((fault, instead.map(meant))),
    }
}

fn tcp(rest: &str) -> Result<Address, Wrong> {
    if let Some(meant) = rest.strip_prefix("//") {
        let meant = format!("tcp:{}", meant.trim_matches('/'));
        return Err((AddressFault::Form, Some(meant)));
    }
    if rest.contains(char::is_whitespace) {
        let meant = rest.split_whitespace().collect::<String>();
        return Err((AddressFault::Space, Some(format!("tcp:{meant}"))));
    }
    match host_and_port(rest) {
        Ok((host, port)) => Ok(Address::Tcp {
            host: host.into(),
            port,
        }),
        Err((fault, instead)) => Err((fault, instead.map(|instead| format!("tcp:{instead}")))),
    }
}

/// `host:port` or `[address]:port`.
fn host_and_port(text: &str) -> Result<(&str, u16), Wrong> {
    if let Some(rest) = text.strip_prefix('[') {
        let Some((host, rest)) = rest.split_once(']') else {
            return Err((AddressFault::BadHost, None));
        };
        // What follows a % names a local network interface.
        let address = host.split_once('%').map_or(host, |(address, _)| address);
        if address.parse::<Ipv6Addr>().is_err() {
            return Err((AddressFault::BadHost, None));
        }
        return match rest.strip_prefix(':') {
            Some(number) => Ok((host, port(number)?)),
            None if rest.is_empty() => Err((AddressFault::NoPort, None)),
            None => Err((AddressFault::BadPort, None)),
        };
    }
    let Some((host, number)) = text.rsplit_once(':') else {
        let fault = if text.is_empty() {
            AddressFault::NoHost
        } else if is_host(text) {
            AddressFault::NoPort
        } else {
            AddressFault::BadHost
        };
        return Err((fault, None));
    };
    if host.contains(':') {
        if host.parse::<Ipv6Addr>().is_ok() {
            return Err((
                AddressFault::Ipv6Brackets,
                Some(format!("[{host}]:{number}")),
            ));
        }
        if text.parse::<Ipv6Addr>().is_ok() {
            return Err((AddressFault::Ipv6Brackets, None));
        }
        return Err((AddressFault::BadHost, None));
    }
    if host.is_empty() {
        // For QEMU, which listens, it means any host.
        return Err((AddressFault::NoHost, Some(format!("localhost:{number}"))));
    }
    if !is_host(host) {
        return Err((AddressFault::BadHost, None));
    }
    Ok((host, port(number)?))
}

fn is_host(text: &str) -> bool {
    !text.is_empty() && !text.contains(|c: char| c.is_control() || "/?#@,;=[]\\\"'".contains(c))
}

fn port(text: &str) -> Result<u16, Wrong> {
    if text.is_empty() {
        return Err((AddressFault::NoPort, None));
    }
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse() {
        Ok(port) if digits && port != 0 => Ok(port),
        _ => {
            let meant = text.trim_end_matches('/');
            let meant = (meant != text).then(|| meant.to_owned());
            Err((AddressFault::BadPort, meant))
        }
    }
}

/// Parses text without a scheme: `host:port`, or something else that may be meant.
fn no_scheme(text: &str) -> Result<Address, Wrong> {
    let form = |meant: Option<String>| Err((AddressFault::Form, meant));
    if let Some((scheme, rest)) = text.split_once(':') {
        let lower = scheme.to_ascii_lowercase();
        match lower.as_str() {
            "unix" | "tcp" | "spice" | "spice+tls" | "spice+unix" | "dbus" => {
                return form(Some(format!("{lower}:{rest}")));
            }
            "telnet" | "tn3270" => return form(Some(format!("tcp:{}", rest.trim_matches('/')))),
            "file" if rest.starts_with('/') => {
                return form(Some(format!("unix:/{}", rest.trim_start_matches('/'))));
            }
            _ if rest.starts_with("//") => return form(None),
            _ => {}
        }
    }
    if text == "dbus" {
        return form(Some("dbus:".to_owned()));
    }
    if text.starts_with(['/', '.', '~', '@']) {
        return form(Some(format!("unix:{text}")));
    }
    match tcp(text) {
        Err((AddressFault::NoPort | AddressFault::BadHost, None)) if text.contains('/') => {
            form(Some(format!("unix:{text}")))
        }
        Err((AddressFault::NoPort | AddressFault::BadHost, None)) if !text.contains(':') => {
            form(None)
        }
        result => result,
    }
}

/// Whether spice-gtk would find a password in this address.
fn holds_password(text: &str) -> bool {
    if ["unix:", "spice+unix:", "dbus:"]
        .iter()
        .any(|scheme| text.starts_with(scheme))
    {
        return false;
    }
    let query = text.split_once('?').map_or("", |(_, query)| query);
    let authority = text.split_once("//").map_or("", |(_, rest)| rest);
    let authority = authority.split(['/', '?']).next().unwrap_or_default();
    let user = authority.rsplit_once('@').map_or("", |(user, _)| user);
    query.to_ascii_lowercase().contains("password=") || user.contains(':')
}

#[cfg(test)]
mod tests;
