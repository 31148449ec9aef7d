// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects ports: to an address, through a SPICE session, or to a D-Bus display.
//!
//! Above [`port`](crate::port), which does not depend on it.

mod address;
mod connector;
#[cfg(unix)]
mod dbus;
#[cfg(not(unix))]
#[path = "dbus_elsewhere.rs"]
mod dbus;
mod dial;
#[cfg(feature = "spice")]
mod disconnect;
mod line;
mod login;
mod options;
#[cfg(feature = "spice")]
mod owned_session;
mod qemu_options;
#[cfg(feature = "spice")]
mod settle;
mod socket;
#[cfg(feature = "spice")]
mod spice;
mod usable;

use std::time::Duration;

use crate::port::QmpPort;
use crate::qmp::Error;
#[cfg(feature = "spice")]
use crate::transport::spice::Session;

pub use address::{Address, AddressError, AddressFault, MAX_SOCKET_PATH};
pub use connector::{Connector, ConnectorBuilder};
pub use options::ConnectOptions;

impl QmpPort {
    /// Connects to any [`Address`]: a QMP socket, such as `unix:/path`, `unix:@name`,
    /// `tcp:host:port` or `host:port` (`[::1]:4444`), a D-Bus display (`dbus:`,
    /// `dbus:NAME`, `dbus:address=ADDRESS,name=NAME`), or a SPICE server that requires no
    /// password (`spice://host:port`, `spice+tls://host:port`, `spice+unix:///path`). Waits
    /// for at most [`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT) until the port is ready and
    /// its property `status` is known. A [`Connector`] has more options.
    ///
    /// A port that was opened on a SPICE server owns its SPICE session, which is
    /// disconnected with it, and has no `channel`.
    ///
    /// If the server does not have `query-status`, `status` is NULL, and
    /// `last-error` says why.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`](crate::ConnectError::Unreachable),
    /// [`Error::TimedOut`] if the server sends no greeting, for D-Bus displays those of
    /// [`find_on_bus`](Self::find_on_bus), for SPICE servers those of `find`,
    /// [`UsageError::InvalidArgument`](crate::UsageError::InvalidArgument) for an invalid
    /// address, or [`PeerError::NotQmp`](crate::PeerError::NotQmp).
    pub async fn open(address: &str) -> Result<Self, Error> {
        open(address, &ConnectOptions::new()).await
    }

    /// [`open`](Self::open) with a given timeout.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub async fn open_within(address: &str, timeout: Duration) -> Result<Self, Error> {
        open(address, &ConnectOptions::new().timeout(timeout)).await
    }

    /// [`open`](Self::open) with options.
    ///
    /// # Errors
    ///
    /// As for [`open`](Self::open).
    pub async fn open_with(address: &str, options: ConnectOptions) -> Result<Self, Error> {
        open(address, &options).await
    }

    /// Finds the QMP port of a D-Bus display (QEMU's `-display dbus`), and waits until it is ready
    /// and its property `status` is known, for at most [`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT).
    ///
    /// `name` is QEMU's name on the bus of `connection`, usually `org.qemu`. It is `None`
    /// for a peer-to-peer connection (`-display dbus,p2p=yes`), whose other end is QEMU.
    /// The port uses a socket of its own, which it registers with the first free chardev that
    /// has a [QMP name](Self::is_qmp_name).
    ///
    /// When that socket ends, the port is closed. It is ready again as soon as QEMU is
    /// back on the bus, or another client that had the chardev has disconnected. If `connection` is
    /// closed, the port works until its socket ends, and then is closed for good.
    ///
    /// # Errors
    ///
    /// [`ConnectError::Unreachable`](crate::ConnectError::Unreachable) with the kind
    /// `NotFound` if QEMU is not on the bus, and with others if D-Bus fails,
    /// [`NoChardev`](crate::ConnectError::NoChardev),
    /// [`OnlyHumanMonitor`](crate::ConnectError::OnlyHumanMonitor),
    /// [`Busy`](crate::ConnectError::Busy),
    /// [`UsageError::InvalidArgument`](crate::UsageError::InvalidArgument) if `name` is
    /// not a valid name or does not go with `connection`, and
    /// [`NotSupported`](crate::UsageError::NotSupported) if that cannot pass file
    /// descriptors; [`Error::TimedOut`].
    pub async fn find_on_bus(
        connection: &gio::DBusConnection,
        name: Option<&str>,
    ) -> Result<Self, Error> {
        dbus::find(connection, name, &ConnectOptions::new()).await
    }

    /// [`find_on_bus`](Self::find_on_bus) with options.
    ///
    /// # Errors
    ///
    /// As for [`find_on_bus`](Self::find_on_bus).
    pub async fn find_on_bus_with(
        connection: &gio::DBusConnection,
        name: Option<&str>,
        options: ConnectOptions,
    ) -> Result<Self, Error> {
        dbus::find(connection, name, &options).await
    }
}

