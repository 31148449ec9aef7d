//! How the tool leaves a machine: over SPICE not before QEMU has answered.
//!
//! A QEMU (7.2, 10.0) whose SPICE client goes away while an answer is being
//! written, or still to come, freezes for ever. Leaving a socket is harmless.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::pin::pin;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Duration;

use glib::future_with_timeout;
use glib::prelude::*;
use spice_qmp::{PortChannel, PortState, QmpPort, Session};

use crate::failure::{Stop, note};
use crate::monitor::Monitor;

/// How long leaving may take before the tool says what it waits for.
const SILENCE: Duration = Duration::from_millis(300);

/// How long a port is waited for that is just being opened. One that QEMU mutes,
/// because the machine was stopped by an error, never opens.
const OPENING: Duration = Duration::from_secs(10);

/// Leaves what was connected, after a work that ended so. The error is the signal
/// that came meanwhile: then the person at the terminal does not want to wait.
pub(crate) async fn leave(
    monitor: &Monitor,
    end: &Result<(), Stop>,
    json: bool,
) -> Result<(), i32> {
    let Some(session) = monitor.session.take() else {
        return Ok(());
    };
    let again = match end {
        Err(Stop::Signal(_)) => " again",
        _ => "",
    };
    let said = Cell::new(false);
    let settled = async {
        let mut settled = pin!(settle(monitor, &session, &said, json));
        if future_with_timeout(SILENCE, settled.as_mut())
            .await
            .is_err()
        {
            said.set(true);
            note(
                json,
                &format!("{}. Press Ctrl+C{again} to leave anyway", reason(monitor)),
            );
            settled.await;
        }
    };
    let result = monitor.signals.or(settled).await;
    session.disconnect();
    result
}

fn reason(monitor: &Monitor) -> String {
    match monitor.unanswered() {
        Some(command) => {
            format!("QEMU is still executing {command}; leaving now would freeze the machine")
        }
        None => "QEMU has not said all it has to say; leaving now could freeze the machine".into(),
    }
}

/// Waits until QEMU owes nothing on any port of the session.
async fn settle(monitor: &Monitor, session: &Session, said: &Cell<bool>, json: bool) {
    if let Some(command) = monitor.unanswered() {
        let answer = monitor.answer().await;
        if said.get() {
            note(
                json,
                &match answer {
                    Ok(_) => format!("{command} has ended with success"),
                    Err(error) => format!("it has ended: {error}"),
                },
            );
        }
    }
    for channel in session.channels() {
        if let Some(channel) = channel.port() {
            settle_port(&channel).await;
        }
    }
}

async fn settle_port(channel: &PortChannel) {
    let connected = |it: &PortChannel| it.property::<Option<gio::Socket>>("socket").is_some();
    let known = until(channel, &["port-name", "socket"], |channel| {
        channel.port_name().is_some() || !connected(channel)
    });
    // It has no name where it ends before.
    let _ = future_with_timeout(OPENING, known).await;
    let name = channel.port_name().unwrap_or_default();
    if !QmpPort::is_qmp_name(&name) || !connected(channel) {
        return;
    }
    let port = QmpPort::get(channel);
    if matches!(
        port.state(),
        PortState::Connecting | PortState::Greeting | PortState::Negotiating
    ) {
        // What becomes of it is of no interest any more.
        let _ = port.wait_ready_within(OPENING).await;
    }
    port.close().await;
}

/// Waits until something is so, which may change with the properties.
pub(crate) async fn until<T: IsA<glib::Object>>(
    object: &T,
    properties: &[&str],
    is_so: impl Fn(&T) -> bool,
) {
    let waker = Rc::<RefCell<Option<Waker>>>::default();
    let connect = |property: &&str| {
        object.connect_notify_local(Some(property), {
            let waker = waker.clone();
            move |_, _| {
                if let Some(waker) = waker.take() {
                    waker.wake();
                }
            }
        })
    };
    let _handlers = Handlers(object, properties.iter().map(connect).collect());
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
