// SPDX-License-Identifier: MIT OR Apache-2.0
//! Each form of address, and the tool's hint if none was given.
#![cfg(all(feature = "cli", feature = "spice"))]

mod common;
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[path = "common/tool.rs"]
mod tool;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::process::{Command, Stdio};

use common::dbus::{Bus, with_monitor};
use common::qemu::{Config, Program};
use tool::{Ended, Tool};

#[test]
fn sockets_and_spice_servers() {
    for program in Program::all() {
        let port = free_port();
        let name = format!("spice-qmp-test-{}-{port}", std::process::id());
        let qemu = Config::new()
            .arg("-qmp")
            .arg(format!("tcp:127.0.0.1:{port},server=on,wait=off"))
            .arg("-qmp")
            .arg(format!("unix:{name},abstract=on,server=on,wait=off"))
            .start(&program);
        let spice = qemu.spice_uri();
        let path = spice.strip_prefix("spice+unix://").expect("a Unix socket");
        let tcp = Config::new().spice_tcp_password("geheim").start(&program);
        let server = tcp.spice_uri();
        let spice_port = server.rsplit(':').next().expect("a port");
        for (address, folder) in [
            (format!("unix:{}", qemu.qmp_socket().display()), "/"),
            ("unix:./qmp.sock".to_owned(), "."),
            (format!("unix:@{name}"), "/"),
            (format!("tcp:127.0.0.1:{port}"), "/"),
            (format!("tcp:localhost:{port}"), "/"),
            (format!("spice+unix://{path}"), "/"),
            (format!("spice://127.0.0.1:{spice_port}"), "/"),
            (format!("spice://127.0.0.1?port={spice_port}"), "/"),
        ] {
            let folder = qemu.dir().join(folder);
            let ended = |tool: Tool| {
                let tool = tool.folder(&folder).env("SPICE_QMP_PASSWORD", "geheim");
                assert!(tool.run().ok().contains("prelaunch"), "{address}");
            };
            ended(Tool::new(&address, &["status"]));
            // The option takes precedence over the environment.
            ended(Tool::new(
                "unix:/no/such",
                &["--connect", &address, "status"],
            ));
            ended(Tool::new("unix:/no/such", &["status", "-c", &address]));
        }
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The tool with a socket as its standard input, and as its file descriptor 5.
fn inheriting(address: &str, socket: impl Into<OwnedFd>) -> Ended {
    let tool = env!("CARGO_BIN_EXE_spice-qmp");
    let command = format!("exec {tool} --connect {address} status 5<&0");
    let child = Command::new("sh")
        .args(["-c", &command])
        .stdin(socket.into())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    tool::end(child.expect("a shell"))
}

#[test]
fn a_socket_that_is_inherited() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let socket = || UnixStream::connect(qemu.qmp_socket()).expect("QEMU listens");
        for address in ["fd:0", "fd:5"] {
            let ended = inheriting(address, socket());
            assert!(ended.ok().contains("prelaunch"));
        }
        inheriting("fd:9", socket()).says(2, "\"fd:9\": Bad file descriptor", "fd:3 is for");
    }
    let (near, far) = UnixStream::pair().expect("a pair");
    for address in ["fd:", "fd:x", "fd:-1", "fd:+0", "fd:99999999999"] {
        let socket = near.try_clone().expect("a socket");
        inheriting(address, socket).says(2, "not the number of a file descriptor", "");
    }
    let file = std::fs::File::open("/dev/null").expect("a file");
    inheriting("fd:0", file).says(2, "this is not a socket", "");
    let datagrams = UnixDatagram::unbound().expect("a socket");
    inheriting("fd:0", datagrams).says(2, "the socket is not a stream socket", "");
    let folder = tempfile::tempdir().expect("a folder");
    let listener = UnixListener::bind(folder.path().join("s")).expect("a socket");
    inheriting("fd:0", listener).says(2, "the socket is not connected", "");
    drop(far);
    let ended = inheriting("fd:0", near);
    ended.says(3, "the server closed the connection", "");
}

/// A QEMU on the session bus is found, and the hint's address works.
#[test]
fn no_address() {
    let mut bus = Bus::start();
    let run = |bus: &Bus, address: &str, words: &[&str]| {
        let tool = Tool::new(address, words);
        tool.env("DBUS_SESSION_BUS_ADDRESS", bus.address()).run()
    };
    let forms = "an address is spice://host:port, spice+unix:///path, unix:/path, \
                 tcp:host:port, dbus:NAME or fd:N";
    let nobody = run(&bus, "", &["status"]);
    nobody.says(2, "no address: give --connect ADDRESS", forms);
    assert!(nobody.stderr.ends_with("fd:N\n"), "{}", nobody.stderr);
    for program in Program::all() {
        let config = with_monitor(bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
        let _qemu = bus.start_qemu(config, &program);
        let found = run(&bus, "", &["status"]);
        found.says(2, "no address", forms);
        found.says(2, "", "A QEMU is on the session bus: --connect dbus:");
        let advice = found.failed(2).1.rsplit("--connect ").next();
        let address = advice.expect("an address");
        let status = run(&bus, "", &["--connect", address, "status"]).ok();
        assert!(status.contains("prelaunch"));
        assert!(run(&bus, address, &["status"]).ok().contains("prelaunch"));
    }
    bus.kill();
    run(&bus, "", &["status"]).says(2, "no address", forms);
    // If there is no bus, none is started.
    Tool::new("", &["status"])
        .env("DBUS_SESSION_BUS_ADDRESS", "autolaunch:")
        .run()
        .says(2, "no address", forms);
}

/// A bus that accepts connections, and never answers.
#[test]
fn a_bus_that_is_mute() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("bus");
    let _listener = UnixListener::bind(&path).expect("a socket");
    Tool::new("", &["status"])
        .env(
            "DBUS_SESSION_BUS_ADDRESS",
            format!("unix:path={}", path.display()),
        )
        .run()
        .says(2, "no address", "an address is spice://host:port");
}
