//! Passwords of SPICE servers: where they come from. Never from the command
//! line, which others can see.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;

use crate::failure::{Failure, Stop};

/// The environment variable that may hold the password.
pub(crate) const VARIABLE: &str = "SPICE_QMP_PASSWORD";

/// A password, and where it came from.
pub(crate) struct Password {
    pub(crate) secret: String,
    pub(crate) source: String,
}

/// The password of the file if one is named, or else of the environment.
pub(crate) fn given(file: Option<&Path>) -> Result<Option<Password>, Failure> {
    if let Some(file) = file {
        let source = format!("--password-file {}", file.display());
        return match first_line(file) {
            Ok(secret) => Ok(Some(Password { secret, source })),
            Err(error) => Err(Failure::usage(format!("{source}: {error}"))),
        };
    }
    let secret = std::env::var(VARIABLE).unwrap_or_default();
    Ok((!secret.is_empty()).then(|| Password {
        secret,
        source: VARIABLE.to_owned(),
    }))
}

fn first_line(file: &Path) -> io::Result<String> {
    let mut line = String::new();
    BufReader::new(File::open(file)?)
        .take(LONGEST)
        .read_line(&mut line)?;
    let secret = line.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err(io::Error::other("the first line is empty"));
    }
    Ok(secret.to_owned())
}

/// Asks the person at the terminal; nothing where there is none.
pub(crate) fn asked(prompt: &str) -> Result<Option<Password>, Stop> {
    if !io::stdin().is_terminal() || !io::stderr().is_terminal() {
        return Ok(None);
    }
    match rpassword::prompt_password(prompt) {
        Ok(secret) => Ok(Some(Password {
            secret,
            source: "the prompt".to_owned(),
        })),
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Err(Stop::Interrupted),
        Err(_) => Ok(None),
    }
}

/// More than any SPICE ticket has.
const LONGEST: u64 = 4096;
