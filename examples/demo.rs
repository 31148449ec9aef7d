// SPDX-License-Identifier: MIT OR Apache-2.0
//! What `./dev demo` runs: finds the port, follows events, and executes commands.
//!
//!     cargo run --example demo -- spice+unix:///run/vm/spice.sock
//!
//! The virtual machine must have been started with `-S`; the demo ends it.

use std::error::Error;
use std::fmt::Debug;
use std::time::Duration;

use serde_json::{Value, json};
use spice_qmp::{ErrorClass, Event, EventStream, QmpPort, Session, VmAction};

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(5);

async fn run(uri: &str) -> Result<(), Box<dyn Error>> {
    let session = Session::new();
    session.set_uri(uri);
    println!("Connecting to {uri} ...");
    let port = QmpPort::find(&session).await?;
    // A QEMU that hangs costs this long, and no more.
    port.set_command_timeout(u32::try_from(PATIENCE.as_millis())?);
    let name = port.channel().and_then(|channel| channel.port_name());
    println!("  found the port {}", name.unwrap_or_default());
    check("ready", port.ready(), true)?;
    let version = port.version().ok_or("the port knows no version")?;
    println!(
        "  ready: this is QEMU {version} ({})",
        port.package().unwrap_or_default()
    );

    let mut events = port.events();
    expect_status(&port, "prelaunch", false).await?;

    println!("Resuming the machine, which was started paused ...");
    port.vm_action(VmAction::Continue).await?;
    expect_event(&mut events, "RESUME").await?;
    expect_status(&port, "running", true).await?;

    println!("Pausing it ...");
    port.vm_action(VmAction::Pause).await?;
    expect_event(&mut events, "STOP").await?;
    expect_status(&port, "paused", false).await?;

    println!("Resuming it ...");
    port.vm_action(VmAction::Continue).await?;
    expect_event(&mut events, "RESUME").await?;
    expect_status(&port, "running", true).await?;

    println!("Unplugging a disk that is not there ...");
    let refused = port
        .execute::<Value>("device_del", json!({"id": "no-such-disk"}))
        .await;
    match refused {
        Err(spice_qmp::Error::Command { class, desc, .. }) => {
            println!("  QEMU refuses ({}): {desc}", class.name());
            check("error class", &class, &ErrorClass::DeviceNotFound)?;
        }
        Err(error) => return Err(error.into()),
        Ok(value) => return Err(format!("QEMU did unplug it: {value}").into()),
    }

    println!("Ending QEMU ...");
    port.vm_action(VmAction::Quit).await?;
    let end = expect_event(&mut events, "SHUTDOWN").await?;
    let data: Value = end.decode()?;
    check("reason", data["reason"].as_str(), Some("host-qmp-quit"))?;
    let closed = async {
        while port.ready() {
            glib::timeout_future(Duration::from_millis(10)).await;
        }
    };
    glib::future_with_timeout(PATIENCE, closed)
        .await
        .map_err(|_| "QEMU does not end")?;
    let error = port
        .last_error()
        .ok_or("the port is closed without a reason")?;
    println!("  the port is closed: {}", error.message());
    Ok(())
}

async fn expect_status(port: &QmpPort, status: &str, running: bool) -> Result<(), Box<dyn Error>> {
    let is = port.query_status().await?;
    println!("  status: {}, running: {}", is.status(), is.running());
    check("status", is.status(), status)?;
    check("running", is.running(), running)
}

async fn expect_event(events: &mut EventStream, name: &str) -> Result<Event, Box<dyn Error>> {
    let event = next_of_machine(events);
    let event = glib::future_with_timeout(PATIENCE, event)
        .await
        .map_err(|_| format!("no event {name} came"))?
        .ok_or("the events ended")?;
    println!("  event: {} {}", event.name(), event.data().unwrap_or(""));
    check("event", event.name(), name)?;
    Ok(event)
}

/// The next event, except those of SPICE clients that connect and disconnect.
async fn next_of_machine(events: &mut EventStream) -> Option<Event> {
    loop {
        let event = events.next().await?;
        if !event.name().starts_with("SPICE_") {
            return Some(event);
        }
    }
}

fn check<T: PartialEq + Debug + Copy>(what: &str, is: T, wanted: T) -> Result<(), Box<dyn Error>> {
    if is == wanted {
        return Ok(());
    }
    Err(format!("{what} is {is:?}, not {wanted:?}").into())
}

fn main() {
    let Some(uri) = std::env::args().nth(1) else {
        eprintln!("usage: demo spice+unix:///PATH");
        std::process::exit(2);
    };
    if let Err(error) = glib::MainContext::default().block_on(run(&uri)) {
        eprintln!("demo: {error}");
        std::process::exit(1);
    }
}
