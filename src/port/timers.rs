//! All that waits for a time, with one timer: deadlines of calls, stalls of the
//! peer, a question put off.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

use glib::subclass::prelude::*;

use super::imp::QmpPort;
use crate::qmp::{CallId, Error, State};

/// When a call ends at the latest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deadline {
    at: i64,
    /// Tells calls of the same deadline apart.
    serial: u64,
    after: Duration,
}

/// What waits for a time. Times are microseconds of the monotonic clock.
#[derive(Default)]
pub(super) struct Timers {
    deadlines: RefCell<BTreeMap<Deadline, CallId>>,
    serial: Cell<u64>,
    stall: Cell<Option<Stall>>,
    /// When to ask for the run state.
    question: Cell<Option<i64>>,
    timer: RefCell<Option<(i64, glib::Source)>>,
}

/// A message that was not received whole.
#[derive(Debug, Clone, Copy)]
struct Stall {
    /// When its last bytes came, or the last nudge was sent.
    since: i64,
    /// How long to wait from then on, in microseconds.
    delay: i64,
    /// How many bytes had come: the port is not notified of each piece.
    collected: usize,
}

/// A pause of so many microseconds in the middle of a message is a stall.
const FIRST_DELAY: i64 = 10_000;
/// The longest pause between nudges of a stall without progress.
const LAST_DELAY: i64 = 1_000_000;

/// How long QEMU has to exit before it is asked again, in microseconds.
const QUESTION_DELAY: i64 = 100_000;

/// GLib counts milliseconds in 32 bits; a timer that goes off early is set again.
const LONGEST_SLEEP: Duration = Duration::from_hours(24);

impl Timers {
    pub(super) fn deadline(&self, after: Duration) -> Deadline {
        let micros = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        Deadline {
            at: glib::monotonic_time().saturating_add(micros),
            serial,
            after,
        }
    }

    pub(super) fn add(&self, deadline: Deadline, call: CallId) {
        self.deadlines.borrow_mut().insert(deadline, call);
    }

    pub(super) fn remove(&self, deadline: Deadline) {
        let mut deadlines = self.deadlines.borrow_mut();
        deadlines.remove(&deadline);
        if deadlines.is_empty() {
            // An empty map keeps a node.
            *deadlines = BTreeMap::new();
        }
    }

    /// The run state is to be asked for in a little while.
    pub(super) fn ask_later(&self) {
        let at = glib::monotonic_time() + QUESTION_DELAY;
        self.question.set(Some(at));
    }

    /// Forgets all that waits.
    pub(super) fn stop(&self) {
        self.deadlines.take();
        self.stall.set(None);
        self.question.set(None);
        if let Some((_, source)) = self.timer.take() {
            source.destroy();
        }
    }

    fn next(&self) -> Option<i64> {
        let deadline = self.deadlines.borrow().first_key_value().map(|(d, _)| d.at);
        let stall = self.stall.get().map(|stall| stall.since + stall.delay);
        [deadline, stall, self.question.get()]
            .into_iter()
            .flatten()
            .min()
    }

    fn pop_due(&self, now: i64) -> Option<(Deadline, CallId)> {
        let mut deadlines = self.deadlines.borrow_mut();
        let first = deadlines.first_entry()?;
        (first.key().at <= now).then(|| first.remove_entry())
    }
}

impl QmpPort {
    /// A message may have begun or gone on: bytes have just come.
    pub(super) fn watch_for_stall(&self) {
        let (mid_reply, collected) = {
            let session = self.session.borrow();
            let mid_reply = session.mid_message() && session.state() == State::Ready;
            (mid_reply, session.collected())
        };
        if !mid_reply || !self.transport().is_some_and(|it| it.is_spice_port()) {
            self.timers.stall.set(None);
            return;
        }
        self.timers.stall.set(Some(Stall {
            since: glib::monotonic_time(),
            delay: FIRST_DELAY,
            collected,
        }));
        self.arm_timer();
    }

    /// Sets the timer to the next time that matters, if it would be too late.
    pub(super) fn arm_timer(&self) {
        let Some(next) = self.timers.next() else {
            if let Some((_, source)) = self.timers.timer.take() {
                source.destroy();
            }
            return;
        };
        let mut timer = self.timers.timer.borrow_mut();
        if let Some((at, source)) = &*timer {
            // One that goes off early is set again then.
            if *at <= next {
                return;
            }
            source.destroy();
        }
        let micros = u64::try_from(next - glib::monotonic_time()).unwrap_or(0);
        // Rounded up: a timer that goes off early is of no use.
        let interval = Duration::from_millis(micros.div_ceil(1000)).min(LONGEST_SLEEP);
        let port = self.weak();
        let source = glib::timeout_source_new(
            interval,
            Some("spice-qmp timer"),
            glib::Priority::DEFAULT,
            move || {
                if let Some(port) = port.upgrade() {
                    port.imp().timer_went_off();
                }
                glib::ControlFlow::Break
            },
        );
        source.attach(Some(self.main_context()));
        *timer = Some((next, source));
    }

    fn timer_went_off(&self) {
        self.timers.timer.take();
        let now = glib::monotonic_time();
        while let Some((deadline, call)) = self.timers.pop_due(now) {
            let mut session = self.session.borrow_mut();
            if let Some(command) = session.command(call) {
                let error = Error::TimedOut {
                    what: command.into(),
                    after: deadline.after,
                    hint: "",
                };
                session.fail(call, error);
            }
        }
        self.check_stall(now);
        if self.timers.question.get().is_some_and(|at| at <= now) {
            self.timers.question.set(None);
            self.status_stale.set(true);
        }
        self.turn();
    }

    fn check_stall(&self, now: i64) {
        let Some(stall) = self.timers.stall.get() else {
            return;
        };
        let collected = self.session.borrow().collected();
        if !self.session.borrow().mid_message() {
            self.timers.stall.set(None);
        } else if stall.collected != collected {
            self.watch_for_stall();
        } else if stall.since + stall.delay <= now {
            // A peer that does not even read is not written to.
            if !self.writing.get() {
                self.nudge();
            }
            self.timers.stall.set(Some(Stall {
                since: now,
                delay: (stall.delay * 2).min(LAST_DELAY),
                collected,
            }));
        }
    }
}
