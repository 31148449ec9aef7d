// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tool against real QEMUs, and a few scripted servers: what it prints, and how
//! it ends.
#![cfg(all(feature = "cli", feature = "spice"))]

#[path = "../common/mod.rs"]
mod common;
mod devices;
mod drives;
mod hmp;
mod jobs;
mod leaving;
mod limits;
mod machine;
mod many;
mod reconnecting;
mod record;
mod schema;
mod server;
mod shell;
mod shell_parts;
mod shell_reconnecting;
mod snapshots;
mod startup;
mod terminal;
mod text;
mod tmux;
mod tool;
mod waiting;

use std::fs;
use std::io::{Read, Write};
use std::process::{Child, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::qemu::{Config, Mode, Program, Qemu};
use serde_json::{Value, json};
use tool::{LIMIT, Tool, assert_has, command, run, wait};

fn unix(qemu: &Qemu) -> String {
    format!("unix:{}", qemu.qmp_socket().display())
}

fn run_state(qemu: &Qemu) -> Value {
    let status = qemu.monitor().execute("query-status", None);
    status.expect("query-status")["status"].take()
}

/// Runs a test with each QEMU, over SPICE and over a socket.
fn on_each(test: impl Fn(&Qemu, &str)) {
    on_each_of(Config::new, test);
}

fn on_each_of(config: impl Fn() -> Config, test: impl Fn(&Qemu, &str)) {
    for program in Program::all() {
        let qemu = config().start(&program);
        test(&qemu, &qemu.spice_uri());
        let qemu = config().start(&program);
        test(&qemu, &unix(&qemu));
    }
}

#[test]
fn status_as_text_and_json() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for address in [qemu.spice_uri(), unix(&qemu)] {
            let text = run(&address, &["status"]).ok();
            assert_has(&text, "state    prelaunch\nrunning  no\n");
            assert_has(&text, &format!("QEMU     {}", program.version()));
            assert!(!text.contains('\x1b'), "colours in a pipe: {text:?}");

            let status = run(&address, &["--json", "status"]).ok_json();
            assert_eq!(status["status"], "prelaunch");
            assert_eq!(status["running"], false);
            assert_eq!(status["qemu"], program.version());
            assert!(status.get("package").is_some());
            let says = program.major() < 9;
            assert_eq!(status.get("singlestep").is_some(), says, "{status}");
        }
    }
}

#[test]
fn the_power_menu() {
    on_each(|qemu, address| {
        assert_eq!(run(address, &["resume"]).ok(), "Resumed.\n");
        assert_eq!(run_state(qemu), "running");
        assert_eq!(run(address, &["pause"]).ok(), "Paused.\n");
        assert_eq!(run_state(qemu), "paused");
        assert_eq!(run(address, &["resume", "--json"]).ok_json(), json!({}));
        assert_eq!(run(address, &["reset"]).ok(), "Reset.\n");
        assert_has(&run(address, &["powerdown"]).ok(), "asked to power down");
        assert_eq!(run(address, &["nmi"]).ok(), "Interrupt sent.\n");
        let awake = run(address, &["wakeup"]).failed(1);
        assert_has(&awake, "system_wakeup: Unable to wake up");
        assert_eq!(run_state(qemu), "running");
    });
}

#[test]
fn quit_ends_qemu() {
    for program in Program::all() {
        for spice in [true, false] {
            let mut qemu = Config::new().start(&program);
            let address = if spice { qemu.spice_uri() } else { unix(&qemu) };
            assert_eq!(run(&address, &["quit"]).ok(), "QEMU ends.\n");
            let exit = qemu.wait_exit(LIMIT).expect("QEMU ended");
            assert!(exit.success(), "{exit}: {}", qemu.stderr());
        }
    }
}

/// QEMU crashes if a SPICE client disconnects at the wrong moment.
#[test]
fn qemu_outlives_many_short_sessions() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for _ in 0..15 {
            run(&qemu.spice_uri(), &["resume"]).ok();
            run(&qemu.spice_uri(), &["pause"]).ok();
        }
        assert_eq!(run_state(&qemu), "paused");
    }
}

