// SPDX-License-Identifier: MIT OR Apache-2.0
//! A minimal binding of spice-client-glib: only what this library needs.
//!
//! The only file that calls `spice-client-glib-sys`.
#![allow(unsafe_code)]

use std::ffi::{c_int, c_ulong};
use std::io;
use std::sync::Arc;

use gio::prelude::SocketExt;
use glib::prelude::*;
use glib::signal::{SignalHandlerId, connect_raw};
use glib::translate::{
    FromGlibPtrContainer, from_glib, from_glib_borrow, from_glib_full, from_glib_none,
};
use spice_client_glib_sys as ffi;

use super::io_kind;

glib::wrapper! {
    /// A `SpiceSession`: the connection to a SPICE server with its channels.
    pub struct Session(Object<ffi::SpiceSession, ffi::SpiceSessionClass>);

    match fn {
        type_ => || ffi::spice_session_get_type(),
    }
}

glib::wrapper! {
    /// A `SpiceChannel`: one of the connections of a session.
    pub struct Channel(Object<ffi::SpiceChannel, ffi::SpiceChannelClass>);

    match fn {
        type_ => || ffi::spice_channel_get_type(),
    }
}

glib::wrapper! {
    /// A `SpicePortChannel`: a channel that leads to a character device of the
    /// virtual machine, such as a monitor.
    pub struct PortChannel(Object<ffi::SpicePortChannel, ffi::SpicePortChannelClass>) @extends Channel;

    match fn {
        type_ => || ffi::spice_port_channel_get_type(),
    }
}

/// A change of a channel's connection (`SpiceChannelEvent`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ChannelEvent {
    /// The connection is up.
    Opened,
    /// The channel switches to another server.
    Switching,
    /// The connection ended.
    Closed,
    /// The server cannot be reached; the kind and the text say why.
    ConnectFailed(io::ErrorKind, String),
    /// The server refused the login; the text says why.
    AuthenticationFailed(String),
    /// The TLS connection failed; the text says why.
    TlsFailed(String),
    /// The connection broke; the text says how.
    Broken(String),
}

/// The connection of a channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Connection {
    None,
    Up,
    /// The server ended it, which spice-gtk has yet to notice.
    Lost,
}

/// Handles the signals of a port channel. Any thread may drop the last reference.
pub(super) trait PortHandler: Send + Sync + 'static {
    /// Bytes have arrived.
    fn data(&self, bytes: &[u8]);
    /// The server reports an event of the port.
    fn event(&self, event: c_int);
    /// The port was opened or closed.
    fn opened(&self, channel: &PortChannel);
    /// The connection of the channel has changed.
    fn channel_event(&self, event: ChannelEvent);
}

impl Session {
    /// A session without an address.
    #[must_use]
    pub fn new() -> Self {
        // SAFETY: the function takes nothing and returns a new reference.
        unsafe { from_glib_full(ffi::spice_session_new()) }
    }

    /// Sets the server: `spice://host:port` or `spice+unix:///path`.
    pub fn set_uri(&self, uri: &str) {
        self.set_property("uri", uri);
    }

    /// The password (SPICE ticket) for the server.
    pub fn set_password(&self, password: &str) {
        self.set_property("password", password);
    }

    /// The file of the certificates (PEM) that are trusted for TLS instead of the
    /// system's.
    pub fn set_ca_file(&self, path: &str) {
        self.set_property("ca-file", path);
    }

    /// The subject that the server's certificate must have for TLS, such as
    /// `C=DE,O=Example,CN=host`, instead of the server's host name.
    pub fn set_host_subject(&self, subject: &str) {
        self.set_property("cert-subject", subject);
        // spice-gtk would accept the host name, too.
        let flags = glib::FlagsClass::with_type(
            self.find_property("verify")
                .map_or(glib::Type::INVALID, |property| property.value_type()),
        );
        if let Some(verify) = flags.and_then(|flags| flags.to_value_by_nick("subject")) {
            self.set_property_from_value("verify", &verify);
        }
    }

    /// The path of the server's Unix socket, if it uses one.
    pub(crate) fn unix_path(&self) -> Option<String> {
        self.property("unix-path")
    }

    /// Whether the session has the address of a server. (It always has a host.)
    pub fn has_address(&self) -> bool {
        ["port", "tls-port", "unix-path"]
            .iter()
            .any(|name| self.property::<Option<String>>(name).is_some())
    }

