// SPDX-License-Identifier: MIT OR Apache-2.0
//! Finding ports on SPICE: servers that are late, full or mute, and searches that are
//! abandoned.
#![cfg(feature = "spice")]

mod common;

use std::cell::RefCell;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use common::main_loop::{MainLoop, with_default};
use common::qemu::{Config, Program, Qemu};
use common::spice::Client;
use gio::prelude::*;
use spice_qmp::{ConnectError, ConnectOptions, Error, PortChannel, QmpPort, UsageError};

fn timed_out(error: Error) -> (String, Duration, &'static str) {
    let Error::TimedOut { what, after, hint } = error else {
        panic!("{error:?}");
    };
    (what.into(), after, hint)
}

/// Without another iteration of the main loop.
#[test]
fn a_port_that_was_found_knows_the_run_state() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let client = Client::new(&qemu);
            let port = main.block_on(QmpPort::find(&client.session)).unwrap();
            assert_eq!(port.status().unwrap().status(), "prelaunch");
            drop(port);
            client.finish(main);
        }
    });
}

#[test]
fn waiting_for_a_server() {
    with_default(|main| {
        for program in Program::all() {
            let folder = tempfile::tempdir_in("/tmp").unwrap();
            for refuses in [false, true] {
                let socket = folder.path().join(format!("{refuses}.sock"));
                if refuses {
                    drop(UnixListener::bind(&socket).unwrap());
                }
                let client = Client::to(&format!("spice+unix://{}", socket.display()));
                let options = ConnectOptions::new()
                    .wait(true)
                    .timeout(Duration::from_secs(20));
                let short = options.clone().timeout(Duration::from_millis(50));
                let end = main.block_on(QmpPort::find_with(&client.session, short));
                let (what, ..) = timed_out(end.unwrap_err());
                let why = if refuses { "refused" } else { "No such file" };
                assert!(what.contains(why), "{what}");

                let session = client.session.clone();
                let find = main.spawn(async move { QmpPort::find_with(session, options).await });
                main.run_for(Duration::from_millis(50));
                assert!(!find.is_done());
                let qemu = Config::new().spice_unix(&socket).start(&program);
                let port = main.join("the port", &find).unwrap();
                assert!(port.ready());
                drop(port);
                client.finish(main);
                drop(qemu);
            }
        }
    });
}

#[test]
fn a_full_queue_is_tried_again() {
    with_default(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let path = folder.path().join("full.sock");
        let socket = gio::Socket::new(
            gio::SocketFamily::Unix,
            gio::SocketType::Stream,
            gio::SocketProtocol::Default,
        )
        .unwrap();
        socket
            .bind(&gio::UnixSocketAddress::new(&path), false)
            .unwrap();
        socket.set_listen_backlog(0);
        socket.listen().unwrap();
        let _first = UnixStream::connect(&path).unwrap();
        let client = Client::to(&format!("spice+unix://{}", path.display()));
        let session = client.session.clone();
        let find = main.spawn(async move { QmpPort::find(session).await });
        main.run_for(Duration::from_millis(50));
        assert!(!find.is_done());
        // Its turn comes, and its connection ends.
        drop(socket.accept(gio::Cancellable::NONE).unwrap());
        socket.set_blocking(false);
        main.until("the end", || {
            drop(socket.accept(gio::Cancellable::NONE));
            find.is_done()
        });
        let end = find.take();
        assert!(
            matches!(end, Err(Error::Connect(ConnectError::Unreachable { .. }))),
            "{end:?}"
        );
        client.finish(main);
    });
}

#[test]
fn a_path_that_is_too_long() {
    with_default(|main| {
        let folder = tempfile::tempdir_in("/tmp").unwrap();
        let short = folder
            .path()
            .join("s".repeat(106 - folder.path().as_os_str().len()));
        let stranger = UnixListener::bind(&short).unwrap();
        stranger.set_nonblocking(true).unwrap();
        let client = Client::to(&format!("spice+unix://{}2", short.display()));
        let error = main.block_on(QmpPort::find(&client.session)).unwrap_err();
        assert!(
            matches!(error, Error::Usage(UsageError::InvalidArgument(_))),
            "{error:?}"
        );
        let names = QmpPort::port_names(&client.session, Duration::from_secs(10));
        let error = main.block_on(names).unwrap_err();
        assert!(error.to_string().contains("at most 107"), "{error}");
        assert!(stranger.accept().is_err());
        client.finish(main);
    });
}

