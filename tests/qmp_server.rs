// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server's end of a connection: QEMU's answers, however the bytes are split; the
//! order of answers; and the limits, at each and one past it.

mod served;

use serde_json::Value;
use served::{END, before_end, cases};
use spice_qmp::qmp::limits::{MAX_BACKLOG, MAX_IN_FLIGHT, MAX_MESSAGE_SIZE, MAX_UNREAD};
use spice_qmp::qmp::{
    Band, Error, ErrorClass, Greeting, Request, Server, UsageError, Version, VersionTriple,
};

#[test]
fn all_is_answered_as_by_qemu() {
    for case in cases() {
        let bytes = [&case.bytes, END].concat();
        let mut cuts: Vec<Vec<&[u8]>> = vec![vec![&bytes], bytes.chunks(1).collect()];
        cuts.extend((1..bytes.len()).map(|at| vec![&bytes[..at], &bytes[at..]]));
        for cut in cuts {
            let mut server = greeted();
            let mut answers = Vec::new();
            for piece in cut {
                server.receive(piece);
                while let Some(request) = server.poll_request() {
                    execute(&mut server, &request);
                }
                answers.extend(sent(&mut server));
            }
            let answers = before_end(answers).expect("the end is answered");
            assert_eq!(answers, case.answers, "{}", case.title);
            assert!(server.wants_input() && !server.mid_message());
        }
    }
}

#[test]
fn ids_come_back_as_they_were_sent() {
    for id in [
        "0",
        "-0",
        "1.0",
        "1e400",
        "18446744073709551616",
        "0.1",
        "null",
        "true",
        "\"\\u00e9\\/\u{e9}\"",
        "{\"b\":[1,{}],\"a\":\"x y\"}",
    ] {
        let mut server = ready();
        server.receive(format!("{{\"id\" : {id}, \"execute\": \"stop\"}}").as_bytes());
        let request = server.poll_request().unwrap();
        assert_eq!(request.id(), Some(id));
        server.reply(request.number(), "{}").unwrap();
        let line = server.poll_transmit().unwrap();
        let expected = format!("{{\"return\": {{}}, \"id\": {id}}}\r\n");
        assert_eq!(String::from_utf8(line).unwrap(), expected);
    }
}

