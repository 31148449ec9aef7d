// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's jobs, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::future::IntoFuture;

use common::main_loop::{MainLoop, Task, with_own, with_own_pushed};
use common::script::{self, Request, Server};
use gio::prelude::*;
use serde_json::json;
use spice_qmp::{Error, Machine, PeerError, QmpPort, UsageError};

type End = Result<(), Error>;

/// A machine whose server answers nothing by itself.
fn machine(main: &MainLoop) -> (Machine, QmpPort, Server) {
    let (port, server) = script::ready(main);
    (Machine::new(&port), port, server)
}

/// Runs a job with the id `j`, whose command has been sent.
fn backup(main: &MainLoop, machine: &Machine, server: &Server) -> (Task<End>, Request) {
    let job = main.spawn(
        machine
            .run_job("blockdev-backup", json!({"job-id": "j"}))
            .into_future(),
    );
    main.drain();
    (job, server.request("blockdev-backup"))
}

/// Sends the states of a job.
fn states(server: &Server, id: &str, states: &[&str]) {
    for state in states {
        let data = json!({ "id": id, "status": state });
        server.event_with("JOB_STATUS_CHANGE", &data);
    }
}

fn block_job(server: &Server, name: &str, id: &str, error: Option<&str>) {
    let mut data = json!({ "device": id, "len": 8, "offset": 8, "speed": 0, "type": "backup" });
    if let Some(error) = error {
        data["error"] = error.into();
    }
    server.event_with(name, &data);
}

/// QEMU's events for a job that succeeds, until it is concluded.
fn succeed(server: &Server, id: &str) {
    states(server, id, &["waiting", "pending"]);
    block_job(server, "BLOCK_JOB_COMPLETED", id, None);
    states(server, id, &["concluded"]);
}

fn text(end: End) -> String {
    end.expect_err("it has failed").to_string()
}

#[test]
fn it_ends_when_the_job_does() {
    with_own(|main| {
        let (machine, port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        states(&server, "j", &["created", "running", "paused", "running"]);
        server.reply(&command, json!({}));
        main.drain();
        assert!(!job.is_done());
        // Events of the other jobs.
        states(&server, "k", &["concluded", "null"]);
        block_job(&server, "BLOCK_JOB_COMPLETED", "k", Some("no"));
        succeed(&server, "j");
        states(&server, "j", &["null"]);
        main.drain();
        assert_eq!(main.join("the job", &job), Ok(()));
        assert!(server.commands().is_empty(), "nothing else was asked");
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn a_job_may_be_over_before_its_command_is_answered() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        states(&server, "j", &["created", "running"]);
        succeed(&server, "j");
        states(&server, "j", &["null"]);
        main.drain();
        assert!(!job.is_done(), "QEMU may still refuse it");
        server.reply(&command, json!({}));
        main.drain();
        assert_eq!(main.join("the job", &job), Ok(()));
        assert!(server.commands().is_empty());
    });
}

#[test]
fn each_of_two_jobs_has_its_own_end() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        let jobs: Vec<_> = ["j1", "j2"]
            .map(|id| {
                let arguments = json!({ "job-id": id });
                main.spawn(machine.run_job("block-stream", arguments).into_future())
            })
            .into();
        main.drain();
        for request in server.requests() {
            let id = request.arguments["job-id"].as_str().unwrap().to_owned();
            states(&server, &id, &["created", "running"]);
            server.reply(&request, json!({}));
        }
        states(&server, "j1", &["paused"]);
        block_job(&server, "BLOCK_JOB_COMPLETED", "j2", Some("broken"));
        states(&server, "j2", &["aborting", "concluded", "null"]);
        main.drain();
        assert!(!jobs[0].is_done());
        assert_eq!(text(main.join("j2", &jobs[1])), "block-stream: broken");
        states(&server, "j1", &["running"]);
        succeed(&server, "j1");
        states(&server, "j1", &["null"]);
        assert_eq!(main.join("j1", &jobs[0]), Ok(()));
    });
}

