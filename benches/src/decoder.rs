//! Workloads without I/O: events, replies and calls, as the bytes come in.

use serde::Deserialize;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::measure::{Case, Unit, Work, Workload};
use crate::subjects::{
    BareCall, Floor, Heard, Helper, Ours, Pair, RUNNING, emission, json_glib, request,
};
use crate::wire::{Wire, main_loop};

const KIB: usize = 1 << 10;
const MB: usize = 1_000_000;

fn case(who: &'static str, start: impl Fn() -> Work + 'static) -> Case {
    Case {
        who,
        start: Box::new(start),
    }
}

/// So many events, as QEMU sends them.
pub fn events(count: usize) -> Vec<u8> {
    let mut text = String::new();
    for number in 0..count {
        use std::fmt::Write;
        let micros = 100_000 + number % 900_000;
        write!(
            text,
            r#"{{"timestamp": {{"seconds": 1700000000, "microseconds": {micros}}}, "event": "RTC_CHANGE", "data": {{"offset": 78, "qom-path": "/machine/unattached/device[8]"}}}}"#
        )
        .expect("a string takes it");
        text.push_str("\r\n");
    }
    text.into_bytes()
}

/// The first `count` of events that all have the same size.
fn first(events: &[u8], count: usize) -> &[u8] {
    &events[..count * events_size()]
}

fn events_size() -> usize {
    static SIZE: std::sync::OnceLock<usize> = std::sync::OnceLock::new();
    *SIZE.get_or_init(|| events(1).len())
}

/// Emits the events, and turns the main loop after each chunk where `turns`;
/// then sees to it that each was heard as often as it must be.
fn feed(
    count: usize,
    chunk: usize,
    wire: impl Fn(&[u8]) + 'static,
    turns: bool,
    heard: Option<(Heard, u64)>,
) -> Work {
    let all = events(count);
    Box::new(move |count| {
        let before = heard.as_ref().map(|(heard, _)| heard.get());
        for bytes in first(&all, count).chunks(chunk) {
            wire(bytes);
            if turns {
                main_loop();
            }
        }
        main_loop();
        if let (Some((heard, times)), Some(before)) = (&heard, before) {
            assert_eq!(heard.get() - before, count as u64 * times, "lost events");
        }
    })
}

/// How our port is listened to.
type Listen = fn(&Ours) -> Option<(Heard, u64)>;

fn ours(who: &'static str, count: usize, chunk: usize, turns: bool, listen: Listen) -> Case {
    case(who, move || {
        let ours = Ours::new();
        let heard = listen(&ours);
        feed(
            count,
            chunk,
            move |bytes| ours.as_ref().emit(bytes),
            turns,
            heard,
        )
    })
}

fn helper(count: usize, chunk: usize, listens: bool) -> Case {
    case("spice-gtk helper", move || {
        let helper = Helper::new();
        let heard = listens.then(|| (helper.connect("event"), 1));
        feed(
            count,
            chunk,
            move |bytes| helper.as_ref().emit(bytes),
            false,
            heard,
        )
    })
}

fn floor(count: usize, chunk: usize, listens: bool) -> Case {
    case("floor", move || {
        let floor = Floor::new();
        let heard = listens.then(|| (floor.connect(), 1));
        feed(
            count,
            chunk,
            move |bytes| floor.as_ref().emit(bytes),
            false,
            heard,
        )
    })
}

/// A parser that is given line after line.
fn parser<P: FnMut(&[u8]) + 'static>(
    who: &'static str,
    count: usize,
    make: impl Fn() -> P + 'static,
) -> Case {
    case(who, move || {
        let all = events(count);
        let mut parse = make();
        Box::new(move |count| {
            let mut rest = first(&all, count);
            while let Some(end) = memchr::memchr(b'\n', rest) {
                parse(&rest[..end - 1]);
                rest = &rest[end + 1..];
            }
        })
    })
}

/// The least that must be decoded of a message.
#[derive(Deserialize)]
struct Envelope<'a> {
    #[serde(borrow)]
    event: Option<&'a str>,
    #[serde(borrow)]
    data: Option<&'a RawValue>,
    #[serde(borrow)]
    timestamp: Option<&'a RawValue>,
    #[serde(borrow, rename = "return")]
    reply: Option<&'a RawValue>,
}

