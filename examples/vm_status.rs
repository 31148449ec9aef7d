// SPDX-License-Identifier: MIT OR Apache-2.0
//! Prints what a virtual machine does, over SPICE.
//!
//!     cargo run --example vm_status -- spice+unix:///run/vm/spice.sock

use spice_qmp::{Error, QmpPort, Session};

async fn show(uri: &str) -> Result<(), Error> {
    let session = Session::new();
    session.set_uri(uri);
    let port = QmpPort::find(&session).await?;
    // In milliseconds: without it a call waits as long as QEMU does not answer.
    port.set_command_timeout(10_000);
    let status = port.query_status().await?;
    println!(
        "QEMU {}: {}",
        port.version().unwrap_or_default(),
        status.status()
    );
    port.close().await;
    Ok(())
}

fn main() {
    let Some(uri) = std::env::args().nth(1) else {
        eprintln!("usage: vm_status spice://HOST:PORT | spice+unix:///PATH");
        std::process::exit(2);
    };
    if let Err(error) = glib::MainContext::default().block_on(show(&uri)) {
        eprintln!("vm_status: {error}");
        std::process::exit(1);
    }
}