    /// Starts to connect; returns false if the session's state does not allow that.
    pub fn connect(&self) -> bool {
        // SAFETY: `self` is a live SpiceSession.
        let began = unsafe { ffi::spice_session_connect(self.as_ptr()) != 0 };
        if began {
            let channels = self.channels().into_iter();
            channels
                .filter(Channel::is_main)
                .for_each(|main| main.await_outcome());
        }
        began
    }

    /// Ends all channels.
    pub fn disconnect(&self) {
        // SAFETY: `self` is a live SpiceSession.
        unsafe { ffi::spice_session_disconnect(self.as_ptr()) }
    }

    /// The current channels.
    #[must_use]
    pub fn channels(&self) -> Vec<Channel> {
        // SAFETY: the list is ours, its elements are not; the container conversion
        // frees the list and references each SpiceChannel.
        unsafe {
            FromGlibPtrContainer::from_glib_container(ffi::spice_session_get_channels(
                self.as_ptr(),
            ))
        }
    }

    /// Calls `f` for each new channel.
    pub fn connect_channel_new(&self, f: impl Fn(&Channel) + 'static) -> SignalHandlerId {
        self.connect_local("channel-new", false, move |values| {
            // The signal's signature is fixed: the session, the channel.
            if let Ok(channel) = values[1].get::<Channel>() {
                f(&channel);
            }
            None
        })
    }
}

impl Default for Session {
    fn default() -> Self {
        Self::new()
    }
}

impl Channel {
    /// Connects the channel to the session's server; returns true if that began or was done before.
    pub fn connect(&self) -> bool {
        // SAFETY: `self` is a live SpiceChannel.
        let began = unsafe { ffi::spice_channel_connect(self.as_ptr()) != 0 };
        if began {
            self.await_outcome();
        }
        began
    }

    /// Whether [`connect`](Self::connect), or the session's for its main channel, has begun and
    /// has led to neither a connection nor an error: spice-gtk does not report that.
    pub(crate) fn is_connecting(&self) -> bool {
        self.awaits_outcome() && self.property::<Option<gio::Socket>>("socket").is_none()
    }

