// SPDX-License-Identifier: MIT OR Apache-2.0
//! Checks JSON text (RFC 8259) and finds the members of an object in it.
//!
//! A text is read once, and no tree is built: most of what QEMU sends is wanted as text,
//! or not at all.
//!
//! The scanner is inlined into its callers so that its position stays in a register,
//! which saves a third of the time. For the same reason, cold code must not borrow it.

use std::borrow::Cow;
use std::ops::Range;

use super::limits::MAX_DEPTH;
use super::strings::unquoted;

/// Why a text is not JSON, or not acceptable JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{problem} at byte {at}")]
pub(super) struct Malformed {
    problem: &'static str,
    /// The byte offset.
    at: usize,
}

/// Checks that `text` is one object, nested in `around` others, and calls `member` with the
/// name of each of its members and the text of its value.
pub(super) fn check_object<'a>(
    text: &'a str,
    around: usize,
    mut member: impl FnMut(&str, &'a str) -> Result<(), String>,
) -> Result<(), String> {
    Scanner::new(text.as_bytes()).members(around, |name, value, escaped| {
        member(&said(&text[name], escaped), &text[value])
    })
}

/// Checks that `text` is one value, nested in `around` objects.
pub(super) fn check_value(text: &str, around: usize) -> Result<(), String> {
    let mut scanner = Scanner::new(text.as_bytes());
    scanner.value(around)?;
    scanner.token();
    if scanner.at < text.len() {
        return Err(scanner.malformed("trailing characters").into());
    }
    Ok(())
}

/// The contents of the string at the start of `text`, and the rest. None if the string has
/// escapes.
#[inline(always)]
pub(super) fn plain_string(text: &str) -> Option<(&str, &str)> {
    let mut scanner = Scanner::new(text.as_bytes());
    if scanner.peek() != b'"' {
        return None;
    }
    scanner.string().ok()?;
    let (string, rest) = text.split_at(scanner.at);
    (!scanner.escaped).then(|| (&string[1..string.len() - 1], rest))
}

/// The value at the start of `text`, within `around` objects, and the rest. None if it is
/// not JSON.
#[inline(always)]
pub(super) fn value(text: &str, around: usize) -> Option<(&str, &str)> {
    let value = Scanner::new(text.as_bytes()).value(around).ok()?;
    text.split_at_checked(value.end)
}

/// The contents of a quoted string; `escaped` says whether it has escapes.
#[inline(always)]
pub(super) fn said(string: &str, escaped: bool) -> Cow<'_, str> {
    if escaped {
        unquoted(string)
    } else {
        string[1..string.len() - 1].into()
    }
}

/// Calls `member` with the name and the value of each member of an object that
/// [`check_object`] refused: it may nest to any depth, and its strings may contain bytes
/// that are not UTF-8 and halves of surrogate pairs. Everything else must be valid JSON.
/// Names that are not valid text are left out.
pub(super) fn check_structure<'a>(
    bytes: &'a [u8],
    mut member: impl FnMut(&str, &'a [u8]),
) -> Result<(), String> {
    let mut scanner = Scanner::new(bytes);
    scanner.lenient = true;
    scanner.members(0, |name, value, _| {
        if let Ok(name) = std::str::from_utf8(&bytes[name]) {
            member(&unquoted(name), &bytes[value]);
        }
        Ok(())
    })
}

/// The items of an array that was checked before, verbatim; `None` if it is not an
/// array.
pub(super) fn items(array: &str) -> Option<impl Iterator<Item = &str>> {
    let mut scanner = Scanner::new(array.as_bytes());
    (scanner.token() == b'[').then(|| {
        std::iter::from_fn(move || {
            // The bracket, or the comma after the last item.
            scanner.at += 1;
            if scanner.token() == b']' {
                return None;
            }
            let item = scanner.value(0).ok()?;
            scanner.token();
            array.get(item)
        })
    })
}

impl From<Malformed> for String {
    #[cold]
    fn from(malformed: Malformed) -> Self {
        malformed.to_string()
    }
}

/// Reads a text from front to back.
pub(super) struct Scanner<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    /// Whether there was an escape in a string.
    pub(super) escaped: bool,
    /// Whether depth and the contents of strings are not checked.
    lenient: bool,
}

