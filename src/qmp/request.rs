// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encodes the requests that are sent to a QMP server.
//!
//! Requests are as short as JSON allows and end in at most one LF: QEMU reads its
//! sockets byte by byte, so each byte adds 2.5 µs to a round trip.

use super::{UsageError, json};

/// How a command is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Band {
    /// `execute`: in order with all other commands.
    #[default]
    In,
    /// `exec-oob`: at once, ahead of the commands that wait (only if the server
    /// offered the capability `oob`, and only for commands that QEMU's schema marks
    /// `allow-oob`).
    Out,
}

/// Encodes a request whose parts passed [`check_command`] and [`check_arguments`].
pub(super) fn encode(command: &str, arguments: Option<&str>, band: Band, id: u64) -> Vec<u8> {
    let mut line = Vec::with_capacity(command.len() + arguments.map_or(0, str::len) + 48);
    line.extend_from_slice(match band {
        Band::In => br#"{"execute":"#,
        Band::Out => br#"{"exec-oob":"#,
    });
    // `check_command` ensured that nothing needs an escape.
    line.push(b'"');
    line.extend_from_slice(command.as_bytes());
    line.push(b'"');
    if let Some(arguments) = arguments {
        line.extend_from_slice(br#","arguments":"#);
        push_minified(&mut line, arguments);
    }
    line.extend_from_slice(br#","id":"#);
    line.extend_from_slice(itoa::Buffer::new().format(id).as_bytes());
    line.push(b'}');
    line
}

/// Checks a command's name: QAPI names are letters, digits, `-`, `_` and `.`.
pub(super) fn check_command(name: &str) -> Result<(), UsageError> {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if name.is_empty() || !name.chars().all(fits) {
        // Not quoted: someone who mistakes this for a human monitor may have typed a password.
        return Err(UsageError::InvalidArgument(
            "this is not a command's name, which has letters, digits, '-', '_' and '.'".into(),
        ));
    }
    Ok(())
}

/// Checks that a command's arguments are one JSON object.
pub(super) fn check_arguments(arguments: &str) -> Result<(), UsageError> {
    check_object(arguments, "arguments")
}

/// Checks that a member of a message is one JSON object.
pub(super) fn check_object(object: &str, what: &str) -> Result<(), UsageError> {
    // The message encloses it.
    json::check_object(object, 1, |_, _| Ok(()))
        .map_err(|why| UsageError::InvalidArgument(format!("{what}: {why}").into()))
}

/// Checks that a command's return value is one JSON value.
pub(super) fn check_value(value: &str) -> Result<(), UsageError> {
    json::check_value(value, 1)
        .map_err(|why| UsageError::InvalidArgument(format!("return: {why}").into()))
}

/// Appends valid JSON without the white space between its tokens.
pub(super) fn push_minified(line: &mut Vec<u8>, json: &str) {
    let (mut in_string, mut escaped) = (false, false);
    for byte in json.bytes() {
        if in_string {
            in_string = escaped || byte != b'"';
            escaped = !escaped && byte == b'\\';
        } else if byte == b'"' {
            in_string = true;
        } else if byte.is_ascii_whitespace() {
            continue;
        }
        line.push(byte);
    }
}
