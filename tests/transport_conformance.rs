// SPDX-License-Identifier: MIT OR Apache-2.0
//! The rules of `Transport`, for each transport: in process, on sockets and on a
//! stream, on each arrangement of main contexts, and through SPICE and a real QEMU.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use common::fds::Probe;
use common::main_loop::{MainLoop, at_home, with_default, with_own};
use common::peers::{self, Peer};
use common::script::{GREETING, Request};
use serde_json::{Value, json};
use spice_qmp::transport::{Fds, Flow, Incoming, Sink, Transport};
use spice_qmp::{Error, QmpPort, UsageError};

/// The reports of a transport.
#[derive(Default)]
struct Reports {
    /// All except the data.
    calls: RefCell<Vec<String>>,
    data: RefCell<Vec<u8>>,
    /// Whether the connection is open.
    open: Cell<bool>,
    broken: RefCell<Vec<String>>,
}

impl Reports {
    /// Starts a transport that reports to new ones.
    fn start(transport: &dyn Transport) -> Rc<Self> {
        let reports = Rc::<Self>::default();
        let told = reports.clone();
        transport.start(Rc::new(move |incoming| {
            told.take(&incoming);
            Flow::On
        }));
        reports
    }

    fn take(&self, incoming: &Incoming<'_>) {
        let note = match incoming {
            Incoming::Data(bytes) => {
                if !self.open.get() {
                    self.broken.borrow_mut().push("data while closed".into());
                }
                if bytes.is_empty() {
                    self.broken.borrow_mut().push("data without data".into());
                }
                self.data.borrow_mut().extend_from_slice(bytes);
                return;
            }
            Incoming::Pause => {
                if !self.open.get() {
                    self.broken.borrow_mut().push("a pause while closed".into());
                }
                return;
            }
            Incoming::Connecting => "connecting",
            Incoming::Opened { late } => {
                self.open.set(true);
                if *late { "opened late" } else { "opened" }
            }
            Incoming::Written => "written",
            Incoming::WriteFailed(_) => "write failed",
            Incoming::Closed(reason) => {
                if !self.open.replace(false) {
                    self.broken.borrow_mut().push("closed while closed".into());
                }
                if reason.is_empty() {
                    self.broken
                        .borrow_mut()
                        .push("closed without a reason".into());
                }
                "closed"
            }
        };
        self.calls.borrow_mut().push(note.to_owned());
    }

    fn count(&self, call: &str) -> usize {
        self.calls.borrow().iter().filter(|c| *c == call).count()
    }

    fn total(&self) -> usize {
        self.calls.borrow().len() + self.data.borrow().len()
    }

    #[track_caller]
    fn check(&self, name: &str) {
        let broken = self.broken.borrow();
        assert!(broken.is_empty(), "{name}: {broken:?}");
    }
}

/// Runs a test on each transport, on each main context that it can use.
fn everywhere(
    test: impl Fn(&MainLoop, &str, Box<dyn Transport>, &dyn Peer) + Copy + Send + 'static,
) {
    with_own(|main| peers::each(main, |name, it, peer| test(main, name, it, peer)));
    with_default(move |main| {
        let test = |name: &str, it, peer: &dyn Peer| test(main, name, it, peer);
        peers::each(main, test);
        peers::each_on_spice(main, test);
    });
}

/// A transport that is started and open.
fn open(main: &MainLoop, name: &str, transport: &dyn Transport, peer: &dyn Peer) -> Rc<Reports> {
    let reports = Reports::start(transport);
    peer.open();
    main.until(&format!("{name}: the opening"), || reports.open.get());
    reports
}

#[track_caller]
fn expect_data(main: &MainLoop, name: &str, reports: &Reports, data: &[u8]) {
    main.until(&format!("{name}: the data"), || {
        reports.data.borrow().len() >= data.len()
    });
    assert!(*reports.data.borrow() == data, "{name}: other data came");
}

