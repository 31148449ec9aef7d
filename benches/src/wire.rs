//! A SPICE port channel without a SPICE server: the benchmark plays it.
//!
//! What comes in is an emission of `port-data`, as spice-gtk's own. What goes out
//! is caught: the library and spice-gtk's helper both call
//! `spice_port_channel_write_async`, and find the function of this program first.
//! It ends the write from the main loop, as the real one does.

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

/// The channel with the far end.
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
        // SAFETY: the channel is live; the mark is no pointer to anything.
        unsafe {
            let channel: *mut gobject_ffi::GObject = channel.as_ptr().cast();
            gobject_ffi::g_object_set_qdata(channel, caught(), 1 as gpointer);
        }
        Self { channel, session }
    }

    /// Lets these bytes come.
    pub fn emit(&self, bytes: &[u8]) {
        let size = c_int::try_from(bytes.len()).expect("a chunk");
        // SAFETY: the signal's arguments are a pointer and an int.
        unsafe {
            gobject_ffi::g_signal_emit(
                self.channel.as_ptr().cast(),
                port_data(),
                0,
                bytes.as_ptr().cast::<c_void>().cast_mut(),
                size,
            );
        }
    }

    /// Lets a line come.
    pub fn line(&self, text: &str) {
        self.emit(format!("{text}\r\n").as_bytes());
    }

    /// Calls `see` with what was sent since the last time.
    pub fn take<R>(see: impl FnOnce(&[u8]) -> R) -> R {
        SENT.with_borrow_mut(|sent| {
            let seen = see(sent);
            sent.clear();
            seen
        })
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.session.disconnect();
        main_loop();
    }
}

/// Turns the default main loop until it has nothing to do.
pub fn main_loop() {
    let context = glib::MainContext::default();
    while context.iteration(false) {}
}

pub fn port_data() -> u32 {
    static ID: OnceLock<u32> = OnceLock::new();
    *ID.get_or_init(|| {
        // SAFETY: the class exists as long as the program, with the signal.
        unsafe {
            gobject_ffi::g_signal_lookup(
                c"port-data".as_ptr(),
                PortChannel::static_type().into_glib(),
            )
        }
    })
}

/// Under which a channel is marked whose writes are caught.
fn caught() -> glib::ffi::GQuark {
    static QUARK: OnceLock<glib::ffi::GQuark> = OnceLock::new();
    *QUARK.get_or_init(|| glib::Quark::from_str("spice-qmp-bench-caught").into_glib())
}

fn is_caught(channel: *mut spice::SpicePortChannel) -> bool {
    // SAFETY: `channel` is a live object.
    unsafe { !gobject_ffi::g_object_get_qdata(channel.cast(), caught()).is_null() }
}

type WriteAsync = unsafe extern "C" fn(
    *mut spice::SpicePortChannel,
    *const c_void,
    usize,
    *mut gio::ffi::GCancellable,
    gio::ffi::GAsyncReadyCallback,
    gpointer,
);
type WriteFinish = unsafe extern "C" fn(
    *mut spice::SpicePortChannel,
    *mut gio::ffi::GAsyncResult,
    *mut *mut glib::ffi::GError,
) -> isize;

/// The function of this name in spice-gtk.
fn real(name: &std::ffi::CStr) -> *mut c_void {
    // SAFETY: the name is a C string.
    let found = unsafe { libc::dlsym(libc::RTLD_NEXT, name.as_ptr()) };
    assert!(!found.is_null(), "spice-gtk has no {name:?}");
    found
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
    static REAL: OnceLock<WriteAsync> = OnceLock::new();
    if is_caught(channel) {
        // SAFETY: the caller's promise: `count` bytes at `data`; the rest is GTask's way.
        unsafe {
            let bytes = std::slice::from_raw_parts(data.cast::<u8>(), count);
            SENT.with_borrow_mut(|sent| sent.extend_from_slice(bytes));
            let task = gio::ffi::g_task_new(channel.cast(), cancellable, callback, user_data);
            gio::ffi::g_task_return_int(task, count.cast_signed());
            gobject_ffi::g_object_unref(task.cast());
        }
        return;
    }
    let real = REAL.get_or_init(|| {
        // SAFETY: spice-gtk's function has this type.
        unsafe {
            std::mem::transmute::<*mut c_void, WriteAsync>(real(c"spice_port_channel_write_async"))
        }
    });
    // SAFETY: the caller's promise.
    unsafe { real(channel, data, count, cancellable, callback, user_data) }
}

/// # Safety
///
/// As for spice-gtk's.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn spice_port_channel_write_finish(
    channel: *mut spice::SpicePortChannel,
    result: *mut gio::ffi::GAsyncResult,
    error: *mut *mut glib::ffi::GError,
) -> isize {
    static REAL: OnceLock<WriteFinish> = OnceLock::new();
    if is_caught(channel) {
        // SAFETY: the result is the task made above.
        return unsafe { gio::ffi::g_task_propagate_int(result.cast(), error) };
    }
    let real = REAL.get_or_init(|| {
        // SAFETY: spice-gtk's function has this type.
        unsafe {
            std::mem::transmute::<*mut c_void, WriteFinish>(real(
                c"spice_port_channel_write_finish",
            ))
        }
    });
    // SAFETY: the caller's promise.
    unsafe { real(channel, result, error) }
}