/// Workload (a): 200,000 events in chunks of 4 KiB and 64 KiB; and (b) in bytes.
pub fn event_workloads(count: usize) -> Vec<Workload> {
    let mut all = Vec::new();
    for (name, chunk) in [("4k", 4 * KIB), ("64k", 64 * KIB)] {
        let workload = |id: &str, title: &str, target: f64, cases: Vec<Case>| Workload {
            id: format!("events-{name}-{id}"),
            title: format!("{count} events, {name}iB chunks, {title}"),
            unit: Unit::NsPerEvent,
            count,
            pieces: 1.0,
            target: Some(target),
            less: None,
            counted: chunk == 4 * KIB,
            cases,
        };
        all.push(workload(
            "none",
            "nobody listens",
            150.0,
            vec![
                ours("ours", count, chunk, false, |_| None),
                ours(
                    "ours, main loop after each chunk",
                    count,
                    chunk,
                    true,
                    |_| None,
                ),
                helper(count, chunk, false),
                floor(count, chunk, false),
            ],
        ));
        all.push(workload(
            "detail",
            "qmp-event::STOP",
            150.0,
            vec![
                ours("ours", count, chunk, true, |ours| {
                    Some((ours.connect("qmp-event::STOP"), 0))
                }),
                helper(count, chunk, false),
                floor(count, chunk, false),
            ],
        ));
        all.push(workload(
            "qmp-event",
            "qmp-event handler",
            300.0,
            vec![
                ours("ours", count, chunk, true, |ours| {
                    Some((ours.connect("qmp-event"), 1))
                }),
                ours("ours, handler in Rust", count, chunk, true, |ours| {
                    let heard = Heard::default();
                    let count = heard.clone();
                    ours.port
                        .connect_qmp_event(None, move |_, _| count.set(count.get() + 1));
                    Some((heard, 1))
                }),
                ours("ours, qmp-event::RTC_CHANGE", count, chunk, true, |ours| {
                    Some((ours.connect("qmp-event::RTC_CHANGE"), 1))
                }),
                helper(count, chunk, true),
                floor(count, chunk, true),
            ],
        ));
        all.push(workload(
            "event",
            "event handler (JsonNode)",
            750.0,
            vec![
                ours("ours", count, chunk, true, |ours| {
                    Some((ours.connect("event"), 1))
                }),
                helper(count, chunk, true),
                floor(count, chunk, true),
            ],
        ));
        let mut streams = workload(
            "streams",
            "4 Rust streams",
            0.0,
            vec![ours("ours", count, chunk, true, |ours| {
                Some((ours.streams(4), 4))
            })],
        );
        streams.target = None;
        all.push(streams);
    }
    all.push(parsers(count));
    all.push(single_bytes(count / 10));
    all
}

/// The parsers alone, on the same events.
fn parsers(count: usize) -> Workload {
    let sink = |value: usize| {
        std::hint::black_box(value);
    };
    Workload {
        id: "events-parsers".into(),
        title: format!("{count} events, parsers alone, line by line"),
        unit: Unit::NsPerEvent,
        count,
        pieces: 1.0,
        target: None,
        less: None,
        counted: true,
        cases: vec![
            parser("JSON-GLib", count, || {
                let parser = json_glib::Parser::new();
                move |line| parser.parse(line)
            }),
            parser("JSON-GLib, the data alone", count, || {
                let parser = json_glib::Parser::new();
                move |line| {
                    let at = memchr::memmem::find(line, b"\"data\": ").expect("data");
                    parser.parse(&line[at + 8..line.len() - 1]);
                }
            }),
            parser("serde_json Value", count, move || {
                move |line| {
                    let value: Value = serde_json::from_slice(line).expect("JSON");
                    sink(std::ptr::from_ref(&value).addr());
                }
            }),
            parser("serde_json RawValue envelope", count, move || {
                move |line| {
                    let it: Envelope = serde_json::from_slice(line).expect("JSON");
                    assert!(it.reply.is_none());
                    let data = it.data.map_or(0, |data| data.get().len());
                    let timestamp = it.timestamp.map_or(0, |time| time.get().len());
                    sink(data + timestamp + it.event.map_or(0, str::len));
                }
            }),
            parser("serde_json, validation only", count, move || {
                move |line| {
                    let _: serde::de::IgnoredAny = serde_json::from_slice(line).expect("JSON");
                }
            }),
            parser("memchr for the line end", count, move || {
                move |line| sink(line.len())
            }),
            case("memcpy", move || {
                let all = events(count);
                let mut copy = vec![0; all.len()];
                Box::new(move |count| {
                    let bytes = first(&all, count);
                    copy[..bytes.len()].copy_from_slice(bytes);
                    std::hint::black_box(&mut copy);
                })
            }),
        ],
    }
}

