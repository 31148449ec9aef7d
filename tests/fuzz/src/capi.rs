// SPDX-License-Identifier: MIT OR Apache-2.0
//! The functions of the C library, on a stream within the process.
#![allow(unsafe_code, reason = "they are called as C does")]

mod calls;
mod machine;
mod models;
mod server;
mod signals;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::ptr::null_mut;
use std::rc::Rc;
use std::sync::Once;

use gio::ffi::{GAsyncReadyCallback, GAsyncResult};
use gio::prelude::*;
use glib::ffi::gpointer;
use glib::gobject_ffi::GObject;
use glib::object::ObjectType;
use glib::translate::{IntoGlibPtr, ToGlibPtr, from_glib_borrow};
use serde_json::value::RawValue;
use spice_qmp::transport::{self, PairPeer};
use spice_qmp::{Machine, QmpPort};
use spice_qmp_1::instance::SpiceQmpPort;
use spice_qmp_1::machine::SpiceQmpMachine;
use spice_qmp_1::port::{spice_qmp_port_is_qmp_name, spice_qmp_port_new_for_stream};

use self::calls::{Caller, Function, Of, call_machine, call_port, finish, string};
use self::models::call_item;
use self::server::Served;
use crate::operations::{pick, read};
use crate::session::{greeting, reply};

/// Performs the operations of `data` on a port: calls of the program and actions of
/// the server. Every callback must come once, the port must be freed in the end, and
/// nothing may be logged as a mistake.
///
/// The first byte says whether the port is on a `GIOStream` (then the server's whole
/// output is available from the start), whether it is open before the first
/// operation, whether there are signal handlers, how the port ends, and whether there
/// is a machine from the start.
///
/// # Panics
///
/// If any of this fails.
pub fn capi(data: &[u8]) {
    thread_local! {
        /// One for all: creating a context needs system calls.
        static CONTEXT: glib::MainContext = glib::MainContext::new();
    }
    collect_mistakes();
    let context = CONTEXT.with(Clone::clone);
    let run = context.with_thread_default(|| {
        let (setup, operations) = read(data);
        let world = World::new(setup, operations.clone());
        CURRENT.set(Some(world.clone()));
        for (letter, with) in operations {
            world.take(letter, with);
            check_mistakes();
        }
        world.end(setup);
        check_mistakes();
        CURRENT.set(None);
    });
    run.expect("no other thread has the context");
}

thread_local! {
    static CURRENT: RefCell<Option<Rc<World>>> = const { RefCell::new(None) };
    static MISTAKES: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

/// Keeps warnings and criticals for [`check_mistakes`].
fn collect_mistakes() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        glib::log_set_writer_func(|level, fields| {
            if matches!(
                level,
                glib::LogLevel::Error | glib::LogLevel::Critical | glib::LogLevel::Warning
            ) {
                let message = fields.iter().find(|it| it.key() == "MESSAGE");
                let message = message.and_then(glib::LogField::value_str);
                let message = message.unwrap_or_default().to_owned();
                MISTAKES.with_borrow_mut(|mistakes| mistakes.push(message));
            }
            glib::LogWriterOutput::Handled
        });
    });
}

fn check_mistakes() {
    MISTAKES.with_borrow_mut(|mistakes| {
        assert!(
            mistakes.is_empty(),
            "{}",
            std::mem::take(mistakes).join("\n")
        );
    });
}

/// An asynchronous call with a callback.
struct Call {
    function: Function,
    ends: u32,
    /// The callback's action.
    then: u8,
    cancellable: Option<gio::Cancellable>,
}

struct World {
    context: glib::MainContext,
    /// The program's reference, until it drops it.
    port: Cell<*mut SpiceQmpPort>,
    weak: glib::WeakRef<QmpPort>,
    /// Likewise, once it has created one.
    machine: Cell<*mut SpiceQmpMachine>,
    weak_machine: glib::WeakRef<Machine>,
    peer: Option<PairPeer>,
    /// The ids of requests that the server has received and not answered.
    got: RefCell<Vec<u64>>,
    calls: RefCell<Vec<Call>>,
    /// How many main loops are nested.
    depth: Cell<u32>,
    /// How many events there were.
    events: Cell<u32>,
    /// How often a handler of the machine was called.
    changes: Cell<u32>,
    /// How many jobs with a handler are running.
    jobs: Cell<u32>,
    served: Served,
    /// Callbacks do nothing more.
    is_ending: Cell<bool>,
}

