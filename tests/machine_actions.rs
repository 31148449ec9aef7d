// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's actions, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::rc::Rc;

use common::main_loop::{MainLoop, with_own};
use common::script::{self, Server, paused, running};
use gio::prelude::*;
use serde_json::json;
use spice_qmp::{Error, Machine, QmpPort};

const ALL: [&str; 6] = ["pause", "reset", "power-down", "quit", "wakeup", "nmi"];

fn enabled(machine: &Machine) -> Vec<&'static str> {
    let enabled = |action: &&str| machine.is_action_enabled(action);
    ALL.into_iter().filter(enabled).collect()
}

fn is_paused(machine: &Machine) -> Option<bool> {
    machine.action_state("pause")?.get()
}

/// The changes of the group, in order.
fn changes(machine: &Machine) -> Rc<RefCell<Vec<String>>> {
    let seen = Rc::<RefCell<Vec<String>>>::default();
    let notes = seen.clone();
    machine.connect_action_enabled_changed(None, move |_, name, enabled| {
        notes.borrow_mut().push(format!("{name} {enabled}"));
    });
    let notes = seen.clone();
    machine.connect_action_state_changed(None, move |_, name, state| {
        notes.borrow_mut().push(format!("{name} is {state}"));
    });
    seen
}

fn failures(machine: &Machine) -> Rc<RefCell<Vec<(String, glib::Error)>>> {
    let seen = Rc::<RefCell<Vec<_>>>::default();
    let notes = seen.clone();
    machine.connect_action_failed(move |_, name, error| {
        notes.borrow_mut().push((name.to_owned(), error.clone()));
    });
    seen
}

/// Another client pauses the machine.
fn pause(main: &MainLoop, server: &Server) {
    server.event("STOP");
    main.drain();
    server.answer("query-status", paused());
    main.drain();
}

#[test]
fn the_group_has_all_actions_and_their_types() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        assert_eq!(machine.list_actions(), ALL);
        assert_eq!(machine.property::<Option<QmpPort>>("port"), Some(port));
        for name in ALL {
            assert!(machine.has_action(name));
            assert_eq!(machine.action_parameter_type(name), None);
            let stateful = name == "pause";
            let type_ = stateful.then(|| glib::VariantTy::BOOLEAN.to_owned());
            assert_eq!(machine.action_state_type(name), type_);
            assert_eq!(machine.action_state_hint(name), None);
            // GIO frees what it is passed.
            for _ in 0..100 {
                assert_eq!(machine.action_state(name).is_some(), stateful);
            }
        }
        assert!(!machine.has_action("resume"));
        assert!(!machine.is_action_enabled("resume"));
        machine.activate_action("resume", None);
        machine.change_action_state("resume", &true.to_variant());
        main.drain();
        assert_eq!(server.commands(), [""; 0]);
    });
}

#[test]
fn the_menu_follows_any_client_that_controls_the_machine() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        assert_eq!(
            enabled(&machine),
            ["pause", "reset", "power-down", "quit", "nmi"]
        );
        assert_eq!(is_paused(&machine), Some(false));

        let seen = changes(&machine);
        pause(main, &server);
        assert_eq!(enabled(&machine), ["pause", "reset", "quit"]);
        assert_eq!(is_paused(&machine), Some(true));
        assert_eq!(
            seen.take(),
            ["power-down false", "nmi false", "pause is true"]
        );

        server.event("RESUME");
        main.drain();
        assert_eq!(is_paused(&machine), Some(false));
        server.answer("query-status", running());
        main.drain();
        assert_eq!(seen.take().len(), 3);

        server.event_with(
            "SHUTDOWN",
            &json!({ "guest": true, "reason": "guest-shutdown" }),
        );
        main.drain();
        assert_eq!(enabled(&machine), ["reset", "quit"]);
        server.peer.close("gone");
        main.drain();
        assert_eq!(enabled(&machine), [""; 0]);
        assert_eq!(is_paused(&machine), Some(false));
    });
}

#[test]
fn an_action_executes_its_command_and_changes_no_state_itself() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let failed = failures(&machine);
        for (action, command) in [
            ("pause", "stop"),
            ("reset", "system_reset"),
            ("power-down", "system_powerdown"),
            ("nmi", "inject-nmi"),
        ] {
            let seen = changes(&machine);
            machine.activate_action(action, None);
            main.drain();
            server.answer(command, json!({}));
            main.drain();
            assert_eq!(seen.take(), [""; 0], "QEMU said no more than {{}}");
        }
        machine.change_action_state("pause", &false.to_variant());
        main.drain();
        assert_eq!(server.commands(), [""; 0], "it runs");
        machine.change_action_state("pause", &true.to_variant());
        main.drain();
        server.answer("stop", json!({}));

        pause(main, &server);
        machine.change_action_state("pause", &true.to_variant());
        // Disabled actions do nothing.
        machine.activate_action("nmi", None);
        machine.activate_action("wakeup", None);
        main.drain();
        assert_eq!(server.commands(), [""; 0], "it is paused");
        machine.change_action_state("pause", &false.to_variant());
        main.drain();
        server.answer("cont", json!({}));
        machine.activate_action("pause", None);
        main.drain();
        server.answer("cont", json!({}));
        machine.activate_action("quit", None);
        main.drain();
        server.request("quit");
        server.peer.close("it quit");
        main.drain();
        assert!(failed.borrow().is_empty(), "{failed:?}");
    });
}

#[test]
fn a_failure_is_a_signal() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        let failed = failures(&machine);
        machine.activate_action("reset", None);
        main.drain();
        server.refuse(&server.request("system_reset"), "GenericError", "not today");
        main.drain();
        machine.activate_action("pause", None);
        main.drain();
        server.request("stop");
        server.peer.close("gone");
        main.drain();
        let failed = failed.take();
        let told: Vec<_> = failed
            .iter()
            .map(|(name, error)| (name.as_str(), error.message()))
            .collect();
        let closed = Error::Closed("gone".into()).to_string();
        assert_eq!(
            told,
            [("reset", "system_reset: not today"), ("pause", &closed)]
        );
        assert!(failed[1].1.matches(gio::IOErrorEnum::Closed));
    });
}

#[test]
fn a_handler_may_drop_the_machine_or_change_it_again() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let machine = Rc::new(RefCell::new(Some(Machine::new(&port))));
        let slot = machine.clone();
        let weak = machine.borrow().as_ref().unwrap().downgrade();
        let connect = machine.borrow().clone().unwrap();
        connect.connect_action_enabled_changed(None, move |_, _, _| drop(slot.take()));
        drop(connect);
        pause(main, &server);
        assert!(machine.borrow().is_none());
        assert!(weak.upgrade().is_none());

        // The port continues, and nothing of the machine is left on it.
        server.event("RESUME");
        main.drain();
        server.answer("query-status", running());
        main.drain();
        assert_eq!(Rc::strong_count(&machine), 1);
        let port_left = port.downgrade();
        drop(port);
        main.drain();
        assert!(port_left.upgrade().is_none());
    });
}

#[test]
fn a_machine_may_be_created_before_its_port_is_ready() {
    with_own(|main| {
        let (port, server) = script::port();
        let machine = Machine::new(&port);
        assert_eq!(enabled(&machine), [""; 0]);
        server.peer.open();
        server.line(script::GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        assert_eq!(enabled(&machine), ["quit"], "the run state is not known");
        server.answer("query-status", paused());
        main.drain();
        assert_eq!(enabled(&machine), ["pause", "reset", "quit"]);
        drop(port);
        assert!(
            machine.property::<Option<QmpPort>>("port").is_some(),
            "the machine holds it"
        );
    });
}
