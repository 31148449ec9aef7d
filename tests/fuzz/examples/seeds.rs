// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes seeds from the transcripts, and from a machine's history, in the given
//! folder: the corpora of `tests/fuzz/corpus` were started with them.

use std::path::{Path, PathBuf};
use std::{env, fs, io};

const END: u8 = 0xFF;

fn main() -> io::Result<()> {
    let into = PathBuf::from(env::args_os().nth(1).expect("usage: seeds FOLDER"));
    let transcripts = Path::new(env!("CARGO_MANIFEST_DIR")).join("../fixtures/transcripts");
    for file in fs::read_dir(transcripts)? {
        let file = file?.path();
        let text = fs::read_to_string(&file)?;
        for (number, transcript) in text.split("\n== ").skip(1).enumerate() {
            let name = file.file_stem().unwrap_or_default().to_string_lossy();
            let name = format!("{name}-{number}");
            // The set-ups alternate.
            let setup = u8::try_from(number % 8).unwrap_or(0);
            write(&into.join("session"), &name, &session(setup, transcript))?;
            write(&into.join("capi"), &name, &capi(setup, transcript))?;
            let lines = transcript.lines().filter(|line| line.starts_with("<-"));
            for (line, text) in lines.enumerate() {
                write(&into.join("decode"), &format!("{name}-{line}"), &sent(text))?;
            }
        }
    }
    for (number, event) in EVENTS.iter().enumerate() {
        for (kind, calls) in CALLS.iter().enumerate() {
            let seed = machine(calls, event);
            write(
                &into.join("capi"),
                &format!("machine-{number}-{kind}"),
                &seed,
            )?;
        }
    }
    Ok(())
}

/// Causes that stop a machine, and the events that end waits.
const EVENTS: [&str; 7] = [
    r#"{"event":"BLOCK_IO_ERROR","data":{"device":"","node-name":"n","qom-path":"/machine/peripheral/d","operation":"write","action":"stop","nospace":true,"reason":"No space"}}"#,
    r#"{"event":"GUEST_PANICKED","data":{"action":"pause","info":{"type":"hyper-v","arg1":1}}}"#,
    r#"{"event":"WATCHDOG","data":{"action":"pause"}}"#,
    r#"{"event":"SHUTDOWN","data":{"guest":true,"reason":"guest-shutdown"}}"#,
    r#"{"event":"MEMORY_FAILURE","data":{"recipient":"guest","action":"fatal","flags":{"action-required":true,"recursive":false}}}"#,
    r#"{"event":"DEVICE_DELETED","data":{"device":"d","path":"/machine/peripheral/d"}}"#,
    r#"{"event":"ACPI_DEVICE_OST","data":{"info":{"device":"d","slot":"0","slot-type":"DIMM","source":3,"status":1}}}"#,
];

/// The program's actions before, and the replies to them.
const CALLS: [(&[&str], &[&str]); 7] = [
    (&["t6", "t0"], &["{}"]),
    (
        &["lc-", "lC-", "k"],
        &[
            r#"[{"name":"stop","meta-type":"command","arg-type":"0"},{"name":"0","meta-type":"object","members":[{"name":"id"}],"variants":[{"type":"0"}]}]"#,
        ],
    ),
    (&["Uc-0d", "Ecz0STOP,RESUME", "s--2running,paused"], &["{}"]),
    (
        &["p--0vga", "f--7query-name\0{}", "f--1a", "F--4", "Z"],
        &["{}"],
    ),
    (
        &["g0", "i", DRIVES, "i", "g0", "I--3/a.iso\0raw", "Tci1"],
        &["{}", "{}"],
    ),
    (
        &[
            "g1",
            "i",
            JOBS,
            "i",
            "g1",
            "K--0",
            "jccblockdev-backup\0{\"job-id\":\"j\"}",
        ],
        &["{}", "{}"],
    ),
    (
        &["g2", "i", "r0[]", "g5", "S--s1", "L-is1", "Dc-s1"],
        &["[]", "[]"],
    ),
];

const DRIVES: &str = r#"r0[{"device":"c","qdev":"d","removable":true,"locked":false,"io-status":"ok","inserted":{"file":"/a","ro":true}}]"#;
const JOBS: &str =
    r#"r0[{"id":"j","type":"backup","status":"running","current-progress":1,"total-progress":4}]"#;

fn machine((calls, replies): &(&[&str], &[&str]), event: &str) -> Vec<u8> {
    let mut seed = vec![2 | 4 | 32];
    let mut operation = |text: &str| {
        seed.extend_from_slice(text.as_bytes());
        seed.push(END);
    };
    let running = r#"r0{"status":"running","running":true}"#;
    for text in ["i", "r0{}", "i", running, "i"].iter().chain(*calls) {
        operation(text);
    }
    for reply in *replies {
        operation("i");
        operation(&format!("r0{reply}"));
    }
    operation(&format!("<{event}\n{{\"event\":\"STOP\"}}\n"));
    for text in [
        "i",
        r#"r0[{"device":"","qdev":"/machine/peripheral/d","io-status":"nospace"}]"#,
        "i",
        "k",
    ] {
        operation(text);
    }
    operation("<{\"event\":\"RESUME\"}\n");
    for text in ["i", running, "i", "x", "i", "k"] {
        operation(text);
    }
    seed
}

