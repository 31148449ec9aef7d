// SPDX-License-Identifier: MIT OR Apache-2.0
//! Determines which certificates are trusted.

use std::path::{Path, PathBuf};

use crate::cli::Cli;
use crate::failure::Failure;

/// How the server of a TLS connection is verified.
#[derive(Debug, Clone)]
pub(crate) struct Tls {
    pub(crate) ca_file: Option<PathBuf>,
    #[cfg(feature = "spice")]
    pub(crate) host_subject: Option<String>,
}

impl Tls {
    pub(crate) fn new(cli: &Cli) -> Result<Self, Failure> {
        let ca_file = match &cli.ca_file {
            Some(file) => {
                check_ca_file(file).map_err(|why| {
                    Failure::usage(format!("--ca-file {}: {why}", file.display()))
                })?;
                Some(file.clone())
            }
            // One without certificates is treated as missing.
            None => Some(trust_store()).filter(|file| check_ca_file(file).is_ok()),
        };
        Ok(Self {
            ca_file,
            #[cfg(feature = "spice")]
            host_subject: cli.host_subject.clone(),
        })
    }
}

/// Where spice-gtk's viewers look for certificates.
pub(crate) fn trust_store() -> PathBuf {
    glib::home_dir().join(".spicec/spice_truststore.pem")
}

/// spice-gtk would continue without the file.
fn check_ca_file(file: &Path) -> Result<(), String> {
    let text = std::fs::read(file).map_err(|error| error.to_string())?;
    let marks: [&[u8]; 2] = [
        b"-----BEGIN CERTIFICATE-----",
        b"-----BEGIN TRUSTED CERTIFICATE-----",
    ];
    if !marks
        .iter()
        .any(|mark| text.windows(mark.len()).any(|part| part == *mark))
    {
        return Err("it contains no certificate in PEM format".to_owned());
    }
    if file.to_str().is_none() {
        return Err("its path is not UTF-8 text".to_owned());
    }
    Ok(())
}
