// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server answers any bytes equally, however they are split; and a session that is
//! connected to one gets the answer to each of its calls.

use std::collections::VecDeque;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Value, json};
use spice_qmp::qmp::{
    Band, Error, ErrorClass, Greeting, Opening, Output, Request, Server, Session, State, Version,
    VersionTriple,
};

proptest! {
    #[test]
    fn any_bytes_are_answered_alike_however_they_are_cut(
        bytes in prop_oneof![
            vec(any::<u8>(), 0..500),
            vec(structural(), 0..500),
            vec(message(), 0..30).prop_map(|messages| messages.concat()),
        ],
        cuts in vec(1..50_usize, 1..10),
        limit in prop_oneof![Just(usize::MAX), 1..100_usize],
    ) {
        let whole = played(&bytes, &[bytes.len().max(1)], limit);
        prop_assert_eq!(played(&bytes, &cuts, limit), whole);
    }

    #[test]
    fn requests_are_returned_as_they_were_written(
        id in value(),
        name in any::<String>(),
        arguments in proptest::option::of(object()),
        pretty in any::<bool>(),
    ) {
        // Code points that QEMU does not accept.
        let odd = |text: &str| text.chars().any(|it| {
            let code = u32::from(it);
            code & 0xFFFE == 0xFFFE || (0xFDD0..=0xFDEF).contains(&code)
        });
        let mut request = json!({ "execute": name, "id": id });
        if let Some(arguments) = &arguments {
            request["arguments"] = arguments.clone();
        }
        let text = if pretty { format!("{request:#}") } else { request.to_string() };
        prop_assume!(!odd(&text) && name != "qmp_capabilities");
        let mut server = negotiated();
        server.receive(text.as_bytes());
        let request = server.poll_request().unwrap();
        prop_assert_eq!(request.command(), &*name);
        let parse = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        prop_assert_eq!(request.id().map(parse), Some(id.clone()));
        prop_assert_eq!(request.arguments().map(parse), arguments);
        prop_assert!(server.refuse(request.number(), &ErrorClass::Other("A\"b".into()), &name));
        let line = server.poll_transmit().unwrap();
        let answer: Value = serde_json::from_slice(&line).unwrap();
        prop_assert_eq!(answer, json!({ "id": id, "error": { "class": "A\"b", "desc": name } }));
    }

    #[test]
    fn a_session_gets_the_answer_to_each_call(
        steps in vec(step(), 0..200),
        oob in any::<bool>(),
    ) {
        let mut wire = Wire::new(oob);
        for step in steps {
            wire.take(step);
        }
        wire.finish();
    }
}

