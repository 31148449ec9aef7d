// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QMP connection: session, transport, timers and run state together.
//!
//! Bytes are decoded when they arrive. Notifying the program waits for a
//! [`dispatch`](Connection::dispatch) from the main loop: spice-gtk delivers nothing more
//! on a channel while its signal handlers run, so a nested main loop in a handler would
//! receive nothing more from it. A dispatch delivers what happened, in order and without
//! holding a borrow, and then sends everything that was requested meanwhile in one write,
//! or in batches.
//!
//! It knows no GObject and no clock: it reaches its owner through the trait [`Owner`].

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use super::log::{Passed, Traffic};
use super::run_state::{self, RunState, StatusInfo};
use super::timers::{Deadline, Timers};
use super::waits::{Ended, Target, Waits};
use crate::qmp::{
    self, Band, Error, Ignored, Opening, Output, PeerError, Session, State, Version, limits,
};
use crate::transport::{Closed, Fds, Flow, Incoming, Transport};

/// Called once, when a call ends.
pub(super) type Callback = Box<dyn FnOnce(Result<String, Error>)>;

/// What a connection needs of its owner.
pub(super) trait Owner: Sized {
    /// An event in the form in which the owner delivers it.
    type Event: OwnedEvent;

    /// Whether events of this name are to be delivered.
    fn wants(&self, name: &str) -> bool;
    /// Whether the property `pending` has any signal handlers.
    fn hears_pending(&self) -> bool;
    /// Delivers an event.
    fn event(&self, event: Self::Event);
    /// Notifies the program of changes.
    fn changed(&self, changes: &[Change]);
    /// Runs a callback of the program's.
    fn call(&self, callback: impl FnOnce());
    /// The last delivery has been made.
    fn ended(&self);
    /// Arranges for [`Connection::dispatch`] to be called from the main loop.
    fn schedule(&self, urgency: Urgency);
    /// Dispatches now if a dispatch was about to follow.
    fn dispatch_now(&self);
    /// Revokes [`schedule`](Self::schedule).
    fn unschedule(&self);
    /// Arranges for [`Connection::expire`] to be called at this time only.
    fn arm(&self, at: Option<i64>);
    /// Nothing is under way, perhaps for a while: resources for it may be freed.
    fn rest(&self);
    /// A closure that calls [`Connection::transport_gone`].
    fn transport_gone(&self) -> Closed;
    /// The time in microseconds, from a monotonic clock.
    fn now(&self) -> i64;
}

/// An event that is kept until it is delivered.
pub(super) trait OwnedEvent: for<'a> From<&'a qmp::Event<'a>> {
    fn name(&self) -> &str;
    fn data(&self) -> Option<&str>;
}

/// A change to notify the program of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    State,
    Ready,
    Version,
    Capabilities,
    Status,
    Responsive,
    Pending,
    LastError,
    /// Events were dropped for the first time on this connection: handlers nest too deeply.
    Dropped,
}

/// How soon a dispatch is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// When the main loop is idle: after drawing a window, for example.
    Idle,
    Soon,
}

/// A call that has not ended.
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) deadline: Option<Deadline>,
    /// File descriptors to send with it; closed once sent, or when the call ends before that.
    pub(super) fds: Option<Fds>,
}

/// Whose call it is.
pub(super) enum Kind {
    Program(Callback),
    Own(Question),
}

/// A command that the port sends for itself, to set the property of that name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    Status,
    Version,
}

/// Something to deliver.
pub(super) enum Delivery<E> {
    Ended(Kind, Result<String, Error>),
    Event(E),
    /// An event whose effect on the run state has already been notified.
    Noted(E),
    State(State, Option<Error>),
    Bad(PeerError),
    Waited(Ended),
}

