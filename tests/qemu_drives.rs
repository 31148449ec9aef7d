// SPDX-License-Identifier: MIT OR Apache-2.0
//! The drives of real machines, over a socket and over SPICE.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::fs::{self, File};
use std::future::IntoFuture;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use common::dbus::{Bus, with_monitor};
use common::main_loop::{MainLoop, with_default, with_own_pushed};
use common::qemu::{Config, Monitor, Program, Qemu};
use common::random::Random;
use common::run_states::RunState;
use common::spice::Client;
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Drive, Error, List, Machine, QmpPort, UsageError};
use tempfile::TempDir;

fn open(main: &MainLoop, qemu: &Qemu) -> QmpPort {
    let address = format!("unix:{}", qemu.qmp_socket().display());
    main.block_on(QmpPort::open(&address))
        .expect("QEMU listens")
}

/// Runs a test on the port of each QEMU, over a socket and over SPICE.
fn each(
    config: impl Fn() -> Config + Send + Clone + 'static,
    test: impl Fn(&MainLoop, &Qemu, &QmpPort) + Send + Clone + 'static,
) {
    let (config_here, test_here) = (config.clone(), test.clone());
    with_own_pushed(|main| {
        for program in Program::all() {
            println!("{} over a socket", program.version());
            let qemu = config_here().start(&program);
            let port = open(main, &qemu);
            test_here(main, &qemu, &port);
            main.block_on(port.close());
        }
    });
    with_default(move |main| {
        for program in Program::all() {
            println!("{} over SPICE", program.version());
            let qemu = config().start(&program);
            let client = Client::new(&qemu);
            let port = main.block_on(QmpPort::find(&client.session)).unwrap();
            test(main, &qemu, &port);
            main.block_on(port.close());
            drop(port);
            client.finish(main);
        }
    });
}

/// Files that serve as media.
#[derive(Clone)]
struct Media {
    folder: Arc<TempDir>,
}

impl Media {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for name in ["a.iso", "b.iso", "c.img", "d.img"] {
            fs::write(folder.path().join(name), vec![7; 64 << 10]).expect("a file");
        }
        let folder = Arc::new(folder);
        Self { folder }
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).display().to_string()
    }
}

fn with(config: Config, args: &[&str]) -> Config {
    args.iter().fold(config, |config, arg| config.arg(*arg))
}

/// A machine with a drive of each kind. A disk writes to `c.img`.
fn all_drives(media: &Media) -> Config {
    let a = media.path("a.iso");
    let node = |name: &str| {
        format!("driver=raw,node-name={name},read-only=on,file.driver=file,file.filename={a}")
    };
    let written = format!("driver=file,node-name=w,filename={}", media.path("c.img"));
    let legacy = format!("if=none,id=drv,format=raw,media=cdrom,file={a}");
    let config = with(
        Config::new(),
        &["-device", "ide-cd,id=cd0,bus=ide.0,unit=0"],
    );
    let config = with(
        config,
        &[
            "-drive",
            &legacy,
            "-device",
            "ide-cd,id=cd1,drive=drv,bus=ide.0,unit=1",
        ],
    );
    let config = with(
        config,
        &[
            "-blockdev",
            &node("n0"),
            "-device",
            "ide-cd,id=cd2,drive=n0,bus=ide.1,unit=0",
        ],
    );
    let config = with(config, &["-device", "ide-cd,bus=ide.1,unit=1"]);
    let config = with(
        config,
        &[
            "-device",
            "virtio-scsi-pci,id=s0",
            "-device",
            "scsi-cd,id=sc0,bus=s0.0",
        ],
    );
    let config = with(
        config,
        &["-device", "isa-fdc,id=f", "-device", "floppy,id=fl0"],
    );
    let config = with(
        config,
        &[
            "-device",
            "qemu-xhci,id=x",
            "-blockdev",
            &node("n1"),
            "-device",
            "usb-storage,id=us0,drive=n1,removable=on",
        ],
    );
    let config = with(
        config,
        &[
            "-blockdev",
            &written,
            "-device",
            "virtio-blk-pci,id=vb0,drive=w",
        ],
    );
    // No device uses it.
    with(config, &["-drive", "if=none,id=loose"])
}

/// What a drive shows: id, name, removable, medium, read-only, locked, tray-open,
/// io-status.
type Shown = (
    String,
    String,
    bool,
    Option<String>,
    bool,
    bool,
    bool,
    Option<String>,
);

