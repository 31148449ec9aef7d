// SPDX-License-Identifier: MIT OR Apache-2.0
//! The main context that a port belongs to, and the thread that runs it.
//!
//! C has no borrow checker: any thread may drop the last reference to a port, run its
//! main context, or free that context with everything that still waits in it. What a port
//! leaves on its context is therefore [`Bound`] to its thread, and leaked elsewhere.
#![allow(unsafe_code)]

use std::mem::ManuallyDrop;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, ThreadId};

thread_local! {
    /// The id of this thread. `thread::current()` counts a reference each time.
    static HERE: ThreadId = thread::current().id();
}

fn here() -> ThreadId {
    HERE.with(|&id| id)
}

/// A main context, and the thread that may use it.
#[derive(Clone, Debug)]
pub(crate) struct Home {
    thread: ThreadId,
    context: glib::MainContext,
    /// Whether another thread has run the context, and something was lost because of that.
    broken: Arc<AtomicBool>,
}

impl Home {
    /// The calling thread and its default main context.
    pub(crate) fn here() -> Self {
        Self::on(glib::MainContext::ref_thread_default())
    }

    /// The calling thread and GLib's default main context, which spice-gtk uses.
    #[cfg(feature = "spice")]
    pub(crate) fn of_spice() -> Self {
        Self::on(glib::MainContext::default())
    }

    /// The calling thread and `context`.
    pub(crate) fn on(context: glib::MainContext) -> Self {
        Self {
            thread: here(),
            context,
            broken: Arc::default(),
        }
    }

    /// Whether the calling thread is the one of this home.
    pub(crate) fn is_my_thread(&self) -> bool {
        here() == self.thread
    }

    /// Whether the calling thread may use `what` of `object`, which is at this home; if not,
    /// logs a critical.
    pub(crate) fn may_use(&self, object: &str, what: &str) -> bool {
        may_use(self.thread, object, what)
    }

    /// Whether the calling thread is the one of this home, and runs its context or could run it.
    pub(crate) fn is_here(&self) -> bool {
        self.is_my_thread() && (self.context.is_owner() || self.context.acquire().is_ok())
    }

    pub(crate) fn context(&self) -> &glib::MainContext {
        &self.context
    }

    /// Whether another thread ran the context when something was due there.
    pub(crate) fn is_broken(&self) -> bool {
        self.broken.load(Ordering::Relaxed)
    }

    /// Runs `work` with the context as the thread-default one, so that operations that it
    /// starts end there. Does nothing if another thread runs the context.
    pub(crate) fn enter<R>(&self, work: impl FnOnce() -> R) -> Option<R> {
        if !self.is_my_thread() {
            return None;
        }
        self.context.with_thread_default(work).ok()
    }

    /// Binds a value to this home.
    pub(crate) fn bind<T>(&self, value: T) -> Bound<T> {
        Bound {
            thread: self.thread,
            broken: self.broken.clone(),
            value: ManuallyDrop::new(Some(value)),
        }
    }

    /// Runs `work` once from the main loop.
    pub(crate) fn idle(
        &self,
        priority: glib::Priority,
        work: impl FnOnce() + 'static,
    ) -> glib::Source {
        let mut work = Some(self.bind(work));
        let source = glib::idle_source_new(None, priority, move || {
            if let Some(work) = work.take().and_then(Bound::take) {
                work();
            }
            glib::ControlFlow::Break
        });
        source.attach(Some(&self.context));
        source
    }
}

/// Whether the calling thread may use `what` of `object`, which belongs to `thread`; if not,
/// logs a critical.
pub(crate) fn may_use(thread: ThreadId, object: &str, what: &str) -> bool {
    let here = here() == thread;
    if !here {
        glib::g_critical!(
            "SpiceQmp",
            "{what:?} of {object} was used on another thread than the one that it belongs to"
        );
    }
    here
}

/// A value that only the thread of its home uses. If another thread drops it, it is
/// leaked: it cannot be moved to its own thread.
///
/// It does not hold the context: a source on the context would keep it alive for ever.
#[derive(Debug)]
pub(crate) struct Bound<T> {
    thread: ThreadId,
    broken: Arc<AtomicBool>,
    /// `None` once it was taken.
    value: ManuallyDrop<Option<T>>,
}

// SAFETY: the value is moved out or dropped only if the calling thread is the one
// on which it was bound.
unsafe impl<T> Send for Bound<T> {}

// SAFETY: as above; what is shared between threads is only compared.
unsafe impl<T> Sync for Bound<T> {}

impl<T> Bound<T> {
    /// The value; `None`, with a critical, on any thread but its home's.
    pub(crate) fn take(mut self) -> Option<T> {
        if self.is_here() {
            self.value.take()
        } else {
            None
        }
    }

    /// A reference to the value, with the same check as [`take`](Self::take).
    pub(crate) fn get(&self) -> Option<&T> {
        if self.is_here() {
            self.value.as_ref()
        } else {
            None
        }
    }

    fn is_here(&self) -> bool {
        let here = here() == self.thread;
        if !here {
            self.broken.store(true, Ordering::Relaxed);
            glib::g_critical!(
                "SpiceQmp",
                "the main context of a port was run by a thread that did not make the port"
            );
        }
        here
    }
}

impl<T> Drop for Bound<T> {
    fn drop(&mut self) {
        if here() == self.thread {
            // SAFETY: this is the value's thread, and it is dropped once, here.
            unsafe { ManuallyDrop::drop(&mut self.value) };
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    #[test]
    fn a_bound_value_is_taken_or_dropped_once() {
        let (home, count) = (Home::here(), Rc::new(()));
        assert!(home.bind(count.clone()).take().is_some());
        drop(home.bind(count.clone()));
        assert_eq!(Rc::strong_count(&count), 1);
    }

    #[test]
    fn another_thread_leaks_a_bound_value() {
        let (home, count) = (Home::here(), Rc::new(()));
        let bound = home.bind(count.clone());
        thread::spawn(move || drop(bound)).join().unwrap();
        assert_eq!(Rc::strong_count(&count), 2);
        assert!(!home.is_broken());
    }

    #[test]
    fn work_runs_on_the_own_context_only() {
        let own = glib::MainContext::new();
        let home = own.with_thread_default(Home::here).unwrap();
        let other = glib::MainContext::new();
        let ran = Rc::new(Cell::new(false));
        other
            .with_thread_default(|| {
                let inside = home.enter(glib::MainContext::ref_thread_default);
                assert_eq!(inside.as_ref(), Some(&own));
                let ran = ran.clone();
                home.idle(glib::Priority::DEFAULT, move || ran.set(true));
            })
            .unwrap();
        assert!(!other.iteration(false));
        assert!(own.iteration(false) && ran.get());
    }

    #[test]
    fn what_another_thread_frees_with_the_context_is_leaked() {
        let count = Rc::new(());
        let context = glib::MainContext::new();
        let home = context.with_thread_default(Home::here).unwrap();
        let inner = count.clone();
        drop(home.idle(glib::Priority::DEFAULT, move || drop(inner)));
        drop(home);
        thread::spawn(move || drop(context)).join().unwrap();
        assert_eq!(Rc::strong_count(&count), 2);
    }
}
