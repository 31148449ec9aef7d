// SPDX-License-Identifier: MIT OR Apache-2.0
//! Measurements with a server: QEMU itself, and responders that answer at once.

use crate::measure::Unit::{Ms, PerSecond, Us};
use crate::measure::{Contest, Run, Start};
use crate::peers::{Client, Peer};
use crate::server::Where;
use crate::{HELPER, OURS};

const RAW: &str = "raw channel";
const BATCHED: &str = "raw channel, batched";
const GSOCKET: &str = "raw GSocket source";
const GIO: &str = "raw GIO streams";
const TOKIO: &str = "qapi-rs (tokio)";
const BLOCKING: &str = "blocking socket";

/// A task of a client.
type Case = (&'static str, Client, &'static str);

/// The clients over SPICE.
const ON_SPICE: [Case; 3] = on_spice("ask");
/// The clients on a socket, with many questions in flight.
const ON_SOCKETS: [Case; 3] = [
    (OURS, Client::Rust("ours"), "ask"),
    (TOKIO, Client::Rust("tokio"), "ask"),
    (BLOCKING, Client::Rust("blocking"), "ask"),
];

const fn on_spice(task: &'static str) -> [Case; 3] {
    [
        (OURS, Client::Ours, task),
        (HELPER, Client::Helper, task),
        (RAW, Client::C("raw"), task),
    ]
}

/// Clients with this load, each on a server of its own. Their figures are clock time
/// and processor time.
fn contest(at: Where, count: usize, in_flight: usize, cases: &[Case]) -> Contest {
    let start = |&(who, client, task): &Case| {
        let signal = match (task, client) {
            ("storm" | "late", Client::Ours | Client::Rust("ours")) => Some("qmp-event"),
            ("storm-node", Client::Ours) | ("storm" | "storm-node" | "late", Client::Helper) => {
                Some("event")
            }
            _ => None,
        };
        let task = task.trim_end_matches("-node");
        let start = move || {
            let mut peer = Peer::start(client, at.start()?, signal)?;
            Ok(Box::new(move || peer.run(task, count, in_flight)) as Run)
        };
        (who, Start::Run(Box::new(start)))
    };
    Contest::new(count, cases.iter().map(start).collect())
}

/// All contests of this file.
#[allow(clippy::too_many_lines, reason = "it is a table")]
pub fn contests() -> Vec<Contest> {
    let together = Where::Spice { alone: false };
    let apart = Where::Spice { alone: true };
    let [ours, helper, raw] = ON_SPICE;
    let gsocket = (GSOCKET, Client::C("gsocket"), "ask");
    let gio = (GIO, Client::C("gio"), "ask");
    let [on_socket, tokio, blocking] = ON_SOCKETS;
    let storms = ON_SOCKETS.map(|(who, client, _)| (who, client, "storm"));
    vec![
        contest(together, 20_000, 1, &ON_SPICE)
            .row(
                0,
                "spice",
                Us,
                "a command over SPICE, instant server on the same core",
            )
            .goal(1.05, HELPER)
            .row(
                1,
                "spice-cpu",
                Us,
                "a command over SPICE, instant server: client CPU",
            )
            .goal(1.05, HELPER),
        contest(
            apart,
            100_000,
            100,
            &[ours, helper, raw, (BATCHED, raw.1, "batch")],
        )
        .row(
            0,
            "spice-100",
            PerSecond,
            "commands over SPICE, 100 in flight, instant server",
        )
        .goal(0.8, BATCHED),
        contest(Where::QemuSpice, 5_000, 1, &ON_SPICE)
            .row(
                1,
                "qemu-spice",
                Us,
                "a command over SPICE to QEMU: client CPU",
            )
            .goal(1.0, HELPER)
            .goal(1.1, RAW),
        contest(Where::QemuSpice, 20_000, 100, &ON_SPICE)
            .row(
                1,
                "qemu-spice-100",
                Us,
                "the same, 100 in flight: client CPU of each",
            )
            .goal(1.0, HELPER)
            .goal(1.1, RAW),
        contest(
            Where::Socket { alone: false },
            20_000,
            1,
            &[on_socket, gsocket, gio, tokio, blocking],
        )
        .row(
            0,
            "socket",
            Us,
            "a command on a Unix socket, instant server on the same core",
        )
        .goal(1.2, GSOCKET)
        .goal(1.0, GIO),
        contest(Where::QemuSocket, 5_000, 100, &ON_SOCKETS)
            .row(
                0,
                "qemu-socket-100",
                PerSecond,
                "commands on a Unix socket to QEMU, 100 in flight",
            )
            .goal(1.0, BLOCKING),
        contest(apart, 200_000, 1, &on_spice("storm"))
            .row(
                0,
                "storm",
                PerSecond,
                "a storm of events over SPICE, `qmp-event`",
            )
            .goal(2.5e6, None),
        contest(apart, 200_000, 1, &on_spice("storm-node"))
            .row(
                0,
                "storm-node",
                PerSecond,
                "a storm of events over SPICE, `event` (JsonNode)",
            )
            .goal(1.0e6, None),
        contest(Where::Socket { alone: true }, 200_000, 1, &storms[..2])
            .row(
                0,
                "storm-socket",
                PerSecond,
                "a storm of events on a Unix socket, `qmp-event`",
            )
            .goal(2.0, TOKIO),
        contest(apart, 40_000, 1, &on_spice("late")[..2])
            .row(
                0,
                "timer-p50",
                Ms,
                "a 16 ms timer in a storm, handler of 50 µs: late by (p50)",
            )
            .row(
                1,
                "timer",
                Ms,
                "a 16 ms timer in a storm, handler of 50 µs: late by (p99)",
            )
            .goal(4.05, None)
            .goal(1.0, HELPER),
        contest(apart, 20, 1, &on_spice("ready")[..2])
            .row(0, "ready", Ms, "port opened to ready, instant server")
            .goal(1.0, HELPER),
    ]
}
