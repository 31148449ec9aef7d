// SPDX-License-Identifier: MIT OR Apache-2.0
//! A machine's drives, with a scripted server.
#![cfg(feature = "gobject")]

mod common;

use std::cell::RefCell;
use std::future::IntoFuture;
use std::rc::Rc;
use std::time::Duration;

use common::main_loop::{MainLoop, with_own, with_own_pushed};
use common::script::{self, Request, Server};
use gio::prelude::*;
use serde_json::{Value, json};
use spice_qmp::{Drive, Error, List, Machine, UsageError};

const QUERY: &str = "query-block";

fn ready(main: &MainLoop) -> (Machine, Server) {
    let (port, server) = script::ready(main);
    (Machine::new(&port), server)
}

/// A drive in the reply to `query-block`.
fn drive(id: &str, medium: Option<&str>) -> Value {
    let mut drive = json!({
        "device": "", "qdev": id, "removable": true, "locked": false, "tray_open": false,
        "io-status": "ok", "type": "unknown",
    });
    if let Some(medium) = medium {
        drive["inserted"] = json!({ "file": medium, "ro": true, "drv": "raw" });
    }
    drive
}

/// The drives of a machine, after they were requested.
fn loaded(main: &MainLoop, machine: &Machine, server: &Server, drives: Value) -> List {
    let list = machine.drives();
    list.refresh();
    main.drain();
    server.answer(QUERY, drives);
    main.drain();
    assert!(!list.loading() && list.error().is_none());
    list
}

fn item(list: &List, position: u32) -> Drive {
    list.item(position).and_downcast().expect("a drive")
}

fn ids(list: &List) -> Vec<String> {
    let drives = list.iter::<Drive>();
    drives.map(|drive| drive.unwrap().id()).collect()
}

/// The notifications: properties by name, steps of the list by their numbers.
fn notes(list: &List) -> Rc<RefCell<Vec<String>>> {
    let notes = Rc::<RefCell<Vec<String>>>::default();
    let seen = notes.clone();
    list.connect_items_changed(move |_, at, removed, added| {
        seen.borrow_mut().push(format!("{at} -{removed} +{added}"));
    });
    let seen = notes.clone();
    list.connect_notify_local(None, move |_, property| {
        seen.borrow_mut().push(property.name().to_owned());
    });
    for drive in list.iter::<Drive>() {
        let (drive, seen) = (drive.unwrap(), notes.clone());
        drive.connect_notify_local(None, move |drive, property| {
            let note = format!("{} {}", drive.id(), property.name());
            seen.borrow_mut().push(note);
        });
    }
    notes
}

fn tray_moved(server: &Server, id: &str, open: bool) {
    let data = json!({ "device": "", "id": id, "tray-open": open });
    server.event_with("DEVICE_TRAY_MOVED", &data);
}

/// Answers a change of a medium, and the question that follows.
fn finish(main: &MainLoop, server: &Server, drives: Value) {
    server.answer(QUERY, drives);
    main.drain();
}

/// The next question, whenever it arrives.
fn next_question(main: &MainLoop, server: &Server, what: &str) -> Request {
    let mut questions = Vec::new();
    main.until(what, || {
        for request in server.requests() {
            match request.command.as_str() {
                QUERY => questions.push(request),
                // The port's own.
                "query-status" => server.reply(&request, script::running()),
                other => panic!("{what}: {other}"),
            }
        }
        !questions.is_empty()
    });
    assert_eq!(questions.len(), 1, "{what}: {questions:?}");
    questions.remove(0)
}

#[test]
fn they_are_loaded_when_requested() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let list = machine.drives();
        assert_eq!(machine.drives(), list);
        assert_eq!(list.item_type(), Drive::static_type());
        tray_moved(&server, "cd0", true);
        main.drain();
        assert!(server.commands().is_empty(), "nothing was requested");
        assert!(!list.loading());

        assert_eq!(list.n_items(), 0);
        assert!(list.loading());
        main.drain();
        let seen = notes(&list);
        server.answer(
            QUERY,
            json!([drive("cd0", Some("/a.iso")), drive("fl0", None)]),
        );
        main.drain();
        assert_eq!(*seen.borrow(), ["0 -0 +2", "loading"]);
        assert_eq!(ids(&list), ["cd0", "fl0"]);
        let cd = item(&list, 0);
        assert_eq!(cd.name(), "cd0");
        assert_eq!(cd.medium().as_deref(), Some("/a.iso"));
        assert_eq!(cd.io_status().as_deref(), Some("ok"));
        assert!(cd.removable() && cd.read_only());
        assert!(!cd.locked() && !cd.tray_open());
        assert_eq!(item(&list, 1).medium(), None);
        main.drain();
        assert!(server.commands().is_empty());
    });
}

