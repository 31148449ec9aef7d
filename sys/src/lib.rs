// SPDX-License-Identifier: MIT OR Apache-2.0
//! The C library: every function of `spice-qmp.h`, one file per C type.
//!
//! A function here guards, borrows, calls the library, converts and returns;
//! decisions are made in the library. The comments are GTK-Doc: cbindgen
//! makes the header from them (`UPDATE_HEADER=1 cargo test -p spice-qmp-c header`).
//!
//! Safety, of all functions: the caller passes what the signature says or NULL;
//! a pointer that is neither is undefined behaviour, as everywhere in C. Everything
//! that can be checked is checked, with GLib's criticals.
#![allow(unsafe_code, reason = "this is the boundary to C")]
#![allow(
    clippy::missing_safety_doc,
    clippy::doc_markdown,
    missing_docs,
    reason = "the comments are GTK-Doc, which has its own places; the safety is that of the crate"
)]

mod cancelling;
mod guard;
mod task;

pub mod call_flags;
pub mod condition;
pub mod connector;
pub mod drive;
pub mod error;
pub mod event;
pub mod insert_flags;
pub mod instance;
pub mod job;
pub mod list;
pub mod machine;
pub mod machine_snapshots;
pub mod port;
pub mod port_calls;
pub mod port_properties;
#[cfg(feature = "spice")]
pub mod port_spice;
pub mod port_waits;
pub mod request;
pub mod schema;
pub mod server;
pub mod snapshot;
pub mod state;
pub mod status;
pub mod vm_action;
