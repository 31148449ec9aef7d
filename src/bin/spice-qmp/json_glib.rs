// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stand-ins for JSON-GLib, so that the tool need not load it, which would be a tenth of
//! each start. The library uses it only for handlers of the signal `event`, and the tool has
//! none.
//!
//! Because the tool defines these functions itself, the linker does not make it depend on
//! JSON-GLib.
#![allow(unsafe_code)]

macro_rules! functions {
    ($($name:ident)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name() {
                unreachable!("there is no handler of the signal `event`");
            }
        )*
    };
}

functions! {
    json_array_add_element
    json_array_new
    json_from_string
    json_node_alloc
    json_node_init
    json_node_init_boolean
    json_node_init_double
    json_node_init_int
    json_node_init_null
    json_node_init_string
    json_node_set_parent
    json_node_take_array
    json_node_take_object
    json_node_unref
    json_object_new
    json_object_set_member
}
