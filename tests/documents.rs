// SPDX-License-Identifier: MIT OR Apache-2.0
//! The programs that the documents print for Rust, and whether `docs/architecture.md` has
//! each source file; `tests/bindings/test_documents.py` runs the programs of other languages.
#![cfg(feature = "gobject")]

mod common;

use std::io::{BufRead, BufReader, Lines, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};

use common::qemu::{Config, Program};

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else {
            found.push(path);
        }
    }
    found
}

/// Whether a document prints an example unchanged, except for its licence.
fn assert_prints(document: &str, example: &str) {
    let read = |name| std::fs::read_to_string(here().join(name)).expect(name);
    let program = read(example);
    let lines = program.split_inclusive('\n');
    let program: String = lines.filter(|line| !line.starts_with("// SPDX-")).collect();
    let printed = format!("```rust,no_run\n{program}```\n");
    assert!(
        read(document).contains(&printed),
        "{document} does not print {example} as it is"
    );
}

#[test]
fn they_print_the_examples() {
    assert_prints("README.md", "examples/pause.rs");
    assert_prints("docs/power-menu.md", "examples/power_menu.rs");
}

fn architecture() -> String {
    let path = here().join("docs/architecture.md");
    std::fs::read_to_string(path).expect("the document")
}

#[test]
fn the_architecture_names_each_source() {
    let text = architecture();
    let is_named = |path: &PathBuf| {
        let name = path.file_name().expect("a name").to_string_lossy();
        // Files at the head of a folder, or that belong to the file above them.
        ["mod.rs", "lib.rs", "main.rs", "tests.rs"].contains(&&*name)
            || text.contains(&format!("`{name}"))
            || text.contains(&format!("/{name}"))
    };
    // The tool has a file for each command.
    let commands = here().join("src/bin/spice-qmp/commands");
    for folder in ["src", "sys/src", "tests/common", "benches/src", "scripts"] {
        let mut unnamed = files(&here().join(folder));
        unnamed.retain(|path| !path.starts_with(&commands) && !is_named(path));
        assert!(unnamed.is_empty(), "docs/architecture.md lacks {unnamed:?}");
    }
}

#[test]
fn the_architecture_names_no_other() {
    let folders = [
        "src", "sys", "tests", "benches", "examples", "docs", "scripts",
    ];
    let mut there = vec![here().join("meson.build"), here().join("meson_options.txt")];
    there.extend(folders.iter().flat_map(|name| files(&here().join(name))));
    let text = architecture();
    for name in text.split('`').skip(1).step_by(2) {
        let extension = name.rsplit_once('.').map(|(_, extension)| extension);
        let is_file = ["build", "c", "h", "py", "rs", "sed", "sh", "txt"]
            .iter()
            .any(|it| extension == Some(it));
        // Files made by meson are listed as their sources.
        let sources = [name.to_string(), format!("{name}.in")];
        let is_there = |path: &PathBuf| sources.iter().any(|it| path.ends_with(it));
        assert!(
            !is_file || name.contains([' ', '*', '<']) || there.iter().any(is_there),
            "docs/architecture.md names {name}"
        );
    }
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

/// Uses the power menu as a person would.
struct Menu {
    child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Menu {
    fn start(program: &Path, address: &str) -> Self {
        let mut command = Command::new(program);
        command.arg(address).stdin(Stdio::piped());
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it runs");
        let output = child.stdout.take().expect("it is piped");
        let lines = BufReader::new(output).lines();
        Self { child, lines }
    }

    fn choose(&mut self, line: &str) {
        let input = self.child.stdin.as_mut().expect("it is piped");
        writeln!(input, "{line}").expect("it reads");
    }

    fn line(&mut self) -> String {
        let line = self.lines.next().expect("another line");
        line.expect("text")
    }

    fn end(mut self) {
        drop(self.child.stdin.take());
        assert!(self.lines.next().is_none(), "it says something at its end");
        let status = self.child.wait().expect("an own child");
        assert!(status.success(), "{status}");
    }
}

#[test]
fn the_power_menu() {
    let program = common::example::build("power_menu");
    for version in Program::all() {
        let qemu = Config::new().pretty_socket().running().start(&version);
        let mut outside = qemu.monitor();
        let mut state = || {
            let status = outside.execute("query-status", None);
            status.expect("an answer")["status"].take()
        };
        for address in [
            format!("unix:{}", qemu.pretty_socket().display()),
            qemu.spice_uri(),
        ] {
            let mut menu = Menu::start(&program, &address);
            assert_eq!(menu.line(), "the machine is running");
            menu.choose("help");
            let enabled = "choose one of: pause reset power-down quit nmi";
            assert_eq!(menu.line(), enabled);
            for expected in ["paused", "running"] {
                menu.choose("pause");
                assert_eq!(menu.line(), format!("the machine is {expected}"));
                assert_eq!(state(), expected);
            }
            menu.end();
        }

        let address = format!("unix:{}", qemu.pretty_socket().display());
        let mut menu = Menu::start(&program, &address);
        assert_eq!(menu.line(), "the machine is running");
        menu.choose("quit");
        assert_eq!(menu.line(), "the machine is shutdown");
        assert_eq!(menu.line(), "The machine was shut down on the host");
        menu.end();
    }
}
