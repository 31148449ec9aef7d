//! The private state of a port: properties, signals, life and death.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use glib::prelude::*;
use glib::subclass::Signal;
use glib::subclass::prelude::*;
use once_cell::sync::Lazy;

use super::audience::Audience;
use super::home::Home;
use super::listen::{EventStream, Listeners};
use super::log::Traffic;
use super::timers::Timers;
use super::turn::{Action, Callback, Owner, Token};
use super::{CallOptions, Event, PORT_QUARK, PortState, Status, VmAction};
use crate::qmp::{Band, CallId, Error, Session, State, Version, redacted};
use crate::transport::spice::PortChannel;
use crate::transport::{Flow, SpiceTransport, Transport};

#[derive(glib::Properties)]
#[properties(wrapper_type = super::QmpPort)]
pub struct QmpPort {
    /// The SPICE channel that the port is attached to, if any and while it lives.
    #[property(get, set, construct_only)]
    channel: glib::WeakRef<PortChannel>,
    /// Whether commands may be given.
    #[property(name = "ready", type = bool, get = Self::ready)]
    /// Where the connection stands.
    #[property(name = "state", type = PortState, get = Self::state, builder(PortState::Closed))]
    /// How many of the program's calls have not ended.
    #[property(name = "pending", type = u32, get = Self::pending)]
    /// The longest message that is accepted, in bytes. A longer one is skipped
    /// and fails the calls in flight.
    #[property(name = "max-message-size", type = u64, minimum = 1, default = 64 << 20,
               get = Self::max_message_size, set = Self::set_max_message_size)]
    /// What the server offered in its greeting, such as `oob`.
    #[property(name = "capabilities", type = glib::StrV, get = Self::capabilities)]
    pub(super) session: Arc<RefCell<Session<Token>>>,
    /// QEMU's version, such as `10.0.2`, while it is known.
    #[property(name = "version", type = Option<String>, get = Self::version)]
    /// The distributor's package of QEMU, while it is known.
    #[property(name = "package", type = Option<String>, get = Self::package)]
    pub(super) qemu: RefCell<Option<Version>>,
    /// The run state of the virtual machine, kept current while the port is ready.
    #[property(name = "status", type = Option<Status>, get = |port: &Self| port.status.borrow().clone())]
    pub(super) status: RefCell<Option<Status>>,
    /// Why the port is not ready, or what went wrong on it last.
    #[property(name = "last-error", type = Option<glib::Error>,
               get = |port: &Self| port.last_error.borrow().clone().map(glib::Error::from))]
    pub(super) last_error: RefCell<Option<Error>>,
    /// The deadline of each call in milliseconds; 0, the default, is none.
    #[property(get, set)]
    command_timeout: Cell<u32>,

    pub(super) home: Home,
    pub(super) weak: RefCell<Option<Arc<glib::SendWeakRef<super::QmpPort>>>>,
    transport: RefCell<Option<Rc<dyn Transport>>>,
    /// What has happened and was not told yet.
    pub(super) actions: RefCell<VecDeque<Action>>,
    pub(super) turn: RefCell<Option<glib::Source>>,
    pub(super) timers: Timers,
    /// Whether the transport has a write that it did not answer.
    pub(super) writing: Cell<bool>,
    /// How many calls of the port's own are in flight.
    pub(super) own_calls: Cell<u32>,
    pub(super) status_asked: Cell<bool>,
    pub(super) status_stale: Cell<bool>,
    pub(super) was_ready: Cell<bool>,
    pub(super) told_pending: Cell<u32>,
    pub(super) listeners: Listeners,
    pub(super) audience: RefCell<Audience>,
    pub(super) traffic: Traffic,
    wakers: RefCell<Vec<Waker>>,
    /// How often the connection was lost.
    pub(super) closures: Cell<u64>,
    shut: Cell<bool>,
}

/// Ids of requests start between these, at random, so that the late replies of
/// another session on the same monitor match none of them.
const FIRST_ID: std::ops::Range<i32> = (1 << 24)..i32::MAX;

impl Default for QmpPort {
    #[allow(
        clippy::arc_with_non_send_sync,
        reason = "two threads may count references to the session of a port that was disposed of"
    )]
    fn default() -> Self {
        let first_id = glib::random_int_range(FIRST_ID.start, FIRST_ID.end);
        Self {
            channel: glib::WeakRef::new(),
            session: Arc::new(RefCell::new(Session::new(first_id.unsigned_abs().into()))),
            qemu: RefCell::default(),
            status: RefCell::default(),
            last_error: RefCell::default(),
            command_timeout: Cell::default(),
            home: Home::here(),
            weak: RefCell::default(),
            transport: RefCell::default(),
            actions: RefCell::default(),
            turn: RefCell::default(),
            timers: Timers::default(),
            writing: Cell::default(),
            own_calls: Cell::default(),
            status_asked: Cell::default(),
            status_stale: Cell::default(),
            was_ready: Cell::default(),
            told_pending: Cell::default(),
            listeners: Listeners::default(),
            audience: RefCell::default(),
            traffic: Traffic::default(),
            wakers: RefCell::default(),
            closures: Cell::default(),
            shut: Cell::default(),
        }
    }
}

