// SPDX-License-Identifier: MIT OR Apache-2.0
//! Readable records of QMP sessions, and the machine that replays them.
//!
//! A file holds several transcripts; each starts with a line `== its title`.
//! A line that starts with `#` is a comment. The others are steps:
//!
//! | step | what it does |
//! |---|---|
//! | `open` | the connection opens |
//! | `open late`, `open after-rest` | the same; the greeting may be lost, or come after the rest of a reply |
//! | `ready`, `ready oob` | opens and negotiates, with id 100 |
//! | `connecting`, `close REASON` | the connection is being made, or is gone |
//! | `limit N` | sets the longest message |
//! | `execute LABEL NAME [ARGUMENTS]` | issues a command; `execute-oob` out of band |
//! | `cancel LABEL`, `forget LABEL` | ends a call; the former with an output |
//! | `nudge` | sends a command of the session's own |
//! | `-> LINE` | the session sends this; adjacent lines are sent in one piece |
//! | `-> nothing` | the session has nothing to send |
//! | `sent`, `lost` | the bytes handed over to be sent did, or did not, reach the peer |
//! | `<- LINE` | the server sends this line, which ends in CRLF |
//! | `<-lf LINE`, `<-cut TEXT` | the same with LF, with no line end |
//! | `<-bytes TEXT` | no line end, and `\r`, `\n`, `\\` and `\xNN` are escapes |
//! | `= OUTPUT` | the session returns this output; with `...` at its end: starts like this |
//! | `? FACT` | this holds for the session, see [`check`] |
//!
//! Ids count from 100. The server's bytes up to the next step that is not
//! `<-` or `=` are one turn: they are split in every way, and must always
//! give the turn's outputs. Bytes from the server imply `sent`.

#[path = "../common/escapes.rs"]
mod escapes;

use std::collections::HashMap;
use std::fmt::Write;
use std::iter::Peekable;
use std::str::Lines;

use spice_qmp::qmp::{Band, CallId, Error, Ignored, Opening, Output, Session, State};

/// How the bytes of a turn are split.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Cut {
    Whole,
    Bytes,
    /// In two, after this many bytes.
    At(usize),
}

/// When the rest of a chunk is buffered.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Buffer {
    Never,
    /// Before the first output.
    First,
    /// After each output, as a caller does that returns control.
    Each,
}

/// One transcript of a file.
pub(crate) struct Transcript {
    title: String,
    steps: Vec<(usize, Step)>,
}

enum Step {
    Do(String),
    /// The last result of `poll_transmit`.
    Transmit(Vec<u8>),
    Turn {
        bytes: Vec<u8>,
        outputs: Vec<String>,
    },
}

/// Reads the transcripts of a file.
pub(crate) fn read(text: &str) -> Vec<Transcript> {
    let mut transcripts: Vec<Transcript> = Vec::new();
    let mut lines = text.lines().peekable();
    let mut number = 1;
    while let Some(&line) = lines.peek() {
        let at = number;
        if line.is_empty() || line.starts_with('#') {
            skip(&mut lines, &mut number);
        } else if let Some(title) = line.strip_prefix("== ") {
            let title = title.to_owned();
            transcripts.push(Transcript {
                title,
                steps: Vec::new(),
            });
            skip(&mut lines, &mut number);
        } else {
            let step = read_step(&mut lines, &mut number);
            let last = transcripts.last_mut().expect("a title comes first");
            last.steps.push((at, step));
        }
    }
    transcripts
}

fn skip<'a>(lines: &mut Peekable<Lines<'a>>, number: &mut usize) -> &'a str {
    *number += 1;
    lines.next().unwrap_or_default()
}

fn read_step(lines: &mut Peekable<Lines<'_>>, number: &mut usize) -> Step {
    let is_turn = |line: &str| line.starts_with("<-") || line.starts_with("= ");
    let first = lines.peek().copied().unwrap_or_default();
    if is_turn(first) {
        let (mut bytes, mut outputs) = (Vec::new(), Vec::new());
        while lines.peek().is_some_and(|line| is_turn(line)) {
            let line = skip(lines, number);
            match line.strip_prefix("= ") {
                Some(output) => outputs.push(output.to_owned()),
                None => bytes.extend(server_bytes(line)),
            }
        }
        Step::Turn { bytes, outputs }
    } else if first.starts_with("-> ") {
        let mut bytes = Vec::new();
        while let Some(sent) = lines.peek().and_then(|line| line.strip_prefix("-> ")) {
            skip(lines, number);
            if sent != "nothing" {
                bytes.extend_from_slice(sent.as_bytes());
                bytes.push(b'\n');
            }
        }
        Step::Transmit(bytes)
    } else {
        Step::Do(skip(lines, number).to_owned())
    }
}

