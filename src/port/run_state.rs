// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine's run state as far as it is known: data only. Times are in microseconds.
//!
//! Events set it at once, and `query-status` reports it exactly. A state set by an event
//! stays if QEMU does not answer: a SPICE port is mute once the machine
//! has left `running` for any state other than `paused` (QEMU 7.2 and 10.0), and nothing
//! is asked there until the machine runs again.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};

use serde::Deserialize;

use crate::qmp::{Error, ErrorClass, PeerError, misfit};

/// The reply to `query-status` (QAPI type `StatusInfo`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct StatusInfo {
    pub(super) running: bool,
    pub(super) singlestep: bool,
    pub(super) status: String,
}

/// What is known, and what is to be asked.
#[derive(Debug, Default)]
pub(super) struct RunState {
    known: RefCell<Option<StatusInfo>>,
    /// Whether QEMU is to be asked.
    stale: Cell<bool>,
    /// When the question that is under way was asked.
    asked: Cell<Option<i64>>,
    /// Whether the server answered the first question, even if by refusing it.
    answered: Cell<bool>,
    /// Whether the server does not know `query-status`.
    refused: Cell<bool>,
    /// Whether QEMU sends nothing more on this SPICE port until the machine runs again.
    mute: Cell<bool>,
    /// When to ask again about a transient state.
    again: Cell<Option<Again>>,
}

/// A question that is repeated.
#[derive(Debug, Clone, Copy)]
struct Again {
    /// The next time; `None` once it was given up.
    at: Option<i64>,
    delay: i64,
    /// When it is given up.
    until: i64,
    /// Whether it is not repeated.
    once: bool,
}

/// The first pause between two questions about a transient state.
const FIRST_DELAY: i64 = 250_000;
const LAST_DELAY: i64 = 4_000_000;
/// For how long such questions are repeated.
const REPEATED_FOR: i64 = 60_000_000;
/// After this time an answer is considered lost.
const LOST_AFTER: i64 = 10_000_000;
/// How long a machine runs before a SPICE port is written to.
const RESUME_DELAY: i64 = 250_000;
/// How long QEMU has to exit before it is asked: if it exits while a question is under
/// way, it may crash.
const EXIT_DELAY: i64 = 100_000;

impl RunState {
    pub(super) fn known(&self) -> Option<StatusInfo> {
        self.known.borrow().clone()
    }

    /// Whether QEMU sends nothing on this port until the machine runs again.
    pub(super) fn is_mute(&self) -> bool {
        self.mute.get()
    }

    /// Whether the first question was answered, or the state is known anyway.
    pub(super) fn is_settled(&self) -> bool {
        self.answered.get() || self.known.borrow().is_some()
    }

    /// A session begins.
    pub(super) fn begin(&self) {
        self.mute.set(false);
        self.answered.set(false);
        self.refused.set(false);
        self.asked.set(None);
        self.again.set(None);
        self.stale.set(true);
    }

    /// The session has ended. Returns true if the known state changed.
    pub(super) fn end(&self) -> bool {
        self.stale.set(false);
        self.again.set(None);
        self.mute.set(false);
        self.set(None)
    }

    /// Whether QEMU is to be asked now.
    pub(super) fn is_question_due(&self, now: i64) -> bool {
        // A lost answer must not delay the next question for ever.
        let under_way = self.asked.get().is_some_and(|at| now < at + LOST_AFTER);
        self.stale.get() && !under_way && !self.mute.get() && !self.refused.get()
    }

    /// A question has been sent.
    pub(super) fn asked(&self, now: i64) {
        self.stale.set(false);
        self.asked.set(Some(now));
    }

    /// Handles the answer to a question. `spice`: on a SPICE port. Returns true if the known
    /// state changed.
    pub(super) fn answered(
        &self,
        now: i64,
        result: Result<StatusInfo, Error>,
        spice: bool,
    ) -> bool {
        self.asked.set(None);
        match result {
            Ok(status) => {
                self.answered.set(true);
                let known = self.known.borrow().as_ref().map(|known| known.running);
                // QEMU may still answer while the machine leaves `running` for a state in
                // which it does not.
                self.mute
                    .set(spice && known == Some(true) && mutes(&status.status));
                // What it answers in a state that it did not leave `running` for, it does
                // in the next one.
                let answers = known == Some(false) || !mutes(&status.status);
                self.ask_again(now, passes(&status.status) && (!spice || answers));
                self.set(Some(status))
            }
            // The known state stays; the next event asks again, unless the server
            // does not have the command.
            Err(Error::Command { class, .. }) => {
                self.answered.set(true);
                self.refused.set(class == ErrorClass::CommandNotFound);
                false
            }
            Err(Error::Peer(PeerError::UnexpectedReply { .. })) => {
                self.answered.set(true);
                false
            }
            Err(_) => false,
        }
    }

