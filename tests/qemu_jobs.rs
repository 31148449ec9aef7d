// SPDX-License-Identifier: MIT OR Apache-2.0
//! Jobs of real QEMU, over a socket and over SPICE.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::future::IntoFuture;
use std::rc::Rc;
use std::time::Duration;

use common::main_loop::{MainLoop, PATIENCE, with_default};
use common::qemu::{Config, Monitor, Program, Qemu};
use common::random::Random;
use common::spice::Client;
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Error, Job, List, Machine, QmpPort, UsageError};

/// The environment of a test.
struct Place<'a> {
    main: &'a MainLoop,
    program: &'a Program,
    qemu: &'a Qemu,
    port: &'a QmpPort,
    machine: Machine,
}

/// A disk in memory.
fn disk(config: Config, name: &str, size: u64) -> Config {
    let disk = json!({ "driver": "null-co", "node-name": name, "size": size });
    config.arg("-blockdev").arg(disk.to_string())
}

/// Two pairs of disks, and one that cannot be written to.
fn config() -> Config {
    let mut config = Config::new();
    for name in ["s", "t", "s2", "t2"] {
        config = disk(config, name, SIZE);
    }
    config = disk(config, "small", 1 << 20);
    let broken = json!({
        "driver": "blkdebug", "node-name": "broken",
        "image": { "driver": "null-co", "size": SIZE },
        "inject-error": [{ "event": "none", "iotype": "write", "errno": 5 }],
    });
    config.arg("-blockdev").arg(broken.to_string())
}

const SIZE: u64 = 64 << 20;

/// Over a socket and over SPICE.
fn each(test: impl Fn(&Place<'_>) + Send + 'static) {
    with_default(move |main| {
        for program in Program::all() {
            for over_spice in [false, true] {
                let qemu = config().start(&program);
                println!("QEMU {}, SPICE: {over_spice}", program.version());
                let client = over_spice.then(|| Client::new(&qemu));
                let port = if let Some(client) = &client {
                    main.block_on(QmpPort::find(&client.session))
                } else {
                    let address = format!("unix:{}", qemu.qmp_socket().display());
                    main.block_on(QmpPort::open(&address))
                };
                let port = port.expect("QEMU listens");
                test(&Place {
                    main,
                    program: &program,
                    qemu: &qemu,
                    port: &port,
                    machine: Machine::new(&port),
                });
                main.block_on(port.close());
                drop(port);
                if let Some(client) = client {
                    client.finish(main);
                }
            }
        }
    });
}

impl Place<'_> {
    fn run(&self, command: &str, arguments: Value) -> Result<(), Error> {
        let run = self.machine.run_job(command, arguments);
        self.main.block_on(run.into_future())
    }

    /// What QEMU lists.
    fn listed(&self) -> Vec<Value> {
        let jobs = self.main.block_on(self.port.execute("query-jobs", ()));
        jobs.expect("QEMU answers")
    }
}

/// A backup that takes so long that a test can act meanwhile.
fn slow(id: &str) -> Value {
    json!({ "job-id": id, "device": "s", "target": "t", "sync": "full", "speed": 1 << 20 })
}

fn jobs(list: &List) -> Vec<Job> {
    list.iter::<Job>().map(Result::unwrap).collect()
}

#[test]
fn a_job_ends() {
    each(|place| {
        for dismiss in [true, false] {
            let arguments = json!({
                "device": "s", "target": "t", "sync": "full", "auto-dismiss": dismiss,
            });
            // As fast as possible: over before its command is answered.
            assert_eq!(place.run("blockdev-backup", arguments), Ok(()));
            assert!(place.listed().is_empty(), "QEMU has forgotten it");
        }
        // Not a job on a disk: it is dismissed explicitly.
        let path = place.qemu.dir().join("new.qcow2");
        std::fs::write(&path, "").unwrap();
        let file = json!({ "driver": "file", "node-name": "file", "filename": path });
        let added = place.port.execute::<Value>("blockdev-add", file);
        place.main.block_on(added).unwrap();
        let options = json!({ "driver": "qcow2", "file": "file", "size": SIZE });
        assert_eq!(
            place.run("blockdev-create", json!({ "options": options })),
            Ok(())
        );
        assert!(place.listed().is_empty());
    });
}

