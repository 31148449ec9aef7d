// SPDX-License-Identifier: MIT OR Apache-2.0
//! The callback of a close is the very last one, and then nothing is left.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::fs;
use std::rc::Rc;
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::Duration;

use common::main_loop::{MainLoop, with_own, with_own_pushed};
use common::script;
use spice_qmp::CallOptions;

/// Tests count the open files and the like of the process.
static ALONE: Mutex<()> = Mutex::new(());

#[test]
fn a_close_ends_after_every_other_callback() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    with_own(|main| close_behind(main, 2_000));
    with_own_pushed(|main| close_behind(main, 100_000));
}

/// Closes a port with this many calls that are not answered.
fn close_behind(main: &MainLoop, calls: usize) {
    let (port, _server) = script::ready(main);
    port.set_close_timeout(1);
    let ended = Rc::new(Cell::new(0));
    let late = Rc::new(RefCell::new(Vec::new()));
    for number in 0..calls {
        let (ended, late, weak) = (
            ended.clone(),
            late.clone(),
            glib::clone::Downgrade::downgrade(&port),
        );
        port.execute_with("query-name", None, CallOptions::default(), move |_| {
            ended.set(ended.get() + 1);
            if number == calls - 1 {
                let port = weak.upgrade().unwrap();
                let (call, wait) = (late.clone(), late.clone());
                port.execute_with("stop", None, CallOptions::default(), move |_| {
                    call.borrow_mut().push("call");
                });
                port.wait_ready_with(Duration::from_secs(9), move |_| {
                    wait.borrow_mut().push("wait");
                });
            }
        });
    }
    let (close, all) = (late.clone(), ended.clone());
    port.close_with(move |_| {
        assert_eq!(all.get(), calls);
        close.borrow_mut().push("close");
    });
    // Each part has its own timeout: a busy machine is slow.
    for part in 1..10 {
        main.until("a part of the ends", || ended.get() > calls / 10 * part);
    }
    main.until("the close", || late.borrow().contains(&"close"));
    main.drain();
    late.borrow_mut()[..2].sort_unstable();
    assert_eq!(*late.borrow(), ["call", "wait", "close"]);
}

#[test]
fn a_thread_that_closes_its_port_leaves_nothing() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let open = || fs::read_dir("/proc/self/fd").unwrap().count();
    let run = || {
        let life = || {
            with_own_pushed(|main| {
                let (port, server) = script::ready(main);
                let call = main.spawn(port.query_status());
                main.drain();
                server.answer("query-status", script::running());
                main.join("the reply", &call).unwrap();
                main.block_on(port.close());
            });
        };
        thread::spawn(life).join().unwrap();
    };
    for _ in 0..5 {
        run();
    }
    let before = open();
    for _ in 0..200 {
        run();
    }
    // Another thread of the process may close something meanwhile.
    assert!(open() <= before, "{before} at first, then {}", open());
}
