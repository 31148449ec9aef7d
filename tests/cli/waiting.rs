// SPDX-License-Identifier: MIT OR Apache-2.0
//! `wait` and `exec --wait-for`: no event is missed, and each end has its exit code.

use std::thread;

use serde_json::{Value, json};

use crate::common::qemu::{Config, Program};
use crate::server::{CLOSE, GREETING, Server};
use crate::tool::{Ended, Tool, assert_has, run};
use crate::{on_each, unix};

const EVENT: &str = r#"{"event":"CAME","data":{"a":1},"timestamp":{"seconds":1,"microseconds":2}}"#;
const OTHER: &str = r#"{"event":"OTHER","timestamp":{"seconds":1,"microseconds":2}}"#;
const REPLY: &str = r#"{"return":{"b":2},"id":$ID}"#;
const REFUSAL: &str = r#"{"error":{"class":"GenericError","desc":"no"},"id":$ID}"#;
const RUNNING: &str = r#"{"return":{"status":"running","running":true},"id":$ID}"#;

/// A server that answers any command with these lines.
fn server(lines: &'static [&'static str]) -> Server {
    Server::start(GREETING, move |command| match command {
        "qmp_capabilities" => Vec::new(),
        "query-status" => vec![RUNNING.into()],
        _ => lines.iter().map(|&line| line.to_owned()).collect(),
    })
}

#[test]
fn an_event_counts_wherever_it_comes() {
    const IN_ONE_WRITE: &str = concat!(
        r#"{"event":"CAME","data":{"a":1},"timestamp":{"seconds":1,"microseconds":2}}"#,
        "\r\n",
        r#"{"return":{"b":2},"id":$ID}"#,
    );
    const THEN_CLOSED: &[&str] = &[OTHER, EVENT, REPLY, CLOSE];
    for lines in [
        &[EVENT, REPLY][..],
        &[REPLY, EVENT],
        &[OTHER, EVENT, OTHER, REPLY],
        &[OTHER, REPLY, OTHER, EVENT, EVENT],
        &[IN_ONE_WRITE],
        THEN_CLOSED,
    ] {
        let server = server(lines);
        let address = server.address();
        let event = format!("{EVENT}\n");
        assert_eq!(run(&address, &["wait", "came", "--", "x"]).ok(), event);
        let args = ["wait", "NONE", "paused", "CAME", "--", "x", "k=1"];
        assert_eq!(run(&address, &args).ok(), event);
        let both = format!("{{\"b\":2}}\n{event}");
        assert_eq!(
            run(&address, &["exec", "--wait-for", "CAME", "x"]).ok(),
            both
        );
        let args = ["exec", "--wait-for", "paused", "--wait-for", "came", "x"];
        assert_eq!(run(&address, &args).ok(), both);
    }
    // The event came, and the connection ended before the answer.
    let server = server(&[EVENT, CLOSE]);
    let event = run(&server.address(), &["wait", "CAME", "--", "x"]).ok();
    assert_eq!(event, format!("{EVENT}\n"));
}

