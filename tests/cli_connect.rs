// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the tool connects, and its messages if it cannot.
#![cfg(all(feature = "cli", feature = "spice"))]

mod common;
#[allow(dead_code, unreachable_pub, reason = "shared with other tests")]
#[path = "common/tool.rs"]
mod tool;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::thread;

use common::qemu::{Config, Program};
use tool::Tool;

const GREETING: &str = r#"{"QMP": {"version": {"qemu": {"micro": 2, "minor": 0, "major": 10}, "package": ""}, "capabilities": []}}"#;

fn unix(path: &Path) -> String {
    format!("unix:{}", path.display())
}

fn status(address: &str) -> tool::Ended {
    Tool::new(address, &["status"]).run()
}

/// Forms of addresses from QEMU's command line, URLs and habit: the hint names a
/// correct address, and never repeats the mistake.
#[test]
fn what_is_no_address() {
    for (address, error, hint) in [
        (
            "unix:/p,server=on,wait=off",
            "options",
            "QEMU's options out: use unix:/p",
        ),
        ("unix:/p,server,nowait", "options", "use unix:/p"),
        ("socket,id=a,path=/p,server=on", "options", "use unix:/p"),
        ("path=/p", "options", "use unix:/p"),
        (
            "telnet:h:1",
            "not an address",
            "start QEMU with -qmp tcp:h:1,server=on,wait=off and use tcp:h:1",
        ),
        ("tcp://h:1", "not an address", "use tcp:h:1"),
        ("tcp:h", "port is missing", "add the port"),
        ("tcp:h:0", "between 1 and 65535", "tcp:host:port"),
        ("tcp:h:70000", "between 1 and 65535", "tcp:host:port"),
        ("tcp:h :1", "white space", "use tcp:h:1"),
        (" unix:/p", "white space", "use unix:/p"),
        (
            "unix://run/p",
            "not an address",
            "use unix:/run/p for a QMP socket",
        ),
        (
            "/run/p",
            "not an address",
            "unix:/run/p for a QMP socket, spice+unix:///run/p for a SPICE",
        ),
        (
            "file:///run/p",
            "not an address",
            "unix:/run/p for a QMP socket",
        ),
        (
            "h:1",
            "two kinds",
            "tcp:h:1 for a QMP socket, spice://h:1 for a SPICE server",
        ),
        ("::1:4444", "brackets", "use tcp:[::1]:4444"),
        ("tcp:::1:4444", "brackets", "use tcp:[::1]:4444"),
        ("spice+unix:/p", "not an address", "use spice+unix:///p"),
        (
            "spice+unix://run/p",
            "begin with /",
            "spice+unix:///run/p, or spice+unix://./run/p",
        ),
        ("spice://h", "port is missing", "spice://host:5900"),
        ("spice:h:1", "not an address", "use spice://h:1"),
        (
            "http://h:1",
            "not an address",
            "spice://host:port, spice+unix:///path, unix:/path, tcp:host:port, dbus:NAME or fd:N",
        ),
        (
            "dbus,addr=unix:path=/b,,guid=1",
            "options",
            "use dbus:address=unix:path=/b,guid=1",
        ),
        ("dbus,p2p=yes", "options", "has no address"),
        ("dbus:no name", "not a D-Bus name", "like org.qemu"),
        (
            "dbus:address=nonsense",
            "not a D-Bus address",
            "DBUS_SESSION_BUS_ADDRESS",
        ),
        ("unix:", "path is missing", "unix:/path"),
        (" ", "empty", "unix:/path"),
        ("spice://h:1?password=geheim", "password", "--password-file"),
    ] {
        let ended = status(address);
        ended.says(2, error, hint);
        let (_, advice) = ended.failed(2);
        assert!(!ended.stderr.contains("geheim"), "{}", ended.stderr);
        for wrong in [
            ",server=on,wait=off,server",
            ",server,nowait",
            "tcp://",
            "telnet:",
            "tcp:tcp",
        ] {
            assert!(!advice.contains(wrong), "{address}: {advice}");
        }
    }
    Tool::new("", &["status"])
        .run()
        .says(2, "no address", "unix:/path");
}

