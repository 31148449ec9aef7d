// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plays all cases, and compares their results with the table.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::rc::Rc;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

use spice_qmp::PortState;

use super::cases::{Case, Moment};
use super::expected::Outcome;
use super::player::{CLOSE, COMMAND, FURTHER, Player, WAIT};
use super::program::{Program, What};
use super::script::{self, Step};
use crate::common::main_loop::PATIENCE;

/// The port's close timeout in microseconds, minus a safety margin.
const CLOSE_TIME: i64 = 500_000;
/// How often a case is repeated if a busy machine delayed its close.
const TRIES: usize = 20;
/// A wait fails only after this many checks.
const LOOKS: usize = 200;
/// How many failures are printed.
const TOLD: usize = 20;

/// Which cases are played. `SPICE_QMP_TEST_MATRIX_ALL` in the environment: all.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Share {
    All,
    /// All but those of a series of commands, of which it is one in [`PART`].
    Most,
    /// One in [`PART`].
    Part,
}

/// One case in so many is played where all would take too long.
const PART: usize = 8;

/// Plays the cases, several at once since some wait, each thread with a program
/// that `make` makes. Returns how many there were.
pub fn play<P: Program + 'static>(
    share: Share,
    threads: usize,
    make: impl Fn() -> P + Sync,
) -> usize {
    let (cases, count) = cases(share);
    let turn = Turn::default();
    let failures = Mutex::default();
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                glib::MainContext::new()
                    .with_thread_default(|| play_some(&cases, &turn, &failures, &make))
                    .expect("a main context of one's own");
            });
        }
    });
    judge(&failures, count)
}

/// Plays the cases on the main context of this thread.
pub fn play_here<P: Program + 'static>(share: Share, make: impl Fn() -> P) -> usize {
    let (cases, count) = cases(share);
    let failures = Mutex::default();
    play_some(&cases, &Turn::default(), &failures, &make);
    judge(&failures, count)
}

/// The cases, and their number.
fn cases(share: Share) -> (Mutex<impl Iterator<Item = Case>>, usize) {
    let words = std::env::var("SPICE_QMP_TEST_MATRIX").unwrap_or_default();
    let mut cases = Case::all();
    cases.retain(|case| {
        let name = case.to_string();
        words.split_whitespace().all(|word| name.contains(word))
    });
    let all = std::env::var_os("SPICE_QMP_TEST_MATRIX_ALL").is_some();
    let share = if all { Share::All } else { share };
    // A different column for each row, so that all uses occur.
    let is_in_part = |at: usize| (at + at / PART).is_multiple_of(PART);
    let cases = cases.into_iter().enumerate();
    let cases = cases.filter(|(at, case)| match share {
        Share::All => true,
        Share::Most => !case.way.is_series() || is_in_part(*at),
        Share::Part => is_in_part(*at),
    });
    let cases: Vec<_> = cases.map(|(_, case)| case).collect();
    let count = cases.len();
    (Mutex::new(cases.into_iter()), count)
}

fn judge(failures: &Mutex<Vec<String>>, count: usize) -> usize {
    let failures = lock(failures);
    let told: Vec<_> = failures.iter().take(TOLD).map(String::as_str).collect();
    let (failed, told) = (failures.len(), told.join("\n"));
    assert_eq!(failed, 0, "{failed} of {count} cases failed:\n{told}");
    count
}

fn play_some<P: Program + 'static>(
    cases: &Mutex<impl Iterator<Item = Case>>,
    turn: &Turn,
    failures: &Mutex<Vec<String>>,
    make: &impl Fn() -> P,
) {
    let mut program: Rc<dyn Program> = Rc::new(make());
    loop {
        let Some(case) = lock(cases).next() else {
            return;
        };
        turn.take();
        let result = catch_unwind(AssertUnwindSafe(|| {
            let play = Play {
                case,
                turn,
                program: program.clone(),
            };
            play.until_sure()
        }));
        turn.give();
        // The panic message is shown where it happens.
        let failure = result.unwrap_or_else(|_| Err("it panicked".into())).err();
        if let Some(failure) = failure {
            lock(failures).push(format!("{case}: {failure}"));
            program = Rc::new(make());
        }
    }
}

/// One case at a time is played, while others wait for time to pass. So a
/// case does not find its deadlines expired because others kept it from its work.
#[derive(Default)]
struct Turn {
    taken: Mutex<bool>,
    given: Condvar,
}

impl Turn {
    fn take(&self) {
        let taken = lock(&self.taken);
        let free = self.given.wait_while(taken, |taken| *taken);
        *free.unwrap_or_else(PoisonError::into_inner) = true;
    }