    /// Connects a handler that disconnects itself at the first report of the channel.
    fn await_outcome(&self) {
        if self.awaits_outcome() {
            return;
        }
        // SAFETY: `outcome` has the signature of `channel-event`, and uses no data.
        unsafe {
            glib::gobject_ffi::g_signal_connect_data(
                self.as_ptr().cast(),
                c"channel-event".as_ptr(),
                Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                    outcome as *const (),
                )),
                outcome_data(),
                None,
                0,
            );
        }
    }

    fn awaits_outcome(&self) -> bool {
        // SAFETY: `self` is a live object; nothing is dereferenced.
        let handler = unsafe {
            glib::gobject_ffi::g_signal_handler_find(
                self.as_ptr().cast(),
                OUTCOME,
                0,
                0,
                std::ptr::null_mut(),
                outcome as *mut _,
                outcome_data(),
            )
        };
        handler != 0
    }

    /// Whether this is the main channel, through which a session begins.
    #[must_use]
    pub fn is_main(&self) -> bool {
        self.property::<i32>("channel-type") == MAIN_CHANNEL_TYPE
    }

    /// The session that the channel belongs to, if it still exists.
    pub(crate) fn session(&self) -> Option<Session> {
        self.property("spice-session")
    }

    /// How many bytes have been received.
    pub(crate) fn received(&self) -> c_ulong {
        self.property::<glib::ULong>("total-read-bytes").0
    }

    /// Whether this main channel has received the server's first message, which has
    /// its mouse mode.
    pub(crate) fn is_initialized(&self) -> bool {
        self.property::<i32>("mouse-mode") != 0
    }

    /// The state of the channel's connection.
    pub(crate) fn connection(&self) -> Connection {
        let Some(socket) = self.property::<Option<gio::Socket>>("socket") else {
            return Connection::None;
        };
        let condition = socket.condition_check(glib::IOCondition::IN);
        let lost = glib::IOCondition::HUP | glib::IOCondition::ERR;
        // At its end, a stream is readable but empty.
        let ended = condition.contains(glib::IOCondition::IN) && socket.available_bytes() == 0;
        if ended || condition.intersects(lost) {
            Connection::Lost
        } else {
            Connection::Up
        }
    }

    /// Ends the connection of the channel for good, which spice-gtk then notices.
    pub(crate) fn shut_down(&self) {
        if let Some(socket) = self.property::<Option<gio::Socket>>("socket") {
            // It fails where the server has ended it.
            let _ = socket.shutdown(true, true);
        }
    }

    /// Whether bytes have arrived that spice-gtk has not read yet.
    pub(crate) fn has_input(&self) -> bool {
        let socket = self.property::<Option<gio::Socket>>("socket");
        socket.is_some_and(|socket| {
            let condition = socket.condition_check(glib::IOCondition::IN);
            condition.contains(glib::IOCondition::IN)
        })
    }

    /// The channel as a port channel, if it is a plain one (WebDAV channels are not).
    #[must_use]
    pub fn port(&self) -> Option<PortChannel> {
        let plain = self.property::<i32>("channel-type") == PORT_CHANNEL_TYPE;
        self.downcast_ref().filter(|_| plain).cloned()
    }

    /// Calls `f` for each change of the connection.
    pub fn connect_channel_event<F>(&self, f: F) -> SignalHandlerId
    where
        F: Fn(&Channel, ChannelEvent) + 'static,
    {
        unsafe extern "C" fn trampoline<F: Fn(&Channel, ChannelEvent) + 'static>(
            channel: *mut ffi::SpiceChannel,
            event: ffi::SpiceChannelEvent,
            f: glib::ffi::gpointer,
        ) {
            // SAFETY: GObject calls the handler with the channel and with the
            // pointer that it was connected with, a boxed `F`.
            unsafe {
                let channel = from_glib_borrow::<_, Channel>(channel);
                if let Some(event) = channel.event(event) {
                    (*f.cast::<F>())(&channel, event);
                }
            }
        }
        // SAFETY: `trampoline` has the signature of `channel-event` and takes the box.
        unsafe {
            connect_raw(
                self.as_ptr().cast(),
                c"channel-event".as_ptr(),
                Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                    trampoline::<F> as *const (),
                )),
                Box::into_raw(Box::new(f)),
            )
        }
    }

    fn event(&self, event: ffi::SpiceChannelEvent) -> Option<ChannelEvent> {
        Some(match event {
            ffi::SPICE_CHANNEL_OPENED => ChannelEvent::Opened,
            ffi::SPICE_CHANNEL_SWITCHING => ChannelEvent::Switching,
            ffi::SPICE_CHANNEL_CLOSED => ChannelEvent::Closed,
            // The server demanded TLS, and there is no TLS port. spice-gtk sets no error then.
            ffi::SPICE_CHANNEL_ERROR_CONNECT if self.error().is_none() => {
                ChannelEvent::TlsFailed("the server wants TLS, and there is no TLS port".to_owned())
            }
            ffi::SPICE_CHANNEL_ERROR_CONNECT => {
                let kind = self.error().as_ref().map_or(io::ErrorKind::Other, io_kind);
                ChannelEvent::ConnectFailed(kind, self.error_or("the server cannot be reached"))
            }
            ffi::SPICE_CHANNEL_ERROR_AUTH if self.needs_user_name() => {
                ChannelEvent::AuthenticationFailed(NEEDS_USER_NAME.to_owned())
            }
            ffi::SPICE_CHANNEL_ERROR_AUTH => {
                ChannelEvent::AuthenticationFailed(self.error_or("authentication failed"))
            }
            ffi::SPICE_CHANNEL_ERROR_TLS => {
                ChannelEvent::TlsFailed(self.error_or("the TLS connection failed"))
            }
            ffi::SPICE_CHANNEL_ERROR_LINK => ChannelEvent::Broken(
                self.error_or("the server does not answer as a SPICE server does"),
            ),
            ffi::SPICE_CHANNEL_ERROR_IO => {
                ChannelEvent::Broken(self.error_or("the connection broke"))
            }
            _ => return None,
        })
    }

    /// Why the connection of the channel failed, if spice-gtk says.
    pub(crate) fn error(&self) -> Option<glib::Error> {
        // SAFETY: `self` is a live SpiceChannel; the error is the channel's, or
        // NULL, and is copied.
        unsafe { from_glib_none(ffi::spice_channel_get_error(self.as_ptr())) }
    }

    /// Whether the server asks for a user name to log in with.
    fn needs_user_name(&self) -> bool {
        self.error().is_some_and(|error| {
            error.domain().as_str() == "spice-client-error-quark"
                && matches!(
                    error.code(),
                    ffi::SPICE_CLIENT_ERROR_AUTH_NEEDS_USERNAME
                        | ffi::SPICE_CLIENT_ERROR_AUTH_NEEDS_PASSWORD_AND_USERNAME
                )
        })
    }

    fn error_or(&self, text: &str) -> String {
        match self.error() {
            Some(error) => format!("{text}: {}", error.message()),
            None => text.to_owned(),
        }
    }
}

