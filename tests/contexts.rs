// SPDX-License-Identifier: MIT OR Apache-2.0
//! A port belongs to one thread and main context, whoever drops it, runs the context or frees it.
#![cfg(feature = "spice")]

mod common;

use std::any::Any;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::rc::Rc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;

use common::display::DisplayPeer;
use common::main_loop::with_own;
use common::peers::Peer;
use common::script::{self, Ends, call};
use gio::prelude::*;
use spice_qmp::transport::DbusTransport;
use spice_qmp::{Error, PortState, QmpPort};

/// A value that Rust would not move to another thread, and C does.
struct Foreign<T>(T);

// SAFETY: the test checks that threads may do so.
#[allow(unsafe_code)]
unsafe impl<T> Send for Foreign<T> {}

impl<T> Foreign<T> {
    fn take(self) -> T {
        self.0
    }
}

static CRITICALS: AtomicUsize = AtomicUsize::new(0);

/// Counts criticals of the library; one test at a time.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    static HANDLER: Once = Once::new();
    let alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    HANDLER.call_once(|| {
        let levels = glib::LogLevels::LEVEL_CRITICAL;
        glib::log_set_handler(Some("SpiceQmp"), levels, false, false, |_, _, _| {
            CRITICALS.fetch_add(1, Ordering::Relaxed);
        });
    });
    CRITICALS.store(0, Ordering::Relaxed);
    alone
}

fn criticals() -> usize {
    CRITICALS.load(Ordering::Relaxed)
}

/// A port on a socket, and the other end.
fn on_socket() -> (QmpPort, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    let socket = gio::Socket::from_fd(OwnedFd::from(near)).unwrap();
    let port = QmpPort::for_stream(&socket.connection_factory_create_connection());
    (port, far)
}

/// A port on a D-Bus display, which is open, and the display.
fn on_display() -> (QmpPort, DisplayPeer) {
    let display = DisplayPeer::start();
    let transport = DbusTransport::new(display.connection(), None, QmpPort::is_qmp_name);
    let port = QmpPort::for_transport(Box::new(transport));
    display.open();
    assert_eq!(port.state(), PortState::Greeting);
    (port, display)
}

/// A port that waits for a chardev.
fn on_closed_display() -> (QmpPort, DisplayPeer) {
    let (port, display) = on_display();
    display.close();
    let context = glib::MainContext::ref_thread_default();
    while port.state() != PortState::Closed {
        context.iteration(true);
    }
    (port, display)
}

type Made = (QmpPort, Box<dyn Any>);
const PLACES: [fn() -> Made; 3] = [
    || boxed(on_socket()),
    || boxed(on_display()),
    || boxed(on_closed_display()),
];

fn boxed<T: 'static>((port, far): (QmpPort, T)) -> Made {
    (port, Box::new(far))
}

#[test]
fn the_last_reference_may_go_on_another_thread() {
    let _alone = alone();
    with_own(|main| {
        let (port, server) = script::ready(main);
        let (ends, weak) = (Ends::default(), port.downgrade());
        call(&port, "a", &ends);
        let of_this_thread = Rc::new(());
        let held = of_this_thread.clone();
        port.connect_qmp_event(None, move |_, _| drop(held.clone()));
        main.drain();
        let port = Foreign(port);
        thread::spawn(move || drop(port.take())).join().unwrap();
        assert!(ends.borrow().is_empty(), "not on that thread");
        main.drain();
        assert!(weak.upgrade().is_none());
        assert!(matches!(ends.borrow()[..], [(_, Err(Error::Closed(_)))]));
        assert!(!server.peer.is_used());
        assert_eq!(Rc::strong_count(&of_this_thread), 2, "leaked");
    });
    assert_eq!(criticals(), 0);
}

/// A thread ends with everything in flight; another one drops the rest.
#[test]
fn a_thread_may_end_before_its_port_and_its_context() {
    let _alone = alone();
    let cases = PLACES.map(|place| [(place, false), (place, true)]);
    for (place, context_first) in cases.into_iter().flatten() {
        let left = thread::spawn(move || {
            let context = glib::MainContext::new();
            let (port, far) = context.with_thread_default(place).unwrap();
            call(&port, "a", &Ends::default());
            // A read, a timer and a dispatch are under way.
            let _ = port.wait_ready_with(std::time::Duration::from_secs(1), |_| ());
            context.iteration(false);
            Foreign((port, context, far))
        });
        let (port, context, far) = left.join().unwrap().take();
        if context_first {
            drop(context);
            drop(port);
        } else {
            drop(port);
            drop(context);
        }
        drop(far);
    }
    assert_eq!(criticals(), 0);
}

#[test]
fn another_thread_that_runs_the_context_gets_a_critical_and_aborts_nothing() {
    let _alone = alone();
    let context = glib::MainContext::new();
    let (port, far) = context.with_thread_default(on_socket).unwrap();
    let ends = Ends::default();
    call(&port, "a", &ends);
    let foreign = context.clone();
    thread::spawn(move || {
        drop(far);
        while foreign.iteration(false) {}
    })
    .join()
    .unwrap();
    assert!(criticals() > 0);
    // The port reports that, and can be dropped.
    call(&port, "b", &ends);
    while context.iteration(false) {}
    assert!(ends.borrow().iter().all(|(_, end)| end.is_err()));
    assert_eq!(port.state(), PortState::Closed);
    drop(port);
    while context.iteration(false) {}
}

/// It reaches a chardev that waits there, or the end of one.
#[test]
fn another_thread_that_runs_the_context_of_a_display_aborts_nothing() {
    let _alone = alone();
    for waits in [false, true] {
        let context = glib::MainContext::new();
        let place = if waits { on_closed_display } else { on_display };
        let (port, display) = context.with_thread_default(place).unwrap();
        let ends = Ends::default();
        // The port leaves something of its own there, too.
        call(&port, "a", &ends);
        let before = criticals();
        let foreign = Foreign((context.clone(), display));
        thread::spawn(move || {
            let (context, display) = foreign.take();
            if waits {
                display.announce();
            } else {
                display.close();
            }
            while criticals() == before {
                context.iteration(true);
            }
            Foreign(display)
        })
        .join()
        .unwrap();
        call(&port, "b", &ends);
        while context.iteration(false) {}
        assert!(ends.borrow().iter().all(|(_, end)| end.is_err()));
        assert_eq!(port.state(), PortState::Closed);
        drop(port);
        while context.iteration(false) {}
    }
}

#[test]
fn a_call_while_another_thread_runs_the_context_fails() {
    let _alone = alone();
    let context = glib::MainContext::new();
    let (port, _far) = context.with_thread_default(on_socket).unwrap();
    let ends = Ends::default();
    let (acquired, is_acquired) = std::sync::mpsc::channel();
    let (done, is_done) = std::sync::mpsc::channel::<()>();
    let foreign = context.clone();
    let other = thread::spawn(move || {
        let _guard = foreign.acquire().unwrap();
        acquired.send(()).unwrap();
        let _ = is_done.recv();
    });
    is_acquired.recv().unwrap();
    let own = glib::MainContext::new();
    own.with_thread_default(|| call(&port, "a", &ends)).unwrap();
    assert!(criticals() > 0);
    while own.iteration(false) {}
    assert!(matches!(ends.borrow()[..], [(_, Err(Error::Usage(_)))]));
    done.send(()).unwrap();
    other.join().unwrap();
}
