// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links JSON-GLib, for which no crate for this version of glib exists.

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-env-changed=DOCS_RS");
    // docs.rs links nothing, and does not have the library.
    #[cfg(feature = "gobject")]
    if std::env::var_os("DOCS_RS").is_none() {
        link_json_glib();
    }
}

#[cfg(feature = "gobject")]
fn link_json_glib() {
    if let Err(error) = pkg_config::Config::new()
        .atleast_version("1.2")
        .probe("json-glib-1.0")
    {
        panic!("JSON-GLib is missing (Debian: libjson-glib-dev): {error}");
    }
}
