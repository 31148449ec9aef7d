// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cuts a stream of bytes into messages.
//!
//! A message is one line (LF or CRLF). QEMU with `pretty=on` spreads an object
//! over many lines instead: a line that is just `{`, lines that start with
//! white space, and a line that starts with `}`. Every byte is searched once,
//! however the stream is split; a message that lies entirely within a chunk is
//! not copied.

use std::ops::Range;

use memchr::memchr;

use super::limits::{KEPT_BUFFER, MAX_SHOWN};
use super::pages;

/// A buffer that grows past this size is copied to large pages; a smaller one would not gain.
const LARGE: usize = 8 << 20;

/// Receives chunks and returns messages.
#[derive(Debug)]
pub(super) struct Framer {
    /// Pending bytes: the start of an unfinished message, or buffered input.
    buffer: Vec<u8>,
    /// Where in `buffer` the current message starts.
    start: usize,
    /// How far `buffer` has been searched.
    searched: usize,
    scan: Scan,
    /// The current message is too large: its bytes are searched but not kept.
    skipping: bool,
    limit: usize,
}

/// One piece cut from the stream.
#[derive(Debug)]
pub(super) enum Frame<'i> {
    /// A message within the chunk.
    InPlace(&'i [u8]),
    /// A message within the framer's buffer; see [`Framer::bytes`].
    Buffered(Range<usize>),
    /// A large message, with its buffer, which held nothing else.
    Large(Vec<u8>),
    /// An object that spans several lines broke off.
    Broken,
    /// A message exceeded the limit; the rest of it is skipped. Its start, without
    /// leading white space: [`MAX_SHOWN`] bytes at most.
    TooLarge(Vec<u8>),
}

/// How far the search has got in a message.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Scan {
    /// In the first line: only white space so far.
    #[default]
    Blank,
    /// In the first line: only a `{` so far.
    Brace,
    /// In the first line, which is the only one.
    Text,
    /// At the start of a continuation line of an object.
    LineStart,
    /// In a continuation line of an object.
    Inner,
    /// In the line that ends an object.
    Last,
}

/// The end of a message.
struct End {
    /// How many bytes of the searched piece belong to the message.
    taken: usize,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Blank,
    Whole,
    Broken,
}

