// SPDX-License-Identifier: MIT OR Apache-2.0
//! Logs in to SPICE servers: with a given password, or else one that is asked
//! for at the terminal.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use spice_qmp::{ConnectError, Connector, Error, QmpPort};

use crate::connect::Target;
use crate::failure::{Failure, Stop};
use crate::monitor::Monitor;
use crate::password::{self, Password};

const USER_NAME: &str = "give the user name in the address, as in spice://NAME@host:5900, and the \
                         password with --password-file FILE or in SPICE_QMP_PASSWORD";

/// How many times a person may mistype a password.
const PROMPTS: usize = 3;

/// The password that was tried last, and the prompts for others.
struct Prompts {
    uri: String,
    monitor: Rc<Monitor>,
    /// Where the last password came from.
    source: RefCell<Option<String>>,
    count: Cell<usize>,
    /// Whether the user ended the tool at the prompt.
    stop: RefCell<Option<Stop>>,
}

impl Target {
    /// The port of the server at `uri`.
    pub(crate) async fn log_in(&self, uri: &str) -> Result<QmpPort, Stop> {
        let (connector, prompts) = self.with_prompts(uri)?;
        let opened = self.monitor.open(&connector).await;
        opened.map_err(|error| self.refused(error, &prompts))
    }

    /// The names of the ports of the server at `uri`.
    pub(crate) async fn names_of(&self, uri: &str) -> Result<Vec<String>, Stop> {
        let (connector, prompts) = self.with_prompts(uri)?;
        let names = self.monitor.port_names(&connector).await;
        names.map_err(|error| self.refused(error, &prompts))
    }

    fn with_prompts(&self, uri: &str) -> Result<(Connector, Rc<Prompts>), Stop> {
        let connector = self.connector(uri);
        let given = password::given(self.password_file.as_deref())?;
        connector.set_password(given.as_ref().map(|given| given.secret.as_str()));
        if let Some(file) = self.tls.ca_file.as_deref() {
            connector.set_ca_file(file.to_str());
        }
        connector.set_host_subject(self.tls.host_subject.as_deref());
        let prompts = Rc::new(Prompts {
            uri: uri.to_owned(),
            monitor: self.monitor.clone(),
            source: RefCell::new(given.map(|given| given.source)),
            count: Cell::default(),
            stop: RefCell::default(),
        });
        connector.connect_need_password({
            let prompts = prompts.clone();
            move |connector, retry| {
                let password = prompts.ask(retry);
                connector.answer(password.as_ref().map(|it| it.secret.as_str()));
                prompts.monitor.signals.catch();
            }
        });
        Ok((connector, prompts))
    }

    fn refused(&self, error: Error, prompts: &Prompts) -> Stop {
        if let Some(stop) = prompts.stop.take() {
            return stop;
        }
        let Error::Connect(ConnectError::Authentication(text)) = &error else {
            return self.explain(error).into();
        };
        let failure = login_failure(text, prompts.source.borrow().as_deref());
        if text.contains("(SASL)") && !prompts.uri.contains('@') {
            return failure.hint(USER_NAME).into();
        }
        failure.into()
    }
}

impl Prompts {
    /// Asks the user at the terminal.
    fn ask(&self, retry: bool) -> Option<Password> {
        if self.count.get() == PROMPTS {
            return None;
        }
        self.count.set(self.count.get() + 1);
        self.monitor.signals.release();
        let again = if retry { "not that; " } else { "" };
        let uri = &self.uri;
        match password::asked(&format!("{again}SPICE password for {uri}: ")) {
            Ok(password) => {
                if let Some(password) = &password {
                    self.source.replace(Some(password.source.clone()));
                }
                password
            }
            Err(stop) => {
                self.stop.replace(Some(stop));
                None
            }
        }
    }
}

fn login_failure(text: &str, source: Option<&str>) -> Failure {
    let failure = Failure::connection(ConnectError::Authentication(text.into()).to_string());
    match source {
        Some(source) => failure.hint(format!("the password from {source} is not the server's")),
        None => failure.hint(format!(
            "give the password with --password-file FILE or in {} \
             (on a terminal it is asked for)",
            password::VARIABLE
        )),
    }
}
