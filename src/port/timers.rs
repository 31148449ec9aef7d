// SPDX-License-Identifier: MIT OR Apache-2.0
//! Deadlines and other points in time: data only. Times are microseconds of a monotonic clock.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::time::Duration;

/// The deadline of a call or a wait.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Deadline {
    pub(super) at: i64,
    /// Distinguishes deadlines at the same time.
    serial: u64,
    pub(super) after: Duration,
}

/// All timers of a connection; a deadline ends a `T`.
#[derive(Debug)]
pub(super) struct Timers<T> {
    deadlines: RefCell<BTreeMap<Deadline, T>>,
    serial: Cell<u64>,
    extended: Cell<Option<Extension>>,
    stall: Cell<Option<Stall>>,
    silence: Cell<Option<i64>>,
}

/// Extra time for deadlines that have passed, to read what has already arrived.
#[derive(Debug, Clone, Copy)]
struct Extension {
    /// Deadlines up to this time get it.
    covers: i64,
    until: i64,
}

/// A message that is incomplete.
#[derive(Debug, Clone, Copy)]
struct Stall {
    /// When its last bytes arrived, or the last nudge was sent.
    since: i64,
    /// How long to wait from then on, in microseconds.
    delay: i64,
}

/// A pause of this many microseconds in the middle of a message is a stall.
const FIRST_DELAY: i64 = 10_000;
/// The longest pause between nudges of a stall without progress.
const LAST_DELAY: i64 = 1_000_000;

/// How often to look for input past a deadline, in microseconds.
const EXTENSION: i64 = 1_000;
/// A timer that fires this late, in microseconds, shows that the main loop was blocked.
const BLOCKED: i64 = 20_000;
/// How long to wait for input in that case.
const EXTENSION_OF_BLOCKED: i64 = 50_000;
/// How long past a deadline to read input that has arrived, in microseconds: a peer
/// that never stops sending cannot delay a deadline for ever.
const LONGEST_EXTENSION: i64 = 1_000_000;

/// What to do with the first deadline.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expiry<T> {
    /// Nothing is due.
    Nothing,
    /// Input that has arrived must be read first; check again at this time.
    Later(i64),
    /// It has passed.
    Expired(Deadline, T),
}

impl<T> Default for Timers<T> {
    fn default() -> Self {
        Self {
            deadlines: RefCell::default(),
            serial: Cell::default(),
            extended: Cell::default(),
            stall: Cell::default(),
            silence: Cell::default(),
        }
    }
}

impl<T> Timers<T> {
    /// Adds a deadline for `target`, `after` from `now`.
    pub(super) fn add(&self, now: i64, after: Duration, target: T) -> Deadline {
        let deadline = self.deadline(now, after);
        self.set(deadline, target);
        deadline
    }

    /// A deadline that is yet to be [set](Self::set).
    pub(super) fn deadline(&self, now: i64, after: Duration) -> Deadline {
        let micros = i64::try_from(after.as_micros()).unwrap_or(i64::MAX);
        let serial = self.serial.get();
        self.serial.set(serial + 1);
        Deadline {
            at: now.saturating_add(micros),
            serial,
            after,
        }
    }

    pub(super) fn set(&self, deadline: Deadline, target: T) {
        self.deadlines.borrow_mut().insert(deadline, target);
    }

    pub(super) fn remove(&self, deadline: Deadline) {
        let mut deadlines = self.deadlines.borrow_mut();
        deadlines.remove(&deadline);
        if deadlines.is_empty() {
            // An empty map keeps one node.
            *deadlines = BTreeMap::new();
        }
    }

    /// Removes all timers.
    pub(super) fn clear(&self) {
        self.deadlines.take();
        self.stall.set(None);
        self.silence.set(None);
    }

    /// The next time that matters.
    pub(super) fn next(&self) -> Option<i64> {
        let first = self.deadlines.borrow().first_key_value().map(|(d, _)| d.at);
        let deadline = first.map(|at| match self.extended.get() {
            Some(extended) if at <= extended.covers => extended.until,
            _ => at,
        });
        let stall = self.stall.get().map(|stall| stall.since + stall.delay);
        [deadline, stall, self.silence.get()]
            .into_iter()
            .flatten()
            .min()
    }

