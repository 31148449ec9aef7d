// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real QEMU driven over its D-Bus display: on a bus, and peer to peer.
#![cfg(feature = "gobject")]

mod common;

use std::io;
use std::time::Duration;

use common::dbus::{Bus, add_client, peer_to_peer, with_monitor};
use common::machine::resume_and_pause;
use common::main_loop::{MainLoop, with_own, with_own_pushed};
use common::qemu::{Config, Program, Qemu};
use common::script::{Ends, call};
use serde_json::{Value, json};
use spice_qmp::{ConnectError, ConnectOptions, Error, PeerError, PortState, QmpPort, UsageError};

const QMP: &str = "org.qemu.monitor.qmp.0";
const QEMU: Option<&str> = Some("org.qemu");

fn with_qmp(config: Config) -> Config {
    with_monitor(config, "q", QMP, "control")
}

#[track_caller]
fn find(main: &MainLoop, connection: &gio::DBusConnection) -> Result<QmpPort, Error> {
    let name = connection.unique_name().and(QEMU);
    main.block_on(QmpPort::find_on_bus(connection, name))
}

/// A QEMU on a bus of its own, and a port to it.
fn start(main: &MainLoop, program: &Program) -> (Bus, gio::DBusConnection, Qemu, QmpPort) {
    let bus = Bus::start();
    let connection = bus.connect();
    let qemu = bus.start_qemu(with_qmp(bus.qemu()), program);
    let port = find(main, &connection).unwrap();
    (bus, connection, qemu, port)
}

/// The port of `name`, or of the other end of a connection without a name.
fn each(test: impl Fn(&MainLoop, &Program, &mut Qemu, &gio::DBusConnection)) {
    with_own(|main| {
        for program in Program::all() {
            let bus = Bus::start();
            let mut qemu = bus.start_qemu(with_qmp(bus.qemu()), &program);
            test(main, &program, &mut qemu, &bus.connect());
            let mut qemu = with_qmp(peer_to_peer()).start(&program);
            let connection = add_client(&qemu);
            test(main, &program, &mut qemu, &connection);
        }
    });
}

#[test]
fn it_is_a_port_like_any_other() {
    each(|main, program, _, connection| {
        let port = find(main, connection).unwrap();
        assert_eq!(port.status().unwrap().status(), "prelaunch");
        assert_eq!(port.version().as_deref(), Some(program.version()));
        assert_eq!(port.capabilities().join(Some(",")), "oob");
        #[cfg(feature = "spice")]
        assert!(port.channel().is_none());
        assert_eq!(port.close_timeout(), 1000);
        resume_and_pause(main, &port);
        // More than a SPICE port sends at once.
        let schema: Value = main.block_on(port.execute("query-qmp-schema", ())).unwrap();
        assert!(schema.to_string().len() > 130_000);
        main.block_on(port.close());
    });
}

#[test]
fn one_follows_the_other() {
    each(|main, _, _, connection| {
        // QEMU may be slow to notice that the last client has disconnected.
        let find = || {
            let name = connection.unique_name().and(QEMU);
            let options = ConnectOptions::new().wait(true);
            let found = QmpPort::find_on_bus_with(connection, name, options);
            main.block_on(found).unwrap()
        };
        for _ in 0..5 {
            main.block_on(find().close());
        }
        // Without closing first, and with an answer due.
        for _ in 0..5 {
            let port = find();
            call(&port, "query-qmp-schema", &Ends::default());
        }
    });
}

#[test]
fn one_at_a_time() {
    each(|main, _, _, connection| {
        let first = find(main, connection).unwrap();
        let error = find(main, connection).unwrap_err();
        let own = connection.unique_name().map(|name| name.as_str().into());
        assert_eq!(error, ConnectError::Busy(own.clone()).into());
        let holder = own.as_deref().unwrap_or("another client");
        let text = error.to_string();
        assert_eq!(text, format!("the QMP monitor is busy: held by {holder}"));
        let glib: glib::Error = error.into();
        assert_eq!(glib.kind(), Some(gio::IOErrorEnum::Busy));

        // One client disconnects while another one waits.
        let name = connection.unique_name().and(QEMU);
        let (connection, options) = (connection.clone(), ConnectOptions::new().wait(true));
        let second =
            main.spawn(async move { QmpPort::find_on_bus_with(&connection, name, options).await });
        main.run_for(Duration::from_millis(100));
        assert!(!second.is_done());
        main.block_on(first.close());
        main.join("the second", &second).unwrap();
    });
}

