// SPDX-License-Identifier: MIT OR Apache-2.0
//! Screenshots of real QEMU, over a Unix socket and over D-Bus.
#![cfg(feature = "spice")]

mod common;

use std::fs;
use std::future::{IntoFuture, poll_fn};
use std::net::TcpListener;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Poll;
use std::time::Duration;

use common::dbus::{Bus, with_monitor};
use common::main_loop::{MainLoop, with_default, with_own_pushed};
use common::qemu::{Config, Program, Qemu};
use common::spice::Client;
use serde_json::{Value, json};
use spice_qmp::{Error, Machine, QmpPort, Screenshot, UsageError};

fn with_screen(config: Config) -> Config {
    let add = |config: Config, device: &str| config.arg("-device").arg(device);
    // QEMU 7.2 frees descriptors removed from a set only while the machine runs.
    let config = add(config, "VGA,id=first").running();
    add(config, "secondary-vga,id=second")
}

/// The descriptors of this process are counted.
fn alone() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

fn each(test: impl Fn(&MainLoop, &Qemu, &QmpPort)) {
    let _alone = alone();
    with_own_pushed(|main| {
        for program in Program::all() {
            let qemu = with_screen(Config::new()).start(&program);
            let address = format!("unix:{}", qemu.qmp_socket().display());
            let port = main.block_on(QmpPort::open(&address)).unwrap();
            test(main, &qemu, &port);
            main.block_on(port.close());

            let bus = Bus::start();
            let config = with_screen(bus.qemu());
            let config = with_monitor(config, "q", "org.qemu.monitor.qmp.0", "control");
            let qemu = bus.start_qemu(config, &program);
            let connection = bus.connect();
            let found = QmpPort::find_on_bus(&connection, Some("org.qemu"));
            let port = main.block_on(found).unwrap();
            test(main, &qemu, &port);
            main.block_on(port.close());
        }
    });
}

