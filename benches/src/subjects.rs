// SPDX-License-Identifier: MIT OR Apache-2.0
//! The participants in this process: each is fed by emissions of `port-data` on a [`Wire`].

use std::cell::{Cell, RefCell};
use std::ffi::{CString, c_char, c_int, c_void};
use std::rc::Rc;

use glib::ffi::gpointer;
use glib::gobject_ffi;
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_client_glib_sys as spice;
use spice_qmp::transport::{PairPeer, pair};
use spice_qmp::{CallOptions, QmpPort};

use crate::wire::{Wire, connect_c, main_loop};

/// QEMU's greeting on a SPICE port.
pub const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian 1:10.0.2"}, "capabilities": []}}"#;

/// The reply to `query-status`.
pub const RUNNING: &str = r#"{"running": true, "singlestep": false, "status": "running"}"#;

/// How often a handler was called.
pub type Heard = Rc<Cell<u64>>;

/// A participant that is asked and answered without I/O.
pub trait Subject {
    /// Asks for the status; the call has ended when its callback was called.
    fn call(&self) -> Heard;

    /// Feeds it bytes.
    fn emit(&self, bytes: &[u8]);

    /// The bytes sent since the last call.
    fn sent(&self) -> Vec<u8> {
        Wire::sent()
    }

    /// The id of the request that is sent from the main loop. The helper writes its
    /// requests with single quotes.
    fn request(&self) -> String {
        main_loop();
        let sent = String::from_utf8(self.sent()).expect("requests are UTF-8");
        let at = sent.rfind("id").expect("a request with an id");
        let digits = sent[at..].chars().skip_while(|c| !c.is_ascii_digit());
        digits.take_while(char::is_ascii_digit).collect()
    }

    /// Becomes ready.
    fn negotiate(self, answers: &[&str]) -> Self
    where
        Self: Sized,
    {
        self.emit(format!("{GREETING}\r\n").as_bytes());
        for value in answers {
            let id = self.request();
            self.emit(format!("{{\"return\": {value}, \"id\": {id}}}\r\n").as_bytes());
            main_loop();
        }
        self
    }
}

/// This library's port.
pub struct Ours {
    pub port: QmpPort,
    pub wire: Wire,
}

impl Ours {
    pub fn on(wire: Wire) -> Self {
        let port = QmpPort::get(&wire.channel);
        let ours = Self { port, wire }.negotiate(&["{}", RUNNING]);
        assert!(ours.port.ready(), "our port is not ready");
        ours
    }

    /// Connects a C handler to a signal.
    pub fn connect(&self, signal: &str) -> Heard {
        connect(self.port.upcast_ref(), signal)
    }

    /// Tasks that read streams of all events.
    pub fn streams(&self, count: usize) -> Heard {
        let heard = Heard::default();
        for _ in 0..count {
            let (mut stream, heard) = (self.port.events(), heard.clone());
            glib::MainContext::default().spawn_local(async move {
                while stream.next().await.is_some() {
                    heard.set(heard.get() + 1);
                }
            });
        }
        main_loop();
        heard
    }
}

impl Subject for Ours {
    fn call(&self) -> Heard {
        call(&self.port)
    }

    fn emit(&self, bytes: &[u8]) {
        self.wire.emit(bytes);
    }
}

fn call(port: &QmpPort) -> Heard {
    let ended = Heard::default();
    let end = ended.clone();
    port.execute_with(
        "query-status",
        None,
        CallOptions::default(),
        move |result| {
            result.expect("a reply");
            end.set(end.get() + 1);
        },
    );
    ended
}

/// This library's port without SPICE: the bytes stay within the process.
pub struct Pair {
    port: QmpPort,
    peer: PairPeer,
}

impl Pair {
    pub fn new() -> Self {
        let (transport, peer) = pair();
        let port = QmpPort::for_transport(Box::new(transport));
        peer.open();
        let pair = Self { port, peer }.negotiate(&["{}", RUNNING]);
        assert!(pair.port.ready(), "our port is not ready");
        pair
    }
}

impl Subject for Pair {
    fn call(&self) -> Heard {
        call(&self.port)
    }

