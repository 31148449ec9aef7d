// SPDX-License-Identifier: MIT OR Apache-2.0
//! What happens to a port on SPICE when QEMU is killed, freezes, or restarts.
#![cfg(feature = "spice")]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::time::Duration;

use common::main_loop::{MainLoop, with_default};
use common::qemu::{Config, Program, Qemu};
use common::script::{Ends, call, call_with};
use common::spice::{Client, disconnect};
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::transport::spice::{Channel, ChannelEvent};
use spice_qmp::{CallOptions, Error, PortState, QmpPort, VmAction};

fn find(main: &MainLoop, client: &Client) -> QmpPort {
    let port = main.block_on(QmpPort::find(&client.session)).unwrap();
    Client::settle(main, &port);
    port
}

fn start(main: &MainLoop, program: &Program) -> (Qemu, Client, QmpPort) {
    let qemu = Config::new().start(program);
    let client = Client::new(&qemu);
    let port = find(main, &client);
    (qemu, client, port)
}

fn timeout(millis: u64) -> CallOptions {
    CallOptions {
        timeout: Some(Duration::from_millis(millis)),
        ..CallOptions::default()
    }
}

#[test]
fn calls_end_in_the_iteration_in_which_the_channel_reports_its_end() {
    with_default(|main| {
        for program in Program::all() {
            let (mut qemu, client, port) = start(main, &program);
            // Frozen, so that nothing is answered.
            qemu.stop();
            let ends = Ends::default();
            for _ in 0..100 {
                call(&port, "query-name", &ends);
            }
            let future = main.spawn(port.execute::<Value>("query-name", ()));
            main.run_for(Duration::from_millis(20));
            assert_eq!(port.pending(), 101);
            assert!(ends.borrow().is_empty());

            let closed = Rc::new(Cell::new(false));
            let channel = port.channel().unwrap();
            let handler = channel.upcast_ref::<Channel>().connect_channel_event({
                let closed = closed.clone();
                move |_, event| closed.set(closed.get() || event != ChannelEvent::Opened)
            });
            qemu.kill();
            main.until("the channel's event", || closed.get());
            // The library noticed it in the same iteration, and delivers it in the next one.
            main.turn();
            assert_eq!(ends.borrow().len(), 100, "{}", program.version());
            for (_, end) in &*ends.borrow() {
                assert!(matches!(end, Err(Error::Closed(_))), "{end:?}");
            }
            assert!(!port.ready());
            assert_eq!(port.state(), PortState::Closed);
            assert_eq!(port.pending(), 0);
            assert_eq!(port.status(), None);
            assert!(matches!(
                main.join("the future", &future),
                Err(Error::Closed(_))
            ));
            channel.disconnect(handler);
            drop((port, channel));
            client.finish(main);
        }
    });
}

