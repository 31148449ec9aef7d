// SPDX-License-Identifier: MIT OR Apache-2.0
//! The cost of a message, counted: allocations, copies, wakeups, system calls, instructions.
//!
//! The figures are in `FIGURES`; those of instructions, which depend on the compiler and
//! the libraries, in `tests/fixtures/cost/`: `UPDATE_COST=1 cargo test --test cost` writes
//! them anew.
#![cfg(feature = "gobject")]

mod common;
#[path = "cost/counted.rs"]
mod counted;

use std::cell::Cell;
use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::rc::Rc;

use common::main_loop::{MainLoop, with_own_pushed};
use common::script::{self, Request, Server};
use counted::{Counts, count};
use gio::prelude::*;
use serde::{Deserialize, Serialize};
use spice_qmp::qmp::{Opening, Output, Session};
use spice_qmp::{CallOptions, Machine, QmpPort};

/// This many events, as QEMU sends them.
fn events(count: usize) -> Vec<u8> {
    let event = concat!(
        r#"{"timestamp": {"seconds": 1700000000, "microseconds": 100000}, "event": "RTC_CHANGE", "#,
        r#""data": {"offset": 78, "qom-path": "/machine/unattached/device[8]"}}"#,
        "\r\n"
    );
    event.repeat(count).into_bytes()
}

/// What something costs on one port.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Cost {
    counts: Counts,
    /// Iterations of the main loop that had something to do.
    wakeups: u64,
    /// `GSource`s that were attached to the main context.
    sources: u64,
}

impl Cost {
    /// Does `work`, which returns how often it ran the main loop.
    fn add(&mut self, main: &MainLoop, work: impl FnOnce() -> u64) {
        let before = sources(main);
        self.wakeups += count(&mut self.counts, work);
        self.sources += sources(main) - before - 1;
    }

    /// Does `work` and then runs the main loop until it is idle.
    fn add_all(&mut self, main: &MainLoop, work: impl FnOnce()) {
        self.add(main, || {
            work();
            std::iter::from_fn(|| main.turn().then_some(1)).sum()
        });
    }

    /// The minimum of both: a dispatch ends after 3 ms, so that a busy machine needs more.
    fn least(self, other: Self) -> Self {
        Self {
            counts: Counts {
                allocations: self.counts.allocations.min(other.counts.allocations),
                bytes: self.counts.bytes.min(other.counts.bytes),
                copied: self.counts.copied.min(other.counts.copied),
                syscalls: self.counts.syscalls.min(other.counts.syscalls),
            },
            wakeups: self.wakeups.min(other.wakeups),
            sources: self.sources.min(other.sources),
        }
    }

    /// The minimum of several rounds, after one in which everything grows that grows only once.
    fn of(mut round: impl FnMut() -> Self) -> Self {
        round();
        (1..ROUNDS).fold(round(), |least, _| least.least(round()))
    }
}

const ROUNDS: usize = 20;

/// How many sources were ever attached to the main context: their ids are consecutive
/// numbers.
fn sources(main: &MainLoop) -> u64 {
    let probe = glib::idle_source_new(None, glib::Priority::LOW, || glib::ControlFlow::Break);
    let id = probe.attach(Some(main.context()));
    probe.destroy();
    u64::from(id.as_raw())
}

/// Sends bytes in pieces of 4 KiB.
fn feed(main: &MainLoop, server: &Server, bytes: &[u8]) {
    for chunk in bytes.chunks(4 << 10) {
        server.peer.send(chunk);
        main.drain();
    }
}

/// The kind of listener, named as in the figures.
const LISTENERS: [&str; 4] = ["nobody listens", "qmp-event::STOP", "qmp-event", "a stream"];

/// Connects a listener, and returns how many events were received.
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
        "a stream" => {
            let mut stream = port.events();
            main.context().spawn_local(async move {
                while stream.next().await.is_some() {
                    count.set(count.get() + 1);
                }
            });
            main.drain();
        }
        _ => {}
    }
    heard
}

/// A port that is ready, whose ids have ten digits, so that their cost is constant.
fn ready(main: &MainLoop) -> (QmpPort, Server) {
    loop {
        let (port, server) = script::ready(main);
        script::call(&port, "query-name", &script::Ends::default());
        main.drain();
        let request = server.request("query-name");
        server.reply(&request, serde_json::json!({}));
        main.drain();
        if request.id.as_u64() >= Some(LONG_ID) {
            return (port, server);
        }
    }
}

