//! What the integration tests share.
//!
//! Every test binary compiles this on its own and uses a part of it.
#![allow(dead_code, unreachable_pub)]

pub mod dbus;
pub mod display;
pub mod fds;
pub mod hostile;
pub mod main_loop;
pub mod peers;
pub mod qemu;
pub mod random;
pub mod run_states;
pub mod script;
pub mod spice;

/// Tells a figure. What tests print is shown only where they fail, but this always.
pub fn say(line: &str) {
    use std::io::Write;

    let line = format!("{line}\n");
    std::io::stderr()
        .write_all(line.as_bytes())
        .expect("stderr");
}