    fn emit(&self, bytes: &[u8]) {
        self.peer.send(bytes);
    }

    fn sent(&self) -> Vec<u8> {
        self.peer.received()
    }
}

/// The helper of spice-gtk.
pub struct Helper {
    port: *mut spice::SpiceQmpPort,
    pub wire: Wire,
}

impl Helper {
    pub fn on(wire: Wire) -> Self {
        // SAFETY: the channel is live, and the port is the channel's.
        let port = unsafe { spice::spice_qmp_port_get(wire.channel.as_ptr().cast()) };
        let helper = Self { port, wire }.negotiate(&["{}"]);
        let ready: bool = helper.object().property("ready");
        assert!(ready, "spice-gtk's helper is not ready");
        helper
    }

    pub fn object(&self) -> glib::Object {
        // SAFETY: the port lives as long as the channel.
        unsafe { glib::translate::from_glib_none(self.port.cast::<gobject_ffi::GObject>()) }
    }
}

impl Subject for Helper {
    fn call(&self) -> Heard {
        unsafe extern "C" fn done(
            port: *mut gobject_ffi::GObject,
            result: *mut gio::ffi::GAsyncResult,
            heard: gpointer,
        ) {
            // SAFETY: called once with the port, its result and the counter given below.
            unsafe {
                let none = std::ptr::null_mut();
                let status = spice::spice_qmp_port_query_status_finish(port.cast(), result, none);
                assert!(!status.is_null(), "the helper gave no status");
                spice::spice_qmp_status_unref(status);
                let heard = Rc::from_raw(heard.cast::<Cell<u64>>().cast_const());
                heard.set(heard.get() + 1);
            }
        }
        let heard = Heard::default();
        let data = Rc::into_raw(heard.clone()).cast_mut().cast();
        let none = std::ptr::null_mut();
        // SAFETY: the port is live, and `done` takes the counter over.
        unsafe { spice::spice_qmp_port_query_status_async(self.port, none, Some(done), data) };
        heard
    }

    fn emit(&self, bytes: &[u8]) {
        self.wire.emit(bytes);
    }
}

/// Connects a C function that counts to a signal with two arguments (`event`) or one.
pub fn connect(object: &glib::Object, signal: &str) -> Heard {
    unsafe fn note(heard: gpointer) {
        // SAFETY: the counter that was connected.
        let heard = unsafe { &*heard.cast::<Cell<u64>>() };
        heard.set(heard.get() + 1);
    }
    unsafe extern "C" fn two(_: gpointer, _name: gpointer, _data: gpointer, heard: gpointer) {
        // SAFETY: as above.
        unsafe { note(heard) }
    }
    unsafe extern "C" fn one(_: gpointer, _event: gpointer, heard: gpointer) {
        // SAFETY: as above.
        unsafe { note(heard) }
    }
    let handler = if signal == "event" {
        two as *const ()
    } else {
        one as *const ()
    };
    let heard = Heard::default();
    // The program is short: the handler's reference leaks.
    let data = Rc::into_raw(heard.clone()).cast_mut().cast();
    connect_c(
        object,
        &CString::new(signal).expect("a name"),
        handler,
        data,
    );
    heard
}

mod bare {
    use std::sync::OnceLock;

    use glib::prelude::*;
    use glib::subclass::Signal;
    use glib::subclass::prelude::*;

    #[derive(Default)]
    pub struct Bare;

    #[glib::object_subclass]
    impl ObjectSubclass for Bare {
        const NAME: &'static str = "SpiceQmpBenchBare";
        type Type = super::Bare;
    }

    impl ObjectImpl for Bare {
        fn signals() -> &'static [Signal] {
            static SIGNALS: OnceLock<Vec<Signal>> = OnceLock::new();
            let types = [String::static_type(), glib::Pointer::static_type()];
            SIGNALS.get_or_init(|| vec![Signal::builder("event").param_types(types).build()])
        }
    }
}

glib::wrapper! {
    /// An object with the signal `event`, and nothing else.
    pub struct Bare(ObjectSubclass<bare::Bare>);
}

