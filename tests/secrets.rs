// SPDX-License-Identifier: MIT OR Apache-2.0
//! Secrets that a program sends to QEMU reach QEMU and nothing else: no log, no error,
//! no debug output, whatever the server does with them.
#![cfg(feature = "spice")]

mod common;

use std::process::Command;

use common::main_loop::with_own_pushed;
use common::script::{self, Ends};
use serde_json::{Value, json};
use spice_qmp::qmp::{Band, Opening, Session};
use spice_qmp::{CallOptions, QmpPort};

/// Occurs in no other text.
const SECRET: &str = "Geheim-4711";

/// Commands with the secret in all places where it is known to occur.
const COMMANDS: [(&str, &str); 25] = [
    (
        "set_password",
        r#"{"protocol":"vnc","password":"Geheim-4711"}"#,
    ),
    (
        "set_password",
        r#"{"protocol":"vnc","pass\u0077ord":"Geheim-4711"}"#,
    ),
    (
        "set_password",
        r#"{"password":"Geheim-4711","password":"Geheim-4711"}"#,
    ),
    (
        "set_password",
        r#"{"PassWord":["Geheim-4711",{"x":"Geheim-4711"}]}"#,
    ),
    ("set_password", r#"{"password":"G\u0065heim-4711"}"#),
    ("change-vnc-password", r#"{"password":"Geheim-4711"}"#),
    (
        "change",
        r#"{"device":"vnc","target":"password","arg":"Geheim-4711"}"#,
    ),
    (
        "object-add",
        r#"{"qom-type":"secret","id":"s","data":"Geheim-4711"}"#,
    ),
    (
        "object-add",
        r#"{"qom-type":"secret","id":"s","props":{"data":"Geheim-4711"}}"#,
    ),
    (
        "qom-set",
        r#"{"path":"/objects/s","property":"data","value":"Geheim-4711"}"#,
    ),
    (
        "human-monitor-command",
        r#"{"command-line":"set_password vnc Geheim-4711"}"#,
    ),
    (
        "blockdev-add",
        r#"{"file":{"cookie":"a=Geheim-4711","key-secret":"s"}}"#,
    ),
    (
        "blockdev-add",
        r#"{"url":"https://user:Geheim-4711@example.org/disk"}"#,
    ),
    (
        "blockdev-add",
        r#"{"a":"json:{\"password\":\"Geheim-4711\"}"}"#,
    ),
    ("ringbuf-write", r#"{"device":"tty","data":"Geheim-4711"}"#),
    ("human-monitor-command", r#"{"command-line":"Geheim-4711"}"#),
    ("migrate", r#"{"uri":"exec:curl --user a:Geheim-4711 x"}"#),
    (
        "migrate-incoming",
        r#"{"channels":[{"channel-type":"main","addr":{"transport":"exec","args":["/bin/sh","-c","a=Geheim-4711"]}}]}"#,
    ),
    (
        "blockdev-add",
        r#"{"url":"https://s3.example.org/disk?X-Amz-Signature=Geheim-4711"}"#,
    ),
    (
        "blockdev-add",
        r#"{"a":"json:{\"url\":\"https://example.org/disk?sig=Geheim-4711\"}"}"#,
    ),
    (
        "device_add",
        r#"{"driver":"isa-applesmc","osk":"Geheim-4711"}"#,
    ),
    (
        "qom-set",
        r#"{"path":"/a","property":"osk","value":"Geheim-4711"}"#,
    ),
    (
        "send-key",
        r#"{"keys":[{"type":"qcode","data":"Geheim-4711"}]}"#,
    ),
    (
        "guest-set-user-password",
        r#"{"username":"a","crypted":false,"password":"Geheim-4711"}"#,
    ),
    (
        "sev-inject-launch-secret",
        r#"{"packet-header":"x","secret":"Geheim-4711"}"#,
    ),
];

/// Fails if a text contains the secret, as text or as a list of bytes.
#[track_caller]
fn assert_clean(text: &str) {
    let bytes = format!("{:?}", SECRET.as_bytes());
    for secret in [SECRET, bytes.trim_matches(['[', ']'])] {
        assert!(!text.contains(secret), "it is out: {text}");
    }
}

/// Executes the command; the server does the rest. Everything that the program sees of its
/// failure must be clean.
fn give(command: &str, arguments: &str, serve: impl FnOnce(&script::Server, &Value)) {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let ends = Ends::default();
        port.execute_with(command, Some(arguments), CallOptions::default(), {
            let ends = ends.clone();
            move |end| {
                ends.borrow_mut().push((String::new(), end));
            }
        });
        main.drain();
        let request = server.peer.received();
        let request: Value = serde_json::from_slice(&request).expect("a request");
        assert!(request.to_string().contains(SECRET), "QEMU gets it");
        serve(&server, &request["id"]);
        main.drain();
        let ends = ends.take();
        assert_eq!(ends.len(), 1, "{command}");
        if let (_, Err(error)) = &ends[0] {
            assert_clean(&format!("{error:?} {error}"));
            let error = glib::Error::from(error.clone());
            assert_clean(&format!("{error:?} {error}"));
        }
        check_port(&port);
    });
}

fn check_port(port: &QmpPort) {
    assert_clean(&format!("{port:?} {:?}", port.last_error()));
}

#[test]
fn whatever_the_server_answers() {
    for (command, arguments) in COMMANDS {
        give(command, arguments, |server, id| {
            server.line(&json!({ "return": {}, "id": id }).to_string());
        });
        // Echoes; a log may show their remaining text.
        let echo: Value = serde_json::from_str(arguments).unwrap();
        if command.ends_with("password") {
            give(command, arguments, |server, id| {
                server.event_with("ECHO", &echo);
                server.line(&json!({ "return": echo, "id": id }).to_string());
            });
        }
        give(command, arguments, |server, id| {
            server.line(&json!({ "return": SECRET, "id": id }).to_string());
        });
        for place in ["class", "desc"] {
            give(command, arguments, |server, id| {
                let mut error = json!({ "class": "GenericError", "desc": "no" });
                error[place] = format!("the value a={SECRET}: user:{SECRET}@").into();
                if command == "blockdev-add" {
                    // The whole text is hidden.
                    error[place] = echo.to_string().into();
                    let whole = ["cookie", "url", "a"].map(|name| &echo[name]);
                    let whole = whole.into_iter().chain([&echo["file"]["cookie"]]);
                    error[place] = whole.filter_map(Value::as_str).collect::<String>().into();
                }
                server.line(&json!({ "error": error, "id": id }).to_string());
            });
        }
        for line in [
            format!("{SECRET} what is this?"),
            format!("{{\"error\": \"{SECRET}\"}}"),
            format!("{{\"error\": {{\"class\": \"{SECRET}\"}}}}"),
            format!("{{\"event\": {{\"{SECRET}\": \"{SECRET}\"}}}}"),
            format!("{{\"return\": {SECRET}}}"),
            format!("{{\"{SECRET}\": 1}}"),
            format!("{{\"QMP\": \"{SECRET}\"}}"),
            format!("{{\"QMP\": {{\"version\": {{\"qemu\": \"{SECRET}\"}}}}}}"),
        ] {
            give(command, arguments, |server, _| server.line(&line));
        }
    }
}

#[test]
fn long_arguments_and_replies() {
    for length in (980..1010).step_by(3) {
        let fill = "x".repeat(length);
        let arguments = json!({ "a": fill, "password": SECRET }).to_string();
        give("set_password", &arguments, |server, id| {
            let reply = json!({ "a": fill, "password": SECRET });
            server.line(&json!({ "return": reply, "id": id }).to_string());
        });
    }
}

#[test]
fn what_cannot_be_sent() {
    with_own_pushed(|main| {
        let (port, _server) = script::ready(main);
        let line = format!("set_password vnc {SECRET}");
        let broken = format!(r#"{{"password":"{SECRET}""#);
        let text = format!("\"{SECRET}\"");
        for (command, arguments) in [
            (line.as_str(), None),
            ("set_password", Some(broken.as_str())),
            ("set_password", Some(&text)),
        ] {
            let ends = Ends::default();
            port.execute_with(command, arguments, CallOptions::default(), {
                let ends = ends.clone();
                move |end| {
                    ends.borrow_mut().push((String::new(), end));
                }
            });
            main.drain();
            let ends = ends.take();
            assert!(matches!(ends[..], [(_, Err(_))]));
            assert_clean(&format!("{ends:?} {}", ends[0].1.as_ref().unwrap_err()));
        }
        check_port(&port);
    });
}

#[test]
fn debug_output() {
    let mut session = Session::new(1);
    session.open(Opening::GreetingMayBeGone);
    assert!(session.poll_transmit().is_some());
    let mut input = &b"{\"return\": {}, \"id\": 1}\n"[..];
    while session.receive(&mut input).is_some() {}
    for (command, arguments) in COMMANDS {
        session.execute(command, Some(arguments), Band::In, ());
    }
    assert_clean(&format!("{session:?} {session:#?}"));
    assert!(session.poll_transmit().is_some());
    assert_clean(&format!("{session:?}"));

    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let call = port.execute::<Value>("set_password", json!({ "password": SECRET }));
        assert_clean(&format!("{call:?}"));
        // A reply that does not match the requested type.
        let call = main.spawn(port.execute::<u8>("set_password", json!({ "password": SECRET })));
        main.drain();
        server.answer("set_password", json!(SECRET));
        let error = main.join("the call", &call).unwrap_err();
        assert_clean(&format!("{error:?} {error}"));
    });
}

/// All of the above with logging enabled, into the captured output.
#[test]
fn the_log() {
    let output = Command::new(std::env::current_exe().expect("the test has a name"))
        .args(["--nocapture", "--test-threads=1", "--skip", "the_log"])
        .env("G_MESSAGES_DEBUG", "all")
        .output()
        .expect("the test runs");
    let log = [output.stdout, output.stderr].concat();
    let log = String::from_utf8_lossy(&log);
    assert!(output.status.success(), "{log}");
    assert!(
        log.contains(r#"-> set_password {"password":"***","protocol":"vnc"}"#),
        "it is on"
    );
    assert!(log.contains("<- event ECHO"), "it is on");
    for line in log.lines() {
        assert_clean(line);
    }
}
