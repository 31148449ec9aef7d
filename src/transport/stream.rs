//! QMP on any [`gio::IOStream`], such as a socket connection.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use gio::prelude::*;

use super::{Incoming, Sink, Transport};

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
    open: Cell<bool>,
    /// A buffer that no read uses.
    spare: RefCell<Vec<u8>>,
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
            open: Cell::new(true),
            spare: RefCell::new(Vec::new()),
        });
        self.link.replace(Some(link.clone()));
        (link.sink)(Incoming::Opened { late: false });
        if link.open.get() {
            read(
                link,
                self.stream.input_stream(),
                self.cancellable.clone(),
                0,
            );
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
                (link.sink)(failure.map_or(Incoming::Written, Incoming::WriteFailed));
            },
        );
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

/// Reads until the stream ends. `last` is what the last read brought.
fn read(link: Rc<Link>, input: gio::InputStream, cancellable: gio::Cancellable, last: usize) {
    let mut buffer = link.spare.take();
    // A read that filled its buffer has more behind it.
    let busy = last >= SMALL_READ;
    let size = if busy { LARGE_READ } else { SMALL_READ };
    if buffer.len() != size {
        buffer = vec![0; size];
    }
    let stream = input.clone();
    let cancel = cancellable.clone();
    stream.read_async(
        buffer,
        glib::Priority::DEFAULT,
        Some(&cancel),
        move |result| {
            if !link.open.get() {
                return;
            }
            match result {
                Ok((_, 0)) => link.close("the server closed the connection"),
                Ok((buffer, count)) => {
                    // The next read goes on while the sink runs a nested main loop.
                    read(link.clone(), input, cancellable, count);
                    (link.sink)(Incoming::Data(&buffer[..count]));
                    if buffer.len() == SMALL_READ || count >= SMALL_READ {
                        link.spare.replace(buffer);
                    }
                }
                Err((_, error)) => link.close(error.message()),
            }
        },
    );
}

impl Link {
    fn close(&self, reason: &str) {
        if self.open.replace(false) {
            (self.sink)(Incoming::Closed(reason.to_owned()));
        }
    }
}
