// SPDX-License-Identifier: MIT OR Apache-2.0
//! A reusable timer source on the main context of a port.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use glib::ffi;
use glib::translate::{IntoGlib, ToGlibPtr, from_glib_full};

use crate::home::{Bound, Home};

/// Runs the same work whenever its time has come, until dropped. Setting it is cheaper
/// than creating a source for each time.
///
/// It also fires while its work is running: the work may run a main loop. It runs
/// on its own thread only, but may be dropped on any thread.
///
/// It keeps its own time instead of GLib's ready time: GLib wakes the main loop whenever that is
/// changed, even on the thread that runs it, which takes two system calls and an iteration.
#[derive(Debug)]
pub(crate) struct Alarm(glib::Source);

/// GLib's source, and its time.
#[repr(C)]
struct Timed {
    source: ffi::GSource,
    at: AtomicI64,
    /// The time of the iteration in which it last fired, or [`NOW`].
    went_off: AtomicI64,
}

/// Just before the default priority: the main loop gets there without polling files.
const NEXT: i32 = -1;

impl Alarm {
    /// An alarm on the context of `home`, not set yet.
    pub(crate) fn new<F: Fn() + Send + 'static>(home: &Home, work: F) -> Self {
        let work = Box::into_raw(Box::new((home.bind(()), work)));
        // SAFETY: GLib copies nothing of the functions, which are static, and changes
        // nothing in them. It drops the work with the source, which it allocated with the size
        // that it is passed.
        let source: glib::Source = unsafe {
            let size = u32::try_from(size_of::<Timed>()).expect("a size that C has");
            let source = ffi::g_source_new((&raw const FUNCTIONS).cast_mut(), size);
            timed(source).at.store(NEVER, Relaxed);
            timed(source).went_off.store(NEVER, Relaxed);
            ffi::g_source_set_callback(source, Some(run::<F>), work.cast(), Some(free::<F>));
            ffi::g_source_set_can_recurse(source, ffi::GTRUE);
            from_glib_full(source)
        };
        source.attach(Some(home.context()));
        Self(source)
    }

    /// Makes it fire at this time of [`glib::monotonic_time`], instead of any other, and
    /// after everything that is due by then with the same priority.
    pub(crate) fn set(&self, at: i64, priority: glib::Priority) {
        // SAFETY: the source lives. Setting the priority that it already has moves it behind
        // the other sources.
        unsafe {
            let source = self.0.to_glib_none().0;
            ffi::g_source_set_priority(source, priority.into_glib());
            timed(source).at.store(at, Relaxed);
        }
    }

    /// Makes it fire as soon as possible: before sources of the default priority, unless it
    /// fired in this iteration of the main loop. Then work deferred to the next iteration (as
    /// `GTask` does) comes first, and so does everything else that waits.
    pub(crate) fn set_next(&self) {
        // SAFETY: the source lives, and is on a context, which its port's home holds.
        let again = unsafe {
            let source = self.0.to_glib_none().0;
            let went_off = timed(source).went_off.load(Relaxed);
            went_off == NOW || went_off == ffi::g_source_get_time(source)
        };
        let priority = if again { ffi::G_PRIORITY_DEFAULT } else { NEXT };
        self.set(0, glib::Priority::from(priority));
    }

    /// Runs `work` as if this fired now.
    pub(crate) fn instead(&self, work: impl FnOnce()) {
        // SAFETY: the source lives for as long as this does.
        unsafe { go_off(self.0.to_glib_none().0, work) }
    }

    /// Cancels it, unless its work has already begun.
    pub(crate) fn clear(&self) {
        // SAFETY: the source lives.
        unsafe { timed(self.0.to_glib_none().0).at.store(NEVER, Relaxed) };
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// The time of an alarm that is not set.
const NEVER: i64 = i64::MAX;
/// In place of the time of an iteration: it is firing.
const NOW: i64 = i64::MIN;

static FUNCTIONS: ffi::GSourceFuncs = ffi::GSourceFuncs {
    prepare: Some(prepare),
    check: Some(check),
    dispatch: Some(dispatch),
    finalize: None,
    closure_callback: None,
    closure_marshal: None,
};

/// # Safety
///
/// The source is an alarm's, and lives for as long as the result is used.
unsafe fn timed<'a>(source: *mut ffi::GSource) -> &'a Timed {
    // SAFETY: as the caller promises; GLib made it of the size of a `Timed`.
    unsafe { &*source.cast::<Timed>() }
}

unsafe extern "C" fn prepare(source: *mut ffi::GSource, timeout: *mut i32) -> ffi::gboolean {
    // SAFETY: GLib calls this with a live source and a location for the timeout.
    unsafe {
        let at = timed(source).at.load(Relaxed);
        *timeout = -1;
        if at == NEVER {
            return ffi::GFALSE;
        }
        let left = at.saturating_sub(ffi::g_source_get_time(source));
        // Rounded up: firing early would iterate the main loop for nothing.
        *timeout = i32::try_from(left.max(0).saturating_add(999) / 1000).unwrap_or(i32::MAX);
        i32::from(left <= 0)
    }
}

unsafe extern "C" fn check(source: *mut ffi::GSource) -> ffi::gboolean {
    // SAFETY: GLib calls this with a live source.
    unsafe {
        let at = timed(source).at.load(Relaxed);
        i32::from(at != NEVER && at <= ffi::g_source_get_time(source))
    }
}

unsafe extern "C" fn dispatch(
    source: *mut ffi::GSource,
    work: ffi::GSourceFunc,
    data: ffi::gpointer,
) -> ffi::gboolean {
    // SAFETY: GLib calls this with a live source, and with its work and data.
    unsafe {
        let mut goes_on = ffi::G_SOURCE_REMOVE;
        go_off(source, || {
            goes_on = work.map_or(goes_on, |work| work(data));
        });
        goes_on
    }
}

/// # Safety
///
/// The source is an alarm's, and lives until this returns.
unsafe fn go_off<R>(source: *mut ffi::GSource, work: impl FnOnce() -> R) {
    // SAFETY: as the caller promises. The time is that of a context, which a source that was
    // not destroyed has.
    unsafe {
        let timed = timed(source);
        timed.at.store(NEVER, Relaxed);
        let before = timed.went_off.swap(NOW, Relaxed);
        work();
        if before != NOW && ffi::g_source_is_destroyed(source) == ffi::GFALSE {
            let now = ffi::g_source_get_time(source);
            timed.went_off.store(now, Relaxed);
        }
    }
}

unsafe extern "C" fn run<F: Fn() + Send + 'static>(data: ffi::gpointer) -> ffi::gboolean {
    // SAFETY: GLib keeps the data for as long as it runs this, even if the source is
    // destroyed meanwhile.
    let (home, work) = unsafe { &*data.cast::<(Bound<()>, F)>() };
    if home.get().is_some() {
        work();
    }
    ffi::G_SOURCE_CONTINUE
}

