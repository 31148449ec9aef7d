// SPDX-License-Identifier: MIT OR Apache-2.0
//! Memory for large messages.
#![allow(unsafe_code)]

use std::mem::MaybeUninit;

/// The size of a large page on most machines.
#[cfg(all(target_os = "linux", feature = "gobject", not(miri)))]
const LARGE_PAGE: usize = 2 << 20;

/// Asks the system to use large pages for the unused part of a buffer, if it supports them.
/// It sets up each page when it is first written; with pages of 4 KiB, that takes as long as
/// validating the message that is written there.
#[cfg(all(target_os = "linux", feature = "gobject", not(miri)))]
pub(super) fn prefer_large(room: &mut [MaybeUninit<u8>]) {
    use rustix::mm::{Advice, madvise};

    let start = room.as_ptr().align_offset(LARGE_PAGE);
    // The memory around `room` belongs to others.
    let size = room.len().saturating_sub(start) / LARGE_PAGE * LARGE_PAGE;
    if size > 0 {
        let pages = room[start..].as_mut_ptr().cast();
        // An error means that the kernel has no large pages, which does no harm.
        // SAFETY: the pages are within `room`, and the advice keeps their contents.
        let _ = unsafe { madvise(pages, size, Advice::LinuxHugepage) };
    }
}

#[cfg(not(all(target_os = "linux", feature = "gobject", not(miri))))]
pub(super) fn prefer_large(_: &mut [MaybeUninit<u8>]) {}

#[cfg(all(test, target_os = "linux", feature = "gobject", not(miri)))]
mod tests {
    use std::fs;
    use std::ops::Range;
    use std::path::Path;

    use super::*;

    /// Whether large pages were asked for at an address.
    fn is_advised(address: usize) -> bool {
        let maps = fs::read_to_string("/proc/self/smaps").expect("an own file");
        let mut here = false;
        for line in maps.lines() {
            if let Some(range) = range(line) {
                here = range.contains(&address);
            } else if here && let Some(flags) = line.strip_prefix("VmFlags:") {
                return flags.split_whitespace().any(|flag| flag == "hg");
            }
        }
        false
    }

    /// The addresses of a mapping, in the line that begins it.
    fn range(line: &str) -> Option<Range<usize>> {
        let (start, end) = line.split_whitespace().next()?.split_once('-')?;
        let address = |hex| usize::from_str_radix(hex, 16).ok();
        Some(address(start)?..address(end)?)
    }

    #[test]
    fn large_pages_are_asked_for_within_the_room() {
        let has_them = Path::new("/sys/kernel/mm/transparent_hugepage").exists();
        // So large that it is a mapping of its own.
        let mut buffer = Vec::with_capacity(40 << 20);
        buffer.resize(3 << 20, 7);
        prefer_large(buffer.spare_capacity_mut());
        let start = buffer.as_ptr().addr();
        assert!(!is_advised(start));
        assert_eq!(is_advised(start + (6 << 20)), has_them);
        assert!(buffer.iter().all(|&byte| byte == 7));
        prefer_large(&mut []);
        prefer_large(Vec::with_capacity(1 << 20).spare_capacity_mut());
    }
}
