// SPDX-License-Identifier: MIT OR Apache-2.0
//! `QmpServer`: one client on a stream, whatever the client does.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::rc::Rc;

use common::main_loop::{MainLoop, at_home, with_own};
use common::peers::{self, Peer, StreamPeer};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::qmp::limits::{MAX_IN_FLIGHT, MAX_UNREAD};
use spice_qmp::qmp::{ErrorClass, Greeting, Request, Server, Version, VersionTriple};
use spice_qmp::{Error, QmpPort, QmpServer, transport};

/// Runs a test on a server and the far end of its stream, for each kind of stream.
fn each(test: impl Fn(&MainLoop, &str, QmpServer, StreamPeer)) {
    with_own(|main| {
        let (unix, peer) = peers::unix_socket();
        test(main, "Unix", serve(&unix), peer);
        let (tcp, peer) = peers::tcp_socket();
        test(main, "TCP", serve(&tcp), peer);
        let (wrapped, peer) = peers::wrapped();
        test(main, "stream", serve(&wrapped), peer);
    });
}

fn serve(stream: &impl IsA<gio::IOStream>) -> QmpServer {
    at_home(|| QmpServer::new(stream, &greeting()))
}

fn greeting() -> Greeting {
    Greeting {
        version: Version {
            qemu: VersionTriple {
                major: 9,
                minor: 1,
                micro: 2,
            },
            package: String::new(),
        },
        capabilities: vec!["oob".into()],
    }
}

const NEGOTIATION: &[u8] = br#"{"execute":"qmp_capabilities"}"#;

/// Takes requests until the connection ends, which is recorded.
fn requests(main: &MainLoop, server: &QmpServer) -> (Rc<RefCell<Vec<Request>>>, Rc<Cell<bool>>) {
    let (requests, ended) = (
        Rc::<RefCell<Vec<Request>>>::default(),
        Rc::<Cell<bool>>::default(),
    );
    main.spawn({
        let (requests, ended, server) = (requests.clone(), ended.clone(), server.clone());
        async move {
            while let Some(request) = server.next().await {
                requests.borrow_mut().push(request);
            }
            ended.set(true);
        }
    });
    (requests, ended)
}

/// Waits for the far end's next lines.
fn lines(main: &MainLoop, peer: &StreamPeer, count: usize) -> Vec<Value> {
    let text = RefCell::new(Vec::new());
    main.until("lines", || {
        text.borrow_mut().extend(peer.received());
        String::from_utf8_lossy(&text.borrow())
            .matches('\n')
            .count()
            >= count
    });
    let text = String::from_utf8(text.into_inner()).unwrap();
    let lines = text.lines().map(|line| serde_json::from_str(line).unwrap());
    lines.collect()
}

#[test]
fn a_port_is_served() {
    with_own(|main| {
        let (near, far) = UnixStream::pair().unwrap();
        let server = serve(&connection(near));
        let port = at_home(|| QmpPort::for_stream(&connection(far)));
        main.spawn({
            let server = server.clone();
            async move {
                while let Some(request) = server.next().await {
                    let (number, arguments) = (request.number(), request.arguments());
                    match request.command() {
                        "echo" => assert!(server.reply(number, arguments.unwrap()).unwrap()),
                        _ => assert!(server.refuse(number, &ErrorClass::DeviceNotFound, "no")),
                    }
                }
            }
        });
        main.block_on(port.wait_ready()).unwrap();
        assert_eq!(port.version().as_deref(), Some("9.1.2"));
        for number in [1, 2, 3] {
            let arguments = json!({ "n": number });
            let answer = main.block_on(port.execute::<Value>("echo", &arguments));
            assert_eq!(answer.unwrap(), arguments);
        }
        let refused = main.block_on(port.execute::<Value>("no", ())).unwrap_err();
        let not_found = matches!(
            refused,
            Error::Command {
                class: ErrorClass::DeviceNotFound,
                ..
            }
        );
        assert!(not_found, "{refused}");
        let mut events = port.events();
        assert!(server.event("STOP", Some("{\"a\":1}")).unwrap());
        let event = main.block_on(events.next()).unwrap();
        assert_eq!((event.name(), event.data()), ("STOP", Some("{\"a\":1}")));
        assert!(event.timestamp() > 0);
        assert_eq!(server.close_reason(), None);
        server.close();
        let reason = server.close_reason();
        assert_eq!(reason.as_deref(), Some("the server closed the connection"));
        main.until("the end", || !port.ready());
    });
}

