// SPDX-License-Identifier: MIT OR Apache-2.0
//! `JsonNode`s of JSON-GLib, for C handlers of the signal `event`.
//!
//! JSON-GLib's own parser takes three times as long as creating its nodes one by one
//! (docs/performance.md, "Where the rest goes").
#![allow(unsafe_code)]

use std::borrow::Cow;
use std::ffi::{c_char, c_double, c_int};

use glib::translate::{IntoGlib, ToGlibPtr, from_glib_full};
use memchr::memchr;

use crate::qmp::tree::{self, Builder};

/// An opaque `JsonNode`.
#[repr(C)]
struct JsonNode {
    _private: [u8; 0],
}

/// An opaque `JsonObject`.
#[repr(C)]
struct JsonObject {
    _private: [u8; 0],
}

/// An opaque `JsonArray`.
#[repr(C)]
struct JsonArray {
    _private: [u8; 0],
}

/// `JSON_NODE_OBJECT` of the enum `JsonNodeType`.
const OBJECT: c_int = 0;
/// `JSON_NODE_ARRAY`.
const ARRAY: c_int = 1;

// build.rs links the library.
unsafe extern "C" {
    fn json_from_string(text: *const c_char, error: *mut *mut glib::ffi::GError) -> *mut JsonNode;
    fn json_node_unref(node: *mut JsonNode);
    fn json_node_alloc() -> *mut JsonNode;
    fn json_node_init(node: *mut JsonNode, kind: c_int) -> *mut JsonNode;
    fn json_node_init_int(node: *mut JsonNode, value: i64) -> *mut JsonNode;
    fn json_node_init_double(node: *mut JsonNode, value: c_double) -> *mut JsonNode;
    fn json_node_init_boolean(node: *mut JsonNode, value: glib::ffi::gboolean) -> *mut JsonNode;
    fn json_node_init_string(node: *mut JsonNode, value: *const c_char) -> *mut JsonNode;
    fn json_node_init_null(node: *mut JsonNode) -> *mut JsonNode;
    fn json_node_take_object(node: *mut JsonNode, object: *mut JsonObject);
    fn json_node_take_array(node: *mut JsonNode, array: *mut JsonArray);
    fn json_node_set_parent(node: *mut JsonNode, parent: *mut JsonNode);
    fn json_object_new() -> *mut JsonObject;
    fn json_object_set_member(object: *mut JsonObject, name: *const c_char, node: *mut JsonNode);
    fn json_array_new() -> *mut JsonArray;
    fn json_array_add_element(array: *mut JsonArray, node: *mut JsonNode);
}

/// Calls `act` with a `JsonNode` for `json`, or with NULL if there is none. The
/// node is valid until `act` returns.
pub(super) fn with_node(json: Option<&str>, act: impl FnOnce(glib::Pointer)) {
    let node = json.and_then(node);
    act(node
        .as_ref()
        .map_or(std::ptr::null_mut(), |node| node.0.cast()));
}

/// Text that nests deeper is left to JSON-GLib, whose own functions use less stack.
const MAX_BUILT_DEPTH: usize = 128;

fn node(json: &str) -> Option<Node> {
    build(json).or_else(|| parse(json))
}

/// A reference to a node.
struct Node(*mut JsonNode);

impl Drop for Node {
    fn drop(&mut self) {
        // SAFETY: whoever creates a `Node` gives it a reference, which is dropped once.
        unsafe { json_node_unref(self.0) }
    }
}

impl Node {
    /// Allocates a node and initializes it with `init`.
    fn new(init: impl FnOnce(*mut JsonNode)) -> Self {
        // SAFETY: no conditions.
        let node = Self(unsafe { json_node_alloc() });
        init(node.0);
        node
    }

    fn into_raw(self) -> *mut JsonNode {
        std::mem::ManuallyDrop::new(self).0
    }
}

fn build(json: &str) -> Option<Node> {
    tree::build(json, MAX_BUILT_DEPTH, &mut Nodes).ok()
}

