// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counts what a piece of work requests from the system: allocations, copies of memory and
//! system calls.
//!
//! Allocations are Rust's. The functions of the C library that are named here are found
//! in this program before those of the C library, even by GLib. Each thread counts for
//! itself, and only within [`count`].
#![allow(unsafe_code, unreachable_pub)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::ffi::{CStr, c_char, c_int, c_ulong, c_void};
use std::sync::atomic::{AtomicPtr, Ordering::Relaxed};

/// The counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Calls of Rust's allocator.
    pub allocations: u64,
    /// The bytes that they requested.
    pub bytes: u64,
    /// Bytes that were copied in pieces of [`LARGE`] or more.
    pub copied: u64,
    /// Calls of the system that read, write or wait.
    pub syscalls: u64,
}

/// Smaller copies do not concern payloads.
pub const LARGE: usize = 1 << 10;

thread_local! {
    static COUNTS: Cell<Option<Counts>> = const { Cell::new(None) };
}

/// Adds to `counts` what `work` uses.
pub fn count<R>(counts: &mut Counts, work: impl FnOnce() -> R) -> R {
    COUNTS.set(Some(*counts));
    let result = work();
    *counts = COUNTS.take().expect("one count at a time");
    result
}

fn note(add: impl FnOnce(&mut Counts)) {
    // A thread that ends allocates after its locals are gone.
    let _ = COUNTS.try_with(|counts| {
        if let Some(mut now) = counts.get() {
            add(&mut now);
            counts.set(Some(now));
        }
    });
}

fn note_copy(size: usize) {
    if size >= LARGE {
        note(|counts| counts.copied += size as u64);
    }
}

/// Rust's allocator.
struct Allocator;

#[global_allocator]
static ALLOCATOR: Allocator = Allocator;

// SAFETY: the system's allocator does the work.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(|counts| {
            counts.allocations += 1;
            counts.bytes += layout.size() as u64;
        });
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The C library may move the block.
        note_copy(layout.size().min(size));
        note(|counts| {
            counts.allocations += 1;
            counts.bytes += size as u64;
        });
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}

unsafe extern "C" {
    fn dlsym(handle: *mut c_void, name: *const c_char) -> *mut c_void;
}

/// The C library's own function of this name, which is resolved once.
fn real(found: &AtomicPtr<c_void>, name: &CStr) -> *mut c_void {
    /// `RTLD_NEXT`: in the libraries behind this program.
    const NEXT: *mut c_void = std::ptr::without_provenance_mut(usize::MAX);
    let mut function = found.load(Relaxed);
    if function.is_null() {
        // SAFETY: the name ends with a NUL.
        function = unsafe { dlsym(NEXT, name.as_ptr()) };
        found.store(function, Relaxed);
    }
    function
}

fn note_syscall() {
    note(|counts| counts.syscalls += 1);
}

/// Functions that count, and then call the C library's.
macro_rules! noted {
    ($(fn $name:ident($($argument:ident: $type:ty),+) -> $result:ty, $note:expr;)+) => {$(
        /// # Safety
        ///
        /// As for the C library's.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),+) -> $result {
            static REAL: AtomicPtr<c_void> = AtomicPtr::new(std::ptr::null_mut());
            const NAME: &str = concat!(stringify!($name), "\0");
            $note;
            let name = CStr::from_bytes_with_nul(NAME.as_bytes());
            let real = real(&REAL, name.unwrap_or_default());
            // SAFETY: it is the function of this name and type, and as the caller promises.
            unsafe {
                let real: unsafe extern "C" fn($($type),+) -> $result = std::mem::transmute(real);
                real($($argument),+)
            }
        }
    )+};
}

noted! {
    fn memcpy(to: *mut c_void, from: *const c_void, size: usize) -> *mut c_void, note_copy(size);
    fn memmove(to: *mut c_void, from: *const c_void, size: usize) -> *mut c_void, note_copy(size);
    fn poll(fds: *mut c_void, count: c_ulong, timeout: c_int) -> c_int, note_syscall();
    fn read(fd: c_int, to: *mut c_void, size: usize) -> isize, note_syscall();
    fn write(fd: c_int, from: *const c_void, size: usize) -> isize, note_syscall();
    fn readv(fd: c_int, to: *const c_void, count: c_int) -> isize, note_syscall();
    fn writev(fd: c_int, from: *const c_void, count: c_int) -> isize, note_syscall();
    fn recv(fd: c_int, to: *mut c_void, size: usize, flags: c_int) -> isize, note_syscall();
    fn send(fd: c_int, from: *const c_void, size: usize, flags: c_int) -> isize, note_syscall();
    fn recvmsg(fd: c_int, message: *mut c_void, flags: c_int) -> isize, note_syscall();
    fn sendmsg(fd: c_int, message: *const c_void, flags: c_int) -> isize, note_syscall();
}