/// A QMP connection.
pub(super) struct Connection<O: Owner> {
    pub(super) session: RefCell<Session<Token>>,
    pub(super) transport: RefCell<Option<Rc<dyn Transport>>>,
    /// Whether it runs over a SPICE port of QEMU's.
    spice_port: Cell<bool>,
    pub(super) deliveries: RefCell<VecDeque<Delivery<O::Event>>>,
    pub(super) timers: Timers<Target>,
    pub(super) run_state: RunState,
    pub(super) waits: Waits,
    pub(super) traffic: Traffic,
    pub(super) version: RefCell<Option<Version>>,
    pub(super) last_error: RefCell<Option<Box<Error>>>,
    /// Whether the transport has a write that it has not finished.
    pub(super) writing: Cell<bool>,
    /// Whether something was written since the last dispatch, or a dispatch is running:
    /// later requests then go out together in one write.
    pub(super) gathering: Cell<bool>,
    /// How many of the connection's own calls are in flight.
    pub(super) own_calls: Cell<u32>,
    pub(super) pending: Cell<u32>,
    pub(super) notified_pending: Cell<u32>,
    pub(super) was_ready: Cell<bool>,
    pub(super) responsive: Cell<bool>,
    pub(super) notified_responsive: Cell<bool>,
    pub(super) status_changed: Cell<bool>,
    /// Whether to free memory after this dispatch if the port is idle.
    pub(super) may_rest: Cell<bool>,
    /// When the peer last sent something, or was last sent something to answer.
    pub(super) heard: Cell<i64>,
    /// How many deliveries are nested.
    pub(super) depth: Cell<u32>,
    pub(super) dropped: Cell<u64>,
    pub(super) seen_dropped: Cell<u64>,
    /// Whether the program was warned about that on this connection.
    pub(super) warned_dropped: Cell<bool>,
    /// How many times the connection was lost.
    pub(super) closures: Cell<u64>,
    /// Whether it was released, for good.
    pub(super) released: Cell<bool>,
    /// Whether the program had asked for that.
    closed: Cell<bool>,
    /// Whether the transport has released everything.
    pub(super) gone: Cell<bool>,
    /// Whether only ends of closes were left to deliver.
    pub(super) quiet: Cell<bool>,
    pub(super) has_ended: Cell<bool>,
}

/// A handler may run a nested main loop that calls the next handler. A peer that sends
/// events faster than handlers return would overflow the stack. This is how deeply handlers
/// may nest: later events are dropped, but ends of calls are not.
pub(super) const MAX_NESTING: u32 = 32;

/// After this time without a byte, a peer that owes something is not responsive.
const SILENCE: i64 = 3_000_000;

/// How long a close waits for what QEMU owes. Over SPICE, QEMU may crash or freeze
/// for ever if a client disconnects before.
const CLOSE_TIMEOUT_OF_SPICE: Duration = Duration::from_secs(10);
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);

impl<O: Owner> Connection<O> {
    /// A connection whose requests have ids from `first_id` on.
    pub(super) fn new(first_id: u64) -> Self {
        Self {
            session: RefCell::new(Session::new(first_id)),
            transport: RefCell::default(),
            spice_port: Cell::default(),
            deliveries: RefCell::default(),
            timers: Timers::default(),
            run_state: RunState::default(),
            waits: Waits::default(),
            traffic: Traffic::default(),
            version: RefCell::default(),
            last_error: RefCell::default(),
            writing: Cell::default(),
            gathering: Cell::default(),
            own_calls: Cell::default(),
            pending: Cell::default(),
            notified_pending: Cell::default(),
            was_ready: Cell::default(),
            responsive: Cell::new(true),
            notified_responsive: Cell::new(true),
            status_changed: Cell::default(),
            may_rest: Cell::default(),
            heard: Cell::default(),
            depth: Cell::default(),
            dropped: Cell::default(),
            seen_dropped: Cell::default(),
            warned_dropped: Cell::default(),
            closures: Cell::default(),
            released: Cell::default(),
            closed: Cell::default(),
            gone: Cell::new(true),
            quiet: Cell::default(),
            has_ended: Cell::default(),
        }
    }

    /// Speaks QMP over `transport`, whose reports go to [`incoming`](Self::incoming).
    /// The caller starts it.
    pub(super) fn attach(&self, transport: Rc<dyn Transport>) {
        let mut session = self.session.borrow_mut();
        session.set_line_feeds(!transport.is_spice_port());
        session.set_can_carry(transport.carries_fds());
        drop(session);
        self.gone.set(false);
        self.spice_port.set(transport.is_spice_port());
        self.transport.replace(Some(transport));
    }

    /// The transport was started. Nobody can have connected to the states that it has passed
    /// through, and a dispatch for them would only delay the greeting.
    pub(super) fn started(&self, owner: &O) {
        let passing = |delivery: &Delivery<_>| match delivery {
            Delivery::State(State::Connecting | State::Greeting | State::Negotiating, error) => {
                error.is_none()
            }
            _ => false,
        };
        self.deliveries.borrow_mut().retain(|it| !passing(it));
        if !self.has_more() && !self.session.borrow().has_unsent() {
            owner.unschedule();
        }
    }

