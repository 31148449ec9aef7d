//! The connector: any address with one call, passwords that are asked for, and ports that
//! are connected again.
#![cfg(feature = "spice")]

mod common;

use std::cell::{Cell, RefCell};
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::rc::Rc;
use std::thread;
use std::time::Duration;

use common::dbus::{Bus, with_monitor};
use common::hostile::SpiceServer;
use common::main_loop::{MainLoop, with_default, with_own};
use common::qemu::{Config, Program, Qemu};
use common::script::GREETING;
use glib::prelude::*;
use serde_json::Value;
use spice_qmp::{
    ConnectError, Connector, Error, PeerError, PortState, QmpPort, UsageError, VmAction,
};

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

/// A QEMU for every transport that comes back at the same addresses.
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
            for address in place.addresses() {
                let connector = Connector::builder(&address).build();
                assert_eq!(connector.address().as_deref(), Some(&*address));
                let files = open_files();
                // It can be used again.
                for _ in 0..2 {
                    let port = main.block_on(connector.open()).unwrap();
                    assert_eq!(port.status().unwrap().status(), "prelaunch", "{address}");
                    assert!(port.channel().is_none(), "it is nobody's channel");
                    assert_eq!(port.reconnect(), 0);
                    main.block_on(port.vm_action(VmAction::Continue)).unwrap();
                    main.block_on(port.vm_action(VmAction::Pause)).unwrap();
                    main.block_on(port.vm_action(VmAction::Reset)).unwrap();
                    main.block_on(port.close());
                }
                main.until("nothing is left", || open_files() == files);
                let port = main.block_on(QmpPort::open(&address)).unwrap();
                assert!(port.ready());
                main.block_on(port.close());
                // Back to the state of the beginning for the next one.
                main.until("nothing is left", || open_files() == files);
                let port = main.block_on(connector.open()).unwrap();
                main.block_on(port.execute::<Value>("system_reset", ())).unwrap();
                drop(port);
                main.until("nothing is left of what was dropped", || {
                    open_files() == files
                });
            }
        }
    });
}

/// Restarts of QEMU for each transport.
const RESTARTS: usize = 50;

#[test]
fn a_port_outlives_many_qemus() {
    with_default(|main| {
        let programs = Program::all();
        for number in 0..3 {
            let place = Place::new();
            let mut qemu = place.start(&programs[0]);
            let address = &place.addresses()[number];
            let port = main.block_on(builder(address).build().open()).unwrap();
            assert_eq!(port.reconnect(), 20);
            let states = Rc::new(RefCell::new(Vec::new()));
            port.connect_state_notify({
                let states = states.clone();
                move |port| states.borrow_mut().push(port.state())
            });
            let mut files = 0;
            let turns = main.turns();
            for restart in 0..RESTARTS {
                let pending = main.spawn(port.execute::<Value>("query-qmp-schema", ()));
                qemu.kill();
                let failed = main.join("a pending call fails", &pending);
                assert!(
                    failed.is_ok() || matches!(failed, Err(Error::Closed(_))),
                    "{address}: {failed:?}"
                );
                main.until("it is noticed", || !port.ready());
                main.until("it connects", || port.state() == PortState::Connecting);
                let refused = main.block_on(port.execute::<Value>("query-name", ()));
                assert!(
                    matches!(refused, Err(Error::Usage(UsageError::NotReady { .. }))),
                    "{refused:?}"
                );
                let ready = main.spawn(port.wait_ready());
                assert!(port.status().is_none());
                drop(qemu);
                qemu = place.start(&programs[restart % programs.len()]);
                main.join("it is back", &ready).unwrap();
                main.until("its state", || port.status().is_some());
                if restart == 4 {
                    files = open_files();
                }
            }
            main.until("no file is left", || open_files() <= files);
            // It waits for its time; it does not look again and again. A turn each 5 ms is
            // the test's own.
            let turns = main.turns() - turns;
            assert!(turns < RESTARTS * 3_000, "{address}: {turns} turns");
            assert!(!states.borrow().contains(&PortState::Failed));
            main.block_on(port.close());
            assert_eq!(port.state(), PortState::Closed);
            let files = open_files();
            qemu.kill();
            drop(qemu);
            qemu = place.start(&programs[0]);
            main.run_for(Duration::from_millis(300));
            assert_eq!(port.state(), PortState::Closed, "it ends with close");
            assert_eq!(open_files(), files);
            drop(qemu);
        }
    });
}