fn shown(list: &List) -> Vec<Shown> {
    let drives = list.iter::<Drive>().map(|drive| drive.expect("a drive"));
    let each = drives.map(|drive| {
        (
            drive.id(),
            drive.name(),
            drive.removable(),
            drive.medium(),
            drive.read_only(),
            drive.locked(),
            drive.tray_open(),
            drive.io_status(),
        )
    });
    each.collect()
}

/// QEMU's state, queried by another client.
fn expected(monitor: &mut Monitor) -> Vec<Shown> {
    let blocks = monitor.execute("query-block", None).expect("QEMU answers");
    let blocks = blocks.as_array().expect("a list").iter();
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let is = |value: &Value| value.as_bool().unwrap_or_default();
    let drives = blocks.filter_map(|block| {
        let id = text(&block["qdev"])?;
        let device = text(&block["device"]).filter(|name| !name.is_empty());
        let name = device.unwrap_or_else(|| match id.split('/').nth(3) {
            Some(name) => name.to_owned(),
            None => id.clone(),
        });
        let inserted = &block["inserted"];
        Some((
            id,
            name,
            is(&block["removable"]),
            text(&inserted["file"]),
            is(&inserted["ro"]),
            is(&block["locked"]),
            is(&block["tray_open"]),
            text(&block["io-status"]),
        ))
    });
    drives.collect()
}

#[track_caller]
fn check(list: &List, monitor: &mut Monitor, what: &str) {
    assert_eq!(shown(list), expected(monitor), "{what}");
}

fn load(main: &MainLoop, list: &List) {
    list.refresh();
    main.until("the drives", || !list.loading());
    assert!(list.error().is_none(), "{:?}", list.error());
}

fn find(list: &List, id: &str) -> Drive {
    let mut drives = list.iter::<Drive>().map(|drive| drive.expect("a drive"));
    let found = drives.find(|drive| drive.id() == id);
    found.unwrap_or_else(|| panic!("no {id}"))
}

fn insert(main: &MainLoop, drive: &Drive, file: &str) -> Result<(), Error> {
    main.block_on(drive.insert(file).format("raw").into_future())
}

fn eject(main: &MainLoop, drive: &Drive, force: bool) -> Result<(), Error> {
    main.block_on(drive.eject(force))
}

/// Builds a list from the notifications.
fn replay(list: &List) -> Rc<RefCell<Vec<glib::Object>>> {
    let copy = Rc::new(RefCell::new(list.snapshot()));
    let seen = copy.clone();
    list.connect_items_changed(move |list, at, removed, added| {
        let new = (at..at + added).map(|nth| list.item(nth).expect("an item"));
        let (at, removed) = (at as usize, removed as usize);
        seen.borrow_mut().splice(at..at + removed, new);
        assert_eq!(*seen.borrow(), list.snapshot());
    });
    copy
}

#[test]
fn every_kind_of_drive_takes_a_medium_and_ejects_it() {
    let media = Media::new();
    let (a, b) = (media.path("a.iso"), media.path("b.iso"));
    each(
        move || all_drives(&media),
        move |main, qemu, port| {
            let (list, mut monitor) = (Machine::new(port).drives(), qemu.monitor());
            load(main, &list);
            check(&list, &mut monitor, "at first");
            assert_eq!(list.n_items(), 8);
            let mut removable = 0;
            for drive in list.iter::<Drive>() {
                let drive = drive.unwrap();
                let what = drive.id();
                if !drive.removable() {
                    let before = drive.medium();
                    insert(main, &drive, &a).unwrap_err();
                    eject(main, &drive, true).unwrap_err();
                    assert_eq!(drive.medium(), before, "{what}");
                    continue;
                }
                removable += 1;
                for file in [&a, &b] {
                    insert(main, &drive, file).unwrap_or_else(|error| panic!("{what}: {error}"));
                    assert_eq!(drive.medium().as_ref(), Some(file), "{what}");
                    check(&list, &mut monitor, &what);
                }
                let error = insert(main, &drive, "/none.iso").unwrap_err().to_string();
                assert!(error.contains("No such file"), "{error}");
                let unknown = drive.insert(&a).format("nofmt");
                let error = main.block_on(unknown.into_future()).unwrap_err();
                assert!(error.to_string().contains("nofmt"), "{error}");
                assert_eq!(drive.medium().as_ref(), Some(&b), "{what}");
                check(&list, &mut monitor, &what);
                eject(main, &drive, false).unwrap_or_else(|error| panic!("{what}: {error}"));
                assert_eq!(
                    (drive.medium(), drive.lost_medium()),
                    (None, None),
                    "{what}"
                );
                check(&list, &mut monitor, &what);
                for read_only in [false, true] {
                    let change = drive.insert(&b).format("raw").read_only(read_only);
                    main.block_on(change.into_future()).unwrap();
                    assert_eq!(drive.read_only(), read_only, "{what}");
                }
                eject(main, &drive, false).unwrap();
            }
            assert_eq!(removable, 7);
        },
    );
}

