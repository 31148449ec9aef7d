// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measurements in this process, without I/O: events, calls and replies, from the bytes
//! that arrive.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::measure::{Contest, Run, Start, Unit, Work, seconds_of};
use crate::subjects::{
    BareCall, Heard, Helper, JsonParser, Ours, Pair, RUNNING, Subject, connect, floor,
};
use crate::wire::{Wire, main_loop};
use crate::{FLOOR, HELPER, OURS};

const OURS_RUST: &str = "ours, handler in Rust";
const WITHOUT_SPICE: &str = "ours, without SPICE";
const UNHEARD: &str = "ours, nobody listens";
const VALIDATION: &str = "serde_json, validation only";
const ENVELOPE: &str = "serde_json, RawValue envelope";
const JSON_GLIB: &str = "JSON-GLib, the data alone";

const EVENTS: usize = 100_000;
const EVENT: &str = concat!(
    r#"{"timestamp": {"seconds": 1700000000, "microseconds": 123456}, "event": "RTC_CHANGE", "#,
    r#""data": {"offset": 78, "qom-path": "/machine/unattached/device[8]"}}"#,
    "\r\n"
);

/// This many events, as QEMU sends them.
pub fn events(count: usize) -> Vec<u8> {
    EVENT.repeat(count).into_bytes()
}

type Case = (&'static str, Start);

fn case(who: &'static str, start: impl Fn() -> Work + 'static) -> Case {
    (who, Start::Work(Box::new(start)))
}

/// Feeds events in chunks, and checks that each was received as often as expected.
/// This library's are delivered from the main loop, if there are listeners.
fn feed(chunk: usize, emit: impl Fn(&[u8]) + 'static, heard: Option<(Heard, u64)>) -> Work {
    let all = events(EVENTS);
    Box::new(move |count| {
        let before = heard.as_ref().map_or(0, |(heard, _)| heard.get());
        for bytes in all[..count * EVENT.len()].chunks(chunk) {
            emit(bytes);
            if heard.is_some() {
                main_loop();
            }
        }
        main_loop();
        if let Some((heard, times)) = &heard {
            assert_eq!(heard.get() - before, count as u64 * times, "lost events");
        }
    })
}

/// This library's port, with listeners that receive each event this often.
fn ours(who: &'static str, listen: fn(&Ours) -> Option<(Heard, u64)>) -> Case {
    case(who, move || {
        let ours = Ours::on(Wire::new());
        let heard = listen(&ours);
        feed(4 << 10, move |bytes| ours.emit(bytes), heard)
    })
}

fn helper(listens: bool) -> Case {
    case(HELPER, move || {
        let helper = Helper::on(Wire::new());
        let heard = listens.then(|| (connect(&helper.object(), "event"), 1));
        feed(4 << 10, move |bytes| helper.emit(bytes), heard)
    })
}

fn floor_of_events(listens: bool) -> Case {
    case(FLOOR, move || {
        let wire = Wire::new();
        let object = floor(&wire);
        let heard = listens.then(|| (connect(object.as_ref(), "event"), 1));
        feed(4 << 10, move |bytes| wire.emit(bytes), heard)
    })
}

/// A parser that is fed line by line.
fn parser<P: FnMut(&[u8]) + 'static>(who: &'static str, make: fn() -> P) -> Case {
    case(who, move || {
        let all = events(EVENTS);
        let mut parse = make();
        Box::new(move |count| {
            for line in all.chunks(EVENT.len()).take(count) {
                parse(&line[..line.len() - 2]);
            }
        })
    })
}

