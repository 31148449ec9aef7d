// SPDX-License-Identifier: MIT OR Apache-2.0
//! A real QEMU driven over SPICE: actions, large replies, many calls, reopening.
#![cfg(feature = "spice")]

mod common;

use std::time::Duration;

use common::main_loop::{MainLoop, with_default};
use common::qemu::{Config, Mode, Program, Qemu};
use common::script::{Ends, call};
use common::spice::Client;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use spice_qmp::{Error, ErrorClass, EventStream, PortState, QmpPort, VmAction};

const QMP: &str = "org.qemu.monitor.qmp.0";
/// A reply longer than this stalls on a SPICE port until QEMU is nudged.
const STALL: usize = 131_136;

fn open(main: &MainLoop, config: Config, program: &Program) -> (Qemu, Client, QmpPort) {
    let qemu = config.start(program);
    let client = Client::new(&qemu);
    let port = main.block_on(QmpPort::find(&client.session)).unwrap();
    (qemu, client, port)
}

fn each(test: impl Fn(&MainLoop, &Program, &mut Qemu, &QmpPort) + Send + 'static) {
    each_with(Config::new(), test);
}

fn each_with(
    config: Config,
    test: impl Fn(&MainLoop, &Program, &mut Qemu, &QmpPort) + Send + 'static,
) {
    with_default(move |main| {
        for program in Program::all() {
            let (mut qemu, client, port) = open(main, config.clone(), &program);
            test(main, &program, &mut qemu, &port);
            drop(port);
            client.finish(main);
        }
    });
}

/// Waits until the property `status` has this value.
#[track_caller]
fn expect_status(main: &MainLoop, port: &QmpPort, status: &str) {
    main.until(&format!("the status {status}"), || {
        port.status().is_some_and(|now| now.status() == status)
    });
}

/// The next event with this name.
#[track_caller]
fn expect_event(main: &MainLoop, events: &mut EventStream, name: &str) -> Value {
    loop {
        let event = main.block_on(events.next()).expect("the port lives");
        if event.name() == name {
            assert!(event.timestamp() > 1_600_000_000_000_000);
            return event.decode().unwrap();
        }
    }
}

#[test]
fn actions_act_and_the_status_follows() {
    each(|main, _, qemu, port| {
        let mut events = port.events();
        let act = |action| main.block_on(port.vm_action(action)).unwrap();
        expect_status(main, port, "prelaunch");
        let status = main.block_on(port.query_status()).unwrap();
        assert_eq!((status.status(), status.running()), ("prelaunch", false));
        assert!(!status.singlestep());

        act(VmAction::Continue);
        expect_event(main, &mut events, "RESUME");
        expect_status(main, port, "running");
        assert!(port.status().unwrap().running());
        let outside = qemu.monitor().execute("query-status", None).unwrap();
        assert_eq!(outside["status"], "running");

        act(VmAction::Pause);
        expect_event(main, &mut events, "STOP");
        expect_status(main, port, "paused");
        assert!(!main.block_on(port.query_status()).unwrap().running());

        act(VmAction::Reset);
        let reset = expect_event(main, &mut events, "RESET");
        assert_eq!(reset["reason"], "host-qmp-system-reset");
        // A machine that is reset while it does not run waits to be started.
        let status = main.block_on(port.query_status()).unwrap();
        expect_status(main, port, status.status());

        act(VmAction::Continue);
        expect_status(main, port, "running");
        act(VmAction::PowerDown);
        expect_event(main, &mut events, "POWERDOWN");
        assert!(port.ready(), "an empty machine does not hear it");

        act(VmAction::Quit);
        let end = expect_event(main, &mut events, "SHUTDOWN");
        assert_eq!(end["reason"], "host-qmp-quit");
        main.until("the close", || port.state() == PortState::Closed);
        assert!(qemu.wait_exit(Duration::from_secs(10)).unwrap().success());
    });
}

#[test]
fn a_quit_that_closes_the_connection_has_succeeded() {
    each(|main, _, qemu, port| {
        let ends = Ends::default();
        call(port, "query-name", &ends);
        call(port, "quit", &ends);
        main.until("both ends", || ends.borrow().len() == 2);
        assert!(ends.borrow()[1].1.is_ok(), "{ends:?}");
        assert!(qemu.wait_exit(Duration::from_secs(10)).unwrap().success());
        main.until("the close", || port.state() == PortState::Closed);
        let end = main.block_on(port.vm_action(VmAction::Quit));
        assert!(matches!(end, Err(Error::Usage(_))), "{end:?}");
    });
}

