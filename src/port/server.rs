// SPDX-License-Identifier: MIT OR Apache-2.0
//! Serves one QMP client on a stream.

mod object;
mod request;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use glib::prelude::IsA;

pub use object::ServerObject;
pub use request::RequestObject;

use crate::qmp::{Error, ErrorClass, Greeting, Request, RequestId, Server};
use crate::transport::{self, END_OF_STREAM, Flow, Incoming, Sink, Transport};

/// Serves one QMP client on a stream, as QEMU does: the other end of a
/// [`QmpPort`](crate::QmpPort), for tests of programs that speak QMP, and for programs
/// that serve clients of their own.
///
/// It greets at once, lets the client negotiate, and returns its commands. The limits
/// are those of [`Server`]: a client that does not read is held back, and then disconnected.
/// Everything happens on the main context that was the thread-default one at its creation.
/// Clones are the same server; the connection is closed with the last one.
///
/// ```
/// # use gio::prelude::*;
/// use spice_qmp::qmp::{ErrorClass, Greeting, Version, VersionTriple};
/// use spice_qmp::{QmpPort, QmpServer};
///
/// # let context = glib::MainContext::new();
/// # let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
/// # let stream = |it: std::os::unix::net::UnixStream| {
/// #     gio::Socket::from_fd(it.into()).unwrap().connection_factory_create_connection()
/// # };
/// # context.with_thread_default(|| context.block_on(async {
/// let server = QmpServer::new(&stream(ours), &Greeting {
///     version: Version {
///         qemu: VersionTriple { major: 10, minor: 0, micro: 2 },
///         package: String::new(),
///     },
///     capabilities: Vec::new(),
/// });
/// # let served = server.clone();
/// # let _task = context.spawn_local(async move {
/// while let Some(request) = server.next().await {
///     let number = request.number();
///     match request.command() {
///         "query-name" => drop(server.reply(number, r#"{"name": "vm"}"#)),
///         "query-status" => drop(server.reply(number, r#"{"status": "paused", "running": false}"#)),
///         _ => drop(server.refuse(number, &ErrorClass::CommandNotFound, "not here")),
///     }
/// }
/// # });
/// # let server = served;
///
/// let port = QmpPort::for_stream(&stream(theirs));
/// port.wait_ready().await?;
/// let name: serde_json::Value = port.execute("query-name", ()).await?;
/// assert_eq!(name["name"], "vm");
/// server.event("STOP", None)?;
/// # Ok::<_, spice_qmp::Error>(())
/// # }))??;
/// # Ok::<_, Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone)]
pub struct QmpServer(Rc<Inner>);

struct Inner {
    server: RefCell<Server>,
    transport: Box<dyn Transport>,
    /// Requests that have not been returned yet.
    requests: RefCell<VecDeque<Request>>,
    wakers: RefCell<Vec<Waker>>,
    /// Whether the wakers know that the client has negotiated.
    negotiated: Cell<bool>,
    /// Whether the transport waits until more is wanted.
    waits: Cell<bool>,
    flushes: Cell<bool>,
    /// Whether the connection ends when everything that waits is written.
    finishes: Cell<bool>,
    /// Why the connection has ended, once it has.
    ended: RefCell<Option<Box<str>>>,
}

impl QmpServer {
    /// Serves the client at the other end of `stream`, from which nothing has been read yet.
    #[must_use]
    pub fn new(stream: &impl IsA<gio::IOStream>, greeting: &Greeting) -> Self {
        Self::for_transport(transport::on_stream(stream), Server::new(greeting))
    }

    /// Serves the client at the other end of a transport that has not been started yet.
    #[must_use]
    pub fn for_transport(transport: Box<dyn Transport>, server: Server) -> Self {
        let inner = Rc::new(Inner {
            server: RefCell::new(server),
            transport,
            requests: RefCell::default(),
            wakers: RefCell::default(),
            negotiated: Cell::new(false),
            waits: Cell::new(false),
            flushes: Cell::new(false),
            finishes: Cell::new(false),
            ended: RefCell::default(),
        });
        let weak = Rc::downgrade(&inner);
        let sink: Sink = Rc::new(move |incoming| match weak.upgrade() {
            Some(inner) => inner.take(&incoming),
            None => Flow::Wait,
        });
        inner.transport.fail_while_waiting();
        inner.transport.start(sink);
        Self(inner)
    }

    /// The next command that the client wants to have executed; `None` once the connection has
    /// ended.
    pub async fn next(&self) -> Option<Request> {
        poll_fn(|cx| self.0.poll_next(cx)).await
    }

    /// Answers a request with a value, which is JSON text. Returns false if the request was
    /// answered before.
    ///
    /// # Errors
    ///
    /// [`UsageError::InvalidArgument`](crate::UsageError::InvalidArgument) if the value
    /// is not JSON: the request is not answered.
    pub fn reply(&self, request: RequestId, value: &str) -> Result<bool, Error> {
        let replied = self.0.server.borrow_mut().reply(request, value);
        self.0.go_on();
        replied
    }

    /// Answers a request with an error. Returns false if the request was answered before.
    pub fn refuse(&self, request: RequestId, class: &ErrorClass, desc: &str) -> bool {
        let refused = self.0.server.borrow_mut().refuse(request, class, desc);
        self.0.go_on();
        refused
    }

