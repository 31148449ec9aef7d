// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses the arguments of a QMP command as they are typed: `key=value`, or JSON.

use std::collections::BTreeMap;

use serde_json::value::{RawValue, to_raw_value};
use serde_json::{Map, Value};

/// The arguments as the text of an object; `None` if there are none.
pub(crate) fn parse(words: &[String]) -> Result<Option<Box<RawValue>>, String> {
    match words {
        [] => Ok(None),
        [text] if text.trim_start().starts_with('{') => parse_object(text).map(Some),
        words => {
            let object = to_raw_value(&parse_pairs(words)?);
            object.map(Some).map_err(|error| error.to_string())
        }
    }
}

/// The text of a JSON object, which is sent unchanged.
pub(crate) fn parse_object(text: &str) -> Result<Box<RawValue>, String> {
    serde_json::from_str::<BTreeMap<String, &RawValue>>(text)
        .and_then(|_| serde_json::from_str(text))
        // Other JSON is not quoted: it may contain a secret.
        .map_err(|error| {
            if error.is_data() {
                "the arguments are JSON, but not an object".into()
            } else {
                format!("the arguments are not a JSON object: {error}")
            }
        })
}

fn parse_pairs(words: &[String]) -> Result<Map<String, Value>, String> {
    let mut object = Map::new();
    for (at, word) in words.iter().enumerate() {
        let (key, value) = match word.split_once('=') {
            Some(pair) if !word.trim_start().starts_with('{') => pair,
            // The word may contain a secret: it is not quoted.
            Some(_) => return Err("a JSON object must be the only argument".into()),
            // Nor is this one.
            None => {
                return Err(format!(
                    "argument {} is not key=value: use that, or one JSON object",
                    at + 1
                ));
            }
        };
        insert(&mut object, key, parse_value(value))?;
    }
    Ok(object)
}

/// Stores a value under a dotted key, in nested objects.
fn insert(object: &mut Map<String, Value>, key: &str, value: Value) -> Result<(), String> {
    let (parents, name) = key
        .rsplit_once('.')
        .map_or((None, key), |(parents, name)| (Some(parents), name));
    let mut place = object;
    for parent in parents.into_iter().flat_map(|parents| parents.split('.')) {
        if parent.is_empty() {
            return Err(empty_part(key));
        }
        let nested = place
            .entry(parent)
            .or_insert_with(|| Value::Object(Map::new()));
        match nested {
            Value::Object(nested) => place = nested,
            _ => return Err(format!("{key}: {parent} has a value already")),
        }
    }
    if name.is_empty() {
        return Err(empty_part(key));
    }
    if place.insert(name.to_owned(), value).is_some() {
        return Err(format!("{key}: given twice"));
    }
    Ok(())
}

fn empty_part(key: &str) -> String {
    format!("{key:?} is not a key: a part of it is empty")
}

/// The text as JSON if it is valid JSON, and otherwise as a string.
fn parse_value(text: &str) -> Value {
    match serde_json::from_str(text) {
        // A whole number too large for QMP, such as a serial number: not rounded.
        Ok(Value::Number(number)) if number.is_f64() && !text.contains(['.', 'e', 'E']) => {
            text.into()
        }
        Ok(value) => value,
        Err(_) => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn parsed(words: &[&str]) -> Result<Value, String> {
        let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        let object = parse(&words)?;
        Ok(object.map_or(Value::Null, |it| serde_json::from_str(it.get()).unwrap()))
    }

    #[test]
    fn nothing_is_no_arguments() {
        assert_eq!(parsed(&[]).unwrap(), Value::Null);
    }

    #[test]
    fn a_json_object_is_not_changed() {
        let text = r#" {"id": "disk1", "n": [1, {"a": null}]}"#;
        assert_eq!(
            parsed(&[text]).unwrap(),
            json!({"id": "disk1", "n": [1, {"a": null}]})
        );
        assert_eq!(parsed(&["{}"]).unwrap(), json!({}));
    }

    #[test]
    fn a_json_object_is_sent_as_it_was_typed() {
        let text = r#"{"z": 18446744073709551616, "a": -0, "n": 1.10}"#;
        let object = parse(&[text.to_owned()]).unwrap().unwrap();
        assert_eq!(object.get(), text);
    }

    #[test]
    fn values_are_json_or_text() {
        let cases = [
            ("1", json!(1)),
            ("-1", json!(-1)),
            ("1.5", json!(1.5)),
            ("1e3", json!(1000.0)),
            ("true", json!(true)),
            ("null", json!(null)),
            (r#""1""#, json!("1")),
            (r#"{"a":1}"#, json!({"a": 1})),
            ("[1,2]", json!([1, 2])),
            ("", json!("")),
            ("disk1", json!("disk1")),
            ("True", json!("True")),
            ("007", json!("007")),
            ("a=b", json!("a=b")),
            ("[::1]:4444", json!("[::1]:4444")),
            ("18446744073709551615", json!(u64::MAX)),
            ("18446744073709551616", json!("18446744073709551616")),
        ];
        for (text, value) in cases {
            assert_eq!(
                parsed(&[&format!("key={text}")]).unwrap(),
                json!({ "key": value }),
                "{text}"
            );
        }
    }

    #[test]
    fn dotted_keys_nest() {
        assert_eq!(
            parsed(&["a.b=1", "a.c.d=x", "e=2"]).unwrap(),
            json!({"a": {"b": 1, "c": {"d": "x"}}, "e": 2})
        );
    }

    #[test]
    fn a_dotted_key_continues_in_a_json_value() {
        assert_eq!(
            parsed(&[r#"a={"b":1}"#, "a.c=2"]).unwrap(),
            json!({"a": {"b": 1, "c": 2}})
        );
    }

    #[test]
    fn invalid_arguments_are_refused() {
        for words in [
            &["word"][..],
            &["=1"],
            &[".a=1"],
            &["a.=1"],
            &["a..b=1"],
            &["a=1", "a=2"],
            &["a=1", "a.b=2"],
            &["a.b=1", "a=2"],
            &[r#"{"a":1}"#, "b=2"],
            &["b=2", r#"{"a":"x=y"}"#],
            &["{"],
            &["[1]"],
        ] {
            parsed(words).expect_err(&format!("{words:?}"));
        }
    }
}
