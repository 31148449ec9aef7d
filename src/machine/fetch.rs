// SPDX-License-Identifier: MIT OR Apache-2.0
//! Something that is under way, or has ended, such as the load of a schema: data only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use crate::qmp::Error;

/// What several askers wait for. Any thread may drop it.
#[derive(Debug)]
pub(super) struct Fetch<T>(Arc<Mutex<Progress<T>>>);

#[derive(Debug)]
struct Progress<T> {
    result: Option<Result<T, Error>>,
    wakers: Vec<Waker>,
}

impl<T: Clone> Fetch<T> {
    /// One that is under way.
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

    /// Ends it.
    pub(super) fn end(&self, result: Result<T, Error>) {
        let mut progress = self.lock();
        progress.result = Some(result);
        let wakers = std::mem::take(&mut progress.wakers);
        drop(progress);
        wakers.into_iter().for_each(Waker::wake);
    }

    /// Whether it is the same.
    pub(super) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }

    fn lock(&self) -> MutexGuard<'_, Progress<T>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// Not derived: that would ask for a `T` that is `Clone`.
impl<T> Clone for Fetch<T> {
    fn clone(&self) -> Self {
        Self(self.0.clone())
    }
}
