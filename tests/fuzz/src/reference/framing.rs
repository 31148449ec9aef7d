// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finds where messages end, byte by byte.

/// A cut of the stream.
#[derive(Debug, PartialEq)]
pub(crate) enum Cut {
    Message(Vec<u8>),
    /// An object that spans several lines broke off.
    Broken,
    /// With its bytes up to the limit, and one more.
    TooLarge(Vec<u8>),
}

/// A stream of bytes, in messages of `limit` bytes at most.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) limit: usize,
    /// The unfinished message.
    message: Vec<u8>,
    /// Its length before the current line, if it spans several lines.
    before_line: usize,
    many_lines: bool,
    /// It was too large, and the rest of it does not count.
    skipping: bool,
}

impl Stream {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            message: Vec::new(),
            before_line: 0,
            many_lines: false,
            skipping: false,
        }
    }

    pub(crate) fn mid_message(&self) -> bool {
        !self.message.is_empty()
    }

    /// The bytes of the unfinished message, unless the rest of it is skipped.
    pub(crate) fn begun(&self) -> &[u8] {
        if self.skipping { b"" } else { &self.message }
    }

    /// Consumes input up to the next cut.
    pub(crate) fn next(&mut self, input: &mut &[u8]) -> Option<Cut> {
        let had_input = !input.is_empty();
        while let Some((&byte, rest)) = input.split_first() {
            let at_line_start = self.many_lines && self.message.len() == self.before_line;
            if at_line_start && !matches!(byte, b' ' | b'\t' | b'\r' | b'\n' | b'}') {
                // The byte is the first of another message.
                if let Some(cut) = self.end(|_| Some(Cut::Broken)) {
                    return Some(cut);
                }
                continue;
            }
            *input = rest;
            self.message.push(byte);
            if byte == b'\n'
                && let Some(cut) = self.line_end()
            {
                return Some(cut);
            }
        }
        if had_input && self.message.len() > self.limit && !self.skipping {
            self.skipping = true;
            return Some(too_large(self.message.clone(), self.limit));
        }
        None
    }

    fn line_end(&mut self) -> Option<Cut> {
        let line = &self.message[self.before_line..];
        let is_last = match (self.many_lines, line.trim_ascii()) {
            (false, b"{") => false,
            (false, b"") => return self.end(|_| None),
            (false, _) => true,
            (true, _) => line[0] == b'}',
        };
        if is_last {
            return self.end(|message| Some(Cut::Message(message)));
        }
        self.many_lines = true;
        self.before_line = self.message.len();
        None
    }

    fn end(&mut self, make: impl FnOnce(Vec<u8>) -> Option<Cut>) -> Option<Cut> {
        let ended = std::mem::replace(self, Self::new(self.limit));
        if ended.skipping {
            None
        } else if ended.message.len() > ended.limit {
            Some(too_large(ended.message, ended.limit))
        } else {
            make(ended.message)
        }
    }
}

fn too_large(mut message: Vec<u8>, limit: usize) -> Cut {
    message.truncate(limit.saturating_add(1));
    Cut::TooLarge(message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cuts(mut input: &[u8]) -> Vec<Cut> {
        let mut stream = Stream::new(9);
        std::iter::from_fn(|| stream.next(&mut input)).collect()
    }

    fn message(text: &str) -> Cut {
        Cut::Message(text.into())
    }

    #[test]
    fn lines_are_messages() {
        assert_eq!(
            cuts(b"a\n \r\n{}\r\nb"),
            [message("a\n"), message("{}\r\n")]
        );
        assert_eq!(
            cuts(b"{\n \n\n}x\n1\n"),
            [message("{\n \n\n}x\n"), message("1\n")]
        );
        assert_eq!(cuts(b"{\nab\n"), [Cut::Broken, message("ab\n")]);
    }

    #[test]
    fn long_messages_are_skipped() {
        assert_eq!(
            cuts(b"12345678\n1\n"),
            [message("12345678\n"), message("1\n")]
        );
        let too_large = |start: &str| Cut::TooLarge(start.into());
        let one = || message("1\n");
        assert_eq!(cuts(b"123456789\n1\n"), [too_large("123456789\n"), one()]);
        assert_eq!(cuts(b"          \n1\n"), [too_large("          "), one()]);
        assert_eq!(cuts(b"12345678901"), [too_large("1234567890")]);
        let mut stream = Stream::new(3);
        assert_eq!(stream.next(&mut &b"1234"[..]), Some(too_large("1234")));
        assert_eq!(stream.next(&mut &b"5678\n"[..]), None);
        assert!(!stream.mid_message());
    }
}
