// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the program requests of its connection: commands, waits and closing.

use std::time::Duration;

use super::connection::{Callback, Connection, Delivery, Kind, Owner, Token, Urgency};
use super::log::Passed;
use super::timers::Expiry;
use super::waits::{Close, Target, Wait, WaitCallback, WaitFor, WaitId};
use crate::qmp::{Band, CallId, Error, Session, State};
use crate::transport::Fds;

/// How a call with a callback is made.
#[derive(Debug, Clone, Copy, Default)]
pub struct CallOptions {
    /// In order with the other commands, or out of band.
    pub band: Band,
    /// The deadline; `None` means the port's `command-timeout`.
    pub timeout: Option<Duration>,
}

/// A command and how it is executed.
pub(super) struct Request<'a> {
    pub(super) command: &'a str,
    pub(super) arguments: Option<&'a str>,
    pub(super) band: Band,
    pub(super) timeout: Option<Duration>,
    /// File descriptors that are sent with it.
    pub(super) fds: Option<Fds>,
    /// Whether to send it before this function returns, if possible: a viewer that ends its
    /// machine may end its session in the same iteration of the main loop.
    pub(super) at_once: bool,
}

impl<O: Owner> Connection<O> {
    /// Executes a command. `callback` is called once, from a dispatch.
    pub(super) fn execute(&self, owner: &O, request: Request<'_>, callback: Callback) -> CallId {
        self.traffic
            .note(&Passed::Sent(request.command, request.arguments));
        self.traffic.write();
        let now = owner.now();
        if self.pending.get() == 0 && !self.owes_program() {
            self.heard.set(now);
        }
        self.pending.set(self.pending.get() + 1);
        let deadline = request
            .timeout
            .map(|timeout| self.timers.deadline(now, timeout));
        let token = Token {
            kind: Kind::Program(callback),
            deadline,
            fds: request.fds,
        };
        let execute = match &token.fds {
            None => Session::execute,
            Some(_) => Session::execute_carrying,
        };
        let id = execute(
            &mut self.session.borrow_mut(),
            request.command,
            request.arguments,
            request.band,
            token,
        );
        if let Some(deadline) = deadline {
            self.timers.set(deadline, Target::Call(id));
        }
        if request.at_once || !self.gathering.get() {
            self.flush();
        }
        self.arm(owner);
        let waits_to_be_written = !self.writing.get() && self.session.borrow().has_unsent();
        if waits_to_be_written || self.has_more() {
            owner.schedule(Urgency::Soon);
        } else if self.has_news(owner) {
            // The next dispatch, perhaps the one for the answer, notifies of `pending`.
            owner.schedule(Urgency::Idle);
        }
        id
    }

    /// Ends a call with [`Error::Cancelled`]. Returns false if it has ended.
    pub(super) fn cancel(&self, owner: &O, id: CallId) -> bool {
        let mut session = self.session.borrow_mut();
        let Some(command) = session.command(id).map(Box::from) else {
            return false;
        };
        let cancelled = session.fail(id, Error::Cancelled(command));
        drop(session);
        owner.schedule(Urgency::Soon);
        cancelled
    }

    /// Ends a call without its callback.
    pub(super) fn forget(&self, owner: &O, id: CallId) {
        let token = self.session.borrow_mut().forget(id);
        let Some(token) = token else {
            return;
        };
        self.pending.set(self.pending.get() - 1);
        if let Some(deadline) = token.deadline {
            self.timers.remove(deadline);
        }
        // Dropping it may run code of the program's, so not within a borrow.
        owner.call(|| drop(token));
        self.arm(owner);
        if self.has_news(owner) || self.waits.any() {
            owner.schedule(Urgency::Soon);
        }
    }

    /// Waits for the port to become ready, for at most `timeout`.
    pub(super) fn wait(
        &self,
        owner: &O,
        what: WaitFor,
        timeout: Duration,
        callback: WaitCallback,
    ) -> WaitId {
        let id = self.waits.take_id();
        let deadline = self.timers.add(owner.now(), timeout, Target::Wait(id));
        let wait = Wait {
            what,
            closures: self.closures.get(),
            deadline,
            callback,
        };
        match self.outcome(&wait) {
            Some(result) => {
                self.timers.remove(deadline);
                self.push(Delivery::Waited((wait.callback, result)));
                owner.schedule(Urgency::Soon);
            }
            None => self.waits.add(id, wait),
        }
        self.arm(owner);
        id
    }

