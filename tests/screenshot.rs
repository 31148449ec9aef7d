// SPDX-License-Identifier: MIT OR Apache-2.0
//! Screenshots of a server that is not QEMU.
#![cfg(feature = "gobject")]

mod common;

use std::fs::File;
use std::future::IntoFuture;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use common::fds::receive;
use common::main_loop::{MainLoop, Task, at_home, with_own_pushed};
use common::script::{GREETING, Request};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Error, Machine, PeerError, QmpPort};

const PNG: &[u8] = b"\x89PNG\r\n\x1a\npixels\0\0\0\0IEND\xaeB`\x82";

struct Server(UnixStream);

impl Server {
    /// Waits for this command.
    #[track_caller]
    fn take(&self, main: &MainLoop, command: &str) -> (Request, Vec<OwnedFd>) {
        let (mut line, mut fds) = (Vec::new(), Vec::new());
        main.until(command, || {
            loop {
                let (bytes, more) = receive(&self.0, 1);
                fds.extend(more);
                line.extend(bytes.iter());
                if bytes.is_empty() || bytes == b"\n" {
                    return !bytes.is_empty();
                }
            }
        });
        let request = Request::parse(&String::from_utf8(line).expect("it is text"));
        assert_eq!(request.command, command);
        (request, fds)
    }

    fn send(&self, message: &Value) {
        writeln!(&self.0, "{message}").expect("the port is there");
    }

    /// Answers this command, which must be the next one. Returns its descriptors.
    #[track_caller]
    fn answer(&self, main: &MainLoop, command: &str, value: &Value) -> Vec<OwnedFd> {
        let (request, fds) = self.take(main, command);
        self.send(&json!({ "return": value, "id": request.id }));
        fds
    }

    /// Nothing else arrives.
    #[track_caller]
    fn rests(&self, main: &MainLoop) {
        main.drain();
        assert!(receive(&self.0, 1).0.is_empty());
    }
}

fn each(test: impl Fn(&MainLoop, &QmpPort, &Server)) {
    with_own_pushed(|main| {
        let (near, far) = UnixStream::pair().expect("a pair of sockets");
        let socket = gio::Socket::from_fd(near.into()).expect("a socket");
        let stream = socket.connection_factory_create_connection();
        let port = at_home(|| QmpPort::for_stream(&stream));
        let server = Server(far);
        writeln!(&server.0, "{GREETING}").expect("the port is there");
        server.answer(main, "qmp_capabilities", &json!({}));
        let running = json!({ "status": "running", "running": true });
        server.answer(main, "query-status", &running);
        main.until("a port that is ready", || port.ready());
        main.drain();
        test(main, &port, &server);
    });
}

type Shot = Task<Result<glib::Bytes, Error>>;

fn shoot(main: &MainLoop, port: &QmpPort) -> Shot {
    main.spawn(Machine::new(port).screenshot().into_future())
}

