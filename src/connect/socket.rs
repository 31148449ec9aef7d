//! Ports on sockets.

use std::cell::RefCell;
use std::path::Path;
use std::time::Instant;

use gio::prelude::*;

use super::{
    Address, ConnectOptions, FIRST_PAUSE, LONGEST_PAUSE, unreachable, usable, with_timeout,
};
use crate::port::{QmpPort, within};
use crate::qmp::{Error, UsageError};
use crate::transport::io_kind;

/// Connects to `address` and waits until the port is ready and its status is known.
pub(super) async fn open(address: &str, options: &ConnectOptions) -> Result<QmpPort, Error> {
    let started = Instant::now();
    let address = Address::parse(address)?;
    let connection = connect(&address, options).await?;
    let port = QmpPort::for_stream(&connection);
    let rest = options.timeout.saturating_sub(started.elapsed());
    match usable::wait(&port, rest).await {
        Ok(()) => Ok(port),
        Err(error) => Err(with_timeout(error, options.timeout)),
    }
}

async fn connect(
    address: &Address,
    options: &ConnectOptions,
) -> Result<gio::SocketConnection, Error> {
    let connectable = connectable(address)?;
    let client = gio::SocketClient::new();
    let last = RefCell::new(None);
    let attempts = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match client.connect_future(&connectable).await {
                Ok(connection) => return Ok(connection),
                Err(error) if !options.tries_again(io_kind(&error)) => return Err(error),
                Err(error) => drop(last.replace(Some(error))),
            }
            glib::timeout_future(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    match within(options.timeout, attempts).await {
        Some(Ok(connection)) => Ok(connection),
        Some(Err(error)) => {
            let message = format!("{address}: {}", error.message());
            Err(unreachable(&error, message).into())
        }
        None => {
            let last = last.take();
            let why = last.map_or_else(String::new, |error| format!(" ({})", error.message()));
            Err(Error::TimedOut {
                what: format!("the connection to {address}{why}").into(),
                after: options.timeout,
                hint: "",
            })
        }
    }
}

fn connectable(address: &Address) -> Result<gio::SocketConnectable, Error> {
    Ok(match address {
        Address::Unix(path) => gio::UnixSocketAddress::new(Path::new(&**path)).upcast(),
        Address::Abstract(name) => {
            let name = UnixSocketAddressPath::Abstract(name.as_bytes());
            gio::UnixSocketAddress::with_type(name).upcast()
        }
        Address::Tcp { host, port } => gio::NetworkAddress::new(host, *port).upcast(),
        Address::Spice(_) => {
            return Err(UsageError::InvalidArgument(
                format!("{address} is a SPICE server: connect a session, then find its port")
                    .into(),
            )
            .into());
        }
    })
}
