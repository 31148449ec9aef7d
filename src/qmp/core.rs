// SPDX-License-Identifier: MIT OR Apache-2.0
//! How a session handles messages.

use std::borrow::Cow;
use std::collections::VecDeque;
use std::ops::Range;

use super::calls::{CallId, Calls};
use super::limits::{MAX_BAD_LINES, MAX_ERROR_TEXT, MAX_NAME, MAX_REFUSAL, MAX_SHOWN};
use super::message::{self, Bad, Concerns, Failure, HUMAN_MONITORS, Message};
use super::output::{Ignored, Opening, Output, Queued};
use super::redact::Censor;
use super::request::{self, Band};
use super::strings;
use super::{Error, ErrorClass, Greeting, PeerError, State, UsageError};

/// A session without its framing.
#[derive(Debug)]
pub(super) struct Core<T> {
    pub(super) state: State,
    pub(super) calls: Calls<T>,
    /// Outputs that wait to be polled.
    pub(super) outputs: VecDeque<Queued<T>>,
    /// The `qmp_capabilities` commands that are not answered yet, oldest first: their
    /// ids, and whether they enable `oob`.
    pub(super) negotiations: Vec<(u64, bool)>,
    /// Whether the probe was repeated, in a session that may already be negotiated.
    probed_again: bool,
    pub(super) oob: bool,
    /// Whether calls can carry file descriptors.
    pub(super) can_carry: bool,
    pub(super) greeting: Option<Greeting>,
    bad_lines: u32,
    /// How the connection was opened.
    opening: Opening,
    /// Why the session is closed or failed.
    pub(super) error: Option<Box<Error>>,
}

/// What the end of a connection means for a `quit` that QEMU has received.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Quit {
    /// QEMU often exits before it answers: then the end of the connection is the answer.
    Succeeded,
    /// QEMU did not end the connection.
    Unknown,
}

impl<T> Core<T> {
    pub(super) fn new(first_id: u64) -> Self {
        Self {
            state: State::Closed,
            calls: Calls::new(first_id),
            outputs: VecDeque::new(),
            negotiations: Vec::new(),
            probed_again: false,
            oob: false,
            can_carry: false,
            greeting: None,
            bad_lines: 0,
            opening: Opening::GreetingComes,
            error: None,
        }
    }

    pub(super) fn open(&mut self, opening: Opening) {
        self.error = None;
        self.bad_lines = 0;
        self.probed_again = false;
        self.opening = opening;
        match opening {
            Opening::GreetingComes | Opening::GreetingAfterRest => {
                self.set_state(State::Greeting);
            }
            Opening::GreetingMayBeGone => self.negotiate(false),
        }
    }

    /// Whether QEMU was sent something that it has not answered yet.
    pub(super) fn awaits_reply(&self) -> bool {
        let is_sent = |&(id, _): &(u64, bool)| !self.calls.is_queued(id);
        self.calls.awaits_reply() || self.negotiations.iter().any(is_sent)
    }

    pub(super) fn set_state(&mut self, state: State) {
        if self.state != state {
            self.state = state;
            let error = match state {
                State::Closed | State::Failed => self.error.as_deref().cloned(),
                _ => None,
            };
            self.outputs.push_back(Queued::State(state, error));
        }
    }

    pub(super) fn execute(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        carries: bool,
        token: T,
    ) -> CallId {
        if let Err(error) = self.check(command, arguments, band, carries) {
            let id = self.calls.take_id();
            self.outputs.push_back(Queued::Ended(token, Err(error)));
            return CallId(id);
        }
        CallId(
            self.calls
                .issue(command, arguments, band, carries, Some(token)),
        )
    }

    fn check(
        &self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        carries: bool,
    ) -> Result<(), Error> {
        request::check_command(command)?;
        if let Some(arguments) = arguments {
            request::check_arguments(arguments)?;
        }
        match (self.state, &self.error) {
            (State::Ready, _) => {}
            (State::Failed, Some(error)) => return Err((**error).clone()),
            (state, _) => {
                let command = command.into();
                return Err(UsageError::NotReady { command, state }.into());
            }
        }
        if band == Band::Out && !self.oob {
            let text = format!("{command}: the server does not offer out-of-band execution");
            return Err(UsageError::NotSupported(text.into()).into());
        }
        if carries && !self.can_carry {
            let text = format!("{command}: this connection cannot carry file descriptors");
            return Err(UsageError::NotSupported(text.into()).into());
        }
        Ok(())
    }

