// SPDX-License-Identifier: MIT OR Apache-2.0
//! QMP for GLib programs: pause, resume, reset, power down and watch the virtual machine
//! behind a SPICE port channel, a D-Bus display or a socket.
//!
//! QEMU's monitor speaks QMP, the QEMU Machine Protocol. With the feature `gobject`, which is
//! on by default, `QmpPort` is a GObject that speaks it on the GLib main context of the thread
//! that creates it. It never blocks, and every call ends once: with QEMU's answer, when the
//! connection ends, or at its deadline.
//!
#![cfg_attr(
    feature = "gobject",
    doc = "
```no_run
use spice_qmp::{Error, QmpPort, VmAction};

async fn pause(address: &str) -> Result<(), Error> {
    let port = QmpPort::open(address).await?; // ready, and its `status` is known
    port.set_command_timeout(10_000); // ms; otherwise a call may wait for ever
    port.connect_qmp_event(Some(\"SHUTDOWN\"), |_, event| {
        println!(\"it shuts down: {}\", event.data().unwrap_or(\"{}\"));
    });
    port.vm_action(VmAction::Pause).await?;
    let name: serde_json::Value = port.execute(\"query-name\", ()).await?;
    println!(\"paused {name}\");
    port.close().await; // over SPICE, QEMU may crash when a client leaves too early
    Ok(())
}

fn main() -> Result<(), Error> {
    let address = std::env::args().nth(1).unwrap_or_default();
    spice_qmp::glib::MainContext::default().block_on(pause(&address))
}
```

# Where to look

| to | see |
|---|---|
| connect to an address | [`QmpPort::open`]; with a password, or to connect again by itself: [`Connector`] |
| find the port of a SPICE session, or attach to its channel | `QmpPort::find`, `QmpPort::get` (feature `spice`) |
| use a D-Bus display that a viewer is connected to | [`QmpPort::find_on_bus`] |
| use any stream | [`QmpPort::for_stream`] |
| execute a command | [`QmpPort::execute`], with the options of a [`Call`] |
| follow events | [`QmpPort::events`], [`QmpPort::connect_qmp_event`], [`QmpPort::wait_event`] |
| follow the run state | [`QmpPort::status`], [`QmpPort::connect_status_notify`] |
| make a power menu, show why the machine stopped | [`Machine`] |
| list drives and change media | [`Machine::drives`], [`Drive`] |
| run a job to its end, list jobs | [`Machine::run_job`], [`Machine::jobs`] |
| know which commands a QEMU has | [`Machine::load_schema`] |
| know why something failed | [`Error`]; [`QmpErrorCode`] for C and GLib |
| test a program without QEMU, serve clients | [`QmpServer`] |
| speak QMP without GLib | [`qmp`] |

# A power menu

A whole program, on a terminal. A window takes the machine as it is:
`window.insert_action_group(\"vm\", Some(&machine))`.

```no_run"
)]
#![cfg_attr(feature = "gobject", doc = include_str!("../examples/power_menu.rs"))]
#![cfg_attr(feature = "gobject", doc = "```\n")]
//!
//! # Features
//!
//! | feature | |
//! |---|---|
//! | `gobject` (default) | `QmpPort` on sockets, D-Bus displays and streams. Without it only the module [`qmp`] is built, which does not use GLib |
//! | `spice` (default) | ports on SPICE channels and sessions: it links spice-gtk |
//! | `cli` | the command-line tool `spice-qmp` |
//! | `spice-client-glib` | accepts the types of that crate, which builds a bundled libusb |
//! | `qapi` | typed commands: `port.run(&qapi_qmp::query_block {})` |

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod qmp;

#[cfg(feature = "gobject")]
pub use {gio, glib};

#[cfg(feature = "gobject")]
mod alarm;
#[cfg(feature = "gobject")]
mod connect;
#[cfg(feature = "gobject")]
mod handlers;
#[cfg(feature = "gobject")]
mod home;
#[cfg(feature = "gobject")]
mod machine;
#[cfg(feature = "gobject")]
mod port;
#[cfg(feature = "gobject")]
mod spawn;
#[cfg(feature = "gobject")]
pub mod transport;

pub use qmp::{ConnectError, Error, ErrorClass, Origin, PeerError, UsageError};

#[cfg(feature = "gobject")]
pub use connect::{
    Address, AddressError, AddressFault, ConnectOptions, Connector, ConnectorBuilder,
    MAX_SOCKET_PATH,
};

#[cfg(all(feature = "gobject", unix))]
pub use machine::Screenshot;
#[cfg(feature = "gobject")]
pub use machine::{
    Condition, ConditionCode, ConditionSeverity, Drive, Insert, Job, List, Machine, RunJob, Schema,
    Snapshot, Unplug,
};
#[cfg(all(feature = "gobject", unix))]
pub use port::MAX_FDS;
#[cfg(all(feature = "gobject", unix))]
#[doc(hidden)]
pub use port::duplicate_list;

#[cfg(feature = "gobject")]
pub use port::{
    CONNECT_TIMEOUT, Call, CallOptions, EVENT_QUEUE, EVENT_QUEUE_BYTES, Event, EventStream,
    MAX_VARIANT_DEPTH, PortState, QmpErrorCode, QmpPort, QmpServer, Status, VmAction, WaitEvent,
    WaitId, WaitStatus, json_to_variant, variant_to_json,
};
#[cfg(feature = "gobject")]
#[doc(hidden)]
pub use port::{RequestObject, ServerObject, record_traffic};
#[cfg(feature = "gobject")]
#[doc(hidden)]
pub use spawn::spawn_on;
#[cfg(feature = "spice")]
pub use transport::spice::{PortChannel, Session};

// The programs in the documents, which the compiler checks.
#[cfg(all(doctest, feature = "spice"))]
mod documents {
    #![doc = include_str!("../README.md")]
    #![doc = include_str!("../docs/getting-started.md")]
    #![doc = include_str!("../docs/power-menu.md")]
    #![doc = include_str!("../docs/machine.md")]
    #![doc = include_str!("../docs/transports.md")]
}
