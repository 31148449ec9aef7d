// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decodes JSON strings.

use std::borrow::Cow;

use memchr::memchr;

/// The contents of a quoted string, which was checked before.
pub(super) fn unquoted(string: &str) -> Cow<'_, str> {
    if memchr(b'\\', string.as_bytes()).is_some() {
        // All that a checked string can hold, serde_json can read.
        serde_json::from_str(string).unwrap_or(Cow::Borrowed(string))
    } else {
        Cow::Borrowed(&string[1..string.len() - 1])
    }
}

/// The first `limit` bytes of the contents of a quoted string, or slightly fewer: no
/// character is cut. The string was checked before, and may be far longer.
pub(super) fn unquoted_start(string: &str, limit: usize) -> Cow<'_, str> {
    let inner = &string[1..string.len() - 1];
    let plain = &inner[..inner.floor_char_boundary(limit)];
    if memchr(b'\\', plain.as_bytes()).is_none() {
        return plain.into();
    }
    let mut start = String::new();
    let mut rest = inner;
    while let Some(len) = first_len(rest) {
        let (first, others) = rest.split_at(len);
        let first = format!("\"{first}\"");
        let first = unquoted(&first);
        if start.len() + first.len() > limit {
            break;
        }
        start.push_str(&first);
        rest = others;
    }
    start.into()
}

/// Makes a text safe for C strings, with U+FFFD in place of each NUL. All text that a peer
/// may have chosen passes through here on its way to C.
pub(crate) fn for_c(text: &str) -> Cow<'_, str> {
    if memchr(0, text.as_bytes()).is_some() {
        text.replace('\0', "\u{FFFD}").into()
    } else {
        text.into()
    }
}

/// [`for_c`] for what was just unquoted: only an escape can have produced a NUL.
#[inline(always)]
pub(super) fn without_nul(text: Cow<'_, str>) -> Cow<'_, str> {
    match text {
        Cow::Owned(text) if text.contains('\0') => for_c(&text).into_owned().into(),
        text => text,
    }
}

/// At most `limit` bytes of a text, in its own allocation; no character is cut.
pub(super) fn cut(text: Cow<'_, str>, limit: usize) -> String {
    if text.len() <= limit {
        return text.into_owned();
    }
    text[..text.floor_char_boundary(limit)].to_owned()
}

/// The encoded length of the first character of a checked string.
fn first_len(string: &str) -> Option<usize> {
    match string.as_bytes() {
        [
            b'\\',
            b'u',
            b'd' | b'D',
            b'8' | b'9' | b'a' | b'b' | b'A' | b'B',
            ..,
        ] => Some(12),
        [b'\\', b'u', ..] => Some(6),
        [b'\\', ..] => Some(2),
        _ => string.chars().next().map(char::len_utf8),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lose_their_quotes_and_escapes() {
        assert_eq!(unquoted(r#""a""#), "a");
        assert_eq!(unquoted(r#""""#), "");
        assert_eq!(unquoted(r#""\u0061\"\ud83d\ude00""#), "a\"😀");
    }

    #[test]
    fn the_start_of_a_string_has_whole_characters() {
        let cases = [
            (r#""abc""#, 2, "ab"),
            (r#""abc""#, 3, "abc"),
            (r#""aé""#, 2, "a"),
            (r#""a\u00e9b""#, 2, "a"),
            (r#""a\u00e9b""#, 3, "aé"),
            (r#""\ud83d\ude00x""#, 3, ""),
            (r#""\ud83d\ude00x""#, 4, "😀"),
            (r#""\\\n\"x""#, 3, "\\\n\""),
            (r#""ab\n""#, 2, "ab"),
            (r#""""#, 0, ""),
            (r#""\n""#, 0, ""),
        ];
        for (string, limit, start) in cases {
            assert_eq!(unquoted_start(string, limit), start, "{string} {limit}");
        }
    }

    #[test]
    fn a_nul_becomes_another_character() {
        assert_eq!(without_nul(unquoted(r#""a\u0000b""#)), "a\u{FFFD}b");
        assert_eq!(without_nul(unquoted(r#""a\u0001b""#)), "a\u{1}b");
        assert_eq!(cut("a\u{FFFD}".into(), 3), "a");
        assert_eq!(cut("a\u{FFFD}".into(), 4), "a\u{FFFD}");
    }
}
