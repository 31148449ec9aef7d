// SPDX-License-Identifier: MIT OR Apache-2.0
//! Ports on sockets and on similar streams: which transport is used, and how it affects
//! the socket's owner.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::ffi::CStr;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use common::main_loop::{MainLoop, at_home, home, with_own, with_own_pushed};
use common::peers::{self, Peer};
use common::script::GREETING;
use gio::prelude::*;
use glib::translate::{FromGlib, IntoGlib};
use serde_json::json;
use spice_qmp::transport::{Flow, Incoming, SocketTransport, StreamTransport, Transport};
use spice_qmp::{CallOptions, PortState, QmpPort};

/// How often the stream of a [`derived`] connection was requested.
static ASKED: AtomicUsize = AtomicUsize::new(0);

/// A type of the program's that derives from a connection and has its own stream.
#[allow(unsafe_code)]
fn derived(parent: glib::Type, name: &CStr) -> glib::Type {
    unsafe extern "C" fn input(stream: *mut gio::ffi::GIOStream) -> *mut gio::ffi::GInputStream {
        ASKED.fetch_add(1, Relaxed);
        // SAFETY: the instance's class derives from that of connections.
        unsafe {
            let class = (*stream.cast::<glib::gobject_ffi::GTypeInstance>()).g_class;
            let parent = glib::gobject_ffi::g_type_class_peek_parent(class.cast());
            let input = (*parent.cast::<gio::ffi::GIOStreamClass>()).get_input_stream;
            input.expect("connections have one")(stream)
        }
    }
    unsafe extern "C" fn init(class: glib::ffi::gpointer, _data: glib::ffi::gpointer) {
        // SAFETY: it is the class of a stream that is being made.
        unsafe {
            (*class.cast::<gio::ffi::GIOStreamClass>()).get_input_stream = Some(input);
        }
    }
    // SAFETY: the sizes are the parent's, and the functions have GObject's signatures.
    unsafe {
        let mut query = std::mem::zeroed();
        glib::gobject_ffi::g_type_query(parent.into_glib(), &raw mut query);
        glib::Type::from_glib(glib::gobject_ffi::g_type_register_static_simple(
            parent.into_glib(),
            name.as_ptr(),
            query.class_size,
            Some(init),
            query.instance_size,
            None,
            0,
        ))
    }
}

/// A connection of another type on the same socket.
fn with_type(connection: &gio::SocketConnection, kind: glib::Type) -> gio::SocketConnection {
    let mut socket = [("socket", connection.socket().to_value())];
    let object = glib::Object::with_mut_values(kind, &mut socket);
    object.downcast().expect("it derives from a connection")
}