#[cfg(feature = "spice")]
impl QmpPort {
    /// Finds the QMP port of a SPICE session, which is connected if it is not yet, and waits
    /// until the port is ready and its property `status` is known, for at most
    /// [`CONNECT_TIMEOUT`](crate::CONNECT_TIMEOUT).
    ///
    /// The port channels of the session are connected to learn their names.
    ///
    /// If the future is dropped, or fails, the session stays connected, and QEMU may
    /// still owe an answer. After a drop, a source on GLib's default main context holds
    /// the session until QEMU has answered, if that context still runs. Await
    /// [`settle`](Self::settle) before you disconnect the session yourself: QEMU may
    /// freeze if a SPICE client disconnects earlier.
    ///
    /// # Errors
    ///
    /// [`ConnectError`](crate::ConnectError) if there is no such port, or only a human
    /// monitor, if the login is refused or the server cannot be reached, and
    /// [`Error::TimedOut`] if it does not answer.
    pub async fn find(session: impl Into<Session>) -> Result<Self, Error> {
        settle::find(session.into(), &ConnectOptions::new()).await
    }

    /// [`find`](Self::find) with a given timeout.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find).
    pub async fn find_within(
        session: impl Into<Session>,
        timeout: Duration,
    ) -> Result<Self, Error> {
        settle::find(session.into(), &ConnectOptions::new().timeout(timeout)).await
    }

    /// [`find`](Self::find) with options.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find).
    pub async fn find_with(
        session: impl Into<Session>,
        options: ConnectOptions,
    ) -> Result<Self, Error> {
        settle::find(session.into(), &options).await
    }

    /// [`find_with`](Self::find_with) until `cancelled` ends. Then it waits until QEMU
    /// has answered what the port has asked, for at most the port's `close-timeout`,
    /// before it fails. For the C library.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find), and [`Error::Cancelled`].
    #[doc(hidden)]
    pub async fn find_cancellable(
        session: impl Into<Session>,
        options: ConnectOptions,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Self, Error> {
        let session = session.into();
        let search = settle::find(session.clone(), &options);
        settle::cancellable(&session, search, cancelled).await
    }

    /// The names of all ports of a SPICE session, whether they speak QMP or not.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find).
    pub async fn port_names(
        session: impl Into<Session>,
        timeout: Duration,
    ) -> Result<Vec<String>, Error> {
        settle::port_names(session.into(), &ConnectOptions::new().timeout(timeout)).await
    }

    /// [`port_names`](Self::port_names) with options.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find).
    pub async fn port_names_with(
        session: impl Into<Session>,
        options: ConnectOptions,
    ) -> Result<Vec<String>, Error> {
        settle::port_names(session.into(), &options).await
    }

    /// [`port_names_with`](Self::port_names_with) until `cancelled` ends, like
    /// [`find_cancellable`](Self::find_cancellable). For the C library.
    ///
    /// # Errors
    ///
    /// As for [`find`](Self::find), and [`Error::Cancelled`].
    #[doc(hidden)]
    pub async fn port_names_cancellable(
        session: impl Into<Session>,
        options: ConnectOptions,
        cancelled: impl Future<Output = ()>,
    ) -> Result<Vec<String>, Error> {
        let session = session.into();
        let search = settle::port_names(session.clone(), &options);
        settle::cancellable(&session, search, cancelled).await
    }

    /// Waits until QEMU has answered everything that the ports of a SPICE session have asked,
    /// for at most the port's `close-timeout`. Then the session may be
    /// disconnected: QEMU may freeze if a SPICE client disconnects earlier.
    ///
    /// [`close`](Self::close) does that, too, and ends the port.
    pub async fn settle(session: impl Into<Session>) {
        settle::settle(&session.into()).await;
    }
}

/// Connects to `address`, whatever its kind.
async fn open(address: &str, options: &ConnectOptions) -> Result<QmpPort, Error> {
    match Address::parse(address)? {
        Address::Dbus { bus, name } => dbus::open(bus.as_deref(), &name, options).await,
        #[cfg(feature = "spice")]
        address @ Address::Spice(_) => {
            let dial = dial::Dial {
                address,
                options: options.clone(),
                login: login::Login::default(),
            };
            line::open(dial, Duration::ZERO, std::future::pending()).await
        }
        _ => socket::open(address, options).await,
    }
}
