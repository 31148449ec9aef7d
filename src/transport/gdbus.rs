// SPDX-License-Identifier: MIT OR Apache-2.0
//! GDBus's asynchronous calls, connects, closes and signals, bound to a thread like those of
//! [`gio_async`](super::gio_async). None of them starts a service.
#![allow(unsafe_code)]

use std::cell::RefCell;
use std::ffi::c_char;
use std::future::poll_fn;
use std::ptr::null_mut;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glib::ffi::{GError, gpointer};
use glib::gobject_ffi::GObject;
use glib::prelude::ToVariant;
use glib::translate::{IntoGlib, ToGlibPtr, from_glib_full};

use crate::home::{Bound, Home};

/// A method, and the destination that executes it.
pub(super) struct Method<'a> {
    /// A name on the bus; `None` for the other end of a peer-to-peer connection.
    pub(super) destination: Option<&'a str>,
    pub(super) path: &'a str,
    pub(super) interface: &'a str,
    pub(super) name: &'a str,
    /// The type of its reply: if it has another one, the call fails.
    pub(super) reply: &'a glib::VariantTy,
}

/// Calls a method and waits for its reply. Dropping the future cancels the call.
pub(super) async fn call(
    home: &Home,
    connection: &gio::DBusConnection,
    method: &Method<'_>,
    arguments: Option<&glib::Variant>,
    fds: Option<&gio::UnixFDList>,
    timeout: Duration,
) -> Result<glib::Variant, glib::Error> {
    unsafe extern "C" fn finished(
        connection: *mut GObject,
        result: *mut gio::ffi::GAsyncResult,
        slot: gpointer,
    ) {
        let mut error = null_mut();
        // SAFETY: GIO calls this once with the connection, the result of its call and the
        // box that was passed with it. The reply is owned by the caller; it is NULL if
        // there is an error. Descriptors that came with it are closed.
        unsafe {
            let reply = gio::ffi::g_dbus_connection_call_with_unix_fd_list_finish(
                connection.cast(),
                null_mut(),
                result,
                &raw mut error,
            );
            let result = checked(error, || from_glib_full(reply));
            Slot::<glib::Variant>::fill(slot, result);
        }
    }
    let millis = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX);
    wait(home, |cancellable, slot| {
        // SAFETY: all objects and strings are live, and the slot lives until `finished`.
        unsafe {
            gio::ffi::g_dbus_connection_call_with_unix_fd_list(
                connection.to_glib_none().0,
                method.destination.to_glib_none().0,
                method.path.to_glib_none().0,
                method.interface.to_glib_none().0,
                method.name.to_glib_none().0,
                arguments.to_glib_none().0,
                method.reply.to_glib_none().0,
                gio::ffi::G_DBUS_CALL_FLAGS_NO_AUTO_START,
                millis,
                fds.to_glib_none().0,
                cancellable.to_glib_none().0,
                Some(finished),
                slot,
            );
        }
    })
    .await
}

/// Connects to a message bus. Dropping the future cancels it.
pub(crate) async fn connect(
    home: &Home,
    address: &str,
) -> Result<gio::DBusConnection, glib::Error> {
    unsafe extern "C" fn finished(
        _: *mut GObject,
        result: *mut gio::ffi::GAsyncResult,
        slot: gpointer,
    ) {
        let mut error = null_mut();
        // SAFETY: GIO calls this once with the result of its connecting and the box that
        // was passed with it. The connection is owned by the caller; it is NULL if there
        // is an error.
        unsafe {
            let connection =
                gio::ffi::g_dbus_connection_new_for_address_finish(result, &raw mut error);
            let result = checked(error, || from_glib_full(connection));
            Slot::<gio::DBusConnection>::fill(slot, result);
        }
    }
    let flags = gio::DBusConnectionFlags::AUTHENTICATION_CLIENT
        | gio::DBusConnectionFlags::MESSAGE_BUS_CONNECTION;
    wait(home, |cancellable, slot| {
        // SAFETY: all objects and strings are live, and the slot lives until `finished`.
        unsafe {
            gio::ffi::g_dbus_connection_new_for_address(
                address.to_glib_none().0,
                flags.into_glib(),
                null_mut(),
                cancellable.to_glib_none().0,
                Some(finished),
                slot,
            );
        }
    })
    .await
}

