// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the fuzz targets check, as functions that every test can call.
//!
//! An input of [`session`], [`server`] and [`capi`] is a byte of set-up, then operations that
//! a byte 0xFF ends: a letter for what is done and the rest for what with, such
//! as the bytes that the server sends. No JSON holds that byte, so cutting and
//! joining inputs makes new ones that mean something. What the letters mean is
//! told where they are read.

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
