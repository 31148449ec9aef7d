//! Decodes what a QMP server sends: the envelope only.
//!
//! Payloads stay text until someone asks for them. Unknown members,
//! classes, events and capabilities are no errors (QMP specification, sections
//! "Server Greeting", "Commands Responses", "Asynchronous events").

use std::{borrow::Cow, fmt};

use memchr::memmem;
use serde::Deserialize;
use serde_json::Value;

use super::error::misfit;
use super::json;

/// One message from the server.
#[derive(Debug)]
pub enum Message<'a> {
    /// The server introduces itself.
    Greeting(Greeting),
    /// A command succeeded.
    Success {
        /// The `id` of the request, if the server gave one.
        id: Option<&'a str>,
        /// What the command returned.
        value: &'a str,
    },
    /// A command failed.
    Failure {
        /// The `id` of the request; absent where the server could not read the request.
        id: Option<&'a str>,
        /// The class and text of the error.
        error: Failure<'a>,
    },
    /// Something happened in the virtual machine.
    Event(Event<'a>),
}

/// The `error` member of a reply.
#[derive(Debug, Deserialize)]
#[serde(expecting = "an object with `class` and `desc`")]
pub struct Failure<'a> {
    /// The error's class, see [`ErrorClass`](super::ErrorClass).
    #[serde(borrow)]
    pub class: Cow<'a, str>,
    /// QEMU's own words.
    #[serde(borrow)]
    pub desc: Cow<'a, str>,
}

/// An event as it stands in the receive buffer.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its name, such as `STOP`.
    pub name: Cow<'a, str>,
    /// Its data, a JSON object, if it has any.
    pub data: Option<Cow<'a, str>>,
    timestamp: Option<Cow<'a, str>>,
}

impl Event<'_> {
    /// Microseconds since 1970, or -1 where QEMU's clock failed or no time was sent.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.timestamp
            .as_deref()
            .and_then(microseconds)
            .unwrap_or(-1)
    }

    pub(super) fn into_owned<'a>(self) -> Event<'a> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Event {
            name: owned(self.name),
            data: self.data.map(owned),
            timestamp: self.timestamp.map(owned),
        }
    }
}

/// A point in time.
fn microseconds(timestamp: &str) -> Option<i64> {
    let number = |text: &str| text.parse::<i64>().ok().filter(|&number| number >= 0);
    let numbers = |(seconds, micros)| Some((number(seconds)?, number(micros)?));
    let (seconds, micros) = of_qemu(timestamp)
        .and_then(numbers)
        .or_else(|| of_any_server(timestamp).and_then(numbers))?;
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

/// The seconds and microseconds of a timestamp as QEMU writes it.
fn of_qemu(timestamp: &str) -> Option<(&str, &str)> {
    let (seconds, microseconds) = timestamp.split_once(',')?;
    Some((
        seconds.strip_prefix("{\"seconds\": ")?,
        microseconds
            .strip_prefix(" \"microseconds\": ")?
            .strip_suffix('}')?,
    ))
}

/// The same in any form.
fn of_any_server(timestamp: &str) -> Option<(&str, &str)> {
    let (mut seconds, mut microseconds) = (None, None);
    json::check_object(timestamp, 1, |name, value| {
        match name {
            "seconds" => seconds = Some(value),
            "microseconds" => microseconds = Some(value),
            _ => {}
        }
        Ok(())
    })
    .ok()?;
    Some((seconds?, microseconds?))
}

/// What the server says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// QEMU's version.
    pub version: Version,
    /// The capabilities that it offers, such as `oob`.
    pub capabilities: Vec<String>,
}

/// QEMU's version, as the greeting and `query-version` give it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// The three numbers.
    pub qemu: VersionTriple,
    /// The distributor's package, or nothing.
    #[serde(default)]
    pub package: String,
}

/// Major, minor and micro version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct VersionTriple {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub micro: u32,
}

