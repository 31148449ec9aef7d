// SPDX-License-Identifier: MIT OR Apache-2.0
//! A server that puts a NUL into one of the strings that it sends, each in turn: C's strings
//! end there. Nothing aborts, and nothing is cut.
#![cfg(feature = "gobject")]

mod common;

use std::cell::{Cell, RefCell};
use std::future::{Future, IntoFuture};
use std::rc::Rc;

use common::main_loop::{MainLoop, at_home, with_own_pushed};
use common::script::{self, Server};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Drive, Error, Machine, QmpPort};

/// Which string has the NUL, counted down as they are sent.
struct Liar(Cell<usize>);

impl Liar {
    /// The text with its NUL, if it is there.
    fn text(&self, mut value: Value) -> String {
        self.lie(&mut value);
        value.to_string()
    }

    fn lie(&self, value: &mut Value) {
        match value {
            Value::String(text) => {
                if self.0.get() == 1 {
                    text.insert(0, '\0');
                }
                self.0.set(self.0.get().saturating_sub(1));
            }
            Value::Array(values) => values.iter_mut().for_each(|it| self.lie(it)),
            Value::Object(members) => members.values_mut().for_each(|it| self.lie(it)),
            _ => {}
        }
    }
}

/// What the server answers, if it does not refuse.
fn answer(command: &str) -> Option<Value> {
    let job = |id, error| {
        json!({ "id": id, "type": "backup", "status": "concluded", "current-progress": 1,
                "total-progress": 2, "error": error })
    };
    Some(match command {
        "query-status" => script::paused(),
        "query-block" => json!([
            { "device": "drv", "qdev": "cd0", "removable": true, "locked": false,
              "tray_open": false, "io-status": "ok",
              "inserted": { "file": "old.iso", "ro": true, "drv": "raw", "node-name": "n" } },
            { "device": "", "qdev": "hd0", "removable": false, "locked": false,
              "io-status": "failed",
              "inserted": { "file": "d", "ro": false, "drv": "qcow2", "node-name": "n0",
                            "image": { "snapshots": [
                                { "id": "1", "name": "s1", "vm-state-size": 9, "date-sec": 1,
                                  "date-nsec": 0, "vm-clock-sec": 1, "vm-clock-nsec": 1 } ] } } },
        ]),
        "query-jobs" => json!([job("j", "disk error"), job("k", "no space")]),
        "query-qmp-schema" => json!([
            { "name": "stop", "meta-type": "command", "arg-type": "0" },
            { "name": "0", "meta-type": "object", "members": [{ "name": "a", "type": "str" }] },
        ]),
        "query-migrate" => json!({ "status": "failed", "error-desc": "no route" }),
        "query-yank" => json!([{ "type": "block-node" }]),
        "qmp_capabilities"
        | "migrate-set-capabilities"
        | "migrate"
        | "blockdev-backup"
        | "block-stream"
        | "snapshot-load"
        | "stop"
        | "job-dismiss"
        | "device_del" => json!({}),
        _ => return None,
    })
}

/// What happens by itself.
fn events() -> Vec<(&'static str, Value)> {
    let job = |error| json!({ "device": "l", "len": 8, "offset": 8, "type": "x", "error": error });
    vec![
        (
            "DEVICE_TRAY_MOVED",
            json!({ "device": "", "id": "cd0", "tray-open": true }),
        ),
        (
            "JOB_STATUS_CHANGE",
            json!({ "id": "k", "status": "aborting" }),
        ),
        (
            "JOB_STATUS_CHANGE",
            json!({ "id": "l", "status": "running" }),
        ),
        ("BLOCK_JOB_COMPLETED", job("lost")),
        (
            "JOB_STATUS_CHANGE",
            json!({ "id": "l", "status": "concluded" }),
        ),
        ("JOB_STATUS_CHANGE", json!({ "id": "l", "status": "null" })),
        (
            "DEVICE_UNPLUG_GUEST_ERROR",
            json!({ "device": "n1", "path": "/machine/n1" }),
        ),
        (
            "BLOCK_IO_ERROR",
            json!({ "device": "", "node-name": "n0", "qom-path": "/machine/peripheral/hd0",
                    "operation": "write", "action": "stop", "reason": "broken" }),
        ),
        (
            "GUEST_PANICKED",
            json!({ "action": "pause", "info": { "type": "tdx", "message": "help" } }),
        ),
        (
            "SHUTDOWN",
            json!({ "guest": true, "reason": "guest-shutdown" }),
        ),
        ("A_NEW_ONE", json!({ "a": "b" })),
    ]
}

/// A session with everything that hands a server's text to the program.
struct Session<'a> {
    main: &'a MainLoop,
    server: Server,
    liar: &'a Liar,
    /// What has come as one of C's strings.
    seen: Rc<RefCell<Vec<String>>>,
    errors: Rc<RefCell<Vec<Error>>>,
}

