//! One end of a QMP connection as a state machine.

use std::collections::{BTreeMap, VecDeque};
use std::sync::LazyLock;

use serde_json::value::RawValue;

use super::framing::{Frame, Framer};
use super::limits::{MAX_BAD_LINES, MAX_IN_FLIGHT, MAX_MESSAGE_SIZE};
use super::message::{self, Event, Failure, Greeting, Message};
use super::request::{self, Band};
use super::{Error, ErrorClass, PeerError, State, UsageError};

/// A QMP session; `T` is what the caller wants back when a call ends.
///
/// Feed it with [`open`](Self::open), [`receive`](Self::receive) and
/// [`close`](Self::close); send what [`poll_transmit`](Self::poll_transmit)
/// gives. Every call ends exactly once, with [`Output::Ended`] or by
/// [`forget`](Self::forget).
#[derive(Debug)]
pub struct Session<T> {
    framer: Framer,
    core: Core<T>,
}

/// Names a call for [`Session::fail`] and [`Session::forget`]. Unique in the session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(u64);

/// What is known of the greeting when a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The connection is new: the server greets first.
    GreetingComes,
    /// The connection was open before: the greeting may be gone.
    GreetingMayBeGone,
}

/// What came out of the bytes that went in.
#[derive(Debug)]
pub enum Output<'a, T> {
    /// A call ended.
    Ended {
        /// What the caller gave to `execute`.
        token: T,
        /// The `return` of the reply, or why there is none.
        result: Result<&'a RawValue, Error>,
    },
    /// An event.
    Event(Event<'a>),
    /// The session is in another state now.
    State(State),
    /// A message that concerns no caller.
    Ignored(Ignored),
}

/// Why a message concerns no caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// A reply to a call that ended before, to a command of the session's own,
    /// or to somebody else's.
    Reply,
    /// The message was not QMP; the calls in flight fail.
    Bad(PeerError),
}

#[derive(Debug)]
struct Core<T> {
    state: State,
    next_id: u64,
    /// The calls that await a reply, in the order of issue.
    calls: BTreeMap<u64, Call<T>>,
    /// How many of `calls` have a caller.
    pending: usize,
    /// In-band calls that QEMU has and did not answer.
    in_flight: usize,
    /// In-band requests to send, in order.
    requests: VecDeque<Request>,
    /// Out-of-band requests to send; they go first.
    urgent: VecDeque<Request>,
    /// The calls that were handed over and not acknowledged as sent.
    handed_over: Vec<u64>,
    /// Outputs that wait to be polled.
    outputs: VecDeque<Queued<T>>,
    /// The `qmp_capabilities` in flight: their id, and whether they enable `oob`.
    negotiations: Vec<(u64, bool)>,
    oob: bool,
    greeting: Option<Greeting>,
    bad_lines: u32,
    /// Why the session is closed or failed.
    error: Option<Error>,
}

#[derive(Debug)]
struct Call<T> {
    command: Box<str>,
    band: Band,
    stage: Stage,
    /// Nothing when the call has ended but its reply is still to come.
    token: Option<T>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    Waiting,
    HandedOver,
    Sent,
}

#[derive(Debug)]
struct Request {
    id: u64,
    line: Vec<u8>,
}

#[derive(Debug)]
enum Queued<T> {
    Ended(T, Result<(), Error>),
    State(State),
}

/// What `quit` returns when a close is all that is heard of it.
static EMPTY_OBJECT: LazyLock<Box<RawValue>> =
    LazyLock::new(|| RawValue::from_string("{}".into()).expect("an empty object is valid JSON"));

