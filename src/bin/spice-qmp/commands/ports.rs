//! The ports of a SPICE server.

use serde::Serialize;
use spice_qmp::QmpPort;
use spice_qmp::qmp::is_human_monitor_name;

use crate::connect::Target;
use crate::failure::Stop;
use crate::output::Output;

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
        return output.json(&ports);
    }
    if ports.is_empty() {
        anstream::eprintln!("spice-qmp: the SPICE server has no ports");
    }
    let width = ports.iter().map(|port| port.name.len()).max().unwrap_or(0);
    for Port { name, qmp } in &ports {
        let speaks = match qmp {
            true => "QMP",
            false if is_human_monitor_name(name) => "human monitor",
            false => "-",
        };
        output.line(format_args!("{name:width$}  {speaks}"))?;
    }
    Ok(())
}
