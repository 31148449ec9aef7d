// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program under test: what uses a port.

use std::rc::Rc;
use std::time::Duration;

use spice_qmp::PortState;

use super::cases::{Case, Use};
use super::expected::Outcome;
use crate::common::peers::Peer;

/// Uses one port at a time, in a way that a case says.
pub trait Program {
    /// A new port on a new connection, whose far end it gives. The port takes
    /// messages of at most [`MAX_MESSAGE`].
    fn connect(&self, case: Case) -> Rc<dyn Peer>;
    /// Forgets how calls have ended: another case begins.
    fn forget(&self);
    /// What is special about it.
    fn kind(&self) -> Kind;
    /// Lets all happen that is due.
    fn settle(&self);
    /// Lets the main loop wait for a little while.
    fn idle(&self);
    /// Makes a call. `rest` is all that comes after it, for a nested main loop.
    fn call(&self, call: Call, rest: Rc<dyn Fn()>);
    /// The command that [`call`](Self::call) gives.
    fn command(&self, call: Call) -> &'static str;
    /// Cancels a call.
    fn cancel(&self, slot: usize);
    /// Gives up its reference to the port.
    fn drop_port(&self);
    /// Leaves the nested main loop that a callback runs.
    fn leave_nested(&self) {}
    /// The state of the port, unless it is gone for good.
    fn state(&self) -> Option<PortState>;
    /// How many of the program's calls the port still has.
    fn pending(&self) -> u32;
    /// How the calls of a slot have ended: one entry for each end.
    fn ends(&self, slot: usize) -> Vec<Outcome>;
}

/// What the documentation promises to some programs only.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In Rust a dropped future has no outcome.
    Rust,
    /// In C a wait for the port has no deadline of one's own.
    C,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Where its end is noted.
    pub slot: usize,
    pub what: What,
    pub way: Use,
    /// With arguments too long to be written at once.
    pub long: bool,
    pub deadline: Option<Duration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    Command,
    WaitReady,
    Close,
}

/// The port's `max-message-size`.
pub const MAX_MESSAGE: u64 = 4096;

/// Arguments of this length.
pub fn long_arguments(length: usize) -> String {
    format!(r#"{{"text": "{}"}}"#, "x".repeat(length))
}

/// The length of arguments that do not fit into the buffer of a socket that holds as
/// little as it can.
pub const LONG: usize = 16 << 10;

/// What is in the right answer to every command.
pub const RIGHT: &str = r#""running":true"#;

/// The command that is in the right schema.
pub const SUPPORTED: &str = "stop";

/// The drive that is in the right list.
pub const DRIVE: &str = "cd0";
