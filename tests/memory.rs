// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much memory a hostile server makes the library hold, counted byte by byte: never more
//! than `qmp::limits` and `EVENT_QUEUE_BYTES` allow.
#![cfg(feature = "spice")]

mod common;
#[path = "memory/schemas.rs"]
mod schemas;
#[path = "memory/watch.rs"]
mod watch;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use common::main_loop::{MainLoop, with_own_pushed};
use common::peers::{self, Peer};
use common::script::{self, Server};
use gio::prelude::ListModelExt;
use glib::prelude::ObjectExt;
use serde_json::json;
use spice_qmp::qmp::limits::{MAX_ABANDONED, MAX_DEPTH, MAX_MESSAGE_SIZE, MAX_TREE_SIZE};
use spice_qmp::qmp::{Band, CallId, Error, Ignored, Opening, Output, PeerError, Session, State};
use spice_qmp::transport::{Flow, Incoming, Transport};
use spice_qmp::{CallOptions, EVENT_QUEUE, EVENT_QUEUE_BYTES, List, Machine, QmpPort};
use watch::Watch;

/// How much a peer sends at once.
const CHUNK: usize = 64 << 10;
/// How much a session or a port may hold beyond the subject of the limits.
const SMALL: usize = 512 << 10;
/// A message that is larger.
const LIMIT: usize = 1 << 20;

/// Feeds `total` bytes of repetitions of `piece`.
fn rubbish(piece: &[u8], total: usize, mut feed: impl FnMut(&[u8])) {
    let chunk = piece.repeat(CHUNK.div_ceil(piece.len()));
    for _ in 0..total / chunk.len() {
        feed(&chunk);
    }
}

/// A gigabyte of input that keeps a session busy and does not end it: pieces to repeat,
/// and how many MiB of each. Short lines take the most time by far.
fn streams() -> [(Vec<u8>, usize); 7] {
    let good = b"{\"event\": \"A\", \"data\": {}}\n".as_slice();
    let long = [b"{\"event\": \"".as_slice(), &vec![b'x'; 30_000], b"\"}\n"].concat();
    [
        ([b"rubbish\n".repeat(15).as_slice(), good].concat(), 16),
        (b"{\n  ".repeat(1000), 16),
        (
            [&[b'['; MAX_DEPTH + 9], b"\n".as_slice(), good].concat(),
            16,
        ),
        ([b"\xff\0\n".as_slice(), good].concat(), 16),
        (b"{\"return\": {}, \"id\": 7}\r\n".to_vec(), 16),
        (long, 48),
        (b"x".to_vec(), 896),
    ]
}

#[test]
fn a_gigabyte_of_rubbish_through_a_session() {
    let watch = Watch::start();
    let streams = streams();
    for (piece, size) in &streams {
        let mut session = ready();
        session.set_max_message_size(LIMIT);
        rubbish(piece, size << 20, |chunk| feed(&mut session, chunk));
        assert_eq!(session.state(), State::Ready);
        watch.check(2 * LIMIT + SMALL);
    }
}

#[test]
fn a_gigabyte_of_rubbish_through_a_port() {
    with_own_pushed(|main| {
        let watch = Watch::start();
        let streams = streams();
        for (piece, size) in &streams {
            let (port, server) = small_port(main);
            let told = Rc::new(Cell::new(0_u64));
            port.connect_qmp_event(None, {
                let told = told.clone();
                move |_, _| told.set(told.get() + 1)
            });
            rubbish(piece, size << 20, |chunk| {
                server.peer.send(chunk);
                main.drain();
                watch.check(2 * LIMIT + SMALL);
            });
            assert!(port.ready());
            let events = piece.windows(7).any(|word| word == b"\"event\"");
            assert_eq!(told.get() > 0, events);
        }
    });
}

