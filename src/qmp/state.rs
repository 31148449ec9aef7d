// SPDX-License-Identifier: MIT OR Apache-2.0
//! The states of a QMP session.

use std::fmt;

/// The state of a session.
///
/// ```text
///                 connecting()                    open(MayBeGone)
///   ┌──────────┐ ─────────────▶ ┌────────────┐ ─────────────────────────────┐
///   │  Closed  │                │ Connecting │                              │
///   └──────────┘                └────────────┘                              │
///     ▲  ▲  │ open(Coming)            │ open(Coming)                        │
///     │  │  └────────────┐            ▼                                     ▼
///     │  │               └────▶ ┌──────────┐   greeting          ┌─────────────┐
///     │  └── close() ────────── │ Greeting │ ──────────────────▶ │ Negotiating │◀─┐
///     │     (from any state)    └──────────┘   (send             └─────────────┘  │
///     │                              │         qmp_capabilities)    │    │        │ greeting
///     │         no greeting          ▼                              │    ▼        │
///     │         (see below)     ┌──────────┐  refused, bad lines    │ ┌─────────┐ │
///     └──────────────────────── │  Failed  │ ◀──────────────────────┘ │  Ready  │─┘
///                               └──────────┘ ◀── 16 bad lines ─────── └─────────┘
/// ```
///
/// In the diagram, `Coming` is both `GreetingComes` and
/// `GreetingAfterRest`.
///
/// | state | `open` | greeting | negotiation answered | bad lines | `close` | `execute` |
/// |---|---|---|---|---|---|---|
/// | Closed, Connecting | Greeting, or Negotiating with a probe | – | – | – | Closed | not ready |
/// | Greeting | as above | Negotiating | – | Failed: at once, or as below | Closed | not ready |
/// | Negotiating | as above | Negotiating again | Ready, or Failed when refused | Failed: 16, a human monitor, a bad greeting | Closed | not ready |
/// | Ready | as above | Negotiating | – | Failed: 16 | Closed | sent |
/// | Failed | as above | – (input is ignored) | – | – | Closed | the failure |
///
/// On a new connection whose first bytes can only be the greeting
/// ([`Opening::GreetingComes`]), the session fails at the first byte of a line that is
/// neither white space nor `{`, and at a line that is not a message: the peer is not a QMP
/// server, and its line may never end. If the rest of a reply to an earlier client
/// may come first ([`Opening::GreetingAfterRest`]), only bytes that are not ASCII do so; other
/// lines are counted as in the state Negotiating.
///
/// [`Opening::GreetingComes`]: super::Opening::GreetingComes
/// [`Opening::GreetingAfterRest`]: super::Opening::GreetingAfterRest
///
/// "Answered" means success or `CommandNotFound`: QEMU reports that when the
/// negotiation was already complete (QMP specification, section "Capabilities
/// Negotiation"). `open` in an open state means that the peer reopened: the
/// calls in flight fail first. `connecting` in an open state closes first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum State {
    /// There is no connection; it may be opened (again).
    #[default]
    Closed,
    /// The connection is being made.
    Connecting,
    /// The connection is open; the server's greeting has not arrived yet.
    Greeting,
    /// `qmp_capabilities` was sent; its reply has not arrived yet.
    Negotiating,
    /// Commands may be executed.
    Ready,
    /// The peer does not speak QMP; nothing more is read until the connection is reopened.
    Failed,
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Closed => "closed",
            Self::Connecting => "connecting",
            Self::Greeting => "waiting for the greeting",
            Self::Negotiating => "negotiating",
            Self::Ready => "ready",
            Self::Failed => "failed",
        })
    }
}
