//! Programs that ask a server for its status, each in its own way.

use std::cell::{Cell, RefCell};
use std::ffi::{c_int, c_void};
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;
use std::time::Instant;

use futures_util::StreamExt;
use gio::prelude::*;
use glib::ffi::gpointer;
use glib::gobject_ffi;
use qapi::futures::QmpStreamTokio;
use serde::{Deserialize, Serialize};
use spice_client_glib_sys as spice;
use spice_qmp::transport::spice::Channel;
use spice_qmp::{CallOptions, PortChannel, QmpPort, Session};

use crate::common::main_loop::PATIENCE;
use crate::subjects::{Heard, connect};

/// What some operations took, each.
#[derive(Clone, Copy, Debug, Deserialize)]
pub struct Sample {
    /// Seconds on the clock.
    pub wall: f64,
    /// Seconds of the processor for the client.
    pub cpu: f64,
}

/// Asks for the status so often, with so many questions under way.
pub type Client = Box<dyn FnMut(usize, usize) -> Sample>;

/// The time that all threads of this process have run.
#[allow(clippy::cast_precision_loss, reason = "a day has few nanoseconds")]
fn process_seconds() -> f64 {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: `time` lives for the call.
    unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Times work that does `count` operations.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub fn sample(count: usize, work: impl FnOnce()) -> Sample {
    let (wall, cpu) = (Instant::now(), process_seconds());
    work();
    Sample {
        wall: wall.elapsed().as_secs_f64() / count as f64,
        cpu: (process_seconds() - cpu) / count as f64,
    }
}

/// Turns the default main loop until `done`.
#[track_caller]
pub fn until(what: &str, done: impl Fn() -> bool) {
    let context = glib::MainContext::default();
    let start = Instant::now();
    // So that a hang ends.
    let tick = glib::timeout_add_local(PATIENCE, || glib::ControlFlow::Continue);
    while !done() {
        context.iteration(true);
        assert!(start.elapsed() < 6 * PATIENCE, "waited in vain: {what}");
    }
    tick.remove();
}

/// A SPICE session with its port channels, connected.
pub struct Spice {
    session: Session,
    ports: Vec<PortChannel>,
}

impl Spice {
    pub fn connect(uri: &str, ports: usize) -> Self {
        let session = Session::new();
        session.set_uri(uri);
        assert!(session.connect(), "the session does not connect");
        let found = || -> Vec<PortChannel> {
            session
                .channels()
                .iter()
                .filter_map(Channel::port)
                .collect()
        };
        until("the ports", || found().len() == ports);
        let ports = found();
        Self { session, ports }
    }

    /// The port channel of this number, connected by `attach`'s end.
    pub fn port(&self, number: usize) -> &PortChannel {
        &self.ports[number]
    }
}

impl Drop for Spice {
    fn drop(&mut self) {
        self.session.disconnect();
        crate::wire::main_loop();
    }
}

fn open(channel: &PortChannel) {
    channel.upcast_ref::<Channel>().connect();
}

/// Our port on a channel, ready.
pub fn ours(channel: &PortChannel) -> QmpPort {
    let port = QmpPort::get(channel);
    open(channel);
    until("our port", || port.ready() && port.status().is_some());
    port
}

/// Our port on a socket, ready.
pub fn ours_on_socket(path: &Path) -> QmpPort {
    let port = glib::MainContext::default()
        .block_on(QmpPort::open(&format!("unix:{}", path.display())))
        .expect("a server");
    until("the status", || port.status().is_some());
    port
}

/// What several questions share.
struct Asking {
    unsent: Cell<usize>,
    unanswered: Cell<usize>,
}

impl Asking {
    fn new(count: usize) -> Rc<Self> {
        Rc::new(Self {
            unsent: Cell::new(count),
            unanswered: Cell::new(count),
        })
    }

    /// Whether there is another question.
    fn another(&self) -> bool {
        let unsent = self.unsent.get();
        self.unsent.set(unsent.saturating_sub(1));
        unsent > 0
    }

    fn answered(&self) {
        self.unanswered.set(self.unanswered.get() - 1);
    }

    fn is_over(&self) -> bool {
        self.unanswered.get() == 0
    }
}

/// Asks through a port of ours.
pub fn ask_ours(port: QmpPort) -> Client {
    fn ask(port: &QmpPort, asking: &Rc<Asking>) {
        if !asking.another() {
            return;
        }
        let (again, asking) = (port.clone(), asking.clone());
        port.execute_with(
            "query-status",
            None,
            CallOptions::default(),
            move |result| {
                result.expect("a reply");
                asking.answered();
                ask(&again, &asking);
            },
        );
    }
    Box::new(move |count, in_flight| {
        sample(count, || {
            let asking = Asking::new(count);
            for _ in 0..in_flight {
                ask(&port, &asking);
            }
            until("the replies", || asking.is_over());
        })
    })
}

/// spice-gtk's helper on a channel, ready. It must be got as the port opens.
pub fn helper(channel: &PortChannel) -> *mut spice::SpiceQmpPort {
    let port = Rc::new(Cell::new(std::ptr::null_mut()));
    let opened = port.clone();
    channel.connect_notify_local(Some("port-opened"), move |channel, _| {
        // SAFETY: the channel is live; the port is the channel's.
        opened.set(unsafe { spice::spice_qmp_port_get(channel.as_ptr().cast()) });
    });
    open(channel);
    until("the helper", || {
        let port = port.get();
        // SAFETY: the port lives as long as its channel.
        !port.is_null() && unsafe { object(port) }.property("ready")
    });
    port.get()
}

/// # Safety
///
/// The port is live.
unsafe fn object(port: *mut spice::SpiceQmpPort) -> glib::Object {
    // SAFETY: the caller's promise.
    unsafe { glib::translate::from_glib_none(port.cast::<gobject_ffi::GObject>()) }
}

/// Asks through spice-gtk's helper.
pub fn ask_helper(port: *mut spice::SpiceQmpPort) -> Client {
    unsafe extern "C" fn done(
        port: *mut gobject_ffi::GObject,
        result: *mut gio::ffi::GAsyncResult,
        asking: gpointer,
    ) {
        // SAFETY: called once with the port, its result and the reference given below.
        let asking = unsafe {
            let status = spice::spice_qmp_port_query_status_finish(
                port.cast(),
                result,
                std::ptr::null_mut(),
            );
            assert!(!status.is_null(), "the helper gave no status");
            spice::spice_qmp_status_unref(status);
            Rc::from_raw(asking.cast::<Asking>().cast_const())
        };
        asking.answered();
        ask(port.cast(), &asking);
    }
    fn ask(port: *mut spice::SpiceQmpPort, asking: &Rc<Asking>) {
        if asking.another() {
            let asking = Rc::into_raw(asking.clone()).cast_mut().cast();
            // SAFETY: the port lives as long as its channel; `done` takes the reference.
            unsafe {
                spice::spice_qmp_port_query_status_async(
                    port,
                    std::ptr::null_mut(),
                    Some(done),
                    asking,
                );
            }
        }
    }
    Box::new(move |count, in_flight| {
        sample(count, || {
            let asking = Asking::new(count);
            for _ in 0..in_flight {
                ask(port, &asking);
            }
            until("the replies", || asking.is_over());
        })
    })
}

/// A channel without any QMP: it counts line ends.
pub struct Raw {
    channel: PortChannel,
    state: Rc<RawState>,
}

#[derive(Default)]
struct RawState {
    /// Lines that came.
    lines: Heard,
    /// Questions to send for each line that comes.
    asking: RefCell<Option<Rc<Asking>>>,
    /// Whether those that are due go out in one write.
    batched: Cell<bool>,
}

const REQUEST: &[u8] = br#"{"execute":"query-status","id":1000000}"#;

/// A bare channel, with the capabilities negotiated.
pub fn raw(channel: &PortChannel) -> Raw {
    unsafe extern "C" fn data(
        channel: *mut spice::SpicePortChannel,
        data: *const c_void,
        size: c_int,
        state: gpointer,
    ) {
        // SAFETY: the signal's bytes, and the state, which the handler's reference keeps.
        let (bytes, state) = unsafe {
            let size = usize::try_from(size).unwrap_or_default();
            let bytes = std::slice::from_raw_parts(data.cast::<u8>(), size);
            (bytes, &*state.cast::<RawState>())
        };
        let lines = memchr::memchr_iter(b'\n', bytes).count();
        state.lines.set(state.lines.get() + lines as u64);
        if let Some(asking) = &*state.asking.borrow() {
            for _ in 0..lines {
                asking.answered();
            }
            let due = (0..lines).filter(|_| asking.another()).count();
            if state.batched.get() && due > 0 {
                write(channel, &REQUEST.repeat(due));
            } else {
                for _ in 0..due {
                    write(channel, REQUEST);
                }
            }
        }
    }
    let state = Rc::new(RawState::default());
    // SAFETY: `data` has the signal's signature; the reference stays, for a short program.
    unsafe {
        gobject_ffi::g_signal_connect_data(
            channel.as_ptr().cast(),
            c"port-data".as_ptr(),
            Some(std::mem::transmute::<*const (), unsafe extern "C" fn()>(
                data as *const (),
            )),
            Rc::into_raw(state.clone()).cast_mut().cast(),
            None,
            0,
        );
    }
    open(channel);
    until("the greeting", || state.lines.get() == 1);
    write(channel.as_ptr(), br#"{"execute":"qmp_capabilities"}"#);
    until("the capabilities", || state.lines.get() == 2);
    Raw {
        channel: channel.clone(),
        state,
    }
}

fn write(channel: *mut spice::SpicePortChannel, bytes: &[u8]) {
    unsafe extern "C" fn done(
        channel: *mut gobject_ffi::GObject,
        result: *mut gio::ffi::GAsyncResult,
        bytes: gpointer,
    ) {
        // SAFETY: the channel, its result and the bytes of this write.
        unsafe {
            let mut error = std::ptr::null_mut();
            spice::spice_port_channel_write_finish(channel.cast(), result, &raw mut error);
            drop(Box::from_raw(bytes.cast::<Vec<u8>>()));
        }
    }
    let bytes = Box::new(bytes.to_vec());
    // SAFETY: the bytes live until `done`.
    unsafe {
        spice::spice_port_channel_write_async(
            channel,
            bytes.as_ptr().cast_mut().cast(),
            bytes.len(),
            std::ptr::null_mut(),
            Some(done),
            Box::into_raw(bytes).cast(),
        );
    }
}

impl Raw {
    /// Sends a command, and waits for so many lines.
    pub fn exchange(&self, request: &[u8], lines: u64) {
        let before = self.state.lines.get();
        write(self.channel.as_ptr(), request);
        until("the lines", || self.state.lines.get() >= before + lines);
    }

    /// Asks without any QMP.
    pub fn ask(self: &Rc<Self>, batched: bool) -> Client {
        let raw = self.clone();
        Box::new(move |count, in_flight| {
            sample(count, || {
                let asking = Asking::new(count);
                raw.state.batched.set(batched);
                raw.state.asking.replace(Some(asking.clone()));
                let first = (0..in_flight).filter(|_| asking.another()).count();
                if batched {
                    write(raw.channel.as_ptr(), &REQUEST.repeat(first));
                } else {
                    for _ in 0..first {
                        write(raw.channel.as_ptr(), REQUEST);
                    }
                }
                until("the replies", || asking.is_over());
                raw.state.asking.take();
            })
        })
    }
}

/// A blocking socket without any QMP.
pub fn ask_blocking(path: &Path) -> Client {
    let mut stream = UnixStream::connect(path).expect("a server");
    let mut lines = BufReader::new(stream.try_clone().expect("a socket")).lines();
    let mut next = move || lines.next().expect("a line").expect("a line");
    next();
    stream
        .write_all(br#"{"execute":"qmp_capabilities"}"#)
        .expect("a server");
    next();
    Box::new(move |count, in_flight| {
        sample(count, || {
            let mut unsent = count;
            for _ in 0..in_flight.min(count) {
                stream.write_all(REQUEST).expect("a server");
                unsent -= 1;
            }
            for _ in 0..count {
                next();
                if unsent > 0 {
                    stream.write_all(REQUEST).expect("a server");
                    unsent -= 1;
                }
            }
        })
    })
}

/// GIO's own streams on a main loop, without any QMP; one question at a time.
pub fn ask_gio(path: &Path) -> Client {
    let address = gio::UnixSocketAddress::new(path);
    let client = gio::SocketClient::new();
    let connection =
        SocketClientExt::connect(&client, &address, gio::Cancellable::NONE).expect("a server");
    let exchange = async |request: &'static [u8]| {
        let (output, input) = (connection.output_stream(), connection.input_stream());
        if !request.is_empty() {
            let written = output.write_all_future(request, glib::Priority::DEFAULT);
            written.await.expect("a server");
        }
        let mut buffer = vec![0; 4096];
        loop {
            let read = input.read_future(buffer, glib::Priority::DEFAULT);
            let (bytes, count) = read.await.expect("a server");
            assert_ne!(count, 0, "the server left");
            if bytes[count - 1] == b'\n' {
                return;
            }
            buffer = bytes;
        }
    };
    let context = glib::MainContext::default();
    context.block_on(async {
        exchange(b"").await;
        exchange(br#"{"execute":"qmp_capabilities"}"#).await;
    });
    Box::new(move |count, in_flight| {
        assert_eq!(in_flight, 1, "one at a time");
        let exchange = async |connection: &gio::SocketConnection| {
            let (output, input) = (connection.output_stream(), connection.input_stream());
            let mut buffer = vec![0; 4096];
            for _ in 0..count {
                let written = output.write_all_future(REQUEST, glib::Priority::DEFAULT);
                written.await.expect("a server");
                let read = input.read_future(buffer, glib::Priority::DEFAULT);
                let (bytes, count) = read.await.expect("a server");
                assert_eq!(bytes[count - 1], b'\n', "a whole line");
                buffer = bytes;
            }
        };
        sample(count, || {
            glib::MainContext::default().block_on(exchange(&connection));
        })
    })
}

/// qapi-rs, on tokio.
pub fn ask_qapi(path: &Path) -> Client {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let service = runtime.block_on(async {
        let stream = QmpStreamTokio::open_uds(path).await.expect("a server");
        let stream = stream.negotiate().await.expect("a server");
        stream.spawn_tokio().0
    });
    Box::new(move |count, in_flight| {
        sample(count, || {
            runtime.block_on(async {
                let questions = (0..count).map(|_| service.execute(qapi::qmp::query_status {}));
                futures_util::stream::iter(questions)
                    .buffer_unordered(in_flight)
                    .for_each(async |reply| {
                        reply.expect("a reply");
                    })
                    .await;
            });
        })
    })
}

/// A command of the responders: they send so many events before they answer.
#[derive(Debug, Clone, Serialize)]
struct Storm {
    count: usize,
}

impl qapi::Command for Storm {
    type Ok = qapi::Empty;

    const NAME: &'static str = "bench-storm";
    const ALLOW_OOB: bool = false;
}

impl qapi::qmp::QmpCommand for Storm {}

/// A storm of events heard by qapi-rs.
pub fn storm_qapi(path: &Path) -> Box<dyn FnMut(usize) -> Sample> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .expect("a runtime");
    let (service, mut events) = runtime.block_on(async {
        let stream = QmpStreamTokio::open_uds(path).await.expect("a server");
        stream.negotiate().await.expect("a server").into_parts()
    });
    Box::new(move |count| {
        sample(count, || {
            runtime.block_on(async {
                let mut command = std::pin::pin!(service.execute(Storm { count }));
                let mut heard = 0;
                while heard < count {
                    tokio::select! {
                        biased;
                        event = events.next() => {
                            event.expect("an event").expect("an event");
                            heard += 1;
                        }
                        reply = &mut command => panic!("the reply comes last: {reply:?}"),
                    }
                }
                tokio::select! {
                    reply = &mut command => { reply.expect("a reply"); }
                    _ = events.next() => panic!("no more events"),
                }
            });
        })
    })
}

/// A storm of events heard through a port of ours.
pub fn storm_ours(port: QmpPort, signal: Option<&str>) -> Box<dyn FnMut(usize) -> Sample> {
    let heard = signal.map(|signal| connect(port.upcast_ref(), signal));
    Box::new(move |count| {
        sample(count, || {
            let before = heard.as_ref().map(|heard| heard.get());
            let ended = Heard::default();
            let end = ended.clone();
            let arguments = format!(r#"{{"count":{count}}}"#);
            port.execute_with(
                "bench-storm",
                Some(&arguments),
                CallOptions::default(),
                move |result| {
                    result.expect("a reply");
                    end.set(1);
                },
            );
            until("the storm", || ended.get() == 1);
            if let (Some(heard), Some(before)) = (&heard, before) {
                assert_eq!(heard.get() - before, count as u64, "lost events");
            }
        })
    })
}

/// A storm of events heard by spice-gtk's helper: its own command asks for it.
pub fn storm_helper(
    port: *mut spice::SpiceQmpPort,
    channel: PortChannel,
) -> Box<dyn FnMut(usize) -> Sample> {
    // SAFETY: the port lives as long as its channel.
    let object = unsafe { object(port) };
    let heard = connect(&object, "event");
    Box::new(move |count| {
        sample(count, || {
            let before = heard.get();
            // Its own commands are its five: the storm is asked for past it.
            let request = format!(r#"{{"execute":"bench-storm","arguments":{{"count":{count}}}}}"#);
            write(channel.as_ptr(), request.as_bytes());
            until("the storm", || heard.get() - before == count as u64);
        })
    })
}

/// A program in Python with the package `qemu.qmp`.
pub struct Python {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
}

impl Python {
    /// Connects one; why not, where the package cannot be had.
    pub fn start(path: &Path) -> Result<Self, String> {
        let python = crate::python::interpreter()?;
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .arg(python)
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/qmp_peer.py"))
            .arg(path)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("python3 does not run: {error}"))?;
        let input = child.stdin.take().expect("a pipe was asked for");
        let output = BufReader::new(child.stdout.take().expect("a pipe was asked for"));
        let mut python = Self {
            child,
            input,
            output,
        };
        if python.line() == "ready" {
            Ok(python)
        } else {
            Err("benches/qmp_peer.py does not run".into())
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.output.read_line(&mut line);
        line.trim().to_owned()
    }

    pub fn run(&mut self, task: &str, count: usize, in_flight: usize) -> Sample {
        writeln!(self.input, "{task} {count} {in_flight}").expect("it runs");
        serde_json::from_str(&self.line()).expect("a sample")
    }
}

impl Drop for Python {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
