//! Ports on sockets: addresses, and how to connect to them.

use std::time::{Duration, Instant};

use gio::prelude::*;

use super::{QmpPort, within};
use crate::qmp::{ConnectError, Error, UsageError};
use crate::transport::io_kind;

/// Connects to `address` and waits until the port is ready.
pub(super) async fn open(address: &str, timeout: Duration) -> Result<QmpPort, Error> {
    let started = Instant::now();
    let connectable = parse(address)?;
    let client = gio::SocketClient::new();
    let connection = client.connect_future(&connectable);
    let connection = within(timeout, connection)
        .await
        .ok_or_else(|| Error::TimedOut {
            what: format!("the connection to {address}").into(),
            after: timeout,
            hint: "",
        })?
        .map_err(|error| ConnectError::Unreachable {
            kind: io_kind(&error),
            message: format!("{address}: {}", error.message()).into(),
        })?;
    let port = QmpPort::for_stream(&connection);
    port.wait_status(timeout.saturating_sub(started.elapsed()))
        .await
        .map_err(|error| with_timeout(error, timeout))?;
    Ok(port)
}

/// The deadline that the caller gave, not what was left of it.
pub(super) fn with_timeout(error: Error, timeout: Duration) -> Error {
    match error {
        Error::TimedOut { what, hint, .. } => Error::TimedOut {
            what,
            after: timeout,
            hint,
        },
        error => error,
    }
}

fn parse(address: &str) -> Result<gio::SocketConnectable, Error> {
    if let Some(path) = address.strip_prefix("unix:") {
        if path.is_empty() || path.contains('\0') {
            return Err(invalid(address));
        }
        return Ok(gio::UnixSocketAddress::new(std::path::Path::new(path)).upcast());
    }
    let host_and_port = address.strip_prefix("tcp:").unwrap_or(address);
    let parsed = (!host_and_port.contains('\0'))
        .then(|| gio::NetworkAddress::parse(host_and_port, 0).ok())
        .flatten()
        .filter(|parsed| parsed.port() != 0 && !parsed.hostname().is_empty());
    match parsed {
        Some(parsed) => Ok(parsed.upcast()),
        None => Err(invalid(address)),
    }
}

fn invalid(address: &str) -> Error {
    UsageError::InvalidArgument(
        format!("{address:?} is no QMP address: use unix:/path or tcp:host:port").into(),
    )
    .into()
}
