// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses what a client sends into requests, and into the errors that QEMU would report.
//!
//! A message ends when its brackets are closed, or when there is one too many: line ends
//! mean nothing. Errors are reported only then; the first one counts.

use std::ops::Range;

use super::lexer::{Container, Lexer, Token};
use super::string::{push_checked, shown};
use crate::qmp::limits::{KEPT_BUFFER, MAX_DEPTH, MAX_NAME, MAX_SHOWN};
use crate::qmp::request::Band;
use crate::qmp::strings;

/// What a client's message turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Input {
    /// Not JSON, or not an object: the reason.
    Malformed(String),
    /// An object.
    Object {
        /// Its `id`, as JSON.
        id: Option<Box<str>>,
        /// The command in it, or why it is not a request.
        command: Result<Command, String>,
    },
}

/// A client's command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Command {
    pub(super) band: Band,
    pub(super) name: Box<str>,
    /// A JSON object.
    pub(super) arguments: Option<Box<str>>,
}

/// Reads messages, however their bytes are split.
pub(super) struct Reader {
    lexer: Lexer,
    limit: usize,
    message: Message,
}

impl Reader {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            lexer: Lexer::default(),
            limit,
            message: Message::default(),
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Whether a message has begun and not ended.
    pub(super) fn mid_message(&self) -> bool {
        self.message.has_begun || self.lexer.mid_token()
    }

    /// The next message of at most `limit` bytes, not counting white space between
    /// its tokens. Consumes all of `input` if none ends in it. `oob` is whether
    /// out-of-band commands are allowed.
    pub(super) fn next(&mut self, input: &mut &[u8], oob: bool) -> Option<Input> {
        while let Some(token) = self.lexer.next(input, self.limit) {
            if let Some(end) = self.message.take(token, self.lexer.text(), self.limit) {
                let message = std::mem::take(&mut self.message);
                self.lexer.shrink_to(KEPT_BUFFER);
                return Some(match end {
                    End::Whole => message.into_input(oob),
                    End::Broken(why) => Input::Malformed(why),
                });
            }
        }
        None
    }
}

/// An unfinished message.
#[derive(Default)]
struct Message {
    has_begun: bool,
    /// The JSON built so far, until an error.
    json: Vec<u8>,
    /// The total length of its tokens in bytes.
    size: usize,
    /// How many braces and brackets are open; negative if one too many is
    /// closed.
    braces: isize,
    brackets: isize,
    /// The enclosing containers, the innermost last, until an error.
    around: Vec<Around>,
    expects: Expects,
    /// The first error.
    wrong: Option<String>,
    /// The range of the member's name that is being read, and where its value begins.
    name: Range<usize>,
    value: usize,
    members: Members,
}

#[derive(Debug, Clone, Copy)]
struct Around {
    container: Container,
    /// It stands in place of the name of a member.
    as_name: bool,
}

/// What a message expects next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Expects {
    #[default]
    Value,
    /// The first item, or the end of the array.
    ValueOrEnd,
    Name,
    /// The first name, or the end of the object.
    NameOrEnd,
    Colon,
    /// A comma, or the end of the container.
    Separator,
}

/// How a message ends.
enum End {
    Whole,
    /// It is incomplete: the reason.
    Broken(String),
}

impl Message {
    /// Consumes a token; returns whether the message has ended with it.
    fn take(&mut self, token: Token, text: &[u8], limit: usize) -> Option<End> {
        use Container::{Array, Object};

        match token {
            Token::Open(Object) => self.braces += 1,
            Token::Close(Object) => self.braces -= 1,
            Token::Open(Array) => self.brackets += 1,
            Token::Close(Array) => self.brackets -= 1,
            Token::Stray => {
                let shown = shown(text, MAX_SHOWN);
                return Some(End::Broken(parse_error(&format!("stray '{shown}'"))));
            }
            Token::TooLong
            | Token::Comma
            | Token::Colon
            | Token::String
            | Token::Number
            | Token::Word => {}
        }
        if self.size + text.len() >= limit || token == Token::TooLong {
            return Some(End::Broken("JSON token size limit exceeded".into()));
        }
        let depth = usize::try_from(self.braces + self.brackets).unwrap_or(0);
        if depth > MAX_DEPTH {
            return Some(End::Broken("JSON nesting depth limit exceeded".into()));
        }
        self.has_begun = true;
        self.size += text.len();
        if self.wrong.is_none()
            && let Err(wrong) = self.parse(token, text)
        {
            self.wrong = Some(parse_error(&wrong));
            // Of the rest, only the brackets count.
            self.json = Vec::new();
            self.around = Vec::new();
            self.members = Members::default();
        }
        let goes_on =
            (self.braces > 0 || self.brackets > 0) && self.braces >= 0 && self.brackets >= 0;
        if goes_on {
            return None;
        }
        Some(match self.wrong.take() {
            None => End::Whole,
            Some(wrong) => End::Broken(wrong),
        })
    }