impl<T> Session<T> {
    /// A closed session whose requests have ids from `first_id` on.
    ///
    /// Ids must not collide with those of an earlier session on the same
    /// monitor, whose late replies may still come: choose `first_id` at random
    /// between 2^24 and 2^31.
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        Self {
            framer: Framer::new(MAX_MESSAGE_SIZE),
            core: Core {
                state: State::Closed,
                next_id: first_id,
                calls: BTreeMap::new(),
                pending: 0,
                in_flight: 0,
                requests: VecDeque::new(),
                urgent: VecDeque::new(),
                handed_over: Vec::new(),
                outputs: VecDeque::new(),
                negotiations: Vec::new(),
                oob: false,
                greeting: None,
                bad_lines: 0,
                error: None,
            },
        }
    }

    /// The state; see [`State`] for the table.
    #[must_use]
    pub fn state(&self) -> State {
        self.core.state
    }

    /// What the server said of itself, while the session is open.
    #[must_use]
    pub fn greeting(&self) -> Option<&Greeting> {
        self.core.greeting.as_ref()
    }

    /// Whether out-of-band execution is enabled.
    #[must_use]
    pub fn oob(&self) -> bool {
        self.core.oob
    }

    /// How many calls have not ended.
    #[must_use]
    pub fn pending(&self) -> usize {
        self.core.pending
    }

    /// Why the session is closed or failed.
    #[must_use]
    pub fn error(&self) -> Option<&Error> {
        self.core.error.as_ref()
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) would give something, now or
    /// when QEMU has answered others.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        !(self.core.requests.is_empty() && self.core.urgent.is_empty())
    }

    /// Whether [`receive`](Self::receive) may give something without further input.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.core.outputs.is_empty() || self.framer.has_more()
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn mid_message(&self) -> bool {
        self.framer.mid_message()
    }

    /// The longest message that is accepted, in bytes.
    #[must_use]
    pub fn max_message_size(&self) -> usize {
        self.framer.limit()
    }

    /// Sets the longest message that is accepted, in bytes.
    pub fn set_max_message_size(&mut self, limit: usize) {
        self.framer.set_limit(limit);
    }

    /// A connection is being made; one that was open before is gone.
    pub fn connecting(&mut self) {
        if !matches!(self.core.state, State::Closed | State::Connecting) {
            self.close("a new connection is being made");
        }
        self.core.set_state(State::Connecting);
    }

    /// The connection is open. If it was open before, it was reopened: what
    /// was in flight fails first.
    pub fn open(&mut self, opening: Opening) {
        if !matches!(self.core.state, State::Closed | State::Connecting) {
            self.close("the peer reopened the connection");
        }
        self.framer.reset();
        self.core.error = None;
        self.core.bad_lines = 0;
        match opening {
            Opening::GreetingComes => self.core.set_state(State::Greeting),
            Opening::GreetingMayBeGone => self.core.negotiate(false),
        }
    }

    /// The connection is gone, for the given reason. Fails all calls; a `quit`
    /// that was sent has succeeded.
    pub fn close(&mut self, reason: &str) {
        self.framer.reset();
        self.core.close(reason);
    }

    /// What was handed over by [`poll_transmit`](Self::poll_transmit) and not
    /// acknowledged by [`transmitted`](Self::transmitted) did not reach the
    /// peer. Call [`close`](Self::close) next.
    pub fn transmit_failed(&mut self) {
        self.core.set_handed_over(Stage::Waiting);
    }

    /// Issues a command. `arguments` is a JSON object. The call ends with an
    /// [`Output::Ended`], also where it cannot be sent.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        token: T,
    ) -> CallId {
        self.core.execute(command, arguments, band, token)
    }

    /// Ends a call with `error`. A call that was not sent yet will not be sent;
    /// the reply of one that was sent will be dropped. False if it has ended.
    pub fn fail(&mut self, id: CallId, error: Error) -> bool {
        let token = self.core.abandon(id.0);
        let ended = token.is_some();
        if let Some(token) = token {
            self.core
                .outputs
                .push_back(Queued::Ended(token, Err(error)));
        }
        ended
    }

    /// Ends a call without an output and gives its token back.
    pub fn forget(&mut self, id: CallId) -> Option<T> {
        self.core.abandon(id.0)
    }

    /// The name of the command of a call that has not ended.
    #[must_use]
    pub fn command(&self, id: CallId) -> Option<&str> {
        let call = self.core.calls.get(&id.0)?;
        call.token.as_ref().map(|_| &*call.command)
    }

    /// Sends a small command of the session's own, whose reply nobody gets.
    ///
    /// QEMU 7.2 and 10.0 stop sending a long reply on a SPICE port until another
    /// command produces output. `query-name` is short in both directions and
    /// known to every QEMU.
    pub fn nudge(&mut self) {
        if self.core.state == State::Ready {
            self.core.request("query-name", None, Band::In);
        }
    }

    /// The bytes to send next: all requests that may go out now, in one piece.
    /// Acknowledge them with [`transmitted`](Self::transmitted).
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        self.core.poll_transmit()
    }

    /// What [`poll_transmit`](Self::poll_transmit) gave has been sent.
    pub fn transmitted(&mut self) {
        self.core.set_handed_over(Stage::Sent);
    }

    /// Takes `input` up to the end of its next message and tells what came of
    /// it. Call it until it returns nothing; then all of `input` is taken.
    ///
    /// The output borrows from `input` or from the session. To give the control
    /// to somebody who may feed the session in turn, [`stash`](Self::stash) the
    /// rest of the input first.
    pub fn receive<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<Output<'a, T>> {
        if let Some(queued) = self.core.outputs.pop_front() {
            return Some(match queued {
                Queued::Ended(token, result) => Output::Ended {
                    token,
                    result: result.map(|()| &**EMPTY_OBJECT),
                },
                Queued::State(state) => Output::State(state),
            });
        }
        if matches!(
            self.core.state,
            State::Closed | State::Connecting | State::Failed
        ) {
            *input = &[];
            self.framer.reset();
            return None;
        }
        Some(match self.framer.next(input)? {
            Frame::InPlace(bytes) => self.core.message(bytes),
            Frame::Buffered(range) => self.core.message(self.framer.bytes(&range)),
            Frame::Broken => self
                .core
                .bad_line("an object over many lines broke off", b""),
            Frame::TooLarge => {
                let limit = self.framer.limit();
                self.core.bad_message(PeerError::TooLarge { limit })
            }
        })
    }

    /// Keeps the rest of an input for the next [`receive`](Self::receive),
    /// which takes it before its own.
    pub fn stash(&mut self, rest: &[u8]) {
        self.framer.stash(rest);
    }
}

