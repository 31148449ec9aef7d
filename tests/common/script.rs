// SPDX-License-Identifier: MIT OR Apache-2.0
//! A scripted QMP server at the other end of `transport::pair()`.

use std::cell::RefCell;
use std::rc::Rc;

use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::transport::{PairPeer, pair};
use spice_qmp::{CallOptions, Error, QmpPort};

use super::main_loop::{MainLoop, at_home};

/// QEMU's greeting on a SPICE port, without its line end.
pub const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian 1:10.0.2"}, "capabilities": []}}"#;
/// QEMU's greeting on a socket.
pub const OOB_GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": "Debian 1:10.0.2"}, "capabilities": ["oob"]}}"#;

/// The server.
pub struct Server {
    pub peer: PairPeer,
    /// The start of an incomplete request.
    partial: RefCell<Vec<u8>>,
}

/// A request of the port.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    pub line: String,
    pub command: String,
    pub arguments: Value,
    pub id: Value,
    pub oob: bool,
}

/// The results of calls, in the order in which they ended.
pub type Ends = Rc<RefCell<Vec<(String, Result<String, Error>)>>>;

/// A port and its server, which has not opened the connection.
pub fn port() -> (QmpPort, Server) {
    let (transport, peer) = pair();
    let port = at_home(|| QmpPort::for_transport(Box::new(transport)));
    (port, Server::new(peer))
}

/// A port that is ready and idle, with the machine running.
pub fn ready(main: &MainLoop) -> (QmpPort, Server) {
    ready_with(main, GREETING)
}

/// [`ready`] after this greeting.
pub fn ready_with(main: &MainLoop, greeting: &str) -> (QmpPort, Server) {
    let (port, server) = port();
    server.peer.open();
    server.make_ready(main, greeting);
    assert!(port.ready());
    (port, server)
}

/// Executes a command; its end is recorded in `ends`.
pub fn call(port: &QmpPort, command: &str, ends: &Ends) -> spice_qmp::qmp::CallId {
    call_with(port, command, CallOptions::default(), ends)
}

/// [`call`] with options.
pub fn call_with(
    port: &QmpPort,
    command: &str,
    options: CallOptions,
    ends: &Ends,
) -> spice_qmp::qmp::CallId {
    let (name, ends) = (command.to_owned(), ends.clone());
    port.execute_with(command, None, options, move |result| {
        ends.borrow_mut().push((name, result));
    })
}

/// The names and values of a port's notifications, in order.
pub fn notifications(port: &QmpPort) -> Rc<RefCell<Vec<String>>> {
    let seen = Rc::<RefCell<Vec<String>>>::default();
    let notes = seen.clone();
    port.connect_notify_local(None, move |_, property| {
        notes.borrow_mut().push(property.name().to_owned());
    });
    seen
}

impl Server {
    pub fn new(peer: PairPeer) -> Self {
        Self {
            peer,
            partial: RefCell::default(),
        }
    }

    /// Greets, and answers the port's own questions.
    #[track_caller]
    pub fn make_ready(&self, main: &MainLoop, greeting: &str) {
        self.line(greeting);
        main.drain();
        self.answer("qmp_capabilities", json!({}));
        main.drain();
        self.answer("query-status", running());
        main.drain();
    }

    /// Sends one line.
    pub fn line(&self, line: &str) {
        self.peer.send(format!("{line}\r\n").as_bytes());
    }

    /// The requests received since the last call.
    pub fn requests(&self) -> Vec<Request> {
        let mut bytes = self.partial.borrow_mut();
        bytes.extend(self.peer.received());
        let end = bytes
            .iter()
            .rposition(|b| *b == b'\n')
            .map_or(0, |at| at + 1);
        let rest = bytes.split_off(end);
        let whole = std::mem::replace(&mut *bytes, rest);
        let text = String::from_utf8(whole).expect("requests are UTF-8");
        text.lines().map(Request::parse).collect()
    }

    /// The names of the commands received since the last call.
    pub fn commands(&self) -> Vec<String> {
        self.requests().into_iter().map(|r| r.command).collect()
    }

    /// The only request received since the last call.
    #[track_caller]
    pub fn request(&self, command: &str) -> Request {
        let mut requests = self.requests();
        assert_eq!(
            requests.len(),
            1,
            "{command} and nothing else: {requests:?}"
        );
        let request = requests.remove(0);
        assert_eq!(request.command, command);
        request
    }

    /// Removes the only request, and answers it.
    #[track_caller]
    pub fn answer(&self, command: &str, value: Value) {
        let request = self.request(command);
        self.reply(&request, value);
    }

    /// Answers a request.
    #[allow(clippy::needless_pass_by_value, reason = "easier to call")]
    pub fn reply(&self, request: &Request, value: Value) {
        self.line(&json!({ "return": value, "id": request.id }).to_string());
    }

    /// Refuses a request.
    pub fn refuse(&self, request: &Request, class: &str, desc: &str) {
        let error = json!({ "class": class, "desc": desc });
        self.line(&json!({ "id": request.id, "error": error }).to_string());
    }

    /// Sends an event without data.
    pub fn event(&self, name: &str) {
        self.line(&format!(
            r#"{{"timestamp": {{"seconds": 1700000000, "microseconds": 42}}, "event": "{name}"}}"#
        ));
    }

    /// Sends an event with data.
    pub fn event_with(&self, name: &str, data: &Value) {
        self.line(&format!(
            r#"{{"timestamp": {{"seconds": 1700000000, "microseconds": 42}}, "event": "{name}", "data": {data}}}"#
        ));
    }
}

impl Request {
    /// Reads one request.
    pub fn parse(line: &str) -> Self {
        let value: Value = serde_json::from_str(line).expect("requests are JSON");
        let oob = value.get("exec-oob").is_some();
        let command = &value[if oob { "exec-oob" } else { "execute" }];
        Self {
            command: command.as_str().expect("requests name a command").into(),
            arguments: value["arguments"].clone(),
            id: value["id"].clone(),
            oob,
            line: line.into(),
        }
    }
}

/// The reply to `query-status` of a running machine.
pub fn running() -> Value {
    json!({ "running": true, "singlestep": false, "status": "running" })
}

/// The reply to `query-status` of a machine that is not running.
pub fn paused() -> Value {
    json!({ "running": false, "singlestep": false, "status": "paused" })
}