/// Jobs that are not on disks, and those with `auto-dismiss` off, are queried.
#[test]
fn a_job_that_waits_to_be_dismissed_is_dismissed() {
    with_own_pushed(|main| {
        for error in [None, Some("Snapshot 's' does not exist")] {
            let (machine, _port, server) = machine(main);
            let (job, command) = backup(main, &machine, &server);
            states(&server, "j", &["created", "running"]);
            server.reply(&command, json!({}));
            if error.is_some() {
                states(&server, "j", &["aborting"]);
            }
            states(&server, "j", &["concluded"]);
            main.drain();
            let mut listed = json!({ "id": "j", "type": "snapshot-load", "status": "concluded" });
            if let Some(error) = error {
                listed["error"] = error.into();
            }
            let other = json!({ "id": "k", "type": "backup", "status": "running" });
            server.answer("query-jobs", json!([other, listed]));
            main.drain();
            assert!(!job.is_done(), "its id is still taken");
            let dismiss = server.request("job-dismiss");
            assert_eq!(dismiss.arguments, json!({ "id": "j" }));
            server.reply(&dismiss, json!({}));
            let end = main.join("the job", &job);
            match error {
                None => assert_eq!(end, Ok(())),
                Some(error) => assert_eq!(text(end), format!("blockdev-backup: {error}")),
            }
            main.drain();
            assert!(server.commands().is_empty());
        }
    });
}

#[test]
fn others_may_dismiss_a_job_before() {
    with_own_pushed(|main| {
        // Before it is queried, and between the query and the dismissal.
        for asked_in_time in [false, true] {
            for error in [None, Some("broken")] {
                let (machine, _port, server) = machine(main);
                let (job, command) = backup(main, &machine, &server);
                states(&server, "j", &["created", "running"]);
                server.reply(&command, json!({}));
                if error.is_some() {
                    states(&server, "j", &["aborting"]);
                }
                states(&server, "j", &["concluded"]);
                main.drain();
                let listed = json!([{ "id": "j", "status": "concluded", "error": error }]);
                if asked_in_time {
                    server.answer("query-jobs", listed);
                    main.drain();
                    states(&server, "j", &["null"]);
                    let dismiss = server.request("job-dismiss");
                    server.refuse(&dismiss, "GenericError", "Job not found");
                } else {
                    states(&server, "j", &["null"]);
                    server.answer("query-jobs", json!([]));
                }
                let end = main.join("the job", &job);
                match error {
                    None => assert_eq!(end, Ok(())),
                    Some(error) if asked_in_time => assert!(text(end).ends_with(error)),
                    Some(_) => assert!(text(end).contains("dismissed by another client")),
                }
            }
        }
    });
}

#[test]
fn a_job_that_another_client_cancels_is_cancelled() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        states(&server, "j", &["created", "running"]);
        server.reply(&command, json!({}));
        states(&server, "j", &["aborting"]);
        block_job(&server, "BLOCK_JOB_CANCELLED", "j", None);
        states(&server, "j", &["concluded", "null"]);
        let end = main.join("the job", &job);
        assert!(matches!(end, Err(Error::Cancelled(_))), "{end:?}");
    });
}

#[test]
fn what_is_refused_is_no_job() {
    with_own_pushed(|main| {
        let (machine, port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        // Another client's job with the same name.
        states(&server, "j", &["running"]);
        server.refuse(&command, "GenericError", "Job ID 'j' already in use");
        let end = text(main.join("the job", &job));
        assert_eq!(end, "blockdev-backup: Job ID 'j' already in use");
        states(&server, "j", &["concluded"]);
        main.drain();
        assert!(
            server.commands().is_empty(),
            "the other's job is left alone"
        );
        assert!(!has_handlers(&port));

        // Dropped before it is refused.
        let command = dropped(main, &machine, &server);
        server.refuse(&command, "GenericError", "Job ID 'j' already in use");
        main.drain();
        assert!(server.commands().is_empty());
        assert!(!has_handlers(&port));
    });
}

/// The last job created before the reply is ours: an id is used by one job at a time.
#[test]
fn other_clients_may_use_the_same_id_before_and_after() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        states(&server, "j", &["pending"]);
        block_job(&server, "BLOCK_JOB_COMPLETED", "j", Some("the other's"));
        states(&server, "j", &["concluded", "null"]);
        states(&server, "j", &["created", "aborting"]);
        block_job(&server, "BLOCK_JOB_COMPLETED", "j", Some("the second's"));
        states(&server, "j", &["concluded", "null"]);
        states(&server, "j", &["created", "running"]);
        main.drain();
        server.reply(&command, json!({}));
        main.drain();
        assert!(!job.is_done());
        succeed(&server, "j");
        states(&server, "j", &["null", "created", "aborting"]);
        block_job(&server, "BLOCK_JOB_COMPLETED", "j", Some("the fourth's"));
        assert_eq!(main.join("the job", &job), Ok(()));
    });
}