    /// Removes the first deadline if it has passed. `has_input`: whether input has
    /// arrived that may be the answer. The main loop may have been blocked meanwhile:
    /// such input is read before a deadline counts.
    pub(super) fn expire(&self, now: i64, has_input: impl FnOnce() -> bool) -> Expiry<T> {
        let mut deadlines = self.deadlines.borrow_mut();
        let Some(first) = deadlines.first_entry() else {
            return Expiry::Nothing;
        };
        let deadline = *first.key();
        if deadline.at > now {
            return Expiry::Nothing;
        }
        let extended = self.extended.get();
        let extended = extended.filter(|extended| deadline.at <= extended.covers);
        let extension = match extended {
            Some(extended) if now < extended.until => return Expiry::Later(extended.until),
            Some(_) if now < deadline.at.saturating_add(LONGEST_EXTENSION) && has_input() => {
                EXTENSION
            }
            Some(_) => return Expiry::Expired(deadline, first.remove()),
            // The main loop was blocked: perhaps the command was not even sent.
            None if now - deadline.at > BLOCKED => EXTENSION_OF_BLOCKED,
            None => EXTENSION,
        };
        let until = now + extension;
        self.extended.set(Some(Extension { covers: now, until }));
        Expiry::Later(until)
    }

    /// Bytes have arrived; `incomplete` says whether a message is unfinished.
    pub(super) fn watch_for_stall(&self, now: i64, incomplete: bool) {
        self.stall.set(incomplete.then_some(Stall {
            since: now,
            delay: FIRST_DELAY,
        }));
    }

    /// Whether a message has stalled; then the next check is later.
    pub(super) fn stalled(&self, now: i64) -> bool {
        let stall = self.stall.get();
        let stalled = stall.filter(|stall| stall.since + stall.delay <= now);
        if let Some(stall) = stalled {
            self.stall.set(Some(Stall {
                since: now,
                delay: (stall.delay * 2).min(LAST_DELAY),
            }));
        }
        stalled.is_some()
    }

    /// Sets when the peer will have been silent for too long, if it owes something.
    pub(super) fn set_silence(&self, at: Option<i64>) {
        self.silence.set(at);
    }

    /// Whether the peer has been silent for too long.
    pub(super) fn silent(&self, now: i64) -> bool {
        self.silence.get().is_some_and(|at| at <= now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn deadlines_expire_in_order() {
        let timers = Timers::default();
        let late = timers.add(0, Duration::from_millis(2), 1);
        let early = timers.add(0, Duration::from_millis(1), 2);
        assert_eq!(timers.next(), Some(1000));
        assert_eq!(timers.expire(999, || true), Expiry::Nothing);
        assert_eq!(timers.expire(5000, || false), Expiry::Later(6000));
        assert_eq!(timers.next(), Some(6000));
        assert_eq!(timers.expire(6000, || false), Expiry::Expired(early, 2));
        // Checked at the same time.
        assert_eq!(timers.expire(6000, || false), Expiry::Expired(late, 1));
        assert_eq!(timers.next(), None);
    }

    #[test]
    fn arrived_input_is_read_first_but_not_for_ever() {
        let timers = Timers::default();
        let deadline = timers.add(0, Duration::from_millis(1), 1);
        for now in [1000, 2000, 1_000_000] {
            assert_eq!(timers.expire(now, || true), Expiry::Later(now + 1000));
        }
        let expired = Expiry::Expired(deadline, 1);
        assert_eq!(timers.expire(1_001_000, || true), expired);
    }

    #[test]
    fn a_stall_is_checked_with_growing_pauses() {
        let timers = Timers::<()>::default();
        timers.watch_for_stall(0, true);
        assert!(!timers.stalled(9_999));
        assert!(timers.stalled(10_000) && !timers.stalled(29_999) && timers.stalled(30_000));
        timers.watch_for_stall(40_000, false);
        assert_eq!(timers.next(), None);
    }
}