#[test]
fn a_job_that_fails_says_why() {
    each(|place| {
        for dismiss in [true, false] {
            let backup = json!({
                "device": "s", "target": "broken", "sync": "full", "auto-dismiss": dismiss,
            });
            let error = place.run("blockdev-backup", backup).unwrap_err();
            assert_eq!(error.to_string(), "blockdev-backup: Input/output error");
            assert!(matches!(error, Error::Command { .. }));
            assert!(place.listed().is_empty());
        }
        let options = json!({ "driver": "file", "filename": "/nowhere/x", "size": 1 << 20 });
        let error = place
            .run("blockdev-create", json!({ "options": options }))
            .unwrap_err();
        assert!(
            error.to_string().contains("No such file or directory"),
            "{error}"
        );
        assert!(place.listed().is_empty());

        let refused = json!({ "device": "s", "target": "small", "sync": "full" });
        let error = place.run("blockdev-backup", refused).unwrap_err();
        assert!(error.to_string().contains("different sizes"), "{error}");
        let error = place.run("query-name", json!({})).unwrap_err();
        assert!(error.to_string().contains("job-id"), "{error}");
    });
}

#[test]
fn a_job_that_is_dropped_is_cancelled() {
    each(|place| {
        for dismiss in [true, false] {
            let mut arguments = slow("j");
            arguments["auto-dismiss"] = dismiss.into();
            let cancellable = gio::Cancellable::new();
            let run = place.machine.run_job("blockdev-backup", arguments);
            let run = gio::CancellableFuture::new(run.into_future(), cancellable.clone());
            let task = place.main.spawn(run);
            place.main.until("the job", || !place.listed().is_empty());
            cancellable.cancel();
            assert!(place.main.join("the end", &task).is_err());
            place.main.until("its end", || place.listed().is_empty());
        }
    });
}

#[test]
fn a_job_that_another_client_cancels_is_cancelled() {
    each(|place| {
        let run = place.machine.run_job("blockdev-backup", slow("j"));
        let task = place.main.spawn(run.into_future());
        place.main.until("the job", || !place.listed().is_empty());
        let mut other = place.qemu.monitor();
        other
            .execute("job-cancel", Some(json!({ "id": "j" })))
            .unwrap();
        let end = place.main.join("the job", &task);
        assert!(matches!(end, Err(Error::Cancelled(_))), "{end:?}");
    });
}

#[test]
fn two_jobs_at_once() {
    each(|place| {
        let first = place.machine.run_job("blockdev-backup", slow("j1"));
        let first = place.main.spawn(first.into_future());
        place.main.until("the job", || !place.listed().is_empty());
        // These drain the first one, which pauses it for moments.
        for n in 0..5 {
            let target = if n % 2 == 0 { "t2" } else { "broken" };
            let second = json!({ "device": "s2", "target": target, "sync": "full" });
            assert_eq!(place.run("blockdev-backup", second).is_ok(), n % 2 == 0);
        }
        // An id that is in use.
        let same = json!({ "job-id": "j1", "device": "s2", "target": "t2", "sync": "full" });
        let error = place.run("blockdev-backup", same).unwrap_err();
        assert!(error.to_string().contains("already in use"), "{error}");
        assert!(!first.is_done());
        let faster = json!({ "device": "j1", "speed": 0 });
        let set = place.port.execute::<Value>("block-job-set-speed", faster);
        place.main.block_on(set).unwrap();
        assert_eq!(place.main.join("the first", &first), Ok(()));
    });
}