/// Builds nodes from JSON values.
struct Nodes;

impl Builder for Nodes {
    type Node = Node;

    fn null(&mut self) -> Node {
        Node::new(|node| {
            // SAFETY: the node is new.
            unsafe { json_node_init_null(node) };
        })
    }

    fn bool(&mut self, value: bool) -> Node {
        Node::new(|node| {
            // SAFETY: the node is new.
            unsafe { json_node_init_boolean(node, value.into_glib()) };
        })
    }

    fn number(&mut self, text: &str) -> Result<Node, String> {
        // JSON-GLib has no unsigned numbers. They wrap around, so that a cast returns them,
        // as in its parser of 1.6: that of 1.10 clamps them.
        let unsigned = || text.parse::<u64>().map(u64::cast_signed);
        if let Ok(value) = text.parse::<i64>().or_else(|_| unsigned()) {
            return Ok(Node::new(|node| {
                // SAFETY: the node is new.
                unsafe { json_node_init_int(node, value) };
            }));
        }
        let value = text.parse::<f64>().map_err(|error| error.to_string())?;
        Ok(Node::new(|node| {
            // SAFETY: the node is new.
            unsafe { json_node_init_double(node, value) };
        }))
    }

    fn string(&mut self, text: Cow<'_, str>) -> Result<Node, String> {
        Ok(Node::new(|node| {
            with_c_string(&text, |text| {
                // SAFETY: the node is new, and `json_node_init_string` copies the text.
                unsafe { json_node_init_string(node, text) };
            });
        }))
    }

    fn array(&mut self, items: Vec<Node>) -> Node {
        // SAFETY: no conditions.
        let array = unsafe { json_array_new() };
        Node::new(|node| {
            // SAFETY: the node is new, and takes the reference to the array, which takes
            // those to its elements.
            unsafe {
                json_node_init(node, ARRAY);
                json_node_take_array(node, array);
                for item in items {
                    json_node_set_parent(item.0, node);
                    json_array_add_element(array, item.into_raw());
                }
            }
        })
    }

