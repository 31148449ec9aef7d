// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a port can do: the methods of `QmpPort`, but for those that connect one, and those for SPICE
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
use crate::qmp::{Band, CallId, Error, PeerError, State, is_qmp_port_name};
use crate::transport::{self, Fds, Transport};

impl QmpPort {
    /// A port on an open stream, such as a `GSocketConnection`, of which
    /// nothing has been read: the server's greeting is still to come.
    pub fn for_stream(stream: &impl IsA<gio::IOStream>) -> Self {
        Self::for_transport(transport::on_stream(stream))
    }

    /// A port on any transport.
    pub fn for_transport(transport: Box<dyn Transport>) -> Self {
        let port: Self = glib::Object::new();
        port.imp().attach(transport);
        port
    }

    /// Whether the calling thread is the one that made the port, and runs its main
    /// context or could: no other may use it, but for references. For bindings to
    /// languages that do not see to that.
    pub fn is_on_its_thread(&self) -> bool {
        self.imp().home().is_here()
    }

    /// The main context on which all of the port happens: the thread's default one
    /// when the port was made, and GLib's default one for SPICE ports.
    pub fn main_context(&self) -> glib::MainContext {
        self.imp().home().context().clone()
    }

    /// Whether QEMU neither reads nor answers on this SPICE port until the machine runs
    /// again: the machine was stopped by an error, a shutdown or a migration, and another
    /// monitor has to resume it. Calls wait for that, or for their deadline. It changes
    /// with the property `status`.
    pub fn is_mute(&self) -> bool {
        self.imp().connection.run_state.is_mute()
    }

    /// Whether it is on a SPICE port, which QEMU may [mute](Self::is_mute).
    pub fn is_spice_port(&self) -> bool {
        self.imp().connection.is_spice_port()
    }

    /// Ends the port for good, with the reason that it could not be connected again.
    pub(crate) fn give_up(&self, error: Error) {
        self.imp().give_up(error);
    }

    /// Whether its peer turned out to speak something else than QMP.
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

    /// Whether a SPICE port of this name speaks QMP; see [`is_qmp_port_name`].
    pub fn is_qmp_name(name: &str) -> bool {
        is_qmp_port_name(name)
    }

    /// Waits until commands may be given, for at most [`CONNECT_TIMEOUT`].
    ///
    /// # Errors
    ///
    /// Why the port cannot become ready: [`Error::Closed`] where it closes,
    /// [`Error::Peer`] where the peer does not speak QMP, [`Error::TimedOut`].
    pub fn wait_ready(&self) -> impl Future<Output = Result<(), Error>> + use<> {
        self.wait_ready_within(CONNECT_TIMEOUT)
    }

    /// [`wait_ready`](Self::wait_ready) with a deadline of one's own.
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

    /// [`wait_ready_within`](Self::wait_ready_within) that ends when the first run state
    /// is known, too: the property `status`, or `last-error` says why it is not.
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

    /// Any command. `arguments` is what serializes to a JSON object, or `()`.
    /// The reply is decoded as `R`: a type of one's own,
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

    /// A command that QEMU executes at once, past those that wait. Only where
    /// the server offers `oob` (sockets, not SPICE ports) and for commands that
    /// QEMU's schema marks `allow-oob`.
    pub fn execute_oob<R: DeserializeOwned>(
        &self,
        command: &str,
        arguments: impl Serialize,
    ) -> Call<R> {
        Call::new(self, command, &arguments, Band::Out, call::decode)
    }

    /// A command of a typed schema, such as `qapi_qmp::query_block {}`.
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
    /// Success means that QEMU took the order: a guest may ignore a power-down.
    /// [`VmAction::Quit`] also succeeds where QEMU closes before it answers.
    pub fn vm_action(&self, action: VmAction) -> Call<()> {
        Call::new(self, action.command(), &(), Band::In, |_, _| Ok(()))
    }

    /// Any command with a callback, for bindings to other languages.
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

    /// [`execute_with`](Self::execute_with) for a command that gets file descriptors, as
    /// [`Call::fds`] does. They are closed after they were sent, or when the call ends.
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

    /// Cancels a call: its callback gets [`Error::Cancelled`]. A command that
    /// was not sent yet will not be sent; the answer to one that was is dropped.
    /// False if the call has ended.
    pub fn cancel(&self, call: CallId) -> bool {
        self.imp().cancel(call)
    }

    /// All events from now on. See [`EventStream`].
    pub fn events(&self) -> EventStream {
        self.imp().listen(Vec::new())
    }

    /// The events of these names from now on. See [`EventStream`].
    pub fn events_named<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> EventStream {
        let names = names.into_iter().map(str::to_owned).collect();
        self.imp().listen(names)
    }

    /// Calls `f` for each event, or for those of one name.
    pub fn connect_qmp_event(
        &self,
        name: Option<&str>,
        f: impl Fn(&Self, &Event) + 'static,
    ) -> glib::SignalHandlerId {
        let detail = name.map(|name| {
            // No event has a name with a NUL, which cannot be part of a detail.
            glib::Quark::from_str(name.replace('\0', "\u{fffd}"))
        });
        emission::connect_qmp_event(self, *signals::QMP_EVENT_ID, detail, f)
    }

    /// Closes the port for good: what was asked for is sent and answered, for which
    /// QEMU has the time of the property `close-timeout`; then what is left fails and the
    /// connection is let go. A SPICE channel itself is left as it is. It ends after
    /// every other call and wait of the port, and nothing of the connection is left then.
    /// Dropping the future before leaves the port open.
    ///
    /// Close the port before the SPICE session is disconnected, and before the process
    /// exits: QEMU (7.2 and 10.0) may crash, or freeze for ever with all its monitors,
    /// when a SPICE client leaves while an answer is due. Where the program has a command
    /// under way that takes longer than 10 s, raise `close-timeout`.
    pub async fn close(&self) {
        // The only error is that somebody cancelled it.
        let _ = Waiting::new(self, |callback| self.imp().close(callback)).await;
    }

    /// [`close`](Self::close) with a callback, for bindings to other languages.
    pub fn close_with(&self, callback: impl FnOnce(Result<(), Error>) + 'static) -> WaitId {
        self.imp().close(Box::new(callback))
    }

    /// Cancels a wait or a close: its callback gets [`Error::Cancelled`]. A port that was
    /// to be closed stays open. False if it has ended, or the port is closed.
    pub fn cancel_wait(&self, wait: WaitId, name: &str) -> bool {
        self.imp().cancel_wait(wait, name)
    }

    /// How many events were not delivered because handlers of events run main loops
    /// within each other, more than 32 deep.
    pub fn dropped_events(&self) -> u64 {
        self.imp().connection.dropped()
    }
}
