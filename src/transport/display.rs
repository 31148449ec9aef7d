// SPDX-License-Identifier: MIT OR Apache-2.0
//! The chardevs of QEMU's D-Bus display: finds one, and registers a socket with it.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::Duration;

use gio::prelude::*;
use glib::signal::SignalHandlerId;

use super::gdbus::{self, Method, Signals, Subscription};
use crate::handlers::disconnect;
use crate::home::Home;

/// A D-Bus display: a connection, and QEMU's name on it.
#[derive(Debug, Clone)]
pub(crate) struct Display {
    pub(super) home: Home,
    pub(super) connection: gio::DBusConnection,
    /// QEMU's name on the bus; `None` on a peer-to-peer connection.
    name: Option<Box<str>>,
    /// Whether the connection is closed with the transport.
    pub(super) owned: bool,
}

/// Why a chardev was not opened.
#[derive(Debug)]
pub(crate) enum NotOpened {
    /// QEMU's name has no owner on the bus.
    NotOnBus,
    /// No chardev has a wanted name; these are the names that there are.
    NoChardev(Vec<String>),
    /// Another client has registered: its unique name on the bus, if known.
    Busy(Option<String>),
    /// D-Bus, or the peer that answers there, failed.
    Failed(glib::Error),
}

/// A chardev, as its display describes it.
struct Chardev {
    path: String,
    name: String,
    owner: String,
}

const DISPLAY_PATH: &str = "/org/qemu/Display1";
const CHARDEV: &str = "org.qemu.Display1.Chardev";
const PROPERTIES: &str = "org.freedesktop.DBus.Properties";
/// The prefix of QEMU's own errors. `Register` has no other error than this: the
/// chardev has a client.
const QEMU_ERROR: &str = "org.qemu.Display1.Error.";

/// How long one call may take: QEMU answers when its main loop runs.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// How many objects of a display are visited, and how many interfaces and properties
/// of each.
const MAX_OBJECTS: usize = 1024;
const MAX_ENTRIES: usize = 64;
/// The longest name of a chardev, and how many names are kept for the error.
const MAX_NAME: usize = 256;
const MAX_NAMES: usize = 64;

impl Display {
    /// The QEMU at the other end of `connection`, or with a valid name on its bus. It uses the
    /// thread-default main context.
    pub(crate) fn new(connection: &gio::DBusConnection, name: Option<&str>) -> Self {
        Self {
            home: Home::here(),
            connection: connection.clone(),
            name: name.map(Into::into),
            owned: false,
        }
    }

    /// Closes the connection with the transport.
    pub(crate) fn own_connection(mut self) -> Self {
        self.owned = true;
        self
    }

    /// QEMU's name on the bus.
    pub(crate) fn name(&self) -> Option<&str> {
        self.name.as_deref()
    }

    /// Whether file descriptors can be passed. A connection over TCP cannot.
    pub(crate) fn passes_fds(&self) -> bool {
        let capabilities = self.connection.capabilities();
        capabilities.contains(gio::DBusCapabilityFlags::UNIX_FD_PASSING)
    }

    /// Registers with a chardev that has a wanted name.
    pub(crate) async fn open(
        &self,
        wanted: fn(&str) -> bool,
    ) -> Result<gio::SocketConnection, NotOpened> {
        let Some(name) = &self.name else {
            return self.open_of(None, wanted).await;
        };
        let owner = self.owner(name).await?;
        match self.open_of(Some(&owner), wanted).await {
            // It has left the bus since.
            Err(NotOpened::Failed(error)) if has_no_owner(&error) => Err(NotOpened::NotOnBus),
            result => result,
        }
    }

    /// Registers with the connection `owner` of a bus, or with the other end of a connection
    /// without a bus.
    async fn open_of(
        &self,
        owner: Option<&str>,
        wanted: fn(&str) -> bool,
    ) -> Result<gio::SocketConnection, NotOpened> {
        let reply = self
            .call(
                owner,
                DISPLAY_PATH,
                ("org.freedesktop.DBus.ObjectManager", "GetManagedObjects"),
                None,
                "(a{oa{sa{sv}}})",
            )
            .await?;
        let chardev = choose(chardevs(&reply), wanted)?;
        if !chardev.owner.is_empty() {
            return Err(NotOpened::Busy(holder(&chardev.owner)));
        }
        self.register(owner, &chardev).await
    }