unsafe extern "C" fn free<F: Fn() + Send + 'static>(data: ffi::gpointer) {
    // SAFETY: the data was a box, and GLib frees it once.
    drop(unsafe { Box::from_raw(data.cast::<(Bound<()>, F)>()) });
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn home() -> Home {
        Home::on(glib::MainContext::new())
    }

    fn alarm(home: &Home, work: impl Fn() + 'static) -> Alarm {
        let work = home.bind(work);
        Alarm::new(home, move || {
            if let Some(work) = work.get() {
                work();
            }
        })
    }

    #[test]
    fn it_fires_once_for_each_time_it_is_set() {
        let (home, count) = (home(), Rc::new(Cell::new(0)));
        let counted = count.clone();
        let alarm = alarm(&home, move || counted.set(counted.get() + 1));
        assert!(!home.context().iteration(false));
        for now in 1..3 {
            alarm.set(0, glib::Priority::DEFAULT);
            assert!(home.context().iteration(false));
            assert!(!home.context().iteration(false));
            assert_eq!(count.get(), now);
        }
        alarm.set(0, glib::Priority::DEFAULT);
        alarm.clear();
        assert!(!home.context().iteration(false));
        alarm.set(i64::MAX, glib::Priority::DEFAULT);
        assert!(!home.context().iteration(false));
        drop(alarm);
        assert_eq!((count.get(), Rc::strong_count(&count)), (2, 1));
    }

    #[test]
    fn it_fires_within_its_work_and_after_sources_due_before() {
        let home = home();
        let log = Rc::new(RefCell::new(Vec::new()));
        let slot = Rc::new(RefCell::new(None::<Alarm>));
        let (context, logged, own) = (home.context().clone(), log.clone(), slot.clone());
        let work = move || {
            let depth = logged.borrow().len();
            logged.borrow_mut().push("alarm");
            if depth == 1 {
                let set = |it: &Alarm| it.set(0, glib::Priority::DEFAULT);
                own.borrow().iter().for_each(set);
                context.iteration(false);
                // Dropped within its own work.
                own.take();
                logged.borrow_mut().push("back");
            }
        };
        slot.replace(Some(alarm(&home, work)));
        let logged = log.clone();
        home.idle(glib::Priority::DEFAULT, move || {
            logged.borrow_mut().push("idle");
        });
        let set = |it: &Alarm| it.set(0, glib::Priority::DEFAULT);
        slot.borrow().iter().for_each(set);
        assert!(home.context().iteration(false));
        assert_eq!(*log.borrow(), ["idle", "alarm", "alarm", "back"]);
        assert!(!home.context().iteration(false));
        assert_eq!(Rc::strong_count(&log), 1);
    }

    #[test]
    fn another_thread_frees_its_work() {
        let (home, count) = (home(), Arc::new(()));
        let inner = count.clone();
        let alarm = Alarm::new(&home, move || drop(inner.clone()));
        thread::spawn(move || drop(alarm)).join().unwrap();
        assert_eq!(Arc::strong_count(&count), 1);
    }
}
