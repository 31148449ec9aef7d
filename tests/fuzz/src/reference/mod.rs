// SPDX-License-Identifier: MIT OR Apache-2.0
//! A second implementation of what the library must do: slow, and as simple as possible.

pub(crate) mod framing;
pub(crate) mod json;
pub(crate) mod message;
pub(crate) mod session;
