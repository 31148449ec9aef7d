// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shell: in a terminal, by sending keys, and running scripts.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::process::Stdio;

use serde_json::json;

use crate::common::qemu::{Config, Program};
use crate::server::{CLOSE, GREETING, REPEAT, Server};
use crate::tmux::Terminal;
use crate::tool::{Ended, Tool, assert_has, command};
use crate::{on_each, on_each_of, unix};

/// A machine with two devices that have names.
fn with_devices() -> Config {
    ["virtio-scsi-pci,id=scsi0", "virtio-rng-pci,id=random0"]
        .into_iter()
        .fold(Config::new(), |config, device| {
            config.arg("-device").arg(device)
        })
}

#[test]
fn a_person_types_commands() {
    on_each_of(with_devices, |_, address| {
        let terminal = Terminal::shell(address);
        let screen = terminal.wait_last("(qmp)");
        assert_has(&screen, ".help explains");

        // Names of commands and arguments, values, and ids of existing objects.
        terminal.type_text("query-stat");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) query-stat");
        terminal.press(&["Tab"]);
        terminal.wait_text("query-stats-schemas");
        terminal.enter("us");
        terminal.wait_text("\"status\": \"prelaunch\"");
        terminal.type_text("device_d");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) device_del");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) device_del id=");
        terminal.press(&["Tab"]);
        terminal.press(&["Tab"]);
        terminal.wait(|screen| {
            screen
                .lines()
                .any(|it| it.contains("random0") && it.contains("scsi0"))
        });
        terminal.type_text("r");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) device_del id=random0");
        terminal.press(&["C-u"]);
        terminal.type_text("blockdev-add driver=null-c");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) blockdev-add driver=null-co");
        terminal.type_text("node-name=n0 read-z");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) blockdev-add driver=null-co node-name=n0 read-zeroes=");
        terminal.type_text("t");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) blockdev-add driver=null-co node-name=n0 read-zeroes=true");
        terminal.type_text("cache.di");
        terminal.press(&["Tab"]);
        terminal.enter("false");
        terminal.wait_last("(qmp)");
        terminal.enter("blockdev-del {\"node-name\": \"n0\"}");
        terminal.wait(|screen| screen.contains("\"n0\"}\n{}\n(qmp)\n"));

        // The previous line; errors; the human monitor; help.
        terminal.press(&["Up"]);
        terminal.press(&["Enter"]);
        terminal
            .wait_text("spice-qmp: error: blockdev-del: Failed to find node with node-name='n0'");
        terminal.enter("query-nam");
        terminal.wait_text("hint: did you mean query-name?");
        terminal.enter("device_del id='");
        terminal.wait_text("error: a quote is not closed");
        terminal.enter("hmp info status");
        terminal.wait_text("\nVM status: paused (prelaunch)\n");
        terminal.enter(".help device_del");
        terminal.wait_text("\n  id  str\n");
        terminal.enter(".commands snapshot-sa");
        terminal.wait_text("\nsnapshot-save  job-id tag vmstate devices\n");
        terminal.press(&["C-d"]);
        terminal.ended(0);
    });
}

/// Keys typed while a command is executed are not lost, nor are pasted lines.
#[test]
fn lines_that_are_typed_ahead() {
    let qemu = Config::new().start(&Program::system());
    let terminal = Terminal::shell(&unix(&qemu));
    terminal.wait_last("(qmp)");
    for id in 1..=5 {
        terminal.enter(&format!(
            "object-add qom-type=memory-backend-ram id=r{id} size=4096"
        ));
    }
    let lines: Vec<_> = (6..=9)
        .map(|id| format!("object-add qom-type=memory-backend-ram id=r{id} size=4096\r"))
        .collect();
    terminal.type_text(&lines.concat());
    terminal.enter(".quit");
    terminal.ended(0);
    let path = Some(json!({"path": "/objects"}));
    let objects = qemu.monitor().execute("qom-list", path).expect("a list");
    let objects = objects.to_string();
    for id in 1..=9 {
        assert!(
            objects.contains(&format!("\"r{id}\"")),
            "r{id} in {objects}"
        );
    }
}

