//! The signals `event` and `qmp-event`: who has connected to them, and their emission.

use std::cell::{Cell, RefCell};

use glib::prelude::*;
use glib::subclass::Signal;
use glib::subclass::SignalId;
use once_cell::sync::Lazy;

use super::event::Event;
use super::json_glib;
use crate::qmp::limits::MAX_TREE_SIZE;

/// The port's type. Not `SpiceQmpPort`, which spice-gtk has in the same process.
pub(super) const TYPE_NAME: &str = "SpiceQmp1Port";
/// The signal for C: the name, and a `JsonNode` or NULL.
const EVENT: &str = "event";
/// The signal for everyone.
const QMP_EVENT: &str = "qmp-event";

static EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(EVENT));
pub(super) static QMP_EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(QMP_EVENT));
static NOTIFY_ID: Lazy<SignalId> = Lazy::new(|| signal_id("notify"));
static PENDING: Lazy<glib::Quark> = Lazy::new(|| glib::Quark::from_str("pending"));

fn signal_id(name: &str) -> SignalId {
    let port = glib::Type::from_name(TYPE_NAME).expect("there is a port");
    SignalId::lookup(name, port).expect("a signal of the port's")
}

/// The signals of the class.
pub(super) fn signals() -> &'static [Signal] {
    static SIGNALS: Lazy<[Signal; 2]> = Lazy::new(|| {
        [
            Signal::builder(EVENT)
                .param_types([String::static_type(), glib::Pointer::static_type()])
                .run_first()
                .build(),
            Signal::builder(QMP_EVENT)
                .param_types([Event::static_type()])
                .run_last()
                .detailed()
                .build(),
        ]
    });
    &*SIGNALS
}

/// Cache of connected handlers; reset whenever application code may have run, which may
/// connect and disconnect them. A storm of events asks the same again and again.
#[derive(Debug, Default)]
pub(super) struct Handlers {
    /// Whether the signal `event` has a handler.
    event: Cell<Option<bool>>,
    /// Whether `qmp-event` has one for all events.
    qmp_event: Cell<Option<bool>>,
    /// The name of the last event, and whether those of this name are wanted.
    last: RefCell<String>,
    wanted: Cell<Option<bool>>,
    /// Whether the program was warned that an event is too large for `event`.
    warned: Cell<bool>,
}

/// A longer name is not kept: QEMU's longest has 26 bytes.
const LONGEST_NAME: usize = 64;

impl Handlers {
    /// Application code may have run.
    pub(super) fn reset(&self) {
        self.event.set(None);
        self.qmp_event.set(None);
        self.wanted.set(None);
    }

    /// A new connection begins.
    pub(super) fn forget_warning(&self) {
        self.warned.set(false);
    }

    /// Whether events of this name are wanted. `by_stream`: whether by something else
    /// than a handler.
    pub(super) fn want(
        &self,
        port: &glib::Object,
        name: &str,
        by_stream: impl Fn() -> bool,
    ) -> bool {
        if self.qmp_event(port) || self.event(port) {
            return true;
        }
        let wanted = || {
            by_stream() || detail(name).is_some_and(|it| has_handler(port, *QMP_EVENT_ID, Some(it)))
        };
        if name.len() > LONGEST_NAME {
            return wanted();
        }
        let mut last = self.last.borrow_mut();
        if *last != name {
            last.replace_range(.., name);
            self.wanted.set(None);
        }
        cached(&self.wanted, wanted)
    }

    fn event(&self, port: &glib::Object) -> bool {
        cached(&self.event, || has_handler(port, *EVENT_ID, None))
    }

    fn qmp_event(&self, port: &glib::Object) -> bool {
        cached(&self.qmp_event, || has_handler(port, *QMP_EVENT_ID, None))
    }

    /// Emits both signals for an event.
    pub(super) fn emit(&self, port: &glib::Object, event: &Event) {
        if self.event(port) && self.fits_node(event) {
            json_glib::with_node(event.data(), |node| {
                port.emit::<()>(*EVENT_ID, &[&event.name(), &node]);
            });
            self.reset();
        }
        match detail(event.name()) {
            Some(detail) => port.emit_with_details::<()>(*QMP_EVENT_ID, detail, &[event]),
            None if self.qmp_event(port) => port.emit::<()>(*QMP_EVENT_ID, &[event]),
            None => {}
        }
        self.reset();
    }

    /// Whether the data is small enough to make a tree of it.
    fn fits_node(&self, event: &Event) -> bool {
        let fits = event.data().map_or(0, str::len) <= MAX_TREE_SIZE;
        if !fits && !self.warned.replace(true) {
            glib::g_warning!(
                "SpiceQmp",
                "the data of an event has more than {MAX_TREE_SIZE} bytes: the signal 'event' \
                 is not emitted for it, 'qmp-event' is"
            );
        }
        fits
    }
}

/// Notifies of the property `pending`, which changes with each call: checking for a
/// handler takes a fifth of the time that notifying without one would.
pub(super) fn notify_pending(port: &glib::Object) {
    if has_handler(port, *NOTIFY_ID, Some(*PENDING)) || has_handler(port, *NOTIFY_ID, None) {
        port.notify("pending");
    }
}

fn cached(answer: &Cell<Option<bool>>, ask: impl FnOnce() -> bool) -> bool {
    let known = answer.get().unwrap_or_else(ask);
    answer.set(Some(known));
    known
}

fn has_handler(port: &glib::Object, signal: SignalId, detail: Option<glib::Quark>) -> bool {
    glib::signal::signal_has_handler_pending(port, signal, detail, false)
}

/// The detail of an event's signal, if anyone ever named it. Names of a peer are
/// not interned: they would stay for ever.
fn detail(name: &str) -> Option<glib::Quark> {
    glib::Quark::try_from_str(name)
}
