// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's schema, with a scripted server and with real QEMU.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::main_loop::{MainLoop, with_default, with_own, with_own_pushed};
use common::qemu::Program;
use common::run_states::RunState;
use common::script::{self, Server};
use common::spice::Client;
use serde_json::{Value, json};
use spice_qmp::{Error, Machine, PeerError, QmpPort, Schema, UsageError};

type Loaded = Rc<RefCell<Vec<Result<Schema, Error>>>>;

/// Requests the schema. Dropping the handle ends only this request.
fn load(machine: &Machine, loaded: &Loaded) -> glib::JoinHandle<()> {
    let (machine, loaded) = (machine.clone(), loaded.clone());
    glib::MainContext::ref_thread_default().spawn_local(async move {
        let schema = machine.load_schema().await;
        loaded.borrow_mut().push(schema);
    })
}

fn schema(command: &str) -> Value {
    json!([
        {"name": command, "meta-type": "command", "arg-type": "0", "ret-type": "1"},
        {"name": "0", "meta-type": "object", "members": [{"name": "id", "type": "str"}]},
    ])
}

fn answer(main: &MainLoop, server: &Server, value: Value) {
    server.answer("query-qmp-schema", value);
    main.drain();
}

fn only(loaded: &Loaded) -> Result<Schema, Error> {
    let mut all = loaded.take();
    assert_eq!(all.len(), 1, "{all:?}");
    all.remove(0)
}

#[test]
fn several_askers_share_one_fetch() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        main.drain();
        assert!(server.commands().is_empty(), "nothing was requested");
        let loaded = Loaded::default();
        let first = load(&machine, &loaded);
        load(&machine, &loaded);
        load(&machine, &loaded);
        main.drain();
        // The caller that began it is dropped.
        first.abort();
        main.drain();
        answer(main, &server, schema("stop"));
        let all = loaded.take();
        assert_eq!(all.len(), 2);
        for schema in all {
            assert!(schema.unwrap().has_argument("stop", "id"));
        }
        // It is kept.
        load(&machine, &loaded);
        main.drain();
        assert!(only(&loaded).unwrap().has_command("stop"));
        assert!(server.commands().is_empty());
    });
}

#[test]
fn an_error_is_not_kept() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let loaded = Loaded::default();
        load(&machine, &loaded);
        load(&machine, &loaded);
        main.drain();
        answer(main, &server, json!({"name": "stop"}));
        let all = loaded.take();
        assert_eq!(all.len(), 2);
        for error in all {
            let error = error.unwrap_err();
            assert!(
                matches!(error, Error::Peer(PeerError::UnexpectedReply { .. })),
                "{error}"
            );
        }
        load(&machine, &loaded);
        main.drain();
        answer(main, &server, schema("stop"));
        assert!(only(&loaded).unwrap().has_command("stop"));
    });
}

#[test]
fn another_connection_has_another_schema() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let loaded = Loaded::default();
        load(&machine, &loaded);
        main.drain();
        answer(main, &server, schema("old"));
        let old = only(&loaded).unwrap();

        load(&machine, &loaded);
        main.drain();
        assert_eq!(only(&loaded).unwrap(), old);
        server.peer.close("gone");
        main.drain();
        load(&machine, &loaded);
        main.drain();
        let error = only(&loaded).unwrap_err();
        assert!(
            matches!(error, Error::Usage(UsageError::NotReady { .. })),
            "{error}"
        );

        server.peer.open();
        server.make_ready(main, script::GREETING);
        load(&machine, &loaded);
        main.drain();
        // The fetch ends with the connection.
        server.peer.close("gone");
        main.drain();
        let error = only(&loaded).unwrap_err();
        assert!(matches!(error, Error::Closed(_)), "{error}");
        server.requests();
        server.peer.open();
        server.make_ready(main, script::GREETING);
        load(&machine, &loaded);
        main.drain();
        answer(main, &server, schema("new"));
        let new = only(&loaded).unwrap();
        assert!(new.has_command("new") && !new.has_command("old"));
        assert!(old.has_command("old"), "it is immutable");
    });
}

#[test]
fn a_machine_is_dropped_before_its_schema_arrives() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let loaded = Loaded::default();
        let context = main.context().clone();
        let asked = context
            .with_thread_default(|| load(&machine, &loaded))
            .unwrap();
        main.drain();
        asked.abort();
        drop(machine);
        main.drain();
        answer(main, &server, schema("stop"));
        assert!(loaded.borrow().is_empty());
    });
}

/// It is much smaller than QEMU's reply.
#[test]
fn of_real_qemu() {
    with_own_pushed(|main| {
        for program in Program::all() {
            let guest = RunState::RUNNING.start(&program);
            let address = format!("unix:{}", guest.qemu.qmp_socket().display());
            let port = main.block_on(QmpPort::open(&address)).unwrap();
            let schema = main.block_on(Machine::new(&port).load_schema()).unwrap();
            common::say(&format!(
                "QEMU {}: a schema of {} bytes",
                program.version(),
                schema.size()
            ));
            assert!(schema.size() < 64 << 10);
            // The commands that QEMU itself lists.
            let listed: Vec<Value> = main.block_on(port.execute("query-commands", ())).unwrap();
            assert!(listed.len() > 200);
            for command in &listed {
                let name = command["name"].as_str().unwrap();
                assert!(schema.has_command(name), "{name}");
            }
            assert!(schema.list_commands().is_sorted());
            for (command, argument) in [
                ("device_del", "id"),
                ("device_add", "driver"),
                ("blockdev-add", "node-name"),
                ("blockdev-add", "filename"),
                ("screendump", "format"),
                ("query-qmp-schema", ""),
            ] {
                let has = schema.has_argument(command, argument);
                assert_eq!(has, !argument.is_empty(), "{command} {argument}");
            }
            assert!(!schema.has_command("screendump-x"));
            let since_8_1 = schema.has_argument("migrate", "channels");
            assert_eq!(since_8_1, program.major() >= 10);
            main.block_on(port.close());
        }
    });
}

#[test]
fn a_mute_port_is_not_asked() {
    with_default(|main| {
        for program in Program::all() {
            let mut guest = RunState::SHUTDOWN.start(&program);
            let client = Client::new(&guest.qemu);
            let port = main.block_on(QmpPort::find(&client.session)).unwrap();
            let machine = Machine::new(&port);
            guest.reach();
            main.until("it is mute", || port.is_mute());
            let error = main.block_on(machine.load_schema()).unwrap_err();
            assert!(
                matches!(error, Error::Usage(UsageError::NotSupported(_))),
                "{error}"
            );
            assert_eq!(port.pending(), 0);
            guest.resume();
            main.until("it speaks", || !port.is_mute());
            let schema = main.block_on(machine.load_schema()).unwrap();
            assert!(schema.has_command("cont"));
            main.block_on(port.close());
            drop((machine, port));
            client.finish(main);
        }
    });
}
