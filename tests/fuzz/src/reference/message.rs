//! What a line of QMP says.

use spice_qmp::qmp::limits::MAX_DEPTH;
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
    /// What the library made of a line, to compare.
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

/// Reads a line; nothing where it is no QMP.
pub(crate) fn read(line: &[u8]) -> Option<Message> {
    let node = json::read(std::str::from_utf8(line).ok()?, MAX_DEPTH)?;
    let Value::Object(_) = node.value else {
        return None;
    };
    let names = ["QMP", "return", "error", "event", "data", "timestamp", "id"];
    let [qmp, value, error, event, data, timestamp, id] = members(&node, names)?;
    // `null` is an answer, an id or a bad greeting, but else as good as nothing.
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
        // Also `event`s and `error`s of a wrong form are more than one.
        _ => return None,
    })
}

fn unless_null<'n, 'a>(node: Option<&'n Node<'a>>) -> Option<&'n Node<'a>> {
    node.filter(|node| node.value != Value::Null)
}

/// The members of these names, none of which may come twice; others are skipped.
/// An array is taken for an object without names: serde does that.
fn members<'n, 'a, const N: usize>(
    node: &'n Node<'a>,
    names: [&str; N],
) -> Option<[Option<&'n Node<'a>>; N]> {
    let mut found = [None; N];
    match &node.value {
        Value::Object(members) => {
            for (name, node) in members {
                if let Some(at) = names.iter().position(|it| it == name) {
                    found[at].replace(node).is_none().then_some(())?;
                }
            }
        }
        Value::Array(items) if items.len() <= N => {
            for (at, item) in items.iter().enumerate() {
                found[at] = Some(item);
            }
        }
        _ => return None,
    }
    Some(found)
}

/// A string that C can have.
fn string(node: &Node<'_>) -> Option<String> {
    match &node.value {
        Value::String(text) if !text.contains('\0') => Some(text.clone()),
        _ => None,
    }
}

fn number<T: std::str::FromStr>(node: &Node<'_>) -> Option<T> {
    // To serde, -0 is no whole number.
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
    // Those that are no strings are skipped, if serde can read them.
    let readable = |node: &Node<'_>| {
        let levels_above = 2;
        node.depth() + levels_above < 128
            && serde_json::from_str::<serde_json::Value>(node.text).is_ok()
    };
    capabilities.iter().all(readable).then_some(())?;
    let names = capabilities
        .iter()
        .filter(|it| matches!(it.value, Value::String(_)));
    Some(Greeting {
        version: Version {
            qemu: VersionTriple {
                major: number(major?)?,
                minor: number(minor?)?,
                micro: number(micro?)?,
            },
            package: package.map_or(Some(String::new()), string)?,
        },
        capabilities: names.map(string).collect::<Option<_>>()?,
    })
}

fn micros(node: &Node<'_>) -> Option<i64> {
    let Value::Object(members) = &node.value else {
        return None;
    };
    // Other than in a message, the last of two with the same name counts.
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
        assert_eq!(read(b" {\"id\":7, \"return\": [ 1 ]}\r\n"), Some(success));
        let failure = Message::Failure {
            id: None,
            class: "A".into(),
            desc: "b".into(),
        };
        let line = br#"{"error":{"desc":"b","x":[],"class":"\u0041"}}"#;
        assert_eq!(read(line), Some(failure));
        let event = Message::Event {
            name: "STOP".into(),
            data: None,
            timestamp: 1_000_002,
        };
        let line = br#"{"event":"STOP","data":null,"timestamp":{"seconds":1,"microseconds":2}}"#;
        assert_eq!(read(line), Some(event));
        let line = br#"{"QMP":{"version":{"qemu":{"major":9,"minor":1,"micro":2}},
            "capabilities":["oob",{"x":1},2]}}"#;
        let Some(Message::Greeting(greeting)) = read(line) else {
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
            "{\"event\":\"\\u0000\"}",
            "{\"error\":{\"class\":\"A\"}}",
            "{\"QMP\":null}",
            "{\"QMP\":{\"version\":{\"qemu\":{\"major\":-1,\"minor\":0,\"micro\":0}}}}",
            "{\"return\":1} x",
        ] {
            assert_eq!(read(line.as_bytes()), None, "{line}");
        }
    }
}
