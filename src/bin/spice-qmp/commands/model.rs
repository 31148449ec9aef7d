// SPDX-License-Identifier: MIT OR Apache-2.0
//! Loads the machine's lists.

use std::pin::pin;

use gio::prelude::*;
use spice_qmp::{List, Machine, QmpPort};

use crate::ending::ended;
use crate::failure::{Failure, Stop};
use crate::monitor::Monitor;
use crate::wait::{before, until};

/// The machine behind the port; its answers may take up to `--timeout`.
pub(crate) fn machine(monitor: &Monitor, port: &QmpPort) -> Machine {
    let millis = monitor.timeout().as_millis();
    port.set_command_timeout(u32::try_from(millis).unwrap_or(u32::MAX));
    Machine::new(port)
}

/// Loads the items of a list, which this command queries.
pub(crate) async fn load<T: IsA<glib::Object>>(
    list: &List,
    command: &str,
    monitor: &Monitor,
    port: &QmpPort,
) -> Result<Vec<T>, Stop> {
    // This requests them.
    let _ = list.n_items();
    let loaded = until(list, &["notify::loading"], |list| !list.loading());
    let gone = pin!(until(port, &["notify::ready"], |port| !port.ready()));
    // If the port is mute, QEMU is not even asked.
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
