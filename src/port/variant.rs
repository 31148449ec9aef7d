// SPDX-License-Identifier: MIT OR Apache-2.0
//! Converts between JSON and `GVariant`, for languages that handle GLib values more easily.
//!
//! | JSON | `GVariant` |
//! |---|---|
//! | object | `a{sv}` |
//! | array | `av` |
//! | whole number | `x`; `t` above the range of `x` |
//! | other number | `d` |
//! | string | `s` |
//! | true, false | `b` |
//! | null | `mv`, nothing |
//!
//! The other direction accepts more: every integer type, typed arrays and dictionaries
//! such as `as` and `a{ss}`, tuples, maybes, object paths and signatures.

use std::borrow::Cow;
use std::collections::HashSet;

use glib::prelude::*;
use glib::{Variant, VariantTy};
use serde_json::value::{Number, Value};

use crate::qmp::tree::{self, Builder, NoTree};
use crate::qmp::{Error, UsageError};

/// How deeply JSON may nest to become a `GVariant`. Each level takes two of a
/// `GVariant`, which GLib reads down to 128 levels; deeper ones it replaces by
/// empty values, so that a hostile peer could make data disappear.
pub const MAX_VARIANT_DEPTH: usize = 60;

/// Converts JSON text to a `GVariant`, without a floating reference.
///
/// # Errors
///
/// [`UsageError::InvalidArgument`] if the text is not JSON, nests deeper than
/// [`MAX_VARIANT_DEPTH`], repeats a member, or contains something that a `GVariant` cannot hold
/// (a string with a NUL, a number beyond the range of `d`);
/// [`PeerError::TreeTooLarge`](crate::PeerError::TreeTooLarge) if it is longer than
/// [`MAX_TREE_SIZE`](crate::qmp::limits::MAX_TREE_SIZE).
pub fn json_to_variant(json: &str) -> Result<Variant, Error> {
    tree::build(json, MAX_VARIANT_DEPTH, &mut Variants).map_err(|error| match error {
        NoTree::TooLarge(error) => error.into(),
        NoTree::Unfit(reason) => invalid(format!("this JSON cannot become a GVariant: {reason}")),
    })
}

/// Converts a `GVariant` to JSON text.
///
/// # Errors
///
/// [`UsageError::InvalidArgument`] if it has no equivalent in JSON: keys that are not
/// strings, numbers that are not finite, file handles, or more than
/// [`MAX_VARIANT_DEPTH`] levels.
pub fn variant_to_json(variant: &Variant) -> Result<String, Error> {
    Ok(value(variant, 0)?.to_string())
}

fn invalid(text: String) -> Error {
    UsageError::InvalidArgument(text.into()).into()
}

/// Builds `GVariant`s from JSON values.
struct Variants;

impl Builder for Variants {
    type Node = Variant;

    fn null(&mut self) -> Variant {
        Variant::from_none(VariantTy::VARIANT)
    }

    fn bool(&mut self, value: bool) -> Variant {
        value.to_variant()
    }

    fn number(&mut self, text: &str) -> Result<Variant, String> {
        // A zero keeps its sign.
        if text != "-0" {
            if let Ok(value) = text.parse::<i64>() {
                return Ok(value.to_variant());
            }
            if let Ok(value) = text.parse::<u64>() {
                return Ok(value.to_variant());
            }
        }
        let value = text.parse::<f64>().ok().filter(|value| value.is_finite());
        value
            .map(|value| value.to_variant())
            .ok_or_else(|| "a number is too large".into())
    }

    fn string(&mut self, text: Cow<'_, str>) -> Result<Variant, String> {
        string(&text)
    }

    fn array(&mut self, items: Vec<Variant>) -> Variant {
        let items = items.iter().map(Variant::from_variant);
        Variant::array_from_iter_with_type(VariantTy::VARIANT, items)
    }

