// SPDX-License-Identifier: MIT OR Apache-2.0
//! Text of servers reaches the output unchanged: order, numbers, depth, all events.

use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::server::{CLOSE, GREETING, REPEAT, Server};
use crate::tool::{LIMIT, Tool, assert_has, command, run, wait};

const ODD: &str = r#"{"z":18446744073709551616,"a":-0,"m":[1e400,1.10,0.1e-7,-0.0],"B":null}"#;

fn replies(command: &str) -> Vec<String> {
    match command {
        "odd" => vec![format!(r#"{{"id":$ID,"return": {ODD}}}"#)],
        "echo" => vec![r#"{"return":$ARGUMENTS,"id":$ID}"#.into()],
        "deep" => {
            let depth = 1000;
            let (open, close) = ("[".repeat(depth), "]".repeat(depth));
            vec![format!(r#"{{"return":{open}{close},"id":$ID}}"#)]
        }
        "query-status" => vec![
            r#"{"return":{"status":"running","running":true},"id":$ID}"#.into(),
            format!(
                r#"{REPEAT}{{"event":"ODD","data":{ODD},"timestamp":{{"seconds":1,"microseconds":2}}}}"#
            ),
        ],
        _ => Vec::new(),
    }
}

#[test]
fn exec_prints_members_and_numbers_unchanged() {
    let server = Server::start(GREETING, replies);
    for args in [&["exec", "odd"][..], &["--json", "exec", "odd"]] {
        assert_eq!(run(&server.address(), args).ok(), format!("{ODD}\n"));
    }
}

#[test]
fn events_prints_members_and_numbers_unchanged() {
    let server = Server::start(GREETING, replies);
    let line = run(&server.address(), &["events", "--count", "1"]).ok();
    let timestamp = r#""timestamp":{"seconds":1,"microseconds":2}"#;
    assert_eq!(
        line,
        format!("{{\"event\":\"ODD\",\"data\":{ODD},{timestamp}}}\n")
    );
}

#[test]
fn exec_prints_what_is_nested_deeply() {
    let server = Server::start(GREETING, replies);
    let text = run(&server.address(), &["exec", "deep"]).ok();
    assert_eq!(text, "[".repeat(1000) + &"]".repeat(1000) + "\n");
}

#[test]
fn arguments_in_json_are_sent_unchanged() {
    let server = Server::start(GREETING, replies);
    let text = run(&server.address(), &["exec", "echo", ODD]).ok();
    assert_eq!(text, format!("{ODD}\n"));
}

/// Answers `query-status`, sends this many events once the tool listens, and closes the
/// connection.
fn flood(command: &str, event: &str, count: usize) -> Vec<String> {
    if command != "query-status" {
        return Vec::new();
    }
    let mut lines = vec![r#"{"return":{"status":"running","running":true},"id":$ID}"#.to_owned()];
    lines.push(format!("{REPEAT}{LISTENING}"));
    lines.extend(std::iter::repeat_n(event.to_owned(), count));
    lines.push(CLOSE.to_owned());
    lines
}

const LISTENING: &str = r#"{"event":"LISTENING","timestamp":{"seconds":1,"microseconds":2}}"#;

/// A reader that reads loses nothing, however many come at once.
#[test]
fn no_event_is_lost_where_they_are_read() {
    let event = r#"{"event":"E","timestamp":{"seconds":1,"microseconds":2}}"#;
    let server = Server::start(GREETING, move |command| flood(command, event, 20_000));
    let tool = Tool::start(&server.address(), &["events"]);
    assert_has(&tool.line(), "LISTENING");
    server.go_on();
    let ended = tool.end();
    assert_eq!(ended.code, Some(3));
    let events = ended
        .stdout
        .lines()
        .filter(|line| !line.contains("LISTENING"));
    assert_eq!(events.count(), 20_000, "{}", ended.stderr);
}

/// A reader that is slower than the server loses events, which are counted.
#[test]
fn lost_events_are_counted() {
    // Their lines are longer than the queues.
    const COUNT: usize = 400;
    let data = "x".repeat(150_000);
    let event = format!(
        r#"{{"event":"E","data":{{"d":"{data}"}},"timestamp":{{"seconds":1,"microseconds":2}}}}"#
    );
    let server = Server::start(GREETING, move |command| flood(command, &event, COUNT));
    let mut command = command(&server.address(), &["events"]);
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tool runs");
    let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
    let mut first = String::new();
    stdout.read_line(&mut first).expect("a line");
    assert_has(&first, "LISTENING");
    server.go_on();
    // Only what fits into the pipe is written until everything has arrived.
    wait_until_idle(child.id());
    let lines = stdout.lines().map(|line| line.expect("a line"));
    let printed = lines.filter(|line| !line.contains("LISTENING")).count();
    assert_eq!(wait(&mut child), Some(3));
    let output = child.wait_with_output().expect("an own child");
    let stderr = String::from_utf8(output.stderr).expect("text");
    let lost = stderr.lines().filter_map(|line| {
        let number = line.strip_prefix("spice-qmp: note: ")?;
        number.split(' ').next()?.parse::<usize>().ok()
    });
    let lost: usize = lost.sum();
    assert!(lost > 0, "{stderr}");
    assert_eq!(printed + lost, COUNT, "{stderr}");
}

/// Waits until a busy process uses no more CPU time.
fn wait_until_idle(process: u32) {
    let ticks = || {
        let stat = std::fs::read_to_string(format!("/proc/{process}/stat")).expect("/proc");
        let fields = stat.rsplit(") ").next().unwrap_or_default().split(' ');
        let times: Vec<u64> = fields.skip(11).take(2).flat_map(str::parse).collect();
        times.iter().sum::<u64>()
    };
    let mut before = ticks();
    let deadline = Instant::now() + LIMIT;
    while Instant::now() < deadline {
        std::thread::sleep(Duration::from_secs(1));
        let now = ticks();
        if now > 0 && now == before {
            return;
        }
        before = now;
    }
    panic!("the tool does not become idle");
}

#[test]
fn errors_are_json_for_programs() {
    let server = Server::start(GREETING, |command| match command {
        "query-status" => {
            vec![r#"{"error":{"class":"CommandNotFound","desc":"no\u001b[2J"},"id":$ID}"#.into()]
        }
        _ => Vec::new(),
    });
    let ended = run(&server.address(), &["--json", "status"]);
    assert_eq!(ended.code, Some(1), "{ended:?}");
    let error: Value = serde_json::from_str(&ended.stderr).expect("JSON");
    assert_eq!(error["error"]["class"], "CommandNotFound");
    assert_has(&ended.stderr, r"\u001b[2J");
}
