//! Who is measured: each fed by emissions of `port-data` on a [`Wire`].

use std::cell::{Cell, RefCell};
use std::ffi::{c_char, c_int, c_void};
use std::rc::Rc;

use glib::ffi::gpointer;
use glib::gobject_ffi;
use glib::prelude::*;
use glib::translate::{IntoGlib, ToGlibPtr};
use spice_client_glib_sys as spice;
use spice_qmp::transport::{PairPeer, pair};
use spice_qmp::{CallOptions, QmpPort};

use crate::wire::{Wire, main_loop};

/// QEMU's greeting on a SPICE port.
const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian 1:10.0.2"}, "capabilities": []}}"#;

/// The reply to `query-status`.
pub const RUNNING: &str = r#"{"running": true, "singlestep": false, "status": "running"}"#;

/// How often a handler was called.
pub type Heard = Rc<Cell<u64>>;

/// The id of the request that was sent last. The helper writes its requests with
/// single quotes.
fn last_id(request: &[u8]) -> String {
    let text = std::str::from_utf8(request).expect("requests are UTF-8");
    let at = text.rfind("id").expect("a request with an id");
    let rest = text[at + 2..].trim_start_matches(['"', '\'', ':', ' ']);
    let end = rest.find([',', '}', ' ']).expect("an end of the id");
    rest[..end].to_owned()
}

/// Turns the main loop until a request was sent, and gives its id.
pub fn request() -> String {
    main_loop();
    Wire::take(last_id)
}

fn answer(wire: &Wire, value: &str) {
    let id = request();
    wire.line(&format!(r#"{{"return": {value}, "id": {id}}}"#));
    main_loop();
}

/// Our port.
pub struct Ours {
    pub port: QmpPort,
    pub wire: Wire,
}

impl Ours {
    pub fn new() -> Self {
        Self::on(Wire::new())
    }

    /// A port that is ready.
    pub fn on(wire: Wire) -> Self {
        let port = QmpPort::get(&wire.channel);
        wire.line(GREETING);
        answer(&wire, "{}");
        answer(&wire, RUNNING);
        assert!(port.ready(), "our port is not ready");
        Self { port, wire }
    }

    /// A handler of a signal, in C.
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

    /// Gives a command; the result is there when its callback was called.
    pub fn call(&self, command: &str) -> Heard {
        call(&self.port, command)
    }
}

fn call(port: &QmpPort, command: &str) -> Heard {
    let ended = Heard::default();
    let end = ended.clone();
    port.execute_with(command, None, CallOptions::default(), move |result| {
        result.expect("a reply");
        end.set(end.get() + 1);
    });
    ended
}

/// Our port without SPICE: the bytes go to and fro within the process.
pub struct Pair {
    port: QmpPort,
    pub peer: PairPeer,
}

impl Pair {
    pub fn new() -> Self {
        let (transport, peer) = pair();
        let port = QmpPort::for_transport(Box::new(transport));
        let pair = Self { port, peer };
        pair.peer.open();
        pair.peer.send(format!("{GREETING}\r\n").as_bytes());
        for value in ["{}", RUNNING] {
            let id = pair.request();
            let line = format!("{{\"return\": {value}, \"id\": {id}}}\r\n");
            pair.peer.send(line.as_bytes());
        }
        main_loop();
        assert!(pair.port.ready(), "our port is not ready");
        pair
    }

    pub fn call(&self, command: &str) -> Heard {
        call(&self.port, command)
    }

    /// The id of the request that was sent last.
    pub fn request(&self) -> String {
        main_loop();
        last_id(&self.peer.received())
    }
}

/// The helper of spice-gtk.
pub struct Helper {
    pub port: *mut spice::SpiceQmpPort,
    pub wire: Wire,
}

impl Helper {
    pub fn new() -> Self {
        Self::on(Wire::new())
    }

    /// A helper that is ready.
    pub fn on(wire: Wire) -> Self {
        // SAFETY: the channel is live; the reference is the channel's.
        let port = unsafe { spice::spice_qmp_port_get(wire.channel.as_ptr().cast()) };
        wire.line(GREETING);
        answer(&wire, "{}");
        let helper = Self { port, wire };
        assert!(
            helper.object().property::<bool>("ready"),
            "spice-gtk's helper is not ready"
        );
        helper
    }

    pub fn object(&self) -> glib::Object {
        // SAFETY: the port lives as long as the channel.
        unsafe { glib::translate::from_glib_none(self.port.cast::<gobject_ffi::GObject>()) }
    }

    pub fn connect(&self, signal: &str) -> Heard {
        connect(&self.object(), signal)
    }

    /// Asks for the status; the result is there when the callback was called.
    pub fn call(&self) -> Heard {
        unsafe extern "C" fn done(
            port: *mut gobject_ffi::GObject,
            result: *mut gio::ffi::GAsyncResult,
            heard: gpointer,
        ) {
            let mut error = std::ptr::null_mut();
            // SAFETY: called once with the port, its result and the counter given below.
            unsafe {
                let status =
                    spice::spice_qmp_port_query_status_finish(port.cast(), result, &raw mut error);
                assert!(!status.is_null(), "the helper gave no status");
                spice::spice_qmp_status_unref(status);
                let heard = Rc::from_raw(heard.cast::<Cell<u64>>().cast_const());
                heard.set(heard.get() + 1);
            }
        }
        let heard = Heard::default();
        let data = Rc::into_raw(heard.clone()).cast_mut().cast();
        // SAFETY: `done` takes the counter over.
        unsafe {
            spice::spice_qmp_port_query_status_async(
                self.port,
                std::ptr::null_mut(),
                Some(done),
                data,
            );
        }
        heard
    }
}

/// Connects a C function that counts to a signal with two arguments or one.
pub fn connect(object: &glib::Object, signal: &str) -> Heard {
    unsafe extern "C" fn two(
        _object: gpointer,
        _name: *const c_char,
        _data: gpointer,
        heard: gpointer,
    ) {
        // SAFETY: the counter that was connected.
        let heard = unsafe { &*heard.cast::<Cell<u64>>() };
        heard.set(heard.get() + 1);
    }
    unsafe extern "C" fn one(_object: gpointer, _event: gpointer, heard: gpointer) {
        // SAFETY: the counter that was connected.
        let heard = unsafe { &*heard.cast::<Cell<u64>>() };
        heard.set(heard.get() + 1);
    }
    let handler = if signal == "event" {
        two as *const ()
    } else {
        one as *const ()
    };
    let heard = Heard::default();
    // The program is short: the reference of the handler stays.
    let data = Rc::into_raw(heard.clone()).cast_mut().cast();
    // SAFETY: the handler has the signature of the signal.
    let id = unsafe {
        gobject_ffi::g_signal_connect_data(
            object.as_ptr(),
            signal.to_glib_none().0,
            Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                handler,
            )),
            data,
            None,
            0,
        )
    };
    assert_ne!(id, 0, "no signal {signal}");
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
            SIGNALS.get_or_init(|| {
                vec![
                    Signal::builder("event")
                        .param_types([String::static_type(), glib::Pointer::static_type()])
                        .build(),
                ]
            })
        }
    }
}