#[test]
fn answers_are_sent_in_the_order_of_their_requests() {
    let mut server = ready();
    server.receive(br#"{"execute":"a","id":1}{"execute":"b","id":2} x {"execute":"c","id":3}"#);
    let [a, b, c] = [(); 3].map(|()| server.poll_request().unwrap().number());
    assert_eq!(server.poll_request(), None);
    assert_eq!(server.pending(), 3);
    assert!(server.reply(c, "3").unwrap());
    assert!(server.reply(b, "2").unwrap());
    assert!(server.poll_transmit().is_none());
    assert_eq!(server.pending(), 1);
    // Each is answered once.
    assert!(!server.reply(b, "5").unwrap());
    assert!(server.refuse(a, &ErrorClass::DeviceNotFound, "no\n\"x\""));
    assert!(!server.refuse(a, &ErrorClass::Generic, "again"));
    let lines = sent(&mut server);
    let ids: Vec<_> = lines.iter().map(|line| line["id"].clone()).collect();
    assert_eq!(ids, [1.into(), 2.into(), Value::Null, 3.into()]);
    assert_eq!(lines[0]["error"]["class"], "DeviceNotFound");
    assert_eq!(lines[0]["error"]["desc"], "no\n\"x\"");
    assert_eq!(lines[3]["return"], 3);
}

#[test]
fn out_of_band_passes_what_waits() {
    let mut server = greeted();
    server.receive(br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#);
    server.receive(br#"{"execute":"a","id":1}{"exec-oob":"b","id":1,"arguments":{"x" : 1}}"#);
    let [a, b] = [(); 2].map(|()| server.poll_request().unwrap());
    assert!(server.oob() && server.is_negotiated());
    assert_eq!((a.band(), b.band()), (Band::In, Band::Out));
    assert_eq!((b.command(), b.arguments()), ("b", Some("{\"x\":1}")));
    sent(&mut server);
    server.reply(b.number(), "\"b\"").unwrap();
    assert_eq!(sent(&mut server)[0]["return"], "b");
    server.reply(a.number(), "\"a\"").unwrap();
    assert_eq!(sent(&mut server)[0]["return"], "a");
    assert_eq!(server.pending(), 0);
}

#[test]
fn what_is_no_json_is_not_sent() {
    let mut server = ready();
    server.receive(br#"{"execute":"a"}"#);
    let number = server.poll_request().unwrap().number();
    for value in ["", "{", "{} {}", "nul", "\"\n\""] {
        let error = server.reply(number, value).unwrap_err();
        let invalid = matches!(error, Error::Usage(UsageError::InvalidArgument(_)));
        assert!(invalid, "{error}");
        assert!(server.event("A", Some(value), 0).is_err());
    }
    assert!(server.event("A", Some("[]"), 0).is_err());
    assert!(server.poll_transmit().is_none());
    // Many clients expect lines to end messages.
    server.reply(number, "{\r\n  \"a b\": 1\r\n}\n").unwrap();
    server.event("A\n", Some("{\n}"), -1).unwrap();
    let expected = "{\"return\": {\"a b\":1}}\r\n\
        {\"timestamp\": {\"seconds\": -1, \"microseconds\": -1}, \"event\": \"A\\n\", \"data\": {}}\r\n";
    assert_eq!(server.poll_transmit().unwrap(), expected.as_bytes());
}

#[test]
fn nothing_that_was_sent_is_in_debug_output() {
    let secret = "Geheim-4711";
    let mut server = ready();
    server.receive(format!("{{\"execute\":\"{secret}\",\"id\":\"{secret}\",").as_bytes());
    server.receive(format!("\"arguments\":{{\"a\":\"{secret}\"}}}}").as_bytes());
    let request = server.poll_request().unwrap();
    assert!(request.arguments().unwrap().contains(secret));
    server
        .reply(request.number(), &format!("\"{secret}\""))
        .unwrap();
    server.receive(secret.as_bytes());
    let shown = format!("{server:?} {request:?} {server:#?}");
    assert!(!shown.contains(secret), "{shown}");
}

#[test]
fn events_are_for_clients_that_have_negotiated() {
    let mut server = greeted();
    assert!(!server.event("STOP", None, 1).unwrap());
    server.receive(br#"{"execute":"qmp_capabilities"}"#);
    assert!(!server.event("STOP", None, 1).unwrap());
    assert_eq!(server.poll_request(), None);
    assert!(server.event("STOP", None, 1_700_000_000_000_001).unwrap());
    let lines = sent(&mut server);
    assert_eq!(lines.len(), 2);
    let expected = serde_json::json!({
        "timestamp": {"seconds": 1_700_000_000, "microseconds": 1}, "event": "STOP"
    });
    assert_eq!(lines[1], expected);
}

#[test]
fn a_transmission_is_acknowledged_before_the_next() {
    let mut server = Server::new(&greeting());
    let first = server.poll_transmit().unwrap();
    assert_eq!(server.unread(), first.len());
    server.receive(b"x ");
    assert_eq!(server.poll_request(), None);
    assert!(server.poll_transmit().is_none());
    server.transmitted();
    assert!(server.poll_transmit().is_some());
}

#[test]
fn message_size() {
    let mut server = ready();
    assert_eq!(server.max_message_size(), MAX_MESSAGE_SIZE);
    let message = br#"{ "execute" : "stop" , "arguments" : { "a" : "xxxxxxxxxxxxxxx" } }"#;
    let size = br#"{"execute":"stop","arguments":{"a":"xxxxxxxxxxxxxxx"}}"#.len();
    server.set_max_message_size(size + 1);
    server.receive(message);
    assert!(server.poll_request().is_some());
    let mut server = ready();
    server.set_max_message_size(size);
    server.receive(message);
    assert_eq!(server.poll_request(), None);
    let lines = sent(&mut server);
    assert_eq!(lines.len(), 1);
    let desc = &lines[0]["error"]["desc"];
    assert_eq!(desc, "JSON token size limit exceeded");
}

#[test]
fn requests_that_were_not_answered() {
    let mut server = ready();
    for _ in 0..2 * MAX_IN_FLIGHT {
        server.receive(br#"{"execute":"a"}"#);
    }
    let mut requests: Vec<_> = std::iter::from_fn(|| server.poll_request()).collect();
    assert_eq!(requests.len(), MAX_IN_FLIGHT);
    assert!(!server.wants_input());
    // Answers that wait for others count, too.
    let last = requests.pop().unwrap();
    assert!(server.reply(last.number(), "1").unwrap());
    assert_eq!(server.poll_request(), None);
    assert!(server.reply(requests.remove(0).number(), "1").unwrap());
    assert!(server.poll_request().is_some());
    assert_eq!(server.poll_request(), None);
}

#[test]
fn answers_that_are_not_read() {
    let mut server = ready();
    server.receive(&b"]".repeat(100_000));
    assert_eq!(server.poll_request(), None);
    // One error more than fits is there.
    let line = "{\"error\": {\"class\": \"GenericError\", \
        \"desc\": \"JSON parse error, expecting value\"}}\r\n";
    assert_eq!(server.unread(), (MAX_BACKLOG / line.len() + 1) * line.len());
    assert!(!server.wants_input());
    // Data under way was not read either.
    let piece = server.poll_transmit().unwrap();
    assert_eq!(server.poll_request(), None);
    assert_eq!(server.unread(), piece.len());
    let mut count = piece.len() / line.len();
    while !server.wants_input() {
        server.transmitted();
        assert_eq!(server.poll_request(), None);
        count += server.poll_transmit().map_or(0, |piece| piece.len()) / line.len();
    }
    assert_eq!(count, 100_000);
}

#[test]
fn events_that_are_not_read() {
    let data = |length: usize| format!("\"{}\"", "x".repeat(length));
    let data = |length: usize| format!("{{\"a\":{}}}", data(length));
    let mut server = ready();
    server.event("A", Some(&data(MAX_UNREAD)), 0).unwrap();
    let frame = server.unread() - MAX_UNREAD;
    let mut server = ready();
    server
        .event("A", Some(&data(MAX_UNREAD - frame)), 0)
        .unwrap();
    assert_eq!(server.unread(), MAX_UNREAD);
    assert!(server.event("B", None, 0).unwrap());
    assert!(!server.is_overrun() && server.unread() > MAX_UNREAD);
    server.event("C", None, 0).unwrap();
    assert!(server.is_overrun());
    // All of it is dropped, and nothing more happens.
    assert_eq!(server.unread(), 0);
    server.receive(b"x {\"execute\":\"a\"}");
    assert_eq!(server.poll_request(), None);
    assert!(!server.event("D", None, 0).unwrap());
    assert!(server.poll_transmit().is_none());
    assert!(!server.wants_input());
    // A client that reads gets any number.
    let mut server = ready();
    for _ in 0..3 {
        server.event("A", Some(&data(MAX_UNREAD)), 0).unwrap();
        sent(&mut server);
    }
    assert!(!server.is_overrun());
}

/// Plays the machine behind the server.
fn execute(server: &mut Server, request: &Request) {
    let command = request.command();
    match (command, request.band()) {
        ("query-name", Band::In) => assert!(server.reply(request.number(), "{}").unwrap()),
        ("query-name", Band::Out) => {
            let desc = format!("The command {command} does not support OOB");
            assert!(server.refuse(request.number(), &ErrorClass::Generic, &desc));
        }
        _ => {
            let desc = format!("The command {command} has not been found");
            assert!(server.refuse(request.number(), &ErrorClass::CommandNotFound, &desc));
        }
    }
}

fn greeting() -> Greeting {
    Greeting {
        version: Version {
            qemu: VersionTriple {
                major: 10,
                minor: 0,
                micro: 2,
            },
            package: "\"a\"".into(),
        },
        capabilities: vec!["oob".into()],
    }
}

/// A server whose greeting was sent.
fn greeted() -> Server {
    let mut server = Server::new(&greeting());
    let lines = sent(&mut server);
    let expected = serde_json::json!({"QMP": {
        "version": {"qemu": {"major": 10, "minor": 0, "micro": 2}, "package": "\"a\""},
        "capabilities": ["oob"]
    }});
    assert_eq!(lines, [expected]);
    server
}

/// A server whose client has negotiated.
fn ready() -> Server {
    let mut server = greeted();
    server.receive(br#"{"execute":"qmp_capabilities"}"#);
    assert_eq!(server.poll_request(), None);
    assert_eq!(sent(&mut server).len(), 1);
    server
}

/// The lines that the server sends.
fn sent(server: &mut Server) -> Vec<Value> {
    let bytes = server.poll_transmit().unwrap_or_default();
    server.transmitted();
    assert!(bytes.is_empty() || bytes.ends_with(b"\r\n"));
    let lines = bytes.split(|&byte| byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("lines are JSON"))
        .collect()
}