/// The buffer grows by doubling.
#[test]
fn an_endless_line_costs_twice_the_limit() {
    for limit in [1000, LIMIT, MAX_MESSAGE_SIZE, 3 * MAX_MESSAGE_SIZE / 2] {
        let watch = Watch::start();
        let mut session = ready();
        session.set_max_message_size(limit);
        let mut told = 0;
        rubbish(&b"x".repeat(CHUNK), 3 * MAX_MESSAGE_SIZE, |mut chunk| {
            while let Some(output) = session.receive(&mut chunk) {
                let too_large = Ignored::Bad(PeerError::TooLarge { limit });
                assert!(matches!(output, Output::Ignored(bad) if bad == too_large));
                told += 1;
            }
        });
        assert_eq!(told, 1);
        watch.check(2 * limit + SMALL);
        // And nothing of it stays.
        assert!(watch.held() < SMALL);
    }
}

#[test]
fn deep_nesting_costs_no_more_than_its_text() {
    let watch = Watch::start();
    let mut session = ready();
    for open in ["[", "{\"\":", " {\n \"a\": [\n "] {
        feed(&mut session, b"{\"event\": \"A\", \"data\": ");
        rubbish(open.as_bytes(), 16 * LIMIT, |chunk| {
            feed(&mut session, chunk);
        });
        feed(&mut session, b"\n}\n{}\n");
        watch.check(2 * 16 * LIMIT + SMALL);
    }
}

#[test]
fn a_storm_of_events_that_nobody_takes() {
    const STORM: usize = 200_000;
    for size in [0, 2000] {
        with_own_pushed(|main| {
            let watch = Watch::start();
            let (port, server) = small_port(main);
            let stream = port.events();
            let data = json!({ "fill": "x".repeat(size) });
            let line = format!("{{\"event\": \"A\", \"data\": {data}}}\n");
            let bound = EVENT_QUEUE_BYTES.min(EVENT_QUEUE * (line.len() + 200));
            let chunk = line.repeat(100);
            for _ in 0..STORM / 100 {
                server.peer.send(chunk.as_bytes());
                main.drain();
                watch.check(bound + 4 * chunk.len() + SMALL);
            }
            assert_eq!(stream.take_dropped(), (STORM - EVENT_QUEUE) as u64);
        });
    }
}

#[test]
fn a_storm_of_events_within_a_handler() {
    const STORM: usize = 200_000;
    with_own_pushed(|main| {
        let watch = Watch::start();
        let (port, server) = small_port(main);
        let told = Rc::new(Cell::new(0));
        let server = Rc::new(server);
        let chunk = "{\"event\": \"A\"}\n".repeat(100);
        // The first event opens a dialog, as it were, while the rest arrives.
        port.connect_qmp_event(None, {
            let (told, server, chunk) = (told.clone(), server.clone(), chunk.clone());
            move |_, _| {
                told.set(told.get() + 1);
                if told.get() == 1 {
                    let context = glib::MainContext::ref_thread_default();
                    for _ in 0..STORM / 100 {
                        server.peer.send(chunk.as_bytes());
                        while context.iteration(false) {}
                    }
                }
            }
        });
        server.event("A");
        main.drain();
        assert_eq!(told.get(), STORM + 1);
        watch.check(SMALL);
    });
}

/// The buffer for a storm is freed afterwards.
#[test]
fn an_idle_socket_holds_little_after_a_storm() {
    const IDLE: usize = 4 << 10;
    with_own_pushed(|main| {
        let watch = Watch::start();
        let (connection, peer) = peers::unix_socket();
        let transport = peers::on_socket(&connection);
        let (count, most) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        transport.start(Rc::new({
            let (count, most) = (count.clone(), most.clone());
            move |incoming| {
                if let Incoming::Data(bytes) = incoming {
                    count.set(count.get() + bytes.len());
                    most.set(bytes.len().max(most.get()));
                }
                Flow::On
            }
        }));
        let mut sent = 0;
        for size in [60_000, 60_000, 1] {
            peer.send(&vec![b'x'; size]);
            sent += size;
            main.until("the data", || count.get() == sent);
        }
        assert!(most.get() > 10 * IDLE);
        let held = watch.held();
        assert!(held <= IDLE, "{held} bytes");
    });
}