/// How [`outcome`]'s handler is found.
const OUTCOME: glib::gobject_ffi::GSignalMatchType =
    glib::gobject_ffi::G_SIGNAL_MATCH_FUNC | glib::gobject_ffi::G_SIGNAL_MATCH_DATA;

/// An address that no other handler has as its data.
fn outcome_data() -> glib::ffi::gpointer {
    static DATA: u8 = 0;
    std::ptr::from_ref(&DATA).cast_mut().cast()
}

/// A handler of `channel-event` that is connected while a channel is being connected.
unsafe extern "C" fn outcome(
    channel: *mut ffi::SpiceChannel,
    _event: ffi::SpiceChannelEvent,
    data: glib::ffi::gpointer,
) {
    // SAFETY: GObject calls it with the channel; a handler may be disconnected while it runs.
    unsafe {
        glib::gobject_ffi::g_signal_handlers_disconnect_matched(
            channel.cast(),
            OUTCOME,
            0,
            0,
            std::ptr::null_mut(),
            outcome as *mut _,
            data,
        );
    }
}

impl PortChannel {
    /// The port's name, such as `org.qemu.monitor.qmp.0`, once it is connected.
    #[must_use]
    pub fn port_name(&self) -> Option<String> {
        self.property("port-name")
    }

    /// Whether the other end of the port is open.
    #[must_use]
    pub fn is_port_opened(&self) -> bool {
        self.property("port-opened")
    }

    /// Whether none of the port's data was read yet: spice-gtk has read no more than the start
    /// of a port channel.
    pub(super) fn is_fresh(&self) -> bool {
        let read = self.property::<glib::ULong>("total-read-bytes").0;
        if read <= FIRST_MESSAGES {
            return true;
        }
        let name = self.port_name().map_or(0, |name| name.len());
        let name = c_ulong::try_from(name).unwrap_or(c_ulong::MAX);
        read <= FIRST_MESSAGES.saturating_add(name)
    }

    /// Connects `handler` to the signals of the channel. All connections share it.
    pub(super) fn connect_all<H: PortHandler>(&self, handler: &Arc<H>) -> [SignalHandlerId; 4] {
        unsafe extern "C" fn data<H: PortHandler>(
            _channel: *mut ffi::SpicePortChannel,
            data: glib::ffi::gpointer,
            size: c_int,
            handler: glib::ffi::gpointer,
        ) {
            let Ok(size) = usize::try_from(size) else {
                return;
            };
            if data.is_null() {
                return;
            }
            // SAFETY: the signal's `size` bytes at `data` are spice-gtk's until
            // the emission ends; the handler is the one that was connected.
            unsafe {
                let bytes = std::slice::from_raw_parts(data.cast(), size);
                (*handler.cast::<H>()).data(bytes);
            }
        }
        unsafe extern "C" fn event<H: PortHandler>(
            _channel: *mut ffi::SpicePortChannel,
            event: c_int,
            handler: glib::ffi::gpointer,
        ) {
            // SAFETY: the handler is the one that was connected.
            unsafe { (*handler.cast::<H>()).event(event) };
        }
        unsafe extern "C" fn opened<H: PortHandler>(
            channel: *mut ffi::SpicePortChannel,
            _property: glib::ffi::gpointer,
            handler: glib::ffi::gpointer,
        ) {
            // SAFETY: GObject calls it with the channel, and the handler as above.
            unsafe {
                let channel = from_glib_borrow::<_, PortChannel>(channel);
                (*handler.cast::<H>()).opened(&channel);
            }
        }
        unsafe extern "C" fn channel_event<H: PortHandler>(
            channel: *mut ffi::SpiceChannel,
            event: ffi::SpiceChannelEvent,
            handler: glib::ffi::gpointer,
        ) {
            // SAFETY: as above.
            unsafe {
                let channel = from_glib_borrow::<_, Channel>(channel);
                if let Some(event) = channel.event(event) {
                    (*handler.cast::<H>()).channel_event(event);
                }
            }
        }
        unsafe extern "C" fn dropped<H: PortHandler>(
            handler: glib::ffi::gpointer,
            _closure: *mut glib::gobject_ffi::GClosure,
        ) {
            // SAFETY: this is the reference that was connected, and is dropped with it, once.
            drop(unsafe { Arc::from_raw(handler.cast::<H>().cast_const()) });
        }
        let signals = [
            (c"port-data", data::<H> as *const ()),
            (c"port-event", event::<H> as *const ()),
            (c"notify::port-opened", opened::<H> as *const ()),
            (c"channel-event", channel_event::<H> as *const ()),
        ];
        // SAFETY: each function has the signature of its signal's handlers, and takes the
        // handler, to which each has a reference.
        signals.map(|(signal, called)| unsafe {
            let called = std::mem::transmute::<*const (), unsafe extern "C" fn()>(called);
            from_glib(glib::gobject_ffi::g_signal_connect_data(
                self.as_ptr().cast(),
                signal.as_ptr(),
                Some(called),
                Arc::into_raw(handler.clone()).cast_mut().cast(),
                Some(dropped::<H>),
                0,
            ))
        })
    }

