// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `hmp`: executes a command of the human monitor.

use std::io::Read;

use serde::Serialize;
use serde_json::value::RawValue;
use spice_qmp::{Error, PeerError};

use crate::cli::Hmp;
use crate::connect::Target;
use crate::failure::{Failure, Kind, Stop};
use crate::output::Output;

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct Arguments {
    command_line: String,
}

/// Executes the command line and prints the text that it returns.
pub(crate) async fn run(target: &Target, hmp: &Hmp, output: &mut Output) -> Result<(), Stop> {
    let command_line = command_line(hmp)?;
    target
        .on_port(async |monitor, port| {
            let arguments = Arguments { command_line };
            let reply = monitor.execute(port, COMMAND, arguments).await?;
            print(&reply, output).await
        })
        .await
}

/// Prints the text of a reply, or fails if that reports a failure.
pub(crate) async fn print(reply: &RawValue, output: &mut Output) -> Result<(), Stop> {
    let text: String = serde_json::from_str(reply.get()).map_err(|_| no_text())?;
    if let Some(failure) = failure(&text) {
        return Err(failure.into());
    }
    if output.is_json() {
        return output.json_text(reply.get()).await;
    }
    output.text(&text).await
}

pub(crate) const COMMAND: &str = "human-monitor-command";

fn command_line(hmp: &Hmp) -> Result<String, Failure> {
    if hmp.words != ["-"] {
        return Ok(hmp.words.join(" "));
    }
    let mut text = String::new();
    let read = std::io::stdin().read_to_string(&mut text);
    read.map_err(|error| Failure::usage(format!("standard input: {error}")))?;
    Ok(text.trim_end_matches(['\n', '\r']).to_owned())
}

/// The failure that the text reports, which QEMU does not mark otherwise.
fn failure(text: &str) -> Option<Failure> {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let message = match first.strip_prefix("Error: ") {
        Some(message) => message,
        None if first.starts_with("unknown command:") => first,
        None => return None,
    };
    let failure = Failure::new(Kind::Qmp, message);
    let more: Vec<_> = lines.filter(|line| !line.trim().is_empty()).collect();
    Some(if more.is_empty() {
        failure
    } else {
        failure.hint(more.join(" "))
    })
}

fn no_text() -> Error {
    PeerError::UnexpectedReply {
        command: COMMAND.into(),
        reason: "it is not text".into(),
    }
    .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_two_beginnings_are_failures() {
        for text in [
            "",
            "\r\nError: x",
            "error: x",
            "Error x",
            " Error: x",
            "x\nError: y",
            "Unknown command: x",
            "Error:x",
        ] {
            assert!(failure(text).is_none(), "{text:?}");
        }
        for text in [
            "Error: x\r\n",
            "Error: ",
            "unknown command: 'x'\r\n",
            "unknown command:",
        ] {
            assert!(failure(text).is_some(), "{text:?}");
        }
    }
}
