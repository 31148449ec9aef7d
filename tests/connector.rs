// SPDX-License-Identifier: MIT OR Apache-2.0
//! The connector: any address with one call, passwords on request, and ports that
//! reconnect.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::dbus::{Bus, with_monitor};
use common::main_loop::{MainLoop, PATIENCE, at_home, with_default, with_own};
use common::qemu::{Config, Program, Qemu};
use common::script::{GREETING, Request, running};
use common::spice::Sessions;
use glib::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{ConnectError, Connector, Error, PeerError, PortState, QmpPort, UsageError};

const SOON: Duration = Duration::from_millis(20);

fn builder(address: &str) -> spice_qmp::ConnectorBuilder {
    Connector::builder(address).reconnect(SOON)
}

fn folder() -> tempfile::TempDir {
    // Not TMPDIR: the path of a Unix socket must stay under 108 bytes.
    tempfile::tempdir_in("/tmp").expect("a folder in /tmp is needed: make /tmp writable")
}

fn open_files() -> usize {
    fs::read_dir("/proc/self/fd").expect("Linux").count()
}

/// A QEMU for every transport, which restarts at the same addresses.
struct Place {
    folder: tempfile::TempDir,
    bus: Bus,
}

impl Place {
    fn new() -> Self {
        Self {
            folder: folder(),
            bus: Bus::start(),
        }
    }