#[test]
fn a_host_that_has_no_address() {
    with_default(|main| {
        let client = Client::to("spice://no-such-host.invalid:1");
        let error = main.block_on(QmpPort::find(&client.session)).unwrap_err();
        let error = glib::Error::from(error);
        assert!(error.is::<gio::ResolverError>(), "{error:?}");
        client.finish(main);
    });
}

/// QEMU answers nothing on SPICE while the machine is in such a state.
#[test]
fn a_port_that_is_mute() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new()
                .arg("-no-reboot")
                .arg("-no-shutdown")
                .running()
                .start(&program);
            let mut monitor = qemu.monitor();
            monitor.execute("system_reset", None).unwrap();
            let state = monitor.execute("query-status", None).unwrap();
            assert_eq!(state["status"], "shutdown");

            let client = Client::new(&qemu);
            let timeout = Duration::from_millis(700);
            let found = main.block_on(QmpPort::find_within(&client.session, timeout));
            let (what, after, hint) = timed_out(found.unwrap_err());
            // It may have been greeted before the port was attached, so it is probed.
            let whats = ["the QMP greeting", "the QMP negotiation"];
            assert!(whats.contains(&&*what), "{what}");
            assert_eq!(after, timeout);
            assert!(hint.contains("resume it over another monitor"), "{hint}");
            client.finish(main);
        }
    });
}

/// Takes one client after the other through the SPICE handshake to its only channel, the
/// main channel. It reads no ticket, so its key need not be valid.
fn main_channel_only(listener: &TcpListener) {
    const INIT: u16 = 103;
    const CHANNELS_LIST: u16 = 104;
    fn message(stream: &mut TcpStream, kind: u16, body: &[u32]) {
        let mut bytes = 1_u64.to_le_bytes().to_vec();
        bytes.extend(kind.to_le_bytes());
        bytes.extend(u32::try_from(body.len() * 4).unwrap().to_le_bytes());
        bytes.extend(0_u32.to_le_bytes());
        bytes.extend(body.iter().flat_map(|word| word.to_le_bytes()));
        stream.write_all(&bytes).unwrap();
    }
    for stream in listener.incoming() {
        let mut stream = stream.unwrap();
        let mut header = [0; 16];
        if stream.read_exact(&mut header).is_err() {
            return;
        }
        let size = u32::from_le_bytes(header[12..].try_into().unwrap());
        stream.read_exact(&mut vec![0; size as usize]).unwrap();

        // An RSA key of 1024 bits in DER.
        let mut key = vec![
            0x30, 0x81, 0x9f, 0x30, 0x0d, 6, 9, 0x2a, 0x86, 0x48, 0x86, 0xf7,
        ];
        key.extend([
            0x0d, 1, 1, 1, 5, 0, 3, 0x81, 0x8d, 0, 0x30, 0x81, 0x89, 2, 0x81, 0x81, 0,
        ]);
        key.extend([0xc5; 128]);
        key.extend([2, 3, 1, 0, 1]);
        let mut reply = b"REDQ".to_vec();
        reply.extend([2_u32, 2, 178].iter().flat_map(|word| word.to_le_bytes()));
        reply.extend(0_u32.to_le_bytes());
        reply.extend(&key);
        reply.extend([0_u32, 0, 178].iter().flat_map(|word| word.to_le_bytes()));
        stream.write_all(&reply).unwrap();
        stream.read_exact(&mut [0; 128]).unwrap();
        stream.write_all(&0_u32.to_le_bytes()).unwrap();

        message(&mut stream, INIT, &[1, 0, 1, 1, 0, 0, 0, 0]);
        // The request for the list.
        stream.read_exact(&mut [0; 18]).unwrap();
        message(&mut stream, CHANNELS_LIST, &[0]);
        let _ = stream.read_to_end(&mut Vec::new());
    }
}

#[test]
fn a_server_with_nothing_but_a_main_channel() {
    with_default(|main| {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = thread::spawn(move || main_channel_only(&listener));
        let client = Client::to(&format!("spice://{address}"));
        // On a session that it connects, and on a connected one.
        for _ in 0..2 {
            let found = main.block_on(QmpPort::find(&client.session));
            assert_eq!(found.unwrap_err(), ConnectError::NoPort.into());
        }
        let names = QmpPort::port_names(&client.session, Duration::from_secs(10));
        assert_eq!(main.block_on(names).unwrap(), [""; 0]);
        client.finish(main);
        drop(TcpStream::connect(address).unwrap());
        server.join().unwrap();
    });
}

/// Whether QEMU still answers.
#[track_caller]
fn assert_alive(qemu: &Qemu, what: &str) {
    let mut monitor = qemu.monitor();
    let answer = monitor.execute("query-status", None);
    assert!(answer.is_ok(), "QEMU died: {what}: {answer:?}");
}