#[test]
fn a_mirror_waits_to_be_completed() {
    each(|place| {
        let list = place.machine.jobs();
        list.refresh();
        let mirror = json!({ "job-id": "m", "device": "s", "target": "t", "sync": "full" });
        let run = place.machine.run_job("blockdev-mirror", mirror);
        let task = place.main.spawn(run.into_future());
        let is_ready = || jobs(&list).iter().any(|job| job.status() == "ready");
        place.main.until("the mirror is ready", is_ready);
        assert!(!task.is_done());
        let job = jobs(&list).remove(0);
        assert_eq!(job.kind(), "mirror");
        let error = place.main.block_on(job.dismiss()).unwrap_err();
        assert!(
            error
                .to_string()
                .contains("cannot accept command verb 'dismiss'"),
            "{error}"
        );
        place.main.block_on(job.complete()).unwrap();
        assert_eq!(place.main.join("the mirror", &task), Ok(()));
        place.main.until("it is gone", || list.n_items() == 0);
        assert_eq!(job.status(), "null");
    });
}

/// Seconds that a throttled job takes, and its speed.
const LONG: u64 = 6;

#[test]
fn a_job_waits_to_be_finalized() {
    each(|place| {
        let list = place.machine.jobs();
        list.refresh();
        let backup = json!({ "job-id": "b", "device": "s", "target": "t", "sync": "full",
                             "auto-finalize": false });
        let run = place.machine.run_job("blockdev-backup", backup);
        let task = place.main.spawn(run.into_future());
        let is_pending = || jobs(&list).iter().any(|job| job.status() == "pending");
        place.main.until("the backup is pending", is_pending);
        assert!(!task.is_done());
        let job = jobs(&list).remove(0);
        let early = place.main.block_on(job.dismiss());
        assert!(matches!(early, Err(Error::Command { .. })), "{early:?}");
        assert_eq!(place.main.block_on(job.finalize()), Ok(()));
        assert_eq!(place.main.join("the backup", &task), Ok(()));
        let again = place.main.block_on(job.finalize());
        assert!(matches!(again, Err(Error::Command { .. })), "{again:?}");
    });
}

#[test]
fn a_job_shows_its_progress_and_its_end() {
    each(|place| {
        let steps = Rc::<RefCell<Vec<f64>>>::default();
        let seen = steps.clone();
        let mut arguments = slow("j");
        arguments["speed"] = (SIZE / LONG).into();
        let run = place.machine.run_job("blockdev-backup", arguments);
        let run = run.progress(move |job| {
            assert_eq!(job.kind(), "backup");
            seen.borrow_mut().push(job.progress());
        });
        let task = place.main.spawn(run.into_future());
        assert_eq!(place.main.join("the job", &task), Ok(()));
        let steps = steps.take();
        common::say(&format!(
            "QEMU {}: {} steps",
            place.program.version(),
            steps.len()
        ));
        assert!(steps.len() >= 10, "{steps:?}");
        assert!(steps.is_sorted(), "{steps:?}");
        assert_eq!(steps.last().map(ToString::to_string).as_deref(), Some("1"));
        assert_eq!(place.machine.jobs().n_items(), 0);
    });
}

#[test]
fn a_pause_is_shown_and_a_drain_is_not() {
    each(|place| {
        let list = place.machine.jobs();
        let cancellable = gio::Cancellable::new();
        let run = place.machine.run_job("blockdev-backup", slow("j"));
        let run = gio::CancellableFuture::new(run.into_future(), cancellable.clone());
        let task = place.main.spawn(run);
        place.main.until("the job", || list.n_items() == 1);
        let job = jobs(&list).remove(0);
        let statuses = Rc::<RefCell<Vec<String>>>::default();
        let seen = statuses.clone();
        job.connect_status_notify(move |job| seen.borrow_mut().push(job.status()));
        place.main.until("it runs", || job.status() == "running");
        statuses.take();
        // Each drains.
        for _ in 0..5 {
            let second = json!({ "device": "s", "target": "t2", "sync": "full" });
            assert_eq!(place.run("blockdev-backup", second), Ok(()));
        }
        place
            .main
            .until("the others are gone", || list.n_items() == 1);
        assert_eq!(statuses.take(), [""; 0]);
        place.main.block_on(job.pause()).unwrap();
        place.main.until("the pause", || job.status() == "paused");
        let error = place.main.block_on(job.pause()).unwrap_err();
        assert!(error.to_string().contains("already paused"), "{error}");
        place.main.block_on(job.resume()).unwrap();
        place.main.until("it goes on", || job.status() == "running");
        assert_eq!(statuses.take(), ["paused", "running"]);
        cancellable.cancel();
        place.main.until("its end", || list.n_items() == 0);
        assert!(task.is_done());
    });
}