fn write(folder: &Path, name: &str, seed: &[u8]) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    fs::write(folder.join(name), seed)
}

/// The bytes of a line `<- TEXT` of a transcript.
fn sent(line: &str) -> Vec<u8> {
    let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "<-" => format!("{text}\r\n").into(),
        "<-lf" => format!("{text}\n").into(),
        "<-bytes" => text.replace("\\r", "\r").replace("\\n", "\n").into(),
        _ => text.into(),
    }
}

fn labels(transcript: &str) -> Vec<&str> {
    let executed = transcript
        .lines()
        .filter(|line| line.starts_with("execute"));
    executed.filter_map(|line| line.split(' ').nth(1)).collect()
}

fn session(setup: u8, transcript: &str) -> Vec<u8> {
    let mut seed = vec![setup | 0x60];
    let mut operation = |letter: u8, with: &[u8]| {
        seed.push(letter);
        seed.extend_from_slice(with);
        seed.push(END);
    };
    let labels = labels(transcript);
    let number = |label: &str| {
        let at = labels.iter().position(|it| *it == label).unwrap_or(0);
        [b'0' + u8::try_from(at).unwrap_or(0)]
    };
    let mut was_sent = false;
    for line in transcript.lines().skip(1) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "open" if rest.is_empty() => operation(b'o', b""),
            "open" if rest == "after-rest" => operation(b'a', b""),
            "open" => operation(b'l', b""),
            "ready" => {
                operation(b'o', b"");
                operation(b'G', &rest.as_bytes()[..rest.len().min(1)]);
                operation(b't', b"");
                operation(b'r', b"0");
            }
            "connecting" => operation(b'c', b""),
            "close" => operation(b'x', b""),
            "limit" => operation(b'm', rest.as_bytes()),
            "execute" | "execute-oob" => {
                let letter = if verb == "execute" { b'e' } else { b'u' };
                let call = rest.split_once(' ').map_or("", |(_, call)| call);
                operation(letter, call.replacen(' ', "\0", 1).as_bytes());
            }
            "cancel" => operation(b'f', &number(rest)),
            "forget" => operation(b'g', &number(rest)),
            "nudge" => operation(b'n', b""),
            "sent" => operation(b'w', b""),
            "lost" => operation(b'W', b""),
            "->" if !was_sent => operation(b't', b""),
            _ if verb.starts_with("<-") => {
                // Seeds are short: a reply need not be long to exceed the limit.
                let bytes = sent(line);
                let letter = if setup % 3 == 2 { b'1' } else { b'<' };
                operation(letter, &bytes[..bytes.len().min(2000)]);
            }
            _ => {}
        }
        was_sent = verb == "->";
    }
    seed
}

fn capi(setup: u8, transcript: &str) -> Vec<u8> {
    let mut seed = vec![setup << 1];
    let mut operation = |letter: u8, with: &[u8]| {
        seed.push(letter);
        seed.extend_from_slice(with);
        seed.push(END);
    };
    let labels = labels(transcript);
    for line in transcript.lines().skip(1) {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        match verb {
            "open" => operation(b'o', b""),
            "ready" => {
                operation(b'o', b"");
                operation(b'G', &rest.as_bytes()[..rest.len().min(1)]);
                operation(b'i', b"");
                operation(b'r', b"0");
            }
            "close" => operation(b'x', b""),
            "limit" => operation(b'm', rest.as_bytes()),
            "execute" | "execute-oob" => {
                let letters = if verb == "execute" {
                    b"evqaw"
                } else {
                    b"uuuuu"
                };
                let letter = letters[usize::from(setup) % 5];
                let call = rest.split_once(' ').map_or("", |(_, call)| call);
                let how = format!("c-{}", call.replacen(' ', "\0", 1));
                operation(letter, how.as_bytes());
            }
            "cancel" | "forget" => {
                let at = labels.iter().position(|it| *it == rest).unwrap_or(0);
                operation(b'C', &[b'0' + u8::try_from(at).unwrap_or(0)]);
            }
            "lost" => operation(b'W', b""),
            "->" => operation(b'i', b""),
            _ if verb.starts_with("<-") => {
                let bytes = sent(line);
                operation(b'<', &bytes[..bytes.len().min(2000)]);
                operation(b'r', b"0");
                operation(b'i', b"");
            }
            _ => {}
        }
    }
    seed
}