impl fmt::Display for VersionTriple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Decodes one message.
///
/// # Errors
///
/// A text that says why `line` is not a QMP message.
pub fn parse(line: &[u8]) -> Result<Message<'_>, String> {
    let text = std::str::from_utf8(line).map_err(|error| error.to_string())?;
    let mut envelope = Envelope::default();
    json::check_object(text, 0, |name, value| envelope.take(name, value))?;
    envelope.into_message()
}

/// Whether a line that is not QMP may come from QEMU's human monitor: its
/// banner, its prompt, or its echo of what was typed.
pub(super) fn is_of_human_monitor(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"QEMU ")
        || memmem::find(line, b"(qemu)").is_some()
        || memmem::find(line, b"\x1b[K").is_some()
}

/// The members of a message that mean something, as they stand.
#[derive(Default)]
struct Envelope<'a> {
    greeting: Option<&'a str>,
    value: Option<&'a str>,
    error: Option<&'a str>,
    event: Option<&'a str>,
    data: Option<&'a str>,
    timestamp: Option<&'a str>,
    id: Option<&'a str>,
}

impl<'a> Envelope<'a> {
    fn take(&mut self, name: &str, value: &'a str) -> Result<(), String> {
        let member = match name {
            "QMP" => &mut self.greeting,
            "return" => &mut self.value,
            "error" => &mut self.error,
            "event" => &mut self.event,
            "data" => &mut self.data,
            "timestamp" => &mut self.timestamp,
            "id" => &mut self.id,
            // Later versions may send more.
            _ => return Ok(()),
        };
        if member.replace(value).is_some() {
            return Err(format!("duplicate member `{name}`"));
        }
        Ok(())
    }

    fn into_message(self) -> Result<Message<'a>, String> {
        let there = |member: Option<&'a str>| member.filter(|&value| value != "null");
        match (
            self.greeting,
            self.value,
            there(self.error),
            there(self.event),
        ) {
            (Some(greeting), None, None, None) => parse_greeting(greeting).map(Message::Greeting),
            (None, Some(value), None, None) => Ok(Message::Success { id: self.id, value }),
            (None, None, Some(error), None) => Ok(Message::Failure {
                id: self.id,
                error: parse_failure(error)?,
            }),
            (None, None, None, Some(name)) => Ok(Message::Event(Event {
                name: parse_name(name)?,
                data: there(self.data).map(Cow::Borrowed),
                timestamp: self.timestamp.map(Cow::Borrowed),
            })),
            (None, None, None, None) => {
                Err("it is neither a greeting nor a reply nor an event".into())
            }
            _ => Err("it is more than one of greeting, reply, error and event".into()),
        }
    }
}

fn parse_name(name: &str) -> Result<Cow<'_, str>, String> {
    if !name.starts_with('"') {
        return Err("event: its name is not a string".into());
    }
    without_nul(json::unquoted(name))
}

fn parse_failure(raw: &str) -> Result<Failure<'_>, String> {
    let Failure { class, desc } =
        serde_json::from_str(raw).map_err(|error| format!("error: {}", misfit(&error)))?;
    Ok(Failure {
        class: without_nul(class)?,
        desc: without_nul(desc)?,
    })
}

/// What becomes a C string must not hold a NUL. Only an escape can have brought one.
fn without_nul(text: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    match text {
        Cow::Owned(text) if text.contains('\0') => Err("a string has a NUL".into()),
        text => Ok(text),
    }
}

fn parse_greeting(raw: &str) -> Result<Greeting, String> {
    #[derive(Deserialize)]
    struct Wire {
        version: Version,
        #[serde(default)]
        capabilities: Vec<Value>,
    }
    let wire: Wire =
        serde_json::from_str(raw).map_err(|error| format!("greeting: {}", misfit(&error)))?;
    let greeting = Greeting {
        version: wire.version,
        capabilities: wire
            .capabilities
            .into_iter()
            .filter_map(|capability| match capability {
                Value::String(name) => Some(name),
                _ => None,
            })
            .collect(),
    };
    let has_nul = |text: &String| text.contains('\0');
    if has_nul(&greeting.version.package) || greeting.capabilities.iter().any(has_nul) {
        return Err("greeting: a string has a NUL".into());
    }
    Ok(greeting)
}
