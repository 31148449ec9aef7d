// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random clients of `spice-qmp share` on real QEMU over SPICE, one of them hostile.
//!
//! Each answer must belong to its request; well-behaved clients are served, whatever the
//! others do; and the tool's memory and descriptors must not pile up.
//!
//! Runs for a few seconds as a test; `SPICE_QMP_SOAK_SECONDS` sets how long.
#![cfg(all(feature = "spice", feature = "cli"))]

mod common;
#[allow(dead_code, reason = "its inputs alone are used")]
mod served;
mod sharing;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};
use std::{env, fs};

use common::qemu::{Config, Program};
use common::random::Random;
use common::say;
use serde_json::{Value, json};
use sharing::{Client, Shared};

/// How long it lasts by default.
const SECONDS: u64 = 6;
/// How many well-behaved clients there are at a time.
const CLIENTS: u64 = 5;
/// How much the tool's memory may grow between the first part of a run and its end: the
/// granularity of the kernel and the allocator.
const KIBIBYTES: usize = 8 << 10;

type Figures = Mutex<BTreeMap<&'static str, u64>>;

#[test]
fn a_hostile_client_harms_no_other() {
    let seconds = env::var("SPICE_QMP_SOAK_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |seconds| seconds.parse().expect("a number"));
    let figures = Figures::default();
    thread::scope(|scope| {
        for program in Program::all() {
            let figures = &figures;
            scope.spawn(move || soak(&program, Duration::from_secs(seconds), figures));
        }
    });
    for (what, number) in figures.into_inner().unwrap() {
        say(&format!("soak: {what}: {number}"));
    }
}

fn soak(program: &Program, time: Duration, figures: &Figures) {
    let mut qemu = Config::new().start(program);
    let mut shared = Shared::start(&qemu.spice_uri(), &[]);
    visit(&shared);
    let files = open_files(shared.pid());
    let mut first = None;
    let parts = 4;
    for part in 0..parts {
        let end = Instant::now() + time / parts;
        thread::scope(|scope| {
            for number in 0..CLIENTS {
                let path = shared.path();
                let random = Random::new(u64::from(part) * 100 + number);
                scope.spawn(move || {
                    while Instant::now() < end {
                        behave(&path, number, &random, figures);
                    }
                });
            }
            let path = shared.path();
            let random = Random::new(u64::from(part) * 100 + 99);
            scope.spawn(move || {
                while Instant::now() < end {
                    misbehave(&path, &random, figures);
                }
            });
        });
        assert!(shared.is_running(), "the tool has ended");
        visit(&shared);
        let deadline = Instant::now() + sharing::LIMIT;
        while open_files(shared.pid()) > files {
            let now = open_files(shared.pid());
            assert!(Instant::now() < deadline, "{now} files, {files} at first");
            thread::sleep(Duration::from_millis(20));
        }
        let now = resident(shared.pid());
        say(&format!("soak: QEMU {}: {now} KiB", program.major()));
        let memory = *first.get_or_insert(now);
        assert!(now <= memory + KIBIBYTES, "{now} KiB, {memory} at first");
    }
    let mut last = shared.client();
    last.send(&json!({"execute": "quit"})).unwrap();
    assert!(last.rest().contains(&json!({"return": {}})));
    assert_eq!(shared.end(), Some(0));
    assert!(qemu.wait_exit(sharing::LIMIT).unwrap().success());
}

/// A client connects, is served, and has been disconnected when this returns.
fn visit(shared: &Shared) {
    let mut client = shared.client();
    assert!(client.execute("query-name", &json!({}))["return"].is_object());
    let files = open_files(shared.pid());
    drop(client);
    let deadline = Instant::now() + sharing::LIMIT;
    while open_files(shared.pid()) >= files {
        assert!(Instant::now() < deadline, "it has not left");
        thread::sleep(Duration::from_millis(5));
    }
}

/// One connection of a client that checks what it receives.
fn behave(path: &Path, client: u64, random: &Random, figures: &Figures) {
    // A storm of connections may replace it until it has negotiated.
    let Some(mut connection) = Client::connect(path) else {
        count(figures, "refused");
        thread::sleep(Duration::from_millis(5));
        return;
    };
    if connection.negotiate().is_none() {
        count(figures, "left before they negotiated");
        return;
    }
    count(figures, "clients");
    for round in 0..random.below(30) {
        let asked: Vec<_> = (0..=random.below(12))
            .map(|at| question(random, client * 1_000_000 + round as u64 * 1000 + at as u64))
            .collect();
        for (id, (request, _)) in asked.iter().enumerate() {
            let mut request = request.clone();
            request["id"] = json!(id % 3);
            connection.send(&request).expect("it behaves");
        }
        if random.below(40) == 0 {
            count(figures, "died");
            return;
        }
        for (id, (_, expected)) in asked.iter().enumerate() {
            let mut expected = expected.clone();
            expected["id"] = json!(id % 3);
            assert_eq!(connection.answer().expect("it behaves"), expected);
            count(figures, "answers");
        }
        if client == 0 && random.below(10) == 0 {
            for (command, event) in [("cont", "RESUME"), ("stop", "STOP")] {
                connection.execute(command, &json!({}));
                connection.event(event);
                count(figures, "events awaited");
            }
        }
        thread::sleep(Duration::from_millis(random.below(20) as u64));
    }
}

/// A request whose answer contains the number, and that answer.
fn question(random: &Random, number: u64) -> (Value, Value) {
    let name = format!("no-{number}");
    match random.below(4) {
        0 => (
            json!({"execute": "device_del", "arguments": {"id": name}}),
            json!({"error": {
                "class": "DeviceNotFound", "desc": format!("Device '{name}' not found")
            }}),
        ),
        1 => (
            json!({"execute": name}),
            json!({"error": {
                "class": "CommandNotFound", "desc": format!("The command {name} has not been found")
            }}),
        ),
        _ => (
            json!({"execute": "human-monitor-command", "arguments": {
                "command-line": format!("print/d {number}")
            }}),
            json!({"return": format!("{number}\r\n")}),
        ),
    }
}

/// A hostile action of a client.
fn misbehave(path: &Path, random: &Random, figures: &Figures) {
    let Ok(mut stream) = UnixStream::connect(path) else {
        return;
    };
    stream.set_nonblocking(true).unwrap();
    if random.below(4) > 0 {
        let _ = stream.write_all(b"{'execute':'qmp_capabilities'}");
    }
    let what = match random.below(8) {
        0 => {
            let many: Vec<_> = (0..random.below(100))
                .filter_map(|_| UnixStream::connect(path).ok())
                .collect();
            thread::sleep(Duration::from_millis(random.below(50) as u64));
            drop(many);
            "storms of connections"
        }
        1 => {
            let request =
                b"{\"execute\":\"query-qmp-schema\",\"id\":1}".repeat(1 + random.below(200));
            for _ in 0..random.below(50) {
                let _ = stream.write(&request);
            }
            thread::sleep(Duration::from_millis(random.below(300) as u64));
            "floods of requests"
        }
        2 => {
            let byte = b"]},:\x00\xFFx["[random.below(8)];
            for _ in 0..random.below(50) {
                let _ = stream.write(&[byte].repeat(20_000));
                if random.coin() {
                    let _ = stream.read(&mut [0; 3000]);
                }
            }
            "floods of errors"
        }
        3 => {
            let _ = stream.set_nonblocking(false);
            let _ = stream.set_write_timeout(Some(Duration::from_millis(300)));
            let _ = stream.write_all(b"{\"execute\":\"");
            let _ = stream.write_all(&vec![b'a'; random.below(6 << 20)]);
            "long messages"
        }
        4 => {
            let _ = stream.shutdown([Shutdown::Read, Shutdown::Write][random.below(2)]);
            let _ = stream.write_all(b"{\"execute\":\"query-name\"}");
            "halves closed"
        }
        _ => {
            for _ in 0..random.below(30) {
                let _ = stream.write(&mutated(random));
                if random.coin() {
                    let _ = stream.read(&mut [0; 10_000]);
                }
            }
            "inputs that were mutated"
        }
    };
    count(figures, what);
}

/// An input of the server's tests, with a few bytes changed.
fn mutated(random: &Random) -> Vec<u8> {
    let cases = served::cases();
    let mut bytes = cases[random.below(cases.len())].bytes.clone();
    let other = &cases[random.below(cases.len())].bytes;
    for _ in 0..random.below(6) {
        let at = random.below(bytes.len().max(1));
        match random.below(4) {
            0 => bytes.truncate(at),
            1 => bytes.extend_from_slice(&other[random.below(other.len())..]),
            2 => bytes.insert(
                at.min(bytes.len()),
                u8::try_from(random.below(256)).unwrap(),
            ),
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(random.below(256)).unwrap();
                }
            }
        }
    }
    bytes
}

fn count(figures: &Figures, what: &'static str) {
    *figures.lock().unwrap().entry(what).or_default() += 1;
}

fn open_files(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("/proc")
        .count()
}

/// KiB in memory.
fn resident(pid: u32) -> usize {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.and_then(|it| it.parse().ok()).expect("a number")
}
