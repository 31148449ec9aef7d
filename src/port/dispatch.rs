// SPDX-License-Identifier: MIT OR Apache-2.0
//! Delivers what happened on a connection to the program, from the main loop.

use std::cell::Cell;

use super::connection::{Change, Connection, Delivery, Kind, OwnedEvent, Owner, Question, Urgency};
use super::run_state::StatusInfo;
use crate::qmp::{Error, State, Version};

/// After this many deliveries, control returns to the main loop: otherwise a callback that makes
/// the next call as soon as one fails would block it for ever.
const DELIVERED_AT_ONCE: usize = 256;

/// The same after this many microseconds: timers of the program are waiting.
const SLICE: i64 = 3_000;

/// This many commands are sent without waiting for what other callbacks request: the peer
/// answers them meanwhile.
const BATCH: usize = 32;

impl<O: Owner> Connection<O> {
    /// Delivers what happened and sends what was requested. The program may
    /// drop its last reference meanwhile: the owner holds one.
    pub(super) fn dispatch(&self, owner: &O) {
        self.gathering.set(true);
        self.deliver_closes(owner);
        let started = owner.now();
        for _ in 0..DELIVERED_AT_ONCE {
            let Some(delivery) = self.next_delivery(owner) else {
                break;
            };
            // The program may run a nested main loop, which delivers the rest.
            self.go_on(owner);
            {
                let _deeper = Deeper::enter(&self.depth);
                self.deliver(owner, delivery);
            }
            if owner.now() - started >= SLICE || self.sends_batch() {
                break;
            }
        }
        self.look_at_waits(owner);
        self.go_on(owner);
        self.notify(owner);
        if self.run_state.is_question_due(owner.now()) {
            self.ask_run_state(owner);
        }
        self.flush();
        self.gathering.set(false);
        self.look_at_waits(owner);
        self.arm(owner);
        self.end_dispatch(owner);
        if self.may_rest.take() && self.session.borrow().is_settled() && !self.has_more() {
            self.deliveries.take();
            self.session.borrow_mut().shrink_to_fit();
            owner.rest();
        }
    }

    /// Sends what callbacks have requested once it is a batch: the peer answers it while the
    /// next replies are delivered. True if the main loop has to run for that.
    fn sends_batch(&self) -> bool {
        let session = self.session.borrow();
        // With `oob`, few commands are in flight at a time.
        if self.writing.get() || session.oob() || session.unsent() < BATCH {
            return false;
        }
        drop(session);
        self.flush();
        self.writing.get()
    }

    /// Schedules another dispatch, in case application code runs a main loop: it does what is
    /// left of this one. Allows more input if everything was decoded.
    fn go_on(&self, owner: &O) {
        owner.schedule(Urgency::Soon);
        // A main loop in handlers that nest too deeply becomes idle, unless it
        // waits for an answer.
        if !self.has_more() && (!self.is_deep() || self.pending.get() > 0) {
            let transport = self.transport();
            if let Some(transport) = transport {
                transport.resume();
            }
        }
    }

    /// Schedules another dispatch if one is needed.
    fn end_dispatch(&self, owner: &O) {
        owner.unschedule();
        if self.is_quiet() && self.waits.any_close() {
            // Ends of calls that GLib deferred to the next iteration come first.
            self.quiet.set(true);
            owner.schedule(Urgency::Soon);
        } else if self.is_deep() && !self.has_more() {
            // Deliveries that are held back wait for a handler to return.
        } else if self.has_more() || self.has_news(owner) {
            // At idle priority, so that windows are drawn meanwhile: a storm of events, or a
            // chain of failing calls of the program, may be endless.
            owner.schedule(Urgency::Idle);
        }
    }

    fn next_delivery(&self, owner: &O) -> Option<Delivery<O::Event>> {
        let next = if self.is_deep() {
            self.next_end(owner)
        } else {
            self.next_of_all(owner)
        };
        self.traffic.write();
        next
    }

    fn next_of_all(&self, owner: &O) -> Option<Delivery<O::Event>> {
        let first = self.deliveries.borrow_mut().pop_front();
        if first.is_some() {
            return first;
        }
        let mut session = self.session.borrow_mut();
        while let Some(output) = session.receive(&mut &[][..]) {
            if self.plan(owner, output) {
                break;
            }
        }
        self.deliveries.borrow_mut().pop_front()
    }

    /// The next end of a call or a wait.
    fn next_end(&self, owner: &O) -> Option<Delivery<O::Event>> {
        self.decode_all(owner, &mut self.session.borrow_mut());
        let mut deliveries = self.deliveries.borrow_mut();
        let at = deliveries.iter().position(Delivery::is_end)?;
        deliveries.remove(at)
    }

