// SPDX-License-Identifier: MIT OR Apache-2.0
//! Moves bytes between a QMP server and a client. Knows no QMP.
//!
//! [`SpiceTransport`] uses a SPICE port channel, [`DbusTransport`] a chardev of a
//! D-Bus display, [`SocketTransport`] a Unix or TCP connection, [`StreamTransport`]
//! any [`gio::IOStream`], and [`pair()`] connects two
//! ends within the process.
//!
//! ```no_run
//! use spice_qmp::QmpPort;
//! use spice_qmp::transport::pair;
//!
//! let (transport, server) = pair();
//! let port = QmpPort::for_transport(Box::new(transport));
//! server.open();
//! server.send(br#"{"QMP": {"version": {}, "capabilities": []}}"#);
//! # drop(port);
//! ```

#[cfg(unix)]
mod dbus;
#[cfg(unix)]
pub(crate) mod display;
#[cfg(unix)]
pub(crate) mod gdbus;
pub(crate) mod gio_async;
#[cfg(feature = "spice")]
mod owned;
mod pair;
#[cfg(feature = "spice")]
mod port_channel;
mod socket;
#[cfg(feature = "spice")]
pub mod spice;
mod stream;

use std::io;
use std::rc::Rc;

use glib::prelude::IsA;

#[cfg(unix)]
pub use dbus::DbusTransport;
pub use pair::{PairPeer, PairTransport, pair};
#[cfg(feature = "spice")]
pub use port_channel::SpiceTransport;
pub use socket::SocketTransport;
pub use stream::StreamTransport;

/// What a transport reports. All reports come from the main context, in order.
#[derive(Debug)]
pub enum Incoming<'a> {
    /// The connection is being made.
    Connecting,
    /// The connection is open.
    Opened {
        /// It was open before the transport was started: the peer's first
        /// bytes may have been missed.
        late: bool,
    },
    /// Bytes have arrived.
    Data(&'a [u8]),
    /// Follows data for which the sink returned [`Flow::Wait`], from a transport in whose
    /// reports a sink may run a main loop: pending work can be done now.
    Pause,
    /// The bytes of the last [`Transport::write`] have been handed to the system.
    Written,
    /// The bytes of the last [`Transport::write`] could not be sent.
    WriteFailed(String),
    /// The connection is gone, for this reason. It may be reopened.
    Closed(String),
}

/// Where a transport reports to. It runs no main loop, except in [`Incoming::Pause`].
pub type Sink = Rc<dyn Fn(Incoming<'_>) -> Flow>;

/// The sink's answer to data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// More may come.
    On,
    /// No more data until [`Transport::resume`]. A transport that cannot
    /// pause its peer continues.
    Wait,
}

/// File descriptors that are sent with bytes, and closed with their last reference.
#[cfg(unix)]
pub type Fds = gio::UnixFDList;
/// File descriptors that are sent with bytes: this system has none.
#[cfg(not(unix))]
pub type Fds = std::convert::Infallible;

/// Called once when a transport has [released](Transport::close_then) its connection.
pub type Closed = Box<dyn FnOnce()>;

/// A two-way stream of bytes that reports what arrives.
///
/// The rules, which one suite of tests checks for every transport:
///
/// - Nothing is reported before [`start`](Self::start) or after [`close`](Self::close).
/// - [`Opened`](Incoming::Opened) comes before any data, and no data comes after
///   [`Closed`](Incoming::Closed) until it is reopened.
/// - Each [`write`](Self::write) on an open transport is answered by one
///   [`Written`](Incoming::Written) or [`WriteFailed`](Incoming::WriteFailed), or
///   the connection closes; then no answer follows.
/// - Data that the peer sent before a write failed is reported before
///   [`WriteFailed`](Incoming::WriteFailed).
pub trait Transport {
    /// Starts to report to `sink`. Called once.
    fn start(&self, sink: Sink);

    /// Sends bytes. One write at a time: wait for its answer, which may come before
    /// this function returns.
    fn write(&self, bytes: Vec<u8>);

    /// Whether file descriptors can be sent.
    fn carries_fds(&self) -> bool {
        false
    }

    /// [`write`](Self::write) with descriptors, which are sent with the first byte or
    /// closed. Called only if it [carries](Self::carries_fds) them.
    #[cfg_attr(not(unix), allow(dropping_copy_types))]
    fn write_with_fds(&self, bytes: Vec<u8>, fds: Fds) {
        drop(fds);
        self.write(bytes);
    }

    /// Continues after [`Flow::Wait`].
    fn resume(&self) {}

    /// From now on, while the sink wants no more input, a failed write is reported at once
    /// and not after the data that the peer sent before. For a sink that accepts no more
    /// until its writes are done: it would wait for ever for a peer that has gone.
    fn fail_while_waiting(&self) {}

    /// Whether bytes have arrived that were not reported yet. Does not block.
    fn has_input(&self) -> bool {
        false
    }

    /// Stops reporting and releases the connection.
    fn close(&self);

    /// [`close`](Self::close), and calls `done` when nothing of the connection is left:
    /// at once, or from the main context.
    fn close_then(&self, done: Closed) {
        self.close();
        done();
    }

    /// [`close_then`](Self::close_then) while the peer still owes answers: a connection
    /// that ends with the transport may be kept until they have arrived.
    fn close_owed(&self, done: Closed) {
        self.close_then(done);
    }

    /// Whether the connection may be reopened once it is closed.
    fn reopens(&self) -> bool;

    /// The pause in milliseconds before it first tries to reconnect when the connection has
    /// ended; 0 if it does not.
    fn reconnect(&self) -> u32 {
        0
    }

    /// Whether the peer is a SPICE port of QEMU's, which needs care: it stops in
    /// the middle of a long message until it is sent something, and crashes
    /// if the client disconnects while bytes are unread.
    fn is_spice_port(&self) -> bool {
        false
    }
}

/// Why a stream is closed that has come to its end. Its peer is a server but for a
/// [`QmpServer`](crate::QmpServer).
pub(crate) const END_OF_STREAM: &str = "the server closed the connection";

/// The transport for `stream`, from which nothing has been read yet.
pub(crate) fn on_stream(stream: &impl IsA<gio::IOStream>) -> Box<dyn Transport> {
    match SocketTransport::new(stream) {
        Some(transport) => Box::new(transport),
        None => Box::new(StreamTransport::new(stream)),
    }
}

/// The kind of a failure of GIO's.
pub(crate) fn io_kind(error: &glib::Error) -> io::ErrorKind {
    use gio::IOErrorEnum as Io;

    match error.kind::<Io>() {
        Some(Io::NotFound) => io::ErrorKind::NotFound,
        Some(Io::PermissionDenied) => io::ErrorKind::PermissionDenied,
        Some(Io::ConnectionRefused) => io::ErrorKind::ConnectionRefused,
        Some(Io::HostUnreachable) => io::ErrorKind::HostUnreachable,
        Some(Io::NetworkUnreachable) => io::ErrorKind::NetworkUnreachable,
        Some(Io::TimedOut) => io::ErrorKind::TimedOut,
        Some(Io::WouldBlock) => io::ErrorKind::WouldBlock,
        _ => io::ErrorKind::Other,
    }
}
