// SPDX-License-Identifier: MIT OR Apache-2.0
//! Code shared with the tests: QEMU, a main loop, a lone channel.
#![allow(dead_code, reason = "a part of it is used")]

#[path = "../../tests/common/main_loop.rs"]
pub mod main_loop;
#[path = "../../tests/common/qemu.rs"]
pub mod qemu;
#[path = "../../tests/common/spice.rs"]
pub mod spice;
