//! What a message costs, counted: allocations, bytes, instructions and wakeups.
//!
//! The figures are in `tests/fixtures/cost/`. `UPDATE_COST=1 cargo test --test cost`
//! writes them anew.
#![cfg(feature = "gobject")]

mod common;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use common::main_loop::{MainLoop, with_own_pushed};
use common::script::{self, Server};
use serde::{Deserialize, Serialize};
use spice_qmp::{CallOptions, QmpPort};

/// Rust's allocator, and how often this thread asked it.
struct Counting;

thread_local! {
    static SPENT: Cell<Spent> = const { Cell::new(Spent { allocations: 0, bytes: 0 }) };
}

/// What was asked of the allocator.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Spent {
    allocations: u64,
    bytes: u64,
}

fn note(size: usize) {
    // A thread that ends allocates after its locals are gone.
    let _ = SPENT.try_with(|spent| {
        let Spent { allocations, bytes } = spent.get();
        spent.set(Spent {
            allocations: allocations + 1,
            bytes: bytes + size as u64,
        });
    });
}

// SAFETY: the system's allocator does the work.
#[allow(unsafe_code)]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        unsafe { System.dealloc(block, layout) }
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        // SAFETY: the caller's promise.
        unsafe { System.realloc(block, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// What `work` asks of the allocator.
fn spent(work: impl FnOnce()) -> Spent {
    let before = SPENT.get();
    work();
    let after = SPENT.get();
    Spent {
        allocations: after.allocations - before.allocations,
        bytes: after.bytes - before.bytes,
    }
}

/// So many events, as QEMU sends them.
fn events(count: usize) -> Vec<u8> {
    let event = concat!(
        r#"{"timestamp": {"seconds": 1700000000, "microseconds": 100000}, "event": "RTC_CHANGE", "#,
        r#""data": {"offset": 78, "qom-path": "/machine/unattached/device[8]"}}"#,
        "\r\n"
    );
    event.repeat(count).into_bytes()
}

/// Sends bytes in pieces of 4 KiB, and lets the port tell of each.
fn feed(main: &MainLoop, server: &Server, bytes: &[u8]) {
    for chunk in bytes.chunks(4 << 10) {
        server.peer.send(chunk);
        main.drain();
    }
}

/// Who listens to events, in the words of the figures.
const LISTENERS: [&str; 4] = ["nobody listens", "qmp-event::STOP", "qmp-event", "a stream"];

/// Lets somebody listen, and gives how many events were heard.
fn listen(main: &MainLoop, port: &QmpPort, how: &str) -> Rc<Cell<usize>> {
    let heard = Rc::new(Cell::new(0));
    let count = heard.clone();
    match how {
        "qmp-event" => {
            port.connect_qmp_event(None, move |_, _| count.set(count.get() + 1));
        }
        "qmp-event::STOP" => {
            port.connect_qmp_event(Some("STOP"), move |_, _| count.set(count.get() + 1));
        }
        "qmp-event::RTC_CHANGE" => {
            port.connect_qmp_event(Some("RTC_CHANGE"), move |_, _| count.set(count.get() + 1));
        }
        "a stream" | "4 streams" => {
            let streams = if how == "a stream" { 1 } else { 4 };
            for _ in 0..streams {
                let (mut stream, count) = (port.events(), count.clone());
                main.context().spawn_local(async move {
                    while stream.next().await.is_some() {
                        count.set(count.get() + 1);
                    }
                });
            }
            main.drain();
        }
        _ => {}
    }
    heard
}

/// Hears events; how many are to be heard of `count`.
fn hear(main: &MainLoop, how: &str, count: usize) -> Spent {
    let (port, server) = script::ready(main);
    let heard = listen(main, &port, how);
    let bytes = events(count);
    feed(main, &server, &bytes);
    let before = heard.get();
    let spent = spent(|| feed(main, &server, &bytes));
    let all = matches!(how, "qmp-event" | "a stream");
    assert_eq!(heard.get() - before, if all { count } else { 0 }, "{how}");
    spent
}

/// What another 15 events in each of 50 chunks ask of the allocator.
fn more_events(main: &MainLoop, how: &str) -> u64 {
    let allocations = |count: usize| {
        let (port, server) = script::ready(main);
        let _heard = listen(main, &port, how);
        let bytes = events(count);
        let feed = || {
            for _ in 0..50 {
                server.peer.send(&bytes);
                main.drain();
            }
        };
        // What grows once has grown.
        feed();
        spent(feed).allocations
    };
    let few = allocations(5);
    allocations(20) - few
}

/// Gives commands that are answered with so many bytes; the port's share of it.
fn call(main: &MainLoop, count: usize, size: usize) -> Spent {
    let (port, server) = script::ready(main);
    let text = format!(r#""{}""#, "x".repeat(size));
    let mut total = Spent {
        allocations: 0,
        bytes: 0,
    };
    let mut add = |more: Spent| {
        total.allocations += more.allocations;
        total.bytes += more.bytes;
    };
    // What grows once has grown after the first call.
    for number in 0..=count {
        let ended = Rc::new(Cell::new(false));
        let end = ended.clone();
        let asked = spent(|| {
            port.execute_with("query-name", None, CallOptions::default(), move |result| {
                assert!(result.is_ok());
                end.set(true);
            });
            main.drain();
        });
        let id = server.request("query-name").id;
        let reply = format!("{{\"return\": {text}, \"id\": {id}}}\r\n").into_bytes();
        let answered = spent(|| feed(main, &server, &reply));
        assert!(ended.get());
        if number > 0 {
            add(asked);
            add(answered);
        }
    }
    total
}

#[test]
fn allocations_are_not_more_than_they_were() {
    with_own_pushed(|main| {
        let mut now = BTreeMap::new();
        for how in LISTENERS {
            now.insert(format!("1000 events, {how}"), hear(main, how, 1000));
        }
        now.insert("100 calls".into(), call(main, 100, 40));
        // Also how often the bytes of a large message are copied.
        now.insert(
            "a reply of 1,000,000 bytes".into(),
            call(main, 1, 1_000_000),
        );
        let path = fixture("allocations.json");
        let Some(then) = figures::<BTreeMap<String, Spent>>(&path, &now) else {
            return;
        };
        for (what, now) in now {
            let then = then
                .get(&what)
                .unwrap_or_else(|| panic!("no figure of {what:?}: {UPDATE}"));
            // Ids are random, of eight to ten digits. And a dispatch ends after 3 ms, so
            // that a busy machine needs more of them.
            let most = then.bytes + then.bytes / 50;
            assert!(
                now.allocations <= then.allocations + then.allocations / 100 && now.bytes <= most,
                "{what}: {now:?}, but it was {then:?}. If that is meant: {UPDATE}"
            );
            if now.allocations < then.allocations || now.bytes + then.bytes / 50 < then.bytes {
                println!("{what}: {now:?}, better than {then:?}. Keep it so: {UPDATE}");
            }
        }
    });
}

#[test]
fn an_event_is_one_allocation_and_none_if_nobody_keeps_it() {
    with_own_pushed(|main| {
        // On a busy machine there are a few more dispatches.
        for how in ["nobody listens", "qmp-event", "qmp-event::RTC_CHANGE"] {
            let more = more_events(main, how);
            assert!(more <= 20, "{how}: {more} allocations for 750 events");
        }
        for how in ["a stream", "4 streams"] {
            let more = more_events(main, how);
            assert!(more <= 770, "{how}: {more} allocations for 750 events");
        }
    });
}

#[test]
fn an_idle_port_never_wakes_the_program() {
    with_own_pushed(|main| {
        let mut ports: Vec<_> = (0..100).map(|_| script::ready(main)).collect();
        assert_eq!(sleeps_for(main), None, "ready");
        let (port, server) = &ports[50];
        let (port, heard) = (port.clone(), listen(main, port, "qmp-event"));
        feed(main, server, &events(10));
        assert_eq!(heard.get(), 10);
        assert_eq!(sleeps_for(main), None, "after events");
        for (timeout, what) in [
            (0, "a call without a deadline"),
            (60_000, "a call with a deadline"),
        ] {
            port.set_command_timeout(timeout);
            let ends = script::Ends::default();
            script::call(&port, "query-name", &ends);
            let wait = sleeps_for(main).expect("the property 'responsive' waits");
            assert!(wait <= 3000, "{what}: {wait}");
            server.answer("query-name", serde_json::json!({}));
            main.drain();
            assert_eq!(ends.borrow().len(), 1);
            assert_eq!(sleeps_for(main), None, "after {what}");
        }
        script::call(&port, "query-block", &script::Ends::default());
        main.until("silence", || !port.responsive());
        let wait = sleeps_for(main).expect("the deadline is left");
        assert!(wait > 3000, "{wait}");
        port.set_command_timeout(0);
        server.answer("query-block", serde_json::json!([]));
        script::call(&port, "query-jobs", &script::Ends::default());
        main.until("silence again", || !port.responsive());
        assert_eq!(sleeps_for(main), None, "a port that does not answer");
        ports.clear();
    });
}

/// How many milliseconds the main loop would wait at most; none: for ever.
#[allow(unsafe_code)]
fn sleeps_for(main: &MainLoop) -> Option<i32> {
    use glib::translate::ToGlibPtr;

    main.drain();
    let context: *mut glib::ffi::GMainContext = main.context().to_glib_none().0;
    let (mut priority, mut timeout) = (0, 0);
    // SAFETY: this thread owns the context; no file descriptors are asked for.
    unsafe {
        assert_eq!(
            glib::ffi::g_main_context_prepare(context, &raw mut priority),
            glib::ffi::GFALSE,
            "the main loop has something to do"
        );
        let none = std::ptr::null_mut();
        glib::ffi::g_main_context_query(context, i32::MAX, &raw mut timeout, none, 0);
        glib::ffi::g_main_context_check(context, i32::MAX, none, 0);
    }
    (timeout >= 0).then_some(timeout)
}

/// The committed figures of one profile.
#[derive(Debug, Serialize, Deserialize)]
struct Instructions {
    /// With what they were counted: another compiler or library counts others.
    with: String,
    figures: BTreeMap<String, u64>,
}

/// Tells the child, which is this same test, what to do how often.
const TASK: &str = "SPICE_QMP_COST_TASK";

#[test]
fn instructions_are_what_they_were() {
    if let Ok(task) = std::env::var(TASK) {
        let (count, what) = task.split_once(' ').expect("a count, and what");
        let count = count.parse().expect("a count");
        with_own_pushed(|main| {
            if what == "call" {
                call(main, count, 40);
            } else {
                hear(main, what, count);
            }
        });
        return;
    }
    let with = toolchain();
    let mut now = BTreeMap::new();
    for what in LISTENERS.into_iter().chain(["call"]) {
        // Each child does it twice, but for the first call; the difference is of 200.
        let (few, more) = (instructions(what, 100), instructions(what, 300));
        let times = if what == "call" { 200 } else { 400 };
        now.insert(what.to_owned(), (more - few) / times);
    }
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        "release"
    };
    let path = fixture(&format!("instructions-{profile}.json"));
    let current = Instructions { with, figures: now };
    let Some(then) = figures::<Instructions>(&path, &current) else {
        return;
    };
    if then.with != current.with {
        println!(
            "not compared: counted with {}, not {}",
            then.with, current.with
        );
        return;
    }
    for (what, now) in &current.figures {
        let then = then.figures[what];
        let off = now.abs_diff(then) * 100 / then;
        assert!(
            off <= 10,
            "{what}: {now} instructions, {off}% off the {then} they were. If that is meant: {UPDATE}"
        );
    }
}

/// What a child of this program does in all, in instructions.
fn instructions(what: &str, count: usize) -> u64 {
    let dir = tempfile::tempdir().expect("a folder");
    let out = dir.path().join("out");
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "-q"])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(std::env::current_exe().expect("this program"))
        .args(["--exact", "instructions_are_what_they_were"])
        .env(TASK, format!("{count} {what}"))
        .env("G_SLICE", "always-malloc")
        .output()
        .expect("valgrind is needed: apt-get install valgrind");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{what}: {said}");
    let text = fs::read_to_string(&out).expect("callgrind writes its counts");
    let summary = text.lines().find_map(|line| line.strip_prefix("summary: "));
    let number = summary.and_then(|number| number.trim().parse().ok());
    number.expect("callgrind's summary")
}