#[test]
fn two_hundred_changes_by_two_clients_are_all_shown() {
    let media = Media::new();
    let files = ["a.iso", "b.iso", "d.img", "none.iso"].map(|name| media.path(name));
    each(
        move || all_drives(&media),
        move |main, qemu, port| {
            let (list, mut monitor) = (Machine::new(port).drives(), qemu.monitor());
            load(main, &list);
            let copy = replay(&list);
            let random = Random::new(13);
            let ids = expected(&mut monitor).into_iter().map(|drive| drive.0);
            let ids: Vec<_> = ids.collect();
            let (mut own, mut silent) = (0, 0);
            for turn in 0..200 {
                let id = &ids[random.below(ids.len())];
                let file = &files[random.below(files.len())];
                let before: Vec<_> = list.iter::<Drive>().map(Result::unwrap).collect();
                let drive = before.iter().find(|drive| drive.id() == *id);
                let known = monitor.events().len();
                let what = if random.below(3) > 0
                    && let Some(drive) = drive
                {
                    own += 1;
                    // Another test covers the errors.
                    let result = match random.below(3) {
                        0 => eject(main, drive, random.coin()),
                        _ => insert(main, drive, file),
                    };
                    format!("turn {turn}: {id} {file} {result:?}")
                } else {
                    let result = by_another(&mut monitor, &random, id, file);
                    let events = &monitor.events()[known..];
                    let is_reported = |event: &Value| {
                        event["event"] == "DEVICE_TRAY_MOVED" || event["event"] == "DEVICE_DELETED"
                    };
                    if events.iter().any(is_reported) {
                        let then = expected(&mut monitor);
                        main.until("what was reported", || shown(&list) == then);
                    } else {
                        silent += 1;
                        load(main, &list);
                    }
                    format!("turn {turn}: {result}")
                };
                check(&list, &mut monitor, &what);
                assert_eq!(*copy.borrow(), list.snapshot(), "{what}");
                // A drive that stays is the same object.
                for drive in before {
                    let now = list.iter::<Drive>().map(Result::unwrap);
                    let now = now.into_iter().find(|other| other.id() == drive.id());
                    assert!(now.is_none_or(|now| now == drive), "{what}");
                }
            }
            assert!(own > 80 && silent > 5, "{own}, {silent}");
        },
    );
}

