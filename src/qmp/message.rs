//! Decodes what a QMP server sends: the envelope only.
//!
//! Payloads stay [`RawValue`] until someone asks for them. Unknown members,
//! classes, events and capabilities are no errors (QMP specification, sections
//! "Server Greeting", "Commands Responses", "Asynchronous events").

use std::{borrow::Cow, fmt};

use memchr::{memchr, memmem};
use serde::{Deserialize, Deserializer};
use serde_json::{Value, value::RawValue};

use super::limits::MAX_DEPTH;

/// One message from the server.
#[derive(Debug)]
pub enum Message<'a> {
    /// The server introduces itself.
    Greeting(Greeting),
    /// A command succeeded.
    Success {
        /// The `id` of the request, if the server gave one.
        id: Option<&'a RawValue>,
        /// What the command returned.
        value: &'a RawValue,
    },
    /// A command failed.
    Failure {
        /// The `id` of the request; absent where the server could not read the request.
        id: Option<&'a RawValue>,
        /// The class and text of the error.
        error: Failure<'a>,
    },
    /// Something happened in the virtual machine.
    Event(Event<'a>),
}

/// The `error` member of a reply.
#[derive(Debug, Deserialize)]
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
    pub data: Option<&'a RawValue>,
    timestamp: Option<&'a RawValue>,
}

impl Event<'_> {
    /// Microseconds since 1970, or -1 where QEMU's clock failed or no time was sent.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        #[derive(Deserialize)]
        struct Timestamp {
            seconds: i64,
            microseconds: i64,
        }
        self.timestamp
            .and_then(|raw| serde_json::from_str::<Timestamp>(raw.get()).ok())
            .filter(|t| t.seconds >= 0 && t.microseconds >= 0)
            .and_then(|t| {
                t.seconds
                    .checked_mul(1_000_000)?
                    .checked_add(t.microseconds)
            })
            .unwrap_or(-1)
    }
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
    if !text.trim_start().starts_with('{') {
        return Err("it is not a JSON object".into());
    }
    if too_deep(line) {
        return Err(format!("it is nested deeper than {MAX_DEPTH}"));
    }
    if has_lone_surrogate(line) {
        return Err("a string has half of a surrogate pair".into());
    }
    serde_json::from_str::<Envelope<'_>>(text)
        .map_err(|error| error.to_string())?
        .into_message()
}

/// Whether a line that is not QMP may come from QEMU's human monitor: its
/// banner, its prompt, or its echo of what was typed.
pub(super) fn is_of_human_monitor(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"QEMU ")
        || memmem::find(line, b"(qemu)").is_some()
        || memmem::find(line, b"\x1b[K").is_some()
}

#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, default, rename = "QMP", deserialize_with = "present")]
    qmp: Option<&'a RawValue>,
    #[serde(borrow, default, rename = "return", deserialize_with = "present")]
    value: Option<&'a RawValue>,
    #[serde(borrow, default)]
    error: Option<Failure<'a>>,
    #[serde(borrow, default)]
    event: Option<Name<'a>>,
    #[serde(borrow, default)]
    data: Option<&'a RawValue>,
    #[serde(borrow, default)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, default, deserialize_with = "present")]
    id: Option<&'a RawValue>,
}

/// A string that is borrowed unless it has escapes. (`Option<Cow<str>>` never borrows.)
#[derive(Deserialize)]
#[serde(transparent)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

/// A member that is there, be it `null`.
fn present<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<&'de RawValue>, D::Error> {
    <&RawValue>::deserialize(deserializer).map(Some)
}

impl<'a> Envelope<'a> {
    fn into_message(self) -> Result<Message<'a>, String> {
        match (self.qmp, self.value, self.error, self.event) {
            (Some(greeting), None, None, None) => parse_greeting(greeting).map(Message::Greeting),
            (None, Some(value), None, None) => Ok(Message::Success { id: self.id, value }),
            (None, None, Some(error), None) => Ok(Message::Failure {
                id: self.id,
                error: Failure {
                    class: without_nul(error.class)?,
                    desc: without_nul(error.desc)?,
                },
            }),
            (None, None, None, Some(Name(name))) => Ok(Message::Event(Event {
                name: without_nul(name)?,
                data: self.data,
                timestamp: self.timestamp,
            })),
            (None, None, None, None) => {
                Err("it is neither a greeting nor a reply nor an event".into())
            }
            _ => Err("it is more than one of greeting, reply, error and event".into()),
        }
    }
}

/// What becomes a C string must not hold a NUL. Only an escape can have brought one.
fn without_nul(text: Cow<'_, str>) -> Result<Cow<'_, str>, String> {
    match text {
        Cow::Owned(text) if text.contains('\0') => Err("a string has a NUL".into()),
        text => Ok(text),
    }
}

fn parse_greeting(raw: &RawValue) -> Result<Greeting, String> {
    #[derive(Deserialize)]
    struct Wire {
        version: Version,
        #[serde(default)]
        capabilities: Vec<Value>,
    }
    let wire: Wire =
        serde_json::from_str(raw.get()).map_err(|error| format!("greeting: {error}"))?;
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

/// Whether brackets nest deeper than [`MAX_DEPTH`]; strings do not count.
fn too_deep(line: &[u8]) -> bool {
    // A short line has no room for so many brackets.
    if line.len() <= MAX_DEPTH {
        return false;
    }
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for &byte in line {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
        } else {
            match byte {
                b'"' => in_string = true,
                b'{' | b'[' => {
                    depth += 1;
                    if depth > MAX_DEPTH {
                        return true;
                    }
                }
                b'}' | b']' => depth = depth.saturating_sub(1),
                _ => {}
            }
        }
    }
    false
}

/// Whether a `\u` escape names a surrogate that has no partner: no text can hold it.
fn has_lone_surrogate(line: &[u8]) -> bool {
    let mut at = 0;
    while at < line.len() {
        if line[at] != b'\\' {
            // Most messages have no escape at all.
            match memchr(b'\\', &line[at..]) {
                Some(len) => at += len,
                None => return false,
            }
        }
        at += match escaped_unit(&line[at..]) {
            Some(0xDC00..=0xDFFF) => return true,
            Some(0xD800..=0xDBFF) => match escaped_unit(&line[at + 6..]) {
                Some(0xDC00..=0xDFFF) => 12,
                _ => return true,
            },
            _ => 2,
        };
    }
    false
}

/// The UTF-16 unit of the `\uXXXX` that starts `bytes`.
fn escaped_unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    u16::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}
