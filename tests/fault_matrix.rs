// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fault matrix on ports of this process.
#![cfg(feature = "spice")]

mod common;
mod matrix;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::IntoFuture;
use std::process::Command;
use std::rc::Rc;
use std::time::Duration;

use common::display::{self, DisplayPeer};
use common::fds::Probe;
use common::hostile::SpicePeer;
use common::main_loop::with_default;
use common::peers::{self, Peer};
use gio::prelude::*;
use matrix::cases::{Case, Use};
use matrix::drive::{Share, play, play_here};
use matrix::expected::Outcome;
use matrix::program::{
    BACKUP, Call, DRIVE, Kind, LONG, MAX_MESSAGE, Program, RIGHT, SNAPSHOT, SUPPORTED, What,
    long_arguments,
};
use serde_json::Value;
use spice_qmp::qmp::CallId;
use spice_qmp::transport::{DbusTransport, Fds, SpiceTransport, StreamTransport, Transport, pair};
use spice_qmp::{CallOptions, Drive, Error, List, Machine, PortState, QmpPort};

/// Most cases that wait do so for a second: this many wait at once.
const THREADS: usize = 24;
/// A case that makes connections delays the others for longer.
const THREADS_ON_DBUS: usize = 6;
/// How long a main loop waits before it checks a case again.
const IDLE: Duration = Duration::from_millis(20);
/// More iterations than this without a pause are a busy loop.
const BUSY: usize = 100_000;

#[test]
fn every_case_ends_as_documented() {
    let on_pair = play(Share::All, THREADS, || Ports::new(Rc::new(connect_pair)));
    let on_socket = play(Share::Most, THREADS, || Ports::new(Rc::new(connect_socket)));
    let under_another = play(Share::Most, THREADS, || {
        Ports::under_another(Rc::new(connect_socket))
    });
    let on_stream = play(Share::Most, THREADS, || {
        Ports::under_another(Rc::new(connect_stream))
    });
    common::say(&format!(
        "fault matrix: {on_pair} cases on pair, {on_socket} on a socket pair \
         (where reopen is a new port on a new pair), {under_another} of them again while \
         a main context other than the port's is the thread's default, and so {on_stream} on \
         a GIOStream"
    ));
}

/// A hostile SPICE server. SPICE is on GLib's default main context, where the
/// cases are played one after the other.
#[test]
fn every_case_ends_as_documented_on_spice() {
    with_default(|main| {
        let peer = Rc::new(SpicePeer::start(main));
        let server = peer.clone();
        let connect: Connect = Rc::new(move || {
            // Left over by the previous case.
            server.close();
            server.block(false);
            while glib::MainContext::default().iteration(false) {}
            server.received();
            (
                Box::new(SpiceTransport::new(&server.channel())),
                server.clone(),
            )
        });
        let count = play_here(Share::Most, || Ports::new(connect.clone()));
        drop(connect);
        Box::new(Rc::into_inner(peer).expect("the ports are gone")).finish(main);
        common::say(&format!(
            "fault matrix: {count} cases on SPICE (where a write error is a close)"
        ));
    });
}

/// A D-Bus display at the other end of a connection. All cases in `./dev sanitize`.
#[test]
fn every_case_ends_as_documented_on_dbus() {
    let count = play(Share::Part, THREADS_ON_DBUS, || Ports {
        long: display::more_than_a_socket_holds(),
        ..Ports::new(Rc::new(connect_dbus))
    });
    common::say(&format!("fault matrix: {count} cases on a D-Bus display"));
}

/// A socket pair, and a file descriptor with each command. All cases in `./dev sanitize`.
#[test]
fn every_case_ends_as_documented_with_descriptors() {
    let count = play(Share::Part, THREADS, || {
        Ports::with_fds(Rc::new(connect_socket))
    });
    common::say(&format!("fault matrix: {count} cases with descriptors"));
}

/// No invalid access, and no definite or indirect leak.
#[test]
fn every_case_ends_as_documented_under_valgrind() {
    for test in [
        "every_case_ends_as_documented",
        "every_case_ends_as_documented_on_dbus",
    ] {
        under_valgrind(test);
    }
}

