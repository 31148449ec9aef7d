// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program that the README prints for Rust; `tests/bindings/test_documents.py` runs
//! those in other languages.
#![cfg(feature = "gobject")]

mod common;

use std::path::Path;
use std::process::{Command, Stdio};

use common::qemu::{Config, Program};

#[test]
fn the_readme_prints_the_example() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
    let read = |name| std::fs::read_to_string(folder.join(name)).expect(name);
    let program = read("examples/pause.rs");
    let lines = program.split_inclusive('\n');
    let program: String = lines.filter(|line| !line.starts_with("// SPDX-")).collect();
    let printed = format!("```rust,no_run\n{program}```\n");
    assert!(
        read("README.md").contains(&printed),
        "README.md does not print examples/pause.rs as it is"
    );
}

#[test]
fn it_pauses_a_machine() {
    let program = common::example::build("pause");
    let run = |address: &str| {
        let mut program = Command::new(&program);
        let output = program.arg(address).stdin(Stdio::null()).output();
        let output = output.expect("the program runs");
        let text = |bytes| String::from_utf8(bytes).expect("text");
        (text(output.stdout), text(output.stderr))
    };
    for version in Program::all() {
        let qemu = Config::new().pretty_socket().running().start(&version);
        let (output, errors) = run(&format!("unix:{}", qemu.pretty_socket().display()));
        assert_eq!((output.as_str(), errors.as_str()), ("paused\n", ""));
        let status = qemu.monitor().execute("query-status", None);
        assert_eq!(status.expect("an answer")["status"], "paused");
    }
    let (output, errors) = run("unix:/nowhere");
    assert_eq!(output, "");
    assert!(errors.contains("No such file or directory"), "{errors}");
}