    /// Parses a token; there has been no error so far.
    fn parse(&mut self, token: Token, text: &[u8]) -> Result<(), String> {
        use Expects as E;

        match (self.expects, token) {
            (E::ValueOrEnd, Token::Close(Container::Array))
            | (E::NameOrEnd, Token::Close(Container::Object)) => self.close(text),
            (E::Value | E::ValueOrEnd | E::Name | E::NameOrEnd, _) => self.begin(token, text),
            (E::Colon, Token::Colon) => {
                self.json.push(b':');
                if self.around.len() == 1 {
                    self.value = self.json.len();
                }
                self.expects = E::Value;
                Ok(())
            }
            (E::Colon, _) => Err("missing : in object pair".into()),
            (E::Separator, _) => self.separate(token, text),
        }
    }

    /// Consumes the token after an item or a member.
    fn separate(&mut self, token: Token, text: &[u8]) -> Result<(), String> {
        let container = self.around.last().map(|it| it.container);
        let in_object = container == Some(Container::Object);
        match token {
            Token::Close(closed) if Some(closed) == container => self.close(text),
            Token::Comma => {
                self.json.push(b',');
                self.expects = if in_object {
                    Expects::Name
                } else {
                    Expects::Value
                };
                Ok(())
            }
            _ if in_object => Err("expected separator in dict".into()),
            _ => Err("expected separator in list".into()),
        }
    }

    /// Consumes the first token of a value, or of what stands in place of a name.
    fn begin(&mut self, token: Token, text: &[u8]) -> Result<(), String> {
        let as_name = matches!(self.expects, Expects::Name | Expects::NameOrEnd);
        let start = self.json.len();
        match token {
            Token::Open(container) => {
                self.json.extend_from_slice(text);
                self.around.push(Around { container, as_name });
                self.expects = match container {
                    Container::Object => Expects::NameOrEnd,
                    Container::Array => Expects::ValueOrEnd,
                };
                return Ok(());
            }
            Token::String => push_checked(&mut self.json, text)?,
            Token::Number => self.json.extend_from_slice(text),
            Token::Word if matches!(text, b"true" | b"false" | b"null") => {
                self.json.extend_from_slice(text);
            }
            Token::Word => {
                return Err(format!("invalid keyword '{}'", shown(text, MAX_SHOWN)));
            }
            _ => return Err("expecting value".into()),
        }
        if as_name && token == Token::String {
            self.expects = Expects::Colon;
            if self.around.len() == 1 {
                self.name = start..self.json.len();
            }
            return Ok(());
        }
        self.ended(as_name)
    }

    fn close(&mut self, text: &[u8]) -> Result<(), String> {
        self.json.extend_from_slice(text);
        let closed = self.around.pop();
        self.ended(closed.is_some_and(|it| it.as_name))
    }

    /// A value has ended.
    fn ended(&mut self, as_name: bool) -> Result<(), String> {
        if as_name {
            return Err("key is not a string in object".into());
        }
        self.expects = Expects::Separator;
        if let [around] = self.around[..]
            && around.container == Container::Object
        {
            let name = text(&self.json[self.name.clone()]);
            self.members.add(name, self.value..self.json.len())?;
        }
        Ok(())
    }

    fn into_input(self, oob: bool) -> Input {
        let json = text(&self.json);
        if !json.starts_with('{') {
            return Input::Malformed("QMP input must be a JSON object".into());
        }
        let id = self.members.find(&Member::Id);
        Input::Object {
            id: id.map(|id| json[id].into()),
            command: self.members.command(json, oob),
        }
    }
}

fn parse_error(why: &str) -> String {
    format!("JSON parse error, {why}")
}

/// The JSON written so far consists of texts that were checked.
fn text(json: &[u8]) -> &str {
    std::str::from_utf8(json).unwrap_or_default()
}

/// The members of a message that have a meaning, in order.
#[derive(Debug, Default)]
struct Members {
    /// At most one of each.
    known: Vec<(Member, Range<usize>)>,
}

/// The name of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    Execute,
    ExecOob,
    Arguments,
    Id,
    /// The first unknown one, cut.
    Other(Box<str>),
}

impl Members {
    /// Adds a member whose name is given as JSON.
    fn add(&mut self, name: &str, value: Range<usize>) -> Result<(), String> {
        let member = match &*strings::unquoted(name) {
            "execute" => Member::Execute,
            "exec-oob" => Member::ExecOob,
            "arguments" => Member::Arguments,
            "id" => Member::Id,
            other => Member::Other(strings::cut(other.into(), MAX_NAME).into()),
        };
        let has = |it: &(Member, _)| match (&it.0, &member) {
            (Member::Other(_), Member::Other(_)) => true,
            (it, member) => it == member,
        };
        if !self.known.iter().any(has) {
            self.known.push((member, value));
        } else if !matches!(member, Member::Other(_)) {
            return Err("duplicate key".into());
        }
        Ok(())
    }

    fn find(&self, member: &Member) -> Option<Range<usize>> {
        let found = self.known.iter().find(|it| it.0 == *member);
        found.map(|it| it.1.clone())
    }