#[allow(clippy::cast_precision_loss, reason = "a small number")]
fn single_bytes(count: usize) -> Workload {
    Workload {
        id: "events-bytes".into(),
        title: format!("{count} events in single bytes, above the emission"),
        unit: Unit::NsPerByte,
        count,
        pieces: events_size() as f64,
        target: Some(15.0),
        less: Some("emission alone"),
        counted: false,
        cases: vec![
            ours("ours", count, 1, false, |_| None),
            helper(count, 1, false),
            floor(count, 1, false),
            case("emission alone", move || {
                let wire = emission();
                feed(count, 1, move |bytes| wire.emit(bytes), false, None)
            }),
        ],
    }
}

/// A reply of this size, up to its id, in the shape of `query-qmp-schema`'s; it
/// is the status at the same time, for spice-gtk's helper.
fn reply(size: usize) -> Vec<u8> {
    let mut text = String::from(
        r#"{"return": {"running": true, "singlestep": false, "status": "running", "schema": ["#,
    );
    let mut number = 0;
    while text.len() + 200 < size {
        use std::fmt::Write;
        write!(
            text,
            r#"{{"name": "{number}", "members": [{{"name": "device", "type": "str"}}, {{"name": "force", "default": null, "type": "bool"}}], "meta-type": "object"}}, "#
        )
        .expect("a string takes it");
        number += 1;
    }
    text.push_str(r#"{"name": "last", "meta-type": "builtin", "json-type": "null"}]}"#);
    text.into_bytes()
}

fn with_id(reply: &mut Vec<u8>, base: usize, id: &str) {
    reply.truncate(base);
    reply.extend_from_slice(b", \"id\": ");
    reply.extend_from_slice(id.as_bytes());
    reply.extend_from_slice(b"}\r\n");
}

/// One request after the other, each answered with the reply in chunks.
fn exchange(size: usize, chunk: usize, wire: impl Fn() -> (Heard, String, Emit) + 'static) -> Work {
    let mut bytes = reply(size);
    let base = bytes.len();
    Box::new(move |count| {
        for _ in 0..count {
            let (ended, id, emit) = wire();
            with_id(&mut bytes, base, &id);
            for chunk in bytes.chunks(chunk) {
                emit(chunk);
            }
            main_loop();
            assert_eq!(ended.get(), 1, "the reply did not arrive");
        }
    })
}

/// Lets bytes come.
type Emit = Box<dyn Fn(&[u8])>;

fn emit_on(wire: &std::rc::Rc<impl AsRef<Wire> + 'static>) -> Emit {
    let wire = wire.clone();
    Box::new(move |bytes| (*wire).as_ref().emit(bytes))
}

impl AsRef<Wire> for Ours {
    fn as_ref(&self) -> &Wire {
        &self.wire
    }
}

impl AsRef<Wire> for Floor {
    fn as_ref(&self) -> &Wire {
        &self.wire
    }
}

impl AsRef<Wire> for BareCall {
    fn as_ref(&self) -> &Wire {
        &self.wire
    }
}

impl AsRef<Wire> for Helper {
    fn as_ref(&self) -> &Wire {
        &self.wire
    }
}

fn reply_cases(size: usize, chunk: usize, helper: bool) -> Vec<Case> {
    let mut cases = vec![case("ours", move || {
        let ours = std::rc::Rc::new(Ours::new());
        exchange(size, chunk, move || {
            let ended = ours.call("query-qmp-schema");
            (ended, request(), emit_on(&ours))
        })
    })];
    if helper {
        cases.push(case("spice-gtk helper", move || {
            let helper = std::rc::Rc::new(Helper::new());
            exchange(size, chunk, move || {
                let ended = helper.call();
                (ended, request(), emit_on(&helper))
            })
        }));
    }
    cases.push(case("emission alone", move || {
        let wire = emission();
        let bytes = reply(size);
        Box::new(move |count| {
            for _ in 0..count {
                for chunk in bytes.chunks(chunk) {
                    wire.emit(chunk);
                }
            }
        })
    }));
    let whole = |who, parse: fn(&[u8])| {
        case(who, move || {
            let bytes = complete(size);
            Box::new(move |count| {
                for _ in 0..count {
                    parse(&bytes);
                }
            })
        })
    };
    cases.push(whole("serde_json RawValue envelope", |bytes| {
        let it: Envelope = serde_json::from_slice(bytes).expect("JSON");
        assert!(it.reply.is_some());
    }));
    if chunk == 64 * KIB {
        cases.push(whole("JSON-GLib", |bytes| {
            json_glib::Parser::new().parse(bytes);
        }));
        cases.push(whole("serde_json Value", |bytes| {
            let _: Value = serde_json::from_slice(bytes).expect("JSON");
        }));
        cases.push(whole("memchr for the line end", |bytes| {
            std::hint::black_box(memchr::memchr(b'\n', bytes));
        }));
        cases.push(case("memcpy", move || {
            let bytes = reply(size);
            let mut copy = bytes.clone();
            Box::new(move |count| {
                for _ in 0..count {
                    copy.copy_from_slice(std::hint::black_box(&bytes));
                    std::hint::black_box(&mut copy);
                }
            })
        }));
    }
    cases
}

fn complete(size: usize) -> Vec<u8> {
    let mut bytes = reply(size);
    let base = bytes.len();
    with_id(&mut bytes, base, "1");
    bytes.truncate(bytes.len() - 2);
    bytes
}

/// Workloads (c) and (d): replies of a schema's size, and of megabytes.
pub fn reply_workloads(quick: bool) -> Vec<Workload> {
    let mut all = Vec::new();
    let usual: &[_] = &[("64k", 64 * KIB), ("4k", 4 * KIB), ("64b", 64)];
    let more: &[_] = &[
        ("64k", 64 * KIB),
        ("4k", 4 * KIB),
        ("1k", KIB),
        ("256b", 256),
        ("64b", 64),
        ("16b", 16),
        ("1b", 1),
    ];
    for (size, id) in [
        (207_000, "207k"),
        (MB, "1m"),
        (2 * MB, "2m"),
        (4 * MB, "4m"),
        (9 * MB, "9m"),
        (32 * MB, "32m"),
    ] {
        for &(name, chunk) in if size == MB { more } else { usual } {
            if quick && (size > 9 * MB || (size, name) == (9 * MB, "4k")) {
                continue;
            }
            // The helper takes no more than 10 MB, and is quadratic in small chunks.
            let patient = if quick { MB } else { 9 * MB };
            let helper = size < 10 * MB && chunk >= 64 && (chunk > 64 || size <= patient);
            all.push(Workload {
                id: format!("reply-{id}-{name}"),
                title: format!("reply of {id}B in chunks of {name}"),
                unit: Unit::MsPerReply,
                count: if size < MB { 10 } else { 1 },
                pieces: 1.0,
                target: match (id, name) {
                    ("207k", "64k" | "4k") => Some(0.15),
                    ("9m", "64k") => Some(7.0),
                    ("9m", "64b") => Some(25.0),
                    _ => None,
                },
                less: None,
                counted: matches!((id, name), ("207k" | "9m", "64k")),
                cases: reply_cases(size, chunk, helper),
            });
        }
    }
    all
}

/// A command with its reply, without I/O.
pub fn cycle_workload(quick: bool) -> Workload {
    fn cycles<S: AsRef<Wire> + 'static>(subject: S, call: impl Fn(&S) -> Heard + 'static) -> Work {
        let mut line = Vec::new();
        Box::new(move |count| {
            for _ in 0..count {
                let ended = call(&subject);
                let wire = subject.as_ref();
                let id = request();
                reply_to(&mut line, &id);
                wire.emit(&line);
                main_loop();
                assert_eq!(ended.get(), 1, "the reply did not arrive");
            }
        })
    }
    fn reply_to(line: &mut Vec<u8>, id: &str) {
        line.clear();
        line.extend_from_slice(b"{\"return\": ");
        line.extend_from_slice(RUNNING.as_bytes());
        let base = line.len();
        with_id(line, base, id);
    }
    Workload {
        id: "cycle".into(),
        title: "command and reply, no I/O".into(),
        unit: Unit::NsPerCycle,
        count: if quick { 10_000 } else { 50_000 },
        pieces: 1.0,
        target: Some(2300.0),
        less: None,
        counted: true,
        cases: vec![
            case("ours", || {
                cycles(Ours::new(), |ours| ours.call("query-status"))
            }),
            case("ours, without SPICE", || {
                let pair = Pair::new();
                let mut line = Vec::new();
                Box::new(move |count| {
                    for _ in 0..count {
                        let ended = pair.call("query-status");
                        let id = pair.request();
                        reply_to(&mut line, &id);
                        pair.peer.send(&line);
                        main_loop();
                        assert_eq!(ended.get(), 1, "the reply did not arrive");
                    }
                })
            }),
            case("spice-gtk helper", || cycles(Helper::new(), Helper::call)),
            case("floor", || cycles(BareCall::new(), BareCall::call)),
        ],
    }
}
