// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compares a session fed with arbitrary bytes and calls with a model.

use std::collections::HashSet;

use serde_json::Value;
use serde_json::value::RawValue;
use spice_qmp::qmp::{Band, CallId, Error, ErrorClass, Opening, Session, redacted};

use crate::held::held;
use crate::operations::{pick, read, two_strings};
use crate::reference::session::{Model, Output, Request, without_words};

const FIRST_ID: u64 = 100;

/// Performs the operations of `data` on a session, on a twin that gets the same bytes
/// in other pieces, and on the model, and compares the three.
///
/// The first byte says: the length of the twin's pieces, whether the twin buffers
/// them first, whether commands end in a line feed, and the longest message.
///
/// # Panics
///
/// If they differ.
pub fn session(data: &[u8]) {
    let (setup, operations) = read(data);
    let mut world = World::new(setup);
    for (letter, with) in operations.clone() {
        world.take(letter, with);
        world.check();
    }
    world.end();
    memory_is_bounded(world.limit, &operations);
}

fn first_limit(setup: u8) -> usize {
    [64, 200, 1000, 64 << 20][usize::from(setup >> 5 & 3)]
}

struct World {
    session: Session<usize>,
    twin: Session<usize>,
    model: Model,
    limit: usize,
    /// The length of the pieces that the twin gets.
    piece: usize,
    /// Whether the twin buffers its input first.
    buffers: bool,
    /// The calls: a token is an index.
    calls: Vec<Call>,
    /// All ids of requests.
    ids: HashSet<u64>,
    /// The ids of requests that the server has received on this connection and not answered.
    got: Vec<u64>,
}

struct Call {
    id: CallId,
    /// The number that is in `id`.
    number: u64,
    has_ended: bool,
    /// Whether the arguments contain something that is hidden.
    has_secrets: bool,
}

impl World {
    fn new(setup: u8) -> Self {
        let limit = first_limit(setup);
        let line_feeds = setup & 16 == 0;
        let new_session = || {
            let mut session = Session::new(FIRST_ID);
            session.set_max_message_size(limit);
            session.set_line_feeds(line_feeds);
            session
        };
        let mut model = Model::new(FIRST_ID, limit);
        model.line_feeds = line_feeds;
        Self {
            session: new_session(),
            twin: new_session(),
            model,
            limit,
            piece: [1, 2, 3, 5, 8, 21, 55, usize::MAX][usize::from(setup & 7)],
            buffers: setup & 8 != 0,
            calls: Vec::new(),
            ids: HashSet::new(),
            got: Vec::new(),
        }
    }

    /// Both sessions.
    fn each(&mut self, act: impl Fn(&mut Session<usize>)) {
        act(&mut self.session);
        act(&mut self.twin);
    }

    fn take(&mut self, letter: u8, with: &[u8]) {
        match letter {
            b'c' => {
                self.each(Session::connecting);
                self.model.connecting();
                self.got.clear();
            }
            b'o' => self.open(Opening::GreetingComes),
            b'l' => self.open(Opening::GreetingMayBeGone),
            b'a' => self.open(Opening::GreetingAfterRest),
            b'x' => self.close(true),
            b's' => self.close(false),
            b'm' => {
                let number = String::from_utf8_lossy(with);
                let limit = number.trim().parse::<u16>().unwrap_or(100).into();
                self.each(|session| session.set_max_message_size(limit));
                self.model.stream.limit = limit;
            }
            b'e' => self.execute(with, Band::In),
            b'u' => self.execute(with, Band::Out),
            b'f' | b'g' if self.calls.is_empty() => {}
            b'f' => {
                let call = &self.calls[pick(with, self.calls.len())];
                let (id, number) = (call.id, call.number);
                let error = Error::Cancelled("it".into());
                let failed = self.session.fail(id, error.clone());
                assert_eq!(self.twin.fail(id, error.clone()), failed);
                assert_eq!(self.model.fail(number, error), failed);
            }
            b'g' => {
                let at = pick(with, self.calls.len());
                let id = self.calls[at].id;
                let token = self.session.forget(id);
                assert_eq!(self.twin.forget(id), token);
                assert_eq!(self.model.forget(self.calls[at].number), token);
                if let Some(token) = token {
                    assert_eq!(token, at);
                    self.ended(token);
                }
            }
            b'n' => {
                self.each(Session::nudge);
                self.model.nudge();
            }
            b't' => self.transmit(),
            b'w' => {
                self.each(Session::transmitted);
                self.model.transmitted(true);
            }
            b'W' => {
                self.each(Session::transmit_failed);
                self.model.transmitted(false);
                self.close(true);
            }
            b'<' => self.receive(with),
            b'1' => self.receive_one(with),
            // A line that is too long for the buffer that is kept.
            b'L' => self.receive(&[&b" ".repeat(70_000), with, b"\n"].concat()),
            b'+' => self.buffer(with),
            b'G' => self.receive(&greeting(with)),
            b'r' | b'R' if !self.got.is_empty() => {
                let at = pick(with, self.got.len());
                let id = self.got.remove(at);
                self.receive(&reply(id, letter == b'r', with.get(1..).unwrap_or(b"")));
            }
            _ => {}
        }
    }

