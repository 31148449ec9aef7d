// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's snapshots, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use common::main_loop::{MainLoop, Task, with_own, with_own_pushed};
use common::script::{self, Request, Server};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Error, List, Machine, QmpPort, Snapshot, UsageError};

type End = Result<(), Error>;

const QUERY: &str = "query-block";

/// A machine whose server answers nothing by itself.
fn ready(main: &MainLoop) -> (Machine, QmpPort, Server) {
    let (port, server) = script::ready(main);
    (Machine::new(&port), port, server)
}

/// A snapshot as QEMU lists it.
fn listed(tag: &str, size: i64) -> Value {
    json!({
        "id": "1", "name": tag, "vm-state-size": size, "date-sec": 1_700_000_000,
        "date-nsec": 5, "vm-clock-sec": 12, "vm-clock-nsec": 345_678_901,
    })
}

/// A disk in the reply to `query-block`.
fn disk(node: &str, format: &str, snapshots: &[Value]) -> Value {
    let mut image = json!({ "filename": "f", "format": format, "virtual-size": 1 });
    if !snapshots.is_empty() {
        image["snapshots"] = snapshots.into();
    }
    json!({
        "device": "", "qdev": format!("dev-{node}"), "removable": false, "locked": false,
        "type": "unknown",
        "inserted": {
            "file": "f", "ro": false, "drv": format, "node-name": node, "image": image,
        },
    })
}

/// A machine with one disk and these snapshots.
fn one(snapshots: &[Value]) -> Value {
    json!([disk("n0", "qcow2", snapshots)])
}

fn begin<F: Future<Output = End> + 'static>(main: &MainLoop, deed: F) -> Task<End> {
    let task = main.spawn(deed);
    main.drain();
    task
}

/// Answers the command of a job, which is over then.
fn job(main: &MainLoop, server: &Server, command: &str, error: Option<&str>) -> Value {
    let request = server.request(command);
    let id = request.arguments["job-id"].clone();
    let state = |state: &str| {
        let data = json!({ "id": id, "status": state });
        server.event_with("JOB_STATUS_CHANGE", &data);
    };
    state("created");
    state("running");
    server.reply(&request, json!({}));
    if error.is_some() {
        state("aborting");
    }
    state("concluded");
    main.drain();
    let mut job = json!({
        "id": id, "type": command, "status": "concluded", "current-progress": 1,
        "total-progress": 1,
    });
    if let Some(error) = error {
        job["error"] = error.into();
    }
    server.answer("query-jobs", json!([job]));
    main.drain();
    server.answer("job-dismiss", json!({}));
    main.drain();
    let mut arguments = request.arguments;
    arguments.as_object_mut().unwrap().remove("job-id");
    arguments
}

/// Answers `stop`, which stops a running machine.
fn stop(main: &MainLoop, server: &Server, runs: bool) {
    let request = server.request("stop");
    if runs {
        server.event("STOP");
    }
    server.reply(&request, json!({}));
    main.drain();
}

/// The requests that are not the port's own, which are answered: the machine is paused
/// according to them.
fn requests(main: &MainLoop, server: &Server) -> Vec<Request> {
    let mut all = server.requests();
    all.retain(|request| {
        let own = request.command == "query-status";
        if own {
            server.reply(request, script::paused());
        }
        !own
    });
    main.drain();
    all
}

fn text(end: End) -> String {
    end.expect_err("it has failed").to_string()
}

fn shown(list: &List) -> Vec<(String, u64, bool)> {
    let items = list.iter::<Snapshot>().map(Result::unwrap);
    items
        .map(|it| (it.tag(), it.state_size(), it.loadable()))
        .collect()
}

#[test]
fn they_are_loaded_when_requested() {
    with_own(|main| {
        let (machine, _port, server) = ready(main);
        let list = machine.snapshots();
        assert_eq!(machine.snapshots(), list);
        assert_eq!(list.item_type(), Snapshot::static_type());
        main.drain();
        assert!(server.commands().is_empty(), "nothing was requested");
        assert_eq!(list.n_items(), 0);
        main.drain();
        server.answer(QUERY, one(&[listed("a", 7000), listed("ä b", 0)]));
        main.drain();
        assert_eq!(
            shown(&list),
            [("a".into(), 7000, true), ("ä b".into(), 0, false)]
        );
        let first: Snapshot = list.item(0).and_downcast().unwrap();
        assert_eq!(first.date(), 1_700_000_000);
        assert_eq!(first.clock(), 12_345_678);
        assert!(first.is_on_its_thread());
        // Without snapshots, QEMU has no such member.
        list.refresh();
        main.drain();
        server.answer(QUERY, one(&[]));
        main.drain();
        assert_eq!(list.n_items(), 0);
        assert_eq!(first.tag(), "a", "it stays as it was");
    });
}