    fn give(&self) {
        *lock(&self.taken) = false;
        self.given.notify_one();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A case that is played.
struct Play<'a> {
    case: Case,
    turn: &'a Turn,
    program: Rc<dyn Program>,
}

impl Play<'_> {
    /// Plays the case until no delay of this machine has affected it.
    fn until_sure(&self) -> Result<(), String> {
        for _ in 0..TRIES {
            if self.once()? {
                return Ok(());
            }
        }
        Err(format!(
            "this machine is too slow: {TRIES} times the close took too long"
        ))
    }

    /// Plays the case. Returns false if the close may have ended before the server's answers.
    fn once(&self) -> Result<bool, String> {
        self.program.forget();
        let player = Player::connect(self.program.clone(), self.case);
        let expected = player.expected.clone();
        player.play(script::steps(self.case));
        if let Some(failure) = player.failure.take() {
            return Err(failure);
        }
        let late = player
            .shut_at
            .get()
            .is_some_and(|at| !expected.program_closes && glib::monotonic_time() - at > CLOSE_TIME);
        if late {
            self.end()?;
            return Ok(false);
        }

        let closes = self.case.moment == Moment::Closing;
        if expected.program_closes && !closes {
            player.shut();
        }
        if player.shut_at.get().is_some() {
            self.until("the end of the close", || self.ends(CLOSE, 1))?;
        }
        self.until("the end of the calls", || {
            self.program.pending() == 0
                && self.ends(COMMAND, 1)
                && (expected.wait.is_none() || self.ends(WAIT, 1))
        })?;
        if expected.state.is_none() {
            self.until("the end of the port", || self.program.state().is_none())?;
        }
        self.program.settle();
        self.program.leave_nested();
        self.program.settle();

        let command = match &expected.or {
            Some(or) if self.program.ends(COMMAND) == [or.clone()] => or,
            _ => &expected.command,
        };
        let state = self.program.state();
        if state != expected.state {
            return Err(format!("the port is {state:?}, not {:?}", expected.state));
        }
        self.is_as_expected(COMMAND, command)?;
        if let Some(wait) = &expected.wait {
            self.is_as_expected(WAIT, wait)?;
        }

        let mut slot = FURTHER;
        if expected.goes_on && expected.state.is_some() {
            self.good_call(&player, slot)?;
            slot += 1;
        }
        self.good_session(player, slot)?;
        // Calls that have ended do not end again.
        self.is_as_expected(COMMAND, command)?;
        if let Some(wait) = &expected.wait {
            self.is_as_expected(WAIT, wait)?;
        }
        self.end()?;
        Ok(true)
    }

    /// A session with a good server: on the same port if it can be reopened,
    /// otherwise on a new one.
    fn good_session(&self, mut player: Rc<Player>, slot: usize) -> Result<(), String> {
        let shut = player.shut_at.get().is_some();
        if player.peer.reopens() && !shut && self.program.state().is_some() {
            player.reopen();
        } else {
            self.end()?;
            player = Player::connect(self.program.clone(), self.case);
            player.play(vec![Step::Open, Step::Serve]);
        }
        self.until("a good session", || {
            self.program.state() == Some(PortState::Ready)
        })?;
        self.good_call(&player, slot)
    }

    fn good_call(&self, player: &Rc<Player>, slot: usize) -> Result<(), String> {
        player.plain(What::Command, slot);
        player.play(vec![Step::Serve]);
        self.until("the end of a good call", || self.ends(slot, 1))?;
        self.is_as_expected(slot, &Outcome::Success)
    }

    /// The program drops the port, and it is gone.
    fn end(&self) -> Result<(), String> {
        self.program.leave_nested();
        self.program.drop_port();
        self.until("the end of the port", || self.program.state().is_none())
    }

    fn ends(&self, slot: usize, count: usize) -> bool {
        self.program.ends(slot).len() >= count
    }

    fn is_as_expected(&self, slot: usize, outcome: &Outcome) -> Result<(), String> {
        let ends = self.program.ends(slot);
        if ends == [outcome.clone()] {
            return Ok(());
        }
        let what = match slot {
            COMMAND => "the command",
            WAIT => "the wait",
            _ => "a good call",
        };
        Err(format!(
            "{what} ended so: {ends:?}, not once as {outcome:?}"
        ))
    }

    /// Waits, and lets other cases work meanwhile.
    fn until(&self, what: &str, done: impl Fn() -> bool) -> Result<(), String> {
        let start = glib::monotonic_time();
        let patience = i64::try_from(PATIENCE.as_micros()).expect("it is not long");
        let mut looks = 0;
        while !done() {
            // On a busy machine, most of the time passes between two iterations.
            looks += 1;
            if looks > LOOKS && glib::monotonic_time() - start > patience {
                return Err(format!("timed out after {PATIENCE:?}: {what}"));
            }
            self.turn.give();
            self.program.idle();
            self.turn.take();
        }
        Ok(())
    }
}
