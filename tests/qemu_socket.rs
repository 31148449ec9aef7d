// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real QEMU driven over its QMP socket.
#![cfg(feature = "gobject")]

mod common;

use std::io::{self, Write};
use std::net::TcpListener;
use std::time::Duration;

use common::machine::resume_and_pause;
use common::main_loop::{FAR, MainLoop, with_own_pushed};
use common::qemu::{Config, Program, Qemu};
use common::script::{Ends, GREETING, call};
use serde_json::value::RawValue;
use serde_json::{Value, json};
use spice_qmp::{ConnectError, Error, ErrorClass, PortState, QmpPort, UsageError, VmAction};

fn unix(path: &std::path::Path) -> String {
    format!("unix:{}", path.display())
}

#[track_caller]
fn open(main: &MainLoop, address: &str) -> QmpPort {
    main.block_on(QmpPort::open(address)).unwrap()
}

fn each(test: impl Fn(&MainLoop, &Program, &mut Qemu, &QmpPort)) {
    with_own_pushed(|main| {
        for program in Program::all() {
            let mut qemu = Config::new().start(&program);
            let port = open(main, &unix(&qemu.qmp_socket()));
            test(main, &program, &mut qemu, &port);
        }
    });
}

#[track_caller]
fn check(main: &MainLoop, program: &Program, port: &QmpPort) {
    assert!(port.ready());
    assert_eq!(port.version().as_deref(), Some(program.version()));
    let version: Value = main.block_on(port.execute("query-version", ())).unwrap();
    assert_eq!(version["qemu"]["major"], program.major());
}

#[test]
fn a_unix_socket() {
    each(|main, program, _, port| {
        check(main, program, port);
        assert_eq!(port.capabilities().join(Some(",")), "oob");
        #[cfg(feature = "spice")]
        assert!(port.channel().is_none());
        main.until("the status", || port.status().is_some());
        assert_eq!(port.status().unwrap().status(), "prelaunch");
        resume_and_pause(main, port);
    });
}

#[test]
fn a_tcp_socket() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let free = TcpListener::bind("127.0.0.1:0").unwrap();
            let number = free.local_addr().unwrap().port();
            drop(free);
            let qemu = Config::new()
                .arg("-qmp")
                .arg(format!("tcp:127.0.0.1:{number},server=on,wait=off"))
                .start(&program);
            for address in [
                format!("tcp:127.0.0.1:{number}"),
                format!("127.0.0.1:{number}"),
                format!("tcp:localhost:{number}"),
            ] {
                let port = open(main, &address);
                check(main, &program, &port);
                main.block_on(port.close());
            }
            drop(qemu);
        }
    });
}

#[test]
fn large_replies() {
    each(|main, _, _, port| {
        for _ in 0..3 {
            let schema: Box<RawValue> =
                main.block_on(port.execute("query-qmp-schema", ())).unwrap();
            assert!(schema.get().len() > 131_136);
        }
    });
}

#[test]
fn a_monitor_that_spreads_its_messages_over_many_lines() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let qemu = Config::new().pretty_socket().start(&program);
            let port = open(main, &unix(&qemu.pretty_socket()));
            check(main, &program, &port);
            let schema: Vec<Value> = main.block_on(port.execute("query-qmp-schema", ())).unwrap();
            assert!(schema.len() > 500);
        }
    });
}

/// More than QEMU accepts at once if out-of-band execution is enabled.
#[test]
fn a_thousand_commands_in_flight() {
    each(|main, _, _, port| {
        let ends = Ends::default();
        for number in 0..1000 {
            call(port, ["query-name", "query-uuid"][number % 2], &ends);
        }
        main.until("a thousand replies", || ends.borrow().len() == 1000);
        for (number, (command, end)) in ends.borrow().iter().enumerate() {
            assert_eq!(command, ["query-name", "query-uuid"][number % 2]);
            assert!(end.is_ok(), "{end:?}");
        }
    });
}

