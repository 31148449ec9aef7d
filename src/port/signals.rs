// SPDX-License-Identifier: MIT OR Apache-2.0
//! The signals `event` and `qmp-event`: their handlers and their emission.

use std::cell::{Cell, RefCell};

use glib::prelude::*;
use glib::subclass::Signal;
use glib::subclass::SignalId;
use once_cell::sync::Lazy;

use super::emission;
use super::event::Event;
use super::json_glib;
use crate::qmp::limits::MAX_TREE_SIZE;

/// The port's `GType` name. Not `SpiceQmpPort`, which spice-gtk registers in the same process.
pub(super) const TYPE_NAME: &str = "SpiceQmp1Port";
/// The signal for C: the name, and a `JsonNode` or NULL.
const EVENT: &str = "event";
/// The signal for everyone.
const QMP_EVENT: &str = "qmp-event";

static EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(EVENT));
pub(super) static QMP_EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(QMP_EVENT));
static NOTIFY_ID: Lazy<SignalId> = Lazy::new(|| signal_id("notify"));

static PENDING: Lazy<glib::Quark> = Lazy::new(|| glib::Quark::from_str("pending"));
static PORT: Lazy<glib::Type> =
    Lazy::new(|| glib::Type::from_name(TYPE_NAME).expect("there is a port"));

fn signal_id(name: &str) -> SignalId {
    SignalId::lookup(name, *PORT).expect("a signal of the port's")
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

/// Call it when the class is initialized and has its signals.
pub(super) fn prepare(port: glib::Type) {
    let qmp_event = SignalId::lookup(QMP_EVENT, port).expect("a signal of the port's");
    emission::lend_boxed(qmp_event, port);
}

/// Cache of connected handlers. In a storm of events the same question comes up again and again.
///
/// Application code may connect and disconnect handlers. After it has run, only negative
/// answers are reset: an emission without handlers does no harm. A
/// positive one holds until the next dispatch.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    /// Whether the signal `event` has a handler.
    event: Answer,
    /// Whether `qmp-event` has a handler for all events.
    qmp_event: Answer,
    last: RefCell<Name>,
    /// Whether `qmp-event` has a handler for events of the last name.
    named: Answer,
    /// Whether events of the last name are wanted at all.
    wanted: Answer,
    /// Whether the program was warned that an event is too large for `event`.
    warned: Cell<bool>,
}

/// The name that was last asked about.
#[derive(Debug, Default)]
struct Name {
    /// `None` if it is too long to be kept.
    text: Option<String>,
    /// The detail of the signal, if its quark exists.
    detail: Option<glib::Quark>,
}

/// A longer name is not kept: QEMU's longest has 26 bytes.
const LONGEST_NAME: usize = 64;

impl Listeners {
    /// A dispatch begins, or bytes have arrived.
    pub(super) fn reset(&self) {
        for answer in self.answers() {
            answer.0.set(None);
        }
    }

    /// Application code has run.
    pub(super) fn program_ran(&self) {
        for answer in self.answers() {
            answer.0.set(answer.0.get().filter(|&positive| positive));
        }
    }

    fn answers(&self) -> [&Answer; 4] {
        [&self.event, &self.qmp_event, &self.named, &self.wanted]
    }

    /// A new connection begins.
    pub(super) fn forget_warning(&self) {
        self.warned.set(false);
    }

    /// Whether events of this name are wanted. `by_stream`: whether a stream wants them.
    pub(super) fn want(
        &self,
        port: &glib::Object,
        name: &str,
        by_stream: impl FnOnce() -> bool,
    ) -> bool {
        if self.qmp_event.is_yes() || self.event.is_yes() {
            return true;
        }
        self.note(name);
        self.wanted.or_ask(|| {
            self.qmp_event(port)
                || self.event(port)
                || by_stream()
                || self.named(port, || glib::Quark::try_from_str(name))
        })
    }

    /// Emits both signals for an event.
    pub(super) fn emit(&self, port: &glib::Object, event: &Event) {
        if self.event(port) && self.fits_node(event) {
            json_glib::with_node(event.data(), |node| {
                emission::emit_event(port, *EVENT_ID, event.name_gstr(), node);
            });
            self.program_ran();
        }
        let name = event.name_gstr();
        let find = || emission::quark(name);
        self.note(name);
        if self.qmp_event.is_yes() || self.named(port, find) || self.qmp_event(port) {
            let detail = self.detail(find);
            emission::emit_qmp_event(port, *QMP_EVENT_ID, detail, event);
            self.program_ran();
        }
    }

    fn event(&self, port: &glib::Object) -> bool {
        let ask = || has_handler(port, *EVENT_ID, None);
        self.event.or_ask(ask)
    }

    fn qmp_event(&self, port: &glib::Object) -> bool {
        let ask = || has_handler(port, *QMP_EVENT_ID, None);
        self.qmp_event.or_ask(ask)
    }

    fn named(&self, port: &glib::Object, find: impl FnOnce() -> Option<glib::Quark>) -> bool {
        let ask = || {
            let detail = self.detail(find);
            detail.is_some_and(|detail| has_handler(port, *QMP_EVENT_ID, Some(detail)))
        };
        self.named.or_ask(ask)
    }

    /// The next questions are about this name.
    fn note(&self, name: &str) {
        let mut last = self.last.borrow_mut();
        if last.text.as_deref() == Some(name) {
            return;
        }
        let mut text = last.text.take().unwrap_or_default();
        if name.len() <= LONGEST_NAME {
            text.replace_range(.., name);
            last.text = Some(text);
        }
        last.detail = None;
        self.named.0.set(None);
        self.wanted.0.set(None);
    }

    /// The detail of the signal for events of the last name. Names that come from a peer are not
    /// interned: they would never be freed.
    fn detail(&self, find: impl FnOnce() -> Option<glib::Quark>) -> Option<glib::Quark> {
        let mut last = self.last.borrow_mut();
        last.detail = last.detail.or_else(find);
        last.detail
    }

    /// Whether the data is small enough to build a tree from it.
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

/// Notifies of a property, if it has handlers: checking that takes a fifth of the time that
/// notifying without handlers would.
pub(super) fn notify(port: &glib::Object, property: &'static glib::GStr) {
    if hears(port, glib::Quark::from_static_str(property)) {
        port.notify(property);
    }
}

/// Whether the property `pending`, which changes with each call, has handlers.
pub(super) fn hears_pending(port: &glib::Object) -> bool {
    hears(port, *PENDING)
}

/// Whether a property has handlers, or a subclass that overrides `notify`.
fn hears(port: &glib::Object, property: glib::Quark) -> bool {
    has_handler(port, *NOTIFY_ID, Some(property))
        || has_handler(port, *NOTIFY_ID, None)
        || port.type_() != *PORT
}

fn has_handler(port: &glib::Object, signal: SignalId, detail: Option<glib::Quark>) -> bool {
    glib::signal::signal_has_handler_pending(port, signal, detail, false)
}

/// A cached answer, if there is one.
#[derive(Debug, Default)]
struct Answer(Cell<Option<bool>>);

impl Answer {
    fn is_yes(&self) -> bool {
        self.0.get() == Some(true)
    }

    fn or_ask(&self, ask: impl FnOnce() -> bool) -> bool {
        let answer = self.0.get().unwrap_or_else(ask);
        self.0.set(Some(answer));
        answer
    }
}