fn under_valgrind(test: &str) {
    let own = std::env::current_exe().expect("this test has a file");
    let known = concat!(env!("CARGO_MANIFEST_DIR"), "/sys/tests/c/glib.supp");
    let output = Command::new("valgrind")
        .args(["-q", "--leak-check=full", "--num-callers=30"])
        .args(["--show-leak-kinds=definite,indirect"])
        .args(["--errors-for-leak-kinds=definite,indirect"])
        .args(["--error-exitcode=99", "--fair-sched=yes"])
        .arg(format!("--suppressions={known}"))
        .arg(own)
        .env("SPICE_QMP_TEST_PATIENCE", "120")
        .args(["--exact", test, "--nocapture"])
        .output()
        .unwrap_or_else(|error| {
            panic!("valgrind does not run ({error}). Install it: apt-get install valgrind")
        });
    let told = String::from_utf8_lossy(&output.stderr);
    let status = output.status;
    assert!(status.success(), "{status}\n{told}");
    let figures = told.lines().find(|line| line.starts_with("fault matrix: "));
    let figures = figures.expect("the matrix prints how many cases it has");
    common::say(&format!("{figures}, under valgrind"));
}

fn connect_pair() -> (Box<dyn Transport>, Rc<dyn Peer>) {
    let (transport, peer) = pair();
    (Box::new(transport), Rc::new(peer))
}

fn connect_socket() -> (Box<dyn Transport>, Rc<dyn Peer>) {
    let (connection, peer) = peers::unix_socket();
    send_little(&connection.socket());
    (Box::new(peers::on_socket(&connection)), Rc::new(peer))
}

fn connect_stream() -> (Box<dyn Transport>, Rc<dyn Peer>) {
    let (connection, peer) = peers::wrapped();
    let inner = connection.base_io_stream();
    let inner = inner.downcast_ref::<gio::SocketConnection>();
    send_little(&inner.expect("a socket").socket());
    (Box::new(StreamTransport::new(&connection)), Rc::new(peer))
}

/// As small as possible: a write that is not read must not end.
fn send_little(socket: &gio::Socket) {
    let (sol_socket, so_sndbuf) = (1, 7);
    socket
        .set_option(sol_socket, so_sndbuf, 1)
        .expect("a socket");
}

fn connect_dbus() -> (Box<dyn Transport>, Rc<dyn Peer>) {
    let peer = DisplayPeer::start();
    let transport = DbusTransport::new(peer.connection(), None, QmpPort::is_qmp_name);
    (Box::new(transport), Rc::new(peer))
}

type Connect = Rc<dyn Fn() -> (Box<dyn Transport>, Rc<dyn Peer>)>;
type Ends = Rc<RefCell<HashMap<usize, Vec<Outcome>>>>;

/// A program in Rust.
struct Ports {
    context: glib::MainContext,
    connect: Connect,
    /// The length of arguments that do not fit into the connection's buffers.
    long: usize,
    /// The program's reference.
    port: Rc<RefCell<Option<QmpPort>>>,
    /// The last port, while it exists.
    weak: glib::WeakRef<QmpPort>,
    ends: Ends,
    /// The calls that can be cancelled.
    call: Cell<Option<CallId>>,
    task: RefCell<Option<glib::JoinHandle<()>>>,
    /// A list that is loading.
    list: Rc<RefCell<Option<List>>>,
    /// The descriptor sent with each command. The last one is dropped.
    watched: Option<Watched>,
}

impl Ports {
    fn new(connect: Connect) -> Self {
        Self::on(glib::MainContext::ref_thread_default(), connect)
    }

    /// Its context is the thread's default when a port is created, and at no other time.
    fn under_another(connect: Connect) -> Self {
        Self::on(glib::MainContext::new(), connect)
    }

    /// Each command carries a descriptor.
    fn with_fds(connect: Connect) -> Self {
        Self {
            watched: Some(Watched(Probe::new())),
            ..Self::new(connect)
        }
    }

    fn on(context: glib::MainContext, connect: Connect) -> Self {
        Self {
            context,
            connect,
            long: LONG,
            port: Rc::default(),
            weak: glib::WeakRef::new(),
            ends: Rc::default(),
            call: Cell::default(),
            task: RefCell::default(),
            list: Rc::default(),
            watched: None,
        }
    }

    /// What happens at the end of a call made in this way.
    fn end(&self, call: Call, rest: Rc<dyn Fn()>) -> End {
        End {
            ends: self.ends.clone(),
            slot: call.slot,
            way: call.way,
            port: self.port.clone(),
            rest,
            told: false,
        }
    }

    fn spawn(&self, future: impl Future<Output = ()> + 'static) {
        self.task.replace(Some(self.context.spawn_local(future)));
    }