fn is_greeted(main: &MainLoop, stream: &impl IsA<gio::IOStream>, peer: &dyn Peer) {
    let port = at_home(|| QmpPort::for_stream(stream));
    peer.send(format!("{GREETING}\r\n").as_bytes());
    main.until("the greeting", || port.state() == PortState::Negotiating);
    let mut request = Vec::new();
    main.until("the request", || {
        request.extend(peer.received());
        request.ends_with(b"\n")
    });
    assert!(request.starts_with(br#"{"execute":"qmp_capabilities""#));
}

#[test]
fn only_plain_sockets_bypass_their_streams() {
    with_own_pushed(|main| {
        let plain = [peers::unix_socket(), peers::tcp_socket()];
        for (connection, peer) in &plain {
            is_greeted(main, connection, peer);
            assert!(SocketTransport::new(connection).is_some());
        }
        let (wrapped, peer) = peers::wrapped();
        assert!(SocketTransport::new(&wrapped).is_none());
        is_greeted(main, &wrapped, &peer);

        let names = [c"TestUnixConnection", c"TestTcpConnection"];
        let made = [peers::unix_socket(), peers::tcp_socket()];
        for ((connection, peer), name) in made.iter().zip(names) {
            let derived = with_type(connection, derived(connection.type_(), name));
            assert!(SocketTransport::new(&derived).is_none());
            let before = ASKED.load(Relaxed);
            is_greeted(main, &derived, peer);
            assert!(ASKED.load(Relaxed) > before, "its stream was passed by");
        }
        // Neither of the two types, although it has such a socket.
        let (connection, peer) = peers::unix_socket();
        let base = with_type(&connection, gio::SocketConnection::static_type());
        assert!(SocketTransport::new(&base).is_none());
        is_greeted(main, &base, &peer);
    });
}

#[test]
fn the_blocking_mode_is_the_owners() {
    with_own(|main| {
        for blocking in [false, true] {
            let (connection, peer) = peers::unix_socket();
            let socket = connection.socket();
            socket.set_blocking(blocking);
            let transport = at_home(|| peers::on_socket(&connection));
            let (data, open) = (Rc::new(RefCell::new(Vec::new())), Rc::new(Cell::new(true)));
            transport.start(Rc::new({
                let (data, open) = (data.clone(), open.clone());
                move |incoming| {
                    match incoming {
                        Incoming::Data(bytes) => data.borrow_mut().extend_from_slice(bytes),
                        Incoming::Closed(_) => open.set(false),
                        _ => {}
                    }
                    Flow::On
                }
            }));
            // None of it waits for the peer.
            main.drain();
            transport.write(vec![b'x'; 4 << 20]);
            main.drain();
            peer.send(b"data");
            main.until("the data", || *data.borrow() == b"data");
            assert_eq!(socket.is_blocking(), blocking);
            peer.close();
            main.until("the end", || !open.get());
            assert!(!connection.is_closed(), "that is for its owner to do");
            transport.close();
            main.drain();
            assert!(connection.is_closed());
        }
    });
}

thread_local! {
    /// How many descriptors were ready when the main loop waited.
    static READY: Cell<i32> = const { Cell::new(0) };
}

/// Counts the wakeups of a main context on this thread.
#[allow(unsafe_code)]
fn count_wakeups(context: &glib::MainContext) {
    unsafe extern "C" fn poll(fds: *mut glib::ffi::GPollFD, count: u32, timeout: i32) -> i32 {
        // SAFETY: what GLib hands over.
        let ready = unsafe { glib::ffi::g_poll(fds, count, timeout) };
        READY.set(READY.get() + ready.max(0));
        ready
    }
    READY.set(0);
    // SAFETY: the context lives, and the function has GLib's signature.
    unsafe { glib::ffi::g_main_context_set_poll_func(context.as_ptr(), Some(poll)) };
}

/// GLib wakes a main loop up for many operations on its own thread.
#[test]
fn only_replies_wake_the_main_loop_up() {
    const CALLS: i32 = 100;
    with_own_pushed(|main| {
        let (connection, peer) = peers::unix_socket();
        let port = QmpPort::for_stream(&connection);
        peer.send(format!("{GREETING}\r\n").as_bytes());
        let answer = || {
            for request in serde_json::Deserializer::from_slice(&peer.received()).into_iter() {
                let request: serde_json::Value = request.unwrap();
                let reply = json!({ "return": common::script::running(), "id": request["id"] });
                peer.send(format!("{reply}\r\n").as_bytes());
            }
        };
        main.until("the status", || {
            answer();
            port.status().is_some()
        });
        main.drain();
        count_wakeups(main.context());
        for _ in 0..CALLS {
            let done = Rc::new(Cell::new(false));
            port.execute_with("query-name", None, CallOptions::default(), {
                let done = done.clone();
                move |reply| done.set(reply.is_ok())
            });
            main.until("the reply", || {
                answer();
                done.get()
            });
        }
        let ready = READY.get();
        assert!((CALLS..CALLS * 3 / 2).contains(&ready), "{ready}");
    });
}

/// As in GIO's streams.
#[test]
fn a_socket_with_a_time_limit() {
    type Make = fn(&gio::SocketConnection) -> Box<dyn Transport>;
    let make: [Make; 2] = [
        |it| Box::new(peers::on_socket(it)),
        |it| Box::new(StreamTransport::new(it)),
    ];
    with_own_pushed(|main| {
        let reasons = make.map(|make| {
            let (connection, peer) = peers::unix_socket();
            connection.socket().set_timeout(1);
            let transport = make(&connection);
            let (count, reason) = (Rc::new(Cell::new(0)), Rc::new(RefCell::new(None)));
            transport.start(Rc::new({
                let (count, reason) = (count.clone(), reason.clone());
                move |incoming| {
                    match incoming {
                        Incoming::Data(bytes) => count.set(count.get() + bytes.len()),
                        Incoming::Closed(why) => drop(reason.replace(Some(why))),
                        _ => {}
                    }
                    Flow::Wait
                }
            }));
            peer.send(b"data");
            main.until("the data", || count.get() == 4);
            // A pause of the program is not a silence of the peer.
            main.run_for(Duration::from_millis(1100));
            peer.send(b"more");
            transport.resume();
            main.until("more data", || count.get() == 8);
            assert_eq!(*reason.borrow(), None);
            transport.resume();
            main.until("the end", || reason.borrow().is_some());
            reason.take()
        });
        assert_eq!(reasons[0], reasons[1]);
    });
}

#[test]
fn a_connection_that_its_owner_closes() {
    with_own(|main| {
        for before in [true, false] {
            for (connection, _peer) in [peers::unix_socket(), peers::tcp_socket()] {
                let close = || connection.close(gio::Cancellable::NONE).unwrap();
                if before {
                    close();
                }
                let port = at_home(|| QmpPort::for_stream(&connection));
                main.drain();
                if !before {
                    assert_eq!(port.state(), PortState::Greeting);
                    close();
                }
                main.until("the end", || port.last_error().is_some());
                assert_eq!(port.state(), PortState::Closed);
                let error = port.last_error().unwrap();
                assert!(error.message().contains("closed"), "{error}");
            }
        }
    });
}

/// A sink runs no main loop, but its log handler may.
#[test]
fn a_main_loop_within_a_report() {
    with_own(|main| {
        let (connection, peer) = peers::unix_socket();
        let transport = at_home(|| peers::on_socket(&connection));
        let (depth, deepest) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        let data = Rc::new(RefCell::new(Vec::new()));
        transport.start(Rc::new({
            let (depth, deepest, data) = (depth.clone(), deepest.clone(), data.clone());
            move |incoming| {
                if let Incoming::Data(bytes) = incoming {
                    depth.set(depth.get() + 1);
                    deepest.set(deepest.get().max(depth.get()));
                    // It becomes idle, although there is more to read.
                    while home().iteration(false) {}
                    data.borrow_mut().extend_from_slice(bytes);
                    depth.set(depth.get() - 1);
                }
                Flow::On
            }
        }));
        let sent: Vec<u8> = (0..100_000_u32).flat_map(u32::to_le_bytes).collect();
        for piece in sent.chunks(50_000) {
            peer.send(piece);
            main.drain();
        }
        main.until("the data", || data.borrow().len() == sent.len());
        assert!(*data.borrow() == sent, "out of order");
        assert_eq!(deepest.get(), 1);
    });
}

/// A source without interest in its events would fire for ever.
#[test]
fn one_that_is_held_comes_to_rest() {
    with_own(|main| {
        let (connection, peer) = peers::unix_socket();
        let transport = at_home(|| peers::on_socket(&connection));
        let (count, closed) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        transport.start(Rc::new({
            let (count, closed) = (count.clone(), closed.clone());
            move |incoming| {
                match incoming {
                    Incoming::Data(bytes) => count.set(count.get() + bytes.len()),
                    Incoming::Closed(_) => closed.set(closed.get() + 1),
                    _ => {}
                }
                Flow::Wait
            }
        }));
        peer.send(b"data");
        main.until("the data", || count.get() == 4);
        peer.send(b"more");
        peer.close();
        main.drain();
        assert_eq!((count.get(), closed.get()), (4, 0));
        transport.resume();
        main.until("more data", || count.get() == 8);
        transport.resume();
        main.until("the end", || closed.get() == 1);
        main.drain();
        assert_eq!(closed.get(), 1);
    });
}
