// SPDX-License-Identifier: MIT OR Apache-2.0
//! `SpiceQmpPortState`

use glib::ffi::GType;
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_qmp::PortState;

/// SpiceQmpPortState:
/// @SPICE_QMP_PORT_STATE_CLOSED: there is no connection; it may be opened again
/// @SPICE_QMP_PORT_STATE_CONNECTING: the connection is being established, or the
///   SPICE port is not open yet
/// @SPICE_QMP_PORT_STATE_GREETING: the connection is open; waiting for QEMU's
///   greeting
/// @SPICE_QMP_PORT_STATE_NEGOTIATING: the capabilities are being negotiated
/// @SPICE_QMP_PORT_STATE_READY: the port accepts commands
/// @SPICE_QMP_PORT_STATE_FAILED: the peer does not speak QMP
///
/// The state of a port: the property #SpiceQmpPort:state.
///
/// Since: 0.2
#[allow(non_camel_case_types)]
#[repr(C)]
pub enum SpiceQmpPortState {
    SPICE_QMP_PORT_STATE_CLOSED = 0,
    SPICE_QMP_PORT_STATE_CONNECTING = 1,
    SPICE_QMP_PORT_STATE_GREETING = 2,
    SPICE_QMP_PORT_STATE_NEGOTIATING = 3,
    SPICE_QMP_PORT_STATE_READY = 4,
    SPICE_QMP_PORT_STATE_FAILED = 5,
}

/// spice_qmp_port_state_get_type:
///
/// Returns: the #GType of #SpiceQmpPortState
///
/// Since: 0.2
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_port_state_get_type() -> GType {
    PortState::static_type().into_glib()
}

/// The state in the header. A new state does not compile until it is mapped.
pub(crate) const fn in_header(state: PortState) -> SpiceQmpPortState {
    match state {
        PortState::Closed => SpiceQmpPortState::SPICE_QMP_PORT_STATE_CLOSED,
        PortState::Connecting => SpiceQmpPortState::SPICE_QMP_PORT_STATE_CONNECTING,
        PortState::Greeting => SpiceQmpPortState::SPICE_QMP_PORT_STATE_GREETING,
        PortState::Negotiating => SpiceQmpPortState::SPICE_QMP_PORT_STATE_NEGOTIATING,
        PortState::Ready => SpiceQmpPortState::SPICE_QMP_PORT_STATE_READY,
        PortState::Failed => SpiceQmpPortState::SPICE_QMP_PORT_STATE_FAILED,
    }
}

const _: () = {
    let states = [
        PortState::Closed,
        PortState::Connecting,
        PortState::Greeting,
        PortState::Negotiating,
        PortState::Ready,
        PortState::Failed,
    ];
    let mut i = 0;
    while i < states.len() {
        assert!(states[i] as i32 == in_header(states[i]) as i32);
        i += 1;
    }
};
