//! Joins protocol and transport: what comes in, what is told, what goes out.
//!
//! Bytes are decoded where they come in. Telling the program of it waits for a
//! turn of the main loop: spice-gtk holds a channel back while its signal
//! handlers run, so a nested main loop in a handler would hear no more of it.
//! A turn tells all that happened, in order, and then sends all that was asked
//! for meanwhile in one write.

use glib::prelude::*;
use glib::subclass::SignalId;
use glib::subclass::prelude::*;
use once_cell::sync::Lazy;
use serde_json::value::RawValue;

use super::imp::{EVENT, QMP_EVENT, QmpPort};
use super::timers::Deadline;
use super::{Event, json_glib, live, log};
use crate::qmp::{Error, Ignored, Opening, Output, PeerError, Session, State};
use crate::transport::Incoming;

/// Called once, when a call ends.
pub(super) type Callback = Box<dyn FnOnce(Result<Box<RawValue>, Error>)>;

/// Whose call it is.
pub(super) enum Token {
    Caller(Callback, Option<Deadline>),
    /// The port's own, for the property `status`.
    Status,
    /// The port's own, for the property `version`.
    Version,
}

/// Something to tell.
pub(super) enum Action {
    Ended(Token, Result<Box<RawValue>, Error>),
    Event(Event),
    State(State),
    Bad(PeerError),
}

/// After so much the main loop gets a turn of its own: a callback that makes the
/// next call as soon as one fails would keep it away for ever.
pub(super) const TOLD_AT_ONCE: usize = 256;

impl QmpPort {
    /// A report of the transport.
    pub(super) fn incoming(&self, incoming: Incoming<'_>) {
        match incoming {
            Incoming::Data(bytes) => self.receive(bytes),
            Incoming::Written => {
                if self.writing.replace(false) {
                    self.session.borrow_mut().transmitted();
                    self.flush();
                    self.wake_if_settled();
                }
            }
            Incoming::WriteFailed(reason) => {
                if self.writing.replace(false) {
                    self.session.borrow_mut().transmit_failed();
                    self.lose(&reason);
                }
            }
            Incoming::Closed(reason) => self.lose(&reason),
            Incoming::Connecting => {
                self.change(Session::connecting);
            }
            Incoming::Opened { late } => {
                log::debug(|| "the port is open".into());
                self.writing.set(false);
                self.change(|session| {
                    session.open(if late {
                        Opening::GreetingMayBeGone
                    } else {
                        Opening::GreetingComes
                    });
                });
            }
        }
    }

    /// The connection is gone.
    pub(super) fn lose(&self, reason: &str) {
        log::debug(|| format!("the connection is closed: {reason}"));
        self.closures.set(self.closures.get() + 1);
        self.writing.set(false);
        self.change(|session| session.close(reason));
        self.wake();
    }

    /// Changes the session, after what came before and before what comes next.
    fn change(&self, change: impl FnOnce(&mut Session<Token>)) {
        let mut session = self.session.borrow_mut();
        self.decode_all(&mut session);
        change(&mut session);
        self.decode_all(&mut session);
        drop(session);
        self.schedule_turn();
    }

    /// Decodes what the session holds back.
    fn decode_all(&self, session: &mut Session<Token>) {
        while let Some(output) = session.receive(&mut &[][..]) {
            if let Some(action) = self.plan(output) {
                self.actions.borrow_mut().push_back(action);
            }
        }
    }

    fn receive(&self, mut input: &[u8]) {
        let mut session = self.session.borrow_mut();
        let mut told = self.actions.borrow().is_empty();
        while told && let Some(output) = session.receive(&mut input) {
            if let Some(action) = self.plan(output) {
                self.actions.borrow_mut().push_back(action);
                told = false;
            }
        }
        // What is behind something untold waits with it.
        session.stash(input);
        // A message that is not told may still allow or want something to be sent.
        let unsent = session.has_unsent();
        drop(session);
        if !told || unsent || self.status_stale.get() {
            self.schedule_turn();
        }
        self.watch_for_stall();
        self.wake_if_settled();
    }

    /// What is to be told of an output, if anything: nothing is made of an event
    /// that nobody listens to. Runs no code of the program's.
    fn plan(&self, output: Output<'_, Token>) -> Option<Action> {
        match output {
            Output::Ended { token, result } => {
                Some(Action::Ended(token, result.map(RawValue::to_owned)))
            }
            Output::Event(event) => {
                log::debug(|| format!("<- event {}", event.name));
                if live::changes_run_state(&event.name) {
                    self.status_stale.set(true);
                }
                self.is_wanted(&event.name)
                    .then(|| Action::Event(Event::from(&event)))
            }
            Output::State(state) => Some(Action::State(state)),
            Output::Ignored(Ignored::Reply) => {
                log::debug(|| "<- a message for none of the program's calls".into());
                None
            }
            Output::Ignored(Ignored::Bad(error)) => Some(Action::Bad(error)),
        }
    }

    fn is_wanted(&self, name: &str) -> bool {
        self.listeners.want(name)
            || self.has_handler(*EVENT_ID, None)
            || self.has_handler(*QMP_EVENT_ID, None)
            || detail(name).is_some_and(|detail| self.has_handler(*QMP_EVENT_ID, Some(detail)))
    }

    fn has_handler(&self, signal: SignalId, detail: Option<glib::Quark>) -> bool {
        glib::signal::signal_has_handler_pending(&*self.obj(), signal, detail, false)
    }

