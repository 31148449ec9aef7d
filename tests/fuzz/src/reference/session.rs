// SPDX-License-Identifier: MIT OR Apache-2.0
//! A session according to the table in `src/qmp/state.rs`, with lists that are searched.

use std::collections::VecDeque;

use spice_qmp::qmp::limits::{
    MAX_BAD_LINES, MAX_DEPTH, MAX_ERROR_TEXT, MAX_IN_FLIGHT, MAX_NAME, MAX_REFUSAL,
};
use spice_qmp::qmp::{
    self, Band, Error, ErrorClass, Greeting, Ignored, Opening, PeerError, State, UsageError,
};

use super::framing::{Cut, Stream};
use super::json::{self, Value};
use super::message::{self, Bad, Concerns, Message, start_of};

/// An output of a session, without the words of some errors.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Output {
    Ended(usize, Result<String, Error>),
    Event(String, Option<String>, i64),
    State(State, Option<Error>),
    Ignored(Ignored),
}

impl Output {
    pub(crate) fn of(output: &qmp::Output<'_, usize>) -> Self {
        match output {
            qmp::Output::Ended { token, result } => {
                let result = result.as_ref().map(|value| value.clone().into_owned());
                Self::Ended(*token, result.map_err(without_words))
            }
            qmp::Output::Event(event) => Self::Event(
                event.name.clone().into(),
                event.data.clone().map(String::from),
                event.timestamp(),
            ),
            qmp::Output::State { state, error } => {
                Self::State(*state, error.as_ref().map(without_words))
            }
            qmp::Output::Ignored(Ignored::Bad(PeerError::Malformed(_))) => {
                Self::Ignored(Ignored::Bad(malformed()))
            }
            qmp::Output::Ignored(Ignored::Bad(PeerError::NoGreeting(_))) => {
                Self::Ignored(Ignored::Bad(no_greeting()))
            }
            qmp::Output::Ignored(ignored) => Self::Ignored(ignored.clone()),
        }
    }
}

/// An error without the words that the model does not know.
pub(crate) fn without_words(error: &Error) -> Error {
    match error {
        Error::Usage(UsageError::InvalidArgument(_)) => invalid(),
        Error::Peer(PeerError::Malformed(_)) => malformed().into(),
        Error::Peer(PeerError::NoGreeting(_)) => no_greeting().into(),
        error => error.clone(),
    }
}

fn invalid() -> Error {
    UsageError::InvalidArgument("".into()).into()
}

fn malformed() -> PeerError {
    PeerError::Malformed("".into())
}

/// How many of the peer's bytes it shows depends on how they were split.
fn no_greeting() -> PeerError {
    PeerError::NoGreeting("".into())
}

#[derive(Debug, Clone)]
struct Call {
    id: u64,
    command: String,
    band: Band,
    token: Option<usize>,
    stage: Stage,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Stage {
    Waiting,
    HandedOver,
    Sent,
}

/// What the server is to read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Request {
    pub(crate) id: u64,
    pub(crate) command: String,
    pub(crate) arguments: Option<String>,
    pub(crate) band: Band,
    pub(crate) line_feed: bool,
}

#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) state: State,
    pub(crate) error: Option<Error>,
    pub(crate) greeting: Option<Greeting>,
    pub(crate) oob: bool,
    pub(crate) line_feeds: bool,
    pub(crate) stream: Stream,
    pub(crate) buffered: Vec<u8>,
    outputs: VecDeque<Output>,
    calls: Vec<Call>,
    /// In the order in which they are sent, except that out-of-band ones go first.
    requests: Vec<Request>,
    negotiations: Vec<(u64, bool)>,
    probed_again: bool,
    bad_lines: u32,
    opening: Opening,
    next_id: u64,
}

impl Model {
    pub(crate) fn new(first_id: u64, limit: usize) -> Self {
        Self {
            state: State::Closed,
            error: None,
            greeting: None,
            oob: false,
            line_feeds: true,
            stream: Stream::new(limit),
            buffered: Vec::new(),
            outputs: VecDeque::new(),
            calls: Vec::new(),
            requests: Vec::new(),
            negotiations: Vec::new(),
            probed_again: false,
            bad_lines: 0,
            opening: Opening::GreetingComes,
            next_id: first_id,
        }
    }

    pub(crate) fn pending(&self) -> usize {
        self.calls.iter().filter(|it| it.token.is_some()).count()
    }

