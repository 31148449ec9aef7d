//! Waiting for what signals of GObject announce.

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

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