#[test]
fn what_another_monitor_does_shows_in_the_status() {
    each(|main, _, qemu, port| {
        expect_status(main, port, "prelaunch");
        let mut other = qemu.monitor();
        other.execute("cont", None).unwrap();
        expect_status(main, port, "running");
        for _ in 0..20 {
            other.execute("stop", None).unwrap();
            other.execute("cont", None).unwrap();
        }
        other.execute("stop", None).unwrap();
        expect_status(main, port, "paused");
        Client::settle(main, port);
        assert_eq!(port.status().unwrap().status(), "paused");
    });
}

#[test]
fn errors_are_qemus() {
    each(|main, _, _, port| {
        let run = |command, arguments: Value| {
            let reply = main.block_on(port.execute::<Value>(command, arguments));
            match reply.unwrap_err() {
                Error::Command {
                    command,
                    class,
                    desc,
                } => (command, class, desc),
                error => panic!("{error:?}"),
            }
        };
        let (command, class, desc) = run("device_del", json!({ "id": "none" }));
        assert_eq!(
            (&*command, class),
            ("device_del", ErrorClass::DeviceNotFound)
        );
        assert!(desc.contains("none"), "{desc}");
        assert_eq!(
            run("no-such-command", json!({})).1,
            ErrorClass::CommandNotFound
        );
        assert_eq!(
            run("qmp_capabilities", json!({})).1,
            ErrorClass::CommandNotFound
        );
        assert_eq!(run("query-name", json!({ "x": 1 })).1, ErrorClass::Generic);
        assert_eq!(
            run("device_add", json!({ "x": "é\"\\\n" })).1,
            ErrorClass::Generic
        );
        assert!(port.ready());
        assert!(port.last_error().is_none());
    });
}

#[test]
fn arguments_reach_qemu_and_come_back() {
    each(|main, _, _, port| {
        let text = "é \" \\ \n \u{1F600} \u{7f}".repeat(100);
        let path = "/machine/peripheral-anon/none";
        let set = json!({ "path": path, "property": text });
        let error = main.block_on(port.execute::<Value>("qom-get", set));
        assert!(matches!(error, Err(Error::Command { .. })), "{error:?}");

        main.block_on(port.execute::<Value>(
            "object-add",
            json!({ "qom-type": "secret", "id": "text", "data": text }),
        ))
        .unwrap();
        let get = json!({ "path": "/objects/text", "property": "data" });
        let back: String = main.block_on(port.execute("qom-get", get)).unwrap();
        assert_eq!(back, text);
    });
}

#[test]
fn a_reply_that_stalls_is_nudged() {
    each(|main, _, _, port| {
        let mut first = None;
        for _ in 0..5 {
            let schema: Box<RawValue> =
                main.block_on(port.execute("query-qmp-schema", ())).unwrap();
            assert!(schema.get().len() > STALL, "{}", schema.get().len());
            let schema = schema.get().to_owned();
            assert_eq!(*first.get_or_insert_with(|| schema.clone()), schema);
        }
        let entries: Vec<Value> = serde_json::from_str(&first.unwrap()).unwrap();
        assert!(entries.len() > 500);
        Client::settle(main, port);
        assert_eq!(port.pending(), 0);
        assert!(port.last_error().is_none());
    });
}

#[test]
fn replies_that_stall_and_others_arrive_together() {
    each(|main, program, _, port| {
        let schemas: Vec<_> = (0..3)
            .map(|_| main.spawn(port.execute::<Box<RawValue>>("query-qmp-schema", ())))
            .collect();
        let others: Vec<_> = (0..50)
            .map(|_| main.spawn(port.execute::<Value>("query-version", ())))
            .collect();
        for schema in &schemas {
            let schema = main.join("a schema", schema).unwrap();
            assert!(schema.get().len() > STALL);
        }
        for other in &others {
            let version = main.join("a version", other).unwrap();
            assert_eq!(version["qemu"]["major"], program.major());
        }
    });
}

