// SPDX-License-Identifier: MIT OR Apache-2.0
//! `spice-qmp share`: many clients at once on one monitor of real QEMU.
#![cfg(all(feature = "spice", feature = "cli"))]

mod common;
mod sharing;

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use common::dbus::{Bus, with_monitor};
use common::qemu::{Config, Program, Qemu};
use rustix::process::Signal;
use serde_json::{Value, json};
use sharing::{Client, Shared};

/// Runs a test on each QEMU, whose monitor is shared: a SPICE port, a socket, and one on a
/// D-Bus display.
fn each(test: impl Fn(&Program, Qemu, Shared)) {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let shared = Shared::start(&qemu.spice_uri(), &[]);
        test(&program, qemu, shared);

        let qemu = Config::new().start(&program);
        let shared = Shared::start(&unix(&qemu), &[]);
        test(&program, qemu, shared);

        let bus = Bus::start();
        let config = with_monitor(bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
        let qemu = bus.start_qemu(config, &program);
        let shared = Shared::start(&format!("dbus:address={}", bus.address()), &[]);
        test(&program, qemu, shared);
    }
}

fn unix(qemu: &Qemu) -> String {
    format!("unix:{}", qemu.qmp_socket().display())
}

/// QEMU's answer contains the number.
fn print(number: u64) -> (Value, String) {
    let line = format!("print/d {number}");
    let arguments = json!({"command-line": line});
    (
        json!({"execute": "human-monitor-command", "arguments": arguments}),
        format!("{number}\r\n"),
    )
}

#[test]
fn each_client_gets_its_own_answers_and_all_events() {
    each(|program, mut qemu, shared| {
        let mut watcher = shared.client();
        let version = &watcher.greeting["QMP"]["version"]["qemu"];
        assert_eq!(version["major"], program.major());
        let clients = 6;
        thread::scope(|scope| {
            for client in 0..clients {
                let shared = &shared;
                scope.spawn(move || {
                    let mut connection = shared.client();
                    // All use the same ids.
                    for round in 0..20 {
                        let number = |at: u64| client * 1000 + round * 10 + at;
                        for at in 0..10 {
                            let (mut request, _) = print(number(at));
                            request["id"] = json!({"n": at});
                            connection.send(&request).unwrap();
                        }
                        for at in 0..10 {
                            let answer = connection.answer().unwrap();
                            let expected = json!({"return": print(number(at)).1, "id": {"n": at}});
                            assert_eq!(answer, expected);
                        }
                    }
                });
            }
            // The tool itself is a client, too.
            let address = format!("unix:{}", shared.path().display());
            let tool = || {
                let mut tool = Command::new(env!("CARGO_BIN_EXE_spice-qmp"));
                tool.args([
                    "--connect",
                    &address,
                    "--timeout",
                    "60",
                    "exec",
                    "query-version",
                ]);
                tool.output().unwrap()
            };
            for _ in 0..3 {
                let output = tool();
                assert!(output.status.success(), "{output:?}");
                let version: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert_eq!(version["qemu"]["major"], program.major());
            }
        });
        let mut other = shared.client();
        assert_eq!(other.execute("cont", &json!({}))["return"], json!({}));
        let [seen, also] = [&mut watcher, &mut other].map(|it| it.event("RESUME"));
        assert_eq!(seen, also);
        // A long reply arrives completely.
        let schema = other.execute("query-qmp-schema", &json!({}));
        assert!(schema["return"].as_array().unwrap().len() > 500);
        // The last one disconnects.
        other.send(&json!({"execute": "quit", "id": 1})).unwrap();
        let rest = other.rest();
        assert!(rest.contains(&json!({"return": {}, "id": 1})), "{rest:?}");
        let is_shutdown = |it: &Value| it["event"] == "SHUTDOWN";
        assert!(watcher.rest().iter().any(is_shutdown));
        assert_eq!(shared.end(), Some(0));
        assert!(qemu.wait_exit(sharing::LIMIT).unwrap().success());
    });
}

