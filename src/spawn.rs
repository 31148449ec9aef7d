// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs futures on a main context, for code without an executor: the C library.
//!
//! Not `MainContext::spawn_local`: GLib's tasks abort the process if a callback runs
//! a main loop that reaches another one, and if another thread frees the context.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use crate::home::{Bound, Home};

type LocalFuture = Pin<Box<dyn Future<Output = ()>>>;

/// A future that runs on the thread and main context on which it was spawned.
struct Spawned {
    home: Home,
    /// `None` while it is being polled, and when it has ended.
    future: Bound<RefCell<Option<LocalFuture>>>,
    /// Whether a poll is scheduled.
    scheduled: AtomicBool,
    priority: glib::Priority,
    /// Whether it was woken while it was being polled.
    missed: AtomicBool,
}

/// Runs `future` on `context`, which the calling thread runs or could run. It is polled
/// from the main loop only, never from within this function.
#[doc(hidden)]
pub fn spawn_on(context: &glib::MainContext, future: impl Future<Output = ()> + 'static) {
    spawn_at(glib::Priority::DEFAULT, context, future);
}

/// Like [`spawn_on`], but polled at `priority`.
pub(crate) fn spawn_at(
    priority: glib::Priority,
    context: &glib::MainContext,
    future: impl Future<Output = ()> + 'static,
) {
    let home = Home::on(context.clone());
    let future: LocalFuture = Box::pin(future);
    let spawned = Spawned {
        future: home.bind(RefCell::new(Some(future))),
        home,
        scheduled: AtomicBool::new(false),
        priority,
        missed: AtomicBool::new(false),
    };
    Arc::new(spawned).wake();
}

impl Wake for Spawned {
    fn wake(self: Arc<Self>) {
        if !self.scheduled.swap(true, Ordering::AcqRel) {
            let home = self.home.clone();
            home.idle(self.priority, move || self.poll());
        }
    }
}

impl Spawned {
    fn poll(self: Arc<Self>) {
        self.scheduled.store(false, Ordering::Release);
        let Some(place) = self.future.get() else {
            return;
        };
        let taken = place.borrow_mut().take();
        let Some(mut future) = taken else {
            // It is running a main loop, or has ended.
            self.missed.store(true, Ordering::Relaxed);
            return;
        };
        self.missed.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.clone());
        let mut cx = Context::from_waker(&waker);
        let polled = self.home.enter(|| future.as_mut().poll(&mut cx));
        if polled != Some(Poll::Ready(())) {
            place.replace(Some(future));
            if self.missed.load(Ordering::Relaxed) {
                self.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_future_runs_on_its_context_whatever_is_pushed() {
        let (own, other) = (glib::MainContext::new(), glib::MainContext::new());
        let ended = Rc::new(Cell::new(false));
        other
            .with_thread_default(|| {
                let (ended, own) = (ended.clone(), own.clone());
                spawn_on(&own.clone(), async move {
                    glib::timeout_future(Duration::from_millis(1)).await;
                    ended.set(glib::MainContext::ref_thread_default() == own);
                });
            })
            .unwrap();
        while own.pending() || !ended.get() {
            own.iteration(true);
        }
        assert!(!other.pending());
    }

    #[test]
    fn a_future_that_runs_a_main_loop_is_not_forgotten() {
        let own = glib::MainContext::new();
        let ended = Rc::new(Cell::new(0));
        for _ in 0..2 {
            let (ended, context) = (ended.clone(), own.clone());
            spawn_on(&own, async move {
                glib::timeout_future(Duration::from_millis(1)).await;
                while ended.get() == 0 && context.iteration(false) {}
                ended.set(ended.get() + 1);
                glib::timeout_future(Duration::from_millis(1)).await;
                ended.set(ended.get() + 1);
            });
        }
        while ended.get() < 4 {
            own.iteration(true);
        }
    }

    #[test]
    fn another_thread_may_free_the_context() {
        let context = glib::MainContext::new();
        let count = Rc::new(());
        let inner = count.clone();
        spawn_on(&context, async move { drop(inner) });
        std::thread::spawn(move || drop(context)).join().unwrap();
        assert_eq!(Rc::strong_count(&count), 2, "leaked, not dropped there");
    }
}
