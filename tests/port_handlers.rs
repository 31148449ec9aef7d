// SPDX-License-Identifier: MIT OR Apache-2.0
//! A listener connected before an event arrived receives it, whatever other handlers do
//! meanwhile: connect, disconnect, block and unblock, make streams, run main loops. And a
//! listener connected in a handler receives the next event.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::pin::pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use common::main_loop::{MainLoop, home, with_own};
use common::random::Random;
use common::script::{self, Server};
use glib::prelude::*;
use spice_qmp::{Event, EventStream, QmpPort};

/// Each run uses its number as the seed.
const ROUNDS: u64 = 1000;
const CHUNKS: usize = 12;
const NAMES: [&str; 3] = ["A", "", "C"];

/// A handler or a stream.
struct Listener {
    wants: Wants,
    ear: RefCell<Ear>,
    /// The numbers of the events that it received; zeros for the signal "event".
    heard: RefCell<Vec<usize>>,
    /// The number of the event that was being delivered when it was connected.
    since: usize,
    blocked: Cell<bool>,
    /// How often it was blocked or unblocked.
    changes: Cell<usize>,
}

enum Ear {
    Handler(glib::SignalHandlerId),
    Stream(EventStream),
    Gone,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Wants {
    SignalForC,
    All,
    Named(&'static str),
    StreamOfAll,
    StreamOf(&'static str),
}

impl Wants {
    fn has(self, name: &str) -> bool {
        match self {
            Self::SignalForC | Self::All | Self::StreamOfAll => true,
            Self::Named(wanted) | Self::StreamOf(wanted) => wanted == name,
        }
    }
}

struct World {
    random: Random,
    port: QmpPort,
    listeners: RefCell<Vec<Rc<Listener>>>,
    /// Whether it is always known which event is being delivered.
    calm: bool,
    told: Cell<usize>,
}

impl World {
    /// An action of a handler.
    fn act(self: &Rc<Self>) {
        for _ in 0..self.random.below(3) {
            match self.random.below(6) {
                0 | 1 => self.add(),
                2 => {
                    if let Some(listener) = self.any() {
                        listener.hear();
                        if let Ear::Handler(id) = listener.ear.replace(Ear::Gone) {
                            self.port.disconnect(id);
                        }
                    }
                }
                3 | 4 => {
                    if let Some(listener) = self.any()
                        && let Ear::Handler(id) = &*listener.ear.borrow()
                    {
                        let blocked = !listener.blocked.get();
                        listener.blocked.set(blocked);
                        listener.changes.set(listener.changes.get() + 1);
                        if blocked {
                            self.port.block_signal(id);
                        } else {
                            self.port.unblock_signal(id);
                        }
                    }
                }
                _ if self.calm => {}
                _ => {
                    for _ in 0..self.random.below(3) {
                        home().iteration(false);
                    }
                }
            }
        }
    }

    fn any(&self) -> Option<Rc<Listener>> {
        let listeners = self.listeners.borrow();
        let at = self.random.below(listeners.len().max(1));
        listeners.get(at).cloned()
    }

    fn add(self: &Rc<Self>) {
        let name = NAMES[self.random.below(NAMES.len())];
        let wants = match self.random.below(9) {
            0 => Wants::SignalForC,
            1 => Wants::All,
            2..=4 => Wants::Named(name),
            5 => Wants::StreamOfAll,
            _ => Wants::StreamOf(name),
        };
        let listener = Rc::new(Listener {
            wants,
            ear: RefCell::new(Ear::Gone),
            heard: RefCell::default(),
            since: self.told.get(),
            blocked: Cell::default(),
            changes: Cell::default(),
        });
        let (world, told) = (self.clone(), listener.clone());
        let hear = move |number| {
            told.heard.borrow_mut().push(number);
            if number > 0 {
                world.told.set(number);
            }
            if number > 0 || !world.calm {
                world.act();
            }
        };
        let ear = match wants {
            Wants::SignalForC => Ear::Handler(self.port.connect_local("event", false, {
                move |_| {
                    hear(0);
                    None
                }
            })),
            Wants::All => Ear::Handler(
                self.port
                    .connect_qmp_event(None, move |_, event| hear(number(event))),
            ),
            Wants::Named(name) => Ear::Handler(
                self.port
                    .connect_qmp_event(Some(name), move |_, event| hear(number(event))),
            ),
            Wants::StreamOfAll => Ear::Stream(self.port.events()),
            Wants::StreamOf(name) => Ear::Stream(self.port.events_named([name])),
        };
        listener.ear.replace(ear);
        self.listeners.borrow_mut().push(listener);
    }
}

impl Listener {
    /// Reads what waits, if it is a stream.
    fn hear(&self) {
        if let Ear::Stream(stream) = &mut *self.ear.borrow_mut() {
            let mut context = Context::from_waker(Waker::noop());
            while let Poll::Ready(Some(event)) = pin!(stream.next()).poll(&mut context) {
                self.heard.borrow_mut().push(number(&event));
            }
        }
    }

    fn is_gone(&self) -> bool {
        matches!(*self.ear.borrow(), Ear::Gone)
    }
}

fn number(event: &Event) -> usize {
    let (number,): (usize,) = event.decode().unwrap();
    number
}

#[test]
fn listeners_connected_before_an_event_receive_it() {
    let mut heard = 0;
    for round in 0..ROUNDS {
        with_own(|main| {
            let (port, server) = script::ready(main);
            let world = Rc::new(World {
                random: Random::new(round),
                port,
                listeners: RefCell::default(),
                calm: round % 2 == 0,
                told: Cell::default(),
            });
            let mut sent = 0;
            for _ in 0..CHUNKS {
                world.act();
                world.told.set(sent);
                let mut there: Vec<_> = world
                    .listeners
                    .borrow()
                    .iter()
                    .filter(|listener| !listener.is_gone())
                    .map(|listener| {
                        listener.hear();
                        let len = listener.heard.borrow().len();
                        (listener.changes.get(), len, listener.clone())
                    })
                    .collect();
                let count = world.listeners.borrow().len();

                let events: Vec<_> = (0..=world.random.below(6))
                    .map(|_| {
                        sent += 1;
                        (sent, NAMES[world.random.below(NAMES.len())])
                    })
                    .collect();
                let lines = events.iter().map(|(number, name)| {
                    format!("{{\"event\": \"{name}\", \"data\": [{number}]}}\r\n")
                });
                server.peer.send(lines.collect::<String>().as_bytes());
                main.drain();

                if world.calm {
                    let came = &world.listeners.borrow()[count..];
                    there.extend(came.iter().map(|listener| (0, 0, listener.clone())));
                }
                for (changes, len, listener) in there {
                    listener.hear();
                    if listener.is_gone() || listener.changes.get() != changes {
                        continue;
                    }
                    let wants = listener.wants;
                    let mut expected: Vec<_> = events
                        .iter()
                        .filter(|(number, _)| *number > listener.since)
                        .filter(|(_, name)| wants.has(name) && !listener.blocked.get())
                        .map(|(number, _)| *number)
                        .collect();
                    let mut got = listener.heard.borrow()[len..].to_vec();
                    match wants {
                        Wants::SignalForC => expected.fill(0),
                        // A main loop in a handler delivers the next event before the
                        // next handler receives this one.
                        Wants::All | Wants::Named(_) => got.sort_unstable(),
                        Wants::StreamOfAll | Wants::StreamOf(_) => {}
                    }
                    assert_eq!(got, expected, "{wants:?} in round {round}");
                    heard += got.len();
                }
            }
            for listener in world.listeners.take() {
                if let Ear::Handler(id) = listener.ear.replace(Ear::Gone) {
                    world.port.disconnect(id);
                }
            }
        });
    }
    assert!(heard > 10_000, "{heard}");
}

/// The numbers that were received.
type Heard = Rc<RefCell<Vec<usize>>>;

/// Sends this many events with a name in one piece, and delivers them.
fn burst(main: &MainLoop, server: &Server, name: &str, count: usize) {
    let lines = (1..=count).map(|it| format!("{{\"event\": \"{name}\", \"data\": [{it}]}}\r\n"));
    server.peer.send(lines.collect::<String>().as_bytes());
    main.drain();
}

/// Listeners that are connected within a handler, for names without listeners before.
#[test]
fn listeners_connected_in_a_handler_receive_the_next_event() {
    type Come = fn(&QmpPort, &'static str, &Heard) -> Option<EventStream>;
    fn note(heard: &Heard) -> impl Fn(&QmpPort, &Event) + 'static {
        let heard = heard.clone();
        move |_, event| heard.borrow_mut().push(number(event))
    }
    let ways: [(&'static str, Come); 5] = [
        ("NEW_TO_ALL", |port, _, heard| {
            port.connect_qmp_event(None, note(heard));
            None
        }),
        ("NEW_TO_ONE", |port, name, heard| {
            port.connect_qmp_event(Some(name), note(heard));
            None
        }),
        ("NEW_TO_C", |port, _, heard| {
            let heard = heard.clone();
            port.connect_local("event", false, move |_| {
                let last = heard.borrow().last().copied();
                heard.borrow_mut().push(last.unwrap_or(3) + 1);
                None
            });
            None
        }),
        ("NEW_TO_STREAM", |port, _, _| Some(port.events())),
        ("NEW_TO_ITS_STREAM", |port, name, _| {
            Some(port.events_named([name]))
        }),
    ];
    for (name, come) in ways {
        for first in [None, Some(name)] {
            with_own(|main| {
                let (port, server) = script::ready(main);
                let heard = Heard::default();
                let stream = Rc::<RefCell<Option<EventStream>>>::default();
                let handler = Rc::new(Cell::new(None));
                handler.set(Some(port.connect_qmp_event(first, {
                    let (heard, stream, handler) = (heard.clone(), stream.clone(), handler.clone());
                    move |port, event| {
                        if number(event) == 3 {
                            stream.replace(come(port, name, &heard));
                            // The listeners at the time when it was sent are gone.
                            port.disconnect(handler.take().unwrap());
                        }
                    }
                })));
                burst(main, &server, name, 5);
                if let Some(stream) = &mut *stream.borrow_mut() {
                    let mut context = Context::from_waker(Waker::noop());
                    while let Poll::Ready(Some(event)) = pin!(stream.next()).poll(&mut context) {
                        heard.borrow_mut().push(number(&event));
                    }
                }
                assert_eq!(*heard.borrow(), [4, 5], "{name}, after {first:?}");
            });
        }
    }
}

/// An answer that holds for the rest of a dispatch does not hold for the next one, nor for
/// another name.
#[test]
fn listeners_disconnected_in_a_handler_receive_no_more() {
    with_own(|main| {
        let (port, server) = script::ready(main);
        let (left, stays) = (Heard::default(), Heard::default());
        let handler = Rc::new(Cell::new(None));
        handler.set(Some(port.connect_qmp_event(None, {
            let (left, handler) = (left.clone(), handler.clone());
            move |port, event| {
                left.borrow_mut().push(number(event));
                if number(event) == 2 {
                    port.disconnect(handler.take().unwrap());
                }
            }
        })));
        let notes = stays.clone();
        port.connect_qmp_event(Some("STAYS"), move |_, event| {
            notes.borrow_mut().push(number(event));
        });
        burst(main, &server, "LEFT", 4);
        burst(main, &server, "STAYS", 3);
        burst(main, &server, "LEFT", 4);
        assert_eq!(*left.borrow(), [1, 2]);
        assert_eq!(*stays.borrow(), [1, 2, 3]);
    });
}
