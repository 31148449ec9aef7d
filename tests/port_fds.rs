// SPDX-License-Identifier: MIT OR Apache-2.0
//! File descriptors that are sent with commands, over a Unix socket.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::fds::{Probe, receive};
use common::main_loop::{MainLoop, at_home, with_own, with_own_pushed};
use common::script::{Ends, GREETING, OOB_GREETING, Request, call};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::transport::Fds;
use spice_qmp::{Call, CallOptions, Error, MAX_FDS, PortState, QmpPort, UsageError};

/// A server that reads a byte at a time, as QEMU does.
struct Server {
    far: RefCell<Option<UnixStream>>,
    line: RefCell<Vec<u8>>,
    fds: RefCell<Vec<OwnedFd>>,
}

/// A request, and the descriptors that came with its first byte.
type Received = (Request, Vec<OwnedFd>);

impl Server {
    fn requests(&self) -> Vec<Received> {
        let mut requests = Vec::new();
        let (mut line, mut fds) = (self.line.borrow_mut(), self.fds.borrow_mut());
        while let Some(far) = &*self.far.borrow() {
            let (bytes, new) = receive(far, 1);
            let Some(byte) = bytes.first() else {
                break;
            };
            assert!(new.is_empty() || line.is_empty(), "within a request");
            fds.extend(new);
            line.push(*byte);
            if *byte == b'\n' {
                let text = String::from_utf8(line.split_off(0)).expect("it is text");
                requests.push((Request::parse(&text), fds.split_off(0)));
            }
        }
        requests
    }

    /// Waits for these commands.
    #[track_caller]
    fn take(&self, main: &MainLoop, commands: &[&str]) -> Vec<Received> {
        let mut requests = Vec::new();
        main.until("the requests", || {
            requests.extend(self.requests());
            requests.len() >= commands.len()
        });
        let names: Vec<_> = requests.iter().map(|(it, _)| &*it.command).collect();
        assert_eq!(names, commands);
        requests
    }

    /// Nothing arrives.
    #[track_caller]
    fn rests(&self, main: &MainLoop) {
        main.drain();
        assert!(self.requests().is_empty());
    }

    fn send(&self, line: &str) {
        if let Some(far) = &mut *self.far.borrow_mut() {
            writeln!(far, "{line}").expect("the port is there");
        }
    }

    fn reply(&self, request: &Request) {
        self.send(&json!({ "return": {}, "id": request.id }).to_string());
    }

    fn close(&self) {
        self.far.take();
    }
}

/// A port that is ready and idle.
fn ready(main: &MainLoop, greeting: &str) -> (QmpPort, Server) {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let socket = gio::Socket::from_fd(near.into()).expect("a socket");
    let stream = socket.connection_factory_create_connection();
    let port = at_home(|| QmpPort::for_stream(&stream));
    let server = Server {
        far: RefCell::new(Some(far)),
        line: RefCell::default(),
        fds: RefCell::default(),
    };
    greet(main, &server, greeting);
    assert!(port.ready());
    (port, server)
}

fn greet(main: &MainLoop, server: &Server, greeting: &str) {
    server.send(greeting);
    for command in ["qmp_capabilities", "query-status"] {
        let (request, _) = server.take(main, &[command]).remove(0);
        server.reply(&request);
        main.drain();
    }
}

fn getfd(port: &QmpPort, probe: &Probe) -> Call<Value> {
    port.execute("getfd", json!({ "fdname": "x" }))
        .fds([probe.fd()])
}

fn list(probe: &Probe) -> Fds {
    Fds::from_array([probe.duplicate()])
}

/// [`call`] with a descriptor.
fn carry(port: &QmpPort, probe: &Probe, ends: &Ends) {
    let (ends, fds) = (ends.clone(), Some(list(probe)));
    port.execute_with_fds("getfd", None, CallOptions::default(), fds, move |result| {
        ends.borrow_mut().push(("getfd".into(), result));
    });
}

/// The duplicate that arrived.
fn only(fds: Vec<OwnedFd>) -> OwnedFd {
    let [fd] = <[_; 1]>::try_from(fds).expect("one descriptor");
    fd
}

#[test]
fn each_descriptor_is_sent_with_the_first_byte_of_its_command() {
    with_own(|main| {
        for greeting in [GREETING, OOB_GREETING] {
            let (port, server) = ready(main, greeting);
            let ends = Ends::default();
            let mut probes = [Probe::new(), Probe::new()];
            // The first is written at once, and the second with later ones.
            call(&port, "a", &ends);
            call(&port, "a", &ends);
            carry(&port, &probes[0], &ends);
            call(&port, "b", &ends);
            carry(&port, &probes[1], &ends);
            call(&port, "c", &ends);
            probes.iter_mut().for_each(Probe::close);

            let mut came = server.take(main, &["a", "a", "getfd", "b"]);
            for (at, (request, fds)) in came.drain(..).enumerate() {
                assert_eq!(fds.len(), usize::from(at == 2));
                if at != 2 {
                    server.reply(&request);
                    continue;
                }
                // One is in flight at a time; commands behind the other one continue to wait.
                server.rests(main);
                server.reply(&request);
                assert!(probes[0].is_end_of(only(fds)));
            }
            let mut came = server.take(main, &["getfd", "c"]);
            server.reply(&came[0].0);
            server.reply(&came[1].0);
            assert!(came.pop().unwrap().1.is_empty());
            assert!(probes[1].is_end_of(only(came.pop().unwrap().1)));
            main.until("the ends", || ends.borrow().len() == 6);
            assert!(ends.borrow().iter().all(|(_, end)| end.is_ok()));
            assert!(probes.iter().all(Probe::is_gone));
        }
    });
}

