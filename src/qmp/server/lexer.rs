// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cuts what a client sends into tokens, as QEMU's lexer does.
//!
//! QEMU needs no line ends: tokens make up a message. After an invalid one, the lexer skips
//! to the next bracket, comma, colon or control character other than a tab, or to
//! the bytes 0xFE and 0xFF, which never occur in text: a client sends one to resynchronise,
//! whatever came before.

/// A JSON token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token {
    /// `{` or `[`.
    Open(Container),
    /// `}` or `]`.
    Close(Container),
    Comma,
    Colon,
    /// A string, in double or single quotes.
    String,
    /// A valid number.
    Number,
    /// Lower-case letters: `true`, `false`, `null` or others.
    Word,
    /// Something that starts no token, or an incomplete token.
    Stray,
    /// A token that is longer than the limit.
    TooLong,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Container {
    Object,
    Array,
}

/// Reads bytes, however they are split.
#[derive(Default)]
pub(super) struct Lexer {
    state: State,
    /// The bytes of the unfinished token, or of the one that has just ended.
    text: Vec<u8>,
    /// Whether the token in `text` has ended.
    ended: bool,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum State {
    #[default]
    Start,
    /// After an invalid token.
    Skip,
    String(u8),
    /// After the backslash in a string with these quotes.
    Escape(u8),
    Minus,
    Zero,
    Digits,
    Point,
    Decimals,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Word,
}

/// What a byte does to the current token.
enum Step {
    /// It belongs to the token, which continues.
    On(State),
    /// It belongs to the token, and ends it.
    Last(Token),
    /// It ends the token before it.
    Behind(Token),
    /// It is not part of a token.
    Skip(State),
}

impl Lexer {
    /// The bytes of the token that was returned last.
    pub(super) fn text(&self) -> &[u8] {
        &self.text
    }

    /// Whether a token has begun and not ended.
    pub(super) fn mid_token(&self) -> bool {
        !self.ended && !self.text.is_empty()
    }

    /// Frees memory so that at most `most` bytes are kept.
    pub(super) fn shrink_to(&mut self, most: usize) {
        if self.ended {
            self.text.clear();
            self.text.shrink_to(most);
        }
    }

    /// The next token of at most `limit` bytes. Consumes all of `input` if none ends in it.
    pub(super) fn next(&mut self, input: &mut &[u8], limit: usize) -> Option<Token> {
        if std::mem::take(&mut self.ended) {
            self.text.clear();
        }
        while let Some((&byte, rest)) = input.split_first() {
            match step(self.state, byte) {
                Step::On(state) => {
                    self.state = state;
                    self.text.push(byte);
                    *input = rest;
                    if let State::String(quote) = state {
                        self.take_plain(input, quote, limit);
                    }
                    if self.text.len() > limit {
                        return Some(self.end(Token::TooLong));
                    }
                }
                Step::Last(token) => {
                    self.text.push(byte);
                    *input = rest;
                    return Some(self.end(token));
                }
                Step::Behind(token) => return Some(self.end(token)),
                Step::Skip(state) => {
                    self.state = state;
                    *input = rest;
                }
            }
        }
        None
    }

    fn end(&mut self, token: Token) -> Token {
        self.state = match token {
            Token::Stray => State::Skip,
            _ => State::Start,
        };
        self.ended = true;
        token
    }

