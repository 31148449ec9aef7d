// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples of `docs/tool.md` print what that page shows, with each QEMU.
#![cfg(feature = "cli")]

mod common;

use std::env;
use std::path::Path;
use std::process::{Command, Stdio};

use common::qemu::{Config, Program, Qemu};

/// A task: the commands of one section, and their output.
struct Task {
    title: String,
    steps: Vec<Step>,
}

/// A command with the lines that it prints.
#[derive(Default)]
struct Step {
    command: String,
    output: Vec<String>,
}

#[test]
fn each_example_prints_what_the_page_says() {
    let page = page();
    let tasks = tasks(&page);
    assert!(tasks.len() >= 12, "{} tasks", tasks.len());
    for program in Program::all() {
        for task in &tasks {
            // Each example is independent.
            let arguments = arguments(&page);
            let qemu = arguments.iter().fold(Config::new(), Config::arg);
            let qemu = qemu.running().start(&program);
            for step in &task.steps {
                step.check(&qemu, &format!("{} ({})", task.title, program.version()));
            }
        }
    }
}

fn page() -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/tool.md");
    std::fs::read_to_string(path).expect("docs/tool.md")
}

/// The options of the machine, except its monitor.
fn arguments(page: &str) -> Vec<&str> {
    let (_, command) = page
        .split_once("```sh\nqemu-system-x86_64")
        .expect("a machine");
    let (command, _) = command.split_once("```").expect("its end");
    let mut words: Vec<_> = command
        .split_whitespace()
        .filter(|word| *word != "\\")
        .collect();
    let monitor = words.iter().position(|word| *word == "-qmp").expect("-qmp");
    words.drain(monitor..monitor + 2);
    words
}

fn tasks(page: &str) -> Vec<Task> {
    let sections = page.split("\n## ").skip(1);
    let task = |section: &str| {
        let title = section.lines().next().unwrap_or_default().to_owned();
        let blocks = section.split("```console\n").skip(1);
        let blocks = blocks.map(|block| block.split("```").next().unwrap_or_default());
        let mut steps: Vec<Step> = Vec::new();
        for line in blocks.flat_map(str::lines) {
            if let Some(command) = line.strip_prefix("$ ") {
                let command = command.to_owned();
                let output = Vec::new();
                steps.push(Step { command, output });
                continue;
            }
            let step = steps.last_mut().expect("a block begins with a command");
            match line.strip_prefix("> ") {
                Some(more) if step.output.is_empty() => {
                    step.command = format!("{}\n{more}", step.command);
                }
                _ => step.output.push(line.to_owned()),
            }
        }
        assert!(!steps.is_empty(), "no example: {title}");
        Task { title, steps }
    };
    sections.map(task).collect()
}

impl Step {
    fn check(&self, qemu: &Qemu, task: &str) {
        let tool = Path::new(env!("CARGO_BIN_EXE_spice-qmp"));
        let folder = tool.parent().expect("a folder").to_owned();
        let path = env::var_os("PATH").unwrap_or_default();
        let path = [folder].into_iter().chain(env::split_paths(&path));
        let output = Command::new("sh")
            .args(["-c", &format!("exec 2>&1\n{}", self.command)])
            .current_dir(qemu.dir())
            .env("PATH", env::join_paths(path).expect("a path"))
            .env(
                "SPICE_QMP_ADDRESS",
                format!("unix:{}", qemu.qmp_socket().display()),
            )
            .env_remove("G_MESSAGES_DEBUG")
            .stdin(Stdio::null())
            .output()
            .expect("a shell");
        let text = String::from_utf8(output.stdout).expect("text");
        let lines: Vec<_> = text.lines().collect();
        let fits = |(expected, line): (&String, &&str)| fits(expected, line);
        assert!(
            lines.len() == self.output.len() && self.output.iter().zip(&lines).all(fits),
            "{task}\n$ {}\nthe page has:\n{}\nit prints:\n{text}",
            self.command,
            self.output.join("\n")
        );
    }
}

/// Whether a line matches the expected one, in which varying parts stand between `«` and
/// `»`.
fn fits(expected: &str, line: &str) -> bool {
    let Some((plain, rest)) = expected.split_once('«') else {
        return expected == line;
    };
    let (_, rest) = rest.split_once('»').expect("« has a »");
    let Some(line) = line.strip_prefix(plain) else {
        return false;
    };
    line.char_indices()
        .skip(1)
        .any(|(at, _)| fits(rest, &line[at..]))
        || !line.is_empty() && fits(rest, "")
}

#[test]
fn only_what_is_marked_may_differ() {
    for (expected, line) in [
        ("", ""),
        ("a", "a"),
        ("a «1» b", "a 22 b"),
        ("a «1»", "a x y"),
        ("«1» b «2»c", "ü b b c"),
    ] {
        assert!(fits(expected, line), "{expected:?} {line:?}");
    }
    for (expected, line) in [
        ("", "a"),
        ("a", ""),
        ("a", "b"),
        ("a «1» b", "a  b"),
        ("a «1» b", "a 1 b "),
        ("a «1»", "a "),
        ("«1» b", "1 c"),
    ] {
        assert!(!fits(expected, line), "{expected:?} {line:?}");
    }
}
