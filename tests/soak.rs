// SPDX-License-Identifier: MIT OR Apache-2.0
//! Random operations on real QEMU, over SPICE, sockets and D-Bus, on several threads at
//! once.
//!
//! Each call must end exactly once, whatever is cancelled, dropped, closed, killed or
//! frozen; no QEMU whose clients closed first may die or freeze; and nothing may pile up.
//!
//! Runs for a few seconds as a test; `./dev soak SECONDS` runs it for that long.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::env;
use std::fs;
use std::future::Future;
use std::rc::Rc;
use std::sync::Mutex;
use std::task::{Context, Waker};
use std::thread;
use std::time::{Duration, Instant};

use common::dbus::{Bus, with_monitor};
use common::main_loop::{MainLoop, Task, with_default, with_own};
use common::qemu::Program;
use common::random::Random;
use common::run_states::{Machine, RunState};
use common::say;
use common::spice::Client;
use serde_json::Value;
use spice_qmp::qmp::CallId;
use spice_qmp::{CallOptions, ConnectOptions, Error, EventStream, QmpPort, VmAction};

/// How long it lasts by default.
const SECONDS: u64 = 3;
/// How much a figure may grow between the first part of a run and its end.
const FILES: usize = 0;
const KIBIBYTES: usize = 8 << 10;

#[test]
fn nothing_breaks_however_a_port_is_used() {
    let seconds = env::var("SPICE_QMP_SOAK_SECONDS").ok();
    let seconds = seconds.map_or(SECONDS, |seconds| seconds.parse().expect("a number"));
    let programs = Program::all();
    let rounds = 4;
    let part = Duration::from_secs(seconds) / rounds;
    let total = Mutex::new(BTreeMap::new());
    let mut first = None;
    for round in 0..rounds {
        thread::scope(|scope| {
            for (number, program) in programs.iter().enumerate() {
                let seed = u64::from(round) * 10 + number as u64;
                let total = &total;
                // In each arrangement of main contexts for a third of the time.
                let part = part / 6;
                scope.spawn(move || {
                    with_own(|main| {
                        soak(main, program, Over::Socket, seed, part, total);
                        let bus = Over::Dbus(Bus::start());
                        soak(main, program, bus, 50 + seed, part, total);
                    });
                });
            }
            // One at a time: spice-gtk has one main context.
            let program = programs[round as usize % programs.len()].clone();
            let (done, figures) = std::sync::mpsc::channel();
            with_default(move |main| {
                let own = Mutex::default();
                soak(
                    main,
                    &program,
                    Over::Spice,
                    100 + u64::from(round),
                    part,
                    &own,
                );
                done.send(own.into_inner().unwrap()).unwrap();
            });
            add(&total, figures.recv().unwrap());
        });
        let now = (open_files(), resident());
        say(&format!("soak: {} files, {} KiB", now.0, now.1));
        // Allocations of the first round stay for the next ones.
        first.get_or_insert(now);
    }
    let (files, memory) = first.unwrap();
    assert!(open_files() <= files + FILES, "files: {files} at first");
    assert!(resident() <= memory + KIBIBYTES, "{memory} KiB at first");
    for (what, number) in total.into_inner().unwrap() {
        say(&format!("soak: {what}: {number}"));
    }
}

type Figures = BTreeMap<&'static str, u64>;

fn add(total: &Mutex<Figures>, figures: Figures) {
    let mut total = total.lock().unwrap();
    for (what, number) in figures {
        *total.entry(what).or_default() += number;
    }
}

/// The way to reach QEMU.
enum Over {
    Spice,
    Socket,
    Dbus(Bus),
}

impl Over {
    fn start(&self, program: &Program) -> Machine {
        let Self::Dbus(bus) = self else {
            return RunState::GUEST_PANICKED.start(program);
        };
        let config = with_monitor(bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
        RunState::GUEST_PANICKED.start_with(config, program)
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Spice => "SPICE ports",
            Self::Socket => "sockets",
            Self::Dbus(_) => "D-Bus displays",
        }
    }
}

