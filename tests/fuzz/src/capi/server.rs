// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program's server, and the requests of its client, which has sent everything before.

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_void};
use std::ptr::{null, null_mut};

use gio::prelude::*;
use glib::ffi::{GError, GFALSE, GTRUE, gboolean, gpointer};
use glib::gobject_ffi::{GObject, g_object_ref, g_object_unref};
use glib::object::ObjectType;
use glib::translate::{Borrowed, ToGlibPtr, from_glib_borrow, from_glib_full};
use spice_qmp::{RequestObject, ServerObject, json_to_variant};
use spice_qmp_1::request::{
    SpiceQmpRequest, spice_qmp_request_get_arguments, spice_qmp_request_get_arguments_variant,
    spice_qmp_request_get_command, spice_qmp_request_get_id, spice_qmp_request_is_out_of_band,
    spice_qmp_request_refuse, spice_qmp_request_reply, spice_qmp_request_reply_variant,
};
use spice_qmp_1::server::{
    SpiceQmpServer, spice_qmp_server_close, spice_qmp_server_dup_close_reason,
    spice_qmp_server_emit_event, spice_qmp_server_flush_and_close, spice_qmp_server_get_negotiated,
    spice_qmp_server_new,
};

use super::calls::string;
use super::{World, current};
use crate::operations::{pick, two_strings};

/// The state of the program's server.
pub(super) struct Served {
    /// The program's reference, until it drops it.
    server: Cell<*mut SpiceQmpServer>,
    weak: RefCell<Vec<glib::WeakRef<ServerObject>>>,
    /// Requests that the program keeps, and the number of all.
    kept: RefCell<Vec<*mut SpiceQmpRequest>>,
    requests: RefCell<Vec<glib::WeakRef<RequestObject>>>,
}

impl Default for Served {
    fn default() -> Self {
        Self {
            server: Cell::new(null_mut()),
            weak: RefCell::default(),
            kept: RefCell::default(),
            requests: RefCell::default(),
        }
    }
}

impl Served {
    /// Nothing is left in the end.
    pub(super) fn check(&self) {
        let is_gone = |weak: &glib::WeakRef<ServerObject>| weak.upgrade().is_none();
        assert!(
            self.weak.borrow().iter().all(is_gone),
            "something holds a server"
        );
        let is_gone = |weak: &glib::WeakRef<RequestObject>| weak.upgrade().is_none();
        assert!(
            self.requests.borrow().iter().all(is_gone),
            "something holds a request"
        );
    }
}

const NEGOTIATION: &[u8] = br#"{"execute":"qmp_capabilities"}"#;

impl World {
    /// Creates the server, unless there is one. The client sends what follows; after an `n`,
    /// it negotiates before.
    pub(super) fn make_server(&self, with: &[u8]) {
        if !self.served.server.get().is_null() {
            return;
        }
        let input = gio::MemoryInputStream::new();
        let bytes = with.strip_prefix(b"n").inspect(|_| {
            input.add_bytes(&glib::Bytes::from_static(NEGOTIATION));
        });
        input.add_bytes(&glib::Bytes::from(bytes.unwrap_or(with)));
        let output = gio::MemoryOutputStream::new_resizable();
        let stream: gio::IOStream = gio::SimpleIOStream::new(&input, &output).upcast();
        // SAFETY: it is a stream; the handlers have the signature of the signal, and the
        // server is one.
        unsafe {
            let server = spice_qmp_server_new(stream.to_glib_none().0, null(), null());
            for signal in [c"command", c"command::stop"] {
                let handler = on_command as *const ();
                glib::gobject_ffi::g_signal_connect_data(
                    server.cast(),
                    signal.as_ptr(),
                    Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                        handler,
                    )),
                    null_mut(),
                    None,
                    0,
                );
            }
            let object: Borrowed<ServerObject> =
                from_glib_borrow(server.cast::<<ServerObject as ObjectType>::GlibType>());
            self.served.weak.borrow_mut().push(object.downgrade());
            self.served.server.set(server);
        }
    }

    /// Handles one of the requests that were kept: answers it with a value (`r`, `v`) or
    /// an error (`x`), which fails if it was answered before; or drops it.
    pub(super) fn answer(&self, with: &[u8]) {
        let (how, with) = with.split_at(with.len().min(2));
        let request = {
            let mut kept = self.served.kept.borrow_mut();
            if kept.is_empty() {
                return;
            }
            let at = pick(how, kept.len());
            kept.swap_remove(at)
        };
        let text = string(with);
        // SAFETY: the program had a reference to the request, which ends here; the strings
        // and the value live for the calls.
        unsafe {
            match how.get(1) {
                Some(b'r') => {
                    let done = fails_or_not(|error| {
                        spice_qmp_request_reply(request, text.as_ptr(), error)
                    });
                    let again =
                        fails_or_not(|error| spice_qmp_request_reply(request, null(), error));
                    assert_ne!(done, again, "it is answered once");
                }
                Some(b'v') => {
                    let value = json_to_variant(&String::from_utf8_lossy(with)).ok();
                    fails_or_not(|error| {
                        spice_qmp_request_reply_variant(request, value.to_glib_none().0, error)
                    });
                }
                Some(b'x') => {
                    spice_qmp_request_refuse(request, text.as_ptr(), text.as_ptr());
                    let again = spice_qmp_request_refuse(request, null(), text.as_ptr());
                    assert_eq!(again, GFALSE, "it is answered once");
                }
                _ => {}
            }
            g_object_unref(request.cast::<GObject>());
        }
    }

    /// Sends an event.
    pub(super) fn emit(&self, with: &[u8]) {
        let server = self.served.server.get();
        if server.is_null() {
            return;
        }
        let (name, data) = two_strings(with);
        let name = string(name.as_bytes());
        let data = data.map(|data| string(data.as_bytes()));
        let data = data.as_ref().map_or(null(), |data| data.as_ptr());
        // SAFETY: the program has a reference to the server; the strings live for the call.
        unsafe {
            fails_or_not(|error| spice_qmp_server_emit_event(server, name.as_ptr(), data, error));
        }
    }

    /// Closes the server, at once or after flushing, or drops it; reads its properties before.
    pub(super) fn end_service(&self, with: &[u8]) {
        let server = self.served.server.get();
        if server.is_null() {
            return;
        }
        // SAFETY: the program has a reference to the server; the reason is the caller's.
        unsafe {
            spice_qmp_server_get_negotiated(server);
            let reason = spice_qmp_server_dup_close_reason(server);
            glib::ffi::g_free(reason.cast::<c_void>());
            match pick(with, 3) {
                0 => spice_qmp_server_flush_and_close(server),
                1 => spice_qmp_server_close(server),
                _ => self.give_server_up(),
            }
        }
    }

    fn give_server_up(&self) {
        let server = self.served.server.replace(null_mut());
        if !server.is_null() {
            // SAFETY: it was the program's reference, and there is no other place of it.
            unsafe { g_object_unref(server.cast::<GObject>()) };
        }
    }

    /// Drops the server, and the requests.
    pub(super) fn give_service_up(&self) {
        self.give_server_up();
        for request in self.served.kept.take() {
            // SAFETY: as of the server.
            unsafe { g_object_unref(request.cast::<GObject>()) };
        }
    }

    /// The client sends a command: by its first letter, the request is kept (`k`),
    /// answered (`a`), ignored while the main loop runs (`i`), or the server ends (`e`, `z`).
    fn commanded(&self, server: *mut SpiceQmpServer, request: *mut SpiceQmpRequest) -> gboolean {
        // SAFETY: both live for as long as the handler runs; the variant is the caller's.
        unsafe {
            let object: Borrowed<RequestObject> =
                from_glib_borrow(request.cast::<<RequestObject as ObjectType>::GlibType>());
            self.served.requests.borrow_mut().push(object.downgrade());
            let command = spice_qmp_request_get_command(request);
            assert!(!command.is_null());
            spice_qmp_request_get_id(request);
            spice_qmp_request_is_out_of_band(request);
            let arguments = spice_qmp_request_get_arguments_variant(request);
            if !arguments.is_null() {
                assert!(!spice_qmp_request_get_arguments(request).is_null());
                glib::ffi::g_variant_unref(arguments);
            }
            match letter(command) {
                b'k' => {
                    g_object_ref(request.cast::<GObject>());
                    self.served.kept.borrow_mut().push(request);
                    return GTRUE;
                }
                b'a' => return spice_qmp_request_reply(request, null(), null_mut()),
                b'i' => self.iterate(),
                b'e' => spice_qmp_server_close(server),
                b'z' => self.give_server_up(),
                _ => {}
            }
        }
        GFALSE
    }
}