    /// The transport, if any. Holds no borrow.
    pub(super) fn transport(&self) -> Option<Rc<dyn Transport>> {
        self.transport.borrow().clone()
    }

    pub(super) fn is_spice_port(&self) -> bool {
        self.spice_port.get()
    }

    pub(super) fn state(&self) -> State {
        self.session.borrow().state()
    }

    pub(super) fn pending(&self) -> u32 {
        self.pending.get()
    }

    pub(super) fn version(&self) -> Option<Version> {
        self.version.borrow().clone()
    }

    pub(super) fn status(&self) -> Option<StatusInfo> {
        self.run_state.known()
    }

    pub(super) fn last_error(&self) -> Option<Error> {
        self.last_error.borrow().as_deref().cloned()
    }

    pub(super) fn is_responsive(&self) -> bool {
        self.responsive.get()
    }

    /// How many events were dropped because handlers nest too deeply.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Whether it was released, for good.
    pub(super) fn is_released(&self) -> bool {
        self.released.get()
    }

    /// Whether the program closes it, or has.
    pub(super) fn is_closing(&self) -> bool {
        self.closed.get() || self.waits.any_close()
    }

    /// The default timeout of a close.
    pub(super) fn default_close_timeout(&self) -> Duration {
        if self.is_spice_port() {
            CLOSE_TIMEOUT_OF_SPICE
        } else {
            CLOSE_TIMEOUT
        }
    }

    /// A report of the transport.
    pub(super) fn incoming(&self, owner: &O, incoming: Incoming<'_>) -> Flow {
        match incoming {
            Incoming::Data(bytes) => return self.receive(owner, bytes),
            Incoming::Pause => owner.dispatch_now(),
            Incoming::Written => {
                if self.writing.replace(false) {
                    self.session.borrow_mut().transmitted();
                    self.flush();
                    if self.waits.any() {
                        owner.schedule(Urgency::Soon);
                    }
                }
            }
            Incoming::WriteFailed(reason) => {
                if self.writing.replace(false) {
                    self.session.borrow_mut().transmit_failed();
                    self.lose(owner, &reason);
                }
            }
            Incoming::Closed(reason) => self.lose(owner, &reason),
            Incoming::Connecting => self.change(owner, Session::connecting),
            Incoming::Opened { late } => {
                self.writing.set(false);
                self.heard.set(owner.now());
                let opening = match late {
                    true => Opening::GreetingMayBeGone,
                    false if self.is_spice_port() => Opening::GreetingAfterRest,
                    false => Opening::GreetingComes,
                };
                self.change(owner, |session| session.open(opening));
            }
        }
        Flow::On
    }

    /// Handles the loss of the connection, which is final if the transport cannot reopen it.
    fn lose(&self, owner: &O, reason: &str) {
        self.end(owner, |session| session.close(reason));
        if self.transport().is_some_and(|it| !it.reopens()) {
            self.release(owner, reason);
        }
    }

    /// Ends the connection as `close` does.
    fn end(&self, owner: &O, close: impl FnOnce(&mut Session<Token>)) {
        self.closures.set(self.closures.get() + 1);
        self.writing.set(false);
        self.timers.watch_for_stall(0, false);
        self.change(owner, close);
    }

    /// Ends all calls and releases the connection, for good.
    pub(super) fn release(&self, owner: &O, reason: &str) {
        self.release_for(owner, Error::Closed(reason.into()));
    }

    /// [`release`](Self::release) with an error as the reason.
    pub(super) fn release_for(&self, owner: &O, error: Error) {
        if self.released.replace(true) {
            return;
        }
        self.closed.set(self.waits.any_close());
        let owes = self.owes();
        self.end(owner, |session| session.shut_down_for(error));
        self.spice_port.set(false);
        let transport = self.transport.take();
        if let Some(transport) = transport {
            if owes {
                transport.close_owed(owner.transport_gone());
            } else {
                transport.close_then(owner.transport_gone());
            }
        }
    }

    /// The transport has released everything.
    pub(super) fn transport_gone(&self, owner: &O) {
        self.gone.set(true);
        // If the port was disposed of, nothing waits for this, and any thread may drop it.
        if self.waits.any_close() {
            owner.schedule(Urgency::Soon);
        }
    }

    /// Changes the session, in order with what came before and what comes next.
    fn change(&self, owner: &O, change: impl FnOnce(&mut Session<Token>)) {
        let mut session = self.session.borrow_mut();
        self.decode_all(owner, &mut session);
        change(&mut session);
        self.decode_all(owner, &mut session);
        drop(session);
        self.traffic.write();
        self.arm(owner);
        owner.schedule(Urgency::Soon);
    }

