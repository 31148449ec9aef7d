// SPDX-License-Identifier: MIT OR Apache-2.0
//! `hmp`: the text of the human monitor, and when it reports a failure.

use std::io::Write;
use std::process::Stdio;

use serde_json::{Value, json};

use crate::common::qemu::Config;
use crate::on_each_of;
use crate::server::{GREETING, Server};
use crate::tool::{Tool, assert_has, command, run};

#[test]
fn text_as_qemu_has_it() {
    let config = || Config::new().arg("-device").arg("e1000,id=net");
    on_each_of(config, |qemu, address| {
        let status = run(address, &["hmp", "info status"]).ok();
        assert_eq!(status, "VM status: paused (prelaunch)\n");
        let tree = run(address, &["hmp", "info", "qtree"]).ok();
        assert!(
            tree.lines()
                .any(|it| it.trim() == r#"dev: e1000, id "net""#)
        );
        assert!(!tree.contains('\r'), "{tree:?}");
        assert_eq!(run(address, &["hmp", "cont"]).ok(), "");
        assert_eq!(crate::run_state(qemu), "running");

        let status = run(address, &["--json", "hmp", "info status"]).ok_json();
        assert_eq!(status, "VM status: running\r\n");
        // A mistake that QEMU does not report as an error.
        let missing = run(address, &["hmp", "object_del"]).ok();
        assert_has(
            &missing,
            "object_del: string expected\nTry \"help object_del\"",
        );
    });
}

#[test]
fn what_has_failed() {
    on_each_of(Config::new, |_, address| {
        let unknown = run(address, &["hmp", "no-such", "command"]).failed(1);
        assert_eq!(unknown, "spice-qmp: error: unknown command: 'no-such'\n");
        let unknown = run(address, &["hmp", "device_del gone"]).failed(1);
        assert_eq!(unknown, "spice-qmp: error: Device 'gone' not found\n");
        let unknown = run(address, &["--json", "hmp", "device_del gone"]).failed_json(1);
        let error = json!({"kind": "qmp", "message": "Device 'gone' not found"});
        assert_eq!(unknown, error);
    });
}

/// Others could see a password on the command line.
#[test]
fn the_command_comes_from_standard_input() {
    on_each_of(Config::new, |_, address| {
        let mut command = command(address, &["hmp", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tool = Tool::spawn(&mut command);
        let mut stdin = tool.child.stdin.take().expect("a pipe");
        stdin.write_all(b"info name\n").expect("it reads");
        drop(stdin);
        assert_eq!(tool.end().ok(), "");
    });
}

/// Answers each command line with the text itself.
fn echo(command: &str) -> Vec<String> {
    match command {
        "human-monitor-command" => vec![r#"{"return":$ARGUMENTS,"id":$ID}"#.into()],
        _ => Vec::new(),
    }
}

#[test]
fn a_reply_that_is_no_text() {
    let server = Server::start(GREETING, echo);
    let error = run(&server.address(), &["hmp", "x"]).failed(3);
    assert_has(
        &error,
        "human-monitor-command: the reply has an unexpected form",
    );
}

#[test]
fn several_lines_of_an_error() {
    let server = Server::start(GREETING, |command| match command {
        "human-monitor-command" => {
            vec![r#"{"return":"Error: no\u001b[2J\r\nTry\u009b this\r\nor that","id":$ID}"#.into()]
        }
        _ => Vec::new(),
    });
    let error = run(&server.address(), &["hmp", "x"]).failed(1);
    assert_eq!(
        error,
        "spice-qmp: error: no\\x1b[2J\nspice-qmp: hint: Try\\x9b this or that\n"
    );
}

#[test]
fn a_long_text_comes_whole() {
    let server = Server::start(GREETING, |command| match command {
        "human-monitor-command" => {
            let text = "a\\tb\\r\\n".repeat(100_000);
            vec![format!(r#"{{"return":"{text}","id":$ID}}"#)]
        }
        _ => Vec::new(),
    });
    let text = run(&server.address(), &["hmp", "x"]).ok();
    assert_eq!(text, "a\tb\n".repeat(100_000));
    let text: Value = run(&server.address(), &["--json", "hmp", "x"]).ok_json();
    assert_eq!(text.as_str().map(str::len), Some(500_000));
}
