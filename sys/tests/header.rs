// SPDX-License-Identifier: MIT OR Apache-2.0
//! The committed header is the one generated from the sources.

use std::path::Path;
use std::{env, fs};

#[test]
fn header_is_up_to_date() {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let config = cbindgen::Config::from_file(here.join("cbindgen.toml")).expect("cbindgen.toml");
    let mut builder = cbindgen::Builder::new().with_config(config);
    // The order of the header. The sources are read unexpanded: no macro is expanded.
    for file in [
        "error",
        "state",
        "vm_action",
        "call_flags",
        "insert_flags",
        "status",
        "event",
        "condition",
        "instance",
        "port",
        "port_spice",
        "port_calls",
        "port_properties",
        "port_waits",
        "schema",
        "list",
        "drive",
        "job",
        "snapshot",
        "machine",
        "connector",
        "machine_snapshots",
        "request",
        "server",
    ] {
        builder = builder.with_src(here.join(format!("src/{file}.rs")));
    }
    let mut generated = Vec::new();
    builder
        .generate()
        .expect("the sources have a form that cbindgen reads")
        .write(&mut generated);
    let generated = String::from_utf8(generated).expect("the header is text");

    let path = here.join("include/spice-qmp/spice-qmp.h");
    if env::var_os("UPDATE_HEADER").is_some() {
        fs::write(&path, &generated).expect("the header can be written");
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == generated,
        "{} is not what the sources give. Run: UPDATE_HEADER=1 cargo test -p spice-qmp-c header",
        path.display()
    );
}