    /// Decodes the input that the session has buffered.
    pub(super) fn decode_all(&self, owner: &O, session: &mut Session<Token>) {
        while let Some(output) = session.receive(&mut &[][..]) {
            self.plan(owner, output);
        }
    }

    /// Consumes bytes that merely continue a message, as most bytes of a long one do: the
    /// owner is not needed for them. Returns false if there is more to do, consuming nothing.
    pub(super) fn goes_on(&self, bytes: &[u8], now: i64) -> bool {
        if self.is_deep() || !self.responsive.get() || !self.deliveries.borrow().is_empty() {
            return false;
        }
        let goes_on = self.session.borrow_mut().goes_on(bytes);
        if goes_on {
            self.heard.set(now);
            self.watch_for_stall(true);
        }
        goes_on
    }

    fn receive(&self, owner: &O, mut input: &[u8]) -> Flow {
        self.heard.set(owner.now());
        self.set_responsive();
        let deep = self.is_deep();
        let mut session = self.session.borrow_mut();
        let mut decodes = deep || self.deliveries.borrow().is_empty();
        while decodes && let Some(output) = session.receive(&mut input) {
            decodes = !self.plan(owner, output) || deep;
        }
        // Input behind something undelivered waits with it.
        session.buffer_input(input);
        if session.buffered() > limits::MAX_BUFFERED {
            session.give_up(PeerError::TooLarge {
                limit: limits::MAX_BUFFERED,
            });
            decodes = false;
        }
        let incomplete = session.mid_message() && session.state() == State::Ready;
        // A message that is not delivered may still allow or require something to be sent.
        let unsent = session.has_unsent();
        let negotiates = session.state() == State::Negotiating;
        drop(session);
        self.traffic.write();
        if unsent && negotiates && !self.gathering.get() {
            // Within the signal handler: spice-gtk sends it before it waits for more.
            self.flush();
        }
        let dispatch = !decodes || unsent || deep || self.has_news(owner) || self.waits.any();
        if dispatch {
            owner.schedule(Urgency::Soon);
        }
        self.watch_for_stall(incomplete);
        self.arm(owner);
        if dispatch { Flow::Wait } else { Flow::On }
    }

    /// Bytes have arrived; a message may be incomplete.
    fn watch_for_stall(&self, incomplete: bool) {
        if self.is_spice_port() {
            self.timers.watch_for_stall(self.heard.get(), incomplete);
        }
    }

    /// Queues what is to be delivered of an output; returns true if there is something.
    /// Allocates nothing for an event that is not wanted. Runs none of the program's code.
    pub(super) fn plan(&self, owner: &O, output: Output<'_, Token>) -> bool {
        let delivery = match output {
            Output::Ended { token, result } => {
                self.traffic.note(&match &result {
                    Ok(value) => Passed::Returned(value),
                    Err(error) => Passed::Failed(error),
                });
                if let Some(deadline) = token.deadline {
                    self.timers.remove(deadline);
                }
                if !matches!(token.kind, Kind::Program(_)) {
                    self.own_calls.set(self.own_calls.get() - 1);
                }
                Delivery::Ended(token.kind, result.map(Cow::into_owned))
            }
            Output::Event(event) => return self.plan_event(owner, &event),
            Output::State { state, error } => {
                self.traffic.note(&Passed::State(state, error.as_ref()));
                Delivery::State(state, error)
            }
            Output::Ignored(Ignored::Reply) => {
                self.traffic.note(&Passed::Stray);
                return false;
            }
            Output::Ignored(Ignored::Bad(error)) => {
                self.traffic.note(&Passed::Bad(&error));
                Delivery::Bad(error)
            }
        };
        self.push(delivery);
        true
    }

    fn plan_event(&self, owner: &O, event: &qmp::Event<'_>) -> bool {
        self.traffic.note(&Passed::Event(event));
        if self.is_deep() {
            self.note_run_state(owner, &event.name, event.data.as_deref());
            if owner.wants(&event.name) {
                self.dropped.set(self.dropped.get() + 1);
            }
            return false;
        }
        let wanted = run_state::concerns(&event.name) || owner.wants(&event.name);
        if wanted {
            self.push(Delivery::Event(O::Event::from(event)));
        }
        wanted
    }

