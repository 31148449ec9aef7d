// SPDX-License-Identifier: MIT OR Apache-2.0
//! Logs in to a SPICE server, and verifies its identity.

#[cfg(feature = "spice")]
use std::fs;

#[cfg(feature = "spice")]
use crate::qmp::{Error, UsageError};
#[cfg(feature = "spice")]
use crate::transport::spice::{NEEDS_USER_NAME, Session};

/// How to log in to a SPICE server. Not to be printed: it contains the password.
#[derive(Clone, Default)]
#[cfg_attr(not(feature = "spice"), allow(dead_code))]
pub(super) struct Login {
    pub(super) password: Option<Box<str>>,
    pub(super) ca_file: Option<Box<str>>,
    pub(super) host_subject: Option<Box<str>>,
}

#[cfg(feature = "spice")]
impl Login {
    /// Whether another password may help after the server at `uri` refused the login like this.
    pub(super) fn may_ask(uri: &str, refused: &str) -> bool {
        // A user name is part of the address.
        !refused.contains(NEEDS_USER_NAME) || uri.contains('@')
    }

    /// A new session with the server at `uri`. A session whose login failed cannot be
    /// reused, so each attempt has its own.
    pub(super) fn session(&self, uri: &str) -> Result<Session, Error> {
        let session = Session::new();
        session.set_uri(uri);
        if let Some(password) = &self.password {
            session.set_password(password);
        }
        if let Some(file) = &self.ca_file {
            check_ca_file(file)?;
            session.set_ca_file(file);
        }
        if let Some(subject) = &self.host_subject {
            session.set_host_subject(subject);
        }
        Ok(session)
    }
}

/// Refuses a file without certificates: spice-gtk would continue without it, and trust the
/// system's.
#[cfg(feature = "spice")]
fn check_ca_file(file: &str) -> Result<(), UsageError> {
    let fault = match fs::read(file) {
        Ok(text) if holds_certificate(&text) => return Ok(()),
        Ok(_) => "it contains no certificate in PEM format".to_owned(),
        Err(error) => error.to_string(),
    };
    let text = format!("the file of trusted certificates {file:?}: {fault}");
    Err(UsageError::InvalidArgument(text.into()))
}

#[cfg(feature = "spice")]
fn holds_certificate(text: &[u8]) -> bool {
    let marks: [&[u8]; 2] = [
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN TRUSTED CERTIFICATE-----",
    ];
    let holds = |mark: &&[u8]| text.windows(mark.len()).any(|part| part == *mark);
    marks.iter().any(holds)
}
