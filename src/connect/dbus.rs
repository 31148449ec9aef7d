// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports on D-Bus displays.

use std::cell::RefCell;
use std::env;
use std::io;
use std::time::{Duration, Instant};

use super::address::check_session_bus;
use super::options::{ConnectOptions, FIRST_PAUSE, LONGEST_PAUSE, unreachable, with_timeout};
use super::usable;
use crate::home::Home;
use crate::port::{QmpPort, within};
use crate::qmp::{
    ConnectError, Error, UsageError, is_human_monitor_name, is_qmp_port_name, limits,
};
use crate::transport::display::{Changes, Display, NotOpened};
use crate::transport::{DbusTransport, Transport, gdbus, io_kind};

/// Connects to a bus, the session bus unless an address is given, and finds the port of
/// the QEMU with this `name` there.
pub(super) async fn open(
    bus: Option<&str>,
    name: &str,
    options: &ConnectOptions,
) -> Result<QmpPort, Error> {
    let started = Instant::now();
    let transport = dial(bus, name, options).await?;
    usable(transport, started, options).await
}

/// The part of [`open`] that connects, through a connection of its own.
pub(super) async fn dial(
    bus: Option<&str>,
    name: &str,
    options: &ConnectOptions,
) -> Result<Box<dyn Transport>, Error> {
    let started = Instant::now();
    let address = match bus {
        Some(address) => address.to_owned(),
        None => session_bus()?,
    };
    let connection = connect(&address, options).await?;
    let display = Display::new(&connection, Some(name)).own_connection();
    let rest = options.timeout.saturating_sub(started.elapsed());
    let found = search(display, &options.clone().timeout(rest)).await;
    found.map_err(|error| with_timeout(error, options.timeout))
}

/// Finds the port of the QEMU with this `name` on the bus of `connection`, or of the one at
/// its other end.
pub(super) async fn find(
    connection: &gio::DBusConnection,
    name: Option<&str>,
    options: &ConnectOptions,
) -> Result<QmpPort, Error> {
    let on_bus = connection.unique_name().is_some();
    let fault = match name {
        Some(name) if !gio::dbus_is_name(name) => format!("{name:?} is not a name on a bus"),
        Some(_) if !on_bus => "the D-Bus connection is not to a bus, so QEMU has no name".into(),
        None if on_bus => "the name of QEMU on the bus is missing".into(),
        _ => {
            let started = Instant::now();
            let transport = search(Display::new(connection, name), options).await?;
            return usable(transport, started, options).await;
        }
    };
    Err(UsageError::InvalidArgument(fault.into()).into())
}

/// Finds a chardev of a display, and registers a socket with it.
async fn search(display: Display, options: &ConnectOptions) -> Result<Box<dyn Transport>, Error> {
    if !display.passes_fds() {
        let text = "the D-Bus connection cannot pass file descriptors, which a display needs";
        return Err(UsageError::NotSupported(text.into()).into());
    }
    let last = RefCell::new(None);
    let registered = within(options.timeout, register(&display, options, &last)).await;
    let socket = registered.unwrap_or_else(|| Err(timed_out(last.take(), options)))?;
    let transport = DbusTransport::opened(display, is_qmp_port_name, &socket);
    Ok(Box::new(transport))
}

/// The port of a display, once it is ready and its status is known.
async fn usable(
    transport: Box<dyn Transport>,
    started: Instant,
    options: &ConnectOptions,
) -> Result<QmpPort, Error> {
    let port = QmpPort::for_transport(transport);
    let rest = options.timeout.saturating_sub(started.elapsed());
    match usable::wait(&port, rest).await {
        Ok(()) => Ok(port),
        Err(error) => Err(with_timeout(error, options.timeout)),
    }
}

/// The error of a search that timed out; `last` is the failure after which it last tried again.
fn timed_out(last: Option<ConnectError>, options: &ConnectOptions) -> Error {
    match last {
        Some(last) if !options.waits() => last.into(),
        last => {
            let why = last.map_or_else(String::new, |last| format!(" ({last})"));
            Error::TimedOut {
                what: format!("QEMU's D-Bus display{why}").into(),
                after: options.timeout,
                hint: "",
            }
        }
    }
}