#[test]
fn the_addresses() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let bus = Bus::start();
            let _qemu = bus.start_qemu(with_qmp(bus.qemu()), &program);
            for address in [
                format!("dbus:address={}", bus.address()),
                format!("dbus:address={},name=org.qemu", bus.address()),
            ] {
                let port = main.block_on(QmpPort::open(&address)).unwrap();
                assert_eq!(port.status().unwrap().status(), "prelaunch");
                main.block_on(port.close());
            }
            let elsewhere = format!("dbus:address={},name=org.example", bus.address());
            let error = main.block_on(QmpPort::open(&elsewhere)).unwrap_err();
            let text = "QEMU is not on the bus: nobody owns the name org.example";
            assert_eq!(not_found(&error), text);
        }
    });
}

/// The text of an error that says that something does not exist.
#[track_caller]
fn not_found(error: &Error) -> String {
    match error {
        Error::Connect(ConnectError::Unreachable { kind, message, .. })
            if *kind == io::ErrorKind::NotFound =>
        {
            message.to_string()
        }
        error => panic!("{error:?}"),
    }
}

#[test]
fn what_is_not_there() {
    with_own(|main| {
        for program in Program::all() {
            let bus = Bus::start();
            let connection = bus.connect();
            let error = find(main, &connection).unwrap_err();
            let text = "QEMU is not on the bus: nobody owns the name org.qemu";
            assert_eq!(not_found(&error), text);

            let qemu = bus.start_qemu(bus.qemu(), &program);
            let error = find(main, &connection).unwrap_err();
            assert_eq!(error, ConnectError::NoChardev.into());
            drop(qemu);

            let hmp = "org.qemu.monitor.hmp.0";
            let other = with_monitor(bus.qemu(), "x", "org.example.qmp", "control");
            let qemu = bus.start_qemu(with_monitor(other, "h", hmp, "readline"), &program);
            let error = find(main, &connection).unwrap_err();
            assert_eq!(error, ConnectError::OnlyHumanMonitor(hmp.into()).into());
            drop(qemu);

            let config = with_monitor(bus.qemu(), "q", QMP, "readline");
            let qemu = bus.start_qemu(config, &program);
            let error = find(main, &connection).unwrap_err();
            let is_human = PeerError::NotQmp {
                human_monitor: true,
            };
            assert_eq!(error, is_human.into());
            drop(qemu);
        }
    });
}

#[test]
fn names_that_do_not_go_with_the_connection() {
    with_own_pushed(|main| {
        let bus = Bus::start();
        let connection = bus.connect();
        for name in ["", "nonsense", "org.qemu\n", ".", ":"] {
            let found = main.block_on(QmpPort::find_on_bus(&connection, Some(name)));
            let error = found.unwrap_err();
            let is_invalid = matches!(error, Error::Usage(UsageError::InvalidArgument(_)));
            assert!(is_invalid, "{name:?}: {error}");
        }
        let none = main.block_on(QmpPort::find_on_bus(&connection, None));
        let error = none.unwrap_err().to_string();
        assert!(
            error.contains("the name of QEMU on the bus is missing"),
            "{error}"
        );
        for program in Program::all() {
            let qemu = with_qmp(peer_to_peer()).start(&program);
            let found = main.block_on(QmpPort::find_on_bus(&add_client(&qemu), QEMU));
            let error = found.unwrap_err().to_string();
            assert!(error.contains("is not to a bus"), "{error}");
        }
    });
}

#[test]
fn a_wait_ends_when_qemu_comes() {
    with_own(|main| {
        for program in Program::all() {
            let bus = Bus::start();
            let connection = bus.connect();
            let options = ConnectOptions::new().wait(true);
            let search = main
                .spawn(async move { QmpPort::find_on_bus_with(&connection, QEMU, options).await });
            main.run_for(Duration::from_millis(50));
            assert!(!search.is_done());
            let _qemu = bus.start_qemu(with_qmp(bus.qemu()), &program);
            main.join("the port", &search).unwrap();
        }
    });
}

