// SPDX-License-Identifier: MIT OR Apache-2.0
//! Encodes what a server sends, in the format of QEMU's lines.

use serde::Serialize;
use serde_json::json;

use crate::qmp::request::push_minified;
use crate::qmp::{ErrorClass, Greeting};

pub(super) fn greeting(greeting: &Greeting) -> Vec<u8> {
    let qemu = greeting.version.qemu;
    let mut line = b"{\"QMP\": {\"version\": {\"qemu\": ".to_vec();
    push(
        &mut line,
        &json!({ "micro": qemu.micro, "minor": qemu.minor, "major": qemu.major }),
    );
    line.extend_from_slice(b", \"package\": ");
    push(&mut line, &greeting.version.package);
    line.extend_from_slice(b"}, \"capabilities\": ");
    push(&mut line, &greeting.capabilities);
    line.extend_from_slice(b"}}\r\n");
    line
}

/// The reply to a command that succeeded; `value` and `id` are JSON.
pub(super) fn reply(value: &str, id: Option<&str>) -> Vec<u8> {
    let mut line = Vec::with_capacity(value.len() + id.map_or(0, str::len) + 24);
    line.extend_from_slice(b"{\"return\": ");
    push_minified(&mut line, value);
    if let Some(id) = id {
        line.extend_from_slice(b", \"id\": ");
        line.extend_from_slice(id.as_bytes());
    }
    line.extend_from_slice(b"}\r\n");
    line
}

/// The reply to a command that failed, or to invalid input.
pub(super) fn error(class: &ErrorClass, desc: &str, id: Option<&str>) -> Vec<u8> {
    let mut line = b"{".to_vec();
    if let Some(id) = id {
        line.extend_from_slice(b"\"id\": ");
        line.extend_from_slice(id.as_bytes());
        line.extend_from_slice(b", ");
    }
    line.extend_from_slice(b"\"error\": {\"class\": ");
    push(&mut line, class.name());
    line.extend_from_slice(b", \"desc\": ");
    push(&mut line, desc);
    line.extend_from_slice(b"}}\r\n");
    line
}

/// An event; `timestamp` is in microseconds, negative if unknown.
pub(super) fn event(name: &str, data: Option<&str>, timestamp: i64) -> Vec<u8> {
    let (seconds, microseconds) = if timestamp < 0 {
        (-1, -1)
    } else {
        (timestamp / 1_000_000, timestamp % 1_000_000)
    };
    let mut line = format!(
        "{{\"timestamp\": {{\"seconds\": {seconds}, \"microseconds\": {microseconds}}}, \"event\": "
    )
    .into_bytes();
    push(&mut line, name);
    if let Some(data) = data {
        line.extend_from_slice(b", \"data\": ");
        push_minified(&mut line, data);
    }
    line.extend_from_slice(b"}\r\n");
    line
}

/// Appends a value as JSON.
fn push(line: &mut Vec<u8>, value: &(impl Serialize + ?Sized)) {
    // Writing to memory only fails for a value that cannot be JSON, and all of these can.
    let _ = serde_json::to_writer(line, value);
}
