// SPDX-License-Identifier: MIT OR Apache-2.0
//! `exec` of several commands, from a file and from standard input, and its messages about
//! names that QEMU does not know.

use std::fs;
use std::io::Write;
use std::process::Stdio;

use tempfile::TempDir;

use crate::on_each;
use crate::server::{GREETING, Server};
use crate::tool::{Ended, Tool, assert_has, command, run};

/// Runs the tool with this text on standard input.
fn run_with_input(address: &str, args: &[&str], input: &str) -> Ended {
    let mut command = command(address, args);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut tool = Tool::spawn(&mut command);
    let mut stdin = tool.child.stdin.take().expect("a pipe");
    // It may end before it has read everything.
    let _ = stdin.write_all(input.as_bytes());
    drop(stdin);
    tool.end()
}

/// Executes the commands of a file.
fn run_file(address: &str, args: &[&str], text: &str) -> Ended {
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("commands");
    fs::write(&file, text).expect("a file");
    let file = file.display().to_string();
    run(address, &[&["exec", "--file", &file], args].concat())
}

/// Answers with the arguments, and refuses the command `refuse`.
fn echo(command: &str) -> Vec<String> {
    match command {
        "qmp_capabilities" | "query-status" => Vec::new(),
        "refuse" => vec![r#"{"error":{"class":"GenericError","desc":"no"},"id":$ID}"#.into()],
        "mute" => vec![r#"{"event":"E","timestamp":{"seconds":1,"microseconds":1}}"#.into()],
        _ => vec![r#"{"return":$ARGUMENTS,"id":$ID}"#.into()],
    }
}

const ALL_FORMS: &str = "\
# a comment\n\
\n\
{\"execute\": \"qmp_capabilities\"}\r\n\
echo\n\
  echo a=1 b.c='x y' d=\"#\" # a comment\r\n\
echo {\"a\": 1.10, \"z\":0}\n\
{\"execute\": \"echo\", \"arguments\": {\"k\": \"\\u00e9\"}, \"id\": \"own\"}";

const ALL_REPLIES: &str = "\
{}\n\
null\n\
{\"a\":1,\"b\":{\"c\":\"x y\"},\"d\":\"#\"}\n\
{\"a\":1.10,\"z\":0}\n\
{\"k\":\"é\"}\n";

#[test]
fn each_form_of_a_line() {
    let server = Server::start(GREETING, echo);
    let address = server.address();
    for args in [&["exec", "-"][..], &["exec", "--file", "-"]] {
        assert_eq!(run_with_input(&address, args, ALL_FORMS).ok(), ALL_REPLIES);
        assert_eq!(run_with_input(&address, args, "").ok(), "");
    }
    assert_eq!(run_file(&address, &[], ALL_FORMS).ok(), ALL_REPLIES);
    // Longer than one read.
    let long = format!("echo a={}\necho\n", "x".repeat(100_000));
    let reply = format!("{{\"a\":\"{}\"}}\nnull\n", "x".repeat(100_000));
    assert_eq!(run_with_input(&address, &["exec", "-"], &long).ok(), reply);
}

#[test]
fn a_refusal_ends_it_or_not() {
    let server = Server::start(GREETING, echo);
    let address = server.address();
    let text = "echo a=1\n\nrefuse\necho a=2\nrefuse\necho a=3\n";
    let both = |args: &[&str]| {
        let mut with_stdin = vec!["exec", "-"];
        with_stdin.extend(args);
        [
            run_with_input(&address, &with_stdin, text),
            run_file(&address, args, text),
        ]
    };
    for ended in both(&[]) {
        assert_eq!((ended.code, &*ended.stdout), (Some(1), "{\"a\":1}\n"));
        assert_eq!(ended.stderr, "spice-qmp: error: line 3: refuse: no\n");
    }
    for ended in both(&["--keep-going"]) {
        let all = "{\"a\":1}\n{\"a\":2}\n{\"a\":3}\n";
        assert_eq!((ended.code, &*ended.stdout), (Some(1), all));
        assert_eq!(
            ended.stderr,
            "spice-qmp: error: line 3: refuse: no\nspice-qmp: error: line 5: refuse: no\n"
        );
    }
    for ended in both(&["--keep-going", "--json"]) {
        let line =
            r#"{"error":{"class":"GenericError","kind":"qmp","message":"line 3: refuse: no"}}"#;
        assert_eq!(ended.stderr.lines().next(), Some(line));
    }
    // The others stop the script.
    let args = ["--timeout", "2", "exec", "--keep-going", "-"];
    let ended = run_with_input(&address, &args, "echo\nmute\necho\n");
    assert_eq!((ended.code, &*ended.stdout), (Some(4), "null\n"));
    assert_has(&ended.stderr, "line 2: mute: no answer within 2000 ms");
}

#[test]
fn an_invalid_line_in_a_file_is_found_before_anything_is_executed() {
    let server = Server::start(GREETING, echo);
    let address = server.address();
    for (line, fault) in [
        ("echo 'geheim", "a quote is not closed"),
        ("echo geheim", "argument 1 is not key=value"),
        ("{\"geheim\": 1}", "this is not {\"execute\": NAME"),
        ("{\"execute\"", "this is not JSON"),
        ("echo {\"a\": ", "the arguments are not a JSON object"),
    ] {
        let text = format!("echo\n{line}\n");
        let error = run_file(&address, &[], &text).failed(2);
        assert_has(&error, &format!("line 2: {fault}"));
        assert!(!error.contains("geheim"), "{error}");
        // On standard input, earlier commands have been executed.
        let ended = run_with_input(&address, &["exec", "-"], &text);
        assert_eq!((ended.code, &*ended.stdout), (Some(2), "null\n"));
        assert_has(&ended.stderr, &format!("line 2: {fault}"));
    }
    let gone = run(&address, &["exec", "--file", "/no/such"]).failed(2);
    assert_has(&gone, "/no/such: No such file");
    let both = run(&address, &["exec", "--file", "x", "stop"]).failed(2);
    assert_has(&both, "cannot be used with");
}

/// A program that writes a command, reads what it returned, and writes the next one.
#[test]
fn each_command_is_executed_when_its_line_has_come() {
    on_each(|_, address| {
        let mut command = command(address, &["exec", "--wait-for", "SHUTDOWN", "-"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut tool = Tool::spawn(&mut command);
        let mut stdin = tool.child.stdin.take().expect("a pipe");
        for (line, part) in [
            ("query-status", "\"prelaunch\""),
            ("cont", "{}"),
            ("{\"execute\": \"query-status\"}", "\"running\""),
            ("stop", "{}"),
            ("query-status", "\"paused\""),
            ("quit", "{}"),
        ] {
            writeln!(stdin, "{line}").expect("it reads");
            assert_has(&tool.line(), part);
        }
        drop(stdin);
        assert_has(&tool.line(), r#"{"event":"SHUTDOWN""#);
        tool.end().ok();
    });
}

#[test]
fn names_that_were_mistyped() {
    on_each(|_, address| {
        for (typed, meant) in [
            ("query-blok", "query-block?"),
            ("query_status", "query-status?"),
            ("system-reset", "system_reset?"),
            ("dveice_del", "device_del?"),
        ] {
            let error = run(address, &["exec", typed]).failed(1);
            assert_has(&error, &format!("hint: did you mean {meant}"));
            let error = run(address, &["wait", "STOP", "--", typed]).failed(1);
            assert_has(&error, &format!("hint: did you mean {meant}"));
        }
        let error = run(address, &["exec", "make-coffee"]).failed(1);
        assert!(!error.contains("did you mean"), "{error}");
        assert_has(&error, "spice-qmp commands lists");
    });
}

/// A server whose schema is invalid, or is never sent.
#[test]
fn a_server_that_knows_no_schema() {
    let not_found = r#"{"error":{"class":"CommandNotFound","desc":"no"},"id":$ID}"#;
    for schema in [
        r#"{"return":[1],"id":$ID}"#,
        r#"{"event":"E","timestamp":{"seconds":1,"microseconds":1}}"#,
    ] {
        let server = Server::start(GREETING, move |command| match command {
            "qmp_capabilities" | "query-status" => Vec::new(),
            "query-qmp-schema" => vec![schema.into()],
            _ => vec![not_found.into()],
        });
        let error = run(&server.address(), &["--timeout", "2", "exec", "query-blok"]).failed(1);
        assert_has(&error, "query-blok: no\n");
        assert_has(&error, "spice-qmp commands lists");
    }
}