    /// Sends an event with the current time, if the client has negotiated. `data` is a JSON
    /// object.
    ///
    /// # Errors
    ///
    /// [`UsageError::InvalidArgument`](crate::UsageError::InvalidArgument) if the data
    /// is not a JSON object.
    pub fn event(&self, name: &str, data: Option<&str>) -> Result<bool, Error> {
        self.event_at(name, data, glib::real_time())
    }

    /// [`event`](Self::event) with another time, in microseconds since 1970, or -1.
    ///
    /// # Errors
    ///
    /// As for [`event`](Self::event).
    pub fn event_at(&self, name: &str, data: Option<&str>, timestamp: i64) -> Result<bool, Error> {
        let sent = self.0.server.borrow_mut().event(name, data, timestamp);
        self.0.go_on();
        sent
    }

    /// Whether the client has negotiated.
    #[must_use]
    pub fn is_negotiated(&self) -> bool {
        self.0.server.borrow().is_negotiated()
    }

    /// How many bytes the client has not read.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.0.server.borrow().unread()
    }

    /// Sets the longest message that is accepted, in bytes.
    pub fn set_max_message_size(&self, limit: usize) {
        self.0.server.borrow_mut().set_max_message_size(limit);
    }

    /// Closes the connection when the client has read what it was sent. A client that
    /// does not read keeps it open: [`close`](Self::close) it after a while. Dropping the
    /// future does not stop that.
    pub async fn finish(&self) {
        self.begin_to_finish();
        poll_fn(|cx| {
            if self.0.has_ended() {
                return Poll::Ready(());
            }
            self.0.wait(cx);
            Poll::Pending
        })
        .await;
    }

    /// [`finish`](Self::finish), without waiting for it.
    fn begin_to_finish(&self) {
        self.0.finishes.set(true);
        self.0.end_when_written();
    }

    /// Closes the connection at once.
    pub fn close(&self) {
        self.0.end(CLOSED_HERE);
    }

    /// Why the connection has ended; `None` while it has not.
    #[must_use]
    pub fn close_reason(&self) -> Option<String> {
        self.0.ended.borrow().as_deref().map(str::to_owned)
    }
}

impl fmt::Debug for QmpServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("QmpServer")
            .field("server", &self.0.server)
            .field("ended", &self.0.ended)
            .finish_non_exhaustive()
    }
}

impl Inner {
    fn take(&self, incoming: &Incoming<'_>) -> Flow {
        match incoming {
            Incoming::Opened { .. } => self.go_on(),
            Incoming::Data(bytes) if !self.finishes.get() => {
                self.server.borrow_mut().receive(bytes);
                self.go_on();
            }
            Incoming::Written => {
                self.server.borrow_mut().transmitted();
                self.go_on();
                self.end_when_written();
            }
            Incoming::Closed(reason) if reason == END_OF_STREAM => self.end(CLOSED_THERE),
            Incoming::WriteFailed(reason) | Incoming::Closed(reason) => self.end(reason),
            Incoming::Connecting | Incoming::Data(_) | Incoming::Pause => {}
        }
        if self.server.borrow().wants_input() {
            Flow::On
        } else {
            self.waits.set(true);
            Flow::Wait
        }
    }

    /// Does everything that is possible now that something has changed.
    fn go_on(&self) {
        if self.has_ended() {
            // The reader is gone.
            let mut server = self.server.borrow_mut();
            server.transmitted();
            drop(server.poll_transmit());
            server.transmitted();
            return;
        }
        let requests: Vec<_> = {
            let mut server = self.server.borrow_mut();
            std::iter::from_fn(|| server.poll_request()).collect()
        };
        let negotiated = self.server.borrow().is_negotiated();
        if !requests.is_empty() || self.negotiated.replace(negotiated) != negotiated {
            self.requests.borrow_mut().extend(requests);
            self.wake();
        }
        self.flush();
        if self.server.borrow().is_overrun() {
            self.end(OVERRUN);
        } else if self.server.borrow().wants_input() && self.waits.take() {
            self.transport.resume();
        }
    }

    fn flush(&self) {
        // A write may report at once that it is done.
        if self.flushes.replace(true) {
            return;
        }
        loop {
            let bytes = self.server.borrow_mut().poll_transmit();
            let Some(bytes) = bytes else {
                break;
            };
            self.transport.write(bytes);
        }
        self.flushes.set(false);
    }

    fn end_when_written(&self) {
        if self.finishes.get() && self.server.borrow().unread() == 0 {
            self.end(CLOSED_HERE);
        }
    }

    fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    fn end(&self, reason: &str) {
        if self.has_ended() {
            return;
        }
        self.ended.replace(Some(reason.into()));
        self.transport.close();
        self.requests.take();
        self.wake();
    }

    fn poll_next(&self, cx: &Context<'_>) -> Poll<Option<Request>> {
        if let Some(request) = self.requests.borrow_mut().pop_front() {
            return Poll::Ready(Some(request));
        }
        if self.has_ended() {
            return Poll::Ready(None);
        }
        self.wait(cx);
        Poll::Pending
    }

    fn wait(&self, cx: &Context<'_>) {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|it| it.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
    }

    fn wake(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }
}

const CLOSED_HERE: &str = "the server closed the connection";
const CLOSED_THERE: &str = "the client closed the connection";
const OVERRUN: &str = "the client does not read what it is sent";
