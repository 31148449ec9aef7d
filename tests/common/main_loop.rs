// SPDX-License-Identifier: MIT OR Apache-2.0
//! Main loops for tests: every wait on one has a timeout.
//!
//! The library uses the main context of the thread that created the port;
//! spice-gtk always uses GLib's default one, which one test at a time may use.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::panic::{AssertUnwindSafe, Location, catch_unwind};
use std::rc::Rc;
use std::sync::mpsc::{Sender, channel};
use std::sync::{LazyLock, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use glib::ControlFlow;

/// What has not happened by then will not happen.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// [`PATIENCE`], or the number of seconds in the environment: valgrind is slow.
fn patience() -> Duration {
    let seconds = std::env::var("SPICE_QMP_TEST_PATIENCE").ok();
    let seconds = seconds.map(|seconds| seconds.parse().expect("a number of seconds"));
    seconds.map_or(PATIENCE, Duration::from_secs)
}
/// Timeouts that GLib's 32 bits of milliseconds cannot hold. The first one would
/// become 1 ms.
pub const FAR: [Duration; 2] = [Duration::from_millis((1 << 32) + 1), Duration::MAX];
/// How often a condition is checked when nothing happens on the main loop.
const TICK: Duration = Duration::from_millis(5);
/// More iterations than this without a pause are a busy loop.
const BUSY: usize = 1_000_000;

/// The main loop of a test.
pub struct MainLoop {
    context: glib::MainContext,
    turns: Cell<usize>,
}

/// A future that runs on a [`MainLoop`].
pub struct Task<T>(Rc<RefCell<Option<T>>>);

/// The thread's default main context while a test runs on another one, which
/// its ports were created on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrangement {
    /// The ports' own.
    Pushed,
    /// No longer its own: what is queued there is lost.
    Popped,
    /// One that is never run.
    Other,
}

impl Arrangement {
    const ALL: [Self; 3] = [Self::Pushed, Self::Popped, Self::Other];
}

/// Runs a test on a main context of its own, in each [`Arrangement`].
pub fn with_own(mut test: impl FnMut(&MainLoop)) {
    for arrangement in Arrangement::ALL {
        with_own_in(arrangement, &mut test);
    }
}

/// Runs a test on a main context of its own, which is the thread's default: for slow tests
/// that do not depend on that.
pub fn with_own_pushed(test: impl FnOnce(&MainLoop)) {
    with_own_in(Arrangement::Pushed, test);
}

/// Runs a test on a main context of its own in an arrangement.
pub fn with_own_in(arrangement: Arrangement, test: impl FnOnce(&MainLoop)) {
    let context = glib::MainContext::new();
    let other = glib::MainContext::new();
    let before = HOME.replace(Some(context.clone()));
    // Shown if the test fails.
    println!("arrangement: {arrangement:?}");
    match arrangement {
        Arrangement::Pushed => run(&context, test),
        Arrangement::Popped => run_here(&context, test),
        Arrangement::Other => other
            .with_thread_default(|| run_here(&context, test))
            .expect("a new main context"),
    }
    HOME.set(before);
    assert!(!other.pending(), "something came to another main context");
}

thread_local! {
    /// The main context of the test that this thread runs.
    static HOME: RefCell<Option<glib::MainContext>> = const { RefCell::new(None) };
}

/// The main context of the test that this thread runs.
pub fn home() -> glib::MainContext {
    let home = HOME.with_borrow(Clone::clone);
    home.unwrap_or_else(glib::MainContext::ref_thread_default)
}

/// Creates something on the main context of the test that this thread runs: pushes it
/// and pops it again.
pub fn at_home<T>(make: impl FnOnce() -> T) -> T {
    home()
        .with_thread_default(make)
        .expect("the test's own main context")
}

