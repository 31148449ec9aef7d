// SPDX-License-Identifier: MIT OR Apache-2.0
//! The program under test: the user of a port.

use std::rc::Rc;
use std::time::Duration;

use spice_qmp::PortState;

use super::cases::{Case, Use};
use super::expected::Outcome;
use crate::common::peers::Peer;

/// Uses one port at a time, in the way that a case says.
pub trait Program {
    /// Creates a port on a new connection, and returns its far end. The port accepts
    /// messages of at most [`MAX_MESSAGE`].
    fn connect(&self, case: Case) -> Rc<dyn Peer>;
    /// Forgets how calls have ended: another case begins.
    fn forget(&self);
    /// What is special about it.
    fn kind(&self) -> Kind;
    /// Runs everything that is due.
    fn settle(&self);
    /// Lets the main loop wait for a little while.
    fn idle(&self);
    /// Makes a call. `rest` is everything that follows it, for a nested main loop.
    fn call(&self, call: Call, rest: Rc<dyn Fn()>);
    /// The command that [`call`](Self::call) executes.
    fn command(&self, call: Call) -> &'static str;
    /// Cancels a call.
    fn cancel(&self, slot: usize);
    /// Drops its reference to the port.
    fn drop_port(&self);
    /// Leaves the nested main loop that a callback runs.
    fn leave_nested(&self) {}
    /// The state of the port, unless it was finalized.
    fn state(&self) -> Option<PortState>;
    /// How many of the program's calls are pending on the port.
    fn pending(&self) -> u32;
    /// How the calls of a slot have ended: one entry for each end.
    fn ends(&self, slot: usize) -> Vec<Outcome>;
}

/// Promises of the documentation that depend on the kind of program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// In Rust a dropped future has no outcome.
    Rust,
    /// In C a wait for the port has no timeout of its own.
    C,
}

/// One call.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// Where its end is recorded.
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

/// The length of arguments that do not fit into the buffer of a socket of
/// minimal size.
pub const LONG: usize = 16 << 10;

/// A part of the right answer to every command.
pub const RIGHT: &str = r#""running":true"#;

/// The command in the right schema.
pub const SUPPORTED: &str = "stop";

/// The command that starts a job.
pub const BACKUP: &str = "blockdev-backup";

/// The only snapshot that there is.
pub const SNAPSHOT: &str = "s";

/// The drive in the right list.
pub const DRIVE: &str = "cd0";
