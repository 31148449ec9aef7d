// SPDX-License-Identifier: MIT OR Apache-2.0
//! The server's end of a QMP connection as a state machine.

mod lexer;
mod negotiation;
mod reader;
mod string;
mod wire;

use std::collections::VecDeque;
use std::fmt;

use super::limits::{MAX_BACKLOG, MAX_IN_FLIGHT, MAX_MESSAGE_SIZE, MAX_UNREAD};
use super::request::{self, Band};
use super::{Error, ErrorClass, Greeting};
use reader::{Command, Input, Reader};

/// One connection of a QMP client, seen from the server.
///
/// It behaves as QEMU does: it greets, lets the client negotiate, and answers invalid
/// requests itself. Feed it with [`receive`](Self::receive), execute what
/// [`poll_request`](Self::poll_request) returns, answer with [`reply`](Self::reply) or
/// [`refuse`](Self::refuse), and send what [`poll_transmit`](Self::poll_transmit)
/// returns. It ends with the connection: a new connection needs a new server.
///
/// Replies to in-band commands are sent in the order of their requests, whatever the
/// order in which they are given.
///
/// | input | answer |
/// |---|---|
/// | `qmp_capabilities`, at first | `{}`; from then on commands are accepted and events are sent |
/// | another command at first | `CommandNotFound` |
/// | `qmp_capabilities` again | `CommandNotFound` |
/// | not JSON, or not an object | `GenericError`, without an `id` |
/// | an object that is not a request | `GenericError` |
/// | a byte that never occurs in text, such as 0xFF | `GenericError`; an unfinished message is dropped |
///
/// While a client sends requests faster than it reads replies, nothing is read from it; see
/// [`wants_input`](Self::wants_input). A client that does not read its events either is
/// [given up](Self::is_overrun).
///
/// ```
/// use spice_qmp::qmp::{Greeting, Server, Version, VersionTriple};
///
/// let mut server = Server::new(&Greeting {
///     version: Version {
///         qemu: VersionTriple { major: 10, minor: 0, micro: 2 },
///         package: String::new(),
///     },
///     capabilities: Vec::new(),
/// });
/// assert!(server.poll_transmit().unwrap().starts_with(br#"{"QMP": {"version": "#));
/// server.transmitted();
///
/// server.receive(br#"{"execute": "qmp_capabilities"}{"execute": "query-name", "id": 7}"#);
/// let request = server.poll_request().unwrap();
/// assert_eq!(request.command(), "query-name");
/// server.reply(request.number(), r#"{"name": "vm"}"#).unwrap();
/// assert_eq!(
///     server.poll_transmit().unwrap(),
///     b"{\"return\": {}}\r\n{\"return\": {\"name\":\"vm\"}, \"id\": 7}\r\n"
/// );
/// ```
pub struct Server {
    reader: Reader,
    /// Input that has not been parsed yet, from `read` on.
    input: Vec<u8>,
    read: usize,
    /// The capabilities that the greeting offered.
    offered: Vec<String>,
    negotiated: bool,
    oob: bool,
    /// The id of the next request.
    next: u64,
    /// The in-band requests that are not answered yet, and the answers that wait behind them.
    in_band: VecDeque<Slot>,
    out_of_band: Vec<Slot>,
    /// Data to send, and how much of it was handed over and is under way.
    output: Vec<u8>,
    under_way: usize,
    overrun: bool,
}

/// A command that a client wants to have executed.
///
/// It must be answered once, by its [`number`](Self::number).
#[derive(Clone, PartialEq, Eq)]
pub struct Request {
    number: RequestId,
    id: Option<Box<str>>,
    command: Command,
}

/// Identifies a request of a [`Server`]. No two are the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(u64);

/// The place of an answer in the order.
struct Slot {
    number: RequestId,
    id: Option<Box<str>>,
    /// The line to send, once it exists.
    answer: Option<Vec<u8>>,
}

impl Request {
    /// The number to answer it by.
    #[must_use]
    pub fn number(&self) -> RequestId {
        self.number
    }

    /// The client's `id` as JSON: any value, or none. Ids need not be unique.
    #[must_use]
    pub fn id(&self) -> Option<&str> {
        self.id.as_deref()
    }

    /// The name of the command, which may be any text.
    #[must_use]
    pub fn command(&self) -> &str {
        &self.command.name
    }

    /// The arguments as JSON text, an object, if there are any. Objects nested in it
    /// may contain a member twice.
    #[must_use]
    pub fn arguments(&self) -> Option<&str> {
        self.command.arguments.as_deref()
    }

    /// Whether it is to be executed ahead of the commands that wait.
    #[must_use]
    pub fn band(&self) -> Band {
        self.command.band
    }
}

