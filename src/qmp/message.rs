// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decodes the envelope of a message that a QMP server sends.
//!
//! Payloads stay text until someone asks for them. Unknown members,
//! classes, events and capabilities are not errors (QMP specification, sections
//! "Server Greeting", "Commands Responses", "Asynchronous events").
//!
//! **One bad reply fails one call.** What is wrong with a line determines which calls
//! it concerns ([`Concerns`]):
//!
//! | the line | concerns |
//! |---|---|
//! | is a message, except for a NUL in a text (`\u0000`) | as the message, with U+FFFD in place of the NUL |
//! | has the structure of an object with one `id`, a number as this library uses | the call of that id |
//! | the same with any other `id` | no call |
//! | has no `id`, or two, or is not an object | all calls in flight: one of them may have been answered |
//!
//! A line also has that structure if a value nests too deeply, if a string is not
//! UTF-8 or contains half of a surrogate pair, if a known member has the wrong form or
//! appears twice, or if members contradict each other.

use std::borrow::Cow;

use memchr::memmem;

use super::greeting::{self, Greeting};
use super::{json, strings};

/// One message from the server.
#[derive(Debug)]
pub enum Message<'a> {
    /// The server's greeting.
    Greeting(Greeting),
    /// A command succeeded.
    Success {
        /// The `id` of the request, if the server sent one.
        id: Option<&'a str>,
        /// What the command returned.
        value: &'a str,
    },
    /// A command failed.
    Failure {
        /// The `id` of the request; absent if the server could not parse the request.
        id: Option<&'a str>,
        /// The class and text of the error.
        error: Failure<'a>,
    },
    /// Something happened in the virtual machine.
    Event(Event<'a>),
}

/// The `error` member of a reply.
#[derive(Debug)]
pub struct Failure<'a> {
    /// The error's class, see [`ErrorClass`](super::ErrorClass).
    pub class: Cow<'a, str>,
    /// QEMU's own message.
    pub desc: Cow<'a, str>,
}

/// An event, as it stands in the receive buffer.
#[derive(Debug)]
pub struct Event<'a> {
    /// Its name, such as `STOP`.
    pub name: Cow<'a, str>,
    /// Its data, a JSON object, if it has any.
    pub data: Option<Cow<'a, str>>,
    timestamp: i64,
}

impl Event<'_> {
    /// Microseconds since 1970, or -1 if QEMU's clock failed or no time was sent.
    #[must_use]
    pub fn timestamp(&self) -> i64 {
        self.timestamp
    }

    pub(super) fn into_owned<'a>(self) -> Event<'a> {
        let owned = |text: Cow<'_, str>| Cow::Owned(text.into_owned());
        Event {
            name: owned(self.name),
            data: self.data.map(owned),
            timestamp: self.timestamp,
        }
    }
}

/// Decodes an event in QEMU's format, without looking its members' names up: storms consist
/// of such events. None if `line` is anything else, or is not JSON.
#[inline(always)]
fn event_of_qemu(line: &str) -> Option<Event<'_>> {
    let rest = line.strip_prefix(r#"{"timestamp": {"seconds": "#)?;
    let (seconds, rest) = number(rest)?;
    let (micros, rest) = number(rest.strip_prefix(r#", "microseconds": "#)?)?;
    let rest = rest.strip_prefix(r#"}, "event": "#)?;
    let (name, rest) = json::plain_string(rest)?;
    let (data, rest) = match rest.strip_prefix(r#", "data": "#) {
        Some(rest) if rest.starts_with('{') => {
            let (data, rest) = json::value(rest, 1)?;
            (Some(data.into()), rest)
        }
        Some(_) => return None,
        None => (None, rest),
    };
    let timestamp = seconds.checked_mul(1_000_000)?.checked_add(micros)?;
    matches!(rest, "}\r\n" | "}\n" | "}").then_some(Event {
        name: name.into(),
        data,
        timestamp,
    })
}

/// The JSON number of up to 18 digits that a text begins with, and the rest.
#[inline(always)]
fn number(text: &str) -> Option<(i64, &str)> {
    let mut number = 0_i64;
    let mut digits = 0;
    for byte in text.bytes() {
        if !byte.is_ascii_digit() {
            break;
        }
        number = number.wrapping_mul(10).wrapping_add((byte - b'0').into());
        digits += 1;
    }
    let has_leading_zero = digits > 1 && text.starts_with('0');
    ((1..=18).contains(&digits) && !has_leading_zero).then(|| (number, &text[digits..]))
}

/// The microseconds of a timestamp in any JSON format.
fn microseconds(timestamp: &str) -> Option<i64> {
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
    let number = |text: &str| text.parse::<i64>().ok().filter(|&number| number >= 0);
    let seconds = number(seconds?)?.checked_mul(1_000_000)?;
    seconds.checked_add(number(microseconds?)?)
}

/// Why a line is not a message.
#[derive(Debug)]
pub(super) struct Bad {
    pub(super) reason: String,
    pub(super) concerns: Concerns,
    /// Whether it looks like a greeting.
    pub(super) is_greeting: bool,
}

/// Which calls a bad line concerns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Concerns {
    /// The call with this id, which may be another client's.
    One(u64),
    /// None: its id does not have the form of this library's ids.
    None,
    /// All calls in flight: the line has no readable id.
    All,
}

/// Decodes one message.
///
/// # Errors
///
/// A text that says why `line` is not a QMP message.
pub fn parse(line: &[u8]) -> Result<Message<'_>, String> {
    read(line).map_err(|bad| bad.reason)
}

/// Decodes one message, or finds out which calls a bad one concerns.
#[inline(always)]
pub(super) fn read(line: &[u8]) -> Result<Message<'_>, Bad> {
    match std::str::from_utf8(line) {
        Ok(text) => read_text(text),
        Err(error) => Err(bad_structure(line, error.to_string())),
    }
}

