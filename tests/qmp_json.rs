// SPDX-License-Identifier: MIT OR Apache-2.0
//! Valid and invalid JSON as the payload of a reply: a table of all kinds of
//! mistakes in JSON (RFC 8259). A bad reply ends no more calls than necessary.

use std::borrow::Cow;

use spice_qmp::qmp::limits::MAX_DEPTH;
use spice_qmp::qmp::{Band, Error, Ignored, Opening, Output, PeerError, Session};

/// Which calls a reply ends with an error.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Fails {
    /// The one that it answers.
    One,
    /// All: there is no id if the structure is broken.
    All,
}

const VALID: &[&str] = &[
    // Literals, and white space around them.
    "null",
    "true",
    "false",
    " null ",
    "\ttrue\t",
    "\rfalse\r",
    "  \t\r 0",
    // Whole numbers.
    "0",
    "-0",
    "1",
    "-1",
    "9",
    "10",
    "-10",
    "123",
    "1234567890",
    "-9223372036854775808",
    "9223372036854775807",
    "18446744073709551615",
    "18446744073709551616",
    "-9223372036854775809",
    "100000000000000000000000000000000000000000000000000",
    // Fractions and exponents.
    "0.0",
    "-0.0",
    "0.5",
    "-0.5",
    "1.5",
    "10.25",
    "123.456",
    "0.000000000000000000000001",
    "1e0",
    "1e1",
    "1E1",
    "1e+1",
    "1e-1",
    "1E+22",
    "1E-22",
    "0e0",
    "0e+1",
    "0E-1",
    "-0e1",
    "1.5e3",
    "1.5E-3",
    "-1.5e+3",
    "1e00",
    "1e-07",
    "123e45",
    "0.1e1",
    "20e1",
    "-0.000000000000000000000000000000000000000000000000000000000000000000000000000001",
    // Strings.
    r#""""#,
    r#"" ""#,
    r#""a""#,
    r#""abc def""#,
    "\"\u{e9}\"",
    "\"\u{20ac}\"",
    "\"\u{1f600}\"",
    "\"\u{7f}\"",
    "\"\u{80}\"",
    "\"\u{2028}\u{2029}\"",
    "\"\u{ffff}\"",
    "\"\u{10ffff}\"",
    "\"\u{feff}\"",
    "\"\u{fdd0}\"",
    r#""/""#,
    r#""a/*b*/c//d""#,
    r#""[{]}:,""#,
    r#""'""#,
    // Escapes.
    r#""\"""#,
    r#""\\""#,
    r#""\/""#,
    r#""\b\f\n\r\t""#,
    r#""\\n""#,
    r#""\\\"""#,
    r#""\\\\""#,
    r#""\u0061""#,
    r#""\u00e9""#,
    r#""\u00E9""#,
    r#""\u20aC""#,
    r#""\u0000""#,
    r#""\u001f""#,
    r#""\u007F""#,
    r#""\uFFFF""#,
    r#""\ufdd0""#,
    r#""\ufeff""#,
    r#""\u2028""#,
    r#""\ud83d\ude00""#,
    r#""\uD83D\uDE00""#,
    r#""\udbff\udfff""#,
    r#""\ud800\udc00x\u0041""#,
    r#""\u005C\u0022""#,
    // Arrays.
    "[]",
    "[ ]",
    "[\t\r]",
    "[1]",
    "[ 1 ]",
    "[1,2]",
    "[1 , 2]",
    "[null]",
    "[[]]",
    "[[],[[]]]",
    r#"["a",1,true,null,{},[]]"#,
    "[1,null,null,null,2]",
    "[-0]",
    "[1e1 ]",
    // Objects.
    "{}",
    "{ }",
    "{\t}",
    r#"{"a":1}"#,
    r#"{ "a" : 1 }"#,
    r#"{"a":1,"b":2}"#,
    r#"{"":0}"#,
    r#"{"a":{}}"#,
    r#"{"a":[]}"#,
    r#"{"a":1,"a":2}"#,
    r#"{"a":1,"a":1}"#,
    r#"{"\u0061":"\u0062"}"#,
    r#"{"foo\u0000bar":1}"#,
    r#"{"return":1,"id":2,"error":{},"event":"x"}"#,
    r#"{"a":[{"b":[{"c":null}]}]}"#,
    "{\"\u{e9}\":\"\u{e9}\"}",
    r#"{"$serde_json::private::Number":"1"}"#,
    r#"{"$serde_json::private::RawValue":"1"}"#,
];