#[test]
fn out_of_band() {
    each(|main, _, _, port| {
        let schema: Vec<Value> = main.block_on(port.execute("query-qmp-schema", ())).unwrap();
        let allowed: Vec<_> = schema
            .iter()
            .filter(|entry| entry["allow-oob"] == true)
            .map(|entry| entry["name"].as_str().unwrap())
            .collect();
        // The command of QEMU's documentation that changes nothing here.
        assert!(allowed.contains(&"migrate-pause"), "{allowed:?}");
        assert!(allowed.contains(&"yank"), "{allowed:?}");

        let yanked = port.execute_oob::<Value>("yank", json!({ "instances": [] }));
        assert_eq!(main.block_on(yanked).unwrap(), json!({}));
        let paused = main.block_on(port.execute_oob::<Value>("migrate-pause", ()));
        let Err(Error::Command { class, .. }) = paused else {
            panic!("{paused:?}: there is no migration to pause");
        };
        assert_eq!(class, ErrorClass::Generic);
        // QEMU refuses one that does not allow it.
        let refused = main.block_on(port.execute_oob::<Value>("query-name", ()));
        assert!(matches!(refused, Err(Error::Command { .. })), "{refused:?}");
        assert!(port.ready());
    });
}

/// It is executed ahead of the commands that wait: with more of these than QEMU accepts
/// at once, it could not get through without the limit on them.
#[test]
fn out_of_band_overtakes() {
    each(|main, _, _, port| {
        let ends = Ends::default();
        for _ in 0..30 {
            call(port, "query-qmp-schema", &ends);
        }
        main.turn();
        let yank = port.execute_oob::<Value>("yank", json!({ "instances": [] }));
        main.block_on(yank).unwrap();
        let before = ends.borrow().len();
        assert!(before < 30, "{before} replies came first");
        main.until("the rest", || ends.borrow().len() == 30);
        assert!(ends.borrow().iter().all(|(_, end)| end.is_ok()));
    });
}

#[test]
fn a_second_client_hears_no_greeting() {
    each(|main, program, qemu, port| {
        let address = unix(&qemu.qmp_socket());
        let timeout = Duration::from_millis(100);
        let second = main.block_on(QmpPort::open_within(&address, timeout));
        let Err(Error::TimedOut { what, after, hint }) = second else {
            panic!("{second:?}");
        };
        assert_eq!((&*what, after), ("the QMP greeting", timeout));
        assert!(hint.contains("one client"), "{hint}");

        // A waiting client gets its turn when the first one disconnects.
        let waiting = main.spawn(async move { QmpPort::open(&address).await });
        main.run_for(Duration::from_millis(50));
        assert!(!waiting.is_done());
        main.block_on(port.close());
        let next = main.join("its turn", &waiting).unwrap();
        check(main, program, &next);
    });
}

#[test]
fn clients_one_after_the_other() {
    each(|main, program, qemu, port| {
        main.block_on(port.close());
        for _ in 0..10 {
            let port = open(main, &unix(&qemu.qmp_socket()));
            check(main, program, &port);
            // Without closing first.
            drop(port);
        }
    });
}

#[test]
fn a_qemu_that_is_killed() {
    each(|main, _, qemu, port| {
        qemu.stop();
        let ends = Ends::default();
        for _ in 0..20 {
            call(port, "query-name", &ends);
        }
        let mut events = port.events();
        main.run_for(Duration::from_millis(10));
        assert_eq!(port.pending(), 20);
        qemu.kill();
        main.until("the ends", || ends.borrow().len() == 20);
        for (_, end) in &*ends.borrow() {
            assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
        }
        main.drain();
        assert_eq!(port.state(), PortState::Closed);
        assert!(port.last_error().unwrap().matches(gio::IOErrorEnum::Closed));
        // A socket is not reopened, so nothing waits for that.
        let wait = main.block_on(port.wait_ready());
        assert!(matches!(wait, Err(Error::Closed(_))), "{wait:?}");
        let end = main.block_on(port.execute::<Value>("query-name", ()));
        assert!(matches!(
            end,
            Err(Error::Usage(UsageError::NotReady { .. }))
        ));
        main.block_on(port.close());
        while main.block_on(events.next()).is_some() {}
    });
}

