// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tests that each answer reaches the client that asked, and no other, whatever the others do.

use proptest::prelude::*;
use proptest::sample::Index;
use serde_json::{Value, json};
use spice_qmp::qmp::{Server, Version, VersionTriple};
use spice_qmp::transport::{PairPeer, pair};

use super::*;

/// An event in the life of a shared monitor.
#[derive(Debug, Clone, Copy)]
enum Step {
    Connect,
    /// A client sends this many requests in one piece.
    Ask(Index, usize),
    /// A client sends something that is not a request.
    Rubbish(Index, &'static [u8]),
    /// The monitor answers the oldest command that it has.
    Answer(bool),
    Event,
    Leave(Index),
    Run,
}

fn step() -> impl Strategy<Value = Step> {
    let client = any::<Index>;
    let rubbish = prop::sample::select(vec![&b"x "[..], b"]", b"\xFF", b"{} ", b"{\"id\":1}"]);
    prop_oneof![
        2 => Just(Step::Connect),
        6 => (client(), 1..12_usize).prop_map(|(client, count)| Step::Ask(client, count)),
        2 => (client(), rubbish).prop_map(|(client, bytes)| Step::Rubbish(client, bytes)),
        8 => any::<bool>().prop_map(Step::Answer),
        1 => Just(Step::Event),
        1 => client().prop_map(Step::Leave),
        4 => Just(Step::Run),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn no_answer_reaches_another_client(steps in prop::collection::vec(step(), 0..120)) {
        World::run(|world| {
            for step in steps {
                world.take(step);
            }
            world.end();
        });
    }
}

#[test]
fn a_busy_client_waits_for_an_idle_one() {
    World::run(|world| {
        for _ in 0..2 {
            world.take(Step::Connect);
        }
        world.ask(0, MAX_IN_FLIGHT);
        world.take(Step::Run);
        let commands = |world: &World| -> Vec<Value> {
            let requests = world.asked.iter();
            requests
                .map(|it| it["arguments"]["client"].clone())
                .collect()
        };
        assert_eq!(commands(world), vec![json!(0); MAX_IN_FLIGHT]);
        // The first client has more to ask as soon as one request is answered.
        for _ in 0..MAX_IN_FLIGHT {
            world.ask(0, 1);
        }
        world.ask(1, 2);
        world.take(Step::Run);
        for _ in 0..4 {
            world.take(Step::Answer(true));
            world.take(Step::Run);
        }
        let last = commands(world).split_off(MAX_IN_FLIGHT - 4);
        let of_second = last.iter().filter(|it| **it == json!(1)).count();
        assert_eq!(of_second, 2, "{last:?}");
        world.end();
    });
}

#[test]
fn a_client_that_leaves_takes_its_requests_with_it() {
    World::run(|world| {
        for _ in 0..3 {
            world.take(Step::Connect);
        }
        world.ask(0, MAX_IN_FLIGHT);
        world.take(Step::Run);
        world.ask(1, 5);
        world.ask(2, 1);
        world.take(Step::Run);
        world.leave(1);
        world.take(Step::Run);
        world.end();
        let of = |client: usize| {
            let seen = world.seen.iter();
            seen.filter(|it| it["arguments"]["client"] == client)
                .count()
        };
        assert_eq!([of(0), of(1), of(2)], [MAX_IN_FLIGHT, 0, 1]);
    });
}

/// A mock monitor, and clients.
struct World {
    context: glib::MainContext,
    hub: Rc<Hub>,
    monitor: PairPeer,
    /// The incomplete lines of the monitor's input.
    text: Vec<u8>,
    /// The requests that the monitor has not answered, and all that it has seen.
    asked: VecDeque<Value>,
    seen: Vec<Value>,
    clients: Vec<Fellow>,
    events: usize,
}

/// A mock client.
struct Fellow {
    peer: PairPeer,
    text: Vec<u8>,
    /// The requests that were not answered.
    open: VecDeque<Value>,
    count: usize,
    /// How many events there were before it connected, and how many it received.
    events: usize,
    left: bool,
}

impl World {
    fn run(test: impl FnOnce(&mut Self)) {
        let context = glib::MainContext::new();
        let on = context.clone();
        let run = || {
            let (transport, monitor) = pair();
            let port = QmpPort::for_transport(Box::new(transport));
            monitor.open();
            monitor
                .send(b"{\"QMP\":{\"version\":{\"qemu\":{\"major\":9,\"minor\":1,\"micro\":0}},");
            monitor.send(b"\"capabilities\":[]}}\n");
            let qemu = VersionTriple {
                major: 9,
                minor: 1,
                micro: 0,
            };
            let version = Version {
                qemu,
                package: String::new(),
            };
            let greeting = Greeting {
                version,
                capabilities: Vec::new(),
            };
            let mut world = Self {
                hub: Hub::new(&port, greeting, Duration::from_secs(1000)),
                context: on,
                monitor,
                text: Vec::new(),
                asked: VecDeque::new(),
                seen: Vec::new(),
                clients: Vec::new(),
                events: 0,
            };
            world.drain();
            assert!(port.ready());
            test(&mut world);
        };
        context.with_thread_default(run).expect("a new context");
    }

    fn take(&mut self, step: Step) {
        let pick = |index: Index, clients: &[Fellow]| {
            (!clients.is_empty()).then(|| index.index(clients.len()))
        };
        match step {
            Step::Connect => self.connect(),
            Step::Ask(client, count) => {
                if let Some(client) = pick(client, &self.clients) {
                    self.ask(client, count);
                }
            }
            Step::Rubbish(client, bytes) => {
                if let Some(client) = pick(client, &self.clients)
                    && !self.clients[client].left
                {
                    self.clients[client].peer.send(bytes);
                }
            }
            Step::Answer(works) => self.answer(works),
            Step::Event => {
                self.events += 1;
                self.monitor.send(b"{\"event\": \"E\"}\n");
            }
            Step::Leave(client) => {
                if let Some(client) = pick(client, &self.clients) {
                    self.leave(client);
                }
            }
            Step::Run => self.drain(),
        }
    }

    fn connect(&mut self) {
        if !self.hub.has_room() {
            return;
        }
        // Events that were sent before do not count.
        self.drain();
        let (transport, peer) = pair();
        let server = Server::new(&self.hub.greeting);
        let server = QmpServer::for_transport(Box::new(transport), server);
        let hub = self.hub.clone();
        self.context
            .spawn_local(async move { hub.attend(server).await });
        peer.open();
        peer.send(b"{\"execute\":\"qmp_capabilities\"}");
        self.clients.push(Fellow {
            peer,
            text: Vec::new(),
            open: VecDeque::new(),
            count: 0,
            events: self.events,
            left: false,
        });
        self.drain();
    }

    fn ask(&mut self, client: usize, count: usize) {
        let fellow = &mut self.clients[client];
        if fellow.left {
            return;
        }
        let mut bytes = String::new();
        for _ in 0..count {
            fellow.count += 1;
            let arguments = json!({"client": client, "count": fellow.count});
            // Other clients use the same ids.
            let id = fellow.count % 2;
            bytes += &json!({"execute": "a", "arguments": arguments, "id": id}).to_string();
            fellow
                .open
                .push_back(json!({"arguments": arguments, "id": id}));
        }
        fellow.peer.send(bytes.as_bytes());
    }

    fn answer(&mut self, works: bool) {
        let Some(request) = self.asked.pop_front() else {
            return;
        };
        let (id, arguments) = (&request["id"], &request["arguments"]);
        let answer = if works {
            json!({"return": arguments, "id": id})
        } else {
            let desc = arguments.to_string();
            json!({"id": id, "error": {"class": "GenericError", "desc": desc}})
        };
        self.monitor.send(format!("{answer}\n").as_bytes());
    }

    fn leave(&mut self, client: usize) {
        let fellow = &mut self.clients[client];
        fellow.left = true;
        fellow.peer.close("it left");
    }

    /// Delivers everything that can arrive, and checks what the clients receive.
    fn drain(&mut self) {
        while self.context.iteration(false) {}
        self.text.extend(self.monitor.received());
        for line in lines(&mut self.text) {
            let answer = match line["execute"].as_str() {
                Some("qmp_capabilities") => json!({}),
                Some("query-status") => json!({"status": "paused", "running": false}),
                _ => {
                    self.seen.push(line.clone());
                    self.asked.push_back(line);
                    continue;
                }
            };
            let answer = json!({"return": answer, "id": line["id"]});
            self.monitor.send(format!("{answer}\n").as_bytes());
        }
        assert!(self.asked.len() <= MAX_IN_FLIGHT);
        while self.context.iteration(false) {}
        for fellow in &mut self.clients {
            fellow.text.extend(fellow.peer.received());
            for line in lines(&mut fellow.text) {
                fellow.take(&line);
            }
        }
    }

    fn end(&mut self) {
        loop {
            self.drain();
            if self.asked.is_empty() {
                break;
            }
            self.answer(true);
        }
        for fellow in &self.clients {
            assert!(fellow.left || fellow.open.is_empty(), "{:?}", fellow.open);
            assert!(fellow.left || fellow.events == self.events);
        }
        let left = self.clients.iter().filter(|it| it.left).count();
        assert_eq!(self.hub.clients.borrow().len(), self.clients.len() - left);
        assert_eq!(self.hub.in_flight.get(), 0);
    }
}

impl Fellow {
    fn take(&mut self, line: &Value) {
        assert!(!self.left);
        if line.get("QMP").is_some() || *line == json!({"return": {}}) {
            return;
        }
        if line.get("event").is_some() {
            self.events += 1;
            return;
        }
        let desc = line["error"]["desc"].as_str().unwrap_or_default();
        let arguments = match line.get("return") {
            Some(arguments) => arguments.clone(),
            None if desc.contains("client") => serde_json::from_str(desc).expect("arguments"),
            // The tool itself answers rubbish.
            None => return,
        };
        let expected = self.open.pop_front().expect("it asked");
        assert_eq!(json!({"arguments": arguments, "id": line["id"]}), expected);
    }
}

/// Removes the complete lines of a text.
fn lines(text: &mut Vec<u8>) -> Vec<Value> {
    let end = text
        .iter()
        .rposition(|&byte| byte == b'\n')
        .map_or(0, |at| at + 1);
    let whole: Vec<u8> = text.drain(..end).collect();
    let lines = whole.split(|&byte| byte == b'\n');
    lines
        .filter(|line| !line.is_empty())
        .map(|line| serde_json::from_slice(line).expect("JSON"))
        .collect()
}
