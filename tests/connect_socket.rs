// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening ports on sockets: servers that are late, full, or answer little.
#![cfg(feature = "gobject")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::Path;
use std::thread;
use std::time::Duration;

use common::main_loop::with_own_pushed;
use common::qemu::{Config, Program};
use common::script::GREETING;
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{
    AddressFault, ConnectError, ConnectOptions, Error, QmpErrorCode, QmpPort, UsageError,
};

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

/// A server that greets, and answers each command with `answer`.
fn serve(client: UnixStream, answer: impl Fn(&str) -> Value) {
    let mut out = client.try_clone().unwrap();
    writeln!(out, "{GREETING}").unwrap();
    for line in BufReader::new(client).lines() {
        let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
        let mut reply = answer(request["execute"].as_str().unwrap());
        reply["id"] = request["id"].clone();
        writeln!(out, "{reply}").unwrap();
    }
}

fn prelaunch(command: &str) -> Value {
    match command {
        "query-status" => json!({"return": {"status": "prelaunch", "running": false}}),
        _ => json!({"return": {}}),
    }
}

/// Without another iteration of the main loop.
#[test]
fn an_open_port_knows_the_run_state() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let port = main
                .block_on(QmpPort::open(&unix(&qemu.qmp_socket())))
                .unwrap();
            assert_eq!(port.status().unwrap().status(), "prelaunch");
        }
    });
}

/// Such as qemu-storage-daemon.
#[test]
fn a_server_without_a_run_state() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("daemon.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            serve(client, |command| match command {
                "query-status" => json!({"error": {
                    "class": "CommandNotFound",
                    "desc": "The command query-status has not been found",
                }}),
                _ => json!({"return": {}}),
            });
        });
        let port = main.block_on(QmpPort::open(&unix(&path))).unwrap();
        assert!(port.ready());
        assert_eq!(port.status(), None);
        let error = port.last_error().unwrap();
        assert_eq!(error.kind(), Some(QmpErrorCode::CommandNotFound), "{error}");
        main.block_on(port.close());
        drop(port);
        main.drain();
        server.join().unwrap();
    });
}

/// Such as a script's.
#[test]
fn a_server_that_says_something_else() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("script.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            serve(listener.accept().unwrap().0, |_| json!({"return": {}}));
        });
        let port = main.block_on(QmpPort::open(&unix(&path))).unwrap();
        assert_eq!(port.status(), None);
        let error = port.last_error().unwrap();
        assert_eq!(error.kind(), Some(QmpErrorCode::Protocol), "{error}");
        main.block_on(port.close());
        drop(port);
        main.drain();
        server.join().unwrap();
    });
}

/// All of it within one timeout.
#[test]
fn a_server_that_does_not_report_its_run_state() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("slow.sock");
        let listener = UnixListener::bind(&path).unwrap();
        let server = thread::spawn(move || {
            let (client, _) = listener.accept().unwrap();
            let mut out = client.try_clone().unwrap();
            writeln!(out, "{GREETING}").unwrap();
            let mut commands = Vec::new();
            for line in BufReader::new(client).lines() {
                let request: Value = serde_json::from_str(&line.unwrap()).unwrap();
                commands.push(request["execute"].as_str().unwrap().to_owned());
                if commands.len() == 1 {
                    writeln!(out, "{}", json!({"return": {}, "id": request["id"]})).unwrap();
                }
            }
            commands
        });
        let timeout = Duration::from_millis(300);
        let error = main
            .block_on(QmpPort::open_within(&unix(&path), timeout))
            .unwrap_err();
        let Error::TimedOut { what, after, .. } = error else {
            panic!("{error:?}");
        };
        assert_eq!((&*what, after), ("query-status", timeout));
        main.drain();
        assert_eq!(server.join().unwrap(), ["qmp_capabilities", "query-status"]);
    });
}

#[test]
fn the_error_of_a_connection_that_ends_says_whether_it_was_qemu() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("short.sock");
        let listener = UnixListener::bind(&path).unwrap();
        for greets in [false, true] {
            let address = unix(&path);
            let open = main.spawn(async move { QmpPort::open(&address).await });
            main.run_for(Duration::from_millis(20));
            let (mut client, _) = listener.accept().unwrap();
            if greets {
                writeln!(client, "{GREETING}").unwrap();
                // Unread data would reset the connection.
                main.run_for(Duration::from_millis(20));
                BufReader::new(&client)
                    .read_line(&mut String::new())
                    .unwrap();
            }
            drop(client);
            let end = main.join("the end", &open).unwrap_err();
            let Error::Closed(text) = end else {
                panic!("{end:?}");
            };
            assert_eq!(text.contains("after its QMP greeting"), greets, "{text}");
        }
    });
}