/// Writes, and waits until the peer has it and the write is answered.
fn write(main: &MainLoop, name: &str, transport: &dyn Transport, peer: &dyn Peer, bytes: &[u8]) {
    let mut received = Vec::new();
    transport.write(bytes.to_vec());
    main.until(&format!("{name}: what was written"), || {
        received.extend(peer.received());
        received.len() >= bytes.len()
    });
    assert!(received == bytes, "{name}: other bytes arrived");
}

fn pattern(size: usize) -> Vec<u8> {
    (0..size).map(|at| (at % 251).to_le_bytes()[0]).collect()
}

#[test]
fn it_opens_before_any_data() {
    everywhere(|main, name, transport, peer| {
        let reports = Reports::start(&*transport);
        peer.open();
        peer.send(b"hello");
        expect_data(main, name, &reports, b"hello");
        let calls = reports.calls.borrow();
        assert_eq!(calls.last().map(String::as_str), Some("opened"), "{name}");
        assert!(calls.len() <= 2, "{name}: {calls:?}");
        assert!(
            calls.len() == 1 || calls[0] == "connecting",
            "{name}: {calls:?}"
        );
        reports.check(name);
    });
}

#[test]
fn one_that_was_open_before_is_late() {
    everywhere(|main, name, transport, peer| {
        peer.open();
        // As long as a greeting: a few bytes may be SPICE's own.
        let early = b"early".repeat(30);
        peer.send(&early);
        main.run_for(std::time::Duration::from_millis(50));
        let reports = Reports::start(&*transport);
        peer.send(b" and later");
        if peer.keeps_early_bytes() {
            let all = [&early[..], b" and later"].concat();
            expect_data(main, name, &reports, &all);
            let calls = reports.calls.borrow();
            assert_eq!(calls.last().map(String::as_str), Some("opened"), "{name}");
        } else {
            expect_data(main, name, &reports, b" and later");
            assert_eq!(*reports.calls.borrow(), ["opened late"], "{name}");
        }
        reports.check(name);
    });
}

#[test]
fn all_data_comes_in_order() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        let data = pattern(10_000);
        for piece in data.chunks(997) {
            peer.send(piece);
            main.drain();
        }
        expect_data(main, name, &reports, &data);
        reports.check(name);
    });
}

#[test]
fn each_write_is_answered_once_and_arrives() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        for (number, size) in [1, 100, 3000, 1].into_iter().enumerate() {
            write(main, name, &*transport, peer, &pattern(size));
            main.until(&format!("{name}: the answer"), || {
                reports.count("written") == number + 1
            });
        }
        main.drain();
        assert_eq!(reports.count("written"), 4, "{name}");
        assert_eq!(reports.count("write failed"), 0, "{name}");
        assert!(reports.data.borrow().is_empty(), "{name}: an echo");
        reports.check(name);
    });
}

#[test]
fn data_and_writes_cross() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        for number in 0_u8..20 {
            peer.send(&[number; 10]);
            write(main, name, &*transport, peer, &[number; 20]);
            main.until(&format!("{name}: the answer"), || {
                reports.count("written") == usize::from(number) + 1
            });
        }
        let data: Vec<u8> = (0..20).flat_map(|number| [number; 10]).collect();
        expect_data(main, name, &reports, &data);
        reports.check(name);
    });
}

#[test]
fn it_says_once_that_the_peer_closed() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        peer.send(b"last");
        peer.close();
        main.until(&format!("{name}: the close"), || !reports.open.get());
        assert_eq!(*reports.data.borrow(), b"last", "{name}: data before it");
        main.run_for(std::time::Duration::from_millis(20));
        assert_eq!(reports.count("closed"), 1, "{name}");
        reports.check(name);
    });
}