#[test]
fn those_who_misbehave_harm_nobody() {
    each(|_, qemu, shared| {
        let mut good = shared.client();
        let good_works = |good: &mut Client| {
            let answer = good.execute("human-monitor-command", &json!({"command-line": "print 7"}));
            assert_eq!(answer["return"], "0x7\r\n");
        };
        // One that sends requests without end, and reads nothing.
        let mut flood = shared.client();
        flood.stream().set_nonblocking(true).unwrap();
        let request = br#"{"execute":"query-qmp-schema"}"#.repeat(1000);
        let mut count = 0;
        for _ in 0..50 {
            count += flood.stream().write(&request).unwrap_or(0);
            good_works(&mut good);
        }
        assert!(count < 50 * request.len(), "it is held back");
        // Invalid bytes, each of which has a long answer.
        let mut wrong = shared.client();
        wrong.stream().set_nonblocking(true).unwrap();
        for _ in 0..50 {
            let _ = wrong.stream().write(&b"]".repeat(10_000));
            good_works(&mut good);
        }
        // Clients that die in the middle.
        for _ in 0..50 {
            let mut dies = shared.client();
            dies.send_bytes(br#"{"execute":"query-qmp-schema"}{"execute":"query-"#);
            drop(dies);
            good_works(&mut good);
        }
        // A request that is too long is answered, and the following ones are read.
        let mut long = shared.client();
        long.send_bytes(b"{\"execute\":\"").unwrap();
        long.send_bytes(&b"x".repeat(3 << 19)).unwrap();
        assert_eq!(
            long.answer().unwrap()["error"]["desc"],
            "JSON token size limit exceeded"
        );
        // The rest of it, and the byte that resets the server.
        long.send_bytes(b"\xFF").unwrap();
        for _ in 0..2 {
            assert!(long.answer().unwrap()["error"].is_object());
        }
        good_works(&mut long);
        drop((flood, wrong, long));
        good_works(&mut good);
        assert!(qemu.monitor().execute("query-status", None).is_ok());
        shared.signal(Signal::TERM);
        assert!(good.is_closed());
        assert_eq!(shared.end(), Some(143));
        assert!(qemu.monitor().execute("query-status", None).is_ok());
    });
}

#[test]
fn those_who_say_nothing_make_room() {
    let program = Program::system();
    let qemu = Config::new().start(&program);
    let shared = Shared::start(&unix(&qemu), &[]);
    let mut good = shared.client();
    let mute: Vec<_> = (0..100)
        .map(|_| UnixStream::connect(shared.path()).unwrap())
        .collect();
    // The first of them were disconnected for the last.
    let mut first = &mute[0];
    first.set_read_timeout(Some(sharing::LIMIT)).unwrap();
    let mut greeting = String::new();
    first.read_to_string(&mut greeting).unwrap();
    assert!(greeting.starts_with("{\"QMP\""));
    assert_eq!(good.execute("query-name", &json!({}))["return"], json!({}));
    assert_eq!(
        shared.client().execute("query-name", &json!({}))["return"],
        json!({})
    );
    // When all places are taken by clients that negotiated, one more is refused.
    drop(mute);
    let mut clients: Vec<_> = (0..63).map(|_| shared.client()).collect();
    assert!(Client::connect(&shared.path()).is_none());
    clients.pop();
    while Client::connect(&shared.path()).is_none() {
        thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn out_of_band_and_descriptors() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let shared = Shared::start(&unix(&qemu), &[]);
        let mode = shared.path().metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o7777, 0o600);
        let mut client = shared.client();
        assert_eq!(client.greeting["QMP"]["capabilities"], json!(["oob"]));
        client
            .send(&json!({"exec-oob": "migrate-pause", "id": "x"}))
            .unwrap();
        let answer = client.answer().unwrap();
        assert_eq!(answer["id"], "x");
        let desc = answer["error"]["desc"].as_str().unwrap();
        assert!(desc.contains("postcopy"), "{desc}");
        for command in ["getfd", "add-fd"] {
            let answer = client.execute(command, &json!({"fdname": "a"}));
            let desc = answer["error"]["desc"].as_str().unwrap();
            assert!(desc.contains("cannot be passed"), "{desc}");
        }
        // QEMU dies, and so do all connections.
        let mut qemu = qemu;
        qemu.kill();
        assert!(client.is_closed());
        assert_eq!(shared.end(), Some(3));
    }
}