/// A tree for handlers of the signal `event` would take over a gigabyte.
#[test]
fn a_large_event_makes_no_tree() {
    const SIZE: usize = 60 << 20;
    with_own_pushed(|main| {
        let watch = Watch::start();
        let (port, server) = script::ready(main);
        let warnings = count_warnings();
        let (trees, texts) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
        port.connect_local("event", false, {
            let trees = trees.clone();
            move |_| {
                trees.set(trees.get() + 1);
                None
            }
        });
        port.connect_qmp_event(Some("LARGE"), {
            let texts = texts.clone();
            move |_, event| {
                assert!(event.data().expect("it has data").len() > SIZE);
                texts.set(texts.get() + 1);
            }
        });
        let send_large = || {
            server
                .peer
                .send(b"{\"event\": \"LARGE\", \"data\": {\"a\": [");
            rubbish(b"0,", SIZE, |piece| server.peer.send(piece));
            server.peer.send(b"0]}}\n");
            main.drain();
            // The buffer, which doubles, and the event.
            watch.check(4 * SIZE);
        };
        send_large();
        send_large();
        assert_eq!((trees.get(), texts.get(), warnings.get()), (0, 2, 1));
        server.event("SMALL");
        main.drain();
        assert_eq!((trees.get(), texts.get(), warnings.get()), (1, 2, 1));

        // And once more on the next connection.
        server.peer.close("gone");
        server.peer.open();
        server.make_ready(main, script::GREETING);
        send_large();
        assert_eq!((trees.get(), texts.get(), warnings.get()), (1, 3, 2));
        drop(server);
        drop(port);
        main.drain();
        let kept = watch.held();
        assert!(kept <= SMALL, "{kept} bytes are kept");
    });
}

/// A MiB of JSON, the most from which a tree is built, with contents that take the most memory.
/// All its parts are visited at once: one of three bytes takes 24 in a list, which doubles.
#[test]
fn a_hostile_schema_takes_a_multiple_of_its_text_for_a_moment() {
    with_own_pushed(|main| {
        let watch = Watch::start();
        let hostile = schemas::hostile();
        for (what, text, is_one) in &hostile {
            let (port, server) = script::ready(main);
            let machine = Machine::new(&port);
            let ends = Rc::<RefCell<Vec<_>>>::default();
            for _ in 0..3 {
                let (machine, ends) = (machine.clone(), ends.clone());
                glib::MainContext::ref_thread_default().spawn_local(async move {
                    let loaded = machine.load_schema().await;
                    ends.borrow_mut().push(loaded.is_ok());
                });
            }
            main.drain();
            let request = server.request("query-qmp-schema");
            let before = watch.held();
            watch.take_peak();
            server.peer.send(b"{\"return\": ");
            server.peer.send(text.as_bytes());
            server
                .peer
                .send(format!(", \"id\": {}}}\n", request.id).as_bytes());
            main.drain();
            assert_eq!(*ends.borrow(), [*is_one; 3], "{what}");
            let kept = watch.held().saturating_sub(before);
            let peak = watch.take_peak() - before;
            assert!(kept <= SMALL, "{what}: {kept} bytes are kept");
            assert!(
                peak <= 24 * MAX_TREE_SIZE,
                "{what}: {peak} bytes at the peak"
            );
        }
    });
}

