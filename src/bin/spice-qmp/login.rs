//! Logs in to SPICE servers.

use std::path::Path;

use spice_qmp::{ConnectError, Error, QmpPort, Session};

use crate::connect::Target;
use crate::failure::{Failure, Stop};
use crate::password::{self, Password};

const USER_NAME: &str = "give the user name in the address, as in spice://NAME@host:5900, and the \
                         password with --password-file FILE or in SPICE_QMP_PASSWORD";

/// How often a person may mistype a password.
const PROMPTS: usize = 3;

impl Target {
    /// The names of the ports of the server at `uri`.
    pub(crate) async fn names_of(&self, uri: &str) -> Result<Vec<String>, Stop> {
        let names = |session| QmpPort::port_names_with(session, self.options());
        self.log_in(uri, names).await
    }

    /// Does `work` on a session, with the password that was given, or else with
    /// one that is asked for.
    pub(crate) async fn log_in<T, F>(
        &self,
        uri: &str,
        work: impl Fn(Session) -> F,
    ) -> Result<T, Stop>
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
