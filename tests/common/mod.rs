// SPDX-License-Identifier: MIT OR Apache-2.0
//! Code that the integration tests share.
//!
//! Every test binary compiles this on its own and uses part of it.
#![allow(dead_code, unreachable_pub)]

pub mod dbus;
#[cfg(feature = "spice")]
pub mod display;
pub mod example;
pub mod fds;
#[cfg(feature = "spice")]
pub mod hostile;
pub mod jobs;
pub mod machine;
pub mod main_loop;
#[cfg(feature = "spice")]
pub mod peers;
pub mod qemu;
pub mod random;
pub mod run_states;
pub mod script;
#[cfg(feature = "spice")]
pub mod spice;

/// Prints a figure. The output of tests is shown only if they fail, but this always.
pub fn say(line: &str) {
    use std::io::Write;

    let line = format!("{line}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr");
}
