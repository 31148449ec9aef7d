// SPDX-License-Identifier: MIT OR Apache-2.0
//! The actions of a viewer's power menu.

/// An action on the virtual machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, glib::Enum)]
#[enum_type(name = "SpiceQmp1PortVmAction")]
#[non_exhaustive]
#[repr(i32)]
pub enum VmAction {
    /// Ends QEMU at once (`quit`).
    #[enum_value(name = "SPICE_QMP_PORT_VM_ACTION_QUIT", nick = "quit")]
    Quit = 0,
    /// Resets the machine hard (`system_reset`).
    #[enum_value(name = "SPICE_QMP_PORT_VM_ACTION_RESET", nick = "reset")]
    Reset = 1,
    /// Asks the guest to shut down, as the power button does (`system_powerdown`).
    #[enum_value(name = "SPICE_QMP_PORT_VM_ACTION_POWER_DOWN", nick = "power-down")]
    PowerDown = 2,
    /// Stops all virtual CPUs (`stop`).
    #[enum_value(name = "SPICE_QMP_PORT_VM_ACTION_PAUSE", nick = "pause")]
    Pause = 3,
    /// Resumes all virtual CPUs (`cont`).
    #[enum_value(name = "SPICE_QMP_PORT_VM_ACTION_CONTINUE", nick = "continue")]
    Continue = 4,
}

impl VmAction {
    /// All actions.
    pub const ALL: [Self; 5] = [
        Self::Quit,
        Self::Reset,
        Self::PowerDown,
        Self::Pause,
        Self::Continue,
    ];

    /// The QMP command that performs it.
    #[must_use]
    pub fn command(self) -> &'static str {
        match self {
            Self::Quit => "quit",
            Self::Reset => "system_reset",
            Self::PowerDown => "system_powerdown",
            Self::Pause => "stop",
            Self::Continue => "cont",
        }
    }
}
