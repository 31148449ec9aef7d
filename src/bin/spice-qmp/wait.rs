//! Waiting for what signals of GObject announce, or until it is too late.

use std::cell::RefCell;
use std::future::{pending, poll_fn};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glib::prelude::*;

/// Waits until something is so, which may change with these signals.
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

/// Handlers that are disconnected where the wait is given up.
struct Handlers<'a, T: IsA<glib::Object>>(&'a T, Vec<glib::SignalHandlerId>);

impl<T: IsA<glib::Object>> Drop for Handlers<'_, T> {
    fn drop(&mut self) {
        for handler in self.1.drain(..) {
            self.0.disconnect(handler);
        }
    }
}

/// Ends after so long; never where there is no limit.
pub(crate) async fn over(limit: Option<Duration>) {
    match limit {
        Some(limit) => glib::timeout_future(limit).await,
        None => pending().await,
    }
}

/// The result of `work`; nothing where `end` comes first.
pub(crate) async fn before<T>(
    mut end: Pin<&mut impl Future<Output = ()>>,
    work: impl Future<Output = T>,
) -> Option<T> {
    let mut work = pin!(work);
    // What always has a result is ended, too.
    poll_fn(|cx| match end.as_mut().poll(cx) {
        Poll::Ready(()) => Poll::Ready(None),
        Poll::Pending => work.as_mut().poll(cx).map(Some),
    })
    .await
}