    fn start(&self, program: &Program) -> Qemu {
        let config = with_monitor(self.bus.qemu(), "q", "org.qemu.monitor.qmp.0", "control");
        let qmp = format!("unix:{},server=on,wait=off", self.path("q").display());
        let config = config.arg("-qmp").arg(qmp).spice_unix(self.path("s"));
        self.bus.start_qemu(config, program)
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    fn addresses(&self) -> [String; 3] {
        [
            format!("unix:{}", self.path("q").display()),
            format!("spice+unix://{}", self.path("s").display()),
            format!("dbus:address={}", self.bus.address()),
        ]
    }
}

#[test]
fn one_call_for_all_addresses() {
    with_default(|main| {
        for program in Program::all() {
            let place = Place::new();
            let _qemu = place.start(&program);
            let mut files = None;
            for address in place.addresses() {
                let connector = Connector::builder(&address).build();
                assert_eq!(connector.address().as_deref(), Some(&*address));
                // It can be used again.
                for _ in 0..2 {
                    let port = main.block_on(connector.open()).unwrap();
                    assert_eq!(port.status().unwrap().status(), "prelaunch", "{address}");
                    assert!(port.channel().is_none(), "no channel owns it");
                    assert_eq!(port.reconnect(), 0);
                    main.block_on(port.execute::<Value>("query-name", ()))
                        .unwrap();
                    main.block_on(port.close());
                }
                let port = main.block_on(QmpPort::open(&address)).unwrap();
                let call = port.execute::<Value>("query-qmp-schema", ());
                // A dropped port also waits until QEMU, which owes an answer, has sent it.
                drop((call, port));
                let opened = main.block_on(connector.clone().open());
                drop(opened.unwrap());
                main.drain();
                let files = *files.get_or_insert_with(open_files);
                main.until("nothing is left of them", || open_files() <= files);
            }
        }
    });
}

/// Restarts of QEMU.
const RESTARTS: usize = 50;

#[test]
fn ports_outlive_many_qemus() {
    with_default(|main| {
        let programs = Program::all();
        let place = Place::new();
        let mut qemu = place.start(&programs[0]);
        let ports = place.addresses().map(|address| {
            let port = main.block_on(builder(&address).build().open()).unwrap();
            assert_eq!(port.reconnect(), 20);
            port
        });
        let states = Rc::new(RefCell::new(Vec::new()));
        for port in &ports {
            let states = states.clone();
            port.connect_state_notify(move |port| states.borrow_mut().push(port.state()));
        }
        let mut files = 0;
        let sessions = Sessions::watch();
        let turns = main.turns();
        for restart in 0..RESTARTS {
            let pending = ports
                .each_ref()
                .map(|port| main.spawn(port.execute::<Value>("query-qmp-schema", ())));
            qemu.kill();
            for (port, pending) in ports.iter().zip(pending) {
                let ended = main.join("a pending call ends", &pending);
                assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
                main.until("it connects", || port.state() == PortState::Connecting);
                let refused = main.block_on(port.execute::<Value>("query-name", ()));
                assert!(
                    matches!(refused, Err(Error::Usage(UsageError::NotReady { .. }))),
                    "{refused:?}"
                );
                assert!(port.status().is_none());
            }
            let ready = ports
                .each_ref()
                .map(|port| main.spawn(port.wait_ready_within(PATIENCE)));
            // Long enough for an attempt: the pauses after a server has exited, and did not just
            // end the connection, stay short.
            main.run_for(Duration::from_millis(100));
            drop(qemu);
            qemu = place.start(&programs[restart % programs.len()]);
            for (port, ready) in ports.iter().zip(ready) {
                main.join("it is back", &ready).unwrap();
                main.until("its state", || port.status().is_some());
            }
            if restart == 4 {
                files = open_files();
            }
        }
        main.until("no file is left", || open_files() <= files);
        assert!(sessions.count() >= RESTARTS);
        assert_eq!(sessions.left(), 1);
        // It waits for its time, without polling. (One iteration each 5 ms is the
        // test's own.)
        let turns = main.turns() - turns;
        assert!(turns < RESTARTS * 5_000, "{turns} turns");
        assert!(!states.borrow().contains(&PortState::Failed));
        for port in &ports {
            main.block_on(port.close());
            assert_eq!(port.state(), PortState::Closed);
        }
        qemu.kill();
        drop(qemu);
        let _qemu = place.start(&programs[0]);
        let files = open_files();
        main.run_for(Duration::from_millis(300));
        for port in &ports {
            assert_eq!(port.state(), PortState::Closed, "it ends with close");
        }
        assert!(open_files() <= files);
    });
}

/// Connects a port whose password is asked for; the answers come one after the other.
fn open_with_answers(
    main: &MainLoop,
    connector: &Connector,
    answers: &'static [Option<&'static str>],
) -> (Result<QmpPort, Error>, Vec<bool>) {
    let asked = Rc::new(RefCell::new(Vec::new()));
    let handler = connector.connect_need_password({
        let asked = asked.clone();
        move |connector, retry| {
            let number = asked.borrow().len();
            asked.borrow_mut().push(retry);
            let answer = answers[number];
            let connector = connector.clone();
            if number == 0 {
                return connector.answer(answer);
            }
            // As a dialog does.
            glib::timeout_add_local_once(Duration::from_millis(5), move || {
                connector.answer(answer);
            });
        }
    });
    let opened = main.block_on(connector.open());
    connector.disconnect(handler);
    let asked = asked.take();
    (opened, asked)
}

#[test]
fn a_password_is_asked_for_until_it_is_right() {
    with_default(|main| {
        for program in Program::all() {
            let qemu = Config::new().spice_tcp_password("geheim").start(&program);
            let connector = Connector::builder(&qemu.spice_uri()).build();
            // No handler is connected.
            let refused = main.block_on(connector.open());
            assert!(
                matches!(
                    refused,
                    Err(Error::Connect(ConnectError::Authentication(_)))
                ),
                "{refused:?}"
            );
            connector.answer(Some("geheim"));

            let answers = &[Some("falsch"), Some("falscher"), Some("geheim")];
            let (opened, asked) = open_with_answers(main, &connector, answers);
            assert_eq!(asked, [false, true, true]);
            main.block_on(opened.unwrap().close());

            // The answers are not kept.
            let (refused, asked) = open_with_answers(main, &connector, &[Some("falsch"), None]);
            assert_eq!(asked, [false, true]);
            let refused: glib::Error = refused.unwrap_err().into();
            assert!(refused.matches(gio::IOErrorEnum::PermissionDenied));

            connector.set_password(Some("falsch"));
            let (opened, asked) = open_with_answers(main, &connector, &[Some("geheim")]);
            assert_eq!(asked, [true]);
            main.block_on(opened.unwrap().close());

            connector.set_password(Some("geheim"));
            let (opened, asked) = open_with_answers(main, &connector, &[]);
            assert!(asked.is_empty());
            main.block_on(opened.unwrap().close());
        }
    });
}

