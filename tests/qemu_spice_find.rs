// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding the QMP port of a real QEMU over SPICE, and every way in which that fails.
#![cfg(feature = "spice")]

mod common;

use std::time::Duration;

use common::main_loop::{FAR, MainLoop, with_default};
use common::qemu::{Config, Mode, Program};
use common::spice::Client;
use glib::prelude::*;
use serde_json::Value;
use spice_qmp::{ConnectError, Error, PeerError, PortState, QmpPort};

const QMP: &str = "org.qemu.monitor.qmp.0";
const HMP: &str = "org.qemu.monitor.hmp.0";

fn find(main: &MainLoop, client: &Client) -> Result<QmpPort, Error> {
    main.block_on(QmpPort::find(&client.session))
}

/// The properties of every port that was found.
fn check(main: &MainLoop, program: &Program, port: &QmpPort) {
    assert!(port.ready());
    assert_eq!(port.state(), PortState::Ready);
    main.until("the version", || port.version().is_some());
    assert_eq!(port.version().as_deref(), Some(program.version()));
    assert!(port.capabilities().is_empty(), "SPICE ports offer no oob");
    let name: Value = main.block_on(port.execute("query-name", ())).unwrap();
    assert!(name.is_object());
}

#[test]
fn on_a_fresh_session() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let client = Client::new(&qemu);
            let port = find(main, &client).unwrap();
            check(main, &program, &port);
            let channel = port.channel().unwrap();
            assert_eq!(channel.port_name().as_deref(), Some(QMP));
            assert_eq!(port, QmpPort::get(&channel));
            main.until("the status", || port.status().is_some());
            assert_eq!(port.status().unwrap().status(), "prelaunch");

            // Again: the same one, at once.
            assert_eq!(find(main, &client).unwrap(), port);
            drop((port, channel));
            client.finish(main);
        }
    });
}

#[test]
fn on_a_session_that_is_connected_already() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let client = Client::new(&qemu);
            // The channel too, and its greeting has been missed.
            let channel = client.connect(main);
            main.until("the port to open", || channel.is_port_opened());
            main.run_for(Duration::from_millis(50));
            drop(channel);
            let port = find(main, &client).unwrap();
            check(main, &program, &port);
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn while_the_session_connects() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            for turns in [0, 1, 3, 10, 30] {
                let client = Client::new(&qemu);
                assert!(client.session.connect());
                for _ in 0..turns {
                    main.context().iteration(false);
                }
                let port = find(main, &client).unwrap();
                assert!(port.ready());
                Client::settle(main, &port);
                drop(port);
                client.finish(main);
            }
        }
    });
}

#[test]
fn attaching_late_by_hand() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let client = Client::new(&qemu);
            let channel = client.connect(main);
            let greeted = std::rc::Rc::new(std::cell::Cell::new(false));
            let seen = greeted.clone();
            let handler = channel.connect_local("port-data", false, move |_| {
                seen.set(true);
                None
            });
            main.until("the greeting", || greeted.get());
            channel.disconnect(handler);

            let port = QmpPort::get(&channel);
            assert_eq!(port.state(), PortState::Negotiating);
            main.block_on(port.wait_ready()).unwrap();
            check(main, &program, &port);
            main.until("the status", || port.status().is_some());

            // And once more, with the negotiation made before, too.
            main.block_on(port.close());
            let port = QmpPort::get(&channel);
            main.block_on(port.wait_ready()).unwrap();
            check(main, &program, &port);
            drop((port, channel));
            client.finish(main);
        }
    });
}

#[test]
fn a_port_that_is_attached_before_it_is_connected() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let client = Client::new(&qemu);
            assert!(client.session.connect());
            main.until("the channels", || !client.ports().is_empty());
            let channel = client.ports().remove(0);
            let port = QmpPort::get(&channel);
            assert_eq!(port.state(), PortState::Connecting);
            channel
                .upcast_ref::<spice_qmp::transport::spice::Channel>()
                .connect();
            main.block_on(port.wait_ready()).unwrap();
            check(main, &program, &port);
            drop((port, channel));
            client.finish(main);
        }
    });
}

