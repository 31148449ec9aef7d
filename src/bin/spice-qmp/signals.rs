// SPDX-License-Identifier: MIT OR Apache-2.0
//! Catches the signals that ask the tool to end: `SIGHUP`, `SIGINT` and `SIGTERM`.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use glib::{ControlFlow, SourceId};

/// Catches signals while there is a connection that must be closed first. Before that,
/// they end the tool as they end any program.
#[derive(Default)]
pub(crate) struct Signals {
    caught: Rc<Caught>,
    sources: RefCell<Vec<(i32, SourceId)>>,
}

#[derive(Default)]
struct Caught {
    signal: Cell<Option<i32>>,
    waker: RefCell<Option<Waker>>,
}

const SIGHUP: i32 = 1;
const SIGINT: i32 = 2;
const SIGTERM: i32 = 15;

impl Signals {
    /// Catches the signals from now on, except those that were ignored when the
    /// tool started, as under `nohup`.
    pub(crate) fn catch(&self) {
        let mut sources = self.sources.borrow_mut();
        let ignored = ignored();
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            if ignored & (1 << (signal - 1)) != 0 || sources.iter().any(|it| it.0 == signal) {
                continue;
            }
            let caught = self.caught.clone();
            let source = glib_unix::unix_signal_add_local(signal, move || {
                caught.signal.set(Some(signal));
                if let Some(waker) = caught.waker.take() {
                    waker.wake();
                }
                ControlFlow::Continue
            });
            sources.push((signal, source));
        }
    }

    /// Lets the signals end the tool at once, except Ctrl+C, which a prompt reads
    /// as a key: for times when the main loop does not run, and there is no connection.
    #[cfg(feature = "spice")]
    pub(crate) fn release(&self) {
        let mut sources = self.sources.borrow_mut();
        for (_, source) in sources.extract_if(.., |it| it.0 != SIGINT) {
            source.remove();
        }
    }

    /// Does `work` until it ends, or a signal arrives.
    pub(crate) async fn or<T>(&self, work: impl Future<Output = T>) -> Result<T, i32> {
        let mut work = pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(result) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(result));
            }
            self.poll(cx).map(Err)
        })
        .await
    }

    fn poll(&self, cx: &Context<'_>) -> Poll<i32> {
        if let Some(signal) = self.caught.signal.take() {
            return Poll::Ready(signal);
        }
        self.caught.waker.replace(Some(cx.waker().clone()));
        Poll::Pending
    }
}

/// The ignored signals as a bit set; bit 0 is signal 1.
fn ignored() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let field = |line: &str| line.strip_prefix("SigIgn:").map(|it| it.trim().to_owned());
    let bits = status.lines().find_map(field).unwrap_or_default();
    u64::from_str_radix(&bits, 16).unwrap_or(0)
}