/// Closes a connection. Returns false if that cannot start; then `done` is not called. It
/// does not matter whether the connection was closed before.
pub(super) fn close<F: FnOnce() + 'static>(
    home: &Home,
    connection: &gio::DBusConnection,
    done: F,
) -> bool {
    unsafe extern "C" fn finished<F: FnOnce() + 'static>(
        connection: *mut GObject,
        result: *mut gio::ffi::GAsyncResult,
        done: gpointer,
    ) {
        // SAFETY: GIO calls this once with the connection, the result of its close and the
        // box that was passed with it.
        let done = unsafe {
            gio::ffi::g_dbus_connection_close_finish(connection.cast(), result, null_mut());
            Box::from_raw(done.cast::<Bound<F>>())
        };
        if let Some(done) = done.take() {
            done();
        }
    }
    let done = Box::new(home.bind(done));
    home.enter(|| {
        // SAFETY: the connection is live, and the box lives until `finished`.
        unsafe {
            gio::ffi::g_dbus_connection_close(
                connection.to_glib_none().0,
                null_mut(),
                Some(finished::<F>),
                Box::into_raw(done).cast(),
            );
        }
    })
    .is_some()
}

/// Which signals to subscribe to: those that match all of these.
pub(super) struct Signals<'a> {
    /// Their sender: a name on the bus.
    pub(super) sender: Option<&'a str>,
    pub(super) interface: &'a str,
    pub(super) member: &'a str,
    /// Their first argument.
    pub(super) first: Option<&'a str>,
}

impl Signals<'_> {
    /// The match rule for the bus: all values are names, which contain no quotes.
    fn rule(&self) -> Option<String> {
        let (sender, interface, member) = (self.sender?, self.interface, self.member);
        let first = self.first.map(|first| format!(",arg0='{first}'"));
        let first = first.unwrap_or_default();
        Some(format!(
            "type='signal',sender='{sender}',interface='{interface}',member='{member}'{first}"
        ))
    }
}

/// A subscription to signals, until dropped.
#[derive(Debug)]
pub(super) struct Subscription {
    connection: gio::DBusConnection,
    id: u32,
    rule: Option<String>,
}

/// Calls `heard` for each of these signals, whatever they contain. Other senders than the
/// given one can send them, too.
///
/// Subscribes at the bus by itself: GDBus would log criticals if the connection is just
/// being closed.
pub(super) fn subscribe<F: Fn() + 'static>(
    home: &Home,
    connection: &gio::DBusConnection,
    signals: &Signals<'_>,
    heard: F,
) -> Option<Subscription> {
    unsafe extern "C" fn signal<F: Fn() + 'static>(
        _connection: *mut gio::ffi::GDBusConnection,
        _sender: *const c_char,
        _path: *const c_char,
        _interface: *const c_char,
        _member: *const c_char,
        _arguments: *mut glib::ffi::GVariant,
        heard: gpointer,
    ) {
        // SAFETY: GIO passes the box below, which is not freed while this runs.
        let heard = unsafe { &*heard.cast::<Bound<F>>() };
        if let Some(heard) = heard.get() {
            heard();
        }
    }
    unsafe extern "C" fn free<F>(heard: gpointer) {
        // SAFETY: GIO calls this once, when it no longer uses the box.
        drop(unsafe { Box::from_raw(heard.cast::<Bound<F>>()) });
    }
    let rule = signals.rule();
    if let Some(rule) = &rule {
        tell_bus(connection, "AddMatch", rule);
    }
    let heard = Box::new(home.bind(heard));
    let id = home.enter(|| {
        // SAFETY: the connection and the strings are live, and `free` frees the box.
        unsafe {
            gio::ffi::g_dbus_connection_signal_subscribe(
                connection.to_glib_none().0,
                std::ptr::null(),
                signals.interface.to_glib_none().0,
                signals.member.to_glib_none().0,
                std::ptr::null(),
                signals.first.to_glib_none().0,
                gio::ffi::G_DBUS_SIGNAL_FLAGS_NO_MATCH_RULE,
                Some(signal::<F>),
                Box::into_raw(heard).cast(),
                Some(free::<F>),
            )
        }
    })?;
    Some(Subscription {
        connection: connection.clone(),
        id,
        rule,
    })
}

