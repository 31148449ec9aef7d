// SPDX-License-Identifier: MIT OR Apache-2.0
//! Clients of a server, each a process of its own that is controlled line by line:
//! `client.c`, and this program for those in Rust.

use std::cell::Cell;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::rc::Rc;

use futures_util::StreamExt;
use glib::prelude::*;
use qapi::futures::{QmpStreamNegotiation, QmpStreamTokio};
use serde::Serialize;
use spice_qmp::{CallOptions, QmpPort};

use crate::measure::both_of;
use crate::server::{Guard, Server, compile, guarded, near};
use crate::subjects::connect;

/// A kind of client.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Client {
    /// This project's C library in place of spice-gtk's helper.
    Ours,
    /// spice-gtk's helper.
    Helper,
    /// Another one of `client.c`, by its name there.
    C(&'static str),
    /// One of this program, by its name in [`serve`].
    Rust(&'static str),
}

/// A running, connected client.
pub struct Peer {
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    _child: Guard,
    _server: Server,
}

impl Peer {
    /// Starts a client, which listens to this signal.
    pub fn start(client: Client, server: Server, signal: Option<&str>) -> Result<Self, String> {
        let in_c = || compile("client", "spice-client-glib-2.0");
        let (program, who) = match client {
            Client::Rust(name) => (near("spice-qmp-bench"), vec!["--client", name]),
            Client::C(name) => (in_c()?, vec![name]),
            Client::Ours | Client::Helper => (in_c()?, vec!["port"]),
        };
        let mut command = Command::new(program);
        command.args(who).arg(&server.address).args(signal);
        let mut command = guarded(&command);
        if client == Client::Ours {
            let library = near("libspice_qmp_1.so");
            if !library.exists() {
                return Err("no C library: cargo build --release -p spice-qmp-c".into());
            }
            command.env("LD_PRELOAD", library);
        }
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().map_err(|error| error.to_string())?;
        let mut peer = Self {
            input: child.stdin.take().expect("a pipe was asked for"),
            output: BufReader::new(child.stdout.take().expect("a pipe was asked for")),
            _child: Guard(child),
            _server: server,
        };
        match peer.line().as_str() {
            "ready" => Ok(peer),
            _ => Err("the client does not start".into()),
        }
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        let _ = self.output.read_line(&mut line);
        line.trim().to_owned()
    }

    /// Lets it do a task, and returns its two figures.
    pub fn run(&mut self, task: &str, count: usize, in_flight: usize) -> Result<Vec<f64>, String> {
        let _ = writeln!(self.input, "{task} {count} {in_flight}");
        let line = self.line();
        let figures: Option<_> = line.split(' ').map(|figure| figure.parse().ok()).collect();
        figures.ok_or_else(|| format!("it ended in {task:?}"))
    }
}

/// Does a task this often, with this many in flight.
type Do = Box<dyn FnMut(&str, usize, usize)>;

/// Plays one of the clients.
pub fn serve(name: &str, path: &str, signal: Option<&str>) {
    let mut client = match name {
        "ours" => ours(path, signal),
        "blocking" => blocking(path),
        "tokio" => tokio(path),
        _ => panic!("no such client: {name}"),
    };
    println!("ready");
    for line in std::io::stdin().lines() {
        let line = line.expect("a line");
        let [task, count, in_flight] = line.split(' ').collect::<Vec<_>>()[..] else {
            panic!("a task: {line}");
        };
        let [count, in_flight] = [count, in_flight].map(|text| text.parse().expect("a number"));
        let [wall, cpu] = both_of(count, || client(task, count, in_flight));
        println!("{wall} {cpu}");
    }
}

fn ours(path: &str, signal: Option<&str>) -> Do {
    fn ask(port: &QmpPort, unsent: &Rc<Cell<usize>>, unanswered: &Rc<Cell<usize>>) {
        let Some(rest) = unsent.get().checked_sub(1) else {
            return;
        };
        unsent.set(rest);
        let (again, unsent, unanswered) = (port.clone(), unsent.clone(), unanswered.clone());
        port.execute_with(
            "query-status",
            None,
            CallOptions::default(),
            move |result| {
                result.expect("a reply");
                unanswered.set(unanswered.get() - 1);
                ask(&again, &unsent, &unanswered);
            },
        );
    }
    let context = glib::MainContext::default();
    let port = context
        .block_on(QmpPort::open(&format!("unix:{path}")))
        .expect("a server");
    let heard = signal.map(|signal| connect(port.upcast_ref(), signal));
    Box::new(move |task, count, in_flight| {
        let unanswered = Rc::new(Cell::new(if task == "storm" { 1 } else { count }));
        if task == "storm" {
            let ended = unanswered.clone();
            let arguments = format!(r#"{{"count":{count}}}"#);
            let options = CallOptions::default();
            port.execute_with("bench-storm", Some(&arguments), options, move |result| {
                result.expect("a reply");
                ended.set(0);
            });
        } else {
            let unsent = Rc::new(Cell::new(count));
            for _ in 0..in_flight {
                ask(&port, &unsent, &unanswered);
            }
        }
        let before = heard.as_ref().map(|heard| heard.get());
        while unanswered.get() > 0 {
            context.iteration(true);
        }
        if let (Some(heard), Some(before)) = (&heard, before) {
            assert_eq!(heard.get() - before, count as u64, "lost events");
        }
    })
}

/// A blocking socket without QMP, which counts lines.
fn blocking(path: &str) -> Do {
    const REQUEST: &[u8] = br#"{"execute":"query-status","id":1000000}"#;
    let mut stream = UnixStream::connect(path).expect("a server");
    let mut buffer = vec![0; 64 << 10];
    let mut lines = {
        let mut stream = stream.try_clone().expect("a socket");
        move || {
            let size = stream.read(&mut buffer).expect("a server");
            assert_ne!(size, 0, "the server left");
            memchr::memchr_iter(b'\n', &buffer[..size]).count()
        }
    };
    assert_eq!(lines(), 1, "a greeting");
    let negotiate = br#"{"execute":"qmp_capabilities"}"#;
    stream.write_all(negotiate).expect("a server");
    assert_eq!(lines(), 1, "a reply");
    Box::new(move |_, count, in_flight| {
        let (mut unsent, mut unanswered, mut due) = (count, count, in_flight.min(count));
        while unanswered > 0 {
            for _ in 0..due {
                stream.write_all(REQUEST).expect("a server");
            }
            unsent -= due;
            let answered = lines();
            unanswered -= answered;
            due = answered.min(unsent);
        }
    })
}

/// A command of the responders: they send this many events before they answer.
#[derive(Debug, Clone, Serialize)]
struct Storm {
    count: usize,
}

impl qapi::Command for Storm {
    type Ok = qapi::Empty;

    const NAME: &'static str = "bench-storm";
    const ALLOW_OOB: bool = false;
}

impl qapi::qmp::QmpCommand for Storm {}

/// qapi-rs.
fn tokio(path: &str) -> Do {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = { runtime }.enable_io().build().expect("a runtime");
    let (service, mut events) = runtime.block_on(async {
        let stream = QmpStreamTokio::open_uds(path).await.expect("a server");
        let stream: QmpStreamNegotiation<_, _> = stream;
        stream.negotiate().await.expect("a server").into_parts()
    });
    Box::new(move |task, count, in_flight| {
        let mut heard = 0;
        runtime.block_on(async {
            let storm = task == "storm";
            let work = async {
                if storm {
                    service.execute(Storm { count }).await.expect("a reply");
                    return;
                }
                let questions = (0..count).map(|_| service.execute(qapi::qmp::query_status {}));
                let replies = futures_util::stream::iter(questions).buffer_unordered(in_flight);
                replies
                    .for_each(async |reply| {
                        reply.expect("a reply");
                    })
                    .await;
            };
            let mut work = std::pin::pin!(work);
            loop {
                tokio::select! {
                    biased;
                    event = events.next() => {
                        event.expect("an event").expect("an event");
                        heard += 1;
                    }
                    () = &mut work => break,
                }
            }
            assert_eq!(heard, if storm { count } else { 0 }, "lost events");
        });
    })
}