/// Which of the enclosing containers are objects: one bit each.
#[derive(Default)]
struct Containers {
    /// The innermost 64 at most; the lowest bit is the innermost of all.
    inner: u64,
    /// The outer ones.
    outer: Vec<u64>,
    depth: usize,
}

impl Containers {
    fn enter(&mut self, object: bool) {
        if self.depth != 0 && self.depth.is_multiple_of(64) {
            self.outer.push(self.inner);
        }
        self.inner = self.inner << 1 | u64::from(object);
        self.depth += 1;
    }

    fn leave(&mut self) {
        self.depth -= 1;
        self.inner >>= 1;
        if self.depth != 0 && self.depth.is_multiple_of(64) {
            self.inner = self.outer.pop().unwrap_or_default();
        }
    }

    fn in_object(&self) -> bool {
        self.inner & 1 == 1
    }
}

impl<'a> Scanner<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            at: 0,
            escaped: false,
            lenient: false,
        }
    }

    /// Consumes one object, nested in `around` others, and nothing else. `member` receives the
    /// ranges of each name, with its quotes, and value, and whether the name has escapes.
    #[inline(always)]
    fn members(
        &mut self,
        around: usize,
        mut member: impl FnMut(Range<usize>, Range<usize>, bool) -> Result<(), String>,
    ) -> Result<(), String> {
        if self.token() != b'{' {
            return Err(self.malformed("expected an object").into());
        }
        self.at += 1;
        if self.token() != b'}' {
            loop {
                self.escaped = false;
                let name = self.name()?;
                let escaped = self.escaped;
                let value = self.value(around + 1)?;
                member(name, value, escaped)?;
                match self.token() {
                    b',' => self.at += 1,
                    b'}' => break,
                    _ => {
                        return Err(self
                            .malformed("expected a comma or the object's end")
                            .into());
                    }
                }
            }
        }
        self.at += 1;
        self.token();
        if self.at < self.bytes.len() {
            return Err(self.malformed("trailing characters").into());
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn malformed(&self, problem: &'static str) -> Malformed {
        let at = self.at;
        Malformed { problem, at }
    }

    /// The next byte; NUL, which JSON does not use, at the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    /// The next byte that is not white space.
    #[inline(always)]
    pub(super) fn token(&mut self) -> u8 {
        loop {
            match self.bytes.get(self.at) {
                Some(b' ' | b'\n' | b'\t' | b'\r') => self.at += 1,
                Some(&byte) => return byte,
                None => return 0,
            }
        }
    }

    /// Consumes `text`, which QEMU would put next, if it is there.
    #[inline(always)]
    fn skip(&mut self, text: &[u8]) -> bool {
        let skips = self.bytes[self.at..].starts_with(text);
        if skips {
            self.at += text.len();
        }
        skips
    }

    /// Consumes a member's name and the colon after it.
    #[inline(always)]
    pub(super) fn name(&mut self) -> Result<Range<usize>, Malformed> {
        if self.token() != b'"' {
            return Err(self.malformed("expected a member's name"));
        }
        let start = self.at;
        self.string()?;
        let name = start..self.at;
        if !self.skip(b": ") {
            if self.token() != b':' {
                return Err(self.malformed("expected a colon"));
            }
            self.at += 1;
        }
        Ok(name)
    }

    /// Consumes a value nested in `around` containers.
    #[inline(always)]
    fn value(&mut self, around: usize) -> Result<Range<usize>, Malformed> {
        self.token();
        let start = self.at;
        let mut containers = Containers::default();
        loop {
            match self.token() {
                b'"' => self.string()?,
                open @ (b'{' | b'[') => {
                    if around + containers.depth >= MAX_DEPTH && !self.lenient {
                        return Err(self.malformed("nested too deep"));
                    }
                    self.at += 1;
                    containers.enter(open == b'{');
                    // In ASCII, `]` and `}` are two above `[` and `{`.
                    if self.token() != open + 2 {
                        if open == b'{' {
                            self.name()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    containers.leave();
                }
                b'-' | b'0'..=b'9' => self.number()?,
                b't' => self.word("true")?,
                b'f' => self.word("false")?,
                b'n' => self.word("null")?,
                _ => return Err(self.malformed("expected a value")),
            }
            // The value may be the last one in its container.
            loop {
                if containers.depth == 0 {
                    return Ok(start..self.at);
                }
                let in_object = containers.in_object();
                match self.token() {
                    b',' => {
                        self.at += 1;
                        if in_object {
                            self.name()?;
                        }
                        break;
                    }
                    b'}' if in_object => {}
                    b']' if !in_object => {}
                    _ => return Err(self.malformed("expected a comma or an end")),
                }
                self.at += 1;
                containers.leave();
            }
        }
    }

    /// Consumes a string with its quotes.
    #[inline(always)]
    pub(super) fn string(&mut self) -> Result<(), Malformed> {
        self.at += 1;
        loop {
            while let Some(word) = self.bytes[self.at..].first_chunk() {
                let plain = plain_bytes(u64::from_le_bytes(*word));
                self.at += plain;
                if plain < 8 {
                    break;
                }
            }
            match self.bytes.get(self.at) {
                Some(b'"') => {
                    self.at += 1;
                    return Ok(());
                }
                Some(b'\\') => {
                    self.at = escape(self.bytes, self.at, self.lenient)?;
                    self.escaped = true;
                }
                Some(b' '..) => self.at += 1,
                Some(_) => return Err(self.malformed("control character in a string")),
                None => return Err(self.malformed("the text ends in a string")),
            }
        }
    }

    #[inline(always)]
    pub(super) fn number(&mut self) -> Result<(), Malformed> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        if self.peek() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    #[inline(always)]
    fn digits(&mut self) -> Result<(), Malformed> {
        if !self.peek().is_ascii_digit() {
            return Err(self.malformed("invalid number"));
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }

    #[inline(always)]
    pub(super) fn word(&mut self, word: &str) -> Result<(), Malformed> {
        if !self.bytes[self.at..].starts_with(word.as_bytes()) {
            return Err(self.malformed("expected a value"));
        }
        self.at += word.len();
        Ok(())
    }
}

/// Consumes an escape in a string; returns the position after it.
#[cold]
fn escape(bytes: &[u8], at: usize, lenient: bool) -> Result<usize, Malformed> {
    let malformed = |problem, at| Err(Malformed { problem, at });
    let half = "a string has half of a surrogate pair";
    match bytes.get(at + 1) {
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => Ok(at + 2),
        Some(b'u') => match utf16_unit(bytes, at) {
            Some(0xD800..=0xDBFF) if !lenient => match utf16_unit(bytes, at + 6) {
                Some(0xDC00..=0xDFFF) => Ok(at + 12),
                _ => malformed(half, at + 6),
            },
            Some(0xDC00..=0xDFFF) if !lenient => malformed(half, at),
            Some(_) => Ok(at + 6),
            None => malformed("invalid escape", at),
        },
        _ => malformed("invalid escape", at),
    }
}

/// The UTF-16 unit of the `\uXXXX` at a position.
fn utf16_unit(bytes: &[u8], at: usize) -> Option<u16> {
    let digits = bytes[at..].strip_prefix(b"\\u")?;
    digits.get(..4)?.iter().try_fold(0, |unit, &digit| {
        let digit = char::from(digit).to_digit(16)?;
        Some(unit << 4 | u16::try_from(digit).ok()?)
    })
}

/// How many of the eight bytes, from the lowest on, come before one that is special
/// in a string: a quote, a backslash, a control character.
///
/// "Hacker's Delight", section 6-1: the lowest of the bits that a subtraction of
/// 1 in each byte turns on is that of the first byte that was 0.
#[inline(always)]
fn plain_bytes(word: u64) -> usize {
    const ONES: u64 = u64::MAX / 255;
    const HIGHS: u64 = ONES << 7;
    let below = |word: u64, least: u8| word.wrapping_sub(ONES * u64::from(least)) & !word & HIGHS;
    let equal = |byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    let special = below(word, b' ') | equal(b'"') | equal(b'\\');
    special.trailing_zeros() as usize / 8
}

#[cfg(test)]
mod tests;
