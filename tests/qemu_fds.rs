// SPDX-License-Identifier: MIT OR Apache-2.0
//! File descriptors that are sent to a real QEMU, over a Unix socket and over D-Bus.
#![cfg(feature = "spice")]

mod common;

use std::fs::{self, File};
use std::net::TcpListener;
use std::path::{Path, PathBuf};

use common::dbus::{Bus, with_monitor};
use common::main_loop::{MainLoop, with_default, with_own_pushed};
use common::qemu::{Config, Program, Qemu};
use common::script::Ends;
use common::spice::Client;
use serde_json::{Value, json};
use spice_qmp::qmp::Band;
use spice_qmp::{Error, ErrorClass, QmpPort, UsageError};

fn open(main: &MainLoop, address: &str) -> QmpPort {
    main.block_on(QmpPort::open(address)).unwrap()
}

fn each(test: impl Fn(&MainLoop, &Qemu, &QmpPort)) {
    with_own_pushed(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let port = open(main, &format!("unix:{}", qemu.qmp_socket().display()));
            // With `oob`, QEMU mixes up the descriptors of two commands in its queue.
            assert_eq!(port.capabilities().join(Some(",")), "oob");
            test(main, &qemu, &port);
            main.block_on(port.close());

            let bus = Bus::start();
            let config = with_monitor(bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
            let qemu = bus.start_qemu(config, &program);
            let connection = bus.connect();
            let found = QmpPort::find_on_bus(&connection, Some("org.qemu"));
            let port = main.block_on(found).unwrap();
            assert_eq!(port.capabilities().join(Some(",")), "oob");
            test(main, &qemu, &port);
            main.block_on(port.close());
        }
    });
}

fn file(qemu: &Qemu, name: &str) -> PathBuf {
    let path = qemu.dir().join(name);
    fs::write(&path, vec![0; 64 << 10]).expect("a file");
    path
}

fn run(main: &MainLoop, port: &QmpPort, command: &str, arguments: Value) -> Value {
    let reply = main.block_on(port.execute(command, arguments));
    reply.unwrap_or_else(|error| panic!("{command}: {error}"))
}

/// The file behind a descriptor of QEMU's.
fn behind(qemu: &Qemu, fd: &Value) -> PathBuf {
    fs::read_link(format!("/proc/{}/fd/{fd}", qemu.pid())).expect("QEMU has it")
}

/// How many descriptors of QEMU's refer to this file.
fn count(qemu: &Qemu, path: &Path) -> usize {
    let all = fs::read_dir(format!("/proc/{}/fd", qemu.pid())).expect("QEMU runs");
    let links = all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    links.filter(|link| link == path).count()
}

#[test]
fn getfd_and_closefd() {
    each(|main, qemu, port| {
        let path = file(qemu, "got");
        let arguments = json!({ "fdname": "mine" });
        let call = port
            .execute::<Value>("getfd", &arguments)
            .fds([File::open(&path).unwrap()]);
        // This process has closed it, and QEMU has not received it yet.
        assert_eq!(count(qemu, &path), 0);
        assert_eq!(main.block_on(call).unwrap(), json!({}));
        assert_eq!(count(qemu, &path), 1);
        run(main, port, "closefd", arguments.clone());
        assert_eq!(count(qemu, &path), 0);

        let without = main.block_on(port.execute::<Value>("getfd", &arguments));
        let Err(Error::Command { class, desc, .. }) = without else {
            panic!("{without:?}");
        };
        assert_eq!(class, ErrorClass::Generic);
        assert!(desc.contains("SCM_RIGHTS"), "{desc}");
    });
}

