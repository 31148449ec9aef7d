// SPDX-License-Identifier: MIT OR Apache-2.0
//! The state of a port as a GObject enum.

use crate::qmp;

/// The state of a port; see [`qmp::State`] for the transitions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, glib::Enum)]
#[enum_type(name = "SpiceQmp1PortState")]
#[repr(i32)]
pub enum PortState {
    /// There is no connection; it may be opened again.
    #[default]
    #[enum_value(name = "SPICE_QMP_PORT_STATE_CLOSED", nick = "closed")]
    Closed = 0,
    /// The connection is being made, or the SPICE port is not open yet.
    #[enum_value(name = "SPICE_QMP_PORT_STATE_CONNECTING", nick = "connecting")]
    Connecting = 1,
    /// The connection is open; QEMU's greeting has not arrived yet.
    #[enum_value(name = "SPICE_QMP_PORT_STATE_GREETING", nick = "greeting")]
    Greeting = 2,
    /// The capabilities are being negotiated.
    #[enum_value(name = "SPICE_QMP_PORT_STATE_NEGOTIATING", nick = "negotiating")]
    Negotiating = 3,
    /// Commands may be executed.
    #[enum_value(name = "SPICE_QMP_PORT_STATE_READY", nick = "ready")]
    Ready = 4,
    /// The peer does not speak QMP.
    #[enum_value(name = "SPICE_QMP_PORT_STATE_FAILED", nick = "failed")]
    Failed = 5,
}

impl From<qmp::State> for PortState {
    fn from(state: qmp::State) -> Self {
        match state {
            qmp::State::Closed => Self::Closed,
            qmp::State::Connecting => Self::Connecting,
            qmp::State::Greeting => Self::Greeting,
            qmp::State::Negotiating => Self::Negotiating,
            qmp::State::Ready => Self::Ready,
            qmp::State::Failed => Self::Failed,
        }
    }
}