/// Some events in one chunk.
fn hear(main: &MainLoop, how: &str, count: usize) -> Cost {
    let (port, server) = ready(main);
    let heard = listen(main, &port, how);
    let bytes = events(count);
    let cost = Cost::of(|| {
        let mut cost = Cost::default();
        let before = heard.get();
        cost.add_all(main, || server.peer.send(&bytes));
        let all = matches!(how, "qmp-event" | "a stream");
        assert_eq!(heard.get() - before, if all { count } else { 0 }, "{how}");
        cost
    });
    drop(port);
    cost
}

/// A command, and its answer of this many bytes in chunks of 4 KiB.
fn call(main: &MainLoop, size: usize) -> Cost {
    let (port, server) = ready(main);
    let text = format!(r#""{}""#, "x".repeat(size));
    Cost::of(|| call_once(main, &port, &server, &text))
}

fn call_once(main: &MainLoop, port: &QmpPort, server: &Server, text: &str) -> Cost {
    let mut cost = Cost::default();
    let ended = Rc::new(Cell::new(false));
    let end = ended.clone();
    cost.add_all(main, || {
        port.execute_with("query-name", None, CallOptions::default(), move |result| {
            assert!(result.is_ok());
            end.set(true);
        });
    });
    let id = server.request("query-name").id;
    let reply = format!("{{\"return\": {text}, \"id\": {id}}}\r\n").into_bytes();
    for chunk in reply.chunks(4 << 10) {
        cost.add_all(main, || server.peer.send(chunk));
    }
    assert!(ended.get());
    cost
}

/// Ten commands on a Unix socket, one after the other.
fn round_trips(main: &MainLoop) -> Cost {
    let (port, mut server) = loop {
        let (ours, theirs) = UnixStream::pair().expect("two sockets");
        theirs.set_nonblocking(true).expect("a socket");
        let socket = gio::Socket::from_fd(ours.into()).expect("a socket");
        let port = QmpPort::for_stream(&socket.connection_factory_create_connection());
        let mut server = Socket { theirs, last_id: 0 };
        server.send(script::GREETING);
        main.until("the port", || {
            server.answer();
            port.ready() && port.status().is_some()
        });
        if server.last_id >= LONG_ID {
            break (port, server);
        }
    };
    main.drain();
    Cost::of(|| {
        let mut cost = Cost::default();
        let ended = Rc::new(Cell::new(0));
        for number in 1..=10 {
            let end = ended.clone();
            cost.add(main, || {
                port.execute_with("query-name", None, CallOptions::default(), move |result| {
                    assert!(result.is_ok());
                    end.set(number);
                });
                0
            });
            while ended.get() < number {
                server.answer();
                cost.add(main, || main.context().iteration(true).into());
            }
        }
        cost
    })
}

/// The far end of a socket.
struct Socket {
    theirs: UnixStream,
    last_id: u64,
}

impl Socket {
    fn send(&mut self, line: &str) {
        let line = format!("{line}\r\n");
        self.theirs.write_all(line.as_bytes()).expect("room");
    }

    /// Answers requests, if any have arrived.
    fn answer(&mut self) {
        let mut bytes = [0; 1024];
        let Ok(size) = self.theirs.read(&mut bytes) else {
            return;
        };
        let request = Request::parse(str::from_utf8(&bytes[..size]).expect("UTF-8"));
        let value = match request.command.as_str() {
            "query-status" => script::running(),
            _ => serde_json::json!({}),
        };
        self.last_id = request.id.as_u64().expect("ours are numbers");
        self.send(&serde_json::json!({ "return": value, "id": request.id }).to_string());
    }
}

/// Ids from here on have their greatest length, so that their cost is constant.
const LONG_ID: u64 = 1_000_000_000;

/// The maximum cost of each. The figures may only fall: record a smaller one here.
const FIGURES: &[(&str, &str, u64)] = &[
    ("an event, nobody listens", "allocations", 1),
    ("an event, qmp-event::STOP", "allocations", 1),
    ("an event, qmp-event", "allocations", 0),
    ("an event, qmp-event", "wakeups", 1),
    ("an event, qmp-event", "sources", 0),
    ("an event, a stream", "allocations", 1),
    ("8 events, nobody listens", "allocations", 1),
    ("8 events, nobody listens", "bytes", 11),
    ("8 events, qmp-event::STOP", "allocations", 1),
    ("8 events, qmp-event", "allocations", 0),
    ("8 events, qmp-event", "bytes", 0),
    ("8 events, qmp-event", "copied", 1_092),
    ("8 events, qmp-event", "wakeups", 1),
    ("8 events, qmp-event", "sources", 0),
    ("8 events, a stream", "allocations", 8),
    ("8 events, a stream", "wakeups", 2),
    ("8 events, a stream", "sources", 0),
    ("a call", "allocations", 4),
    ("a call", "bytes", 118),
    ("a call", "wakeups", 1),
    ("a call", "sources", 0),
    ("a reply of 1,000,000 bytes", "allocations", 14),
    ("a reply of 1,000,000 bytes", "bytes", 3_093_144),
    ("a reply of 1,000,000 bytes", "copied", 4_043_908),
    ("10 calls on a socket", "allocations", 40),
    ("10 calls on a socket", "syscalls", 30),
    ("10 calls on a socket", "wakeups", 10),
    ("10 calls on a socket", "sources", 0),
];

#[test]
fn nothing_costs_more_than_it_did() {
    let mut costs = BTreeMap::new();
    with_own_pushed(|main| {
        for how in LISTENERS {
            costs.insert(format!("an event, {how}"), hear(main, how, 1));
            costs.insert(format!("8 events, {how}"), hear(main, how, 8));
        }
        costs.insert("a call".into(), call(main, 40));
        costs.insert("a reply of 1,000,000 bytes".into(), call(main, 1_000_000));
        costs.insert("10 calls on a socket".into(), round_trips(main));
    });
    // Whether the functions of `counted` are the ones that are called.
    assert!(costs["a reply of 1,000,000 bytes"].counts.copied >= 1_000_000);
    assert!(costs["10 calls on a socket"].counts.syscalls >= 20);
    let mut more = Vec::new();
    for &(what, of, most) in FIGURES {
        let Cost {
            counts,
            wakeups,
            sources,
        } = costs[what];
        let now = match of {
            "allocations" => counts.allocations,
            "bytes" => counts.bytes,
            "copied" => counts.copied,
            "syscalls" => counts.syscalls,
            "wakeups" => wakeups,
            "sources" => sources,
            _ => unreachable!("no such figure: {of}"),
        };
        if now > most {
            more.push(format!("{what}: {now} {of}, not {most}"));
        } else if now < most {
            println!("lower FIGURES: (\"{what}\", \"{of}\", {now})");
        }
    }
    assert!(more.is_empty(), "{more:#?}");
}

/// The buffer of a message that comes in chunks grows a few times, even where input that
/// waited in front of the message is still in it.
#[test]
fn a_long_message_behind_others_is_copied_a_few_times() {
    const CHUNK: usize = 64 << 10;
    const LIMIT: usize = 20 << 20;
    const BEGUN: usize = 16 << 20;
    let mut session = Session::<()>::new(1 << 24);
    session.open(Opening::GreetingMayBeGone);
    assert!(session.poll_transmit().is_some());
    let mut reply = &b"{\"return\": {}, \"id\": 16777216}\r\n"[..];
    while session.receive(&mut reply).is_some() {}
    session.set_max_message_size(LIMIT);
    let mut input = b"{\"event\": \"A\", \"data\": {}}\n".repeat(1 << 19);
    input.extend_from_slice(b"{\"event\": \"");
    input.resize(input.len() + BEGUN, b'B');
    session.buffer_input(&input);
    while session.receive(&mut &[][..]).is_some() {}
    let chunk = vec![b'B'; CHUNK];
    let mut sent = BEGUN;
    let mut counts = Counts::default();
    while sent + 2 * CHUNK < LIMIT {
        count(&mut counts, || {
            assert!(session.receive(&mut &chunk[..]).is_none());
        });
        sent += CHUNK;
    }
    let Some(Output::Event(event)) = session.receive(&mut &b"\"}\n"[..]) else {
        panic!("no event");
    };
    assert_eq!(event.name.len(), sent);
    assert!(counts.copied < 3 * LIMIT as u64, "{} bytes", counts.copied);
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

#[test]
fn an_idle_machine_never_wakes_the_program() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let machine = Machine::new(&port);
        assert_eq!(sleeps_for(main), None, "made");
        server.event("STOP");
        main.drain();
        server.answer("query-status", script::paused());
        main.drain();
        assert_eq!(sleeps_for(main), None, "paused");
        // It listens only to events that say why a machine stops.
        let bytes = events(1000);
        let cost = Cost::of(|| {
            let mut cost = Cost::default();
            cost.add_all(main, || server.peer.send(&bytes));
            cost
        });
        assert_eq!(cost, hear(main, "nobody listens", 1000));
        drop(machine);
    });
}