    /// The command of the message. The first invalid member counts.
    fn command(&self, json: &str, oob: bool) -> Result<Command, String> {
        let mut command = None;
        for (member, value) in &self.known {
            let value = &json[value.clone()];
            let (band, name) = match member {
                Member::Execute => (Band::In, "execute"),
                Member::ExecOob if oob => (Band::Out, "exec-oob"),
                Member::Arguments if value.starts_with('{') => continue,
                Member::Arguments => {
                    return Err("QMP input member 'arguments' must be an object".into());
                }
                Member::Id => continue,
                Member::ExecOob => return Err(unexpected("exec-oob")),
                Member::Other(name) => return Err(unexpected(name)),
            };
            if !value.starts_with('"') {
                return Err(format!("QMP input member '{name}' must be a string"));
            }
            if command.is_some() {
                return Err("QMP input member 'execute' clashes with 'exec-oob'".into());
            }
            command = Some((band, value));
        }
        let (band, name) = command.ok_or("QMP input lacks member 'execute'")?;
        let arguments = self.find(&Member::Arguments);
        Ok(Command {
            band,
            name: strings::unquoted(name).into(),
            arguments: arguments.map(|arguments| json[arguments].into()),
        })
    }
}

fn unexpected(name: &str) -> String {
    format!("QMP input member '{name}' is unexpected")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The messages in `bytes`, fed whole or in pieces.
    fn read(bytes: &[u8], limit: usize) -> (Vec<Input>, bool) {
        let all = |piece: usize| {
            let mut reader = Reader::new(limit);
            let mut inputs = Vec::new();
            for mut piece in bytes.chunks(piece) {
                while let Some(input) = reader.next(&mut piece, true) {
                    inputs.push(input);
                }
                assert!(piece.is_empty(), "all is consumed");
            }
            (inputs, reader.mid_message())
        };
        let whole = all(bytes.len().max(1));
        for piece in 1..bytes.len().min(40) {
            assert_eq!(all(piece), whole, "in {piece}");
        }
        whole
    }

    #[test]
    fn requests_are_read_as_they_were_meant() {
        let (inputs, more) = read(
            b"{'execute' : 'stop',\r\n\"id\": [ 1, \"x y\" ] }{\"arguments\":{\"a\" : 1},\
              \"\\u0065xec-oob\":\"a\\nb\"} \n{\"id\":",
            1000,
        );
        let [first, second] = &inputs[..] else {
            panic!("{inputs:?}")
        };
        let command = |band, name: &str, arguments: Option<&str>| {
            Ok(Command {
                band,
                name: name.into(),
                arguments: arguments.map(Into::into),
            })
        };
        assert_eq!(
            *first,
            Input::Object {
                id: Some("[1,\"x y\"]".into()),
                command: command(Band::In, "stop", None),
            }
        );
        assert_eq!(
            *second,
            Input::Object {
                id: None,
                command: command(Band::Out, "a\nb", Some("{\"a\":1}")),
            }
        );
        assert!(more);
    }

    #[test]
    fn the_limit_counts_what_is_kept() {
        let message = b"{ \"a\" : [ 1 , 22 ] }";
        let size = "{\"a\":[1,22]}".len();
        let why = |limit| match read(message, limit).0.remove(0) {
            Input::Malformed(why) => why,
            Input::Object { command, .. } => command.unwrap_err(),
        };
        assert_eq!(why(size + 1), "QMP input member 'a' is unexpected");
        assert_eq!(why(size), "JSON token size limit exceeded");
    }

    #[test]
    fn a_message_nests_as_deep_as_qemus() {
        let nested = |depth: usize| {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            let whole = read(text.as_bytes(), 1 << 20).0;
            (whole.len(), format!("{:?}", whole[0]))
        };
        let (count, first) = nested(MAX_DEPTH);
        assert_eq!((count, first.contains("must be a JSON object")), (1, true));
        let (count, first) = nested(MAX_DEPTH + 1);
        // Each unmatched closing bracket is an error of its own.
        assert_eq!(count, MAX_DEPTH + 2);
        assert!(first.contains("nesting depth limit"));
    }

    #[test]
    fn what_is_kept_does_not_grow() {
        let limit = 1000;
        let pieces: [&[u8]; 9] = [
            b"{\"a\":[",
            b"[\"x\",",
            b"[{,\"abc\",",
            b"\"aaaaaaaa",
            b"'\"\"\"\"\"\"\"",
            b"'\xC0\x80\xC0\x80\xC0\x80",
            b"{\"id\":1,\"id\":2,\"a\":",
            b"1234",
            b"]x",
        ];
        for piece in pieces {
            let mut reader = Reader::new(limit);
            let mut most = 0;
            for _ in 0..4000 {
                let mut input = piece;
                while reader.next(&mut input, false).is_some() {}
                let message = &reader.message;
                let around = message.around.capacity() * size_of::<Around>();
                let kept = reader.lexer.text().len() + message.json.capacity() + around;
                most = most.max(kept);
            }
            // A buffer doubles, a NUL of two bytes takes six, and a container two.
            assert!(most <= 8 * limit, "{most} bytes for {piece:?}");
        }
    }
}