    fn open(&mut self, opening: Opening) {
        self.each(|session| session.open(opening));
        self.model.open(opening);
        self.got.clear();
    }

    fn close(&mut self, by_peer: bool) {
        self.each(|session| {
            if by_peer {
                session.close("closed");
            } else {
                session.shut_down("closed");
            }
        });
        self.model.close("closed", by_peer);
        self.got.clear();
    }

    fn execute(&mut self, with: &[u8], band: Band) {
        let (command, arguments) = two_strings(with);
        let arguments = arguments.as_deref();
        let token = self.calls.len();
        let id = self.session.execute(&command, arguments, band, token);
        let of_twin = self.twin.execute(&command, arguments, band, token);
        assert_eq!(id, of_twin);
        assert!(self.calls.last().is_none_or(|call| call.id < id));
        let number = self.model.execute(&command, arguments, band, token);
        self.calls.push(Call {
            id,
            number,
            has_ended: false,
            has_secrets: redacted(&command, arguments).contains("***"),
        });
    }

    fn transmit(&mut self) {
        let bytes = self.session.poll_transmit();
        assert_eq!(self.twin.poll_transmit(), bytes);
        let bytes = bytes.unwrap_or_default();
        let mut rest = &bytes[..];
        for request in self.model.transmit() {
            rest = check_request(rest, &request);
            assert!(self.ids.insert(request.id), "{} again", request.id);
            self.got.push(request.id);
        }
        assert_eq!(String::from_utf8_lossy(rest), "", "more than expected");
    }

    /// Feeds all of `bytes` to the three.
    fn receive(&mut self, bytes: &[u8]) {
        let (mut input, mut of_model) = (bytes, bytes);
        let mut outputs = Vec::new();
        loop {
            let output = self.session.receive(&mut input).as_ref().map(Output::of);
            let expected = self.model.receive(&mut of_model);
            assert_eq!(self.hidden(output.clone()), self.hidden(expected));
            let Some(output) = output else {
                break;
            };
            outputs.push(output);
        }
        assert!(input.is_empty(), "all is taken");

        let mut of_twin = Vec::new();
        for mut piece in self.pieces(bytes) {
            if self.buffers {
                self.twin.buffer_input(std::mem::take(&mut piece));
            } else if self.twin.goes_on(piece) {
                piece = &[];
            }
            while let Some(output) = self.twin.receive(&mut piece) {
                of_twin.push(Output::of(&output));
            }
            assert!(piece.is_empty(), "all is taken");
        }
        assert_eq!(of_twin, outputs, "cut otherwise");
        self.tell(&outputs);
    }

