// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses inputs that are lists of operations.

/// The first byte of an input, and its operations: a letter and the rest.
pub(crate) fn read(data: &[u8]) -> (u8, impl Iterator<Item = (u8, &[u8])> + Clone) {
    let (setup, rest) = data.split_first().unwrap_or((&0, &[]));
    let operations = rest.split(|&byte| byte == 0xFF);
    let operations = operations.filter_map(|operation| operation.split_first());
    (*setup, operations.map(|(&letter, with)| (letter, with)))
}

/// One of `count` things, of which there is one at least.
pub(crate) fn pick(with: &[u8], count: usize) -> usize {
    usize::from(with.first().copied().unwrap_or(b'0').wrapping_sub(b'0')) % count
}

/// Two strings, with a NUL between them; the second may be missing.
pub(crate) fn two_strings(with: &[u8]) -> (String, Option<String>) {
    let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
    let mut parts = with.splitn(2, |&byte| byte == 0);
    (
        parts.next().map(text).unwrap_or_default(),
        parts.next().map(text),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_end_at_a_byte_that_no_text_holds() {
        let (setup, operations) = read(b"7<{}\n\xFF\xFFt\xFFf2");
        assert_eq!(setup, b'7');
        let expected: [(u8, &[u8]); 3] = [(b'<', b"{}\n"), (b't', b""), (b'f', b"2")];
        assert_eq!(operations.collect::<Vec<_>>(), expected);
        assert_eq!(read(b"").0, 0);
        assert_eq!(read(b"").1.count(), 0);
    }

    #[test]
    fn picks_are_in_range() {
        assert_eq!((pick(b"0", 3), pick(b"4", 3), pick(b"", 3)), (0, 1, 0));
        assert!((0..=u8::MAX).all(|byte| pick(&[byte], 7) < 7));
    }

    #[test]
    fn a_nul_is_between_two_strings() {
        assert_eq!(two_strings(b"a"), ("a".into(), None));
        assert_eq!(two_strings(b"a\0{}\0"), ("a".into(), Some("{}\0".into())));
    }
}
