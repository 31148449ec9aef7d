// SPDX-License-Identifier: MIT OR Apache-2.0
//! The GObject that joins protocol and transport: `SpiceQmpPort`; and the server for the
//! other end of a connection.

mod call;
mod connection;
mod dispatch;
mod emission;
mod error;
mod event;
mod event_stream;
#[cfg(unix)]
mod fds;
mod imp;
mod json_glib;
mod log;
mod methods;
mod requests;
mod run_state;
mod server;
mod signals;
#[cfg(feature = "spice")]
mod spice;
mod state;
mod status;
mod timers;
mod variant;
mod vm_action;
mod wait;
mod waiting;
mod waits;

use std::time::Duration;

pub use call::Call;
pub use error::QmpErrorCode;
pub use event::Event;
pub use event_stream::{EVENT_QUEUE, EVENT_QUEUE_BYTES, EventStream};
#[cfg(unix)]
pub use fds::{MAX_FDS, duplicate_list};
pub use log::record_traffic;
pub use requests::CallOptions;
pub use server::{QmpServer, RequestObject, ServerObject};
pub use state::PortState;
pub use status::Status;
pub use variant::{MAX_VARIANT_DEPTH, json_to_variant, variant_to_json};
pub use vm_action::VmAction;
pub use wait::{WaitEvent, WaitStatus};
pub use waits::WaitId;

/// How long `open`, `find` and `wait_ready` wait for a silent peer.
///
/// QEMU serves one client at a time on a QMP socket: a second one is connected
/// but receives no greeting.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

glib::wrapper! {
    /// A QMP connection to QEMU, such as the monitor behind a SPICE port channel.
    ///
    /// It runs on the main context that was the thread-default one when the port
    /// was created (GLib's default one for a SPICE port), whatever is pushed later. Nothing
    /// blocks. A call ends once: with QEMU's answer, when the connection ends, or at its
    /// deadline. By default there is no deadline, and a call waits until QEMU answers: set
    /// `command-timeout`, or use [`Call::timeout`]. A port that was closed by its peer becomes
    /// ready again when it is reopened.
    ///
    /// ```no_run
    /// # async fn f() -> Result<(), spice_qmp::Error> {
    /// use spice_qmp::QmpPort;
    ///
    /// let port = QmpPort::open("unix:/run/vm/qmp.sock").await?;
    /// port.set_command_timeout(10_000);
    /// port.connect_status_notify(|port| {
    ///     if let Some(status) = port.status() {
    ///         println!("the machine is {}", status.status());
    ///     }
    /// });
    /// let disks: serde_json::Value = port.execute("query-block", ()).await?;
    /// println!("{disks}");
    /// port.close().await;
    /// # Ok(()) }
    /// ```
    ///
    /// # Properties
    ///
    /// Each has a getter. One that can be set has a setter, such as
    /// [`set_command_timeout`](Self::set_command_timeout), and each has a function that
    /// connects to its changes, such as
    /// [`connect_status_notify`](Self::connect_status_notify).
    ///
    /// | name | type | |
    /// |---|---|---|
    /// | `channel` | `SpicePortChannel`, construct only | the channel that it is attached to, if any; with the feature `spice` |
    /// | [`ready`](Self::ready) | boolean | whether commands may be executed |
    /// | [`state`](Self::state) | [`PortState`] | the state of the connection |
    /// | [`responsive`](Self::responsive) | boolean | false if QEMU owes something and has not sent a byte for 3 s |
    /// | [`version`](Self::version) | string or NULL | QEMU's version, such as `10.0.2` |
    /// | [`package`](Self::package) | string or NULL | the distributor's package of it |
    /// | [`capabilities`](Self::capabilities) | strings | what the server offered in its greeting |
    /// | [`status`](Self::status) | [`Status`] or NULL | the run state, kept up to date: bind the UI to it |
    /// | [`pending`](Self::pending) | unsigned | how many of the program's calls have not ended |
    /// | [`last-error`](Self::last_error) | `GError` or NULL | why the port is not ready, or the last thing that went wrong |
    /// | [`reconnect`](Self::reconnect) | unsigned, milliseconds | the pause before it first tries to reconnect; 0, the default, means never. Set by a [`Connector`](crate::Connector) |
    /// | [`command-timeout`](Self::command_timeout) | unsigned, milliseconds | the deadline of each call; 0, the default, means none |
    /// | [`close-timeout`](Self::close_timeout) | unsigned, milliseconds | how long closing waits for what QEMU owes: 10,000 on SPICE ports, 1,000 elsewhere |
    /// | [`max-message-size`](Self::max_message_size) | unsigned, bytes | the longest message that is accepted; 64 MiB by default |
    ///
    /// # Signals
    ///
    /// - `event (name: string, data: JsonNode or NULL)`: as in spice-gtk, for C.
    /// - `qmp-event (event: Event)`, detail = the event's name: for everyone.
    pub struct QmpPort(ObjectSubclass<imp::QmpPort>);
}

/// The result of `work`, or `None` if it takes longer than `timeout`.
pub(crate) async fn within<T>(timeout: Duration, work: impl Future<Output = T>) -> Option<T> {
    // GLib counts milliseconds in 32 bits, and would wrap around.
    let longest = Duration::from_millis(u32::MAX.into());
    glib::future_with_timeout(timeout.min(longest), work)
        .await
        .ok()
}