fn is_named(client: &Client) -> bool {
    let mut ports = client.ports().into_iter();
    ports.any(|port| port.port_name().is_some())
}

/// A moment to drop a search: this many iterations of the main loop after an event.
#[derive(Debug, Clone, Copy)]
struct Moment {
    what: &'static str,
    has_come: HasCome,
    turns: u32,
}

type HasCome = fn(&Client) -> bool;

impl Moment {
    fn all() -> impl Iterator<Item = Self> {
        let stages: [(_, HasCome); 4] = [
            ("the start", |_| true),
            ("the channels are known", |client| {
                client.session.channels().len() > 1
            }),
            ("the port is named", is_named),
            ("the port is open", |client| {
                client.ports().iter().any(PortChannel::is_port_opened)
            }),
        ];
        stages.into_iter().flat_map(|(what, has_come)| {
            (0..16).map(move |turns| Self {
                what,
                has_come,
                turns,
            })
        })
    }

    /// Polls `search` until this moment. Returns its result if it has ended before.
    fn reach<T>(
        &self,
        main: &MainLoop,
        client: &Client,
        mut search: Pin<&mut impl Future<Output = T>>,
    ) -> Option<T> {
        let mut ended = None;
        let mut poll = || {
            let mut cx = Context::from_waker(Waker::noop());
            if ended.is_none()
                && let Poll::Ready(found) = search.as_mut().poll(&mut cx)
            {
                ended = Some(found);
            }
            ended.is_some()
        };
        main.until(self.what, || poll() || (self.has_come)(client));
        for _ in 0..self.turns {
            if poll() {
                break;
            }
            main.context().iteration(false);
            thread::yield_now();
        }
        ended
    }
}

/// QEMU freezes or crashes if a client disconnects before it has answered. A search that
/// is dropped at any moment leaves a session that can be settled.
#[test]
fn a_search_that_is_dropped() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            for moment in Moment::all() {
                let client = Client::new(&qemu);
                let mut search = Box::pin(QmpPort::find(client.session.clone()));
                moment.reach(main, &client, search.as_mut());
                drop(search);
                main.block_on(QmpPort::settle(&client.session));
                leave(main, client);
                assert_alive(&qemu, &format!("{moment:?}"));
            }
        }
    });
}

/// If the program does not settle it, a source on the default context does: it completes
/// what the search has begun.
#[test]
fn a_search_that_is_dropped_settles_by_itself() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            for moment in Moment::all() {
                let client = Client::new(&qemu);
                let mut search = Box::pin(QmpPort::find(client.session.clone()));
                moment.reach(main, &client, search.as_mut());
                // It knows the channels of the server.
                let begun = client.session.channels().len() > 1;
                drop(search);
                if begun {
                    main.until("the port's name", || is_named(&client));
                    let port = QmpPort::get(client.ports().remove(0));
                    main.until("the answers", || {
                        port.status().is_some() && port.pending() == 0
                    });
                }
                leave(main, client);
                assert_alive(&qemu, &format!("{moment:?}"));
            }
        }
    });
}

/// Ends the session. spice-gtk does not release one that was just being connected.
fn leave(main: &MainLoop, client: Client) {
    client.session.disconnect();
    drop(client);
    main.drain();
}

/// A future that ends when a test says so.
#[derive(Clone, Default)]
struct Cancel(Rc<RefCell<(bool, Option<Waker>)>>);

impl Cancel {
    fn cancel(&self) {
        let waker = {
            let mut inner = self.0.borrow_mut();
            inner.0 = true;
            inner.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    async fn cancelled(self) {
        poll_fn(|cx| {
            let mut inner = self.0.borrow_mut();
            if inner.0 {
                return Poll::Ready(());
            }
            inner.1 = Some(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// When it has ended, the session may be disconnected at once.
#[test]
fn a_search_that_is_cancelled() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().start(&program);
            let mut cancelled = 0;
            for moment in Moment::all() {
                let client = Client::new(&qemu);
                let cancel = Cancel::default();
                let mut find = Box::pin(QmpPort::find_cancellable(
                    client.session.clone(),
                    ConnectOptions::new(),
                    cancel.clone().cancelled(),
                ));
                let ended = moment.reach(main, &client, find.as_mut());
                cancel.cancel();
                match ended.unwrap_or_else(|| main.block_on(find)) {
                    Err(Error::Cancelled(_)) => cancelled += 1,
                    found => drop(found.unwrap()),
                }
                leave(main, client);
                assert_alive(&qemu, &format!("{moment:?}"));
            }
            assert!(cancelled > 0, "all searches were faster");
        }
    });
}
