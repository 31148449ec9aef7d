// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GObject of a port: properties, vfuncs, and its main context.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use glib::gstr;
use glib::prelude::*;
use glib::subclass::Signal;
use glib::subclass::prelude::*;

use super::connection::{Callback, Change, Connection, OwnedEvent, Owner, Urgency};
use super::event::Event;
use super::event_stream::{EventStream, EventStreams};
use super::requests::{CallOptions, Request};
use super::signals::{self, Listeners};
use super::state::PortState;
use super::status::Status;
use super::vm_action::VmAction;
use super::waits::{WaitCallback, WaitFor, WaitId};
use crate::alarm::Alarm;
use crate::home::Home;
use crate::qmp::{CallId, Error, State, UsageError};
#[cfg(feature = "spice")]
use crate::transport::spice::PortChannel;
use crate::transport::{Closed, Fds, Flow, Incoming, Transport};

#[derive(glib::Properties)]
#[properties(wrapper_type = super::QmpPort)]
pub struct QmpPort {
    /// The SPICE channel that the port is attached to, if it exists.
    #[cfg(feature = "spice")]
    #[property(get, set, construct_only)]
    pub(super) channel: glib::WeakRef<PortChannel>,
    /// Whether commands may be executed.
    #[property(name = "ready", type = bool, get = Self::ready)]
    /// The state of the connection.
    #[property(name = "state", type = PortState, get = Self::state, builder(PortState::Closed))]
    /// Whether QEMU answers: false if one of the program's commands has been unanswered
    /// for 3 seconds without a byte from QEMU, or if a peer has been connected for that long
    /// without sending a greeting; true with the next byte, and while nothing is due.
    #[property(name = "responsive", type = bool, default = true, get = Self::responsive)]
    /// How many of the program's calls have not ended.
    #[property(name = "pending", type = u32, get = Self::pending)]
    /// The longest message that is accepted, in bytes. A longer one is skipped
    /// and fails the calls in flight.
    #[property(name = "max-message-size", type = u64, minimum = 1, default = 64 << 20,
               get = Self::max_message_size, set = Self::set_max_message_size)]
    /// The capabilities that the server offered in its greeting, such as `oob`.
    #[property(name = "capabilities", type = glib::StrV, get = Self::capabilities)]
    /// QEMU's version, such as `10.0.2`, while it is known.
    #[property(name = "version", type = Option<String>, get = Self::version)]
    /// The distributor's package of QEMU, while it is known.
    #[property(name = "package", type = Option<String>, get = Self::package)]
    /// The run state of the virtual machine, kept up to date while the port is ready.
    #[property(name = "status", type = Option<Status>, get = Self::status)]
    /// Why the port is not ready, or the last thing that went wrong on it.
    #[property(name = "last-error", type = Option<glib::Error>, get = Self::last_error)]
    /// The pause in milliseconds before the port first tries to reconnect when its connection
    /// has ended; 0 if it does not. A connector sets it.
    #[property(name = "reconnect", type = u32, get = Self::reconnect)]
    pub(super) connection: Rc<Connection<Self>>,
    /// The deadline of each call in milliseconds; 0, the default, means none.
    #[property(get, set)]
    command_timeout: Cell<u32>,
    /// How long closing waits for the answers that QEMU owes, in milliseconds: 10,000 on
    /// SPICE ports, where disconnecting earlier may freeze QEMU, and 1,000 elsewhere.
    #[property(name = "close-timeout", type = u32, default = 1000,
               get = Self::close_timeout, set = |port: &Self, millis| port.close_timeout.set(Some(millis)))]
    close_timeout: Cell<Option<u32>>,

    /// Set in the construction.
    pub(super) home: OnceCell<Home>,
    /// What runs the next dispatch, and how soon.
    dispatcher: RefCell<Option<Rc<Alarm>>>,
    scheduled: Cell<Option<Urgency>>,
    timer: RefCell<Option<Alarm>>,
    armed: Cell<Option<i64>>,
    streams: EventStreams,
    listeners: Listeners,
}

/// The ids of requests start within this range, at random, so that late replies to
/// another session on the same monitor match none of them.
const FIRST_ID: std::ops::Range<i32> = (1 << 24)..i32::MAX;