#[test]
fn idle_drives_never_wake_the_program() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let drives = Machine::new(&port).drives();
        assert_eq!(drives.n_items(), 0);
        main.drain();
        let list = serde_json::json!([
            { "device": "", "qdev": "cd0", "removable": true, "locked": false }
        ]);
        server.answer("query-block", list.clone());
        main.drain();
        assert_eq!(drives.n_items(), 1);
        assert_eq!(sleeps_for(main), None, "loaded");
        for _ in 0..2 {
            server.event("DEVICE_TRAY_MOVED");
            main.until("a question", || {
                let requests = server.requests();
                for request in &requests {
                    server.reply(request, list.clone());
                }
                !requests.is_empty()
            });
            assert_eq!(sleeps_for(main), None, "loaded again");
        }
        // It listens only to events that change drives.
        let bytes = events(1000);
        let cost = Cost::of(|| {
            let mut cost = Cost::default();
            cost.add_all(main, || server.peer.send(&bytes));
            cost
        });
        assert_eq!(cost, hear(main, "nobody listens", 1000));
    });
}

#[test]
fn idle_snapshots_never_wake_the_program() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let snapshots = Machine::new(&port).snapshots();
        main.drain();
        assert_eq!(sleeps_for(main), None, "nothing was requested");
        snapshots.refresh();
        main.drain();
        server.answer("query-block", serde_json::json!([]));
        assert_eq!(sleeps_for(main), None, "loaded");
        let ended = serde_json::json!({ "id": "j", "status": "concluded" });
        server.event_with("JOB_STATUS_CHANGE", &ended);
        main.until("a question", || {
            let requests = server.requests();
            for request in &requests {
                server.reply(request, serde_json::json!([]));
            }
            !requests.is_empty()
        });
        assert_eq!(sleeps_for(main), None, "loaded again");
    });
}

