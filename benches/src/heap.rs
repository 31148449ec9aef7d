//! Counts what is allocated, by Rust and by the C libraries alike.
//!
//! The functions of this program are found before those of libc. They count only
//! while somebody asks: a round that is timed pays one well predicted branch.

use std::ffi::c_void;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

unsafe extern "C" {
    fn __libc_malloc(size: usize) -> *mut c_void;
    fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
    fn __libc_realloc(old: *mut c_void, size: usize) -> *mut c_void;
    fn __libc_free(old: *mut c_void);
}

static COUNTING: AtomicBool = AtomicBool::new(false);
static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);
static BYTES: AtomicU64 = AtomicU64::new(0);
/// Relative to the start of the count, so it may fall below zero.
static LIVE: AtomicU64 = AtomicU64::new(0);
static PEAK: AtomicU64 = AtomicU64::new(0);

/// What a piece of work asked of the heap.
#[derive(Debug, Clone, Copy, Default)]
pub struct Spent {
    /// Calls of `malloc`, `calloc` and `realloc`.
    pub allocations: u64,
    /// The bytes they asked for.
    pub bytes: u64,
    /// The most that was held at one time, above the start.
    pub peak: u64,
    /// What is still held at the end, above the start.
    pub kept: u64,
}

/// Counts what `work` allocates, on all threads.
pub fn count(work: impl FnOnce()) -> Spent {
    ALLOCATIONS.store(0, Relaxed);
    BYTES.store(0, Relaxed);
    LIVE.store(0, Relaxed);
    PEAK.store(0, Relaxed);
    COUNTING.store(true, Relaxed);
    work();
    COUNTING.store(false, Relaxed);
    Spent {
        allocations: ALLOCATIONS.load(Relaxed),
        bytes: BYTES.load(Relaxed),
        peak: PEAK.load(Relaxed),
        kept: above_zero(LIVE.load(Relaxed)),
    }
}

fn above_zero(live: u64) -> u64 {
    if live.cast_signed() < 0 { 0 } else { live }
}

fn came(block: *mut c_void, size: usize) {
    if COUNTING.load(Relaxed) && !block.is_null() {
        ALLOCATIONS.fetch_add(1, Relaxed);
        BYTES.fetch_add(size as u64, Relaxed);
        // SAFETY: the block was just allocated.
        let held = unsafe { libc::malloc_usable_size(block) } as u64;
        let live = LIVE.fetch_add(held, Relaxed).wrapping_add(held);
        PEAK.fetch_max(above_zero(live), Relaxed);
    }
}

fn goes(block: *mut c_void) {
    if COUNTING.load(Relaxed) && !block.is_null() {
        // SAFETY: the block is live until libc frees it.
        let held = unsafe { libc::malloc_usable_size(block) } as u64;
        LIVE.fetch_sub(held, Relaxed);
    }
}

/// # Safety
///
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    let block = unsafe { __libc_malloc(size) };
    came(block, size);
    block
}

/// # Safety
///
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    // SAFETY: the caller's promise.
    let block = unsafe { __libc_calloc(count, size) };
    came(block, count.saturating_mul(size));
    block
}

/// # Safety
///
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(old: *mut c_void, size: usize) -> *mut c_void {
    goes(old);
    // SAFETY: the caller's promise.
    let block = unsafe { __libc_realloc(old, size) };
    came(block, size);
    block
}

/// # Safety
///
/// As for libc's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(old: *mut c_void) {
    goes(old);
    // SAFETY: the caller's promise.
    unsafe { __libc_free(old) }
}
