//! A power menu on the terminal: the virtual machine's state as it changes, and
//! a line of keys to change it.
//!
//!     cargo run --example power_menu -- spice+unix:///run/vm/spice.sock
//!
//! A viewer with a window does the same with a label and buttons: it binds the
//! label to the property `status` and calls `vm_action` when a button is pressed.

use std::io;

use spice_qmp::{Error, QmpPort, Session, VmAction};

const MENU: &str = "[p]ause  [c]ontinue  [r]eset  power [d]own  [q]uit QEMU  e[x]it";

async fn menu(uri: &str) -> Result<(), Error> {
    let session = Session::new();
    session.set_uri(uri);
    let port = QmpPort::find(&session).await?;
    // In milliseconds: without it a call waits as long as QEMU does not answer.
    port.set_command_timeout(10_000);

    show_state(&port);
    port.connect_status_notify(show_state);
    port.connect_qmp_event(Some("SHUTDOWN"), |_, event| {
        println!("* the machine shuts down: {}", event.data().unwrap_or("{}"));
    });

    println!("{MENU}");
    while let Some(key) = read_key().await {
        let action = match key {
            'p' => VmAction::Pause,
            'c' => VmAction::Continue,
            'r' => VmAction::Reset,
            'd' => VmAction::PowerDown,
            'q' => VmAction::Quit,
            'x' => break,
            _ => {
                println!("{MENU}");
                continue;
            }
        };
        match port.vm_action(action).await {
            Ok(()) => println!("done: {}", action.command()),
            Err(error) => println!("QEMU says: {error}"),
        }
        if action == VmAction::Quit {
            break;
        }
    }
    port.close().await;
    Ok(())
}

fn show_state(port: &QmpPort) {
    match port.status() {
        Some(status) => println!("* the machine is: {}", status.status()),
        None => println!("* the machine's state is not known"),
    }
}

/// The first letter of the next line, while the main loop goes on.
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
