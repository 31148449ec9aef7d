// SPDX-License-Identifier: MIT OR Apache-2.0
//! The far ends of the transports: each does exactly what a test says.

use std::cell::RefCell;
use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;

use gio::prelude::*;
use serde_json::json;
use spice_qmp::QmpPort;
use spice_qmp::transport::{
    DbusTransport, PairPeer, SocketTransport, SpiceTransport, StreamTransport, Transport, pair,
};

use super::display::DisplayPeer;
use super::fds;
use super::hostile::SpicePeer;
use super::main_loop::{MainLoop, at_home};
use super::qemu::{Config, Monitor, Program, Qemu};
use super::spice::Client;

/// The far end of a transport.
pub trait Peer {
    /// Opens the connection.
    fn open(&self);
    /// Sends bytes.
    fn send(&self, bytes: &[u8]);
    /// The bytes received since the last call.
    fn received(&self) -> Vec<u8>;
    /// Closes the connection.
    fn close(&self);
    /// Whether the near end can be reopened.
    fn reopens(&self) -> bool;
    /// Whether the rest of a reply to an earlier client may come before the greeting.
    fn may_send_a_rest(&self) -> bool {
        false
    }
    /// Whether data sent before the near end listens waits for it.
    fn keeps_early_bytes(&self) -> bool;
    /// Whether the near end can hold data back until it is resumed.
    fn holds_back(&self) -> bool;
    /// Whether descriptors can be sent to it.
    fn takes_fds(&self) -> bool {
        false
    }
    /// One more byte, and the descriptors that came with it.
    fn received_with_fds(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        (Vec::new(), Vec::new())
    }
    /// Accepts no more bytes (`true`), or continues. Returns false if it cannot do so.
    fn block(&self, _blocked: bool) -> bool {
        false
    }
    /// Whether it can make the near end's writes fail.
    fn fails_writes(&self) -> bool {
        false
    }
    /// Makes the near end's pending write fail, if there is one, and if it can.
    fn fail_write(&self) {}
    /// Releases everything.
    fn finish(self: Box<Self>, main: &MainLoop);
}

/// Each transport that can use any main context, not started, with its peer.
pub fn each(main: &MainLoop, test: impl Fn(&str, Box<dyn Transport>, &dyn Peer)) {
    let (transport, peer) = pair();
    run("pair", main, &test, Box::new(transport), Box::new(peer));

    for (name, (connection, peer)) in [("Unix socket", unix_socket()), ("TCP", tcp_socket())] {
        let transport = Box::new(at_home(|| on_socket(&connection)));
        run(name, main, &test, transport, Box::new(peer));
    }

    let (connection, peer) = wrapped();
    let transport = Box::new(at_home(|| StreamTransport::new(&connection)));
    run("stream", main, &test, transport, Box::new(peer));

    let peer = DisplayPeer::start();
    let connection = peer.connection();
    let transport = at_home(|| DbusTransport::new(connection, None, QmpPort::is_qmp_name));
    run("D-Bus", main, &test, Box::new(transport), Box::new(peer));
}

/// Each transport on SPICE, not started, with its peer.
pub fn each_on_spice(main: &MainLoop, test: impl Fn(&str, Box<dyn Transport>, &dyn Peer)) {
    let peer = SpicePeer::start(main);
    let transport = Box::new(SpiceTransport::new(&peer.channel()));
    run("hostile SPICE", main, &test, transport, Box::new(peer));

    for program in Program::all() {
        let peer = SerialPort::start(main, &program);
        let transport = Box::new(SpiceTransport::new(&peer.channel()));
        let name = format!("SPICE {}", program.version());
        run(&name, main, &test, transport, Box::new(peer));
    }
}

fn run(
    name: &str,
    main: &MainLoop,
    test: &impl Fn(&str, Box<dyn Transport>, &dyn Peer),
    transport: Box<dyn Transport>,
    peer: Box<dyn Peer>,
) {
    test(name, transport, &*peer);
    main.drain();
    peer.finish(main);
}

impl Peer for PairPeer {
    fn open(&self) {
        self.open();
    }

    fn send(&self, bytes: &[u8]) {
        self.send(bytes);
    }

    fn received(&self) -> Vec<u8> {
        self.received()
    }

    fn close(&self) {
        self.close("the peer closed");
    }

    fn reopens(&self) -> bool {
        true
    }

    fn keeps_early_bytes(&self) -> bool {
        false
    }

