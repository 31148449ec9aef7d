// SPDX-License-Identifier: MIT OR Apache-2.0
//! What QEMU keeps of a screenshot: data only.

use std::fs::File;
use std::io::{self, Seek};

/// What may be left of a file descriptor set.
#[derive(Debug)]
pub(super) struct Leftover {
    pub(super) id: u64,
    pub(super) memory: Memory,
}

/// A file in memory.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) file: File,
    /// The descriptor for QEMU, which accepts only a write-only one.
    pub(super) end: File,
    /// Its unique name in QEMU's lists.
    pub(super) name: String,
}

impl Memory {
    #[cfg(target_os = "linux")]
    pub(super) fn new() -> io::Result<Self> {
        use std::os::fd::AsRawFd;

        use rustix::fs::{MemfdFlags, memfd_create};

        let file = File::from(memfd_create("screenshot", MemfdFlags::CLOEXEC)?);
        let path = format!("/proc/self/fd/{}", file.as_raw_fd());
        let end = File::options().write(true).open(path)?;
        let name = format!("screenshot {}", glib::uuid_string_random());
        Ok(Self { file, end, name })
    }

    #[cfg(not(target_os = "linux"))]
    pub(super) fn new() -> io::Result<Self> {
        Err(io::ErrorKind::Unsupported.into())
    }

    /// QEMU shares the file position of `end`.
    pub(super) fn rewind(&self) -> io::Result<()> {
        self.clear();
        (&self.end).rewind()?;
        (&self.file).rewind()
    }

    /// Frees the memory. If that fails, it is freed later.
    pub(super) fn clear(&self) {
        let _ = self.file.set_len(0);
    }
}
