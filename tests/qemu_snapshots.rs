// SPDX-License-Identifier: MIT OR Apache-2.0
//! Snapshots on real disks of real QEMU, over a socket and over SPICE.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use common::main_loop::{MainLoop, PATIENCE, with_default};
use common::qemu::{Config, Program};
use common::random::Random;
use common::run_states::{self, COUNT, RunState};
use common::spice::Client;
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::transport::spice::Channel;
use spice_qmp::{Error, List, Machine, QmpPort, Snapshot, UsageError};

/// The environment of a test.
struct Place<'a> {
    main: &'a MainLoop,
    program: &'a Program,
    vm: run_states::Machine,
    port: QmpPort,
    machine: Machine,
    dir: &'a Path,
}

/// Over a socket and over SPICE. `prepare` creates the disks and returns QEMU's options.
fn each(
    state: RunState,
    prepare: impl Fn(&Program, &Path) -> Config + Send + 'static,
    test: impl Fn(&mut Place<'_>) + Send + 'static,
) {
    with_default(move |main| {
        for program in Program::all() {
            for over_spice in [false, true] {
                let dir = tempfile::tempdir().expect("a folder");
                println!("QEMU {}, SPICE: {over_spice}", program.version());
                let config = prepare(&program, dir.path());
                run(main, &program, over_spice, state, config, dir.path(), &test);
            }
        }
    });
}

/// Runs a machine, and checks it after the test's client has disconnected.
fn run(
    main: &MainLoop,
    program: &Program,
    over_spice: bool,
    state: RunState,
    config: Config,
    dir: &Path,
    test: impl Fn(&mut Place<'_>),
) {
    let vm = state.start_with(config, program);
    let client = over_spice.then(|| Client::new(&vm.qemu));
    let port = if let Some(client) = &client {
        main.block_on(QmpPort::find(&client.session))
    } else {
        let address = format!("unix:{}", vm.qemu.qmp_socket().display());
        main.block_on(QmpPort::open(&address))
    };
    let port = port.expect("QEMU listens");
    // As a viewer does.
    for channel in client.iter().flat_map(|client| client.session.channels()) {
        if channel.port().is_none() {
            Channel::connect(&channel);
        }
    }
    main.drain();
    let mut place = Place {
        main,
        program,
        machine: Machine::new(&port),
        port,
        vm,
        dir,
    };
    test(&mut place);
    let Place {
        port,
        machine,
        mut vm,
        ..
    } = place;
    main.block_on(port.close());
    drop((port, machine));
    if let Some(client) = client {
        client.finish(main);
    }
    // Nothing that is left harms it.
    let _ = vm.monitor.execute("cont", None);
    vm.status().expect("QEMU lives");
    vm.monitor.execute("quit", None).expect("QEMU lives");
    let exit = vm.qemu.wait_exit(PATIENCE).expect("it ends");
    assert!(exit.success(), "{exit}: {}", vm.qemu.stderr());
}

/// `qemu-img`, and its output.
fn qemu_img(args: &[&str], image: &Path) -> String {
    let output = Command::new("qemu-img").args(args).arg(image).output();
    let output = output.expect("qemu-img is needed: run ./dev setup");
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "qemu-img {args:?}: {stderr}");
    String::from_utf8(output.stdout).expect("text")
}

/// A new disk in the format qcow2.
fn image(dir: &Path, name: &str) -> PathBuf {
    let path = dir.join(format!("{name}.qcow2"));
    let output = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&path)
        .arg("16M")
        .output()
        .expect("qemu-img is needed: run ./dev setup");
    assert!(output.status.success(), "{output:?}");
    path
}

/// A node for the image, and a device for the node.
fn disk(config: Config, node: &str, file: &Path) -> Config {
    let node_of = json!({
        "driver": "qcow2", "node-name": node,
        "file": { "driver": "file", "filename": file },
    });
    config
        .arg("-blockdev")
        .arg(node_of.to_string())
        .arg("-device")
        .arg(format!("virtio-blk-pci,drive={node},id=disk-{node}"))
}

/// One disk, and a display as viewers use it.
fn one_disk(_: &Program, dir: &Path) -> Config {
    let config = disk(Config::new(), "n0", &image(dir, "n0"));
    config.arg("-vga").arg("qxl")
}