/// A lower bound without JSON: lines are cut with `memchr`, and a signal is emitted for
/// each. Returns the object with the signal.
pub fn floor(wire: &Wire) -> Bare {
    let object: Bare = glib::Object::new();
    let from = object.clone();
    let partial = RefCell::new(Vec::new());
    // SAFETY: the class exists, as its object does.
    let signal =
        unsafe { gobject_ffi::g_signal_lookup(c"event".as_ptr(), Bare::static_type().into_glib()) };
    let emit = move |line: &[u8]| {
        let line = line.as_ptr().cast_mut().cast::<c_void>();
        let name = c"RTC_CHANGE".as_ptr();
        // SAFETY: the signal's arguments are a string and a pointer.
        unsafe { gobject_ffi::g_signal_emit(from.as_ptr().cast(), signal, 0, name, line) };
    };
    wire.on_data(move |mut bytes| {
        let mut partial = partial.borrow_mut();
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if partial.is_empty() {
                emit(&bytes[..end]);
            } else {
                partial.extend_from_slice(&bytes[..end]);
                emit(&partial);
                partial.clear();
            }
            bytes = &bytes[end + 1..];
        }
        partial.extend_from_slice(bytes);
    });
    object
}

/// A lower bound of a call without JSON: a write, and a `GTask` that returns when a line
/// arrives.
pub struct BareCall {
    wire: Wire,
    waiting: Rc<Cell<*mut gio::ffi::GTask>>,
}

impl BareCall {
    pub fn new() -> Self {
        let wire = Wire::new();
        let waiting = Rc::new(Cell::new(std::ptr::null_mut()));
        let place = waiting.clone();
        wire.on_data(move |bytes| {
            if memchr::memchr(b'\n', bytes).is_some() {
                let task = place.replace(std::ptr::null_mut());
                // SAFETY: the task of `call`, and its only reference here.
                unsafe {
                    gio::ffi::g_task_return_int(task, 1);
                    gobject_ffi::g_object_unref(task.cast());
                }
            }
        });
        Self { wire, waiting }
    }
}

impl Subject for BareCall {
    fn call(&self) -> Heard {
        unsafe extern "C" fn done(
            _channel: *mut gobject_ffi::GObject,
            _result: *mut gio::ffi::GAsyncResult,
            heard: gpointer,
        ) {
            // SAFETY: called once with the counter given below.
            let heard = unsafe { Rc::from_raw(heard.cast::<Cell<u64>>().cast_const()) };
            heard.set(heard.get() + 1);
        }
        const REQUEST: &[u8] = br#"{"execute":"query-status","id":1}"#;
        let heard = Heard::default();
        let data = Rc::into_raw(heard.clone()).cast_mut().cast();
        let channel = self.wire.channel.as_ptr();
        // SAFETY: the channel is live, the request static, and `done` takes the counter.
        unsafe {
            let none = std::ptr::null_mut();
            let task = gio::ffi::g_task_new(channel.cast(), none, Some(done), data);
            self.waiting.set(task);
            let (bytes, size) = (REQUEST.as_ptr().cast_mut().cast(), REQUEST.len());
            spice::spice_port_channel_write_async(channel, bytes, size, none, None, none.cast());
        }
        heard
    }

    fn emit(&self, bytes: &[u8]) {
        self.wire.emit(bytes);
    }
}

/// JSON-GLib's parser, which spice-gtk's helper uses. It leaks: the program is short.
pub struct JsonParser(gpointer);

// build.rs links the library.
unsafe extern "C" {
    fn json_parser_new() -> gpointer;
    fn json_parser_load_from_data(
        parser: gpointer,
        data: *const c_char,
        size: isize,
        error: *mut *mut glib::ffi::GError,
    ) -> c_int;
}

impl JsonParser {
    pub fn new() -> Self {
        // SAFETY: it takes nothing and gives a reference.
        Self(unsafe { json_parser_new() })
    }

    pub fn parse(&self, text: &[u8]) {
        let (data, size) = (text.as_ptr().cast(), text.len().cast_signed());
        // SAFETY: the parser is live, and the size is the text's.
        let done = unsafe { json_parser_load_from_data(self.0, data, size, std::ptr::null_mut()) };
        assert_ne!(done, 0, "JSON-GLib takes it");
    }
}