    fn holds_back(&self) -> bool {
        false
    }

    fn block(&self, blocked: bool) -> bool {
        self.block(blocked);
        true
    }

    fn fails_writes(&self) -> bool {
        true
    }

    fn fail_write(&self) {
        self.fail_write("the write failed");
        // The next write waits to fail.
        self.block(true);
    }

    fn finish(self: Box<Self>, _main: &MainLoop) {}
}

/// The far end of a `GSocketConnection`.
pub struct StreamPeer {
    far: RefCell<Option<UnixStream>>,
    is_unix: bool,
    takes_fds: bool,
}

impl StreamPeer {
    pub fn new(far: UnixStream) -> Self {
        far.set_nonblocking(true).expect("a socket");
        let is_unix = far.local_addr().is_ok();
        Self {
            is_unix,
            takes_fds: is_unix,
            far: RefCell::new(Some(far)),
        }
    }
}

/// The near end, for GIO, of a pair of sockets.
pub fn unix_socket() -> (gio::SocketConnection, StreamPeer) {
    let (near, far) = UnixStream::pair().expect("a pair of sockets");
    (connection(near.into()), StreamPeer::new(far))
}

/// The near end, for GIO, of a TCP connection.
pub fn tcp_socket() -> (gio::SocketConnection, StreamPeer) {
    let (near, far) = tcp_pair();
    (connection(near), StreamPeer::new(far))
}

/// A stream that is not a plain socket: its data differs from the socket's.
pub fn wrapped() -> (gio::TcpWrapperConnection, StreamPeer) {
    let (inner, mut peer) = unix_socket();
    peer.takes_fds = false;
    let (other, _) = tcp_pair();
    let other = gio::Socket::from_fd(other).expect("a socket");
    (gio::TcpWrapperConnection::new(&inner, &other), peer)
}

/// The ends of a TCP connection. Code that reads and writes a Unix socket works with it.
fn tcp_pair() -> (OwnedFd, UnixStream) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("it is bound");
    let near = TcpStream::connect(address).expect("it listens");
    let (far, _) = listener.accept().expect("a client");
    (near.into(), OwnedFd::from(far).into())
}

fn connection(near: OwnedFd) -> gio::SocketConnection {
    let socket = gio::Socket::from_fd(near).expect("a socket");
    socket.connection_factory_create_connection()
}

/// A transport on a plain socket.
pub fn on_socket(connection: &gio::SocketConnection) -> SocketTransport {
    SocketTransport::new(connection).expect("a plain socket")
}

impl Peer for StreamPeer {
    /// It is open from the start.
    fn open(&self) {}

    fn send(&self, bytes: &[u8]) {
        if let Some(stream) = &mut *self.far.borrow_mut() {
            // The near end may be gone: the test will notice.
            let _ = stream.write_all(bytes);
        }
    }

    fn received(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        if let Some(stream) = &mut *self.far.borrow_mut()
            && let Err(error) = stream.read_to_end(&mut bytes)
        {
            // The near end may have gone with bytes unread.
            let kinds = [ErrorKind::WouldBlock, ErrorKind::ConnectionReset];
            assert!(kinds.contains(&error.kind()), "{error}");
        }
        bytes
    }

    fn close(&self) {
        self.far.take();
    }

    fn reopens(&self) -> bool {
        false
    }

    fn keeps_early_bytes(&self) -> bool {
        true
    }

    fn holds_back(&self) -> bool {
        true
    }

    fn takes_fds(&self) -> bool {
        self.takes_fds
    }

    fn received_with_fds(&self) -> (Vec<u8>, Vec<OwnedFd>) {
        match &*self.far.borrow() {
            Some(far) => fds::receive(far, 1),
            None => (Vec::new(), Vec::new()),
        }
    }

    /// The bytes are not read.
    fn block(&self, _blocked: bool) -> bool {
        true
    }

    /// TCP does not report that the reader is gone.
    fn fails_writes(&self) -> bool {
        self.is_unix
    }

    fn fail_write(&self) {
        if let Some(stream) = &*self.far.borrow() {
            // It also fails if the near end is gone.
            let _ = stream.shutdown(Shutdown::Read);
        }
        // A write that waits for room must see it.
        self.received();
    }

    fn finish(self: Box<Self>, _main: &MainLoop) {}
}

