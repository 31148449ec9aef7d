// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GObject of a server: its properties, its signal, and its main context.

use std::cell::{Cell, OnceCell, RefCell};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};

use glib::prelude::*;
use glib::subclass::Signal;
use glib::subclass::prelude::*;
use once_cell::sync::Lazy;

use crate::alarm::Alarm;
use crate::home::Home;
use crate::port::emission;
use crate::port::server::{QmpServer, RequestObject};
use crate::qmp::{Greeting, Request, Version, VersionTriple, for_c};

const COMMAND: &str = "command";

/// The version in the greeting if the program gives none: the default of the property.
const VERSION: VersionTriple = VersionTriple {
    major: 10,
    minor: 0,
    micro: 0,
};

/// A client that keeps sending requests while a handler runs a main loop would nest handlers
/// without end. At this depth, requests wait until a handler returns.
const MAX_NESTED: u32 = 32;

#[derive(glib::Properties)]
#[properties(wrapper_type = super::ServerObject)]
pub struct ServerObject {
    /// The stream whose other end is the client's.
    #[property(set, construct_only, nullable)]
    stream: RefCell<Option<gio::IOStream>>,
    /// QEMU's version in the greeting.
    #[property(name = "version", type = Option<String>, construct_only, default = "10.0.0",
               get = |server: &Self| Some(server.version.get().to_string()),
               set = Self::set_version)]
    version: Cell<VersionTriple>,
    /// The capabilities that the greeting offers.
    #[property(get, set, construct_only)]
    capabilities: RefCell<glib::StrV>,
    /// Whether the client has negotiated.
    #[property(name = "negotiated", type = bool, get = Self::negotiated)]
    /// Why the connection has ended, once it has.
    #[property(name = "close-reason", type = Option<String>, get = Self::close_reason)]
    server: RefCell<Option<QmpServer>>,
    /// Set in the construction.
    home: OnceCell<Home>,
    /// Emits, from the main loop, what has happened.
    waker: OnceCell<Waker>,
    /// What the program was last notified of.
    shown: Cell<Shown>,
    /// How many handlers are nested.
    nested: Cell<u32>,
}

#[derive(Debug, Clone, Copy, Default)]
struct Shown {
    negotiated: bool,
    end: bool,
}

impl Default for ServerObject {
    fn default() -> Self {
        Self {
            stream: RefCell::default(),
            version: Cell::new(VERSION),
            capabilities: RefCell::default(),
            server: RefCell::default(),
            home: OnceCell::new(),
            waker: OnceCell::new(),
            shown: Cell::default(),
            nested: Cell::new(0),
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for ServerObject {
    const NAME: &'static str = "SpiceQmp1Server";
    type Type = super::ServerObject;
}

impl ObjectImpl for ServerObject {
    fn properties() -> &'static [glib::ParamSpec] {
        Self::derived_properties()
    }

    fn property(&self, id: usize, property: &glib::ParamSpec) -> glib::Value {
        if self.home().may_use("a server", property.name()) {
            self.derived_property(id, property)
        } else {
            property.default_value().clone()
        }
    }

    fn set_property(&self, id: usize, value: &glib::Value, property: &glib::ParamSpec) {
        self.derived_set_property(id, value, property);
    }

    fn signals() -> &'static [Signal] {
        static SIGNALS: Lazy<[Signal; 1]> = Lazy::new(|| {
            [Signal::builder(COMMAND)
                .param_types([RequestObject::static_type()])
                .return_type::<bool>()
                .run_last()
                .detailed()
                .accumulator(|_, _, handled| {
                    if handled.get() == Ok(true) {
                        ControlFlow::Break(handled.clone())
                    } else {
                        ControlFlow::Continue(handled.clone())
                    }
                })
                .build()]
        });
        &*SIGNALS
    }

    fn constructed(&self) {
        self.parent_constructed();
        self.serve();
    }

    fn dispose(&self) {
        if self.home().is_my_thread() {
            self.dispose_here();
            return;
        }
        // It is moved to its own thread, as a port is, so that nothing in it belongs to a
        // thread any more. If its context is never run again, it leaks.
        let server = self.obj().clone();
        self.home().idle(glib::Priority::DEFAULT, move || {
            server.imp().dispose_here();
        });
    }
}

impl ServerObject {
    pub(super) fn home(&self) -> &Home {
        self.home.get_or_init(Home::here)
    }

