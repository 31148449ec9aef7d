// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turns strings that QEMU accepts into strings of valid JSON.

use memchr::memchr;

/// Appends a string, with its single or double quotes, as a JSON string.
///
/// # Errors
///
/// QEMU's message about an invalid string.
pub(super) fn push_checked(json: &mut Vec<u8>, token: &[u8]) -> Result<(), String> {
    let text = &token[1..token.len() - 1];
    json.push(b'"');
    let mut rest = text;
    while let Some(&first) = rest.first() {
        let len = match first {
            b'\\' => push_escape(json, rest, &token[token.len() - rest.len() - 1..])?,
            b'"' => {
                json.extend_from_slice(b"\\\"");
                1
            }
            // QEMU writes a NUL within its own strings in this way.
            0xC0 if rest.get(1) == Some(&0x80) => {
                json.extend_from_slice(b"\\u0000");
                2
            }
            _ => push_plain(json, rest)?,
        };
        rest = &rest[len..];
    }
    json.push(b'"');
    Ok(())
}

/// Consumes what comes before the next special byte.
fn push_plain(json: &mut Vec<u8>, rest: &[u8]) -> Result<usize, String> {
    let len = rest
        .iter()
        .position(|byte| matches!(byte, b'\\' | b'"' | 0xC0))
        .unwrap_or(rest.len());
    let wrong = || "invalid UTF-8 sequence in string".to_owned();
    // A leading byte 0xC0 belongs to no character.
    let plain = std::str::from_utf8(&rest[..len.max(1)]).map_err(|_| wrong())?;
    if !plain.is_ascii() && plain.chars().any(|it| !is_character(it.into())) {
        return Err(wrong());
    }
    json.extend_from_slice(plain.as_bytes());
    Ok(plain.len())
}

/// Consumes an escape; `shown` is what an error may quote of it, with the closing quote.
fn push_escape(json: &mut Vec<u8>, rest: &[u8], shown: &[u8]) -> Result<usize, String> {
    let len = match rest.get(1) {
        // JSON has no such escape.
        Some(b'\'') => {
            json.push(b'\'');
            return Ok(2);
        }
        Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => 2,
        Some(b'u') => match unit(rest) {
            Some(high @ 0xD800..=0xDBFF) => {
                let low = rest.get(6..).and_then(unit);
                let low = low.filter(|low| (0xDC00..=0xDFFF).contains(low));
                let code = low.map(|low| 0x1_0000 + ((high & 0x3FF) << 10) + (low & 0x3FF));
                if !code.is_some_and(is_character) {
                    return Err(no_character(shown, low.map_or(6, |_| 12)));
                }
                12
            }
            Some(code) if is_character(code) => 6,
            _ => return Err(no_character(shown, 6)),
        },
        _ => return Err("invalid escape sequence in string".to_owned()),
    };
    json.extend_from_slice(&rest[..len]);
    Ok(len)
}

/// The number in the `\uXXXX` at the start of a text.
fn unit(text: &[u8]) -> Option<u32> {
    let digits = text.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |number, &digit| {
        Some(number << 4 | char::from(digit).to_digit(16)?)
    })
}

fn no_character(shown: &[u8], len: usize) -> String {
    let shown = String::from_utf8_lossy(&shown[..len.min(shown.len())]);
    format!("{shown} is not a valid Unicode character")
}

/// Whether QEMU accepts a code point: it refuses the surrogates and the
/// noncharacters of Unicode.
fn is_character(code: u32) -> bool {
    char::from_u32(code).is_some() && !(0xFDD0..=0xFDEF).contains(&code) && code & 0xFFFE != 0xFFFE
}

/// What an error shows of a client's bytes: all before a NUL, up to `limit`.
pub(super) fn shown(bytes: &[u8], limit: usize) -> String {
    let end = memchr(0, bytes).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end.min(limit)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(token: &[u8]) -> Result<String, String> {
        let mut json = Vec::new();
        push_checked(&mut json, token)?;
        let json = String::from_utf8(json).expect("text");
        let value: serde_json::Value = serde_json::from_str(&json).expect("a string of JSON");
        assert!(value.is_string());
        Ok(json)
    }

    #[test]
    fn strings_become_those_of_json() {
        for (token, json) in [
            (&b"\"a\\n\\u00e9\\/\""[..], r#""a\n\u00e9\/""#),
            (b"'a\"b'", r#""a\"b""#),
            (b"'a\\'b\\\"'", r#""a'b\"""#),
            (b"\"a\\'b\"", r#""a'b""#),
            (b"\"\xC0\x80\"", r#""\u0000""#),
            (b"\"\\u0000\x7F\"", "\"\\u0000\x7F\""),
            (
                b"\"\\ud83d\\ude00\xF0\x9F\x98\x80\"",
                "\"\\ud83d\\ude00\u{1F600}\"",
            ),
            (b"''", r#""""#),
        ] {
            assert_eq!(checked(token).as_deref(), Ok(json));
        }
    }

    #[test]
    fn what_qemu_refuses_is_refused_with_its_words() {
        let utf8 = "invalid UTF-8 sequence in string";
        for (token, why) in [
            (&b"\"\\x\""[..], "invalid escape sequence in string"),
            (b"\"\\u12\"", "\\u12\" is not a valid Unicode character"),
            (b"\"\\u12g45\"", "\\u12g4 is not a valid Unicode character"),
            (b"\"\\ud800\"", "\\ud800 is not a valid Unicode character"),
            (
                b"\"\\ud800\\u0041\"",
                "\\ud800 is not a valid Unicode character",
            ),
            (b"\"\\udc00\"", "\\udc00 is not a valid Unicode character"),
            (b"\"\\ufdd0\"", "\\ufdd0 is not a valid Unicode character"),
            (b"\"\\ufffe\"", "\\ufffe is not a valid Unicode character"),
            (
                b"\"\\ud83f\\udffe\"",
                "\\ud83f\\udffe is not a valid Unicode character",
            ),
            (b"\"\xEF\xBF\xBE\"", utf8),
            (b"\"\x80\"", utf8),
            (b"\"a\xC0\x81\"", utf8),
            (b"\"a\xC0\"", utf8),
            (b"\"\xED\xA0\x80\"", utf8),
            (b"\"\xF4\x90\x80\x80\"", utf8),
        ] {
            assert_eq!(checked(token), Err(why.to_owned()));
        }
    }

    #[test]
    fn what_is_shown_has_an_end() {
        assert_eq!(shown(b"ab\0c", 40), "ab");
        assert_eq!(shown(b"abc\xFF", 40), "abc\u{FFFD}");
        assert_eq!(shown(b"abcd", 3), "abc");
    }
}