impl Drop for Subscription {
    fn drop(&mut self) {
        // SAFETY: the id is this connection's, and is released once.
        unsafe {
            gio::ffi::g_dbus_connection_signal_unsubscribe(
                self.connection.to_glib_none().0,
                self.id,
            );
        }
        if let Some(rule) = &self.rule {
            tell_bus(&self.connection, "RemoveMatch", rule);
        }
    }
}

/// Calls a method of the bus and ignores its reply.
fn tell_bus(connection: &gio::DBusConnection, method: &str, argument: &str) {
    let bus = "org.freedesktop.DBus";
    let arguments = (argument,).to_variant();
    // SAFETY: the connection and the strings are live, and nothing is called back.
    unsafe {
        gio::ffi::g_dbus_connection_call(
            connection.to_glib_none().0,
            bus.to_glib_none().0,
            "/org/freedesktop/DBus".to_glib_none().0,
            bus.to_glib_none().0,
            method.to_glib_none().0,
            arguments.to_glib_none().0,
            std::ptr::null(),
            gio::ffi::G_DBUS_CALL_FLAGS_NO_AUTO_START,
            -1,
            null_mut(),
            None,
            null_mut(),
        );
    }
}

/// The name of the error that the other end replied with, if it did.
pub(super) fn remote_name(error: &glib::Error) -> Option<String> {
    // SAFETY: the error is live; the name is the caller's, or NULL.
    let name: Option<glib::GString> = unsafe {
        from_glib_full(gio::ffi::g_dbus_error_get_remote_error(
            error.to_glib_none().0,
        ))
    };
    name.map(String::from)
}

/// Whether a call was not answered in time. A peer may reply with an error that looks the same.
pub(crate) fn is_timeout(error: &glib::Error) -> bool {
    error.matches(gio::IOErrorEnum::TimedOut) && remote_name(error).is_none()
}

/// The text of an error without the prefix that GDBus adds.
pub(crate) fn message(error: &glib::Error) -> &str {
    let text = error.message();
    let Some(name) = remote_name(error) else {
        return text;
    };
    let text_alone = text.strip_prefix("GDBus.Error:");
    let text_alone = text_alone.and_then(|text| text.strip_prefix(&*name)?.strip_prefix(": "));
    text_alone.unwrap_or(text)
}

/// Where an operation stores its result for the future that waits for it.
struct Slot<T> {
    result: Option<Result<T, glib::Error>>,
    waker: Option<Waker>,
}

type SharedSlot<T> = Rc<RefCell<Slot<T>>>;

impl<T: 'static> Slot<T> {
    /// # Safety
    ///
    /// `slot` is what `start` was passed in [`wait`], and was not used before.
    unsafe fn fill(slot: gpointer, result: Result<T, glib::Error>) {
        // SAFETY: as the caller promises.
        let slot = unsafe { Box::from_raw(slot.cast::<Bound<SharedSlot<T>>>()) };
        let Some(slot) = slot.take() else {
            return;
        };
        let waker = {
            let mut slot = slot.borrow_mut();
            slot.result = Some(result);
            slot.waker.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

/// Starts an operation, which ends by filling the slot that it is passed, and waits for
/// it. Dropping the future cancels it.
async fn wait<T: 'static>(
    home: &Home,
    start: impl FnOnce(&gio::Cancellable, gpointer),
) -> Result<T, glib::Error> {
    struct Cancels(gio::Cancellable);
    impl Drop for Cancels {
        fn drop(&mut self) {
            gio::prelude::CancellableExt::cancel(&self.0);
        }
    }
    let slot = SharedSlot::<T>::new(RefCell::new(Slot {
        result: None,
        waker: None,
    }));
    let running = Cancels(gio::Cancellable::new());
    let bound = Box::new(home.bind(slot.clone()));
    let started = home.enter(|| start(&running.0, Box::into_raw(bound).cast()));
    if started.is_none() {
        return Err(glib::Error::new(
            gio::IOErrorEnum::Failed,
            "another thread runs the main context",
        ));
    }
    poll_fn(|cx| {
        let mut slot = slot.borrow_mut();
        if let Some(result) = slot.result.take() {
            return Poll::Ready(result);
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    })
    .await
}

/// # Safety
///
/// `error` is NULL, or an error that the caller owns.
unsafe fn checked<T>(error: *mut GError, value: impl FnOnce() -> T) -> Result<T, glib::Error> {
    if error.is_null() {
        Ok(value())
    } else {
        // SAFETY: as the caller promises.
        Err(unsafe { from_glib_full(error) })
    }
}