    fn serve(&self) {
        let Some(stream) = self.stream.take() else {
            glib::g_critical!("SpiceQmp", "a server was made without a stream");
            return;
        };
        let capabilities = self.capabilities.borrow();
        let greeting = Greeting {
            version: Version {
                qemu: self.version.get(),
                package: String::new(),
            },
            capabilities: capabilities.iter().map(ToString::to_string).collect(),
        };
        let made = self.home().enter(|| QmpServer::new(&stream, &greeting));
        let Some(server) = made else {
            glib::g_critical!(
                "SpiceQmp",
                "a server was made on a main context of another thread"
            );
            return;
        };
        self.server.replace(Some(server));
        let waker = self
            .waker
            .get_or_init(|| Waker::from(Arc::new(self.bell())));
        waker.wake_by_ref();
    }

    fn bell(&self) -> Bell {
        let server = glib::SendWeakRef::from(self.obj().downgrade());
        Bell(Alarm::new(self.home(), move || {
            if let Some(server) = server.upgrade() {
                server.imp().dispatch();
            }
        }))
    }

    fn dispose_here(&self) {
        let server = self.server.take();
        if let Some(server) = server {
            server.close();
        }
    }

    /// The server, which exists until this is disposed of.
    pub(super) fn server(&self) -> Option<QmpServer> {
        self.server.borrow().clone()
    }

    /// Emits the next thing that has happened.
    fn dispatch(&self) {
        let (Some(server), Some(waker)) = (self.server(), self.waker.get()) else {
            return;
        };
        let nested = self.nested.get();
        if nested == MAX_NESTED {
            return;
        }
        self.nested.set(nested + 1);
        if server.is_negotiated() && !self.show(|shown| &mut shown.negotiated) {
            self.obj().notify_negotiated();
        }
        match server.0.poll_next(&Context::from_waker(waker)) {
            Poll::Ready(Some(request)) => {
                // The next one does not wait for a main loop that a handler runs.
                waker.wake_by_ref();
                self.emit(&server, &request);
                // It may have waited for this.
                waker.wake_by_ref();
            }
            Poll::Ready(None) if !self.show(|shown| &mut shown.end) => {
                self.obj().notify_close_reason();
            }
            Poll::Ready(None) | Poll::Pending => {}
        }
        self.nested.set(nested);
    }

    /// Marks something as emitted, and returns whether it was before.
    fn show(&self, what: impl FnOnce(&mut Shown) -> &mut bool) -> bool {
        let mut shown = self.shown.get();
        let before = std::mem::replace(what(&mut shown), true);
        self.shown.set(shown);
        before
    }

    fn emit(&self, server: &QmpServer, request: &Request) {
        let request = RequestObject::new(self.home(), server, request);
        let object = self.obj();
        let handled: bool = match emission::quark(request.command()) {
            Some(name) => object.emit_by_name_with_details(COMMAND, name, &[&request]),
            None => object.emit_by_name(COMMAND, &[&request]),
        };
        if !handled {
            request.decline();
        }
    }

    fn set_version(&self, text: Option<String>) {
        let Some(text) = text else { return };
        match super::version(&text) {
            Some(version) => self.version.set(version),
            None => glib::g_critical!("SpiceQmp", "{text:?} is not a version of QEMU"),
        }
    }

    fn negotiated(&self) -> bool {
        self.server().is_some_and(|server| server.is_negotiated())
    }

    fn close_reason(&self) -> Option<String> {
        let no_stream = || Some("the server has no client".into());
        // The reason of a stream's error may contain anything.
        self.server().map_or_else(no_stream, |server| {
            Some(for_c(&server.close_reason()?).into_owned())
        })
    }
}

/// Makes the main loop continue with what has happened.
struct Bell(Alarm);

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        self.0.set(0, glib::Priority::DEFAULT);
    }
}
