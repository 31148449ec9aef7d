// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command `unplug`: unplugs a device, and waits until it is gone.

use serde::Serialize;
use spice_qmp::{Error, ErrorClass, Machine};

use crate::cli::Unplug;
use crate::connect::Target;
use crate::failure::{Failure, Stop};
use crate::output::Output;

/// The unplugged device, in JSON.
#[derive(Serialize)]
struct Unplugged<'a> {
    unplugged: &'a str,
}

/// Asks the guest to release the device, and waits until it has.
pub(crate) async fn run(target: &Target, unplug: &Unplug, output: &mut Output) -> Result<(), Stop> {
    let id = unplug.id.as_str();
    target
        .on_port(async |monitor, port| {
            let machine = Machine::new(port);
            let unplug = machine.unplug(id).timeout(monitor.timeout());
            unplug.await.map_err(explain)?;
            if output.is_json() {
                return output.json(&Unplugged { unplugged: id }).await;
            }
            output.line(format!("Unplugged {id}.")).await
        })
        .await
}

/// Adds a hint about what to do next.
fn explain(error: Error) -> Failure {
    let hint = match &error {
        Error::Command { class, .. } if *class == ErrorClass::DeviceNotFound => {
            "spice-qmp exec qom-list path=/machine/peripheral lists the devices that have an id"
        }
        Error::TimedOut { what, .. } if what.starts_with("unplugging") => {
            "it may still do so (spice-qmp wait DEVICE_DELETED waits for that); a reset of the \
             machine does it at once"
        }
        _ => return error.into(),
    };
    Failure::from(error).hint(hint)
}
