// SPDX-License-Identifier: MIT OR Apache-2.0
//! Events as a [`Stream`].

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, Waker};

use futures_core::Stream;

use super::event::Event;

/// How many events wait for a slow reader. Beyond that, the oldest are dropped.
pub const EVENT_QUEUE: usize = 1024;

/// How many bytes of events, their names and data, wait for a slow reader,
/// not counting the newest event, which always waits: a server may send events of
/// 64 MiB.
pub const EVENT_QUEUE_BYTES: usize = 16 << 20;

/// The events of a port since the stream was created, in order.
///
/// Nothing is lost between creating the stream and awaiting it, so create it before
/// the command whose events you want. Dropping it unsubscribes. It ends when
/// the port closes. A reader that falls more than [`EVENT_QUEUE`] events or
/// [`EVENT_QUEUE_BYTES`] behind loses the oldest ones;
/// [`take_dropped`](Self::take_dropped) returns how many.
#[derive(Debug)]
pub struct EventStream {
    queue: Rc<Queue>,
}

/// The port's side of the streams.
#[derive(Debug, Default)]
pub(super) struct EventStreams {
    queues: RefCell<Vec<Weak<Queue>>>,
    ended: Cell<bool>,
}

#[derive(Debug)]
struct Queue {
    /// The wanted names; all events if empty.
    names: Vec<String>,
    state: RefCell<QueueState>,
}

#[derive(Debug, Default)]
struct QueueState {
    events: VecDeque<Event>,
    /// The size of their names and data.
    bytes: usize,
    dropped: u64,
    ended: bool,
    waker: Option<Waker>,
}

impl EventStream {
    /// The next event; `None` once the port has closed.
    pub async fn next(&mut self) -> Option<Event> {
        poll_fn(|cx| Pin::new(&mut *self).poll_next(cx)).await
    }

    /// How many events were dropped since the last call.
    pub fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.queue.state.borrow_mut().dropped)
    }
}

impl Stream for EventStream {
    type Item = Event;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Event>> {
        let mut state = self.queue.state.borrow_mut();
        if let Some(event) = state.pop() {
            return Poll::Ready(Some(event));
        }
        if state.ended {
            return Poll::Ready(None);
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl EventStreams {
    pub(super) fn add(&self, names: Vec<String>) -> EventStream {
        let queue = Rc::new(Queue {
            names,
            state: RefCell::new(QueueState {
                ended: self.ended.get(),
                ..QueueState::default()
            }),
        });
        if !self.ended.get() {
            let mut queues = self.queues.borrow_mut();
            queues.retain(|queue| queue.strong_count() > 0);
            queues.push(Rc::downgrade(&queue));
        }
        EventStream { queue }
    }

    /// Whether any stream wants events of this name.
    pub(super) fn want(&self, name: &str) -> bool {
        self.queues
            .borrow()
            .iter()
            .filter_map(Weak::upgrade)
            .any(|queue| queue.wants(name))
    }

    /// Queues the event; returns whether it woke a reader.
    pub(super) fn push(&self, event: &Event) -> bool {
        let mut wakers = Vec::new();
        for queue in self.queues.borrow().iter().filter_map(Weak::upgrade) {
            if queue.wants(event.name()) {
                wakers.extend(queue.push(event.clone()));
            }
        }
        // A woken reader may create a stream, or drop one.
        let woke = !wakers.is_empty();
        for waker in wakers {
            waker.wake();
        }
        woke
    }

    /// No more events will come.
    pub(super) fn end(&self) {
        self.ended.set(true);
        for queue in self.queues.take().iter().filter_map(Weak::upgrade) {
            queue.state.borrow_mut().ended = true;
            queue.wake();
        }
    }
}

impl Queue {
    fn wants(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    /// Returns the reader to wake.
    fn push(&self, event: Event) -> Option<Waker> {
        let mut state = self.state.borrow_mut();
        state.bytes += event.size();
        state.events.push_back(event);
        while (state.events.len() > EVENT_QUEUE || state.bytes > EVENT_QUEUE_BYTES)
            && state.events.len() > 1
        {
            state.pop();
            state.dropped += 1;
        }
        state.waker.take()
    }

    fn wake(&self) {
        let waker = self.state.borrow_mut().waker.take();
        if let Some(waker) = waker {
            waker.wake();
        }
    }
}

impl QueueState {
    fn pop(&mut self) -> Option<Event> {
        let event = self.events.pop_front()?;
        self.bytes -= event.size();
        Some(event)
    }
}
