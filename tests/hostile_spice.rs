// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port of a SPICE server that misbehaves, and dies at any time.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::hostile::{PORT, SpiceServer};
use common::main_loop::{MainLoop, Task, with_default};
use common::script::{Ends, GREETING, Request, call, call_with, running};
use common::spice::Client;
use glib::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use spice_qmp::transport::spice::Channel;
use spice_qmp::{CallOptions, ConnectError, Error, PeerError, PortChannel, PortState, QmpPort};

type Search = Task<Result<QmpPort, Error>>;

/// A server that speaks QMP as far as a test lets it.
struct Qmp {
    server: SpiceServer,
    client: Client,
    /// Which of its ports does.
    number: usize,
    /// The start of an incomplete request.
    partial: RefCell<Vec<u8>>,
}

impl Qmp {
    fn start() -> Self {
        Self::at(SpiceServer::start(), 0)
    }

    fn at(server: SpiceServer, number: usize) -> Self {
        let client = Client::to(&server.uri());
        Self {
            server,
            client,
            number,
            partial: RefCell::default(),
        }
    }

    fn line(&self, line: &str) {
        self.server
            .send(self.number, format!("{line}\r\n").as_bytes());
    }

    fn reply(&self, request: &Request, value: &Value) {
        self.line(&json!({ "return": value, "id": request.id }).to_string());
    }

    /// The requests received since the last call. They do not end in a line feed.
    fn requests(&self) -> Vec<Request> {
        let mut bytes = self.partial.borrow_mut();
        bytes.extend(self.server.received(self.number));
        let mut stream = serde_json::Deserializer::from_slice(&bytes).into_iter::<&RawValue>();
        let mut requests = Vec::new();
        let mut end = 0;
        while let Some(Ok(request)) = stream.next() {
            requests.push(Request::parse(request.get()));
            end = stream.byte_offset();
        }
        bytes.drain(..end);
        requests
    }

    /// The next request with this name. Earlier requests are answered.
    fn request(&self, main: &MainLoop, command: &str) -> Request {
        let mut found = None;
        main.until(command, || {
            for request in self.requests() {
                if request.command == command {
                    found = Some(request);
                } else {
                    self.answer(&request);
                }
            }
            found.is_some()
        });
        found.expect("it came")
    }

    /// Answers like a running machine.
    fn answer(&self, request: &Request) {
        let value = match &*request.command {
            "query-status" => running(),
            "query-version" => json!({ "qemu": { "major": 10, "minor": 0, "micro": 2 } }),
            _ => json!({}),
        };
        self.reply(request, &value);
    }

    fn answer_all(&self) {
        for request in self.requests() {
            self.answer(&request);
        }
    }

    /// Begins to search for the port.
    fn search(&self, main: &MainLoop) -> Search {
        main.spawn(QmpPort::find(self.client.session.clone()))
    }

    /// Waits until a client has the port, and opens it.
    fn open(&self, main: &MainLoop) {
        main.until("the client", || self.server.is_connected(self.number));
        self.server.open(self.number);
    }

    /// Answers until the search has ended.
    fn serve(&self, main: &MainLoop, search: &Search) -> Result<QmpPort, Error> {
        main.until("the end of the search", || {
            self.answer_all();
            search.is_done()
        });
        search.take()
    }

    /// A complete good session.
    fn find(&self, main: &MainLoop) -> QmpPort {
        let search = self.search(main);
        main.until("the client", || {
            assert!(!search.is_done(), "{:?}", search.take());
            self.server.is_connected(self.number)
        });
        self.open(main);
        self.line(GREETING);
        let port = self.serve(main, &search).expect("a port");
        self.settle(main, &port);
        port
    }

    /// A command, and its answer.
    fn settle(&self, main: &MainLoop, port: &QmpPort) {
        let call = main.spawn(port.execute::<Value>("query-name", ()));
        main.until("an answer", || {
            self.answer_all();
            call.is_done()
        });
        assert_eq!(call.take(), Ok(json!({})));
        main.until("the status", || {
            self.answer_all();
            port.status().is_some()
        });
    }