    /// Sends `qmp_capabilities`, ahead of any command.
    fn negotiate(&mut self, oob: bool) {
        // When greetings follow each other, only the last one is answered: otherwise a peer
        // that keeps sending greetings would fill the memory.
        let calls = &self.calls;
        self.negotiations.retain(|&(id, _)| !calls.is_queued(id));
        self.calls.clear_requests();
        if self.negotiations.len() > 1 {
            self.negotiations.remove(0);
        }
        let arguments = oob.then_some(r#"{"enable":["oob"]}"#);
        // A peer that sent no greeting may be a human monitor, which waits for the line feed.
        let probe = self.greeting.is_none();
        let id = self.calls.request("qmp_capabilities", arguments, probe);
        self.negotiations.push((id, oob));
        self.set_state(State::Negotiating);
    }

    /// Fails all calls and drops all state of this connection.
    fn end_connection(&mut self, error: &Error, quit: Quit) {
        for call in self.calls.take_all() {
            let has_quit = quit == Quit::Succeeded && &*call.command == "quit" && call.is_sent;
            if let Some(token) = call.token {
                let result = if has_quit { Ok(()) } else { Err(error.clone()) };
                self.outputs.push_back(Queued::Ended(token, result));
            }
        }
        self.negotiations.clear();
        self.oob = false;
        self.greeting = None;
    }

    pub(super) fn close(&mut self, reason: &str, quit: Quit) {
        self.close_for(Error::Closed(reason.into()), quit);
    }

    pub(super) fn close_for(&mut self, error: Error, quit: Quit) {
        if self.state == State::Closed {
            return;
        }
        self.end_connection(&error, quit);
        // A failure stays the reason when the connection closes because of it.
        if self.state != State::Failed {
            self.error = Some(error.into());
        }
        self.set_state(State::Closed);
    }

    pub(super) fn fail_session(&mut self, error: PeerError) {
        let error = Error::from(error);
        self.end_connection(&error, Quit::Unknown);
        self.error = Some(error.into());
        self.set_state(State::Failed);
    }

    #[inline(always)]
    pub(super) fn message<'a>(&mut self, line: &'a [u8]) -> Output<'a, T> {
        if let Some(error) = self.foreign_start(line) {
            return self.failed(error);
        }
        self.parsed(message::read(line), line)
    }

    #[inline(always)]
    fn parsed<'a>(&mut self, message: Result<Message<'a>, Bad>, line: &[u8]) -> Output<'a, T> {
        let message = match message {
            Ok(message) => message,
            Err(bad) => return self.bad_line(bad, line),
        };
        self.bad_lines = 0;
        match message {
            Message::Greeting(greeting) => self.greeted(greeting),
            Message::Success { id, value } => self.replied(id, Ok(value.into())),
            Message::Failure { id, error } => self.replied(id, Err(error)),
            Message::Event(event) => Output::Event(event),
        }
    }

    /// Handles a message that has a buffer of its own: the returned value stays in that
    /// buffer and is not copied.
    pub(super) fn large_message<'a>(&mut self, bytes: Vec<u8>) -> Output<'a, T> {
        if let Some(error) = self.foreign_start(&bytes) {
            return self.failed(error);
        }
        let text = match String::from_utf8(bytes) {
            Ok(text) => text,
            Err(error) => return self.message(&error.into_bytes()).into_owned(),
        };
        match message::read_text(&text) {
            Ok(Message::Success { id, value }) => {
                let id = id.map(str::to_owned);
                let start = value.as_ptr().addr() - text.as_ptr().addr();
                let part = start..start + value.len();
                self.bad_lines = 0;
                self.replied(id.as_deref(), Ok(cut_out(text, part).into()))
            }
            parsed => self.parsed(parsed, text.as_bytes()).into_owned(),
        }
    }

    /// A greeting always starts a new session: QEMU greets when its end was opened
    /// or reopened, and has then dropped the commands that it had received.
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
        if let Some(oob) = self.take_negotiation(id) {
            return self.negotiated(oob, result.map(|_| ()));
        }
        let Some(call) = self.calls.answered(id) else {
            return Output::Ignored(Ignored::Reply);
        };
        let Some(token) = call.token else {
            return Output::Ignored(Ignored::Reply);
        };
        let result = result.map_err(|failure| {
            let censor = Censor::new(&call.command, call.arguments.as_deref());
            let class = censor.without_secrets(&failure.class);
            let desc = censor.without_secrets(&failure.desc);
            Error::Command {
                command: call.command,
                class: ErrorClass::from_name(&strings::cut(class.into(), MAX_NAME)),
                desc: strings::cut(desc.into(), MAX_ERROR_TEXT).into(),
            }
        });
        Output::Ended { token, result }
    }

    /// Removes the negotiation with this id; returns whether it enables `oob`.
    fn take_negotiation(&mut self, id: u64) -> Option<bool> {
        let at = self.negotiations.iter().position(|&(of, _)| of == id)?;
        // QEMU answers in order: the reply to an earlier one was lost.
        let (_, oob) = self.negotiations[at];
        self.negotiations.drain(..=at);
        Some(oob)
    }

    /// An earlier client may have left half a command with QEMU, which then took the first
    /// probe as the rest of it.
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
                self.fail_session(PeerError::NegotiationRefused(
                    strings::cut(failure.desc, MAX_REFUSAL).into(),
                ));
            }
        }
        self.outputs_or(Ignored::Reply)
    }

    /// Whether only QMP may arrive until the greeting.
    fn awaits_strictly(&self) -> bool {
        self.state == State::Greeting && self.opening == Opening::GreetingComes
    }

    /// Looks for a missing greeting at the start of an unfinished line: the line may never
    /// end.
    pub(super) fn begun<'a>(&mut self, line: &[u8]) -> Option<Output<'a, T>> {
        let error = self.foreign_start(line)?;
        Some(self.failed(error))
    }

    /// Checks whether a line that stands in place of the greeting starts unlike QMP, so that
    /// no further bytes could make it a greeting.
    fn foreign_start(&self, line: &[u8]) -> Option<PeerError> {
        if self.state != State::Greeting {
            return None;
        }
        let start = line.trim_ascii_start();
        let first = *start.first()?;
        let is_foreign = if self.awaits_strictly() {
            first != b'{'
        } else {
            // QEMU writes ASCII. Its human monitor starts lines with an escape.
            !first.is_ascii() || first.is_ascii_control() && first != b'\x1b'
        };
        if !is_foreign {
            return None;
        }
        let mut may_be_human_monitor = false;
        for banner in HUMAN_MONITORS {
            if start.starts_with(banner) {
                let human_monitor = true;
                return Some(PeerError::NotQmp { human_monitor });
            }
            may_be_human_monitor |= banner.starts_with(start);
        }
        (!may_be_human_monitor).then(|| self.no_greeting("there is no greeting", line))
    }

    /// The error for a bad or missing greeting. It may quote the peer, which cannot repeat
    /// a secret: nothing has ever been sent to it.
    fn no_greeting(&self, reason: &str, line: &[u8]) -> PeerError {
        let line = line.trim_ascii();
        let shown = &line[..line.len().min(MAX_SHOWN)];
        let more = if shown.len() < line.len() { "..." } else { "" };
        let is_first = self.state == State::Greeting && self.calls.is_new();
        let reason = if is_first && !line.is_empty() {
            format!("{reason} (it sent \"{}\"{more})", shown.escape_ascii())
        } else {
            reason.to_owned()
        };
        PeerError::NoGreeting(reason.into())
    }

    fn bad_line<'a>(&mut self, bad: Bad, line: &[u8]) -> Output<'a, T> {
        if self.awaits_strictly() || bad.is_greeting && self.state != State::Ready {
            let error = self.no_greeting(&bad.reason, line);
            return self.failed(error);
        }
        let error = PeerError::Malformed(bad.reason.into());
        match bad.concerns {
            Concerns::One(id) => return self.bad_reply(id, error),
            Concerns::None => return Output::Ignored(Ignored::Bad(error)),
            Concerns::All => {}
        }
        self.bad_lines += 1;
        let human_monitor = message::is_of_human_monitor(line);
        let negotiating = self.state != State::Ready;
        if self.bad_lines >= MAX_BAD_LINES || human_monitor && negotiating {
            return self.failed(PeerError::NotQmp { human_monitor });
        }
        self.fail_in_flight(error)
    }

    /// An object that spans several lines broke off.
    pub(super) fn broken<'a>(&mut self) -> Output<'a, T> {
        let bad = Bad {
            reason: "an object over many lines broke off".into(),
            concerns: Concerns::All,
            is_greeting: false,
        };
        self.bad_line(bad, b"")
    }

    /// A message that starts with `head` was longer than the limit.
    pub(super) fn too_large<'a>(&mut self, head: &[u8], limit: usize) -> Output<'a, T> {
        if let Some(error) = self.foreign_start(head) {
            return self.failed(error);
        }
        let error = PeerError::TooLarge { limit };
        if self.awaits_strictly() {
            // It may have been the greeting, which is sent only once.
            return self.failed(error);
        }
        self.fail_in_flight(error)
    }

    /// A bad reply fails only the call that it is for.
    fn bad_reply<'a>(&mut self, id: u64, error: PeerError) -> Output<'a, T> {
        if self.take_negotiation(id).is_some() {
            if self.state == State::Ready {
                return Output::Ignored(Ignored::Bad(error));
            }
            return self.failed(error);
        }
        match self.calls.answered(id).and_then(|call| call.token) {
            Some(token) => Output::Ended {
                token,
                result: Err(error.into()),
            },
            None => Output::Ignored(Ignored::Bad(error)),
        }
    }

    /// Stops reading from this connection.
    fn failed<'a>(&mut self, error: PeerError) -> Output<'a, T> {
        self.fail_session(error.clone());
        Output::Ignored(Ignored::Bad(error))
    }

    fn fail_in_flight<'a>(&mut self, error: PeerError) -> Output<'a, T> {
        // Unsent calls continue.
        for token in self.calls.take_sent().filter_map(|call| call.token) {
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

/// A part of a text, in the allocation of the whole.
fn cut_out(mut text: String, part: Range<usize>) -> String {
    text.truncate(part.end);
    text.drain(..part.start);
    text.shrink_to_fit();
    text
}
