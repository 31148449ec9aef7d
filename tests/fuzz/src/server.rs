// SPDX-License-Identifier: MIT OR Apache-2.0
//! Feeds arbitrary bytes of a client, and answers, to a server.

use std::collections::HashMap;

use serde_json::Value;
use spice_qmp::qmp::limits::{MAX_BACKLOG, MAX_IN_FLIGHT, MAX_UNREAD};
use spice_qmp::qmp::{
    Band, ErrorClass, Greeting, Request, RequestId, Server, Version, VersionTriple,
};

use crate::held::held;
use crate::operations::{pick, read, two_strings};

/// Performs the operations of `data` on a server, and on a twin that gets the same bytes in
/// other pieces, and compares the two. Their output must be lines of JSON, with one
/// answer to each request, in order.
///
/// The first byte says: the length of the twin's pieces, whether `oob` is offered,
/// whether the client has negotiated, and the longest message.
///
/// # Panics
///
/// If they differ.
pub fn server(data: &[u8]) {
    let (setup, operations) = read(data);
    let mut world = World::new(setup);
    for (letter, with) in operations.clone() {
        world.take(letter, with);
        world.check();
    }
    world.end();
    memory_is_bounded(setup, &operations);
}

struct World {
    server: Server,
    twin: Server,
    /// The length of the pieces that the twin gets.
    piece: usize,
    /// The requests that were not answered.
    requests: Vec<Request>,
    /// All requests of a band that were returned, in order, and how many were answered.
    in_band: Vec<RequestId>,
    answered: usize,
    out_of_band: HashMap<RequestId, bool>,
    numbers: HashMap<RequestId, usize>,
}

fn greeting(oob: bool) -> Greeting {
    let qemu = VersionTriple {
        major: 9,
        minor: 1,
        micro: 2,
    };
    Greeting {
        version: Version {
            qemu,
            package: String::new(),
        },
        capabilities: if oob { vec!["oob".into()] } else { Vec::new() },
    }
}

fn new_server(setup: u8) -> Server {
    let mut server = Server::new(&greeting(setup & 8 != 0));
    server.set_max_message_size(limit(setup));
    server
}

fn limit(setup: u8) -> usize {
    [64, 200, 1000, 64 << 20][usize::from(setup >> 5 & 3)]
}

impl World {
    fn new(setup: u8) -> Self {
        let mut world = Self {
            server: new_server(setup),
            twin: new_server(setup),
            piece: [1, 2, 3, 5, 8, 21, 55, usize::MAX][usize::from(setup & 7)],
            requests: Vec::new(),
            in_band: Vec::new(),
            answered: 0,
            out_of_band: HashMap::new(),
            numbers: HashMap::new(),
        };
        if setup & 16 != 0 {
            let enable = if setup & 8 != 0 { "\"oob\"" } else { "" };
            let line =
                format!("{{'execute':'qmp_capabilities','arguments':{{'enable':[{enable}]}}}}");
            world.receive(line.replace('\'', "\"").as_bytes());
        }
        world
    }

    fn take(&mut self, letter: u8, with: &[u8]) {
        match letter {
            b'<' => self.receive(with),
            // A valid request with these arguments and this id.
            b'q' | b'o' => {
                let (arguments, id) = two_strings(with);
                let execute = if letter == b'q' {
                    "execute"
                } else {
                    "exec-oob"
                };
                let id = id.map_or(String::new(), |id| format!(",\"id\":{id}"));
                self.receive(
                    format!("{{\"{execute}\":\"stop\",\"arguments\":{arguments}{id}}}").as_bytes(),
                );
            }
            // The byte that no operation can contain.
            b'!' => self.receive(b"\xFF"),
            b'r' | b'x' if !self.requests.is_empty() => {
                let at = pick(with, self.requests.len());
                self.answer(at, letter == b'r', with.get(1..).unwrap_or(b""));
            }
            b'e' => {
                let (name, data) = two_strings(with);
                let event = |server: &mut Server| server.event(&name, data.as_deref(), 12);
                let sent = event(&mut self.server);
                assert_eq!(event(&mut self.twin), sent);
            }
            b't' => self.transmit(),
            b'm' => {
                let number = String::from_utf8_lossy(with);
                let limit = number.trim().parse::<u16>().unwrap_or(100).into();
                self.server.set_max_message_size(limit);
                self.twin.set_max_message_size(limit);
            }
            _ => {}
        }
        self.poll();
    }

