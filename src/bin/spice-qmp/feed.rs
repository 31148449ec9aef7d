// SPDX-License-Identifier: MIT OR Apache-2.0
//! A queue from signal handlers to the one future that reads it.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Keeps the order of reports from different signals. If it is read too slowly,
/// the oldest items are dropped.
#[derive(Debug)]
pub(crate) struct Feed<T>(Rc<RefCell<Inner<T>>>);

#[derive(Debug)]
struct Inner<T> {
    items: VecDeque<T>,
    dropped: u64,
    waker: Option<Waker>,
}

/// How many items wait.
const LENGTH: usize = 1024;

impl<T> Feed<T> {
    pub(crate) fn new() -> Self {
        Self(Rc::new(RefCell::new(Inner {
            items: VecDeque::new(),
            dropped: 0,
            waker: None,
        })))
    }

    pub(crate) fn push(&self, item: T) {
        let mut inner = self.0.borrow_mut();
        if inner.items.len() == LENGTH {
            inner.items.pop_front();
            inner.dropped += 1;
        }
        inner.items.push_back(item);
        let waker = inner.waker.take();
        drop(inner);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    pub(crate) async fn next(&self) -> T {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if let Some(item) = inner.items.pop_front() {
                return Poll::Ready(item);
            }
            inner.waker = Some(cx.waker().clone());
            Poll::Pending
        })
        .await
    }

    /// How many items were dropped since the last call.
    pub(crate) fn take_dropped(&self) -> u64 {
        std::mem::take(&mut self.0.borrow_mut().dropped)
    }
}

impl<T> Clone for Feed<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_items_are_dropped_without_a_reader() {
        let feed = Feed::new();
        for item in 0..LENGTH + 3 {
            feed.push(item);
        }
        let context = glib::MainContext::new();
        assert_eq!(context.block_on(feed.next()), 3);
        assert_eq!((feed.take_dropped(), feed.take_dropped()), (3, 0));
        for item in 4..LENGTH + 3 {
            assert_eq!(context.block_on(feed.next()), item);
        }
    }
}
