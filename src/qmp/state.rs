//! The states of a QMP session.

use std::fmt;

/// Where a session stands.
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
///     │         16 bad lines,        ▼                              │    ▼        │
///     │         human monitor   ┌──────────┐  refused, bad lines    │ ┌─────────┐ │
///     └──────────────────────── │  Failed  │ ◀──────────────────────┘ │  Ready  │─┘
///                               └──────────┘ ◀── 16 bad lines ─────── └─────────┘
/// ```
///
/// | state | `open` | greeting | negotiation answered | bad lines | `close` | `execute` |
/// |---|---|---|---|---|---|---|
/// | Closed, Connecting | Greeting, or Negotiating with a probe | – | – | – | Closed | not ready |
/// | Greeting | as above | Negotiating | – | Failed | Closed | not ready |
/// | Negotiating | as above | Negotiating again | Ready, or Failed when refused | Failed | Closed | not ready |
/// | Ready | as above | Negotiating | – | Failed | Closed | sent |
/// | Failed | as above | – (input is ignored) | – | – | Closed | the failure |
///
/// "Answered" is a success or `CommandNotFound`: QEMU says so when the
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
    /// The connection is open and the server's greeting is awaited.
    Greeting,
    /// `qmp_capabilities` is sent and its answer is awaited.
    Negotiating,
    /// Commands may be given.
    Ready,
    /// The peer does not speak QMP; nothing more is read until it is reopened.
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
