// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects to an address, and provides a port that is ready.

use std::rc::Rc;
use std::time::Duration;

use spice_qmp::{Address, Connector, Error, QmpPort};

use crate::cli::Cli;
use crate::failure::{Failure, Stop};
use crate::hints;
use crate::inherited::Inherited;
use crate::monitor::Monitor;
use crate::session_bus;
use crate::trust::Tls;

/// The connection options of the command line.
pub(crate) struct Target {
    place: Place,
    timeout: Duration,
    /// The time of `--timeout`, if given: commands that would run for ever end then.
    pub(crate) limit: Option<Duration>,
    wait: bool,
    /// Whether to connect again when the connection ends.
    pub(crate) reconnects: bool,
    #[cfg(feature = "spice")]
    pub(crate) password_file: Option<std::path::PathBuf>,
    pub(crate) tls: Tls,
    pub(crate) monitor: Rc<Monitor>,
}

/// Where QEMU is.
enum Place {
    Address(Address),
    Inherited(Inherited),
}

impl Place {
    fn parse(text: &str) -> Result<Self, Failure> {
        if let Some(inherited) = Inherited::parse(text) {
            return inherited.map(Self::Inherited);
        }
        match Address::parse(text) {
            // The library takes it for a socket's address, but it may be a SPICE server's.
            Ok(Address::Tcp { .. }) if !text.starts_with("tcp:") => Err(hints::ambiguous(text)),
            Ok(address) => Ok(Self::Address(address)),
            Err(error) => Err(hints::wrong_address(text, &error)),
        }
    }

    fn is_spice(&self) -> bool {
        matches!(self, Self::Address(address) if address.is_spice())
    }
}

impl Target {
    pub(crate) async fn new(cli: &Cli, monitor: &Rc<Monitor>) -> Result<Self, Failure> {
        let text = cli.connect.as_deref().filter(|text| !text.is_empty());
        let Some(text) = text else {
            return Err(hints::no_address(&session_bus::qemus().await));
        };
        let place = Place::parse(text)?;
        if place.is_spice() && cfg!(not(feature = "spice")) {
            return Err(Failure::usage(
                "this spice-qmp was built without SPICE (the feature spice)",
            )
            .hint("use a QMP socket: unix:/path or tcp:host:port"));
        }
        #[cfg(all(feature = "spice", target_os = "linux"))]
        if place.is_spice() {
            crate::spice_gtk::load()?;
        }
        if !place.is_spice() {
            for (given, option) in [
                (cli.password_file.is_some(), "--password-file"),
                (cli.ca_file.is_some(), "--ca-file"),
                (cli.host_subject.is_some(), "--host-subject"),
            ] {
                if given {
                    return Err(Failure::usage(format!(
                        "{option} is for SPICE servers: nothing else has passwords or TLS"
                    )));
                }
            }
        }
        if cli.reconnects() && matches!(place, Place::Inherited(_)) {
            return Err(Failure::usage(
                "--reconnect needs an address: a socket that is inherited cannot be connected again",
            ));
        }
        Ok(Self {
            place,
            timeout: cli.timeout(),
            limit: cli.timeout,
            wait: cli.wait,
            reconnects: cli.reconnects(),
            #[cfg(feature = "spice")]
            password_file: cli.password_file.clone(),
            tls: Tls::new(cli)?,
            monitor: monitor.clone(),
        })
    }

    /// Connects, and does `work` on the port once it is ready. Its commands go through
    /// the monitor, which ensures that they are answered before the tool disconnects.
    pub(crate) async fn on_port(
        &self,
        work: impl AsyncFnOnce(&Monitor, &QmpPort) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let port = self.connect().await?;
        work(&self.monitor, &port).await
    }

    /// How long the connection, and each answer, may take.
    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn connector(&self, address: &str) -> Connector {
        let connector = Connector::builder(address);
        let connector = connector.timeout(self.timeout).wait(self.wait);
        if self.reconnects {
            connector.reconnect(RECONNECT).build()
        } else {
            connector.build()
        }
    }

    async fn connect(&self) -> Result<QmpPort, Stop> {
        self.monitor.signals.catch();
        #[cfg(feature = "spice")]
        if let Place::Address(Address::Spice(uri)) = &self.place {
            return self.log_in(uri).await;
        }
        let port = match &self.place {
            Place::Address(address) => self.connector(&address.to_string()).open().await,
            Place::Inherited(socket) => socket.open(self.timeout).await,
        };
        Ok(port.map_err(|error| self.explain(error))?)
    }

    /// The names of the ports of a SPICE server.
    #[cfg_attr(not(feature = "spice"), allow(clippy::unused_async))]
    pub(crate) async fn port_names(&self) -> Result<Vec<String>, Stop> {
        #[cfg(feature = "spice")]
        if let Place::Address(Address::Spice(uri)) = &self.place {
            return self.names_of(uri).await;
        }
        let address = match &self.place {
            Place::Address(address) => address.to_string(),
            Place::Inherited(socket) => socket.text().to_owned(),
        };
        let text = format!("{address} is not a SPICE server: only those have ports with names");
        Err(Failure::usage(text)
            .hint("use spice://host:port or spice+unix:///path")
            .into())
    }

    pub(crate) fn explain(&self, error: Error) -> Failure {
        match &self.place {
            Place::Address(address) => hints::explain(error, address, &self.tls),
            Place::Inherited(_) => error.into(),
        }
    }
}

/// The first pause before it connects again.
const RECONNECT: Duration = Duration::from_millis(250);