#[test]
fn drives_keep_their_identity() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let all = json!([drive("a", None), drive("b", None), drive("c", None)]);
        let list = loaded(main, &machine, &server, all);
        let (a, b, c) = (item(&list, 0), item(&list, 1), item(&list, 2));
        let seen = notes(&list);
        let mut open = drive("c", Some("/c.iso"));
        open["tray_open"] = json!(true);
        tray_moved(&server, "c", true);
        let question = next_question(main, &server, "a question");
        server.reply(&question, json!([drive("a", None), open, drive("d", None)]));
        main.drain();
        let mut seen = seen.take();
        seen.sort();
        assert_eq!(
            seen,
            [
                "1 -1 +0",
                "2 -0 +1",
                "c medium",
                "c read-only",
                "c tray-open"
            ]
        );
        assert_eq!((item(&list, 0), item(&list, 1)), (a, c.clone()));
        assert!(c.tray_open());
        // A removed drive keeps its properties.
        assert_eq!((b.id().as_str(), b.medium()), ("b", None));
        assert_eq!(ids(&list), ["a", "c", "d"]);
    });
}

#[test]
fn events_have_them_loaded_again() {
    with_own_pushed(|main| {
        let (machine, server) = ready(main);
        let list = loaded(main, &machine, &server, json!([drive("a", None)]));
        // It asks which drive has failed.
        drop(machine);
        for (name, data) in [
            (
                "DEVICE_TRAY_MOVED",
                json!({ "id": "a", "tray-open": true, "device": "" }),
            ),
            (
                "DEVICE_DELETED",
                json!({ "device": "b", "path": "/machine/peripheral/b" }),
            ),
            ("BLOCK_IO_ERROR", json!({ "device": "", "action": "stop" })),
            (
                "RESET",
                json!({ "guest": false, "reason": "host-qmp-system-reset" }),
            ),
        ] {
            server.event_with(name, &data);
            let request = next_question(main, &server, name);
            server.reply(&request, json!([drive(name, None)]));
            main.drain();
            assert_eq!(ids(&list), [name]);
            assert!(!list.loading());
        }
        // QEMU 7.2 emits thousands of these.
        server.event_with(
            "BLOCK_IO_ERROR",
            &json!({ "device": "", "action": "report" }),
        );
        main.run_for(Duration::from_millis(150));
        assert!(server.commands().is_empty());
    });
}

/// The guest decides how often it opens the tray.
#[test]
fn many_events_are_few_questions() {
    with_own_pushed(|main| {
        let (machine, server) = ready(main);
        let list = loaded(main, &machine, &server, json!([drive("a", None)]));
        let mut questions = 0;
        for turn in 0..500 {
            tray_moved(&server, "a", turn % 2 == 0);
            main.drain();
            for request in server.requests() {
                questions += 1;
                server.reply(&request, json!([drive("a", None)]));
            }
        }
        // One question after each would take 50 s.
        assert!(questions < 250, "{questions}");
        tray_moved(&server, "a", true);
        let mut open = drive("a", None);
        open["tray_open"] = json!(true);
        main.until("the last one", || {
            for request in server.requests() {
                server.reply(&request, json!([open]));
            }
            item(&list, 0).tray_open()
        });
    });
}

#[test]
fn an_inserted_medium_is_shown_at_the_end() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let list = loaded(main, &machine, &server, json!([drive("cd0", None)]));
        let cd = item(&list, 0);
        let insert = cd.insert("/b.iso").format("raw").read_only(true).force();
        let task = main.spawn(insert.into_future());
        main.drain();
        let request = server.request("blockdev-change-medium");
        assert_eq!(
            request.arguments,
            json!({
                "id": "cd0", "filename": "/b.iso", "format": "raw",
                "read-only-mode": "read-only", "force": true,
            })
        );
        tray_moved(&server, "cd0", true);
        tray_moved(&server, "cd0", false);
        server.reply(&request, json!({}));
        main.drain();
        assert!(!task.is_done(), "the list does not show it yet");
        finish(main, &server, json!([drive("cd0", Some("/b.iso"))]));
        // The events may have come first.
        for request in server.requests() {
            server.reply(&request, json!([drive("cd0", Some("/b.iso"))]));
        }
        main.join("the end", &task).unwrap();
        assert_eq!(cd.medium().as_deref(), Some("/b.iso"));

        let task = main.spawn(cd.insert("c.img").read_only(false).into_future());
        main.drain();
        let request = server.request("blockdev-change-medium");
        assert_eq!(
            request.arguments,
            json!({ "id": "cd0", "filename": "c.img", "read-only-mode": "read-write" })
        );
        server.refuse(&request, "GenericError", "Could not open 'c.img'");
        main.drain();
        finish(main, &server, json!([drive("cd0", Some("/b.iso"))]));
        let error = main.join("the end", &task).unwrap_err();
        let text = "blockdev-change-medium: Could not open 'c.img'";
        assert_eq!(error.to_string(), text, "nothing was lost");
        assert_eq!(cd.lost_medium(), None);
    });
}