/// The line that is being typed stays.
#[test]
fn events_come_above_the_line() {
    on_each(|qemu, address| {
        let terminal = Terminal::shell(address);
        terminal.wait_last("(qmp)");
        terminal.type_text("query-na");
        terminal.wait_last("(qmp) query-na");
        let mut monitor = qemu.monitor();
        monitor.execute("cont", None).expect("cont");
        let screen = terminal.wait_text("\nRESUME\n");
        assert!(!screen.contains("query-na\nRESUME"), "{screen}");
        terminal.wait_last("(qmp) query-na");
        terminal.enter("me");
        terminal.wait(|screen| screen.contains("query-name\n{}\n(qmp)\n"));
        terminal.enter("stop");
        terminal.wait_text("\nSTOP\n");
        assert_has(&terminal.raw(), "\x1b[2mSTOP\x1b[0m");
        terminal.enter(".quit");
        terminal.ended(0);
    });
}

/// However the shell ends, the terminal is as it was.
#[test]
fn every_end_is_clean() {
    for program in Program::all() {
        for spice in [false, true] {
            let start = || {
                let qemu = Config::new().start(&program);
                let address = if spice { qemu.spice_uri() } else { unix(&qemu) };
                let terminal = Terminal::shell(&address);
                terminal.wait_last("(qmp)");
                (qemu, terminal)
            };
            let (_qemu, terminal) = start();
            terminal.type_text("half a line");
            terminal.press(&["C-c"]);
            terminal.wait_text("note: Ctrl+D, or Ctrl+C again, leaves the shell");
            terminal.wait_last("(qmp)");
            terminal.enter("query-name");
            terminal.wait_text("\n{}\n");
            terminal.press(&["C-c"]);
            terminal.wait(|screen| {
                let noted = screen.matches("leaves the shell\n").count() == 2;
                noted && screen.trim_end().ends_with("\n(qmp)")
            });
            terminal.press(&["C-c"]);
            terminal.ended(130);

            let (_qemu, terminal) = start();
            terminal.enter("quit");
            let screen = terminal.ended(0);
            assert_has(&screen, "(qmp) quit\n");
            assert_has(
                &screen,
                "SHUTDOWN {\"guest\":false,\"reason\":\"host-qmp-quit\"}\n",
            );
            assert_has(&screen, "\nspice-qmp: note: QEMU has ended\n");

            let (qemu, terminal) = start();
            qemu.monitor().execute("quit", None).expect("quit");
            assert_has(&terminal.ended(0), "\nspice-qmp: note: QEMU has ended\n");

            let (mut qemu, terminal) = start();
            terminal.type_text("half a line");
            terminal.wait_last("(qmp) half a line");
            qemu.kill();
            assert_has(&terminal.ended(3), "(and the machine was not shut down)\n");

            for (signal, code) in [("TERM", 143), ("HUP", 129)] {
                let (_qemu, terminal) = start();
                terminal.type_text("half a line");
                terminal.wait_last("(qmp) half a line");
                terminal.signal_tool(signal);
                terminal.ended(code);
            }
            // As the key does.
            let (_qemu, terminal) = start();
            terminal.signal_tool("INT");
            terminal.wait_text("or Ctrl+C again, leaves the shell");
            terminal.wait_last("(qmp)");
            terminal.signal_tool("INT");
            terminal.ended(130);
        }
    }
}

/// A server that disconnects while the first line is about to be edited.
#[test]
fn a_connection_that_ends_at_once() {
    let server = Server::start(GREETING, |command| match command {
        "query-status" => vec![
            r#"{"return":{"status":"running","running":true},"id":$ID}"#.into(),
            CLOSE.into(),
        ],
        _ => Vec::new(),
    });
    for _ in 0..10 {
        let terminal = Terminal::shell(&server.address());
        let screen = terminal.wait_text("\nterminal shown\n");
        assert!(
            !screen.contains("-icanon") && !screen.contains("-echo"),
            "{screen}"
        );
    }
}

