// SPDX-License-Identifier: MIT OR Apache-2.0
//! Sets the shared library's name, and writes the header that says how it was built.

use std::path::Path;
use std::{env, fs};

/// The form in which meson fills it in.
const CONFIG: &str = include_str!("include/spice-qmp/spice-qmp-config.h.in");

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=include/spice-qmp/spice-qmp-config.h.in");
    println!("cargo::rustc-check-cfg=cfg(spice_gtk_declares)");
    println!("cargo::rustc-cdylib-link-arg=-Wl,-soname,libspice-qmp-1.so.0");
    // GTypes stay registered for ever, so their code must stay loaded.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    write_config();
}

fn write_config() {
    let line = if cfg!(feature = "spice") {
        "#define SPICE_QMP_HAS_SPICE"
    } else {
        "#undef SPICE_QMP_HAS_SPICE"
    };
    let config = CONFIG.replace("#mesondefine SPICE_QMP_HAS_SPICE", line);
    let out = env::var_os("OUT_DIR").expect("cargo says where to write");
    let folder = Path::new(&out).join("include/spice-qmp");
    fs::create_dir_all(&folder).expect("a folder in OUT_DIR");
    fs::write(folder.join("spice-qmp-config.h"), config).expect("a file in OUT_DIR");
}