/// A serial port of a real QEMU behind a SPICE port. QEMU's `qtest` writes its
/// registers and reads them, as a guest would; the card is plugged in to open
/// the port, and pulled to close it.
pub struct SerialPort {
    client: Client,
    qemu: Qemu,
    monitor: RefCell<Monitor>,
    qtest: RefCell<BufReader<UnixStream>>,
}

/// Where the card's registers are put.
const REGISTERS: u16 = 0xc000;
const LINE_STATUS: u16 = REGISTERS + 5;
const SLOT: u32 = 5;
/// PCI configuration, and the hotplug registers of QEMU's machine `pc`.
const CONFIG_ADDRESS: u16 = 0xcf8;
const CONFIG_DATA: u16 = 0xcfc;
const EJECT_BUS: u16 = 0xae10;
const EJECT_SLOT: u16 = 0xae08;

impl SerialPort {
    /// Starts QEMU without the card, and connects a SPICE client to the port.
    pub fn start(main: &MainLoop, program: &Program) -> Self {
        let folder = tempfile::tempdir_in("/tmp").expect("a folder in /tmp");
        let socket = folder.path().join("qtest.sock");
        let qemu = Config::new()
            .no_ports()
            .arg("-chardev")
            .arg("spiceport,id=serial,name=org.test.port")
            .arg("-qtest")
            .arg(format!("unix:{},server=on,wait=off", socket.display()))
            .arg("-qtest-log")
            .arg("none")
            .start(program);
        let qtest = UnixStream::connect(socket).expect("QEMU listens");
        let client = Client::new(&qemu);
        client.connect(main);
        Self {
            client,
            monitor: RefCell::new(qemu.monitor()),
            qemu,
            qtest: RefCell::new(BufReader::new(qtest)),
        }
    }

    /// The channel of the port.
    pub fn channel(&self) -> spice_qmp::PortChannel {
        self.client.ports().remove(0)
    }

    fn execute(&self, command: &str, arguments: serde_json::Value) {
        self.monitor
            .borrow_mut()
            .execute(command, Some(arguments))
            .unwrap_or_else(|error| panic!("{command}: {error}\n{}", self.qemu.stderr()));
    }

    fn qtest(&self, command: &str) -> String {
        let mut qtest = self.qtest.borrow_mut();
        let line = format!("{command}\n");
        let mut answer = String::new();
        qtest
            .get_mut()
            .write_all(line.as_bytes())
            .and_then(|()| qtest.read_line(&mut answer))
            .expect("QEMU runs");
        let value = answer.strip_prefix("OK");
        let value = value.unwrap_or_else(|| panic!("{command}: {answer}"));
        value.trim().to_owned()
    }

    fn read(&self, register: u16) -> u8 {
        let value = self.qtest(&format!("inb {register:#x}"));
        let hex = value.strip_prefix("0x").expect("a number");
        u8::from_str_radix(hex.trim_start_matches("00"), 16).unwrap_or(0)
    }

    fn configure(&self, register: u32, value: u32) {
        let address = 0x8000_0000 | SLOT << 11 | register;
        self.qtest(&format!("outl {CONFIG_ADDRESS:#x} {address:#x}"));
        self.qtest(&format!("outl {CONFIG_DATA:#x} {value:#x}"));
    }
}

impl Peer for SerialPort {
    fn open(&self) {
        self.execute(
            "device_add",
            json!({
                "driver": "pci-serial", "id": "card", "chardev": "serial",
                "addr": format!("{SLOT:x}.0"),
            }),
        );
        // The address of its registers, and the permission to use them.
        self.configure(0x10, REGISTERS.into());
        self.configure(0x04, 1);
    }

    fn send(&self, bytes: &[u8]) {
        for byte in bytes {
            self.qtest(&format!("outb {REGISTERS:#x} {byte:#x}"));
        }
    }

    fn received(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        while self.read(LINE_STATUS) & 1 == 1 {
            bytes.push(self.read(REGISTERS));
        }
        bytes
    }

    fn close(&self) {
        self.execute("device_del", json!({ "id": "card" }));
        self.qtest(&format!("outl {EJECT_BUS:#x} 0"));
        self.qtest(&format!("outl {EJECT_SLOT:#x} {:#x}", 1 << SLOT));
    }

    fn reopens(&self) -> bool {
        true
    }

    fn keeps_early_bytes(&self) -> bool {
        false
    }

    fn holds_back(&self) -> bool {
        false
    }

    fn finish(self: Box<Self>, main: &MainLoop) {
        self.client.finish(main);
    }
}
