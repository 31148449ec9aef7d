//! From an address to a port that takes commands.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use spice_qmp::{Address, ConnectError, ConnectOptions, Error, QmpPort, Session};

use crate::cli::Cli;
use crate::failure::{Failure, Stop};
use crate::hints;
use crate::monitor::Monitor;
use crate::password::{self, Password};
use crate::trust::Tls;

/// What the command line says about the connection.
pub(crate) struct Target {
    address: Address,
    timeout: Duration,
    wait: bool,
    password_file: Option<PathBuf>,
    tls: Tls,
    monitor: Rc<Monitor>,
}

const USER_NAME: &str = "give the user name in the address, as in spice://NAME@host:5900, and the \
                         password with --password-file FILE or in SPICE_QMP_PASSWORD";

/// How often a person may mistype a password.
const PROMPTS: usize = 3;

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
            timeout: cli.timeout,
            wait: cli.wait,
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

    fn options(&self) -> ConnectOptions {
        ConnectOptions::new().timeout(self.timeout).wait(self.wait)
    }

    async fn connect(&self) -> Result<QmpPort, Stop> {
        self.monitor.signals.catch();
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
    pub(crate) async fn port_names(&self) -> Result<Vec<String>, Stop> {
        let Address::Spice(uri) = &self.address else {
            return Err(Failure::usage(format!(
                "{} is no SPICE server: only those have ports with names",
                self.address
            ))
            .hint("use spice://host:port or spice+unix:///path")
            .into());
        };
        let names = |session| QmpPort::port_names_with(session, self.options());
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
            let session = self.session(uri, password.as_ref());
            self.monitor.session.replace(Some(session.clone()));
            let refused = match work(session).await {
                Ok(result) => return Ok(result),
                Err(Error::Connect(ConnectError::Authentication(text))) => text,
                Err(error) => return Err(self.explain(error).into()),
            };
            let sasl = refused.contains("(SASL)");
            let failure = login_failure(&refused, password.as_ref());
            if sasl && !uri.contains('@') {
                return Err(failure.hint(USER_NAME).into());
            }
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

    fn session(&self, uri: &str, password: Option<&Password>) -> Session {
        let session = Session::new();
        session.set_uri(uri);
        if let Some(password) = password {
            session.set_password(&password.secret);
        }
        if let Some(file) = self.tls.ca_file.as_deref().and_then(Path::to_str) {
            session.set_ca_file(file);
        }
        if let Some(subject) = &self.tls.host_subject {
            session.set_host_subject(subject);
        }
        session
    }

    fn explain(&self, error: Error) -> Failure {
        hints::explain(error, &self.address, &self.tls)
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
