// SPDX-License-Identifier: MIT OR Apache-2.0
//! `job` and `jobs`.

use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::common::qemu::{Config, Monitor, Program, Qemu};
use crate::server::{GREETING, Server};
use crate::tool::{LIMIT, Tool, assert_has, run};
use crate::{on_each_of, unix};

/// Two disks, and one that cannot be written to.
fn config() -> Config {
    let disk = |name: &str| json!({"driver": "null-co", "node-name": name, "size": 64 << 20});
    let broken = json!({
        "driver": "blkdebug", "node-name": "broken",
        "image": {"driver": "null-co", "size": 64 << 20},
        "inject-error": [{"event": "none", "iotype": "write", "errno": 5}],
    });
    let disks = [disk("s"), disk("t"), broken];
    disks.into_iter().fold(Config::new(), |config, disk| {
        config.arg("-blockdev").arg(disk.to_string())
    })
}

/// A backup that takes so long that a test can act meanwhile.
const SLOW: [&str; 7] = [
    "job",
    "blockdev-backup",
    "job-id=slow",
    "device=s",
    "target=t",
    "sync=full",
    "speed=1048576",
];

fn jobs(monitor: &mut Monitor) -> Vec<Value> {
    let jobs = monitor.execute("query-jobs", None).expect("query-jobs");
    jobs.as_array().expect("a list").clone()
}