/// The jobs are those that QEMU lists, whichever client controls them.
#[test]
fn the_list_is_qemus() {
    each(|place| {
        let list = place.machine.jobs();
        list.refresh();
        let copy = replay(&list);
        let mut other = place.qemu.monitor();
        let random = Random::new(u64::from(place.program.major()) + 7);
        for step in 0..200 {
            let by_other = step % 3 == 0;
            let (command, arguments) = operation(&random);
            if by_other {
                let _ = other.execute(command, Some(arguments));
            } else {
                let call = place.port.execute::<Value>(command, arguments);
                let _ = place.main.block_on(call);
            }
            if random.below(4) == 0 {
                place.main.turn();
            }
            if step % 10 == 9 {
                agree(place, &list, &mut other);
                assert_eq!(*copy.borrow(), list.snapshot());
            }
        }
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

/// An action on a job, which may exist.
fn operation(random: &Random) -> (&'static str, Value) {
    let id = ["a", "b", "c"][random.below(3)];
    let by_id = json!({ "id": id });
    match random.below(10) {
        0..4 => {
            let speed = [0, 1 << 20, 16 << 20][random.below(3)];
            let pairs = [("s", "t"), ("s2", "t2"), ("s2", "broken")];
            let (device, target) = pairs[random.below(3)];
            let command = ["blockdev-backup", "blockdev-mirror"][random.below(2)];
            let arguments = json!({
                "job-id": id, "device": device, "target": target, "sync": "full", "speed": speed,
                "auto-dismiss": random.coin(), "auto-finalize": random.below(4) > 0,
            });
            (command, arguments)
        }
        4 => ("job-pause", by_id),
        5 => ("job-resume", by_id),
        6 => ("job-cancel", by_id),
        7 => ("job-complete", by_id),
        8 => ("job-finalize", by_id),
        _ => ("job-dismiss", by_id),
    }
}

/// Waits until the list shows what QEMU lists, except the progress of running jobs.
#[track_caller]
fn agree(place: &Place<'_>, list: &List, other: &mut Monitor) {
    let mut both = (Vec::new(), Vec::new());
    let deadline = glib::monotonic_time() + i64::try_from(PATIENCE.as_micros()).unwrap();
    loop {
        place.main.run_for(Duration::from_millis(5));
        let ours = jobs(list).into_iter().map(|job| {
            let runs = matches!(&*job.status(), "running" | "ready");
            let progress = (!runs).then(|| (job.current(), job.total()));
            (job.id(), job.kind(), job.status(), progress, job.error())
        });
        both.0 = ours.collect();
        let theirs = other.execute("query-jobs", None).unwrap();
        let theirs = theirs.as_array().unwrap().iter().rev().map(|job| {
            let text = |name: &str| job[name].as_str().map(str::to_owned);
            let number = |name: &str| job[name].as_u64().unwrap();
            let progress = || (number("current-progress"), number("total-progress"));
            let status = text("status").unwrap();
            let runs = matches!(&*status, "running" | "ready");
            let progress = (!runs).then(progress);
            (
                text("id").unwrap(),
                text("type").unwrap(),
                status,
                progress,
                text("error"),
            )
        });
        both.1 = theirs.collect();
        if both.0 == both.1 {
            return;
        }
        assert!(glib::monotonic_time() < deadline, "{both:#?}");
    }
}

#[test]
fn a_migration_is_a_job() {
    each(|place| {
        let list = place.machine.jobs();
        list.refresh();
        let kinds = Rc::<RefCell<Vec<String>>>::default();
        let seen = kinds.clone();
        let migrate = |uri: &str| {
            let seen = seen.clone();
            let run = place.machine.run_job("migrate", json!({ "uri": uri }));
            run.progress(move |job| seen.borrow_mut().push(job.kind()))
        };
        let error = place
            .main
            .block_on(migrate("nope:x").into_future())
            .unwrap_err();
        assert!(matches!(error, Error::Command { .. }), "{error}");
        let failing = migrate("exec:exit 1");
        let error = place.main.block_on(failing.into_future()).unwrap_err();
        assert!(matches!(error, Error::Command { .. }), "{error}");
        assert!(error.to_string().len() > "migrate: ".len(), "{error}");
        let good = migrate("exec:cat >/dev/null");
        assert_eq!(place.main.block_on(good.into_future()), Ok(()));
        place.main.until("the run state", || {
            let status = place.port.execute::<Value>("query-status", ());
            place.main.block_on(status).unwrap()["status"] == "postmigrate"
        });
        assert_eq!(list.n_items(), 0);
        assert!(
            kinds.borrow().iter().all(|kind| kind == "migrate"),
            "{kinds:?}"
        );
    });
}

/// QEMU reports that it has migrated while it still says `finish-migrate`, and reports nothing
/// when that is over.
#[test]
fn the_run_state_follows_a_migration() {
    each(|place| {
        let until = |state: &str| {
            place.main.until(state, || {
                place.port.status().is_some_and(|it| it.status() == state)
            });
        };
        let execute = |command: &str, state: &str| {
            let reply = place.port.execute::<Value>(command, ());
            place.main.block_on(reply).unwrap();
            until(state);
        };
        for round in 0..10 {
            println!("round {round}");
            let end = place.run("migrate", json!({ "uri": "exec:cat >/dev/null" }));
            assert_eq!(end, Ok(()));
            until("postmigrate");
            // Only one that has run gets its disks back.
            execute("cont", "running");
            execute("stop", "paused");
            if round % 2 == 0 {
                execute("system_reset", "prelaunch");
            }
        }
    });
}

#[test]
fn a_slow_migration_shows_its_progress_and_is_cancelled() {
    each(|place| {
        let list = place.machine.jobs();
        list.refresh();
        let slow = json!({ "max-bandwidth": 100_000 });
        let set = place.port.execute::<Value>("migrate-set-parameters", slow);
        place.main.block_on(set).unwrap();
        let cancellable = gio::Cancellable::new();
        let run = place
            .machine
            .run_job("migrate", json!({ "uri": "exec:cat >/dev/null" }));
        let run = gio::CancellableFuture::new(run.into_future(), cancellable.clone());
        let task = place.main.spawn(run);
        let runs = |list: &List| {
            jobs(list)
                .first()
                .is_some_and(|it| it.status() == "running")
        };
        place.main.until("the migration", || runs(&list));
        let job = jobs(&list).remove(0);
        place.main.until("a step", || job.progress() > 0.0);
        cancellable.cancel();
        place.main.until("its end", || {
            let reply = place.port.execute::<Value>("query-migrate", ());
            task.is_done() && place.main.block_on(reply).unwrap()["status"] == "cancelled"
        });
        assert_eq!(list.n_items(), 0);
    });
}

/// Over SPICE its end would not be known, and later questions harm QEMU.
#[test]
fn a_running_machine_is_not_migrated_over_spice() {
    each(|place| {
        place
            .main
            .block_on(place.port.execute::<Value>("cont", ()))
            .unwrap();
        place.main.until("it runs", || {
            place.port.status().is_some_and(|it| it.running())
        });
        let end = place.run("migrate", json!({ "uri": "exec:cat >/dev/null" }));
        if place.port.is_spice_port() {
            assert!(
                matches!(end, Err(Error::Usage(UsageError::NotSupported(_)))),
                "{end:?}"
            );
        } else {
            assert_eq!(end, Ok(()));
        }
    });
}
