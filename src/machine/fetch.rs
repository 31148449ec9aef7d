//! A schema that is being loaded, or was: data only.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use super::schema::Schema;
use crate::qmp::Error;

/// What several askers wait for. Any thread may drop it.
#[derive(Debug, Clone, Default)]
pub(super) struct Fetch(Arc<Mutex<Progress>>);

#[derive(Debug, Default)]
struct Progress {
    result: Option<Result<Schema, Error>>,
    wakers: Vec<Waker>,
}

impl Fetch {
    /// The result, once there is one.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<Schema, Error>> {
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
    pub(super) fn end(&self, result: Result<Schema, Error>) {
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

    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
