//! Joins protocol and transport: what comes in, what is told, what goes out.
//!
//! Bytes are decoded where they come in. Telling the program of it waits for a
//! turn of the main loop: spice-gtk holds a channel back while its signal
//! handlers run, so a nested main loop in a handler would hear no more of it.
//! A turn tells all that happened, in order, and then sends all that was asked
//! for meanwhile in one write.

use std::borrow::Cow;
use std::cell::Cell;
use std::sync::Arc;

use glib::prelude::*;
use glib::subclass::prelude::*;
use glib::thread_guard::ThreadGuard;

use super::audience::{EVENT_ID, QMP_EVENT_ID, detail};
use super::imp::QmpPort;
use super::timers::Deadline;
use super::{Event, json_glib, live, log};
use crate::qmp::{Error, Ignored, Opening, Output, PeerError, Session, State};
use crate::transport::{Flow, Incoming};

/// Called once, when a call ends.
pub(super) type Callback = Box<dyn FnOnce(Result<String, Error>)>;

/// A call that has not ended.
pub(super) struct Token {
    pub(super) owner: Owner,
    pub(super) deadline: Option<Deadline>,
}

/// Whose call it is.
pub(super) enum Owner {
    Caller(Callback),
    /// The port's own, for the property `status`.
    Status,
    /// The port's own, for the property `version`.
    Version,
}

/// Something to tell.
pub(super) enum Action {
    Ended(Owner, Result<String, Error>),
    Event(Event),
    State(State, Option<Error>),
    Bad(PeerError),
}

/// After so much the main loop gets a turn of its own: a callback that makes the
/// next call as soon as one fails would keep it away for ever.
const TOLD_AT_ONCE: usize = 256;

impl QmpPort {
    /// A report of the transport.
    pub(super) fn incoming(&self, incoming: Incoming<'_>) -> Flow {
        match incoming {
            Incoming::Data(bytes) => return self.receive(bytes),
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
        Flow::On
    }

    /// The connection is gone, and the port with it where it cannot come back.
    fn lose(&self, reason: &str) {
        self.end(|session| session.close(reason));
        if self.transport().is_some_and(|it| !it.reopens()) {
            self.shut(reason);
        }
    }

    /// Ends the connection as `close` does.
    pub(super) fn end(&self, close: impl FnOnce(&mut Session<Token>)) {
        self.closures.set(self.closures.get() + 1);
        self.writing.set(false);
        self.change(close);
        self.wake();
    }

    /// Changes the session, after what came before and before what comes next.
    fn change(&self, change: impl FnOnce(&mut Session<Token>)) {
        let mut session = self.session.borrow_mut();
        self.decode_all(&mut session);
        change(&mut session);
        self.decode_all(&mut session);
        drop(session);
        self.traffic.write();
        self.schedule_turn();
    }

    /// Decodes what the session holds back.
    fn decode_all(&self, session: &mut Session<Token>) {
        while let Some(action) = self.decode_one(session) {
            self.actions.borrow_mut().push_back(action);
        }
    }

    fn receive(&self, mut input: &[u8]) -> Flow {
        self.forget_audience();
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
        self.traffic.write();
        let turn_follows = !told || unsent || self.wants_status();
        if turn_follows {
            self.schedule_turn();
        }
        self.watch_for_stall();
        self.wake_if_settled();
        if turn_follows { Flow::Wait } else { Flow::On }
    }

    /// What is to be told of an output, if anything: nothing is made of an event
    /// that nobody listens to. Runs no code of the program's.
    fn plan(&self, output: Output<'_, Token>) -> Option<Action> {
        match output {
            Output::Ended { token, result } => {
                self.traffic.note(|| match &result {
                    Ok(value) => format!("<- return {}", log::payload(value)),
                    Err(error) => format!("<- {error}"),
                });
                if let Some(deadline) = token.deadline {
                    self.timers.remove(deadline);
                }
                if !matches!(token.owner, Owner::Caller(_)) {
                    self.own_calls.set(self.own_calls.get() - 1);
                }
                Some(Action::Ended(token.owner, result.map(Cow::into_owned)))
            }
            Output::Event(event) => {
                self.traffic.note(|| {
                    let data = event.data.as_deref().map(log::payload);
                    format!("<- event {} {}", event.name, data.unwrap_or_default())
                });
                if live::may_end_qemu(&event.name) {
                    self.timers.ask_later();
                    self.arm_timer();
                } else if live::changes_run_state(&event.name) {
                    self.status_stale.set(true);
                }
                (live::tells_run_state(&event.name) || self.is_wanted(&event.name))
                    .then(|| Action::Event(Event::from(&event)))
            }
            Output::State { state, error } => {
                self.traffic.note(|| match &error {
                    Some(error) => format!("the port is {state}: {error}"),
                    None => format!("the port is {state}"),
                });
                Some(Action::State(state, error))
            }
            Output::Ignored(Ignored::Reply) => {
                self.traffic
                    .note(|| "<- a message for none of the program's calls".into());
                None
            }
            Output::Ignored(Ignored::Bad(error)) => {
                self.traffic.note(|| format!("<- {error}"));
                Some(Action::Bad(error))
            }
        }
    }

    /// Lets [`turn`](Self::turn) run from the main loop soon.
    pub(super) fn schedule_turn(&self) {
        self.schedule_turn_at(glib::Priority::DEFAULT);
    }

    fn schedule_turn_at(&self, priority: glib::Priority) {
        if self.turn.borrow().is_some() {
            return;
        }
        let port = self.weak();
        let source = glib::idle_source_new(Some("spice-qmp"), priority, move || {
            if let Some(port) = port.upgrade() {
                port.imp().turn.take();
                port.imp().turn();
            }
            glib::ControlFlow::Break
        });
        source.attach(Some(self.main_context()));
        self.turn.replace(Some(source));
    }

    /// A reference for sources, made once: to make one takes a lock of GObject's.
    pub(super) fn weak(&self) -> Arc<glib::SendWeakRef<super::QmpPort>> {
        let mut weak = self.weak.borrow_mut();
        let make = || Arc::new(self.obj().downgrade().into());
        weak.get_or_insert_with(make).clone()
    }

    pub(super) fn main_context(&self) -> &glib::MainContext {
        self.home.context()
    }

    /// Tells what happened and sends what was asked for.
    pub(super) fn turn(&self) {
        // The program may drop its last reference meanwhile.
        let _port = self.obj().clone();
        for _ in 0..TOLD_AT_ONCE {
            let Some(action) = self.next_action() else {
                break;
            };
            // Whoever is told may run a nested main loop, which goes on with the rest.
            self.go_on();
            self.tell(action);
        }
        self.go_on();
        if self.is_shut() && !self.has_more() {
            self.listeners.end();
        }
        if self.wants_status() {
            self.refresh_status();
        }
        let pending = self.pending();
        if self.told_pending.replace(pending) != pending {
            self.notify_pending();
        }
        self.flush();
        self.wake_if_settled();
        self.arm_timer();
        self.end_turn();
    }

    /// Lets another turn tell what is left, or else lets more come in.
    fn go_on(&self) {
        if self.has_more() {
            self.schedule_turn();
            return;
        }
        if let Some(transport) = self.transport() {
            transport.resume();
        }
    }

    /// Sees to it that another turn follows where one is needed.
    fn end_turn(&self) {
        if let Some(source) = self.turn.take() {
            source.destroy();
        }
        let from_outside = self.session.borrow().has_input() || !self.actions.borrow().is_empty();
        let untold = self.wants_status() || self.pending() != self.told_pending.get();
        if from_outside {
            self.schedule_turn();
        } else if self.has_more() || untold {
            // What the program makes itself, call by failing call, has no end: it
            // must leave a window time to be drawn.
            self.schedule_turn_at(glib::Priority::DEFAULT_IDLE);
        }
    }

    fn next_action(&self) -> Option<Action> {
        if let Some(action) = self.actions.borrow_mut().pop_front() {
            self.forget_audience();
            return Some(action);
        }
        let action = self.decode_one(&mut self.session.borrow_mut());
        self.traffic.write();
        action
    }

    /// Decodes what the session holds back up to what is to be told.
    fn decode_one(&self, session: &mut Session<Token>) -> Option<Action> {
        self.forget_audience();
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
            Action::Ended(Owner::Caller(callback), result) => callback(result),
            Action::Ended(Owner::Status, result) => self.got_status(result),
            Action::Ended(Owner::Version, result) => self.got_version(result),
            Action::Event(event) => {
                self.note_run_state(&event);
                self.tell_event(&event);
            }
            Action::State(state, error) => self.tell_state(state, error),
            Action::Bad(error) => self.set_last_error(Some(error.into())),
        }
    }