/// The structure is broken: nothing after that can be relied on.
const BROKEN: &[&str] = &[
    // Nothing, and text that looks like a literal.
    "",
    " ",
    "n",
    "nul",
    "nulll",
    "nullnull",
    "NULL",
    "Null",
    "t",
    "tru",
    "TRUE",
    "True",
    "truth",
    "f",
    "fals",
    "FALSE",
    "False",
    "nan",
    "NaN",
    "-NaN",
    "inf",
    "Infinity",
    "-Infinity",
    "undefined",
    "a",
    "abc",
    "_",
    "$",
    "@",
    "*",
    "#",
    "%",
    "&",
    "!",
    "?",
    "~",
    "`",
    "|",
    "=",
    ";",
    ":",
    ",",
    "\u{e9}",
    "\u{feff}",
    "\u{feff}1",
    "\u{2060}",
    "\u{a0}1",
    "\u{2003}1",
    // Numbers.
    "+1",
    "+0",
    "++1",
    "--1",
    "-+1",
    "+-1",
    "-",
    "- 1",
    "-a",
    "-true",
    ".",
    ".5",
    "-.5",
    "0.",
    "-0.",
    "1.",
    "1.e1",
    "1.5.",
    "1.5.5",
    "1..5",
    "00",
    "01",
    "-00",
    "-01",
    "012",
    "00.5",
    "1a",
    "1 2",
    "1_000",
    "1,000.0,",
    "0x1",
    "0x",
    "0b1",
    "0o7",
    "1f",
    "1d",
    "1L",
    "e1",
    "E1",
    "1e",
    "1E",
    "1e+",
    "1e-",
    "1ee1",
    "1e1e1",
    "1e1.5",
    "1e 1",
    "1 e1",
    "1e+-1",
    "0e",
    "0e+",
    "1.5e",
    "-1e",
    "\u{ff11}",
    "\u{661}",
    "1\u{ff11}",
    "1+1",
    "1-1",
    "1/2",
    "(1)",
    // Strings.
    "\"",
    "\"a",
    "a\"",
    "'",
    "''",
    "'a'",
    "\"\"\"",
    "\"a\"\"",
    "\"a\" \"b\"",
    "\"a\"b",
    "\u{201c}a\u{201d}",
    "\"\t\"",
    "\"\r\"",
    "\"\n\"",
    "\"\u{0}\"",
    "\"\u{1}\"",
    "\"\u{8}\"",
    "\"\u{b}\"",
    "\"\u{c}\"",
    "\"\u{1b}\"",
    "\"\u{1f}\"",
    "\"a\u{1}b\"",
    // Escapes.
    r#""\""#,
    r#""\a""#,
    r#""\v""#,
    r#""\0""#,
    r#""\x41""#,
    r#""\'""#,
    r#""\ ""#,
    r#""\U0041""#,
    r#""\u""#,
    r#""\u0""#,
    r#""\u00""#,
    r#""\u004""#,
    r#""\u004g""#,
    r#""\u 041""#,
    r#""\u-041""#,
    r#""\u+041""#,
    r#""\u{41}""#,
    r#""\u0x41""#,
    r#""\uD8""#,
    r#""\ud800\u""#,
    r#""\ud800\u1""#,
    r#""\ud800\""#,
    r#""\e""#,
    "\"\\\u{e9}\"",
    "\"\\\t\"",
    "\"\\\u{0}\"",
    "\"\\\u{1f600}\"",
    r"\u0041",
    r"\n",
    // Arrays.
    "[",
    "]",
    "[[",
    "[]]",
    "[[]",
    "][",
    "[,]",
    "[1,]",
    "[,1]",
    "[1,,2]",
    "[1,2,]",
    "[1 2]",
    "[1;2]",
    "[1:2]",
    "[1",
    "[1,",
    "[1,2",
    "[\"a\"",
    "[\"a",
    "[\"a\",",
    "[\"a\":1]",
    "[a]",
    "[1]]",
    "[1}",
    "[}",
    "[1]2",
    "[1],",
    "[][]",
    "[*]",
    "[...]",
    "[1,/**/2]",
    "[null,nul]",
    "[\u{c}]",
    "[\u{b}1]",
    "[\u{a0}]",
    "[x",
    // Objects.
    "{",
    "}",
    "{{",
    "{}}",
    "{{}}",
    "}{",
    "{,}",
    "{:}",
    "{a}",
    "{a:1}",
    "{'a':1}",
    "{\"a\"}",
    "{\"a\":}",
    "{\"a\":,}",
    "{\"a\":1,}",
    "{,\"a\":1}",
    "{\"a\":1,,\"b\":2}",
    "{\"a\" 1}",
    "{\"a\"::1}",
    "{\"a\",1}",
    "{\"a\"=1}",
    "{\"a\":1 \"b\":2}",
    "{\"a\":1;\"b\":2}",
    "{1:1}",
    "{null:1}",
    "{[]:1}",
    "{\"a\":1]",
    "{]",
    "{\"a",
    "{\"a\"",
    "{\"a\":",
    "{\"a\":1",
    "{\"a\":1,",
    "{\"a\":1,\"b\"",
    "{\"a\":1}1",
    "{\"a\":1}#",
    "{\"a\":1}//",
    "{\"a\":/**/1}",
    "{\"a\":1}/**/",
    "{\"a\":\"b\"c}",
    "{\"a\":'b'}",
    "{\"a\":a}",
    "{\"\u{0}\":1}",
    "{}{}",
    "{}[]",
    "{\"a\":1:2}",
    "<null>",
    "<a/>",
];

