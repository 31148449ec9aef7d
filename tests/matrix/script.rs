// SPDX-License-Identifier: MIT OR Apache-2.0
//! The language in which the server's part is written.
//!
//! A line that starts with `#` is a comment. The others are steps:
//!
//! | step | what it does |
//! |---|---|
//! | `open`, `close` | opens the connection, if it can be reopened; closes it |
//! | `send TEXT`, `line TEXT` | sends text, with a line end; `\r`, `\n`, `\\` and `\xNN` are escapes |
//! | `event NAME` | sends an event |
//! | `greet` | sends the greeting |
//! | `await COMMAND` | waits for a command; `it` is the one that the program executes |
//! | `half` | sends half of the answer to the last command |
//! | `reply`, `reply ID` | answers the last command, or ends half an answer; with another id |
//! | `serve` | continues as a good server: greets if it has not, and answers everything |
//! | `split N` | sends in pieces of N bytes from now on |
//! | `mute` | sends nothing more |
//! | `stall`, `read` | stops reading, continues to read |
//! | `fail` | makes the port's writes fail |
//! | `repeat N STEP` | does it N times; adjacent texts are sent in one piece |
//! | `call` | here the program makes its call, and cancels it if it does so |
//! | `shut` | here the program starts to close the port |
//! | `fault` | in the script of a moment: here the fault happens |
//! | `early` | in the script of a moment: here its `early STEP`s, which otherwise come first |

#[path = "../common/escapes.rs"]
mod escapes;

use super::cases::Case;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Open,
    Close,
    Send(Vec<u8>),
    Greet,
    Await(String),
    Half,
    Reply(Option<u64>),
    Serve,
    Split(usize),
    Mute,
    Stall,
    Read,
    Fail,
    Call,
    Shut,
    Fault,
    Early,
}

/// The steps of a case.
pub fn steps(case: Case) -> Vec<Step> {
    let (early, fault): (Vec<_>, Vec<_>) =
        lines(case.fault.script()).partition(|line: &&str| line.starts_with("early "));
    let mut early = read(early.iter().filter_map(|line| line.strip_prefix("early ")));
    let mut steps = Vec::new();
    for step in read(lines(case.moment.script())) {
        match step {
            Step::Early => steps.append(&mut early),
            Step::Fault => {
                steps.append(&mut early);
                steps.extend(read(fault.iter().copied()));
            }
            step => steps.push(step),
        }
    }
    steps
}

fn lines(script: &'static str) -> impl Iterator<Item = &'static str> {
    script
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
}

fn read<'a>(lines: impl Iterator<Item = &'a str>) -> Vec<Step> {
    let mut steps = Vec::new();
    for line in lines {
        let (times, step) = match line.strip_prefix("repeat ") {
            Some(rest) => {
                let (times, step) = rest.split_once(' ').expect("repeat N STEP");
                (times.parse().expect("repeat N STEP"), step)
            }
            None => (1, line),
        };
        for _ in 0..times {
            match (steps.last_mut(), parse(step)) {
                (Some(Step::Send(bytes)), Step::Send(more)) => bytes.extend(more),
                (_, step) => steps.push(step),
            }
        }
    }
    steps
}

fn parse(line: &str) -> Step {
    let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
    match word {
        "open" => Step::Open,
        "close" => Step::Close,
        "send" => Step::Send(escapes::unescape(rest)),
        "line" => Step::Send([escapes::unescape(rest), b"\r\n".to_vec()].concat()),
        "event" => Step::Send(event(rest).into_bytes()),
        "greet" => Step::Greet,
        "await" => Step::Await(rest.to_owned()),
        "half" => Step::Half,
        "reply" => Step::Reply((!rest.is_empty()).then(|| number(line, rest))),
        "serve" => Step::Serve,
        "split" => Step::Split(number(line, rest)),
        "mute" => Step::Mute,
        "stall" => Step::Stall,
        "read" => Step::Read,
        "fail" => Step::Fail,
        "call" => Step::Call,
        "shut" => Step::Shut,
        "fault" => Step::Fault,
        "early" => Step::Early,
        _ => panic!("no such step: {line}"),
    }
}

fn number<N: std::str::FromStr>(line: &str, text: &str) -> N {
    text.parse()
        .unwrap_or_else(|_| panic!("this needs a number: {line}"))
}

fn event(name: &str) -> String {
    let timestamp = r#"{"seconds": 1700000000, "microseconds": 42}"#;
    format!(r#"{{"timestamp": {timestamp}, "event": "{name}", "data": {{"offset": 0}}}}"#) + "\r\n"
}
