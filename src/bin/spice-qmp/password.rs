// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds passwords of SPICE servers. They never come from the command
//! line, which others can see.

use std::fs::File;
use std::io::{self, BufRead, BufReader, IsTerminal, Read};
use std::path::Path;

use crate::failure::{Failure, Stop};

/// The environment variable that may contain the password.
pub(crate) const VARIABLE: &str = "SPICE_QMP_PASSWORD";

/// A password, and where it came from.
pub(crate) struct Password {
    pub(crate) secret: String,
    pub(crate) source: String,
}

/// The password in the file, if one is given, or else in the environment.
pub(crate) fn given(file: Option<&Path>) -> Result<Option<Password>, Failure> {
    if let Some(file) = file {
        let source = format!("--password-file {}", file.display());
        let line = File::open(file).and_then(first_line);
        return match line.map_err(|error| error.to_string()).and_then(secret) {
            Ok(secret) => Ok(Some(Password { secret, source })),
            Err(error) => Err(Failure::usage(format!("{source}: {error}"))),
        };
    }
    let Some(secret) = std::env::var_os(VARIABLE).filter(|secret| !secret.is_empty()) else {
        return Ok(None);
    };
    match secret.into_string() {
        Ok(secret) => Ok(Some(Password {
            secret,
            source: VARIABLE.to_owned(),
        })),
        Err(_) => Err(Failure::usage(format!("{VARIABLE} is not UTF-8 text"))),
    }
}

fn first_line(file: impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    BufReader::new(file)
        .take(LONGEST)
        .read_until(b'\n', &mut line)?;
    Ok(line)
}

/// The password in the first line of a file.
fn secret(line: Vec<u8>) -> Result<String, String> {
    if line.starts_with(b"\xff\xfe") || line.starts_with(b"\xfe\xff") || line.contains(&0) {
        return Err("the file is not UTF-8 text but UTF-16 or binary".to_owned());
    }
    let line =
        String::from_utf8(line).map_err(|_| "the first line is not UTF-8 text".to_owned())?;
    // Some editors mark UTF-8 in this way.
    let line = line.strip_prefix('\u{feff}').unwrap_or(&line);
    let secret = line.trim_end_matches(['\r', '\n']);
    if secret.is_empty() {
        return Err("the first line is empty".to_owned());
    }
    Ok(secret.to_owned())
}

/// Asks the user at the terminal; `None` if there is none.
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

/// Longer than any SPICE ticket.
const LONGEST: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_line_of_a_file() {
        for (bytes, expected) in [
            (&b"geheim"[..], Ok("geheim")),
            (b"geheim\r\nmore\xff\n", Ok("geheim")),
            ("\u{feff}geheim\n".as_bytes(), Ok("geheim")),
            (" g\u{e9}heim \n".as_bytes(), Ok(" g\u{e9}heim ")),
            (b"", Err("empty")),
            (b"\ngeheim", Err("empty")),
            ("\u{feff}\n".as_bytes(), Err("empty")),
            (b"g\xe9heim\n", Err("not UTF-8")),
            (b"\xff\xfeg\0e\0\n\0", Err("UTF-16")),
            (b"\xfe\xff\0g\0e\0\n", Err("UTF-16")),
            (b"g\0e\0h\0\n\0", Err("UTF-16")),
        ] {
            let secret = first_line(bytes)
                .map_err(|e| e.to_string())
                .and_then(secret);
            match (&secret, expected) {
                (Ok(secret), Ok(expected)) => assert_eq!(secret, expected),
                (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
                _ => panic!("{bytes:?}: {secret:?}"),
            }
        }
    }
}