/// As bytes: the structure is intact, but a string is not text.
const NO_TEXT: &[&[u8]] = &[
    // Bytes that are not UTF-8.
    b"\"\xff\"",
    b"\"\xfe\"",
    b"\"\x80\"",
    b"\"\xbf\"",
    b"\"\xc3\"",
    b"\"\xe2\x82\"",
    b"\"\xf0\x9f\x98\"",
    b"\"a\xe9b\"",
    b"[\"\xe9\"]",
    b"{\"\xe9\":1}",
    b"{\"a\":\"\xe9\"}",
    // Overlong forms, halves of surrogate pairs, what is beyond Unicode.
    b"\"\xc0\xaf\"",
    b"\"\xc1\x81\"",
    b"\"\xe0\x80\xaf\"",
    b"\"\xf0\x80\x80\xaf\"",
    b"\"\xed\xa0\x80\"",
    b"\"\xed\xbf\xbf\"",
    b"\"\xf4\x90\x80\x80\"",
    b"\"\xf8\x88\x80\x80\x80\"",
    // The same as escapes.
    br#""\ud800""#,
    br#""\udbff""#,
    br#""\udc00""#,
    br#""\udfff""#,
    br#""\ud800x""#,
    br#""\ud800\n""#,
    br#""\ud800\ud800""#,
    br#""\udc00\ud800""#,
    br#""\ud800\u0041""#,
    br#""\ud83d\ude00\ude00""#,
    br#"["\uD800"]"#,
    br#"{"\udc00":1}"#,
    br#"{"a":["\udead"]}"#,
];

/// Bytes that are not text outside of a string.
const NO_TEXT_AND_BROKEN: &[&[u8]] = &[
    b"\xff",
    b"\xff1",
    b"1\xff",
    b"-\xff",
    b"1e\xff",
    b"0\xff",
    b"\xef\xbb\xbf1",
    b"[\xff]",
    b"{\xff:1}",
    b"{\"a\":\xff}",
    b"{\"a\":1,\xff}",
    b"\"\\\xff\"",
    b"\"\\u\xff\"",
    b"\"\\u00\xe9\"",
    b"\xfe\xff\x001",
    b"1\x00",
];

