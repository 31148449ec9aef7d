// SPDX-License-Identifier: MIT OR Apache-2.0
//! A QMP connection: session, transport, timers and run state in one.
//!
//! Bytes are decoded where they come in. Notifying the program waits for a
//! [`dispatch`](Connection::dispatch) from the main loop: spice-gtk holds a channel back
//! while its signal handlers run, so a nested main loop in a handler would receive
//! nothing more of it. A dispatch delivers what happened, in order and holding no
//! borrow, and then sends all that was asked for meanwhile in one write.
//!
//! It knows no GObject and no clock: what it needs of its owner is the trait [`Owner`].

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
    /// An event as the owner delivers it.
    type Event: OwnedEvent;

    /// Whether an event of this name is to be delivered.
    fn wants(&self, name: &str) -> bool;
    /// Whether anybody would be notified of a change of the property `pending`.
    fn hears_pending(&self) -> bool;
    /// Delivers an event.
    fn event(&self, event: Self::Event);
    /// Notifies of what has changed.
    fn changed(&self, changes: &[Change]);
    /// Runs a callback of the program's.
    fn call(&self, callback: impl FnOnce());
    /// Every delivery is done, and no other will follow.
    fn ended(&self);
    /// Has [`Connection::dispatch`] called from the main loop.
    fn schedule(&self, urgency: Urgency);
    /// Dispatches now where that was to come soon.
    fn dispatch_now(&self);
    /// Takes back what [`schedule`](Self::schedule) asked for.
    fn unschedule(&self);
    /// Has [`Connection::expire`] called at this time, instead of any other.
    fn arm(&self, at: Option<i64>);
    /// Nothing is under way, for a while perhaps: what that needs may go.
    fn rest(&self);
    /// What calls [`Connection::transport_gone`].
    fn transport_gone(&self) -> Closed;
    /// The time in microseconds, by a clock that never goes back.
    fn now(&self) -> i64;
}

/// An event that is kept until it is delivered.
pub(super) trait OwnedEvent: for<'a> From<&'a qmp::Event<'a>> {
    fn name(&self) -> &str;
    fn data(&self) -> Option<&str>;
}

/// Something that has changed.
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
    /// Events were dropped, the first of this connection: handlers nest too deep.
    Dropped,
}

/// How soon a dispatch is to follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Urgency {
    /// When the main loop has nothing better to do, such as drawing a window.
    Idle,
    Soon,
}

/// A call that has not ended.
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) deadline: Option<Deadline>,
    /// What is to be sent with it: closed when it was sent, or the call ends before.
    pub(super) fds: Option<Fds>,
}

/// Whose call it is.
pub(super) enum Kind {
    Program(Callback),
    Own(Question),
}

/// What the port asks for itself, for the property of that name.
#[derive(Debug, Clone, Copy)]
pub(super) enum Question {
    Status,
    Version,
}

/// Something to deliver.
pub(super) enum Delivery<E> {
    Ended(Kind, Result<String, Error>),
    Event(E),
    /// An event whose effect on the run state was notified of.
    Noted(E),
    State(State, Option<Error>),
    Bad(PeerError),
    Waited(Ended),
}

/// A QMP connection.
pub(super) struct Connection<O: Owner> {
    pub(super) session: RefCell<Session<Token>>,
    pub(super) transport: RefCell<Option<Rc<dyn Transport>>>,
    /// Whether that is a SPICE port of QEMU's.
    spice_port: Cell<bool>,
    pub(super) deliveries: RefCell<VecDeque<Delivery<O::Event>>>,
    pub(super) timers: Timers<Target>,
    pub(super) run_state: RunState,
    pub(super) waits: Waits,
    pub(super) traffic: Traffic,
    pub(super) version: RefCell<Option<Version>>,
    pub(super) last_error: RefCell<Option<Box<Error>>>,
    /// Whether the transport has a write that it did not answer.
    pub(super) writing: Cell<bool>,
    /// Whether something was written since the last dispatch, or one is under way: what
    /// is asked for then goes out in one write.
    pub(super) gathering: Cell<bool>,
    /// How many calls of the connection's own are in flight.
    pub(super) own_calls: Cell<u32>,
    pub(super) pending: Cell<u32>,
    pub(super) notified_pending: Cell<u32>,
    pub(super) was_ready: Cell<bool>,
    pub(super) responsive: Cell<bool>,
    pub(super) notified_responsive: Cell<bool>,
    pub(super) status_changed: Cell<bool>,
    /// Whether a port that has nothing to do gives back memory after this dispatch.
    pub(super) may_rest: Cell<bool>,
    /// When the peer last sent something, or was last given something to answer.
    pub(super) heard: Cell<i64>,
    /// How many deliveries run one within the other.
    pub(super) depth: Cell<u32>,
    pub(super) dropped: Cell<u64>,
    pub(super) seen_dropped: Cell<u64>,
    /// Whether the program was warned of it on this connection.
    pub(super) warned_dropped: Cell<bool>,
    /// How often the connection was lost.
    pub(super) closures: Cell<u64>,
    /// Whether it was let go of, for good.
    pub(super) released: Cell<bool>,
    /// Whether nothing of the transport is left.
    pub(super) gone: Cell<bool>,
    /// Whether nothing was left to deliver but the ends of closes.
    pub(super) quiet: Cell<bool>,
    pub(super) has_ended: Cell<bool>,
}