/// All contests of this file.
#[allow(clippy::too_many_lines, reason = "it is a table")]
pub fn contests() -> Vec<Contest> {
    let validation = parser(VALIDATION, || {
        |line| {
            let _: serde::de::IgnoredAny = serde_json::from_slice(line).expect("JSON");
        }
    });
    let json_glib = parser(JSON_GLIB, || {
        let parser = JsonParser::new();
        move |line| {
            let at = memchr::memmem::find(line, b"\"data\": ").expect("data");
            parser.parse(&line[at + 8..line.len() - 1]);
        }
    });
    let in_rust = ours(OURS_RUST, |ours| {
        let heard = Heard::default();
        let count = heard.clone();
        let handler = move |_: &_, _: &_| count.set(count.get() + 1);
        ours.port.connect_qmp_event(None, handler);
        Some((heard, 1))
    });
    let in_c = |signal: fn(&Ours) -> Option<(Heard, u64)>| ours(OURS, signal);
    let cycles = vec![
        case(OURS, || cycles(Ours::on(Wire::new()))),
        case(WITHOUT_SPICE, || cycles(Pair::new())),
        case(HELPER, || cycles(Helper::on(Wire::new()))),
        case(FLOOR, || cycles(BareCall::new())),
    ];
    vec![
        Contest::new(
            EVENTS,
            vec![
                in_c(|_| None),
                helper(false),
                validation,
                floor_of_events(false),
            ],
        )
        .row(0, "events", Unit::Ns, "an event that nobody listens to")
        .goal(1.15, VALIDATION),
        Contest::new(
            EVENTS,
            vec![
                in_c(|ours| Some((ours.connect("qmp-event"), 1))),
                in_rust,
                helper(true),
                floor_of_events(true),
            ],
        )
        .row(
            0,
            "qmp-event",
            Unit::Ns,
            "an event with a handler of `qmp-event`",
        )
        .goal(2.2, FLOOR)
        .goal_of(OURS_RUST, 2.6, FLOOR),
        Contest::new(
            EVENTS,
            vec![
                in_c(|ours| Some((ours.connect("event"), 1))),
                helper(true),
                json_glib,
            ],
        )
        .row(
            0,
            "event",
            Unit::Ns,
            "an event with a handler of `event` (JsonNode)",
        )
        .goal(1.0, JSON_GLIB),
        Contest::new(
            EVENTS,
            vec![
                in_c(|ours| Some((ours.streams(4), 4))),
                ours(UNHEARD, |_| None),
            ],
        )
        .row(0, "streams", Unit::Ns, "an event with four Rust streams")
        .goal(3.0, UNHEARD),
        Contest::new(
            0,
            vec![
                above_emission(OURS, || {
                    let ours = Ours::on(Wire::new());
                    feed(1, move |bytes| ours.emit(bytes), None)
                }),
                above_emission(HELPER, || {
                    let helper = Helper::on(Wire::new());
                    feed(1, move |bytes| helper.emit(bytes), None)
                }),
            ],
        )
        .row(
            0,
            "bytes",
            Unit::Ns,
            "events in single bytes: a byte, above its emission",
        )
        .goal(30.0, None),
        Contest::new(20_000, cycles)
            .row(0, "cycle", Unit::Ns, "a command and its reply, without I/O")
            .goal(1.2, FLOOR)
            .goal_of(WITHOUT_SPICE, 1.0, FLOOR),
        replies(9, 64)
            .row(0, "reply-9m", Unit::Ms, "a reply of 9 MB, 64 KiB chunks")
            .goal(1.2, ENVELOPE),
        replies(32, 64)
            .row(
                0,
                "reply-32m-64k",
                Unit::Ms,
                "a reply of 32 MB, 64 KiB chunks",
            )
            .goal(1.5, ENVELOPE),
        replies(32, 4)
            .row(
                0,
                "reply-32m-4k",
                Unit::Ms,
                "a reply of 32 MB, 4 KiB chunks",
            )
            .goal(1.5, ENVELOPE),
    ]
}

/// Events in single bytes: the cost above the emission of each.
#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn above_emission(who: &'static str, make: fn() -> Work) -> Case {
    let start = move || {
        let bare = Wire::new();
        bare.on_data(|_| ());
        let mut bare = feed(1, move |bytes| bare.emit(bytes), None);
        let mut work = make();
        Ok(Box::new(move || {
            let more = seconds_of(&mut work, 5_000) - seconds_of(&mut bare, 5_000);
            Ok(vec![more / EVENT.len() as f64])
        }) as Run)
    };
    (who, Start::Run(Box::new(start)))
}

fn cycles(subject: impl Subject + 'static) -> Work {
    exchange(subject, format!(r#"{{"return": {RUNNING}"#), usize::MAX)
}

/// One request after the other, each answered in chunks with a reply that lacks its id.
fn exchange(subject: impl Subject + 'static, reply: String, chunk: usize) -> Work {
    let size = reply.len();
    let mut reply = reply.into_bytes();
    Box::new(move |count| {
        for _ in 0..count {
            let ended = subject.call();
            reply.truncate(size);
            reply.extend_from_slice(b", \"id\": ");
            reply.extend_from_slice(subject.request().as_bytes());
            reply.extend_from_slice(b"}\r\n");
            for chunk in reply.chunks(chunk) {
                subject.emit(chunk);
            }
            main_loop();
            assert_eq!(ended.get(), 1, "the reply did not arrive");
        }
    })
}

/// A reply of this size without its id, in the shape of `query-qmp-schema`'s; it is the
/// status at the same time, for spice-gtk's helper.
fn reply(size: usize) -> String {
    let mut text = String::from(
        r#"{"return": {"running": true, "singlestep": false, "status": "running", "schema": ["#,
    );
    let member = r#"{"name": "123", "members": [{"name": "device", "type": "str"}, {"name": "force", "default": null, "type": "bool"}], "meta-type": "object"}, "#;
    text.push_str(&member.repeat((size - 200) / member.len()));
    text.push_str(r#"{"name": "last", "meta-type": "builtin", "json-type": "null"}]}"#);
    text
}

/// The minimum that must be decoded of a reply.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow, rename = "return")]
    reply: Option<&'a RawValue>,
}

fn replies(megabytes: usize, kib: usize) -> Contest {
    let (size, chunk) = (megabytes * 1_000_000, kib << 10);
    let mut cases = vec![case(OURS, move || {
        exchange(Ours::on(Wire::new()), reply(size), chunk)
    })];
    // The helper takes no more than 10 MB.
    if megabytes < 10 {
        cases.push(case(HELPER, move || {
            exchange(Helper::on(Wire::new()), reply(size), chunk)
        }));
    }
    cases.push(case(ENVELOPE, move || {
        let text = reply(size) + r#", "id": 1}"#;
        Box::new(move |count| {
            for _ in 0..count {
                let it: Envelope = serde_json::from_str(&text).expect("JSON");
                assert!(it.reply.is_some());
            }
        })
    }));
    Contest::new(1, cases)
}
