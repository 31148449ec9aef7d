//! The ports of a SPICE server.

use serde::Serialize;
use spice_qmp::QmpPort;
use spice_qmp::qmp::is_human_monitor_name;

use crate::connect::Target;
use crate::failure::{Stop, note};
use crate::output::Output;
use crate::style::escaped;

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
    let width = |port: &Port| escaped(&port.name).chars().count();
    let widest = ports.iter().map(width).max().unwrap_or(0);
    for port in &ports {
        let Port { name, qmp } = port;
        let speaks = match qmp {
            true => "QMP",
            false if is_human_monitor_name(name) => "human monitor",
            false => "-",
        };
        let space = " ".repeat(widest - width(port));
        output.line(format!("{name}{space}  {speaks}")).await?;
    }
    Ok(())
}