#[test]
fn a_waiting_program_is_notified_that_qemu_was_killed() {
    with_default(|main| {
        for program in Program::all() {
            let (mut qemu, client, port) = start(main, &program);
            let call = main.spawn({
                let port = port.clone();
                async move {
                    loop {
                        if let Err(error) = port.execute::<Value>("query-commands", ()).await {
                            break error;
                        }
                    }
                }
            });
            main.run_for(Duration::from_millis(20));
            qemu.kill();
            let error = main.join("the end", &call);
            assert!(matches!(error, Error::Closed(_)), "{error:?}");
            assert!(port.last_error().unwrap().matches(gio::IOErrorEnum::Closed));
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn a_frozen_qemu_only_causes_timeouts() {
    with_default(|main| {
        for program in Program::all() {
            let (qemu, client, port) = start(main, &program);
            let ticks = Rc::new(Cell::new(0));
            main.context().spawn_local({
                let ticks = Rc::downgrade(&ticks);
                async move {
                    while let Some(ticks) = ticks.upgrade() {
                        ticks.set(ticks.get() + 1);
                        drop(ticks);
                        glib::timeout_future(Duration::from_millis(1)).await;
                    }
                }
            });
            qemu.stop();
            let ends = Ends::default();
            let ticked = ticks.get();
            port.set_command_timeout(60);
            for millis in [10, 20, 30, 40] {
                call_with(&port, "query-name", timeout(millis), &ends);
            }
            for _ in 0..50 {
                call(&port, "stop", &ends);
            }
            main.until("every deadline", || ends.borrow().len() == 54);
            for (command, end) in &*ends.borrow() {
                let Err(Error::TimedOut { what, .. }) = end else {
                    panic!("{end:?}");
                };
                assert_eq!(&**what, command);
            }
            assert!(ticks.get() > ticked, "the loop stood still");
            assert!(port.ready(), "the connection is as it was");
            assert_eq!(port.pending(), 0);

            qemu.cont();
            port.set_command_timeout(0);
            // The late replies are dropped; this is not one of them.
            let version: Value = main.block_on(port.execute("query-version", ())).unwrap();
            assert_eq!(version["qemu"]["major"], program.major());
            assert!(port.last_error().is_none());
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn a_port_is_ready_again_when_qemu_restarts_at_the_same_address() {
    with_default(|main| {
        for program in Program::all() {
            let folder = tempfile::tempdir_in("/tmp").unwrap();
            let socket = folder.path().join("spice.sock");
            let client = Client::to(&format!("spice+unix://{}", socket.display()));
            let mut last = None;
            for _ in 0..3 {
                let mut qemu = Config::new().spice_unix(&socket).start(&program);
                let port = find(main, &client);
                assert_eq!(port.version().as_deref(), Some(program.version()));
                let name: Value = main.block_on(port.execute("query-name", ())).unwrap();
                assert_eq!(name, json!({}));
                qemu.kill();
                main.until("the loss", || port.state() == PortState::Closed);
                main.until("the news of it", || port.version().is_none());
                client.session.disconnect();
                main.until("the end of the channels", || client.ports().is_empty());
                last = Some(port);
            }
            drop(last);
            client.finish(main);
        }
    });
}

#[test]
fn a_session_that_was_lost_is_found_again_without_a_disconnect() {
    with_default(|main| {
        for program in Program::all() {
            let folder = tempfile::tempdir_in("/tmp").unwrap();
            let socket = folder.path().join("spice.sock");
            let client = Client::to(&format!("spice+unix://{}", socket.display()));
            let mut last = None;
            for quits in [true, false, false] {
                let mut qemu = Config::new().spice_unix(&socket).start(&program);
                let port = find(main, &client);
                let name: Value = main.block_on(port.execute("query-name", ())).unwrap();
                assert_eq!(name, json!({}));
                if quits {
                    main.block_on(port.vm_action(VmAction::Quit)).unwrap();
                } else {
                    qemu.kill();
                }
                main.until("the loss", || port.state() == PortState::Closed);
                // spice-gtk notices it channel by channel.
                let socket = |c: &Channel| c.property::<Option<gio::Socket>>("socket");
                main.until("the end of the channels", || {
                    client
                        .session
                        .channels()
                        .iter()
                        .all(|c| socket(c).is_none())
                });
                main.drain();
                last = Some(port);
            }
            drop(last);
            client.finish(main);
        }
    });
}

/// Whatever spice-gtk has noticed by then.
#[test]
fn a_session_is_found_again_right_after_its_end() {
    with_default(|main| {
        for program in Program::all() {
            let folder = tempfile::tempdir_in("/tmp").unwrap();
            let socket = folder.path().join("spice.sock");
            let client = Client::to(&format!("spice+unix://{}", socket.display()));
            let qemu = || Config::new().spice_unix(&socket).start(&program);
            let mut last = qemu();
            for turns in [0, 1, 2, 3, 4, 5, 7, 10] {
                let port = find(main, &client);
                if turns % 2 == 0 {
                    last.kill();
                } else {
                    main.block_on(port.vm_action(VmAction::Quit)).unwrap();
                    assert!(last.wait_exit(Duration::from_secs(10)).is_some());
                }
                last = qemu();
                for _ in 0..turns {
                    main.turn();
                }
                let again = find(main, &client);
                assert!(again.ready(), "{} after {turns}", program.version());
                assert_ne!(again, port);
            }
            client.finish(main);
        }
    });
}

#[test]
fn a_reconnected_channel_is_ready_again() {
    with_default(|main| {
        for program in Program::all() {
            let (qemu, client, port) = start(main, &program);
            let channel = port.channel().unwrap();
            for round in 0..3 {
                disconnect(&channel);
                main.until("the loss", || port.state() == PortState::Closed);
                let end = main.block_on(port.execute::<Value>("query-name", ()));
                assert!(matches!(end, Err(Error::Usage(_))), "{end:?}");
                main.run_for(Duration::from_millis(50));
                channel.upcast_ref::<Channel>().connect();
                let again = main.block_on(port.wait_ready());
                assert_eq!(again, Ok(()), "{} round {round}", program.version());
                assert_eq!(port.version().as_deref(), Some(program.version()));
                Client::settle(main, &port);
            }
            drop((port, channel));
            client.finish(main);
            drop(qemu);
        }
    });
}

#[test]
fn the_end_of_the_session_ends_the_calls() {
    with_default(|main| {
        for program in Program::all() {
            let (qemu, client, port) = start(main, &program);
            // Frozen, since a QEMU that answers a disconnecting client may crash.
            qemu.stop();
            let ends = Ends::default();
            call(&port, "query-name", &ends);
            main.drain();
            client.finish(main);
            assert!(matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]));
            assert_eq!(port.channel(), None);
            assert_eq!(port.state(), PortState::Closed);
        }
    });
}

/// QEMU 7.2 and 10.0 crash if a client disconnects with a command unanswered.
#[test]
fn a_program_that_closes_its_port_leaves_qemu_alive() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            for _ in 0..10 {
                let client = Client::new(&qemu);
                let port = main.block_on(QmpPort::find(&client.session)).unwrap();
                // More under way: the program's, abandoned ones, and the port's own.
                let call = port.execute::<Value>("query-qmp-schema", ());
                let abandoned = main.spawn(glib::future_with_timeout(Duration::ZERO, call));
                let ends = Ends::default();
                call_with(&port, "cont", CallOptions::default(), &ends);
                call_with(&port, "stop", CallOptions::default(), &ends);
                assert!(main.join("the abandoned call", &abandoned).is_err());

                main.block_on(port.close());
                main.drain();
                let ended: Vec<_> = ends.borrow().iter().map(|(_, end)| end.is_ok()).collect();
                assert_eq!(ended, [true, true]);
                drop(port);
                client.finish(main);
            }
            let mut outside = qemu.monitor();
            assert!(outside.execute("query-status", None).is_ok());
        }
    });
}