    /// Closes the port for good: outstanding commands are sent and answered, for at most
    /// `timeout`. The callback is the last one to be called.
    pub(super) fn close(&self, owner: &O, timeout: Duration, callback: WaitCallback) -> WaitId {
        let id = self.waits.take_id();
        let deadline = self.timers.add(owner.now(), timeout, Target::Wait(id));
        self.waits.add_close(Close {
            id,
            deadline,
            callback,
        });
        self.arm(owner);
        owner.schedule(Urgency::Soon);
        id
    }

    /// Ends a wait or a close with [`Error::Cancelled`]; a port that was being closed stays
    /// open. Returns false if it has ended, or the port is closed already.
    pub(super) fn cancel_wait(&self, owner: &O, id: WaitId, name: &str) -> bool {
        let Some(callback) = self.take_wait(id) else {
            return false;
        };
        let cancelled = Err(Error::Cancelled(name.into()));
        self.push(Delivery::Waited((callback, cancelled)));
        owner.schedule(Urgency::Soon);
        true
    }

    /// Ends a wait or a close without its callback.
    pub(super) fn forget_wait(&self, owner: &O, id: WaitId) {
        if let Some(callback) = self.take_wait(id) {
            owner.call(|| drop(callback));
            self.arm(owner);
        }
    }

    fn take_wait(&self, id: WaitId) -> Option<WaitCallback> {
        if let Some(wait) = self.waits.take(id) {
            self.timers.remove(wait.deadline);
            return Some(wait.callback);
        }
        if self.is_released() {
            return None;
        }
        let close = self.waits.take_close(id)?;
        self.timers.remove(close.deadline);
        Some(close.callback)
    }

    /// The result of a wait, if it has ended.
    fn outcome(&self, wait: &Wait) -> Option<Result<(), Error>> {
        let session = self.session.borrow();
        let is_ready = || session.state() == State::Ready;
        let (is_over, outlives) = match &wait.what {
            WaitFor::Settled => {
                drop(session);
                return (!self.owes()).then_some(Ok(()));
            }
            WaitFor::Ready => (is_ready(), true),
            WaitFor::Status => (is_ready() && self.run_state.is_settled(), true),
            WaitFor::RunState(names) => {
                let status = self.status();
                (status.is_some_and(|it| names.contains(&it.status)), false)
            }
            WaitFor::Lost => (false, false),
        };
        if is_over {
            return Some(Ok(()));
        }
        // The port may have been reopened by now.
        let was_lost = self.closures.get() != wait.closures;
        let may_reopen = || self.transport().is_some_and(|it| it.reopens());
        let has_ended = match session.state() {
            State::Failed => true,
            State::Closed => was_lost || !may_reopen(),
            _ => was_lost && !outlives,
        };
        has_ended.then(|| {
            let reason = session.error().cloned();
            Err(reason.unwrap_or_else(|| {
                let how = if was_lost { LOST } else { NEVER_OPENED };
                Error::Closed(how.into())
            }))
        })
    }

    /// Ends the waits that are over, and completes a close if nothing is owed any more.
    pub(super) fn look_at_waits(&self, owner: &O) {
        if self.waits.any_ready() {
            for (wait, result) in self.waits.take_ended(|wait| self.outcome(wait)) {
                self.timers.remove(wait.deadline);
                self.push(Delivery::Waited((wait.callback, result)));
                owner.schedule(Urgency::Soon);
            }
        }
        if self.waits.any_close() && !self.is_released() && !self.owes() {
            self.release(owner, CLOSED);
        }
    }

    /// Whether QEMU must be given time to answer before the port is closed.
    pub(super) fn owes(&self) -> bool {
        if self.run_state.is_mute() && self.run_state.next().is_none() {
            // Nothing arrives before the machine is resumed, which may be never.
            // What QEMU has not read by now makes it crash then, however long this waits.
            return false;
        }
        if self.writing.get() || self.owes_program() {
            return true;
        }
        match self.state() {
            // The pending delivery may be that the port is ready, which makes it send commands.
            State::Ready => {
                self.own_calls.get() > 0
                    || !self.deliveries.borrow().is_empty()
                    || self.run_state.is_question_due(self.heard.get())
            }
            State::Negotiating => self.is_responsive(),
            State::Greeting => self.is_spice_port() && self.is_responsive(),
            State::Closed | State::Connecting | State::Failed => false,
        }
    }