/// A handler may run a main loop in which the next one is called. A peer that sends
/// events faster than handlers return would make them overflow the stack. So deep in
/// each other they may be: what comes then is dropped, but for ends of calls.
pub(super) const MAX_NESTING: u32 = 32;

/// After so long without a byte a peer that owes something is not responsive.
const SILENCE: i64 = 3_000_000;

/// How long a close waits for what QEMU owes. Over SPICE QEMU may crash or freeze for
/// ever where a client leaves before.
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

    /// The transport, while there is one. Nothing is borrowed then.
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

    /// How many events were dropped because handlers nested too deep.
    pub(super) fn dropped(&self) -> u64 {
        self.dropped.get()
    }

    /// Whether it was let go of, for good.
    pub(super) fn is_released(&self) -> bool {
        self.released.get()
    }

    /// How long a close waits by default.
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

    /// The connection is gone, for good where it cannot come back.
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

    /// Ends all calls and lets go of the connection, for good.
    pub(super) fn release(&self, owner: &O, reason: &str) {
        self.release_for(owner, Error::Closed(reason.into()));
    }

    /// [`release`](Self::release) with an error that says why.
    pub(super) fn release_for(&self, owner: &O, error: Error) {
        if self.released.replace(true) {
            return;
        }
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

    /// Nothing of the transport is left.
    pub(super) fn transport_gone(&self, owner: &O) {
        self.gone.set(true);
        // Of a port that was disposed of nobody waits for it, and any thread may drop it.
        if self.waits.any_close() {
            owner.schedule(Urgency::Soon);
        }
    }

    /// Changes the session, after what came before and before what comes next.
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

    /// Decodes what the session holds back.
    pub(super) fn decode_all(&self, owner: &O, session: &mut Session<Token>) {
        while let Some(output) = session.receive(&mut &[][..]) {
            self.plan(owner, output);
        }
    }

    /// Takes bytes that do nothing but go on with a message, as most of a long one do: the
    /// owner is not needed for them. False where there is more to do; then none is taken.
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
        // What is behind something undelivered waits with it.
        session.buffer_input(input);
        if session.buffered() > limits::MAX_BUFFERED {
            session.give_up(PeerError::TooLarge {
                limit: limits::MAX_BUFFERED,
            });
            decodes = false;
        }
        let incomplete = session.mid_message() && session.state() == State::Ready;
        // A message that is not delivered may still allow or want something to be sent.
        let unsent = session.has_unsent();
        let negotiates = session.state() == State::Negotiating;
        drop(session);
        self.traffic.write();
        if unsent && negotiates && !self.gathering.get() {
            // Within its signal: spice-gtk sends it before it waits for more.
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

    /// Bytes have come, and a message is incomplete or none is.
    fn watch_for_stall(&self, incomplete: bool) {
        if self.is_spice_port() {
            self.timers.watch_for_stall(self.heard.get(), incomplete);
        }
    }

    /// Keeps what is to be delivered of an output; true if something is. Allocates
    /// nothing for an event that is not wanted. Runs no code of the program's.
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
        // Those that are held back while handlers nest too deep must not pile up.
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

    /// Whether handlers run main loops within each other too deep.
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

    /// Whether a property has changed that was not notified of, or QEMU is to be asked.
    pub(super) fn has_news(&self, owner: &O) -> bool {
        self.run_state.is_question_due(self.heard.get()) && self.state() == State::Ready
            || self.responsive.get() != self.notified_responsive.get()
            || self.status_changed.get()
            || self.is_pending_news(owner)
    }

    /// Whether somebody is to be notified of the property `pending`, which changes with each
    /// call. Who listens to it from now on is notified of what changes from now on.
    pub(super) fn is_pending_news(&self, owner: &O) -> bool {
        let pending = self.pending.get();
        let news = pending != self.notified_pending.get() && owner.hears_pending();
        if !news {
            self.notified_pending.set(pending);
        }
        news
    }

    // --- what goes out ---

    /// Hands all that waits to the transport, in one write.
    pub(super) fn flush(&self) {
        // What is written to a mute port is read when the machine runs again; QEMU
        // crashes then if the client has left meanwhile (7.2 and 10.0).
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

    /// A call of the connection's own. It has no deadline: a reply that comes late is
    /// as good, and one that never comes holds nothing up.
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

    /// Whether QEMU owes an answer to the program: to a command, or a part of one.
    pub(super) fn owes_program(&self) -> bool {
        let session = self.session.borrow();
        let own = self.own_calls.get() as usize;
        session.unanswered() > own || session.mid_message()
    }

    /// Something was given to the peer to answer, or came from it.
    pub(super) fn set_responsive(&self) {
        self.responsive.set(true);
    }

    /// Has the owner's timer go off at the next time that matters.
    pub(super) fn arm(&self, owner: &O) {
        self.watch_for_silence();
        let next = [self.timers.next(), self.run_state.next()];
        owner.arm(next.into_iter().flatten().min());
    }

    /// Sets when the peer has been silent for too long, if it is to say something.
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
    /// Whether it ends a call or a wait of the program's.
    pub(super) fn is_end(&self) -> bool {
        matches!(self, Self::Ended(Kind::Program(_), _) | Self::Waited(_))
    }
}

#[cfg(test)]
mod tests;