#[test]
fn it_opens_again_where_it_can() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        assert_eq!(transport.reopens(), peer.reopens(), "{name}");
        for round in 1..=3 {
            peer.send(b"data");
            main.until(&format!("{name}: the data"), || {
                reports.data.borrow().len() == 4 * round
            });
            peer.close();
            main.until(&format!("{name}: the close"), || !reports.open.get());
            if !peer.reopens() {
                break;
            }
            peer.open();
            main.until(&format!("{name}: the opening"), || reports.open.get());
            assert_eq!(reports.count("opened"), round + 1, "{name}");
            assert_eq!(reports.count("closed"), round, "{name}");
            write(main, name, &*transport, peer, b"to the next");
        }
        assert_eq!(reports.count("opened late"), 0, "{name}");
        reports.check(name);
    });
}

#[test]
fn a_write_to_a_peer_that_closes_ends() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        peer.close();
        transport.write(pattern(1000));
        main.until(&format!("{name}: the close"), || {
            !reports.open.get() || reports.count("write failed") == 1
        });
        main.run_for(std::time::Duration::from_millis(20));
        let answers = reports.count("written") + reports.count("write failed");
        assert!(answers <= 1, "{name}: {answers} answers to one write");
        reports.check(name);
    });
}

/// QEMU sends why it exits, and exits.
#[test]
fn data_before_a_failed_write_is_reported_first() {
    everywhere(|main, name, transport, peer| {
        let data = Rc::new(RefCell::new(Vec::new()));
        let end = Rc::new(Cell::new(None));
        transport.start(Rc::new({
            let (data, end) = (data.clone(), end.clone());
            move |incoming| match incoming {
                Incoming::Data(bytes) => {
                    assert_eq!(end.get(), None, "data after the end");
                    data.borrow_mut().extend_from_slice(bytes);
                    Flow::Wait
                }
                Incoming::WriteFailed(_) | Incoming::Closed(_) => {
                    end.set(end.get().or(Some(data.borrow().len())));
                    Flow::On
                }
                _ => Flow::On,
            }
        }));
        peer.open();
        main.drain();
        // More than one read, from a peer that then reads nothing more.
        let last = pattern(5000);
        peer.send(&last);
        if peer.fails_writes() {
            peer.fail_write();
        } else {
            peer.close();
        }
        transport.write(b"in vain".to_vec());
        if peer.fails_writes() {
            peer.fail_write();
        }
        main.until(&format!("{name}: the end"), || {
            transport.resume();
            end.get().is_some()
        });
        assert_eq!(end.get(), Some(last.len()), "{name}");
        assert!(*data.borrow() == last, "{name}: other data came");
    });
}

/// More than any buffer between the two holds.
#[test]
fn a_large_write_waits_for_its_reader() {
    let test = |main: &MainLoop, name: &str, transport: Box<dyn Transport>, peer: &dyn Peer| {
        let reports = open(main, name, &*transport, peer);
        assert!(peer.block(true), "{name}");
        let bytes = pattern(20 << 20);
        transport.write(bytes.clone());
        main.drain();
        assert_eq!(reports.count("written"), 0, "{name}");
        // Data still arrives.
        peer.send(b"meanwhile");
        expect_data(main, name, &reports, b"meanwhile");
        assert_eq!(reports.count("written"), 0, "{name}");
        peer.block(false);
        let mut received = Vec::new();
        main.until(&format!("{name}: what was written"), || {
            received.extend(peer.received());
            received.len() >= bytes.len()
        });
        assert!(received == bytes, "{name}: other bytes arrived");
        main.drain();
        assert_eq!(reports.count("written"), 1, "{name}");
        reports.check(name);
    };
    with_own(|main| peers::each(main, |name, it, peer| test(main, name, it, peer)));
}