glib::wrapper! {
    /// An object with the signal `event`, and nothing else.
    pub struct Bare(ObjectSubclass<bare::Bare>);
}

/// What remains without JSON: lines are cut with `memchr`, and a signal is
/// emitted for each.
pub struct Floor {
    pub wire: Wire,
    pub object: Bare,
    _state: Rc<FloorState>,
}

struct FloorState {
    partial: RefCell<Vec<u8>>,
    object: Bare,
    signal: u32,
}

impl Floor {
    pub fn new() -> Self {
        unsafe extern "C" fn data(
            _channel: gpointer,
            data: *const c_void,
            size: c_int,
            state: gpointer,
        ) {
            // SAFETY: the signal's `size` bytes, and the state that lives as long as the wire.
            unsafe {
                let size = usize::try_from(size).unwrap_or_default();
                let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size);
                (*state.cast::<FloorState>()).data(bytes);
            }
        }
        let wire = Wire::new();
        let object: Bare = glib::Object::new();
        // SAFETY: the class is there, as its object is.
        let signal = unsafe {
            gobject_ffi::g_signal_lookup(c"event".as_ptr(), Bare::static_type().into_glib())
        };
        let state = Rc::new(FloorState {
            partial: RefCell::default(),
            object: object.clone(),
            signal,
        });
        // SAFETY: `data` has the signal's signature.
        unsafe {
            gobject_ffi::g_signal_connect_data(
                wire.channel.as_ptr().cast(),
                c"port-data".as_ptr(),
                Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                    data as *const (),
                )),
                Rc::as_ptr(&state).cast_mut().cast(),
                None,
                0,
            );
        }
        Self {
            wire,
            object,
            _state: state,
        }
    }

    pub fn connect(&self) -> Heard {
        connect(self.object.upcast_ref(), "event")
    }
}

