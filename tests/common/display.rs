// SPDX-License-Identifier: MIT OR Apache-2.0
//! The other end of a peer-to-peer connection, which answers in place of QEMU's D-Bus
//! display, as scripted by a test.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::io::Write;
use std::mem;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use gio::prelude::*;

use super::dbus::client_of;
use super::main_loop::{MainLoop, PATIENCE, home};
use super::peers::{Peer, StreamPeer};

const CHARDEV: &str = "org.qemu.Display1.Chardev";
pub const CHARDEV_PATH: &str = "/org/qemu/Display1/Chardev_q";
/// The name of the chardev, unless a test has it otherwise.
pub const CHARDEV_NAME: &str = "org.qemu.monitor.qmp.0";

/// A request of the near end.
pub struct Request {
    pub path: String,
    pub member: String,
    pub body: Option<glib::Variant>,
    /// The socket that came with it.
    pub fd: Option<OwnedFd>,
}

/// The answer.
pub enum Answer {
    Value(glib::Variant),
    Error(&'static str, &'static str),
    Nothing,
}

/// A connection whose far end, which is returned, too, answers all calls with `answer`. That
/// is done on GDBus's thread: no main loop needs to run.
pub fn serve(
    answer: impl Fn(Request) -> Answer + Send + 'static,
) -> (gio::DBusConnection, gio::DBusConnection) {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let server = thread::spawn(move || {
        let socket = gio::Socket::from_fd(OwnedFd::from(far)).expect("a socket");
        let flags = gio::DBusConnectionFlags::AUTHENTICATION_SERVER
            | gio::DBusConnectionFlags::DELAY_MESSAGE_PROCESSING;
        let connection = gio::DBusConnection::new_sync(
            &socket.connection_factory_create_connection(),
            Some(&gio::dbus_generate_guid()),
            flags,
            None,
            gio::Cancellable::NONE,
        )
        .expect("the near end speaks D-Bus");
        connection.add_filter(move |connection, message, incoming| {
            if !incoming || message.message_type() != gio::DBusMessageType::MethodCall {
                return Some(message.clone());
            }
            let reply = match answer(Request::new(message)) {
                Answer::Nothing => return None,
                Answer::Error(name, text) => message.new_method_error_literal(name, text),
                Answer::Value(value) => {
                    let reply = message.new_method_reply();
                    reply.set_body(&value);
                    reply
                }
            };
            // The near end may be gone.
            let _ = connection.send_message(&reply, gio::DBusSendMessageFlags::NONE);
            None
        });
        connection.start_message_processing();
        connection
    });
    let near = client_of(near);
    (near, server.join().expect("the far end speaks D-Bus"))
}

impl Request {
    fn new(message: &gio::DBusMessage) -> Self {
        let text = |text: Option<glib::GString>| text.map(String::from).unwrap_or_default();
        let fds = message.unix_fd_list();
        Self {
            path: text(message.path()),
            member: text(message.member()),
            body: message.body(),
            fd: fds.and_then(|fds| fds.get(0).ok()),
        }
    }
}

/// The properties of a chardev.
pub fn properties(name: &str, owner: &str) -> HashMap<String, glib::Variant> {
    HashMap::from([
        ("Name".to_owned(), name.to_variant()),
        ("FEOpened".to_owned(), true.to_variant()),
        ("Echo".to_owned(), true.to_variant()),
        ("Owner".to_owned(), owner.to_variant()),
    ])
}

/// The answer to `GetManagedObjects` of a display with these chardevs, by path.
pub fn objects(chardevs: &[(&str, HashMap<String, glib::Variant>)]) -> glib::Variant {
    let entries = chardevs.iter().map(|(path, properties)| {
        let path = glib::variant::ObjectPath::try_from((*path).to_owned()).expect("a path");
        let interfaces = HashMap::from([(CHARDEV.to_owned(), properties.clone())]);
        glib::Variant::from_dict_entry(&path.to_variant(), &interfaces.to_variant())
    });
    let entry = glib::VariantTy::new("{oa{sa{sv}}}").expect("a type");
    let objects = glib::Variant::array_from_iter_with_type(entry, entries);
    glib::Variant::tuple_from_iter([objects])
}

/// The answer to `GetManagedObjects` of a display with one chardev of these properties.
pub fn objects_of(properties: &glib::Variant) -> glib::Variant {
    let interface = glib::Variant::from_dict_entry(&CHARDEV.to_variant(), properties);
    let array =
        |entry: glib::Variant| glib::Variant::array_from_iter_with_type(entry.type_(), [&entry]);
    let path = glib::variant::ObjectPath::try_from(CHARDEV_PATH.to_owned()).expect("a path");
    let object = glib::Variant::from_dict_entry(&path.to_variant(), &array(interface));
    glib::Variant::tuple_from_iter([array(object)])
}

/// Signals that the owner of the chardev has changed.
pub fn signal_owner(far: &gio::DBusConnection, owner: &str) {
    let changed = HashMap::from([("Owner".to_owned(), owner.to_variant())]);
    let arguments = (CHARDEV, changed, Vec::<String>::new()).to_variant();
    // The near end may be gone.
    let _ = far.emit_signal(
        None,
        CHARDEV_PATH,
        "org.freedesktop.DBus.Properties",
        "PropertiesChanged",
        Some(&arguments),
    );
}

