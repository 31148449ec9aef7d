// SPDX-License-Identifier: MIT OR Apache-2.0
//! The client's end of a QMP connection as a state machine.

use super::calls::CallId;
use super::core::{Core, Quit};
use super::framing::{Frame, Framer};
use super::limits::{MAX_IN_FLIGHT, MAX_MESSAGE_SIZE};
use super::output::{Opening, Output, Queued};
use super::request::Band;
use super::{Error, Greeting, PeerError, State};

/// A QMP session; `T` is the token that the caller receives when a call ends.
///
/// Feed it with [`open`](Self::open), [`receive`](Self::receive) and
/// [`close`](Self::close); send what [`poll_transmit`](Self::poll_transmit)
/// returns. Every call ends exactly once, with [`Output::Ended`] or by
/// [`forget`](Self::forget).
#[derive(Debug)]
pub struct Session<T> {
    framer: Framer,
    core: Core<T>,
}

impl<T> Session<T> {
    /// A closed session whose requests have ids from `first_id` on.
    ///
    /// Ids must not collide with those of an earlier session on the same
    /// monitor, whose late replies may still arrive: choose `first_id` at random
    /// between 2^24 and 2^31.
    #[must_use]
    pub fn new(first_id: u64) -> Self {
        Self {
            framer: Framer::new(MAX_MESSAGE_SIZE),
            core: Core::new(first_id),
        }
    }

    /// The state; see [`State`] for the table.
    #[must_use]
    pub fn state(&self) -> State {
        self.core.state
    }