/// Drops a future that is under way.
fn give_up<T>(future: glib::JoinHandle<T>) {
    future.abort();
    // It is dropped only together with its handle.
    drop(future);
}

/// One question at a time, so that no server gets the answer meant for another one.
#[test]
fn calls_that_need_a_password_ask_one_after_the_other() {
    with_default(|main| {
        let program = Program::system();
        let qemus = ["one", "two"].map(|it| Config::new().spice_tcp_password(it).start(&program));
        let connector = Connector::new();
        let asked = Rc::new(Cell::new(0));
        connector.connect_need_password({
            let asked = asked.clone();
            move |_, _| asked.set(asked.get() + 1)
        });
        let opens = qemus.each_ref().map(|qemu| {
            connector.set_address(Some(qemu.spice_uri()));
            let open = main.spawn(connector.open());
            main.until("a question, or that it waits for its turn", || {
                asked.get() > 0
            });
            open
        });
        connector.answer(Some("one"));
        main.until("the next question", || asked.get() == 2);
        connector.answer(Some("two"));
        for open in &opens {
            let port = main.join("it is open", open).unwrap();
            main.block_on(port.close());
        }
        assert_eq!(asked.get(), 2);
        connector.answer(Some("late"));

        // A withdrawn question is not answered, and the next one is asked.
        let given_up = glib::MainContext::default().spawn_local(connector.open());
        main.until("the question", || asked.get() == 3);
        let other = main.spawn(connector.open());
        main.run_for(Duration::from_millis(100));
        assert_eq!(asked.get(), 3);
        give_up(given_up);
        main.until("the next question", || asked.get() == 4);
        connector.answer(None);
        let refused = main.join("it has ended", &other);
        assert!(matches!(
            refused,
            Err(Error::Connect(ConnectError::Authentication(_)))
        ));
    });
}

/// A reconnecting port logs in with the accepted password, and does not ask.
#[test]
fn a_refused_login_ends_a_port_for_good() {
    with_default(|main| {
        let program = Program::system();
        let qemu = Config::new().spice_tcp_password("geheim").start(&program);
        let connector = builder(&qemu.spice_uri()).build();
        let (opened, _) = open_with_answers(main, &connector, &[Some("geheim")]);
        let port = opened.unwrap();
        let mut outside = qemu.monitor();
        let change = json!({
            "protocol": "spice", "password": "neu", "connected": "disconnect"
        });
        // The client is disconnected, and the ticket has changed.
        outside.execute("set_password", Some(change)).unwrap();
        main.until("its end, and why", || {
            let error = port.last_error();
            error.is_some_and(|error| error.matches(gio::IOErrorEnum::PermissionDenied))
        });
        assert_eq!(port.state(), PortState::Closed);
        let waited = main.block_on(port.wait_ready());
        assert!(matches!(
            waited,
            Err(Error::Connect(ConnectError::Authentication(_)))
        ));
        main.block_on(port.close());
    });
}

/// Answers as a QMP server does, until the client disconnects.
fn serve_qmp(stream: &UnixStream) {
    let mut lines = BufReader::new(stream.try_clone().unwrap());
    let mut writer = stream;
    let mut line = format!("{GREETING}\r\n");
    // The client may be gone.
    while writer.write_all(line.as_bytes()).is_ok() {
        let mut request = String::new();
        if lines.read_line(&mut request).unwrap_or(0) == 0 {
            return;
        }
        let request = Request::parse(&request);
        let value = match &*request.command {
            "query-status" => running(),
            "quit" => return,
            _ => json!({}),
        };
        line = format!("{}\r\n", json!({ "return": value, "id": request.id }));
    }
}

