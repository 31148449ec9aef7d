// SPDX-License-Identifier: MIT OR Apache-2.0
//! Decodes bytes as the fixtures write them.

/// Decodes `\r`, `\n`, `\\` and `\xff`; other bytes stand for themselves.
pub(super) fn unescape(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'\\' => match rest.next() {
                Some(b'r') => b'\r',
                Some(b'n') => b'\n',
                Some(b'\\') => b'\\',
                Some(b'x') => {
                    let digits: String = rest.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).expect("two hexadecimal digits")
                }
                other => panic!("no such escape: {other:?} in {text}"),
            },
            other => other,
        });
    }
    bytes
}