    fn finish(self, main: &MainLoop) {
        self.client.finish(main);
    }
}

fn within(millis: u64) -> CallOptions {
    CallOptions {
        timeout: Some(Duration::from_millis(millis)),
        ..CallOptions::default()
    }
}

/// Waits until this many bytes have arrived through the channel.
fn await_bytes(main: &MainLoop, channel: &spice_qmp::PortChannel, send: impl FnOnce()) {
    let came = Rc::new(Cell::new(false));
    let handler = channel.connect_local("port-data", false, {
        let came = came.clone();
        move |_| {
            came.set(true);
            None
        }
    });
    send();
    main.until("the bytes", || came.get());
    channel.disconnect(handler);
}

#[test]
fn a_session_in_messages_of_one_byte() {
    with_default(|main| {
        let qmp = Qmp::start();
        let search = qmp.search(main);
        qmp.open(main);
        let trickle = |line: &str| {
            for byte in format!("{line}\r\n").bytes() {
                qmp.server.send(0, &[byte]);
            }
        };
        trickle(GREETING);
        let port = qmp.serve(main, &search).expect("a port");
        let ends = Ends::default();
        call(&port, "query-name", &ends);
        let request = qmp.request(main, "query-name");
        trickle(&json!({ "return": { "name": "ü" }, "id": request.id }).to_string());
        main.until("the reply", || !ends.borrow().is_empty());
        assert_eq!(ends.borrow()[0].1, Ok(r#"{"name":"ü"}"#.into()));
        drop(port);
        qmp.finish(main);
    });
}

#[test]
fn a_port_is_ready_again_whenever_it_is_reopened() {
    with_default(|main| {
        let qmp = Qmp::start();
        let port = qmp.find(main);
        // Also in the middle of a line, which does not affect the next session.
        for rest in [&b""[..], br#"{"return": {}, "i"#, br#"{"event": "ST"#] {
            let ends = Ends::default();
            call(&port, "query-name", &ends);
            qmp.request(main, "query-name");
            if !rest.is_empty() {
                qmp.server.send(0, rest);
            }
            qmp.server.close(0);
            main.until("the close", || port.state() == PortState::Closed);
            main.until("the end of the call", || !ends.borrow().is_empty());
            assert!(
                matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]),
                "{ends:?}"
            );
            qmp.open(main);
            qmp.line(GREETING);
            main.until("the port", || {
                qmp.answer_all();
                port.ready()
            });
            qmp.settle(main, &port);
            assert!(port.last_error().is_none());
        }
        drop(port);
        qmp.finish(main);
    });
}

/// How far a session has got.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Moment {
    BeforeTheGreeting,
    Negotiating,
    Ready,
    InFlight,
    HalfAReply,
}

const MOMENTS: [Moment; 5] = [
    Moment::BeforeTheGreeting,
    Moment::Negotiating,
    Moment::Ready,
    Moment::InFlight,
    Moment::HalfAReply,
];

/// What happens to the server then.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fate {
    Killed,
    Stopped,
    Cut,
    Restarted,
    Closed,
}

const FATES: [Fate; 5] = [
    Fate::Killed,
    Fate::Stopped,
    Fate::Cut,
    Fate::Restarted,
    Fate::Closed,
];

/// The state of a session at that moment.
struct Scene {
    /// Before the port was ready.
    search: Option<Search>,
    port: Option<QmpPort>,
    /// Requests that the server has not answered.
    owed: Option<Request>,
    ends: Ends,
}