/// An event between a session and a server.
#[derive(Debug, Clone, Copy)]
enum Step {
    Execute(Band),
    /// This many of the bytes that the session sent arrive.
    ToServer(usize),
    ToSession(usize),
    /// One of the requests is answered.
    Answer(Index, bool),
    Event,
    /// Another program writes bytes that are not a request.
    Rubbish(&'static [u8]),
}

fn step() -> impl Strategy<Value = Step> {
    let band = prop_oneof![3 => Just(Band::In), 1 => Just(Band::Out)];
    let rubbish = select(vec![&b"x "[..], b"\xFF", b"{} ", b"\"a\nb\n", b"]"]);
    prop_oneof![
        3 => band.prop_map(Step::Execute),
        3 => (1..200_usize).prop_map(Step::ToServer),
        3 => (1..200_usize).prop_map(Step::ToSession),
        3 => any::<(Index, bool)>().prop_map(|(at, works)| Step::Answer(at, works)),
        1 => Just(Step::Event),
        1 => rubbish.prop_map(Step::Rubbish),
    ]
}

/// A session and a server, with bytes under way.
struct Wire {
    session: Session<usize>,
    server: Server,
    to_server: VecDeque<u8>,
    to_session: VecDeque<u8>,
    requests: Vec<Request>,
    /// How often each call has ended.
    ended: Vec<u32>,
    events: (usize, usize),
}

impl Wire {
    fn new(oob: bool) -> Self {
        let capabilities = if oob { vec!["oob".to_owned()] } else { vec![] };
        let mut session = Session::new(1000);
        session.open(Opening::GreetingComes);
        let mut wire = Self {
            session,
            server: Server::new(&greeting(capabilities)),
            to_server: VecDeque::new(),
            to_session: VecDeque::new(),
            requests: Vec::new(),
            ended: Vec::new(),
            events: (0, 0),
        };
        wire.settle();
        assert_eq!(wire.session.state(), State::Ready);
        assert_eq!((wire.session.oob(), wire.server.oob()), (oob, oob));
        wire
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Execute(band) => {
                let token = self.ended.len();
                self.ended.push(0);
                let arguments = format!("{{\"call\": {token}}}");
                self.session.execute("stop", Some(&arguments), band, token);
            }
            Step::ToServer(count) => self.serve(count),
            Step::ToSession(count) => self.deliver(count),
            Step::Answer(at, works) if !self.requests.is_empty() => {
                let request = self.requests.remove(at.index(self.requests.len()));
                self.answer(&request, works);
            }
            Step::Answer(..) => {}
            Step::Event => {
                let data = format!("{{\"n\":{}}}", self.events.0);
                assert!(self.server.event("E", Some(&data), 5).unwrap());
                self.events.0 += 1;
            }
            // Between requests of the session: within one it would corrupt that.
            Step::Rubbish(bytes) => {
                if !self.server.mid_message() && self.to_server.is_empty() {
                    self.to_server.extend(bytes);
                }
            }
        }
    }

    fn answer(&mut self, request: &Request, works: bool) {
        let arguments = request.arguments().unwrap_or("null");
        let number = request.number();
        if works {
            assert!(self.server.reply(number, arguments).unwrap());
        } else {
            assert!(self.server.refuse(number, &ErrorClass::Generic, arguments));
        }
    }

    fn serve(&mut self, count: usize) {
        if let Some(bytes) = self.session.poll_transmit() {
            self.to_server.extend(bytes);
            self.session.transmitted();
        }
        if self.server.wants_input() {
            let count = count.min(self.to_server.len());
            let bytes: Vec<u8> = self.to_server.drain(..count).collect();
            self.server.receive(&bytes);
        }
        self.requests
            .extend(std::iter::from_fn(|| self.server.poll_request()));
    }

    fn deliver(&mut self, count: usize) {
        if let Some(bytes) = self.server.poll_transmit() {
            self.to_session.extend(bytes);
            self.server.transmitted();
        }
        let count = count.min(self.to_session.len());
        let bytes: Vec<u8> = self.to_session.drain(..count).collect();
        let mut input = &bytes[..];
        while let Some(output) = self.session.receive(&mut input) {
            match output {
                Output::Ended { token, result } => {
                    self.ended[token] += 1;
                    check_answer(token, result.map(Into::into));
                }
                Output::Event(event) => {
                    let data = format!("{{\"n\":{}}}", self.events.1);
                    assert_eq!(event.data.as_deref(), Some(&*data));
                    self.events.1 += 1;
                }
                Output::State { .. } | Output::Ignored(_) => {}
            }
        }
    }

    /// Lets everything arrive and be answered.
    fn settle(&mut self) {
        loop {
            self.serve(usize::MAX);
            self.deliver(usize::MAX);
            for request in std::mem::take(&mut self.requests) {
                self.answer(&request, true);
            }
            let idle = self.to_server.is_empty()
                && self.to_session.is_empty()
                && self.server.wants_input()
                && !self.session.has_unsent();
            if idle && self.server.unread() == 0 {
                break;
            }
        }
    }

    fn finish(mut self) {
        self.settle();
        assert!(self.ended.iter().all(|&count| count == 1));
        assert_eq!(self.events.0, self.events.1);
        assert_eq!(self.server.pending(), 0);
        assert_eq!(self.session.pending(), 0);
    }
}

