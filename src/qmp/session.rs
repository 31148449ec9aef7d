//! One end of a QMP connection as a state machine.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use super::calls::{CallId, Calls, Stage};
use super::framing::{Frame, Framer};
use super::limits::{MAX_BAD_LINES, MAX_IN_FLIGHT, MAX_MESSAGE_SIZE};
use super::message::{self, Event, Failure, Greeting, Message};
use super::redact;
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
        /// The `return` of the reply, as JSON text, or why there is none.
        result: Result<Cow<'a, str>, Error>,
    },
    /// An event.
    Event(Event<'a>),
    /// The session is in another state now.
    State {
        /// The state.
        state: State,
        /// Why, if it is closed or failed.
        error: Option<Error>,
    },
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

impl<T> Output<'_, T> {
    fn into_owned<'a>(self) -> Output<'a, T> {
        match self {
            Self::Ended { token, result } => Output::Ended {
                token,
                result: result.map(|value| value.into_owned().into()),
            },
            Self::Event(event) => Output::Event(event.into_owned()),
            Self::State { state, error } => Output::State { state, error },
            Self::Ignored(ignored) => Output::Ignored(ignored),
        }
    }
}

#[derive(Debug)]
struct Core<T> {
    state: State,
    calls: Calls<T>,
    /// Outputs that wait to be polled.
    outputs: VecDeque<Queued<T>>,
    /// The `qmp_capabilities` in flight: their id, and whether they enable `oob`.
    negotiations: Vec<(u64, bool)>,
    /// Whether the probe for a session that may be negotiated was sent twice.
    probed_again: bool,
    oob: bool,
    greeting: Option<Greeting>,
    bad_lines: u32,
    /// Why the session is closed or failed.
    error: Option<Error>,
}

#[derive(Debug)]
enum Queued<T> {
    Ended(T, Result<(), Error>),
    State(State, Option<Error>),
}

impl<T> Queued<T> {
    fn into_output<'a>(self) -> Output<'a, T> {
        match self {
            Self::Ended(token, result) => Output::Ended {
                token,
                result: result.map(|()| EMPTY_OBJECT.into()),
            },
            Self::State(state, error) => Output::State { state, error },
        }
    }
}

/// What the end of a connection says of a `quit` that QEMU has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Quit {
    /// QEMU often exits before it answers: then the end is the answer.
    Succeeded,
    /// QEMU did not end the connection.
    Unknown,
}

