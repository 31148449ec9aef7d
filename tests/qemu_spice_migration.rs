// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine that migrates to another QEMU, together with its SPICE client.
#![cfg(feature = "spice")]

mod common;

use std::cell::Cell;
use std::path::PathBuf;
use std::rc::Rc;

use common::main_loop::{MainLoop, with_default};
use common::qemu::{Config, Program, Qemu};
use common::script::{Ends, call};
use common::spice::Client;
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Error, PortState, QmpPort};
use tempfile::TempDir;

const PASSWORD: &str = "secret";

/// A machine at its source, the target that waits for it, and a client.
struct Move {
    source: Qemu,
    target: Qemu,
    client: Client,
    /// How often spice-gtk began or ended a migration.
    changes: Rc<Cell<u32>>,
    folder: TempDir,
}

impl Move {
    /// `seamless` moves the connections of the client unchanged. Otherwise the
    /// client is notified when the machine has moved, and resets its channels.
    fn prepare(main: &MainLoop, from: &Program, to: &Program, seamless: bool) -> Self {
        let folder = tempfile::tempdir_in("/tmp").expect("a folder in /tmp");
        let switch = if seamless { "on" } else { "off" };
        let config = || {
            Config::new()
                .spice_tcp_password(PASSWORD)
                .arg("-spice")
                .arg(format!("seamless-migration={switch}"))
                // The newest machine type that both know.
                .arg("-machine")
                .arg("pc-i440fx-7.2")
                .running()
        };
        let source = config().start(from);
        let target = config()
            .arg("-incoming")
            .arg(format!("unix:{}", wire(&folder).display()))
            .start(to);
        let client = Client::new(&source);
        client.session.set_password(PASSWORD);
        let changes = Rc::new(Cell::new(0));
        client
            .session
            .connect_notify_local(Some("migration-state"), {
                let changes = changes.clone();
                move |_, _| changes.set(changes.get() + 1)
            });
        client.connect(main);
        // As viewers do: spice-gtk migrates nothing, or crashes, if a channel
        // was never connected.
        for channel in client.session.channels() {
            assert!(channel.connect());
            main.until("the channel", || {
                channel.property::<Option<gio::Socket>>("socket").is_some()
            });
        }
        Self {
            source,
            target,
            client,
            changes,
            folder,
        }
    }

    /// The command that announces the target to the client.
    fn target_address(&self) -> Value {
        let uri = self.target.spice_uri();
        let port = uri.rsplit(':').next().expect("a port");
        let port: u16 = port.parse().expect("a number");
        json!({ "protocol": "spice", "hostname": "127.0.0.1", "port": port })
    }

    /// Migrates the machine to this address.
    fn go(&self, main: &MainLoop, uri: &str) {
        let mut outside = self.source.monitor();
        let arguments = json!({ "uri": uri });
        outside
            .execute("migrate", Some(arguments))
            .expect("QEMU migrates");
        main.until("the end of the migration", || {
            let told = outside
                .execute("query-migrate", None)
                .expect("QEMU answers");
            assert_ne!(told["status"], "failed", "{}", self.target.stderr());
            told["status"] == "completed"
        });
    }

    fn finish(self, main: &MainLoop) {
        self.client.finish(main);
        // Both recovered from it.
        for qemu in [&self.source, &self.target] {
            let mut outside = qemu.monitor();
            assert!(outside.execute("query-name", None).is_ok());
        }
    }
}

fn wire(folder: &TempDir) -> PathBuf {
    folder.path().join("wire.sock")
}

/// From the older to the older, the newer to the newer, the older to the newer.
fn each(test: impl Fn(&Program, &Program, bool)) {
    let all = Program::all();
    let (old, new) = (&all[0], &all[all.len() - 1]);
    for seamless in [true, false] {
        for (from, to) in [(old, old), (new, new), (old, new)] {
            println!(
                "{} to {}, seamless: {seamless}",
                from.version(),
                to.version()
            );
            test(from, to, seamless);
        }
    }
}

