// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's list of jobs, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::future::IntoFuture;
use std::rc::Rc;

use common::main_loop::{MainLoop, Task, with_own, with_own_pushed};
use common::script::{self, Request, Server};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Error, Job, List, Machine, QmpPort, UsageError};

/// A job as `query-jobs` lists it.
fn listed(id: &str, status: &str, current: u64) -> Value {
    json!({
        "id": id, "type": "backup", "status": status,
        "current-progress": current, "total-progress": 100,
    })
}

fn status(server: &Server, id: &str, status: &str) {
    let data = json!({ "id": id, "status": status });
    server.event_with("JOB_STATUS_CHANGE", &data);
}

fn completed(server: &Server, id: &str, error: Option<&str>) {
    let mut data = json!({ "device": id, "len": 8, "offset": 8, "speed": 0, "type": "backup" });
    if let Some(error) = error {
        data["error"] = error.into();
    }
    server.event_with("BLOCK_JOB_COMPLETED", &data);
}

/// A machine and the list of its jobs, which are these; QEMU lists them in reverse
/// order.
fn jobs(main: &MainLoop, jobs: &[Value]) -> (Machine, List, QmpPort, Server) {
    let (port, server) = script::ready(main);
    let machine = Machine::new(&port);
    let list = machine.jobs();
    main.drain();
    assert!(server.commands().is_empty(), "nothing was requested");
    assert_eq!(list.n_items(), 0);
    assert!(list.loading());
    answer(main, &server, jobs);
    assert!(!list.loading());
    (machine, list, port, server)
}

/// The requests received, except the port's own, which are answered.
fn requests(server: &Server) -> Vec<Request> {
    let (own, others) = server
        .requests()
        .into_iter()
        .partition(|it| it.command == "query-status");
    let own: Vec<Request> = own;
    for request in own {
        server.reply(&request, script::running());
    }
    others
}

/// The only request received.
#[track_caller]
fn request(server: &Server, command: &str) -> Request {
    let mut requests = requests(server);
    assert_eq!(
        requests.len(),
        1,
        "{command} and nothing else: {requests:?}"
    );
    assert_eq!(requests[0].command, command);
    requests.remove(0)
}

/// Waits until the list asks, and answers.
fn answer(main: &MainLoop, server: &Server, jobs: &[Value]) {
    let mut requests = Vec::new();
    main.until("a question", || {
        requests.extend(self::requests(server));
        !requests.is_empty()
    });
    assert_eq!(requests.len(), 1, "{requests:?}");
    assert_eq!(requests[0].command, "query-jobs");
    let newest_first: Vec<_> = jobs.iter().rev().collect();
    server.reply(&requests[0], json!(newest_first));
    main.drain();
}

fn all(list: &List) -> Vec<Job> {
    list.iter::<Job>().map(Result::unwrap).collect()
}

/// The ids and statuses of all jobs.
fn summary(list: &List) -> String {
    let each = all(list);
    let each: Vec<_> = each
        .iter()
        .map(|it| format!("{} {}", it.id(), it.status()))
        .collect();
    each.join(", ")
}

/// The values of a job's properties, in order.
fn notes(job: &Job) -> Rc<RefCell<Vec<String>>> {
    let notes = Rc::<RefCell<Vec<String>>>::default();
    let own = notes.clone();
    job.connect_notify_local(None, move |job, property| {
        let value = match property.name() {
            "status" => job.status(),
            "error" => job.error().unwrap_or_default(),
            "progress" => job.progress().to_string(),
            _ => return,
        };
        own.borrow_mut()
            .push(format!("{} {value}", property.name()));
    });
    notes
}