    fn execute(&self, port: &QmpPort, call: Call, end: End) {
        if call.way == Use::NullCallback && !call.long {
            // The menu of a viewer, which is closed at once.
            return Machine::new(port).activate_action("pause", None);
        }
        if call.way == Use::Supports {
            let machine = Machine::new(port);
            return self.spawn(async move {
                let schema = machine.load_schema().await;
                drop(machine);
                end.with(schema.map(|schema| schema.has_command(SUPPORTED)));
            });
        }
        match call.way {
            Use::List => return self.show(&Machine::new(port).drives(), end),
            Use::RunJob => {
                let job = Machine::new(port).run_job(BACKUP, ());
                return self.do_it(job.into_future(), end);
            }
            Use::Snapshot => {
                let load = Machine::new(port).load_snapshot(SNAPSHOT);
                return self.do_it(load, end);
            }
            Use::Insert => return self.insert(end),
            _ => {}
        }
        let arguments = call.long.then(|| long_arguments(self.long));
        let command = self.command(call);
        if call.way == Use::Future {
            let arguments: Option<Value> =
                arguments.map(|text| serde_json::from_str(&text).expect("it is JSON"));
            // It also waits for an event, until the call has ended.
            let event = port.wait_event(["NEVER"]);
            let fds = self.watched.iter().map(|it| it.0.fd());
            let reply = port.execute::<Value>(command, arguments).fds(fds);
            return self.spawn(async move {
                let reply = reply.await;
                drop(event);
                end.with(reply.map(|value| value["running"] == true));
            });
        }
        let options = CallOptions {
            timeout: call.deadline,
            ..CallOptions::default()
        };
        let fds = self.watched.as_ref();
        let fds = fds.map(|it| Fds::from_array([it.0.duplicate()]));
        let id = port.execute_with_fds(command, arguments.as_deref(), options, fds, {
            move |reply: Result<String, Error>| {
                end.with(reply.map(|reply| reply.contains(RIGHT)));
            }
        });
        self.call.set(Some(id));
    }

    fn do_it(&self, it: impl Future<Output = Result<(), Error>> + 'static, end: End) {
        self.spawn(async move {
            let done = it.await;
            end.with(done.map(|()| true));
        });
    }

    /// Inserts a medium when the list is there.
    fn insert(&self, end: End) {
        let list = self.list.borrow().clone().expect("it was asked for");
        if !list.loading() {
            return insert(&self.context, &list, end);
        }
        let (context, end) = (self.context.clone(), Cell::new(Some(end)));
        list.connect_loading_notify(move |list| {
            if !list.loading()
                && let Some(end) = end.take()
            {
                insert(&context, list, end);
            }
        });
    }

    /// As a list view does.
    fn show(&self, list: &List, end: End) {
        let (kept, end) = (self.list.clone(), Cell::new(Some(end)));
        list.connect_loading_notify(move |list| {
            if list.loading() {
                return;
            }
            kept.take();
            let result = match list.error() {
                Some(error) => Err(error),
                None => Ok(list.item(0).and_downcast::<Drive>()),
            };
            let end = end.take().expect("it is loaded once");
            end.with_error(result.map(|drive| drive.is_some_and(|it| it.name() == DRIVE)));
        });
        self.list.replace(Some(list.clone()));
        list.n_items();
    }

    fn wait_ready(&self, port: &QmpPort, call: Call, end: End) {
        let port = port.clone();
        self.spawn(async move {
            // The port's own timeout would expire if a machine is very slow.
            let timeout = call.deadline.unwrap_or(Duration::from_mins(10));
            let ready = port.wait_ready_within(timeout).await;
            drop(port);
            end.with(ready.map(|()| true));
        });
    }
}

/// Inserts a medium into the first drive.
fn insert(context: &glib::MainContext, list: &List, end: End) {
    if let Some(error) = list.error() {
        return end.with_error(Err(error));
    }
    let Some(drive) = list.item(0).and_downcast::<Drive>() else {
        return end.with(Ok(false));
    };
    context.spawn_local(async move {
        let inserted = drive.insert("disc").await;
        drop(drive);
        end.with(inserted.map(|()| true));
    });
}

/// When nothing of a case is left, no descriptor is open either.
struct Watched(Probe);

impl Drop for Watched {
    fn drop(&mut self) {
        self.0.close();
        let is_gone = self.0.is_gone_soon();
        assert!(is_gone || std::thread::panicking(), "one is left open");
    }
}

/// A callback's action. It may be dropped without having been called.
struct End {
    ends: Ends,
    slot: usize,
    way: Use,
    port: Rc<RefCell<Option<QmpPort>>>,
    rest: Rc<dyn Fn()>,
    told: bool,
}

