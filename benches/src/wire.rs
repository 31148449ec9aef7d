// SPDX-License-Identifier: MIT OR Apache-2.0
//! A SPICE port channel without a SPICE server: the benchmark plays it.
//!
//! Input is an emission of `port-data`, like spice-gtk's own. Output is
//! intercepted: the library and spice-gtk's helper both call `spice_port_channel_write_async`,
//! and find the function of this program first, which ends the write from the main loop
//! as the real one does.

use std::cell::RefCell;
use std::ffi::{c_int, c_void};
use std::sync::OnceLock;

use glib::ffi::gpointer;
use glib::gobject_ffi;
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_client_glib_sys as spice;
use spice_qmp::{PortChannel, Session};

use crate::common::spice::lone_channel;

/// The channel, with its far end.
pub struct Wire {
    pub channel: PortChannel,
    session: Session,
}

thread_local! {
    static SENT: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

impl Wire {
    pub fn new() -> Self {
        let session = Session::new();
        let channel = lone_channel(&session);
        SENT.take();
        Self { channel, session }
    }

    /// Feeds it these bytes.
    pub fn emit(&self, bytes: &[u8]) {
        static ID: OnceLock<u32> = OnceLock::new();
        let size = c_int::try_from(bytes.len()).expect("a chunk");
        // SAFETY: the class exists, as the channel does; its signal's arguments are a
        // pointer and an int.
        unsafe {
            let id = *ID.get_or_init(|| {
                let class = PortChannel::static_type().into_glib();
                gobject_ffi::g_signal_lookup(c"port-data".as_ptr(), class)
            });
            let data = bytes.as_ptr().cast::<c_void>().cast_mut();
            gobject_ffi::g_signal_emit(self.channel.as_ptr().cast(), id, 0, data, size);
        }
    }

    /// The bytes sent since the last call.
    pub fn sent() -> Vec<u8> {
        SENT.take()
    }

    /// Calls `handle`, from C, with the input. It is never freed: the program is short.
    pub fn on_data<F: Fn(&[u8]) + 'static>(&self, handle: F) {
        unsafe extern "C" fn data<F: Fn(&[u8])>(
            _channel: gpointer,
            data: *const c_void,
            size: c_int,
            handle: gpointer,
        ) {
            // SAFETY: the signal's `size` bytes, and the handler that was connected.
            unsafe {
                let size = usize::try_from(size).unwrap_or_default();
                let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size);
                (*handle.cast::<F>())(bytes);
            }
        }
        let handle = Box::into_raw(Box::new(handle)).cast();
        connect_c(
            self.channel.upcast_ref(),
            c"port-data",
            data::<F> as *const (),
            handle,
        );
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.session.disconnect();
        main_loop();
    }
}

/// Connects a C function with the signature of the signal.
pub fn connect_c(
    object: &glib::Object,
    signal: &std::ffi::CStr,
    handler: *const (),
    data: gpointer,
) {
    // SAFETY: the caller's function takes the signal's arguments, and its data.
    let id = unsafe {
        let handler = std::mem::transmute::<*const (), unsafe extern "C" fn()>(handler);
        let (object, signal) = (object.as_ptr(), signal.as_ptr());
        gobject_ffi::g_signal_connect_data(object, signal, Some(handler), data, None, 0)
    };
    assert_ne!(id, 0, "no signal {signal:?}");
}

/// Runs the default main loop until it has nothing to do.
pub fn main_loop() {
    let context = glib::MainContext::default();
    while context.iteration(false) {}
}

/// # Safety
///
/// As for spice-gtk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_port_channel_write_async(
    channel: *mut spice::SpicePortChannel,
    data: *const c_void,
    count: usize,
    cancellable: *mut gio::ffi::GCancellable,
    callback: gio::ffi::GAsyncReadyCallback,
    user_data: gpointer,
) {
    // SAFETY: the caller's promise: `count` bytes at `data`; the rest is GTask's way.
    unsafe {
        let bytes = std::slice::from_raw_parts(data.cast::<u8>(), count);
        SENT.with_borrow_mut(|sent| sent.extend_from_slice(bytes));
        let task = gio::ffi::g_task_new(channel.cast(), cancellable, callback, user_data);
        gio::ffi::g_task_return_int(task, count.cast_signed());
        gobject_ffi::g_object_unref(task.cast());
    }
}

/// # Safety
///
/// As for spice-gtk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_port_channel_write_finish(
    _channel: *mut spice::SpicePortChannel,
    result: *mut gio::ffi::GAsyncResult,
    error: *mut *mut glib::ffi::GError,
) -> isize {
    // SAFETY: the result is the task made above.
    unsafe { gio::ffi::g_task_propagate_int(result.cast(), error) }
}
