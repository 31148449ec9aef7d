// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a session outputs.

use std::borrow::Cow;

use super::message::Event;
use super::{Error, PeerError, State};

/// What is known about the greeting when a connection is opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Opening {
    /// The connection is new: the server greets first.
    GreetingComes,
    /// The connection is new, but output that an earlier client left unread may come
    /// before the greeting. That is the case with SPICE ports: QEMU keeps the rest of a long
    /// reply.
    GreetingAfterRest,
    /// The connection was open before: the greeting may have been lost.
    GreetingMayBeGone,
}

/// What the input led to.
#[derive(Debug)]
pub enum Output<'a, T> {
    /// A call ended.
    Ended {
        /// The token passed to `execute`.
        token: T,
        /// The `return` value of the reply, as JSON text, or why there is none.
        result: Result<Cow<'a, str>, Error>,
    },
    /// An event.
    Event(Event<'a>),
    /// The session has changed its state.
    State {
        /// The new state.
        state: State,
        /// The reason, if it is closed or failed.
        error: Option<Error>,
    },
    /// A message that concerns none of the caller's calls.
    Ignored(Ignored),
}

/// Why a message was ignored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ignored {
    /// A reply to a call that ended before, to a command of the session itself,
    /// or to another client's command.
    Reply,
    /// The message was not QMP, and its `id` ended no call. If it had no readable
    /// `id`, the calls in flight fail.
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

/// What `quit` returns when the end of the connection is its only answer.
const EMPTY_OBJECT: &str = "{}";
