// SPDX-License-Identifier: MIT OR Apache-2.0
//! Guards the boundary between C and Rust: criticals for wrong arguments, and no panics.
#![allow(
    non_snake_case,
    reason = "the checks have the names by which C knows them"
)]

use std::any::Any;
use std::ffi::{CStr, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use glib::prelude::*;
use glib::translate::IntoGlib;

use crate::instance::{SpiceQmpPort, borrow};

/// The log domain.
const DOMAIN: &CStr = c"SpiceQmp";

/// Like GLib's: logs a critical and returns from the function if the check fails.
macro_rules! g_return_val_if_fail {
    ($function:ident: $check:expr, $value:expr) => {
        let passed: bool = $check;
        if !passed {
            $crate::guard::critical(stringify!($function), stringify!($check));
            return $value;
        }
    };
}

/// Like GLib's: logs a critical and returns from the function if the check fails.
macro_rules! g_return_if_fail {
    ($function:ident: $check:expr) => {
        $crate::guard::g_return_val_if_fail!($function: $check, ())
    };
}

pub(crate) use {g_return_if_fail, g_return_val_if_fail};

/// Logs what `g_return_if_fail` logs.
pub(crate) fn critical(function: &str, check: &str) {
    let (function, check) = (glib::GString::from(function), glib::GString::from(check));
    // SAFETY: all three are NUL-terminated for the time of the call.
    unsafe {
        glib::ffi::g_return_if_fail_warning(DOMAIN.as_ptr(), function.as_ptr(), check.as_ptr());
    }
}

/// Runs `body`. A panic in it becomes a critical, and `failed` is returned.
pub(crate) fn no_panic<R>(function: &str, failed: R, body: impl FnOnce() -> R) -> R {
    // Nothing that a panic could leave inconsistent is used again: the library keeps
    // its state behind RefCells, which it does not borrow across code that can panic.
    match catch_unwind(AssertUnwindSafe(body)) {
        Ok(result) => result,
        Err(panic) => {
            glib::g_critical!(
                "SpiceQmp",
                "{function}: a bug in spice-qmp, please report it: {}",
                panic_text(&*panic)
            );
            failed
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("a panic")
}

/// Checks an instance; false for NULL.
pub(crate) fn is_a(instance: glib::ffi::gpointer, type_: glib::Type) -> bool {
    // SAFETY: `instance` is NULL or an instance of some GType, which is all that
    // C's own cast macros rely on.
    unsafe {
        glib::gobject_ffi::g_type_check_instance_is_a(instance.cast(), type_.into_glib())
            != glib::ffi::GFALSE
    }
}

pub(crate) fn SPICE_IS_QMP_PORT(port: *mut SpiceQmpPort) -> bool {
    is_a(port.cast(), spice_qmp::QmpPort::static_type())
}

#[cfg(feature = "spice")]
pub(crate) fn SPICE_IS_PORT_CHANNEL(channel: *mut spice_client_glib_sys::SpicePortChannel) -> bool {
    is_a(channel.cast(), spice_qmp::PortChannel::static_type())
}

#[cfg(feature = "spice")]
pub(crate) fn SPICE_IS_SESSION(session: *mut spice_client_glib_sys::SpiceSession) -> bool {
    is_a(session.cast(), spice_qmp::Session::static_type())
}

pub(crate) fn G_IS_IO_STREAM(stream: *mut gio::ffi::GIOStream) -> bool {
    is_a(stream.cast(), gio::IOStream::static_type())
}

pub(crate) fn G_IS_DBUS_CONNECTION(connection: *mut gio::ffi::GDBusConnection) -> bool {
    is_a(connection.cast(), gio::DBusConnection::static_type())
}

pub(crate) fn G_IS_UNIX_FD_LIST(fds: *mut gio::ffi::GUnixFDList) -> bool {
    is_a(fds.cast(), gio::UnixFDList::static_type())
}

pub(crate) fn G_IS_CANCELLABLE(cancellable: *mut gio::ffi::GCancellable) -> bool {
    is_a(cancellable.cast(), gio::Cancellable::static_type())
}

/// Whether this thread created the port, which was found to be one.
pub(crate) fn IS_THREAD_OF(port: *mut SpiceQmpPort) -> bool {
    // SAFETY: it is a live SpiceQmpPort; any thread may ask.
    unsafe { borrow(port) }.is_on_its_thread()
}

/// Whether this thread runs, or could run, the main context that its calls would use.
pub(crate) fn IS_THREAD_OF_MAIN_CONTEXT() -> bool {
    is_run_here(&glib::MainContext::ref_thread_default())
}

/// Whether this thread runs, or could run, GLib's default main context: spice-gtk uses no other.
#[cfg(feature = "spice")]
pub(crate) fn IS_THREAD_OF_SPICE() -> bool {
    is_run_here(&glib::MainContext::default())
}

fn is_run_here(context: &glib::MainContext) -> bool {
    context.is_owner() || context.acquire().is_ok()
}

/// Whether it is a string of valid UTF-8.
pub(crate) fn g_utf8_validate(text: *const c_char) -> bool {
    // SAFETY: `text` is NULL or NUL-terminated.
    !text.is_null() && unsafe { CStr::from_ptr(text) }.to_str().is_ok()
}

/// Whether it is a NULL-terminated array of strings of valid UTF-8.
pub(crate) fn are_strings(mut strings: *const *const c_char) -> bool {
    if strings.is_null() {
        return false;
    }
    // SAFETY: the array is NULL-terminated.
    while let string = unsafe { *strings }
        && !string.is_null()
    {
        if !g_utf8_validate(string) {
            return false;
        }
        // SAFETY: the one before was not the last.
        strings = unsafe { strings.add(1) };
    }
    true
}

#[cfg(test)]
mod tests {
    use super::no_panic;

    #[test]
    fn a_panic_becomes_a_result() {
        let formatted = no_panic("spice_qmp_test", -1, || panic!("number {}", 7));
        assert_eq!(formatted, -1);
        let plain = no_panic("spice_qmp_test", -1, || panic!("plain"));
        assert_eq!(plain, -1);
        assert_eq!(no_panic("spice_qmp_test", -1, || 3), 3);
    }
}