impl Framer {
    pub(super) fn new(limit: usize) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            searched: 0,
            scan: Scan::default(),
            skipping: false,
            limit,
        }
    }

    pub(super) fn limit(&self) -> usize {
        self.limit
    }

    pub(super) fn set_limit(&mut self, limit: usize) {
        self.limit = limit;
    }

    /// Forgets all input: the next byte is the first of a new stream.
    pub(super) fn reset(&mut self) {
        *self = Self::new(self.limit);
    }

    /// Whether a message has begun and not ended.
    pub(super) fn mid_message(&self) -> bool {
        self.start < self.buffer.len() || self.skipping
    }

    /// Whether there are buffered bytes that have not been searched yet.
    pub(super) fn has_more(&self) -> bool {
        self.searched < self.buffer.len()
    }

    /// How many buffered bytes have not been searched yet.
    pub(super) fn buffered(&self) -> usize {
        self.buffer.len() - self.searched
    }

    /// Keeps `input` for later calls of [`next`](Self::next).
    pub(super) fn buffer_input(&mut self, input: &[u8]) {
        if !input.is_empty() {
            self.compact();
            self.buffer.extend_from_slice(input);
        }
    }

    /// The bytes of the current message so far; none if it is being skipped.
    pub(super) fn begun(&self) -> &[u8] {
        &self.buffer[self.start..]
    }

    /// How many bytes of the current message have been received.
    pub(super) fn collected(&self) -> usize {
        self.buffer.len() - self.start
    }

    /// The bytes of a [`Frame::Buffered`]; valid until the next call.
    pub(super) fn bytes(&self, range: &Range<usize>) -> &[u8] {
        &self.buffer[range.clone()]
    }

    /// Returns the next message of the buffered bytes followed by `input`.
    /// Consumes all of `input` if no message ends in it.
    pub(super) fn next<'i>(&mut self, input: &mut &'i [u8]) -> Option<Frame<'i>> {
        loop {
            let frame = if self.searched < self.buffer.len() {
                self.search_buffer()
            } else if input.is_empty() {
                self.compact();
                return None;
            } else {
                self.search_input(input)
            };
            if frame.is_some() {
                return frame;
            }
        }
    }

    /// Consumes `input` if it merely continues the current message. Returns false if it may
    /// do more; then nothing is consumed.
    #[inline]
    pub(super) fn goes_on(&mut self, input: &[u8]) -> bool {
        let in_line = matches!(self.scan, Scan::Text | Scan::Inner | Scan::Last);
        let begun = self.start < self.buffer.len() && !self.has_more();
        let fits = self.collected() + input.len() <= self.limit;
        let goes_on = in_line && begun && fits && memchr(b'\n', input).is_none();
        if goes_on {
            self.keep(input);
            self.searched = self.buffer.len();
        }
        goes_on
    }

    fn search_buffer<'i>(&mut self) -> Option<Frame<'i>> {
        let Some(end) = self.scan.run(&self.buffer[self.searched..]) else {
            self.searched = self.buffer.len();
            return self.unfinished(self.searched - self.start, &[]);
        };
        let range = self.start..self.searched + end.taken;
        let len = range.len();
        let frame = if len > self.limit {
            Frame::TooLarge(self.head(&[]))
        } else {
            Frame::Buffered(range.clone())
        };
        self.start = range.end;
        self.searched = range.end;
        self.finished(end.kind, len, frame)
    }

    /// Searches `input`; everything in the buffer has been searched before.
    #[inline(always)]
    fn search_input<'i>(&mut self, input: &mut &'i [u8]) -> Option<Frame<'i>> {
        let end = self.scan.run(input);
        let taken = end.as_ref().map_or(input.len(), |end| end.taken);
        let (piece, rest) = input.split_at(taken);
        *input = rest;

        let kept = self.buffer.len() - self.start;
        let len = kept + piece.len();
        if kept == 0
            && let Some(end) = end
        {
            return self.finished(end.kind, len, Frame::InPlace(piece));
        }
        let Some(end) = end else {
            if len <= self.limit && !self.skipping {
                self.keep(piece);
            }
            self.searched = self.buffer.len();
            return self.unfinished(len, piece);
        };
        if len > self.limit {
            let frame = Frame::TooLarge(self.head(piece));
            self.start = self.buffer.len();
            self.searched = self.start;
            return self.finished(end.kind, len, frame);
        }
        self.keep(piece);
        self.searched = self.buffer.len();
        let range = self.start..self.searched;
        self.start = range.end;
        let frame = self.finished(end.kind, len, Frame::Buffered(range));
        match frame {
            Some(Frame::Buffered(range)) if range.start == 0 && len > KEPT_BUFFER => {
                self.start = 0;
                self.searched = 0;
                Some(Frame::Large(std::mem::take(&mut self.buffer)))
            }
            frame => frame,
        }
    }

    fn keep(&mut self, piece: &[u8]) {
        self.compact();
        if piece.len() > self.buffer.capacity() - self.buffer.len() {
            self.grow(piece.len());
        }
        self.buffer.extend_from_slice(piece);
    }

    /// Makes room for `more` bytes of a message.
    #[cold]
    fn grow(&mut self, more: usize) {
        let twice = self.buffer.capacity() * 2;
        if twice <= LARGE {
            return self.buffer.reserve(more);
        }
        // Not with `reserve`, which would copy to small pages before large ones are requested.
        // A message never needs more than the limit, so old and new are at most twice that.
        let begun = &self.buffer[self.start..];
        let capacity = twice.min(self.limit).max(begun.len() + more);
        let mut buffer = Vec::with_capacity(capacity);
        pages::prefer_large(buffer.spare_capacity_mut());
        buffer.extend_from_slice(begun);
        self.buffer = buffer;
        self.searched -= self.start;
        self.start = 0;
    }

    /// The start of a message that exceeds the limit, where `rest` is not kept.
    /// It does not depend on how the message was split, so nothing past the limit counts.
    fn head(&self, rest: &[u8]) -> Vec<u8> {
        let message = self.buffer[self.start..].iter().chain(rest);
        message
            .take(self.limit.saturating_add(1))
            .copied()
            .skip_while(u8::is_ascii_whitespace)
            .take(MAX_SHOWN)
            .collect()
    }

    /// The current message is unfinished after `len` bytes; the last of them are in `piece`
    /// unless they are in the buffer.
    fn unfinished<'i>(&mut self, len: usize, piece: &[u8]) -> Option<Frame<'i>> {
        if len <= self.limit && !self.skipping {
            return None;
        }
        let head = self.head(piece);
        self.start = self.buffer.len();
        self.compact();
        let was_skipping = std::mem::replace(&mut self.skipping, true);
        (!was_skipping).then_some(Frame::TooLarge(head))
    }

    /// The current message has ended after `len` bytes.
    #[inline(always)]
    fn finished<'i>(&mut self, kind: Kind, len: usize, frame: Frame<'i>) -> Option<Frame<'i>> {
        self.scan = Scan::default();
        if std::mem::take(&mut self.skipping) {
            return None;
        }
        if len > self.limit {
            return Some(match frame {
                Frame::InPlace(bytes) => Frame::TooLarge(self.head(bytes)),
                frame => frame,
            });
        }
        match kind {
            Kind::Blank => None,
            Kind::Whole => Some(frame),
            Kind::Broken => Some(Frame::Broken),
        }
    }

    /// Frees the memory of an empty buffer.
    pub(super) fn shrink_to_fit(&mut self) {
        self.buffer.shrink_to_fit();
    }

    /// Drops the consumed part of the buffer when that is worth the move.
    fn compact(&mut self) {
        let rest = self.buffer.len() - self.start;
        if rest == 0 {
            self.buffer.clear();
            if self.buffer.capacity() > KEPT_BUFFER {
                self.buffer = Vec::new();
            }
            self.start = 0;
            self.searched = 0;
        } else if self.start >= rest {
            self.buffer.drain(..self.start);
            self.searched -= self.start;
            self.start = 0;
        }
    }
}

