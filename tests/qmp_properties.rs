// SPDX-License-Identifier: MIT OR Apache-2.0
//! Any bytes, split in any way, are decoded as a simple decoder decodes the whole.

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::{Value, json};
use spice_qmp::qmp::{Ignored, Opening, Output, PeerError, Session, State};

const MAX_BAD_LINES: usize = spice_qmp::qmp::limits::MAX_BAD_LINES as usize;

/// The session's result for a message, without the reasons.
#[derive(Debug, Clone, PartialEq)]
enum Decoded {
    Event(String, Option<Value>),
    Reply,
    Bad,
    TooLarge,
    NotQmp,
    Failed,
}

proptest! {
    #[test]
    fn messages_are_decoded_as_by_the_reference(
        messages in vec(message(), 0..40),
        cuts in cuts(),
    ) {
        let bytes = messages.concat();
        let limit = usize::MAX;
        prop_assert_eq!(decode(&bytes, &cuts, limit), reference(&bytes, limit));
    }

    #[test]
    fn messages_over_the_limit_are_skipped_as_by_the_reference(
        messages in vec(message(), 0..40),
        cuts in cuts(),
        limit in 0_usize..200,
    ) {
        let bytes = messages.concat();
        prop_assert_eq!(decode(&bytes, &cuts, limit), reference(&bytes, limit));
    }

    #[test]
    fn any_bytes_are_taken(
        bytes in vec(any::<u8>(), 0..2000),
        cuts in cuts(),
        limit in 0_usize..200,
    ) {
        let whole = decode(&bytes, &Cuts::default(), limit);
        prop_assert!(whole.len() <= bytes.len());
        prop_assert_eq!(decode(&bytes, &cuts, limit), whole);
    }

    #[test]
    fn structural_bytes_are_decoded_as_by_the_reference(
        bytes in vec(structural(), 0..400),
        cuts in cuts(),
        limit in prop_oneof![Just(usize::MAX), 0_usize..20],
    ) {
        prop_assert_eq!(decode(&bytes, &cuts, limit), reference(&bytes, limit));
    }
}

/// How the input is split: the lengths of the chunks, repeated, and what is
/// done with each.
#[derive(Debug, Clone, Default)]
struct Cuts {
    chunks: Vec<(usize, After)>,
}

/// What is done with a chunk.
#[derive(Debug, Clone, Copy, PartialEq)]
enum After {
    /// It is received.
    Receive,
    /// It is received, and the rest after an output is buffered.
    Buffer,
}

fn cuts() -> impl Strategy<Value = Cuts> {
    let after = prop_oneof![Just(After::Receive), Just(After::Buffer)];
    let chunk = (prop_oneof![1..4_usize, 1..100_usize], after);
    vec(chunk, 0..10).prop_map(|chunks| Cuts { chunks })
}

/// The bytes of one message, of something that is not a message, or of white space.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let end = prop_oneof![Just("\n"), Just("\r\n")];
    let object = prop_oneof![event(), reply(), value()];
    let pretty = (object.clone(), end.clone()).prop_map(|(object, end)| {
        let text = format!("{object:#}{end}");
        text.replace('\n', end).into_bytes()
    });
    let broken = (pretty.clone(), any::<prop::sample::Index>()).prop_map(|(text, at)| {
        let lines: Vec<_> = text.split_inclusive(|&byte| byte == b'\n').collect();
        lines[..at.index(lines.len())].concat()
    });
    let line = |text: BoxedStrategy<Vec<u8>>| {
        (text, end.clone()).prop_map(|(text, end)| [&text[..], end.as_bytes()].concat())
    };
    let one_line = object.prop_map(|object| object.to_string().into_bytes());
    let blank = "[ \t\r]{0,3}".prop_map(String::into_bytes);
    prop_oneof![
        8 => line(one_line.boxed()),
        4 => pretty,
        1 => broken,
        1 => line(blank.boxed()),
        1 => line(vec(structural(), 0..30).boxed()),
        1 => line(vec(any::<u8>(), 0..30).boxed()),
    ]
}

fn event() -> impl Strategy<Value = Value> + Clone {
    let stamp = json!({"seconds": 1_795_150_650, "microseconds": 635_965});
    let name = prop_oneof![any::<String>(), "[A-Z_]{1,9}", "[a\\x00\"\\\\]{1,3}"];
    (name, proptest::option::of(value())).prop_map(move |(name, data)| match data {
        Some(data) => json!({"timestamp": stamp, "event": name, "data": data}),
        None => json!({"timestamp": stamp, "event": name}),
    })
}

fn reply() -> impl Strategy<Value = Value> + Clone {
    (value(), value(), any::<(bool, String)>()).prop_map(|(result, id, (works, desc))| {
        if works {
            json!({"return": result, "id": id})
        } else {
            json!({"id": id, "error": {"class": "GenericError", "desc": desc}})
        }
    })
}

fn value() -> impl Strategy<Value = Value> + Clone {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(3, 16, 4, |inner| {
        let member = (any::<String>(), inner.clone());
        prop_oneof![
            vec(inner, 0..4).prop_map(Value::from),
            vec(member, 0..4).prop_map(|members| members.into_iter().collect()),
        ]
    })
}