impl Session<'_> {
    fn event(&self, name: &str, data: &Value) {
        let event = json!({
            "timestamp": { "seconds": 1, "microseconds": 2 }, "event": name, "data": data,
        });
        self.server.line(&self.liar.text(event));
        self.main.drain();
    }

    /// Answers all that is asked.
    fn serve(&self) {
        self.main.drain();
        for _ in 0..100 {
            let requests = self.server.requests();
            if requests.is_empty() {
                return;
            }
            for request in requests {
                let refusal = json!({ "class": "GenericError", "desc": "it is refused" });
                let (member, value) = match answer(&request.command) {
                    Some(value) => ("return", value),
                    None => ("error", refusal),
                };
                let mut value = value;
                self.liar.lie(&mut value);
                self.server
                    .line(&json!({ member: value, "id": request.id }).to_string());
            }
            self.main.drain();
        }
        panic!("it never stops asking");
    }

    /// Begins something whose error counts.
    fn begin<T: 'static>(&self, future: impl Future<Output = Result<T, Error>> + 'static) {
        let errors = self.errors.clone();
        self.main.spawn(async move {
            if let Err(error) = future.await {
                errors.borrow_mut().push(error);
            }
        });
    }

    fn note(&self, text: Option<String>) {
        self.seen.borrow_mut().extend(text);
    }

    /// All properties of an object, and of what they lead to.
    fn read(&self, object: &glib::Object) {
        for property in object.list_properties() {
            if !property.flags().contains(glib::ParamFlags::READABLE) {
                continue;
            }
            let value = object.property_value(property.name());
            if let Ok(text) = value.get::<Option<String>>() {
                self.note(text);
            } else if let Ok(error) = value.get::<Option<glib::Error>>() {
                self.note(error.map(|it| it.message().to_owned()));
            } else if let Ok(names) = value.get::<Vec<String>>() {
                self.seen.borrow_mut().extend(names);
            } else if let Ok(list) = value.get::<gio::ListModel>() {
                self.read(list.upcast_ref());
                for item in &list {
                    self.read(&item.unwrap());
                }
            }
        }
    }

    fn run(&self, port: &QmpPort) {
        let seen = self.seen.clone();
        port.connect_qmp_event(None, move |_, event| {
            seen.borrow_mut().push(event.name_gstr().to_string());
            let data = event.data_gstr().map(ToString::to_string);
            seen.borrow_mut().extend(data);
        });
        let seen = self.seen.clone();
        port.connect_local("event", false, move |values| {
            seen.borrow_mut().push(values[1].get().unwrap());
            None
        });
        self.server.peer.open();
        let greeting = serde_json::from_str(script::OOB_GREETING).unwrap();
        self.server.line(&self.liar.text(greeting));
        self.serve();
        let machine = Machine::new(port);
        for list in [machine.drives(), machine.jobs(), machine.snapshots()] {
            list.n_items();
        }
        let own = machine.clone();
        self.begin(async move { own.load_schema().await });
        self.serve();
        self.read(machine.upcast_ref());

        self.begin(port.execute::<Value>("no-such-command", ()).into_future());
        self.begin(port.execute::<u8>("query-block", ()).into_future());
        self.begin(machine.load_snapshot("s1"));
        for id in ["j", "l"] {
            let arguments = json!({ "job-id": id });
            self.begin(machine.run_job("block-stream", arguments).into_future());
        }
        self.begin(
            machine
                .run_job("migrate", json!({ "uri": "x" }))
                .into_future(),
        );
        self.begin(machine.unplug("n1").into_future());
        if let Some(drive) = machine.drives().item(0).and_downcast::<Drive>() {
            self.begin(drive.insert("new.iso").into_future());
            self.begin(async move { drive.eject(true).await });
        }
        self.serve();
        for (name, data) in events() {
            self.event(name, &data);
            self.read(machine.upcast_ref());
            if let Some(condition) = machine.condition() {
                self.note(condition.subject_gstr().map(ToString::to_string));
                self.note(Some(condition.message_gstr().to_string()));
                self.note(condition.detail_gstr().map(ToString::to_string));
            }
        }
        self.serve();
        self.read(machine.upcast_ref());
        self.read(port.upcast_ref());
    }
}

#[test]
fn a_nul_in_any_string_cuts_nothing() {
    let (mut shown, mut lies) = (0, 0);
    loop {
        lies += 1;
        let liar = Liar(Cell::new(lies));
        with_own_pushed(|main| {
            let (port, server) = script::port();
            let session = Session {
                main,
                server,
                liar: &liar,
                seen: Rc::default(),
                errors: Rc::default(),
            };
            at_home(|| session.run(&port));
            for error in session.errors.take() {
                let text = error.to_string().replace('\0', "\u{fffd}");
                let error = glib::Error::from(error);
                assert_eq!(error.message(), text);
                session.note(Some(text));
            }
            let seen = session.seen.take();
            assert!(!seen.iter().any(String::is_empty), "{lies}: {seen:?}");
            assert!(!seen.iter().any(|it| it.contains('\0')), "{lies}: {seen:?}");
            shown += usize::from(seen.iter().any(|it| it.contains('\u{fffd}')));
        });
        if liar.0.get() > 0 {
            break;
        }
    }
    println!("{lies} strings, of which {shown} are shown");
    assert!(lies > 100 && shown > 30, "{lies} {shown}");
}