    pub(crate) fn has_unsent(&self) -> bool {
        !self.requests.is_empty()
    }

    pub(crate) fn is_settled(&self) -> bool {
        self.calls.is_empty() && self.negotiations.is_empty() && self.requests.is_empty()
    }

    pub(crate) fn awaits_reply(&self) -> bool {
        let is_unsent = |id: u64| self.requests.iter().any(|it| it.id == id);
        self.calls.iter().any(|it| it.stage != Stage::Waiting)
            || self.negotiations.iter().any(|it| !is_unsent(it.0))
    }

    pub(crate) fn has_more(&self) -> bool {
        !self.outputs.is_empty() || !self.buffered.is_empty()
    }

    pub(crate) fn mid_message(&self) -> bool {
        self.stream.mid_message() || !self.buffered.is_empty()
    }

    pub(crate) fn command(&self, id: u64) -> Option<&str> {
        let call = self.calls.iter().find(|it| it.id == id)?;
        call.token.map(|_| &*call.command)
    }

    fn is_open(&self) -> bool {
        !matches!(self.state, State::Closed | State::Connecting)
    }

    fn forget_input(&mut self) {
        self.stream = Stream::new(self.stream.limit);
        self.buffered.clear();
    }

    fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            let ended = matches!(state, State::Closed | State::Failed);
            let error = ended.then(|| self.error.clone()).flatten();
            self.outputs.push_back(Output::State(state, error));
        }
    }

    pub(crate) fn connecting(&mut self) {
        if self.is_open() {
            self.close("a new connection is being made", true);
        }
        self.set_state(State::Connecting);
    }

    pub(crate) fn open(&mut self, opening: Opening) {
        if self.is_open() {
            self.close("the peer reopened the connection", true);
        }
        self.forget_input();
        self.error = None;
        self.bad_lines = 0;
        self.probed_again = false;
        self.opening = opening;
        match opening {
            Opening::GreetingComes | Opening::GreetingAfterRest => self.set_state(State::Greeting),
            Opening::GreetingMayBeGone => self.negotiate(false),
        }
    }

    /// The connection ends; a `quit` that was sent has then succeeded if it is
    /// the peer that ended it.
    pub(crate) fn close(&mut self, reason: &str, by_peer: bool) {
        self.forget_input();
        if self.state == State::Closed {
            return;
        }
        let error = Error::Closed(reason.into());
        self.end_calls(&error, by_peer);
        if self.state != State::Failed {
            self.error = Some(error);
        }
        self.set_state(State::Closed);
    }

    fn end_calls(&mut self, error: &Error, by_peer: bool) {
        for call in std::mem::take(&mut self.calls) {
            let has_quit = by_peer && call.command == "quit" && call.stage != Stage::Waiting;
            let result = if has_quit {
                Ok("{}".into())
            } else {
                Err(error.clone())
            };
            self.end(&call, result);
        }
        self.requests.clear();
        self.negotiations.clear();
        self.oob = false;
        self.greeting = None;
    }

    fn end(&mut self, call: &Call, result: Result<String, Error>) {
        if let Some(token) = call.token {
            self.outputs.push_back(Output::Ended(token, result));
        }
    }

    fn negotiate(&mut self, oob: bool) {
        let unsent = std::mem::take(&mut self.requests);
        self.negotiations
            .retain(|it| unsent.iter().all(|unsent| unsent.id != it.0));
        if self.negotiations.len() > 1 {
            self.negotiations.remove(0);
        }
        let arguments = oob.then_some(r#"{"enable":["oob"]}"#);
        let probe = self.greeting.is_none() || self.line_feeds;
        let id = self.request("qmp_capabilities", arguments, Band::In, probe);
        self.negotiations.push((id, oob));
        self.set_state(State::Negotiating);
    }

    fn request(&mut self, command: &str, arguments: Option<&str>, band: Band, lf: bool) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        self.requests.push(Request {
            id,
            command: command.into(),
            arguments: arguments.map(str::to_owned),
            band,
            line_feed: lf,
        });
        id
    }

    fn call(&mut self, command: &str, arguments: Option<&str>, band: Band, token: Option<usize>) {
        let id = self.request(command, arguments, band, self.line_feeds);
        self.calls.push(Call {
            id,
            command: command.into(),
            band,
            token,
            stage: Stage::Waiting,
        });
    }

    pub(crate) fn execute(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        token: usize,
    ) -> u64 {
        let id = self.next_id;
        match self.refusal(command, arguments, band) {
            Some(error) => {
                self.next_id += 1;
                self.outputs.push_back(Output::Ended(token, Err(error)));
            }
            None => self.call(command, arguments, band, Some(token)),
        }
        id
    }

    fn refusal(&self, command: &str, arguments: Option<&str>, band: Band) -> Option<Error> {
        let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
        let is_object = |text: &str| {
            json::read(text, MAX_DEPTH - 1).is_some_and(|it| matches!(it.value, Value::Object(_)))
        };
        if command.is_empty() || !command.bytes().all(fits) || !arguments.is_none_or(is_object) {
            return Some(invalid());
        }
        if self.state == State::Failed {
            return self.error.clone();
        }
        if self.state != State::Ready {
            let (command, state) = (command.into(), self.state);
            return Some(UsageError::NotReady { command, state }.into());
        }
        (band == Band::Out && !self.oob).then(|| {
            let text = format!("{command}: the server does not offer out-of-band execution");
            UsageError::NotSupported(text.into()).into()
        })
    }

    pub(crate) fn nudge(&mut self) {
        if self.state == State::Ready {
            self.call("query-name", None, Band::In, None);
        }
    }

    pub(crate) fn fail(&mut self, id: u64, error: Error) -> bool {
        let token = self.forget(id);
        if let Some(token) = token {
            self.outputs.push_back(Output::Ended(token, Err(error)));
        }
        token.is_some()
    }

    pub(crate) fn forget(&mut self, id: u64) -> Option<usize> {
        let call = self.calls.iter_mut().find(|it| it.id == id)?;
        let token = call.token.take()?;
        if call.stage == Stage::Waiting {
            self.calls.retain(|it| it.id != id);
            self.requests.retain(|it| it.id != id);
        }
        Some(token)
    }

    /// The bytes to send now.
    pub(crate) fn transmit(&mut self) -> Vec<Request> {
        let all = std::mem::take(&mut self.requests);
        let (mut now, others): (Vec<_>, Vec<_>) =
            all.into_iter().partition(|it| it.band == Band::Out);
        let in_flight = self.calls.iter().filter(|it| is_in_flight(it)).count();
        let room = if self.oob {
            MAX_IN_FLIGHT.saturating_sub(in_flight + self.negotiations.len())
        } else {
            usize::MAX
        };
        let negotiations = others.iter().take_while(|it| !self.is_call(it)).count();
        let mut others = others.into_iter();
        now.extend(others.by_ref().take(room.saturating_add(negotiations)));
        self.requests = others.collect();
        for call in &mut self.calls {
            if now.iter().any(|it| it.id == call.id) {
                call.stage = Stage::HandedOver;
            }
        }
        now
    }

    fn is_call(&self, request: &Request) -> bool {
        self.calls.iter().any(|it| it.id == request.id)
    }

    pub(crate) fn transmitted(&mut self, worked: bool) {
        for call in &mut self.calls {
            if call.stage == Stage::HandedOver {
                call.stage = if worked { Stage::Sent } else { Stage::Waiting };
            }
        }
    }

    pub(crate) fn receive(&mut self, input: &mut &[u8]) -> Option<Output> {
        if let Some(output) = self.outputs.pop_front() {
            return Some(output);
        }
        if !self.is_open() || self.state == State::Failed {
            self.forget_input();
            *input = &[];
            return None;
        }
        let buffered = std::mem::take(&mut self.buffered);
        let mut rest = &buffered[..];
        let cut = self.stream.next(&mut rest);
        self.buffered = rest.to_vec();
        let Some(cut) = cut.or_else(|| self.stream.next(input)) else {
            let begun = self.stream.begun().to_vec();
            return self.foreign_start(&begun).map(|error| self.failed(error));
        };
        let ignored = match cut {
            Cut::Message(line) => {
                if let Some(error) = self.foreign_start(&line) {
                    return Some(self.failed(error));
                }
                match message::read(&line) {
                    Ok(message) => {
                        self.bad_lines = 0;
                        return Some(self.message(message));
                    }
                    Err(bad) => return Some(self.bad_line(&bad, &line)),
                }
            }
            Cut::Broken => {
                let (concerns, is_greeting) = (Concerns::All, false);
                let bad = Bad {
                    concerns,
                    is_greeting,
                };
                return Some(self.bad_line(&bad, b""));
            }
            Cut::TooLarge(start) => {
                if let Some(error) = self.foreign_start(&start) {
                    return Some(self.failed(error));
                }
                let limit = self.stream.limit;
                let error = PeerError::TooLarge { limit };
                if self.is_strict() {
                    return Some(self.failed(error));
                }
                self.bad_message(error)
            }
        };
        Some(Output::Ignored(Ignored::Bad(ignored)))
    }

    /// Whether only QMP may arrive.
    fn is_strict(&self) -> bool {
        self.state == State::Greeting && self.opening == Opening::GreetingComes
    }

    /// What a new connection has in place of a greeting, once that is certain.
    fn foreign_start(&self, line: &[u8]) -> Option<PeerError> {
        let start = line.trim_ascii_start();
        let &first = start.first().filter(|_| self.state == State::Greeting)?;
        let may_be_rest =
            self.opening == Opening::GreetingAfterRest && matches!(first, b' '..=b'~' | b'\x1b');
        if first == b'{' || may_be_rest {
            return None;
        }
        let banners = [&b"QEMU "[..], b"(qemu)"];
        if banners.iter().any(|banner| start.starts_with(banner)) {
            let human_monitor = true;
            return Some(PeerError::NotQmp { human_monitor });
        }
        let is_sure = banners.iter().all(|banner| !banner.starts_with(start));
        is_sure.then(no_greeting)
    }

    fn failed(&mut self, error: PeerError) -> Output {
        self.fail_session(error.clone());
        Output::Ignored(Ignored::Bad(error))
    }

    fn message(&mut self, message: Message) -> Output {
        let output = match message {
            Message::Event {
                name,
                data,
                timestamp,
            } => return Output::Event(name, data, timestamp),
            Message::Greeting(greeting) => {
                if self.state == State::Ready {
                    let error = Error::Closed("the peer started a new session".into());
                    self.end_calls(&error, false);
                }
                let oob = greeting.capabilities.iter().any(|it| it == "oob");
                self.greeting = Some(greeting);
                self.negotiate(oob);
                self.outputs.pop_front()
            }
            Message::Success { id, value } => self.replied(id.as_deref(), Ok(value)),
            Message::Failure { id, class, desc } => self.replied(id.as_deref(), Err((class, desc))),
        };
        output.unwrap_or(Output::Ignored(Ignored::Reply))
    }

    fn replied(
        &mut self,
        id: Option<&str>,
        result: Result<String, (String, String)>,
    ) -> Option<Output> {
        let id = if let Some(id) = id {
            id.parse().ok()?
        } else {
            result.as_ref().err()?;
            let unsure = self.state == State::Negotiating && self.greeting.is_none();
            if unsure && !std::mem::replace(&mut self.probed_again, true) {
                self.negotiate(false);
            }
            self.calls.iter().find(|it| is_in_flight(it))?.id
        };
        if let Some(oob) = self.take_negotiation(id) {
            match result {
                Ok(_) => {
                    self.oob |= oob;
                    self.set_state(State::Ready);
                }
                Err((class, _)) if class == "CommandNotFound" => self.set_state(State::Ready),
                Err(_) if self.state == State::Ready => {}
                Err((_, desc)) => {
                    let desc = start_of(&desc, MAX_REFUSAL);
                    self.fail_session(PeerError::NegotiationRefused(desc.into()));
                }
            }
            return self.outputs.pop_front();
        }
        let call = self.take_answered(id)?;
        let result = result.map_err(|(class, desc)| Error::Command {
            command: call.command.into(),
            class: error_class(&start_of(&class, MAX_NAME)),
            desc: start_of(&desc, MAX_ERROR_TEXT).into(),
        });
        Some(Output::Ended(call.token?, result))
    }

    /// Whether the negotiation with this id enables `oob`. It and earlier ones are over.
    fn take_negotiation(&mut self, id: u64) -> Option<bool> {
        let at = self.negotiations.iter().position(|it| it.0 == id)?;
        let oob = self.negotiations[at].1;
        self.negotiations.drain(..=at);
        Some(oob)
    }

    fn take_answered(&mut self, id: u64) -> Option<Call> {
        let answered = |it: &Call| it.id == id && it.stage != Stage::Waiting;
        let at = self.calls.iter().position(answered)?;
        let call = self.calls.remove(at);
        if call.band == Band::In {
            // Abandoned requests that were sent before will not be answered.
            self.calls
                .retain(|it| !(it.id < id && is_in_flight(it) && it.token.is_none()));
        }
        Some(call)
    }

    fn fail_session(&mut self, error: PeerError) {
        let error = Error::from(error);
        self.end_calls(&error, false);
        self.error = Some(error);
        self.set_state(State::Failed);
    }

    fn bad_line(&mut self, bad: &Bad, line: &[u8]) -> Output {
        if self.is_strict() || bad.is_greeting && self.state != State::Ready {
            return self.failed(no_greeting());
        }
        match bad.concerns {
            Concerns::One(id) => return self.bad_reply(id),
            Concerns::None => return Output::Ignored(Ignored::Bad(malformed())),
            Concerns::All => self.bad_lines += 1,
        }
        let has = |word: &[u8]| line.windows(word.len()).any(|it| it == word);
        let human_monitor =
            line.trim_ascii_start().starts_with(b"QEMU ") || has(b"(qemu)") || has(b"\x1b[K");
        if self.bad_lines == MAX_BAD_LINES || human_monitor && self.state != State::Ready {
            return self.failed(PeerError::NotQmp { human_monitor });
        }
        Output::Ignored(Ignored::Bad(self.bad_message(malformed())))
    }

    fn bad_reply(&mut self, id: u64) -> Output {
        if self.take_negotiation(id).is_some() && self.state != State::Ready {
            return self.failed(malformed());
        }
        match self.take_answered(id).and_then(|call| call.token) {
            Some(token) => Output::Ended(token, Err(malformed().into())),
            None => Output::Ignored(Ignored::Bad(malformed())),
        }
    }

    fn bad_message(&mut self, error: PeerError) -> PeerError {
        let is_sent = |it: &Call| it.stage != Stage::Waiting;
        let (sent, others) = self.calls.drain(..).partition(is_sent);
        self.calls = others;
        let sent: Vec<Call> = sent;
        for call in sent {
            self.end(&call, Err(error.clone().into()));
        }
        error
    }
}