/// The signal for C: the name, and a `JsonNode` or NULL.
pub(super) const EVENT: &str = "event";
/// The signal for everyone.
pub(super) const QMP_EVENT: &str = "qmp-event";

#[glib::object_subclass]
impl ObjectSubclass for QmpPort {
    const NAME: &'static str = "SpiceQmp1Port";
    type Type = super::QmpPort;
}

impl ObjectImpl for QmpPort {
    fn properties() -> &'static [glib::ParamSpec] {
        Self::derived_properties()
    }

    fn property(&self, id: usize, property: &glib::ParamSpec) -> glib::Value {
        if self.may_touch(property) {
            self.derived_property(id, property)
        } else {
            property.default_value().clone()
        }
    }

    fn set_property(&self, id: usize, value: &glib::Value, property: &glib::ParamSpec) {
        if self.may_touch(property) {
            self.derived_set_property(id, value, property);
        }
    }

    fn signals() -> &'static [Signal] {
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

    fn constructed(&self) {
        self.parent_constructed();
        if let Some(channel) = self.channel.upgrade() {
            self.attach(Box::new(SpiceTransport::new(&channel)));
        }
    }

    fn dispose(&self) {
        // A count of one is the reference that is being dropped. As long as the
        // channel owns the port, that is the channel's.
        let given_back = self.obj().ref_count() == 1;
        if !self.home.is_here() {
            self.home.dispose_there(self.obj().clone(), given_back);
            return;
        }
        self.leave_channel(given_back);
        self.shut("the port is gone");
        self.tell_last();
        if let Some(source) = self.turn.take() {
            source.destroy();
        }
        self.timers.stop();
        self.wake();
        // GObject clears it next.
        self.weak.take();
    }
}

impl QmpPort {
    /// Whether this thread may use a property; if not, that is a critical.
    fn may_touch(&self, property: &glib::ParamSpec) -> bool {
        let here = self.home.is_here();
        if !here {
            glib::g_critical!(
                "SpiceQmp",
                "the property {:?} of a port was used on another thread than the port's",
                property.name()
            );
        }
        here
    }

    /// Starts to speak QMP over `transport`.
    pub(super) fn attach(&self, transport: Box<dyn Transport>) {
        let transport: Rc<dyn Transport> = transport.into();
        self.transport.replace(Some(transport.clone()));
        self.session
            .borrow_mut()
            .set_line_feeds(!transport.is_spice_port());
        let port = self.obj().downgrade();
        transport.start(Rc::new(move |incoming| {
            port.upgrade()
                .map_or(Flow::On, |port| port.imp().incoming(incoming))
        }));
    }

    /// Has the channel forget the port. `given_back`: whether somebody gave back
    /// the channel's reference.
    pub(super) fn leave_channel(&self, given_back: bool) {
        if let Some(channel) = self.channel.upgrade() {
            channel.disown(*PORT_QUARK, &*self.obj(), given_back);
        }
    }

    /// The transport, while the port has one. Nothing is borrowed then.
    pub(super) fn transport(&self) -> Option<Rc<dyn Transport>> {
        self.transport.borrow().clone()
    }

    /// Ends all calls and lets go of the connection, for good.
    pub(super) fn shut(&self, reason: &str) {
        if self.shut.replace(true) {
            return;
        }
        self.end(|session| session.shut_down(reason));
        if let Some(transport) = self.transport.take() {
            transport.close();
        }
    }

    /// Whether the port is closed for good.
    pub(super) fn is_shut(&self) -> bool {
        self.shut.get()
    }

    pub(super) fn execute(
        &self,
        command: &str,
        arguments: Option<&str>,
        options: CallOptions,
        callback: Callback,
    ) -> CallId {
        self.traffic
            .note(|| format!("-> {}", redacted(command, arguments)));
        self.traffic.write();
        let timeout = options.timeout.or_else(|| self.default_timeout());
        let id = self.issue(
            command,
            arguments,
            options.band,
            Owner::Caller(callback),
            timeout,
        );
        if VmAction::ALL.iter().any(|it| it.command() == command) {
            // A viewer that ends its machine may end its session in the same turn.
            self.flush();
        }
        self.schedule_turn();
        id
    }