fn server_bytes(line: &str) -> Vec<u8> {
    let (kind, text) = line.split_once(' ').unwrap_or((line, ""));
    match kind {
        "<-" => [text.as_bytes(), b"\r\n"].concat(),
        "<-lf" => [text.as_bytes(), b"\n"].concat(),
        "<-cut" => text.into(),
        "<-bytes" => escapes::unescape(text),
        _ => panic!("no such step: {line}"),
    }
}

impl Transcript {
    /// The length of the longest turn.
    pub(crate) fn longest_turn(&self) -> usize {
        let turns = self.steps.iter().map(|(_, step)| match step {
            Step::Turn { bytes, .. } => bytes.len(),
            _ => 0,
        });
        turns.max().unwrap_or(0)
    }

    /// Replays the transcript on a new session.
    pub(crate) fn replay(&self, file: &str, cut: Cut, buffer: Buffer) {
        let mut player = Player {
            session: Session::new(100),
            calls: HashMap::new(),
        };
        for (line, step) in &self.steps {
            let place = || format!("{file}:{line}: {} ({cut:?}, buffer {buffer:?})", self.title);
            match step {
                Step::Do(action) => player.act(action, &place()),
                Step::Transmit(expected) => {
                    let sent = player.session.poll_transmit().unwrap_or_default();
                    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                    assert_eq!(text(&sent), text(expected), "{}", place());
                }
                Step::Turn { bytes, outputs } => {
                    if !bytes.is_empty() {
                        player.session.transmitted();
                    }
                    let got = player.feed(bytes, cut, buffer);
                    assert!(
                        matches_all(outputs, &got),
                        "{}\n expected {outputs:#?}\n      got {got:#?}",
                        place()
                    );
                }
            }
        }
        let title = &self.title;
        let rest = player.feed(&[], cut, buffer);
        assert!(rest.is_empty(), "{file}: {title}: also {rest:#?}");
        let unsent = player.session.poll_transmit();
        assert_eq!(unsent, None, "{file}: {title}: also sent");
    }
}

fn matches_all(expected: &[String], got: &[String]) -> bool {
    let fits = |(expected, got): (&String, &String)| match expected.strip_suffix("...") {
        Some(start) => got.starts_with(start),
        None => got == expected,
    };
    expected.len() == got.len() && expected.iter().zip(got).all(fits)
}

struct Player {
    session: Session<String>,
    calls: HashMap<String, CallId>,
}

impl Player {
    fn act(&mut self, action: &str, place: &str) {
        let (verb, rest) = action.split_once(' ').unwrap_or((action, ""));
        match (verb, rest) {
            ("open", "") => self.session.open(Opening::GreetingComes),
            ("open", "late") => self.session.open(Opening::GreetingMayBeGone),
            ("open", "after-rest") => self.session.open(Opening::GreetingAfterRest),
            ("ready", capability) => self.ready(capability, place),
            ("connecting", "") => self.session.connecting(),
            ("close", reason) => self.session.close(reason),
            ("limit", n) => {
                let limit = n.parse().expect("a number of bytes");
                self.session.set_max_message_size(limit);
            }
            ("execute", call) => self.execute(call, Band::In),
            ("execute-oob", call) => self.execute(call, Band::Out),
            ("cancel", label) => {
                let id = self.calls[label];
                let command = self.session.command(id).unwrap_or_default().into();
                let cancelled = self.session.fail(id, Error::Cancelled(command));
                assert!(cancelled, "{place}: the call has ended");
            }
            ("forget", label) => {
                let token = self.session.forget(self.calls[label]);
                assert_eq!(token.as_deref(), Some(label), "{place}");
            }
            ("nudge", "") => self.session.nudge(),
            ("sent", "") => self.session.transmitted(),
            ("lost", "") => self.session.transmit_failed(),
            ("?", fact) => check(&self.session, fact, place),
            _ => panic!("{place}: no such step: {action}"),
        }
    }

