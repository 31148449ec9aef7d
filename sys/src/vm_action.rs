// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPortVmAction`

use std::ffi::c_int;

use glib::ffi::GType;
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_qmp::VmAction;

/// SpiceQmpPortVmAction:
/// @SPICE_QMP_PORT_VM_ACTION_QUIT: quit QEMU immediately (`quit`)
/// @SPICE_QMP_PORT_VM_ACTION_RESET: hard-reset the machine (`system_reset`)
/// @SPICE_QMP_PORT_VM_ACTION_POWER_DOWN: ask the guest to shut down, as the power
///   button does (`system_powerdown`)
/// @SPICE_QMP_PORT_VM_ACTION_PAUSE: stop all virtual CPUs (`stop`)
/// @SPICE_QMP_PORT_VM_ACTION_CONTINUE: resume all virtual CPUs (`cont`)
/// @SPICE_QMP_PORT_VM_ACTION_LAST: the number of actions; not an action
///
/// An action on the virtual machine.
///
/// Since: 0.2
#[cfg(not(spice_gtk_declares))]
#[allow(non_camel_case_types)]
#[repr(C)]
pub enum SpiceQmpPortVmAction {
    SPICE_QMP_PORT_VM_ACTION_QUIT = 0,
    SPICE_QMP_PORT_VM_ACTION_RESET = 1,
    SPICE_QMP_PORT_VM_ACTION_POWER_DOWN = 2,
    SPICE_QMP_PORT_VM_ACTION_PAUSE = 3,
    SPICE_QMP_PORT_VM_ACTION_CONTINUE = 4,
    SPICE_QMP_PORT_VM_ACTION_LAST = 5,
}

/// A `SpiceQmpPortVmAction` from C, which may be any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub struct ActionOfC(c_int);

impl ActionOfC {
    /// The action, if it is one.
    pub(crate) fn action(self) -> Option<VmAction> {
        ACTIONS
            .into_iter()
            .find(|action| *action as c_int == self.0)
    }
}

/// spice_qmp_port_vm_action_get_type:
///
/// Returns: the #GType of #SpiceQmpPortVmAction
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_port_vm_action_get_type() -> GType {
    VmAction::static_type().into_glib()
}

const ACTIONS: [VmAction; SpiceQmpPortVmAction::SPICE_QMP_PORT_VM_ACTION_LAST as usize] = [
    VmAction::Quit,
    VmAction::Reset,
    VmAction::PowerDown,
    VmAction::Pause,
    VmAction::Continue,
];

const _: () = {
    assert!(VmAction::Quit as i32 == SpiceQmpPortVmAction::SPICE_QMP_PORT_VM_ACTION_QUIT as i32);
    assert!(VmAction::Reset as i32 == SpiceQmpPortVmAction::SPICE_QMP_PORT_VM_ACTION_RESET as i32);
    assert!(
        VmAction::PowerDown as i32
            == SpiceQmpPortVmAction::SPICE_QMP_PORT_VM_ACTION_POWER_DOWN as i32
    );
    assert!(VmAction::Pause as i32 == SpiceQmpPortVmAction::SPICE_QMP_PORT_VM_ACTION_PAUSE as i32);
    assert!(
        VmAction::Continue as i32 == SpiceQmpPortVmAction::SPICE_QMP_PORT_VM_ACTION_CONTINUE as i32
    );
};
