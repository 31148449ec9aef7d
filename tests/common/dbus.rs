// SPDX-License-Identifier: MIT OR Apache-2.0
//! A private message bus for a test, and QEMU's D-Bus display on it or at the other end of a
//! connection.

use std::fs;
use std::io::{BufRead, BufReader, IoSlice, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use gio::prelude::*;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};
use serde_json::Value;
use tempfile::TempDir;

use super::main_loop::at_home;
use super::qemu::{Config, Program, Qemu};

/// A private `dbus-daemon`, killed when this is dropped.
pub struct Bus {
    child: Child,
    folder: TempDir,
}

/// A bus that permits everything, and starts the services of its own folder.
const BUS_CONFIG: &str = r#"<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>unix:path=SOCKET</listen>
  <auth>EXTERNAL</auth>
  <servicedir>SERVICES</servicedir>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"#;

impl Bus {
    /// Starts a bus, and waits until it serves.
    pub fn start() -> Self {
        Self::start_in(Self::folder())
    }

    /// A bus that would run this program when a client asks for the name `org.qemu`.
    pub fn with_service(program: &Path) -> Self {
        let folder = Self::folder();
        let service = format!(
            "[D-BUS Service]\nName=org.qemu\nExec={}\n",
            program.display()
        );
        let services = folder.path().join("services");
        fs::create_dir(&services).expect("a new folder");
        fs::write(services.join("org.qemu.service"), service).expect("a new folder");
        Self::start_in(folder)
    }

    fn folder() -> TempDir {
        tempfile::Builder::new()
            .prefix("spice-qmp-")
            .tempdir_in("/tmp")
            .expect("a folder in /tmp is needed: make /tmp writable")
    }

    fn start_in(folder: TempDir) -> Self {
        let child = Self::serve(folder.path());
        Self { child, folder }
    }