#[test]
fn among_other_ports() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new()
                .port(HMP, Mode::Readline)
                .port("org.qemu.monitor.qmp.7", Mode::Control)
                .start(&program);
            let client = Client::new(&qemu);
            let port = find(main, &client).unwrap();
            check(main, &program, &port);
            let channel = port.channel().unwrap();
            assert_eq!(
                channel.port_name().as_deref(),
                Some("org.qemu.monitor.qmp.7")
            );
            let names = QmpPort::port_names(&client.session, Duration::from_secs(10));
            assert_eq!(
                main.block_on(names).unwrap(),
                [HMP, "org.qemu.monitor.qmp.7"]
            );
            drop((port, channel));
            client.finish(main);
        }
    });
}

#[test]
fn on_a_monitor_that_spreads_its_messages_over_many_lines() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().port(QMP, Mode::ControlPretty).start(&program);
            let client = Client::new(&qemu);
            let port = find(main, &client).unwrap();
            check(main, &program, &port);
            let commands: Vec<Value> = main.block_on(port.execute("query-commands", ())).unwrap();
            assert!(commands.len() > 100);
            let mut events = port.events_named(["RESUME"]);
            main.block_on(port.execute::<Value>("cont", ())).unwrap();
            assert_eq!(main.block_on(events.next()).unwrap().name(), "RESUME");
            drop((port, events));
            client.finish(main);
        }
    });
}

#[test]
fn with_a_password() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().spice_tcp_password("secret").start(&program);
            let client = Client::new(&qemu);
            client.session.set_password("secret");
            let port = find(main, &client).unwrap();
            check(main, &program, &port);
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn a_wrong_password_is_told_as_such() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().spice_tcp_password("secret").start(&program);
            for password in [None, Some("wrong")] {
                let client = Client::new(&qemu);
                if let Some(password) = password {
                    client.session.set_password(password);
                }
                let error = find(main, &client).unwrap_err();
                assert!(
                    matches!(error, Error::Connect(ConnectError::Authentication(_))),
                    "{password:?}: {error:?}"
                );
                client.finish(main);
            }
        }
    });
}

#[test]
fn no_port_at_all() {
    with_default(|main| {
        for program in Program::all() {
            let bare = Config::new().no_ports().start(&program);
            let other = Config::new()
                .no_ports()
                .arg("-chardev")
                .arg("spiceport,id=other,name=org.qemu.console.serial.0")
                .arg("-serial")
                .arg("chardev:other")
                .start(&program);
            for qemu in [&bare, &other] {
                let client = Client::new(qemu);
                let error = find(main, &client).unwrap_err();
                assert_eq!(error, ConnectError::NoPort.into());
                client.finish(main);
            }
        }
    });
}

#[test]
fn only_a_human_monitor() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().port(HMP, Mode::Readline).start(&program);
            let client = Client::new(&qemu);
            let error = find(main, &client).unwrap_err();
            assert_eq!(error, ConnectError::OnlyHumanMonitor(HMP.into()).into());
            client.finish(main);
        }
    });
}

/// Even if the human monitor has the name of a QMP one.
#[test]
fn a_human_monitor_is_no_qmp() {
    with_default(|main| {
        for program in Program::all() {
            let not_qmp = Error::from(PeerError::NotQmp {
                human_monitor: true,
            });
            for late in [false, true] {
                let qemu = Config::new().port(HMP, Mode::Readline).start(&program);
                let client = Client::new(&qemu);
                let channel = client.connect(main);
                if late {
                    main.until("the port to open", || channel.is_port_opened());
                    main.run_for(Duration::from_millis(50));
                }
                let port = QmpPort::get(&channel);
                let error = main.block_on(port.wait_ready()).unwrap_err();
                assert_eq!(error, not_qmp, "late: {late}");
                assert_eq!(port.state(), PortState::Failed);
                let end = main.block_on(port.execute::<Value>("query-name", ()));
                assert_eq!(end.unwrap_err(), not_qmp);
                drop((port, channel));
                client.finish(main);
            }

            let qemu = Config::new().port(QMP, Mode::Readline).start(&program);
            let client = Client::new(&qemu);
            assert_eq!(find(main, &client).unwrap_err(), not_qmp);
            client.finish(main);
        }
    });
}

