// SPDX-License-Identifier: MIT OR Apache-2.0
//! The limits of a message, at each and one past it, and how much a hostile peer can
//! make a session keep.

use spice_qmp::qmp::limits::{
    MAX_ABANDONED, MAX_CAPABILITIES, MAX_DEPTH, MAX_ERROR_TEXT, MAX_MESSAGE_SIZE, MAX_NAME,
    MAX_PACKAGE, MAX_REFUSAL, MAX_SHOWN,
};
use spice_qmp::qmp::{Band, Error, Ignored, Opening, Output, PeerError, Session, State};

const GREETING: &[u8] = b"{\"QMP\": {\"version\": {\"qemu\": {\"major\": 7, \"minor\": 2, \
    \"micro\": 22}}, \"capabilities\": [\"oob\"]}}\r\n";

/// How often a peer repeats itself. Miri would take hours for a thousand times.
const TIMES: usize = if cfg!(miri) { 20 } else { 1000 };

#[test]
fn depth() {
    // One level is the message's own.
    let nested = |open: &str, close: &str, depth: usize| {
        let data = open.repeat(depth - 1) + "0" + &close.repeat(depth - 1);
        event(&data)
    };
    for (open, close) in [("[", "]"), ("{\"\":", "}"), (" [ 0, \"}]\\\"\", ", "]")] {
        assert_eq!(outcome(&nested(open, close, MAX_DEPTH)), Ok(()), "{open}");
        let error = outcome(&nested(open, close, MAX_DEPTH + 1)).unwrap_err();
        let PeerError::Malformed(reason) = error else {
            panic!("{error}")
        };
        assert!(reason.starts_with("nested too deep at byte "), "{reason}");
    }
}

#[test]
fn depth_counts_no_siblings_and_no_strings() {
    let siblings = "[[],{}],".repeat(2 * MAX_DEPTH);
    assert_eq!(outcome(&event(&format!("[{siblings}0]"))), Ok(()));
    let brackets = "[{\\\"".repeat(2 * MAX_DEPTH);
    assert_eq!(outcome(&event(&format!("\"{brackets}\""))), Ok(()));
}

#[test]
fn message_size() {
    let session = Session::<()>::new(1);
    assert_eq!(session.max_message_size(), MAX_MESSAGE_SIZE);

    let limit = ready().max_message_size();
    let frame = event("\"\"").len();
    let at_limit = event(&format!("\"{}\"", "x".repeat(limit - frame)));
    assert_eq!(at_limit.len(), limit);
    assert_eq!(outcome(&at_limit), Ok(()));

    let one_past = outcome(&at_limit.replace("\r\n", " \r\n"));
    assert_eq!(one_past, Err(PeerError::TooLarge { limit }));
}

#[test]
fn a_message_without_end_is_not_kept() {
    let mut session = ready();
    session.set_max_message_size(TIMES);
    let before = kept(&session);
    for piece in [&b"x"[..], b" ", b"{\n  ", b"\n", b"[[", b"\"\\"] {
        session.open(Opening::GreetingComes);
        feed(&mut session, &piece.repeat(10 * TIMES));
        assert!(kept(&session) <= before + 100, "{piece:?}");
    }
}

#[test]
fn what_concerns_no_call_is_not_kept() {
    let mut session = ready();
    let before = kept(&session);
    let lines: [&[u8]; 6] = [
        b"{\"event\": \"STOP\", \"data\": {}}\n",
        b"{\"return\": {}, \"id\": 16777216}\n",
        b"{\"return\": {}, \"id\": \"foreign\"}\n",
        b"{\"error\": {\"class\": \"GenericError\", \"desc\": \"\"}}\n",
        b"\r\n",
        b"garbage\n{\"event\": \"STOP\"}\n",
    ];
    for line in lines {
        for buffer in [false, true] {
            let input = line.repeat(TIMES);
            if buffer {
                session.buffer_input(&input);
                feed(&mut session, &[]);
            } else {
                feed(&mut session, &input);
            }
            assert!(kept(&session) <= before, "{line:?}");
        }
    }
}

#[test]
fn greetings_without_end_are_not_kept() {
    let mut session = ready();
    let mut after = Vec::new();
    for _ in 0..3 {
        feed(&mut session, &GREETING.repeat(TIMES));
        after.push(kept(&session));
    }
    assert_eq!(session.state(), State::Negotiating);
    assert_eq!(after, [after[0]; 3]);
    // Only the last one is answered.
    let sent = session.poll_transmit().unwrap();
    let id = (1 << 24) + 3 * TIMES;
    let expected = format!(
        "{{\"execute\":\"qmp_capabilities\",\"arguments\":{{\"enable\":[\"oob\"]}},\"id\":{id}}}\n"
    );
    assert_eq!(String::from_utf8(sent).unwrap(), expected);
}

