//! QMP on any [`gio::IOStream`], such as a socket connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use gio::prelude::*;

use super::{Flow, Incoming, Sink, Transport};

/// Reads and writes a [`gio::IOStream`].
#[derive(Debug)]
pub struct StreamTransport {
    stream: gio::IOStream,
    cancellable: gio::Cancellable,
    link: RefCell<Option<Rc<Link>>>,
}

/// What the callbacks of reads and writes share.
struct Link {
    sink: Sink,
    input: gio::InputStream,
    cancellable: gio::Cancellable,
    open: Cell<bool>,
    /// Where a read leaves its bytes, while no read is under way.
    buffer: RefCell<Vec<u8>>,
    /// What the last read brought, while the next one waits for [`Transport::resume`].
    waits: Cell<Option<usize>>,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("open", &self.open)
            .finish_non_exhaustive()
    }
}

/// What an idle connection holds.
const SMALL_READ: usize = 2 << 10;
/// What a busy one reads at once.
const LARGE_READ: usize = 64 << 10;

impl StreamTransport {
    /// A transport on `stream`, of which nothing has been read yet.
    #[must_use]
    pub fn new(stream: &impl IsA<gio::IOStream>) -> Self {
        Self {
            stream: stream.clone().upcast(),
            cancellable: gio::Cancellable::new(),
            link: RefCell::new(None),
        }
    }
}

impl Transport for StreamTransport {
    fn start(&self, sink: Sink) {
        let link = Rc::new(Link {
            sink,
            input: self.stream.input_stream(),
            cancellable: self.cancellable.clone(),
            open: Cell::new(true),
            buffer: RefCell::default(),
            waits: Cell::new(None),
        });
        self.link.replace(Some(link.clone()));
        let _ = (link.sink)(Incoming::Opened { late: false });
        if link.open.get() {
            link.read(0);
        }
    }

    fn write(&self, bytes: Vec<u8>) {
        let Some(link) = self.link.borrow().clone() else {
            return;
        };
        self.stream.output_stream().write_all_async(
            bytes,
            glib::Priority::DEFAULT,
            Some(&self.cancellable),
            move |result| {
                if !link.open.get() {
                    return;
                }
                let failure = match result {
                    Ok((_, _, None)) => None,
                    Ok((_, _, Some(error))) | Err((_, error)) => Some(error.message().to_owned()),
                };
                let _ = (link.sink)(failure.map_or(Incoming::Written, Incoming::WriteFailed));
            },
        );
    }

    fn resume(&self) {
        let link = self.link.borrow().clone();
        if let Some(link) = link
            && let Some(last) = link.waits.take()
        {
            link.read(last);
        }
    }

    fn close(&self) {
        if let Some(link) = self.link.take() {
            link.open.set(false);
        }
        self.cancellable.cancel();
        // Nobody waits for the end of this, and it cannot fail in a way that matters.
        self.stream
            .close_async(glib::Priority::DEFAULT, gio::Cancellable::NONE, |_| {});
    }

    fn reopens(&self) -> bool {
        false
    }
}

impl Drop for StreamTransport {
    fn drop(&mut self) {
        self.close();
    }
}

impl Link {
    /// Reads until the stream ends. `last` is what the last read brought.
    fn read(self: Rc<Self>, last: usize) {
        // A read that filled its buffer has more behind it.
        let busy = last >= SMALL_READ;
        let size = if busy { LARGE_READ } else { SMALL_READ };
        let mut buffer = self.buffer.take();
        if buffer.len() != size {
            buffer = vec![0; size];
        }
        let link = self.clone();
        // Like spice-gtk's, this priority leaves a window time to be drawn.
        self.input.read_async(
            buffer,
            glib::Priority::DEFAULT_IDLE,
            Some(&self.cancellable),
            move |result| link.got(result),
        );
    }

    fn got(self: Rc<Self>, result: Result<(Vec<u8>, usize), (Vec<u8>, glib::Error)>) {
        if !self.open.get() {
            return;
        }
        match result {
            Ok((_, 0)) => self.close("the server closed the connection"),
            Ok((buffer, count)) => {
                let flow = (self.sink)(Incoming::Data(&buffer[..count]));
                self.buffer.replace(buffer);
                match flow {
                    Flow::Wait => self.waits.set(Some(count)),
                    Flow::On => self.read(count),
                }
            }
            Err((_, error)) => self.close(error.message()),
        }
    }

    fn close(&self, reason: &str) {
        if self.open.replace(false) {
            let _ = (self.sink)(Incoming::Closed(reason.to_owned()));
        }
    }
}