#[test]
fn exec_takes_pairs_and_json() {
    on_each(|_, address| {
        let version = run(address, &["exec", "query-version"]).ok_json();
        assert!(version["qemu"]["major"].is_u64(), "{version}");

        let add = [
            "exec",
            "object-add",
            "qom-type=memory-backend-ram",
            "id=\"ram\"",
            "size=1048576",
        ];
        assert_eq!(run(address, &add).ok_json(), json!({}));
        let get = r#"{"path": "/objects/ram", "property": "size"}"#;
        let size = run(address, &["exec", "qom-get", get]).ok_json();
        assert_eq!(size, 1_048_576);

        let nested = [
            "exec",
            "blockdev-add",
            "driver=null-co",
            "node-name=disk",
            "cache.direct=true",
        ];
        run(address, &nested).ok();
        let nodes = run(address, &["exec", "query-named-block-nodes"]).ok_json();
        assert_eq!(nodes[0]["cache"]["direct"], true, "{nodes}");
    });
}

#[test]
fn exec_tells_what_qemu_refuses() {
    on_each(|_, address| {
        let text = run(address, &["exec", "device_del", "id=gone"]).failed(1);
        assert_eq!(
            text,
            "spice-qmp: error: device_del: Device 'gone' not found\n"
        );
        let error = run(address, &["exec", "--json", "device_del", "id=gone"]).failed_json(1);
        assert_eq!(
            error,
            json!({
                "kind": "qmp",
                "class": "DeviceNotFound",
                "message": "device_del: Device 'gone' not found",
            })
        );
        let text = run(address, &["exec", "no-such-command"]).failed(1);
        assert_has(&text, "The command no-such-command has not been found");
        assert_has(&text, "spice-qmp commands lists");
        let text = run(address, &["exec", "device_del", "id=1"]).failed(1);
        assert_has(&text, "hint: a text that reads as JSON needs quotes");
        let text = run(address, &["exec", "no command"]).failed(2);
        assert_has(&text, "is not a command's name");
    });
}

#[test]
fn a_server_without_a_qmp_port() {
    for program in Program::all() {
        let qemu = Config::new().no_ports().start(&program);
        let text = run(&qemu.spice_uri(), &["status"]).failed(3);
        assert_has(&text, "offers no QMP port");
        assert_has(&text, "-chardev spiceport,");
        let error = run(&qemu.spice_uri(), &["status", "--json"]).failed_json(3);
        assert_eq!(error["kind"], "connection");

        let monitor = "org.qemu.monitor.hmp.0";
        let qemu = Config::new().port(monitor, Mode::Readline).start(&program);
        let text = run(&qemu.spice_uri(), &["status"]).failed(3);
        assert_has(&text, "only a human monitor (org.qemu.monitor.hmp.0)");
    }
}

#[test]
fn passwords() {
    for program in Program::all() {
        let qemu = Config::new().spice_tcp_password("geheim").start(&program);
        let address = qemu.spice_uri();
        let file = |name: &str, text: &str| {
            let path = qemu.dir().join(name);
            fs::write(&path, text).expect("a file");
            path.display().to_string()
        };
        let (right, wrong) = (
            file("right", "geheim\r\nmore\n"),
            file("wrong", "falsches\n"),
        );
        let env = |secret| {
            Tool::start_with(&address, &["status"], &[("SPICE_QMP_PASSWORD", secret)]).end()
        };

        let none = run(&address, &["status"]).failed(3);
        assert_has(&none, "refused the login");
        assert_has(&none, "--password-file FILE or in SPICE_QMP_PASSWORD");

        run(&address, &["status", "--password-file", &right]).ok();
        env("geheim").ok();
        let ports = run(&address, &["--password-file", &right, "ports"]).ok();
        assert_eq!(ports, "org.qemu.monitor.qmp.0  QMP\n");

        let by_file = run(&address, &["status", "--password-file", &wrong]).failed(3);
        assert_has(&by_file, &format!("from --password-file {wrong} is not"));
        let by_env = env("falsches").failed(3);
        assert_has(&by_env, "from SPICE_QMP_PASSWORD is not");
        assert!(!format!("{none}{by_file}{by_env}").contains("falsches"));

        let gone = run(&address, &["status", "--password-file", "/no/such"]).failed(2);
        assert_has(&gone, "/no/such");
    }
}