impl Place<'_> {
    fn save(&self, tag: &str) -> Result<(), Error> {
        self.main.block_on(self.machine.save_snapshot(tag))
    }

    fn load(&self, tag: &str) -> Result<(), Error> {
        self.main.block_on(self.machine.load_snapshot(tag))
    }

    fn delete(&self, tag: &str) -> Result<(), Error> {
        self.main.block_on(self.machine.delete_snapshot(tag))
    }

    /// The human monitor.
    fn hmp(&mut self, line: &str) -> String {
        let reply = self.vm.monitor.execute(
            "human-monitor-command",
            Some(json!({ "command-line": line })),
        );
        reply.expect("it answers").as_str().unwrap().to_owned()
    }

    /// What the guest has counted.
    fn count(&mut self) -> u8 {
        let line = self.hmp(&format!("xp /1xb {COUNT:#x}"));
        let (_, number) = line.trim().split_once("0x").expect("a number");
        u8::from_str_radix(number, 16).expect("a number")
    }

    /// The guest continues to count.
    fn count_to(&mut self, number: u8) {
        self.vm.reach();
        let main = self.main;
        main.until("the guest counts", || self.count() == number);
    }

    /// QEMU's state, and then the port's.
    fn assert_status(&mut self, status: &str) {
        assert_eq!(self.vm.status().as_deref(), Ok(status));
        self.main.until("the port's status", || {
            self.port.status().is_some_and(|it| it.status() == status)
        });
    }

    /// Nothing was left unfinished: the port works, and QEMU has forgotten all jobs.
    fn assert_settled(&self) {
        let jobs = self.port.execute::<Vec<Value>>("query-jobs", ());
        assert_eq!(self.main.block_on(jobs), Ok(Vec::new()));
        assert!(!self.port.is_mute());
    }

    fn stops(&self) -> usize {
        let events = self.vm.monitor.events().iter();
        events.filter(|event| event["event"] == "STOP").count()
    }
}

fn text(end: Result<(), Error>) -> String {
    end.expect_err("it has failed").to_string()
}

fn tags(list: &List) -> Vec<String> {
    let items = list.iter::<Snapshot>().map(Result::unwrap);
    items.map(|it| it.tag()).collect()
}

#[test]
fn the_memory_is_back() {
    each(RunState::COUNTS, one_disk, |place| {
        place.count_to(1);
        assert_eq!(place.save("one"), Ok(()));
        place.assert_status("running");
        place.count_to(2);
        place.count_to(3);
        assert_eq!(place.save("three"), Ok(()));
        for (tag, number) in [("one", 1), ("three", 3), ("one", 1)] {
            assert_eq!(place.load(tag), Ok(()));
            place.assert_status("running");
            assert_eq!(place.count(), number);
            place.count_to(number + 1);
            place.assert_settled();
        }
        // The same as a file.
        assert_eq!(place.load("three"), Ok(()));
        let file = place.dir.join("memory");
        let memory = json!({ "val": COUNT, "size": 1, "filename": file });
        place.vm.execute("pmemsave", memory);
        assert_eq!(fs::read(&file).unwrap(), [3]);

        let list = place.machine.snapshots();
        list.refresh();
        place.main.until("the list", || list.n_items() == 2);
        assert_eq!(place.delete("one"), Ok(()));
        assert_eq!(tags(&list), ["three"]);
        assert_eq!(
            text(place.load("one")),
            "snapshot-load: there is no snapshot \"one\""
        );
        place.assert_settled();
    });
}

#[test]
fn a_machine_that_is_paused_stays_so() {
    each(RunState::COUNTS, one_disk, |place| {
        place.count_to(1);
        assert_eq!(place.save("running"), Ok(()));
        place.count_to(2);
        place.vm.execute("stop", Value::Null);
        place.assert_status("paused");
        for tag in ["running", "paused"] {
            if tag == "paused" {
                assert_eq!(place.save(tag), Ok(()));
            }
            place.assert_status("paused");
            assert_eq!(place.load(tag), Ok(()));
            place.assert_status("paused");
            assert_eq!(place.count(), 1);
        }
        place.vm.wake();
        place.count_to(2);
        // One that was taken while paused.
        assert_eq!(place.load("paused"), Ok(()));
        place.assert_status("running");
        place.count_to(2);
    });
}