#[test]
fn jobs_wake_the_program_only_while_one_runs() {
    with_own_pushed(|main| {
        let (port, server) = script::ready(main);
        let jobs = Machine::new(&port).jobs();
        main.drain();
        assert_eq!(sleeps_for(main), None, "nothing was requested");
        jobs.refresh();
        main.drain();
        let mut question = server.request("query-jobs");
        for (status, wakes) in [
            ("paused", false),
            ("running", true),
            ("ready", false),
            ("concluded", false),
            ("running", true),
            ("null", false),
        ] {
            let job = serde_json::json!({
                "id": "j", "type": "mirror", "status": status,
                "current-progress": 1, "total-progress": 2,
            });
            let is_gone = status == "null";
            let all = if is_gone { vec![] } else { vec![job] };
            server.reply(&question, all.into());
            let wait = sleeps_for(main);
            assert_eq!(wait.is_some(), wakes, "{status}: {wait:?}");
            assert_eq!(jobs.n_items(), u32::from(!is_gone));
            if !is_gone {
                jobs.refresh();
                main.drain();
                question = server.request("query-jobs");
            }
        }
    });
}

/// How many milliseconds the main loop would wait at most; `None`: for ever.
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
    /// The versions that they were counted with: other compilers or libraries give other counts.
    with: String,
    figures: BTreeMap<String, u64>,
}

/// Tells the child, which is this same test, what to do and how often.
const TASK: &str = "SPICE_QMP_COST_TASK";

#[test]
fn instructions_are_what_they_were() {
    if let Ok(task) = std::env::var(TASK) {
        let (count, what) = task.split_once(' ').expect("a count, and what");
        let count = count.parse().expect("a count");
        with_own_pushed(|main| {
            let (port, server) = script::ready(main);
            if what == "call" {
                for _ in 0..count {
                    call_once(main, &port, &server, "{}");
                }
            } else {
                listen(main, &port, what);
                // One by one: a dispatch of many ends after 3 ms.
                for event in events(count).split_inclusive(|byte| *byte == b'\n') {
                    server.peer.send(event);
                    main.drain();
                }
            }
        });
        return;
    }
    let with = toolchain();
    let mut now = BTreeMap::new();
    for what in LISTENERS.into_iter().chain(["call"]) {
        let (few, more) = (instructions(what, 100), instructions(what, 300));
        now.insert(what.to_owned(), (more - few) / 200);
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

/// The total instructions of a child of this program.
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

/// Everything that the count of instructions depends on.
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

/// The committed figures; `None` if they were written just now.
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
