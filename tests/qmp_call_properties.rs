// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every call ends exactly once, in any order of events.

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::Value;
use spice_qmp::qmp::limits::MAX_BAD_LINES;
use spice_qmp::qmp::{Band, CallId, Error, Opening, Output, Session, State};

/// An event in the life of a session.
#[derive(Debug, Clone)]
enum Step {
    Connecting,
    Open(Opening),
    Close,
    Execute {
        command: &'static str,
        band: Band,
        carries: bool,
    },
    Fail(Index),
    Forget(Index),
    Nudge,
    Poll,
    Transmitted,
    /// The write failed, so that the connection is closed.
    Lost,
    Greeting {
        oob: bool,
    },
    /// The server answers `qmp_capabilities`: `Err` names the error's class.
    Negotiated(Result<(), &'static str>),
    /// The server answers one of the commands that it received.
    Reply {
        which: Index,
        works: bool,
    },
    ErrorWithoutId,
    ForeignReply(u64),
    Garbage,
    TooLarge,
    Event,
    /// The start of a message, which the next line corrupts.
    Half,
}

fn step() -> impl Strategy<Value = Step> {
    let command = prop::sample::select(&["quit", "stop", "query-block", "bad name", ""][..]);
    let band = prop_oneof![4 => Just(Band::In), 1 => Just(Band::Out)];
    let execute = (command, band, prop::bool::weighted(0.3));
    let opening = prop_oneof![
        Just(Opening::GreetingComes),
        Just(Opening::GreetingAfterRest),
        Just(Opening::GreetingMayBeGone)
    ];
    let refusal = prop_oneof![Just("CommandNotFound"), Just("GenericError")];
    prop_oneof![
        1 => Just(Step::Connecting),
        2 => opening.prop_map(Step::Open),
        1 => Just(Step::Close),
        12 => execute.prop_map(|(command, band, carries)| Step::Execute { command, band, carries }),
        3 => any::<Index>().prop_map(Step::Fail),
        3 => any::<Index>().prop_map(Step::Forget),
        1 => Just(Step::Nudge),
        8 => Just(Step::Poll),
        4 => Just(Step::Transmitted),
        1 => Just(Step::Lost),
        2 => any::<bool>().prop_map(|oob| Step::Greeting { oob }),
        6 => Just(Step::Negotiated(Ok(()))),
        1 => refusal.prop_map(|class| Step::Negotiated(Err(class))),
        12 => any::<(Index, bool)>().prop_map(|(which, works)| Step::Reply { which, works }),
        1 => Just(Step::ErrorWithoutId),
        1 => any::<u64>().prop_map(Step::ForeignReply),
        2 => Just(Step::Garbage),
        1 => Just(Step::TooLarge),
        1 => Just(Step::Event),
        1 => Just(Step::Half),
    ]
}

proptest! {
    #[test]
    fn every_call_ends_once(steps in vec(step(), 0..120)) {
        let mut world = World::ready();
        for step in steps.iter().chain([&Step::Close]) {
            world.take(step);
            world.receive();
            world.check(step);
        }
        prop_assert_eq!(world.session.pending(), 0);
    }

    #[test]
    fn outputs_wait_until_they_are_taken(steps in vec(step(), 0..60)) {
        let mut world = World::ready();
        for step in steps.iter().chain([&Step::Close]) {
            world.take(step);
        }
        world.receive();
        world.check(&Step::Close);
        prop_assert_eq!(world.session.pending(), 0);
    }
}

/// A session, the server at its other end, and the expected state of the two.
struct World {
    session: Session<usize>,
    /// The calls; a token is an index.
    calls: Vec<Call>,
    state: State,
    opening: Opening,
    bad_lines: u32,
    /// A message has begun that the next line corrupts.
    half: bool,
    /// The requests that the server has received on this connection and not answered.
    got: Vec<Request>,
    /// The server's next output.
    input: Vec<u8>,
}

struct Call {
    id: CallId,
    carries: bool,
    sent: bool,
    failed: bool,
    fate: Fate,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Fate {
    Open,
    Ended,
    Forgotten,
}

/// The server's input; the session's own commands have no token.
struct Request {
    id: u64,
    command: String,
    token: Option<usize>,
}

const LIMIT: usize = 200;

impl World {
    fn ready() -> Self {
        let mut session = Session::new(1 << 24);
        session.set_max_message_size(LIMIT);
        session.set_can_carry(true);
        let mut world = Self {
            session,
            calls: Vec::new(),
            state: State::Closed,
            opening: Opening::GreetingComes,
            bad_lines: 0,
            half: false,
            got: Vec::new(),
            input: Vec::new(),
        };
        world.take(&Step::Open(Opening::GreetingMayBeGone));
        world.take(&Step::Poll);
        world.take(&Step::Negotiated(Ok(())));
        world.receive();
        world
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Connecting => {
                self.session.connecting();
                self.reset(State::Connecting);
            }
            Step::Open(opening) => {
                self.session.open(*opening);
                self.opening = *opening;
                self.reset(match opening {
                    Opening::GreetingComes | Opening::GreetingAfterRest => State::Greeting,
                    Opening::GreetingMayBeGone => State::Negotiating,
                });
            }
            Step::Close => {
                self.session.close("closed");
                self.reset(State::Closed);
            }
            Step::Execute {
                command,
                band,
                carries,
            } => {
                let token = self.calls.len();
                let arguments = format!("{{\"token\": {token}}}");
                let execute = if *carries {
                    Session::execute_carrying
                } else {
                    Session::execute
                };
                let id = execute(&mut self.session, command, Some(&arguments), *band, token);
                self.calls.push(Call {
                    id,
                    carries: *carries,
                    sent: false,
                    failed: false,
                    fate: Fate::Open,
                });
            }
            Step::Fail(which) if !self.calls.is_empty() => {
                let token = which.index(self.calls.len());
                let call = &mut self.calls[token];
                if self.session.fail(call.id, Error::Cancelled("it".into())) {
                    assert_eq!((call.fate, call.failed), (Fate::Open, false));
                    call.failed = true;
                }
            }
            Step::Forget(which) if !self.calls.is_empty() => {
                let token = which.index(self.calls.len());
                let call = &mut self.calls[token];
                if let Some(given) = self.session.forget(call.id) {
                    assert_eq!((given, call.fate, call.failed), (token, Fate::Open, false));
                    call.fate = Fate::Forgotten;
                }
            }
            Step::Fail(_) | Step::Forget(_) => {}
            Step::Nudge => self.session.nudge(),
            Step::Poll => self.poll(),
            Step::Transmitted => self.session.transmitted(),
            Step::Lost => {
                self.session.transmit_failed();
                self.session.close("lost");
                self.reset(State::Closed);
            }
            _ => self.serve(step),
        }
    }