/// Runs a test on GLib's default main context, which SPICE needs.
///
/// All such tests of a program run on one thread, one after the other: sources that a
/// failed test leaves on the main loop belong to the thread that created them.
pub fn with_default(test: impl FnOnce(&MainLoop) + Send + 'static) {
    type Job = Box<dyn FnOnce() + Send>;
    static WORKER: LazyLock<Mutex<Sender<Job>>> = LazyLock::new(|| {
        let (jobs, queue) = channel::<Job>();
        let worker = thread::Builder::new().name(WORKER_NAME.into());
        worker
            .spawn(move || queue.into_iter().for_each(|job| job()))
            .expect("a thread");
        keep_panic_messages();
        Mutex::new(jobs)
    });
    let (done, result) = channel();
    let job = move || {
        let test = AssertUnwindSafe(|| run(&glib::MainContext::default(), test));
        let failure = catch_unwind(test).err().map(|_| MESSAGE.take());
        done.send(failure).expect("the test waits");
    };
    let worker = WORKER.lock().unwrap_or_else(PoisonError::into_inner);
    worker.send(Box::new(job)).expect("the worker runs");
    drop(worker);
    if let Some(message) = result.recv().expect("the worker runs") {
        panic!("{message}");
    }
}

const WORKER_NAME: &str = "default main context";

thread_local! {
    /// The message of this thread's panic, and its location.
    static MESSAGE: Cell<String> = const { Cell::new(String::new()) };
}

/// A test's failure belongs to the output of that test, not to the worker's.
fn keep_panic_messages() {
    let usual = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |info| {
        if thread::current().name() == Some(WORKER_NAME) {
            MESSAGE.set(info.to_string());
        } else {
            usual(info);
        }
    }));
}

fn run(context: &glib::MainContext, test: impl FnOnce(&MainLoop)) {
    context
        .with_thread_default(|| run_here(context, test))
        .expect("no other thread runs this main context");
}

fn run_here(context: &glib::MainContext, test: impl FnOnce(&MainLoop)) {
    let main = MainLoop {
        context: context.clone(),
        turns: Cell::new(0),
    };
    test(&main);
    main.drain();
}

impl MainLoop {
    /// The context itself.
    pub fn context(&self) -> &glib::MainContext {
        &self.context
    }

    /// How many iterations the loop has run.
    pub fn turns(&self) -> usize {
        self.turns.get()
    }

    /// One iteration that does not block. Returns false if there was nothing to do.
    pub fn turn(&self) -> bool {
        self.turns.set(self.turns.get() + 1);
        self.context.iteration(false)
    }

    /// Iterates until there is nothing to do.
    #[track_caller]
    pub fn drain(&self) {
        let mut left = BUSY;
        while self.turn() {
            left -= 1;
            assert!(left > 0, "the main loop never becomes idle");
        }
    }

    /// Iterates until `done` returns true.
    #[track_caller]
    pub fn until(&self, what: &str, mut done: impl FnMut() -> bool) {
        let patience = patience();
        let deadline = glib::monotonic_time() + i64::try_from(patience.as_micros()).unwrap();
        // The condition may depend on the outside world.
        let tick = glib::timeout_source_new(TICK, None, glib::Priority::DEFAULT, || {
            ControlFlow::Continue
        });
        tick.attach(Some(&self.context));
        while !done() {
            assert!(
                glib::monotonic_time() < deadline,
                "timed out after {patience:?}: {what}"
            );
            self.turns.set(self.turns.get() + 1);
            self.context.iteration(true);
        }
        tick.destroy();
    }

    /// Iterates for a while, whatever happens.
    pub fn run_for(&self, time: Duration) {
        self.context.block_on(glib::timeout_future(time));
    }

    /// Runs a future to its end.
    #[track_caller]
    pub fn block_on<T>(&self, future: impl Future<Output = T>) -> T {
        let caller = Location::caller();
        self.context
            .block_on(glib::future_with_timeout(patience(), future))
            .unwrap_or_else(|_| panic!("timed out after {:?}: the future of {caller}", patience()))
    }

    /// Starts a future, which runs while the loop iterates.
    pub fn spawn<T: 'static>(&self, future: impl Future<Output = T> + 'static) -> Task<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        self.context.spawn_local(async move {
            let output = future.await;
            slot.replace(Some(output));
        });
        Task(result)
    }

    /// Runs a spawned future to its end.
    #[track_caller]
    pub fn join<T>(&self, what: &str, task: &Task<T>) -> T {
        self.until(what, || task.is_done());
        task.take()
    }
}

impl<T> Task<T> {
    /// Whether the future has ended.
    pub fn is_done(&self) -> bool {
        self.0.borrow().is_some()
    }

    /// The result of the future, which has ended.
    #[track_caller]
    pub fn take(&self) -> T {
        self.0.take().expect("the future has not ended")
    }
}
