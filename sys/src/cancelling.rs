// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cancels calls from any thread.

use std::cell::RefCell;
use std::ffi::c_ulong;
use std::rc::Rc;
use std::thread::{self, ThreadId};

use gio::ffi::GCancellable;
use glib::ffi::gpointer;
use glib::object::SendWeakRef;
use glib::prelude::*;
use glib::translate::ToGlibPtr;
use spice_qmp::QmpPort;

use crate::guard::no_panic;

/// Cancels a call when its cancellable is cancelled, until dropped.
pub(crate) struct Cancelling {
    cancellable: gio::Cancellable,
    handler: c_ulong,
}

/// Where the end of a call finds what to disconnect; there is none where nothing cancels it.
pub(crate) type CancellingSlot = Option<Rc<RefCell<Option<Cancelling>>>>;

/// The data of the handler, which may run on any thread.
struct Cancel<F> {
    thread: ThreadId,
    context: glib::MainContext,
    port: SendWeakRef<QmpPort>,
    act: F,
}

impl Cancelling {
    pub(crate) fn slot(cancellable: Option<&gio::Cancellable>) -> CancellingSlot {
        cancellable.map(|_| Rc::default())
    }

    /// The call has ended.
    pub(crate) fn end(slot: &CancellingSlot) {
        drop(slot.as_ref().and_then(|slot| slot.take()));
    }

    /// Arranges for `cancel` to be called when `cancellable` is cancelled, on the thread of `port`.
    pub(crate) fn connect(
        slot: &CancellingSlot,
        cancellable: Option<gio::Cancellable>,
        port: &QmpPort,
        cancel: impl Fn(&QmpPort) -> bool + Clone + Send + 'static,
    ) {
        if let (Some(slot), Some(cancellable)) = (slot, cancellable) {
            let connected = Self::new(cancellable, port, cancel);
            slot.replace(Some(connected));
        }
    }

    fn new<F: Fn(&QmpPort) -> bool + Clone + Send + 'static>(
        cancellable: gio::Cancellable,
        port: &QmpPort,
        act: F,
    ) -> Self {
        unsafe extern "C" fn cancelled<F: Fn(&QmpPort) -> bool + Clone + Send + 'static>(
            _: *mut GCancellable,
            cancel: gpointer,
        ) {
            // SAFETY: GIO passes the box below, which is not freed while this runs.
            let cancel = unsafe { &*cancel.cast::<Cancel<F>>() };
            no_panic("cancelling", (), || cancel.run());
        }
        unsafe extern "C" fn free<F>(cancel: gpointer) {
            // SAFETY: GIO calls this once, when it no longer uses the box.
            drop(unsafe { Box::from_raw(cancel.cast::<Cancel<F>>()) });
        }
        let cancel = Box::new(Cancel {
            thread: thread::current().id(),
            context: port.main_context(),
            port: port.downgrade().into(),
            act,
        });
        // SAFETY: `cancelled` has the signature of the signal and takes the box,
        // whose parts may go to any thread, and `free` frees it.
        let handler = unsafe {
            gio::ffi::g_cancellable_connect(
                cancellable.to_glib_none().0,
                Some(std::mem::transmute::<
                    unsafe extern "C" fn(*mut GCancellable, gpointer),
                    unsafe extern "C" fn(),
                >(cancelled::<F>)),
                Box::into_raw(cancel).cast(),
                Some(free::<F>),
            )
        };
        Self {
            cancellable,
            handler,
        }
    }
}

impl Drop for Cancelling {
    fn drop(&mut self) {
        if self.handler == 0 {
            return;
        }
        // Not `g_cancellable_disconnect`, which waits for ever if a handler of
        // "cancelled" runs a main loop. The box lives as long as a handler runs.
        let cancellable: *mut GCancellable = self.cancellable.to_glib_none().0;
        // SAFETY: the handler was connected to this object and not disconnected yet.
        unsafe { glib::gobject_ffi::g_signal_handler_disconnect(cancellable.cast(), self.handler) }
    }
}

impl<F: Fn(&QmpPort) -> bool + Clone + Send + 'static> Cancel<F> {
    fn run(&self) {
        if thread::current().id() == self.thread {
            if let Some(port) = self.port.upgrade() {
                (self.act)(&port);
            }
            return;
        }
        // Not `MainContext::invoke`: that runs it on this thread if it can.
        let (home, port, cancel) = (self.thread, self.port.clone(), self.act.clone());
        let source = glib::idle_source_new(
            Some("spice-qmp cancel"),
            glib::Priority::DEFAULT,
            move || {
                // A context that a third thread runs is refused elsewhere.
                if thread::current().id() == home
                    && let Some(port) = port.upgrade()
                {
                    cancel(&port);
                }
                glib::ControlFlow::Break
            },
        );
        source.attach(Some(&self.context));
    }
}
