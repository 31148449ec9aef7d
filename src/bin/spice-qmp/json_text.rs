// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats JSON text for people or programs; all members keep their
//! order, and all numbers their spelling.

use std::fmt::Write as _;

use crate::style::acts_on_terminals;

/// The layout of JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Layout {
    /// All on one line, without spaces.
    Compact,
    /// Each value on a line of its own.
    Pretty,
}

/// A valid JSON text that is formatted piece by piece.
///
/// Characters that act on terminals become `\u` escapes; escapes of other
/// characters beyond ASCII become these characters.
#[derive(Debug)]
pub(crate) struct Formatter<'a> {
    rest: &'a str,
    layout: Layout,
    depth: usize,
    in_string: bool,
}

impl<'a> Formatter<'a> {
    pub(crate) fn new(json: &'a str, layout: Layout) -> Self {
        Self {
            rest: json,
            layout,
            depth: 0,
            in_string: false,
        }
    }

    /// Appends to `out` until it has `limit` bytes or slightly more. Returns false at the end.
    pub(crate) fn fill(&mut self, out: &mut String, limit: usize) -> bool {
        while out.len() < limit {
            let Some(c) = self.rest.chars().next() else {
                return false;
            };
            self.rest = &self.rest[c.len_utf8()..];
            if self.in_string {
                self.push_in_string(c, out);
            } else {
                self.push_token(c, out);
            }
        }
        !self.rest.is_empty()
    }

    fn push_in_string(&mut self, c: char, out: &mut String) {
        match c {
            '"' => {
                self.in_string = false;
                out.push(c);
            }
            '\\' => {
                if let Some(decoded) = self.decode_escape() {
                    out.push(decoded);
                    return;
                }
                out.push(c);
                // An escaped quote does not end the string.
                let mut rest = self.rest.chars();
                if let Some(escaped) = rest.next() {
                    push_safe(escaped, out);
                }
                self.rest = rest.as_str();
            }
            c => push_safe(c, out),
        }
    }

    /// Consumes a `\u` escape, or a pair of them, if it stands for a character that is shown
    /// unescaped. The backslash has been consumed already.
    fn decode_escape(&mut self) -> Option<char> {
        let unit = |text: &str| {
            let digits = text.strip_prefix('u')?.get(..4)?;
            u16::from_str_radix(digits, 16).ok()
        };
        let first = unit(self.rest)?;
        let second = self.rest.get(5..).and_then(|rest| rest.strip_prefix('\\'));
        let units = [first, second.and_then(unit).unwrap_or_default()];
        let decoded = char::decode_utf16(units).next()?.ok()?;
        if decoded.is_ascii() || acts_on_terminals(decoded) {
            return None;
        }
        self.rest = &self.rest[if decoded.len_utf16() == 1 { 5 } else { 11 }..];
        Some(decoded)
    }

    fn push_token(&mut self, c: char, out: &mut String) {
        match c {
            ' ' | '\t' | '\r' | '\n' => {}
            '{' | '[' => {
                out.push(c);
                self.rest = self.rest.trim_start_matches([' ', '\t', '\r', '\n']);
                if let Some(rest) = self.rest.strip_prefix(['}', ']']) {
                    out.push(if c == '{' { '}' } else { ']' });
                    self.rest = rest;
                } else {
                    self.depth += 1;
                    self.break_line(out);
                }
            }
            '}' | ']' => {
                self.depth = self.depth.saturating_sub(1);
                self.break_line(out);
                out.push(c);
            }
            ',' => {
                out.push(c);
                self.break_line(out);
            }
            ':' => out.push_str(match self.layout {
                Layout::Compact => ":",
                Layout::Pretty => ": ",
            }),
            '"' => {
                self.in_string = true;
                out.push(c);
            }
            c => push_safe(c, out),
        }
    }

    fn break_line(&self, out: &mut String) {
        if self.layout == Layout::Pretty {
            out.push('\n');
            out.extend(std::iter::repeat_n("  ", self.depth));
        }
    }
}

/// The whole text on one line.
pub(crate) fn compact(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    Formatter::new(json, Layout::Compact).fill(&mut text, usize::MAX);
    text
}

fn push_safe(c: char, out: &mut String) {
    if acts_on_terminals(c) {
        // None of them is beyond 16 bits. Writing to a string does not fail.
        let _ = write!(out, "\\u{:04x}", u32::from(c));
    } else {
        out.push(c);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    fn pretty(json: &str) -> String {
        let mut text = String::new();
        Formatter::new(json, Layout::Pretty).fill(&mut text, usize::MAX);
        text
    }

    #[test]
    fn members_keep_their_order_and_numbers_their_form() {
        let json = r#"{"z": 18446744073709551616, "a" :-0, "m":[1e400,1.10, -0.0 ,1E+2] }"#;
        assert_eq!(
            compact(json),
            r#"{"z":18446744073709551616,"a":-0,"m":[1e400,1.10,-0.0,1E+2]}"#
        );
    }

    #[test]
    fn pretty_text_equals_that_of_serde_json() {
        for json in [
            "1",
            "\"a b\"",
            "{}",
            "[]",
            " [ ] ",
            r#"{"a":{},"b":[ ],"c":[1,2,{"d":null}],"e":"x, y: {z}"}"#,
            r#"{"a":"quote \" and \\","b":[[[true]]]}"#,
        ] {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(pretty(json), serde_json::to_string_pretty(&value).unwrap());
            assert_eq!(compact(json), serde_json::to_string(&value).unwrap());
        }
    }

    #[test]
    fn strings_keep_their_meaning_and_act_on_no_terminal() {
        for json in [
            r#""\u001b[2J\u0007\u009b\u202e\r\n\t\"\\\/""#,
            "\"\u{7f}\u{85}\u{9b}\u{202e}\u{2028}\u{61c}\u{feff}\"",
            r#""gr\u00fcn \u6f22 \ud83d\ude00 \ud83d \ude00\ud83d""#,
            r#""\u0022,\u005c\u0000""#,
            "\"grün 漢 😀\"",
        ] {
            let text = compact(json);
            assert!(!text.chars().any(acts_on_terminals), "{text:?}");
            assert_eq!(
                serde_json::from_str::<Value>(&text).ok(),
                serde_json::from_str::<Value>(json).ok(),
                "{text}"
            );
        }
        assert_eq!(compact(r#""gr\u00fcn \ud83d\ude00""#), "\"grün 😀\"");
        assert_eq!(compact("\"\u{202e}\u{9b}\""), r#""\u202e\u009b""#);
    }

    #[test]
    fn it_is_the_same_piece_by_piece() {
        let json = r#"{"gr\u00fcn\"":[1,{"b":"\ud83d\ude00\\"},[],{}],"c":-0}"#;
        for layout in [Layout::Compact, Layout::Pretty] {
            let mut whole = String::new();
            assert!(!Formatter::new(json, layout).fill(&mut whole, usize::MAX));
            let mut formatter = Formatter::new(json, layout);
            let mut pieces = String::new();
            loop {
                let mut piece = String::new();
                let more = formatter.fill(&mut piece, 1);
                pieces += &piece;
                if !more {
                    break;
                }
            }
            assert_eq!(pieces, whole);
        }
    }

    #[test]
    fn depth_needs_no_stack() {
        let deep = "[".repeat(100_000) + &"]".repeat(100_000);
        assert_eq!(compact(&deep), deep);
    }
}
