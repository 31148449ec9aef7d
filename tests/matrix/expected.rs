// SPDX-License-Identifier: MIT OR Apache-2.0
//! The behaviour that the documentation promises for each case.
//!
//! docs/architecture.md and the documentation of `State`, `Error`, `PeerError` and
//! `QmpPort` describe it in words; here it is a table.

use std::time::Duration;

use glib::translate::IntoGlib;
use spice_qmp::{PortState, QmpErrorCode};

use super::cases::{Case, Fault, Moment, Use};
use super::program::Kind;
use crate::common::peers::Peer;

/// How a call ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    Success,
    Closed,
    TimedOut,
    Cancelled,
    Protocol,
    TooLarge,
    NotQmp,
    NotReady,
    /// It has ended, and no result was expected.
    Unseen,
    /// With an error that the matrix never expects.
    Other(String),
}

impl Outcome {
    /// That of an error of this GLib domain and code.
    pub fn of_error(domain: &str, code: i32) -> Self {
        use gio::IOErrorEnum as Io;
        let io = |kind: Io| domain == "g-io-error-quark" && code == kind.into_glib();
        let qmp = |kind: QmpErrorCode| domain == "spice-qmp-error-quark" && code == kind as i32;
        match () {
            () if io(Io::Closed) => Self::Closed,
            () if io(Io::TimedOut) => Self::TimedOut,
            () if io(Io::Cancelled) => Self::Cancelled,
            () if qmp(QmpErrorCode::Protocol) => Self::Protocol,
            () if qmp(QmpErrorCode::TooLarge) => Self::TooLarge,
            () if qmp(QmpErrorCode::NotQmp) => Self::NotQmp,
            () if qmp(QmpErrorCode::NotReady) => Self::NotReady,
            () => Self::Other(format!("{domain} {code}")),
        }
    }
}

/// The effect of a fault on a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Effect {
    /// None: the stream continues, and what is due arrives.
    None,
    /// What is due never arrives.
    Quiet,
    /// The calls that the server has fail with this, and the stream continues.
    Fails(Outcome),
    /// The same, and what is due later never arrives.
    FailsAndQuiet(Outcome),
    /// The connection is gone.
    Lost,
    /// A new session starts: calls end as when the connection is lost.
    Renewed,
    /// Calls fail with PROTOCOL, and the port with `NOT_QMP`.
    NotQmp,
    /// The port fails at once, with this error.
    NoGreeting(Outcome),
}

fn effect(case: Case, peer: &dyn Peer) -> Effect {
    let early = case.is_early();
    let before_greeting = case.moment == Moment::BeforeGreeting && !peer.may_send_a_rest();
    match case.fault {
        Fault::Silence | Fault::NeverReads => Effect::Quiet,
        Fault::Reopen if peer.reopens() => Effect::Renewed,
        // A stream cannot be reopened: the next session has a port of its own.
        Fault::Reopen | Fault::Close | Fault::HalfLineThenClose | Fault::WriteError => Effect::Lost,
        // It is the end of a line that began as an answer: not QMP.
        Fault::SecondGreeting if case.moment == Moment::HalfReply => {
            Effect::Fails(Outcome::Protocol)
        }
        // The port has not been ready: the first line counts.
        Fault::SecondGreeting if early => Effect::None,
        Fault::SecondGreeting => Effect::Renewed,
        Fault::Garbage => Effect::NotQmp,
        // While the capabilities are negotiated, one such line is enough.
        Fault::HmpBanner if early => Effect::NotQmp,
        Fault::HmpBanner => Effect::FailsAndQuiet(Outcome::Protocol),
        // In place of a greeting, nothing else is accepted, unless it may be a rest.
        Fault::OversizedLine if before_greeting => Effect::NoGreeting(Outcome::TooLarge),
        Fault::DeepNesting | Fault::InvalidUtf8 | Fault::Nul if before_greeting => {
            Effect::NoGreeting(Outcome::NotQmp)
        }
        Fault::OversizedLine => Effect::Fails(Outcome::TooLarge),
        Fault::DeepNesting | Fault::InvalidUtf8 | Fault::Nul => Effect::Fails(Outcome::Protocol),
        Fault::WrongId
        | Fault::DuplicateId
        | Fault::ReplyBeforeWriteFinished
        | Fault::OneByteChunks => Effect::None,
    }
}

/// The expected result of a case.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    pub command: Outcome,
    /// How the command may end as well.
    pub or: Option<Outcome>,
    /// In the moments before the port is ready.
    pub wait: Option<Outcome>,
    /// Whether the program must close the port for the call to end: no answer
    /// arrives, and no deadline is set.
    pub program_closes: bool,
    /// The deadline of the call: a near one if nothing else ends it.
    pub deadline: Option<Duration>,
    /// The state of the port, unless it was finalized.
    pub state: Option<PortState>,
    /// Whether the session continues: later commands are answered.
    pub goes_on: bool,
}

const NEAR: Duration = Duration::from_millis(5);
const FAR: Duration = Duration::from_mins(10);