#[test]
fn those_of_several_disks_are_one() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        let list = machine.snapshots();
        list.refresh();
        main.drain();
        let mut cd = disk("cd", "raw", &[]);
        cd["inserted"]["ro"] = true.into();
        let empty = json!({
            "device": "", "qdev": "fl0", "removable": true, "locked": false, "type": "unknown",
        });
        let disks = json!([
            disk(
                "n0",
                "qcow2",
                &[listed("both", 0), listed("first", 5), listed("first", 6)]
            ),
            cd,
            empty,
            disk("n1", "qcow2", &[listed("second", 8), listed("both", 9)]),
            // Another device that shares it.
            disk("n1", "qcow2", &[listed("second", 8), listed("both", 9)]),
        ]);
        server.answer(QUERY, disks);
        main.drain();
        assert_eq!(
            shown(&list),
            [
                ("both".into(), 9, true),
                ("first".into(), 5, false),
                ("second".into(), 8, false)
            ]
        );
    });
}

#[test]
fn snapshots_are_loaded_again_when_a_job_ends() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        let list = machine.snapshots();
        list.refresh();
        main.drain();
        server.answer(QUERY, one(&[listed("a", 7)]));
        main.drain();
        let item: Snapshot = list.item(0).and_downcast().unwrap();
        let notes = Rc::<RefCell<Vec<String>>>::default();
        let seen = notes.clone();
        item.connect_notify_local(None, move |_, it| {
            seen.borrow_mut().push(it.name().to_owned());
        });
        for status in ["created", "running", "waiting", "pending", "null"] {
            let data = json!({ "id": "other", "status": status });
            server.event_with("JOB_STATUS_CHANGE", &data);
        }
        server.event("JOB_STATUS_CHANGE");
        main.drain();
        let data = json!({ "id": "other", "status": "concluded" });
        server.event_with("JOB_STATUS_CHANGE", &data);
        let mut questions = Vec::new();
        main.until("a question", || {
            questions.extend(server.requests());
            !questions.is_empty()
        });
        assert_eq!(questions.len(), 1);
        let mut again = listed("a", 9);
        again["vm-clock-sec"] = 13.into();
        server.reply(&questions[0], one(&[again, listed("b", 1)]));
        main.drain();
        assert_eq!(list.item(0).and_downcast_ref(), Some(&item));
        assert_eq!(item.state_size(), 9);
        assert_eq!(list.n_items(), 2);
        let mut notes = notes.take();
        notes.sort();
        assert_eq!(notes, ["clock", "state-size"]);
        main.drain();
        assert!(server.commands().is_empty());
    });
}

#[test]
fn odd_replies_do_no_harm() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        let list = machine.snapshots();
        for reply in [
            json!({}),
            json!([1]),
            json!([{ "device": 7 }]),
            one(&[json!({ "name": "a" })]),
            one(&[json!("a")]),
        ] {
            list.refresh();
            main.drain();
            server.answer(QUERY, reply);
            main.drain();
            let error = list.error().expect("it is none").to_string();
            assert!(error.contains(QUERY), "{error}");
        }
        // Impossible numbers.
        let mut odd = listed("", i64::MIN);
        odd["vm-clock-sec"] = i64::MAX.into();
        odd["date-sec"] = i64::MIN.into();
        list.refresh();
        main.drain();
        server.answer(QUERY, one(&[odd]));
        main.drain();
        assert_eq!(list.error().map(|it| it.to_string()), None);
        let item: Snapshot = list.item(0).and_downcast().unwrap();
        assert_eq!((item.tag(), item.state_size()), (String::new(), 0));
        assert_eq!((item.clock(), item.date()), (i64::MAX, i64::MIN));
        // A name on many disks.
        let many: Vec<_> = (0..4000).map(|n| listed(&format!("s{n}"), 1)).collect();
        list.refresh();
        main.drain();
        server.answer(QUERY, json!([disk("a", "qcow2", &many)]));
        main.drain();
        assert_eq!(list.n_items(), 4000);
    });
}

