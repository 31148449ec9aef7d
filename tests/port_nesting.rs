// SPDX-License-Identifier: MIT OR Apache-2.0
//! Handlers that run nested main loops, and a server that exploits that.
#![cfg(feature = "spice")]

mod common;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Once;

use common::hostile::SpicePeer;
use common::main_loop::{MainLoop, at_home, home, with_default, with_own};
use common::peers::{self, Peer};
use common::script::{GREETING, Request};
use serde_json::json;
use spice_qmp::transport::{SpiceTransport, StreamTransport, Transport, pair};
use spice_qmp::{CallOptions, QmpPort};

const MAX_NESTING: u32 = 32;
/// How many events are sent from within handlers.
const STORM: u32 = 1000;
const EVENT: &[u8] = b"{\"event\": \"X\"}\r\n";

thread_local! {
    static WARNINGS: Cell<u32> = const { Cell::new(0) };
}

/// Counts the library's warnings on this thread.
fn count_warnings() {
    static HANDLER: Once = Once::new();
    HANDLER.call_once(|| {
        let levels = glib::LogLevels::LEVEL_WARNING;
        glib::log_set_handler(Some("SpiceQmp"), levels, false, false, |_, _, _| {
            WARNINGS.set(WARNINGS.get() + 1);
        });
    });
    WARNINGS.set(0);
}

fn requests(peer: &dyn Peer) -> Vec<Request> {
    let received = peer.received();
    let values = serde_json::Deserializer::from_slice(&received).into_iter();
    values
        .map(|value: Result<serde_json::Value, _>| Request::parse(&value.unwrap().to_string()))
        .collect()
}

/// Answers the next request with this name, which must arrive.
fn answer(turn: impl Fn(), peer: &dyn Peer, command: &str, value: &serde_json::Value) {
    for _ in 0..100_000 {
        turn();
        if let Some(request) = requests(peer).into_iter().find(|it| it.command == command) {
            let reply = json!({ "return": value, "id": request.id });
            peer.send(format!("{reply}\r\n").as_bytes());
            return;
        }
    }
    panic!("{command} does not come");
}

fn storm(main: &MainLoop, transport: Box<dyn Transport>, peer: &Rc<dyn Peer>) {
    count_warnings();
    let port = QmpPort::for_transport(transport);
    peer.open();
    peer.send(format!("{GREETING}\r\n").as_bytes());
    let turn = || _ = main.turn();
    answer(turn, &**peer, "qmp_capabilities", &json!({}));
    answer(turn, &**peer, "query-status", &common::script::running());
    main.until("the status", || port.status().is_some());

    let (depth, deepest) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(0)));
    let left = Rc::new(Cell::new(STORM));
    let waited = Rc::new(Cell::new(false));
    port.connect_qmp_event(None, {
        let (depth, deepest, left) = (depth.clone(), deepest.clone(), left.clone());
        let (waited, peer) = (waited.clone(), peer.clone());
        move |port, _| {
            depth.set(depth.get() + 1);
            deepest.set(deepest.get().max(depth.get()));
            for _ in 0..2 {
                if left.get() > 0 {
                    left.set(left.get() - 1);
                    peer.send(EVENT);
                }
            }
            if depth.get() == MAX_NESTING && !waited.replace(true) {
                let done = Rc::new(Cell::new(false));
                port.execute_with("query-name", None, CallOptions::default(), {
                    let done = done.clone();
                    move |reply| done.set(reply.is_ok())
                });
                let turn = || _ = home().iteration(false);
                answer(turn, &*peer, "query-name", &json!({}));
                for _ in 0..100_000 {
                    if done.get() {
                        break;
                    }
                    home().iteration(false);
                }
                assert!(done.get(), "the reply does not come");
            }
            // Like `while (g_main_context_pending ())`, and until something arrives.
            let seen = deepest.get();
            for _ in 0..200 {
                home().iteration(false);
                if deepest.get() > seen {
                    break;
                }
            }
            depth.set(depth.get() - 1);
        }
    });
    peer.send(EVENT);
    // Dropped streams send nothing more.
    main.until("the end of the storm", || depth.get() == 0 && waited.get());
    main.drain();
    assert_eq!(deepest.get(), MAX_NESTING);
    assert_eq!(WARNINGS.get(), 1);
    assert!((1..=u64::from(STORM)).contains(&port.dropped_events()));

    // And the port works as before.
    let call = main.spawn(port.execute::<serde_json::Value>("query-name", ()));
    answer(turn, &**peer, "query-name", &json!("late"));
    assert_eq!(main.join("the reply", &call).unwrap(), json!("late"));
}

#[test]
fn a_storm_over_a_pair() {
    with_own(|main| {
        let (transport, peer) = pair();
        at_home(|| storm(main, Box::new(transport), &(Rc::new(peer) as Rc<dyn Peer>)));
    });
}

#[test]
fn a_storm_over_a_socket() {
    with_own(|main| {
        let (connection, peer) = peers::unix_socket();
        at_home(|| {
            let transport = peers::on_socket(&connection);
            storm(main, Box::new(transport), &(Rc::new(peer) as Rc<dyn Peer>));
        });
    });
}

#[test]
fn a_storm_over_a_stream() {
    with_own(|main| {
        let (connection, peer) = peers::wrapped();
        at_home(|| {
            let transport = StreamTransport::new(&connection);
            storm(main, Box::new(transport), &(Rc::new(peer) as Rc<dyn Peer>));
        });
    });
}

#[test]
fn a_storm_over_spice() {
    with_default(|main| {
        let peer = Rc::new(SpicePeer::start(main));
        let transport = SpiceTransport::new(&peer.channel());
        storm(main, Box::new(transport), &(peer.clone() as Rc<dyn Peer>));
        main.drain();
        if let Ok(peer) = Rc::try_unwrap(peer).map_err(drop) {
            Box::new(peer).finish(main);
        }
    });
}
