// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program's machine: its properties at any time, and its actions.

use std::ffi::CStr;
use std::ptr::null_mut;

use gio::prelude::*;
use glib::object::ObjectType;
use glib::translate::from_glib_borrow;
use spice_qmp::Machine;
use spice_qmp_1::condition::{
    spice_qmp_condition_get_code, spice_qmp_condition_get_detail, spice_qmp_condition_get_message,
    spice_qmp_condition_get_severity, spice_qmp_condition_get_subject, spice_qmp_condition_ref,
    spice_qmp_condition_unref,
};
use spice_qmp_1::machine::{
    SpiceQmpMachine, spice_qmp_machine_dup_condition, spice_qmp_machine_get_port,
    spice_qmp_machine_new,
};

use super::{World, current};
use crate::operations::pick;

impl World {
    /// Creates the machine, unless there is one.
    pub(super) fn make_machine(&self) {
        let port = self.port.get();
        if port.is_null() || !self.machine.get().is_null() {
            return;
        }
        // SAFETY: the program has a reference to the port.
        self.machine.set(unsafe { spice_qmp_machine_new(port) });
        self.with_machine(|machine| {
            self.weak_machine.set(Some(machine));
            machine.connect_action_failed(|_, name, error| {
                assert!(!name.is_empty() && !error.message().is_empty());
                told_change();
            });
            machine.connect_condition_notify(|_| told_change());
            machine.connect_action_enabled_changed(None, |_, _, _| told_change());
            machine.connect_action_state_changed(None, |_, _, _| told_change());
        });
        self.connect_lists();
    }

    /// Drops the program's reference to the machine.
    pub(super) fn give_machine_up(&self) {
        let machine = self.machine.replace(null_mut());
        if !machine.is_null() {
            // SAFETY: it was the program's reference, and there is no other place of it.
            unsafe { glib::gobject_ffi::g_object_unref(machine.cast()) };
        }
    }

    fn with_machine(&self, act: impl FnOnce(&Machine)) {
        let machine = self.machine.get();
        if !machine.is_null() {
            // SAFETY: as of a port, in `with_port`.
            let machine: glib::translate::Borrowed<Machine> =
                unsafe { from_glib_borrow(machine.cast::<<Machine as ObjectType>::GlibType>()) };
            act(&machine.clone());
        }
    }

    /// Activates an action, or changes the state of `pause`.
    pub(super) fn act(&self, with: &[u8]) {
        self.with_machine(|machine| {
            let actions = machine.list_actions();
            match pick(with, actions.len() + 2) {
                0 => machine.change_action_state("pause", &true.to_variant()),
                1 => machine.change_action_state("pause", &false.to_variant()),
                at => machine.activate_action(&actions[at - 2], None),
            }
        });
    }

    /// Reads all properties of the machine.
    pub(super) fn look_at_machine(&self) {
        self.with_machine(|machine| {
            for action in machine.list_actions() {
                machine.is_action_enabled(&action);
                let state = machine.action_state(&action);
                assert_eq!(state.is_some(), action == "pause");
            }
        });
        let machine = self.machine.get();
        if !machine.is_null() {
            // SAFETY: the program has a reference to the machine.
            unsafe { look_at_condition(machine) };
        }
    }
}

/// # Safety
///
/// The machine lives.
unsafe fn look_at_condition(machine: *mut SpiceQmpMachine) {
    // SAFETY: as the caller promises; the condition is the caller's, and lends what its
    // functions return.
    unsafe {
        assert!(!spice_qmp_machine_get_port(machine).is_null());
        let condition = spice_qmp_machine_dup_condition(machine);
        if condition.is_null() {
            return;
        }
        spice_qmp_condition_unref(spice_qmp_condition_ref(condition));
        let _ = spice_qmp_condition_get_code(condition);
        let _ = spice_qmp_condition_get_severity(condition);
        let message = spice_qmp_condition_get_message(condition);
        assert!(!CStr::from_ptr(message).is_empty());
        for text in [
            spice_qmp_condition_get_subject(condition),
            spice_qmp_condition_get_detail(condition),
        ] {
            assert!(text.is_null() || CStr::from_ptr(text).to_str().is_ok());
        }
        spice_qmp_condition_unref(condition);
    }
}

/// Every third handler reads the machine, every seventh runs a main loop, every
/// thirteenth drops the machine.
pub(super) fn told_change() {
    let world = current();
    let changes = world.changes.get() + 1;
    world.changes.set(changes);
    if changes.is_multiple_of(3) {
        world.look_at_machine();
    }
    if changes.is_multiple_of(7) {
        world.iterate();
    }
    if changes.is_multiple_of(13) {
        world.give_machine_up();
    }
}