    /// What the server said about itself, while the session is open.
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
        self.core.error.as_deref()
    }

    /// Whether [`poll_transmit`](Self::poll_transmit) would return something, now or
    /// when QEMU has answered other commands.
    #[must_use]
    pub fn has_unsent(&self) -> bool {
        self.core.calls.has_unsent()
    }

    /// How many commands were not handed over by [`poll_transmit`](Self::poll_transmit) yet.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.core.calls.unsent()
    }

    /// How many commands have not been answered yet, sent or not,
    /// including those that were [forgotten](Self::forget).
    #[must_use]
    pub fn unanswered(&self) -> usize {
        self.core.calls.unanswered()
    }

    /// How many bytes of input wait to be decoded.
    #[must_use]
    pub fn buffered(&self) -> usize {
        self.framer.buffered()
    }

    /// Frees memory that only an active session needs.
    pub fn shrink_to_fit(&mut self) {
        self.framer.shrink_to_fit();
        self.core.calls.shrink_to_fit();
        self.core.outputs.shrink_to_fit();
        self.core.negotiations.shrink_to_fit();
    }

    /// An id that no call has or will ever have.
    pub fn unused_id(&mut self) -> CallId {
        CallId(self.core.calls.take_id())
    }

    /// Ends the session, and all calls, with an error of the peer's.
    pub fn give_up(&mut self, error: PeerError) {
        self.framer.reset();
        self.core.fail_session(error);
    }

    /// Whether nothing is to be sent and no reply is due, not even to a call that the
    /// caller has given up.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        let core = &self.core;
        !core.calls.awaits_reply() && core.negotiations.is_empty() && !core.calls.has_unsent()
    }

    /// Whether one of the caller's calls has not ended, sent or not.
    #[must_use]
    pub fn awaits_caller(&self) -> bool {
        self.core.calls.pending() > 0
    }

    /// Whether QEMU owes a reply: to a call, with or without a caller, or to the
    /// negotiation. What [`poll_transmit`](Self::poll_transmit) returned counts
    /// at once, because QEMU may have received it.
    #[must_use]
    pub fn awaits_reply(&self) -> bool {
        self.core.awaits_reply()
    }

    /// Whether input that was [buffered](Self::buffer_input) waits.
    #[must_use]
    pub fn has_input(&self) -> bool {
        self.framer.has_more()
    }

    /// Whether [`receive`](Self::receive) may return something without further input.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.core.outputs.is_empty() || self.framer.has_more()
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn mid_message(&self) -> bool {
        self.framer.mid_message()
    }

    /// How many bytes of the unfinished message have been received.
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

    /// Whether each command ends in a line feed, as it does by default.
    ///
    /// QEMU does not need one, and answers a command before it reads what comes after it. A
    /// SPICE client that disconnects while a byte is unread crashes QEMU (7.2, 10.0), so
    /// line feeds should not be sent there. A `qmp_capabilities` without a preceding greeting
    /// ends in one all the same: it may reach a human monitor, which waits for it.
    pub fn set_line_feeds(&mut self, line_feeds: bool) {
        self.core.calls.set_line_feeds(line_feeds);
    }

    /// A connection is being made; an earlier one is gone.
    pub fn connecting(&mut self) {
        if !matches!(self.core.state, State::Closed | State::Connecting) {
            self.close("a new connection is being made");
        }
        self.core.set_state(State::Connecting);
    }

    /// The connection is open. If it was open before, it was reopened: the
    /// calls in flight fail first.
    pub fn open(&mut self, opening: Opening) {
        if !matches!(self.core.state, State::Closed | State::Connecting) {
            self.close("the peer reopened the connection");
        }
        self.framer.reset();
        self.core.open(opening);
    }

    /// The connection is gone, for the given reason. Fails all calls, except that a `quit`
    /// that was sent has succeeded.
    pub fn close(&mut self, reason: &str) {
        self.framer.reset();
        self.core.close(reason, Quit::Succeeded);
    }

    /// The program closes the connection, for the given reason. Fails all calls.
    pub fn shut_down(&mut self, reason: &str) {
        self.framer.reset();
        self.core.close(reason, Quit::Unknown);
    }

    /// [`shut_down`](Self::shut_down) with an error other than
    /// [`Closed`](Error::Closed) that says why there is no connection any more.
    pub fn shut_down_for(&mut self, error: Error) {
        self.framer.reset();
        self.core.close_for(error, Quit::Unknown);
    }

    /// What was handed over by [`poll_transmit`](Self::poll_transmit) and not
    /// acknowledged by [`transmitted`](Self::transmitted) did not reach the
    /// peer. Call [`close`](Self::close) next.
    pub fn transmit_failed(&mut self) {
        self.core.calls.transmit_failed();
    }

    /// Issues a command. `arguments` is a JSON object. The call ends with an
    /// [`Output::Ended`], even if it cannot be sent.
    pub fn execute(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        token: T,
    ) -> CallId {
        self.core.execute(command, arguments, band, false, token)
    }

    /// Sets whether the connection can carry file descriptors. By default it cannot.
    pub fn set_can_carry(&mut self, can_carry: bool) {
        self.core.can_carry = can_carry;
    }

    /// [`execute`](Self::execute) for a command that carries file descriptors. The session
    /// does not know them: `token` may hold them.
    ///
    /// The request starts a piece of [`poll_transmit`](Self::poll_transmit), after which
    /// [`carrier`](Self::carrier) returns its token: the descriptors must be sent with the
    /// first byte. One such command is in flight at a time, and later commands in the same
    /// band wait with it: QEMU gives descriptors to the wrong command if `oob` is on and
    /// two of them are in its queue.
    pub fn execute_carrying(
        &mut self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        token: T,
    ) -> CallId {
        self.core.execute(command, arguments, band, true, token)
    }

    /// The token of the command in flight that was issued by
    /// [`execute_carrying`](Self::execute_carrying), while it has one.
    pub fn carrier(&mut self) -> Option<&mut T> {
        self.core.calls.carrier_token()
    }

    /// Ends a call with `error`. A call that was not sent yet will not be sent;
    /// the reply to one that was sent will be dropped. Returns false if it has ended.
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

    /// Ends a call without an output and returns its token.
    pub fn forget(&mut self, id: CallId) -> Option<T> {
        self.core.calls.abandon(id.0)
    }

    /// The name of the command of a call that has not ended.
    #[must_use]
    pub fn command(&self, id: CallId) -> Option<&str> {
        self.core.calls.command(id.0)
    }

    /// Sends a small command of the session's own and drops its reply.
    ///
    /// QEMU 7.2 and 10.0 stop sending a long reply on a SPICE port until another
    /// command produces output. `query-name` is short in both directions and
    /// known to every QEMU.
    pub fn nudge(&mut self) {
        if self.core.state == State::Ready {
            self.core
                .calls
                .issue("query-name", None, Band::In, false, None);
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

    /// What [`poll_transmit`](Self::poll_transmit) returned has been sent.
    pub fn transmitted(&mut self) {
        self.core.calls.transmitted();
    }

    /// Consumes `input` up to the end of its next message and returns the outcome.
    /// Call it until it returns `None`; then all of `input` is consumed.
    ///
    /// The output borrows from `input` or from the session. Before running
    /// code that may feed the session, buffer the rest of the input
    /// with [`buffer_input`](Self::buffer_input).
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
        let Some(frame) = self.framer.next(input) else {
            return self.core.begun(self.framer.begun());
        };
        Some(match frame {
            Frame::InPlace(bytes) => self.core.message(bytes),
            Frame::Buffered(range) => self.core.message(self.framer.bytes(&range)),
            Frame::Large(bytes) => self.core.large_message(bytes),
            Frame::Broken => self.core.broken(),
            Frame::TooLarge(head) => self.core.too_large(&head, self.framer.limit()),
        })
    }

    /// Consumes `input` if it merely continues a message, so that [`receive`](Self::receive)
    /// would return `None`. Returns false if it may do more; then nothing is consumed.
    pub fn goes_on(&mut self, input: &[u8]) -> bool {
        self.core.state == State::Ready
            && self.core.outputs.is_empty()
            && self.framer.goes_on(input)
    }

    /// Keeps the rest of an input for the next [`receive`](Self::receive),
    /// which consumes it before its own.
    pub fn buffer_input(&mut self, rest: &[u8]) {
        self.framer.buffer_input(rest);
    }
}