    /// Tells what is left when the port is disposed of: to the streams at once, and
    /// to the callbacks from the main loop, as ever.
    pub(super) fn tell_last(&self) {
        let mut ended = Vec::new();
        for action in self.actions.take() {
            match action {
                Action::Ended(Owner::Caller(callback), result) => ended.push((callback, result)),
                Action::Event(event) => self.listeners.push(&event),
                _ => {}
            }
        }
        self.listeners.end();
        if ended.is_empty() {
            return;
        }
        let ended = Cell::new(Some(ThreadGuard::new(ended)));
        let source = glib::idle_source_new(Some("spice-qmp"), glib::Priority::DEFAULT, move || {
            let ended = ended.take().map(ThreadGuard::into_inner);
            for (callback, result) in ended.into_iter().flatten() {
                callback(result);
            }
            glib::ControlFlow::Break
        });
        source.attach(Some(self.main_context()));
    }

    fn tell_event(&self, event: &Event) {
        let port = self.obj();
        self.listeners.push(event);
        if self.hears_event() {
            json_glib::with_node(event.data(), |node| {
                port.emit::<()>(*EVENT_ID, &[&event.name(), &node]);
            });
            self.forget_audience();
        }
        match detail(event.name()) {
            Some(detail) => port.emit_with_details::<()>(*QMP_EVENT_ID, detail, &[event]),
            None if self.hears_qmp_event() => {
                port.emit::<()>(*QMP_EVENT_ID, &[event]);
            }
            None => {}
        }
    }

    fn tell_state(&self, state: State, error: Option<Error>) {
        let port = self.obj();
        let _together = port.freeze_notify();
        if error.is_some() || state == State::Ready {
            self.set_last_error(error);
        }
        self.update_live(state);
        port.notify_state();
        let ready = state == State::Ready;
        if self.was_ready.replace(ready) != ready {
            port.notify_ready();
        }
        self.wake();
    }

    pub(super) fn set_last_error(&self, error: Option<Error>) {
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
    pub(super) fn flush(&self) {
        if self.writing.get() {
            return;
        }
        let Some(transport) = self.transport() else {
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
        self.traffic
            .note(|| "-> query-name (the reply stalls)".into());
        self.traffic.write();
        self.session.borrow_mut().nudge();
        self.flush();
    }
}