/// Decodes one message that is valid UTF-8.
#[inline(always)]
pub(super) fn read_text(text: &str) -> Result<Message<'_>, Bad> {
    if let Some(event) = event_of_qemu(text) {
        return Ok(Message::Event(event));
    }
    let mut envelope = Envelope::default();
    let checked = json::check_object(text, 0, |name, value| {
        envelope.take(name, value);
        Ok(())
    });
    match checked {
        Ok(()) => envelope.into_message(),
        Err(reason) => Err(bad_structure(text.as_bytes(), reason)),
    }
}

/// Looks for the id of a line that is not JSON, or not acceptable JSON.
#[cold]
fn bad_structure(line: &[u8], reason: String) -> Bad {
    let mut envelope = Envelope::default();
    let structure = json::check_structure(line, |name, value| {
        // An id that is not text is not one of ours.
        envelope.take(name, std::str::from_utf8(value).unwrap_or("\"\""));
    });
    Bad {
        reason,
        concerns: structure.map_or(Concerns::All, |()| envelope.concerns()),
        is_greeting: false,
    }
}

/// How QEMU's human monitor starts on a new connection: its banner, or its prompt.
pub(super) const HUMAN_MONITORS: [&[u8]; 2] = [b"QEMU ", b"(qemu)"];

/// Whether a line that is not QMP may come from QEMU's human monitor: its
/// banner, its prompt, or its echo of the input.
pub(super) fn is_of_human_monitor(line: &[u8]) -> bool {
    line.trim_ascii_start().starts_with(b"QEMU ")
        || memmem::find(line, b"(qemu)").is_some()
        || memmem::find(line, b"\x1b[K").is_some()
}

/// The members of a message that have a meaning, verbatim.
#[derive(Default)]
struct Envelope<'a> {
    greeting: Option<&'a str>,
    value: Option<&'a str>,
    error: Option<&'a str>,
    event: Option<&'a str>,
    data: Option<&'a str>,
    timestamp: Option<&'a str>,
    id: Option<&'a str>,
    /// A known member that appears twice.
    twice: Option<&'static str>,
}

impl<'a> Envelope<'a> {
    fn take(&mut self, name: &str, value: &'a str) {
        let (name, member) = match name {
            "QMP" => ("QMP", &mut self.greeting),
            "return" => ("return", &mut self.value),
            "error" => ("error", &mut self.error),
            "event" => ("event", &mut self.event),
            "data" => ("data", &mut self.data),
            "timestamp" => ("timestamp", &mut self.timestamp),
            "id" => ("id", &mut self.id),
            // Later versions may send more.
            _ => return,
        };
        if member.replace(value).is_some() && self.twice != Some("id") {
            self.twice = Some(name);
        }
    }

    /// Which calls the message concerns if it is bad.
    fn concerns(&self) -> Concerns {
        match self.id {
            Some(id) if self.twice != Some("id") => {
                id.parse().map_or(Concerns::None, Concerns::One)
            }
            _ => Concerns::All,
        }
    }