    /// The connection that has `name`. All further calls go to this one.
    async fn owner(&self, name: &str) -> Result<String, NotOpened> {
        let reply = self
            .call(
                Some("org.freedesktop.DBus"),
                "/org/freedesktop/DBus",
                ("org.freedesktop.DBus", "GetNameOwner"),
                Some(&(name,).to_variant()),
                "(s)",
            )
            .await;
        match reply {
            Ok(reply) => {
                let owner = reply.child_value(0);
                let owner = owner.str().filter(|owner| gio::dbus_is_unique_name(owner));
                owner.map(str::to_owned).ok_or(NotOpened::NotOnBus)
            }
            Err(error) if has_no_owner(&error) => Err(NotOpened::NotOnBus),
            Err(error) => Err(error.into()),
        }
    }

    async fn register(
        &self,
        owner: Option<&str>,
        chardev: &Chardev,
    ) -> Result<gio::SocketConnection, NotOpened> {
        let failed = |error: std::io::Error| {
            let text = format!("no socket can be made: {error}");
            glib::Error::new(gio::IOErrorEnum::Failed, &text)
        };
        let (near, far) = UnixStream::pair().map_err(failed)?;
        let fds = gio::UnixFDList::new();
        let handle = glib::variant::Handle(fds.append(&far)?);
        drop(far);
        let method = Method {
            destination: owner,
            path: &chardev.path,
            interface: CHARDEV,
            name: "Register",
            reply: glib::VariantTy::UNIT,
        };
        let arguments = (handle,).to_variant();
        let registered = gdbus::call(
            &self.home,
            &self.connection,
            &method,
            Some(&arguments),
            Some(&fds),
            CALL_TIMEOUT,
        );
        match registered.await {
            Ok(_) => {
                let socket = gio::Socket::from_fd(OwnedFd::from(near))?;
                Ok(socket.connection_factory_create_connection())
            }
            Err(error) if is_qemus(&error) => {
                let owner = self.current_owner(owner, chardev).await;
                Err(NotOpened::Busy(owner.as_deref().and_then(holder)))
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The current owner of a chardev.
    async fn current_owner(&self, owner: Option<&str>, chardev: &Chardev) -> Option<String> {
        let property = (CHARDEV, "Owner").to_variant();
        let get = (PROPERTIES, "Get");
        let reply = self.call(owner, &chardev.path, get, Some(&property), "(v)");
        let value = reply.await.ok()?.child_value(0).as_variant()?;
        let owner = value.str().filter(|owner| owner.len() <= MAX_NAME);
        owner.map(str::to_owned)
    }

    async fn call(
        &self,
        destination: Option<&str>,
        path: &str,
        (interface, name): (&str, &str),
        arguments: Option<&glib::Variant>,
        reply: &str,
    ) -> Result<glib::Variant, glib::Error> {
        let reply = glib::VariantTy::new(reply).unwrap_or(glib::VariantTy::UNIT);
        let method = Method {
            destination,
            path,
            interface,
            name,
            reply,
        };
        let (home, connection) = (&self.home, &self.connection);
        gdbus::call(home, connection, &method, arguments, None, CALL_TIMEOUT).await
    }
}

impl From<glib::Error> for NotOpened {
    fn from(error: glib::Error) -> Self {
        Self::Failed(error)
    }
}

/// Whether the bus says that nobody has the name that was called.
fn has_no_owner(error: &glib::Error) -> bool {
    error.matches(gio::DBusError::NameHasNoOwner) || error.matches(gio::DBusError::ServiceUnknown)
}

fn is_qemus(error: &glib::Error) -> bool {
    gdbus::remote_name(error).is_some_and(|name| name.starts_with(QEMU_ERROR))
}

/// The owner of a chardev, if the peer reports a valid name.
fn holder(owner: &str) -> Option<String> {
    gio::dbus_is_unique_name(owner).then(|| owner.to_owned())
}

/// The chardevs in a reply of `GetManagedObjects`. Objects without a name are skipped.
fn chardevs(reply: &glib::Variant) -> Vec<Chardev> {
    let objects = reply.child_value(0);
    let chardev = |object: glib::Variant| {
        let path = object.child_value(0).str()?.to_owned();
        let properties = value(&object.child_value(1), CHARDEV)?;
        let name = text(&properties, "Name").filter(|name| name.len() <= MAX_NAME)?;
        let owner = text(&properties, "Owner").unwrap_or_default();
        Some(Chardev { path, name, owner })
    };
    objects
        .iter()
        .take(MAX_OBJECTS)
        .filter_map(chardev)
        .collect()
}

/// A text among the properties of an object. It is cut at the longest allowed name.
fn text(properties: &glib::Variant, key: &str) -> Option<String> {
    let text = value(properties, key)?.as_variant()?;
    let text = text.str()?;
    Some(text[..text.floor_char_boundary(MAX_NAME + 1)].to_owned())
}

/// The value of a key in a dictionary of few entries.
fn value(dictionary: &glib::Variant, key: &str) -> Option<glib::Variant> {
    let mut entries = dictionary.iter().take(MAX_ENTRIES);
    let entry = entries.find(|entry| entry.child_value(0).str() == Some(key))?;
    Some(entry.child_value(1))
}

/// The first wanted chardev by name, free ones before others.
fn choose(chardevs: Vec<Chardev>, wanted: fn(&str) -> bool) -> Result<Chardev, NotOpened> {
    let (wanted, others): (Vec<_>, Vec<_>) = chardevs
        .into_iter()
        .partition(|chardev| wanted(&chardev.name));
    let first = wanted
        .into_iter()
        .min_by(|a, b| (!a.owner.is_empty(), &a.name).cmp(&(!b.owner.is_empty(), &b.name)));
    first.ok_or_else(|| {
        let names = others.into_iter().map(|chardev| chardev.name);
        NotOpened::NoChardev(names.take(MAX_NAMES).collect())
    })
}

/// Notices when it may be worth trying again: QEMU has appeared on the bus, a chardev has
/// become free, or the connection is gone.
pub(crate) struct Changes {
    heard: Rc<Heard>,
    connection: gio::DBusConnection,
    closed: Option<SignalHandlerId>,
    _subscriptions: Vec<Subscription>,
}

#[derive(Default)]
struct Heard {
    something: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Heard {
    fn something(&self) {
        self.something.set(true);
        let waker = self.waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl Changes {
    pub(crate) fn watch(display: &Display) -> Self {
        let (home, connection) = (&display.home, &display.connection);
        let heard = Rc::<Heard>::default();
        let name = display.name.as_deref();
        let of_qemu = |interface, member, first| Signals {
            sender: name,
            interface,
            member,
            first,
        };
        let of_bus = name.map(|name| Signals {
            sender: Some("org.freedesktop.DBus"),
            interface: "org.freedesktop.DBus",
            member: "NameOwnerChanged",
            first: Some(name),
        });
        let owner = of_qemu(PROPERTIES, "PropertiesChanged", Some(CHARDEV));
        let manager = "org.freedesktop.DBus.ObjectManager";
        let chardev = of_qemu(manager, "InterfacesAdded", None);
        let signals = [owner, chardev].into_iter().chain(of_bus);
        let subscriptions = signals.filter_map(|signals| {
            let heard = heard.clone();
            gdbus::subscribe(home, connection, &signals, move || heard.something())
        });
        // GDBus emits this one on the main context of the connection.
        let (bound, context) = (Arc::new(home.bind(heard.clone())), home.clone());
        let closed = connection.connect_closed(move |_, _, _| {
            let bound = bound.clone();
            context.idle(glib::Priority::DEFAULT, move || {
                if let Some(heard) = bound.get() {
                    heard.something();
                }
            });
        });
        Self {
            _subscriptions: subscriptions.collect(),
            closed: Some(closed),
            connection: connection.clone(),
            heard,
        }
    }

    /// Ends when something has changed since it last ended.
    pub(crate) async fn next(&self) {
        poll_fn(|cx| {
            if self.heard.something.take() {
                return Poll::Ready(());
            }
            self.heard.waker.replace(Some(cx.waker().clone()));
            Poll::Pending
        })
        .await;
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        if let Some(handler) = self.closed.take() {
            disconnect(&self.connection, handler);
        }
    }
}
