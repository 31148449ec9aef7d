// SPDX-License-Identifier: MIT OR Apache-2.0
//! Exact measurements, made once in children of this program: memory, wakeups, instructions.

use std::cell::Cell;
use std::process::{Command, Stdio};
use std::time::Duration;

use glib::translate::ToGlibPtr;

use crate::measure::{Contest, Run, Start, Unit, Work, seconds_of};
use crate::server::near;
use crate::subjects::{Helper, Ours, connect};
use crate::wire::{Wire, main_loop};
use crate::work::events;
use crate::{HELPER, OURS};

const PORTS: usize = 1000;
const EVENTS: usize = 5000;

/// All contests of this file.
pub fn contests() -> Vec<Contest> {
    let counted = |task: &'static str, id: &'static str| {
        let case = |who: &'static str| {
            let start = move || {
                let figures = child(Command::new(near("spice-qmp-bench")), task, id, who, 1)?;
                Ok(Box::new(move || Ok(figures.clone())) as Run)
            };
            (who, Start::Run(Box::new(start)))
        };
        let mut contest = Contest::new(1, [OURS, HELPER].map(case).into());
        contest.rounds = 1;
        contest
    };
    vec![
        counted("ports", "")
            .row(
                0,
                "idle",
                Unit::Bytes,
                "memory of an idle port, without its channel",
            )
            .goal(1.0, HELPER)
            .row(
                1,
                "wakeups",
                Unit::Count,
                "wakeups of 1,000 idle ports in half a second",
            )
            .goal(0.0, None)
            .row(
                2,
                "ports",
                Unit::Ns,
                "an event on one of 1,000 ports, with its main loop",
            )
            .goal(1.0, HELPER),
        counted("peak", "reply-9m")
            .row(
                0,
                "reply-9m-peak",
                Unit::Bytes,
                "a reply of 9 MB, 64 KiB chunks: most memory",
            )
            .goal(20e6, None),
    ]
}

/// Lets a child do a task, and returns its figures.
fn child(
    mut program: Command,
    task: &str,
    id: &str,
    who: &str,
    count: usize,
) -> Result<Vec<f64>, String> {
    let output = program
        .args(["--child", task, id, who, &count.to_string()])
        // Otherwise GLib's own allocator would take slices of its memory.
        .env("G_SLICE", "always-malloc")
        .stderr(Stdio::null())
        .output()
        .map_err(|error| format!("{}: {error}", program.get_program().display()))?;
    let line = String::from_utf8_lossy(&output.stdout).into_owned();
    let figures: Option<Vec<f64>> = line
        .split_whitespace()
        .map(|word| word.parse().ok())
        .collect();
    match figures {
        Some(figures) if output.status.success() => Ok(figures),
        _ => Err(format!("a child failed: {task} {id} {who}")),
    }
}

/// Instructions per message of a case.
#[allow(clippy::cast_precision_loss, reason = "for people")]
pub fn instructions(id: &str, who: &str, count: usize) -> Result<f64, String> {
    let (few, more) = if count > 1 { (500, 2_500) } else { (1, 3) };
    let all = |count| {
        let out = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
        let mut valgrind = Command::new("valgrind");
        valgrind
            .args(["--tool=callgrind", "-q"])
            .arg(format!("--callgrind-out-file={}", out.path().display()))
            .arg(near("spice-qmp-bench"));
        child(valgrind, "work", id, who, count)?;
        let text = std::fs::read_to_string(out.path()).map_err(|error| error.to_string())?;
        let summary = text.lines().find_map(|line| line.strip_prefix("summary: "));
        let number = summary.and_then(|number| number.trim().parse::<f64>().ok());
        number.ok_or_else(|| "callgrind gave no summary".to_owned())
    };
    Ok((all(more)? - all(few)?) / (more - few) as f64)
}

/// The child's task.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
pub fn do_task(task: &str, work: Option<Work>, who: &str, count: usize) {
    let Some(mut work) = work else {
        return ports(who);
    };
    if task == "peak" {
        // Forgets the peak so far.
        std::fs::write("/proc/self/clear_refs", "5").expect("an own file");
        let before = resident("VmRSS:");
        work(count);
        println!("{}", resident("VmHWM:") - before);
    } else {
        work(count);
    }
}

/// A figure about this process's memory from the system, in bytes.
fn resident(name: &str) -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("an own file");
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kilobytes.expect("a size") * 1024
}

/// The bytes allocated by Rust and by C.
fn allocated() -> usize {
    // SAFETY: it takes nothing.
    let info = unsafe { libc::mallinfo2() };
    info.uordblks + info.hblkhd
}

/// A thousand ports on one main loop: their memory, their idle wakeups, and one of them at work.
#[allow(clippy::cast_precision_loss, reason = "small numbers")]
fn ports(who: &str) {
    // Things that are made only once.
    let first = (Ours::on(Wire::new()), Helper::on(Wire::new()));
    let wires: Vec<_> = (0..PORTS).map(|_| Wire::new()).collect();
    let (mut ours, mut helpers) = (Vec::with_capacity(PORTS), Vec::with_capacity(PORTS));
    let before = allocated();
    for wire in wires {
        match who {
            OURS => ours.push(Ours::on(wire)),
            _ => helpers.push(Helper::on(wire)),
        }
    }
    main_loop();
    let kept = allocated() - before;
    let (heard, wire) = if let Some(ours) = ours.get(PORTS / 2) {
        (ours.connect("qmp-event"), &ours.wire)
    } else {
        let helper: &Helper = &helpers[PORTS / 2];
        (connect(&helper.object(), "event"), &helper.wire)
    };
    let bytes = events(1);
    let event = (0..5).map(|_| {
        let work = |count| {
            for _ in 0..count {
                wire.emit(&bytes);
                main_loop();
            }
        };
        seconds_of(work, EVENTS)
    });
    let event = event.fold(f64::MAX, f64::min);
    assert_eq!(heard.get(), 5 * EVENTS as u64, "lost events");
    println!("{} {} {event}", kept as f64 / PORTS as f64, wakeups());
    drop(first);
}

thread_local! {
    static POLLS: Cell<u32> = const { Cell::new(0) };
}

/// How often the main loop wakes in half a second, except for the end of that.
fn wakeups() -> u32 {
    unsafe extern "C" fn counted(fds: *mut glib::ffi::GPollFD, count: u32, timeout: i32) -> i32 {
        POLLS.set(POLLS.get() + 1);
        // SAFETY: GLib's own arguments for its own function.
        unsafe { glib::ffi::g_poll(fds, count, timeout) }
    }
    let context = glib::MainContext::default();
    // SAFETY: the function has the type that GLib calls.
    unsafe { glib::ffi::g_main_context_set_poll_func(context.to_glib_none().0, Some(counted)) };
    let main = glib::MainLoop::new(Some(&context), false);
    let end = main.clone();
    glib::timeout_add_local_once(Duration::from_millis(500), move || end.quit());
    main.run();
    // SAFETY: none is GLib's own function again.
    unsafe { glib::ffi::g_main_context_set_poll_func(context.to_glib_none().0, None) };
    POLLS.get().saturating_sub(1)
}
