//! A thousand ports on one main loop: their memory, their rest, and one of them at work.

use std::cell::Cell;
use std::process::Command;
use std::time::Duration;

use glib::prelude::*;
use glib::translate::ToGlibPtr;
use serde::{Deserialize, Serialize};

use crate::decoder::events;
use crate::heap;
use crate::measure::{Figures, Unit, cpu_seconds};
use crate::report::{Report, Row};
use crate::subjects::{Helper, Ours, connect};
use crate::wire::{Wire, main_loop};

const PORTS: usize = 1000;
const EVENTS: usize = 5000;

/// What a child has found of a thousand ports.
#[derive(Serialize, Deserialize)]
struct Found {
    /// Bytes of the heap for each port, and for each channel below.
    port: f64,
    channel: f64,
    /// How often the main loop woke in half a second at rest.
    wakeups: u32,
    /// Nanoseconds of an event on one of them.
    event: f64,
}

/// The child's task.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub fn child(who: &str) {
    // What is made once.
    let (first_ours, first_helper) = (Ours::new(), Helper::new());
    let mut wires: Vec<Wire> = Vec::with_capacity(PORTS);
    let channels = heap::count(|| wires.extend((0..PORTS).map(|_| Wire::new())));
    let (mut ours, mut helpers) = (Vec::with_capacity(PORTS), Vec::with_capacity(PORTS));
    let ports = heap::count(|| {
        for wire in wires {
            match who {
                "ours" => ours.push(Ours::on(wire)),
                _ => helpers.push(Helper::on(wire)),
            }
        }
        main_loop();
    });
    let port = if ours.is_empty() {
        connect(&helpers[PORTS / 2].object(), "event")
    } else {
        connect(
            ours[PORTS / 2].port.upcast_ref::<glib::Object>(),
            "qmp-event",
        )
    };
    let wire = if ours.is_empty() {
        &helpers[PORTS / 2].wire
    } else {
        &ours[PORTS / 2].wire
    };
    let bytes = events(EVENTS);
    let mut event = f64::MAX;
    for _ in 0..5 {
        let start = cpu_seconds();
        for one in bytes.split_inclusive(|byte| *byte == b'\n') {
            wire.emit(one);
            main_loop();
        }
        event = event.min((cpu_seconds() - start) / EVENTS as f64 * 1e9);
    }
    assert_eq!(port.get(), 5 * EVENTS as u64, "lost events");
    let found = Found {
        port: ports.kept as f64 / PORTS as f64,
        channel: channels.kept as f64 / PORTS as f64,
        wakeups: wakeups(),
        event,
    };
    println!("{}", serde_json::to_string(&found).expect("plain data"));
    drop((first_ours, first_helper));
}

thread_local! {
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// How often the main loop wakes in half a second, but for the end of that.
fn wakeups() -> u32 {
    unsafe extern "C" fn counted(fds: *mut glib::ffi::GPollFD, count: u32, timeout: i32) -> i32 {
        POLLS.set(POLLS.get() + 1);
        // SAFETY: GLib's own arguments for its own function.
        unsafe { glib::ffi::g_poll(fds, count, timeout) }
    }
    let context = glib::MainContext::default();
    // SAFETY: the function has the type that GLib calls.
    unsafe {
        glib::ffi::g_main_context_set_poll_func(context.to_glib_none().0, Some(counted));
    }
    let main = glib::MainLoop::new(Some(&context), false);
    let end = main.clone();
    glib::timeout_add_local_once(Duration::from_millis(500), move || end.quit());
    POLLS.set(0);
    main.run();
    // SAFETY: none is GLib's own function again.
    unsafe { glib::ffi::g_main_context_set_poll_func(context.to_glib_none().0, None) };
    POLLS.get().saturating_sub(1)
}

/// Runs the children, and notes what they found.
pub fn run(report: &mut Report) {
    for (name, who) in [("ours", "ours"), ("spice-gtk helper", "helper")] {
        let output = Command::new(std::env::current_exe().expect("this program"))
            .args(["--child", "ports", "", who, "0"])
            // GLib's own allocator takes slices of what it got: it must not.
            .env("G_SLICE", "always-malloc")
            .output()
            .expect("this program runs");
        let Ok(found) = serde_json::from_slice::<Found>(&output.stdout) else {
            report.leave_out(&format!("1,000 ports, {name}"), "a child failed");
            continue;
        };
        let mut add = |id: &str, title: &str, who: &str, unit, figure, target| {
            let figures = Figures::new(vec![figure]);
            report.add(Row::new(id, title, who, unit, figures, target));
        };
        let title = "1,000 idle ports: memory of each, without its channel";
        add(
            "ports-memory",
            title,
            name,
            Unit::BytesPerPort,
            found.port,
            Some(4096.0),
        );
        if name == "ours" {
            let channel = "the channel";
            add(
                "ports-memory",
                title,
                channel,
                Unit::BytesPerPort,
                found.channel,
                None,
            );
        }
        let title = "1,000 idle ports: wakeups in half a second";
        add(
            "ports-wakeups",
            title,
            name,
            Unit::Count,
            f64::from(found.wakeups),
            Some(0.0),
        );
        let title = "1,000 ports: an event on one of them, with its emission and main loop";
        add(
            "ports-event",
            title,
            name,
            Unit::NsPerEvent,
            found.event,
            None,
        );
    }
}