impl Scene {
    /// With timeouts if the server is only stopped: nothing else reveals that.
    fn reach(main: &MainLoop, qmp: &Qmp, moment: Moment, deadlines: bool) -> Self {
        let mut scene = Self {
            search: None,
            port: None,
            owed: None,
            ends: Ends::default(),
        };
        if matches!(moment, Moment::BeforeTheGreeting | Moment::Negotiating) {
            let session = qmp.client.session.clone();
            let patience = Duration::from_millis(if deadlines { 300 } else { 10_000 });
            let search = async move { QmpPort::find_within(session, patience).await };
            let search = main.spawn(search);
            qmp.open(main);
            if moment == Moment::Negotiating {
                qmp.line(GREETING);
                scene.owed = Some(qmp.request(main, "qmp_capabilities"));
            }
            scene.search = Some(search);
            return scene;
        }
        let port = qmp.find(main);
        if moment != Moment::Ready {
            let options = if deadlines {
                within(100)
            } else {
                CallOptions::default()
            };
            call_with(&port, "query-name", options, &scene.ends);
            let request = qmp.request(main, "query-name");
            if moment == Moment::HalfAReply {
                let line = format!(r#"{{"id": {}, "retu"#, request.id);
                let channel = port.channel().expect("a channel");
                await_bytes(main, &channel, || qmp.server.send(0, line.as_bytes()));
            }
            scene.owed = Some(request);
        }
        scene.port = Some(port);
        scene
    }

    /// Every call ends with an error that says what happened.
    fn end(&mut self, main: &MainLoop, moment: Moment, fate: Fate) {
        let context = format!("{moment:?}, {fate:?}");
        let is_right = |error: &Error| match error {
            Error::TimedOut { .. } => fate == Fate::Stopped,
            Error::Closed(_) | Error::Connect(ConnectError::Unreachable { .. }) => {
                fate != Fate::Stopped
            }
            _ => false,
        };
        if let Some(search) = self.search.take() {
            let error = main.join(&context, &search).expect_err(&context);
            assert!(is_right(&error), "{context}: {error:?}");
        }
        let calls = usize::from(matches!(moment, Moment::InFlight | Moment::HalfAReply));
        main.until(&context, || self.ends.borrow().len() == calls);
        for (_, end) in &*self.ends.borrow() {
            let error = end.as_ref().expect_err(&context);
            assert!(is_right(error), "{context}: {error:?}");
        }
        let Some(port) = self.port.take() else {
            return;
        };
        if fate != Fate::Stopped {
            main.until(&context, || port.state() == PortState::Closed);
            main.until("the news of it", || port.last_error().is_some());
        }
        assert_eq!(port.pending(), 0, "{context}");
    }

    /// The server continues: late, but with the same session.
    fn go_on(&mut self, main: &MainLoop, qmp: &Qmp, moment: Moment) {
        match (moment, self.owed.take()) {
            (Moment::BeforeTheGreeting, _) => qmp.line(GREETING),
            (Moment::HalfAReply, _) => qmp.line("rn\": {}}"),
            (_, Some(request)) => qmp.answer(&request),
            _ => {}
        }
        let search = qmp.search(main);
        let port = qmp.serve(main, &search).expect("a port");
        qmp.settle(main, &port);
    }
}

/// No call hangs, and the next session is a good one.
#[test]
fn a_server_may_go_at_any_moment() {
    with_default(|main| {
        let mut cases = 0;
        for moment in MOMENTS {
            for fate in FATES {
                println!("{moment:?}, {fate:?}");
                let mut qmp = Qmp::start();
                let mut scene = Scene::reach(main, &qmp, moment, fate == Fate::Stopped);
                match fate {
                    Fate::Killed => qmp.server.kill(),
                    Fate::Stopped => qmp.server.stop(),
                    Fate::Cut => qmp.server.kick(),
                    Fate::Restarted => qmp.server.restart(),
                    Fate::Closed => qmp.server.close(0),
                }
                scene.end(main, moment, fate);
                if fate == Fate::Stopped {
                    qmp.server.cont();
                    scene.go_on(main, &qmp, moment);
                } else {
                    if fate == Fate::Killed {
                        qmp.server.restart();
                    }
                    // Late messages of the last session must not reach the next.
                    qmp.server.received(0);
                    qmp.partial.borrow_mut().clear();
                    drop(qmp.find(main));
                }
                qmp.finish(main);
                cases += 1;
            }
        }
        println!("{cases} cases");
    });
}

#[test]
fn a_search_right_after_the_end_of_the_server_finds_its_successor() {
    with_default(|main| {
        let mut qmp = Qmp::start();
        for _ in 0..5 {
            drop(qmp.find(main));
            // spice-gtk has not even noticed.
            qmp.server.restart();
        }
        drop(qmp.find(main));
        qmp.finish(main);
    });
}

#[test]
fn a_server_that_reads_no_bytes_only_causes_timeouts() {
    with_default(|main| {
        for frozen in [false, true] {
            let qmp = Qmp::start();
            let port = qmp.find(main);
            if frozen {
                qmp.server.stop();
            } else {
                qmp.server.stall(0, true);
            }
            let ends = Ends::default();
            let arguments = json!({ "text": "x".repeat(64 << 10) }).to_string();
            for _ in 0..200 {
                port.execute_with("echo", Some(&arguments), within(100), {
                    let ends = ends.clone();
                    move |end| ends.borrow_mut().push(("echo".into(), end))
                });
                main.turn();
            }
            main.until("every deadline", || ends.borrow().len() == 200);
            assert!(
                ends.borrow()
                    .iter()
                    .all(|(_, end)| matches!(end, Err(Error::TimedOut { .. }))),
                "{ends:?}"
            );
            assert_eq!(port.pending(), 0);
            // It has its own end.
            main.block_on(port.close());
            assert_eq!(port.state(), PortState::Closed);
            drop(port);
            qmp.finish(main);
        }
    });
}

#[test]
fn a_server_that_reads_again_works_as_before() {
    with_default(|main| {
        let qmp = Qmp::start();
        let port = qmp.find(main);
        qmp.server.stall(0, true);
        let ends = Ends::default();
        for _ in 0..100 {
            call_with(&port, "query-name", within(50), &ends);
        }
        main.until("every deadline", || ends.borrow().len() == 100);
        qmp.server.stall(0, false);
        qmp.settle(main, &port);
        drop(port);
        qmp.finish(main);
    });
}

#[test]
fn a_server_that_refuses_is_reported_as_such() {
    with_default(|main| {
        let qmp = Qmp::start();
        // The second client is refused; the first one stays.
        let port = qmp.find(main);
        qmp.server.refuse(true);
        let second = Client::to(&qmp.server.uri());
        let error = main
            .block_on(QmpPort::find(&second.session))
            .expect_err("refused");
        assert!(
            matches!(error, Error::Connect(ConnectError::Unreachable { .. })),
            "{error:?}"
        );
        qmp.settle(main, &port);
        qmp.server.refuse(false);
        second.finish(main);
        drop(port);
        qmp.finish(main);
    });
}

#[test]
fn a_second_client_takes_the_place_of_the_first() {
    with_default(|main| {
        let qmp = Qmp::start();
        let port = qmp.find(main);
        let ends = Ends::default();
        call(&port, "query-name", &ends);
        qmp.request(main, "query-name");
        let second = Client::to(&qmp.server.uri());
        let search = main.spawn(QmpPort::find(second.session.clone()));
        main.until("the end of the first", || port.state() == PortState::Closed);
        main.until("the end of the call", || !ends.borrow().is_empty());
        assert!(
            matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]),
            "{ends:?}"
        );
        // QEMU greets each new client; a port does not ask for what it has not read.
        let opened = || second.ports().iter().any(PortChannel::is_port_opened);
        main.until("the port of the second", opened);
        assert!(
            qmp.requests().is_empty(),
            "nothing is written before the greeting"
        );
        qmp.line(GREETING);
        let other = qmp.serve(main, &search).expect("a port");
        qmp.settle(main, &other);
        drop((port, other));
        second.finish(main);
        qmp.finish(main);
    });
}