/// Changes a drive, plugs it in or unplugs it.
fn by_another(monitor: &mut Monitor, random: &Random, id: &str, file: &str) -> String {
    let (command, arguments) = match random.below(8) {
        0 => ("blockdev-open-tray", json!({ "id": id, "force": true })),
        1 => ("blockdev-close-tray", json!({ "id": id })),
        2 => ("blockdev-remove-medium", json!({ "id": id })),
        3 => ("eject", json!({ "id": id, "force": true })),
        4 => ("device_del", json!({ "id": "sc0" })),
        5 => (
            "device_add",
            json!({ "driver": "scsi-cd", "id": "sc0", "bus": "s0.0" }),
        ),
        _ => (
            "blockdev-change-medium",
            json!({ "id": id, "filename": file, "format": "raw" }),
        ),
    };
    let result = monitor.execute(command, Some(arguments.clone()));
    if command == "device_del" && result.is_ok() {
        // That takes a while after the reply. A drive with the same id could exist before.
        while expected(monitor).iter().any(|drive| drive.0 == "sc0") {
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }
    format!("{command} {arguments} {result:?}")
}

#[test]
fn a_file_that_two_drives_cannot_share_costs_the_old_medium() {
    let media = Media::new();
    let (a, written) = (media.path("a.iso"), media.path("c.img"));
    each(
        move || all_drives(&media),
        move |main, qemu, port| {
            let (list, mut monitor) = (Machine::new(port).drives(), qemu.monitor());
            load(main, &list);
            for id in ["cd0", "sc0", "fl0"] {
                let drive = find(&list, id);
                insert(main, &drive, &a).unwrap();
                let error = insert(main, &drive, &written).unwrap_err().to_string();
                assert!(error.contains("lock"), "{error}");
                assert!(error.contains(&format!("{a} was removed")), "{error}");
                assert_eq!(
                    (drive.medium(), drive.lost_medium().as_ref()),
                    (None, Some(&a))
                );
                check(&list, &mut monitor, "lost");
                insert(main, &drive, &drive.lost_medium().unwrap()).unwrap();
                assert_eq!(
                    (drive.medium().as_ref(), drive.lost_medium()),
                    (Some(&a), None)
                );
                assert!(!drive.tray_open());
                check(&list, &mut monitor, "repaired");
            }
        },
    );
}

#[test]
fn drives_come_and_go() {
    let media = Media::new();
    each(
        move || all_drives(&media),
        |main, qemu, port| {
            let (list, mut monitor) = (Machine::new(port).drives(), qemu.monitor());
            load(main, &list);
            let (copy, gone) = (replay(&list), find(&list, "sc0"));
            for id in ["sc0", "us0"] {
                let number = list.n_items();
                monitor
                    .execute("device_del", Some(json!({ "id": id })))
                    .unwrap();
                main.until("it is gone", || list.n_items() < number);
                check(&list, &mut monitor, id);
            }
            let error = insert(main, &gone, "/none.iso").unwrap_err();
            assert!(error.to_string().contains("sc0"), "{error}");
            let add = json!({ "driver": "scsi-cd", "id": "sc0", "bus": "s0.0" });
            monitor.execute("device_add", Some(add)).unwrap();
            load(main, &list);
            check(&list, &mut monitor, "added");
            assert_ne!(find(&list, "sc0"), gone);
            assert_eq!(*copy.borrow(), list.snapshot());
        },
    );
}

/// A machine whose guest uses the first drive of the second bus.
fn with_cd(media: &Media, state: RunState, program: &Program) -> common::run_states::Machine {
    let node = format!(
        "driver=raw,node-name=n0,read-only=on,file.driver=file,file.filename={}",
        media.path("a.iso")
    );
    let config = with(
        Config::new(),
        &[
            "-blockdev",
            &node,
            "-device",
            "ide-cd,id=cd0,drive=n0,bus=ide.1,unit=0",
        ],
    );
    state.start_with(config, program)
}

#[test]
fn a_tray_that_the_guest_has_locked_is_opened_by_force_only() {
    let media = Media::new();
    let (a, b) = (media.path("a.iso"), media.path("b.iso"));
    with_own_pushed(|main| {
        for (program, changed) in Program::all()
            .iter()
            .flat_map(|it| [(it, true), (it, false)])
        {
            let mut guest = with_cd(&media, RunState::LOCKS_TRAY, program);
            let port = open(main, &guest.qemu);
            let list = Machine::new(&port).drives();
            load(main, &list);
            let drive = find(&list, "cd0");
            assert!(!drive.locked());
            guest.reach();
            // QEMU reports no event for it.
            main.until("it is locked", || {
                load(main, &list);
                drive.locked()
            });
            for error in [eject(main, &drive, false), insert(main, &drive, &b)] {
                let error = error.unwrap_err().to_string();
                assert!(error.contains("locked"), "{error}");
                assert_eq!(drive.medium().as_ref(), Some(&a));
                assert!(drive.locked() && !drive.tray_open());
                check(&list, &mut guest.monitor, "locked");
            }
            if changed {
                let change = drive.insert(&b).format("raw").force();
                main.block_on(change.into_future()).unwrap();
                assert_eq!(drive.medium().as_ref(), Some(&b));
            } else {
                eject(main, &drive, true).unwrap();
                assert!(drive.medium().is_none() && drive.tray_open());
            }
            assert!(!drive.locked());
            check(&list, &mut guest.monitor, "by force");
            main.block_on(port.close());
        }
    });
}

#[test]
fn a_guest_that_ejects_leaves_the_medium_in_the_open_tray() {
    let media = Media::new();
    let (a, b) = (media.path("a.iso"), media.path("b.iso"));
    with_own_pushed(|main| {
        for program in Program::all() {
            let mut guest = with_cd(&media, RunState::EJECTS_MEDIUM, &program);
            let port = open(main, &guest.qemu);
            let list = Machine::new(&port).drives();
            load(main, &list);
            let drive = find(&list, "cd0");
            guest.reach();
            main.until("the open tray", || drive.tray_open());
            assert_eq!(drive.medium().as_ref(), Some(&a));
            check(&list, &mut guest.monitor, "ejected");
            insert(main, &drive, &b).unwrap();
            assert!(!drive.tray_open());
            check(&list, &mut guest.monitor, "inserted");
            main.block_on(port.close());
        }
    });
}

fn fd_sets(monitor: &mut Monitor) -> Value {
    monitor.execute("query-fdsets", None).expect("QEMU answers")
}

#[test]
fn a_medium_comes_as_a_descriptor() {
    let media = Media::new();
    let path = PathBuf::from(media.path("b.iso"));
    // QEMU 7.2 closes descriptors only while the machine runs.
    each(
        move || all_drives(&media).running(),
        move |main, qemu, port| {
            let (list, mut monitor) = (Machine::new(port).drives(), qemu.monitor());
            load(main, &list);
            let drive = find(&list, "sc0");
            let read = || File::open(&path).unwrap();
            let both = || File::options().read(true).write(true).open(&path).unwrap();
            let change = |file: File| drive.insert("b.iso").format("raw").fd(file);
            if is_spice(port) {
                let error = main.block_on(change(read()).into_future()).unwrap_err();
                assert!(matches!(error, Error::Usage(UsageError::NotSupported(_))));
                assert_eq!(drive.medium(), None);
                return;
            }
            for (file, read_only) in [(read(), true), (both(), false)] {
                main.block_on(change(file).into_future()).unwrap();
                let medium = drive.medium().expect("it is there");
                assert!(medium.starts_with("/dev/fdset/"), "{medium}");
                assert_eq!(drive.read_only(), read_only);
                check(&list, &mut monitor, "inserted");
            }
            eject(main, &drive, false).unwrap();
            assert_eq!(fd_sets(&mut monitor), json!([]));
            // A refused insertion leaves nothing either.
            let wrong = change(read()).read_only(false);
            main.block_on(wrong.into_future()).unwrap_err();
            main.until("it is removed", || port.pending() == 0);
            assert_eq!(fd_sets(&mut monitor), json!([]));
        },
    );
}

fn is_spice(port: &QmpPort) -> bool {
    port.channel().is_some()
}

#[test]
fn a_disk_that_fails_shows_it() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let mut guest = RunState::IO_ERROR.start(&program);
            let port = open(main, &guest.qemu);
            let list = Machine::new(&port).drives();
            load(main, &list);
            let disk = find(&list, "hd0");
            assert_eq!(disk.io_status().as_deref(), Some("ok"));
            guest.reach();
            main.until("nospace", || disk.io_status().as_deref() == Some("nospace"));
            check(&list, &mut guest.monitor, "stopped");
            guest.resume();
            let then = expected(&mut guest.monitor);
            main.until("resumed", || shown(&list) == then);
            main.block_on(port.close());
        }
    });
}

