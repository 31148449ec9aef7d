// SPDX-License-Identifier: MIT OR Apache-2.0
//! The methods of `QmpPort`, except those that connect one, and those for SPICE
//! channels (`spice.rs`).

use std::time::Duration;

use gio::prelude::*;
use glib::subclass::prelude::*;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::CONNECT_TIMEOUT;
use super::QmpPort;
use super::call::{self, Call};
use super::emission;
use super::event::Event;
use super::event_stream::EventStream;
use super::requests::CallOptions;
use super::signals;
use super::status::{self, Status};
use super::vm_action::VmAction;
use super::waiting::Waiting;
use super::waits::{WaitFor, WaitId};
use crate::qmp::{Band, CallId, Error, PeerError, State, for_c, is_qmp_port_name};
use crate::transport::{self, Fds, Transport};

impl QmpPort {
    /// A port on an open stream, such as a `GSocketConnection`, from which
    /// nothing has been read yet: the server's greeting is still to come.
    pub fn for_stream(stream: &impl IsA<gio::IOStream>) -> Self {
        Self::for_transport(transport::on_stream(stream))
    }

    /// A port on any transport.
    pub fn for_transport(transport: Box<dyn Transport>) -> Self {
        let port: Self = glib::Object::new();
        port.imp().attach(transport);
        port
    }

    /// Whether the calling thread is the one that created the port, and runs its main
    /// context or could run it: other threads may only reference and unreference the port. For
    /// bindings to languages that do not ensure that themselves.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }

    /// The main context that the port runs on: the thread-default one at the time
    /// the port was created, and GLib's default one for SPICE ports.
    pub fn main_context(&self) -> glib::MainContext {
        self.imp().home().context().clone()
    }

    /// Whether QEMU neither reads nor answers on this SPICE port until the machine runs
    /// again: the machine was stopped by an error, a shutdown or a migration, and must be
    /// resumed through another monitor. Calls wait for that, or for their deadline. It changes
    /// with the property `status`.
    pub fn is_mute(&self) -> bool {
        self.imp().connection.run_state.is_mute()
    }

    /// Whether the port is on a SPICE port, which QEMU may [mute](Self::is_mute).
    pub fn is_spice_port(&self) -> bool {
        self.imp().connection.is_spice_port()
    }

    /// Whether the program has [closed](Self::close) the port, or is closing it. A
    /// connection that ends meanwhile is not lost.
    pub fn is_closing(&self) -> bool {
        self.imp().connection.is_closing()
    }

    /// Ends the port for good; `error` says why it could not be reconnected.
    pub(crate) fn give_up(&self, error: Error) {
        self.imp().give_up(error);
    }

    /// Whether its peer turned out not to speak QMP.
    pub(crate) fn is_not_qmp(&self) -> bool {
        let session = self.imp().connection.session.borrow();
        session.state() == State::Failed
            && matches!(
                session.error(),
                Some(Error::Peer(
                    PeerError::NotQmp { .. } | PeerError::NoGreeting(_)
                ))
            )
    }

    /// Whether a SPICE port with this name speaks QMP; see [`is_qmp_port_name`].
    pub fn is_qmp_name(name: &str) -> bool {
        is_qmp_port_name(name)
    }

    /// Waits until commands may be executed, for at most [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// Why the port cannot become ready: [`Error::Closed`] if it closes,
    /// [`Error::Peer`] if the peer does not speak QMP, [`Error::TimedOut`].
    pub fn wait_ready(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.wait_ready_within(CONNECT_TIMEOUT)
    }

    /// [`wait_ready`](Self::wait_ready) with a given timeout.
    ///
    /// # Errors
    ///
    /// As for [`wait_ready`](Self::wait_ready).
    pub fn wait_ready_within(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        // It begins now: a close before the first poll counts, too.
        Waiting::new(self, |callback| {
            self.imp().wait(WaitFor::Ready, timeout, callback)
        })
    }

    /// [`wait_ready_within`](Self::wait_ready_within) that also waits for the first run state:
    /// then the property `status` is set, or `last-error` says why it is not.
    pub fn wait_status(
        &self,
        timeout: Duration,
    ) -> impl Future<Output = Result<(), Error>> + use<> {
        Waiting::new(self, |callback| {
            self.imp().wait(WaitFor::Status, timeout, callback)
        })
    }

    /// [`wait_ready_within`](Self::wait_ready_within) with a callback, for bindings to
    /// other languages. It is called once, from the main context.
    pub fn wait_ready_with(
        &self,
        timeout: Duration,
        callback: impl FnOnce(Result<(), Error>) + 'static,
    ) -> WaitId {
        self.imp().wait(WaitFor::Ready, timeout, Box::new(callback))
    }

    /// Executes a QMP command. `arguments` serializes to a JSON object, or is `()`.
    /// The reply is deserialized as `R`: your own type,
    /// [`serde_json::Value`], or `Box<`[`RawValue`](serde_json::value::RawValue)`>`.
    ///
    /// ```no_run
    /// # async fn f(port: spice_qmp::QmpPort) -> Result<(), spice_qmp::Error> {
    /// use serde_json::{Value, json};
    /// let name: Value = port.execute("query-name", ()).await?;
    /// port.execute::<Value>("device_del", json!({"id": "disk1"})).await?;
    /// # Ok(()) }
    /// ```
    pub fn execute<R: DeserializeOwned>(
        &self,
        command: &str,
        arguments: impl Serialize,
    ) -> Call<R> {
        Call::new(self, command, &arguments, Band::In, call::decode)
    }

