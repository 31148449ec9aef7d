// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses a line of QMP.

use spice_qmp::qmp::limits::{MAX_CAPABILITIES, MAX_DEPTH, MAX_NAME, MAX_PACKAGE};
use spice_qmp::qmp::{self, Greeting, Version, VersionTriple};

use super::json::{self, Node, Value};

/// A message, with payloads as text.
#[derive(Debug, PartialEq)]
pub(crate) enum Message {
    Greeting(Greeting),
    Success {
        id: Option<String>,
        value: String,
    },
    Failure {
        id: Option<String>,
        class: String,
        desc: String,
    },
    Event {
        name: String,
        data: Option<String>,
        timestamp: i64,
    },
}

impl Message {
    /// The library's result for a line, to compare.
    pub(crate) fn of(message: &qmp::Message<'_>) -> Self {
        match message {
            qmp::Message::Greeting(greeting) => Self::Greeting(greeting.clone()),
            qmp::Message::Success { id, value } => Self::Success {
                id: id.map(str::to_owned),
                value: (*value).to_owned(),
            },
            qmp::Message::Failure { id, error } => Self::Failure {
                id: id.map(str::to_owned),
                class: error.class.clone().into(),
                desc: error.desc.clone().into(),
            },
            qmp::Message::Event(event) => Self::Event {
                name: event.name.clone().into(),
                data: event.data.clone().map(String::from),
                timestamp: event.timestamp(),
            },
        }
    }
}

/// Why a line is not a message.
#[derive(Debug, PartialEq)]
pub(crate) struct Bad {
    pub(crate) concerns: Concerns,
    pub(crate) is_greeting: bool,
}

/// Which calls it ends.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) enum Concerns {
    One(u64),
    None,
    All,
}

/// Parses a line.
pub(crate) fn read(line: &[u8]) -> Result<Message, Bad> {
    let text = std::str::from_utf8(line).ok();
    if let Some(node) = text.and_then(|text| json::read(text, MAX_DEPTH)) {
        return read_node(&node).ok_or_else(|| Bad {
            concerns: concerns(&node),
            is_greeting: count(&node, "QMP") > 0,
        });
    }
    let text = String::from_utf8_lossy(line);
    let node = json::read_structure(&text);
    Err(Bad {
        concerns: node.map_or(Concerns::All, |node| concerns(&node)),
        is_greeting: false,
    })
}

fn count(node: &Node<'_>, name: &str) -> usize {
    match &node.value {
        Value::Object(members) => members.iter().filter(|(it, _)| it == name).count(),
        _ => 0,
    }
}

fn concerns(node: &Node<'_>) -> Concerns {
    match &node.value {
        Value::Object(members) if count(node, "id") == 1 => members
            .iter()
            .find(|(name, _)| name == "id")
            .and_then(|(_, id)| id.text.parse().ok())
            .map_or(Concerns::None, Concerns::One),
        _ => Concerns::All,
    }
}

fn read_node(node: &Node<'_>) -> Option<Message> {
    let names = ["QMP", "return", "error", "event", "data", "timestamp", "id"];
    let [qmp, value, error, event, data, timestamp, id] = members(node, names)?;
    // `null` is an answer, an id or a bad greeting, but otherwise ignored.
    let [error, event, data, timestamp] = [error, event, data, timestamp].map(unless_null);
    let text = |node: &Node<'_>| node.text.to_owned();
    Some(match (qmp, value, error, event) {
        (Some(qmp), None, None, None) => Message::Greeting(greeting(qmp)?),
        (None, Some(value), None, None) => Message::Success {
            id: id.map(text),
            value: text(value),
        },
        (None, None, Some(error), None) => {
            let [class, desc] = members(error, ["class", "desc"])?;
            Message::Failure {
                id: id.map(text),
                class: string(class?)?,
                desc: string(desc?)?,
            }
        }
        (None, None, None, Some(event)) => Message::Event {
            name: string(event)?,
            data: data.map(text),
            timestamp: timestamp.and_then(micros).unwrap_or(-1),
        },
        // Malformed `event`s and `error`s also count.
        _ => return None,
    })
}

fn unless_null<'n, 'a>(node: Option<&'n Node<'a>>) -> Option<&'n Node<'a>> {
    node.filter(|node| node.value != Value::Null)
}

/// The members with these names, none of which may appear twice; others are skipped.
fn members<'n, 'a, const N: usize>(
    node: &'n Node<'a>,
    names: [&str; N],
) -> Option<[Option<&'n Node<'a>>; N]> {
    let Value::Object(members) = &node.value else {
        return None;
    };
    let mut found = [None; N];
    for (name, node) in members {
        if let Some(at) = names.iter().position(|it| it == name) {
            found[at].replace(node).is_none().then_some(())?;
        }
    }
    Some(found)
}