    /// The server's steps.
    fn serve(&mut self, step: &Step) {
        if matches!(
            self.state,
            State::Closed | State::Connecting | State::Failed
        ) {
            return;
        }
        let Some(text) = self.server_text(step) else {
            return;
        };
        self.input.extend_from_slice(text.as_bytes());
        if self.half || matches!(step, Step::Garbage | Step::TooLarge) {
            let too_large = matches!(step, Step::TooLarge);
            self.half = false;
            self.bad_lines += u32::from(!too_large);
            let strict = self.opening == Opening::GreetingComes;
            if self.bad_lines == MAX_BAD_LINES || self.state == State::Greeting && strict {
                self.reset(State::Failed);
            }
            return;
        }
        self.half = matches!(step, Step::Half);
        if !self.half {
            self.bad_lines = 0;
        }
        match step {
            Step::Greeting { .. } => self.state = State::Negotiating,
            Step::Negotiated(Ok(()) | Err("CommandNotFound")) => self.state = State::Ready,
            Step::Negotiated(Err(_)) if self.state == State::Negotiating => {
                self.reset(State::Failed);
            }
            _ => {}
        }
    }

    /// `None` if the server has nothing to send.
    fn server_text(&mut self, step: &Step) -> Option<String> {
        let is_negotiation = |of: &Request| of.command == "qmp_capabilities";
        Some(match step {
            Step::Greeting { oob } => {
                self.got.clear();
                let oob = if *oob { "\"oob\"" } else { "" };
                format!(
                    "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"major\": 9, \"minor\": 0, \
                     \"micro\": 0}}}}, \"capabilities\": [{oob}]}}}}\n"
                )
            }
            Step::Negotiated(result) => {
                let at = self.got.iter().rposition(is_negotiation)?;
                let id = self.got.remove(at).id;
                match result {
                    Ok(()) => format!("{{\"return\": {{}}, \"id\": {id}}}\n"),
                    Err(class) => error(class, Some(id)),
                }
            }
            Step::Reply { which, works } => {
                let commands = self.got.iter().enumerate();
                let commands = commands.filter(|(_, of)| !is_negotiation(of));
                let places: Vec<usize> = commands.map(|(at, _)| at).collect();
                if places.is_empty() {
                    return None;
                }
                let Request { id, token, .. } = self.got.remove(*which.get(&places));
                match (works, token) {
                    (true, Some(token)) => format!("{{\"return\": {token}, \"id\": {id}}}\n"),
                    (true, None) => format!("{{\"return\": {{}}, \"id\": {id}}}\n"),
                    (false, _) => error("GenericError", Some(id)),
                }
            }
            Step::ErrorWithoutId => error("GenericError", None),
            Step::ForeignReply(id) => format!("{{\"return\": \"foreign\", \"id\": \"{id}\"}}\n"),
            Step::Garbage => "garbage\n".into(),
            Step::TooLarge => "x".repeat(2 * LIMIT) + "\n",
            Step::Event => "{\"event\": \"STOP\"}\n".into(),
            Step::Half if self.half => return None,
            Step::Half => "{\"event\":".into(),
            _ => unreachable!("{step:?} is not the server's"),
        })
    }

