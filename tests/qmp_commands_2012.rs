// SPDX-License-Identifier: MIT OR Apache-2.0
//! The examples of all commands that QMP had in 2012: each request can be sent,
//! and each reply and event can be decoded.

use std::collections::BTreeMap;

use serde_json::Value;
use spice_qmp::qmp::{Band, Ignored, Opening, Output, Session, State};

const EXAMPLES: &str = include_str!("fixtures/qmp-commands-2012.txt");

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"major": 1, "minor": 0, "micro": 50}, "package": ""}, "capabilities": []}}
{"return": {}, "id": 1}
"#;

/// What follows one request.
struct Example {
    request: Value,
    answers: Vec<&'static str>,
}

/// The session's result for a message.
#[derive(Debug, PartialEq)]
enum Decoded {
    Return(Value),
    Event(String, Option<Value>, i64),
}

#[test]
fn every_request_is_sent_and_every_answer_decoded() {
    let commands = read();
    let (mut requests, mut replies, mut events) = (0, 0, 0);
    let mut session = ready();
    for (command, examples) in &commands {
        for example in examples {
            assert_eq!(example.request["execute"], *command);
            requests += 1;
            for pretty in [false, true] {
                let got = run(&mut session, example, pretty);
                let expected: Vec<_> = example.answers.iter().map(|line| decode(line)).collect();
                assert_eq!(got, expected, "{command}, pretty {pretty}");
            }
            let are_events = example.answers.iter().map(|line| is_event(line));
            events += are_events.clone().filter(|&yes| yes).count();
            replies += are_events.filter(|&yes| !yes).count();
        }
    }
    assert_eq!(commands.len(), 61, "commands");
    assert_eq!((requests, replies, events), (66, 66, 8));
}

fn read() -> BTreeMap<&'static str, Vec<Example>> {
    let mut commands: BTreeMap<_, Vec<Example>> = BTreeMap::new();
    let mut heading = "";
    for line in EXAMPLES.lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(command) = line.strip_prefix("== ") {
            heading = command;
            assert!(commands.insert(command, Vec::new()).is_none(), "{command}");
            continue;
        }
        let examples = commands.get_mut(heading).expect("a heading comes first");
        if let Some(request) = line.strip_prefix("-> ") {
            examples.push(Example {
                request: serde_json::from_str(request).expect(line),
                answers: Vec::new(),
            });
        } else {
            let answer = line.strip_prefix("<- ").expect(line);
            examples.last_mut().expect(line).answers.push(answer);
        }
    }
    commands
}

fn ready() -> Session<()> {
    let mut session = Session::new(1);
    session.open(Opening::GreetingComes);
    let mut input = GREETING.as_bytes();
    while session.receive(&mut input).is_some() {}
    assert_eq!(session.state(), State::Ready);
    assert!(session.poll_transmit().is_some());
    session
}

/// Sends the request, feeds the answers, and returns the results.
fn run(session: &mut Session<()>, example: &Example, pretty: bool) -> Vec<Decoded> {
    let command = example.request["execute"].as_str().unwrap();
    let arguments = example.request.get("arguments").map(Value::to_string);
    session.execute(command, arguments.as_deref(), Band::In, ());

    let sent = session.poll_transmit().unwrap();
    let mut sent: Value = serde_json::from_slice(&sent).unwrap();
    let id = sent.as_object_mut().unwrap().remove("id").unwrap();
    assert_eq!(sent, example.request);
    session.transmitted();

    let mut server = String::new();
    for &answer in &example.answers {
        let mut line = answer.to_owned();
        if !is_event(answer) {
            line.insert_str(1, &format!("\"id\": {id}, "));
        }
        if pretty {
            let value: Value = serde_json::from_str(&line).unwrap();
            line = format!("{value:#}").replace('\n', "\r\n");
        }
        server += &line;
        server += "\r\n";
    }

    let mut input = server.as_bytes();
    let mut decoded = Vec::new();
    while let Some(output) = session.receive(&mut input) {
        decoded.push(match output {
            Output::Ended { token: (), result } => {
                Decoded::Return(serde_json::from_str(&result.unwrap()).unwrap())
            }
            Output::Event(event) => Decoded::Event(
                event.name.clone().into_owned(),
                event
                    .data
                    .as_deref()
                    .map(|raw| serde_json::from_str(raw).unwrap()),
                event.timestamp(),
            ),
            Output::State { state, .. } => panic!("state {state}"),
            Output::Ignored(Ignored::Reply) => panic!("a reply was ignored"),
            Output::Ignored(Ignored::Bad(error)) => panic!("{error}"),
        });
    }
    assert_eq!(session.pending(), 0);
    decoded
}

/// The same from a tree of the whole message.
fn decode(line: &str) -> Decoded {
    let value: Value = serde_json::from_str(line).expect(line);
    let Some(name) = value.get("event") else {
        return Decoded::Return(value["return"].clone());
    };
    let time = |unit: &str| value["timestamp"][unit].as_i64().expect(line);
    Decoded::Event(
        name.as_str().expect(line).to_owned(),
        value.get("data").cloned(),
        time("seconds") * 1_000_000 + time("microseconds"),
    )
}

fn is_event(line: &str) -> bool {
    line.contains("\"event\":")
}
