// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports on sockets.

use std::cell::RefCell;
use std::future::poll_fn;
#[cfg(unix)]
use std::path::Path;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use gio::prelude::*;

use super::address::Address;
use super::options::{ConnectOptions, FIRST_PAUSE, LONGEST_PAUSE, unreachable, with_timeout};
use super::usable;
use crate::home::Home;
use crate::port::{QmpPort, within};
use crate::qmp::{Error, UsageError};
use crate::transport::{gio_async, io_kind};

/// Connects to `address` and waits until the port is ready and its status is known.
pub(super) async fn open(address: &str, options: &ConnectOptions) -> Result<QmpPort, Error> {
    let started = Instant::now();
    let address = Address::parse(address)?;
    let connection = connect(&address, options).await?;
    let port = QmpPort::for_stream(&connection);
    let rest = options.timeout.saturating_sub(started.elapsed());
    match usable::wait(&port, rest).await {
        Ok(()) => Ok(port),
        Err(error) => Err(with_timeout(error, options.timeout)),
    }
}

/// Connects to the socket at `address`.
pub(super) async fn connect(
    address: &Address,
    options: &ConnectOptions,
) -> Result<gio::SocketConnection, Error> {
    let connectable = connectable(address)?;
    let client = gio::SocketClient::new();
    let last = RefCell::new(None);
    let attempts = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match connect_once(&client, &connectable).await {
                Ok(connection) => return Ok(connection),
                Err(error) if !options.tries_again(io_kind(&error)) => return Err(error),
                Err(error) => drop(last.replace(Some(error))),
            }
            glib::timeout_future(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    };
    match within(options.timeout, attempts).await {
        Some(Ok(connection)) => Ok(connection),
        Some(Err(error)) => {
            let message = format!("{address}: {}", error.message());
            Err(unreachable(&error, message).into())
        }
        None => {
            let last = last.take();
            let why = last.map_or_else(String::new, |error| format!(" ({})", error.message()));
            Err(Error::TimedOut {
                what: format!("the connection to {address}{why}").into(),
                after: options.timeout,
                hint: "",
            })
        }
    }
}

/// One attempt. Dropping the future cancels it.
async fn connect_once(
    client: &gio::SocketClient,
    server: &gio::SocketConnectable,
) -> Result<gio::SocketConnection, glib::Error> {
    let attempt = Attempt::default();
    let slot = attempt.slot.clone();
    let home = Home::here();
    let started = gio_async::connect(&home, client, server, &attempt.cancellable, move |result| {
        let waker = {
            let mut slot = slot.borrow_mut();
            slot.result = Some(result);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    });
    if !started {
        return Err(glib::Error::new(
            gio::IOErrorEnum::Failed,
            "another thread runs the main context",
        ));
    }
    poll_fn(|cx| {
        let mut slot = attempt.slot.borrow_mut();
        if let Some(result) = slot.result.take() {
            return Poll::Ready(result);
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

/// An attempt to connect that is under way.
#[derive(Default)]
struct Attempt {
    cancellable: gio::Cancellable,
    slot: Rc<RefCell<Slot>>,
}

/// The result of an attempt, and the waker of the task that waits for it.
#[derive(Default)]
struct Slot {
    result: Option<Result<gio::SocketConnection, glib::Error>>,
    waker: Option<Waker>,
}

impl Drop for Attempt {
    fn drop(&mut self) {
        self.cancellable.cancel();
    }
}

fn connectable(address: &Address) -> Result<gio::SocketConnectable, Error> {
    Ok(match address {
        #[cfg(unix)]
        Address::Unix(path) => gio::UnixSocketAddress::new(Path::new(&**path)).upcast(),
        #[cfg(unix)]
        Address::Abstract(name) => {
            let name = UnixSocketAddressPath::Abstract(name.as_bytes());
            gio::UnixSocketAddress::with_type(name).upcast()
        }
        Address::Tcp { host, port } => gio::NetworkAddress::new(host, *port).upcast(),
        #[cfg(not(unix))]
        Address::Unix(_) | Address::Abstract(_) => {
            let text = format!("{address}: Unix sockets are for Unix");
            return Err(UsageError::NotSupported(text.into()).into());
        }
        Address::Spice(_) => {
            return Err(UsageError::NotSupported(
                format!("{address} is a SPICE server, but spice-qmp was built without SPICE")
                    .into(),
            )
            .into());
        }
        Address::Dbus { .. } => {
            let text = format!("{address} is not a socket");
            return Err(UsageError::InvalidArgument(text.into()).into());
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The callback comes on a foreign thread: it is leaked.
    #[test]
    fn another_thread_may_run_the_context_while_it_connects() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let context = glib::MainContext::new();
        let home = Home::on(context.clone());
        let server = gio::NetworkAddress::new("127.0.0.1", port).upcast();
        let (client, cancellable) = (gio::SocketClient::new(), gio::Cancellable::new());
        let count = Rc::new(());
        let inner = count.clone();
        let never = move |_| panic!("called on another thread: {inner:?}");
        assert!(gio_async::connect(
            &home,
            &client,
            &server,
            &cancellable,
            never
        ));
        let broken = home.clone();
        let run = move || {
            // It wakes up now and then, whatever happens to the connection.
            while !broken.is_broken() {
                context.iteration(true);
            }
        };
        std::thread::spawn(run).join().unwrap();
        assert_eq!(Rc::strong_count(&count), 2, "leaked, not dropped there");
    }

    #[test]
    fn an_attempt_that_is_dropped_is_cancelled() {
        let cancellable = Attempt::default().cancellable.clone();
        assert!(cancellable.is_cancelled());
    }
}
