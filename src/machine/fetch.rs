// SPDX-License-Identifier: MIT OR Apache-2.0
//! A shared operation, such as loading a schema, and its result: data only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::qmp::Error;

/// An operation that several callers wait for. Any thread may drop it.
#[derive(Debug)]
pub(super) struct Fetch<T>(Arc<Mutex<Progress<T>>>);

#[derive(Debug)]
struct Progress<T> {
    result: Option<Result<T, Error>>,
    wakers: Vec<Waker>,
}

impl<T: Clone> Fetch<T> {
    /// An operation that is under way.
    pub(super) fn new() -> Self {
        Self(Arc::new(Mutex::new(Progress {
            result: None,
            wakers: Vec::new(),
        })))
    }

    /// The result, once there is one.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<T, Error>> {
        let mut progress = self.lock();
        if let Some(result) = &progress.result {
            return Poll::Ready(result.clone());
        }
        if !progress.wakers.iter().any(|it| it.will_wake(cx.waker())) {
            progress.wakers.push(cx.waker().clone());
        }
        Poll::Pending
    }

    /// Ends the operation.
    pub(super) fn end(&self, result: Result<T, Error>) {
        let mut progress = self.lock();
        progress.result = Some(result);
        let wakers = std::mem::take(&mut progress.wakers);
        drop(progress);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether both are the same operation.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, Progress<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Not derived: that would require `T: Clone`.
impl<T> Clone for Fetch<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