#[test]
fn impossible_operations_are_refused_while_the_machine_runs() {
    let prepare = |program: &Program, dir: &Path| {
        let config = one_disk(program, dir);
        qemu_img(&["snapshot", "-c", "disks"], &dir.join("n0.qcow2"));
        config
    };
    each(RunState::COUNTS, prepare, |place| {
        place.count_to(1);
        let stops = place.stops();
        assert_eq!(
            text(place.load("unknown")),
            "snapshot-load: there is no snapshot \"unknown\""
        );
        assert_eq!(
            text(place.load("disks")),
            "snapshot-load: the snapshot \"disks\" is of disks only, not of the machine"
        );
        assert_eq!(
            text(place.save("disks")),
            "snapshot-save: the drive disk-n0 has a snapshot \"disks\" already"
        );
        assert_eq!(
            text(place.delete("unknown")),
            "snapshot-delete: there is no snapshot \"unknown\""
        );
        place.assert_status("running");
        assert_eq!(place.stops(), stops);
        assert_eq!(place.count(), 1);
        place.count_to(2);
        assert_eq!(place.delete("disks"), Ok(()));
        assert_eq!(place.save("disks"), Ok(()));
        assert_eq!(place.load("disks"), Ok(()));
        place.assert_settled();
    });
}

/// QEMU finds that out when it has begun.
#[test]
fn a_machine_with_a_different_amount_of_memory_continues() {
    let prepare = |program: &Program, dir: &Path| {
        let file = image(dir, "n0");
        let vm = RunState::COUNTS.start_with(disk(Config::new(), "n0", &file), program);
        let mut monitor = vm.monitor;
        let save = json!({ "command-line": "savevm small" });
        let said = monitor.execute("human-monitor-command", Some(save));
        assert_eq!(said, Ok(json!("")));
        drop(vm.qemu);
        disk(Config::new(), "n0", &file).arg("-m").arg("96")
    };
    each(RunState::COUNTS, prepare, |place| {
        place.count_to(1);
        let why = text(place.load("small"));
        assert!(
            why.starts_with("snapshot-load: the state does not fit the machine: "),
            "{why}"
        );
        place.assert_status("running");
        place.assert_settled();
        // It was reset.
        place.main.until("the guest", || {
            place.hmp("info registers").contains("HLT=1")
        });
        let before = place.count();
        place.count_to(before + 1);

        place.vm.execute("stop", Value::Null);
        place.assert_status("paused");
        assert!(place.load("small").is_err());
        place.assert_status("paused");
        place.assert_settled();
    });
}

/// QEMU finds that out when it has begun, too.
#[test]
fn a_machine_whose_disk_is_full_runs_on() {
    // There is room for the first pages of the memory, or not even for these.
    for room in [1, 4] {
        let prepare = move |_: &Program, dir: &Path| full_disk(dir, room * 65536);
        each(RunState::COUNTS, prepare, |place| {
            place.count_to(1);
            let why = text(place.save("a"));
            assert!(
                why.starts_with("snapshot-save: the state of the machine cannot be written: "),
                "{why}"
            );
            place.assert_status("running");
            place.assert_settled();
            place.count_to(2);
            let list = place.machine.snapshots();
            list.refresh();
            place.main.until("the list", || !list.loading());
            assert_eq!(list.error().map(|it| it.to_string()), None);
            assert_eq!(tags(&list), [""; 0]);
        });
    }
}

/// A disk whose file can grow by this much only.
fn full_disk(dir: &Path, room: u64) -> Config {
    let path = image(dir, "n0");
    let file = fs::File::options().write(true).open(&path).unwrap();
    let full = file.metadata().unwrap().len().next_multiple_of(65536) + room;
    file.set_len(full).unwrap();
    let node = json!({
        "driver": "qcow2", "node-name": "n0",
        "file": {
            "driver": "raw", "size": full,
            "file": { "driver": "file", "filename": path },
        },
    });
    let config = Config::new().arg("-blockdev").arg(node.to_string());
    config.arg("-device").arg("ide-hd,drive=n0,id=hd0")
}

