// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds the examples with cargo: tests do not build examples.

use std::path::PathBuf;
use std::process::Command;

/// The path of an example's program.
pub fn build(name: &str) -> PathBuf {
    // The folder of the profile, since the test is PROFILE/deps/TEST-HASH.
    let test = std::env::current_exe().expect("the test has a name");
    let folder = test.ancestors().nth(2).expect("a folder");
    let mut cargo = Command::new(env!("CARGO"));
    cargo
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .args(["build", "-q", "--example", name, "--target-dir"])
        .arg(folder.parent().expect("a folder"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let status = cargo.status().expect("cargo runs");
    assert!(status.success(), "{name} did not build: see above");
    folder.join("examples").join(name)
}