#[test]
fn jobs_are_loaded_when_they_are_requested() {
    with_own(|main| {
        let old = listed("old", "concluded", 100);
        let mut failed = listed("failed", "concluded", 7);
        failed["error"] = "No space left on device".into();
        let (machine, list, port, _server) = jobs(main, &[old, failed]);
        assert_eq!(machine.jobs(), list, "there is one");
        assert_eq!(list.item_type(), Job::static_type());
        let all = all(&list);
        assert_eq!(all.len(), 2);
        let of = |job: &Job| (job.id(), job.kind(), job.status(), job.error());
        let concluded = |id: &str, error: Option<&str>| {
            let error = error.map(str::to_owned);
            (
                id.to_owned(),
                "backup".to_owned(),
                "concluded".to_owned(),
                error,
            )
        };
        assert_eq!(of(&all[0]), concluded("old", None));
        assert_eq!(
            of(&all[1]),
            concluded("failed", Some("No space left on device"))
        );
        let progress = |job: &Job| (job.progress(), job.current(), job.total());
        assert_eq!(progress(&all[0]), (1.0, 100, 100));
        assert_eq!(progress(&all[1]), (0.07, 7, 100));
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn events_change_them() {
    with_own_pushed(|main| {
        let (_machine, list, _port, server) = jobs(main, &[listed("a", "running", 10)]);
        let job = all(&list).remove(0);
        let notes = notes(&job);
        // Another job, which only QEMU's list describes.
        status(&server, "b", "created");
        status(&server, "b", "running");
        answer(
            main,
            &server,
            &[listed("a", "running", 20), listed("b", "running", 0)],
        );
        assert_eq!(summary(&list), "a running, b running");
        assert_eq!(all(&list)[0], job, "it stays the same");

        status(&server, "a", "aborting");
        completed(&server, "a", Some("Input/output error"));
        main.drain();
        assert_eq!(summary(&list), "a aborting, b running");
        status(&server, "a", "concluded");
        status(&server, "a", "null");
        main.drain();
        assert_eq!(summary(&list), "b running");
        assert_eq!(job.error().as_deref(), Some("Input/output error"));
        assert_eq!(
            *notes.borrow(),
            [
                "progress 0.2",
                "status aborting",
                "error Input/output error",
                "status concluded",
                "status null"
            ]
        );
        completed(&server, "b", None);
        main.drain();
        assert_eq!(
            all(&list)[0].progress().to_string(),
            "1",
            "success is all of it"
        );
    });
}

#[test]
fn a_job_that_ends_at_once_is_never_listed() {
    with_own_pushed(|main| {
        let (_machine, list, _port, server) = jobs(main, &[]);
        let changes = Rc::new(Cell::new(0));
        let count = changes.clone();
        list.connect_items_changed(move |_, _, _, _| count.set(count.get() + 1));
        for state in ["created", "running", "pending", "concluded", "null"] {
            status(&server, "a", state);
        }
        answer(main, &server, &[]);
        assert_eq!(changes.get(), 0);
    });
}

/// QEMU pauses jobs for moments, in which it does not list them as paused.
#[test]
fn a_drain_is_no_pause() {
    with_own_pushed(|main| {
        let (_machine, list, _port, server) = jobs(main, &[listed("a", "running", 10)]);
        let job = all(&list).remove(0);
        let notes = notes(&job);
        for _ in 0..16 {
            status(&server, "a", "paused");
            status(&server, "a", "running");
        }
        answer(main, &server, &[listed("a", "running", 10)]);
        assert!(notes.borrow().is_empty(), "{notes:?}");

        status(&server, "a", "paused");
        answer(main, &server, &[listed("a", "paused", 10)]);
        status(&server, "a", "running");
        main.drain();
        assert_eq!(notes.take(), ["status paused", "status running"]);
    });
}

#[test]
fn progress_is_polled_while_a_job_runs() {
    with_own_pushed(|main| {
        let (_machine, list, port, server) = jobs(main, &[listed("a", "running", 1)]);
        for n in 2..4 {
            answer(main, &server, &[listed("a", "running", n)]);
            assert_eq!(all(&list)[0].current(), n);
        }
        for resting in ["paused", "ready", "concluded"] {
            answer(main, &server, &[listed("a", resting, 50)]);
            let until = glib::monotonic_time() + 700_000;
            main.until("a while", || glib::monotonic_time() >= until);
            assert!(server.commands().is_empty(), "{resting}");
            assert_eq!(port.pending(), 0);
            status(&server, "a", "running");
        }
        // Polling continues after that event.
        answer(main, &server, &[]);
        assert_eq!(list.n_items(), 0);
    });
}

/// QEMU's list may be outdated when it is shown.
#[test]
fn an_event_right_after_the_reply_counts() {
    with_own_pushed(|main| {
        let (_machine, list, _port, server) = jobs(main, &[listed("a", "running", 1)]);
        let job = all(&list).remove(0);
        let notes = notes(&job);
        list.refresh();
        main.drain();
        let request = server.request("query-jobs");
        server.reply(&request, json!([listed("a", "running", 2)]));
        status(&server, "a", "concluded");
        status(&server, "a", "null");
        main.drain();
        assert_eq!(list.n_items(), 0);
        answer(main, &server, &[]);
        assert_eq!(*notes.borrow(), ["status concluded", "status null"]);
    });
}

#[test]
fn a_job_can_be_controlled() {
    with_own_pushed(|main| {
        let (_machine, list, _port, server) = jobs(main, &[listed("a", "concluded", 1)]);
        let job = all(&list).remove(0);
        for command in [
            "job-cancel",
            "job-pause",
            "job-resume",
            "job-complete",
            "job-dismiss",
        ] {
            for refused in [false, true] {
                let task = match command {
                    "job-cancel" => main.spawn(job.cancel()),
                    "job-pause" => main.spawn(job.pause()),
                    "job-resume" => main.spawn(job.resume()),
                    "job-complete" => main.spawn(job.complete()),
                    _ => main.spawn(job.dismiss()),
                };
                main.drain();
                let request = server.request(command);
                assert_eq!(request.arguments, json!({ "id": "a" }));
                if refused {
                    server.refuse(&request, "GenericError", "Job is already paused");
                    let error = main.join(command, &task).unwrap_err();
                    assert_eq!(
                        error.to_string(),
                        format!("{command}: Job is already paused")
                    );
                } else {
                    server.reply(&request, json!({}));
                    assert_eq!(main.join(command, &task), Ok(()));
                }
            }
        }
        assert_eq!(job.status(), "concluded", "the status follows QEMU's");
    });
}

#[test]
fn another_connection_has_other_jobs() {
    with_own_pushed(|main| {
        let (machine, list, _port, server) = jobs(main, &[listed("a", "running", 1)]);
        server.peer.close("gone");
        main.drain();
        assert_eq!(summary(&list), "a running", "what was known last");
        server.peer.open();
        server.line(script::GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        answer(main, &server, &[listed("b", "concluded", 1)]);
        assert_eq!(summary(&list), "b concluded");
        // The list needs no machine, and nothing holds it.
        let weak = (list.downgrade(), machine.downgrade());
        drop(machine);
        assert!(weak.1.upgrade().is_none());
        status(&server, "b", "null");
        main.drain();
        assert_eq!(list.n_items(), 0);
        drop(list);
        assert!(weak.0.upgrade().is_none());
    });
}

#[test]
fn run_job_tells_its_progress() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let steps = Rc::<RefCell<Vec<f64>>>::default();
        let seen = steps.clone();
        let run = machine
            .run_job("blockdev-backup", json!({ "job-id": "j" }))
            .progress(move |job| {
                assert_eq!(job.id(), "j");
                seen.borrow_mut().push(job.progress());
            });
        let task = main.spawn(run.into_future());
        main.drain();
        let command = server.request("blockdev-backup");
        status(&server, "j", "created");
        status(&server, "j", "running");
        main.drain();
        assert!(server.commands().is_empty(), "it may be refused");
        server.reply(&command, json!({}));
        let other = listed("other", "running", 3);
        for step in [10, 30, 60] {
            answer(
                main,
                &server,
                &[other.clone(), listed("j", "running", step)],
            );
        }
        completed(&server, "j", None);
        status(&server, "j", "concluded");
        status(&server, "j", "null");
        assert_eq!(main.join("the job", &task), Ok(()));
        assert_eq!(*steps.borrow(), [0.1, 0.3, 0.6, 1.0]);
        assert_eq!(Rc::strong_count(&steps), 1, "nothing is called any more");
    });
}

/// Runs a migration until its command was sent.
fn migrate(
    main: &MainLoop,
    machine: &Machine,
    server: &Server,
) -> (Task<Result<(), Error>>, Request) {
    let run = machine.run_job("migrate", json!({ "uri": "unix:x" }));
    let task = main.spawn(run.into_future());
    main.drain();
    let set = request(server, "migrate-set-capabilities");
    let events = json!({ "capabilities": [{ "capability": "events", "state": true }] });
    assert_eq!(set.arguments, events);
    server.reply(&set, json!({}));
    main.drain();
    no_other(main, server);
    let command = request(server, "migrate");
    assert_eq!(command.arguments, json!({ "uri": "unix:x" }));
    (task, command)
}

/// Reports that the last migration has been cleaned up.
fn no_other(main: &MainLoop, server: &Server) {
    let chardev = json!({ "type": "chardev", "id": "c" });
    server.reply(&request(server, "query-yank"), json!([chardev]));
    main.drain();
    let failed = json!({ "status": "failed", "error-desc": "no" });
    server.reply(&request(server, "query-migrate"), failed);
    main.drain();
}

fn migration(server: &Server, status: &str) {
    server.event_with("MIGRATION", &json!({ "status": status }));
}

#[test]
fn a_migration_ends() {
    with_own_pushed(|main| {
        // QEMU 10.0 may send the event after the reply.
        for reply_first in [false, true] {
            for end in ["completed", "failed", "cancelled"] {
                let (port, server) = script::ready(main);
                let machine = Machine::new(&port);
                let (task, command) = migrate(main, &machine, &server);
                // The end of the last one.
                migration(&server, "cancelled");
                if reply_first {
                    server.reply(&command, json!({}));
                    main.drain();
                    server.reply(
                        &request(&server, "query-migrate"),
                        json!({ "status": "setup" }),
                    );
                    migration(&server, "setup");
                } else {
                    migration(&server, "setup");
                    server.reply(&command, json!({}));
                }
                migration(&server, "active");
                main.drain();
                assert!(!task.is_done());
                migration(&server, end);
                main.drain();
                if end == "failed" {
                    let reply = json!({ "status": "failed", "error-desc": "no route" });
                    server.reply(&request(&server, "query-migrate"), reply);
                }
                let result = main.join("the migration", &task);
                match end {
                    "completed" => assert_eq!(result, Ok(())),
                    "failed" => assert_eq!(result.unwrap_err().to_string(), "migrate: no route"),
                    _ => assert!(matches!(result, Err(Error::Cancelled(_))), "{result:?}"),
                }
            }
        }
    });
}

/// Events may be newer than the answer to an earlier question.
#[test]
fn an_answer_may_be_older_than_events() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let (task, command) = migrate(main, &machine, &server);
        server.reply(&command, json!({}));
        main.drain();
        let question = request(&server, "query-migrate");
        server.reply(&question, json!({ "status": "setup" }));
        for status in ["setup", "active", "completed"] {
            migration(&server, status);
        }
        assert_eq!(main.join("the migration", &task), Ok(()));

        let run = machine.run_job("block-stream", json!({ "job-id": "j" }));
        let task = main.spawn(run.into_future());
        main.drain();
        server.reply(&request(&server, "block-stream"), json!({}));
        main.drain();
        let question = request(&server, "query-jobs");
        server.reply(&question, json!([listed("j", "running", 1)]));
        status(&server, "j", "null");
        main.drain();
        assert!(!task.is_done(), "its end is not known");
        status(&server, "j", "null");
        assert_eq!(main.join("the job", &task), Ok(()));
    });
}