fn soak(
    main: &MainLoop,
    program: &Program,
    over: Over,
    seed: u64,
    time: Duration,
    total: &Mutex<Figures>,
) {
    let mut soak = Soak {
        main,
        program,
        machine: over.start(program),
        over,
        random: Random::new(seed),
        link: None,
        figures: RefCell::default(),
    };
    let deadline = Instant::now() + time;
    while Instant::now() < deadline {
        soak.step();
    }
    soak.leave();
    add(total, soak.figures.take());
}

/// One QEMU, and a port on it most of the time.
struct Soak<'a> {
    main: &'a MainLoop,
    program: &'a Program,
    over: Over,
    random: Random,
    machine: Machine,
    link: Option<Link>,
    figures: RefCell<Figures>,
}

/// A port, and the operations on it.
struct Link {
    client: Option<Client>,
    port: QmpPort,
    streams: Vec<EventStream>,
    calls: Vec<CallId>,
    futures: Vec<Task<Result<Value, Error>>>,
    counts: Rc<Counts>,
}

#[derive(Default)]
struct Counts {
    begun: Cell<u64>,
    ended: Cell<u64>,
}

impl Soak<'_> {
    fn step(&mut self) {
        let Some(mut link) = self.link.take() else {
            self.link = Some(self.come());
            return;
        };
        match self.random.below(24) {
            0..=5 => self.execute(&mut link, "query-name", None),
            6 | 7 => self.execute(&mut link, "query-qmp-schema", None),
            8 => {
                let timeout = Duration::from_millis(self.random.below(4) as u64);
                self.execute(&mut link, "query-qmp-schema", Some(timeout));
            }
            9 => {
                let all = link.calls.len();
                if all > 0 && link.port.cancel(link.calls[self.random.below(all)]) {
                    self.count("cancelled");
                }
            }
            10 | 11 => {
                let future = link.port.execute::<Value>("query-status", ());
                link.futures.push(self.main.spawn(future));
                self.count("futures");
            }
            12 => {
                let mut future = Box::pin(link.port.execute::<Value>("query-qmp-schema", ()));
                let _ = future
                    .as_mut()
                    .poll(&mut Context::from_waker(Waker::noop()));
                self.count("futures dropped");
            }
            13 => link.streams.push(link.port.events()),
            14 => link.streams.clear(),
            15 => self.act(&link, VmAction::Continue),
            16 => self.act(&link, VmAction::Pause),
            17 => self.act(&link, VmAction::Reset),
            18 => self.freeze(&mut link),
            19 | 20 => {
                self.link = Some(link);
                self.leave();
                return;
            }
            21 => {
                self.panic(link);
                return;
            }
            22 if self.random.below(8) == 0 => {
                self.kill(link);
                return;
            }
            _ => {}
        }
        for _ in 0..self.random.below(8) {
            self.main.turn();
        }
        if link.port.pending() > 50 {
            self.main.until("some answers", || link.port.pending() < 10);
        }
        self.link = Some(link);
    }

    fn count(&self, what: &'static str) {
        *self.figures.borrow_mut().entry(what).or_default() += 1;
    }

    /// A new port, by a search that may end early.
    fn come(&self) -> Link {
        let spice = matches!(self.over, Over::Spice);
        let client = spice.then(|| Client::new(&self.machine.qemu));
        let port = loop {
            let address = match &self.over {
                Over::Dbus(bus) => format!("dbus:address={}", bus.address()),
                _ => format!("unix:{}", self.machine.qemu.qmp_socket().display()),
            };
            // QEMU appears on the bus shortly after it serves its sockets.
            let options = ConnectOptions::new().wait(true);
            let found = match &client {
                Some(client) => self.main.block_on(QmpPort::find(&client.session)),
                None => self.main.block_on(QmpPort::open_with(&address, options)),
            };
            match found {
                Ok(port) => break port,
                // The previous one is still served.
                Err(Error::TimedOut { .. }) => self.count("searches again"),
                Err(error) => panic!("{error}"),
            }
        };
        port.set_close_timeout(60_000);
        self.count(self.over.name());
        Link {
            client,
            port,
            streams: Vec::new(),
            calls: Vec::new(),
            futures: Vec::new(),
            counts: Rc::default(),
        }
    }

    fn execute(&self, link: &mut Link, command: &str, timeout: Option<Duration>) {
        let options = CallOptions {
            timeout,
            ..CallOptions::default()
        };
        let counts = link.counts.clone();
        counts.begun.set(counts.begun.get() + 1);
        let call = link.port.execute_with(command, None, options, move |_| {
            counts.ended.set(counts.ended.get() + 1);
        });
        link.calls.push(call);
        self.count("calls");
    }

    fn act(&self, link: &Link, action: VmAction) {
        let call = link.port.vm_action(action);
        self.main.spawn(call);
        self.count("actions");
    }

    /// QEMU is stopped for a while, in which calls time out.
    fn freeze(&self, link: &mut Link) {
        self.machine.qemu.stop();
        let timeout = Duration::from_millis(5);
        for _ in 0..3 {
            self.execute(link, "query-name", Some(timeout));
        }
        self.main.run_for(Duration::from_millis(10));
        self.machine.qemu.cont();
        self.count("freezes");
    }

    /// The guest panics, which makes a SPICE port mute, and the machine is resumed, with
    /// the port or after it has disconnected.
    fn panic(&mut self, mut link: Link) {
        // Actions begin when their futures are first polled.
        self.main.drain();
        self.main.until("all answers", || link.port.pending() == 0);
        self.machine.wake();
        // The port's own question, 250 ms after the machine runs, must not cross the
        // panic: it would stay there unread, which cannot be helped, and kill QEMU later.
        if let Some(client) = &link.client {
            self.main.run_for(Duration::from_millis(300));
            self.main.block_on(QmpPort::settle(&client.session));
        }
        self.machine.reach();
        // A command that crosses the event stays there unread, and kills QEMU at the resume.
        self.main.until("the panic", || {
            let status = link.port.status();
            status.is_some_and(|it| it.status() == RunState::GUEST_PANICKED.name)
        });
        let timeout = Duration::from_millis(5);
        self.execute(&mut link, "query-name", Some(timeout));
        self.execute(&mut link, "query-name", None);
        self.link = Some(link);
        if self.random.coin() {
            self.leave();
        }
        self.machine.resume();
        self.count("panics");
    }

    /// QEMU dies, and everything ends.
    fn kill(&mut self, link: Link) {
        self.machine.qemu.kill();
        self.main
            .until("the end of the connection", || link.port.pending() == 0);
        self.finish(link);
        self.machine = self.over.start(self.program);
        self.count("kills");
    }

    /// Closes first: QEMU must survive.
    fn leave(&mut self) {
        let Some(link) = self.link.take() else {
            return;
        };
        self.main.block_on(link.port.close());
        assert_eq!(link.counts.begun, link.counts.ended, "after the close");
        self.finish(link);
        let answer = self.machine.status();
        assert!(answer.is_ok(), "left politely: {answer:?}");
        self.count("leaves");
    }

    fn finish(&self, link: Link) {
        for future in &link.futures {
            let _ = self.main.join("a future", future);
        }
        assert_eq!(link.counts.begun, link.counts.ended);
        let (port, client) = (link.port, link.client);
        drop((link.streams, port));
        if let Some(client) = client {
            client.finish(self.main);
        }
        self.main.drain();
    }
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("/proc").count()
}

/// KiB in memory.
fn resident() -> usize {
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number
        .and_then(|kib| kib.parse().ok())
        .expect("VmRSS in KiB")
}
