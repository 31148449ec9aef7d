//! From an address to a port that takes commands.

use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use spice_qmp::{ConnectError, Error, PeerError, QmpPort, Session};

use crate::address::Address;
use crate::cli::Cli;
use crate::failure::{Failure, Stop};
use crate::monitor::Monitor;
use crate::password::{self, Password};

/// What the command line says about the connection.
pub(crate) struct Target {
    address: Address,
    timeout: Duration,
    password_file: Option<PathBuf>,
    monitor: Rc<Monitor>,
}

/// How often a person may mistype a password.
const PROMPTS: usize = 3;

impl Target {
    pub(crate) fn new(cli: &Cli, monitor: &Rc<Monitor>) -> Result<Self, Failure> {
        let address = cli.connect.as_deref().filter(|text| !text.is_empty());
        let address = address.ok_or_else(|| {
            Failure::usage(
                "no address: give --connect ADDRESS, or set SPICE_QMP_ADDRESS in the environment",
            )
            .hint(
                "an address is spice://host:port, spice+unix:///path, unix:/path or tcp:host:port",
            )
        })?;
        let address = Address::parse(address)?;
        if cli.password_file.is_some() && matches!(address, Address::Socket(_)) {
            return Err(Failure::usage(
                "--password-file is for SPICE servers: a QMP socket asks for no password",
            ));
        }
        Ok(Self {
            address,
            timeout: cli.timeout,
            password_file: cli.password_file.clone(),
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

    async fn connect(&self) -> Result<QmpPort, Stop> {
        self.monitor.signals.catch();
        match &self.address {
            Address::Socket(address) => {
                let port = QmpPort::open_within(address, self.timeout).await;
                Ok(port.map_err(|error| self.explain(error))?)
            }
            Address::Spice(uri) => {
                let find = |session| QmpPort::find_within(session, self.timeout);
                self.log_in(uri, find).await
            }
        }
    }

    /// The names of the ports of a SPICE server.
    pub(crate) async fn port_names(&self) -> Result<Vec<String>, Stop> {
        let Address::Spice(uri) = &self.address else {
            return Err(Failure::usage(format!(
                "{} is a QMP socket: only SPICE servers have ports with names",
                self.address.as_str()
            ))
            .hint("use spice://host:port or spice+unix:///path")
            .into());
        };
        let names = |session| QmpPort::port_names(session, self.timeout);
        self.log_in(uri, names).await
    }

    /// Does `work` on a session, with the password that was given, or else with
    /// one that is asked for.
    async fn log_in<T, F>(&self, uri: &str, work: impl Fn(Session) -> F) -> Result<T, Stop>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let mut password = password::given(self.password_file.as_deref())?;
        let mut prompts = 0;
        loop {
            self.monitor.signals.catch();
            // A session whose login failed is of no more use.
            let session = Session::new();
            self.monitor.session.replace(Some(session.clone()));
            session.set_uri(uri);
            if let Some(password) = &password {
                session.set_password(&password.secret);
            }
            let refused = match work(session).await {
                Ok(result) => return Ok(result),
                Err(Error::Connect(ConnectError::Authentication(text))) => text,
                Err(error) => return Err(self.explain(error).into()),
            };
            let failure = login_failure(&refused, password.as_ref());
            if prompts == PROMPTS {
                return Err(failure.into());
            }
            let again = if password.is_some() { "not that; " } else { "" };
            prompts += 1;
            self.monitor.signals.release();
            password = password::asked(&format!("{again}SPICE password for {uri}: "))?;
            if password.is_none() {
                return Err(failure.into());
            }
        }
    }

    /// Adds what to do next.
    fn explain(&self, error: Error) -> Failure {
        let hint = match &error {
            Error::Connect(ConnectError::Unreachable { .. }) => Some(self.unreachable_hint()),
            Error::TimedOut { .. } => self.silent_hint(),
            Error::Peer(PeerError::NotQmp { .. }) | Error::Closed(_) => self.not_qmp_hint(),
            _ => None,
        };
        let failure = Failure::from(error);
        match hint {
            Some(hint) => failure.hint(hint),
            None => failure,
        }
    }

    fn unreachable_hint(&self) -> String {
        let address = self.address.as_str();
        if let Some(path) = address.strip_prefix("spice+unix://") {
            format!(
                "is QEMU running with -spice unix=on,addr={path} ? \
                 (for a QMP socket use unix:{path})"
            )
        } else if let Some(path) = address.strip_prefix("unix:") {
            format!("is QEMU running with -qmp unix:{path},server=on,wait=off ?")
        } else if let Some(rest) = address.strip_prefix("tcp:") {
            format!("is QEMU running with -qmp tcp:{rest},server=on,wait=off ?")
        } else {
            "is QEMU running with -spice port=PORT,... ? (for a QMP socket use tcp:host:port)"
                .to_owned()
        }
    }

    fn silent_hint(&self) -> Option<String> {
        let address = self.address.as_str();
        let spice = if let Some(path) = address.strip_prefix("unix:") {
            format!("spice+unix://{path}")
        } else {
            format!("spice://{}", address.strip_prefix("tcp:")?)
        };
        Some(format!(
            "another client may hold the monitor, or QEMU may be stopped; \
             if it is a SPICE server, use {spice}"
        ))
    }

    fn not_qmp_hint(&self) -> Option<String> {
        matches!(self.address, Address::Socket(_))
            .then(|| "QEMU opens a QMP socket with -qmp, not with -monitor".to_owned())
    }
}

fn login_failure(text: &str, password: Option<&Password>) -> Failure {
    let failure = Failure::connection(ConnectError::Authentication(text.into()).to_string());
    match password {
        Some(password) => failure.hint(format!(
            "the password from {} is not the server's",
            password.source
        )),
        None => failure.hint(format!(
            "give the password with --password-file FILE or in {} \
             (on a terminal it is asked for)",
            password::VARIABLE
        )),
    }
}