impl Server {
    /// A server for a connection that has just been opened; it sends this greeting.
    #[must_use]
    pub fn new(greeting: &Greeting) -> Self {
        Self {
            reader: Reader::new(MAX_MESSAGE_SIZE),
            input: Vec::new(),
            read: 0,
            offered: greeting.capabilities.clone(),
            negotiated: false,
            oob: false,
            next: 0,
            in_band: VecDeque::new(),
            out_of_band: Vec::new(),
            output: wire::greeting(greeting),
            under_way: 0,
            overrun: false,
        }
    }

    /// Whether the client has negotiated: its commands are returned, and it receives
    /// events.
    #[must_use]
    pub fn is_negotiated(&self) -> bool {
        self.negotiated
    }

    /// Whether the client has enabled out-of-band execution.
    #[must_use]
    pub fn oob(&self) -> bool {
        self.oob
    }

    /// How many requests were returned and not answered.
    #[must_use]
    pub fn pending(&self) -> usize {
        let is_open = |slot: &&Slot| slot.answer.is_none();
        self.in_band.iter().filter(is_open).count() + self.out_of_band.len()
    }

    /// How many bytes have not been sent to the client, or not been read by it.
    #[must_use]
    pub fn unread(&self) -> usize {
        self.output.len() + self.under_way
    }

    /// Whether the client left more than [`MAX_UNREAD`] bytes unread: all of it is
    /// dropped, and nothing more is read or sent. Close the connection.
    #[must_use]
    pub fn is_overrun(&self) -> bool {
        self.overrun
    }

    /// Whether more of what the client sent should be passed to
    /// [`receive`](Self::receive). False while it has [`MAX_IN_FLIGHT`] unanswered
    /// requests, or leaves more than [`MAX_BACKLOG`] bytes unread.
    #[must_use]
    pub fn wants_input(&self) -> bool {
        !self.overrun && !self.is_busy() && self.read == self.input.len()
    }

    /// Whether a message has begun and not ended.
    #[must_use]
    pub fn mid_message(&self) -> bool {
        self.reader.mid_message()
    }

    /// The longest message that is accepted, in bytes.
    #[must_use]
    pub fn max_message_size(&self) -> usize {
        self.reader.limit()
    }

    /// Sets the longest message that is accepted, in bytes. White space between its
    /// tokens does not count. A longer one is answered by an error, and the rest of
    /// it is parsed as another one, as QEMU does.
    pub fn set_max_message_size(&mut self, limit: usize) {
        self.reader.set_limit(limit);
    }

    /// Takes what the client sent. It is kept until [`poll_request`](Self::poll_request)
    /// has parsed it.
    pub fn receive(&mut self, bytes: &[u8]) {
        if self.overrun {
            return;
        }
        if self.read > 0 {
            self.input.drain(..self.read);
            self.read = 0;
        }
        self.input.extend_from_slice(bytes);
    }

    /// The next request to execute. Call it after [`receive`](Self::receive), and after
    /// anything else that may have made room, until it returns `None`.
    pub fn poll_request(&mut self) -> Option<Request> {
        while !self.overrun && !self.is_busy() {
            let mut rest = &self.input[self.read..];
            let input = self.reader.next(&mut rest, self.oob);
            self.read = self.input.len() - rest.len();
            let Some(input) = input else {
                self.input = Vec::new();
                self.read = 0;
                return None;
            };
            let (id, command) = match input {
                Input::Malformed(why) => (None, Err(why)),
                Input::Object { id, command } => (id, command),
            };
            match command {
                Ok(command) if self.negotiated && &*command.name != negotiation::COMMAND => {
                    return Some(self.request(id, command));
                }
                Ok(command) => self.negotiate(id, &command),
                Err(why) => self.error(id, &ErrorClass::Generic, &why),
            }
        }
        None
    }

    /// Answers a request with a value, which is JSON text. Returns false if the request was
    /// answered before, or is not one of this server's.
    ///
    /// # Errors
    ///
    /// [`UsageError::InvalidArgument`](super::UsageError::InvalidArgument) if the
    /// value is not JSON: the request is not answered.
    pub fn reply(&mut self, request: RequestId, value: &str) -> Result<bool, Error> {
        request::check_value(value)?;
        Ok(self.answer(request, |id| wire::reply(value, id)))
    }

    /// Answers a request with an error. Returns false if the request was answered before, or
    /// is not one of this server's.
    pub fn refuse(&mut self, request: RequestId, class: &ErrorClass, desc: &str) -> bool {
        self.answer(request, |id| wire::error(class, desc, id))
    }