/// A length that does not fit into the default buffer of a socket.
pub fn more_than_a_socket_holds() -> usize {
    let (near, _far) = UnixStream::pair().expect("a pair of sockets");
    2 * rustix::net::sockopt::socket_send_buffer_size(&near).expect("a socket")
}

/// A display with one chardev, which is free when a test opens it.
pub struct DisplayPeer {
    home: glib::MainContext,
    near: gio::DBusConnection,
    far: gio::DBusConnection,
    shared: Arc<Mutex<Shared>>,
    stream: RefCell<Option<StreamPeer>>,
    /// How often the near end's connection is referenced by others than GDBus and the test.
    idle_references: u32,
}

#[derive(Default)]
struct Shared {
    free: bool,
    /// Whether the near end has looked for the chardev.
    searched: bool,
    registered: Option<UnixStream>,
    /// The bytes that were sent before.
    early: Vec<u8>,
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}

impl DisplayPeer {
    pub fn start() -> Self {
        let shared = Arc::<Mutex<Shared>>::default();
        let (near, far) = serve({
            let shared = shared.clone();
            move |request| Self::answer(&mut lock(&shared), request)
        });
        Self {
            home: home(),
            idle_references: near.ref_count(),
            near,
            far,
            shared,
            stream: RefCell::default(),
        }
    }

    /// The near end of the connection.
    pub fn connection(&self) -> &gio::DBusConnection {
        &self.near
    }

    fn answer(shared: &mut Shared, request: Request) -> Answer {
        let owner = if shared.free { "" } else { ":1.7" };
        match &*request.member {
            "GetManagedObjects" => {
                shared.searched = true;
                let chardev = (CHARDEV_PATH, properties(CHARDEV_NAME, owner));
                Answer::Value(objects(&[chardev]))
            }
            "Get" => Answer::Value((owner.to_variant(),).to_variant()),
            "Register" if shared.free => {
                let fd = request.fd.expect("a descriptor comes with it");
                shared.free = false;
                let mut stream = UnixStream::from(fd);
                let early = mem::take(&mut shared.early);
                stream.write_all(&early).expect("it has room");
                shared.registered = Some(stream);
                Answer::Value(().to_variant())
            }
            "Register" => Answer::Error("org.qemu.Display1.Error.Failed", "it is busy"),
            "Ping" => Answer::Value(().to_variant()),
            _ => Answer::Error("org.freedesktop.DBus.Error.UnknownMethod", "unknown"),
        }
    }

    /// Runs until every consequence of the messages so far has happened.
    fn sync(&self) {
        let done = Rc::new(Cell::new(false));
        let answered = done.clone();
        let ping = || {
            self.near.call(
                None,
                "/",
                "org.freedesktop.DBus.Peer",
                "Ping",
                None,
                None,
                gio::DBusCallFlags::NONE,
                -1,
                gio::Cancellable::NONE,
                move |_| answered.set(true),
            );
        };
        while self.home.iteration(false) {}
        self.home.with_thread_default(ping).expect("the test's own");
        while !done.get() {
            self.home.iteration(true);
        }
        while self.home.iteration(false) {}
    }
}

impl DisplayPeer {
    /// Signals that the chardev is free, and nothing else.
    pub fn announce(&self) {
        lock(&self.shared).free = true;
        signal_owner(&self.far, "");
    }
}

impl Peer for DisplayPeer {
    /// It is open when the near end has registered, if that exists and waits.
    fn open(&self) {
        self.announce();
        let deadline = glib::monotonic_time() + i64::try_from(PATIENCE.as_micros()).unwrap_or(0);
        self.sync();
        loop {
            let registered = lock(&self.shared).registered.take();
            if let Some(registered) = registered {
                self.stream.replace(Some(StreamPeer::new(registered)));
                // It must notice that, too.
                return self.sync();
            }
            let is_used = self.near.ref_count() > self.idle_references;
            if !is_used || !lock(&self.shared).searched {
                return;
            }
            assert!(glib::monotonic_time() < deadline, "the near end waits");
            self.sync();
        }
    }

    fn send(&self, bytes: &[u8]) {
        let mut shared = lock(&self.shared);
        if let Some(registered) = shared.registered.take() {
            self.stream.replace(Some(StreamPeer::new(registered)));
        }
        if shared.free {
            shared.early.extend_from_slice(bytes);
        } else if let Some(stream) = &*self.stream.borrow() {
            stream.send(bytes);
        }
    }

    fn received(&self) -> Vec<u8> {
        let stream = self.stream.borrow();
        stream.as_ref().map(Peer::received).unwrap_or_default()
    }

    fn takes_fds(&self) -> bool {
        true
    }

    fn received_with_fds(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        let stream = self.stream.borrow();
        let received = stream.as_ref().map(Peer::received_with_fds);
        received.unwrap_or_default()
    }

    fn close(&self) {
        let mut shared = lock(&self.shared);
        shared.free = false;
        shared.registered = None;
        shared.early.clear();
        drop(shared);
        self.stream.take();
    }

    fn reopens(&self) -> bool {
        true
    }

    fn keeps_early_bytes(&self) -> bool {
        true
    }

    fn holds_back(&self) -> bool {
        true
    }

    /// The bytes are not read.
    fn block(&self, _blocked: bool) -> bool {
        true
    }

    fn fails_writes(&self) -> bool {
        true
    }

    fn fail_write(&self) {
        if let Some(stream) = &*self.stream.borrow() {
            stream.fail_write();
        }
    }

    fn finish(self: Box<Self>, _main: &MainLoop) {}
}
