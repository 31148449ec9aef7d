// SPDX-License-Identifier: MIT OR Apache-2.0
//! Contests: participants that do the same in rounds, and their results.

use std::time::Instant;

/// Does the work for this many messages, in this process.
pub type Work = Box<dyn FnMut(usize)>;

/// One round of a participant: a figure for each row of the contest, or why there is none.
pub type Run = Box<dyn FnMut() -> Result<Vec<f64>, String>>;

/// How a participant starts.
pub enum Start {
    /// In this process, whose time is measured.
    Work(Box<dyn Fn() -> Work>),
    /// A participant that measures itself; or why it cannot.
    Run(Box<dyn Fn() -> Result<Run, String>>),
}

/// Participants that do the same.
pub struct Contest {
    pub rows: Vec<Row>,
    pub cases: Vec<(&'static str, Start)>,
    /// Messages per round.
    pub count: usize,
    /// Rounds that count, after one that does not; a single one is exact.
    pub rounds: usize,
}

/// One measured quantity, and its results.
pub struct Row {
    pub id: &'static str,
    pub title: &'static str,
    pub unit: Unit,
    /// The index of its figure in a round.
    figure: usize,
    pub goals: Vec<Goal>,
    pub results: Vec<(&'static str, Figures)>,
}

/// A participant's goal: a figure, or a multiple of another participant's.
pub struct Goal {
    pub who: &'static str,
    pub factor: f64,
    pub of: Option<&'static str>,
}

/// The unit of a figure.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    Ns,
    Us,
    Ms,
    PerSecond,
    Bytes,
    Count,
}

const ROUNDS: usize = 5;

impl Row {
    pub fn of(&self, who: &str) -> Option<&Figures> {
        let found = self.results.iter().find(|(name, _)| *name == who);
        found.map(|(_, figures)| figures)
    }

    /// The value that is compared with a goal's factor.
    pub fn reached(&self, goal: &Goal) -> Option<f64> {
        let figures = self.of(goal.who)?;
        match goal.of {
            Some(other) => Some(figures.ratio(self.of(other)?)),
            None => Some(figures.median()),
        }
    }
}

impl Unit {
    /// Whether more is better.
    pub fn is_rate(self) -> bool {
        self == Unit::PerSecond
    }

    /// The figure for this many seconds each.
    fn of(self, value: f64) -> f64 {
        match self {
            Unit::Ns => value * 1e9,
            Unit::Us => value * 1e6,
            Unit::Ms => value * 1e3,
            Unit::PerSecond => 1.0 / value,
            Unit::Bytes | Unit::Count => value,
        }
    }
}

/// The figures of several rounds, in their order.
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn median(&self) -> f64 {
        median(self.0.clone())
    }

    pub fn min(&self) -> f64 {
        self.0.iter().copied().fold(f64::MAX, f64::min)
    }

    pub fn max(&self) -> f64 {
        self.0.iter().copied().fold(f64::MIN, f64::max)
    }

    /// The median of the rounds' ratios, which excludes what slows a whole round down.
    pub fn ratio(&self, other: &Self) -> f64 {
        median(self.0.iter().zip(&other.0).map(|(a, b)| a / b).collect())
    }
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

impl Contest {
    pub fn new(count: usize, cases: Vec<(&'static str, Start)>) -> Self {
        Self {
            rows: Vec::new(),
            cases,
            count,
            rounds: ROUNDS,
        }
    }

    /// Adds a row for a figure of each round.
    pub fn row(mut self, figure: usize, id: &'static str, unit: Unit, title: &'static str) -> Self {
        self.rows.push(Row {
            id,
            title,
            unit,
            figure,
            goals: Vec::new(),
            results: Vec::new(),
        });
        self
    }

    /// Adds a goal for this library to the last row.
    pub fn goal(self, factor: f64, of: impl Into<Option<&'static str>>) -> Self {
        self.goal_of(crate::OURS, factor, of)
    }

    pub fn goal_of(
        mut self,
        who: &'static str,
        factor: f64,
        of: impl Into<Option<&'static str>>,
    ) -> Self {
        let (row, of) = (self.rows.last_mut().expect("a row"), of.into());
        row.goals.push(Goal { who, factor, of });
        self
    }

    /// Runs all in turn, in rounds, each in the reverse order of the last; returns
    /// the participants that could not take part, and why.
    pub fn run(&mut self) -> Vec<(&'static str, String)> {
        let mut left_out = Vec::new();
        let mut runs: Vec<(&'static str, Run, Vec<Vec<f64>>)> = Vec::new();
        let count = self.count;
        for (who, start) in &self.cases {
            let run = match start {
                Start::Work(start) => {
                    let mut work = start();
                    Ok(Box::new(move || Ok(vec![seconds_of(&mut work, count)])) as Run)
                }
                Start::Run(start) => start(),
            };
            match run {
                Ok(run) => runs.push((who, run, Vec::new())),
                Err(why) => left_out.push((*who, why)),
            }
        }
        let warm_up = usize::from(self.rounds > 1);
        for round in 0..self.rounds + warm_up {
            runs.retain_mut(|(who, run, figures)| {
                match run() {
                    Ok(these) if round >= warm_up => figures.push(these),
                    Ok(_) => (),
                    Err(why) => {
                        left_out.push((*who, why));
                        return false;
                    }
                }
                true
            });
            runs.reverse();
        }
        for row in &mut self.rows {
            // In the order of the cases, whatever the order of the last round.
            for (who, _) in &self.cases {
                if let Some((.., figures)) = runs.iter().find(|(name, ..)| name == who) {
                    let figures = figures.iter().map(|round| row.unit.of(round[row.figure]));
                    row.results.push((who, Figures(figures.collect())));
                }
            }
        }
        left_out
    }
}

/// The processor time in seconds per message, for this many messages.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub fn seconds_of(mut work: impl FnMut(usize), count: usize) -> f64 {
    // Merges the small pieces that the last participant freed, which the C library does when
    // it is next asked for a large piece: no participant must pay for another's tree.
    // SAFETY: what is allocated is freed; its size is below that of a mapping of its own.
    unsafe { libc::free(std::hint::black_box(libc::malloc(100 << 10))) };
    let start = cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID);
    work(count);
    (cpu_seconds(libc::CLOCK_THREAD_CPUTIME_ID) - start) / count as f64
}

/// Clock time and processor time in seconds, of all threads, per message.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub fn both_of(count: usize, work: impl FnOnce()) -> [f64; 2] {
    let start = (Instant::now(), cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID));
    work();
    let cpu = cpu_seconds(libc::CLOCK_PROCESS_CPUTIME_ID) - start.1;
    [start.0.elapsed().as_secs_f64(), cpu].map(|seconds| seconds / count as f64)
}

/// A clock of the processor, which excludes other work of the machine.
#[allow(clippy::cast_precision_loss, reason = "a day has few nanoseconds")]
fn cpu_seconds(clock: libc::clockid_t) -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` lives for the call.
    unsafe { libc::clock_gettime(clock, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Keeps this thread, and the children it will start, on one core.
pub fn pin(core: usize) {
    // SAFETY: a set of cores is plain data, and lives for the call.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(core, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}
