// SPDX-License-Identifier: MIT OR Apache-2.0
//! What clients send and what QEMU answers, from `tests/fixtures/server.qmp`.

#[path = "../common/escapes.rs"]
mod escapes;

use serde_json::Value;

const TEXT: &str = include_str!("../fixtures/server.qmp");

/// The input of a client on a new connection, and the answers to it.
pub(crate) struct Case {
    pub(crate) title: String,
    pub(crate) bytes: Vec<u8>,
    pub(crate) answers: Vec<Value>,
}

/// Resets the server, whatever came before, and has one more answer.
pub(crate) const END: &[u8] = b"\xFF{\"execute\":\"end\",\"id\":\"end\"}";

/// All cases of the file.
pub(crate) fn cases() -> Vec<Case> {
    let mut cases: Vec<Case> = Vec::new();
    let mut title = "";
    for line in TEXT.lines() {
        if let Some(sent) = line.strip_prefix("-> ") {
            cases.push(Case {
                title: format!("{title}: {sent}"),
                bytes: escapes::unescape(sent),
                answers: Vec::new(),
            });
        } else if let Some(answer) = line.strip_prefix("<- ") {
            let case = cases.last_mut().expect("something is sent first");
            let answer = serde_json::from_str(answer);
            case.answers.push(answer.expect("answers are JSON"));
        } else if let Some(next) = line.strip_prefix("== ") {
            title = next;
        } else {
            assert!(line.is_empty() || line.starts_with('#'), "{line}");
        }
    }
    assert!(cases.len() > 100, "the file is gone");
    cases
}

/// The answers without the two of [`END`]; `None` while they have not arrived.
pub(crate) fn before_end(mut answers: Vec<Value>) -> Option<Vec<Value>> {
    if answers.last()?["id"] != "end" {
        return None;
    }
    answers.pop();
    let reset = answers.pop()?;
    let desc = reset["error"]["desc"].as_str()?;
    assert!(desc.ends_with("\u{FFFD}'"), "{desc}");
    Some(answers)
}