    fn object(&mut self, members: Vec<(Cow<'_, str>, Node)>) -> Result<Node, String> {
        // SAFETY: no conditions.
        let object = unsafe { json_object_new() };
        Ok(Node::new(|node| {
            // SAFETY: the node is new, and takes the reference to the object.
            unsafe {
                json_node_init(node, OBJECT);
                json_node_take_object(node, object);
            }
            for (name, member) in members {
                with_c_string(&name, |name| {
                    // SAFETY: the object is alive, takes the reference to the member, and
                    // copies the name.
                    unsafe {
                        json_node_set_parent(member.0, node);
                        json_object_set_member(object, name, member.into_raw());
                    }
                });
            }
        }))
    }
}

/// Calls `act` with `text`, up to its first NUL, as a C string.
fn with_c_string(text: &str, act: impl FnOnce(*const c_char)) {
    let len = memchr(0, text.as_bytes()).unwrap_or(text.len());
    let text = &text.as_bytes()[..len];
    let mut short = [0; 64];
    if len < short.len() {
        short[..len].copy_from_slice(text);
        act(short.as_ptr().cast());
    } else {
        act([text, b"\0"].concat().as_ptr().cast());
    }
}

fn parse(json: &str) -> Option<Node> {
    let mut error = std::ptr::null_mut();
    // SAFETY: the text is NUL-terminated for the call; the node is a new
    // reference or NULL, and the error is set and ours where parsing failed.
    unsafe {
        let node = json_from_string(json.to_glib_none().0, &raw mut error);
        if !error.is_null() {
            // Its text is not shown: it quotes the data.
            drop(from_glib_full::<_, glib::Error>(error));
            glib::g_warning!("SpiceQmp", "JSON-GLib cannot read an event's data");
        }
        (!node.is_null()).then(|| Node(node))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    unsafe extern "C" {
        fn json_node_equal(a: *mut JsonNode, b: *mut JsonNode) -> glib::ffi::gboolean;
        fn json_node_get_parent(node: *mut JsonNode) -> *mut JsonNode;
        fn json_node_get_array(node: *mut JsonNode) -> *mut JsonArray;
        fn json_array_get_element(array: *mut JsonArray, index: u32) -> *mut JsonNode;
    }

    #[track_caller]
    fn assert_as_parsed(json: &str) {
        let (built, parsed) = (build(json).unwrap(), parse(json).unwrap());
        // SAFETY: both are live nodes.
        let equal = unsafe { json_node_equal(built.0, parsed.0) };
        assert_eq!(equal, glib::ffi::GTRUE, "{json}");
    }

    #[test]
    fn a_node_equals_the_one_that_json_glib_parses() {
        for json in [
            "null",
            "true",
            "0",
            "-0",
            "-9223372036854775808",
            "9223372036854775807",
            "1.5",
            "-0.25e3",
            r#""""#,
            r#""a\"\\\/\b\f\n\r\t\u00e9 é 😀""#,
            "[]",
            "{}",
            r#"[null, [1, [2.5]], {"a": [], "b": {"c": "d"}}]"#,
            r#"{"a": 1, "a": {"b": 2}, "": 3}"#,
            r#"{"$serde_json::private::Number": "1"}"#,
        ] {
            assert_as_parsed(json);
        }
    }

    #[test]
    fn any_value_becomes_the_node_that_json_glib_parses() {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            // GLib rounds other fractions a little differently.
            any::<i16>().prop_map(|number| Value::from(f64::from(number) / 4.0)),
            "[^\\x00]{0,8}".prop_map(Value::from),
        ];
        let value = leaf.prop_recursive(4, 24, 5, |inner| {
            let member = ("[^\\x00]{0,500}", inner.clone());
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                prop::collection::vec(member, 0..5)
                    .prop_map(|members| members.into_iter().collect()),
            ]
        });
        proptest!(|(value in value)| assert_as_parsed(&value.to_string()));
    }

    #[test]
    fn an_unsigned_number_wraps_around() {
        let (wrapped, expected) = (build("18446744073709551615"), build("-1"));
        // SAFETY: both are live nodes.
        let equal = unsafe { json_node_equal(wrapped.unwrap().0, expected.unwrap().0) };
        assert_eq!(equal, glib::ffi::GTRUE);
    }

    #[test]
    fn a_nul_ends_a_string() {
        let node = build(r#"["a\u0000b"]"#).unwrap();
        let expected = build(r#"["a"]"#).unwrap();
        // SAFETY: both are live nodes.
        let equal = unsafe { json_node_equal(node.0, expected.0) };
        assert_eq!(equal, glib::ffi::GTRUE);
    }

    #[test]
    fn a_node_knows_its_parent() {
        let node = build("[1]").unwrap();
        // SAFETY: it is a live node of an array with one element.
        let parent = unsafe {
            let element = json_array_get_element(json_node_get_array(node.0), 0);
            json_node_get_parent(element)
        };
        assert_eq!(parent, node.0);
    }

    #[test]
    fn json_that_nests_too_deeply_is_left_to_json_glib() {
        let deep = format!("{}1{}", "[".repeat(200), "]".repeat(200));
        assert!(build(&deep).is_none());
        assert!(node(&deep).is_some());
    }

    #[test]
    fn json_that_json_glib_cannot_read_gives_no_node() {
        let said = Arc::<Mutex<Vec<String>>>::default();
        let handler = glib::log_set_handler(Some("Json"), glib::LogLevels::all(), false, false, {
            let said = said.clone();
            move |_, _, text| said.lock().unwrap().push(text.into())
        });
        assert!(node(r#"{"a": {"b": 1}, "c": [2, }"#).is_none());
        glib::log_remove_handler(Some("Json"), handler);
        assert!(said.lock().unwrap().is_empty(), "{said:?}");
    }
}