/// Bytes that are special to a framer.
fn structural() -> impl Strategy<Value = u8> {
    prop::sample::select(&b"\n\n\n\r{{}} \t\"x:,[]0\\\x00"[..])
}

fn decode(bytes: &[u8], cuts: &Cuts, limit: usize) -> Vec<Decoded> {
    let mut session = ready();
    session.set_max_message_size(limit);
    let mut decoded = Vec::new();
    let mut rest = bytes;
    let whole = [(bytes.len(), After::Receive)];
    let chunks = if cuts.chunks.is_empty() {
        &whole[..]
    } else {
        &cuts.chunks
    };
    for &(len, after) in chunks.iter().cycle() {
        let (mut chunk, next) = rest.split_at(len.min(rest.len()));
        if session.goes_on(chunk) {
            chunk = &[];
        }
        while let Some(output) = session.receive(&mut chunk) {
            decoded.push(render(&output));
            if after == After::Buffer {
                session.buffer_input(chunk);
                chunk = &[];
            }
        }
        assert!(chunk.is_empty(), "all input is taken");
        rest = next;
        if rest.is_empty() {
            break;
        }
    }
    decoded
}

fn ready() -> Session<()> {
    let mut session = Session::new(1 << 24);
    session.open(Opening::GreetingMayBeGone);
    let mut input: &[u8] = b"{\"return\":{},\"id\":16777216}\n";
    while session.receive(&mut input).is_some() {}
    assert_eq!(session.state(), State::Ready);
    session
}

fn render(output: &Output<'_, ()>) -> Decoded {
    match output {
        Output::Event(event) => {
            let data = event
                .data
                .as_deref()
                .map(|raw| serde_json::from_str(raw).unwrap());
            Decoded::Event(event.name.clone().into_owned(), data)
        }
        Output::Ignored(Ignored::Reply) => Decoded::Reply,
        Output::Ignored(Ignored::Bad(PeerError::Malformed(_))) => Decoded::Bad,
        Output::Ignored(Ignored::Bad(PeerError::TooLarge { .. })) => Decoded::TooLarge,
        Output::Ignored(Ignored::Bad(PeerError::NotQmp { .. })) => Decoded::NotQmp,
        Output::State {
            state: State::Failed,
            ..
        } => Decoded::Failed,
        other => panic!("{other:?} comes from nowhere"),
    }
}

/// The reference: it sees the whole input, and builds a tree of each message.
fn reference(bytes: &[u8], limit: usize) -> Vec<Decoded> {
    let lines: Vec<&[u8]> = bytes.split_inclusive(|&byte| byte == b'\n').collect();
    let mut decoded = Vec::new();
    let (mut at, mut bad) = (0, 0);
    while at < lines.len() {
        let (count, end) = extent(&lines[at..]);
        let message = lines[at..at + count].concat();
        at += count;
        let result = match end {
            _ if message.len() > limit => Decoded::TooLarge,
            End::Broken => Decoded::Bad,
            End::Whole if message.trim_ascii().is_empty() => continue,
            End::Whole => reference_message(&message).unwrap_or(Decoded::Bad),
            End::Missing => break,
        };
        match result {
            // With an id it is a bad answer, not a bad line.
            Decoded::Bad if matches!(end, End::Whole) && has_id(&message) => {}
            Decoded::Bad => bad += 1,
            Decoded::TooLarge => {}
            _ => bad = 0,
        }
        if bad == MAX_BAD_LINES {
            decoded.extend([Decoded::NotQmp, Decoded::Failed]);
            break;
        }
        decoded.push(result);
    }
    decoded
}

enum End {
    Whole,
    Broken,
    Missing,
}

/// How many lines the first message has, and how it ends.
fn extent(lines: &[&[u8]]) -> (usize, End) {
    let ended = |line: &[u8]| {
        if line.ends_with(b"\n") {
            End::Whole
        } else {
            End::Missing
        }
    };
    if lines[0].trim_ascii() != b"{" {
        return (1, ended(lines[0]));
    }
    for (count, line) in lines.iter().enumerate().skip(1) {
        match line[0] {
            b' ' | b'\t' | b'\r' | b'\n' => {}
            b'}' => return (count + 1, ended(line)),
            _ => return (count, End::Broken),
        }
    }
    (lines.len(), End::Missing)
}

/// Whether a bad message has an id. No message here has two.
fn has_id(message: &[u8]) -> bool {
    let value = serde_json::from_str::<Value>(&String::from_utf8_lossy(message));
    value.is_ok_and(|value| value.get("id").is_some())
}

fn reference_message(message: &[u8]) -> Option<Decoded> {
    let value: Value = serde_json::from_slice(message).ok()?;
    let object = value.as_object()?;
    let text = |value: &Value| {
        let text = value.as_str();
        text.map(|text| text.replace('\0', "\u{FFFD}"))
    };
    if let Some(name) = object.get("event") {
        let data = object.get("data").filter(|data| !data.is_null()).cloned();
        return Some(Decoded::Event(text(name)?, data));
    }
    if let Some(error) = object.get("error") {
        text(error.get("class")?)?;
        text(error.get("desc")?)?;
        return Some(Decoded::Reply);
    }
    object.get("return").map(|_| Decoded::Reply)
}
