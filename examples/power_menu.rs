// SPDX-License-Identifier: MIT OR Apache-2.0
//! A power menu on the terminal.

use std::io;

use spice_qmp::gio::{self, prelude::*};
use spice_qmp::{Error, Machine, QmpPort, glib};

async fn menu(address: &str) -> Result<(), Error> {
    let port = QmpPort::open(address).await?;
    port.set_command_timeout(10_000); // ms
    let machine = Machine::new(&port);

    show_status(&port);
    show_condition(&machine);
    let on_status = port.connect_status_notify(show_status);
    let on_condition = machine.connect_condition_notify(show_condition);
    machine.connect_action_failed(|_, action, error| println!("{action} failed: {error}"));

    while let Some(line) = read_line().await {
        let action = line.trim();
        if machine.is_action_enabled(action) {
            machine.activate_action(action, None);
        } else {
            let mut actions = machine.list_actions();
            actions.retain(|action| machine.is_action_enabled(action));
            println!("choose one of: {}", actions.join(" "));
        }
    }
    port.disconnect(on_status);
    machine.disconnect(on_condition);
    port.close().await;
    Ok(())
}

fn show_status(port: &QmpPort) {
    if let Some(status) = port.status() {
        println!("the machine is {}", status.status());
    }
}

fn show_condition(machine: &Machine) {
    if let Some(condition) = machine.condition() {
        println!("{}", condition.message());
    }
}

/// The next line of standard input, while the main loop goes on.
async fn read_line() -> Option<String> {
    let line = gio::spawn_blocking(|| io::stdin().lines().next());
    line.await.ok()??.ok()
}

fn main() {
    let address = std::env::args().nth(1).unwrap_or_default();
    if let Err(error) = glib::MainContext::default().block_on(menu(&address)) {
        eprintln!("{error}");
    }
}