/// Serves one client after the other, the first one with QMP; counts them.
struct Server {
    path: PathBuf,
    count: Arc<AtomicUsize>,
    ended: Arc<AtomicBool>,
    thread: Option<thread::JoinHandle<()>>,
}

impl Server {
    fn start(path: &Path, others: impl Fn(UnixStream) + Send + 'static) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let (count, ended) = (Arc::<AtomicUsize>::default(), Arc::<AtomicBool>::default());
        let thread = thread::spawn({
            let (count, ended) = (count.clone(), ended.clone());
            move || {
                for stream in listener.incoming() {
                    if ended.load(Ordering::Relaxed) {
                        return;
                    }
                    if count.fetch_add(1, Ordering::Relaxed) == 0 {
                        serve_qmp(&stream.unwrap());
                    } else {
                        others(stream.unwrap());
                    }
                }
            }
        });
        Self {
            path: path.into(),
            count,
            ended,
            thread: Some(thread),
        }
    }

    fn clients(&self) -> usize {
        self.count.load(Ordering::Relaxed)
    }
}

/// Other tests of this program count open files.
impl Drop for Server {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
        drop(UnixStream::connect(&self.path));
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

#[test]
fn what_is_no_qmp_ends_a_port_for_good() {
    with_own(|main| {
        let folder = folder();
        let path = folder.path().join("q");
        let server = Server::start(&path, |mut stream| {
            let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.9\r\n");
        });
        let connector = builder(&format!("unix:{}", path.display())).build();
        let port = main.block_on(at_home(|| connector.open())).unwrap();
        let _ = main.block_on(port.execute::<Value>("quit", ()));
        main.until("its end", || port.state() == PortState::Closed);
        let error = main.block_on(port.wait_ready()).unwrap_err();
        assert!(
            matches!(error, Error::Peer(PeerError::NoGreeting(_))),
            "{error:?}"
        );
        assert_eq!(server.clients(), 2);
        main.block_on(port.close());
    });
}

/// The pauses grow, although each connection succeeds at once.
#[test]
fn a_server_that_ends_every_connection_is_tried_with_growing_pauses() {
    with_own(|main| {
        let folder = folder();
        let path = folder.path().join("q");
        let server = Server::start(&path, drop);
        let connector = builder(&format!("unix:{}", path.display())).build();
        let port = main.block_on(at_home(|| connector.open())).unwrap();
        let _ = main.block_on(port.execute::<Value>("quit", ()));
        let attempts = || server.clients();
        main.until("some attempts", || attempts() > 3);
        let before = attempts();
        main.run_for(Duration::from_secs(1));
        // After pauses of at least 10, 20, 40 ... 640 ms.
        assert!(attempts() - before <= 7, "{} attempts", attempts() - before);
        // Perhaps in the midst of an attempt now.
        main.until("a pause", || port.state() == PortState::Connecting);
        main.block_on(port.close());
        main.drain();
        let ended = attempts();
        main.run_for(Duration::from_millis(700));
        assert_eq!(attempts(), ended, "it ends with close");
        // Dropping the port ends it, too.
        let (refused, weak) = (main.block_on(connector.open()), port.downgrade());
        assert!(matches!(refused, Err(Error::Closed(_))), "{refused:?}");
        drop(port);
        main.drain();
        assert!(weak.upgrade().is_none());
    });
}

/// No objects of spice-gtk are left either, however a session ends.
#[test]
fn nothing_is_left_of_a_hundred_sessions() {
    with_default(|main| {
        let qemu = Config::new().start(&Program::system());
        let sessions = Sessions::watch();
        let connector = builder(&qemu.spice_uri()).build();
        for number in 0..100 {
            let before = sessions.count();
            let open = glib::MainContext::default().spawn_local(connector.open());
            match number % 4 {
                // Dropped at once, or while connecting.
                0 => give_up(open),
                1 => {
                    main.until("a session", || sessions.count() > before);
                    give_up(open);
                }
                2 => drop(main.block_on(open).unwrap().unwrap()),
                _ => {
                    let port = main.block_on(open).unwrap().unwrap();
                    let call = port.execute::<Value>("query-qmp-schema", ());
                    let closed = main.spawn(async move { port.close().await });
                    main.block_on(call).unwrap();
                    main.join("it is closed", &closed);
                }
            }
            // The next client would disconnect this one.
            main.until("nothing is left", || sessions.left() == 0);
        }
        assert!(sessions.count() >= 75);
        // QEMU still answers: none of them harmed it.
        let port = main.block_on(connector.open()).unwrap();
        main.block_on(port.close());
        main.until("nothing is left", || sessions.left() == 0);
    });
}

/// spice-gtk frees a session only if it is disconnected at certain moments.
#[test]
fn nothing_is_left_of_a_session_that_is_given_up_in_any_iteration() {
    with_default(|main| {
        let folder = folder();
        let path = folder.path().join("s");
        let config = Config::new().spice_unix(&path);
        let _unix = config.start(&Program::system());
        let config = Config::new().spice_tcp_password("secret");
        let tcp = config.start(&Program::system());
        let addresses = [
            format!("spice+unix://{}", path.display()),
            // A thread resolves the name.
            tcp.spice_uri().replace("127.0.0.1", "localhost"),
        ];
        let sessions = Sessions::watch();
        for address in &addresses {
            let connector = builder(address).password("secret").build();
            for (iterations, is_busy) in (0..60).flat_map(|it| [(it, false), (it, true)]) {
                let before = sessions.count();
                let open = main.context().spawn_local(connector.open());
                main.until("a session", || sessions.count() > before);
                for _ in 0..iterations {
                    main.turn();
                }
                give_up(open);
                if is_busy {
                    // For a while GLib runs no idle source, and spice-gtk uses them.
                    let busy = || glib::ControlFlow::Continue;
                    let busy = glib::idle_add_local_full(glib::Priority::DEFAULT, busy);
                    let end = Instant::now() + Duration::from_millis(5);
                    main.until("a while", || Instant::now() > end);
                    busy.remove();
                }
                let what = format!("nothing is left of {address} after {iterations} iterations");
                main.until(&what, || sessions.left() == 0);
            }
            drop(main.block_on(connector.open()).unwrap());
            main.until("nothing is left", || sessions.left() == 0);
        }
    });
}

/// A server that passes on what QEMU sends, but ends all connections after some bytes.
struct Proxy {
    /// How many bytes are passed on until the connections end.
    left: Arc<AtomicUsize>,
    clients: Arc<AtomicUsize>,
    streams: Arc<Mutex<Vec<UnixStream>>>,
}

impl Proxy {
    fn start(path: &Path, qemu: &Path) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let proxy = Self {
            left: Arc::new(usize::MAX.into()),
            clients: Arc::default(),
            streams: Arc::default(),
        };
        let (left, clients, streams, qemu) = (
            proxy.left.clone(),
            proxy.clients.clone(),
            proxy.streams.clone(),
            qemu.to_owned(),
        );
        thread::spawn(move || {
            for client in listener.incoming() {
                let (client, server) = (client.unwrap(), UnixStream::connect(&qemu).unwrap());
                clients.fetch_add(1, Ordering::Relaxed);
                for stream in [&client, &server] {
                    streams.lock().unwrap().push(stream.try_clone().unwrap());
                }
                let mut sent = (client.try_clone().unwrap(), server.try_clone().unwrap());
                thread::spawn(move || {
                    drop(std::io::copy(&mut sent.0, &mut sent.1));
                    drop(sent.1.shutdown(Shutdown::Both));
                });
                let (mut client, mut server) = (client, server);
                let (left, streams) = (left.clone(), streams.clone());
                thread::spawn(move || {
                    let mut byte = [0];
                    while let Ok(1) = server.read(&mut byte)
                        && client.write_all(&byte).is_ok()
                    {
                        if left.fetch_sub(1, Ordering::Relaxed) == 1 {
                            left.store(usize::MAX, Ordering::Relaxed);
                            for stream in streams.lock().unwrap().drain(..) {
                                drop(stream.shutdown(Shutdown::Both));
                            }
                        }
                    }
                    drop(client.shutdown(Shutdown::Both));
                });
            }
        });
        proxy
    }
}