/// GLib cuts such a path, and connects to whatever listens at its beginning.
#[test]
fn a_path_that_is_too_long_is_not_connected_to() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let short = folder
        .path()
        .join("s".repeat(106 - folder.path().as_os_str().len()));
    assert_eq!(short.as_os_str().len(), 107);
    let stranger = UnixListener::bind(&short).unwrap();
    stranger.set_nonblocking(true).unwrap();
    for scheme in ["unix:", "spice+unix://"] {
        let address = format!("{scheme}{}2", short.display());
        let ended = status(&address);
        ended.says(
            2,
            "has 108 bytes, but a socket's has at most 107",
            "use a relative path: cd /tmp/",
        );
        let (_, hint) = ended.failed(2);
        assert!(hint.contains(&format!("then use {scheme}./sss")), "{hint}");
    }
    let nobody = stranger.accept().unwrap_err();
    assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
}

/// The way out of it, which the hint names.
#[test]
fn relative_paths() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        for address in [
            "unix:./qmp.sock",
            "unix:qmp.sock",
            "spice+unix://./spice.sock",
        ] {
            let tool = Tool::new(address, &["status"]).folder(qemu.dir());
            assert!(tool.run().ok().contains("prelaunch"));
        }
    }
}

#[test]
fn an_abstract_socket() {
    for program in Program::all() {
        let name = format!("spice-qmp-test-{}-{}", std::process::id(), program.major());
        let qemu = Config::new()
            .arg("-qmp")
            .arg(format!("unix:{name},abstract=on,server=on,wait=off"))
            .start(&program);
        assert!(status(&format!("unix:@{name}")).ok().contains("prelaunch"));
        drop(qemu);
        status(&format!("unix:@{name}")).says(
            3,
            "refused",
            &format!("-qmp unix:{name},abstract=on"),
        );
    }
}

#[test]
fn a_server_that_comes_later() {
    for program in Program::all() {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let (qmp, spice) = (
            folder.path().join("later.sock"),
            folder.path().join("spice.sock"),
        );
        // One socket does not exist at first, the other one refuses.
        drop(UnixListener::bind(&spice).unwrap());
        let addresses = [unix(&qmp), format!("spice+unix://{}", spice.display())];
        for address in &addresses {
            assert_eq!(status(address).code, Some(3));
        }
        let waiting = addresses
            .map(|address| Tool::new(&address, &["--wait", "--timeout", "25", "status"]).spawn());
        let qemu = Config::new()
            .spice_unix(&spice)
            .arg("-qmp")
            .arg(format!("unix:{},server=on,wait=off", qmp.display()))
            .start(&program);
        for child in waiting {
            assert!(tool::end(child).ok().contains("prelaunch"));
        }
        drop(qemu);
    }
}

#[test]
fn a_server_that_never_comes() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    for address in [
        unix(&folder.path().join("none")),
        format!("spice+unix://{}", folder.path().join("none").display()),
    ] {
        let args = ["--wait", "--timeout", "0.3", "status"];
        let ended = Tool::new(&address, &args).run();
        let (error, _) = ended.failed(4);
        assert!(
            error.contains("No such file") && error.contains("300 ms"),
            "{error}"
        );
    }
}

#[test]
fn a_socket_that_nobody_listens_on() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let (dead, file) = (folder.path().join("dead"), folder.path().join("file"));
    drop(UnixListener::bind(&dead).unwrap());
    fs::write(&file, "").unwrap();
    for (scheme, path, hint) in [
        ("unix:", &dead, "QEMU has ended"),
        ("spice+unix://", &dead, "QEMU has ended"),
        ("unix:", &file, "is not a socket"),
    ] {
        status(&format!("{scheme}{}", path.display())).says(3, "refused", hint);
    }
    let none = folder.path().join("none");
    status(&unix(&none)).says(
        3,
        "No such file",
        &format!("-qmp {},server=on", unix(&none)),
    );
    let free = TcpListener::bind("127.0.0.1:0").unwrap();
    let refused = free.local_addr().unwrap();
    drop(free);
    status(&format!("tcp:{refused}")).says(3, "refused", &format!("-qmp tcp:{refused},server=on"));
    status(&format!("spice://{refused}")).says(3, "refused", "-spice port=PORT");
}