    /// One of the program's commands was answered: it may have changed a transient state.
    pub(super) fn command_answered(&self) {
        if self.again.get().is_some_and(|again| again.at.is_none()) {
            self.stale.set(true);
        }
    }

    /// Handles an event. `spice`: on a SPICE port. Returns true if the known state changed.
    pub(super) fn event(&self, now: i64, name: &str, data: Option<&str>, spice: bool) -> bool {
        let Some(effect) = effect_of(name, data, self.known.borrow().as_ref(), spice) else {
            return false;
        };
        let left_running = self.known.borrow().as_ref().is_none_or(|it| it.running);
        if effect == Effect::Unclear && left_running && self.mute.get() {
            // It has just been resumed: the question is under way, and ends the muteness.
            return false;
        }
        // Transient states start over with each event.
        self.again.set(None);
        let known = match effect {
            Effect::Unclear => {
                self.stale.set(true);
                return false;
            }
            // A guest may stop again at once; then what was written to a SPICE port
            // would stay unread there.
            Effect::Runs if spice => {
                self.stale.set(false);
                self.ask_at(now + RESUME_DELAY);
                StatusInfo::new("running", true)
            }
            Effect::Runs => {
                self.stale.set(true);
                StatusInfo::new("running", true)
            }
            Effect::Stopped(state) => {
                if left_running {
                    self.mute.set(spice && mutes(state));
                }
                self.stale.set(true);
                StatusInfo::new(state, false)
            }
            Effect::Migrated => {
                if left_running {
                    self.mute.set(spice);
                }
                self.stale.set(true);
                // QEMU has this state a moment after the event. A port that is mute then
                // is not asked.
                let mute = self.mute.get();
                StatusInfo::new(
                    if mute {
                        "postmigrate"
                    } else {
                        "finish-migrate"
                    },
                    false,
                )
            }
            Effect::MayExit => {
                if left_running {
                    self.mute.set(spice);
                }
                self.ask_at(now + EXIT_DELAY);
                StatusInfo::new("shutdown", false)
            }
        };
        self.set(Some(known))
    }

    /// When a question is to be repeated.
    pub(super) fn next(&self) -> Option<i64> {
        self.again.get().and_then(|again| again.at)
    }

    /// Makes the repeated question due, if its time has come.
    pub(super) fn expire(&self, now: i64) {
        if let Some(again) = self.again.get()
            && again.at.is_some_and(|at| at <= now)
        {
            let delay = (again.delay * 2).min(LAST_DELAY);
            let at = Some(now + delay).filter(|at| *at <= again.until);
            let again = (!again.once).then_some(Again { at, delay, ..again });
            self.again.set(again);
            self.stale.set(true);
            // The machine has been running for a while.
            if self.known.borrow().as_ref().is_some_and(|it| it.running) {
                self.mute.set(false);
            }
        }
    }

    /// Makes a question due at this time.
    fn ask_at(&self, at: i64) {
        self.again.set(Some(Again {
            at: Some(at),
            delay: FIRST_DELAY,
            until: at,
            once: true,
        }));
    }

    fn ask_again(&self, now: i64, passes: bool) {
        if !passes {
            self.again.set(None);
        } else if self.again.get().is_none() && !self.stale.get() {
            self.again.set(Some(Again {
                at: Some(now + FIRST_DELAY),
                delay: FIRST_DELAY,
                until: now + REPEATED_FOR,
                once: false,
            }));
        }
    }

    fn set(&self, known: Option<StatusInfo>) -> bool {
        let changed = *self.known.borrow() != known;
        if changed {
            self.known.replace(known);
        }
        changed
    }
}

impl StatusInfo {
    fn new(status: &str, running: bool) -> Self {
        Self {
            running,
            singlestep: false,
            status: status.to_owned(),
        }
    }