    #[inline(always)]
    fn into_message(self) -> Result<Message<'a>, Bad> {
        let (concerns, is_greeting) = (self.concerns(), self.greeting.is_some());
        self.message().map_err(|reason| Bad {
            reason,
            concerns,
            is_greeting,
        })
    }

    #[inline(always)]
    fn message(self) -> Result<Message<'a>, String> {
        if let Some(name) = self.twice {
            return Err(format!("duplicate member `{name}`"));
        }
        let there = |member: Option<&'a str>| member.filter(|&value| value != "null");
        match (
            self.greeting,
            self.value,
            there(self.error),
            there(self.event),
        ) {
            (Some(greeting), None, None, None) => greeting::parse(greeting).map(Message::Greeting),
            (None, Some(value), None, None) => Ok(Message::Success { id: self.id, value }),
            (None, None, Some(error), None) => Ok(Message::Failure {
                id: self.id,
                error: parse_failure(error)?,
            }),
            (None, None, None, Some(name)) => Ok(Message::Event(Event {
                name: parse_name(name)?,
                data: there(self.data).map(Cow::Borrowed),
                timestamp: self.timestamp.and_then(microseconds).unwrap_or(-1),
            })),
            (None, None, None, None) => {
                Err("it is neither a greeting nor a reply nor an event".into())
            }
            _ => Err("it is more than one of greeting, reply, error and event".into()),
        }
    }
}

#[inline(always)]
fn parse_name(name: &str) -> Result<Cow<'_, str>, String> {
    text(name).ok_or_else(|| "event: its name is not a string".into())
}

fn parse_failure(error: &str) -> Result<Failure<'_>, String> {
    let (mut class, mut desc) = (None, None);
    let members = json::check_object(error, 1, |name, value| {
        let member = match name {
            "class" => &mut class,
            "desc" => &mut desc,
            _ => return Ok(()),
        };
        match member.replace(value) {
            Some(_) => Err(format!("duplicate member `{name}`")),
            None => Ok(()),
        }
    });
    members.map_err(|problem| format!("error: {problem}"))?;
    match (class.and_then(text), desc.and_then(text)) {
        (Some(class), Some(desc)) => Ok(Failure { class, desc }),
        _ => Err("error: it has not the two texts `class` and `desc`".into()),
    }
}

/// The contents of a string, safe to convert to a C string.
#[inline(always)]
fn text(json: &str) -> Option<Cow<'_, str>> {
    json.starts_with('"')
        .then(|| strings::without_nul(strings::unquoted(json)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The message in a line, or which calls the bad line fails.
    fn said(line: &[u8]) -> Result<String, Concerns> {
        match read(line) {
            Ok(message) => Ok(format!("{message:?}")),
            Err(bad) => Err(bad.concerns),
        }
    }

    /// Checks that a line is decoded like the same line after a space, which QEMU never writes.
    fn compare(line: &[u8]) {
        let spaced = [b" ", line].concat();
        assert_eq!(said(line), said(&spaced), "{}", line.escape_ascii());
    }

    #[test]
    fn an_event_in_qemus_format_is_decoded_as_in_any_other() {
        let time = r#"{"timestamp": {"seconds": 1700000000, "microseconds": 50}, "event": "#;
        let rests = [
            "\"STOP\"}\r\n",
            "\"A\", \"data\": {\"b\": [0, \"\u{e9}\"]}}\n",
            "\"A\", \"data\": null}",
            "\"A\", \"data\": {}, \"id\": 7}",
        ];
        for rest in rests {
            let line = [time, rest].concat().into_bytes();
            assert!(said(&line).is_ok());
            for at in 0..line.len() {
                let (before, behind) = line.split_at(at);
                compare(before);
                compare(&[before, &behind[1..]].concat());
                for byte in *b"0-. \n\"\\{}[],:u\0\xe9\xff" {
                    compare(&[before, &[byte], behind].concat());
                    compare(&[before, &[byte], &behind[1..]].concat());
                }
            }
        }
        for (seconds, timestamp) in [
            ("1700000000", 1_700_000_000_000_050),
            ("-1", -1),
            ("01", -1),
            ("9223372036854", 9_223_372_036_854_000_050),
            ("9223372036855", -1),
            ("999999999999999999", -1),
            ("10000000000000000000", -1),
        ] {
            let line = time.replace("1700000000", seconds) + rests[0];
            compare(line.as_bytes());
            if let Ok(Message::Event(event)) = read(line.as_bytes()) {
                assert_eq!(event.timestamp(), timestamp, "{seconds}");
            }
        }
    }
}