    fn deliver(&self, owner: &O, delivery: Delivery<O::Event>) {
        match delivery {
            Delivery::Ended(Kind::Program(callback), result) => {
                self.pending.set(self.pending.get() - 1);
                if result.is_ok() {
                    self.run_state.command_answered();
                }
                owner.call(|| callback(result));
            }
            Delivery::Ended(Kind::Own(Question::Status), result) => {
                self.status_answered(owner, result);
            }
            Delivery::Ended(Kind::Own(Question::Version), result) => {
                self.version_answered(owner, result);
            }
            Delivery::Event(event) => {
                self.note_run_state(owner, event.name(), event.data());
                if !self.status_changed.get() {
                    return owner.event(event);
                }
                // The property first: its handlers may connect to the event. And they
                // may run a main loop, in which no later delivery may overtake the event.
                let noted = Delivery::Noted(event);
                self.deliveries.borrow_mut().push_front(noted);
                self.notify_status(owner);
                // The next event may have arrived already.
                self.look_at_waits(owner);
            }
            Delivery::Noted(event) => owner.event(event),
            Delivery::State(state, error) => self.deliver_state(owner, state, error),
            Delivery::Bad(error) => {
                if self.set_last_error(Some(error.into())) {
                    owner.changed(&[Change::LastError]);
                }
            }
            Delivery::Waited((callback, result)) => owner.call(|| callback(result)),
        }
    }

    fn deliver_state(&self, owner: &O, state: State, error: Option<Error>) {
        // All properties are set before the first notification, so that they agree.
        let mut changes = Vec::new();
        if (error.is_some() || state == State::Ready) && self.set_last_error(error) {
            changes.push(Change::LastError);
        }
        match state {
            State::Ready => {
                self.warned_dropped.set(false);
                self.run_state.begin();
                let greeted = self.session.borrow().greeting().map(|g| g.version.clone());
                if greeted.is_none() {
                    self.execute_own("query-version", Question::Version);
                } else if self.set_version(greeted) {
                    changes.push(Change::Version);
                }
                changes.push(Change::Capabilities);
            }
            State::Closed | State::Failed => {
                if self.set_version(None) {
                    changes.push(Change::Version);
                }
                changes.push(Change::Capabilities);
                if self.run_state.end() | self.status_changed.take() {
                    changes.push(Change::Status);
                }
                self.set_responsive();
            }
            State::Connecting | State::Greeting | State::Negotiating => {}
        }
        changes.push(Change::State);
        let ready = state == State::Ready;
        if self.was_ready.replace(ready) != ready {
            changes.push(Change::Ready);
        }
        owner.changed(&changes);
        self.look_at_waits(owner);
    }

    /// Notifies of changes that are not deliveries of their own.
    fn notify(&self, owner: &O) {
        if self.is_deep() {
            return;
        }
        if self.released.get() && !self.has_more() && !self.has_ended.replace(true) {
            owner.ended();
        }
        self.notify_status(owner);
        let responsive = self.responsive.get();
        if self.notified_responsive.replace(responsive) != responsive {
            owner.changed(&[Change::Responsive]);
        }
        if self.is_pending_news(owner) {
            self.notified_pending.set(self.pending.get());
            owner.changed(&[Change::Pending]);
        }
        let dropped = self.dropped.get();
        let more = dropped > self.seen_dropped.replace(dropped);
        if more && !self.warned_dropped.replace(true) {
            owner.changed(&[Change::Dropped]);
        }
    }

    fn notify_status(&self, owner: &O) {
        if !self.is_deep() && self.status_changed.take() {
            owner.changed(&[Change::Status]);
        }
    }

    fn set_last_error(&self, error: Option<Error>) -> bool {
        let changed = self.last_error.borrow().as_deref() != error.as_ref();
        if changed {
            self.last_error.replace(error.map(Box::new));
        }
        changed
    }

    fn set_version(&self, version: Option<Version>) -> bool {
        let changed = *self.version.borrow() != version;
        if changed {
            self.version.replace(version);
        }
        changed
    }

    fn ask_run_state(&self, owner: &O) {
        if self.state() == State::Ready {
            self.run_state.asked(owner.now());
            self.execute_own("query-status", Question::Status);
        }
    }

    fn status_answered(&self, owner: &O, reply: Result<String, Error>) {
        let status = reply.and_then(|reply| StatusInfo::decode("query-status", &reply));
        let spice = self.is_spice_port();
        // A session has just begun, or the machine was paused or resumed: after that most
        // ports have nothing more to do for a long time.
        self.may_rest.set(true);
        let mut changes = Vec::new();
        if self.run_state.answered(owner.now(), status.clone(), spice) {
            self.status_changed.set(false);
            changes.push(Change::Status);
        }
        if let Err(error @ (Error::Command { .. } | Error::Peer(_))) = status
            && self.set_last_error(Some(error))
        {
            changes.push(Change::LastError);
        }
        owner.changed(&changes);
        self.look_at_waits(owner);
    }

    fn version_answered(&self, owner: &O, reply: Result<String, Error>) {
        let version = reply
            .ok()
            .and_then(|reply| serde_json::from_str::<Version>(&reply).ok());
        if version.is_some() && self.set_version(version) {
            owner.changed(&[Change::Version]);
        }
    }
}

/// A nested delivery, for as long as it lives.
struct Deeper<'a>(&'a Cell<u32>);

impl<'a> Deeper<'a> {
    fn enter(depth: &'a Cell<u32>) -> Self {
        depth.set(depth.get() + 1);
        Self(depth)
    }
}

impl Drop for Deeper<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