    fn receive(&mut self, bytes: &[u8]) {
        // A caller that stops reading when it should.
        if !self.server.wants_input() {
            return;
        }
        self.server.receive(bytes);
        let mut of_twin = Vec::new();
        for piece in bytes.chunks(self.piece) {
            self.twin.receive(piece);
            of_twin.extend(std::iter::from_fn(|| self.twin.poll_request()));
        }
        let requests: Vec<_> = std::iter::from_fn(|| self.server.poll_request()).collect();
        assert_eq!(of_twin, requests, "cut otherwise");
        self.add(requests);
    }

    /// Waiting requests may continue.
    fn poll(&mut self) {
        let requests: Vec<_> = std::iter::from_fn(|| self.server.poll_request()).collect();
        let of_twin: Vec<_> = std::iter::from_fn(|| self.twin.poll_request()).collect();
        assert_eq!(of_twin, requests);
        self.add(requests);
    }

    fn add(&mut self, requests: Vec<Request>) {
        for request in requests {
            let number = request.number();
            let known = self.numbers.insert(number, self.numbers.len());
            assert!(known.is_none(), "{number:?} again");
            match request.band() {
                Band::In => self.in_band.push(number),
                Band::Out => {
                    assert!(self.server.oob());
                    self.out_of_band.insert(number, false);
                }
            }
            for text in [request.id(), request.arguments()].into_iter().flatten() {
                is_json(text);
            }
            let object = request.arguments().is_none_or(|it| it.starts_with('{'));
            assert!(object && self.server.is_negotiated());
            self.requests.push(request);
        }
    }

    /// The answer contains the request's number.
    fn answer(&mut self, at: usize, works: bool, with: &[u8]) {
        let request = self.requests.remove(at);
        let number = request.number();
        let index = self.numbers[&number];
        let text = String::from_utf8_lossy(with);
        let value = format!("[{index} , {text} ]");
        let is_json = is_value(&value);
        for server in [&mut self.server, &mut self.twin] {
            if works {
                assert_eq!(server.reply(number, &value).is_ok(), is_json);
                let last = server.reply(number, &format!("[{index}]"));
                assert_eq!(last, Ok(!is_json), "it is answered once");
            } else {
                let class = ErrorClass::Other(index.to_string().into());
                assert!(server.refuse(number, &class, &text));
            }
            assert!(!server.refuse(number, &ErrorClass::Generic, ""));
        }
    }

    fn transmit(&mut self) {
        let bytes = self.server.poll_transmit();
        assert_eq!(self.twin.poll_transmit(), bytes);
        assert!(self.server.poll_transmit().is_none());
        self.server.transmitted();
        self.twin.transmitted();
        let text = String::from_utf8(bytes.unwrap_or_default()).expect("text is sent");
        assert!(text.is_empty() || text.ends_with("\r\n"));
        for line in text.lines() {
            assert!(!line.contains(|it: char| it.is_ascii_control() && it != '\x7F'));
            self.sent(line);
        }
    }

    fn sent(&mut self, line: &str) {
        if !is_json(line) {
            return;
        }
        let line: Value = serde_json::from_str(line).expect("JSON");
        let index = line["error"]["class"]
            .as_str()
            .and_then(|it| it.parse().ok());
        let index: Option<usize> = index.or_else(|| match line["return"].as_array()?.as_slice() {
            [index, ..] => usize::try_from(index.as_u64()?).ok(),
            [] => None,
        });
        let Some((&number, _)) =
            index.and_then(|index| self.numbers.iter().find(|it| *it.1 == index))
        else {
            return;
        };
        if let Some(answered) = self.out_of_band.get_mut(&number) {
            *answered = true;
        } else if let Some(at) = self.in_band.iter().position(|it| *it == number) {
            assert!(at >= self.answered, "out of order");
            self.answered = at + 1;
        }
    }