#[test]
fn a_disk_of_a_descriptor() {
    each(|main, qemu, port| {
        let path = file(qemu, "disk.raw");
        let added = port
            .execute::<Value>("add-fd", json!({ "fdset-id": 1, "opaque": "rdonly:disk" }))
            .fds([File::open(&path).unwrap()]);
        let added = main.block_on(added).unwrap();
        assert_eq!(added["fdset-id"], 1);
        assert_eq!(behind(qemu, &added["fd"]), path);

        let node = json!({
            "node-name": "disk", "driver": "file", "filename": "/dev/fdset/1", "read-only": true,
        });
        run(main, port, "blockdev-add", node);
        let nodes = run(main, port, "query-named-block-nodes", json!({}));
        assert_eq!(nodes[0]["image"]["virtual-size"], 64 << 10);
        assert_eq!(nodes[0]["image"]["filename"], "/dev/fdset/1");
        run(main, port, "blockdev-del", json!({ "node-name": "disk" }));
        // QEMU 7.2 frees it only while the machine runs.
        run(main, port, "cont", json!({}));
        run(main, port, "remove-fd", json!({ "fdset-id": 1 }));
        main.until("QEMU's close", || count(qemu, &path) == 0);
    });
}

/// All at once, others between them, and behind a slow one.
#[test]
fn each_of_many_gets_its_own() {
    each(|main, qemu, port| {
        let ends = Ends::default();
        common::script::call(port, "query-qmp-schema", &ends);
        let mut tasks = Vec::new();
        for number in 0..40 {
            let path = file(qemu, &format!("disk{number}"));
            let call = port
                .execute::<Value>("add-fd", json!({ "fdset-id": number }))
                .fds([File::open(&path).unwrap()]);
            tasks.push((number, path, main.spawn(call)));
            common::script::call(port, "query-name", &ends);
            if number % 8 == 0 {
                main.turn();
            }
        }
        for (number, path, task) in tasks {
            let added = main.join("a reply", &task).unwrap();
            assert_eq!(added["fdset-id"], number);
            assert_eq!(behind(qemu, &added["fd"]), path);
        }
        main.until("the rest", || ends.borrow().len() == 41);
        assert!(ends.borrow().iter().all(|(_, end)| end.is_ok()));
    });
}

/// The first one is the command's.
#[test]
fn more_than_one_for_a_command() {
    each(|main, qemu, port| {
        let (first, second) = (file(qemu, "first"), file(qemu, "second"));
        let files = [&first, &second].map(|path| File::open(path).unwrap());
        let added = port.execute::<Value>("add-fd", ()).fds(files);
        let added = main.block_on(added).unwrap();
        assert_eq!(behind(qemu, &added["fd"]), first);
        assert_eq!(count(qemu, &second), 0);
        // As many as can be sent, more than QEMU accepts.
        let file = File::open(&second).unwrap();
        let all = std::iter::repeat_n(&file, spice_qmp::MAX_FDS);
        let added = main.block_on(port.execute::<Value>("add-fd", ()).fds(all));
        assert_eq!(behind(qemu, &added.unwrap()["fd"]), second);
        assert_eq!(count(qemu, &second), 1);
    });
}

#[track_caller]
fn is_refused(main: &MainLoop, port: &QmpPort, band: Band) {
    let arguments = json!({ "fdname": "mine" });
    let call = match band {
        Band::In => port.execute::<Value>("getfd", arguments),
        Band::Out => port.execute_oob::<Value>("getfd", arguments),
    };
    let end = main.block_on(call.fds([std::io::stdin()]));
    let Err(Error::Usage(UsageError::NotSupported(text))) = end else {
        panic!("{end:?}");
    };
    assert!(text.starts_with("getfd: "), "{text}");
    assert!(port.ready());
}

#[test]
fn neither_spice_nor_tcp_takes_any() {
    with_own_pushed(|main| {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", free.local_addr().unwrap());
        drop(free);
        let qemu = Config::new()
            .arg("-qmp")
            .arg(format!("{address},server=on,wait=off"))
            .start(&Program::system());
        let port = open(main, &address);
        is_refused(main, &port, Band::In);
        is_refused(main, &port, Band::Out);
        drop(qemu);
    });
    with_default(|main| {
        let qemu = Config::new().start(&Program::system());
        let client = Client::new(&qemu);
        let port = QmpPort::get(client.connect(main));
        main.block_on(port.wait_ready()).unwrap();
        Client::settle(main, &port);
        is_refused(main, &port, Band::In);
        main.block_on(port.close());
        client.finish(main);
    });
}