    /// Gives the session a call that ends within `timeout`.
    pub(super) fn issue(
        &self,
        command: &str,
        arguments: Option<&str>,
        band: Band,
        owner: Owner,
        timeout: Option<Duration>,
    ) -> CallId {
        let deadline = timeout.map(|timeout| self.timers.deadline(timeout));
        let token = Token { owner, deadline };
        let id = self
            .session
            .borrow_mut()
            .execute(command, arguments, band, token);
        if let Some(deadline) = deadline {
            self.timers.add(deadline, id);
            self.arm_timer();
        }
        id
    }

    pub(super) fn default_timeout(&self) -> Option<Duration> {
        let millis = self.command_timeout.get();
        (millis > 0).then(|| Duration::from_millis(millis.into()))
    }

    pub(super) fn cancel(&self, id: CallId) -> bool {
        let mut session = self.session.borrow_mut();
        let Some(command) = session.command(id).map(Box::from) else {
            return false;
        };
        let cancelled = session.fail(id, Error::Cancelled(command));
        drop(session);
        self.schedule_turn();
        cancelled
    }

    pub(super) fn forget(&self, id: CallId) {
        let token = self.session.borrow_mut().forget(id);
        if let Some(deadline) = token.as_ref().and_then(|token| token.deadline) {
            self.timers.remove(deadline);
        }
        // Dropping it may run code of the caller's, so not within the borrow.
        drop(token);
        self.schedule_turn();
    }

    pub(super) fn listen(&self, names: Vec<String>) -> EventStream {
        self.listeners.add(names)
    }

    /// Whether waiting for the port to become ready has an end: it is ready, or
    /// it cannot be. `closures` is what [`closures`](Self::closures) was at first.
    pub(super) fn readiness(&self, closures: u64) -> Option<Result<(), Error>> {
        let session = self.session.borrow();
        let may_reopen = || self.transport().is_some_and(|it| it.reopens());
        match session.state() {
            State::Ready => Some(Ok(())),
            State::Closed if self.closures.get() == closures && may_reopen() => None,
            State::Closed | State::Failed => Some(Err(session
                .error()
                .cloned()
                .unwrap_or_else(|| Error::Closed("it was never opened".into())))),
            _ => None,
        }
    }

    /// The error of a wait that took too long: it says what is missing.
    pub(super) fn not_ready_in(&self, after: Duration) -> Error {
        let (what, hint) = match self.session.borrow().state() {
            State::Closed | State::Connecting => {
                ("the SPICE port's opening", " (has QEMU a monitor on it?)")
            }
            State::Greeting => (
                "the QMP greeting",
                " (QEMU serves one client of a monitor at a time)",
            ),
            _ => (
                "the QMP negotiation",
                " (is the virtual machine's process stopped?)",
            ),
        };
        Error::TimedOut {
            what: what.into(),
            after,
            hint,
        }
    }

    pub(super) fn closures(&self) -> u64 {
        self.closures.get()
    }

    /// Whether all that was asked for is sent and answered.
    pub(super) fn is_settled(&self) -> bool {
        !self.writing.get() && self.session.borrow().is_settled()
    }

    /// Wakes the waiting future when the state changes or the port is settled.
    pub(super) fn wait_for_change<T>(&self, cx: &mut Context<'_>) -> Poll<T> {
        let mut wakers = self.wakers.borrow_mut();
        if !wakers.iter().any(|waker| waker.will_wake(cx.waker())) {
            wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    pub(super) fn is_waited_for(&self) -> bool {
        !self.wakers.borrow().is_empty()
    }

    pub(super) fn wake(&self) {
        for waker in self.wakers.take() {
            waker.wake();
        }
    }

    fn ready(&self) -> bool {
        self.session.borrow().state() == State::Ready
    }

    fn state(&self) -> PortState {
        self.session.borrow().state().into()
    }

    pub(super) fn pending(&self) -> u32 {
        let all = u32::try_from(self.session.borrow().pending()).unwrap_or(u32::MAX);
        all.saturating_sub(self.own_calls.get())
    }

    fn max_message_size(&self) -> u64 {
        self.session.borrow().max_message_size() as u64
    }

    fn set_max_message_size(&self, size: u64) {
        self.session
            .borrow_mut()
            .set_max_message_size(usize::try_from(size).unwrap_or(usize::MAX));
    }

    fn capabilities(&self) -> glib::StrV {
        self.session
            .borrow()
            .greeting()
            .map(|greeting| {
                greeting
                    .capabilities
                    .iter()
                    .map(glib::GString::from)
                    .collect()
            })
            .unwrap_or_default()
    }

    fn version(&self) -> Option<String> {
        Some(self.qemu.borrow().as_ref()?.qemu.to_string())
    }

    fn package(&self) -> Option<String> {
        Some(self.qemu.borrow().as_ref()?.package.clone())
    }
}