    /// Whether only ends of closes are left to deliver.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_released() && self.gone.get() && !self.has_more() && !self.waits.any_ready()
    }

    /// Delivers the ends of the closes, after everything else.
    pub(super) fn deliver_closes(&self, owner: &O) {
        let quiet = self.quiet.replace(false) && self.is_quiet();
        if !quiet || self.is_deep() {
            return;
        }
        // Callbacks may close again: those closes end in a later dispatch.
        for _ in 0..self.waits.closes() {
            let Some(close) = self.waits.take_first_close() else {
                break;
            };
            self.timers.remove(close.deadline);
            // The program may run a nested main loop, which delivers the rest.
            self.quiet.set(true);
            owner.schedule(Urgency::Soon);
            owner.call(|| (close.callback)(Ok(())));
        }
        self.quiet.set(false);
    }

    /// Handles everything whose time has come.
    pub(super) fn expire(&self, owner: &O) {
        let now = owner.now();
        // The transport gets some time to release its connection, which another close may need.
        let was_released = self.is_released();
        let has_input = || {
            self.session.borrow().has_more() || self.transport().is_some_and(|it| it.has_input())
        };
        while let Expiry::Expired(deadline, target) = self.timers.expire(now, has_input) {
            match target {
                Target::Call(call) => self.call_expired(call, deadline.after),
                Target::Wait(wait) => {
                    self.wait_expired(owner, wait, deadline.after, was_released);
                }
            }
        }
        if self.timers.stalled(now) {
            self.nudge();
        }
        // Bytes may have arrived since the timer was set.
        self.watch_for_silence();
        if self.timers.silent(now) {
            self.responsive.set(false);
        }
        self.run_state.expire(now);
        self.dispatch(owner);
    }

    fn call_expired(&self, call: CallId, after: Duration) {
        let mut session = self.session.borrow_mut();
        if let Some(command) = session.command(call) {
            let error = Error::TimedOut {
                what: command.into(),
                after,
                hint: "",
            };
            session.fail(call, error);
        }
    }

    fn wait_expired(&self, owner: &O, id: WaitId, after: Duration, was_released: bool) {
        if let Some(wait) = self.waits.take(id) {
            let late = Err(self.not_ready_in(after));
            self.push(Delivery::Waited((wait.callback, late)));
        } else if !self.waits.has_close(id) {
        } else if was_released {
            // The transport cannot release its connection.
            self.gone.set(true);
        } else {
            self.release(owner, CLOSED);
        }
    }

    /// The error of a wait that took too long: it says what is missing.
    fn not_ready_in(&self, after: Duration) -> Error {
        let (what, hint) = match self.state() {
            State::Closed | State::Connecting => (
                "the SPICE port's opening",
                " (does QEMU have a monitor on it?)",
            ),
            State::Ready => ("query-status", ""),
            _ if self.is_spice_port() => (
                "the QMP greeting",
                ": QEMU does not answer on SPICE while the machine is stopped by an error; \
                 resume it over another monitor",
            ),
            State::Greeting => (
                "the QMP greeting",
                " (QEMU serves one client of a monitor at a time)",
            ),
            _ => (
                "the QMP negotiation",
                " (is the virtual machine's process stopped?)",
            ),
        };
        Error::TimedOut {
            what: what.into(),
            after,
            hint,
        }
    }

    /// Sends a small command to a peer that stalls in the middle of a message. A peer that
    /// does not read either is sent nothing.
    fn nudge(&self) {
        if self.writing.get() || self.run_state.is_mute() {
            return;
        }
        self.traffic.note(&Passed::Nudged("query-name"));
        self.traffic.write();
        self.session.borrow_mut().nudge();
        self.flush();
    }

    /// Takes everything that was not delivered yet, when the owner is finalized.
    pub(super) fn take_last(&self) -> (Vec<LastCallback>, Vec<O::Event>) {
        let mut callbacks: Vec<LastCallback> = Vec::new();
        let mut events = Vec::new();
        for delivery in self.deliveries.take() {
            match delivery {
                Delivery::Ended(Kind::Program(callback), result) => {
                    callbacks.push(Box::new(move || callback(result)));
                }
                Delivery::Waited((callback, result)) => {
                    callbacks.push(Box::new(move || callback(result)));
                }
                Delivery::Event(event) | Delivery::Noted(event) => events.push(event),
                Delivery::Ended(..) | Delivery::State(..) | Delivery::Bad(_) => {}
            }
        }
        for close in self.waits.take_closes() {
            callbacks.push(Box::new(move || (close.callback)(Ok(()))));
        }
        self.timers.clear();
        (callbacks, events)
    }
}

/// A callback, with its argument.
pub(super) type LastCallback = Box<dyn FnOnce()>;

const CLOSED: &str = "the program closed the port";
const NEVER_OPENED: &str = "it was never opened";
const LOST: &str = "it was lost, and is being reopened";