#[test]
fn a_machine_without_a_fit_disk_says_so() {
    let prepare = |_: &Program, dir: &Path| {
        let raw = dir.join("raw.img");
        fs::write(&raw, vec![0; 65536]).unwrap();
        let node = json!({ "driver": "file", "node-name": "r0", "filename": raw });
        let config = disk(Config::new(), "n0", &image(dir, "n0"));
        let config = config.arg("-blockdev").arg(node.to_string());
        config.arg("-device").arg("ide-hd,drive=r0,id=hd1")
    };
    each(RunState::COUNTS, prepare, |place| {
        let why = text(place.save("a"));
        assert!(
            why.starts_with(
                "snapshot-save: the drive hd1 has the format file, which holds no snapshots"
            ),
            "{why}"
        );
        assert!(place.hmp("savevm a").contains("does not support snapshots"));
        place.assert_status("running");
        place.assert_settled();
    });
    each(
        RunState::COUNTS,
        |_, _| Config::new(),
        |place| {
            assert_eq!(
                text(place.save("a")),
                "snapshot-save: the machine has no disk that can be written to"
            );
            assert_ne!(place.hmp("savevm a"), "");
        },
    );
}

/// The disks, and the one with the state, are those that QEMU's own `savevm` uses.
#[test]
fn disks_are_chosen_as_qemu_does() {
    let prepare = |_: &Program, dir: &Path| {
        let medium = dir.join("cd.iso");
        fs::write(&medium, vec![0; 65536]).unwrap();
        let config = Config::new()
            .arg("-drive")
            .arg(format!(
                "if=none,id=cd,media=cdrom,format=raw,file={}",
                medium.display()
            ))
            .arg("-device")
            .arg("ide-cd,drive=cd,bus=ide.1")
            .arg("-device")
            .arg("ide-cd,id=empty,bus=ide.0,unit=1");
        // A node whose name QEMU chooses.
        let config = config.arg("-drive").arg(format!(
            "if=virtio,id=old,format=qcow2,file={}",
            image(dir, "old").display()
        ));
        let config = disk(config, "n1", &image(dir, "n1"));
        disk(config, "n0", &image(dir, "n0"))
    };
    each(RunState::COUNTS, prepare, |place| {
        place.count_to(1);
        assert_eq!(place.save("ours"), Ok(()));
        assert_eq!(place.hmp("savevm theirs"), "");
        let nodes = place
            .vm
            .monitor
            .execute("query-named-block-nodes", Some(json!({ "flat": true })))
            .unwrap();
        let mut on = 0;
        for node in nodes.as_array().unwrap() {
            let state = |tag: &str| {
                let snapshots = node["image"]["snapshots"].as_array()?;
                let snapshot = snapshots.iter().find(|it| it["name"] == tag)?;
                Some(snapshot["vm-state-size"].as_i64()? > 0)
            };
            assert_eq!(state("ours"), state("theirs"), "{node}");
            on += usize::from(state("ours").is_some());
        }
        assert_eq!(on, 3);
        // Each loads the other's.
        place.count_to(2);
        assert_eq!(place.load("theirs"), Ok(()));
        assert_eq!(place.count(), 1);
        place.count_to(2);
        assert_eq!(place.hmp("loadvm ours"), "");
        assert_eq!(place.count(), 1);
    });
}

#[test]
fn a_machine_that_has_crashed_returns() {
    each(RunState::GUEST_PANICKED, one_disk, |place| {
        assert_eq!(place.save("before"), Ok(()));
        place.vm.reach();
        place.main.until("the panic", || {
            let status = place.port.status();
            status.is_some_and(|it| it.status() == "guest-panicked")
        });
        if place.port.is_spice_port() {
            for end in [
                place.load("before"),
                place.save("x"),
                place.delete("before"),
            ] {
                let refused = matches!(&end, Err(Error::Usage(UsageError::NotSupported(_))));
                assert!(refused, "{end:?}");
            }
        } else {
            assert_eq!(place.load("before"), Ok(()));
            place.assert_status("guest-panicked");
            place.machine.activate_action("pause", None);
            place.main.until("it runs", || {
                place.port.status().is_some_and(|it| it.running())
            });
        }
    });
}

