// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port over real SPICE to a scripted server: it is connected to
//! a serial card of QEMU's, which is unplugged and plugged in again.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::time::Duration;

use common::main_loop::{MainLoop, with_default};
use common::peers::{Peer, SerialPort};
use common::qemu::Program;
use common::script::{Ends, GREETING, call, running};
use serde_json::{Value, json};
use spice_qmp::{Error, PeerError, PortState, QmpPort};

/// The command that a port sends when a message stops in the middle.
const NUDGE: &str = "query-name";

/// The server, and the port that it serves.
struct Served<'a> {
    main: &'a MainLoop,
    peer: Box<SerialPort>,
    port: QmpPort,
    partial: RefCell<Vec<u8>>,
}

fn each(test: impl Fn(&Served<'_>) + Send + 'static) {
    with_default(move |main| {
        for program in Program::all() {
            let peer = Box::new(SerialPort::start(main, &program));
            let port = QmpPort::get(peer.channel());
            let served = Served {
                main,
                peer,
                port,
                partial: RefCell::default(),
            };
            test(&served);
            let Served { peer, port, .. } = served;
            drop(port);
            peer.finish(main);
        }
    });
}

impl Served<'_> {
    fn line(&self, line: &str) {
        self.peer.send(format!("{line}\r\n").as_bytes());
    }

    /// The next request, which must have this command. A port that waits long for the
    /// rest of a message, as on a slow machine, asks for the name in between.
    #[track_caller]
    fn request(&self, command: &str) -> Value {
        let mut partial = self.partial.borrow_mut();
        let mut request = None;
        self.main.until(command, || {
            partial.extend(self.peer.received());
            request = std::iter::from_fn(|| take_object(&mut partial))
                .find(|request| command == NUDGE || request["execute"] != NUDGE);
            request.is_some()
        });
        let request = request.unwrap();
        assert_eq!(request["execute"], command);
        request
    }

    #[track_caller]
    fn answer(&self, command: &str, value: &Value) {
        let id = self.request(command)["id"].clone();
        self.line(&json!({ "return": value, "id": id }).to_string());
    }

    /// Opens the port and makes it ready.
    #[track_caller]
    fn open(&self) {
        self.peer.open();
        self.line(GREETING);
        self.answer("qmp_capabilities", &json!({}));
        self.answer("query-status", &running());
        self.main.until("ready", || {
            self.port.ready() && self.port.status().is_some()
        });
    }
}

/// Removes the first object from the bytes, once it is complete. On SPICE no line feed
/// follows it.
fn take_object(bytes: &mut Vec<u8>) -> Option<Value> {
    let mut objects = serde_json::Deserializer::from_slice(bytes).into_iter();
    let object = objects.next()?.ok()?;
    let end = objects.byte_offset();
    bytes.drain(..end);
    Some(object)
}

#[test]
fn a_port_that_is_closed_and_reopened() {
    each(|served| {
        let Served { main, port, .. } = served;
        assert_eq!(port.state(), PortState::Connecting);
        for _ in 0..3 {
            served.open();
            assert_eq!(port.version().as_deref(), Some("10.0.2"));
            let ends = Ends::default();
            call(port, "query-name", &ends);
            served.request(NUDGE);
            // Half a line, which does not affect later sessions.
            served.peer.send(b"{\"return\": ");
            served.peer.close();
            main.until("the end of the call", || !ends.borrow().is_empty());
            assert!(matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]));
            main.drain();
            assert_eq!(port.state(), PortState::Closed);
            assert_eq!((port.version(), port.status()), (None, None));
        }
    });
}

#[test]
fn a_message_that_stops_in_the_middle_is_nudged() {
    each(|served| {
        let Served { main, port, .. } = served;
        served.open();
        let ends = Ends::default();
        call(port, "query-commands", &ends);
        let id = served.request("query-commands")["id"].clone();
        served.peer.send(b"{\"return\": ");
        // Twice, without progress; a new one after progress.
        let nudges = [served.request(NUDGE), served.request(NUDGE)];
        served.peer.send(b"[1,");
        let third = served.request(NUDGE);
        served.line(&format!("2], \"id\": {id}}}"));
        for nudge in nudges.iter().chain([&third]) {
            assert_ne!(nudge["id"], id);
            served.line(&json!({ "return": {}, "id": nudge["id"] }).to_string());
        }
        main.until("the reply", || !ends.borrow().is_empty());
        assert_eq!(ends.borrow()[0].1, Ok("[1,2]".into()));
        assert_eq!(port.pending(), 0);

        // Idle again: nothing more is sent.
        main.drain();
        served.peer.received();
        main.run_for(Duration::from_millis(100));
        assert!(served.peer.received().is_empty());
    });
}

#[test]
fn a_bad_line_over_spice() {
    each(|served| {
        let Served { main, port, .. } = served;
        served.open();
        let ends = Ends::default();
        call(port, "a", &ends);
        served.request("a");
        served.line("garbage");
        main.until("the end of the call", || !ends.borrow().is_empty());
        assert!(matches!(
            ends.borrow()[0].1,
            Err(Error::Peer(PeerError::Malformed(_)))
        ));
        assert!(port.ready());
        call(port, "b", &ends);
        served.answer("b", &json!(1));
        main.until("the reply", || ends.borrow().len() == 2);
        assert_eq!(ends.borrow()[1].1, Ok("1".into()));
    });
}

#[test]
fn a_close_by_the_program_over_spice() {
    each(|served| {
        let Served { main, port, .. } = served;
        served.open();
        let ends = Ends::default();
        call(port, "a", &ends);
        main.block_on(port.close());
        main.drain();
        assert!(matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]));
        served.request("a");
    });
}
