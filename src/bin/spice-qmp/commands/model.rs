// SPDX-License-Identifier: MIT OR Apache-2.0
//! The machine, and what its lists have.

use std::pin::pin;

use gio::prelude::*;
use spice_qmp::{List, Machine, QmpPort};

use crate::ending::ended;
use crate::failure::{Failure, Stop};
use crate::monitor::Monitor;
use crate::wait::{before, until};

/// The machine behind the port, whose answers may take as long as `--timeout` says.
pub(crate) fn machine(monitor: &Monitor, port: &QmpPort) -> Machine {
    let millis = monitor.timeout().as_millis();
    port.set_command_timeout(u32::try_from(millis).unwrap_or(u32::MAX));
    Machine::new(port)
}

/// Loads the items of a list, which come from this command.
pub(crate) async fn load<T: IsA<glib::Object>>(
    list: &List,
    command: &str,
    monitor: &Monitor,
    port: &QmpPort,
) -> Result<Vec<T>, Stop> {
    // This asks for them.
    let _ = list.n_items();
    let loaded = until(list, &["notify::loading"], |list| !list.loading());
    let gone = pin!(until(port, &["notify::ready"], |port| !port.ready()));
    // Where the port is mute, QEMU is not even asked.
    let end = glib::future_with_timeout(monitor.timeout(), before(gone, loaded)).await;
    match end {
        Err(_) => return Err(monitor.late(command, port.is_mute()).into()),
        Ok(None) => return Err(ended(port, &format!("and {command} was not answered"))),
        Ok(Some(())) => {}
    }
    if let Some(error) = list.error() {
        return Err(Failure::from(&error).into());
    }
    Ok(list.iter::<T>().flatten().collect())
}
