// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pauses the machine at an address.

use spice_qmp::{Error, QmpPort, VmAction};

async fn pause(address: &str) -> Result<(), Error> {
    let port = QmpPort::open(address).await?;
    port.set_command_timeout(10_000); // ms; otherwise a call may wait for ever
    port.vm_action(VmAction::Pause).await?;
    println!("paused");
    port.close().await;
    Ok(())
}

fn main() {
    let address = std::env::args().nth(1).unwrap_or_default();
    if let Err(error) = spice_qmp::glib::MainContext::default().block_on(pause(&address)) {
        eprintln!("{error}");
    }
}
