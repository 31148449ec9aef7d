// SPDX-License-Identifier: MIT OR Apache-2.0
//! A migration, which is listed among a machine's jobs, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::future::IntoFuture;

use common::jobs::{all, answer, jobs, listed, request, requests, status, summary};
use common::main_loop::{MainLoop, Task, with_own_pushed};
use common::script::{self, Request, Server};
use gio::prelude::*;
use serde_json::json;
use spice_qmp::{Error, Machine, UsageError};

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
