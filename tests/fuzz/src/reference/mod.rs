// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the library must do, written again: slowly, and as simply as can be.

pub(crate) mod framing;
pub(crate) mod json;
pub(crate) mod message;
pub(crate) mod session;
