//! JSON-GLib's nodes, for C handlers of the signal `event`.
#![allow(unsafe_code)]

use std::ffi::c_char;

use glib::translate::{ToGlibPtr, from_glib_full};

/// An opaque `JsonNode`.
#[repr(C)]
struct JsonNode {
    _private: [u8; 0],
}

// build.rs links the library.
unsafe extern "C" {
    fn json_from_string(text: *const c_char, error: *mut *mut glib::ffi::GError) -> *mut JsonNode;
    fn json_node_unref(node: *mut JsonNode);
}

/// Calls `act` with a `JsonNode` of `json`, or with NULL if there is none. The
/// node is valid until `act` returns.
pub(super) fn with_node(json: Option<&str>, act: impl FnOnce(glib::Pointer)) {
    /// Drops the reference also when `act` panics.
    struct Node(*mut JsonNode);
    impl Drop for Node {
        fn drop(&mut self) {
            if !self.0.is_null() {
                // SAFETY: `parse` gave this reference, which is dropped once.
                unsafe { json_node_unref(self.0) }
            }
        }
    }
    let node = Node(json.map_or(std::ptr::null_mut(), parse));
    act(node.0.cast());
}

fn parse(json: &str) -> *mut JsonNode {
    let mut error = std::ptr::null_mut();
    // SAFETY: the text is NUL-terminated for the call; the node is a new
    // reference or NULL, and the error is set and ours where parsing failed.
    unsafe {
        let node = json_from_string(json.to_glib_none().0, &raw mut error);
        if !error.is_null() {
            let error: glib::Error = from_glib_full(error);
            glib::g_warning!("SpiceQmp", "JSON-GLib cannot read an event's data: {error}");
        }
        node
    }
}