#[test]
fn a_second_client_ends_the_search_of_the_first() {
    with_default(|main| {
        for moment in [Moment::BeforeTheGreeting, Moment::Negotiating] {
            let qmp = Qmp::start();
            let mut scene = Scene::reach(main, &qmp, moment, false);
            let second = Client::to(&qmp.server.uri());
            let search = main.spawn(QmpPort::find(second.session.clone()));
            scene.end(main, moment, Fate::Cut);
            qmp.line(GREETING);
            let port = qmp.serve(main, &search).expect("a port");
            qmp.settle(main, &port);
            drop(port);
            second.finish(main);
            qmp.finish(main);
        }
    });
}

#[test]
fn a_port_among_many() {
    with_default(|main| {
        let names = ["org.spice-space.webdav.0", "serial", PORT, "last"];
        let qmp = Qmp::at(SpiceServer::with_ports(&names), 2);
        // Not QMP, and not for this port.
        qmp.server.open(1);
        qmp.server.send(1, b"login: ");
        let port = qmp.find(main);
        let channel = port.channel().expect("a channel");
        assert_eq!(channel.port_name().as_deref(), Some(PORT));
        assert!(qmp.server.received(1).is_empty());
        drop((port, channel));
        qmp.finish(main);
    });
}

#[test]
fn a_port_that_speaks_something_else() {
    with_default(|main| {
        let qmp = Qmp::start();
        let search = qmp.search(main);
        qmp.open(main);
        for _ in 0..16 {
            qmp.line("SSH-2.0-OpenSSH_9.2");
        }
        let error = qmp.serve(main, &search).expect_err("no QMP");
        assert!(
            matches!(error, Error::Peer(PeerError::NotQmp { .. })),
            "{error:?}"
        );
        qmp.finish(main);
    });
}