/// The table.
pub fn expected(mut case: Case, kind: Kind, peer: &dyn Peer) -> Expected {
    if case.fault == Fault::WriteError && !case.may_fail_writes(peer) {
        // If a write cannot fail, the connection closes instead.
        case.fault = Fault::Close;
    }
    let effect = effect(case, peer);
    let early = case.is_early();
    let left_alone = if early {
        wait(case, &effect)
    } else {
        command(case, &effect)
    };
    let never_ends = left_alone.is_none();
    let has_deadline = case.way == Use::Deadline && (kind == Kind::Rust || !early);

    let end = match (case.way, left_alone) {
        (Use::NullCallback, _) => Outcome::Unseen,
        // An ended call cannot be cancelled.
        (Use::Cancelled, Some(outcome)) if ends_at_once(case) => outcome,
        // A future that is dropped.
        (Use::Cancelled, _) if kind == Kind::Rust && early => Outcome::Unseen,
        (Use::Cancelled, _) => Outcome::Cancelled,
        (_, Some(outcome)) => outcome,
        (_, None) if has_deadline => Outcome::TimedOut,
        (_, None) => Outcome::Closed,
    };
    let program_closes = never_ends && case.way != Use::Cancelled && !has_deadline;
    let state = match case.moment {
        Moment::Closing => PortState::Closed,
        _ if program_closes => PortState::Closed,
        _ => state(case, &effect),
    };
    Expected {
        or: (effect == Effect::None && may_be_too_late(case)).then_some(Outcome::Success),
        goes_on: state == PortState::Ready
            && !matches!(effect, Effect::Quiet | Effect::FailsAndQuiet(_)),
        command: match case.way {
            way if early && way.waits_for_list() => early_list(&end),
            _ if early => Outcome::NotReady,
            _ => end.clone(),
        },
        wait: early.then_some(end),
        program_closes,
        deadline: (case.way == Use::Deadline).then_some(if never_ends { NEAR } else { FAR }),
        state: (case.way != Use::UnrefInCallback).then_some(state),
    }
}

/// How a command ends by itself, if it does.
fn command(case: Case, effect: &Effect) -> Option<Outcome> {
    let idle = case.moment == Moment::ReadyIdle;
    match effect {
        Effect::None if may_be_too_late(case) => Some(Outcome::NotReady),
        Effect::None => Some(Outcome::Success),
        // It was issued after the fault.
        Effect::Fails(_) if idle => Some(Outcome::Success),
        Effect::FailsAndQuiet(_) if idle => None,
        Effect::Quiet => None,
        Effect::Fails(outcome) | Effect::FailsAndQuiet(outcome) => Some(outcome.clone()),
        // The command's own write reveals it.
        Effect::Lost if idle && case.fault == Fault::WriteError => Some(Outcome::Closed),
        // The list waits for the new session.
        Effect::Renewed if idle && case.way == Use::List => Some(Outcome::Success),
        Effect::Lost | Effect::Renewed if idle => Some(Outcome::NotReady),
        Effect::Lost | Effect::Renewed => Some(Outcome::Closed),
        Effect::NotQmp if idle => Some(Outcome::NotQmp),
        Effect::NotQmp => Some(Outcome::Protocol),
        // No command is issued that early.
        Effect::NoGreeting(_) => Some(Outcome::NotReady),
    }
}

/// Whether the port may be closed when the next command of a series is given: it is once
/// nothing is owed any more, such as the answer to a question of its own.
fn may_be_too_late(case: Case) -> bool {
    case.moment == Moment::Closing && case.way.goes_on()
}

/// How a list ends that also waits for the port.
fn early_list(wait: &Outcome) -> Outcome {
    match wait {
        Outcome::Closed => Outcome::NotReady,
        outcome => outcome.clone(),
    }
}

/// Whether the command has ended before it could be cancelled.
fn ends_at_once(case: Case) -> bool {
    let lost = matches!(
        case.fault,
        Fault::Close | Fault::HalfLineThenClose | Fault::WriteError | Fault::Reopen
    );
    let refused = matches!(case.fault, Fault::SecondGreeting | Fault::Garbage);
    case.moment == Moment::ReadyIdle && (lost || refused)
}

/// How a wait for the port ends by itself, if it does.
fn wait(case: Case, effect: &Effect) -> Option<Outcome> {
    match effect {
        Effect::None | Effect::Fails(_) => Some(Outcome::Success),
        Effect::Quiet | Effect::FailsAndQuiet(_) => None,
        // The port's first write after the answer is its own question.
        Effect::Lost if case.fault == Fault::WriteError && case.moment == Moment::Negotiating => {
            Some(Outcome::Success)
        }
        // A port that closes does not become ready, even if it reopens.
        Effect::Lost | Effect::Renewed => Some(Outcome::Closed),
        Effect::NotQmp => Some(Outcome::NotQmp),
        Effect::NoGreeting(outcome) => Some(outcome.clone()),
    }
}

/// The port's final state, if the program does nothing.
fn state(case: Case, effect: &Effect) -> PortState {
    match (effect, case.moment) {
        (Effect::Lost, _) => PortState::Closed,
        (Effect::NotQmp | Effect::NoGreeting(_), _) => PortState::Failed,
        // A server that does not read still sends its greeting.
        (Effect::Quiet, Moment::BeforeGreeting) if case.fault == Fault::Silence => {
            PortState::Greeting
        }
        (Effect::Quiet, Moment::BeforeGreeting | Moment::Negotiating) => PortState::Negotiating,
        _ => PortState::Ready,
    }
}