    /// Sends `bytes`; `done` is called once, from the main context.
    pub(super) fn write(
        &self,
        bytes: Vec<u8>,
        done: impl FnOnce(Result<(), glib::Error>) + 'static,
    ) {
        struct Write<F> {
            bytes: Vec<u8>,
            done: F,
        }
        unsafe extern "C" fn finished<F: FnOnce(Result<(), glib::Error>) + 'static>(
            channel: *mut glib::gobject_ffi::GObject,
            result: *mut gio::ffi::GAsyncResult,
            write: glib::ffi::gpointer,
        ) {
            let mut error = std::ptr::null_mut();
            // SAFETY: GIO calls this once with the channel, the result of its
            // write and the box that was passed with it.
            let (write, result) = unsafe {
                ffi::spice_port_channel_write_finish(channel.cast(), result, &raw mut error);
                let write = Box::from_raw(write.cast::<Write<F>>());
                let result = if error.is_null() {
                    Ok(())
                } else {
                    Err(from_glib_full(error))
                };
                (write, result)
            };
            (write.done)(result);
        }
        fn start<F: FnOnce(Result<(), glib::Error>) + 'static>(
            channel: &PortChannel,
            write: Box<Write<F>>,
        ) {
            let (data, len) = (write.bytes.as_ptr(), write.bytes.len());
            // SAFETY: the bytes live in the box, which lives until `finished`,
            // the point where spice-gtk no longer reads them.
            unsafe {
                ffi::spice_port_channel_write_async(
                    channel.as_ptr(),
                    data.cast_mut().cast(),
                    len,
                    std::ptr::null_mut(),
                    Some(finished::<F>),
                    Box::into_raw(write).cast(),
                );
            }
        }
        // spice-gtk answers on the context that is now the thread-default one. Usually that is
        // the right one, and pushing it costs as much as the task of the write.
        let write = Box::new(Write { bytes, done });
        let context = glib::MainContext::default();
        if context.is_owner() && glib::MainContext::ref_thread_default() == context {
            start(self, write);
        } else if context.with_thread_default(|| start(self, write)).is_err() {
            glib::g_critical!(
                "SpiceQmp",
                "another thread runs GLib's default main context: nothing was written"
            );
        }
    }
}

impl From<&PortChannel> for PortChannel {
    fn from(channel: &PortChannel) -> Self {
        channel.clone()
    }
}

impl From<&Session> for Session {
    fn from(session: &Session) -> Self {
        session.clone()
    }
}

#[cfg(feature = "spice-client-glib")]
impl From<&spice_client_glib::PortChannel> for PortChannel {
    fn from(channel: &spice_client_glib::PortChannel) -> Self {
        // Both are the same GType.
        channel
            .clone()
            .upcast::<glib::Object>()
            .downcast()
            .expect("a SpicePortChannel")
    }
}

#[cfg(feature = "spice-client-glib")]
impl From<&spice_client_glib::Session> for Session {
    fn from(session: &spice_client_glib::Session) -> Self {
        // Both are the same GType.
        session
            .clone()
            .upcast::<glib::Object>()
            .downcast()
            .expect("a SpiceSession")
    }
}

/// Why a login is refused if the server also requires a user name.
pub(crate) const NEEDS_USER_NAME: &str =
    "it needs a user name and a password that are right (SASL)";
/// How many bytes are read before a port's data: usually 222 and the port's name (the
/// link's reply has 206, `PORT_INIT` 16), with a small margin. QEMU's greeting has over
/// 100 more.
const FIRST_MESSAGES: c_ulong = 280;
/// `SPICE_CHANNEL_MAIN` of the SPICE protocol.
const MAIN_CHANNEL_TYPE: i32 = 1;
/// `SPICE_CHANNEL_PORT` of the SPICE protocol.
const PORT_CHANNEL_TYPE: i32 = 10;
