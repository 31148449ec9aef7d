//! The QMP ports among the channels of a SPICE session, and whether QEMU is mute there.

use glib::prelude::*;
use spice_qmp::{PortChannel, QmpPort, Session};

/// The run state in which QEMU says nothing over SPICE, if the machine is in one.
pub(crate) fn muting_state(session: &Session) -> Option<String> {
    let status = qmp_ports(session).find_map(|channel| QmpPort::get(channel).status())?;
    let state = status.status();
    let speaks = status.running()
        || matches!(
            state,
            "prelaunch" | "paused" | "inmigrate" | "suspended" | "save-vm"
        );
    (!speaks).then(|| state.to_owned())
}

/// The connected channels that speak QMP.
pub(crate) fn qmp_ports(session: &Session) -> impl Iterator<Item = PortChannel> {
    let ports = session.channels().into_iter().filter_map(|it| it.port());
    ports.filter(|port| {
        let name = port.port_name().unwrap_or_default();
        is_connected(port) && QmpPort::is_qmp_name(&name)
    })
}

pub(crate) fn is_connected(channel: &PortChannel) -> bool {
    channel.property::<Option<gio::Socket>>("socket").is_some()
}