#[test]
fn hostile_drives_cost_a_multiple_of_their_text() {
    let drive = |number: usize| {
        format!(r#"{{"device":"","qdev":"{number:x}","removable":true,"locked":true}},"#)
    };
    hostile_blocks(Machine::drives, ("[", "]"), drive);
}

#[test]
fn hostile_snapshots_cost_a_multiple_of_their_text() {
    let snapshot = |number: usize| {
        let times = r#""date-sec":1,"vm-clock-sec":1,"vm-clock-nsec":1"#;
        format!(r#"{{"name":"{number:x}","vm-state-size":1,{times}}},"#)
    };
    let disk = (
        r#"[{"device":"","inserted":{"ro":false,"node-name":"n","image":{"snapshots":["#,
        "]}}}]",
    );
    hostile_blocks(Machine::snapshots, disk, snapshot);
}

/// As many items as a reply of `query-block` may have, and as a list may have.
fn hostile_blocks(
    list: fn(&Machine) -> List,
    (head, tail): (&str, &str),
    item: impl Fn(usize) -> String,
) {
    const LONGEST: usize = 4 << 20;
    with_own_pushed(|main| {
        let watch = Watch::start();
        let most = (LONGEST - head.len() - tail.len()) / item(0xf_ffff).len();
        for (number, accepted) in [(most, 0), (4097, 0), (4096, 4096)] {
            let (port, server) = script::ready(main);
            let list = list(&Machine::new(&port));
            list.refresh();
            main.drain();
            let request = server.request("query-block");
            let items: String = (0..number).map(&item).collect();
            let text = format!("{head}{}{tail}", items.trim_end_matches(','));
            assert!(text.len() <= LONGEST);
            drop(items);
            let before = watch.held();
            watch.take_peak();
            server.peer.send(b"{\"return\": ");
            server.peer.send(text.as_bytes());
            server
                .peer
                .send(format!(", \"id\": {}}}\n", request.id).as_bytes());
            main.drain();
            assert_eq!(list.n_items(), accepted);
            assert_eq!(list.error().is_some(), accepted == 0);
            let kept = watch.held().saturating_sub(before);
            let peak = watch.take_peak() - before;
            assert!(kept <= SMALL + accepted as usize * 2048, "{kept} are kept");
            assert!(peak <= 16 * LONGEST, "{peak} bytes at the peak");
        }
    });
}

/// Counts the library's warnings on this thread from here on.
fn count_warnings() -> Rc<Cell<u32>> {
    thread_local! {
        static WARNINGS: RefCell<Rc<Cell<u32>>> = RefCell::default();
    }
    glib::log_set_handler(
        Some("SpiceQmp"),
        glib::LogLevels::LEVEL_WARNING,
        false,
        false,
        |_, _, _| WARNINGS.with_borrow(|it| it.set(it.get() + 1)),
    );
    let warnings = Rc::new(Cell::new(0));
    WARNINGS.set(warnings.clone());
    warnings
}

#[test]
fn abandoned_calls_that_are_never_answered() {
    const CALLS: usize = 100_000;
    // The cost of one, with a margin.
    const EACH: usize = 400;
    for band in [Band::In, Band::Out] {
        let watch = Watch::start();
        let mut session = match band {
            Band::In => ready(),
            Band::Out => ready_with_oob(),
        };
        let mut late = Vec::new();
        for number in 0..CALLS {
            let (call, id) = send(&mut session, band);
            assert!(session.fail(call, Error::Cancelled("it".into())));
            assert_eq!(ends(&mut session), 1);
            if number == 0 || number == CALLS - 1 {
                late.push(id);
            }
            watch.check(MAX_ABANDONED * EACH + SMALL);
        }
        // The session works as before: late replies match no call, and the
        // reply to the new one finds its call.
        assert!(!session.is_settled());
        let (_, id) = send(&mut session, band);
        for late in late {
            answer(&mut session, &late);
            assert_eq!(ends(&mut session), 0);
        }
        answer(&mut session, &id);
        assert_eq!(ends(&mut session), 1);
        assert_eq!(session.pending(), 0);
        // Answers come in order only in band.
        assert_eq!(session.is_settled(), band == Band::In);
    }
}

/// Eight in-band at a time, even if most were abandoned.
#[test]
fn abandoned_calls_keep_their_place_in_flight() {
    let mut session = ready_with_oob();
    for _ in 0..8 {
        let (call, _) = send(&mut session, Band::In);
        session.forget(call);
    }
    for _ in 0..2 * MAX_ABANDONED {
        let (call, _) = send(&mut session, Band::Out);
        session.forget(call);
    }
    session.execute("query-name", None, Band::In, ());
    assert_eq!(session.poll_transmit(), None);
}

#[test]
fn abandoned_calls_of_a_port_that_are_never_answered() {
    const CALLS: usize = 100_000;
    with_own_pushed(|main| {
        let watch = Watch::start();
        let (port, server) = small_port(main);
        let ended = Rc::new(Cell::new(0));
        for number in 0..CALLS / 100 {
            let timeout = (number % 2 == 0).then_some(Duration::ZERO);
            for _ in 0..100 {
                let ended = ended.clone();
                let options = CallOptions {
                    timeout,
                    ..CallOptions::default()
                };
                let id = port.execute_with("query-block", None, options, move |end| {
                    assert!(matches!(
                        end,
                        Err(Error::TimedOut { .. } | Error::Cancelled(_))
                    ));
                    ended.set(ended.get() + 1);
                });
                if timeout.is_none() {
                    main.drain();
                    port.cancel(id);
                }
            }
            main.until("the ends", || ended.get() == 100 * (number + 1));
            drop(server.peer.received());
            watch.check(MAX_ABANDONED * 400 + SMALL);
        }
        assert_eq!(port.pending(), 0);
    });
}

#[test]
fn names_of_events_count_too() {
    const NAME: usize = 1 << 20;
    with_own_pushed(|main| {
        let watch = Watch::start();
        let (port, server) = script::ready(main);
        let stream = port.events();
        let line = format!("{{\"event\": \"{}\"}}\n", "x".repeat(NAME));
        for _ in 0..400 {
            server.peer.send(line.as_bytes());
            main.drain();
        }
        watch.check(EVENT_QUEUE_BYTES + 5 * NAME + SMALL);
        assert!(stream.take_dropped() > 380);
        // A long name is not kept by the port.
        drop(stream);
        main.drain();
        drop(line);
        server.peer.send(b"{\"event\": \"A\"}\n");
        let kept = watch.held();
        assert!(kept <= SMALL, "{kept} bytes are kept");
    });
}

#[test]
fn waits_that_have_ended_leave_nothing() {
    const WAITS: usize = 20_000;
    with_own_pushed(|main| {
        let watch = Watch::start();
        let (port, _server) = small_port(main);
        let (unready, _other) = script::port();
        for _ in 0..WAITS {
            // One that is dropped, and one that ends.
            drop(unready.wait_ready());
            main.block_on(port.wait_ready()).unwrap();
        }
        watch.check(SMALL);
    });
}

/// A port with a small limit.
fn small_port(main: &MainLoop) -> (QmpPort, Server) {
    let (port, server) = script::ready(main);
    port.set_max_message_size(LIMIT as u64);
    (port, server)
}

fn ready() -> Session<()> {
    let mut session = Session::new(1 << 24);
    session.open(Opening::GreetingMayBeGone);
    assert!(session.poll_transmit().is_some());
    feed(&mut session, b"{\"return\": {}, \"id\": 16777216}\r\n");
    assert_eq!(session.state(), State::Ready);
    session
}

#[test]
fn a_greeting_without_end_makes_no_tree() {
    let watch = Watch::start();
    let most = 8 << 20;
    let greeting = |package: &str, capabilities: &str| {
        format!(
            "{{\"QMP\": {{\"version\": {{\"qemu\": {{\"major\": 7, \"minor\": 2, \"micro\": 22}}, \
             \"package\": \"{package}\"}}, \"capabilities\": [{capabilities}0]}}}}\n"
        )
    };
    let parts = [
        ("", "\"\",".repeat(most / 3)),
        ("", "0,".repeat(most / 2)),
        ("", "[{}],".repeat(most / 5)),
        ("", format!("\"{}\",", "x".repeat(most))),
        ("", format!("\"{}\",", "\\u0000".repeat(most / 6))),
        ("x", "x".repeat(most)),
        ("\\n", "\\n".repeat(most / 2)),
    ];
    for (package, part) in parts {
        let greeting = if package.is_empty() {
            greeting("", &part)
        } else {
            greeting(&part, "")
        };
        drop(part);
        let added = |pieces: usize| {
            let before = watch.held();
            watch.take_peak();
            let mut session = Session::new(1 << 24);
            session.open(Opening::GreetingComes);
            for piece in greeting.as_bytes().chunks(pieces) {
                feed(&mut session, piece);
            }
            assert_eq!(session.state(), State::Negotiating);
            let held = watch.held() - before;
            assert!(held <= SMALL, "{held} bytes are held");
            watch.take_peak() - before
        };
        let whole = added(greeting.len());
        assert!(whole <= SMALL, "{whole} bytes at the peak");
        // In pieces it needs the buffer, which doubles, and no more.
        let in_pieces = added(1 << 20);
        let bound = 3 * greeting.len() + SMALL;
        assert!(
            in_pieces <= bound,
            "{in_pieces} bytes at the peak, {bound} allowed"
        );
    }
    drop(watch);
}

#[test]
fn a_refusal_without_end_is_not_kept() {
    let watch = Watch::start();
    for (class, desc) in [("GenericError", "x"), ("x", "no")] {
        let mut session = Session::<()>::new(1 << 24);
        session.open(Opening::GreetingMayBeGone);
        assert!(session.poll_transmit().is_some());
        let long = |text: &str| {
            if text == "x" {
                text.repeat(60 << 20)
            } else {
                text.into()
            }
        };
        let (class, desc) = (long(class), long(desc));
        let refusal = format!(
            "{{\"id\": 16777216, \"error\": {{\"class\": \"{class}\", \"desc\": \"{desc}\"}}}}\n"
        );
        drop((class, desc));
        feed(&mut session, refusal.as_bytes());
        drop(refusal);
        assert_eq!(session.state(), State::Failed);
        let kept = watch.held();
        assert!(kept <= SMALL, "{kept} bytes are kept");
    }
}

fn ready_with_oob() -> Session<()> {
    let mut session = Session::new(1 << 24);
    session.open(Opening::GreetingComes);
    feed(&mut session, script::OOB_GREETING.as_bytes());
    feed(&mut session, b"\n");
    assert!(session.poll_transmit().is_some());
    feed(&mut session, b"{\"return\": {}, \"id\": 16777216}\r\n");
    assert!(session.oob());
    session
}

/// Executes a command, which is sent, and returns the id that it is sent with.
fn send(session: &mut Session<()>, band: Band) -> (CallId, String) {
    let call = session.execute("query-block", None, band, ());
    let request = String::from_utf8(session.poll_transmit().expect("a request")).unwrap();
    session.transmitted();
    let (_, id) = request.split_once("\"id\":").expect("an id");
    (call, id.trim_end_matches(['}', '\n']).to_owned())
}

fn answer(session: &mut Session<()>, id: &str) {
    session.buffer_input(format!("{{\"return\": {{}}, \"id\": {id}}}\n").as_bytes());
}

/// How many calls end because of the input so far.
fn ends(session: &mut Session<()>) -> usize {
    let mut ends = 0;
    while let Some(output) = session.receive(&mut &[][..]) {
        ends += usize::from(matches!(output, Output::Ended { .. }));
    }
    ends
}

fn feed(session: &mut Session<()>, mut input: &[u8]) {
    while session.receive(&mut input).is_some() {}
}