/// An answer contains the number of the call, whether it succeeded or not.
fn check_answer(token: usize, result: Result<String, Error>) {
    let text = match result {
        Ok(text) => text,
        Err(Error::Command { desc, .. }) if desc.starts_with('{') => desc.into(),
        // Rubbish is answered without an id, which ends the oldest call that was sent.
        Err(Error::Command { .. } | Error::Usage(_)) => return,
        Err(error) => panic!("{error}"),
    };
    assert_eq!(text, format!("{{\"call\":{token}}}"));
}

/// A server's answers to bytes in such pieces, repeated, and the requests that it returns.
fn played(bytes: &[u8], cuts: &[usize], limit: usize) -> (String, Vec<String>) {
    let mut server = negotiated();
    server.set_max_message_size(limit);
    let (mut sent, mut requests) = (Vec::new(), Vec::new());
    let mut rest = bytes;
    for &cut in cuts.iter().cycle() {
        let (piece, next) = rest.split_at(cut.min(rest.len()));
        rest = next;
        server.receive(piece);
        loop {
            while let Some(request) = server.poll_request() {
                let parts = (request.id(), request.command(), request.arguments());
                requests.push(format!("{parts:?}"));
                server.reply(request.number(), "[]").unwrap();
            }
            let Some(bytes) = server.poll_transmit() else {
                break;
            };
            server.transmitted();
            sent.extend(bytes);
        }
        assert!(server.wants_input());
        if rest.is_empty() {
            break;
        }
    }
    let text = String::from_utf8(sent).expect("a server sends text");
    for line in text.lines() {
        assert!(serde_json::from_str::<Value>(line).is_ok(), "{line}");
    }
    (text, requests)
}

fn greeting(capabilities: Vec<String>) -> Greeting {
    let qemu = VersionTriple {
        major: 10,
        minor: 0,
        micro: 2,
    };
    Greeting {
        version: Version {
            qemu,
            package: String::new(),
        },
        capabilities,
    }
}

fn negotiated() -> Server {
    let mut server = Server::new(&greeting(vec!["oob".into()]));
    server.receive(br#"{"execute":"qmp_capabilities","arguments":{"enable":["oob"]}}"#);
    assert!(server.poll_request().is_none());
    assert!(server.poll_transmit().is_some());
    server.transmitted();
    server
}

/// The bytes of a request, or of something that is not one.
fn message() -> impl Strategy<Value = Vec<u8>> {
    let member = prop_oneof![
        Just("execute".to_owned()),
        Just("exec-oob".to_owned()),
        Just("arguments".to_owned()),
        Just("id".to_owned()),
        any::<String>(),
    ];
    let members = vec((member, value()), 0..5);
    let object = members.prop_map(|members| {
        let members = members
            .iter()
            .map(|(name, value)| format!("{}: {value}", json!(name)));
        let members: Vec<_> = members.collect();
        format!("{{{}}}", members.join(", ")).into_bytes()
    });
    let request = (value(), object_text()).prop_map(|(id, arguments)| {
        format!("{{'execute':'stop','id':{id},'arguments':{arguments}}}\r\n").into_bytes()
    });
    prop_oneof![
        2 => object,
        2 => request,
        1 => vec(structural(), 0..20),
        1 => vec(any::<u8>(), 0..20),
    ]
}

fn object_text() -> impl Strategy<Value = String> {
    object().prop_map(|object| object.to_string())
}

fn object() -> impl Strategy<Value = Value> {
    vec((any::<String>(), value()), 0..4).prop_map(|members| members.into_iter().collect())
}

fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
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

/// Bytes that are special to the lexer.
fn structural() -> impl Strategy<Value = u8> {
    select(&b"{{}}[],:\"\"''\\u0d-1.5e truefalsn\n\t\xFF\xC0\x80X"[..])
}