    /// Feeds `bytes` to the three until one output comes, and buffers the rest.
    fn receive_one(&mut self, bytes: &[u8]) {
        let (mut input, mut of_model) = (bytes, bytes);
        let output = self.session.receive(&mut input).as_ref().map(Output::of);
        let expected = self.model.receive(&mut of_model);
        assert_eq!(self.hidden(output.clone()), self.hidden(expected));
        assert_eq!(input, of_model, "the same is left");
        self.session.buffer_input(input);
        self.model.buffered.extend_from_slice(input);

        let mut of_twin = None;
        for mut piece in self.pieces(bytes) {
            if of_twin.is_none() {
                of_twin = self.twin.receive(&mut piece).as_ref().map(Output::of);
            }
            self.twin.buffer_input(piece);
        }
        assert_eq!(of_twin, output, "cut otherwise");
        self.tell(output.as_slice());
    }

    /// `output` without the words of an error from which secrets may have been removed, which
    /// the model does not do.
    fn hidden(&self, mut output: Option<Output>) -> Option<Output> {
        if let Some(Output::Ended(token, Err(Error::Command { class, desc, .. }))) = &mut output
            && self.calls[*token].has_secrets
        {
            *class = ErrorClass::Generic;
            *desc = "".into();
        }
        output
    }

    fn buffer(&mut self, bytes: &[u8]) {
        self.session.buffer_input(bytes);
        self.model.buffered.extend_from_slice(bytes);
        for piece in self.pieces(bytes) {
            self.twin.buffer_input(piece);
        }
    }

    /// `bytes` as the twin gets them: in one piece at least.
    fn pieces<'b>(&self, bytes: &'b [u8]) -> impl Iterator<Item = &'b [u8]> + use<'b> {
        let piece = if bytes.len() > 10_000 { 4001 } else { 1 };
        let pieces = bytes.chunks(self.piece.max(piece));
        let none = bytes.is_empty().then_some(bytes);
        none.into_iter().chain(pieces)
    }

    fn tell(&mut self, outputs: &[Output]) {
        for output in outputs {
            if let Output::Ended(token, _) = output {
                self.ended(*token);
            }
        }
    }

    fn ended(&mut self, token: usize) {
        let had_ended = std::mem::replace(&mut self.calls[token].has_ended, true);
        assert!(!had_ended, "{token} ended before");
    }

    fn check(&self) {
        let (session, model) = (&self.session, &self.model);
        assert_eq!(session.has_input(), !model.buffered.is_empty());
        assert_eq!(session.has_more(), model.has_more());
        assert_eq!(session.mid_message(), model.mid_message());
        for session in [session, &self.twin] {
            assert_eq!(session.state(), model.state);
            assert_eq!(session.pending(), model.pending());
            assert_eq!(session.has_unsent(), model.has_unsent());
            assert_eq!(session.is_settled(), model.is_settled());
            assert_eq!(session.awaits_caller(), model.pending() > 0);
            assert_eq!(session.awaits_reply(), model.awaits_reply());
            assert_eq!(session.oob(), model.oob);
            assert_eq!(session.greeting(), model.greeting.as_ref());
            assert_eq!(session.error().map(without_words), model.error);
            assert_eq!(session.max_message_size(), model.stream.limit);
        }
        if let Some(call) = self.calls.last() {
            assert_eq!(session.command(call.id), model.command(call.number));
        }
    }

    /// Every call ends when the connection does.
    fn end(&mut self) {
        self.close(true);
        self.receive(b"");
        self.check();
        for (token, call) in self.calls.iter().enumerate() {
            assert!(call.has_ended, "{token} has not ended");
        }
    }
}

/// Checks that `bytes` start with this request; returns what follows it.
fn check_request<'b>(bytes: &'b [u8], request: &Request) -> &'b [u8] {
    let mut requests = serde_json::Deserializer::from_slice(bytes).into_iter::<&RawValue>();
    let sent = requests.next().expect("a request").expect("valid JSON");
    let rest = &bytes[requests.byte_offset()..];
    let rest = if request.line_feed {
        rest.strip_prefix(b"\n").expect("a line feed")
    } else {
        rest
    };
    // JSON that nests too deeply for a parser of values is not checked.
    let arguments = request.arguments.as_deref();
    let arguments = arguments.map(serde_json::from_str::<Value>).transpose();
    if let (Ok(arguments), Ok(sent)) = (arguments, serde_json::from_str::<Value>(sent.get())) {
        let execute = match request.band {
            Band::In => "execute",
            Band::Out => "exec-oob",
        };
        let mut expected = serde_json::json!({ execute: request.command, "id": request.id });
        if let Some(arguments) = arguments {
            expected["arguments"] = arguments;
        }
        assert_eq!(sent, expected);
    }
    rest
}

