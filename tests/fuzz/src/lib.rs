// SPDX-License-Identifier: MIT OR Apache-2.0
//! The checks of the fuzz targets, as functions that every test can call.
//!
//! An input of [`session`], [`server`] and [`capi`] is a byte of options, then operations,
//! each ended by a byte 0xFF: a letter for the action and the rest for its argument, such
//! as the bytes that the server sends. JSON never contains that byte, so cutting and
//! joining inputs makes new ones that are meaningful. The letters are explained
//! where they are parsed.

mod capi;
mod decode;
mod held;
mod operations;
mod reference;
mod server;
mod session;

pub use capi::capi;
pub use decode::decode;
pub use server::server;
pub use session::session;