    fn ready(&mut self, capability: &str, place: &str) {
        let name = format!("{capability:?}");
        let capabilities = if capability.is_empty() { "" } else { &name };
        let server = format!(
            "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"major\": 7, \"minor\": 2, \"micro\": 22}}}}, \
             \"capabilities\": [{capabilities}]}}}}\n{{\"return\": {{}}, \"id\": 100}}\n"
        );
        self.session.open(Opening::GreetingComes);
        let outputs = self.feed(server.as_bytes(), Cut::Whole, Buffer::Never);
        let expected = ["state greeting", "state negotiating", "state ready"];
        assert_eq!(outputs, expected, "{place}");
        assert!(self.session.poll_transmit().is_some(), "{place}");
    }

    fn execute(&mut self, call: &str, band: Band) {
        let mut words = call.splitn(3, ' ');
        let label = words.next().unwrap_or_default().to_owned();
        let command = words.next().expect("a command");
        let id = self
            .session
            .execute(command, words.next(), band, label.clone());
        self.calls.insert(label, id);
    }

    fn feed(&mut self, bytes: &[u8], cut: Cut, buffer: Buffer) -> Vec<String> {
        let mut outputs = Vec::new();
        let mut feed = |chunk: &[u8]| {
            let mut rest = chunk;
            if matches!(buffer, Buffer::First) {
                self.session.buffer_input(rest);
                rest = &[];
            }
            while let Some(output) = self.session.receive(&mut rest) {
                outputs.push(render(&output));
                if matches!(buffer, Buffer::Each) {
                    self.session.buffer_input(rest);
                    rest = &[];
                }
            }
            assert!(rest.is_empty(), "all input is taken");
        };
        match cut {
            Cut::Bytes if !bytes.is_empty() => bytes.chunks(1).for_each(feed),
            Cut::At(at) if at < bytes.len() => {
                feed(&bytes[..at]);
                feed(&bytes[at..]);
            }
            _ => feed(bytes),
        }
        outputs
    }
}

fn render(output: &Output<'_, String>) -> String {
    match output {
        Output::Ended { token, result } => match result {
            Ok(value) => format!("ended {token} {}", on_one_line(value)),
            Err(error) => format!("failed {token}: {error}"),
        },
        Output::Event(event) => {
            let mut text = format!("event {}", event.name);
            if let Some(data) = &event.data {
                text = format!("{text} {}", on_one_line(data));
            }
            if event.timestamp() != -1 {
                let _ = write!(text, " @{}", event.timestamp());
            }
            text
        }
        Output::State { state, .. } => format!("state {}", name(*state)),
        Output::Ignored(Ignored::Reply) => "ignored reply".into(),
        Output::Ignored(Ignored::Bad(error)) => format!("ignored: {error}"),
    }
}

/// JSON of a pretty-printed message, without the indentation.
fn on_one_line(json: &str) -> String {
    json.lines().map(str::trim).collect()
}

fn name(state: State) -> String {
    format!("{state:?}").to_lowercase()
}

/// `state S`, `pending N`, `settled yes|no`, `awaits-caller yes|no`, `awaits-reply yes|no`, `oob yes|no`, `mid-message yes|no`, `version V`,
/// `package P`, `capabilities A,B`, `error TEXT`; `none` if there is none.
fn check(session: &Session<String>, fact: &str, place: &str) {
    let (subject, expected) = fact.split_once(' ').unwrap_or((fact, ""));
    let yes_or_no = |yes| if yes { "yes" } else { "no" }.to_owned();
    let got = match subject {
        "state" => name(session.state()),
        "pending" => session.pending().to_string(),
        "settled" => yes_or_no(session.is_settled()),
        "awaits-caller" => yes_or_no(session.awaits_caller()),
        "awaits-reply" => yes_or_no(session.awaits_reply()),
        "oob" => yes_or_no(session.oob()),
        "mid-message" => yes_or_no(session.mid_message()),
        "version" => session
            .greeting()
            .map_or("none".into(), |g| g.version.qemu.to_string()),
        "package" => session
            .greeting()
            .map_or("none".into(), |g| g.version.package.clone()),
        "capabilities" => session
            .greeting()
            .map_or("none".into(), |g| g.capabilities.join(",")),
        "error" => session.error().map_or("none".into(), ToString::to_string),
        _ => panic!("{place}: no such fact: {fact}"),
    };
    assert_eq!(got, expected, "{place}: {subject}");
}