/// A greeting, with `oob` if `with` says so.
pub(crate) fn greeting(with: &[u8]) -> Vec<u8> {
    let capabilities = if with == b"o" { "\"oob\"" } else { "" };
    format!(
        "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"major\": 9, \"minor\": 1, \"micro\": 2}}}}, \
         \"capabilities\": [{capabilities}]}}}}\n"
    )
    .into()
}

/// A reply that returns `with`, or has it as the class of its error.
pub(crate) fn reply(id: u64, worked: bool, with: &[u8]) -> Vec<u8> {
    let mut line = if worked {
        b"{\"return\": ".to_vec()
    } else {
        b"{\"error\": {\"desc\": \"no\", \"class\": \"".to_vec()
    };
    line.extend_from_slice(match with {
        b"" if worked => b"{}",
        b"" => b"GenericError",
        with => with,
    });
    line.extend_from_slice(if worked { b"" } else { b"\"}" });
    line.extend_from_slice(format!(", \"id\": {id}}}\r\n").as_bytes());
    line
}

/// What a session keeps of a peer's bytes does not grow with their number.
fn memory_is_bounded<'b>(
    limit: usize,
    operations: &(impl Iterator<Item = (u8, &'b [u8])> + Clone),
) {
    let before = held();
    let mut session = Session::<()>::new(FIRST_ID);
    session.set_max_message_size(limit);
    for _ in 0..2 {
        for (letter, bytes) in operations.clone() {
            if !matches!(letter, b'<' | b'1' | b'+') {
                continue;
            }
            if !matches!(session.state(), spice_qmp::qmp::State::Negotiating) {
                session.open(Opening::GreetingMayBeGone);
            }
            let mut input = bytes;
            while session.receive(&mut input).is_some() {}
            // The buffer doubles, and the names of a greeting's capabilities are kept.
            let bound = 24_576_usize.saturating_add(limit.saturating_mul(4));
            let more = held().wrapping_sub(before);
            assert!(more <= bound, "{more} bytes are kept, more than {bound}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_reach_the_session() {
        let mut world = World::new(0x40);
        let steps: [(u8, &[u8]); 8] = [
            (b'o', b""),
            (b'G', b"o"),
            (b't', b""),
            (b'r', b"0"),
            (b'e', b"stop\0{\"a\": 1}"),
            (b'u', b"migrate-pause"),
            (b't', b""),
            (b'1', b"{\"event\": \"STOP\"}\n{\"return\":"),
        ];
        for (letter, with) in steps {
            world.take(letter, with);
            world.check();
        }
        assert_eq!(world.session.state(), spice_qmp::qmp::State::Ready);
        assert_eq!((world.session.pending(), world.got.len()), (2, 2));
        assert!(world.session.oob() && world.session.has_input());
        world.take(b'x', b"");
        world.take(b'o', b"");
        world.end();
        assert_eq!(world.calls.len(), 2);
    }

    #[test]
    fn every_set_up_runs() {
        let transcript = b"?o\xFFG\xFFt\xFFr0\xFFequit\xFFestop\xFFt\xFF<{\"event\":\"A\"}\n{\n}\nx\n\
            \xFFf1\xFFL{\"event\":\"B\"}\xFFr1\xFFm20\xFF+{\"return\": 1, \"id\": 101}\n\xFF<\xFFW\xFFl\xFFt\xFFR0CommandNotFound";
        for setup in 0..=u8::MAX {
            let mut input = transcript.to_vec();
            input[0] = setup;
            session(&input);
        }
    }

    #[test]
    #[should_panic(expected = "ended before")]
    fn a_second_end_is_found() {
        let mut world = World::new(0);
        world.take(b'e', b"stop");
        world.ended(0);
        world.ended(0);
    }
}
