// SPDX-License-Identifier: MIT OR Apache-2.0
//! QMP on any [`gio::IOStream`], such as a socket connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use gio::prelude::*;

use super::{Closed, END_OF_STREAM, Flow, Incoming, Sink, Transport, gio_async};
use crate::home::Home;

/// Reads and writes a [`gio::IOStream`], on the main context that is the thread-default
/// one at its creation.
#[derive(Debug)]
pub struct StreamTransport {
    link: Rc<Link>,
}

/// What the callbacks of reads and writes share.
struct Link {
    home: Home,
    stream: gio::IOStream,
    cancellable: gio::Cancellable,
    sink: RefCell<Option<Sink>>,
    /// Where a read stores its bytes, while no read is under way.
    buffer: RefCell<Vec<u8>>,
    /// The result of the last read, while the next one waits for [`Transport::resume`].
    waits: Cell<Option<usize>>,
    /// How many reads and writes are under way: the stream is closed after them.
    under_way: Cell<u32>,
    /// Why the write failed, while data that the peer sent before is read.
    failure: RefCell<Option<String>>,
    /// Whether that data is not read first if the sink wants no more.
    fails_while_waiting: Cell<bool>,
    /// Called when the stream has been closed.
    closing: RefCell<Option<Closed>>,
    closed: Cell<bool>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("stream", &self.stream)
            .field("open", &self.sink.borrow().is_some())
            .finish_non_exhaustive()
    }
}

/// The read buffer of an idle connection, in bytes.
const SMALL_READ: usize = 2 << 10;
/// The read buffer of a busy one, in bytes.
const LARGE_READ: usize = 64 << 10;

const FOREIGN: &str = "another thread runs the main context of the port";

impl StreamTransport {
    /// A transport on `stream`, from which nothing has been read yet.
    #[must_use]
    pub fn new(stream: &impl IsA<gio::IOStream>) -> Self {
        Self {
            link: Rc::new(Link {
                home: Home::here(),
                stream: stream.clone().upcast(),
                cancellable: gio::Cancellable::new(),
                sink: RefCell::default(),
                buffer: RefCell::default(),
                waits: Cell::default(),
                under_way: Cell::default(),
                failure: RefCell::default(),
                fails_while_waiting: Cell::default(),
                closing: RefCell::default(),
                closed: Cell::default(),
            }),
        }
    }
}

impl Transport for StreamTransport {
    fn start(&self, sink: Sink) {
        self.link.sink.replace(Some(sink));
        self.link.report(Incoming::Opened { late: false });
        self.link.read(0);
    }

    fn write(&self, bytes: Vec<u8>) {
        self.link.write(bytes);
    }

    fn resume(&self) {
        if let Some(last) = self.link.waits.take() {
            self.link.read(last);
        }
    }

    fn fail_while_waiting(&self) {
        self.link.fails_while_waiting.set(true);
    }

    fn has_input(&self) -> bool {
        self.link.has_input()
    }

    fn close(&self) {
        self.close_then(Box::new(|| ()));
    }

    fn close_then(&self, done: Closed) {
        self.link.close(done);
    }

    fn reopens(&self) -> bool {
        false
    }
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        if !self.link.closed.get() && self.link.closing.borrow().is_none() {
            self.close();
        }
    }
}

impl Link {
    fn has_input(&self) -> bool {
        let input = self.stream.input_stream();
        let pollable = input.dynamic_cast::<gio::PollableInputStream>();
        pollable.is_ok_and(|input| input.can_poll() && input.is_readable())
    }

    fn report(&self, incoming: Incoming<'_>) -> Option<Flow> {
        let sink = self.sink.borrow().clone();
        sink.map(|sink| sink(incoming))
    }

    /// Reads until the stream ends. `last` is how many bytes the last read returned.
    fn read(self: &Rc<Self>, last: usize) {
        if self.sink.borrow().is_none() {
            return;
        }
        // A read that filled its buffer is followed by more.
        let busy = last >= SMALL_READ;
        let size = if busy { LARGE_READ } else { SMALL_READ };
        let mut buffer = self.buffer.take();
        if buffer.len() != size {
            buffer = vec![0; size];
        }
        let link = self.clone();
        self.under_way.set(self.under_way.get() + 1);
        let started = gio_async::read(
            &self.home,
            &self.stream.input_stream(),
            buffer,
            // Like spice-gtk's, this priority leaves time to draw a window.
            glib::Priority::DEFAULT_IDLE,
            &self.cancellable,
            move |buffer, result| {
                link.done();
                link.got(buffer, result);
            },
        );
        if !started {
            self.done();
            self.lost(FOREIGN);
        }
    }

    fn got(self: &Rc<Self>, buffer: Vec<u8>, result: Result<usize, glib::Error>) {
        match result {
            Ok(0) => self.lost(END_OF_STREAM),
            Ok(count) => {
                let flow = self.report(Incoming::Data(&buffer[..count]));
                self.buffer.replace(buffer);
                match flow {
                    Some(Flow::Wait) => self.waits.set(Some(count)),
                    Some(Flow::On) => self.read(count),
                    None => {}
                }
                let failure = self.failure.take();
                if let Some(reason) = failure {
                    self.write_failed(reason);
                }
            }
            Err(error) => self.lost(error.message()),
        }
    }

    fn write(self: &Rc<Self>, bytes: Vec<u8>) {
        if self.sink.borrow().is_none() {
            return;
        }
        let link = self.clone();
        self.under_way.set(self.under_way.get() + 1);
        let started = gio_async::write_all(
            &self.home,
            &self.stream.output_stream(),
            bytes,
            &self.cancellable,
            move |result| {
                link.done();
                match result {
                    Ok(()) => drop(link.report(Incoming::Written)),
                    Err(error) => link.write_failed(error.message().to_owned()),
                }
            },
        );
        if !started {
            self.done();
            self.report(Incoming::WriteFailed(FOREIGN.to_owned()));
        }
    }

    /// Reports that the write failed, after data that the peer sent before: it may say why.
    fn write_failed(&self, reason: String) {
        let waits = self.fails_while_waiting.get() && self.waits.get().is_some();
        if self.sink.borrow().is_some() && self.has_input() && !waits {
            self.failure.replace(Some(reason));
        } else {
            self.report(Incoming::WriteFailed(reason));
        }
    }

    fn lost(&self, reason: &str) {
        let sink = self.sink.take();
        if let Some(sink) = sink {
            sink(Incoming::Closed(reason.to_owned()));
        }
    }

    /// A read or write has ended.
    fn done(self: &Rc<Self>) {
        self.under_way.set(self.under_way.get() - 1);
        self.close_when_idle();
    }

    fn close(self: &Rc<Self>, done: Closed) {
        self.sink.take();
        if self.closed.get() {
            return done();
        }
        let waits_already = self.closing.replace(Some(done)).is_some();
        if !waits_already {
            self.cancellable.cancel();
            self.close_when_idle();
        }
    }

    /// Closes the stream when nothing is under way on it: GIO refuses to do so before.
    fn close_when_idle(self: &Rc<Self>) {
        if self.under_way.get() > 0 || self.closing.borrow().is_none() || self.closed.get() {
            return;
        }
        self.closed.set(true);
        let link = self.clone();
        let closed = move || {
            let done = link.closing.take();
            if let Some(done) = done {
                done();
            }
        };
        if !gio_async::close(&self.home, &self.stream, closed) {
            // The callback cannot be called any more.
            self.closing.take();
        }
    }
}