fn wait_for_jobs(monitor: &mut Monitor, number: usize) {
    let deadline = Instant::now() + LIMIT;
    while jobs(monitor).len() != number {
        assert!(Instant::now() < deadline, "{:?}", jobs(monitor));
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Runs the slow job, and ends the tool while it runs.
fn interrupted(qemu: &Qemu, address: &str, end: impl FnOnce(&Tool, &mut Monitor)) -> Tool {
    let tool = Tool::start(address, &SLOW);
    let mut monitor = qemu.monitor();
    wait_for_jobs(&mut monitor, 1);
    end(&tool, &mut monitor);
    wait_for_jobs(&mut monitor, 0);
    tool
}

#[test]
fn a_job_is_run_to_its_end() {
    on_each_of(config, |qemu, address| {
        let backup = ["blockdev-backup", "device=s", "target=t", "sync=full"];
        let text = run(address, &[&["job"], &backup[..]].concat()).ok();
        assert_eq!(text, "blockdev-backup has completed.\n");

        let slower = ["--json", "job", "job-id=j", "speed=67108864"];
        let args = [&slower[..2], &backup[..], &slower[2..]].concat();
        let text = run(address, &args).ok();
        let lines: Vec<Value> = text
            .lines()
            .map(|line| serde_json::from_str(line).expect(line))
            .collect();
        let (end, progress) = lines.split_last().expect("a line");
        assert_eq!(*end, json!({"completed": "blockdev-backup"}));
        for job in progress {
            assert_eq!((&job["id"], &job["type"]), (&json!("j"), &json!("backup")));
            assert!(job["current-progress"].is_u64() && job["time"].is_string());
        }
        assert!(!progress.is_empty(), "{text}");
        assert!(jobs(&mut qemu.monitor()).is_empty());
    });
}

#[test]
fn a_job_that_fails() {
    on_each_of(config, |qemu, address| {
        let job = [
            "job",
            "blockdev-backup",
            "device=s",
            "target=broken",
            "sync=full",
        ];
        let error = run(address, &job).failed(1);
        assert_has(&error, "blockdev-backup: Input/output error");
        assert!(jobs(&mut qemu.monitor()).is_empty());
        let error = run(address, &["job", "blockdev-bakup"]).failed(1);
        assert_has(&error, "did you mean blockdev-backup?");
        let error = run(address, &["job", "query-status"]).failed(1);
        assert_has(
            &error,
            "hint: query-status starts no job: use spice-qmp exec",
        );
    });
}

#[test]
fn a_signal_has_the_job_cancelled() {
    on_each_of(config, |qemu, address| {
        for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
            let tool = interrupted(qemu, address, |tool, _| tool.signal(signal));
            let ended = tool.end();
            assert_eq!((ended.code, ended.stdout.as_str()), (Some(code), ""));
            assert_has(
                &ended.stderr,
                "note: QEMU is asked to cancel blockdev-backup",
            );
            assert_has(&ended.stderr, "note: blockdev-backup was cancelled\n");
        }
    });
}

#[test]
fn a_job_that_takes_too_long_is_cancelled() {
    on_each_of(config, |qemu, address| {
        let args = [&["--timeout", "5"], &SLOW[..]].concat();
        let error = run(address, &args).failed(4);
        assert_has(&error, "did not end within 5000 ms, and was cancelled");
        assert!(jobs(&mut qemu.monitor()).is_empty());
    });
}

#[test]
fn another_client_may_cancel_it() {
    on_each_of(config, |qemu, address| {
        let tool = interrupted(qemu, address, |_, monitor| {
            let id = Some(json!({"id": "slow"}));
            monitor.execute("job-cancel", id).expect("job-cancel");
        });
        let error = tool.end().failed(1);
        assert_has(&error, "blockdev-backup was cancelled by another client");
    });
}

/// QEMU has not even reported whether it has begun.
#[test]
fn a_second_signal_ends_it_at_once() {
    let (came, begun) = mpsc::channel();
    let server = Server::start(GREETING, move |command| match command {
        "blockdev-backup" => {
            came.send(()).expect("the test waits");
            vec![String::new()]
        }
        _ => Vec::new(),
    });
    let mut tool = Tool::start(&server.address(), &["job", "blockdev-backup"]);
    begun.recv_timeout(LIMIT).expect("the command");
    tool.signal(Signal::INT);
    tool.wait_error_line("Press Ctrl+C again to leave at once");
    assert!(tool.is_running());
    tool.signal(Signal::INT);
    assert_eq!(tool.end().code, Some(130));
}

#[test]
fn jobs_are_listed_and_followed() {
    for program in Program::all() {
        let qemu = config().start(&program);
        let spice = qemu.spice_uri();
        let none = run(&spice, &["jobs"]);
        assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""));
        assert_eq!(none.stderr, "spice-qmp: note: no jobs\n");
        assert_eq!(run(&spice, &["--json", "jobs"]).ok_json(), json!([]));

        // It has arrived before.
        let mut monitor = qemu.monitor();
        let slow = json!({
            "job-id": "slow", "device": "s", "target": "t", "sync": "full", "speed": 1 << 20,
        });
        monitor
            .execute("blockdev-backup", Some(slow))
            .expect("a job");
        let text = run(&spice, &["jobs"]).ok();
        assert_has(&text, "slow  backup  running  ");
        assert_has(&text, " %\n");
        let listed = run(&spice, &["--json", "jobs"]).ok_json();
        assert_eq!(listed[0]["id"], "slow");
        assert_eq!(listed[0]["total-progress"], 64 << 20);

        let tool = Tool::start(&spice, &["--json", "jobs", "--follow"]);
        let next = || serde_json::from_str::<Value>(&tool.line()).expect("JSON");
        assert_eq!(next()["status"], "running");
        let (first, second) = (next(), next());
        assert!(
            first["current-progress"].as_u64() < second["current-progress"].as_u64(),
            "{first} {second}"
        );
        let id = Some(json!({"id": "slow"}));
        monitor.execute("job-cancel", id).expect("job-cancel");
        loop {
            let job = next();
            assert_eq!(job["id"], "slow");
            if job["status"] == "null" {
                break;
            }
        }
        monitor.execute("quit", None).expect("quit");
        let ended = tool.end();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    }
}

#[test]
fn following_ends_in_time() {
    let qemu = config().start(&Program::system());
    let error = run(&unix(&qemu), &["jobs", "--follow", "--timeout", "4"]).failed(4);
    assert_has(&error, "QEMU did not end within 4000 ms");
}

#[test]
fn people_see_bars() {
    let qemu = config().start(&Program::system());
    let tool = env!("CARGO_BIN_EXE_spice-qmp");
    let quick = SLOW.map(|word| word.replace("=1048576", "=33554432"));
    let mut script = Command::new("script");
    script
        .args(["-qec", &format!("{tool} {}", quick.join(" ")), "/dev/null"])
        .env("SPICE_QMP_ADDRESS", unix(&qemu))
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let text = Tool::spawn(&mut script).end().stdout;
    assert_has(&text, "slow [");
    assert_has(&text, "% backup running");
    // The bar is gone.
    let last = text.trim_end().rsplit("\x1b[2K").next();
    assert_eq!(last, Some("blockdev-backup has completed."), "{text:?}");
}
