//! The thread that a port belongs to: the one that made it.
//!
//! C has no borrow checker, and garbage collectors drop references on threads of
//! their own. So the port knows its thread, and whatever may be called from another
//! one asks here first.
#![allow(unsafe_code)]

use std::thread::{self, ThreadId};

use glib::prelude::*;
use glib::subclass::prelude::*;

use super::QmpPort;

/// A thread, and the main context that it had when the port was made.
pub(super) struct Home {
    thread: ThreadId,
    context: glib::MainContext,
}

impl Home {
    /// The calling thread.
    pub(super) fn here() -> Self {
        Self {
            thread: thread::current().id(),
            context: glib::MainContext::ref_thread_default(),
        }
    }

    /// Whether the calling thread is this one.
    pub(super) fn is_here(&self) -> bool {
        thread::current().id() == self.thread
    }

    pub(super) fn context(&self) -> &glib::MainContext {
        &self.context
    }

    /// Disposes of `port`, whose last reference another thread is dropping, from
    /// the main loop of this one. Where that does not run any more, the port stays.
    ///
    /// It is not enough to take a reference there: the other thread may be slow, and
    /// its reference then be the last one after all. What it finalizes is disposed
    /// of, so that nothing is left in it that belongs to a thread. `given_back` is
    /// as for [`leave_channel`](super::imp::QmpPort::leave_channel).
    pub(super) fn dispose_there(&self, port: QmpPort, given_back: bool) {
        struct Homebound(QmpPort);
        // SAFETY: counting references is all that is done with it on another
        // thread than its own, and GObject does that atomically.
        unsafe impl Send for Homebound {}

        let mut homebound = Some(Homebound(port));
        let source = glib::idle_source_new(Some("spice-qmp"), glib::Priority::DEFAULT, move || {
            // Not its field alone, which would not be `Send`.
            let Some(homebound) = homebound.take() else {
                return glib::ControlFlow::Break;
            };
            let port = homebound.0;
            if port.is_on_its_thread() {
                port.imp().leave_channel(given_back);
                // SAFETY: the port bears to be used after its disposal.
                unsafe { port.run_dispose() };
            } else {
                glib::g_critical!(
                    "SpiceQmp",
                    "the main context of a port is run by a thread that did not make the port"
                );
                // There is no place where it could go.
                std::mem::forget(port);
            }
            glib::ControlFlow::Break
        });
        source.attach(Some(&self.context));
    }
}