/// QEMU 7.2 dies if a migration begins while it cleans up after the last one.
#[test]
fn a_migration_waits_for_the_end_of_the_last_one() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let run = machine.run_job("migrate", json!({ "uri": "unix:x" }));
        let task = main.spawn(run.into_future());
        main.drain();
        server.reply(&request(&server, "migrate-set-capabilities"), json!({}));
        for standing in ["failed", "active"] {
            let mut questions = Vec::new();
            main.until("a question", || {
                questions.extend(requests(&server));
                !questions.is_empty()
            });
            assert_eq!(questions.len(), 1);
            server.reply(&questions[0], json!([{ "type": "migration" }]));
            main.drain();
            let reply = json!({ "status": standing });
            server.reply(&request(&server, "query-migrate"), reply);
            main.drain();
        }
        let command = request(&server, "migrate");
        let why = "There's a migration process in progress";
        server.refuse(&command, "GenericError", why);
        assert!(main.join("the refusal", &task).is_err());
    });
}

#[test]
fn a_migration_that_does_not_begin() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let (task, command) = migrate(main, &machine, &server);
        server.refuse(&command, "GenericError", "Migration is disabled");
        let error = main.join("the migration", &task).unwrap_err();
        assert_eq!(error.to_string(), "migrate: Migration is disabled");

        let (task, command) = migrate(main, &machine, &server);
        server.reply(&command, json!({}));
        main.drain();
        server.reply(&request(&server, "query-migrate"), json!({}));
        assert!(main.join("the migration", &task).is_err());
        main.drain();
        assert!(requests(&server).is_empty());
    });
}

