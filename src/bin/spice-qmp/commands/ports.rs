// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `ports`: lists the ports of a SPICE server.

use serde::Serialize;
use spice_qmp::QmpPort;
use spice_qmp::qmp::is_human_monitor_name;

use crate::connect::Target;
use crate::failure::{Stop, note};
use crate::output::Output;
use crate::table;

#[derive(Debug, Serialize)]
struct Port {
    name: String,
    qmp: bool,
}

/// Prints the names of the ports, and which of them speak QMP.
pub(crate) async fn list(target: &Target, output: &mut Output) -> Result<(), Stop> {
    let names = target.port_names().await?;
    let ports: Vec<Port> = names
        .into_iter()
        .map(|name| Port {
            qmp: QmpPort::is_qmp_name(&name),
            name,
        })
        .collect();
    if output.is_json() {
        return output.json(&ports).await;
    }
    if ports.is_empty() {
        note(false, "the SPICE server has no ports");
    }
    let row = |Port { name, qmp }: Port| {
        let speaks = match qmp {
            true => "QMP",
            false if is_human_monitor_name(&name) => "human monitor",
            false => "-",
        };
        [name, speaks.to_owned()]
    };
    let rows: Vec<_> = ports.into_iter().map(row).collect();
    for line in table::lines(&rows) {
        output.line(line).await?;
    }
    Ok(())
}