impl Default for QmpPort {
    fn default() -> Self {
        let first_id = glib::random_int_range(FIRST_ID.start, FIRST_ID.end);
        Self {
            #[cfg(feature = "spice")]
            channel: glib::WeakRef::new(),
            connection: Rc::new(Connection::new(first_id.unsigned_abs().into())),
            command_timeout: Cell::default(),
            close_timeout: Cell::default(),
            home: OnceCell::new(),
            dispatcher: RefCell::default(),
            scheduled: Cell::default(),
            timer: RefCell::default(),
            armed: Cell::default(),
            streams: EventStreams::default(),
            listeners: Listeners::default(),
        }
    }
}

#[glib::object_subclass]
impl ObjectSubclass for QmpPort {
    const NAME: &'static str = signals::TYPE_NAME;
    type Type = super::QmpPort;

    fn class_init(_: &mut Self::Class) {
        signals::prepare(Self::type_());
    }
}

impl ObjectImpl for QmpPort {
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
        signals::signals()
    }

    fn constructed(&self) {
        self.parent_constructed();
        #[cfg(feature = "spice")]
        self.attach_channel();
        self.home.get_or_init(Home::here);
    }

    fn dispose(&self) {
        // A count of one is the reference that is being dropped. While the
        // channel owns the port, it is the channel's.
        let given_back = self.obj().ref_count() == 1;
        let home = self.home();
        if home.is_my_thread() {
            self.dispose_here(given_back);
            return;
        }
        // The port is moved to its own thread to be disposed of. Taking a reference there is
        // not enough: this thread may be slow, and then hold the last one after all.
        // If this thread finalizes it, it has been disposed of by then, and nothing in it belongs
        // to a thread any more. If its context is never run again, the port leaks.
        let port = self.obj().clone();
        home.idle(glib::Priority::DEFAULT, move || {
            port.imp().dispose_here(given_back);
        });
    }
}

impl QmpPort {
    pub(super) fn home(&self) -> &Home {
        self.home.get_or_init(Home::here)
    }

    /// Whether this thread may use a property; if not, logs a critical.
    fn may_use(&self, property: &glib::ParamSpec) -> bool {
        // Construction sets the channel first of all.
        let home = self.home.get();
        home.is_none_or(|home| home.may_use("a port", property.name()))
    }

    /// Speaks QMP over `transport`.
    pub(super) fn attach(&self, transport: Box<dyn Transport>) {
        let transport: Rc<dyn Transport> = transport.into();
        self.connection.attach(transport.clone());
        let port = self.obj().downgrade();
        let connection = self.connection.clone();
        transport.start(Rc::new(move |incoming| {
            if let Incoming::Data(bytes) = incoming
                && connection.goes_on(bytes, glib::monotonic_time())
            {
                return Flow::On;
            }
            port.upgrade().map_or(Flow::On, |port| {
                let port = port.imp();
                port.listeners.reset();
                port.connection.incoming(port, incoming)
            })
        }));
        self.connection.started(self);
    }

    #[cfg_attr(not(feature = "spice"), allow(unused_variables))]
    fn dispose_here(&self, given_back: bool) {
        #[cfg(feature = "spice")]
        self.leave_channel(given_back);
        self.connection.release(self, "the port is gone");
        let (callbacks, events) = self.connection.take_last();
        for event in events {
            self.streams.push(&event);
        }
        self.streams.end();
        if !callbacks.is_empty() {
            self.home().idle(glib::Priority::DEFAULT, move || {
                for callback in callbacks {
                    callback();
                }
            });
        }
        self.drop_alarms();
    }

    /// Why the port cannot be used on this thread; logs a critical, too.
    fn misuse(&self) -> Option<Error> {
        if self.home().is_broken() && !self.connection.is_released() {
            // Pending deliveries there are lost.
            self.drop_alarms();
            self.connection.release(self, FOREIGN_THREAD);
        }
        if self.home().is_here() {
            return None;
        }
        glib::g_critical!("SpiceQmp", "a port was used while {FOREIGN_THREAD}");
        Some(UsageError::InvalidArgument(FOREIGN_THREAD.into()).into())
    }