/// What `quit` returns when a close is all that is heard of it.
const EMPTY_OBJECT: &str = "{}";

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
                calls: Calls::new(first_id),
                outputs: VecDeque::new(),
                negotiations: Vec::new(),
                probed_again: false,
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
        self.core.calls.pending()
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
        self.core.calls.has_unsent()
    }

    /// Whether nothing is to be sent and no reply is due, be it one that nobody
    /// waits for any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.core.calls.is_empty() && self.core.negotiations.is_empty() && !self.has_unsent()
    }

    /// Whether a call of a caller's has not ended, be it sent or still to be sent.
    #[must_use]
    pub fn awaits_caller(&self) -> bool {
        self.core.calls.pending() > 0
    }

    /// Whether QEMU owes an answer: to a call, with or without a caller, or to the
    /// negotiation. What was only handed over by
    /// [`poll_transmit`](Self::poll_transmit) counts, because QEMU may have it.
    #[must_use]
    pub fn awaits_reply(&self) -> bool {
        let core = &self.core;
        let is_sent = |&(id, _): &(u64, bool)| !core.calls.is_queued(id);
        core.calls.awaits_reply() || core.negotiations.iter().any(is_sent)
    }

    /// Whether input waits that was [stashed](Self::stash).
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.framer.has_more()
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

    /// How many bytes of the message that has begun are here.
    #[must_use]
    pub fn collected(&self) -> usize {
        self.framer.collected()
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

    /// Whether each command ends in a line feed, as it does unless told otherwise.
    ///
    /// QEMU needs none, and answers a command before it reads what is behind it. A
    /// SPICE client that leaves with a byte unread crashes QEMU (7.2, 10.0), so
    /// none should be sent there. `qmp_capabilities` always ends in one: it may
    /// reach a human monitor, which waits for it.
    pub fn set_line_feeds(&mut self, line_feeds: bool) {
        self.core.calls.set_line_feeds(line_feeds);
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
        self.core.probed_again = false;
        match opening {
            Opening::GreetingComes => self.core.set_state(State::Greeting),
            Opening::GreetingMayBeGone => self.core.negotiate(false),
        }
    }

    /// The connection is gone, for the given reason. Fails all calls; a `quit`
    /// that was sent has succeeded.
    pub fn close(&mut self, reason: &str) {
        self.framer.reset();
        self.core.close(reason, Quit::Succeeded);
    }

    /// The program lets go of the connection, for the given reason. Fails all calls.
    pub fn shut(&mut self, reason: &str) {
        self.framer.reset();
        self.core.close(reason, Quit::Unknown);
    }

    /// What was handed over by [`poll_transmit`](Self::poll_transmit) and not
    /// acknowledged by [`transmitted`](Self::transmitted) did not reach the
    /// peer. Call [`close`](Self::close) next.
    pub fn transmit_failed(&mut self) {
        self.core.calls.set_handed_over(Stage::Waiting);
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
        let token = self.core.calls.abandon(id.0);
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
        self.core.calls.abandon(id.0)
    }

    /// The name of the command of a call that has not ended.
    #[must_use]
    pub fn command(&self, id: CallId) -> Option<&str> {
        self.core.calls.command(id.0)
    }

    /// Sends a small command of the session's own, whose reply nobody gets.
    ///
    /// QEMU 7.2 and 10.0 stop sending a long reply on a SPICE port until another
    /// command produces output. `query-name` is short in both directions and
    /// known to every QEMU.
    pub fn nudge(&mut self) {
        if self.core.state == State::Ready {
            self.core.calls.issue("query-name", None, Band::In, None);
        }
    }

    /// The bytes to send next: all requests that may go out now, in one piece.
    /// Acknowledge them with [`transmitted`](Self::transmitted).
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        let negotiations = self.core.negotiations.len();
        let limit = MAX_IN_FLIGHT.saturating_sub(negotiations);
        self.core
            .calls
            .poll_transmit(self.core.oob.then_some(limit))
    }

    /// What [`poll_transmit`](Self::poll_transmit) gave has been sent.
    pub fn transmitted(&mut self) {
        self.core.calls.set_handed_over(Stage::Sent);
    }

    /// Takes `input` up to the end of its next message and tells what came of
    /// it. Call it until it returns nothing; then all of `input` is taken.
    ///
    /// The output borrows from `input` or from the session. To give the control
    /// to somebody who may feed the session in turn, [`stash`](Self::stash) the
    /// rest of the input first.
    pub fn receive<'a, 'i: 'a>(&'a mut self, input: &mut &'i [u8]) -> Option<Output<'a, T>> {
        if let Some(queued) = self.core.outputs.pop_front() {
            return Some(queued.into_output());
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
            Frame::Large(bytes) => self.core.large_message(bytes),
            Frame::Broken => self
                .core
                .bad_line("an object over many lines broke off", b""),
            Frame::TooLarge => {
                let limit = self.framer.limit();
                self.core.bad_message(PeerError::TooLarge { limit })
            }
        })
    }

    /// Takes a piece from the middle of a message, which gives no output. False if it
    /// may be something else, which is for [`receive`](Self::receive).
    ///
    /// It is for a peer that sends in crumbs: all the rest need not be looked after.
    pub fn collect(&mut self, piece: &[u8]) -> bool {
        let listens = matches!(self.core.state, State::Negotiating | State::Ready);
        listens && self.core.outputs.is_empty() && self.framer.collect(piece)
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
            let error = match state {
                State::Closed | State::Failed => self.error.clone(),
                _ => None,
            };
            self.outputs.push_back(Queued::State(state, error));
        }
    }

    fn execute(&mut self, command: &str, arguments: Option<&str>, band: Band, token: T) -> CallId {
        if let Err(error) = self.check(command, arguments, band) {
            let id = self.calls.take_id();
            self.outputs.push_back(Queued::Ended(token, Err(error)));
            return CallId(id);
        }
        CallId(self.calls.issue(command, arguments, band, Some(token)))
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

    /// Sends `qmp_capabilities`, ahead of any command.
    fn negotiate(&mut self, oob: bool) {
        // Where greeting follows greeting, only the last one is worth an answer:
        // otherwise a peer that greets without end would fill the memory.
        let calls = &self.calls;
        self.negotiations.retain(|&(id, _)| !calls.is_queued(id));
        self.calls.clear_requests();
        if self.negotiations.len() > 1 {
            self.negotiations.remove(0);
        }
        let arguments = oob.then_some(r#"{"enable":["oob"]}"#);
        let id = self.calls.request("qmp_capabilities", arguments);
        self.negotiations.push((id, oob));
        self.set_state(State::Negotiating);
    }

    /// Fails all calls and forgets everything that was of this connection.
    fn end_connection(&mut self, error: &Error, quit: Quit) {
        for call in self.calls.take_all() {
            let has_quit = quit == Quit::Succeeded && &*call.command == "quit" && call.is_sent();
            if let Some(token) = call.token {
                let result = if has_quit { Ok(()) } else { Err(error.clone()) };
                self.outputs.push_back(Queued::Ended(token, result));
            }
        }
        self.negotiations.clear();
        self.oob = false;
        self.greeting = None;
    }

    fn close(&mut self, reason: &str, quit: Quit) {
        if self.state == State::Closed {
            return;
        }
        let error = Error::Closed(reason.into());
        self.end_connection(&error, quit);
        // What failed stays the reason when the connection goes in consequence.
        if self.state != State::Failed {
            self.error = Some(error);
        }
        self.set_state(State::Closed);
    }

    fn fail_session(&mut self, error: PeerError) {
        let error = Error::from(error);
        self.end_connection(&error, Quit::Unknown);
        self.error = Some(error);
        self.set_state(State::Failed);
    }

    fn message<'a>(&mut self, line: &'a [u8]) -> Output<'a, T> {
        self.parsed(message::parse(line), line)
    }

    fn parsed<'a>(&mut self, message: Result<Message<'a>, String>, line: &[u8]) -> Output<'a, T> {
        let message = match message {
            Ok(message) => message,
            Err(reason) => return self.bad_line(&reason, line),
        };
        self.bad_lines = 0;
        match message {
            Message::Greeting(greeting) => self.greeted(greeting),
            Message::Success { id, value } => self.replied(id, Ok(value.into())),
            Message::Failure { id, error } => self.replied(id, Err(error)),
            Message::Event(event) => Output::Event(event),
        }
    }

    /// A message in a buffer of its own: what a call returned stays in it, and takes
    /// no room twice.
    fn large_message<'a>(&mut self, bytes: Vec<u8>) -> Output<'a, T> {
        match message::parse(&bytes) {
            Ok(Message::Success { id, value }) => {
                let id = id.map(str::to_owned);
                let start = value.as_ptr().addr() - bytes.as_ptr().addr();
                let part = start..start + value.len();
                let value = cut_out(bytes, part);
                self.bad_lines = 0;
                self.replied(id.as_deref(), Ok(value.into()))
            }
            parsed => self.parsed(parsed, &bytes).into_owned(),
        }
    }

    /// A greeting always starts a new session: QEMU greets when its end was
    /// (re)opened, and has then dropped the commands that it had.
    fn greeted<'a>(&mut self, greeting: Greeting) -> Output<'a, T> {
        if self.state == State::Ready {
            let error = Error::Closed("the peer started a new session".into());
            self.end_connection(&error, Quit::Unknown);
        }
        let oob = greeting.capabilities.iter().any(|name| name == "oob");
        self.greeting = Some(greeting);
        self.negotiate(oob);
        self.outputs_or(Ignored::Reply)
    }

    fn replied<'a>(
        &mut self,
        id: Option<&str>,
        result: Result<Cow<'a, str>, Failure<'_>>,
    ) -> Output<'a, T> {
        let id = match id {
            Some(id) => id.parse().ok(),
            // QEMU could not parse a request.
            None if result.is_err() => {
                if self.state == State::Negotiating && self.greeting.is_none() {
                    self.probe_again();
                }
                // It answers in order: the request is the oldest that it has.
                self.calls.oldest_sent()
            }
            None => None,
        };
        let Some(id) = id else {
            return Output::Ignored(Ignored::Reply);
        };
        if let Some(at) = self.negotiations.iter().position(|&(of, _)| of == id) {
            // QEMU answers in order: an earlier one was lost with what was before.
            let Some((_, oob)) = self.negotiations.drain(..=at).last() else {
                return Output::Ignored(Ignored::Reply);
            };
            return self.negotiated(oob, result.map(|_| ()));
        }
        let Some(call) = self.calls.answered(id) else {
            return Output::Ignored(Ignored::Reply);
        };
        let Some(token) = call.token else {
            return Output::Ignored(Ignored::Reply);
        };
        let result = result.map_err(|failure| {
            let secrets = redact::secrets(&call.command, call.arguments.as_deref());
            Error::Command {
                command: call.command,
                class: ErrorClass::from_name(&redact::without(&secrets, &failure.class)),
                desc: redact::without(&secrets, &failure.desc),
            }
        });
        Output::Ended { token, result }
    }

    /// An earlier client may have left QEMU with half a command, which the first
    /// probe then became a part of.
    fn probe_again(&mut self) {
        if !std::mem::replace(&mut self.probed_again, true) {
            self.negotiate(false);
        }
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
        // What was not sent yet goes on.
        for token in self.calls.take_sent().into_iter().filter_map(|c| c.token) {
            let failure = Err(error.clone().into());
            self.outputs.push_back(Queued::Ended(token, failure));
        }
        Output::Ignored(Ignored::Bad(error))
    }

    /// The first output that the last input caused, if it caused one.
    fn outputs_or<'a>(&mut self, ignored: Ignored) -> Output<'a, T> {
        match self.outputs.pop_front() {
            Some(queued) => queued.into_output(),
            None => Output::Ignored(ignored),
        }
    }
}

/// A part of a text, in the memory of the whole.
fn cut_out(mut text: Vec<u8>, part: Range<usize>) -> String {
    text.truncate(part.end);
    text.drain(..part.start);
    text.shrink_to_fit();
    String::from_utf8(text).expect("it was text before")
}