impl World {
    fn new<'d>(setup: u8, operations: impl Iterator<Item = (u8, &'d [u8])>) -> Rc<Self> {
        // Otherwise the ids of requests start at random.
        // SAFETY: it takes a number.
        unsafe { glib::ffi::g_random_set_seed(1) };
        let on_stream = setup & 1 != 0;
        let (port, peer) = if on_stream {
            let input = gio::MemoryInputStream::new();
            for (_, bytes) in operations.filter(|(letter, _)| *letter == b'<') {
                input.add_bytes(&glib::Bytes::from(bytes));
            }
            let stream =
                gio::SimpleIOStream::new(&input, &gio::MemoryOutputStream::new_resizable());
            let stream = stream.upcast::<gio::IOStream>();
            // SAFETY: it is a stream.
            let port = unsafe { spice_qmp_port_new_for_stream(stream.to_glib_none().0) };
            (port, None)
        } else {
            let (transport, peer) = transport::pair();
            let port = QmpPort::for_transport(Box::new(transport));
            let port: *mut <QmpPort as ObjectType>::GlibType = port.into_glib_ptr();
            (port.cast::<SpiceQmpPort>(), Some(peer))
        };
        let world = Rc::new(Self {
            context: glib::MainContext::ref_thread_default(),
            port: Cell::new(port),
            weak: glib::WeakRef::new(),
            machine: Cell::new(null_mut()),
            weak_machine: glib::WeakRef::new(),
            peer,
            got: RefCell::default(),
            calls: RefCell::default(),
            depth: Cell::default(),
            events: Cell::default(),
            changes: Cell::default(),
            jobs: Cell::default(),
            served: Served::default(),
            is_ending: Cell::default(),
        });
        world.with_port(|port| world.weak.set(Some(port)));
        if setup & 2 != 0 {
            world.with_peer(PairPeer::open);
            world.with_peer(|peer| peer.send(&greeting(b"o")));
        }
        if setup & 4 != 0 {
            world.connect_signals();
        }
        if setup & 32 != 0 {
            world.make_machine();
        }
        world
    }

    fn with_peer(&self, act: impl FnOnce(&PairPeer)) {
        if let Some(peer) = &self.peer {
            act(peer);
        }
    }

    /// Calls `act` unless the program has dropped the port.
    fn with_port(&self, act: impl FnOnce(&QmpPort)) {
        let port = self.port.get();
        if !port.is_null() {
            // SAFETY: the program has a reference to the port; another one keeps it
            // should the program give that up meanwhile.
            let port: glib::translate::Borrowed<QmpPort> =
                unsafe { from_glib_borrow(port.cast::<<QmpPort as ObjectType>::GlibType>()) };
            act(&port.clone());
        }
    }

    fn take(&self, letter: u8, with: &[u8]) {
        match letter {
            b'o' => self.with_peer(PairPeer::open),
            b'x' => self.with_peer(|peer| peer.close("closed")),
            b'<' => self.with_peer(|peer| peer.send(with)),
            b'G' => self.with_peer(|peer| peer.send(&greeting(with))),
            b'r' | b'R' => self.reply(letter == b'r', with),
            b'b' => self.with_peer(|peer| peer.block(true)),
            b'B' => self.with_peer(|peer| peer.block(false)),
            b'W' => self.with_peer(|peer| peer.fail_write("lost")),
            b'i' => self.iterate(),
            b'1' => {
                self.context.iteration(false);
            }
            b'h' => self.connect_signals(),
            b'm' => self.with_port(|port| {
                let size = String::from_utf8_lossy(with).trim().parse::<u16>();
                port.set_property("max-message-size", u64::from(size.unwrap_or(99).max(1)));
            }),
            b'C' => {
                let calls = self.calls.borrow();
                let call = (!calls.is_empty()).then(|| &calls[pick(with, calls.len())]);
                let cancellable = call.and_then(|call| call.cancellable.clone());
                drop(calls);
                if let Some(cancellable) = cancellable {
                    cancellable.cancel();
                }
            }
            b'z' => self.give_up(),
            b'M' => self.make_machine(),
            b'Z' => self.give_machine_up(),
            b't' => self.act(with),
            b'k' => self.look_at_machine(),
            b'g' => self.look_at_list(with),
            b'Q' => self.make_server(with),
            b'y' => self.answer(with),
            b'Y' => self.emit(with),
            b'P' => self.end_service(with),
            b'N' => {
                let name = string(with);
                // SAFETY: it is a string.
                unsafe { spice_qmp_port_is_qmp_name(name.as_ptr()) };
            }
            _ => self.call(letter, with),
        }
    }

    /// Makes an asynchronous call: two bytes say whether it can be cancelled and
    /// what its callback does, if it has one.
    fn call(&self, letter: u8, with: &[u8]) {
        let Some(function) = Function::of(letter) else {
            return;
        };
        let (how, with) = with.split_at(with.len().min(2));
        let then = how.get(1).copied().unwrap_or(b'-');
        let cancellable = match how.first() {
            Some(b'c') => Some(gio::Cancellable::new()),
            Some(b'C') => {
                let cancelled = gio::Cancellable::new();
                cancelled.cancel();
                Some(cancelled)
            }
            _ => None,
        };
        self.call_with(function, cancellable.as_ref(), then, with);
    }

    fn call_with(
        &self,
        function: Function,
        cancellable: Option<&gio::Cancellable>,
        then: u8,
        with: &[u8],
    ) {
        let item = (function.object() == Of::Item).then(|| self.item(function, with));
        let item = item.flatten();
        let source: *mut GObject = match function.object() {
            Of::Port => self.port.get().cast(),
            Of::Machine => self.machine.get().cast(),
            Of::Item => item.to_glib_none().0,
        };
        if source.is_null() {
            return;
        }
        let mut calls = self.calls.borrow_mut();
        let data = calls.len() as gpointer;
        let callback: GAsyncReadyCallback = if then == b'n' { None } else { Some(ended) };
        calls.push(Call {
            function,
            // A call without a callback is over at once.
            ends: u32::from(callback.is_none()),
            then,
            cancellable: cancellable.cloned(),
        });
        drop(calls);
        let caller = Caller {
            cancellable: cancellable.to_glib_none().0,
            callback,
            data,
        };
        // SAFETY: the source and the cancellable live, or that is NULL, and the callback
        // takes any data.
        unsafe {
            match function.object() {
                Of::Port => call_port(function, source.cast(), with, caller),
                Of::Machine => call_machine(function, source.cast(), with, caller),
                Of::Item => call_item(function, source, with, caller),
            }
        }
    }

    /// A callback was called: takes the result, and performs the call's action.
    fn ended(&self, at: usize, source: *mut GObject, result: *mut GAsyncResult) {
        let (function, then) = {
            let mut calls = self.calls.borrow_mut();
            let call = &mut calls[at];
            call.ends += 1;
            assert_eq!(
                call.ends, 1,
                "{at}, a {:?}, has ended before",
                call.function
            );
            (call.function, call.then)
        };
        finish(function, source, result);
        match then {
            _ if self.is_ending.get() => {}
            b'e' => self.call_with(Function::Execute, None, b'-', b"query-name"),
            b'i' => self.iterate(),
            b'z' => self.give_up(),
            b'Z' => self.give_machine_up(),
            b't' => self.act(b"2"),
            b'g' => self.look_at_list(b"3"),
            b'l' => self.call_with(Function::LoadSchema, None, b'-', b""),
            b'x' => self.with_peer(|peer| peer.close("closed in a callback")),
            b'o' => self.with_peer(PairPeer::open),
            b'X' => self.call_with(Function::Close, None, b'-', b""),
            b'C' => self.take(b'C', b"0"),
            b'<' => self.with_peer(|peer| peer.send(b"{\"event\": \"STOP\"}\n{\"event\"")),
            _ => {}
        }
    }

    fn reply(&self, worked: bool, with: &[u8]) {
        self.with_peer(|peer| {
            let bytes = peer.received();
            let mut got = self.got.borrow_mut();
            let requests = serde_json::Deserializer::from_slice(&bytes);
            for request in requests.into_iter::<HashMap<String, &RawValue>>() {
                let request = request.expect("a request is JSON");
                got.push(request["id"].get().parse().expect("a number"));
            }
            if !got.is_empty() {
                let count = got.len();
                let id = got.remove(pick(with, count));
                drop(got);
                peer.send(&reply(id, worked, with.get(1..).unwrap_or(b"")));
            }
        });
    }

    /// Drops the program's reference.
    fn give_up(&self) {
        let port = self.port.replace(null_mut());
        if !port.is_null() {
            // SAFETY: it was the program's reference, and there is no other place of it.
            unsafe { glib::gobject_ffi::g_object_unref(port.cast()) };
        }
    }

    /// Runs the main loop until it is idle.
    fn iterate(&self) {
        if self.depth.get() > 3 {
            return;
        }
        self.depth.set(self.depth.get() + 1);
        let mut turns = 0;
        while self.context.iteration(false) {
            turns += 1;
            assert!(turns < 100_000, "the main loop is busy for ever");
        }
        self.depth.set(self.depth.get() - 1);
    }

    fn end(&self, setup: u8) {
        if setup & 8 != 0 {
            self.call_with(Function::Close, None, b'-', b"");
        }
        if setup & 16 != 0 {
            self.give_up();
        }
        self.iterate();
        // Waiting calls hold the port, so it must fail to become ready.
        self.is_ending.set(true);
        self.with_peer(PairPeer::open);
        self.with_peer(|peer| peer.close("the end"));
        self.iterate();
        self.check_lists();
        self.give_up();
        self.give_machine_up();
        self.give_service_up();
        self.iterate();
        for (at, call) in self.calls.borrow().iter().enumerate() {
            assert_eq!(call.ends, 1, "{at}, a {:?}, has not ended", call.function);
        }
        assert_eq!(self.jobs.get(), 0, "a job's handler is kept");
        self.served.check();
        let machine = self.weak_machine.upgrade();
        assert!(machine.is_none(), "something holds the machine");
        assert!(self.weak.upgrade().is_none(), "something holds the port");
        self.with_peer(|peer| assert!(!peer.is_used(), "the transport is kept"));
        assert!(!self.context.pending());
    }
}