impl<T> Core<T> {
    fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            self.outputs.push_back(Queued::State(state));
        }
    }

    fn execute(&mut self, command: &str, arguments: Option<&str>, band: Band, token: T) -> CallId {
        if let Err(error) = self.check(command, arguments, band) {
            let id = self.take_id();
            self.outputs.push_back(Queued::Ended(token, Err(error)));
            return CallId(id);
        }
        let id = self.request(command, arguments, band);
        self.pending += 1;
        self.calls.insert(
            id,
            Call {
                command: command.into(),
                band,
                stage: Stage::Waiting,
                token: Some(token),
            },
        );
        CallId(id)
    }

    fn check(&self, command: &str, arguments: Option<&str>, band: Band) -> Result<(), Error> {
        request::check_command(command)?;
        if let Some(arguments) = arguments {
            request::check_arguments(arguments)?;
        }
        match (self.state, &self.error) {
            (State::Ready, _) => {}
            (State::Failed, Some(error)) => return Err(error.clone()),
            (state, _) => {
                let command = command.into();
                return Err(UsageError::NotReady { command, state }.into());
            }
        }
        if band == Band::Out && !self.oob {
            let text = format!("{command}: the server does not offer out-of-band execution");
            return Err(UsageError::NotSupported(text.into()).into());
        }
        Ok(())
    }

    fn take_id(&mut self) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        id
    }

    fn request(&mut self, command: &str, arguments: Option<&str>, band: Band) -> u64 {
        let id = self.take_id();
        let line = request::encode(command, arguments, band, id);
        let queue = match band {
            Band::In => &mut self.requests,
            Band::Out => &mut self.urgent,
        };
        queue.push_back(Request { id, line });
        id
    }

    /// Sends `qmp_capabilities`, ahead of any command.
    fn negotiate(&mut self, oob: bool) {
        // Where greeting follows greeting, only the last one is worth an answer:
        // otherwise a peer that greets without end would fill the memory.
        self.requests.clear();
        if self.negotiations.len() > 1 {
            self.negotiations.remove(0);
        }
        let arguments = oob.then_some(r#"{"enable":["oob"]}"#);
        let id = self.request("qmp_capabilities", arguments, Band::In);
        self.negotiations.push((id, oob));
        self.set_state(State::Negotiating);
    }

    fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        while let Some(request) = self.next_request() {
            if let Some(call) = self.calls.get_mut(&request.id) {
                call.stage = Stage::HandedOver;
                self.handed_over.push(request.id);
                if call.band == Band::In {
                    self.in_flight += 1;
                }
            }
            if bytes.is_empty() {
                bytes = request.line;
            } else {
                bytes.extend_from_slice(&request.line);
            }
        }
        (!bytes.is_empty()).then_some(bytes)
    }

    fn next_request(&mut self) -> Option<Request> {
        self.urgent.pop_front().or_else(|| {
            let may_send = !self.oob || self.in_flight < MAX_IN_FLIGHT;
            may_send.then(|| self.requests.pop_front()).flatten()
        })
    }

    fn set_handed_over(&mut self, stage: Stage) {
        for id in self.handed_over.drain(..) {
            if let Some(call) = self.calls.get_mut(&id) {
                call.stage = stage;
            }
        }
    }

    /// Takes the token of a call. What was sent keeps its place until QEMU answers.
    fn abandon(&mut self, id: u64) -> Option<T> {
        let call = self.calls.get_mut(&id)?;
        let token = call.token.take()?;
        self.pending -= 1;
        if call.stage == Stage::Waiting {
            self.calls.remove(&id);
            for queue in [&mut self.requests, &mut self.urgent] {
                // Ids only grow, so both queues are in order.
                if let Ok(at) = queue.binary_search_by_key(&id, |request| request.id) {
                    queue.remove(at);
                }
            }
        }
        Some(token)
    }

    /// Fails the calls that QEMU has; what was not sent yet goes on.
    fn fail_sent(&mut self, error: &Error) {
        let sent = self
            .calls
            .extract_if(.., |_, call| call.stage != Stage::Waiting);
        for token in sent.filter_map(|(_, call)| call.token) {
            self.pending -= 1;
            self.outputs
                .push_back(Queued::Ended(token, Err(error.clone())));
        }
        self.in_flight = 0;
        self.handed_over.clear();
    }

    /// Fails all calls and forgets everything that was of this connection.
    fn end_connection(&mut self, error: &Error) {
        for call in std::mem::take(&mut self.calls).into_values() {
            if let Some(token) = call.token {
                // QEMU often exits before it answers `quit`.
                let quits = &*call.command == "quit" && call.stage != Stage::Waiting;
                let result = if quits { Ok(()) } else { Err(error.clone()) };
                self.outputs.push_back(Queued::Ended(token, result));
            }
        }
        self.pending = 0;
        self.in_flight = 0;
        self.requests.clear();
        self.urgent.clear();
        self.handed_over.clear();
        self.negotiations.clear();
        self.oob = false;
        self.greeting = None;
    }

    fn close(&mut self, reason: &str) {
        if self.state == State::Closed {
            return;
        }
        let error = Error::Closed(reason.into());
        self.end_connection(&error);
        // What failed stays the reason when the connection goes in consequence.
        if self.state != State::Failed {
            self.error = Some(error);
        }
        self.set_state(State::Closed);
    }

    fn fail_session(&mut self, error: PeerError) {
        let error = Error::from(error);
        self.end_connection(&error);
        self.error = Some(error);
        self.set_state(State::Failed);
    }

    fn message<'a>(&mut self, line: &'a [u8]) -> Output<'a, T> {
        let message = match message::parse(line) {
            Ok(message) => message,
            Err(reason) => return self.bad_line(&reason, line),
        };
        self.bad_lines = 0;
        match message {
            Message::Greeting(greeting) => self.greeted(greeting),
            Message::Success { id, value } => self.replied(id, Ok(value)),
            Message::Failure { id, error } => self.replied(id, Err(error)),
            Message::Event(event) => Output::Event(event),
        }
    }

    /// A greeting always starts a new session: QEMU greets when its end was
    /// (re)opened, and has then dropped the commands that it had.
    fn greeted<'a>(&mut self, greeting: Greeting) -> Output<'a, T> {
        if self.state == State::Ready {
            let error = Error::Closed("the peer started a new session".into());
            self.end_connection(&error);
        }
        let oob = greeting.capabilities.iter().any(|name| name == "oob");
        self.greeting = Some(greeting);
        self.negotiate(oob);
        self.outputs_or(Ignored::Reply)
    }

    fn replied<'a>(
        &mut self,
        id: Option<&RawValue>,
        result: Result<&'a RawValue, Failure<'_>>,
    ) -> Output<'a, T> {
        let id = match id {
            Some(raw) => raw.get().parse().ok(),
            None if result.is_err() => self.oldest_sent(),
            None => None,
        };
        let Some(id) = id else {
            return Output::Ignored(Ignored::Reply);
        };
        if let Some(at) = self.negotiations.iter().position(|&(of, _)| of == id) {
            let (_, oob) = self.negotiations.remove(at);
            return self.negotiated(oob, result.map(|_| ()));
        }
        let sent = |call: &Call<T>| call.stage != Stage::Waiting;
        if !self.calls.get(&id).is_some_and(sent) {
            return Output::Ignored(Ignored::Reply);
        }
        let Some(call) = self.calls.remove(&id) else {
            return Output::Ignored(Ignored::Reply);
        };
        if call.band == Band::In {
            self.in_flight -= 1;
            self.drop_abandoned_before(id);
        }
        let Some(token) = call.token else {
            return Output::Ignored(Ignored::Reply);
        };
        self.pending -= 1;
        let result = result.map_err(|failure| Error::Command {
            command: call.command,
            class: ErrorClass::from_name(&failure.class),
            desc: failure.desc.into(),
        });
        Output::Ended { token, result }
    }

    /// QEMU answers in order: what was abandoned before `id` will not be answered.
    fn drop_abandoned_before(&mut self, id: u64) {
        while let Some(first) = self.calls.first_entry() {
            let call = first.get();
            let passed = call.token.is_none() && call.band == Band::In;
            if *first.key() > id || !passed {
                break;
            }
            first.remove();
            self.in_flight -= 1;
        }
    }

    /// An error without an id answers a request that QEMU could not parse. It
    /// answers in order, so that is the oldest request it has.
    fn oldest_sent(&self) -> Option<u64> {
        self.calls
            .iter()
            .find(|(_, call)| call.band == Band::In && call.stage != Stage::Waiting)
            .map(|(&id, _)| id)
    }

    fn negotiated<'a>(&mut self, oob: bool, result: Result<(), Failure<'_>>) -> Output<'a, T> {
        match result {
            Ok(()) => {
                self.oob |= oob;
                self.set_state(State::Ready);
            }
            // "Capabilities negotiation is already complete, command ignored"
            Err(failure) if failure.class == "CommandNotFound" => self.set_state(State::Ready),
            Err(_) if self.state == State::Ready => {}
            Err(failure) => {
                self.fail_session(PeerError::NegotiationRefused(failure.desc.into()));
            }
        }
        self.outputs_or(Ignored::Reply)
    }

    fn bad_line<'a>(&mut self, reason: &str, line: &[u8]) -> Output<'a, T> {
        self.bad_lines += 1;
        let human_monitor = message::is_of_human_monitor(line);
        let negotiating = self.state != State::Ready;
        if self.bad_lines >= MAX_BAD_LINES || human_monitor && negotiating {
            let error = PeerError::NotQmp { human_monitor };
            self.fail_session(error.clone());
            return Output::Ignored(Ignored::Bad(error));
        }
        self.bad_message(PeerError::Malformed(reason.into()))
    }

    fn bad_message<'a>(&mut self, error: PeerError) -> Output<'a, T> {
        self.fail_sent(&error.clone().into());
        Output::Ignored(Ignored::Bad(error))
    }

    /// The first output that the last input caused, if it caused one.
    fn outputs_or<'a>(&mut self, ignored: Ignored) -> Output<'a, T> {
        match self.outputs.pop_front() {
            Some(Queued::Ended(token, result)) => Output::Ended {
                token,
                result: result.map(|()| &**EMPTY_OBJECT),
            },
            Some(Queued::State(state)) => Output::State(state),
            None => Output::Ignored(ignored),
        }
    }
}