#[test]
fn descriptors_arrive_once_with_the_first_byte() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        assert_eq!(transport.carries_fds(), peer.takes_fds(), "{name}");
        if !transport.carries_fds() {
            return;
        }
        for (number, size) in [1, 100, 3000].into_iter().enumerate() {
            // Bytes that wait to be read before carry none of them.
            transport.write(b"before".to_vec());
            let mut probes = [Probe::new(), Probe::new()];
            let fds = probes.each_ref().map(Probe::duplicate);
            transport.write_with_fds(pattern(size), Fds::from_array(fds));
            probes.iter_mut().for_each(Probe::close);
            let (mut received, mut came) = (Vec::new(), Vec::new());
            main.until(&format!("{name}: what was written"), || {
                loop {
                    let (byte, fds) = peer.received_with_fds();
                    came.extend(fds.into_iter().map(|fd| (received.len(), fd)));
                    if byte.is_empty() {
                        return received.len() == 6 + size;
                    }
                    received.extend(byte);
                }
            });
            assert!(received[6..] == pattern(size), "{name}");
            assert_eq!(came.len(), 2, "{name}");
            for ((at, fd), probe) in came.into_iter().zip(&probes) {
                assert_eq!(at, 6, "{name}");
                assert!(probe.is_end_of(fd) && probe.is_gone_soon(), "{name}");
            }
            assert_eq!(reports.count("written"), 2 * (number + 1), "{name}");
        }
        reports.check(name);
    });
}

#[test]
fn descriptors_that_are_not_sent_are_closed() {
    let test = |main: &MainLoop, name: &str, transport: Box<dyn Transport>, peer: &dyn Peer| {
        if !transport.carries_fds() {
            return;
        }
        let reports = open(main, name, &*transport, peer);
        let mut probe = Probe::new();
        let fds = Fds::from_array([probe.duplicate()]);
        probe.close();
        peer.close();
        transport.write_with_fds(pattern(100), fds);
        main.until(&format!("{name}: the end"), || {
            !reports.open.get() || reports.count("write failed") == 1
        });
        assert!(probe.is_gone_soon(), "{name}");
        transport.close();
        let mut probe = Probe::new();
        let fds = Fds::from_array([probe.duplicate()]);
        probe.close();
        transport.write_with_fds(pattern(100), fds);
        assert!(probe.is_gone_soon(), "{name}: it is closed");
    };
    with_own(|main| peers::each(main, |name, it, peer| test(main, name, it, peer)));
}

/// Before anything is sent.
#[test]
fn a_port_refuses_descriptors_that_cannot_be_sent() {
    everywhere(|main, name, transport, peer| {
        let carries = transport.carries_fds();
        let port = at_home(|| QmpPort::for_transport(transport));
        peer.open();
        peer.send(format!("{GREETING}\r\n").as_bytes());
        let mut requests = String::new();
        let mut receive = |what: &str| {
            main.until(&format!("{name}: {what}"), || {
                requests.push_str(&String::from_utf8(peer.received()).expect("text"));
                requests.ends_with('}') || requests.ends_with("}\n")
            });
            std::mem::take(&mut requests)
        };
        for command in ["qmp_capabilities", "query-status"] {
            let request = Request::parse(&receive(command));
            assert_eq!(request.command, command, "{name}");
            let reply = json!({ "return": {}, "id": request.id });
            peer.send(format!("{reply}\r\n").as_bytes());
            main.drain();
        }
        main.until(&format!("{name}: readiness"), || port.ready());
        let mut probe = Probe::new();
        let call = port.execute::<Value>("getfd", json!({ "fdname": "x" }));
        let call = main.spawn(call.fds([probe.fd()]));
        probe.close();
        if carries {
            assert!(receive("getfd").contains("getfd"), "{name}");
        } else {
            let end = main.join(&format!("{name}: the refusal"), &call);
            let Err(Error::Usage(UsageError::NotSupported(text))) = end else {
                panic!("{name}: {end:?}");
            };
            assert!(text.starts_with("getfd: "), "{name}: {text}");
            assert!(probe.is_gone_soon(), "{name}");
            assert!(peer.received().is_empty(), "{name}");
        }
    });
}