#[test]
fn a_server_that_is_not_there() {
    with_default(|main| {
        for uri in [
            "spice+unix:///tmp/no-such-folder/spice.sock",
            "spice://127.0.0.1:1",
        ] {
            let client = Client::to(uri);
            let error = find(main, &client).unwrap_err();
            assert!(
                matches!(error, Error::Connect(ConnectError::Unreachable { .. })),
                "{uri}: {error:?}"
            );
            client.finish(main);
        }
    });
}

#[test]
fn a_server_that_says_nothing() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            qemu.stop();
            let client = Client::new(&qemu);
            let timeout = Duration::from_millis(200);
            let found = main.block_on(QmpPort::find_within(&client.session, timeout));
            let error = found.unwrap_err();
            let Error::TimedOut { after, .. } = error else {
                panic!("{error:?}");
            };
            assert_eq!(after, timeout);
            qemu.cont();
            client.finish(main);
        }
    });
}

#[test]
fn an_abandoned_search_does_not_change_the_session() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let client = Client::new(&qemu);
            let timeout = Duration::from_millis(1);
            let _ = main.block_on(QmpPort::find_within(&client.session, timeout));
            let port = find(main, &client).unwrap();
            check(main, &program, &port);
            drop(port);
            client.finish(main);
        }
    });
}

/// spice-server gives a port to the latest client: the first one's
/// channels are all closed, and its port reports that.
#[test]
fn a_second_client_takes_the_place_of_the_first() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let first = Client::new(&qemu);
            let port = find(main, &first).unwrap();
            Client::settle(main, &port);
            let second = Client::new(&qemu);
            let other = find(main, &second).unwrap();
            check(main, &program, &other);
            main.until("the end of the first", || port.state() == PortState::Closed);
            assert!(port.last_error().unwrap().matches(gio::IOErrorEnum::Closed));
            let end = main.block_on(port.execute::<Value>("query-name", ()));
            assert!(matches!(end, Err(Error::Usage(_))), "{end:?}");
            drop((port, other));
            first.finish(main);
            second.finish(main);
        }
    });
}

#[test]
fn a_server_that_may_take_for_ever() {
    with_default(|main| {
        let program = Program::system();
        for far in FAR {
            let qemu = Config::new().start(&program);
            qemu.stop();
            let client = Client::new(&qemu);
            let session = client.session.clone();
            let search = main.spawn(async move { QmpPort::find_within(&session, far).await });
            main.run_for(Duration::from_millis(50));
            assert!(!search.is_done(), "{far:?}");
            qemu.cont();
            let port = main.join("the port", &search).unwrap();
            check(main, &program, &port);
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn no_port_at_all_while_the_program_is_busy() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().no_ports().start(&program);
            for connected in [false, true] {
                let client = Client::new(&qemu);
                if connected {
                    assert_eq!(find(main, &client), Err(ConnectError::NoPort.into()));
                }
                let busy = glib::idle_source_new(None, glib::Priority::DEFAULT_IDLE, || {
                    glib::ControlFlow::Continue
                });
                busy.attach(Some(main.context()));
                let session = client.session.clone();
                let search = main.spawn(QmpPort::find(session));
                let found = main.join("the end of the search", &search);
                busy.destroy();
                assert_eq!(found, Err(ConnectError::NoPort.into()));
                client.finish(main);
            }
        }
    });
}

#[test]
fn a_server_that_comes_later() {
    with_default(|main| {
        for program in Program::all() {
            let folder = tempfile::tempdir_in("/tmp").unwrap();
            let socket = folder.path().join("spice.sock");
            let client = Client::to(&format!("spice+unix://{}", socket.display()));
            for _ in 0..2 {
                let error = find(main, &client).unwrap_err();
                assert!(
                    matches!(error, Error::Connect(ConnectError::Unreachable { .. })),
                    "{error:?}"
                );
            }
            let qemu = Config::new().spice_unix(&socket).start(&program);
            let port = find(main, &client).unwrap();
            check(main, &program, &port);
            drop(port);
            client.finish(main);
            drop(qemu);
        }
    });
}
