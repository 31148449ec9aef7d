// SPDX-License-Identifier: MIT OR Apache-2.0
//! A SPICE client for tests, without the library's QMP.

use std::cell::RefCell;
use std::rc::Rc;

use glib::prelude::*;
use glib::translate::{IntoGlib, from_glib_none};
use serde_json::Value;
use spice_qmp::transport::spice::Channel;
use spice_qmp::{PortChannel, QmpPort, Session};

use super::main_loop::MainLoop;
use super::qemu::Qemu;

/// A SPICE session that a test ends with [`finish`](Self::finish).
pub struct Client {
    pub session: Session,
}

impl Client {
    /// A session that is not connected.
    pub fn new(qemu: &Qemu) -> Self {
        Self::to(&qemu.spice_uri())
    }

    /// A session to this address.
    pub fn to(uri: &str) -> Self {
        let session = Session::new();
        session.set_uri(uri);
        Self { session }
    }

    /// The port channels that the session knows.
    pub fn ports(&self) -> Vec<PortChannel> {
        self.session
            .channels()
            .iter()
            .filter_map(Channel::port)
            .collect()
    }

    /// Connects the session, and the first of its port channels.
    pub fn connect(&self, main: &MainLoop) -> PortChannel {
        assert!(self.session.connect());
        main.until("the list of channels", || !self.ports().is_empty());
        let port = self.ports().remove(0);
        port.upcast_ref::<Channel>().connect();
        main.until("the name of the port", || port.port_name().is_some());
        port
    }

    /// Waits until QEMU has answered everything that it was asked.
    ///
    /// QEMU 7.2 and 10.0 crash (SIGSEGV) or hang if a SPICE client disconnects while a
    /// command of its QMP port is in flight. That matters to later clients.
    pub fn settle(main: &MainLoop, port: &QmpPort) {
        // It answers in order, and so answers the port's own question, too.
        main.until("the status", || port.status().is_some());
        main.block_on(port.execute::<Value>("query-name", ()))
            .expect("QEMU answers");
    }

    /// Ends the session, and waits until nothing of it is left. The test must have dropped
    /// all its references.
    pub fn finish(self, main: &MainLoop) {
        let channels: Vec<_> = self
            .session
            .channels()
            .iter()
            .map(ObjectExt::downgrade)
            .collect();
        let session = self.session.downgrade();
        self.session.disconnect();
        drop(self);
        main.until("the end of the session", || {
            session.upgrade().is_none() && channels.iter().all(|c| c.upgrade().is_none())
        });
        main.drain();
    }
}

/// The sessions that get channels, whoever creates them.
pub struct Sessions {
    seen: Rc<RefCell<Vec<glib::WeakRef<Session>>>>,
    hook: std::ffi::c_ulong,
}

impl Sessions {
    /// Records all sessions created from now on.
    #[allow(unsafe_code)]
    pub fn watch() -> Self {
        type Seen = Rc<RefCell<Vec<glib::WeakRef<Session>>>>;
        unsafe extern "C" fn note(
            _: *mut glib::gobject_ffi::GSignalInvocationHint,
            _: u32,
            values: *const glib::gobject_ffi::GValue,
            seen: glib::ffi::gpointer,
        ) -> glib::ffi::gboolean {
            // SAFETY: the first value is the emitter, and `seen` the box that `watch` made.
            let (session, seen) = unsafe {
                let session = glib::gobject_ffi::g_value_get_object(values);
                let session: Session = from_glib_none(session.cast());
                (session, &*seen.cast::<Seen>())
            };
            let known = |it: &glib::WeakRef<Session>| it.upgrade().as_ref() == Some(&session);
            if !seen.borrow().iter().any(known) {
                seen.borrow_mut().push(session.downgrade());
            }
            glib::ffi::GTRUE
        }
        unsafe extern "C" fn free(seen: glib::ffi::gpointer) {
            // SAFETY: GObject passes the box that `watch` created, once.
            drop(unsafe { Box::from_raw(seen.cast::<Seen>()) });
        }
        let seen = Seen::default();
        // SAFETY: `note` has the signature of a hook and takes the box, which `free` frees.
        let hook = unsafe {
            glib::gobject_ffi::g_signal_add_emission_hook(
                Self::signal(),
                0,
                Some(note),
                Box::into_raw(Box::new(seen.clone())).cast(),
                Some(free),
            )
        };
        Self { seen, hook }
    }

    #[allow(unsafe_code)]
    fn signal() -> u32 {
        let session = Session::static_type().into_glib();
        // SAFETY: the class is referenced, so that it has its signals.
        unsafe {
            let class = glib::gobject_ffi::g_type_class_ref(session);
            let signal = glib::gobject_ffi::g_signal_lookup(c"channel-new".as_ptr(), session);
            glib::gobject_ffi::g_type_class_unref(class);
            signal
        }
    }

    /// How many sessions there were.
    pub fn count(&self) -> usize {
        self.seen.borrow().len()
    }

    /// How many are left.
    pub fn left(&self) -> usize {
        let seen = self.seen.borrow();
        seen.iter().filter(|it| it.upgrade().is_some()).count()
    }
}

impl Drop for Sessions {
    #[allow(unsafe_code)]
    fn drop(&mut self) {
        // SAFETY: the hook is the one that `watch` has added.
        unsafe { glib::gobject_ffi::g_signal_remove_emission_hook(Self::signal(), self.hook) }
    }
}

/// A port channel that leads nowhere.
pub fn lone_channel(session: &Session) -> PortChannel {
    let channel: PortChannel = glib::Object::builder()
        .property("spice-session", session)
        .property("channel-type", 10)
        .property("channel-id", 0)
        .build();
    // spice-gtk treats the first reference as the session's, which releases it.
    std::mem::forget(channel.clone());
    channel
}

/// Drops a session and its lone channel, and waits until the channel is gone.
pub fn finish_lone(main: &MainLoop, session: Session, channel: PortChannel) {
    let weak = channel.downgrade();
    drop(channel);
    session.disconnect();
    drop(session);
    main.until("the channel is gone", || weak.upgrade().is_none());
    main.drain();
}

/// Ends the connection of one channel, which can be connected again.
#[allow(unsafe_code)]
pub fn disconnect(channel: &PortChannel) {
    use glib::translate::ToGlibPtr;
    use spice_client_glib_sys as ffi;

    let channel: *mut ffi::SpiceChannel = channel.upcast_ref::<Channel>().to_glib_none().0;
    // SAFETY: `channel` is a live SpiceChannel for the length of the call.
    unsafe { ffi::spice_channel_disconnect(channel, ffi::SPICE_CHANNEL_CLOSED) }
}
