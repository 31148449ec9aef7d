// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compares the readers of JSON with slow ones.

use glib::{Variant, VariantTy};
use serde_json::{Value, json};
use spice_qmp::qmp::{self, redacted};
use spice_qmp::{MAX_VARIANT_DEPTH, json_to_variant, variant_to_json};

use crate::operations::pick;
use crate::reference::json::{self, Node};
use crate::reference::message::{self, Message};

/// Reads `data` as a message, as JSON for a `GVariant`, and as the arguments of a
/// command that is logged.
///
/// # Panics
///
/// If the library and the reference disagree.
pub fn decode(data: &[u8]) {
    variant_of_bytes(data);
    let read = qmp::parse(data).ok().as_ref().map(Message::of);
    assert_eq!(read, message::read(data).ok());

    let Ok(text) = std::str::from_utf8(data) else {
        return;
    };
    let value = serde_json::from_str::<Value>(text).ok();
    if let Some(value) = &value {
        // Otherwise the reference would be useless.
        let node = json::read(text, 128).expect("what serde reads is JSON");
        variant(text, value, &node);
        secrets_are_hidden(value);
    } else {
        assert!(json_to_variant(text).is_err());
    }
    let shown = redacted("x", Some(text));
    let is_object = value.is_some_and(|value| value.is_object());
    assert_eq!(shown != "x ***", is_object);
}

/// A `GVariant` of any type and contents.
pub(crate) fn any_variant(data: &[u8]) -> Variant {
    const TYPES: [&str; 16] = [
        "a{sv}",
        "a{ss}",
        "av",
        "v",
        "aas",
        "(ybnqiuxtd)",
        "mv",
        "a{uv}",
        "(oghs)",
        "a(sv)",
        "mmas",
        "ad",
        "a{s(vmv)}",
        "s",
        "a{ov}",
        "()",
    ];
    let ty = VariantTy::new(TYPES[pick(data, TYPES.len())]).expect("a type");
    // The data of a GVariant must be aligned, which a copy is.
    let bytes = glib::Bytes::from(data.get(1..).unwrap_or(b""));
    Variant::from_bytes_with_type(&bytes, ty)
}

fn variant_of_bytes(data: &[u8]) {
    if let Ok(json) = variant_to_json(&any_variant(data)) {
        serde_json::from_str::<Value>(&json).expect("it is JSON");
    }
}

fn variant(text: &str, value: &Value, node: &Node<'_>) {
    let fits = node.depth() <= MAX_VARIANT_DEPTH && !node.has_nul() && !node.has_twins();
    match json_to_variant(text) {
        Ok(variant) => {
            assert!(fits && variant.is_normal_form());
            let back = variant_to_json(&variant).expect("it was JSON");
            let back = serde_json::from_str(&back).expect("it is JSON");
            assert!(is_same(value, &back), "{back}");
        }
        Err(error) => assert!(!fits, "{error}"),
    }
}

/// Whether two values are equal; serde does not parse floats to the last bit.
fn is_same(one: &Value, other: &Value) -> bool {
    match (one, other) {
        (Value::Number(one), Value::Number(other)) if one.is_f64() && other.is_f64() => {
            let (one, other) = (one.as_f64().unwrap_or(0.0), other.as_f64().unwrap_or(1.0));
            (one - other).abs() <= one.abs() * f64::EPSILON * 4.0
        }
        (Value::Array(ones), Value::Array(others)) => {
            ones.len() == others.len() && ones.iter().zip(others).all(|(a, b)| is_same(a, b))
        }
        (Value::Object(ones), Value::Object(others)) => {
            ones.len() == others.len()
                && ones
                    .iter()
                    .zip(others)
                    .all(|((a, one), (b, other))| a == b && is_same(one, other))
        }
        (one, other) => one == other,
    }
}

/// A word that no input should contain by chance.
const SECRET: &str = "hunter2-hunter2";

fn secrets_are_hidden(around: &Value) {
    let arguments = [
        ("x", json!([around, { "Password": SECRET, "x": around }])),
        (
            "x",
            json!({ "key-secret": "s", "passphrase": [SECRET, around] }),
        ),
        (
            "object-add",
            json!({ "qom-type": "secret", "id": around, "data": SECRET }),
        ),
        (
            "object-add",
            json!({ "qom-type": "secret_keyring", "props": [{ "data": SECRET }, around] }),
        ),
        (
            "human-monitor-command",
            json!({ "command-line": format!("set_password vnc {SECRET}"), "x": around }),
        ),
        (
            "change",
            json!({ "target": "password", "arg": SECRET, "device": around }),
        ),
        (
            "human-monitor-command",
            json!({ "command-line": SECRET, "x": around }),
        ),
        (
            "migrate",
            json!({ "uri": format!("exec:curl -u a:{SECRET} b"), "x": around }),
        ),
        (
            "migrate",
            json!({ "channels": [around, { "addr": { "transport": "exec", "args": ["sh", SECRET] } }] }),
        ),
        (
            "x",
            json!([around, { "url": format!("https://h/d?a=b&sig={SECRET}") }]),
        ),
        (
            "x",
            json!([around, { "name": "osk", "value": [SECRET, around] }]),
        ),
        ("x", json!([around, format!("a=b,osk={SECRET},c")])),
    ];
    if around.to_string().contains(SECRET) {
        return;
    }
    for (command, arguments) in arguments {
        let shown = redacted(command, Some(&arguments.to_string()));
        assert!(!shown.contains(SECRET), "{shown}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_kinds_of_input_pass() {
        for input in [
            &b"{\"return\": {}, \"id\": 1}\n"[..],
            b"{\"QMP\": {\"version\": [[1, 2, 3]]}}",
            b"{\"event\": \"STOP\", \"data\": {\"a\": [1e300, -0, 18446744073709551615]}}",
            b"{\"error\": [\"A\", \"b\"]}",
            b"[\"\\u0000\"]",
            b"\"***\"",
            b"{\"a\": [{\"a\": 1, \"\\u0061\": 2}]}",
            b"hunter2",
            b"\xFF",
            b"",
        ] {
            decode(input);
        }
        decode("[".repeat(61).as_bytes());
        decode(("[".repeat(61) + &"]".repeat(61)).as_bytes());
    }

    #[test]
    fn floats_are_compared_with_care() {
        let of = |text: &str| serde_json::from_str::<Value>(text).unwrap();
        assert!(is_same(
            &of("[1.5, {\"a\": 1e300}]"),
            &of("[1.5, {\"a\": 1e300}]")
        ));
        assert!(!is_same(&of("1.5"), &of("1.6")));
        assert!(!is_same(&of("1"), &of("1.0")));
        assert!(!is_same(&of("{\"a\": 1.5}"), &of("{\"b\": 1.5}")));
        assert!(!is_same(&of("[1.5]"), &of("[1.5, 1]")));
    }
}