    /// Consumes the ordinary bytes of a string, but not far past the limit.
    fn take_plain(&mut self, input: &mut &[u8], quote: u8, limit: usize) {
        let room = limit.saturating_add(1).saturating_sub(self.text.len());
        let plain = input
            .iter()
            .take(room)
            .take_while(|&&byte| byte != quote && byte != b'\\' && is_text(byte))
            .count();
        let (plain, rest) = input.split_at(plain);
        self.text.extend_from_slice(plain);
        *input = rest;
    }
}

/// Whether a byte may occur in a string.
fn is_text(byte: u8) -> bool {
    (0x20..=0xFD).contains(&byte)
}

fn step(state: State, byte: u8) -> Step {
    use State as S;

    match (state, byte) {
        (S::Skip, b'\t' | 0x20..=0xFD) if !is_structural(byte) => Step::Skip(S::Skip),
        (S::Start | S::Skip, _) => first(byte),
        (S::String(quote), _) if byte == quote => Step::Last(Token::String),
        (S::String(quote), b'\\') => Step::On(S::Escape(quote)),
        (S::String(quote) | S::Escape(quote), _) if is_text(byte) => Step::On(S::String(quote)),
        (S::Minus, b'0') => Step::On(S::Zero),
        (S::Minus, b'1'..=b'9') | (S::Digits, b'0'..=b'9') => Step::On(S::Digits),
        (S::Zero | S::Digits, b'.') => Step::On(S::Point),
        (S::Point | S::Decimals, b'0'..=b'9') => Step::On(S::Decimals),
        (S::Digits | S::Decimals, b'e' | b'E') => Step::On(S::Exponent),
        (S::Exponent, b'+' | b'-') => Step::On(S::ExponentSign),
        (S::Exponent | S::ExponentSign | S::ExponentDigits, b'0'..=b'9') => {
            Step::On(S::ExponentDigits)
        }
        (S::Word, b'a'..=b'z') => Step::On(S::Word),
        (S::Word, _) => Step::Behind(Token::Word),
        // No number starts with two zeros.
        (S::Zero, b'0'..=b'9') => Step::Last(Token::Stray),
        (S::Zero | S::Digits | S::Decimals | S::ExponentDigits, _) => Step::Behind(Token::Number),
        _ => Step::Last(Token::Stray),
    }
}

/// What a byte does outside a token.
fn first(byte: u8) -> Step {
    use Container::{Array, Object};

    match byte {
        b' ' | b'\t' | b'\r' | b'\n' => Step::Skip(State::Start),
        b'{' => Step::Last(Token::Open(Object)),
        b'}' => Step::Last(Token::Close(Object)),
        b'[' => Step::Last(Token::Open(Array)),
        b']' => Step::Last(Token::Close(Array)),
        b',' => Step::Last(Token::Comma),
        b':' => Step::Last(Token::Colon),
        b'"' | b'\'' => Step::On(State::String(byte)),
        b'-' => Step::On(State::Minus),
        b'0' => Step::On(State::Zero),
        b'1'..=b'9' => Step::On(State::Digits),
        b'a'..=b'z' => Step::On(State::Word),
        _ => Step::Last(Token::Stray),
    }
}

fn is_structural(byte: u8) -> bool {
    matches!(byte, b'{' | b'}' | b'[' | b']' | b',' | b':')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tokens of `bytes`, fed in pieces, and whether the last one is unfinished.
    fn tokens(bytes: &[u8], piece: usize, limit: usize) -> (Vec<(Token, String)>, bool) {
        let mut lexer = Lexer::default();
        let mut tokens = Vec::new();
        for mut input in bytes.chunks(piece) {
            while let Some(token) = lexer.next(&mut input, limit) {
                tokens.push((token, lexer.text().escape_ascii().to_string()));
            }
            assert!(input.is_empty());
        }
        (tokens, lexer.mid_token())
    }

    fn texts(bytes: &[u8], limit: usize) -> String {
        let whole = tokens(bytes, bytes.len().max(1), limit);
        for piece in 1..bytes.len() {
            assert_eq!(tokens(bytes, piece, limit), whole, "in {piece}");
        }
        let mut words: Vec<_> = whole
            .0
            .iter()
            .map(|(token, text)| match token {
                Token::Stray => format!("!{text}"),
                Token::TooLong => format!(">{text}"),
                _ => text.clone(),
            })
            .collect();
        if whole.1 {
            words.push("...".into());
        }
        words.join(" ")
    }

    #[test]
    fn tokens_are_cut_as_qemu_cuts_them() {
        for (bytes, expected) in [
            (
                &b"{\"a b\" :[1,-0.5e+3 ]}\r\n"[..],
                "{ \\\"a b\\\" : [ 1 , -0.5e+3 ] }",
            ),
            (b"'a\"\\'b'", "\\'a\\\"\\\\\\'b\\'"),
            (b"true1-2 x\ty", "true 1 -2 x ..."),
            (b"0e5 ", "0 e 5"),
        ] {
            assert_eq!(texts(bytes, 100), expected);
        }
        assert_eq!(
            texts(b"01,--1,1.},1e],-x", 100),
            "!01 , !-- , !1.} , !1e] , !-x"
        );
    }

    #[test]
    fn what_is_stray_is_skipped_to_where_a_message_may_begin() {
        assert_eq!(texts(b"Xyz 1 \t \"a\" {}", 100), "!X { }");
        assert_eq!(
            texts(b"X\xFFX\xFEX\x00X\n1 ", 100),
            "!X !\\xff !\\xfe !\\x00 1"
        );
        assert_eq!(texts(b"\"ab\n{", 100), "!\\\"ab\\n {");
        assert_eq!(texts(b"\"ab\\\xFF1 ", 100), "!\\\"ab\\\\\\xff");
    }

    #[test]
    fn a_token_has_a_limit() {
        assert_eq!(texts(b"\"abcd\" 1", 5), "\\\"abcd\\\" ...");
        assert_eq!(texts(b"\"abcde\"1", 5), ">\\\"abcde ...");
        assert_eq!(texts(b"12345 123456 ", 5), "12345 >123456");
        assert_eq!(texts(b"abcdeabcdef ", 5), ">abcdea bcdef");
    }
}