    fn serve(folder: &Path) -> Child {
        let socket = folder.join("bus").display().to_string();
        let config = folder.join("bus.conf");
        let services = folder.join("services").display().to_string();
        let text = BUS_CONFIG.replace("SOCKET", &socket);
        fs::write(&config, text.replace("SERVICES", &services)).expect("a new folder");
        let mut child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL", "--"])
            .args(["dbus-daemon", "--nofork", "--print-address"])
            .arg(format!("--config-file={}", config.display()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("setpriv does not run: apt-get install util-linux");
        let output = child.stdout.take().expect("a pipe");
        let mut line = String::new();
        let read = BufReader::new(output).read_line(&mut line);
        assert!(
            read.is_ok() && line.starts_with("unix:"),
            "dbus-daemon does not run: apt-get install dbus"
        );
        child
    }

    /// Ends the bus, and starts another one at the same address.
    pub fn restart(&mut self) {
        self.kill();
        fs::remove_file(self.folder.path().join("bus")).expect("the bus had a socket");
        self.child = Self::serve(self.folder.path());
    }

    /// Ends the bus.
    pub fn kill(&mut self) {
        self.child.kill().expect("an own child can be killed");
        self.child.wait().expect("an own child can be waited for");
    }

    /// The address of the bus.
    pub fn address(&self) -> String {
        format!("unix:path={}", self.folder.path().join("bus").display())
    }

    /// A new connection to the bus, on the main context of the test.
    pub fn connect(&self) -> gio::DBusConnection {
        let flags = gio::DBusConnectionFlags::AUTHENTICATION_CLIENT
            | gio::DBusConnectionFlags::MESSAGE_BUS_CONNECTION;
        at_home(|| {
            gio::DBusConnection::for_address_sync(
                &self.address(),
                flags,
                None,
                gio::Cancellable::NONE,
            )
        })
        .expect("the bus runs")
    }

    /// Starts a QEMU on this bus, and waits until it has its name there: it gets that after
    /// its sockets.
    pub fn start_qemu(&self, config: Config, program: &Program) -> Qemu {
        let qemu = config.start(program);
        let connection = self.connect();
        while !Self::has_owner(&connection, "org.qemu") {
            thread::sleep(Duration::from_millis(2));
        }
        qemu
    }

    /// Whether a name has an owner on the bus.
    fn has_owner(connection: &gio::DBusConnection, name: &str) -> bool {
        let reply = connection.call_sync(
            Some("org.freedesktop.DBus"),
            "/org/freedesktop/DBus",
            "org.freedesktop.DBus",
            "NameHasOwner",
            Some(&(name,).to_variant()),
            None,
            gio::DBusCallFlags::NONE,
            -1,
            gio::Cancellable::NONE,
        );
        let reply = reply.expect("the bus runs");
        reply.get::<(bool,)>() == Some((true,))
    }

    /// QEMU with a display on the bus.
    pub fn qemu(&self) -> Config {
        Config::new()
            .arg("-display")
            .arg(format!("dbus,addr={}", self.address()))
    }
}

impl Drop for Bus {
    fn drop(&mut self) {
        // It may have been killed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// QEMU with a display for the client that is connected to it by [`add_client`].
pub fn peer_to_peer() -> Config {
    Config::new().arg("-display").arg("dbus,p2p=yes")
}

/// With a monitor on a chardev of the display. `mode` is `control` or `readline`.
pub fn with_monitor(config: Config, id: &str, name: &str, mode: &str) -> Config {
    config
        .arg("-chardev")
        .arg(format!("dbus,id={id},name={name}"))
        .arg("-mon")
        .arg(format!("chardev={id},mode={mode}"))
}

/// A peer-to-peer connection to the display, on the main context of the test. QEMU drops
/// the previous one.
pub fn add_client(qemu: &Qemu) -> gio::DBusConnection {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    let monitor = UnixStream::connect(qemu.qmp_socket()).expect("QEMU listens");
    let mut lines = BufReader::new(monitor.try_clone().expect("a socket"));
    let mut greeting = String::new();
    lines.read_line(&mut greeting).expect("QEMU greets");
    execute(&monitor, &mut lines, r#"{"execute": "qmp_capabilities"}"#);
    let command = br#"{"execute": "getfd", "arguments": {"fdname": "client"}}"#;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut fds = SendAncillaryBuffer::new(&mut space);
    let far_fd = [far.as_fd()];
    assert!(fds.push(SendAncillaryMessage::ScmRights(&far_fd)));
    sendmsg(
        &monitor,
        &[IoSlice::new(command)],
        &mut fds,
        SendFlags::empty(),
    )
    .expect("QEMU reads");
    drop(far);
    reply(&mut lines);
    let client = r#"{"protocol": "@dbus-display", "fdname": "client"}"#;
    let command = format!(r#"{{"execute": "add_client", "arguments": {client}}}"#);
    execute(&monitor, &mut lines, &command);
    client_of(near)
}

/// The client's side of a connection whose server answers by itself.
pub fn client_of(near: UnixStream) -> gio::DBusConnection {
    let socket = gio::Socket::from_fd(OwnedFd::from(near)).expect("a socket");
    let stream = socket.connection_factory_create_connection();
    let flags = gio::DBusConnectionFlags::AUTHENTICATION_CLIENT;
    at_home(|| gio::DBusConnection::new_sync(&stream, None, flags, None, gio::Cancellable::NONE))
        .expect("the other end speaks D-Bus")
}

fn execute(mut monitor: &UnixStream, lines: &mut impl BufRead, command: &str) {
    monitor.write_all(command.as_bytes()).expect("QEMU reads");
    reply(lines);
}

fn reply(lines: &mut impl BufRead) {
    loop {
        let mut line = String::new();
        lines.read_line(&mut line).expect("QEMU answers");
        let message: Value = serde_json::from_str(&line).expect("QEMU speaks JSON");
        assert!(message.get("error").is_none(), "{line}");
        if message.get("return").is_some() {
            return;
        }
    }
}
