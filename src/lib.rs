#![cfg_attr(feature = "gobject", doc = include_str!("../README.md"))]
#![cfg_attr(
    not(feature = "gobject"),
    doc = "QMP for GLib programs; built without its GObject."
)]
#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod qmp;

#[cfg(feature = "gobject")]
mod alarm;
#[cfg(feature = "gobject")]
mod connect;
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
pub use connect::{Address, AddressError, AddressFault, ConnectOptions, MAX_SOCKET_PATH};

#[cfg(all(feature = "gobject", unix))]
pub use machine::Screenshot;
#[cfg(feature = "gobject")]
pub use machine::{Condition, ConditionCode, ConditionSeverity, Machine, Schema, Unplug};
#[cfg(all(feature = "gobject", unix))]
pub use port::MAX_FDS;
#[cfg(all(feature = "gobject", unix))]
#[doc(hidden)]
pub use port::duplicate_list;

#[cfg(feature = "gobject")]
pub use port::{
    CONNECT_TIMEOUT, Call, CallOptions, EVENT_QUEUE, EVENT_QUEUE_BYTES, Event, EventStream,
    MAX_VARIANT_DEPTH, PortState, QmpErrorCode, QmpPort, Status, VmAction, WaitEvent, WaitId,
    WaitStatus, json_to_variant, variant_to_json,
};
#[cfg(feature = "gobject")]
#[doc(hidden)]
pub use spawn::spawn_on;
#[cfg(feature = "spice")]
pub use transport::spice::{PortChannel, Session};