#[test]
fn a_cancelled_reply_that_stalls_does_not_block_later_ones() {
    each(|main, _, _, port| {
        let ends = Ends::default();
        let id = call(port, "query-qmp-schema", &ends);
        main.until("some of it", || !main.turn());
        port.cancel(id);
        let name: Value = main.block_on(port.execute("query-name", ())).unwrap();
        assert_eq!(name, json!({}));
        assert!(matches!(ends.borrow()[0].1, Err(Error::Cancelled(_))));
    });
}

#[test]
fn a_thousand_commands_in_flight() {
    each(|main, _, _, port| {
        let ends = Ends::default();
        for number in 0..1000 {
            let command = ["query-name", "query-version", "query-uuid"][number % 3];
            call(port, command, &ends);
        }
        main.until("a thousand replies", || ends.borrow().len() == 1000);
        for (number, (command, end)) in ends.borrow().iter().enumerate() {
            assert_eq!(
                command,
                ["query-name", "query-version", "query-uuid"][number % 3]
            );
            let reply = end.as_ref().unwrap();
            let member = ["{}", "qemu", "UUID"][number % 3];
            assert!(reply.contains(member), "{command}: {reply}");
        }
    });
}

#[test]
fn out_of_band_is_not_offered() {
    each(|main, _, _, port| {
        let end = main.block_on(port.execute_oob::<Value>("migrate-pause", ()));
        assert!(matches!(end, Err(Error::Usage(_))), "{end:?}");
    });
}

#[test]
fn many_lines_a_message() {
    each_with(
        Config::new().port(QMP, Mode::ControlPretty),
        |main, _, _, port| {
            let schema: Vec<Value> = main.block_on(port.execute("query-qmp-schema", ())).unwrap();
            assert!(schema.len() > 500);
            let ends = Ends::default();
            for _ in 0..100 {
                call(port, "query-version", &ends);
            }
            main.until("the replies", || ends.borrow().len() == 100);
            assert!(ends.borrow().iter().all(|(_, end)| end.is_ok()));
            main.block_on(port.vm_action(VmAction::Continue)).unwrap();
            expect_status(main, port, "running");
        },
    );
}

/// Two QMP ports of one QEMU are independent.
#[test]
fn two_ports_of_one_session() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new()
                .port(QMP, Mode::Control)
                .port("org.qemu.monitor.qmp.1", Mode::Control)
                .start(&program);
            let client = Client::new(&qemu);
            let first = main.block_on(QmpPort::find(&client.session)).unwrap();
            let channels = client.ports();
            assert_eq!(channels.len(), 2);
            let ports: Vec<_> = channels.iter().map(QmpPort::get).collect();
            for port in &ports {
                main.block_on(port.wait_ready()).unwrap();
            }
            assert!(ports.contains(&first));
            main.block_on(ports[0].vm_action(VmAction::Continue))
                .unwrap();
            expect_status(main, &ports[0], "running");
            expect_status(main, &ports[1], "running");
            drop((first, ports, channels));
            client.finish(main);
        }
    });
}

#[test]
fn a_closed_port_leaves_its_channel_to_the_next() {
    each(|main, program, _, port| {
        let channel = port.channel().unwrap();
        let ends = Ends::default();
        call(port, "query-name", &ends);
        main.block_on(port.close());
        main.drain();
        // Commands that were issued are still answered.
        assert!(matches!(ends.borrow()[..], [(_, Ok(_))]));
        let next = QmpPort::get(&channel);
        assert_ne!(next, *port);
        main.block_on(next.wait_ready()).unwrap();
        main.until("the version", || next.version().is_some());
        assert_eq!(next.version().as_deref(), Some(program.version()));
    });
}

/// So a QMP port never closes while QEMU runs. (How a port that does is
/// reopened: `tests/qemu_spice_script.rs`.)
#[test]
fn qemu_keeps_the_character_device_of_a_monitor() {
    each(|main, _, qemu, port| {
        let backend = json!({ "type": "null", "data": {} });
        let change = json!({ "id": "port0", "backend": backend });
        let mut other = qemu.monitor();
        let refused = other.execute("chardev-change", Some(change)).unwrap_err();
        assert_eq!(refused["class"], "GenericError");
        let remove = json!({ "id": "port0" });
        let refused = other.execute("chardev-remove", Some(remove)).unwrap_err();
        assert_eq!(refused["class"], "GenericError");
        Client::settle(main, port);
    });
}