#[test]
fn a_port_is_ready_again_when_qemu_has_restarted() {
    with_own(|main| {
        for program in Program::all() {
            let (bus, _, mut qemu, port) = start(main, &program);
            for round in 0..3 {
                let ends = Ends::default();
                call(&port, "query-name", &ends);
                qemu.stop();
                call(&port, "query-name", &ends);
                qemu.kill();
                main.until("the close", || port.state() == PortState::Closed);
                main.until("the ends", || ends.borrow().len() == 2);
                assert!(ends.borrow()[1].1.is_err(), "round {round}");
                // The id, and so the object, may be different.
                let id = format!("q{round}");
                let config = with_monitor(bus.qemu(), &id, QMP, "control");
                qemu = config.start(&program);
                main.until("the port again", || port.ready());
                main.until("its status", || port.status().is_some());
                main.block_on(port.execute::<Value>("query-name", ()))
                    .unwrap();
            }
        }
    });
}

#[test]
fn a_port_is_ready_again_when_another_client_leaves() {
    with_own(|main| {
        for program in Program::all() {
            let (bus, _, qemu, port) = start(main, &program);
            let other = bus.connect();
            drop(qemu);
            main.until("the close", || port.state() == PortState::Closed);
            // The first one gets it.
            let mut holder = None;
            let _qemu = bus.start_qemu(with_qmp(bus.qemu()), &program);
            main.until("either of them", || {
                if port.ready() {
                    return true;
                }
                holder = holder.take().or_else(|| find(main, &other).ok());
                holder.is_some()
            });
            if let Some(holder) = holder {
                main.block_on(holder.close());
            }
            main.until("the port again", || port.ready());
        }
    });
}

#[test]
fn a_connection_that_is_gone() {
    with_own(|main| {
        for program in Program::all() {
            let (mut bus, connection, qemu, port) = start(main, &program);
            // The port has a socket of its own.
            bus.kill();
            main.until("the end of the bus", || connection.is_closed());
            main.block_on(port.execute::<Value>("query-name", ()))
                .unwrap();
            drop(qemu);
            main.until("the close", || port.state() == PortState::Closed);
            let error = main.block_on(port.wait_ready()).unwrap_err();
            assert!(matches!(error, Error::Closed(_)), "{error}");
            let error = find(main, &connection).unwrap_err();
            let glib: glib::Error = error.into();
            assert_eq!(glib.kind(), Some(gio::IOErrorEnum::Closed), "{glib}");
        }
    });
}

/// A port that waits for QEMU ends with the bus.
#[test]
fn a_bus_that_goes_while_the_port_waits() {
    with_own(|main| {
        for program in Program::all() {
            let (mut bus, _, qemu, port) = start(main, &program);
            drop(qemu);
            main.until("the close", || port.state() == PortState::Closed);
            main.run_for(Duration::from_millis(20));
            bus.kill();
            let ended = main.block_on(port.wait_ready()).unwrap_err();
            assert!(matches!(ended, Error::Closed(_)), "{ended}");
            main.block_on(port.close());
        }
    });
}

/// QEMU itself is blocked, not the bus.
#[test]
fn a_frozen_qemu_times_out() {
    each(|main, _, qemu, connection| {
        qemu.stop();
        let name = connection.unique_name().and(QEMU);
        let options = ConnectOptions::new().timeout(Duration::from_millis(50));
        let found = main.block_on(QmpPort::find_on_bus_with(connection, name, options));
        let error = found.unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert!(error.to_string().contains("D-Bus display"), "{error}");
        qemu.cont();
        main.block_on(find(main, connection).unwrap().close());
    });
}

#[test]
fn a_command_with_arguments() {
    each(|main, _, _, connection| {
        let port = find(main, connection).unwrap();
        let arguments = json!({"command-line": "info version"});
        let reply: String = main
            .block_on(port.execute("human-monitor-command", arguments))
            .unwrap();
        assert!(!reply.is_empty());
    });
}

/// The second one waits for the name.
#[test]
fn two_of_them_on_one_bus() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let bus = Bus::start();
            let connection = bus.connect();
            let first = bus.start_qemu(with_qmp(bus.qemu().arg("-name").arg("one")), &program);
            let _second = with_qmp(bus.qemu().arg("-name").arg("two")).start(&program);
            let port = find(main, &connection).unwrap();
            let name = || main.block_on(port.execute::<Value>("query-name", ()));
            assert_eq!(name().unwrap()["name"], "one");
            drop(first);
            main.until("the close", || port.state() == PortState::Closed);
            main.until("the second one", || port.ready());
            assert_eq!(name().unwrap()["name"], "two");
        }
    });
}
