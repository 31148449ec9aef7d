// SPDX-License-Identifier: MIT OR Apache-2.0
//! A wait as a future.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use glib::subclass::prelude::*;

use super::QmpPort;
use super::waits::{WaitCallback, WaitId};
use crate::qmp::Error;

/// Ends when the wait does. Dropping it ends the wait, and nothing else.
#[must_use = "futures do nothing unless polled"]
pub(super) struct Waiting {
    port: QmpPort,
    id: WaitId,
    slot: Rc<RefCell<Slot>>,
}

#[derive(Default)]
struct Slot {
    result: Option<Result<(), Error>>,
    waker: Option<Waker>,
}

impl Waiting {
    /// `start` begins a wait that ends with its callback.
    pub(super) fn new(port: &QmpPort, start: impl FnOnce(WaitCallback) -> WaitId) -> Self {
        let slot = Rc::<RefCell<Slot>>::default();
        let callback = Box::new({
            let slot = slot.clone();
            move |result| {
                let mut slot = slot.borrow_mut();
                slot.result = Some(result);
                let waker = slot.waker.take();
                drop(slot);
                if let Some(waker) = waker {
                    waker.wake();
                }
            }
        });
        Self {
            id: start(callback),
            port: port.clone(),
            slot,
        }
    }
}

impl Future for Waiting {
    type Output = Result<(), Error>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut slot = self.slot.borrow_mut();
        if let Some(result) = slot.result.take() {
            return Poll::Ready(result);
        }
        slot.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.port.imp().forget_wait(self.id);
    }
}