#[test]
fn answered_greetings_without_end_are_not_kept() {
    let mut session = ready();
    let mut after = Vec::new();
    for _ in 0..3 {
        for _ in 0..TIMES {
            feed(&mut session, GREETING);
            assert!(session.poll_transmit().is_some());
            session.transmitted();
        }
        after.push(kept(&session));
    }
    assert_eq!(after, [after[0]; 3]);
}

#[test]
fn capabilities() {
    let greeted = |capabilities: &str| greeted("", capabilities);
    let many = |count: usize| {
        let names: Vec<_> = (0..count).map(|n| format!("\"{n}\"")).collect();
        greeted(&names.join(","))
            .greeting()
            .unwrap()
            .capabilities
            .len()
    };
    assert_eq!(many(MAX_CAPABILITIES), MAX_CAPABILITIES);
    assert_eq!(many(MAX_CAPABILITIES + 1), MAX_CAPABILITIES);
    for letter in ["x", "é", "\\u0041", "\\u0000", "\\ud83d\\ude00"] {
        let name = |len: usize| {
            let one: String = serde_json::from_str(&format!("\"{letter}\"")).unwrap();
            let width = one.replace('\0', "\u{FFFD}").len();
            let rest = "y".repeat(len % width);
            format!("\"{}{rest}\",\"oob\"", letter.repeat(len / width))
        };
        let names = |len: usize| greeted(&name(len)).greeting().unwrap().capabilities.clone();
        assert_eq!(names(MAX_NAME)[0].len(), MAX_NAME, "{letter}");
        assert_eq!(names(MAX_NAME + 1), ["oob"], "{letter}");
        assert_eq!(names(100 * MAX_NAME), ["oob"], "{letter}");
    }
    // Skipped bytes do not count.
    let names = greeted(&("1,{},".repeat(100) + "\"oob\""));
    assert_eq!(names.greeting().unwrap().capabilities, ["oob"]);
}

#[test]
fn package() {
    for (letter, width) in [("x", 1), ("é", 2), ("\\n", 1), ("\\u0000", 3)] {
        let package = |count: usize| {
            let session = greeted(&letter.repeat(count), "");
            session.greeting().unwrap().version.package.clone()
        };
        let most = MAX_PACKAGE / width;
        assert_eq!(package(most).chars().count(), most, "{letter}");
        assert_eq!(package(most + 1).chars().count(), most, "{letter}");
        assert_eq!(package(100 * most).chars().count(), most, "{letter}");
    }
    let version: spice_qmp::qmp::Version = serde_json::from_str(&format!(
        "{{\"qemu\":{{\"major\":1,\"minor\":2,\"micro\":3}},\"package\":\"\\u0000{}\"}}",
        "é".repeat(MAX_PACKAGE)
    ))
    .unwrap();
    // The character at the limit would be cut.
    assert_eq!(version.package.len(), MAX_PACKAGE - 1);
    assert!(version.package.starts_with("\u{FFFD}é"));
}

#[test]
fn the_text_of_an_error() {
    let failed = |class: usize, desc: usize| {
        let mut session = ready();
        session.execute("stop", None, Band::In, ());
        session.poll_transmit().unwrap();
        let (class, desc) = ("C".repeat(class), "d".repeat(desc));
        let line = format!(
            "{{\"id\": 16777217, \"error\": {{\"class\": \"{class}\", \"desc\": \"{desc}\"}}}}\n"
        );
        let mut input = line.as_bytes();
        match session.receive(&mut input) {
            Some(Output::Ended {
                result: Err(Error::Command { class, desc, .. }),
                ..
            }) => (class.name().len(), desc.len()),
            other => panic!("{other:?}"),
        }
    };
    let most = (MAX_NAME, MAX_ERROR_TEXT);
    assert_eq!(failed(MAX_NAME, MAX_ERROR_TEXT), most);
    assert_eq!(failed(MAX_NAME + 1, MAX_ERROR_TEXT + 1), most);
}

