// SPDX-License-Identifier: MIT OR Apache-2.0
//! A socket that the tool inherits from its parent process: `fd:N`.

use std::cell::RefCell;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::Duration;

use gio::prelude::*;
use rustix::io::fcntl_dupfd_cloexec;
use rustix::net::sockopt::socket_type;
use rustix::net::{AddressFamily, SocketType, getpeername, getsockname};
use spice_qmp::{Error, QmpPort};

use crate::failure::Failure;

/// A connected socket, and its address.
pub(crate) struct Inherited {
    text: String,
    socket: RefCell<Option<gio::Socket>>,
}

impl Inherited {
    /// The socket of an address that begins with `fd:`.
    pub(crate) fn parse(text: &str) -> Option<Result<Self, Failure>> {
        let number = text.strip_prefix("fd:")?;
        let digits = number.bytes().all(|byte| byte.is_ascii_digit());
        let socket = match number.parse() {
            Ok(number) if digits => socket(number),
            _ => Err("this is not the number of a file descriptor".to_owned()),
        };
        Some(match socket {
            Ok(socket) => Ok(Self {
                text: text.to_owned(),
                socket: RefCell::new(Some(socket)),
            }),
            Err(why) => Err(Failure::usage(format!("{text:?}: {why}"))
                .hint("fd:3 is for programs that start spice-qmp with a connected QMP socket as its file descriptor 3")),
        })
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// The port on the socket, once it is ready. It can be used once.
    pub(crate) async fn open(&self, timeout: Duration) -> Result<QmpPort, Error> {
        let socket = self.socket.take();
        let socket = socket.ok_or_else(|| Error::Closed("the socket was used before".into()))?;
        let port = QmpPort::for_stream(&socket.connection_factory_create_connection());
        port.wait_status(timeout).await?;
        Ok(port)
    }
}

fn socket(number: i32) -> Result<gio::Socket, String> {
    let copy = duplicate(number).map_err(|error| error.to_string())?;
    check(&copy)?;
    gio::Socket::from_fd(copy).map_err(|error| error.to_string())
}

/// Checks what GIO would not accept: GIO closes such a descriptor, too, which ends the
/// process.
fn check(socket: &OwnedFd) -> Result<(), &'static str> {
    let address = getsockname(socket).map_err(|_| "this is not a socket")?;
    let families = [
        AddressFamily::UNIX,
        AddressFamily::INET,
        AddressFamily::INET6,
    ];
    if !families.contains(&address.address_family()) {
        return Err("this is not a Unix or TCP socket");
    }
    if socket_type(socket) != Ok(SocketType::STREAM) {
        return Err("the socket is not a stream socket");
    }
    match getpeername(socket) {
        Ok(Some(_)) => Ok(()),
        _ => Err("the socket is not connected"),
    }
}

/// Duplicates a descriptor that is known by its number only.
#[allow(unsafe_code)]
fn duplicate(number: i32) -> rustix::io::Result<OwnedFd> {
    // SAFETY: it is borrowed for one call, which fails if it is not open.
    let inherited = unsafe { BorrowedFd::borrow_raw(number) };
    fcntl_dupfd_cloexec(inherited, 3)
}