#[test]
fn every_answer_of_qemu_is_passed_on_as_it_is() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let shared = Shared::start(&unix(&qemu), &[]);
        let (mut client, mut direct) = (shared.client(), qemu.monitor());
        let mut names = BTreeSet::new();
        let commands = direct.execute("query-commands", None).unwrap();
        for command in commands.as_array().unwrap() {
            let name = command["name"].as_str().unwrap();
            // Except those that change from call to call, or wait.
            let varies = [
                "query-stats",
                "query-rocker",
                "query-migrate",
                "query-balloon",
            ];
            if !name.starts_with("query-") || varies.iter().any(|it| name.starts_with(it)) {
                continue;
            }
            let passed = client.execute(name, &json!({}));
            let expected = match direct.execute(name, None) {
                Ok(value) => json!({"return": value, "id": name}),
                Err(error) => json!({"error": error, "id": name}),
            };
            if passed == expected {
                names.insert(name.to_owned());
            } else {
                let times = [
                    "query-jobs",
                    "query-block",
                    "query-chardev",
                    "query-iothreads",
                ];
                let differs = times.contains(&name) || name.contains("spice");
                assert!(differs, "{name}: {passed}, not {expected}");
            }
        }
        assert!(names.len() > 30, "{names:?}");
    }
}

#[test]
fn sockets_that_were_inherited() {
    let program = Program::system();
    let qemu = Config::new().start(&program);
    let tool = |stdin: OwnedFd, listen: &str| {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_spice-qmp"));
        let address = unix(&qemu);
        tool.args(["--json", "--connect", &address, "share", listen])
            .stdin(stdin)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        tool.spawn().unwrap()
    };
    let works = |mut client: Client| {
        client.negotiate().unwrap();
        assert_eq!(
            client.execute("query-name", &json!({}))["return"],
            json!({})
        );
    };
    // One client, with which the tool ends.
    let (near, far) = UnixStream::pair().unwrap();
    let child = tool(far.into(), "fd:0");
    works(Client::on(near).unwrap());
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert_eq!(output.stdout, b"{\"listening\":\"fd:0\"}\n");
    // Many, from a socket that another program created, and removes.
    let path = qemu.dir().join("listens");
    let listener = UnixListener::bind(&path).unwrap();
    let mut child = tool(listener.into(), "fd:0");
    for _ in 0..3 {
        works(Client::connect(&path).unwrap());
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(path.exists());
    // What is not a socket.
    for (stdin, listen) in [
        (File::open("/dev/null").unwrap().into(), "fd:0"),
        (File::open("/dev/null").unwrap().into(), "fd:99"),
    ] {
        let output = tool(stdin, listen).wait_with_output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    }
}

#[test]
fn where_nobody_can_listen() {
    let program = Program::system();
    let qemu = Config::new().start(&program);
    let address = unix(&qemu);
    let nowhere = format!("unix:{}", qemu.dir().join("none/socket").display());
    let taken = format!("unix:{}", qemu.dir().join("outside.sock").display());
    for (listen, why) in [
        ("unix:@name", "every user could control the machine"),
        ("tcp:localhost:4444", "clients cannot connect there"),
        (&nowhere, "No such file"),
        ("/run/x", "clients connect to unix:/path"),
        (&taken, "another program listens there"),
    ] {
        let mut tool = Command::new(env!("CARGO_BIN_EXE_spice-qmp"));
        tool.args(["--connect", &address, "share", listen]);
        let output = tool.output().unwrap();
        assert_eq!(output.status.code(), Some(2), "{output:?}");
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(stderr.contains(why), "{stderr}");
    }
}
