//! A SPICE client for tests, less the library's QMP.

use glib::prelude::*;
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

    /// Lets QEMU answer all that it was asked.
    ///
    /// QEMU 7.2 and 10.0 crash (SIGSEGV) or hang when a SPICE client leaves while a
    /// command of its QMP port is in flight. That matters to those who come next.
    pub fn settle(main: &MainLoop, port: &QmpPort) {
        // It answers in order, and so the port's own question too.
        main.until("the status", || port.status().is_some());
        main.block_on(port.execute::<Value>("query-name", ()))
            .expect("QEMU answers");
    }

    /// Ends the session, and waits until nothing of it is left. All that the test
    /// has of it must have been dropped.
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

/// A port channel that leads nowhere.
pub fn lone_channel(session: &Session) -> PortChannel {
    let channel: PortChannel = glib::Object::builder()
        .property("spice-session", session)
        .property("channel-type", 10)
        .property("channel-id", 0)
        .build();
    // spice-gtk takes the first reference to be the session's, which gives it back.
    std::mem::forget(channel.clone());
    channel
}

/// Lets a session and its lone channel go, and waits until the channel is gone.
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