impl FloorState {
    fn data(&self, mut bytes: &[u8]) {
        let mut partial = self.partial.borrow_mut();
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            if partial.is_empty() {
                self.emit(&bytes[..end]);
            } else {
                partial.extend_from_slice(&bytes[..end]);
                self.emit(&partial);
                partial.clear();
            }
            bytes = &bytes[end + 1..];
        }
        partial.extend_from_slice(bytes);
    }

    fn emit(&self, line: &[u8]) {
        // SAFETY: the signal's arguments are a string and a pointer.
        unsafe {
            gobject_ffi::g_signal_emit(
                self.object.as_ptr().cast(),
                self.signal,
                0,
                c"RTC_CHANGE".as_ptr(),
                line.as_ptr().cast_mut().cast::<c_void>(),
            );
        }
    }
}

/// What remains of a call without JSON: a write, and a `GTask` that returns when
/// a line comes.
pub struct BareCall {
    pub wire: Wire,
    waiting: Rc<Cell<*mut gio::ffi::GTask>>,
}

impl BareCall {
    pub fn new() -> Self {
        unsafe extern "C" fn data(
            _channel: gpointer,
            data: *const c_void,
            size: c_int,
            waiting: gpointer,
        ) {
            // SAFETY: the signal's `size` bytes, the place of the task, and the task in it.
            unsafe {
                let size = usize::try_from(size).unwrap_or_default();
                let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size);
                let waiting = &*waiting.cast::<Cell<*mut gio::ffi::GTask>>();
                if memchr::memchr(b'\n', bytes).is_some() {
                    let task = waiting.replace(std::ptr::null_mut());
                    gio::ffi::g_task_return_int(task, 1);
                    gobject_ffi::g_object_unref(task.cast());
                }
            }
        }
        let wire = Wire::new();
        let waiting = Rc::new(Cell::new(std::ptr::null_mut()));
        // SAFETY: `data` has the signal's signature; its reference stays.
        unsafe {
            gobject_ffi::g_signal_connect_data(
                wire.channel.as_ptr().cast(),
                c"port-data".as_ptr(),
                Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                    data as *const (),
                )),
                Rc::into_raw(waiting.clone()).cast_mut().cast(),
                None,
                0,
            );
        }
        Self { wire, waiting }
    }

    pub fn call(&self) -> Heard {
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
}

/// A channel with a handler of `port-data` that does nothing: the emission alone.
pub fn emission() -> Wire {
    unsafe extern "C" fn nothing(_: gpointer, _: *const c_void, _: c_int, _: gpointer) {}
    let wire = Wire::new();
    // SAFETY: `nothing` has the signal's signature.
    unsafe {
        gobject_ffi::g_signal_connect_data(
            wire.channel.as_ptr().cast(),
            c"port-data".as_ptr(),
            Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                nothing as *const (),
            )),
            std::ptr::null_mut(),
            None,
            0,
        );
    }
    wire
}

/// JSON-GLib, which spice-gtk's helper uses.
pub mod json_glib {
    use super::{c_char, c_int, gobject_ffi};

    #[repr(C)]
    pub struct JsonParser {
        _private: [u8; 0],
    }

    // build.rs links the library.
    unsafe extern "C" {
        fn json_parser_new() -> *mut JsonParser;
        fn json_parser_load_from_data(
            parser: *mut JsonParser,
            data: *const c_char,
            size: isize,
            error: *mut *mut glib::ffi::GError,
        ) -> c_int;
    }

    pub struct Parser(*mut JsonParser);

    impl Parser {
        pub fn new() -> Self {
            // SAFETY: it takes nothing and gives a reference.
            Self(unsafe { json_parser_new() })
        }

        pub fn parse(&self, text: &[u8]) {
            // SAFETY: the parser is live, the size is the text's.
            let done = unsafe {
                json_parser_load_from_data(
                    self.0,
                    text.as_ptr().cast(),
                    text.len().cast_signed(),
                    std::ptr::null_mut(),
                )
            };
            assert_ne!(done, 0, "JSON-GLib takes it");
        }
    }

    impl Drop for Parser {
        fn drop(&mut self) {
            // SAFETY: the reference of `new`.
            unsafe { gobject_ffi::g_object_unref(self.0.cast()) }
        }
    }
}