unsafe extern "C" fn on_command(
    server: *mut SpiceQmpServer,
    request: *mut SpiceQmpRequest,
    _: gpointer,
) -> gboolean {
    current().commanded(server, request)
}

/// # Safety
///
/// `text` is NUL-terminated.
unsafe fn letter(text: *const c_char) -> u8 {
    // SAFETY: as the caller promises.
    unsafe { *text }.cast_unsigned()
}

/// Whether a function has succeeded: it returns that, or sets an error.
fn fails_or_not(call: impl FnOnce(*mut *mut GError) -> gboolean) -> bool {
    let mut error = null_mut();
    let worked = call(&raw mut error) != GFALSE;
    assert_eq!(worked, error.is_null());
    if !error.is_null() {
        // SAFETY: it is an error, which is the caller's.
        let error: glib::Error = unsafe { from_glib_full(error) };
        assert!(!error.message().is_empty());
    }
    worked
}

#[cfg(test)]
mod tests {
    use super::super::tests::with_world;
    use super::*;

    #[test]
    fn requests_are_answered_once() {
        with_world(0, |world| {
            world.take(
                b'Q',
                br#"n{"execute":"keep","id":1}{"execute":"always"}{"exec-oob":"x"}{"execute":"keep"}{"execute":"stop"}]"#,
            );
            world.take(b'i', b"");
            assert_eq!(world.served.kept.borrow().len(), 2);
            assert!(world.served.requests.borrow().len() > 4);
            world.take(b'Y', b"STOP\0{}");
            world.take(b'Y', b"STOP\0[]");
            world.take(b'y', b"0r[1]");
            assert_eq!(world.served.kept.borrow().len(), 1);
            world.take(b'y', b"0r[");
            world.take(b'P', b"1");
            world.take(b'P', b"2");
            assert!(world.served.server.get().is_null());
        });
    }

    #[test]
    fn handlers_end_the_server() {
        for command in ["end", "zap", "idle"] {
            with_world(0, |world| {
                let bytes = format!("n{{\"execute\":\"keep\"}}{{\"execute\":\"{command}\"}}");
                world.take(b'Q', bytes.as_bytes());
                world.take(b'i', b"");
                assert_eq!(world.served.server.get().is_null(), command == "zap");
                world.take(b'y', b"0x7");
            });
        }
    }

    #[test]
    #[should_panic(expected = "something holds a request")]
    fn a_request_that_is_kept_is_found() {
        with_world(0, |world| {
            world.take(b'Q', br#"n{"execute":"keep"}"#);
            world.take(b'i', b"");
            let kept = world.served.kept.borrow()[0];
            // SAFETY: the program has a reference to it.
            unsafe { g_object_ref(kept.cast::<GObject>()) };
        });
    }
}