#[test]
fn a_socket_that_is_not_for_this_user() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let open = |mode| fs::set_permissions(folder.path(), fs::Permissions::from_mode(mode)).unwrap();
    let path = folder.path().join("mine");
    let _listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    let root = rustix::process::geteuid().is_root();
    // Root may use any socket, and `nobody` cannot run programs in root's folders.
    let tool = folder.path().join("spice-qmp");
    fs::copy(env!("CARGO_BIN_EXE_spice-qmp"), &tool).unwrap();
    let run = |address: &str| {
        if root {
            Tool::as_nobody(&tool, address, &["status"]).run()
        } else {
            status(address)
        }
    };
    let denied = "Permission denied";
    if root {
        open(0o755);
        for scheme in ["unix:", "spice+unix://"] {
            let ended = run(&format!("{scheme}{}", path.display()));
            ended.says(
                3,
                denied,
                &format!("the socket {} belongs to root", path.display()),
            );
            ended.says(3, denied, "with mode 600: run spice-qmp as root");
        }
        let inner = folder.path().join("inner");
        fs::create_dir(&inner).unwrap();
        fs::set_permissions(&inner, fs::Permissions::from_mode(0o700)).unwrap();
        let _listener = UnixListener::bind(inner.join("mine")).unwrap();
        let folder = format!("the folder {} belongs to root", inner.display());
        run(&unix(&inner.join("mine"))).says(3, denied, &folder);
    } else {
        fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).unwrap();
        run(&unix(&path)).says(3, denied, "with mode 000: run spice-qmp as");
    }
}

#[test]
fn a_host_that_has_no_address() {
    for scheme in ["tcp:", "spice://"] {
        let address = format!("{scheme}no-such-host.invalid:1");
        status(&address).says(3, "no-such-host.invalid", "is the name of the host right");
    }
}

/// QEMU answers nothing on SPICE while the machine is in such a state.
#[test]
fn a_machine_that_is_stopped_by_an_error() {
    for program in Program::all() {
        let qemu = Config::new()
            .arg("-no-reboot")
            .arg("-no-shutdown")
            .running()
            .start(&program);
        let reset = qemu.monitor().execute("system_reset", None);
        reset.expect("the machine stops");
        let args = ["--timeout", "1", "status"];
        let ended = Tool::new(&qemu.spice_uri(), &args).run();
        let error = ended.stderr.lines().find(|line| line.contains("error: "));
        let error = error.expect("an error");
        assert!(
            error.contains("resume it over another monitor"),
            "{ended:?}"
        );
        assert_eq!(ended.code, Some(4), "{ended:?}");
    }
}

/// A server for one client, to which it sends these bytes and then the end.
fn serve(listener: UnixListener, bytes: &'static str) -> thread::JoinHandle<()> {
    thread::spawn(move || {
        let (mut client, _) = listener.accept().unwrap();
        client.write_all(bytes.as_bytes()).unwrap();
        if bytes.contains("QMP") {
            let mut request = [0; 256];
            let _ = client.read(&mut request);
        }
    })
}

#[test]
fn a_connection_that_ends_early() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let greeting: &'static str = format!("{GREETING}\r\n").leak();
    for (name, bytes, hint) in [
        ("greeting", greeting, "QEMU ended"),
        ("nothing", "", "-qmp, not with -monitor"),
    ] {
        let path = folder.path().join(name);
        let server = serve(UnixListener::bind(&path).unwrap(), bytes);
        status(&unix(&path)).says(3, "connection is closed", hint);
        server.join().unwrap();
    }
}

#[test]
fn passwords_that_cannot_be_read() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let address = "spice+unix:///nonexistent/spice.sock";
    let utf16: Vec<u8> = "\u{feff}geheim\r\n"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    for (bytes, error) in [
        (&utf16[..], "UTF-16"),
        (b"g\xe9heim\n", "not UTF-8 text"),
        (b"\n", "the first line is empty"),
    ] {
        let file = folder.path().join("password");
        fs::write(&file, bytes).unwrap();
        let args = ["status", "--password-file", file.to_str().unwrap()];
        Tool::new(address, &args).run().says(2, error, "");
    }
    let latin1 = std::ffi::OsStr::from_bytes(b"g\xe9heim");
    let tool = Tool::new(address, &["status"]).env("SPICE_QMP_PASSWORD", latin1);
    tool.run()
        .says(2, "SPICE_QMP_PASSWORD is not UTF-8 text", "");

    // A byte order mark of UTF-8 is not part of the password.
    let qemu = Config::new()
        .spice_tcp_password("geheim")
        .start(&Program::system());
    let file = qemu.dir().join("password");
    fs::write(&file, "\u{feff}geheim\r\n").unwrap();
    let args = ["status", "--password-file", file.to_str().unwrap()];
    Tool::new(&qemu.spice_uri(), &args).run().ok();
}