/// A string that C can hold.
fn string(node: &Node<'_>) -> Option<String> {
    match &node.value {
        Value::String(text) => Some(text.replace('\0', "\u{FFFD}")),
        _ => None,
    }
}

/// Whole characters of a text, up to `limit` bytes.
pub(crate) fn start_of(text: &str, limit: usize) -> String {
    let mut start = String::new();
    for next in text.chars() {
        if start.len() + next.len_utf8() > limit {
            break;
        }
        start.push(next);
    }
    start
}

fn number<T: std::str::FromStr>(node: &Node<'_>) -> Option<T> {
    // -0 is not a whole number.
    let whole = node.value == Value::Number && node.text != "-0";
    whole.then(|| node.text.parse().ok()).flatten()
}

fn greeting(node: &Node<'_>) -> Option<Greeting> {
    let [version, capabilities] = members(node, ["version", "capabilities"])?;
    let [qemu, package] = members(version?, ["qemu", "package"])?;
    let [major, minor, micro] = members(qemu?, ["major", "minor", "micro"])?;
    let capabilities = match capabilities.map(|it| &it.value) {
        None => &[][..],
        Some(Value::Array(items)) => items,
        Some(_) => return None,
    };
    let names = capabilities.iter().filter_map(string);
    let names = names.filter(|name| name.len() <= MAX_NAME);
    let package = package.map_or(Some(String::new()), string)?;
    Some(Greeting {
        version: Version {
            qemu: VersionTriple {
                major: number(major?)?,
                minor: number(minor?)?,
                micro: number(micro?)?,
            },
            package: start_of(&package, MAX_PACKAGE),
        },
        capabilities: names.take(MAX_CAPABILITIES).collect(),
    })
}

fn micros(node: &Node<'_>) -> Option<i64> {
    let Value::Object(members) = &node.value else {
        return None;
    };
    // Unlike in a message, the last of two members with the same name counts.
    let number = |name: &str| -> Option<i64> {
        let (_, node) = members.iter().rfind(|(it, _)| it == name)?;
        node.text.parse().ok().filter(|&number| number >= 0)
    };
    let (seconds, micros) = (number("seconds")?, number("microseconds")?);
    seconds.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read() {
        let success = Message::Success {
            id: Some("7".into()),
            value: "[ 1 ]".into(),
        };
        assert_eq!(read(b" {\"id\":7, \"return\": [ 1 ]}\r\n"), Ok(success));
        let failure = Message::Failure {
            id: None,
            class: "A".into(),
            desc: "b".into(),
        };
        let line = br#"{"error":{"desc":"b","x":[],"class":"\u0041"}}"#;
        assert_eq!(read(line), Ok(failure));
        let event = Message::Event {
            name: "STOP".into(),
            data: None,
            timestamp: 1_000_002,
        };
        let line = br#"{"event":"STOP","data":null,"timestamp":{"seconds":1,"microseconds":2}}"#;
        assert_eq!(read(line), Ok(event));
        let line = br#"{"QMP":{"version":{"qemu":{"major":9,"minor":1,"micro":2}},
            "capabilities":["oob",{"x":1},2]}}"#;
        let Ok(Message::Greeting(greeting)) = read(line) else {
            panic!("no greeting");
        };
        assert_eq!(greeting.version.qemu.to_string(), "9.1.2");
        assert_eq!(greeting.capabilities, ["oob"]);
    }

    #[test]
    fn other_lines_are_none() {
        for line in [
            "",
            "[]",
            "{}",
            "x",
            "{\"return\":1,\"return\":1}",
            "{\"return\":1,\"event\":\"A\"}",
            "{\"event\":1}",
            "{\"error\":{\"class\":\"A\"}}",
            "{\"QMP\":null}",
            "{\"QMP\":{\"version\":{\"qemu\":{\"major\":-1,\"minor\":0,\"micro\":0}}}}",
            "{\"return\":1} x",
        ] {
            let bad = read(line.as_bytes()).unwrap_err();
            assert_eq!(bad.concerns, Concerns::All, "{line}");
        }
        let concerns = |line: &[u8]| read(line).unwrap_err().concerns;
        assert_eq!(concerns(b"{\"id\":7}"), Concerns::One(7));
        assert_eq!(
            concerns(b"{\"id\":7,\"return\":\"\xff\"}"),
            Concerns::One(7)
        );
        assert_eq!(concerns(b"{\"id\":null}"), Concerns::None);
        assert_eq!(concerns(b"{\"id\":7,\"id\":7}"), Concerns::All);
    }
}