#[test]
fn a_closed_transport_reports_nothing_and_holds_nothing() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        let weak = Rc::downgrade(&reports);
        transport.write(b"on its way".to_vec());
        let before = reports.total();
        transport.close();
        peer.send(b"too late");
        peer.close();
        main.run_for(std::time::Duration::from_millis(50));
        assert_eq!(reports.total(), before, "{name}: {:?}", reports.calls);
        transport.close();
        drop(reports);
        drop(transport);
        main.drain();
        assert!(weak.upgrade().is_none(), "{name}: the sink is held");
    });
}

#[test]
fn dropping_it_closes_it() {
    everywhere(|main, name, transport, peer| {
        let reports = open(main, name, &*transport, peer);
        let weak = Rc::downgrade(&reports);
        let before = reports.total();
        drop(transport);
        peer.send(b"too late");
        main.run_for(std::time::Duration::from_millis(20));
        assert_eq!(reports.total(), before, "{name}: {:?}", reports.calls);
        drop(reports);
        assert!(weak.upgrade().is_none(), "{name}: the sink is held");
    });
}

#[test]
fn the_sink_may_drop_the_transport() {
    for at in ["opened", "data", "closed"] {
        everywhere(move |main, name, transport, peer| {
            let owner = Rc::new(RefCell::new(None::<Rc<dyn Transport>>));
            let after = Rc::new(Cell::new(0));
            let sink: Sink = Rc::new({
                let (owner, after) = (owner.clone(), after.clone());
                move |incoming| {
                    if owner.borrow().is_none() {
                        after.set(after.get() + 1);
                    }
                    let now = match incoming {
                        Incoming::Opened { .. } => "opened",
                        Incoming::Data(_) => "data",
                        Incoming::Closed(_) => "closed",
                        _ => "other",
                    };
                    if now == at {
                        owner.take();
                    }
                    Flow::On
                }
            });
            let transport: Rc<dyn Transport> = transport.into();
            owner.replace(Some(transport.clone()));
            transport.start(sink);
            drop(transport);
            peer.open();
            main.drain();
            peer.send(b"data");
            peer.send(b"more");
            main.run_for(std::time::Duration::from_millis(20));
            peer.close();
            main.until(&format!("{name}: {at}"), || owner.borrow().is_none());
            main.run_for(std::time::Duration::from_millis(20));
            assert_eq!(after.get(), 0, "{name}: reports after the drop at {at}");
        });
    }
}

#[test]
fn the_sink_may_have_enough() {
    everywhere(|main, name, transport, peer| {
        let data = Rc::new(RefCell::new(Vec::new()));
        let open = Rc::new(Cell::new(false));
        let sink: Sink = Rc::new({
            let (data, open) = (data.clone(), open.clone());
            move |incoming| {
                match incoming {
                    Incoming::Opened { .. } => open.set(true),
                    Incoming::Data(bytes) => data.borrow_mut().extend_from_slice(bytes),
                    _ => {}
                }
                Flow::Wait
            }
        });
        transport.start(sink);
        peer.open();
        main.until(&format!("{name}: the opening"), || open.get());
        // More than one read of a stream.
        let bytes = pattern(9000);
        for piece in bytes.chunks(3000) {
            peer.send(piece);
        }
        main.until(&format!("{name}: some data"), || !data.borrow().is_empty());
        main.run_for(std::time::Duration::from_millis(20));
        main.drain();
        if peer.holds_back() {
            let had = data.borrow().len();
            assert!(had < bytes.len(), "{name}: had {had} bytes in one go");
        }
        main.until(&format!("{name}: the rest"), || {
            transport.resume();
            data.borrow().len() >= bytes.len()
        });
        assert!(*data.borrow() == bytes, "{name}: out of order");
        // Nothing waits: then this does nothing.
        transport.resume();
        main.drain();
        assert_eq!(data.borrow().len(), bytes.len(), "{name}");
    });
}
