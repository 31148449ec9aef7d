// SPDX-License-Identifier: MIT OR Apache-2.0
//! The three lists that the matrix is made of.

use std::fmt;

use crate::common::peers::Peer;

/// A list of the server's actions, each with its script.
macro_rules! scripted {
    ($(#[$about:meta])* $name:ident { $($variant:ident = $file:literal,)* }) => {
        $(#[$about])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name {
            $($variant,)*
        }

        impl $name {
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$variant => $file,)*
                }
            }

            pub fn script(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        include_str!(concat!("../fixtures/hostile/", $file, ".script"))
                    })*
                }
            }
        }
    };
}

scripted! {
    /// The moment of the fault.
    Moment {
        BeforeGreeting = "before_greeting",
        Negotiating = "negotiating",
        ReadyIdle = "ready_idle",
        CommandWritten = "command_written",
        HalfReply = "half_reply",
        EventStorm = "event_storm",
        Closing = "closing",
    }
}

scripted! {
    /// The fault.
    Fault {
        Silence = "silence",
        Close = "close",
        Reopen = "reopen",
        SecondGreeting = "second_greeting",
        Garbage = "garbage",
        HalfLineThenClose = "half_line_then_close",
        WrongId = "wrong_id",
        DuplicateId = "duplicate_id",
        ReplyBeforeWriteFinished = "reply_before_write_finished",
        OversizedLine = "oversized_line",
        DeepNesting = "deep_nesting",
        InvalidUtf8 = "invalid_utf8",
        Nul = "nul",
        HmpBanner = "hmp_banner",
        OneByteChunks = "one_byte_chunks",
        WriteError = "write_error",
        NeverReads = "never_reads",
    }
}

/// How the program makes the affected call. In the moments before the port is ready,
/// the call is the wait for that, with a command before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Use {
    /// With a callback.
    Callback,
    /// As a future; C, which has none, calls with `GVariant`s as scripts do. Both wait
    /// for an event meanwhile.
    Future,
    /// Cancelled before the fault; a future is dropped.
    Cancelled,
    /// With a deadline.
    Deadline,
    /// Fire and forget: an action of a machine, which is dropped at once; or a command,
    /// if that is a long one, with a NULL callback in C.
    NullCallback,
    /// The callback drops the program's last reference to the port.
    UnrefInCallback,
    /// The callback runs a main loop, in which everything else happens.
    NestedLoop,
    /// Loads the schema: the short command that it needs, even if the server stops
    /// reading. In the moments before the port is ready, it is refused.
    Supports,
    /// Requests the list of drives, and waits until it is no longer `loading`. In the
    /// moments before the port is ready, and while a server restarts, the list waits.
    List,
    /// Runs a job: the short command that starts it, then what asks for its end.
    RunJob,
    /// Inserts a medium into a drive of a list that was asked for when the port was made. In
    /// the moments before the port is ready it waits for that.
    Insert,
    /// Loads a snapshot: asks for the disks, pauses the machine, and runs a job.
    Snapshot,
}

impl Use {
    pub const ALL: &[Self] = &[
        Self::Callback,
        Self::Future,
        Self::Cancelled,
        Self::Deadline,
        Self::NullCallback,
        Self::UnrefInCallback,
        Self::NestedLoop,
        Self::Supports,
        Self::List,
        Self::RunJob,
        Self::Insert,
        Self::Snapshot,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Future => "future",
            Self::Cancelled => "cancelled",
            Self::Deadline => "deadline",
            Self::NullCallback => "null_callback",
            Self::UnrefInCallback => "unref_in_callback",
            Self::NestedLoop => "nested_loop",
            Self::Supports => "supports",
            Self::List => "list",
            Self::RunJob => "run_job",
            Self::Insert => "insert",
            Self::Snapshot => "snapshot",
        }
    }

    /// Whether it gives short commands of its own, wherever it happens.
    pub fn is_of_machine(self) -> bool {
        self.waits_for_list() || matches!(self, Self::Supports | Self::RunJob | Self::Snapshot)
    }

    /// Whether it waits for a list, which waits for the port.
    pub fn waits_for_list(self) -> bool {
        matches!(self, Self::List | Self::Insert)
    }

    /// Whether it is a series of commands, of which each needs the one before: what is below
    /// the port has seen each of them in other uses.
    pub fn is_series(self) -> bool {
        matches!(self, Self::RunJob | Self::Insert | Self::Snapshot)
    }

    /// Whether it gives another command when one is answered, and fails without.
    pub fn goes_on(self) -> bool {
        matches!(self, Self::RunJob | Self::Snapshot)
    }
}

/// One case.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Case {
    pub moment: Moment,
    pub fault: Fault,
    pub way: Use,
}

impl Case {
    /// All cases.
    pub fn all() -> Vec<Self> {
        let mut cases = Vec::new();
        for &moment in Moment::ALL {
            for &fault in Fault::ALL {
                for &way in Use::ALL {
                    cases.push(Self { moment, fault, way });
                }
            }
        }
        cases
    }

    /// Whether the port was never ready when the call is made.
    pub fn is_early(self) -> bool {
        matches!(self.moment, Moment::BeforeGreeting | Moment::Negotiating)
    }

    /// Whether the server stops reading: then the command is a long one, whose
    /// write does not end.
    pub fn stalls(self) -> bool {
        matches!(
            self.fault,
            Fault::ReplyBeforeWriteFinished | Fault::WriteError | Fault::NeverReads
        )
    }

    /// Whether a write of the port's can fail: not if there is only a short command,
    /// which has been written by then.
    pub fn may_fail_writes(self, peer: &dyn Peer) -> bool {
        peer.fails_writes() && !self.way.is_of_machine()
    }
}

impl fmt::Display for Case {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (moment, fault) = (self.moment.name(), self.fault.name());
        write!(f, "{moment} x {fault} x {}", self.way.name())
    }
}
