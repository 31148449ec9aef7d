// SPDX-License-Identifier: MIT OR Apache-2.0
//! A power menu on the terminal: the virtual machine's state as it changes, why it
//! stopped, and a line of keys to change it.
//!
//!     cargo run --example power_menu -- spice+unix:///run/vm/spice.sock
//!
//! A viewer with a window needs less: the machine is a `GActionGroup`, which a menu takes
//! as it is.

use std::io;

use gio::prelude::*;
use spice_qmp::{Error, Machine, QmpPort, Session};

/// Keys, and the actions that they activate.
const ACTIONS: [(char, &str); 6] = [
    ('p', "pause"),
    ('r', "reset"),
    ('d', "power-down"),
    ('w', "wakeup"),
    ('n', "nmi"),
    ('q', "quit"),
];

async fn menu(uri: &str) -> Result<(), Error> {
    let session = Session::new();
    session.set_uri(uri);
    let port = QmpPort::find(&session).await?;
    // In milliseconds: without it a call waits as long as QEMU does not answer.
    port.set_command_timeout(10_000);
    let machine = Machine::new(&port);

    show_state(&port);
    show_condition(&machine);
    port.connect_status_notify(show_state);
    machine.connect_condition_notify(show_condition);
    machine.connect_action_failed(|_, action, error| println!("{action} failed: {error}"));

    show_menu(&machine);
    while let Some(key) = read_key().await {
        match ACTIONS.iter().find(|(its, _)| *its == key) {
            // A disabled one does nothing.
            Some((_, action)) => machine.activate_action(action, None),
            None if key == 'x' => break,
            None => show_menu(&machine),
        }
    }
    port.close().await;
    Ok(())
}

fn show_menu(machine: &Machine) {
    let enabled = ACTIONS
        .iter()
        .filter(|(_, action)| machine.is_action_enabled(action));
    let items = enabled.map(|(key, action)| match *action {
        "pause" if is_paused(machine) => format!("[{key}] resume  "),
        action => format!("[{key}] {action}  "),
    });
    println!("{}[x] exit", items.collect::<String>());
}

fn is_paused(machine: &Machine) -> bool {
    let state = machine.action_state("pause");
    state.and_then(|state| state.get()).unwrap_or_default()
}

fn show_state(port: &QmpPort) {
    match port.status() {
        Some(status) => println!("* the machine is: {}", status.status()),
        None => println!("* the machine's state is not known"),
    }
}

fn show_condition(machine: &Machine) {
    if let Some(condition) = machine.condition() {
        println!("* {}", condition.message());
    }
}

/// The first letter of the next line, while the main loop runs.
async fn read_key() -> Option<char> {
    let line = gio::spawn_blocking(|| {
        let mut line = String::new();
        io::stdin().read_line(&mut line).map(|count| (count, line))
    });
    let (count, line) = line.await.ok()?.ok()?;
    (count > 0).then(|| line.trim().chars().next().unwrap_or('?'))
}

fn main() {
    let Some(uri) = std::env::args().nth(1) else {
        eprintln!("usage: power_menu spice://HOST:PORT | spice+unix:///PATH");
        std::process::exit(2);
    };
    if let Err(error) = glib::MainContext::default().block_on(menu(&uri)) {
        eprintln!("power_menu: {error}");
        std::process::exit(1);
    }
}
