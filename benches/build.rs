// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links JSON-GLib, and lets the libraries call the functions that this program
//! defines in place of theirs.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    pkg_config::Config::new()
        .probe("json-glib-1.0")
        .expect("JSON-GLib is missing (Debian: libjson-glib-dev)");
    for name in [
        "malloc",
        "calloc",
        "realloc",
        "free",
        "spice_port_channel_write_async",
        "spice_port_channel_write_finish",
    ] {
        println!("cargo::rustc-link-arg-bins=-Wl,--export-dynamic-symbol={name}");
    }
}