/// Neither the log, with all messages of GLib and spice-gtk, nor an error, nor
/// the command line of the tool contains a secret.
#[test]
fn secrets_do_not_show() {
    const TICKET: &str = "Ticket-0815";
    const SECRET: &str = "Geheim-4711";
    let program = Program::system();
    let qemu = Config::new().spice_tcp_password(TICKET).start(&program);
    let address = qemu.spice_uri();
    let file = qemu.dir().join("ticket");
    fs::write(&file, TICKET).expect("a file");
    let file = file.display().to_string();
    let log = [("G_MESSAGES_DEBUG", "all")];

    let watch = Tool::start_with(&address, &["watch", "--password-file", &file], &log);
    watch.line();
    let id = watch.child.id();
    let command_line = fs::read_to_string(format!("/proc/{id}/cmdline")).expect("/proc");
    assert_has(&command_line, "--password-file");
    qemu.monitor().execute("quit", None).expect("quit");
    let watch = watch.end();
    let mut seen = vec![command_line, watch.stdout, watch.stderr];

    let qemu = Config::new().start(&program);
    let address = unix(&qemu);
    for (command, arguments, code) in [
        (
            "object-add",
            json!({"qom-type": "secret", "id": "s", "data": SECRET}),
            0,
        ),
        (
            "object-add",
            json!({"qom-type": "secret", "id": "s", "data": SECRET}),
            1,
        ),
        (
            "set_password",
            json!({"protocol": "vnc", "password": SECRET}),
            1,
        ),
        (
            "set_password",
            json!({"protocol": SECRET, "password": SECRET}),
            1,
        ),
        ("change-vnc-password", json!({"password": [SECRET]}), 1),
        (
            "human-monitor-command",
            json!({"command-line": format!("set_password x {SECRET}")}),
            0,
        ),
        ("set_password", json!(SECRET), 2),
        ("set_password", json!([SECRET]), 2),
    ] {
        let mut tool = command_with_input(&address, &["exec", command, "-"], &arguments);
        let code_and_output = (
            wait(&mut tool),
            tool.wait_with_output().expect("an own child"),
        );
        let (ended, output) = code_and_output;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8(text).expect("text");
        assert_eq!(ended, Some(code), "{command} {arguments}: {text}");
        if code < 2 {
            assert_has(&text, &format!("-> {command} "));
            assert_has(&text, "***");
        }
        seen.push(text);
    }
    let typed = run(&address, &["exec", "set_password", SECRET]).failed(2);
    seen.push(typed);
    for text in seen {
        for secret in [TICKET, SECRET] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

/// The tool with all log messages enabled, and its standard input.
fn command_with_input(address: &str, args: &[&str], input: &Value) -> Child {
    let mut child = command(address, args)
        .env("G_MESSAGES_DEBUG", "all")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the tool runs");
    let mut stdin = child.stdin.take().expect("a pipe");
    write!(stdin, "{input}").expect("it reads");
    child
}

#[test]
fn unreachable_servers() {
    for (address, hint) in [
        ("unix:/no/such", "is QEMU running with -qmp unix:/no/such,"),
        (
            "tcp:127.0.0.1:1",
            "is QEMU running with -qmp tcp:127.0.0.1:1,",
        ),
        ("spice://127.0.0.1:1", "is QEMU running with -spice"),
        (
            "spice+unix:///no/such",
            "is QEMU running with -spice unix=on,addr=/no/such",
        ),
    ] {
        let text = run(address, &["status"]).failed(3);
        assert_has(&text, "cannot connect");
        assert_has(&text, hint);
        assert!(!text.contains("GSpice"), "{text}");
    }
}

#[test]
fn addresses_of_the_wrong_kind() {
    let qemu = Config::new().start(&Program::system());
    let path = qemu.qmp_socket().display().to_string();
    let text = run(&format!("spice+unix://{path}"), &["status"]).failed(3);
    assert_has(&text, &format!("use unix:{path}"));

    let uri = qemu.spice_uri();
    let path = uri.strip_prefix("spice+unix://").expect("a Unix socket");
    let text = run(&format!("unix:{path}"), &["--timeout", "0.5", "status"]).failed(4);
    assert_has(&text, &format!("use {uri}"));
}

#[test]
fn a_stopped_qemu_does_not_block_the_tool() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        qemu.stop();
        for address in [qemu.spice_uri(), unix(&qemu)] {
            let ended = run(&address, &["--timeout", "0.7", "status"]);
            let took = ended.took;
            assert_has(&ended.failed(4), "no answer within 700 ms");
            assert!(took < Duration::from_secs(3), "{took:?}");
        }
        let error = run(&unix(&qemu), &["--timeout", "0.3", "--json", "status"]).failed_json(4);
        assert_eq!(error["kind"], "timeout");
    }
}