    /// Executes a QMP command out of band: QEMU executes it at once, ahead of those that
    /// wait. Only if the server offers `oob` (sockets, not SPICE ports) and for commands that
    /// QEMU's schema marks `allow-oob`.
    pub fn execute_oob<R: DeserializeOwned>(
        &self,
        command: &str,
        arguments: impl Serialize,
    ) -> Call<R> {
        Call::new(self, command, &arguments, Band::Out, call::decode)
    }

    /// Executes a command of a typed schema, such as `qapi_qmp::query_block {}`.
    #[cfg(feature = "qapi")]
    pub fn run<C: qapi_spec::Command>(&self, command: &C) -> Call<C::Ok> {
        Call::new(self, C::NAME, command, Band::In, call::decode)
    }

    /// Whether the virtual machine runs, and if not, why. See also the property `status`.
    pub fn query_status(&self) -> Call<Status> {
        Call::new(self, "query-status", &(), Band::In, status::decode)
    }

    /// Pauses, resumes, resets, powers down or ends the virtual machine.
    ///
    /// Success means that QEMU accepted the command: a guest may ignore a power-down.
    /// [`VmAction::Quit`] also succeeds if QEMU closes the connection before it answers.
    pub fn vm_action(&self, action: VmAction) -> Call<()> {
        Call::new(self, action.command(), &(), Band::In, |_, _| Ok(()))
    }

    /// Executes a QMP command with a callback, for bindings to other languages.
    ///
    /// `arguments` is the text of a JSON object, and the reply is JSON text. The
    /// callback is called once, from the main context, never from within this
    /// function.
    pub fn execute_with(
        &self,
        command: &str,
        arguments: Option<&str>,
        options: CallOptions,
        callback: impl FnOnce(Result<String, Error>) + 'static,
    ) -> CallId {
        self.imp()
            .execute(command, arguments, options, None, Box::new(callback))
    }

    /// [`execute_with`](Self::execute_with) for a command that carries file descriptors, like
    /// [`Call::fds`]. They are closed once they have been sent, or when the call ends.
    pub fn execute_with_fds(
        &self,
        command: &str,
        arguments: Option<&str>,
        options: CallOptions,
        fds: Option<Fds>,
        callback: impl FnOnce(Result<String, Error>) + 'static,
    ) -> CallId {
        self.imp()
            .execute(command, arguments, options, fds, Box::new(callback))
    }

    /// Cancels a call: its callback receives [`Error::Cancelled`]. A command that
    /// was not sent yet will not be sent; the reply to one that was sent is dropped.
    /// Returns false if the call has ended.
    pub fn cancel(&self, call: CallId) -> bool {
        self.imp().cancel(call)
    }

    /// All events from now on. See [`EventStream`].
    pub fn events(&self) -> EventStream {
        self.imp().listen(Vec::new())
    }

    /// The events with these names from now on. See [`EventStream`].
    pub fn events_named<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> EventStream {
        let names = names.into_iter().map(str::to_owned).collect();
        self.imp().listen(names)
    }

    /// Calls `f` for each event, or for those with one name.
    pub fn connect_qmp_event(
        &self,
        name: Option<&str>,
        f: impl Fn(&Self, &Event) + 'static,
    ) -> glib::SignalHandlerId {
        let detail = name.map(|name| {
            // No event has a name with a NUL, which a signal detail cannot contain.
            glib::Quark::from_str(for_c(name).into_owned())
        });
        emission::connect_qmp_event(self, *signals::QMP_EVENT_ID, detail, f)
    }

    /// Closes the port for good. Commands that were issued are still sent and answered, for
    /// which QEMU has the time of the property `close-timeout`; then the remaining calls fail and
    /// the connection is released. A SPICE channel itself is left open. The close ends after
    /// every other call and wait of the port, and then nothing of the connection is left.
    /// Dropping the future before that leaves the port open.
    ///
    /// Close the port before the SPICE session is disconnected, and before the process
    /// exits: QEMU (7.2 and 10.0) may crash, or freeze for ever with all its monitors,
    /// when a SPICE client disconnects while an answer is due. If the program has a command
    /// under way that takes longer than 10 s, raise `close-timeout`.
    pub async fn close(&self) {
        // It can only fail by being cancelled.
        let _ = Waiting::new(self, |callback| self.imp().close(callback)).await;
    }

    /// [`close`](Self::close) with a callback, for bindings to other languages.
    pub fn close_with(&self, callback: impl FnOnce(Result<(), Error>) + 'static) -> WaitId {
        self.imp().close(Box::new(callback))
    }

    /// Cancels a wait or a close: its callback receives [`Error::Cancelled`]. A port that was
    /// being closed stays open. Returns false if it has ended, or the port is closed.
    pub fn cancel_wait(&self, wait: WaitId, name: &str) -> bool {
        self.imp().cancel_wait(wait, name)
    }

    /// How many events were not delivered because event handlers run nested main loops
    /// more than 32 deep.
    pub fn dropped_events(&self) -> u64 {
        self.imp().connection.dropped()
    }
}