impl Scan {
    /// Looks for the end of the message, continuing where the last piece ended.
    #[inline(always)]
    fn run(&mut self, bytes: &[u8]) -> Option<End> {
        if *self == Self::Blank && bytes.starts_with(b"{\"") {
            *self = Self::Text;
        }
        if *self != Self::Text {
            return self.run_lines(bytes);
        }
        // As nearly all messages are.
        let newline = memchr(b'\n', bytes)?;
        let (taken, kind) = (newline + 1, Kind::Whole);
        Some(End { taken, kind })
    }

    /// The same where the message may have more than one line.
    fn run_lines(&mut self, bytes: &[u8]) -> Option<End> {
        let end = |taken, kind| Some(End { taken, kind });
        let mut at = 0;
        while let Some(&first) = bytes.get(at) {
            if *self == Self::LineStart {
                *self = match first {
                    b' ' | b'\t' | b'\r' | b'\n' => Self::Inner,
                    b'}' => Self::Last,
                    // The object broke off; this line belongs to the next message.
                    _ => return end(at, Kind::Broken),
                };
            }
            let newline = memchr(b'\n', &bytes[at..]).map(|len| at + len);
            self.first_line(&bytes[at..newline.unwrap_or(bytes.len())]);
            at = newline? + 1;
            match self {
                Self::Blank => return end(at, Kind::Blank),
                Self::Text | Self::Last => return end(at, Kind::Whole),
                Self::Brace | Self::LineStart | Self::Inner => *self = Self::LineStart,
            }
        }
        None
    }

    /// Handles a piece of a first line; does nothing in other lines.
    fn first_line(&mut self, piece: &[u8]) {
        if matches!(self, Self::Blank | Self::Brace) {
            *self = match (&*self, piece.trim_ascii()) {
                (&state, b"") => state,
                (Self::Blank, b"{") => Self::Brace,
                _ => Self::Text,
            };
        }
    }
}
