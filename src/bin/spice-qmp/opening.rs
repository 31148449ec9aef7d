// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects to SPICE servers, so that what is under way can be left politely.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use gio::prelude::*;
use spice_qmp::{Error, QmpPort};

/// What is connected to a SPICE server, or about to be.
#[derive(Default)]
pub(crate) struct Opening {
    work: RefCell<Option<Work>>,
    port: RefCell<Option<QmpPort>>,
}

struct Work {
    cancellable: gio::Cancellable,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// Ends when the work is to end.
pub(crate) type End = Pin<Box<dyn Future<Output = ()>>>;

impl Opening {
    /// Runs what `start` begins. Where this is dropped, it goes on in
    /// [`end`](Self::end).
    pub(crate) async fn run<T: 'static, F>(&self, start: impl FnOnce(End) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>> + 'static,
    {
        let cancellable = gio::Cancellable::new();
        let work = start(cancellable.future());
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        let future = Box::pin(async move {
            slot.replace(Some(work.await));
        });
        self.work.replace(Some(Work {
            cancellable,
            future,
        }));
        self.ended().await;
        let result = result.take();
        result.unwrap_or_else(|| Err(Error::Cancelled("the connecting".into())))
    }

    /// Has what is under way end, and waits for that.
    pub(crate) async fn end(&self) {
        if let Some(work) = &*self.work.borrow() {
            work.cancellable.cancel();
        }
        self.ended().await;
    }

    async fn ended(&self) {
        poll_fn(|cx| {
            let taken = self.work.take();
            let Some(mut work) = taken else {
                return Poll::Ready(());
            };
            let polled = work.future.as_mut().poll(cx);
            if polled.is_pending() {
                self.work.replace(Some(work));
            }
            polled
        })
        .await;
    }

    /// Whether there is something to be left.
    pub(crate) fn is_any(&self) -> bool {
        self.work.borrow().is_some() || self.port.borrow().is_some()
    }

    pub(crate) fn keep(&self, port: &QmpPort) {
        self.port.replace(Some(port.clone()));
    }

    pub(crate) fn port(&self) -> Option<QmpPort> {
        self.port.borrow().clone()
    }
}