    /// Sends an event to a client that has negotiated; other clients receive none. `data` is a
    /// JSON object; `timestamp` is in microseconds since 1970, or -1 if unknown. Returns
    /// false if it is not sent.
    ///
    /// # Errors
    ///
    /// [`UsageError::InvalidArgument`](super::UsageError::InvalidArgument) if the data
    /// is not a JSON object.
    pub fn event(&mut self, name: &str, data: Option<&str>, timestamp: i64) -> Result<bool, Error> {
        if let Some(data) = data {
            request::check_object(data, "data")?;
        }
        let is_sent = self.negotiated && !self.overrun;
        if is_sent {
            self.send(&wire::event(name, data, timestamp));
        }
        Ok(is_sent)
    }

    /// The bytes to send next, all that there are. Acknowledge them with
    /// [`transmitted`](Self::transmitted); until then it returns `None`.
    pub fn poll_transmit(&mut self) -> Option<Vec<u8>> {
        if self.under_way > 0 || self.output.is_empty() {
            return None;
        }
        self.under_way = self.output.len();
        Some(std::mem::take(&mut self.output))
    }

    /// The transport has accepted what [`poll_transmit`](Self::poll_transmit) returned.
    pub fn transmitted(&mut self) {
        self.under_way = 0;
    }

    /// Whether the client must wait for replies, or must read some, before it may continue.
    fn is_busy(&self) -> bool {
        self.in_band.len() + self.out_of_band.len() >= MAX_IN_FLIGHT || self.unread() > MAX_BACKLOG
    }

    fn request(&mut self, id: Option<Box<str>>, command: Command) -> Request {
        let number = self.take_number();
        let slot = Slot {
            number,
            id: id.clone(),
            answer: None,
        };
        match command.band {
            Band::In => self.in_band.push_back(slot),
            Band::Out => self.out_of_band.push(slot),
        }
        Request {
            number,
            id,
            command,
        }
    }

    fn take_number(&mut self) -> RequestId {
        self.next += 1;
        RequestId(self.next)
    }

    /// Answers the commands that the server handles itself.
    fn negotiate(&mut self, id: Option<Box<str>>, command: &Command) {
        let not_found = ErrorClass::CommandNotFound;
        let arguments = command.arguments.as_deref();
        if &*command.name != negotiation::COMMAND {
            self.error(id, &not_found, negotiation::EXPECTED);
        } else if command.band == Band::Out {
            self.error(id, &ErrorClass::Generic, negotiation::NOT_OOB);
        } else if self.negotiated {
            self.error(id, &not_found, negotiation::COMPLETE);
        } else {
            match negotiation::enables_oob(arguments, &self.offered) {
                Ok(oob) => {
                    self.negotiated = true;
                    self.oob = oob;
                    self.send(&wire::reply("{}", id.as_deref()));
                }
                Err(why) => self.error(id, &ErrorClass::Generic, &why),
            }
        }
    }

    /// Sends an error of the server's own, in the order of the requests.
    fn error(&mut self, id: Option<Box<str>>, class: &ErrorClass, desc: &str) {
        let answer = Some(wire::error(class, desc, id.as_deref()));
        let number = self.take_number();
        self.in_band.push_back(Slot { number, id, answer });
        self.send_answered();
    }

    fn answer(&mut self, number: RequestId, line: impl FnOnce(Option<&str>) -> Vec<u8>) -> bool {
        if let Some(at) = self.out_of_band.iter().position(|it| it.number == number) {
            let slot = self.out_of_band.remove(at);
            self.send(&line(slot.id.as_deref()));
            return true;
        }
        let slot = self.in_band.iter_mut().find(|it| it.number == number);
        let Some(slot) = slot.filter(|it| it.answer.is_none()) else {
            return false;
        };
        slot.answer = Some(line(slot.id.as_deref()));
        self.send_answered();
        true
    }

    /// Sends the answers that need not wait for an earlier one.
    fn send_answered(&mut self) {
        while let Some(slot) = self.in_band.front_mut()
            && let Some(line) = slot.answer.take()
        {
            self.in_band.pop_front();
            self.send(&line);
        }
    }

    fn send(&mut self, line: &[u8]) {
        if self.overrun {
            return;
        }
        if self.unread() > MAX_UNREAD {
            self.overrun = true;
            self.input = Vec::new();
            self.read = 0;
            self.output = Vec::new();
            self.reader = Reader::new(self.reader.limit());
            return;
        }
        self.output.extend_from_slice(line);
    }
}

// What clients send may contain secrets, and so may answers.
impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server")
            .field("negotiated", &self.negotiated)
            .field("oob", &self.oob)
            .field("pending", &self.pending())
            .field("unread", &self.unread())
            .field("overrun", &self.overrun)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("number", &self.number)
            .field("band", &self.band())
            .finish_non_exhaustive()
    }
}
