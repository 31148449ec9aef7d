// SPDX-License-Identifier: MIT OR Apache-2.0
//! What comes out of a session.

use std::borrow::Cow;

use super::message::Event;
use super::{Error, PeerError, State};

/// What is known of the greeting when a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The connection is new: the server greets first.
    GreetingComes,
    /// The connection is new, but what an earlier client of it left unread may come
    /// before the greeting. That is so with SPICE ports: QEMU keeps the rest of a long
    /// reply.
    GreetingAfterRest,
    /// The connection was open before: the greeting may be gone.
    GreetingMayBeGone,
}

/// What came out of the bytes that went in.
#[derive(Debug)]
pub enum Output<'a, T> {
    /// A call ended.
    Ended {
        /// What the caller gave to `execute`.
        token: T,
        /// The `return` of the reply, as JSON text, or why there is none.
        result: Result<Cow<'a, str>, Error>,
    },
    /// An event.
    Event(Event<'a>),
    /// The session is in another state now.
    State {
        /// The state.
        state: State,
        /// Why, if it is closed or failed.
        error: Option<Error>,
    },
    /// A message that concerns no caller.
    Ignored(Ignored),
}

/// Why a message concerns no caller.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// A reply to a call that ended before, to a command of the session's own,
    /// or to a command of another client's.
    Reply,
    /// The message was not QMP, and ended no call by its `id`. If it had none that could
    /// be read, the calls in flight fail.
    Bad(PeerError),
}

impl<T> Output<'_, T> {
    pub(super) fn into_owned<'a>(self) -> Output<'a, T> {
        match self {
            Self::Ended { token, result } => Output::Ended {
                token,
                result: result.map(|value| value.into_owned().into()),
            },
            Self::Event(event) => Output::Event(event.into_owned()),
            Self::State { state, error } => Output::State { state, error },
            Self::Ignored(ignored) => Output::Ignored(ignored),
        }
    }
}

/// An output that waits to be polled.
#[derive(Debug)]
pub(super) enum Queued<T> {
    Ended(T, Result<(), Error>),
    State(State, Option<Error>),
}

impl<T> Queued<T> {
    pub(super) fn into_output<'a>(self) -> Output<'a, T> {
        match self {
            Self::Ended(token, result) => Output::Ended {
                token,
                result: result.map(|()| EMPTY_OBJECT.into()),
            },
            Self::State(state, error) => Output::State { state, error },
        }
    }
}

/// What `quit` returns when a close is its only answer.
const EMPTY_OBJECT: &str = "{}";