#[test]
fn a_machine_that_sleeps_sleeps_on() {
    each(RunState::SUSPENDED, one_disk, |place| {
        assert_eq!(place.save("awake"), Ok(()));
        place.vm.reach();
        assert_eq!(place.save("asleep"), Ok(()));
        place.assert_status("suspended");
        assert_eq!(place.load("asleep"), Ok(()));
        place.assert_status("suspended");
        place.assert_settled();
        place.vm.resume();
        assert_eq!(place.load("awake"), Ok(()));
        place.assert_status("running");
    });
}

/// The list matches the image, whichever client changes it.
#[test]
fn the_list_is_the_images() {
    each(RunState::COUNTS, one_disk, |place| {
        let list = place.machine.snapshots();
        list.refresh();
        let copy = replay(&list);
        let random = Random::new(u64::from(place.program.major()) + 3);
        for step in 0..200 {
            let tag = ["a", "b", "c d", "ä", "7"][random.below(5)];
            let save = random.coin();
            match random.below(10) {
                // The first one only after a while: each load loses what came before.
                0 => {
                    let _ = place.load(tag);
                }
                1..6 if save => {
                    let _ = place.save(tag);
                }
                1..6 => {
                    let _ = place.delete(tag);
                }
                6..9 => others_job(place, save, tag),
                _ => {
                    let line = if save { "savevm" } else { "delvm" };
                    place.hmp(&format!("{line} h{}", random.below(2)));
                    // QEMU does not report that.
                    list.refresh();
                }
            }
            if step % 10 == 9 {
                agree(place, &list);
                assert_eq!(*copy.borrow(), list.snapshot());
            }
        }
        place.assert_settled();
    });
}

/// Another client saves or deletes a snapshot.
fn others_job(place: &mut Place<'_>, save: bool, tag: &str) {
    let mut arguments = json!({ "job-id": "other", "tag": tag, "devices": ["n0"] });
    let monitor = &mut place.vm.monitor;
    let command = if save {
        arguments["vmstate"] = "n0".into();
        "snapshot-save"
    } else {
        "snapshot-delete"
    };
    monitor.execute(command, Some(arguments)).unwrap();
    let dismiss = json!({ "id": "other" });
    // It may not be concluded yet.
    place.main.until("the other's job", || {
        monitor
            .execute("job-dismiss", Some(dismiss.clone()))
            .is_ok()
    });
}

/// A list built from the notifications.
fn replay(list: &List) -> Rc<RefCell<Vec<glib::Object>>> {
    let copy = Rc::new(RefCell::new(list.snapshot()));
    let own = copy.clone();
    list.connect_items_changed(move |list, at, removed, added| {
        let new = (at..at + added).map(|nth| list.item(nth).unwrap());
        let at = usize::try_from(at).unwrap();
        let end = at + usize::try_from(removed).unwrap();
        own.borrow_mut().splice(at..end, new);
    });
    copy
}

/// Waits until the list shows the contents of the image.
#[track_caller]
fn agree(place: &Place<'_>, list: &List) {
    let file = place.dir.join("n0.qcow2");
    let info = qemu_img(&["info", "-U", "--output=json"], &file);
    let info: Value = serde_json::from_str(&info).unwrap();
    let none = Vec::new();
    let theirs = info["snapshots"].as_array().unwrap_or(&none).iter();
    let theirs: Vec<_> = theirs
        .map(|it| {
            let number = |name: &str| it[name].as_i64().unwrap();
            (
                it["name"].as_str().unwrap().to_owned(),
                number("date-sec"),
                u64::try_from(number("vm-state-size")).unwrap(),
                number("vm-clock-sec") * 1_000_000 + number("vm-clock-nsec") / 1000,
                true,
            )
        })
        .collect();
    let ours = || -> Vec<_> {
        let items = list.iter::<Snapshot>().map(Result::unwrap);
        items
            .map(|it| {
                (
                    it.tag(),
                    it.date(),
                    it.state_size(),
                    it.clock(),
                    it.loadable(),
                )
            })
            .collect()
    };
    let deadline = glib::monotonic_time() + i64::try_from(PATIENCE.as_micros()).unwrap();
    while ours() != theirs {
        let late = glib::monotonic_time() > deadline;
        assert!(!late, "{:#?}\n{theirs:#?}", ours());
        place.main.run_for(std::time::Duration::from_millis(5));
    }
}