#[test]
fn a_snapshot_is_saved_on_all_disks() {
    with_own(|main| {
        let (machine, _port, server) = ready(main);
        let list = machine.snapshots();
        list.refresh();
        main.drain();
        server.answer(QUERY, one(&[]));
        main.drain();
        let save = begin(main, machine.save_snapshot("a"));
        let mut cd = disk("cd", "raw", &[]);
        cd["inserted"]["ro"] = true.into();
        let disks = json!([cd, disk("n0", "qcow2", &[]), disk("n1", "qcow2", &[])]);
        server.answer(QUERY, disks);
        main.drain();
        let command = server.request("snapshot-save");
        assert_eq!(command.arguments["tag"], "a");
        assert_eq!(command.arguments["vmstate"], "n0");
        assert_eq!(command.arguments["devices"], json!(["n0", "n1"]));
        let id = command.arguments["job-id"].clone();
        for state in ["created", "running"] {
            let data = json!({ "id": id, "status": state });
            server.event_with("JOB_STATUS_CHANGE", &data);
        }
        server.reply(&command, json!({}));
        main.drain();
        assert!(!save.is_done(), "the job is still to end");
        let data = json!({ "id": id, "status": "concluded" });
        server.event_with("JOB_STATUS_CHANGE", &data);
        let mut asked = 0;
        main.until("the end", || {
            for request in server.requests() {
                match request.command.as_str() {
                    "query-jobs" => server.reply(
                        &request,
                        json!([{ "id": id, "type": "snapshot-save", "status": "concluded",
                                 "current-progress": 1, "total-progress": 1 }]),
                    ),
                    "job-dismiss" => server.reply(&request, json!({})),
                    QUERY => {
                        asked += 1;
                        server.reply(&request, one(&[listed("a", 7)]));
                    }
                    other => panic!("{other}"),
                }
            }
            save.is_done()
        });
        assert_eq!(save.take(), Ok(()));
        assert!(asked > 0);
        // It is shown by then.
        assert_eq!(shown(&list), [("a".into(), 7, true)]);
    });
}

#[test]
fn a_save_that_cannot_succeed_is_refused_before() {
    with_own_pushed(|main| {
        let (machine, port, server) = ready(main);
        let long = "x".repeat(256);
        let mut cd = disk("cd", "raw", &[]);
        cd["inserted"]["ro"] = true.into();
        for (tag, disks, why) in [
            (
                "a",
                one(&[listed("a", 0)]),
                "snapshot-save: the drive dev-n0 has a snapshot \"a\" already",
            ),
            (
                "a",
                json!([]),
                "snapshot-save: the machine has no disk that can be written to",
            ),
            (
                "a",
                json!([cd]),
                "snapshot-save: the machine has no disk that can be written to",
            ),
            (
                "",
                one(&[]),
                "invalid argument: the name of a snapshot has 1 to 255 bytes",
            ),
            (
                &long,
                one(&[]),
                "invalid argument: the name of a snapshot has 1 to 255 bytes",
            ),
        ] {
            let save = begin(main, machine.save_snapshot(tag));
            server.answer(QUERY, disks);
            main.drain();
            assert_eq!(text(save.take()), why);
            assert!(server.commands().is_empty());
        }
        // The longest possible.
        let save = begin(main, machine.save_snapshot(&long[1..]));
        server.answer(QUERY, one(&[]));
        main.drain();
        job(main, &server, "snapshot-save", None);
        assert_eq!(save.take(), Ok(()));
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn reasons_are_plain() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        for (said, why) in [
            (
                "Device '#block7' is writable but does not support snapshots",
                "the drive dev-#block7 has the format raw, which holds no snapshots (Device \
                 '#block7' is writable but does not support snapshots)",
            ),
            (
                "Error while writing VM state: Input/output error",
                "the state of the machine cannot be written: the host may have no space left \
                 (Error while writing VM state: Input/output error)",
            ),
            (
                "ram_save_setup failed: No space left on device",
                "the state of the machine cannot be written: the host may have no space left \
                 (ram_save_setup failed: No space left on device)",
            ),
            // The disk is not the cause.
            (
                "Device 'n0' is writable but does not support snapshots",
                "Device 'n0' is writable but does not support snapshots",
            ),
            ("Something new", "Something new"),
        ] {
            let save = begin(main, machine.save_snapshot("a"));
            let disks = json!([disk("n0", "qcow2", &[]), disk("#block7", "raw", &[])]);
            server.answer(QUERY, disks);
            main.drain();
            job(main, &server, "snapshot-save", Some(said));
            let end = save.take();
            assert!(matches!(end, Err(Error::Command { .. })));
            assert_eq!(text(end), format!("snapshot-save: {why}"));
        }
    });
}