    fn check(&self) {
        for server in [&self.server, &self.twin] {
            assert_eq!(server.is_negotiated(), self.server.is_negotiated());
            assert_eq!(server.oob(), self.server.oob());
            assert_eq!(server.pending(), self.requests.len());
            assert_eq!(server.unread(), self.server.unread());
            assert_eq!(server.wants_input(), self.server.wants_input());
            assert_eq!(server.mid_message(), self.server.mid_message());
            assert_eq!(server.is_overrun(), self.server.is_overrun());
        }
        assert!(self.requests.len() <= MAX_IN_FLIGHT);
    }

    /// Everything is answered, and the server continues to read.
    fn end(&mut self) {
        while !self.server.wants_input() && !self.server.is_overrun() {
            while !self.requests.is_empty() {
                self.answer(0, true, b"");
            }
            self.transmit();
            self.poll();
            self.check();
        }
    }
}

/// Whether a text is one JSON value, within an object.
fn is_value(text: &str) -> bool {
    let mut server = Server::new(&greeting(false));
    server.receive(b"{\"execute\":\"qmp_capabilities\"}{\"execute\":\"a\"}");
    let request = server.poll_request().expect("a request");
    server.reply(request.number(), text).is_ok()
}

/// Whether it is JSON that a parser of values accepts, which does not nest too deeply.
fn is_json(text: &str) -> bool {
    match serde_json::from_str::<Value>(text) {
        Ok(_) => true,
        Err(error) => {
            let error = error.to_string();
            let known = ["recursion limit", "out of range"];
            assert!(known.iter().any(|it| error.contains(it)), "{error}: {text}");
            false
        }
    }
}

/// What a server keeps of a client's bytes does not grow with their number.
fn memory_is_bounded<'b>(setup: u8, operations: &(impl Iterator<Item = (u8, &'b [u8])> + Clone)) {
    let before = held();
    let mut server = new_server(setup);
    server.receive(b"{\"execute\":\"qmp_capabilities\"}");
    for _ in 0..2 {
        for (letter, bytes) in operations.clone() {
            if letter != b'<' {
                continue;
            }
            if server.wants_input() {
                server.receive(bytes);
            }
            while let Some(request) = server.poll_request() {
                server.refuse(request.number(), &ErrorClass::Generic, "");
            }
            if server.unread() > MAX_BACKLOG {
                drop(server.poll_transmit());
                server.transmitted();
            }
            // Buffers double, and a text may exist there twice, with escapes.
            let bound = 8192 + 4 * MAX_BACKLOG;
            let bound = bound
                .saturating_add(limit(setup).saturating_mul(16))
                .min(4 * MAX_UNREAD);
            let more = held().wrapping_sub(before);
            assert!(more <= bound, "{more} bytes are kept, more than {bound}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_reach_the_server() {
        let mut world = World::new(0x78);
        let steps: [(u8, &[u8]); 8] = [
            (b'q', b"{\"a\":1}\0[5]"),
            (b'o', b"{}\x007"),
            (b'<', b"x {"),
            (b'!', b""),
            (b'x', b"1no"),
            (b'r', b"0{}"),
            (b'e', b"STOP\0{}"),
            (b't', b""),
        ];
        for (letter, with) in steps {
            world.take(letter, with);
            world.check();
        }
        assert!(world.server.is_negotiated() && world.server.oob());
        assert_eq!(world.numbers.len(), 2);
        assert_eq!(world.out_of_band.values().collect::<Vec<_>>(), [&true]);
        world.end();
    }
}
