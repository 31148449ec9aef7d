//! Rounds of all cases of a workload, one after the other, and their medians.

/// One who does the work of a workload.
pub struct Case {
    pub who: &'static str,
    /// Gets ready, and gives what does the work for a number of messages.
    pub start: Box<dyn Fn() -> Work>,
}

/// Does the work for so many messages.
pub type Work = Box<dyn FnMut(usize)>;

/// Work that several do.
pub struct Workload {
    /// What filters and children name it by.
    pub id: String,
    pub title: String,
    pub unit: Unit,
    /// Messages of one round.
    pub count: usize,
    /// What the figure is for: so many pieces are in one message.
    pub pieces: f64,
    /// What to reach, in the unit.
    pub target: Option<f64>,
    /// Whose time is taken off that of all others.
    pub less: Option<&'static str>,
    /// Children count its allocations and instructions.
    pub counted: bool,
    pub cases: Vec<Case>,
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    NsPerEvent,
    NsPerByte,
    NsPerCycle,
    MsPerReply,
    UsPerOperation,
    CpuPerOperation,
    OperationsPerSecond,
    EventsPerSecond,
    Ms,
    BytesPerPort,
    Count,
}

impl Unit {
    pub fn name(self) -> &'static str {
        match self {
            Unit::NsPerEvent => "ns/event",
            Unit::NsPerByte => "ns/byte",
            Unit::NsPerCycle => "ns/cycle",
            Unit::MsPerReply => "ms/reply",
            Unit::UsPerOperation => "µs/op",
            Unit::CpuPerOperation => "µs CPU/op",
            Unit::OperationsPerSecond => "op/s",
            Unit::EventsPerSecond => "event/s",
            Unit::Ms => "ms",
            Unit::BytesPerPort => "byte/port",
            Unit::Count => "",
        }
    }

    /// Whether a greater figure is better.
    pub fn is_rate(self) -> bool {
        matches!(self, Unit::OperationsPerSecond | Unit::EventsPerSecond)
    }

    /// The figure for what takes so many seconds.
    pub fn of_seconds(self, seconds: f64) -> f64 {
        match self {
            Unit::NsPerEvent | Unit::NsPerByte | Unit::NsPerCycle => seconds * 1e9,
            Unit::UsPerOperation | Unit::CpuPerOperation => seconds * 1e6,
            Unit::MsPerReply | Unit::Ms => seconds * 1e3,
            Unit::OperationsPerSecond | Unit::EventsPerSecond => 1.0 / seconds,
            Unit::BytesPerPort | Unit::Count => seconds,
        }
    }
}

/// The figures of several rounds.
#[derive(Clone, Debug)]
pub struct Figures(Vec<f64>);

impl Figures {
    pub fn new(mut figures: Vec<f64>) -> Self {
        assert!(!figures.is_empty(), "no rounds");
        figures.sort_by(f64::total_cmp);
        Self(figures)
    }

    pub fn median(&self) -> f64 {
        let middle = self.0.len() / 2;
        if self.0.len() % 2 == 1 {
            self.0[middle]
        } else {
            f64::midpoint(self.0[middle - 1], self.0[middle])
        }
    }

    pub fn min(&self) -> f64 {
        self.0[0]
    }

    pub fn max(&self) -> f64 {
        self.0[self.0.len() - 1]
    }
}

impl Workload {
    /// Runs all cases: one round to warm up, then `rounds` that count.
    pub fn run(&self, rounds: usize) -> Vec<(&'static str, Figures)> {
        let mut works: Vec<_> = self.cases.iter().map(|case| (case.start)()).collect();
        let mut times = vec![Vec::new(); works.len()];
        for round in 0..=rounds {
            let mut these: Vec<f64> = works.iter_mut().map(|work| self.time(work)).collect();
            if let Some(less) = self.less {
                let off = self.cases.iter().position(|case| case.who == less);
                let off = these[off.expect("a case of that name")];
                for (time, case) in these.iter_mut().zip(&self.cases) {
                    if case.who != less {
                        *time -= off;
                    }
                }
            }
            if round > 0 {
                for (times, time) in times.iter_mut().zip(these) {
                    times.push(time);
                }
            }
        }
        let names = self.cases.iter().map(|case| case.who);
        names.zip(times.into_iter().map(Figures::new)).collect()
    }

    #[allow(clippy::cast_precision_loss, reason = "small numbers")]
    fn time(&self, work: &mut Work) -> f64 {
        tidy_heap();
        let start = cpu_seconds();
        work(self.count);
        let seconds = cpu_seconds() - start;
        self.unit
            .of_seconds(seconds / (self.count as f64 * self.pieces))
    }
}

/// Merges the small pieces that the last one freed, as the C library does when it is
/// next asked for a large piece: whoever asks must not pay for another's tree.
fn tidy_heap() {
    // SAFETY: what is allocated is freed; its size is below that of a mapping of its own.
    unsafe { libc::free(std::hint::black_box(libc::malloc(100 << 10))) }
}

/// The time that this thread has run: what the machine does beside is not in it.
#[allow(clippy::cast_precision_loss, reason = "a day has few nanoseconds")]
pub fn cpu_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` lives for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
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
