//! A source that stays on the main context of a port, and goes off when it is told to.
#![allow(unsafe_code)]

use std::sync::atomic::{AtomicI64, Ordering::Relaxed};

use glib::ffi;
use glib::translate::{IntoGlib, ToGlibPtr, from_glib_full};

use crate::home::{Bound, Home};

/// Runs the same work whenever its time has come, until it is dropped. To set it costs
/// less than to make a source for each time.
///
/// It goes off while it is going off already, too: the work may run a main loop.
#[derive(Debug)]
pub(crate) struct Alarm(glib::Source);

impl Alarm {
    /// An alarm on the context of `home`, which is not set.
    pub(crate) fn new<F: Fn() + 'static>(home: &Home, work: F) -> Self {
        let work = Box::into_raw(Box::new(home.bind(work)));
        // SAFETY: GLib copies nothing of the functions, which are static, and changes
        // nothing of them. It drops the work with the source, which it made of the size
        // that it asks for.
        let source: glib::Source = unsafe {
            let size = u32::try_from(size_of::<Timed>()).expect("a size that C has");
            let source = ffi::g_source_new((&raw const FUNCTIONS).cast_mut(), size);
            (*source.cast::<Timed>()).due = AtomicI64::new(NEVER);
            ffi::g_source_set_callback(source, Some(run::<F>), work.cast(), Some(free::<F>));
            ffi::g_source_set_can_recurse(source, ffi::GTRUE);
            from_glib_full(source)
        };
        source.attach(Some(home.context()));
        Self(source)
    }

    /// Has it go off at this time of [`glib::monotonic_time`], instead of any other, and
    /// after whatever is due by then with the same priority.
    pub(crate) fn set(&self, at: i64, priority: glib::Priority) {
        // SAFETY: the source lives. That it gets the priority which it has moves it behind
        // the other ones.
        unsafe {
            let source = self.0.to_glib_none().0;
            ffi::g_source_set_priority(source, priority.into_glib());
            (*source.cast::<Timed>()).due.store(at, Relaxed);
        }
    }

    /// Has it go off no more, unless it has already begun to.
    pub(crate) fn clear(&self) {
        let source: *mut ffi::GSource = self.0.to_glib_none().0;
        // SAFETY: the source lives, and has a time.
        unsafe { (*source.cast::<Timed>()).due.store(NEVER, Relaxed) };
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.0.destroy();
    }
}

/// The time of an alarm that is not set.
const NEVER: i64 = -1;

static FUNCTIONS: ffi::GSourceFuncs = ffi::GSourceFuncs {
    prepare: Some(prepare),
    check: Some(check),
    dispatch: Some(dispatch),
    finalize: None,
    closure_callback: None,
    closure_marshal: None,
};

/// A source with its time. GLib's own `ready_time` wakes the main loop by a system call
/// whenever it is set, which only another thread would need.
#[repr(C)]
struct Timed {
    source: ffi::GSource,
    due: AtomicI64,
}

/// In how many milliseconds it is due: -1 is never.
///
/// # Safety
///
/// The source is an alarm's, and in an iteration of its main context.
unsafe fn due_in(source: *mut ffi::GSource) -> i32 {
    // SAFETY: the source is one that `Alarm::new` made.
    let due = unsafe { (*source.cast::<Timed>()).due.load(Relaxed) };
    if due <= 0 {
        return if due == NEVER { -1 } else { 0 };
    }
    // SAFETY: GLib calls this from an iteration, which has a time.
    let now = unsafe { ffi::g_source_get_time(source) };
    let millis = u64::try_from(due - now).unwrap_or(0).div_ceil(1000);
    i32::try_from(millis).unwrap_or(i32::MAX)
}

unsafe extern "C" fn prepare(source: *mut ffi::GSource, timeout: *mut i32) -> ffi::gboolean {
    // SAFETY: GLib calls this with a source that lives, and a place for the time.
    unsafe {
        *timeout = due_in(source);
        (*timeout == 0).into_glib()
    }
}

unsafe extern "C" fn check(source: *mut ffi::GSource) -> ffi::gboolean {
    // SAFETY: GLib calls this with a source that lives.
    unsafe { (due_in(source) == 0).into_glib() }
}

unsafe extern "C" fn dispatch(
    source: *mut ffi::GSource,
    work: ffi::GSourceFunc,
    data: ffi::gpointer,
) -> ffi::gboolean {
    // SAFETY: GLib calls this with a source that lives, and with its work and data.
    unsafe {
        (*source.cast::<Timed>()).due.store(NEVER, Relaxed);
        work.map_or(ffi::G_SOURCE_REMOVE, |work| work(data))
    }
}

unsafe extern "C" fn run<F: Fn() + 'static>(data: ffi::gpointer) -> ffi::gboolean {
    // SAFETY: GLib keeps the data for as long as it runs this, also where the source is
    // destroyed meanwhile.
    let work = unsafe { &*data.cast::<Bound<F>>() };
    if let Some(work) = work.get() {
        work();
    }
    ffi::G_SOURCE_CONTINUE
}

unsafe extern "C" fn free<F: Fn() + 'static>(data: ffi::gpointer) {
    // SAFETY: the data was a box, and GLib frees it once.
    drop(unsafe { Box::from_raw(data.cast::<Bound<F>>()) });
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::rc::Rc;

    use super::*;

    fn home() -> Home {
        Home::on(glib::MainContext::new())
    }

    #[test]
    fn it_goes_off_once_for_each_time_it_is_set() {
        let (home, count) = (home(), Rc::new(Cell::new(0)));
        let counted = count.clone();
        let alarm = Alarm::new(&home, move || counted.set(counted.get() + 1));
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
    fn it_goes_off_within_its_work_and_after_what_was_due_before() {
        let home = home();
        let log = Rc::new(RefCell::new(Vec::new()));
        let slot = Rc::new(RefCell::new(None::<Alarm>));
        let (context, logged, alarm) = (home.context().clone(), log.clone(), slot.clone());
        let work = move || {
            let depth = logged.borrow().len();
            logged.borrow_mut().push("alarm");
            if depth == 1 {
                let set = |it: &Alarm| it.set(0, glib::Priority::DEFAULT);
                alarm.borrow().iter().for_each(set);
                context.iteration(false);
                // Dropped within its own work.
                alarm.take();
                logged.borrow_mut().push("back");
            }
        };
        slot.replace(Some(Alarm::new(&home, work)));
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
    fn another_thread_leaks_its_work() {
        let (home, count) = (home(), Rc::new(()));
        let inner = count.clone();
        let alarm = Alarm::new(&home, move || drop(inner.clone()));
        std::thread::spawn(move || drop(alarm)).join().unwrap();
        assert_eq!(Rc::strong_count(&count), 2);
    }
}
