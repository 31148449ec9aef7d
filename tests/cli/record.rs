// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--record`: a transcript of the connection, without secrets.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::qemu::{Config, Program};
use crate::server::{CLOSE, GREETING, Server};
use crate::tool::{assert_has, run};
use crate::unix;

/// The lines of a transcript, as directions and messages.
#[track_caller]
fn lines(file: &Path) -> Vec<(String, Value)> {
    let text = fs::read_to_string(file).expect("a transcript");
    let line = |line: &str| {
        let mut line: Value = serde_json::from_str(line).expect(line);
        let time = line["time"].as_str().expect("a time");
        assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
        let direction = line["direction"].as_str().expect("a direction").to_owned();
        (direction, line["message"].take())
    };
    text.lines().map(line).collect()
}

#[test]
fn each_command_is_recorded() {
    for program in Program::all() {
        let config = Config::new().arg("-vga").arg("std");
        let qemu = config
            .arg("-usb")
            .arg("-device")
            .arg("usb-tablet,id=tablet")
            .start(&program);
        let file = qemu.dir().join("transcript");
        let path = file.display().to_string();
        let picture = qemu.dir().join("screen.png").display().to_string();
        for address in [unix(&qemu), qemu.spice_uri()] {
            let commands = [
                (&["status"][..], "query-status"),
                (&["resume"], "cont"),
                (&["exec", "query-name"], "query-name"),
                (&["hmp", "info kvm"], "human-monitor-command"),
                (&["wait", "STOP", "--", "stop"], "stop"),
                (&["--timeout", "2", "watch"], "query-status"),
                (&["unplug", "tablet"], "device_del"),
                (&["screenshot", &picture], "screendump"),
            ];
            for (args, command) in commands {
                if command == "screendump" && !address.starts_with("unix:") {
                    continue;
                }
                run(&address, &[&["--record", &path], args].concat());
                let lines = lines(&file);
                let has = |direction: &str, is: &dyn Fn(&Value) -> bool| {
                    lines
                        .iter()
                        .any(|(it, message)| it == direction && is(message))
                };
                assert!(has("sent", &|it| it["execute"] == command), "{lines:?}");
                assert!(has("received", &|it| it.get("return").is_some()));
                assert!(has("local", &|it| it["state"] == "ready"));
                if command == "stop" {
                    assert!(has("received", &|it| it["event"] == "STOP"), "{lines:?}");
                }
                fs::remove_file(&file).expect("a file");
            }
        }
    }
}

#[test]
fn it_is_private_and_appended_to() {
    let qemu = Config::new().start(&Program::system());
    let address = unix(&qemu);
    let file = qemu.dir().join("transcript");
    let path = file.display().to_string();
    run(&address, &["--record", &path, "status"]).ok();
    let first = fs::read_to_string(&file).expect("a file");
    assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
    fs::set_permissions(&file, Permissions::from_mode(0o644)).expect("an own file");
    run(&address, &["status", "--record", &path]).ok();
    assert_eq!(fs::metadata(&file).expect("a file").mode() & 0o777, 0o600);
    let both = fs::read_to_string(&file).expect("a file");
    assert!(both.starts_with(&first) && both.len() > first.len());
}

#[test]
fn files_of_other_users_are_not_written_to() {
    let folder = TempDir::new().expect("a folder");
    let link = folder.path().join("link");
    let target = folder.path().join("target");
    symlink(&target, &link).expect("a link");
    let link = link.display().to_string();
    // There was no connection.
    let error = run("unix:/no/such", &["--record", &link, "status"]).failed(2);
    assert_has(&error, &format!("--record {link}: it is a symbolic link"));
    assert!(!target.exists());
    let error = run("unix:/no/such", &["--record", "/dev/null", "status"]).failed(2);
    assert_has(&error, "it is not a regular file");
}

#[test]
fn secrets_and_controls_are_not_in_it() {
    const SECRET: &str = "Geheim-4711";
    let server = Server::start(GREETING, |command| {
        match command {
        "qmp_capabilities" | "query-status" => Vec::new(),
        "object-add" => vec![
            r#"{"event":"E","data":{"a":"\u009b\u202e","password":"Geheim-4711"},"timestamp":{"seconds":1,"microseconds":2}}"#.into(),
            r#"{"error":{"class":"GenericError","desc":"not 'Geheim-4711'\u2028"},"id":$ID}"#.into(),
        ],
        "human-monitor-command" => vec![r#"{"return":"Geheim-4711","id":$ID}"#.into()],
        _ => vec![r#"{"return":$ARGUMENTS,"id":$ID}"#.into(), CLOSE.into()],
    }
    });
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("transcript");
    let path = file.display().to_string();
    for args in [
        &["object-add", "qom-type=secret", "id=s", "data=Geheim-4711"][..],
        &[
            "human-monitor-command",
            "command-line=set_password vnc Geheim-4711",
        ],
        &["set_password", "password=Geheim-4711"],
    ] {
        run(
            &server.address(),
            &[&["--record", &path, "exec"], args].concat(),
        );
    }
    let text = fs::read_to_string(&file).expect("a file");
    assert!(!text.contains(SECRET), "{text}");
    let controls = |c: char| c.is_control() && c != '\n' || "\u{202e}\u{2028}".contains(c);
    assert!(!text.contains(controls), "{text:?}");
    let lines = lines(&file);
    let has = |direction: &str, message: Value| {
        assert!(lines.contains(&(direction.into(), message)), "{text}");
    };
    let arguments = json!({"data": "***", "id": "s", "qom-type": "secret"});
    has(
        "sent",
        json!({"execute": "object-add", "arguments": arguments}),
    );
    let data = json!({"a": "\u{9b}\u{202e}", "password": "***"});
    let timestamp = json!({"seconds": 1, "microseconds": 2});
    has(
        "received",
        json!({"event": "E", "data": data, "timestamp": timestamp}),
    );
    let error = json!({"class": "GenericError", "desc": "not '***'\u{2028}"});
    has("received", json!({ "error": error }));
    has("received", json!({"return": "***"}));
    has("received", json!({"return": {"password": "***"}}));
}
