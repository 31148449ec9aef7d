// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory this thread holds.
#![allow(unsafe_code, reason = "an allocator is made of it")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    static HELD: Cell<usize> = const { Cell::new(0) };
}

/// The bytes that this thread has allocated and not freed. What another thread
/// frees stays counted, and vice versa, so it may wrap.
pub(crate) fn held() -> usize {
    HELD.get()
}

fn count(more: usize, less: usize) {
    // A thread that ends may still free memory after its variables are gone.
    let _ = HELD.try_with(|held| held.set(held.get().wrapping_add(more).wrapping_sub(less)));
}

// SAFETY: the system's allocator does the work; the counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size(), 0);
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        count(0, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(place, layout) }
    }

    unsafe fn realloc(&self, place: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size, layout.size());
        // SAFETY: as the caller promises.
        unsafe { System.realloc(place, layout, size) }
    }
}

#[cfg(test)]
mod tests {
    use super::held;

    #[test]
    fn what_is_held_is_counted() {
        let before = held();
        let mut bytes = std::hint::black_box(Vec::<u8>::with_capacity(1000));
        assert_eq!(held().wrapping_sub(before), 1000);
        bytes.reserve_exact(5000);
        assert_eq!(held().wrapping_sub(before), 5000);
        drop(bytes);
        assert_eq!(held(), before);
    }
}