#[test]
fn a_medium_that_is_lost_is_named() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let list = loaded(
            main,
            &machine,
            &server,
            json!([drive("cd0", Some("/a.iso"))]),
        );
        let (cd, seen) = (item(&list, 0), notes(&list));
        let task = main.spawn(cd.insert("/b.img").into_future());
        main.drain();
        let request = server.request("blockdev-change-medium");
        server.refuse(
            &request,
            "GenericError",
            "Failed to get shared \"write\" lock",
        );
        main.drain();
        finish(main, &server, json!([drive("cd0", None)]));
        let error = main.join("the end", &task).unwrap_err().to_string();
        assert!(
            error.contains("lock (the drive is empty now: /a.iso was removed)"),
            "{error}"
        );
        let named = cd.lost_medium().expect("it says what");
        assert_eq!(named, "/a.iso");
        assert_eq!(
            seen.take(),
            ["cd0 read-only", "cd0 medium", "cd0 lost-medium"]
        );

        let task = main.spawn(cd.insert(&named).into_future());
        main.drain();
        server.answer("blockdev-change-medium", json!({}));
        main.drain();
        finish(main, &server, json!([drive("cd0", Some("/a.iso"))]));
        main.join("the end", &task).unwrap();
        assert_eq!(cd.lost_medium(), None);
        assert_eq!(
            seen.take(),
            ["cd0 read-only", "cd0 medium", "cd0 lost-medium"]
        );
    });
}

#[test]
fn a_locked_tray_is_forced_open() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let list = loaded(
            main,
            &machine,
            &server,
            json!([drive("cd0", Some("/a.iso"))]),
        );
        let cd = item(&list, 0);
        let eject = |force| {
            let cd = cd.clone();
            main.spawn(async move { cd.eject(force).await })
        };
        let task = eject(false);
        main.drain();
        let request = server.request("eject");
        assert_eq!(request.arguments, json!({ "id": "cd0", "force": false }));
        server.refuse(&request, "GenericError", "Device 'cd0' is locked");
        main.drain();
        let mut locked = drive("cd0", Some("/a.iso"));
        locked["locked"] = json!(true);
        finish(main, &server, json!([locked]));
        let error = main.join("the end", &task).unwrap_err();
        assert!(matches!(error, Error::Command { .. }), "{error}");
        assert!(cd.locked(), "the program sees why");

        let task = eject(true);
        main.drain();
        let request = server.request("eject");
        assert_eq!(request.arguments, json!({ "id": "cd0", "force": true }));
        server.reply(&request, json!({}));
        main.drain();
        finish(main, &server, json!([drive("cd0", None)]));
        main.join("the end", &task).unwrap();
        assert!(cd.medium().is_none() && !cd.locked());
    });
}

#[test]
fn drives_stay_while_there_is_no_connection() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let all = json!([drive("a", None), drive("b", None)]);
        let list = loaded(main, &machine, &server, all);
        let (b, seen) = (item(&list, 1), notes(&list));
        server.peer.close("gone");
        main.drain();
        assert_eq!(ids(&list), ["a", "b"]);
        assert!(seen.borrow().is_empty() && list.error().is_none());
        let refused = main.block_on(b.insert("/a.iso").into_future()).unwrap_err();
        assert!(matches!(refused, Error::Usage(UsageError::NotReady { .. })));
        // A call now reports that there is no connection.
        list.refresh();
        main.drain();
        assert!(list.error().is_some() && !list.loading());
        assert_eq!(seen.take(), ["loading", "error", "loading"]);

        server.peer.open();
        main.drain();
        list.refresh();
        assert!(list.loading(), "it waits for the port");
        server.line(script::GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        for request in server.requests() {
            match request.command.as_str() {
                QUERY => server.reply(&request, json!([drive("b", Some("/b.iso"))])),
                _ => server.reply(&request, script::running()),
            }
        }
        main.drain();
        for request in server.requests() {
            assert_eq!(request.command, QUERY);
            server.reply(&request, json!([drive("b", Some("/b.iso"))]));
        }
        main.drain();
        assert_eq!(ids(&list), ["b"]);
        assert_eq!(item(&list, 0), b);
        assert_eq!(b.medium().as_deref(), Some("/b.iso"));
        assert!(list.error().is_none() && !list.loading());
    });
}