#[track_caller]
fn is_unexpected(main: &MainLoop, shot: &Shot, text: &str) {
    match main.join("an end", shot) {
        Err(Error::Peer(PeerError::UnexpectedReply { reason, .. })) => {
            assert!(reason.contains(text), "{reason}");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_set_of_another_form() {
    each(|main, port, server| {
        for reply in [
            json!({}),
            json!([]),
            json!({ "fdset-id": "7", "fd": 3 }),
            json!({ "fdset-id": -1, "fd": 3 }),
            json!({ "fdset-id": 0.5 }),
        ] {
            let shot = shoot(main, port);
            server.answer(main, "add-fd", &reply);
            is_unexpected(main, &shot, "");
            server.rests(main);
        }
    });
}

#[test]
fn what_is_written_must_be_a_picture() {
    each(|main, port, server| {
        for (written, text) in [
            (&b""[..], "no picture"),
            (b"P6 640 480 255", "not a PNG"),
            (&PNG[..PNG.len() - 1], "no end"),
            (PNG, ""),
        ] {
            let shot = shoot(main, port);
            let added = json!({ "fdset-id": 7, "fd": 3 });
            let fds = server.answer(main, "add-fd", &added);
            let [fd] = <[_; 1]>::try_from(fds).expect("one descriptor");
            let (request, _) = server.take(main, "screendump");
            let arguments = json!({ "filename": "/dev/fdset/7", "format": "png" });
            assert_eq!(request.arguments, arguments);
            File::from(fd)
                .write_all(written)
                .expect("it can be written");
            server.send(&json!({ "return": {}, "id": request.id }));
            if text.is_empty() {
                assert_eq!(main.join("an end", &shot).unwrap(), PNG);
            } else {
                is_unexpected(main, &shot, text);
            }
            let (request, _) = server.take(main, "remove-fd");
            assert_eq!(request.arguments, json!({ "fdset-id": 7 }));
            server.send(&json!({ "return": {}, "id": request.id }));
            server.rests(main);
        }
    });
}

/// The server has a set with the same id by then, which is another client's.
#[test]
fn a_leftover_set_is_used_only_if_it_still_exists() {
    each(|main, port, server| {
        let machine = Machine::new(port);
        let mut first = true;
        for (left, id) in [
            (json!([]), None),
            (json!([{ "fdset-id": 7, "fds": [{ "fd": 3 }] }]), None),
            (
                json!([{ "fdset-id": 7, "fds": [{ "fd": 3, "opaque": "x" }] }]),
                None,
            ),
            (json!([{ "fdset-id": 7, "fds": [] }]), Some(7)),
        ] {
            let shot = main.spawn(machine.screenshot().into_future());
            if !std::mem::take(&mut first) {
                server.answer(main, "query-fdsets", &left);
            }
            let (request, fds) = server.take(main, "add-fd");
            assert_eq!(
                request.arguments.get("fdset-id").and_then(Value::as_u64),
                id
            );
            server.send(&json!({ "return": { "fdset-id": 7 }, "id": request.id }));
            let (request, _) = server.take(main, "screendump");
            let [fd] = <[_; 1]>::try_from(fds).expect("one descriptor");
            File::from(fd).write_all(PNG).expect("it can be written");
            server.send(&json!({ "return": {}, "id": request.id }));
            assert_eq!(main.join("an end", &shot).unwrap(), PNG);
            server.answer(main, "remove-fd", &json!({}));
        }
    });
}

/// It may be another client's by now.
#[test]
fn what_may_not_be_left_is_not_removed() {
    each(|main, port, server| {
        let machine = Machine::new(port);
        let fail = |command: &str| {
            let (request, _) = server.take(main, command);
            let error = json!({ "class": "GenericError", "desc": "no" });
            server.send(&json!({ "error": error, "id": request.id }));
        };
        let shot = main.spawn(machine.screenshot().into_future());
        server.answer(main, "add-fd", &json!({ "fdset-id": 7 }));
        fail("screendump");
        server.answer(main, "remove-fd", &json!({}));
        assert!(main.join("an end", &shot).is_err());
        for _ in 0..2 {
            let shot = main.spawn(machine.screenshot().into_future());
            fail("query-fdsets");
            assert!(main.join("an end", &shot).is_err());
            server.rests(main);
        }
    });
}

#[test]
fn the_set_of_a_dropped_screenshot_is_removed() {
    each(|main, port, server| {
        let mut shot = Machine::new(port).screenshot().into_future();
        main.block_on(std::future::poll_fn(|cx| {
            assert!(shot.as_mut().poll(cx).is_pending());
            std::task::Poll::Ready(())
        }));
        drop(shot);
        server.answer(main, "add-fd", &json!({ "fdset-id": 9, "fd": 3 }));
        let (request, _) = server.take(main, "remove-fd");
        assert_eq!(request.arguments, json!({ "fdset-id": 9 }));
        server.send(&json!({ "return": {}, "id": request.id }));
        server.rests(main);
        // If it was refused, there is none.
        let shot = shoot(main, port);
        let (request, _) = server.take(main, "add-fd");
        let error = json!({ "class": "GenericError", "desc": "no" });
        server.send(&json!({ "error": error, "id": request.id }));
        assert!(main.join("an end", &shot).is_err());
        server.rests(main);
    });
}