#[test]
fn a_mute_port_is_not_asked() {
    with_default(|main| {
        for program in Program::all() {
            let mut guest = RunState::SHUTDOWN
                .start_with(with(Config::new(), &["-device", "ide-cd,id=cd0"]), &program);
            let client = Client::new(&guest.qemu);
            let port = main.block_on(QmpPort::find(&client.session)).unwrap();
            let list = Machine::new(&port).drives();
            load(main, &list);
            guest.reach();
            main.until("it is mute", || port.is_mute());
            list.refresh();
            main.until("an error", || list.error().is_some());
            assert!(!list.loading());
            assert_eq!((list.n_items(), port.pending()), (1, 0));
            guest.resume();
            main.until("no error", || list.error().is_none());
            main.until("no call", || port.pending() == 0);
            check(&list, &mut guest.monitor, "resumed");
            main.block_on(port.close());
            drop((list, port));
            client.finish(main);
        }
    });
}

#[test]
fn a_restarted_qemu_has_other_drives() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let bus = Bus::start();
            let start = |id: &str| {
                let config = with(bus.qemu(), &["-device", &format!("ide-cd,id={id}")]);
                let config = with_monitor(config, "q", "org.qemu.monitor.qmp.0", "control");
                bus.start_qemu(config, &program)
            };
            let mut qemu = start("old");
            let connection = bus.connect();
            let found = QmpPort::find_on_bus(&connection, Some("org.qemu"));
            let port = main.block_on(found).unwrap();
            let list = Machine::new(&port).drives();
            load(main, &list);
            let (old, copy) = (find(&list, "old"), replay(&list));
            qemu.kill();
            main.until("the end", || !port.ready());
            main.drain();
            assert_eq!(
                list.snapshot(),
                [old.upcast::<glib::Object>()],
                "it is kept"
            );
            drop(qemu);

            let qemu = start("new");
            main.until("the new one", || {
                list.iter::<Drive>()
                    .all(|drive| drive.unwrap().id() == "new")
            });
            check(&list, &mut qemu.monitor(), "the new one");
            assert_eq!(*copy.borrow(), list.snapshot());
            main.block_on(port.close());
        }
    });
}
