//! Who wants to hear of events.

use glib::prelude::*;
use glib::subclass::SignalId;
use glib::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::imp::{EVENT, QMP_EVENT, QmpPort};

/// The signal for C.
pub(super) static EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(EVENT));
/// The signal for everyone.
pub(super) static QMP_EVENT_ID: Lazy<SignalId> = Lazy::new(|| signal_id(QMP_EVENT));

static NOTIFY_ID: Lazy<SignalId> = Lazy::new(|| signal_id("notify"));
static PENDING: Lazy<glib::Quark> = Lazy::new(|| glib::Quark::from_str("pending"));

fn signal_id(name: &str) -> SignalId {
    SignalId::lookup(name, super::QmpPort::static_type()).expect("a signal of the port's")
}

/// What was found out since code of the program's ran last, which may have
/// connected and disconnected handlers: a storm of events asks the same again
/// and again.
#[derive(Debug, Default)]
pub(super) struct Audience {
    /// Whether the signal `event` has a handler.
    event: Option<bool>,
    /// Whether `qmp-event` has one for all events.
    qmp_event: Option<bool>,
    /// The name of the last event, and whether somebody wants those by name.
    last: String,
    wanted: Option<bool>,
}

impl QmpPort {
    /// Code of the program's may have run.
    pub(super) fn forget_audience(&self) {
        let mut audience = self.audience.borrow_mut();
        audience.event = None;
        audience.qmp_event = None;
        audience.wanted = None;
    }

    /// Whether somebody wants to hear of events of this name.
    pub(super) fn is_wanted(&self, name: &str) -> bool {
        self.hears_qmp_event() || self.hears_event() || self.is_wanted_by_name(name)
    }

    /// Whether the signal `event` has a handler.
    pub(super) fn hears_event(&self) -> bool {
        let mut audience = self.audience.borrow_mut();
        let ask = || self.has_handler(*EVENT_ID, None);
        *audience.event.get_or_insert_with(ask)
    }

    /// Whether the signal `qmp-event` has a handler for all events.
    pub(super) fn hears_qmp_event(&self) -> bool {
        let mut audience = self.audience.borrow_mut();
        let ask = || self.has_handler(*QMP_EVENT_ID, None);
        *audience.qmp_event.get_or_insert_with(ask)
    }

    fn is_wanted_by_name(&self, name: &str) -> bool {
        let audience = &mut *self.audience.borrow_mut();
        if audience.last != name {
            audience.last.replace_range(.., name);
            audience.wanted = None;
        }
        *audience.wanted.get_or_insert_with(|| {
            self.listeners.want(name)
                || detail(name).is_some_and(|name| self.has_handler(*QMP_EVENT_ID, Some(name)))
        })
    }

    /// Notifies of the property `pending`, which changes with each call: asking
    /// whether somebody listens takes a fifth of the time of telling nobody.
    pub(super) fn notify_pending(&self) {
        if self.has_handler(*NOTIFY_ID, Some(*PENDING)) || self.has_handler(*NOTIFY_ID, None) {
            self.obj().notify_pending();
        }
    }

    fn has_handler(&self, signal: SignalId, detail: Option<glib::Quark>) -> bool {
        glib::signal::signal_has_handler_pending(&*self.obj(), signal, detail, false)
    }
}

/// The detail of an event's signal, if anyone ever named it. Names of a peer are
/// not interned: they would stay for ever.
pub(super) fn detail(name: &str) -> Option<glib::Quark> {
    glib::Quark::try_from_str(name)
}