#[test]
fn a_list_that_cannot_be_loaded_says_why() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let list = loaded(main, &machine, &server, json!([drive("a", None)]));
        let refresh = || {
            list.refresh();
            main.drain();
            server.request(QUERY)
        };
        server.refuse(&refresh(), "CommandNotFound", "not here");
        main.drain();
        assert!(list.error().unwrap().to_string().contains("not here"));
        server.reply(&refresh(), json!([{ "qdev": 7 }]));
        main.drain();
        assert!(list.error().unwrap().to_string().contains(QUERY));
        assert_eq!(ids(&list), ["a"]);
        let request = refresh();
        server.peer.close("gone");
        main.drain();
        assert!(list.error().is_some() && !list.loading(), "{request:?}");
        // Two requests are merged.
        server.peer.open();
        server.line(script::GREETING);
        main.drain();
        server.answer("qmp_capabilities", json!({}));
        main.drain();
        for request in server.requests() {
            match request.command.as_str() {
                QUERY => server.reply(&request, json!([drive("x", None), drive("x", None)])),
                _ => server.reply(&request, script::running()),
            }
        }
        main.drain();
        assert_eq!(ids(&list), ["x"]);
    });
}

#[test]
fn a_list_does_not_need_its_machine() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let port = machine.port().unwrap().downgrade();
        let list = loaded(main, &machine, &server, json!([drive("a", None)]));
        drop(machine);
        tray_moved(&server, "a", true);
        let request = next_question(main, &server, "a question");
        server.reply(&request, json!([drive("b", None)]));
        main.drain();
        assert_eq!(ids(&list), ["b"]);
        let drive = item(&list, 0);
        drop(list);
        let task = main.spawn(drive.insert("/a.iso").into_future());
        main.drain();
        server.answer("blockdev-change-medium", json!({}));
        main.join("the end", &task).unwrap();
        drop(drive);
        main.drain();
        assert!(port.upgrade().is_none(), "nothing keeps the port");
    });
}

#[test]
fn handlers_may_do_anything() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let list = loaded(main, &machine, &server, json!([drive("a", None)]));
        let machine = Rc::new(RefCell::new(Some(machine)));
        let mine = machine.clone();
        list.connect_items_changed(move |list, _, _, _| {
            list.refresh();
            drop(mine.take());
            assert_eq!(ids(list).len(), list.n_items() as usize);
        });
        let context = main.context().clone();
        item(&list, 0).connect_medium_notify(move |_| while context.iteration(false) {});
        list.refresh();
        main.drain();
        let all = json!([drive("a", Some("/a.iso")), drive("b", None)]);
        server.answer(QUERY, all.clone());
        main.drain();
        assert!(machine.borrow().is_none());
        // The handler's own.
        server.answer(QUERY, all);
        main.drain();
        assert_eq!(ids(&list), ["a", "b"]);
        assert!(!list.loading());
    });
}

#[test]
fn an_insertion_that_is_dropped_leaves_the_drive_usable() {
    with_own(|main| {
        let (machine, server) = ready(main);
        let list = loaded(main, &machine, &server, json!([drive("cd0", None)]));
        let cd = item(&list, 0);
        let future = cd.insert("/a.iso").into_future();
        let handle = main.context().spawn_local(future);
        main.drain();
        handle.abort();
        main.drain();
        server.answer("blockdev-change-medium", json!({}));
        main.drain();
        let late = cd.insert("/b.iso").timeout(Duration::from_millis(1));
        let error = main.block_on(late.into_future()).unwrap_err();
        assert!(matches!(error, Error::TimedOut { .. }), "{error}");
        assert_eq!(server.commands(), ["blockdev-change-medium"]);
        // A peer without a file for it.
        let file = std::fs::File::open("/dev/null").unwrap();
        let error = main.block_on(cd.insert("/dev/null").fd(file).into_future());
        let error = error.unwrap_err();
        assert!(
            matches!(error, Error::Usage(UsageError::NotSupported(_))),
            "{error}"
        );
        assert!(server.commands().is_empty());
    });
}
