// SPDX-License-Identifier: MIT OR Apache-2.0
//! Connects to SPICE servers; even unfinished connections can be closed without harming QEMU.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use gio::prelude::*;
use spice_qmp::{Error, QmpPort};

/// A connection to a SPICE server, or an attempt to make one.
#[derive(Default)]
pub(crate) struct Opening {
    work: RefCell<Option<Work>>,
    port: RefCell<Option<QmpPort>>,
}

struct Work {
    cancellable: gio::Cancellable,
    future: Pin<Box<dyn Future<Output = ()>>>,
}

/// Ends when the work should end.
pub(crate) type End = Pin<Box<dyn Future<Output = ()>>>;

impl Opening {
    /// Runs the future that `start` returns. If this is dropped, it continues in
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

    /// Asks the work under way to end, and waits until it has.
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

    /// Whether there is a connection to close.
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