/// A socket with room for one waiting connection, which is taken.
fn full(path: &Path) -> (gio::Socket, UnixStream) {
    let socket = gio::Socket::new(
        gio::SocketFamily::Unix,
        gio::SocketType::Stream,
        gio::SocketProtocol::Default,
    )
    .unwrap();
    socket
        .bind(&gio::UnixSocketAddress::new(path), false)
        .unwrap();
    socket.set_listen_backlog(0);
    socket.listen().unwrap();
    socket.set_blocking(false);
    (socket, UnixStream::connect(path).unwrap())
}

#[test]
fn a_full_queue_is_tried_again() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("full.sock");
        let (socket, _first) = full(&path);
        let timeout = Duration::from_millis(100);
        let error = main
            .block_on(QmpPort::open_within(&unix(&path), timeout))
            .unwrap_err();
        let Error::TimedOut { what, after, .. } = error else {
            panic!("{error:?}");
        };
        assert!(what.starts_with("the connection to unix:"), "{what}");
        assert_eq!(after, timeout);

        let address = unix(&path);
        let open = main.spawn(async move { QmpPort::open(&address).await });
        main.run_for(Duration::from_millis(50));
        assert!(!open.is_done());
        drop(socket.accept(gio::Cancellable::NONE).unwrap());
        let mut next = None;
        main.until("the second client", || {
            next = socket.accept(gio::Cancellable::NONE).ok();
            next.is_some()
        });
        drop(next);
        let end = main.join("the end", &open);
        assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
    });
}

#[test]
fn waiting_for_a_server() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        for refuses in [false, true] {
            let path = folder.path().join(format!("later-{refuses}"));
            if refuses {
                drop(UnixListener::bind(&path).unwrap());
            }
            // It does not wait unless asked to.
            let error = main.block_on(QmpPort::open(&unix(&path))).unwrap_err();
            assert!(matches!(
                error,
                Error::Connect(ConnectError::Unreachable { .. })
            ));
            // It waits in vain: the error says for what.
            let options = ConnectOptions::new().wait(true);
            let short = options.clone().timeout(Duration::from_millis(50));
            let error = main
                .block_on(QmpPort::open_with(&unix(&path), short))
                .unwrap_err();
            let Error::TimedOut { what, .. } = error else {
                panic!("{error:?}");
            };
            let why = if refuses { "refused" } else { "No such file" };
            assert!(what.contains(why), "{what}");

            let address = unix(&path);
            let open = main.spawn(async move { QmpPort::open_with(&address, options).await });
            main.run_for(Duration::from_millis(50));
            assert!(!open.is_done());
            if refuses {
                std::fs::remove_file(&path).unwrap();
            }
            let listener = UnixListener::bind(&path).unwrap();
            let server = thread::spawn(move || serve(listener.accept().unwrap().0, prelaunch));
            let port = main.join("the port", &open).unwrap();
            assert_eq!(port.status().unwrap().status(), "prelaunch");
            main.block_on(port.close());
            drop(port);
            main.drain();
            server.join().unwrap();
        }
    });
}

/// GLib would cut it, and connect to another server.
#[test]
fn a_path_that_is_too_long() {
    with_own_pushed(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let short = folder
            .path()
            .join("s".repeat(106 - folder.path().as_os_str().len()));
        let stranger = UnixListener::bind(&short).unwrap();
        stranger.set_nonblocking(true).unwrap();
        let address = format!("{}2", unix(&short));
        let error = main.block_on(QmpPort::open(&address)).unwrap_err();
        let Error::Usage(UsageError::InvalidArgument(text)) = error else {
            panic!("{error:?}");
        };
        assert!(text.contains(&AddressFault::PathTooLong { length: 108 }.to_string()));
        assert!(stranger.accept().is_err());
    });
}

#[test]
fn an_abstract_socket() {
    with_own_pushed(|main| {
        let name = format!("spice-qmp-test-{}", std::process::id());
        let address = <SocketAddr as SocketAddrExt>::from_abstract_name(&name).unwrap();
        let listener = UnixListener::bind_addr(&address).unwrap();
        let server = thread::spawn(move || serve(listener.accept().unwrap().0, prelaunch));
        let port = main
            .block_on(QmpPort::open(&format!("unix:@{name}")))
            .unwrap();
        main.block_on(port.close());
        drop(port);
        main.drain();
        server.join().unwrap();
    });
}

/// C programs see GIO's own domain and code.
#[test]
fn errors_keep_what_gio_says() {
    with_own_pushed(|main| {
        let error = main
            .block_on(QmpPort::open("tcp:no-such-host.invalid:1"))
            .unwrap_err();
        let error = glib::Error::from(error);
        assert!(error.is::<gio::ResolverError>(), "{error:?}");

        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let none = unix(&folder.path().join("none"));
        let error = main.block_on(QmpPort::open(&none)).unwrap_err();
        let error = glib::Error::from(error);
        assert_eq!(error.kind(), Some(gio::IOErrorEnum::NotFound));
    });
}