    /// The connection, if any, is a new one, or nothing more is read from it.
    fn reset(&mut self, state: State) {
        self.state = state;
        self.bad_lines = 0;
        self.half = false;
        self.got.clear();
    }

    /// The server reads.
    fn poll(&mut self) {
        let bytes = self.session.poll_transmit().unwrap_or_default();
        for (at, line) in bytes.split_inclusive(|&byte| byte == b'\n').enumerate() {
            let request: Value = serde_json::from_slice(line).expect("a request is JSON");
            let command = request.get("execute").or(request.get("exec-oob"));
            let token = request.pointer("/arguments/token").and_then(Value::as_u64);
            let token = token.map(|token| usize::try_from(token).expect("a token"));
            if let Some(call) = token.map(|token| &mut self.calls[token]) {
                let before = (call.fate, call.failed, call.sent);
                assert_eq!(before, (Fate::Open, false, false), "{request}");
                call.sent = true;
                if call.carries {
                    assert_eq!(at, 0, "{request} is not the first of its piece");
                    assert_eq!(self.session.carrier().copied(), token, "{request}");
                }
            }
            self.got.push(Request {
                id: request["id"].as_u64().expect("an id"),
                command: command.and_then(Value::as_str).expect("a name").into(),
                token,
            });
        }
    }

    /// The session reads.
    fn receive(&mut self) {
        let input = std::mem::take(&mut self.input);
        let mut rest = &input[..];
        while let Some(output) = self.session.receive(&mut rest) {
            let Output::Ended { token, result } = output else {
                continue;
            };
            let call = &mut self.calls[token];
            assert_eq!(call.fate, Fate::Open, "{token} ended before");
            call.fate = Fate::Ended;
            if let Ok(value) = result {
                assert!(call.sent && !call.failed, "{token}");
                let own = token.to_string();
                assert!([&*own, "{}"].contains(&&*value), "{token}: {value}");
            }
        }
        assert!(rest.is_empty());
    }

    fn check(&self, step: &Step) {
        assert_eq!(self.session.state(), self.state, "after {step:?}");
        let open = self.calls.iter().filter(|call| call.fate == Fate::Open);
        assert_eq!(self.session.pending(), open.count(), "after {step:?}");
    }
}

fn error(class: &str, id: Option<u64>) -> String {
    let id = id.map_or(String::new(), |id| format!("\"id\": {id}, "));
    format!("{{{id}\"error\": {{\"class\": \"{class}\", \"desc\": \"no\"}}}}\n")
}
