// SPDX-License-Identifier: MIT OR Apache-2.0
//! `shell --reconnect`: a person goes on where the connection ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use tempfile::TempDir;

use crate::common::qemu::{Config, Program};
use crate::server::{CLOSE, GREETING, Server};
use crate::shell::run_script;
use crate::tmux::Terminal;
use crate::tool::assert_has;

const REPLY: &str = r#"{"return":{"status":"running","running":true},"id":$ID}"#;

/// QEMU is killed, and ends, while a line is being typed; one of another version is started
/// at the same address.
#[test]
fn a_machine_that_is_started_again() {
    for (first, second) in Program::all().iter().zip(Program::all().iter().rev()) {
        let folder = TempDir::new_in("/tmp").expect("a folder in /tmp");
        let socket = folder.path().join("qmp").display().to_string();
        let spice = folder.path().join("spice").display().to_string();
        let start = |program| {
            let monitor = format!("unix:{socket},server=on,wait=off");
            let config = Config::new().spice_unix(&spice).arg("-qmp").arg(monitor);
            config.start(program)
        };
        for address in [format!("unix:{socket}"), format!("spice+unix://{spice}")] {
            let mut qemu = start(first);
            let terminal = Terminal::shell_with(&address, "--reconnect");
            terminal.wait_last("(qmp)");
            terminal.enter("query-version");
            terminal.wait_text(&format!("\"major\": {}", first.major()));
            terminal.wait_last("(qmp)");
            terminal.type_text("query-na");
            terminal.wait_last("(qmp) query-na");
            qemu.kill();
            let screen = terminal.wait_text("; connecting again\n");
            assert_has(&screen, "spice-qmp: note: ");
            // Nothing is executed, or completed, meanwhile.
            terminal.wait_last("(qmp) query-na");
            terminal.press(&["Tab"]);
            terminal.enter("me");
            terminal.wait_text("error: there is no connection: nothing was sent");
            terminal.wait_last("(qmp)");

            let mut qemu = start(second);
            terminal.wait_text("note: connected again\n");
            terminal.press(&["Up", "Up", "Enter"]);
            terminal.wait_text(&format!("\"major\": {}", second.major()));
            terminal.type_text("query-stat");
            terminal.press(&["Tab", "Tab"]);
            terminal.wait_text("query-stats-schemas");
            terminal.enter("us");
            terminal.wait_text("\"status\": \"prelaunch\"");
            // One that ends is one that may be started again.
            terminal.enter("quit");
            terminal.wait(|screen| screen.matches("; connecting again\n").count() == 2);
            qemu.wait_exit(crate::LIMIT).expect("QEMU ends");
            terminal.press(&["C-d"]);
            terminal.ended(0);
        }
    }
}

/// A command that was not answered may have been executed.
#[test]
fn a_command_is_not_sent_again() {
    let count = Arc::<AtomicU32>::default();
    let counter = count.clone();
    let server = Server::start(GREETING, move |command| match command {
        "query-status" => vec![REPLY.into()],
        "lost" => {
            counter.fetch_add(1, Ordering::Relaxed);
            vec![CLOSE.into()]
        }
        _ => Vec::new(),
    });
    let terminal = Terminal::shell_with(&server.address(), "--reconnect");
    terminal.wait_last("(qmp)");
    terminal.enter("lost");
    terminal.wait_text("error: the QMP connection is closed");
    terminal.wait_text("hint: QEMU may have executed it, or not; it is not sent again");
    terminal.wait_text("note: connected again\n");
    terminal.enter("other");
    terminal.wait_text("(qmp) other\n{}\n");
    assert_eq!(count.load(Ordering::Relaxed), 1);
    terminal.press(&["C-d"]);
    terminal.ended(0);
}

/// A script was written for one machine.
#[test]
fn scripts_end() {
    let server = Server::start(GREETING, |command| match command {
        "query-status" => vec![REPLY.into()],
        _ => Vec::new(),
    });
    let error = run_script(&server.address(), &["shell", "--reconnect"], "stop\n").failed(2);
    assert_has(&error, "--reconnect is for a terminal");
}