#[test]
fn a_descriptor_is_sent_once_if_the_socket_is_full() {
    with_own_pushed(|main| {
        let (port, server) = ready(main, GREETING);
        let large = "x".repeat(400_000);
        let mut probe = Probe::new();
        let path = |path: &str| json!({ "path": path });
        let before = main.spawn(port.execute::<Value>("before", path(&large)));
        let carrier = port.execute::<Value>("getfd", path(&large));
        let carrier = main.spawn(carrier.fds([probe.fd()]));
        let after = main.spawn(port.execute::<Value>("after", path(&large)));
        main.drain();
        probe.close();
        let came = server.take(main, &["before", "getfd", "after"]);
        let mut fds = Vec::new();
        for (request, more) in came {
            assert_eq!(more.len(), usize::from(request.command == "getfd"));
            server.reply(&request);
            fds.extend(more);
        }
        for task in [before, carrier, after] {
            main.join("a reply", &task).unwrap();
        }
        assert!(!probe.is_gone());
        assert!(probe.is_end_of(only(fds)));
        assert!(probe.is_gone_soon());
    });
}

#[test]
fn too_many_descriptors_are_refused() {
    with_own(|main| {
        let (port, server) = ready(main, GREETING);
        let probe = Probe::new();
        let with = |count| {
            let fds = std::iter::repeat_n(probe.fd(), count);
            main.spawn(port.execute::<Value>("getfd", ()).fds(fds))
        };
        let end = main.join("the end", &with(MAX_FDS + 1));
        let Err(Error::Usage(UsageError::InvalidArgument(text))) = end else {
            panic!("{end:?}");
        };
        assert!(text.contains("253"), "{text}");
        server.rests(main);

        for count in [MAX_FDS, 0] {
            let task = with(count);
            let (request, fds) = server.take(main, &["getfd"]).remove(0);
            assert_eq!(fds.len(), count);
            server.reply(&request);
            main.join("the reply", &task).unwrap();
        }
    });
}

/// What ends a call before its descriptor is sent, or while it is.
const ENDS: [&str; 9] = [
    "never polled",
    "dropped",
    "timed out",
    "cancelled",
    "closed",
    "lost",
    "greeted again",
    "port dropped",
    "wrong arguments",
];

#[test]
fn none_is_left_open() {
    with_own_pushed(|main| {
        let mut probe = Probe::new();
        for round in 0..4 {
            for end in ENDS {
                for blocked in [false, true] {
                    one_ends(main, end, blocked, &probe, round);
                }
            }
        }
        for _ in 0..100 {
            let (port, server) = ready(main, OOB_GREETING);
            for _ in 0..10 {
                let task = main.spawn(getfd(&port, &probe));
                let (request, _) = server.take(main, &["getfd"]).remove(0);
                server.reply(&request);
                main.join("the reply", &task).unwrap();
            }
        }
        probe.close();
        main.until("the last close", || probe.is_gone());
    });
}

/// Executes a command with a descriptor, which waits behind another one or for room in the
/// socket, and ends it. Nothing of it may be left open.
fn one_ends(main: &MainLoop, end: &str, blocked: bool, outer: &Probe, round: u32) {
    let name = format!("{end}, blocked: {blocked}, round {round}");
    let (port, server) = ready(main, GREETING);
    let mut probe = Probe::new();
    let large = "x".repeat(if blocked { 400_000 } else { 1 });
    let arguments = json!({ "path": large }).to_string();
    // Sent, if not completely.
    port.execute_with_fds(
        "getfd",
        Some(&arguments),
        CallOptions::default(),
        Some(list(outer)),
        |_| (),
    );
    main.drain();
    if end == "never polled" {
        drop(getfd(&port, &probe));
    } else if end == "dropped" {
        let call = getfd(&port, &probe).timeout(Duration::from_secs(100));
        let mut call = Box::pin(call);
        let mut context = std::task::Context::from_waker(std::task::Waker::noop());
        assert!(call.as_mut().poll(&mut context).is_pending());
        assert!(!probe.is_gone());
    } else {
        let ended = std::rc::Rc::new(RefCell::new(None));
        let text = if end == "wrong arguments" { "[" } else { "{}" };
        let timeout = (end == "timed out").then_some(Duration::from_millis(1));
        let options = CallOptions {
            timeout,
            ..CallOptions::default()
        };
        let id = port.execute_with_fds("add-fd", Some(text), options, Some(list(&probe)), {
            let ended = ended.clone();
            move |result| {
                ended.replace(Some(result));
            }
        });
        match end {
            "cancelled" => assert!(port.cancel(id)),
            "closed" => {
                port.set_close_timeout(1);
                main.block_on(port.close());
            }
            "lost" => server.close(),
            "greeted again" => {
                if blocked {
                    server.close();
                } else {
                    server.take(main, &["getfd"]);
                    server.send(GREETING);
                }
            }
            "port dropped" => drop(port),
            _ => {}
        }
        main.until(&name, || ended.borrow().is_some());
        let result = ended.take().unwrap();
        assert!(result.is_err(), "{name}: {result:?}");
    }
    probe.close();
    main.until(&name, || probe.is_gone());
}

#[test]
fn a_port_that_is_not_ready_closes_it() {
    with_own(|main| {
        let (port, server) = ready(main, GREETING);
        server.close();
        main.until("the close", || port.state() == PortState::Closed);
        let mut probe = Probe::new();
        let end = main.block_on(getfd(&port, &probe));
        assert!(
            matches!(end, Err(Error::Usage(UsageError::NotReady { .. }))),
            "{end:?}"
        );
        probe.close();
        assert!(probe.is_gone_soon());
    });
}