#[test]
fn wrong_command_lines() {
    let wrong = |address: &str, args: &[&str], part: &str| {
        assert_has(&run(address, args).failed(2), part);
    };
    wrong("", &["status"], "give --connect ADDRESS");
    wrong("", &["status"], "SPICE_QMP_ADDRESS");
    wrong("/run/qmp.sock", &["status"], "use unix:/run/qmp.sock");
    wrong("localhost:99", &["status"], "spice://localhost:99");
    wrong("unix:", &["status"], "unix:/path");
    wrong("unix:/no/such", &["no-such-command"], "no-such-command");
    wrong("unix:/no/such", &["status", "--timeout", "0"], "--timeout");
    wrong("unix:/no/such", &["exec", "stop", "word"], "key=value");
    wrong("unix:/no/such", &["exec", "stop", "{"], "JSON object");
    wrong("unix:/no/such", &["events", "--count", "0"], "--count");
    wrong(
        "unix:/no/such",
        &["ports"],
        "only those have ports with names",
    );
    wrong(
        "unix:/no/such",
        &["--password-file", "x", "status"],
        "--password-file is for SPICE",
    );
    let secret = "spice://localhost:5900?password=geheim";
    let text = run(secret, &["status"]).failed(2);
    assert!(!text.contains("geheim"), "{text}");
    let error = run("", &["status", "--json", "--no-such"]).failed_json(2);
    assert_eq!(error["kind"], "usage");
    assert_has(error["message"].as_str().expect("a text"), "--no-such");
}

#[test]
fn help_tells_the_exit_codes() {
    let help = run("", &["--help"]).ok();
    for part in [
        "Exit codes:",
        "SPICE_QMP_PASSWORD",
        "spice+unix:///",
        "timeout",
    ] {
        assert_has(&help, part);
    }
    assert_has(&run("", &["--version"]).ok(), env!("CARGO_PKG_VERSION"));
}

#[test]
fn events_are_printed_as_lines_until_the_count() {
    on_each(|qemu, address| {
        let tool = Tool::start(address, &["events", "--count", "2", "stop"]);
        let mut monitor = qemu.monitor();
        let mut pause = || {
            // Until the tool listens.
            let deadline = Instant::now() + LIMIT;
            loop {
                monitor.execute("cont", None).expect("cont");
                monitor.execute("stop", None).expect("stop");
                if let Some(line) = tool.line_within(Duration::from_millis(300)) {
                    return line;
                }
                assert!(Instant::now() < deadline, "no event came");
            }
        };
        let line = pause();
        let event: Value = serde_json::from_str(&line).expect(&line);
        assert_eq!(event["event"], "STOP");
        assert!(event.get("data").is_none(), "{line}");
        assert!(event["timestamp"]["seconds"].is_u64(), "{line}");
        pause();
        tool.end().ok();
        let status = monitor.execute("query-status", None).expect("an answer");
        assert_eq!(status["status"], "paused");
    });
}