#[test]
fn valid_json_ends_its_call_verbatim() {
    assert!(VALID.len() >= 95, "{}", VALID.len());
    for value in VALID {
        let (one, other, ignored) = answer(value.as_bytes());
        assert_eq!(one.unwrap().unwrap(), value.trim_ascii(), "{value:?}");
        assert_eq!((other, ignored), (None, 0), "{value:?}");
    }
    for depth in [MAX_DEPTH - 1, MAX_DEPTH / 2] {
        for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
            let value = format!("{}1{}", open.repeat(depth), close.repeat(depth));
            let (one, other, _) = answer(value.as_bytes());
            assert_eq!(one.unwrap().unwrap(), value);
            assert_eq!(other, None);
        }
    }
}

#[test]
fn invalid_json_ends_no_more_calls_than_necessary() {
    let broken = BROKEN.iter().map(|it| it.as_bytes());
    let broken = broken.chain(NO_TEXT_AND_BROKEN.iter().copied());
    let cases: Vec<(Vec<u8>, Fails)> = broken
        .map(|value| (value.to_vec(), Fails::All))
        .chain(NO_TEXT.iter().map(|value| (value.to_vec(), Fails::One)))
        .chain([
            ("[".repeat(100_000).into(), Fails::All),
            ("[{\"\":".repeat(50_000).into(), Fails::All),
            (nested(MAX_DEPTH), Fails::One),
            (nested(100_000), Fails::One),
        ])
        .collect();
    assert!(cases.len() >= 188, "{}", cases.len());
    for (value, fails) in cases {
        let shown = String::from_utf8_lossy(&value[..value.len().min(60)]).into_owned();
        let (one, other, ignored) = answer(&value);
        let is_bad =
            |end: &Result<String, Error>| matches!(end, Err(Error::Peer(PeerError::Malformed(_))));
        assert!(is_bad(&one.unwrap()), "{shown:?}");
        match fails {
            Fails::One => assert_eq!((other, ignored), (None, 0), "{shown:?}"),
            Fails::All => {
                assert!(is_bad(&other.unwrap()), "{shown:?}");
                assert!(ignored > 0, "{shown:?}");
            }
        }
    }
}

/// Text for a `GVariant` is judged by the same table.
#[cfg(feature = "gobject")]
#[test]
fn a_variant_is_made_of_json_only() {
    for value in VALID {
        let fits = !value.contains("\\u0000") && !value.contains("\"a\":1,\"a\"");
        let made = spice_qmp::json_to_variant(value);
        assert_eq!(made.is_ok(), fits, "{value:?}: {made:?}");
    }
    let no_text = NO_TEXT.iter().filter_map(|it| std::str::from_utf8(it).ok());
    for value in BROKEN.iter().copied().chain(no_text) {
        let made = spice_qmp::json_to_variant(value);
        assert!(made.is_err(), "{value:?}: {made:?}");
    }
}

fn nested(depth: usize) -> Vec<u8> {
    ("[".repeat(depth) + &"]".repeat(depth)).into()
}

/// Answers one of two calls with a value: how they end, and how many lines are bad.
fn answer(value: &[u8]) -> (Option<End>, Option<End>, usize) {
    let mut session = Session::new(1);
    session.open(Opening::GreetingMayBeGone);
    assert!(session.poll_transmit().is_some());
    let mut input = &b"{\"return\": {}, \"id\": 1}\n"[..];
    while session.receive(&mut input).is_some() {}
    session.execute("one", None, Band::In, 0);
    session.execute("other", None, Band::In, 1);
    assert!(session.poll_transmit().is_some());

    let line = [b"{\"return\": ", value, b", \"id\": 2}\r\n"].concat();
    let mut input = &line[..];
    let mut ends = [None, None];
    let mut ignored = 0;
    while let Some(output) = session.receive(&mut input) {
        match output {
            Output::Ended { token, result } => {
                let end: End = result.map(Cow::into_owned);
                assert!(ends[token].replace(end).is_none(), "a call ended twice");
            }
            Output::Ignored(Ignored::Bad(PeerError::Malformed(_))) => ignored += 1,
            other => panic!("{other:?}"),
        }
    }
    let [one, other] = ends;
    (one, other, ignored)
}

type End = Result<String, Error>;
