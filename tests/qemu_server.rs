// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's own answers to the inputs of `tests/qmp_server.rs`.
#![cfg(feature = "spice")]

mod common;
mod served;

use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use common::qemu::{Config, Program};
use serde_json::Value;
use served::{END, before_end, cases};

#[test]
fn the_answers_are_those_of_qemu() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for case in cases() {
            let stream = UnixStream::connect(qemu.qmp_socket()).unwrap();
            stream
                .set_read_timeout(Some(Duration::from_secs(20)))
                .unwrap();
            (&stream).write_all(&[&case.bytes, END].concat()).unwrap();
            let lines = BufReader::new(&stream).lines();
            let mut answers: Vec<Value> = Vec::new();
            for line in lines.map(|line| line.expect("QEMU answers")) {
                let line: Value = serde_json::from_str(&line).unwrap();
                if line.get("QMP").is_some() {
                    continue;
                }
                let is_end = line["id"] == "end";
                answers.push(line);
                if is_end {
                    break;
                }
            }
            let answers = before_end(answers).expect("the end is answered");
            assert_eq!(answers, case.answers, "{}", case.title);
        }
    }
}