/// The connection may end at any moment of an attempt, even when it has just succeeded.
#[test]
fn a_connection_that_ends_while_it_is_made_again_is_made_once_more() {
    with_default(|main| {
        let folder = folder();
        let (path, qemu) = (folder.path().join("p"), folder.path().join("s"));
        let config = Config::new().spice_unix(&qemu);
        let _qemu = config.start(&Program::system());
        let proxy = Proxy::start(&path, &qemu);
        let sessions = Sessions::watch();
        let connector = builder(&format!("spice+unix://{}", path.display())).build();
        // A slow program, whose main loop finds several messages and ends at once.
        let pause = Duration::from_millis(1);
        let slow = glib::timeout_add_local_full(pause, glib::Priority::DEFAULT_IDLE, || {
            thread::sleep(Duration::from_millis(5));
            glib::ControlFlow::Continue
        });
        for bytes in (1..1_500).step_by(61) {
            let port = main.spawn(connector.open());
            let port = main.join("a port", &port).unwrap();
            // The present connection ends first, and then the next one.
            let clients = proxy.clients.load(Ordering::Relaxed);
            for stream in proxy.streams.lock().unwrap().drain(..) {
                drop(stream.shutdown(Shutdown::Both));
            }
            proxy.left.store(bytes, Ordering::Relaxed);
            main.until("its end", || port.state() == PortState::Connecting);
            main.until("a client", || {
                proxy.clients.load(Ordering::Relaxed) > clients
            });
            let is_cut = || proxy.left.load(Ordering::Relaxed) > bytes;
            main.until("the next end", || is_cut() || port.ready());
            proxy.left.store(usize::MAX, Ordering::Relaxed);
            main.until("it is back", || port.status().is_some());
            main.until(&format!("one session after {bytes} bytes"), || {
                sessions.left() == 1
            });
            // There is no second attempt that would end this connection.
            let clients = proxy.clients.load(Ordering::Relaxed);
            let end = Instant::now() + Duration::from_millis(60);
            main.until("a while", || Instant::now() > end);
            assert_eq!(proxy.clients.load(Ordering::Relaxed), clients);
            assert!(port.ready(), "after {bytes} bytes");
            let closed = main.spawn(async move { port.close().await });
            main.join("it is closed", &closed);
            main.until("nothing is left", || sessions.left() == 0);
        }
        slow.remove();
    });
}