/// Width and height, from the first chunk of a PNG file.
fn size_of(png: &[u8]) -> (u32, u32) {
    assert_eq!(&png[..16], b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR");
    let number = |at| u32::from_be_bytes(png[at..at + 4].try_into().expect("four bytes"));
    (number(16), number(20))
}

fn fd_sets(main: &MainLoop, port: &QmpPort) -> Value {
    let sets = main.block_on(port.execute("query-fdsets", ()));
    sets.expect("QEMU answers")
}

fn take(main: &MainLoop, shot: Screenshot) -> Result<glib::Bytes, Error> {
    main.block_on(shot.into_future())
}

/// How many sets QEMU has, all of which are empty.
fn sets_without_fds(main: &MainLoop, port: &QmpPort) -> usize {
    let sets = fd_sets(main, port);
    let sets = sets.as_array().expect("an array");
    assert!(sets.iter().all(|set| set["fds"] == json!([])), "{sets:?}");
    sets.len()
}

/// How many descriptors of QEMU's are memory for a screenshot.
fn fds_of_qemu(qemu: &Qemu) -> usize {
    count(&format!("/proc/{}/fd", qemu.pid()))
}

/// How many descriptors this process has that are memory for a screenshot.
fn open_pictures() -> usize {
    count("/proc/self/fd")
}

fn count(folder: &str) -> usize {
    let all = fs::read_dir(folder).expect("Linux");
    let links = all.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
    links
        .filter(|link| link.to_string_lossy().contains("memfd:screenshot"))
        .count()
}

#[test]
fn a_picture_of_the_size_of_the_screen() {
    each(|main, _, port| {
        let machine = Machine::new(port);
        // The second one is unused: QEMU draws a message that says so.
        for shot in [
            machine.screenshot().device("second"),
            machine.screenshot().device("second").head(0),
        ] {
            assert_eq!(size_of(&take(main, shot).unwrap()), (640, 480));
            assert!(sets_without_fds(main, port) <= 1);
        }
        // The BIOS starts text mode, on the first one.
        main.until("text", || {
            size_of(&take(main, machine.screenshot()).unwrap()) == (720, 400)
        });
        assert!(sets_without_fds(main, port) <= 1);
        let first = take(main, machine.screenshot().device("first"));
        assert_eq!(size_of(&first.unwrap()), (720, 400));
    });
}

#[test]
fn a_hundred_leave_nothing() {
    each(|main, _, port| {
        let machine = Machine::new(port);
        take(main, machine.screenshot()).unwrap();
        let (sets, open) = (sets_without_fds(main, port), open_pictures());
        for _ in 0..100 {
            take(main, machine.screenshot()).unwrap();
        }
        assert_eq!(sets_without_fds(main, port), sets);
        assert_eq!(open_pictures(), open);
        // Concurrently.
        let both = [(); 2].map(|()| main.spawn(machine.screenshot().into_future()));
        for task in both {
            size_of(&main.join("a picture", &task).unwrap());
        }
        assert!(sets_without_fds(main, port) <= sets + 1);
        drop(machine);
        main.until("the end of the machine", || open_pictures() < open);
    });
}

/// QEMU 7.2 frees no descriptor then.
#[test]
fn a_paused_machine_gets_no_more_descriptors() {
    each(|main, qemu, port| {
        main.block_on(port.execute::<Value>("stop", ())).unwrap();
        let machine = Machine::new(port);
        for _ in 0..20 {
            size_of(&take(main, machine.screenshot()).unwrap());
            assert!(fds_of_qemu(qemu) <= 1);
        }
        main.block_on(port.execute::<Value>("cont", ())).unwrap();
        take(main, machine.screenshot()).unwrap();
        sets_without_fds(main, port);
        assert_eq!(fds_of_qemu(qemu), 0);
    });
}

#[test]
fn a_failure_leaves_nothing() {
    each(|main, qemu, port| {
        let machine = Machine::new(port);
        for shot in [
            machine.screenshot().device("no-such-device"),
            machine.screenshot().device("first").head(7),
            machine.screenshot().head(1),
        ] {
            let end = take(main, shot);
            assert!(matches!(end, Err(Error::Command { .. })), "{end:?}");
            assert_eq!(fd_sets(main, port), json!([]));
            assert_eq!(fds_of_qemu(qemu), 0);
        }
    });
}

/// With each of its commands under way, the first time and later.
#[test]
fn dropping_it_leaves_nothing() {
    each(|main, qemu, port| {
        let machine = Machine::new(port);
        let mut ends = Vec::new();
        for polls in [1, 2, 1, 2, 3, 4, 1, 2, 3, 4] {
            let mut shot = machine.screenshot().into_future();
            let mut left = polls;
            let end = main.block_on(poll_fn(|cx| {
                left -= 1;
                match shot.as_mut().poll(cx) {
                    Poll::Ready(end) => Poll::Ready(Some(end.unwrap())),
                    Poll::Pending if left == 0 => Poll::Ready(None),
                    Poll::Pending => Poll::Pending,
                }
            }));
            drop(shot);
            ends.push(end.is_some());
            main.until("the end of its calls", || port.pending() == 0);
            assert!(sets_without_fds(main, port) <= 1);
            assert_eq!(fds_of_qemu(qemu), 0);
        }
        // From the second picture on, it is asked what is left.
        let whole = [5, 9];
        for (at, end) in ends.into_iter().enumerate() {
            assert_eq!(end, whole.contains(&at), "{at}");
        }
    });
}

#[test]
fn a_deadline_leaves_nothing() {
    each(|main, qemu, port| {
        let machine = Machine::new(port);
        qemu.stop();
        let end = take(main, machine.screenshot().timeout(Duration::from_millis(1)));
        assert!(matches!(end, Err(Error::TimedOut { .. })), "{end:?}");
        port.set_command_timeout(1);
        let end = take(main, machine.screenshot());
        assert!(matches!(end, Err(Error::TimedOut { .. })), "{end:?}");
        port.set_command_timeout(0);
        qemu.cont();
        main.until("the end of its calls", || port.pending() == 0);
        assert_eq!(fd_sets(main, port), json!([]));
        assert_eq!(fds_of_qemu(qemu), 0);
        take(main, machine.screenshot()).unwrap();
        main.block_on(port.close());
        let end = take(main, machine.screenshot());
        assert!(
            matches!(end, Err(Error::Usage(UsageError::NotReady { .. }))),
            "{end:?}"
        );
    });
}

#[track_caller]
fn is_refused(main: &MainLoop, port: &QmpPort) {
    let end = take(main, Machine::new(port).screenshot());
    assert!(
        matches!(end, Err(Error::Usage(UsageError::NotSupported(_)))),
        "{end:?}"
    );
    assert_eq!(port.pending(), 0);
    assert_eq!(open_pictures(), 0);
}

#[test]
fn neither_spice_nor_tcp_can() {
    let _alone = alone();
    with_own_pushed(|main| {
        let free = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("tcp:{}", free.local_addr().unwrap());
        drop(free);
        let qemu = Config::new()
            .arg("-qmp")
            .arg(format!("{address},server=on,wait=off"))
            .start(&Program::system());
        let port = main.block_on(QmpPort::open(&address)).unwrap();
        is_refused(main, &port);
        drop(qemu);
    });
    with_default(|main| {
        let qemu = Config::new().start(&Program::system());
        let client = Client::new(&qemu);
        let port = QmpPort::get(client.connect(main));
        main.block_on(port.wait_ready()).unwrap();
        Client::settle(main, &port);
        is_refused(main, &port);
        main.block_on(port.close());
        client.finish(main);
    });
}
