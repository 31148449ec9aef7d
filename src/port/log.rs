// SPDX-License-Identifier: MIT OR Apache-2.0
//! Logs and records the traffic of a connection, without secrets: as GLib debug messages of
//! the domain `SpiceQmp`, and for a recorder.

use std::cell::RefCell;
use std::sync::OnceLock;

use once_cell::sync::Lazy;
use serde::de::IgnoredAny;
use serde_json::{Value, json};

use crate::qmp::{Error, Event, PeerError, State, for_c, redacted, redacted_payload};

/// An entry of the log.
pub(super) enum Passed<'a> {
    /// A command with its arguments was issued.
    Sent(&'a str, Option<&'a str>),
    /// A small command was issued to a peer that stalls in the middle of a message.
    Nudged(&'a str),
    Returned(&'a str),
    Failed(&'a Error),
    Event(&'a Event<'a>),
    /// A reply to none of the program's calls.
    Stray,
    Bad(&'a PeerError),
    State(State, Option<&'a Error>),
}

/// Log and record entries. They are kept until nothing is borrowed: a program's
/// log handler may use the port.
#[derive(Debug)]
pub(super) struct Traffic {
    wanted: bool,
    kept: RefCell<Vec<Kept>>,
}

#[derive(Debug)]
struct Kept {
    /// For the log.
    text: Option<String>,
    /// For the recorder: the time, the direction and the message.
    record: Option<(i64, &'static str, String)>,
}

type Recorder = Box<dyn Fn(i64, &str, &str) + Send + Sync>;

static RECORDER: OnceLock<Recorder> = OnceLock::new();

/// Calls `recorder` with everything that connections made from now on send and receive:
/// the time in microseconds since 1970, a direction, and a message as JSON text, without
/// possible secrets. The directions and their messages are
///
/// - `sent`: a command,
/// - `received`: a return value, an error or an event,
/// - `local`: an object with `state`, `error` or both: how the state of the connection changes,
///   and how calls end without an answer.
///
/// Only the first recorder of the process is used. It exists for the tool's transcripts.
pub fn record_traffic(recorder: impl Fn(i64, &str, &str) + Send + Sync + 'static) {
    // Fails if there is one already.
    let _ = RECORDER.set(Box::new(recorder));
}

/// Whether the environment asks for debug messages (`G_MESSAGES_DEBUG`): the
/// texts are only made in that case.
static LOGGED: Lazy<bool> = Lazy::new(|| {
    std::env::var("G_MESSAGES_DEBUG").is_ok_and(|domains| {
        domains
            .split([' ', ',', ':'])
            .any(|domain| domain == "all" || domain == "SpiceQmp")
    })
});

/// How much of a payload is logged, in bytes.
const LENGTH: usize = 1000;

impl Default for Traffic {
    fn default() -> Self {
        Self {
            wanted: *LOGGED || RECORDER.get().is_some(),
            kept: RefCell::default(),
        }
    }
}

impl Traffic {
    /// Notes an entry, if the log or the recorder wants it.
    pub(super) fn note(&self, passed: &Passed<'_>) {
        if self.wanted {
            self.keep(passed);
        }
    }

    #[cold]
    fn keep(&self, passed: &Passed<'_>) {
        let record = RECORDER.get().and_then(|_| passed.record());
        self.kept.borrow_mut().push(Kept {
            text: LOGGED.then(|| for_c(&passed.text()).into_owned()),
            record: record.map(|(direction, message)| (glib::real_time(), direction, message)),
        });
    }

    /// Logs and records the entries.
    pub(super) fn write(&self) {
        if !self.wanted {
            return;
        }
        for Kept { text, record } in self.kept.take() {
            if let Some(text) = text {
                glib::g_debug!("SpiceQmp", "{text}");
            }
            if let (Some((time, direction, message)), Some(recorder)) = (record, RECORDER.get()) {
                recorder(time, direction, &message);
            }
        }
    }
}

impl Passed<'_> {
    /// The entry as a line of the log.
    fn text(&self) -> String {
        match self {
            Self::Sent(command, arguments) => format!("-> {}", redacted(command, *arguments)),
            Self::Nudged(command) => format!("-> {command} (the reply stalls)"),
            Self::Returned(value) => format!("<- return {}", shortened(value)),
            Self::Failed(error) => format!("<- {error}"),
            Self::Event(event) => {
                let data = event.data.as_deref().map(shortened);
                format!("<- event {} {}", event.name, data.unwrap_or_default())
            }
            Self::Stray => "<- a message for none of the program's calls".into(),
            Self::Bad(error) => format!("<- {error}"),
            Self::State(state, Some(error)) => format!("the port is {state}: {error}"),
            Self::State(state, None) => format!("the port is {state}"),
        }
    }

    /// The entry as a direction and a message.
    fn record(&self) -> Option<(&'static str, String)> {
        let (direction, message) = match self {
            Self::Sent(command, arguments) => ("sent", request(command, *arguments)),
            Self::Nudged(command) => ("sent", request(command, None)),
            Self::Returned(value) => ("received", format!(r#"{{"return":{}}}"#, payload(value))),
            Self::Failed(Error::Command { class, desc, .. }) => {
                let error = json!({ "error": { "class": class.name(), "desc": desc } });
                ("received", error.to_string())
            }
            Self::Event(event) => ("received", event_message(event)),
            Self::Stray => return None,
            Self::Failed(error) => ("local", json!({ "error": error.to_string() }).to_string()),
            Self::Bad(error) => ("local", json!({ "error": error.to_string() }).to_string()),
            Self::State(state, error) => {
                let mut message = json!({ "state": state.to_string() });
                if let Some(error) = error {
                    message["error"] = error.to_string().into();
                }
                ("local", message.to_string())
            }
        };
        Some((direction, message))
    }
}

/// A command in recorded form.
fn request(command: &str, arguments: Option<&str>) -> String {
    let text = redacted(command, arguments);
    let Some(rest) = text.strip_prefix(command) else {
        // It is not a command.
        return json!({ "execute": Value::from(text) }).to_string();
    };
    match rest.trim_start() {
        "" => json!({ "execute": command }).to_string(),
        rest => format!(
            r#"{{"execute":{},"arguments":{}}}"#,
            Value::from(command),
            json_or_text(rest)
        ),
    }
}

fn event_message(event: &Event<'_>) -> String {
    let mut message = format!(r#"{{"event":{}"#, Value::from(&*event.name));
    if let Some(data) = event.data.as_deref() {
        message.push_str(r#","data":"#);
        message.push_str(&payload(data));
    }
    let micros = event.timestamp();
    let (seconds, microseconds) = match micros {
        -1 => (-1, -1),
        _ => (micros.div_euclid(1_000_000), micros.rem_euclid(1_000_000)),
    };
    let timestamp = json!({ "seconds": seconds, "microseconds": microseconds });
    message + &format!(r#","timestamp":{timestamp}}}"#)
}

/// What the server sent, without secrets.
fn payload(json: &str) -> String {
    json_or_text(&redacted_payload(json))
}

/// JSON text; text that is not JSON, because it is hidden, becomes a string.
fn json_or_text(text: &str) -> String {
    if serde_json::from_str::<IgnoredAny>(text).is_ok() {
        text.to_owned()
    } else {
        Value::from(text).to_string()
    }
}

/// What the server sent, without secrets, and shortened.
fn shortened(json: &str) -> String {
    let text = redacted_payload(json);
    match text.char_indices().nth(LENGTH) {
        Some((end, _)) => format!("{} ... ({} bytes)", &text[..end], text.len()),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::qmp::ErrorClass;

    #[test]
    fn messages_are_json_without_secrets() {
        let refused = Error::Command {
            command: "x".into(),
            class: ErrorClass::DeviceNotFound,
            desc: "no \"x\"".into(),
        };
        let lost = Error::Closed("it ended".into());
        for (passed, direction, message) in [
            (Passed::Sent("stop", None), "sent", r#"{"execute":"stop"}"#),
            (
                Passed::Sent(
                    "set_password",
                    Some(r#"{"password":"geheim","protocol":"vnc"}"#),
                ),
                "sent",
                r#"{"execute":"set_password","arguments":{"password":"***","protocol":"vnc"}}"#,
            ),
            (
                Passed::Sent("x", Some("geheim")),
                "sent",
                r#"{"execute":"x","arguments":"***"}"#,
            ),
            (
                Passed::Sent("set_password vnc geheim", None),
                "sent",
                r#"{"execute":"***"}"#,
            ),
            (
                Passed::Returned(r#"{"a":[1,"\u001b"]}"#),
                "received",
                r#"{"return":{"a":[1,"\u001b"]}}"#,
            ),
            (
                Passed::Returned(r#""geheim""#),
                "received",
                r#"{"return":"***"}"#,
            ),
            (
                Passed::Failed(&refused),
                "received",
                r#"{"error":{"class":"DeviceNotFound","desc":"no \"x\""}}"#,
            ),
            (
                Passed::Failed(&lost),
                "local",
                r#"{"error":"the QMP connection is closed: it ended"}"#,
            ),
            (
                Passed::State(State::Ready, None),
                "local",
                r#"{"state":"ready"}"#,
            ),
            (
                Passed::State(State::Closed, Some(&lost)),
                "local",
                r#"{"error":"the QMP connection is closed: it ended","state":"closed"}"#,
            ),
        ] {
            let expected = Some((direction, message.to_owned()));
            assert_eq!(passed.record(), expected);
        }
        assert_eq!(Passed::Stray.record(), None);
    }
}