/// Whether QEMU has it, and answers it in order.
fn is_in_flight(call: &Call) -> bool {
    call.band == Band::In && call.stage != Stage::Waiting
}

fn error_class(name: &str) -> ErrorClass {
    let known = [
        ErrorClass::Generic,
        ErrorClass::CommandNotFound,
        ErrorClass::DeviceNotActive,
        ErrorClass::DeviceNotFound,
        ErrorClass::KvmMissingCap,
    ];
    let class = known.into_iter().find(|it| it.name() == name);
    class.unwrap_or_else(|| ErrorClass::Other(name.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receive(model: &mut Model, mut input: &[u8]) -> Vec<Output> {
        std::iter::from_fn(|| model.receive(&mut input)).collect()
    }

    #[test]
    fn a_call_is_answered() {
        let mut model = Model::new(100, 1000);
        model.open(Opening::GreetingMayBeGone);
        assert_eq!(model.transmit()[0].command, "qmp_capabilities");
        receive(&mut model, b"{\"return\": {}, \"id\": 100}\n");
        assert_eq!(model.state, State::Ready);

        model.execute("stop", Some("{}"), Band::In, 7);
        model.execute("cont", Some("[]"), Band::In, 8);
        assert_eq!(model.pending(), 1);
        assert_eq!(receive(&mut model, b""), [Output::Ended(8, Err(invalid()))]);
        let expected = Request {
            id: 101,
            command: "stop".into(),
            arguments: Some("{}".into()),
            band: Band::In,
            line_feed: true,
        };
        assert_eq!(model.transmit(), [expected]);
        assert_eq!(
            receive(&mut model, b"{\"return\": 5, \"id\": 101}\n"),
            [Output::Ended(7, Ok("5".into()))]
        );
        assert!(model.is_settled());
    }

    #[test]
    fn a_human_monitor_fails_it() {
        let mut model = Model::new(100, 1000);
        model.open(Opening::GreetingComes);
        let outputs = receive(&mut model, b"QEMU 7.2 monitor\n(qemu)\n");
        let error = PeerError::NotQmp {
            human_monitor: true,
        };
        let expected = [
            Output::State(State::Greeting, None),
            Output::Ignored(Ignored::Bad(error.clone())),
            Output::State(State::Failed, Some(error.into())),
        ];
        assert_eq!(outputs, expected);
    }
}
