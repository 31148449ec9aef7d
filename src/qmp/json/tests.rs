// SPDX-License-Identifier: MIT OR Apache-2.0

use super::*;

fn check(text: &str) -> Result<Vec<(String, &str)>, String> {
    let mut members = Vec::new();
    check_object(text, 0, |name, value| {
        members.push((name.to_owned(), value));
        Ok(())
    })?;
    Ok(members)
}

#[test]
fn members_are_found_verbatim() {
    let text = " {\"a\" : [1, {\"b\": \"]\\\"}\"}] ,\"\\u0061é\":-0.5e+7,\"\": null}\r\n";
    let members = [
        ("a", "[1, {\"b\": \"]\\\"}\"}]"),
        ("aé", "-0.5e+7"),
        ("", "null"),
    ];
    let members = members.map(|(name, value)| (name.to_owned(), value));
    assert_eq!(check(text).unwrap(), members);
    assert_eq!(check("{ }").unwrap(), []);
}

#[test]
fn an_error_names_its_position() {
    let cases = [
        ("[]", "expected an object at byte 0"),
        ("{,}", "expected a member's name at byte 1"),
        ("{\"a\" 1}", "expected a colon at byte 5"),
        ("{\"a\":}", "expected a value at byte 5"),
        ("{\"a\":1", "expected a comma or the object's end at byte 6"),
        ("{\"a\":[1}", "expected a comma or an end at byte 7"),
        ("{\"a\":1}}", "trailing characters at byte 7"),
        ("{\"a\":\"", "the text ends in a string at byte 6"),
        ("{\"a\":\"\n\"}", "control character in a string at byte 6"),
        ("{\"a\":\"\\x\"}", "invalid escape at byte 6"),
        ("{\"a\":\"\\u12\"}", "invalid escape at byte 6"),
        (
            "{\"a\":\"\\udc00\"}",
            "a string has half of a surrogate pair at byte 6",
        ),
        (
            "{\"a\":\"\\ud800\\u0020\"}",
            "a string has half of a surrogate pair at byte 12",
        ),
        ("{\"a\":-}", "invalid number at byte 6"),
        (
            "{\"a\":01}",
            "expected a comma or the object's end at byte 6",
        ),
    ];
    for (text, problem) in cases {
        assert_eq!(check(text).unwrap_err(), problem, "{text}");
    }
}

#[test]
fn a_timestamp_is_read_as_any_other_value() {
    let of_qemu = r#"{"seconds": 1700000000, "microseconds": 0}"#;
    let others = [
        r#"{"seconds": -1, "microseconds": -1}"#,
        r#"{"seconds": 1.5, "microseconds": 2e3}"#,
        r#"{"seconds": 1, "microseconds": 2 }"#,
        r#"{"seconds": 1, "microseconds": 2, "more": [3]}"#,
        r#"{"seconds": 1, "micros": 2}"#,
    ];
    for value in others.into_iter().chain([of_qemu]) {
        let text = format!("{{\"timestamp\": {value}, \"event\": \"STOP\"}}");
        let members = [("timestamp", value), ("event", "\"STOP\"")];
        let members = members.map(|(name, value)| (name.to_owned(), value));
        assert_eq!(check(&text).unwrap(), members);
        assert_eq!(check(&format!("{{\"a\": {value}}}")).unwrap().len(), 1);
    }
    for wrong in ["01", "00", "", "-", "1a", "1 2"] {
        for value in [
            format!("{{\"seconds\": {wrong}, \"microseconds\": 0}}"),
            format!("{{\"seconds\": 0, \"microseconds\": {wrong}}}"),
        ] {
            assert!(check(&format!("{{\"a\": {value}}}")).is_err(), "{value}");
        }
    }
    for end in 0..of_qemu.len() {
        let text = format!("{{\"a\": {}", &of_qemu[..end]);
        assert!(check(&text).is_err(), "{text}");
    }
}

#[test]
fn depth_is_limited_and_any_smaller_depth_is_accepted() {
    for depth in [1, 2, 63, 64, 65, 66, 127, 128, 129, 130, 1023, 1024] {
        // The enclosing object counts.
        let inner = depth - 1;
        let arrays = format!("{{\"a\":{}{}}}", "[".repeat(inner), "]".repeat(inner));
        assert_eq!(check(&arrays).is_ok(), depth > 1, "{depth}");
        let mixed = format!(
            "{{\"a\":{}0{}}}",
            "[{\"b\":".repeat(inner / 2),
            "}]".repeat(inner / 2)
        );
        assert!(check(&mixed).is_ok(), "{depth}");
        let wrong = mixed.replacen("}]", "]}", 1);
        assert_eq!(check(&wrong).is_ok(), inner < 2, "{depth}");
    }
    let most = format!("{{\"a\":{}{}}}", "[".repeat(1023), "]".repeat(1023));
    assert!(check_object(&most, 0, |_, _| Ok(())).is_ok());
    assert!(check_object(&most, 1, |_, _| Ok(())).is_err());
    let deep = format!("{{\"a\":{}{}}}", "[".repeat(1024), "]".repeat(1024));
    assert!(check(&deep).unwrap_err().starts_with("nested too deep"));
}

#[test]
fn it_accepts_what_serde_json_accepts() {
    use proptest::prelude::*;

    let token = prop::sample::select(vec![
        "{",
        "}",
        "[",
        "]",
        ",",
        ":",
        "\"a\"",
        "\"a\": ",
        ", ",
        "{\"seconds\": ",
        ", \"microseconds\": ",
        "{\"seconds\": 10, \"microseconds\": 0}",
        "\"\"",
        "\"\\n\"",
        "\"\\u00e9\"",
        "\"\\q\"",
        "\"é😀\"",
        "0",
        "-1",
        "1.5",
        "1e9",
        "01",
        "-",
        "1.",
        ".5",
        "true",
        "false",
        "null",
        "nul",
        " ",
        "\t",
        "\n",
        "\r",
        "\u{b}",
        "\"",
        "\\",
        "\0",
    ]);
    let text = prop::collection::vec(token, 0..24).prop_flat_map(|tokens| {
        let (inner, all) = (tokens.concat(), tokens.concat());
        prop_oneof![
            Just(format!("{{\"a\":[{inner}]}}")),
            Just(format!("{{\"a\": {all}}}")),
        ]
    });
    let cases = if cfg!(miri) { 32 } else { 4096 };
    proptest!(ProptestConfig::with_cases(cases), |(text in text)| {
        let expected = serde_json::from_str::<serde::de::IgnoredAny>(&text).is_ok();
        prop_assert_eq!(check(&text).is_ok(), expected, "{}", text);
    });
}

#[test]
fn plain_bytes_are_counted_up_to_each_special_one() {
    for special in [0, 0x1f, b'"', b'\\'] {
        for at in 0..8 {
            for plain in [b' ', b'!', b'#', b'[', b']', 0x7f, 0x80, 0xff] {
                let mut word = [plain; 8];
                word[at] = special;
                assert_eq!(plain_bytes(u64::from_le_bytes(word)), at);
                word[at] = plain;
                assert_eq!(plain_bytes(u64::from_le_bytes(word)), 8);
            }
        }
    }
}
