// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts the memory of this process.

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Counts what Rust code allocates. What GLib does itself is in [`glib_bytes`].
struct Counter;

static NOW: AtomicUsize = AtomicUsize::new(0);
static PEAK: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTER: Counter = Counter;

// SAFETY: all is left to the system's allocator.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counter {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        PEAK.fetch_max(
            NOW.fetch_add(layout.size(), Relaxed) + layout.size(),
            Relaxed,
        );
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        NOW.fetch_sub(layout.size(), Relaxed);
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(memory, layout) }
    }
}

/// The total allocated in this process now, including GLib: glibc's own count.
#[allow(unsafe_code)]
fn process_bytes() -> usize {
    /// `struct mallinfo2` of glibc.
    #[repr(C)]
    struct MallInfo {
        before: [usize; 4],
        hblkhd: usize,
        between: [usize; 2],
        uordblks: usize,
        after: [usize; 2],
    }
    unsafe extern "C" {
        fn mallinfo2() -> MallInfo;
    }
    // SAFETY: the function takes nothing, and the structure is glibc's.
    let info = unsafe { mallinfo2() };
    info.hblkhd + info.uordblks
}

/// Watches the memory from here on; one test at a time.
pub(crate) struct Watch {
    before: usize,
    process_before: usize,
    _alone: MutexGuard<'static, ()>,
}

impl Watch {
    pub(crate) fn start() -> Self {
        static ALONE: Mutex<()> = Mutex::new(());
        let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
        let before = NOW.load(Relaxed);
        PEAK.store(before, Relaxed);
        Self {
            before,
            process_before: process_bytes(),
            _alone: alone,
        }
    }

    /// Whether the added memory has been within `bound` all the time, and GLib's part now.
    #[track_caller]
    pub(crate) fn check(&self, bound: usize) {
        let peak = PEAK.load(Relaxed).saturating_sub(self.before);
        assert!(peak <= bound, "{peak} bytes at the peak, {bound} allowed");
        let process = process_bytes().saturating_sub(self.process_before);
        assert!(
            process <= bound,
            "{process} bytes with GLib's, {bound} allowed"
        );
    }

    /// How much more is held than in the beginning.
    pub(crate) fn held(&self) -> usize {
        now().saturating_sub(self.before)
    }

    /// The maximum held since the beginning, or since the last call.
    pub(crate) fn take_peak(&self) -> usize {
        PEAK.swap(now(), Relaxed).saturating_sub(self.before)
    }
}

/// How much is held now.
fn now() -> usize {
    NOW.load(Relaxed)
}