#[test]
fn a_qemu_that_is_frozen() {
    each(|main, program, qemu, port| {
        qemu.stop();
        let call = port
            .execute::<Value>("query-name", ())
            .timeout(Duration::from_millis(20));
        let end = main.block_on(call);
        assert!(matches!(end, Err(Error::TimedOut { .. })), "{end:?}");
        // More than a socket holds: the write waits, but the calls end. Not much
        // more: QEMU reads it byte by byte.
        port.set_command_timeout(50);
        let large = json!({ "path": "x".repeat(300_000), "property": "x" });
        let end = main.block_on(port.execute::<Value>("qom-get", large));
        assert!(matches!(end, Err(Error::TimedOut { .. })), "{end:?}");
        port.set_command_timeout(0);
        qemu.cont();
        check(main, program, port);
    });
}

#[test]
fn a_quit() {
    each(|main, _, qemu, port| {
        let mut events = port.events_named(["SHUTDOWN"]);
        main.block_on(port.vm_action(VmAction::Quit)).unwrap();
        let end: Value = main.block_on(events.next()).unwrap().decode().unwrap();
        assert_eq!(end["reason"], "host-qmp-quit");
        assert!(qemu.wait_exit(Duration::from_secs(10)).unwrap().success());
        main.until("the close", || port.state() == PortState::Closed);
    });
}

#[test]
fn addresses_that_are_none() {
    with_own_pushed(|main| {
        for address in [
            "",
            "unix:",
            "unix:/tmp/a\0b",
            "tcp:ho\0st:1",
            "host\0:1",
            "tcp:",
            "tcp:host",
            "tcp:host:0",
            "tcp::1",
            "host:port",
            "http://x:y",
        ] {
            let error = main.block_on(QmpPort::open(address)).unwrap_err();
            assert!(
                matches!(error, Error::Usage(UsageError::InvalidArgument(_))),
                "{address:?}: {error:?}"
            );
        }
    });
}

#[test]
fn addresses_where_nobody_is() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let dead = folder.path().join("dead.sock");
        drop(std::os::unix::net::UnixListener::bind(&dead).unwrap());
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = format!("tcp:{}", free.local_addr().unwrap());
        drop(free);
        for (address, kind) in [
            (unix(&folder.path().join("none")), io::ErrorKind::NotFound),
            (unix(&dead), io::ErrorKind::ConnectionRefused),
            (refused, io::ErrorKind::ConnectionRefused),
        ] {
            let error = main.block_on(QmpPort::open(&address)).unwrap_err();
            let Error::Connect(ConnectError::Unreachable {
                kind: is, message, ..
            }) = error
            else {
                panic!("{address}: {error:?}");
            };
            assert_eq!(is, kind, "{message}");
            assert!(message.contains(&address), "{message}");
        }
    });
}

#[test]
fn a_server_that_is_no_monitor() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let folder = tempfile::tempdir_in("/tmp").unwrap();
            let human = folder.path().join("hmp.sock");
            let qemu = Config::new()
                .arg("-monitor")
                .arg(format!("unix:{},server=on,wait=off", human.display()))
                .start(&program);
            let error = main.block_on(QmpPort::open(&unix(&human))).unwrap_err();
            let not_qmp = spice_qmp::PeerError::NotQmp {
                human_monitor: true,
            };
            assert_eq!(error, not_qmp.into());
            drop(qemu);
        }
    });
}

#[test]
fn a_connection_may_take_for_ever() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("slow.sock");
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        listener.set_nonblocking(true).unwrap();
        for far in FAR {
            let address = unix(&path);
            let open = main.spawn(async move { QmpPort::open_within(&address, far).await });
            let mut server = None;
            main.until("the connection", || {
                server = listener.accept().ok();
                server.is_some()
            });
            let (mut server, _) = server.unwrap();
            main.run_for(Duration::from_millis(20));
            assert!(!open.is_done(), "{far:?}");
            writeln!(server, "{GREETING}").unwrap();
            main.run_for(Duration::from_millis(20));
            assert!(!open.is_done(), "{far:?}");
            drop(server);
            let end = main.join("the end", &open);
            assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
        }
    });
}