/// A program may run a main loop in a task of its own as soon as a port is open, such as a
/// dialog's.
#[test]
fn a_task_may_run_a_main_loop_after_the_opening() {
    with_default(|main| {
        let place = Place::new();
        let _qemu = place.start(&Program::system());
        for address in place.addresses() {
            let nest = async |port: QmpPort| {
                let dialog = glib::MainLoop::new(None, false);
                let quit = dialog.clone();
                // Longer than anything that the search has left behind.
                glib::timeout_add_local_once(Duration::from_millis(700), move || quit.quit());
                dialog.run();
                assert!(port.ready());
                port.close().await;
            };
            let connector = builder(&address).build();
            let task = main.context().spawn_local(async move {
                nest(connector.open().await.unwrap()).await;
            });
            main.block_on(task).unwrap();
        }
    });
}

#[test]
fn nothing_is_left_of_sessions_that_fail() {
    with_default(|main| {
        let qemu = Config::new()
            .spice_tcp_password("secret")
            .start(&Program::system());
        let serve = |client: fn(TcpStream)| {
            let server = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = format!("spice://{}", server.local_addr().unwrap());
            thread::spawn(move || client(server.accept().unwrap().0));
            address
        };
        let nobody = TcpListener::bind("127.0.0.1:0").unwrap();
        let refused = format!("spice://{}", nobody.local_addr().unwrap());
        drop(nobody);
        let addresses = [
            // A wrong password.
            qemu.spice_uri(),
            refused,
            "spice+unix:///nonexistent".to_owned(),
            "spice://does-not-exist.invalid:1".to_owned(),
            // TLS to a server without.
            qemu.spice_uri().replace("spice://", "spice+tls://"),
            serve(drop),
            serve(|mut client| client.write_all(&[b'X'; 1000]).unwrap()),
            serve(|mut client| drop(client.read_to_end(&mut Vec::new()))),
            // spice-gtk does not end a TLS handshake by itself.
            serve(|mut client| drop(client.read_to_end(&mut Vec::new())))
                .replace("spice://", "spice+tls://"),
        ];
        let sessions = Sessions::watch();
        for address in &addresses {
            for wait in [false, true] {
                let connector = builder(address).password("wrong").wait(wait);
                let connector = connector.timeout(Duration::from_millis(200)).build();
                main.block_on(connector.open()).unwrap_err();
                main.until(&format!("nothing is left of {address}"), || {
                    sessions.left() == 0
                });
            }
        }
        assert!(sessions.count() >= addresses.len());
    });
}

