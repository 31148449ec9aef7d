// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's list of jobs, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::future::IntoFuture;
use std::rc::Rc;

use common::jobs::{all, answer, completed, jobs, listed, notes, status, summary};
use common::main_loop::{with_own, with_own_pushed};
use common::script;
use gio::prelude::*;
use serde_json::json;
use spice_qmp::{Job, Machine};

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