impl End {
    /// The call has ended, and with the right answer (`true`) if with any.
    fn with(self, result: Result<bool, Error>) {
        self.with_error(result.map_err(glib::Error::from));
    }

    fn with_error(mut self, result: Result<bool, glib::Error>) {
        let outcome = match result {
            // Fire and forget.
            _ if self.way == Use::NullCallback => Outcome::Unseen,
            Ok(true) => Outcome::Success,
            Ok(false) => Outcome::Other("somebody else's answer".into()),
            Err(error) => Outcome::of_error(error.domain().as_str(), error.code()),
        };
        self.note(outcome);
        match self.way {
            Use::UnrefInCallback => drop(self.port.take()),
            Use::NestedLoop => (self.rest)(),
            _ => {}
        }
    }

    fn note(&mut self, outcome: Outcome) {
        self.told = true;
        let mut ends = self.ends.borrow_mut();
        ends.entry(self.slot).or_default().push(outcome);
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if !self.told {
            self.note(Outcome::Unseen);
        }
    }
}

impl Program for Ports {
    fn connect(&self, case: Case) -> Rc<dyn Peer> {
        let made = self.context.with_thread_default(|| {
            let (transport, peer) = (self.connect)();
            (QmpPort::for_transport(transport), peer)
        });
        let (port, peer) = made.expect("no other thread runs the context");
        // Over SPICE, too: most peers of the matrix leave something unanswered.
        port.set_close_timeout(1000);
        port.set_max_message_size(MAX_MESSAGE);
        // Events are listened to, so that they take their turn among everything else.
        port.connect_qmp_event(None, |_, event| assert!(!event.name().is_empty()));
        if case.way == Use::Insert {
            let drives = Machine::new(&port).drives();
            drives.n_items();
            self.list.replace(Some(drives));
        }
        self.weak.set(Some(&port));
        self.port.replace(Some(port));
        peer
    }

    fn forget(&self) {
        self.ends.borrow_mut().clear();
    }

    fn kind(&self) -> Kind {
        Kind::Rust
    }

    fn settle(&self) {
        let mut left = BUSY;
        while self.context.iteration(false) {
            left -= 1;
            assert!(left > 0, "the main loop never comes to rest");
        }
    }

    fn idle(&self) {
        let woken = Rc::new(Cell::new(false));
        let wake = woken.clone();
        let source = glib::timeout_source_new(IDLE, None, glib::Priority::DEFAULT, {
            let wake = glib::thread_guard::ThreadGuard::new(wake);
            move || {
                wake.get_ref().set(true);
                glib::ControlFlow::Break
            }
        });
        source.attach(Some(&self.context));
        self.context.iteration(true);
        source.destroy();
    }

    fn call(&self, call: Call, rest: Rc<dyn Fn()>) {
        let end = self.end(call, rest);
        let Some(port) = self.port.borrow().clone() else {
            return;
        };
        match call.what {
            What::Command => self.execute(&port, call, end),
            What::WaitReady => self.wait_ready(&port, call, end),
            What::Close => self.spawn(async move {
                port.close().await;
                drop(port);
                end.with(Ok(true));
            }),
        }
    }

    fn command(&self, call: Call) -> &'static str {
        match call.way {
            // Dropped at once, like those of a viewer's power menu.
            Use::NullCallback => "stop",
            Use::Supports => "query-qmp-schema",
            Use::List => "query-block",
            Use::RunJob => BACKUP,
            Use::Insert => "blockdev-change-medium",
            // The first one, where the server does not read.
            Use::Snapshot if call.long => "query-block",
            Use::Snapshot => "snapshot-load",
            _ => "query-status",
        }
    }

    fn cancel(&self, _slot: usize) {
        if let Some(task) = self.task.take() {
            task.abort();
        } else if let Some(call) = self.call.take() {
            let port = self.port.borrow().clone();
            port.expect("it is not given up").cancel(call);
        }
    }

    fn drop_port(&self) {
        self.port.take();
        self.task.take();
        self.call.take();
        self.list.take();
    }

    fn state(&self) -> Option<PortState> {
        self.weak.upgrade().map(|port| port.state())
    }

    fn pending(&self) -> u32 {
        self.weak.upgrade().map_or(0, |port| port.pending())
    }

    fn ends(&self, slot: usize) -> Vec<Outcome> {
        self.ends.borrow().get(&slot).cloned().unwrap_or_default()
    }
}