/// Registers with the display. A failure that is worth trying again is stored in `last`.
async fn register(
    display: &Display,
    options: &ConnectOptions,
    last: &RefCell<Option<ConnectError>>,
) -> Result<gio::SocketConnection, Error> {
    let changes = Changes::watch(display);
    let mut busy_since = None;
    let mut pause = FIRST_PAUSE;
    loop {
        let failed = match display.open(is_qmp_port_name).await {
            Ok(socket) => return Ok(socket),
            Err(failed) => failed,
        };
        let patience = match &failed {
            NotOpened::Failed(error) if gdbus::is_timeout(error) => continue,
            NotOpened::NotOnBus | NotOpened::Busy(_) if options.waits() => Duration::MAX,
            NotOpened::Busy(_) => {
                let since = busy_since.get_or_insert_with(Instant::now);
                GRACE.saturating_sub(since.elapsed())
            }
            _ => Duration::ZERO,
        };
        let failed = display_error(failed, display);
        if patience.is_zero() {
            return Err(failed.into());
        }
        last.replace(Some(failed));
        // Without a change it is tried once more, too.
        let _ = within(patience, changes.next()).await;
        // A peer may signal changes without end.
        glib::timeout_future(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// QEMU notices that a client has disconnected only when its main loop runs. The next
/// client should not fail for that.
const GRACE: Duration = Duration::from_millis(500);

fn display_error(failed: NotOpened, display: &Display) -> ConnectError {
    match failed {
        NotOpened::NotOnBus => {
            let name = display.name().unwrap_or_default();
            let message = format!("QEMU is not on the bus: nobody owns the name {name}");
            ConnectError::unreachable(io::ErrorKind::NotFound, message)
        }
        NotOpened::NoChardev(names) => {
            let human = names.into_iter().find(|name| is_human_monitor_name(name));
            human.map_or(ConnectError::NoChardev, |name| {
                ConnectError::OnlyHumanMonitor(name.into())
            })
        }
        NotOpened::Busy(holder) => ConnectError::Busy(holder.map(Into::into)),
        NotOpened::Failed(error) => {
            let text = gdbus::message(&error);
            let end = text.floor_char_boundary(limits::MAX_REFUSAL);
            unreachable(&error, format!("QEMU's D-Bus display: {}", &text[..end]))
        }
    }
}

async fn connect(address: &str, options: &ConnectOptions) -> Result<gio::DBusConnection, Error> {
    let home = Home::here();
    let last = RefCell::new(None);
    let attempts = async {
        let mut pause = FIRST_PAUSE;
        loop {
            match gdbus::connect(&home, address).await {
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
            let text = format!("the bus at {address}: {}", gdbus::message(&error));
            Err(unreachable(&error, text).into())
        }
        None => {
            let last = last.take();
            let why = last.map_or_else(String::new, |error| format!(" ({})", error.message()));
            Err(Error::TimedOut {
                what: format!("the bus at {address}{why}").into(),
                after: options.timeout,
                hint: "",
            })
        }
    }
}

/// The address of the session bus. Not the one that GIO finds: GIO starts a bus if
/// there is none.
fn session_bus() -> Result<String, Error> {
    let variable = |name| env::var(name).ok().filter(|text| !text.is_empty());
    let address = variable("DBUS_SESSION_BUS_ADDRESS").or_else(|| {
        let folder = variable("XDG_RUNTIME_DIR")?;
        let folder = gio::dbus_address_escape_value(&folder);
        Some(format!("unix:path={folder}/bus"))
    });
    let address = address.ok_or_else(|| {
        let text = "there is no session bus: neither DBUS_SESSION_BUS_ADDRESS nor \
                    XDG_RUNTIME_DIR is set";
        ConnectError::unreachable(io::ErrorKind::NotFound, text)
    })?;
    check_session_bus(&address)?;
    Ok(address)
}