#[test]
fn in_process_too() {
    with_own(|main| {
        let (transport, peer) = transport::pair();
        let server =
            at_home(|| QmpServer::for_transport(Box::new(transport), Server::new(&greeting())));
        peer.open();
        peer.send(NEGOTIATION);
        peer.send(br#"{"execute":"a","id":1}"#);
        let request = main.block_on(server.next()).unwrap();
        assert!(server.reply(request.number(), "5").unwrap());
        main.drain();
        let sent = String::from_utf8(peer.received()).unwrap();
        assert_eq!(sent.lines().count(), 3);
        assert_eq!(sent.lines().last(), Some("{\"return\": 5, \"id\": 1}"));
        peer.close("gone");
        assert!(main.block_on(server.next()).is_none());
        assert_eq!(server.close_reason().as_deref(), Some("gone"));
    });
}

#[test]
fn a_client_that_asks_too_much_waits() {
    each(|main, name, server, peer| {
        let (requests, ended) = requests(main, &server);
        peer.send(NEGOTIATION);
        assert_eq!(lines(main, &peer, 2).len(), 2, "{name}");
        for _ in 0..3 * MAX_IN_FLIGHT {
            peer.send(br#"{"execute":"a"}"#);
        }
        let all = Cell::new(0);
        main.until("requests", || requests.borrow().len() == MAX_IN_FLIGHT);
        main.drain();
        assert_eq!(requests.borrow().len(), MAX_IN_FLIGHT, "{name}");
        main.until("all of them", || {
            for request in requests.take() {
                all.set(all.get() + 1);
                assert!(server.reply(request.number(), "{}").unwrap());
            }
            all.get() == 3 * MAX_IN_FLIGHT
        });
        assert!(!ended.get());
        peer.close();
        main.until("the end", || ended.get());
    });
}

/// The server does not read a client that does not read, so it notices its end by writing.
#[test]
fn a_client_that_is_held_back_can_go() {
    each(|main, name, server, peer| {
        let (_, ended) = requests(main, &server);
        peer.send(NEGOTIATION);
        // Far more than there is room for.
        main.until("it to be held back", || {
            let before = server.unread();
            peer.send(&b"]".repeat(10_000));
            main.drain();
            server.unread() > 0 && server.unread() == before
        });
        assert!(!ended.get(), "{name}");
        peer.close();
        main.until(&format!("{name}: the end"), || ended.get());
    });
}

#[test]
fn requests_sent_before_the_client_disconnected_are_returned() {
    each(|main, name, server, peer| {
        peer.send(NEGOTIATION);
        peer.send(br#"{"execute":"a"}{"execute":"b"}"#);
        peer.close();
        let (requests, ended) = requests(main, &server);
        main.until("the end", || ended.get());
        let commands: Vec<_> = requests
            .borrow()
            .iter()
            .map(|request| request.command().to_owned())
            .collect();
        assert_eq!(commands, ["a", "b"], "{name}");
        // There is no reader, and nothing is kept.
        assert!(server.reply(requests.borrow()[0].number(), "{}").unwrap());
        assert_eq!(server.unread(), 0);
    });
}

#[test]
fn a_client_that_does_not_read_events_is_disconnected() {
    each(|main, name, server, peer| {
        let (_, ended) = requests(main, &server);
        peer.send(NEGOTIATION);
        main.until("it has negotiated", || server.is_negotiated());
        let data = format!("{{\"a\":\"{}\"}}", "x".repeat(1 << 20));
        let mut count = 0;
        while !ended.get() {
            server.event("A", Some(&data)).unwrap();
            assert!(server.unread() <= MAX_UNREAD + data.len() + 100, "{name}");
            main.drain();
            count += 1;
            assert!(count < 100, "{name}");
        }
        let reason = server.close_reason().unwrap();
        assert!(reason.contains("does not read"), "{name}: {reason}");
    });
}

#[test]
fn what_was_sent_is_read_before_the_end() {
    each(|main, name, server, peer| {
        peer.send(NEGOTIATION);
        assert_eq!(lines(main, &peer, 2).len(), 2);
        let data = format!("{{\"a\":\"{}\"}}", "x".repeat(4 << 20));
        server.event("A", Some(&data)).unwrap();
        let finished = Rc::<Cell<bool>>::default();
        main.spawn({
            let (server, finished) = (server.clone(), finished.clone());
            async move {
                server.finish().await;
                finished.set(true);
            }
        });
        main.drain();
        assert!(!finished.get(), "{name}");
        assert_eq!(lines(main, &peer, 1)[0]["event"], "A", "{name}");
        main.until("the end", || finished.get());
        assert!(main.block_on(server.next()).is_none());
    });
}

#[test]
fn the_last_reference_closes() {
    with_own(|main| {
        let (near, mut far) = UnixStream::pair().unwrap();
        far.set_nonblocking(true).unwrap();
        let server = serve(&connection(near));
        let again = server.clone();
        drop(server);
        main.drain();
        let mut bytes = Vec::new();
        assert!(far.read_to_end(&mut bytes).is_err(), "it is open");
        assert!(bytes.starts_with(b"{\"QMP\""));
        drop(again);
        main.until("the end", || matches!(far.read(&mut [0]), Ok(0)));
    });
}

fn connection(stream: UnixStream) -> gio::SocketConnection {
    let socket = gio::Socket::from_fd(stream.into()).unwrap();
    socket.connection_factory_create_connection()
}