/// All that the count of instructions depends on.
fn toolchain() -> String {
    let said = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output();
        let output = output.unwrap_or_else(|error| panic!("{program}: {error}: ./dev setup"));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    };
    let cpuinfo = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let avx2 = if cpuinfo.contains(" avx2 ") {
        " with AVX2"
    } else {
        ""
    };
    format!(
        "{}, {}, GLib {}, {}{avx2}",
        said("rustc", &["--version"]),
        said("valgrind", &["--version"]),
        said("pkg-config", &["--modversion", "glib-2.0"]),
        std::env::consts::ARCH,
    )
}

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("tests/fixtures/cost")
        .join(name)
}

/// The committed figures; none where they were written just now.
fn figures<T: for<'a> Deserialize<'a>>(path: &Path, now: &impl Serialize) -> Option<T> {
    if std::env::var_os("UPDATE_COST").is_some_and(|set| set == "1") {
        let text = serde_json::to_string_pretty(now).expect("plain data");
        fs::create_dir_all(path.parent().expect("a folder")).expect("the folder");
        fs::write(path, text + "\n").expect("the file can be written");
        return None;
    }
    let text = fs::read_to_string(path)
        .unwrap_or_else(|error| panic!("{}: {error}. {UPDATE}", path.display()));
    Some(serde_json::from_str(&text).expect("figures"))
}

const UPDATE: &str = "UPDATE_COST=1 cargo test --test cost";