/// Loads the snapshot `a`; the server has done everything but the end of it.
fn load(main: &MainLoop, machine: &Machine, server: &Server, runs: bool) -> Task<End> {
    let load = begin(main, machine.load_snapshot("a"));
    server.answer(QUERY, one(&[listed("a", 7)]));
    main.drain();
    stop(main, server, runs);
    load
}

#[test]
fn a_running_machine_is_paused_and_resumed() {
    with_own(|main| {
        for error in [None, Some("Error -22 while loading VM state")] {
            let (machine, _port, server) = ready(main);
            let load = load(main, &machine, &server, true);
            let mut left = requests(main, &server);
            assert_eq!(left.len(), 1, "{left:?}");
            let command = left.remove(0);
            assert_eq!(command.command, "snapshot-load");
            let id = command.arguments["job-id"].clone();
            let state = |state: &str| {
                let data = json!({ "id": id, "status": state });
                server.event_with("JOB_STATUS_CHANGE", &data);
            };
            state("created");
            server.reply(&command, json!({}));
            state("concluded");
            main.drain();
            let mut job = json!({
                "id": id, "type": "snapshot-load", "status": "concluded",
                "current-progress": 1, "total-progress": 1,
            });
            if let Some(error) = error {
                job["error"] = error.into();
            }
            server.answer("query-jobs", json!([job]));
            main.drain();
            server.answer("job-dismiss", json!({}));
            main.drain();
            assert!(!load.is_done(), "it is still paused");
            server.answer("cont", json!({}));
            main.drain();
            let end = load.take();
            match error {
                None => assert_eq!(end, Ok(())),
                Some(error) => assert_eq!(
                    text(end),
                    format!(
                        "snapshot-load: the state does not fit the machine: its memory or \
                         devices may be others now ({error})"
                    )
                ),
            }
        }
    });
}

#[test]
fn a_machine_that_was_paused_stays_so() {
    with_own_pushed(|main| {
        for error in [None, Some("no")] {
            let (machine, _port, server) = ready(main);
            let load = load(main, &machine, &server, false);
            job(main, &server, "snapshot-load", error);
            assert_eq!(load.take().is_err(), error.is_some());
            assert!(server.commands().is_empty(), "nobody resumes it");
        }
    });
}

#[test]
fn an_incoming_machine_is_not_paused() {
    with_own_pushed(|main| {
        let (port, server) = script::port();
        server.peer.open();
        server.line(script::GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        let status = json!({ "running": false, "singlestep": false, "status": "inmigrate" });
        server.answer("query-status", status);
        main.drain();
        let machine = Machine::new(&port);
        let load = begin(main, machine.load_snapshot("a"));
        server.answer(QUERY, one(&[listed("a", 7)]));
        main.drain();
        job(main, &server, "snapshot-load", Some("no"));
        assert_eq!(text(load.take()), "snapshot-load: no");
    });
}

#[test]
fn a_load_that_cannot_succeed_is_never_requested() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        for (disks, why) in [
            (one(&[listed("b", 7)]), "there is no snapshot \"a\""),
            (json!([]), "there is no snapshot \"a\""),
            (
                one(&[listed("a", 0)]),
                "the snapshot \"a\" is of disks only, not of the machine",
            ),
            (
                json!([
                    disk("n0", "qcow2", &[listed("a", 7)]),
                    disk("n1", "raw", &[])
                ]),
                "the snapshot \"a\" is not on the drive dev-n1",
            ),
        ] {
            let load = begin(main, machine.load_snapshot("a"));
            server.answer(QUERY, disks);
            main.drain();
            assert_eq!(text(load.take()), format!("snapshot-load: {why}"));
            assert!(server.commands().is_empty());
        }
    });
}