#[test]
fn a_port_goes_with_its_machine() {
    with_default(|main| {
        each(|from, to, seamless| {
            let it = Move::prepare(main, from, to, seamless);
            let port = main
                .block_on(QmpPort::find(&it.client.session))
                .expect("a port");
            main.until("the version", || port.version().is_some());
            assert_eq!(port.version().as_deref(), Some(from.version()));
            let lost = Rc::new(Cell::new(0));
            let handler = port.connect_notify_local(Some("ready"), {
                let lost = lost.clone();
                move |port, _| lost.set(lost.get() + u32::from(!port.ready()))
            });

            let info = port.execute::<Value>("client_migrate_info", it.target_address());
            main.block_on(info).expect("the client is notified");
            main.until("the client's start", || it.changes.get() == 1);
            // One after the other, to the end: the migration may interrupt them anywhere.
            let calls = main.spawn({
                let (port, lost) = (port.clone(), lost.clone());
                async move {
                    let mut failed = Vec::new();
                    while lost.get() == 0 || !port.ready() {
                        if let Err(error) = port.execute::<Value>("query-name", ()).await {
                            failed.push(error);
                            let _ = port.wait_ready().await;
                        }
                    }
                    failed
                }
            });
            it.go(main, &format!("unix:{}", wire(&it.folder).display()));
            let failed = main.join("the port at the target", &calls);
            assert!(
                failed.iter().all(|error| matches!(error, Error::Closed(_))),
                "{failed:?}"
            );
            assert_eq!(lost.get(), 1);

            main.until("the version", || port.version().is_some());
            assert_eq!(port.version().as_deref(), Some(to.version()));
            let status = main.block_on(port.query_status()).expect("an answer");
            assert_eq!((status.status(), status.running()), ("running", true));
            main.until("the property", || {
                port.status().is_some_and(|status| status.running())
            });
            // The target executes it, and reports it.
            let mut events = port.events_named(["STOP"]);
            main.block_on(port.execute::<Value>("stop", ()))
                .expect("an answer");
            assert_eq!(
                main.block_on(events.next()).expect("an event").name(),
                "STOP"
            );
            let there = it.target.monitor().execute("query-status", None);
            assert_eq!(there.expect("an answer")["status"], "paused");
            main.until("the property", || {
                port.status().is_some_and(|status| !status.running())
            });
            main.until("the client's end", || it.changes.get() == 2);
            port.disconnect(handler);
            Client::settle(main, &port);
            drop(port);
            it.finish(main);
        });
    });
}

#[test]
fn a_port_is_found_where_the_machine_has_gone_to() {
    with_default(|main| {
        each(|from, to, seamless| {
            let it = Move::prepare(main, from, to, seamless);
            let mut outside = it.source.monitor();
            outside
                .execute("client_migrate_info", Some(it.target_address()))
                .expect("the client is notified");
            drop(outside);
            main.until("the client's start", || it.changes.get() == 1);
            it.go(main, &format!("unix:{}", wire(&it.folder).display()));
            main.until("the client's end", || it.changes.get() == 2);

            let port = main
                .block_on(QmpPort::find(&it.client.session))
                .expect("a port");
            main.until("the version", || port.version().is_some());
            assert_eq!(port.version().as_deref(), Some(to.version()));
            let status = main.block_on(port.query_status()).expect("an answer");
            assert_eq!(status.status(), "running");
            Client::settle(main, &port);
            drop(port);
            it.finish(main);
        });
    });
}

/// spice-gtk resets the channel when the source is done, without a signal, and
/// continues when the target is: here that one is frozen, and receives no machine.
#[test]
fn a_channel_that_was_reset_is_noticed_by_the_next_command() {
    with_default(|main| {
        for program in Program::all() {
            let mut it = Move::prepare(main, &program, &program, false);
            let port = main
                .block_on(QmpPort::find(&it.client.session))
                .expect("a port");
            Client::settle(main, &port);
            let channel = port.channel().expect("a channel");
            let info = port.execute::<Value>("client_migrate_info", it.target_address());
            main.block_on(info).expect("the client is notified");
            main.until("the client's start", || it.changes.get() == 1);
            Client::settle(main, &port);
            it.target.stop();
            it.go(main, "exec:cat >/dev/null");
            main.until("the reset", || channel.port_name().is_none());
            main.drain();

            let ends = Ends::default();
            call(&port, "query-name", &ends);
            main.until("the end of the call", || !ends.borrow().is_empty());
            assert!(
                matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]),
                "{ends:?}"
            );
            assert_eq!(port.state(), PortState::Closed);
            assert_eq!(port.pending(), 0);

            it.target.kill();
            drop((port, channel));
            it.client.finish(main);
        }
    });
}