    /// Lets [`turn`](Self::turn) run from the main loop soon.
    pub(super) fn schedule_turn(&self) {
        if self.turn.borrow().is_some() {
            return;
        }
        let port = glib::SendWeakRef::from(self.obj().downgrade());
        let source = glib::idle_source_new(Some("spice-qmp"), glib::Priority::DEFAULT, move || {
            if let Some(port) = port.upgrade() {
                port.imp().turn.take();
                port.imp().turn();
            }
            glib::ControlFlow::Break
        });
        source.attach(Some(self.main_context()));
        self.turn.replace(Some(source));
    }

    pub(super) fn main_context(&self) -> &glib::MainContext {
        self.context
            .get_or_init(glib::MainContext::ref_thread_default)
    }

    /// Tells what happened and sends what was asked for.
    pub(super) fn turn(&self) {
        // The program may drop its last reference meanwhile.
        let _port = self.obj().clone();
        for _ in 0..TOLD_AT_ONCE {
            let Some(action) = self.next_action() else {
                break;
            };
            if self.has_more() {
                // Whoever is told may run a nested main loop: that goes on with the rest.
                self.schedule_turn();
            }
            self.tell(action);
        }
        if self.is_shut() && !self.has_more() {
            self.listeners.end();
        }
        if self.status_stale.replace(false) {
            self.refresh_status();
        }
        let pending = self.pending();
        if self.told_pending.replace(pending) != pending {
            self.obj().notify_pending();
        }
        self.flush();
        self.wake_if_settled();
        self.arm_timer();
        if self.has_more() {
            self.schedule_turn();
        } else if let Some(source) = self.turn.take() {
            source.destroy();
        }
    }

    fn next_action(&self) -> Option<Action> {
        if let Some(action) = self.actions.borrow_mut().pop_front() {
            return Some(action);
        }
        let mut session = self.session.borrow_mut();
        while let Some(output) = session.receive(&mut &[][..]) {
            if let Some(action) = self.plan(output) {
                return Some(action);
            }
        }
        None
    }

    fn has_more(&self) -> bool {
        !self.actions.borrow().is_empty() || self.session.borrow().has_more()
    }

    fn tell(&self, action: Action) {
        match action {
            Action::Ended(Token::Caller(callback, deadline), result) => {
                if let Some(deadline) = deadline {
                    self.timers.remove(deadline);
                }
                callback(result);
            }
            Action::Ended(Token::Status, result) => self.got_status(result),
            Action::Ended(Token::Version, result) => self.got_version(result),
            Action::Event(event) => self.tell_event(&event),
            Action::State(state) => self.tell_state(state),
            Action::Bad(error) => {
                log::debug(|| format!("<- {error}"));
                self.set_last_error(Some(error.into()));
            }
        }
    }

    fn tell_event(&self, event: &Event) {
        let port = self.obj();
        self.listeners.push(event);
        if self.has_handler(*EVENT_ID, None) {
            json_glib::with_node(event.data(), |node| {
                port.emit::<()>(*EVENT_ID, &[&event.name(), &node]);
            });
        }
        match detail(event.name()) {
            Some(detail) => port.emit_with_details::<()>(*QMP_EVENT_ID, detail, &[event]),
            None => port.emit::<()>(*QMP_EVENT_ID, &[event]),
        }
    }

    fn tell_state(&self, state: State) {
        log::debug(|| format!("the port is {state}"));
        let port = self.obj();
        let _together = port.freeze_notify();
        let error = match state {
            State::Ready => None,
            State::Closed | State::Failed => self.session.borrow().error().cloned(),
            _ => self.last_error.borrow().clone(),
        };
        self.set_last_error(error);
        self.update_live(state);
        port.notify_state();
        let ready = state == State::Ready;
        if self.was_ready.replace(ready) != ready {
            port.notify_ready();
        }
        self.wake();
    }

    fn set_last_error(&self, error: Option<Error>) {
        if *self.last_error.borrow() != error {
            self.last_error.replace(error);
            self.obj().notify_last_error();
        }
    }

    fn wake_if_settled(&self) {
        if self.is_waited_for() && self.is_settled() {
            self.wake();
        }
    }

    /// Hands all that waits to the transport, in one write.
    fn flush(&self) {
        if self.writing.get() {
            return;
        }
        let Some(transport) = self.transport.borrow().clone() else {
            return;
        };
        let bytes = self.session.borrow_mut().poll_transmit();
        if let Some(bytes) = bytes {
            self.writing.set(true);
            transport.write(bytes);
        }
    }

    /// Sends a nudge to a peer that stalls in the middle of a message.
    pub(super) fn nudge(&self) {
        log::debug(|| "the reply stalls: nudging QEMU".into());
        self.session.borrow_mut().nudge();
        self.flush();
    }
}

/// The detail of an event's signal, if anyone ever named it. Names of a peer are
/// not interned: they would stay for ever.
fn detail(name: &str) -> Option<glib::Quark> {
    // A NUL cannot be part of a detail.
    (!name.contains('\0'))
        .then(|| glib::Quark::try_from_str(name))
        .flatten()
}

static EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(EVENT));
static QMP_EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(QMP_EVENT));

fn signal_id(name: &str) -> SignalId {
    SignalId::lookup(name, super::QmpPort::static_type()).expect("a signal of the port's")
}
