// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GObject of a connector: its options, and its signal.

use std::cell::{Cell, RefCell};
use std::thread::{self, ThreadId};
use std::time::Duration;

use glib::prelude::*;
use glib::subclass::Signal;
use glib::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::questions::{NEED_PASSWORD, Questions};
use crate::connect::address::Address;
use crate::connect::dial::Dial;
use crate::connect::login::Login;
use crate::connect::options::ConnectOptions;
use crate::home::may_use;
use crate::port::CONNECT_TIMEOUT;
use crate::qmp::Error;

#[derive(glib::Properties)]
#[properties(wrapper_type = super::Connector)]
pub struct Connector {
    /// The address to connect to.
    #[property(get, set, nullable)]
    address: RefCell<Option<String>>,
    /// The password (ticket) for a SPICE server.
    #[property(set, nullable)]
    password: RefCell<Option<String>>,
    /// A file of certificates (PEM) that are trusted for TLS instead of the system's.
    #[property(get, set, nullable)]
    ca_file: RefCell<Option<String>>,
    /// The subject that the server's certificate must have for TLS, instead of its host
    /// name.
    #[property(get, set, nullable)]
    host_subject: RefCell<Option<String>>,
    /// How long connecting may take, in milliseconds; 0 means no limit.
    #[property(get, set, default = 10_000)]
    timeout: Cell<u32>,
    /// Whether to try again, within the timeout, while there is no server at the address.
    #[property(get, set)]
    wait: Cell<bool>,
    /// The pause in milliseconds before connecting again when the connection has ended; 0 means
    /// never.
    #[property(get, set)]
    reconnect: Cell<u32>,
    pub(super) questions: Questions,
    thread: ThreadId,
}

impl Default for Connector {
    fn default() -> Self {
        let timeout = CONNECT_TIMEOUT.as_millis();
        Self {
            address: RefCell::default(),
            password: RefCell::default(),
            ca_file: RefCell::default(),
            host_subject: RefCell::default(),
            timeout: Cell::new(u32::try_from(timeout).unwrap_or(u32::MAX)),
            wait: Cell::default(),
            reconnect: Cell::default(),
            questions: Questions::default(),
            thread: thread::current().id(),
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for Connector {
    const NAME: &'static str = "SpiceQmp1Connector";
    type Type = super::Connector;
}

impl ObjectImpl for Connector {
    fn properties() -> &'static [glib::ParamSpec] {
        Self::derived_properties()
    }

    fn property(&self, id: usize, property: &glib::ParamSpec) -> glib::Value {
        if self.may_use(property) {
            self.derived_property(id, property)
        } else {
            property.default_value().clone()
        }
    }

    fn set_property(&self, id: usize, value: &glib::Value, property: &glib::ParamSpec) {
        if self.may_use(property) {
            self.derived_set_property(id, value, property);
        }
    }

    fn signals() -> &'static [Signal] {
        static SIGNALS: Lazy<[Signal; 1]> = Lazy::new(|| {
            [Signal::builder(NEED_PASSWORD)
                .param_types([bool::static_type()])
                .run_last()
                .build()]
        });
        &*SIGNALS
    }
}

impl Connector {
    pub(super) fn is_my_thread(&self) -> bool {
        thread::current().id() == self.thread
    }

    /// Whether this thread may use a property; if not, logs a critical.
    fn may_use(&self, property: &glib::ParamSpec) -> bool {
        may_use(self.thread, "a connector", property.name())
    }

    /// The current values of the properties.
    pub(super) fn dial(&self) -> Result<Dial, Error> {
        let address = self.address.borrow();
        let timeout = match self.timeout.get() {
            0 => Duration::MAX,
            millis => Duration::from_millis(millis.into()),
        };
        Ok(Dial {
            address: Address::parse(address.as_deref().unwrap_or_default())?,
            options: ConnectOptions::new().timeout(timeout).wait(self.wait.get()),
            login: Login {
                password: copy(&self.password),
                ca_file: copy(&self.ca_file),
                host_subject: copy(&self.host_subject),
            },
        })
    }
}

fn copy(text: &RefCell<Option<String>>) -> Option<Box<str>> {
    text.borrow().as_deref().map(Into::into)
}
