// SPDX-License-Identifier: MIT OR Apache-2.0
//! Emits the port's two signals, and connects to them, without copying their arguments.
//!
//! The arguments are lent to the handlers during the emission. A program in C uses
//! them directly. Other languages copy the arguments of their handlers, as long as the signals
//! do not have `G_SIGNAL_TYPE_STATIC_SCOPE`: with that, GJS would keep a pointer to a boxed
//! argument that no longer exists.
#![allow(unsafe_code)]

use std::ffi::c_uint;

use glib::ffi::{GType, gpointer};
use glib::gobject_ffi::{self, GCallback, GClosure, GObject};
use glib::prelude::*;
use glib::subclass::SignalId;
use glib::thread_guard::ThreadGuard;
use glib::translate::{
    Borrowed, FromGlibPtrBorrow, GlibPtrDefault, IntoGlib, ToGlibPtr, from_glib,
};

use super::QmpPort;
use super::event::Event;

// A function of GObject; its bindings lack it, because its type has a `va_list`.
unsafe extern "C" {
    fn g_signal_set_va_marshaller(signal: c_uint, instance_type: GType, marshaller: GCallback);
    fn g_cclosure_marshal_VOID__POINTERv();
}

/// Calls the C handlers of a signal with one boxed argument with the pointer that is
/// emitted. GObject's default marshaller for such a signal copies what it points to.
pub(super) fn lend_boxed(signal: SignalId, port: glib::Type) {
    // SAFETY: the signal is the type's, and a boxed argument is passed like a pointer.
    unsafe {
        g_signal_set_va_marshaller(
            signal.into_glib(),
            port.into_glib(),
            Some(g_cclosure_marshal_VOID__POINTERv),
        );
    }
}

/// The quark of a name, if there is one. `glib::Quark` copies the name first.
pub(super) fn quark(name: &glib::GStr) -> Option<glib::Quark> {
    // SAFETY: the name lives for the call.
    let quark = unsafe { glib::ffi::g_quark_try_string(name.as_ptr()) };
    // SAFETY: it is a quark, unless it is 0.
    (quark != 0).then(|| unsafe { from_glib(quark) })
}

/// Emits `event`.
pub(super) fn emit_event(
    port: &glib::Object,
    signal: SignalId,
    name: &glib::GStr,
    node: glib::Pointer,
) {
    // SAFETY: the signal's arguments are a string and a pointer; all live for the call.
    unsafe { gobject_ffi::g_signal_emit(port.as_ptr(), signal.into_glib(), 0, name.as_ptr(), node) }
}

/// Emits `qmp-event`.
pub(super) fn emit_qmp_event(
    port: &glib::Object,
    signal: SignalId,
    detail: Option<glib::Quark>,
    event: &Event,
) {
    let detail = detail.map_or(0, IntoGlib::into_glib);
    let event: <Event as GlibPtrDefault>::GlibType = event.to_glib_none().0;
    // SAFETY: the signal's argument is a boxed `Event`; all live for the call.
    unsafe { gobject_ffi::g_signal_emit(port.as_ptr(), signal.into_glib(), detail, event) }
}

/// Connects to `qmp-event` like a C handler: it receives its arguments without a copy.
pub(super) fn connect_qmp_event<F: Fn(&QmpPort, &Event) + 'static>(
    port: &QmpPort,
    signal: SignalId,
    detail: Option<glib::Quark>,
    f: F,
) -> glib::SignalHandlerId {
    unsafe extern "C" fn call<F: Fn(&QmpPort, &Event) + 'static>(
        port: <QmpPort as GlibPtrDefault>::GlibType,
        event: <Event as GlibPtrDefault>::GlibType,
        f: gpointer,
    ) {
        // A program may emit the signal itself.
        if event.is_null() {
            return;
        }
        // SAFETY: the port, the event and the handler live for the call; and the handler
        // checks that it is called on its own thread.
        let (port, event, f): (Borrowed<QmpPort>, Borrowed<Event>, _) = unsafe {
            (
                FromGlibPtrBorrow::from_glib_borrow(port),
                FromGlibPtrBorrow::from_glib_borrow(event),
                &*f.cast::<ThreadGuard<F>>(),
            )
        };
        f.get_ref()(&port, &event);
    }
    unsafe extern "C" fn free<F>(f: gpointer, _: *mut GClosure) {
        // SAFETY: `f` is the box made below; it is freed once.
        let f = unsafe { Box::from_raw(f.cast::<ThreadGuard<F>>()) };
        // The last reference to a port may be dropped on another thread, which leaks it.
        if !f.is_owner() {
            std::mem::forget(f);
        }
    }
    let f = Box::into_raw(Box::new(ThreadGuard::new(f)));
    let detail = detail.map_or(0, IntoGlib::into_glib);
    let instance: *mut GObject = port.upcast_ref::<glib::Object>().as_ptr();
    // SAFETY: `call` has the signature of the signal's handlers; `free` takes ownership of the box.
    unsafe {
        let call = call::<F> as *const ();
        let call = std::mem::transmute::<*const (), unsafe extern "C" fn()>(call);
        let closure = gobject_ffi::g_cclosure_new(Some(call), f.cast(), Some(free::<F>));
        from_glib(gobject_ffi::g_signal_connect_closure_by_id(
            instance,
            signal.into_glib(),
            detail,
            closure,
            glib::ffi::GFALSE,
        ))
    }
}
