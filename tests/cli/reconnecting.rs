// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--reconnect`: events and states continue after the connection has ended.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Stdio;

use rustix::process::Signal;
use tempfile::TempDir;

use crate::common::qemu::{Config, Program};
use crate::server::{CLOSE, GREETING, Server};
use crate::tool::{Tool, assert_has, command, run};

const REPLY: &str = r#"{"return":{"status":"running","running":true},"id":$ID}"#;
const EVENT: &str = r#"{"event":"E","timestamp":{"seconds":1,"microseconds":2}}"#;

/// Each connection has one event, and then ends.
fn short_connections() -> Server {
    Server::start(GREETING, |command| match command {
        "query-status" => vec![REPLY.into(), EVENT.into(), CLOSE.into()],
        _ => Vec::new(),
    })
}

#[test]
fn events_of_several_connections() {
    let server = short_connections();
    let args = ["--timeout", "15", "events", "--reconnect", "--count", "2"];
    let ended = run(&server.address(), &args);
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(ended.stdout, format!("{EVENT}\n{EVENT}\n"));
    assert_has(&ended.stderr, "; connecting again\n");
    assert_has(&ended.stderr, "note: connected again\n");
    // Without it, the first end is final.
    let args = ["--timeout", "15", "events", "--count", "5"];
    let ended = run(&server.address(), &args);
    assert_eq!(ended.code, Some(3), "{ended:?}");
}

#[test]
fn it_ends_in_time() {
    let server = short_connections();
    for command in ["events", "watch"] {
        let args = ["--timeout", "2", command, "--reconnect"];
        let ended = run(&server.address(), &args);
        assert_eq!(ended.code, Some(4), "{ended:?}");
    }
}

#[test]
fn an_inherited_socket_cannot_be_connected_again() {
    let (socket, _other) = UnixStream::pair().expect("sockets");
    let mut command = command("fd:0", &["events", "--reconnect"]);
    command
        .stdin(Stdio::from(OwnedFd::from(socket)))
        .stdout(Stdio::piped());
    let error = Tool::spawn(&mut command).end().failed(2);
    assert_has(&error, "--reconnect needs an address");
}

/// A machine that is killed, and restarted at the same address.
#[test]
fn states_of_several_machines() {
    for program in Program::all() {
        let folder = TempDir::new_in("/tmp").expect("a folder in /tmp");
        let socket = folder.path().join("qmp").display().to_string();
        let spice = folder.path().join("spice").display().to_string();
        let start = || {
            let monitor = format!("unix:{socket},server=on,wait=off");
            let config = Config::new().spice_unix(&spice).arg("-qmp").arg(monitor);
            config.start(&program)
        };
        for address in [format!("unix:{socket}"), format!("spice+unix://{spice}")] {
            let mut qemu = start();
            let mut tool = Tool::start(&address, &["watch", "--reconnect"]);
            assert_has(&tool.line(), "prelaunch");
            qemu.kill();
            tool.wait_error_line("; connecting again");
            let qemu = start();
            tool.wait_error_line("connected again");
            assert_has(&tool.line(), "prelaunch");
            qemu.monitor().execute("cont", None).expect("cont");
            assert_has(&tool.line(), "running");
            tool.signal(Signal::INT);
            assert_eq!(tool.end().code, Some(130));
        }
    }
}