/// spice-gtk cannot cancel an attempt to connect.
#[test]
fn a_connection_that_succeeds_after_it_was_given_up_ends() {
    with_default(|main| {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = server.local_addr().unwrap();
        // Its queue is full, so that the next connection takes a second.
        let full = || TcpStream::connect_timeout(&address, Duration::from_millis(100));
        let others: Vec<_> = std::iter::from_fn(|| full().ok()).collect();
        let sessions = Sessions::watch();
        let connector = builder(&format!("spice://{address}")).build();
        let open = main.context().spawn_local(connector.open());
        main.until("a session", || sessions.count() == 1);
        main.run_for(Duration::from_millis(20));
        give_up(open);
        main.run_for(Duration::from_millis(20));
        assert_eq!(sessions.left(), 1, "it is being connected");
        // All in the queue, and at last the session's.
        let ended = std::thread::spawn(move || {
            let mut accepted: Vec<_> = others.iter().map(|_| server.accept().unwrap().0).collect();
            drop(others);
            accepted.push(server.accept().unwrap().0);
            for mut stream in accepted {
                // It ends, perhaps with an error.
                let _ = stream.read_to_end(&mut Vec::new());
            }
        });
        main.until("nothing is left", || sessions.left() == 0);
        main.until("the connection ends", || ended.is_finished());
        ended.join().unwrap();
    });
}

/// A reconnecting port can be dropped or closed at any moment.
#[test]
fn attempts_end_with_the_port() {
    with_default(|main| {
        let place = Place::new();
        for closes in [false, true] {
            let mut qemu = place.start(&Program::system());
            let ports = place
                .addresses()
                .map(|address| main.block_on(builder(&address).build().open()).unwrap());
            let sessions = Sessions::watch();
            qemu.kill();
            main.until("some attempts", || sessions.count() > 3);
            for port in ports {
                if closes {
                    main.block_on(port.close());
                }
                let weak = port.downgrade();
                drop(port);
                main.until("it is gone", || weak.upgrade().is_none());
            }
            main.until("the last attempt", || sessions.left() == 0);
            let count = sessions.count();
            main.run_for(Duration::from_millis(300));
            assert_eq!(sessions.count(), count);
        }
    });
}

/// The connection of a D-Bus display to the bus is also reconnected.
#[test]
fn a_bus_may_restart_with_qemu() {
    with_default(|main| {
        for program in Program::all() {
            let mut place = Place::new();
            let mut qemu = place.start(&program);
            let [_, _, address] = place.addresses();
            let port = main.block_on(builder(&address).build().open()).unwrap();
            place.bus.kill();
            qemu.kill();
            main.until("it connects", || port.state() == PortState::Connecting);
            // Absent during some attempts.
            main.run_for(Duration::from_millis(200));
            place.bus.restart();
            let _qemu = place.start(&program);
            main.block_on(port.wait_ready_within(PATIENCE)).unwrap();
            main.until("its state", || port.status().is_some());
            main.block_on(port.close());
        }
    });
}
