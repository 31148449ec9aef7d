//! `SpiceQmpPortState`

use glib::ffi::GType;
use glib::prelude::*;
use glib::translate::IntoGlib;
use spice_qmp::PortState;

/// SpiceQmpPortState:
/// @SPICE_QMP_PORT_STATE_CLOSED: there is no connection; it may be opened again
/// @SPICE_QMP_PORT_STATE_CONNECTING: the connection is being made, or the SPICE
///   port is not open yet
/// @SPICE_QMP_PORT_STATE_GREETING: the connection is open and QEMU's greeting is
///   awaited
/// @SPICE_QMP_PORT_STATE_NEGOTIATING: the capabilities are being negotiated
/// @SPICE_QMP_PORT_STATE_READY: commands may be given
/// @SPICE_QMP_PORT_STATE_FAILED: the peer does not speak QMP
///
/// Where a port stands: the property #SpiceQmpPort:state.
///
/// Since: 0.1
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
/// Since: 0.1
#[unsafe(no_mangle)]
pub extern "C" fn spice_qmp_port_state_get_type() -> GType {
    PortState::static_type().into_glib()
}

const _: () = {
    assert!(PortState::Closed as i32 == SpiceQmpPortState::SPICE_QMP_PORT_STATE_CLOSED as i32);
    assert!(
        PortState::Connecting as i32 == SpiceQmpPortState::SPICE_QMP_PORT_STATE_CONNECTING as i32
    );
    assert!(PortState::Greeting as i32 == SpiceQmpPortState::SPICE_QMP_PORT_STATE_GREETING as i32);
    assert!(
        PortState::Negotiating as i32 == SpiceQmpPortState::SPICE_QMP_PORT_STATE_NEGOTIATING as i32
    );
    assert!(PortState::Ready as i32 == SpiceQmpPortState::SPICE_QMP_PORT_STATE_READY as i32);
    assert!(PortState::Failed as i32 == SpiceQmpPortState::SPICE_QMP_PORT_STATE_FAILED as i32);
};
