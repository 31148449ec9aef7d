// SPDX-License-Identifier: MIT OR Apache-2.0
//! Waits for GObject signals, time and file descriptors.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::os::fd::RawFd;
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glib::prelude::*;
use glib::{ControlFlow, IOCondition, Priority, SourceFuture};

/// Waits until a condition holds, which may change with these signals.
pub(crate) async fn until<T: IsA<glib::Object>>(
    object: &T,
    signals: &[&str],
    is_so: impl Fn(&T) -> bool,
) {
    let waker = Rc::<RefCell<Option<Waker>>>::default();
    let connect = |signal: &&str| {
        object.connect_local(signal, true, {
            let waker = waker.clone();
            move |_| {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
                None
            }
        })
    };
    let _handlers = Handlers(object, signals.iter().map(connect).collect());
    poll_fn(|cx| {
        waker.replace(Some(cx.waker().clone()));
        if is_so(object) {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    })
    .await;
}

/// Handlers that are disconnected when the wait is dropped.
struct Handlers<'a, T: IsA<glib::Object>>(&'a T, Vec<glib::SignalHandlerId>);

impl<T: IsA<glib::Object>> Drop for Handlers<'_, T> {
    fn drop(&mut self) {
        for handler in self.1.drain(..) {
            self.0.disconnect(handler);
        }
    }
}

/// Waits until one of these conditions of a file descriptor holds, or it turns out to be
/// closed.
pub(crate) async fn ready(fd: RawFd, condition: IOCondition) {
    SourceFuture::new(move |ready| {
        let mut ready = Some(ready);
        let condition = condition | IOCondition::ERR | IOCondition::HUP;
        glib_unix::fd_source_new(fd, condition, None, Priority::DEFAULT, move |_, _| {
            if let Some(ready) = ready.take() {
                // It cannot be waited for any more.
                let _ = ready.send(());
            }
            ControlFlow::Break
        })
    })
    .await;
}

/// Ends after `limit`; never if there is none.
pub(crate) async fn over(limit: Option<Duration>) {
    match limit {
        Some(limit) => glib::timeout_future(limit).await,
        None => pending().await,
    }
}

/// The result of `work`; `None` if `end` comes first.
pub(crate) async fn before<T>(
    mut end: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    // Even work that always has a result is ended.
    poll_fn(|cx| match end.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(cx).map(Some),
    })
    .await
}
