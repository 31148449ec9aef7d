//! Waiting for a port that a program can use.

use std::cell::RefCell;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use glib::prelude::*;
use glib::signal::SignalHandlerId;

use crate::port::{PortState, QmpPort, within};
use crate::qmp::Error;

/// Waits until commands may be given and the run state is known, or was refused: then
/// `last-error` says why.
pub(super) async fn wait(port: &QmpPort, timeout: Duration) -> Result<(), Error> {
    let started = Instant::now();
    let greeted = Greeted::watch(port);
    // Made now, it notices each end of the connection from here on.
    let mut still_ready = pin!(port.wait_ready_within(Duration::MAX));
    let ready = port.wait_ready_within(timeout).await;
    ready.map_err(|error| greeted.explain(error))?;
    let changes = Changes::watch(port);
    let known = poll_fn(|cx| {
        changes.waker.replace(Some(cx.waker().clone()));
        if port.ready() && (port.status().is_some() || is_refused(port)) {
            return Poll::Ready(Ok(()));
        }
        match still_ready.as_mut().poll(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(greeted.explain(error))),
            Poll::Ready(Ok(())) => {
                // A future that ended is not polled again.
                still_ready.set(port.wait_ready_within(Duration::MAX));
                Poll::Pending
            }
            Poll::Pending => Poll::Pending,
        }
    });
    let rest = timeout.saturating_sub(started.elapsed());
    within(rest, known).await.unwrap_or_else(|| {
        Err(Error::TimedOut {
            what: STATUS_QUESTION.into(),
            after: timeout,
            hint: "",
        })
    })
}

/// Whether the server refused to say the run state. It does so in an error of the
/// command that asks.
fn is_refused(port: &QmpPort) -> bool {
    port.last_error()
        .is_some_and(|error| error.message().starts_with(STATUS_QUESTION))
}

const STATUS_QUESTION: &str = "query-status";

/// Whether the server of a port has spoken QMP.
struct Greeted {
    port: QmpPort,
    seen: Rc<RefCell<bool>>,
    handler: Option<SignalHandlerId>,
}

impl Greeted {
    fn watch(port: &QmpPort) -> Self {
        let speaks =
            |port: &QmpPort| matches!(port.state(), PortState::Negotiating | PortState::Ready);
        let seen = Rc::new(RefCell::new(speaks(port)));
        let handler = port.connect_state_notify({
            let seen = seen.clone();
            move |port| {
                let spoke = *seen.borrow();
                seen.replace(spoke || speaks(port));
            }
        });
        Self {
            port: port.clone(),
            seen,
            handler: Some(handler),
        }
    }

    /// Says of a connection that ended whether QEMU was at the other end.
    fn explain(&self, error: Error) -> Error {
        match error {
            Error::Closed(text) if *self.seen.borrow() => {
                Error::Closed(format!("{text}, after its QMP greeting").into())
            }
            error => error,
        }
    }
}

impl Drop for Greeted {
    fn drop(&mut self) {
        if let Some(handler) = self.handler.take() {
            self.port.disconnect(handler);
        }
    }
}

/// Wakes a future when something of a port changes.
struct Changes {
    port: QmpPort,
    waker: Rc<RefCell<Option<Waker>>>,
    handlers: Vec<SignalHandlerId>,
}

impl Changes {
    fn watch(port: &QmpPort) -> Self {
        let waker = Rc::<RefCell<Option<Waker>>>::default();
        let handlers = ["status", "last-error", "ready"].map(|property| {
            let waker = waker.clone();
            port.connect_notify_local(Some(property), move |_, _| {
                let waker = waker.borrow_mut().take();
                if let Some(waker) = waker {
                    waker.wake();
                }
            })
        });
        Self {
            port: port.clone(),
            waker,
            handlers: handlers.into(),
        }
    }
}

impl Drop for Changes {
    fn drop(&mut self) {
        for handler in self.handlers.drain(..) {
            self.port.disconnect(handler);
        }
    }
}
