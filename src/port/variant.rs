//! JSON as `GVariant`, for languages whose GLib values are easier to use than JSON text.
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
//! The way back takes more: every integer type, typed arrays and dictionaries
//! such as `as` and `a{ss}`, tuples, maybes, object paths and signatures.

use std::collections::HashSet;
use std::fmt;

use glib::prelude::*;
use glib::{Variant, VariantTy};
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::value::{Number, Value};

use crate::qmp::{Error, UsageError};

/// How deep JSON may nest to become a `GVariant`. Each level takes two of a
/// `GVariant`, which GLib reads down to 128 levels; deeper ones it replaces by
/// empty values, so that a hostile peer could make data disappear.
pub const MAX_VARIANT_DEPTH: usize = 60;

/// Makes a `GVariant` of JSON text. It has no floating reference.
///
/// # Errors
///
/// [`UsageError::InvalidArgument`] where the text is not JSON, nests deeper than
/// [`MAX_VARIANT_DEPTH`], has a member twice, or holds what no `GVariant` can (a
/// string with a NUL).
pub fn json_to_variant(json: &str) -> Result<Variant, Error> {
    let mut reader = serde_json::Deserializer::from_str(json);
    let variant = ToVariantSeed { depth: 0 }.deserialize(&mut reader);
    let variant = variant.and_then(|variant| reader.end().map(|()| variant));
    variant.map_err(|error| invalid(format!("this JSON makes no GVariant: {error}")))
}

/// Makes JSON text of a `GVariant`.
///
/// # Errors
///
/// [`UsageError::InvalidArgument`] where JSON has no like: keys that are no
/// strings, numbers that are not finite, file handles, or more than
/// [`MAX_VARIANT_DEPTH`] levels.
pub fn variant_to_json(variant: &Variant) -> Result<String, Error> {
    Ok(value(variant, 0)?.to_string())
}

fn invalid(text: String) -> Error {
    UsageError::InvalidArgument(text.into()).into()
}

/// Reads one JSON value.
#[derive(Clone, Copy)]
struct ToVariantSeed {
    depth: usize,
}

impl ToVariantSeed {
    fn deeper<E: serde::de::Error>(self) -> Result<Self, E> {
        if self.depth == MAX_VARIANT_DEPTH {
            return Err(E::custom(format!(
                "it nests deeper than {MAX_VARIANT_DEPTH} levels"
            )));
        }
        Ok(Self {
            depth: self.depth + 1,
        })
    }
}

impl<'de> DeserializeSeed<'de> for ToVariantSeed {
    type Value = Variant;

    fn deserialize<D: Deserializer<'de>>(self, reader: D) -> Result<Variant, D::Error> {
        reader.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for ToVariantSeed {
    type Value = Variant;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Variant, E> {
        Ok(Variant::from_none(VariantTy::VARIANT))
    }

    fn visit_bool<E>(self, value: bool) -> Result<Variant, E> {
        Ok(value.to_variant())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Variant, E> {
        Ok(value.to_variant())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Variant, E> {
        Ok(match i64::try_from(value) {
            Ok(value) => value.to_variant(),
            Err(_) => value.to_variant(),
        })
    }

    fn visit_f64<E>(self, value: f64) -> Result<Variant, E> {
        Ok(value.to_variant())
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Variant, E> {
        string(value)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Variant, A::Error> {
        let deeper = self.deeper()?;
        let mut children = Vec::new();
        while let Some(item) = items.next_element_seed(deeper)? {
            children.push(Variant::from_variant(&item));
        }
        Ok(Variant::array_from_iter_with_type(
            VariantTy::VARIANT,
            children,
        ))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<Variant, A::Error> {
        let deeper = self.deeper()?;
        let mut entries = Vec::new();
        let mut names = HashSet::new();
        while let Some(name) = members.next_key::<String>()? {
            let key = string(&name)?;
            // Who looks it up in the dictionary would find the first, and others the last.
            if !names.insert(name) {
                return Err(A::Error::custom("a member is there twice"));
            }
            let value = Variant::from_variant(&members.next_value_seed(deeper)?);
            entries.push(Variant::from_dict_entry(&key, &value));
        }
        let entry = VariantTy::new("{sv}").map_err(A::Error::custom)?;
        Ok(Variant::array_from_iter_with_type(entry, entries))
    }
}

/// A string as GLib can hold it.
fn string<E: serde::de::Error>(value: &str) -> Result<Variant, E> {
    if value.contains('\0') {
        return Err(E::custom("a string holds a NUL"));
    }
    Ok(value.to_variant())
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
                return Err(invalid(format!(
                    "JSON has nothing like the GVariant {variant} of type {}",
                    variant.type_()
                )));
            }
        },
    })
}

/// What is in a variant or a maybe. These make no level in JSON.
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
    fn what_came_from_json_goes_back_the_same() {
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
    fn what_json_cannot_say_is_refused() {
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
        ] {
            assert!(json_to_variant(json).is_err(), "{json}");
        }
    }

    #[test]
    fn depth_is_limited_both_ways() {
        let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
        let deepest = nested(MAX_VARIANT_DEPTH);
        let variant = json_to_variant(&deepest).unwrap();
        // GLib still reads it after it was serialized.
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
        // Wrapping alone makes no level, and no recursion.
        let mut wrapped = 1.to_variant();
        for _ in 0..100 {
            wrapped = Variant::from_variant(&wrapped);
        }
        assert_eq!(variant_to_json(&wrapped).unwrap(), "1");
    }
}