#[test]
fn a_dropped_migration_is_cancelled() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let run = machine.run_job("migrate", json!({ "uri": "unix:x" }));
        let cancellable = gio::Cancellable::new();
        let job = gio::CancellableFuture::new(run.into_future(), cancellable.clone());
        let job = main.spawn(job);
        main.drain();
        server.reply(&request(&server, "migrate-set-capabilities"), json!({}));
        main.drain();
        no_other(main, &server);
        let command = request(&server, "migrate");
        migration(&server, "setup");
        server.reply(&command, json!({}));
        main.drain();
        cancellable.cancel();
        assert!(main.join("the end", &job).is_err());
        main.drain();
        server.reply(&request(&server, "migrate_cancel"), json!({}));
        migration(&server, "cancelling");
        migration(&server, "cancelled");
        main.drain();
        assert!(requests(&server).is_empty());
    });
}

#[test]
fn a_migration_is_shown_as_a_job_while_it_is_ours() {
    with_own_pushed(|main| {
        let (machine, list, _port, server) = jobs(main, &[listed("a", "concluded", 1)]);
        let (task, command) = migrate(main, &machine, &server);
        migration(&server, "setup");
        server.reply(&command, json!({}));
        migration(&server, "active");
        let both = |current: u64| {
            answer(main, &server, &[listed("a", "concluded", 1)]);
            let ram = json!({ "total": 100, "remaining": 100 - current });
            server.reply(
                &request(&server, "query-migrate"),
                json!({ "status": "active", "ram": ram }),
            );
            main.drain();
        };
        both(10);
        assert_eq!(summary(&list), "a concluded, migrate running");
        let job = all(&list).remove(1);
        assert_eq!((&*job.kind(), job.progress()), ("migrate", 0.1));
        both(50);
        assert_eq!(job.progress().to_string(), "0.5");

        let cancel = main.spawn(job.cancel());
        main.drain();
        server.reply(&request(&server, "migrate_cancel"), json!({}));
        assert_eq!(main.join("migrate_cancel", &cancel), Ok(()));
        for unknown in [main.spawn(job.pause()), main.spawn(job.dismiss())] {
            let error = main.join("a refusal", &unknown).unwrap_err();
            assert!(
                matches!(error, Error::Usage(UsageError::NotSupported(_))),
                "{error}"
            );
        }
        migration(&server, "cancelled");
        assert!(main.join("the migration", &task).is_err());
        assert_eq!(job.status(), "concluded");
        assert_eq!(job.error().as_deref(), Some("migrate was cancelled"));
        assert_eq!(summary(&list), "a concluded");

        // Another client's is not shown.
        main.drain();
        requests(&server);
        migration(&server, "setup");
        migration(&server, "active");
        main.drain();
        assert!(requests(&server).is_empty());
    });
}