#[test]
fn the_text_of_a_refusal() {
    let refusal = |len: usize| {
        let mut session = greeted("", "");
        session.poll_transmit().unwrap();
        let desc = "d".repeat(len);
        feed(
            &mut session,
            format!(
                "{{\"id\": 16777216, \"error\": {{\"class\": \"E\", \"desc\": \"{desc}\"}}}}\n"
            )
            .as_bytes(),
        );
        assert_eq!(session.state(), State::Failed);
        match session.error() {
            Some(Error::Peer(PeerError::NegotiationRefused(text))) => text.len(),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(refusal(MAX_REFUSAL), MAX_REFUSAL);
    assert_eq!(refusal(MAX_REFUSAL + 1), MAX_REFUSAL);
}

#[test]
fn what_is_shown_in_place_of_a_greeting() {
    let shown = |line: &str| {
        let mut session = Session::<()>::new(1 << 24);
        session.open(Opening::GreetingComes);
        feed(&mut session, line.as_bytes());
        session.error().unwrap().to_string()
    };
    let frame = shown("x").len() - 1;
    assert_eq!(shown(&"x".repeat(MAX_SHOWN)).len(), frame + MAX_SHOWN);
    let cut = shown(&"x".repeat(MAX_SHOWN + 1));
    assert_eq!(cut.len(), frame + MAX_SHOWN + "...".len());
    // No byte takes more than four.
    let most = frame + 4 * MAX_SHOWN + "...".len();
    assert_eq!(shown(&"\u{1b}".repeat(100 * MAX_SHOWN)).len(), most);
}

#[test]
fn calls_that_were_given_up() {
    // Each is sent, abandoned and never answered.
    let mut session = ready();
    let mut sizes = Vec::new();
    let most = if cfg!(miri) { 50 } else { MAX_ABANDONED };
    for count in [most, 1] {
        for _ in 0..count {
            let id = session.execute("stop", None, Band::In, ());
            assert!(session.poll_transmit().is_some());
            session.transmitted();
            assert!(session.forget(id).is_some());
        }
        sizes.push(kept(&session));
    }
    if !cfg!(miri) {
        assert_eq!(sizes[0], sizes[1]);
    }
    // The oldest remembered one is answered, and all before it are gone.
    assert!(session.awaits_reply());
    let last = (1 << 24) + most + 1;
    feed(
        &mut session,
        format!("{{\"return\": {{}}, \"id\": {last}}}\n").as_bytes(),
    );
    assert!(!session.awaits_reply() && session.is_settled());
}

#[test]
fn large_messages_do_not_depend_on_the_pieces() {
    let long = "é".repeat(if cfg!(miri) { 300 } else { 100_000 });
    for message in [
        format!("{{\"return\": {{\"a\": \"{long}\"}}, \"id\": 16777217}}\r\n"),
        format!("{{\"id\": 16777217, \"return\": \"{long}\"}}\n"),
        format!("{{\"return\": \"{long}\", \"id\": 1}}\n"),
        format!("{{\"id\": 16777217, \"error\": {{\"class\": \"E\", \"desc\": \"{long}\"}}}}\n"),
        format!("{{\"event\": \"A{long}\", \"data\": [\"{long}\"], \"timestamp\": {{}}}}\n"),
        format!(
            "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"major\": 7, \"minor\": 2, \"micro\": 22}}, \
            \"package\": \"{long}\"}}, \"capabilities\": []}}}}\n"
        ),
        format!("{{\n    \"event\": \"{long}\"\n}}\n"),
        format!("{long}\n"),
        format!("{{\"return\": \"{long}, \"id\": 16777217}}\n"),
    ] {
        let outputs = |len: usize| {
            let mut session = ready();
            session.execute("query-status", None, Band::In, ());
            session.poll_transmit().unwrap();
            let mut outputs = Vec::new();
            for mut chunk in message.as_bytes().chunks(len) {
                while let Some(output) = session.receive(&mut chunk) {
                    outputs.push(format!("{output:?}"));
                }
            }
            outputs
        };
        let whole = outputs(message.len());
        assert!(!whole.is_empty());
        for len in [message.len() / 50, message.len() / 2, message.len() - 1] {
            assert!(outputs(len) == whole, "{} in {len}", &message[..60]);
        }
    }
}

/// A session that received this greeting.
fn greeted(package: &str, capabilities: &str) -> Session<()> {
    let mut session = Session::new(1 << 24);
    session.open(Opening::GreetingComes);
    feed(
        &mut session,
        format!(
            "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"major\": 7, \"minor\": 2, \"micro\": 22}}, \
             \"package\": \"{package}\"}}, \"capabilities\": [{capabilities}]}}}}\n"
        )
        .as_bytes(),
    );
    assert_eq!(session.state(), State::Negotiating);
    session
}

fn event(data: &str) -> String {
    format!("{{\"event\": \"A\", \"data\": {data}}}\r\n")
}

/// Whether an event is accepted.
fn outcome(event: &str) -> Result<(), PeerError> {
    let mut session = ready();
    let mut got = None;
    for mut chunk in event.as_bytes().chunks(1 << 16) {
        while let Some(output) = session.receive(&mut chunk) {
            let result = match output {
                Output::Event(_) => Ok(()),
                Output::Ignored(Ignored::Bad(error)) => Err(error),
                other => panic!("{other:?}"),
            };
            assert!(got.replace(result).is_none(), "one message, one output");
        }
    }
    got.expect("the message has ended")
}

fn ready() -> Session<()> {
    let mut session = Session::new(1 << 24);
    if cfg!(miri) {
        session.set_max_message_size(1 << 17);
    }
    session.open(Opening::GreetingMayBeGone);
    assert!(session.poll_transmit().is_some());
    feed(&mut session, b"{\"return\": {}, \"id\": 16777216}\r\n");
    assert_eq!(session.state(), State::Ready);
    session
}

fn feed(session: &mut Session<()>, mut input: &[u8]) {
    while session.receive(&mut input).is_some() {}
}

/// How much a session holds, judged by its debug output.
fn kept(session: &Session<()>) -> usize {
    format!("{session:?}").len()
}