    pub(super) fn push(&self, delivery: Delivery<O::Event>) {
        let mut deliveries = self.deliveries.borrow_mut();
        // States held back while handlers nest too deeply must not pile up.
        if self.is_deep()
            && let (Delivery::State(..), Some(Delivery::State(..)))
            | (Delivery::Bad(_), Some(Delivery::Bad(_))) = (&delivery, deliveries.back())
        {
            deliveries.pop_back();
        }
        deliveries.push_back(delivery);
    }

    pub(super) fn note_run_state(&self, owner: &O, name: &str, data: Option<&str>) {
        if run_state::concerns(name) {
            let spice = self.is_spice_port();
            if self.run_state.event(owner.now(), name, data, spice) {
                self.status_changed.set(true);
            }
        }
    }

    /// Whether handlers nest too deeply.
    pub(super) fn is_deep(&self) -> bool {
        self.depth.get() >= MAX_NESTING
    }

    /// Whether a dispatch would deliver something.
    pub(super) fn has_more(&self) -> bool {
        let deliveries = self.deliveries.borrow();
        let deliverable = if self.is_deep() {
            deliveries.iter().any(Delivery::is_end)
        } else {
            !deliveries.is_empty()
        };
        deliverable || self.session.borrow().has_more()
    }

    /// Whether a property has a change to notify of, or QEMU is to be asked.
    pub(super) fn has_news(&self, owner: &O) -> bool {
        self.run_state.is_question_due(self.heard.get()) && self.state() == State::Ready
            || self.responsive.get() != self.notified_responsive.get()
            || self.status_changed.get()
            || self.is_pending_news(owner)
    }

    /// Whether to notify of the property `pending`, which changes with each call. A new handler
    /// is notified of later changes only.
    pub(super) fn is_pending_news(&self, owner: &O) -> bool {
        let pending = self.pending.get();
        let news = pending != self.notified_pending.get() && owner.hears_pending();
        if !news {
            self.notified_pending.set(pending);
        }
        news
    }

    // --- sending ---

    /// Passes everything that waits to the transport, in one write.
    pub(super) fn flush(&self) {
        // QEMU reads what is written to a mute port when the machine runs again, and crashes
        // then if the client has disconnected meanwhile (7.2 and 10.0).
        if self.writing.get() || self.run_state.is_mute() {
            return;
        }
        let Some(transport) = self.transport() else {
            return;
        };
        let mut session = self.session.borrow_mut();
        let Some(bytes) = session.poll_transmit() else {
            return;
        };
        let fds = session.carrier().and_then(|token| token.fds.take());
        drop(session);
        self.writing.set(true);
        self.gathering.set(true);
        match fds {
            Some(fds) => transport.write_with_fds(bytes, fds),
            None => transport.write(bytes),
        }
    }

    /// Issues one of the connection's own calls. It has no deadline: a late reply is
    /// as good, and a missing one delays nothing.
    pub(super) fn execute_own(&self, command: &str, question: Question) {
        self.traffic.note(&Passed::Sent(command, None));
        self.own_calls.set(self.own_calls.get() + 1);
        let token = Token {
            kind: Kind::Own(question),
            deadline: None,
            fds: None,
        };
        self.session
            .borrow_mut()
            .execute(command, None, Band::In, token);
    }

    /// Whether QEMU owes the program an answer, or the rest of one.
    pub(super) fn owes_program(&self) -> bool {
        let session = self.session.borrow();
        let own = self.own_calls.get() as usize;
        session.unanswered() > own || session.mid_message()
    }

    /// The peer was sent something to answer, or has sent something.
    pub(super) fn set_responsive(&self) {
        self.responsive.set(true);
    }

    /// Sets the owner's timer to the next time that matters.
    pub(super) fn arm(&self, owner: &O) {
        self.watch_for_silence();
        let next = [self.timers.next(), self.run_state.next()];
        owner.arm(next.into_iter().flatten().min());
    }

    /// Sets when the peer will have been silent for too long, if it owes something.
    pub(super) fn watch_for_silence(&self) {
        let due = match self.state() {
            State::Greeting | State::Negotiating => true,
            State::Ready => self.pending.get() > 0 || self.owes_program(),
            State::Closed | State::Connecting | State::Failed => false,
        };
        if !due {
            self.responsive.set(true);
        }
        let silent_at = self.heard.get() + SILENCE;
        let silence = (due && self.responsive.get()).then_some(silent_at);
        self.timers.set_silence(silence);
    }
}

impl<E> Delivery<E> {
    /// Whether it ends one of the program's calls or waits.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Ended(Kind::Program(_), _) | Self::Waited(_))
    }
}

#[cfg(test)]
mod tests;
