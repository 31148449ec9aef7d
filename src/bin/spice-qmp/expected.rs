// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for the events and run states that a command may cause.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use serde::Serialize;
use spice_qmp::{Error, Event, QmpPort, WaitEvent, WaitStatus};

use crate::event_line::EventLine;
use crate::failure::{Failure, Kind, Stop};
use crate::output::Output;
use crate::wait::{before, over};

/// Names of run states and of events.
pub(crate) struct Expected {
    states: Vec<String>,
    events: Vec<String>,
}

/// A wait that has begun.
pub(crate) struct Armed<'a> {
    expected: &'a Expected,
    port: &'a QmpPort,
    event: Option<WaitEvent>,
    /// One per state; empty if the machine is in one of them already.
    states: Vec<(&'a str, WaitStatus)>,
    since: Instant,
    limit: Option<Duration>,
}

/// What has arrived.
enum Outcome<'a> {
    Event(Event),
    State(&'a str),
}

/// A run state, as `query-status` returns it.
#[derive(Serialize)]
struct State<'a> {
    status: &'a str,
    running: bool,
}

impl Expected {
    /// Names of run states are in lower case; all others are names of events.
    pub(crate) fn new(names: &[String]) -> Self {
        let is_state = |name: &&String| RUN_STATES.contains(&name.as_str());
        let (states, events) = names.iter().partition::<Vec<_>, _>(is_state);
        Self {
            states: states.into_iter().cloned().collect(),
            events: events.into_iter().cloned().collect(),
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.states.is_empty() && self.events.is_empty()
    }

    /// Begins to wait, for at most `limit`.
    pub(crate) fn arm<'a>(&'a self, port: &'a QmpPort, limit: Option<Duration>) -> Armed<'a> {
        let upper: Vec<_> = self.events.iter().map(|name| name.to_uppercase()).collect();
        let events = self.events.iter().chain(&upper).map(String::as_str);
        let is_there = port
            .status()
            .is_some_and(|status| self.states.iter().any(|it| it == status.status()));
        let states = (!is_there).then(|| self.wait_for_states(port));
        Armed {
            expected: self,
            port,
            event: (!self.events.is_empty()).then(|| port.wait_event(events)),
            states: states.unwrap_or_default(),
            since: Instant::now(),
            limit,
        }
    }

    fn wait_for_states(&self, port: &QmpPort) -> Vec<(&str, WaitStatus)> {
        let names = self.states.iter().map(String::as_str);
        names
            .map(|name| (name, port.wait_for_status([name])))
            .collect()
    }

    fn names(&self) -> String {
        [&self.states[..], &self.events[..]].concat().join(" or ")
    }
}

impl<'a> Armed<'a> {
    /// A state that the machine was in before the command counts if the machine is still in
    /// it, or returns to it.
    pub(crate) fn after_command(mut self) -> Self {
        if self.states.is_empty() {
            self.states = self.expected.wait_for_states(self.port);
        }
        self
    }

    /// Prints what has arrived.
    pub(crate) async fn print(mut self, output: &mut Output) -> Result<(), Stop> {
        self = self.after_command();
        let left = self
            .limit
            .map(|limit| limit.saturating_sub(self.since.elapsed()));
        let over = pin!(over(left));
        let outcome = before(over, poll_fn(|cx| self.poll(cx))).await;
        match outcome {
            Some(Ok(Outcome::Event(event))) => output.json(&EventLine::of(&event)).await,
            Some(Ok(Outcome::State(status))) => {
                let running = status == "running";
                output.json(&State { status, running }).await
            }
            Some(Err(error)) => Err(self.lost(&error)),
            None => {
                let millis = self.limit.unwrap_or_default().as_millis();
                let message = format!("no {} within {millis} ms", self.expected.names());
                Err(Failure::new(Kind::Timeout, message).into())
            }
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<Outcome<'a>, Error>> {
        if let Some(event) = &mut self.event
            && let Poll::Ready(event) = Pin::new(event).poll(cx)
        {
            return Poll::Ready(event.map(Outcome::Event));
        }
        for (name, state) in &mut self.states {
            if let Poll::Ready(ended) = Pin::new(state).poll(cx) {
                return Poll::Ready(ended.map(|()| Outcome::State(name)));
            }
        }
        Poll::Pending
    }

    /// The connection has ended.
    fn lost(&self, error: &Error) -> Stop {
        let names = self.expected.names();
        Failure::connection(format!("{error} (no {names} came)")).into()
    }
}

/// QEMU's run states (QAPI enum `RunState`).
pub(crate) const RUN_STATES: [&str; 16] = [
    "colo",
    "debug",
    "finish-migrate",
    "guest-panicked",
    "inmigrate",
    "internal-error",
    "io-error",
    "paused",
    "postmigrate",
    "prelaunch",
    "restore-vm",
    "running",
    "save-vm",
    "shutdown",
    "suspended",
    "watchdog",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn states_are_in_lower_case() {
        let names = ["paused", "SHUTDOWN", "stop", "shutdown", "Paused"].map(String::from);
        let expected = Expected::new(&names);
        assert_eq!(expected.states, ["paused", "shutdown"]);
        assert_eq!(expected.events, ["SHUTDOWN", "stop", "Paused"]);
        assert_eq!(
            expected.names(),
            "paused or shutdown or SHUTDOWN or stop or Paused"
        );
    }
}
