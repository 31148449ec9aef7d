//! From an address to a port that takes commands.

use std::rc::Rc;
use std::time::Duration;

use spice_qmp::{Address, ConnectOptions, Error, QmpPort};

use crate::cli::Cli;
use crate::failure::{Failure, Stop};
use crate::hints;
use crate::monitor::Monitor;
use crate::trust::Tls;

/// What the command line says about the connection.
pub(crate) struct Target {
    address: Address,
    timeout: Duration,
    /// The time of `--timeout`, where that was given: what would go on for ever ends then.
    pub(crate) limit: Option<Duration>,
    wait: bool,
    #[cfg(feature = "spice")]
    pub(crate) password_file: Option<std::path::PathBuf>,
    pub(crate) tls: Tls,
    pub(crate) monitor: Rc<Monitor>,
}

impl Target {
    pub(crate) fn new(cli: &Cli, monitor: &Rc<Monitor>) -> Result<Self, Failure> {
        let text = cli.connect.as_deref().filter(|text| !text.is_empty());
        let text = text.ok_or_else(hints::no_address)?;
        let address = match Address::parse(text) {
            // The library takes it for a socket's, but it may be a SPICE server's.
            Ok(Address::Tcp { .. }) if !text.starts_with("tcp:") => {
                return Err(hints::ambiguous(text));
            }
            Ok(address) => address,
            Err(error) => return Err(hints::wrong_address(text, &error)),
        };
        if address.is_spice() && cfg!(not(feature = "spice")) {
            return Err(Failure::usage(
                "this spice-qmp was built without SPICE (the feature spice)",
            )
            .hint("use a QMP socket: unix:/path or tcp:host:port"));
        }
        #[cfg(all(feature = "spice", target_os = "linux"))]
        if address.is_spice() {
            crate::spice_gtk::load()?;
        }
        if !address.is_spice() {
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
        Ok(Self {
            address,
            timeout: cli.timeout(),
            limit: cli.timeout,
            wait: cli.wait,
            #[cfg(feature = "spice")]
            password_file: cli.password_file.clone(),
            tls: Tls::new(cli)?,
            monitor: monitor.clone(),
        })
    }

    /// Connects, and does `work` on the port that is ready. Its commands go through
    /// the monitor, which has them answered before the tool leaves.
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

    pub(crate) fn options(&self) -> ConnectOptions {
        ConnectOptions::new().timeout(self.timeout).wait(self.wait)
    }

    async fn connect(&self) -> Result<QmpPort, Stop> {
        self.monitor.signals.catch();
        #[cfg(feature = "spice")]
        if let Address::Spice(uri) = &self.address {
            let find = |session| QmpPort::find_with(session, self.options());
            return self.log_in(uri, find).await;
        }
        let address = self.address.to_string();
        match QmpPort::open_with(&address, self.options()).await {
            Ok(port) => Ok(port),
            Err(error) => Err(self.explain(error).into()),
        }
    }

    /// The names of the ports of a SPICE server.
    #[cfg_attr(not(feature = "spice"), allow(clippy::unused_async))]
    pub(crate) async fn port_names(&self) -> Result<Vec<String>, Stop> {
        #[cfg(feature = "spice")]
        if let Address::Spice(uri) = &self.address {
            return self.names_of(uri).await;
        }
        let text = format!(
            "{} is no SPICE server: only those have ports with names",
            self.address
        );
        Err(Failure::usage(text)
            .hint("use spice://host:port or spice+unix:///path")
            .into())
    }

    pub(crate) fn explain(&self, error: Error) -> Failure {
        hints::explain(error, &self.address, &self.tls)
    }
}