#[test]
fn events_end_with_qemu() {
    on_each(|qemu, address| {
        let tool = Tool::start(address, &["events", "--count", "3", "SHUTDOWN"]);
        let all = (!address.starts_with("unix:")).then(|| Tool::start(&unix(qemu), &["events"]));
        // Both are connected when they have seen an event; SHUTDOWN comes only once.
        thread::sleep(Duration::from_millis(700));
        let _ = qemu.monitor().execute("quit", None);
        let shutdown = tool.line();
        assert_has(&shutdown, r#""event":"SHUTDOWN""#);
        assert_has(&tool.end().failed(3), "after 1 of 3 events");
        if let Some(all) = all {
            assert_has(&all.end().ok(), r#""event":"SHUTDOWN""#);
        }
    });
}

#[test]
fn watch_prints_each_state_until_qemu_exits() {
    on_each(|qemu, address| {
        let tool = Tool::start(address, &["watch", "--json"]);
        let state = || {
            let line = tool.line();
            let status: Value = serde_json::from_str(&line).expect(&line);
            assert!(status["time"].is_string(), "{line}");
            (status["status"].clone(), status["running"].clone())
        };
        assert_eq!(state(), (json!("prelaunch"), json!(false)));
        let mut monitor = qemu.monitor();
        monitor.execute("cont", None).expect("cont");
        assert_eq!(state(), (json!("running"), json!(true)));
        monitor.execute("stop", None).expect("stop");
        assert_eq!(state(), (json!("paused"), json!(false)));
        monitor.execute("quit", None).expect("quit");
        let ended = tool.end();
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    });
}

#[test]
fn watch_tells_a_lost_connection() {
    for program in Program::all() {
        for spice in [true, false] {
            let mut qemu = Config::new().start(&program);
            let address = if spice { qemu.spice_uri() } else { unix(&qemu) };
            let tool = Tool::start(&address, &["watch"]);
            assert_has(&tool.line(), "  prelaunch");
            qemu.kill();
            assert_has(&tool.end().failed(3), "the machine was not shut down");
        }
    }
}

#[test]
fn ports_and_what_they_speak() {
    for program in Program::all() {
        let qemu = Config::new()
            .port("org.qemu.monitor.qmp.0", Mode::Control)
            .port("org.qemu.monitor.hmp.0", Mode::Readline)
            .port("com.example", Mode::Readline)
            .start(&program);
        assert_eq!(
            run(&qemu.spice_uri(), &["ports"]).ok(),
            "com.example             -\n\
             org.qemu.monitor.hmp.0  human monitor\n\
             org.qemu.monitor.qmp.0  QMP\n"
        );
        assert_eq!(
            run(&qemu.spice_uri(), &["ports", "--json"]).ok_json(),
            json!([
                {"name": "com.example", "qmp": false},
                {"name": "org.qemu.monitor.hmp.0", "qmp": false},
                {"name": "org.qemu.monitor.qmp.0", "qmp": true},
            ])
        );
    }
}

#[test]
fn a_closed_output_ends_it_quietly() {
    on_each(|_, address| {
        for args in [&["status"][..], &["exec", "query-qmp-schema"], &["watch"]] {
            let mut child = command(address, args)
                .stdout(Stdio::piped())
                .spawn()
                .expect("the tool runs");
            drop(child.stdout.take());
            let mut stderr = child.stderr.take().expect("a pipe");
            assert_eq!(wait(&mut child), Some(0));
            let mut text = String::new();
            stderr.read_to_string(&mut text).expect("text");
            assert_eq!(text, "");
        }
    });
}