    fn object(&mut self, members: Vec<(Cow<'_, str>, Variant)>) -> Result<Variant, String> {
        let mut names = HashSet::new();
        let mut entries = Vec::with_capacity(members.len());
        for (name, value) in &members {
            // A lookup in the dictionary would find the first one, and other readers the last.
            if !names.insert(name) {
                return Err("a member appears twice".into());
            }
            let value = Variant::from_variant(value);
            entries.push(Variant::from_dict_entry(&string(name)?, &value));
        }
        let entry = VariantTy::new("{sv}").map_err(|error| error.to_string())?;
        Ok(Variant::array_from_iter_with_type(entry, entries))
    }
}

/// A string as a `GVariant`, which cannot contain a NUL.
fn string(text: &str) -> Result<Variant, String> {
    if text.contains('\0') {
        return Err("a string contains a NUL".into());
    }
    Ok(text.to_variant())
}

fn value(variant: &Variant, depth: usize) -> Result<Value, Error> {
    let class = variant.type_().as_str().as_bytes()[0];
    if matches!(class, b'v' | b'm') {
        return inner(variant, depth);
    }
    if variant.is_container() && depth == MAX_VARIANT_DEPTH {
        return Err(invalid(format!(
            "the GVariant nests deeper than {MAX_VARIANT_DEPTH} levels"
        )));
    }
    Ok(match class {
        b'a' if variant.type_().element().is_dict_entry() => object(variant, depth)?,
        b'a' | b'(' => variant
            .iter()
            .map(|child| value(&child, depth + 1))
            .collect::<Result<_, _>>()?,
        b's' | b'o' | b'g' => variant.str().unwrap_or_default().into(),
        _ => match scalar(variant) {
            Some(value) => value,
            None => {
                // Its value may be a secret.
                return Err(invalid(format!(
                    "a GVariant of type {} has no equivalent in JSON",
                    variant.type_()
                )));
            }
        },
    })
}

/// The contents of a variant or a maybe. These add no level in JSON.
fn inner(variant: &Variant, depth: usize) -> Result<Value, Error> {
    let mut inner = variant.clone();
    while matches!(inner.type_().as_str().as_bytes()[0], b'v' | b'm') {
        inner = match inner.n_children() {
            0 => return Ok(Value::Null),
            _ => inner.child_value(0),
        };
    }
    value(&inner, depth)
}

fn object(variant: &Variant, depth: usize) -> Result<Value, Error> {
    let mut members = serde_json::Map::new();
    for entry in variant.iter() {
        let key = entry.child_value(0);
        let Some(key) = key.str() else {
            return Err(invalid(format!(
                "the keys of a JSON object are strings, not {}",
                key.type_()
            )));
        };
        members.insert(key.to_owned(), value(&entry.child_value(1), depth + 1)?);
    }
    Ok(Value::Object(members))
}

fn scalar(variant: &Variant) -> Option<Value> {
    Some(match variant.type_().as_str() {
        "b" => variant.get::<bool>()?.into(),
        "y" => variant.get::<u8>()?.into(),
        "n" => variant.get::<i16>()?.into(),
        "q" => variant.get::<u16>()?.into(),
        "i" => variant.get::<i32>()?.into(),
        "u" => variant.get::<u32>()?.into(),
        "x" => variant.get::<i64>()?.into(),
        "t" => variant.get::<u64>()?.into(),
        "d" => Value::Number(Number::from_f64(variant.get::<f64>()?)?),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use glib::Variant;
    use glib::variant::{Handle, ToVariant};

    use super::{MAX_VARIANT_DEPTH, json_to_variant, variant_to_json};
    use crate::QmpErrorCode;
    use crate::qmp::PeerError;
    use crate::qmp::limits::MAX_TREE_SIZE;

    fn printed(json: &str) -> String {
        json_to_variant(json).unwrap().print(true).to_string()
    }

    #[test]
    fn json_becomes_variants_of_fixed_types() {
        for (json, variant) in [
            ("null", "@mv nothing"),
            ("true", "true"),
            ("-1", "int64 -1"),
            ("9223372036854775807", "int64 9223372036854775807"),
            ("9223372036854775808", "uint64 9223372036854775808"),
            ("1.5", "1.5"),
            ("1e30", "1e+30"),
            ("-9223372036854775808", "int64 -9223372036854775808"),
            ("18446744073709551615", "uint64 18446744073709551615"),
            ("18446744073709551616", "1.8446744073709552e+19"),
            ("-0", "-0.0"),
            ("1E-400", "0.0"),
            (
                "0.1000000000000000055511151231257827",
                "0.10000000000000001",
            ),
            (r#""a\u00e9""#, "'a\u{e9}'"),
            ("[]", "@av []"),
            ("[1, null]", "[<int64 1>, <@mv nothing>]"),
            ("{}", "@a{sv} {}"),
            (r#"{"a":{"b":[true]}}"#, "{'a': <{'b': <[<true>]>}>}"),
        ] {
            assert_eq!(printed(json), variant, "{json}");
        }
    }

    #[test]
    fn a_round_trip_from_json_changes_nothing() {
        for json in [
            "null",
            r#"{"a":[1,-2,18446744073709551615,1.5,"x\"\\\n",true,null,{}],"b":[]}"#,
        ] {
            let variant = json_to_variant(json).unwrap();
            assert_eq!(variant_to_json(&variant).unwrap(), json);
        }
    }

    #[test]
    fn other_variants_become_json_too() {
        for (text, json) in [
            ("{'a': 'b'}", r#"{"a":"b"}"#),
            ("['a', 'b']", r#"["a","b"]"#),
            ("(1, byte 0x02, int16 -3, uint32 4)", "[1,2,-3,4]"),
            ("<<<5>>>", "5"),
            ("@mi just 7", "7"),
            ("@mmi just nothing", "null"),
            ("objectpath '/a'", r#""/a""#),
        ] {
            let variant = Variant::parse(None, text).unwrap();
            assert_eq!(variant_to_json(&variant).unwrap(), json, "{text}");
        }
    }

    #[test]
    fn a_variant_without_equivalent_in_json_is_refused() {
        for text in ["{1: 2}", "inf", "@d nan"] {
            let variant = Variant::parse(None, text);
            let variant = variant.unwrap_or_else(|_| f64::NAN.to_variant());
            let error = variant_to_json(&variant).unwrap_err().to_string();
            assert!(error.starts_with("invalid argument: "), "{error}");
        }
        assert!(variant_to_json(&Handle(1).to_variant()).is_err());
        for json in [
            r#"{"a":1,"a":2}"#,
            r#"[{"a":1,"\u0061":1}]"#,
            "",
            "{",
            "1 2",
            r#""\u0000""#,
            r#"{"\u0000":1}"#,
            "1e400",
            "[1,]",
            "[1 2]",
            "{\"a\":1,}",
            "{\"a\"}",
        ] {
            assert!(json_to_variant(json).is_err(), "{json}");
        }
    }

    #[test]
    fn an_error_does_not_repeat_what_a_variant_holds() {
        // A dictionary entry on its own, which JSON has no equivalent for.
        let entry = Variant::from_dict_entry(&"password".to_variant(), &"geheim".to_variant());
        for variant in [entry.clone(), Variant::tuple_from_iter([entry])] {
            let error = variant_to_json(&variant).unwrap_err();
            let error = format!("{error} {error:?}");
            assert!(error.contains("of type {ss}"), "{error}");
            assert!(!error.contains("geheim"), "{error}");
        }
    }

    #[test]
    fn size_is_limited() {
        let text = |len: usize| format!("\"{}\"", "x".repeat(len - 2));
        assert!(json_to_variant(&text(MAX_TREE_SIZE)).is_ok());
        let error = json_to_variant(&text(MAX_TREE_SIZE + 1)).unwrap_err();
        let limit = MAX_TREE_SIZE;
        assert_eq!(error, PeerError::TreeTooLarge { limit }.into());
        let error = glib::Error::from(error);
        assert_eq!(error.kind(), Some(QmpErrorCode::TooLarge));
    }

    #[test]
    fn depth_is_limited_both_ways() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let deepest = nested(MAX_VARIANT_DEPTH);
        let variant = json_to_variant(&deepest).unwrap();
        // GLib can still read it after serialization.
        let read = glib::VariantTy::new("av").unwrap();
        let bytes = variant.data_as_bytes();
        let read = Variant::from_bytes_with_type(&bytes, read);
        assert_eq!(variant_to_json(&read).unwrap(), deepest);
        assert!(json_to_variant(&nested(MAX_VARIANT_DEPTH + 1)).is_err());

        let mut deep = 1.to_variant();
        for _ in 0..=MAX_VARIANT_DEPTH {
            deep = Variant::array_from_iter_with_type(
                glib::VariantTy::VARIANT,
                [Variant::from_variant(&deep)],
            );
        }
        assert!(variant_to_json(&deep).is_err());
        // Wrapping alone adds no level, and no recursion.
        let mut wrapped = 1.to_variant();
        for _ in 0..100 {
            wrapped = Variant::from_variant(&wrapped);
        }
        assert_eq!(variant_to_json(&wrapped).unwrap(), "1");
    }
}