#[test]
fn other_ends() {
    let end = |lines: &'static [&'static str], args: &[&str]| -> Ended {
        let server = server(lines);
        run(&server.address(), args)
    };
    let wait = ["--timeout", "2", "wait", "CAME", "shutdown", "--", "x"];
    let refused = end(&[EVENT, REFUSAL], &wait).failed(1);
    assert_eq!(refused, "spice-qmp: error: x: no\n");
    let late = end(&[OTHER, REPLY], &wait).failed(4);
    assert_eq!(
        late,
        "spice-qmp: error: no shutdown or CAME within 2000 ms\n"
    );
    let lost = end(&[OTHER, REPLY, CLOSE], &wait).failed(3);
    assert_has(&lost, "(no shutdown or CAME came)");
    let lost = end(&[OTHER, CLOSE], &wait).failed(3);
    assert_has(&lost, "the QMP connection is closed");
    let mute = end(
        &[OTHER],
        &["--timeout", "2", "--json", "wait", "CAME", "--", "x"],
    );
    assert_eq!(
        mute.failed_json(4)["message"],
        "x: no answer within 2000 ms"
    );

    let exec = ["--timeout", "2", "exec", "--wait-for", "CAME", "x"];
    let late = end(&[REPLY], &exec);
    assert_eq!((late.code, late.stdout.as_str()), (Some(4), "{\"b\":2}\n"));
    let refused = end(&[EVENT, REFUSAL], &exec).failed(1);
    assert_eq!(refused, "spice-qmp: error: x: no\n");

    let wrong = |args: &[&str], part| {
        assert_has(&run("unix:/no/such", args).failed(2), part);
    };
    wrong(&["wait"], "EVENT|STATE");
    wrong(&["wait", "--", "stop"], "EVENT|STATE");
    wrong(
        &["wait", "STOP", "--", "stop", "x"],
        "argument 1 is not key=value",
    );
    wrong(
        &["wait", "STOP", "--", "stop", "--timeout", "2"],
        "hint: options stand before the --",
    );
    wrong(&["exec", "--wait-for", "STOP"], "<NAME>");
}

#[test]
fn states_and_what_leads_to_them() {
    on_each(|qemu, address| {
        let prelaunch = run(address, &["wait", "running", "prelaunch"]).ok_json();
        assert_eq!(prelaunch, json!({"status": "prelaunch", "running": false}));
        let running = run(address, &["wait", "running", "--", "cont"]).ok_json();
        assert_eq!(running, json!({"status": "running", "running": true}));
        // The machine leaves the state, and does not return to it.
        let args = ["--timeout", "2", "wait", "running", "--", "stop"];
        let late = run(address, &args).failed(4);
        assert_has(&late, "no running within 2000 ms");

        let tool = Tool::start(address, &["wait", "running"]);
        let mut monitor = qemu.monitor();
        monitor.execute("cont", None).expect("cont");
        assert_eq!(tool.end().ok_json()["status"], "running");

        let reset = run(address, &["wait", "reset", "--", "system_reset"]).ok_json();
        assert_eq!(reset["event"], "RESET");
        assert_eq!(reset["data"]["reason"], "host-qmp-system-reset");
        let tool = Tool::start(address, &["wait", "SHUTDOWN", "--", "quit"]);
        assert_eq!(tool.end().ok_json()["data"]["reason"], "host-qmp-quit");
    });
}

#[test]
fn qemu_ends_meanwhile() {
    for program in Program::all() {
        for spice in [true, false] {
            let mut qemu = Config::new().start(&program);
            let address = if spice { qemu.spice_uri() } else { unix(&qemu) };
            // It may still be connecting, which counts as a loss, too.
            let tool = Tool::start(&address, &["wait", "io-error", "NONE"]);
            thread::sleep(std::time::Duration::from_millis(500));
            qemu.kill();
            tool.end().failed(3);
        }
    }
}

/// Jobs end at any time, before or after the answer to the command.
#[test]
fn a_job_and_its_end() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let address = unix(&qemu);
        for node in ["a", "b"] {
            let node = format!("node-name={node}");
            let add = [
                "exec",
                "blockdev-add",
                "driver=null-co",
                &node,
                "size=65536",
            ];
            run(&address, &add).ok();
        }
        for _ in 0..20 {
            let backup = [
                "--timeout",
                "10",
                "exec",
                "--wait-for",
                "BLOCK_JOB_COMPLETED",
                "blockdev-backup",
                "job-id=j",
                "device=a",
                "target=b",
                "sync=full",
            ];
            let lines = run(&address, &backup).ok();
            let lines: Vec<Value> = lines
                .lines()
                .map(|line| serde_json::from_str(line).expect(line))
                .collect();
            assert_eq!(lines[0], json!({}));
            assert_eq!(lines[1]["data"]["device"], "j");
            assert!(lines[1]["data"].get("error").is_none(), "{lines:?}");
        }
    }
}