fn current() -> Rc<World> {
    CURRENT.with_borrow(Clone::clone).expect("a port is there")
}

unsafe extern "C" fn ended(source: *mut GObject, result: *mut GAsyncResult, data: gpointer) {
    current().ended(data as usize, source, result);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs `act` in a world of its own.
    pub(super) fn with_world(setup: u8, act: impl FnOnce(&World)) {
        collect_mistakes();
        let context = glib::MainContext::new();
        let run = context.with_thread_default(|| {
            let world = World::new(setup, std::iter::empty());
            CURRENT.set(Some(world.clone()));
            act(&world);
            world.end(setup);
            check_mistakes();
            CURRENT.set(None);
        });
        run.expect("the context is new");
    }

    #[test]
    fn calls_reach_the_server_and_come_back() {
        with_world(6, |world| {
            world.take(b'i', b"");
            world.take(b'r', b"0");
            world.take(b'i', b"");
            world.take(b'e', b"--query-name");
            world.take(b'v', b"cequery-block\0{\"a\": 1}");
            world.take(b'i', b"");
            for _ in 0..3 {
                world.take(b'r', b"0");
            }
            world.take(b'<', b"{\"event\": \"STOP\", \"data\": {\"a\": null}}\n");
            world.take(b'i', b"");
            let ends: Vec<u32> = world.calls.borrow().iter().map(|call| call.ends).collect();
            // The callback of the second made the third.
            assert_eq!(ends, [1, 1, 0]);
            assert_eq!(
                world.events.get(),
                3,
                "one handler of each signal and detail"
            );
        });
    }

    /// The replies to the requests, in order.
    pub(super) fn answer(world: &World, replies: &[&str]) {
        for reply in replies {
            world.take(b'i', b"");
            world.take(b'r', &[b"0", reply.as_bytes()].concat());
        }
        world.take(b'i', b"");
    }

    #[test]
    fn a_machine_says_why_it_stopped_and_its_calls_come_back() {
        with_world(2 | 32, |world| {
            let running = r#"{"status": "running", "running": true}"#;
            answer(world, &["{}", running]);
            world.take(b't', b"6");
            let full = r#"{"event": "BLOCK_IO_ERROR", "data": {"qom-path": "/machine/d", "device": "",
                "node-name": "n", "operation": "write", "action": "stop", "nospace": true,
                "reason": "No space left on device"}}"#;
            world.take(
                b'<',
                format!("{full}\n{{\"event\": \"STOP\"}}\n").as_bytes(),
            );
            world.take(b'i', b"");
            assert!(world.changes.get() > 0);
            world.take(b'l', b"--");
            world.take(b'E', b"--0STOP,DEVICE_DELETED");
            world.take(b's', b"--2running");
            world.take(b'U', b"--0disk");
            world.take(b'p', b"--1vga");
            world.take(b'f', b"--4query-name\0{}");
            let schema = r#"[{"name": "stop", "meta-type": "command", "arg-type": "0"},
                {"name": "0", "meta-type": "object", "members": []}]"#;
            answer(world, &["{}"; 3]);
            answer(world, &[schema, "{}", "{}", running]);
            world.take(b'<', b"{\"event\": \"DEVICE_DELETED\", \"data\": {\"device\": \"disk\", \"path\": \"/d\"}}\n");
            world.take(b'<', b"{\"event\": \"RESUME\"}\n");
            answer(world, &[running; 3]);
            let ends: Vec<u32> = world.calls.borrow().iter().map(|call| call.ends).collect();
            assert_eq!(ends, [1; 6]);
        });
    }

    #[test]
    fn every_set_up_runs() {
        let operations = b"?o\xFFG\xFFi\xFFr0\xFFi\xFFwci\xFFeCestop\xFFqcz\xFFa-x0\xFFA--\xFFXc-\xFFC0\
            \xFFi\xFFr0{\"status\":\"running\",\"running\":true}\xFFR0\xFFb\xFFe--cont\xFFi\xFFW\
            \xFF<{\"event\":\"SHUTDOWN\"}\n{\"event\":\"RESUME\"}\nx\n\xFFi\xFFm5\xFFNorg.qemu.monitor.qmp\
            \xFFM\xFFg0\xFFg1\xFFg5\xFFj--stop\xFFS-gs\xFFLc-s\xFFDCZs\xFFt2\xFFlc-\xFFlCZ\xFFUc-0d\xFFp--0\xFFE-M3STOP\xFFE--\xFFs-z0paused\xFFF--4\xFFf--1a\xFFf--9a\
            \xFFk\xFFG\xFFi\xFFZ\xFFi\xFFQn{\"execute\":\"keep\"}{\"execute\":\"idle\"}{\"execute\":\"end\"}]\xFFi\xFFY0STOP\0{}\xFFy0r7\xFFP0\xFFP1\xFFP2\xFFQ{\xFFi";
        for setup in 0..64 {
            let mut input = operations.to_vec();
            input[0] = setup;
            capi(&input);
        }
    }

    #[test]
    #[should_panic(expected = "has ended before")]
    fn a_second_callback_is_found() {
        with_world(2, |world| {
            world.call_with(Function::Close, None, b'n', b"");
            world.ended(0, null_mut(), null_mut());
        });
    }

    #[test]
    #[should_panic(expected = "a mistake")]
    fn a_critical_is_found() {
        collect_mistakes();
        glib::g_critical!("SpiceQmp", "a mistake");
        check_mistakes();
    }

    #[test]
    #[should_panic(expected = "something holds the port")]
    fn a_port_that_is_kept_is_found() {
        with_world(0, |world| {
            world.with_port(|port| std::mem::forget(port.clone()));
        });
    }
}
