// SPDX-License-Identifier: MIT OR Apache-2.0
//! The far end of a Unix socket that receives file descriptors.

use std::fs::File;
use std::io::{self, ErrorKind, IoSliceMut, PipeReader, PipeWriter, Read, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::thread;
use std::time::{Duration, Instant};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg};

/// Reads at most `size` bytes, and the descriptors that came with them; empty if
/// nothing has arrived, or at the end.
pub fn receive(stream: &UnixStream, size: usize) -> (Vec<u8>, Vec<OwnedFd>) {
    let mut bytes = vec![0; size];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(253))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let read = recvmsg(
        stream,
        &mut [IoSliceMut::new(&mut bytes)],
        &mut control,
        RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT,
    );
    let count = match read.map_err(io::Error::from) {
        Ok(read) => read.bytes,
        Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
        Err(error) => panic!("{error}"),
    };
    bytes.truncate(count);
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(more) = message {
            fds.extend(more);
        }
    }
    (bytes, fds)
}

/// A pipe that shows whether a descriptor is still open anywhere.
pub struct Probe {
    reader: PipeReader,
    writer: Option<PipeWriter>,
}

impl Probe {
    pub fn new() -> Self {
        let (reader, writer) = io::pipe().expect("a pipe");
        rustix::fs::fcntl_setfl(&reader, rustix::fs::OFlags::NONBLOCK).expect("a pipe");
        let writer = Some(writer);
        Self { reader, writer }
    }

    /// The descriptor to send.
    pub fn fd(&self) -> &PipeWriter {
        self.writer.as_ref().expect("it is not closed")
    }

    /// Another descriptor to send.
    pub fn duplicate(&self) -> OwnedFd {
        self.fd().as_fd().try_clone_to_owned().expect("it is open")
    }

    /// Closes the test's own one.
    pub fn close(&mut self) {
        self.writer = None;
    }

    /// Whether all duplicates are closed, and the test's own one.
    pub fn is_gone(&self) -> bool {
        let mut byte = [0];
        match (&self.reader).read(&mut byte) {
            Ok(count) => count == 0,
            Err(error) if error.kind() == ErrorKind::WouldBlock => false,
            Err(error) => panic!("{error}"),
        }
    }

    /// The same, but waits for processes that other threads are starting: until they run
    /// their program, they hold a copy of each descriptor. The main loop does not run
    /// meanwhile.
    pub fn is_gone_soon(&self) -> bool {
        let end = Instant::now() + Duration::from_secs(10);
        while !self.is_gone() {
            if Instant::now() > end {
                return false;
            }
            thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Whether `fd` is a duplicate of the descriptor that was sent; then the probe is used up.
    pub fn is_end_of(&self, fd: OwnedFd) -> bool {
        File::from(fd).write_all(b"!").expect("it is a pipe");
        let mut byte = [0];
        matches!((&self.reader).read(&mut byte), Ok(1))
    }
}