#[test]
fn a_session_that_ends_in_the_middle_of_a_reply() {
    with_default(|main| {
        let qmp = Qmp::start();
        let port = qmp.find(main);
        let ends = Ends::default();
        call(&port, "query-name", &ends);
        let request = qmp.request(main, "query-name");
        let channel = port.channel().expect("a channel");
        let half = format!(r#"{{"id": {}, "return": {{"na"#, request.id);
        await_bytes(main, &channel, || qmp.server.send(0, half.as_bytes()));
        drop(channel);
        qmp.client.session.disconnect();
        main.until("the end of the call", || !ends.borrow().is_empty());
        assert!(
            matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]),
            "{ends:?}"
        );
        assert_eq!(port.state(), PortState::Closed);
        main.until("the server's notice", || !qmp.server.is_connected(0));
        drop(port);
        qmp.finish(main);
    });
}

#[test]
fn a_channel_that_is_reconnected_in_the_middle_of_a_reply() {
    with_default(|main| {
        let qmp = Qmp::start();
        let port = qmp.find(main);
        let channel = port.channel().expect("a channel");
        for _ in 0..3 {
            let ends = Ends::default();
            call(&port, "query-name", &ends);
            let request = qmp.request(main, "query-name");
            let half = format!(r#"{{"id": {}, "return": {{"na"#, request.id);
            await_bytes(main, &channel, || qmp.server.send(0, half.as_bytes()));
            common::spice::disconnect(&channel);
            main.until("the end of the call", || !ends.borrow().is_empty());
            assert!(
                matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]),
                "{ends:?}"
            );
            main.until("the server's notice", || !qmp.server.is_connected(0));
            main.until("the new connection", || {
                channel.upcast_ref::<Channel>().connect();
                qmp.server.is_connected(0)
            });
            qmp.line(GREETING);
            main.until("the port", || {
                qmp.answer_all();
                port.ready()
            });
            qmp.settle(main, &port);
        }
        drop((port, channel));
        qmp.finish(main);
    });
}