/// Runs a job, and returns a closure that cancels it.
fn cancellable(main: &MainLoop, machine: &Machine, server: &Server) -> (impl Fn(), Request) {
    let run = machine.run_job("blockdev-backup", json!({"job-id": "j"}));
    let cancellable = gio::Cancellable::new();
    let job = gio::CancellableFuture::new(run.into_future(), cancellable.clone());
    let job = main.spawn(job);
    main.drain();
    let command = server.request("blockdev-backup");
    let cancel = move || {
        cancellable.cancel();
        main.drain();
        assert!(job.is_done());
    };
    (cancel, command)
}

/// Runs a job, and drops its future once the command is sent.
fn dropped(main: &MainLoop, machine: &Machine, server: &Server) -> Request {
    let (cancel, command) = cancellable(main, machine, server);
    cancel();
    command
}

fn has_handlers(port: &QmpPort) -> bool {
    [
        "JOB_STATUS_CHANGE",
        "BLOCK_JOB_COMPLETED",
        "BLOCK_JOB_CANCELLED",
    ]
    .iter()
    .any(|name| {
        let signal = glib::subclass::SignalId::lookup("qmp-event", QmpPort::static_type());
        glib::signal::signal_has_handler_pending(
            port,
            signal.unwrap(),
            Some(glib::Quark::from_str(*name)),
            true,
        )
    })
}

#[test]
fn a_dropped_future_cancels_its_job() {
    with_own(|main| {
        for (auto_dismiss, already_answered) in
            [(true, false), (false, false), (true, true), (false, true)]
        {
            let (machine, port, server) = machine(main);
            let command = if already_answered {
                let (cancel, command) = cancellable(main, &machine, &server);
                states(&server, "j", &["created", "running"]);
                server.reply(&command, json!({}));
                main.drain();
                cancel();
                command
            } else {
                let command = dropped(main, &machine, &server);
                states(&server, "j", &["created", "running"]);
                main.drain();
                assert!(server.commands().is_empty(), "it may still be refused");
                server.reply(&command, json!({}));
                main.drain();
                command
            };
            assert_eq!(command.arguments, json!({ "job-id": "j" }));
            drop(machine);
            let cancel = server.request("job-cancel");
            assert_eq!(cancel.arguments, json!({ "id": "j" }));
            states(&server, "j", &["paused", "running", "aborting"]);
            block_job(&server, "BLOCK_JOB_CANCELLED", "j", None);
            main.drain();
            assert!(server.commands().is_empty(), "once");
            server.reply(&cancel, json!({}));
            states(&server, "j", &["concluded"]);
            if auto_dismiss {
                states(&server, "j", &["null"]);
                main.drain();
                for request in server.requests() {
                    assert_eq!(request.command, "job-dismiss");
                    server.refuse(&request, "GenericError", "Job not found");
                }
            } else {
                main.drain();
                server.answer("job-dismiss", json!({}));
            }
            main.drain();
            assert!(!has_handlers(&port), "nothing is left of it");
        }
    });
}

#[test]
fn a_job_that_ends_before_it_is_cancelled_is_not() {
    with_own_pushed(|main| {
        for state in ["concluded", "null"] {
            let (machine, port, server) = machine(main);
            let command = dropped(main, &machine, &server);
            states(&server, "j", &["created", "running"]);
            succeed(&server, "j");
            if state == "null" {
                states(&server, "j", &["null"]);
            }
            server.reply(&command, json!({}));
            main.drain();
            let expected: &[_] = if state == "null" {
                &[]
            } else {
                &["job-dismiss"]
            };
            assert_eq!(server.commands(), expected);
            assert!(!has_handlers(&port));
        }
    });
}

#[test]
fn the_end_of_the_connection_is_its_end() {
    with_own(|main| {
        for answered in [false, true] {
            let (machine, port, server) = machine(main);
            let (job, command) = backup(main, &machine, &server);
            if answered {
                states(&server, "j", &["created", "running"]);
                server.reply(&command, json!({}));
                main.drain();
            }
            server.peer.close("gone");
            let end = main.join("the job", &job);
            assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
            // The next connection is not affected.
            server.peer.open();
            server.make_ready(main, script::GREETING);
            main.drain();
            assert!(server.commands().is_empty());
            assert!(!has_handlers(&port));
        }
    });
}

#[test]
fn the_end_of_the_connection_may_come_with_that_of_the_job() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        states(&server, "j", &["created", "running"]);
        server.reply(&command, json!({}));
        succeed(&server, "j");
        states(&server, "j", &["null"]);
        server.peer.close("gone");
        assert_eq!(main.join("the job", &job), Ok(()));
    });
}

