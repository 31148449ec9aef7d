// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waiting for an event, or for a run state.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_core::Stream;
use glib::subclass::prelude::*;

use super::QmpPort;
use super::event::Event;
use super::event_stream::EventStream;
use super::waiting::Waiting;
use super::waits::WaitFor;
use crate::qmp::Error;

/// A wait for an event, which began when it was created: [`QmpPort::wait_event`].
#[must_use = "it is over when it is awaited"]
pub struct WaitEvent {
    port: QmpPort,
    names: Vec<String>,
    events: EventStream,
    /// Ends when the port closes, or at the deadline.
    end: Waiting,
    is_it: Box<dyn Fn(&Event) -> bool>,
}

/// A wait for a run state, which began when it was created: [`QmpPort::wait_for_status`].
#[must_use = "it is over when it is awaited"]
pub struct WaitStatus {
    port: QmpPort,
    names: Vec<String>,
    end: Waiting,
}

impl QmpPort {
    /// Waits for the next event with one of these names, or for any event if there are none.
    ///
    /// The wait begins now, not when it is awaited: the command that causes the event
    /// may follow, and the event may come before its reply.
    ///
    /// ```no_run
    /// # async fn f(port: spice_qmp::QmpPort) -> Result<(), spice_qmp::Error> {
    /// use std::time::Duration;
    ///
    /// let reset = port.wait_event(["RESET"]).timeout(Duration::from_secs(5));
    /// port.execute::<()>("system_reset", ()).await.ok();
    /// println!("{:?}", reset.await?.data());
    /// # Ok(()) }
    /// ```
    ///
    /// # Errors
    ///
    /// [`Error::Closed`] or whatever else ends the connection; [`Error::TimedOut`] after
    /// [`timeout`](WaitEvent::timeout). Without that, it waits for as long as the port is open.
    pub fn wait_event<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> WaitEvent {
        let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        WaitEvent {
            port: self.clone(),
            events: self.events_named(names.iter().map(String::as_str)),
            end: self.waiting(WaitFor::Lost, Duration::MAX),
            is_it: Box::new(|_| true),
            names,
        }
    }

    /// Waits until the property `status` has one of these names, such as `running`; it ends
    /// at once if it already has.
    ///
    /// # Errors
    ///
    /// As for [`wait_event`](Self::wait_event).
    pub fn wait_for_status<'a>(&self, names: impl IntoIterator<Item = &'a str>) -> WaitStatus {
        let names: Vec<_> = names.into_iter().map(str::to_owned).collect();
        WaitStatus {
            port: self.clone(),
            end: self.waiting(WaitFor::RunState(names.clone()), Duration::MAX),
            names,
        }
    }

    fn waiting(&self, what: WaitFor, timeout: Duration) -> Waiting {
        Waiting::new(self, |callback| self.imp().wait(what, timeout, callback))
    }
}

impl WaitEvent {
    /// Ends the wait with [`Error::TimedOut`] if the event does not come within `timeout`
    /// from now.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.end = self.port.waiting(WaitFor::Lost, timeout);
        self
    }

    /// Ignores events for which `is_it` returns false.
    pub fn matching(mut self, is_it: impl Fn(&Event) -> bool + 'static) -> Self {
        self.is_it = Box::new(is_it);
        self
    }
}

impl WaitStatus {
    /// Ends the wait with [`Error::TimedOut`] if it is not over within `timeout` from now.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        let what = WaitFor::RunState(self.names.clone());
        self.end = self.port.waiting(what, timeout);
        self
    }
}

impl Future for WaitEvent {
    type Output = Result<Event, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        // An event that came before the end counts.
        while let Poll::Ready(Some(event)) = Pin::new(&mut self.events).poll_next(cx) {
            if (self.is_it)(&event) {
                return Poll::Ready(Ok(event));
            }
        }
        match Pin::new(&mut self.end).poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(waiting_for(&self.names, error))),
            Poll::Ready(Ok(())) | Poll::Pending => Poll::Pending,
        }
    }
}

impl Future for WaitStatus {
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let ended = Pin::new(&mut self.end).poll(cx);
        ended.map_err(|error| waiting_for(&self.names, error))
    }
}

/// The error, with a description of what was awaited.
fn waiting_for(names: &[String], error: Error) -> Error {
    let Error::TimedOut { after, .. } = error else {
        return error;
    };
    let names = match names {
        [] => "an event".into(),
        names => names.join(" or "),
    };
    Error::TimedOut {
        what: format!("waiting for {names}").into(),
        after,
        hint: "",
    }
}

impl fmt::Debug for WaitEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitEvent")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for WaitStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WaitStatus")
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