#[test]
fn the_state_is_loaded_from_where_it_is() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        let load = begin(main, machine.load_snapshot("a"));
        let disks = json!([
            disk("n0", "qcow2", &[listed("a", 0)]),
            disk("n1", "qcow2", &[listed("b", 1), listed("a", 7)])
        ]);
        server.answer(QUERY, disks);
        main.drain();
        stop(main, &server, false);
        let arguments = job(main, &server, "snapshot-load", None);
        assert_eq!(
            arguments,
            json!({ "tag": "a", "vmstate": "n1", "devices": ["n0", "n1"] })
        );
        assert_eq!(load.take(), Ok(()));
    });
}

#[test]
fn a_snapshot_is_deleted_where_it_is() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        let delete = begin(main, machine.delete_snapshot("a"));
        let disks = json!([
            disk("n0", "qcow2", &[]),
            disk("n1", "qcow2", &[listed("a", 0)])
        ]);
        server.answer(QUERY, disks);
        main.drain();
        let arguments = job(main, &server, "snapshot-delete", None);
        assert_eq!(arguments, json!({ "tag": "a", "devices": ["n1"] }));
        assert_eq!(delete.take(), Ok(()));
        let delete = begin(main, machine.delete_snapshot("a"));
        server.answer(QUERY, one(&[listed("b", 7)]));
        main.drain();
        assert_eq!(
            text(delete.take()),
            "snapshot-delete: there is no snapshot \"a\""
        );
        assert!(server.commands().is_empty());
    });
}

/// The machine is resumed even if the future is dropped.
#[test]
fn what_was_begun_is_done() {
    with_own_pushed(|main| {
        let (machine, port, server) = ready(main);
        let cancellable = gio::Cancellable::new();
        let load = machine.load_snapshot("a");
        let load = gio::CancellableFuture::new(load, cancellable.clone());
        let task = main.spawn(load);
        main.drain();
        server.answer(QUERY, one(&[listed("a", 7)]));
        main.drain();
        let request = server.request("stop");
        cancellable.cancel();
        main.drain();
        assert!(task.take().is_err());
        drop(machine);
        server.event("STOP");
        server.reply(&request, json!({}));
        main.drain();
        let mut commands = Vec::new();
        main.until("it is resumed", || {
            for request in server.requests() {
                let reply = match request.command.as_str() {
                    "query-status" => script::paused(),
                    "snapshot-load" => {
                        let id = &request.arguments["job-id"];
                        for state in ["created", "concluded"] {
                            let data = json!({ "id": id, "status": state });
                            server.event_with("JOB_STATUS_CHANGE", &data);
                        }
                        json!({})
                    }
                    "query-jobs" => json!([]),
                    _ => json!({}),
                };
                server.reply(&request, reply);
                commands.push(request.command);
            }
            commands.iter().any(|it| it == "cont")
        });
        main.drain();
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn one_is_done_after_the_other() {
    with_own_pushed(|main| {
        let (machine, _port, server) = ready(main);
        let load = load(main, &machine, &server, false);
        let delete = begin(main, machine.delete_snapshot("a"));
        let save = begin(main, machine.save_snapshot("a"));
        job(main, &server, "snapshot-load", Some("no"));
        assert!(load.take().is_err());
        server.answer(QUERY, one(&[listed("a", 7)]));
        main.drain();
        job(main, &server, "snapshot-delete", None);
        assert_eq!(delete.take(), Ok(()));
        server.answer(QUERY, one(&[]));
        main.drain();
        job(main, &server, "snapshot-save", None);
        assert_eq!(save.take(), Ok(()));
    });
}

/// Every call ends with the connection, and nothing is left.
#[test]
fn they_end_with_the_connection() {
    with_own(|main| {
        for step in 0..3 {
            let (machine, port, server) = ready(main);
            let load = begin(main, machine.load_snapshot("a"));
            let next = begin(main, machine.delete_snapshot("a"));
            if step > 0 {
                server.answer(QUERY, one(&[listed("a", 7)]));
                main.drain();
            }
            if step > 1 {
                stop(main, &server, true);
                requests(main, &server);
            }
            server.peer.close("gone");
            main.drain();
            assert!(matches!(load.take(), Err(Error::Closed(_))), "step {step}");
            assert!(next.take().is_err());
            let late = begin(main, machine.save_snapshot("b"));
            assert!(matches!(
                late.take(),
                Err(Error::Usage(UsageError::NotReady { .. }) | Error::Closed(_))
            ));
            let (weak, weak_port) = (machine.downgrade(), port.downgrade());
            drop((machine, port));
            main.drain();
            assert!(weak.upgrade().is_none() && weak_port.upgrade().is_none());
        }
    });
}