#[test]
fn its_id_is_the_callers_or_ours() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        let mut ids = Vec::new();
        for (given, expected) in [
            (
                r#"{"device": "d", "speed": 18446744073709551615}"#,
                json!({"device": "d", "speed": u64::MAX}),
            ),
            ("{}", json!({})),
            (" { \"job-ids\": [1.50] } ", json!({"job-ids": [1.5]})),
        ] {
            let job = main.spawn(
                machine
                    .run_job_with("block-stream", Some(given))
                    .into_future(),
            );
            main.drain();
            let request = server.request("block-stream");
            let mut arguments = request.arguments.clone();
            let id = arguments.as_object_mut().unwrap().remove("job-id").unwrap();
            ids.push(id.as_str().unwrap().to_owned());
            assert_eq!(arguments, expected);
            let numbers = given.trim_matches(|c: char| !c.is_ascii_digit());
            assert!(request.line.contains(numbers), "{}", request.line);
            states(
                &server,
                ids.last().unwrap(),
                &["created", "concluded", "null"],
            );
            server.reply(&request, json!({}));
            assert_eq!(main.join("the job", &job), Ok(()));
        }
        let own = machine.run_job("block-stream", ());
        let job = main.spawn(own.into_future());
        main.drain();
        let request = server.request("block-stream");
        ids.push(request.arguments["job-id"].as_str().unwrap().to_owned());
        server.refuse(&request, "GenericError", "no");
        assert!(main.join("the job", &job).is_err());
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), 4, "each has its own");
        for id in ids {
            // What QEMU accepts as one.
            assert!(id.starts_with(|c: char| c.is_ascii_alphabetic()), "{id}");
            assert!(
                id.chars()
                    .all(|c| c.is_ascii_alphanumeric() || "-._".contains(c)),
                "{id}"
            );
        }
    });
}

#[test]
fn arguments_are_an_object() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        for wrong in [
            r#"["j"]"#,
            "1",
            r#""geheim""#,
            r#"{"job-id": 7}"#,
            "{",
            "{}{}",
        ] {
            let job = machine.run_job_with("block-stream", Some(wrong));
            let error = main.block_on(job.into_future()).unwrap_err();
            let is_usage = matches!(error, Error::Usage(UsageError::InvalidArgument(_)));
            assert!(is_usage && !error.to_string().contains("geheim"), "{error}");
        }
        assert!(server.commands().is_empty());
    });
}

/// The server lies, or events were dropped.
#[test]
fn a_job_without_events_is_looked_for() {
    with_own_pushed(|main| {
        let (machine, port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        server.reply(&command, json!({}));
        main.drain();
        server.answer("query-jobs", json!([{ "id": "j", "status": "running" }]));
        main.drain();
        assert!(!job.is_done());
        succeed(&server, "j");
        states(&server, "j", &["null"]);
        assert_eq!(main.join("the job", &job), Ok(()));

        let (job, command) = backup(main, &machine, &server);
        server.reply(&command, json!({}));
        main.drain();
        server.answer("query-jobs", json!([]));
        let end = main.join("the job", &job);
        assert!(
            matches!(end, Err(Error::Peer(PeerError::UnexpectedReply { .. }))),
            "{end:?}"
        );
        main.drain();
        assert!(server.commands().is_empty());
        assert!(!has_handlers(&port));
    });
}

#[test]
fn events_that_are_not_qemus_do_no_harm() {
    with_own_pushed(|main| {
        let (machine, _port, server) = machine(main);
        let (job, command) = backup(main, &machine, &server);
        states(&server, "j", &["created", "running"]);
        server.reply(&command, json!({}));
        for data in [
            json!({}),
            json!({ "id": "j" }),
            json!({ "id": 1, "status": "concluded" }),
            json!({ "id": "j", "status": ["null"] }),
            json!({ "id": "j", "device": "j", "status": "null" }),
            json!({ "id": "j", "status": "a new one" }),
            json!(["j", "null"]),
        ] {
            server.event_with("JOB_STATUS_CHANGE", &data);
        }
        server.event("JOB_STATUS_CHANGE");
        main.drain();
        assert!(!job.is_done());
        server.event_with("JOB_STATUS_CHANGE", &json!({ "id": "j", "status": "null" }));
        assert_eq!(main.join("the job", &job), Ok(()));
    });
}

#[test]
fn a_job_holds_no_port() {
    with_own_pushed(|main| {
        let (machine, port, server) = machine(main);
        let command = dropped(main, &machine, &server);
        states(&server, "j", &["created", "running"]);
        server.reply(&command, json!({}));
        main.drain();
        let weak = port.downgrade();
        drop((machine, port));
        main.drain();
        assert!(weak.upgrade().is_none(), "it waits for nothing");
        let _ = server.commands();
    });
}