#[test]
fn the_history_has_no_secrets() {
    let qemu = Config::new().start(&Program::system());
    let terminal = Terminal::shell(&unix(&qemu));
    terminal.wait_last("(qmp)");
    for line in [
        "query-name",
        "object-add qom-type=secret id=s data=geheim",
        "hmp info status",
        "hmp set_password vnc geheim",
        " query-uuid",
        "set_password {\"password\": \"geheim\"",
    ] {
        terminal.enter(line);
        terminal.wait(|screen| {
            let after = screen.rsplit(line.trim()).next().unwrap_or_default();
            after.trim_end().ends_with("\n(qmp)")
        });
    }
    terminal.press(&["C-d"]);
    terminal.ended(0);
    let file = fs::read_to_string(terminal.history()).expect("a history");
    assert_eq!(file, "query-name\nhmp info status\n");
    let mode = fs::metadata(terminal.history())
        .expect("a file")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

/// Ctrl+C stops waiting for an answer that does not come.
#[test]
fn a_server_that_does_not_answer() {
    let server = Server::start(GREETING, |command| match command {
        "query-status" => vec![r#"{"return":{"status":"running","running":true},"id":$ID}"#.into()],
        "slow" => vec![r#"{"event":"SLOW","timestamp":{"seconds":1,"microseconds":1}}"#.into()],
        _ => Vec::new(),
    });
    let terminal = Terminal::shell(&server.address());
    terminal.wait_last("(qmp)");
    terminal.enter("slow");
    terminal.wait_text("\nSLOW\n");
    terminal.press(&["C-c"]);
    terminal.wait_text("note: QEMU is still executing slow");
    terminal.wait_last("(qmp)");
    terminal.enter("fast");
    terminal.wait(|screen| screen.contains("fast\n{}\n(qmp)\n"));
    terminal.press(&["C-d"]);
    terminal.ended(0);
}

const HOSTILE: &str =
    r"\u001b]0;PWNED\u0007\u001b[2J\u009b2J\r\nspice-qmp: all is well\u0085\u2028\u202e\u0008";

/// Whatever a server sends, only the tool controls the terminal.
#[test]
fn a_server_acts_on_no_terminal() {
    let server = Server::start(
        concat!(
            r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""#,
            r"\u001b]0;PWNED\u0007",
            r#""},"capabilities":[]}}"#
        ),
        |command| {
            match command {
            "query-status" => vec![
                format!(r#"{{"return":{{"status":"running","running":true}},"id":$ID}}"#),
                format!(
                    r#"{REPEAT}{{"event":"E{HOSTILE}","data":{{"{HOSTILE}":"{HOSTILE}"}},"timestamp":{{"seconds":1,"microseconds":1}}}}"#
                ),
            ],
            "query-qmp-schema" => vec![format!(
                r#"{{"return":[
                {{"name":"evil{HOSTILE}","meta-type":"command","arg-type":"o","ret-type":"o"}},
                {{"name":"evil-value","meta-type":"command","arg-type":"o","ret-type":"o"}},
                {{"name":"evil-word","meta-type":"command","arg-type":"o","ret-type":"o"}},
                {{"name":"o","meta-type":"object","members":[{{"name":"key","type":"e"}},{{"name":"kez{HOSTILE}","type":"e"}}]}},
                {{"name":"e","meta-type":"enum","values":["a{HOSTILE}","b"]}}],"id":$ID}}"#
            )
            .replace('\n', "")],
            "query-name" => vec![format!(r#"{{"return":"{HOSTILE}","id":$ID}}"#)],
            // Its output consists of lines.
            "human-monitor-command" => {
                let text = HOSTILE.replace(r"\r\n", "");
                vec![format!(r#"{{"return":"{text}","id":$ID}}"#)]
            }
            "qmp_capabilities" => Vec::new(),
            _ => vec![format!(
                r#"{{"error":{{"class":"GenericError","desc":"{HOSTILE}"}},"id":$ID}}"#
            )],
        }
        },
    );
    let terminal = Terminal::shell(&server.address());
    terminal.wait_text("\nE\\x1b]0;PWNED");
    server.go_on();
    terminal.type_text("evil");
    terminal.press(&["Tab", "Tab"]);
    terminal.wait_text("evil-word");
    terminal.type_text("v");
    terminal.press(&["Tab", "Tab", "Tab"]);
    terminal.wait_text("(qmp) evil-value key=b");
    for line in [
        "",
        "query-name",
        "hmp x",
        "evil-word",
        ".help evil-word",
        ".commands",
        ".help x",
    ] {
        terminal.enter(line);
    }
    terminal.wait_text("QEMU has no command or event \"x\"");
    terminal.press(&["C-d"]);
    terminal.ended(0);
    let raw = terminal.raw();
    for part in [
        "\x1b]", "\x07", "\x1b[2J", "\u{9b}", "\u{85}", "\u{2028}", "\u{202e}",
    ] {
        assert!(!raw.contains(part), "{part:?} in {raw:?}");
    }
    assert!(!raw.contains("\nspice-qmp: all"), "{raw:?}");
    assert_has(&raw, "\\x1b]0;PWNED");
}

pub(crate) fn run_script(address: &str, args: &[&str], script: &str) -> Ended {
    let mut command = command(address, args);
    let mut tool = Tool::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
    let mut stdin = tool.child.stdin.take().expect("a pipe");
    // It may end before it has read everything.
    let _ = stdin.write_all(script.as_bytes());
    drop(stdin);
    tool.end()
}

#[test]
fn scripts() {
    on_each(|_, address| {
        let run = |script| run_script(address, &["shell"], script);
        let ended = run("# two commands\n\nquery-name\n  cont\nhmp info status\n");
        assert_eq!(ended.ok(), "{}\n{}\nVM status: running\n");
        let ended = run("{\"execute\": \"stop\"}\ndevice_del id='r 1'");
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert_has(&ended.stderr, "Device 'r 1' not found");
        assert_eq!(ended.stdout, "{}\n");
        assert_eq!(run("").ok(), "");
        assert_eq!(run("query-name\n.quit\nno-such\n").ok(), "{}\n");

        let ended = run("query-name\ndevice_del id=gone\nquery-name\n");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "{}\n"));
        assert_has(&ended.stderr, "error: device_del: Device 'gone' not found");
        let ended = run("query-name\ndevice_del gone\n");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(2), "{}\n"));
        assert_has(&ended.stderr, "argument 1 is not key=value");
        let ended = run_script(address, &["shell", "--json"], "query-name\nx\n");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), "{}\n"));
        assert_has(&ended.stderr, r#"{"error":{"class":"CommandNotFound","#);
        let ended = run("hmp no_such\n");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""));
        assert_has(&ended.stderr, "unknown command: 'no_such'");
    });
}

#[test]
fn a_script_that_ends_qemu() {
    for (script, code) in [("quit\n", 0), ("quit\nquery-name\n", 3)] {
        on_each(|_, address| {
            let ended = run_script(address, &["shell"], script);
            assert_eq!(
                (ended.code, ended.stdout.as_str()),
                (Some(code), "{}\n"),
                "{ended:?}"
            );
        });
    }
}

/// The author of a script need not check first.
#[test]
fn a_script_whose_connection_is_lost() {
    for program in Program::all() {
        let mut qemu = Config::new().start(&program);
        let mut command = command(&unix(&qemu), &["shell"]);
        let mut tool = Tool::spawn(command.stdin(Stdio::piped()).stdout(Stdio::piped()));
        let mut stdin = tool.child.stdin.take().expect("a pipe");
        stdin.write_all(b"query-name\n").expect("it reads");
        assert_eq!(tool.line(), "{}");
        qemu.kill();
        let ended = tool.end();
        assert_eq!(ended.code, Some(3));
        assert_has(&ended.stderr, "the machine was not shut down");
        drop(stdin);
    }
}