    /// Decodes the reply to `query-status`.
    pub(super) fn decode(command: &str, reply: &str) -> Result<Self, Error> {
        #[derive(Deserialize)]
        struct Wire<'a> {
            running: bool,
            #[serde(default)]
            singlestep: bool,
            #[serde(borrow)]
            status: Cow<'a, str>,
        }
        let unexpected = |reason: &str| PeerError::UnexpectedReply {
            command: command.into(),
            reason: reason.into(),
        };
        let wire: Wire<'_> =
            serde_json::from_str(reply).map_err(|error| unexpected(&misfit(&error)))?;
        if wire.status.contains('\0') || wire.status.len() > LONGEST_NAME {
            return Err(unexpected("the run state has no name that can be").into());
        }
        Ok(Self {
            running: wire.running,
            singlestep: wire.singlestep,
            status: wire.status.into_owned(),
        })
    }
}

/// A longer name is not a run state's: QEMU's longest has 15 bytes. It is
/// kept for as long as the state lasts.
const LONGEST_NAME: usize = 256;

/// The effect of an event on the run state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Effect {
    /// It may have changed.
    Unclear,
    Runs,
    Stopped(&'static str),
    /// The machine has migrated.
    Migrated,
    /// The machine is shut down, and QEMU usually exits.
    MayExit,
}

/// Whether an event of this name can change the run state.
pub(super) fn concerns(name: &str) -> bool {
    matches!(
        name,
        "STOP"
            | "RESUME"
            | "SUSPEND"
            | "SUSPEND_DISK"
            | "WAKEUP"
            | "RESET"
            | "SHUTDOWN"
            | "GUEST_PANICKED"
            | "GUEST_PVSHUTDOWN"
            | "WATCHDOG"
            | "BLOCK_IO_ERROR"
            | "MIGRATION"
            | "COLO_EXIT"
    )
}

fn effect_of(
    name: &str,
    data: Option<&str>,
    known: Option<&StatusInfo>,
    spice: bool,
) -> Option<Effect> {
    #[derive(Deserialize, Default)]
    struct Data<'a> {
        #[serde(borrow, default)]
        action: Cow<'a, str>,
        #[serde(borrow, default)]
        status: Cow<'a, str>,
    }
    let data = || data.and_then(|data| serde_json::from_str::<Data<'_>>(data).ok());
    let known = known.map_or("", |known| &known.status);
    let stopped_by = |action: &str, state| match &*data().unwrap_or_default().action {
        "" => Some(Effect::Unclear),
        done => (done == action).then_some(Effect::Stopped(state)),
    };
    match name {
        // The event before it said why.
        "STOP" if has_cause(known) => Some(Effect::Unclear),
        "STOP" => Some(Effect::Stopped("paused")),
        "RESUME" | "WAKEUP" => Some(Effect::Runs),
        "SUSPEND" => Some(Effect::Stopped("suspended")),
        "RESET" if is_reset_to_prelaunch(known) => Some(Effect::Stopped("prelaunch")),
        "SHUTDOWN" => Some(Effect::MayExit),
        "GUEST_PANICKED" => stopped_by("pause", "guest-panicked"),
        "WATCHDOG" => stopped_by("pause", "watchdog"),
        "BLOCK_IO_ERROR" => stopped_by("stop", "io-error"),
        "MIGRATION" => match &*data().unwrap_or_default().status {
            "pre-switchover" | "device" => Some(Effect::Stopped("finish-migrate")),
            "completed" if known != "inmigrate" => Some(Effect::Migrated),
            // A SPICE port becomes mute after these, without another event.
            "setup" | "active" if spice => None,
            _ => Some(Effect::Unclear),
        },
        _ => concerns(name).then_some(Effect::Unclear),
    }
}

/// Whether the machine is known to have stopped for a reason that STOP does not give.
fn has_cause(state: &str) -> bool {
    !matches!(state, "" | "running" | "paused" | "prelaunch" | "suspended")
}

/// Whether a reset puts a machine that does not run into `prelaunch`: it waits to be
/// started. A migration continues instead.
fn is_reset_to_prelaunch(state: &str) -> bool {
    !matches!(
        state,
        "" | "running" | "inmigrate" | "finish-migrate" | "prelaunch"
    )
}

/// Whether QEMU sends nothing more on a SPICE port once the machine has left `running` for
/// this state.
fn mutes(state: &str) -> bool {
    !matches!(
        state,
        "running" | "paused" | "prelaunch" | "suspended" | "inmigrate"
    )
}

/// Whether the machine leaves this state by itself, perhaps without an event.
fn passes(state: &str) -> bool {
    matches!(
        state,
        "inmigrate" | "finish-migrate" | "save-vm" | "restore-vm"
    )
}

#[cfg(test)]
mod tests;