    pub(super) fn execute(
        &self,
        command: &str,
        arguments: Option<&str>,
        options: CallOptions,
        fds: Option<Fds>,
        callback: Callback,
    ) -> CallId {
        let misuse = self.misuse();
        let request = Request {
            command,
            arguments,
            band: options.band,
            timeout: options.timeout.or_else(|| self.default_timeout()),
            fds,
            at_once: VmAction::ALL.iter().any(|it| it.command() == command),
        };
        if let Some(error) = misuse {
            Home::here().idle(glib::Priority::DEFAULT, move || callback(Err(error)));
            return self.connection.session.borrow_mut().unused_id();
        }
        self.connection.execute(self, request, callback)
    }

    fn default_timeout(&self) -> Option<Duration> {
        let millis = self.command_timeout.get();
        (millis > 0).then(|| Duration::from_millis(millis.into()))
    }

    pub(super) fn cancel(&self, id: CallId) -> bool {
        self.connection.cancel(self, id)
    }

    pub(super) fn forget(&self, id: CallId) {
        self.connection.forget(self, id);
    }

    pub(super) fn wait(&self, what: WaitFor, timeout: Duration, callback: WaitCallback) -> WaitId {
        let _ = self.misuse();
        self.connection.wait(self, what, timeout, callback)
    }

    pub(super) fn close(&self, callback: WaitCallback) -> WaitId {
        let _ = self.misuse();
        let timeout = Duration::from_millis(self.close_timeout().into());
        self.connection.close(self, timeout, callback)
    }

    pub(super) fn cancel_wait(&self, id: WaitId, name: &str) -> bool {
        self.connection.cancel_wait(self, id, name)
    }

    pub(super) fn forget_wait(&self, id: WaitId) {
        self.connection.forget_wait(self, id);
    }

    pub(super) fn listen(&self, names: Vec<String>) -> EventStream {
        self.streams.add(names)
    }

    fn ready(&self) -> bool {
        self.connection.state() == State::Ready
    }

    fn state(&self) -> PortState {
        self.connection.state().into()
    }

    fn responsive(&self) -> bool {
        self.connection.is_responsive()
    }

    fn pending(&self) -> u32 {
        self.connection.pending()
    }

    fn close_timeout(&self) -> u32 {
        self.close_timeout.get().unwrap_or_else(|| {
            let timeout = self.connection.default_close_timeout().as_millis();
            u32::try_from(timeout).unwrap_or(u32::MAX)
        })
    }

    fn max_message_size(&self) -> u64 {
        self.connection.session.borrow().max_message_size() as u64
    }

    fn set_max_message_size(&self, size: u64) {
        self.connection
            .session
            .borrow_mut()
            .set_max_message_size(usize::try_from(size).unwrap_or(usize::MAX));
    }

    fn capabilities(&self) -> glib::StrV {
        let session = self.connection.session.borrow();
        let capabilities = session.greeting().map(|greeting| {
            let names = greeting.capabilities.iter();
            names.map(glib::GString::from).collect()
        });
        capabilities.unwrap_or_default()
    }

    fn version(&self) -> Option<String> {
        Some(self.connection.version()?.qemu.to_string())
    }

    fn package(&self) -> Option<String> {
        Some(self.connection.version()?.package)
    }

    fn status(&self) -> Option<Status> {
        self.connection.status().map(|info| Status::from(&info))
    }

    fn reconnect(&self) -> u32 {
        let transport = self.connection.transport();
        transport.map_or(0, |transport| transport.reconnect())
    }

    /// Ends the port for good; `error` says why it could not be reconnected.
    pub(super) fn give_up(&self, error: Error) {
        self.connection.release_for(self, error);
    }

    fn last_error(&self) -> Option<glib::Error> {
        self.connection.last_error().map(glib::Error::from)
    }
}

impl Owner for QmpPort {
    type Event = Event;

    fn wants(&self, name: &str) -> bool {
        self.listeners
            .want(self.obj().upcast_ref(), name, || self.streams.want(name))
    }

    fn hears_pending(&self) -> bool {
        signals::hears_pending(self.obj().upcast_ref())
    }

    fn event(&self, event: Event) {
        if self.streams.push(&event) {
            self.listeners.program_ran();
        }
        self.listeners.emit(self.obj().upcast_ref(), &event);
        event.delivered();
    }

    fn changed(&self, changes: &[Change]) {
        let port = self.obj();
        let notify = |name| signals::notify(port.upcast_ref(), name);
        for change in changes {
            match change {
                Change::State => notify(gstr!("state")),
                Change::Ready => notify(gstr!("ready")),
                Change::Version => {
                    notify(gstr!("version"));
                    notify(gstr!("package"));
                }
                Change::Capabilities => {
                    self.listeners.forget_warning();
                    notify(gstr!("capabilities"));
                }
                Change::Status => notify(gstr!("status")),
                Change::Responsive => notify(gstr!("responsive")),
                Change::Pending => port.notify_pending(),
                Change::LastError => notify(gstr!("last-error")),
                Change::Dropped => glib::g_warning!(
                    "SpiceQmp",
                    "event handlers run nested main loops too deeply: events are dropped"
                ),
            }
        }
        self.listeners.program_ran();
    }

    fn call(&self, callback: impl FnOnce()) {
        callback();
        self.listeners.program_ran();
    }

    fn ended(&self) {
        self.streams.end();
    }

    fn schedule(&self, urgency: Urgency) {
        if self.scheduled.get() >= Some(urgency) {
            return;
        }
        self.scheduled.set(Some(urgency));
        let mut dispatcher = self.dispatcher.borrow_mut();
        let new = || {
            Rc::new(self.alarm(|port| {
                // Clearing an alarm may come too late for it.
                if port.scheduled.take().is_some() {
                    port.connection.dispatch(port);
                }
            }))
        };
        let dispatcher = dispatcher.get_or_insert_with(new);
        match urgency {
            Urgency::Soon => dispatcher.set_next(),
            Urgency::Idle => dispatcher.set(0, glib::Priority::DEFAULT_IDLE),
        }
    }

    fn dispatch_now(&self) {
        if self.scheduled.get() != Some(Urgency::Soon) {
            return;
        }
        self.scheduled.set(None);
        let dispatcher = self.dispatcher.borrow().clone();
        if let Some(dispatcher) = dispatcher {
            dispatcher.instead(|| self.connection.dispatch(self));
        }
    }

    fn unschedule(&self) {
        if self.scheduled.take().is_some()
            && let Some(dispatcher) = &*self.dispatcher.borrow()
        {
            dispatcher.clear();
        }
    }

    fn arm(&self, at: Option<i64>) {
        let mut timer = self.timer.borrow_mut();
        let Some(at) = at else {
            if self.armed.take().is_some()
                && let Some(timer) = &*timer
            {
                timer.clear();
            }
            return;
        };
        // One that fires early is set again then.
        if self.armed.get().is_some_and(|armed| armed <= at) {
            return;
        }
        self.armed.set(Some(at));
        let new = || {
            self.alarm(|port| {
                if port.armed.take().is_some() {
                    port.connection.expire(port);
                }
            })
        };
        let timer = timer.get_or_insert_with(new);
        timer.set(at, glib::Priority::DEFAULT);
    }

    fn rest(&self) {
        if self.armed.get().is_none() {
            self.timer.take();
        }
        if self.scheduled.get().is_none() {
            self.dispatcher.take();
        }
    }

    fn transport_gone(&self) -> Closed {
        let port = self.obj().downgrade();
        Box::new(move || {
            if let Some(port) = port.upgrade() {
                port.imp().connection.transport_gone(port.imp());
            }
        })
    }

    fn now(&self) -> i64 {
        glib::monotonic_time()
    }
}

impl QmpPort {
    /// An alarm that runs `work` on this port.
    fn alarm(&self, work: fn(&Self)) -> Alarm {
        let port = glib::SendWeakRef::from(self.obj().downgrade());
        Alarm::new(self.home(), move || {
            if let Some(port) = port.upgrade() {
                port.imp().listeners.reset();
                work(port.imp());
            }
        })
    }

    fn drop_alarms(&self) {
        self.scheduled.take();
        self.armed.take();
        self.dispatcher.take();
        self.timer.take();
    }
}

impl OwnedEvent for Event {
    fn name(&self) -> &str {
        Self::name(self)
    }

    fn data(&self) -> Option<&str> {
        Self::data(self)
    }
}

const FOREIGN_THREAD: &str = "another thread runs the main context of the port";
