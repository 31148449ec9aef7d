// SPDX-License-Identifier: MIT OR Apache-2.0
//! D-Bus displays that do not exist, lie, do not answer, or signal too often.
#![cfg(feature = "spice")]

mod common;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::dbus::Bus;
use common::display::{
    Answer, CHARDEV_NAME, CHARDEV_PATH, Request, objects, objects_of, properties, serve,
    signal_owner,
};
use common::main_loop::{MainLoop, at_home, with_own};
use gio::prelude::*;
use spice_qmp::transport::DbusTransport;
use spice_qmp::{CONNECT_TIMEOUT, ConnectError, ConnectOptions, Error, PortState, QmpPort};

const SOON: Duration = Duration::from_millis(50);

/// The result of a search on a display with these answers.
fn find(main: &MainLoop, answer: impl Fn(Request) -> Answer + Send + 'static) -> Error {
    find_within(main, CONNECT_TIMEOUT, answer)
}

fn find_within(
    main: &MainLoop,
    timeout: Duration,
    answer: impl Fn(Request) -> Answer + Send + 'static,
) -> Error {
    let (near, _far) = serve(answer);
    let references = near.ref_count();
    let options = ConnectOptions::new().timeout(timeout);
    let found = main.block_on(QmpPort::find_on_bus_with(&near, None, options));
    main.until("the end of all", || near.ref_count() == references);
    found.expect_err("nobody speaks QMP there")
}

/// The same, for a display with this answer to `GetManagedObjects` and another one to
/// everything else.
fn find_among(main: &MainLoop, managed: glib::Variant, other: fn() -> Answer) -> Error {
    let managed = Mutex::new(managed);
    find(main, move |request| match &*request.member {
        "GetManagedObjects" => Answer::Value(managed.lock().unwrap().clone()),
        _ => other(),
    })
}

fn chardev(properties: HashMap<String, glib::Variant>) -> glib::Variant {
    objects(&[(CHARDEV_PATH, properties)])
}

fn free() -> glib::Variant {
    chardev(properties(CHARDEV_NAME, ""))
}

fn nothing() -> Answer {
    Answer::Nothing
}

fn refused() -> Answer {
    Answer::Error("org.example.Failed", "no")
}

fn is_timed_out(error: &Error) -> bool {
    matches!(error, Error::TimedOut { .. })
}

#[test]
fn one_that_says_nothing() {
    with_own(|main| {
        let error = find_within(main, SOON, |_| Answer::Nothing);
        assert!(is_timed_out(&error), "{error}");
        let error = find_within(main, SOON, |request| match &*request.member {
            "GetManagedObjects" => Answer::Value(free()),
            _ => Answer::Nothing,
        });
        assert!(is_timed_out(&error), "{error}");
        // It takes the socket, and does not greet.
        let keeper = Mutex::new(Vec::new());
        let error = find_within(main, SOON, move |request| {
            if request.member == "GetManagedObjects" {
                return Answer::Value(free());
            }
            keeper.lock().unwrap().extend(request.fd);
            Answer::Value(().to_variant())
        });
        assert!(is_timed_out(&error), "{error}");
    });
}

#[test]
fn replies_of_another_form() {
    with_own(|main| {
        for reply in [
            ().to_variant(),
            ("text",).to_variant(),
            (7_u32, "text").to_variant(),
            (HashMap::<String, glib::Variant>::new(),).to_variant(),
        ] {
            let error = find_among(main, reply, nothing);
            let is_clear = error.to_string().contains("QEMU's D-Bus display: ");
            assert!(is_clear, "{error}");
        }
        let garbage = || Answer::Value((7_u32,).to_variant());
        let error = find_among(main, free(), garbage);
        assert!(
            error.to_string().contains("QEMU's D-Bus display: "),
            "{error}"
        );
        // A success without taking the socket: it is closed.
        let success = || Answer::Value(().to_variant());
        let error = find_among(main, free(), success);
        assert!(matches!(error, Error::Closed(_)), "{error}");
    });
}

#[test]
fn properties_of_another_type() {
    with_own(|main| {
        let none = ConnectError::NoChardev.into();
        for name in [7_u32.to_variant(), true.to_variant(), objects(&[])] {
            let mut wrong = properties(CHARDEV_NAME, "");
            wrong.insert("Name".into(), name);
            assert_eq!(find_among(main, chardev(wrong), nothing), none);
        }
        let mut wrong = properties(CHARDEV_NAME, "");
        wrong.remove("Name");
        assert_eq!(find_among(main, chardev(wrong), nothing), none);
        // It cannot say who has it: it is tried.
        let mut wrong = properties(CHARDEV_NAME, "");
        wrong.insert("Owner".into(), 7_u32.to_variant());
        let error = find_among(main, chardev(wrong), refused);
        assert!(
            error.to_string().ends_with("QEMU's D-Bus display: no"),
            "{error}"
        );
        assert_eq!(find_among(main, objects(&[]), nothing), none);
    });
}

#[test]
fn a_holder_with_a_name_that_is_none() {
    with_own(|main| {
        for owner in ["evil\u{202e}", "org.example", &"x".repeat(100_000), ":"] {
            let busy = chardev(properties(CHARDEV_NAME, owner));
            let error = find_among(main, busy, nothing);
            assert_eq!(error, ConnectError::Busy(None).into());
        }
        let busy = chardev(properties(CHARDEV_NAME, ":1.42"));
        let error = find_among(main, busy, nothing);
        assert!(error.to_string().ends_with("held by :1.42"), "{error}");
    });
}

/// QEMU may still have to notice that the last client has disconnected, and signal that.
#[test]
fn a_client_that_has_just_left() {
    with_own(|main| {
        let far = Arc::new(Mutex::new(None::<gio::DBusConnection>));
        let (signals, looks) = (far.clone(), AtomicUsize::new(0));
        let (near, connection) = serve(move |request| match &*request.member {
            "GetManagedObjects" if looks.fetch_add(1, Ordering::Relaxed) < 3 => {
                let far = signals.lock().unwrap().clone().expect("it is open");
                signal_owner(&far, ":1.42");
                Answer::Value(chardev(properties(CHARDEV_NAME, ":1.42")))
            }
            "GetManagedObjects" => Answer::Value(free()),
            _ => refused(),
        });
        far.lock().unwrap().replace(connection);
        let found = main.block_on(QmpPort::find_on_bus(&near, None));
        let error = found.unwrap_err();
        assert!(
            error.to_string().ends_with("QEMU's D-Bus display: no"),
            "{error}"
        );
    });
}

#[test]
fn errors_and_their_texts() {
    with_own(|main| {
        let error = find(main, |_| {
            Answer::Error("org.freedesktop.DBus.Error.AccessDenied", "not you")
        });
        assert!(
            error.to_string().ends_with("QEMU's D-Bus display: not you"),
            "{error}"
        );
        let glib: glib::Error = error.into();
        assert_eq!(glib.kind(), Some(gio::DBusError::AccessDenied));
        let error = find(main, |_| {
            Answer::Error("org.example.Long", include_str!("hostile_dbus.rs"))
        });
        assert!(
            error.to_string().len() < 1200,
            "{} bytes",
            error.to_string().len()
        );
        // Only QEMU's own error means that it is busy.
        let busy = || Answer::Error("org.qemu.Display1.Error.Failed", "no");
        let error = find_among(main, free(), busy);
        assert_eq!(error, ConnectError::Busy(None).into());
        let error = find_among(main, free(), refused);
        assert!(
            error.to_string().ends_with("QEMU's D-Bus display: no"),
            "{error}"
        );
    });
}

/// The limits: this many are visited, and no more.
#[test]
fn too_many_objects_and_too_long_names() {
    with_own(|main| {
        let paths: Vec<_> = (0..1024).map(|number| format!("/o{number}")).collect();
        let with_last_of = |others: usize| {
            let others = paths[..others].iter();
            let mut all: Vec<_> = others
                .map(|path| (&**path, properties("org.example", "")))
                .collect();
            all.push((CHARDEV_PATH, properties(CHARDEV_NAME, ":1.42")));
            find_among(main, objects(&all), nothing)
        };
        assert_eq!(
            with_last_of(1023),
            ConnectError::Busy(Some(":1.42".into())).into()
        );
        assert_eq!(with_last_of(1024), ConnectError::NoChardev.into());

        // This many properties before the one that counts.
        let with_others = |others: usize| {
            let name = glib::Variant::from_dict_entry(
                &"Name".to_variant(),
                &CHARDEV_NAME.to_variant().to_variant(),
            );
            let other = |number: usize| {
                let key = format!("Other{number}").to_variant();
                glib::Variant::from_dict_entry(&key, &true.to_variant().to_variant())
            };
            let entries = (0..others).map(other).chain([name]);
            let entry = glib::VariantTy::new("{sv}").unwrap();
            glib::Variant::array_from_iter_with_type(entry, entries)
        };
        let find_with = |others| find_among(main, objects_of(&with_others(others)), refused);
        assert!(find_with(63).to_string().ends_with(": no"));
        assert_eq!(find_with(64), ConnectError::NoChardev.into());

        for (length, expected) in [
            (256, ConnectError::Busy(Some(":1.42".into()))),
            (257, ConnectError::NoChardev),
        ] {
            let name = format!("{:x<length$}", "org.qemu.monitor.qmp.");
            let one = chardev(properties(&name, ":1.42"));
            assert_eq!(find_among(main, one, nothing), expected.into());
        }
    });
}

#[test]
fn a_connection_that_ends_meanwhile() {
    with_own(|main| {
        for at in ["GetManagedObjects", "Register"] {
            let far = Arc::new(Mutex::new(None::<gio::DBusConnection>));
            let end = far.clone();
            let (near, connection) = serve(move |request| {
                if request.member == at {
                    let far = end.lock().unwrap().take().expect("it was open");
                    // From a thread that may wait: this one serves the connection.
                    thread::spawn(move || far.close_sync(gio::Cancellable::NONE));
                    return Answer::Nothing;
                }
                Answer::Value(free())
            });
            far.lock().unwrap().replace(connection);
            let error = main
                .block_on(QmpPort::find_on_bus(&near, None))
                .unwrap_err();
            let glib: glib::Error = error.into();
            assert_eq!(glib.kind(), Some(gio::IOErrorEnum::Closed), "{at}: {glib}");
        }
    });
}

/// A display that counts the requests.
fn counted(
    answer: impl Fn(Request) -> Answer + Send + 'static,
) -> (QmpPort, gio::DBusConnection, Arc<AtomicUsize>) {
    let count = Arc::<AtomicUsize>::default();
    let counts = count.clone();
    let (near, far) = serve(move |request| {
        if request.member == "GetManagedObjects" {
            counts.fetch_add(1, Ordering::Relaxed);
        }
        answer(request)
    });
    let make = || DbusTransport::new(&near, None, QmpPort::is_qmp_name);
    let port = at_home(|| QmpPort::for_transport(Box::new(make())));
    (port, far, count)
}

#[test]
fn a_display_that_ends_every_connection_is_not_tried_in_a_loop() {
    with_own(|main| {
        let (port, _far, count) = counted(|request| match &*request.member {
            "GetManagedObjects" => Answer::Value(free()),
            _ => Answer::Value(().to_variant()),
        });
        main.run_for(Duration::from_millis(700));
        let tries = count.load(Ordering::Relaxed);
        assert!((2..=10).contains(&tries), "{tries} tries");
        main.block_on(port.close());
        let tries = count.load(Ordering::Relaxed);
        main.run_for(SOON);
        assert_eq!(count.load(Ordering::Relaxed), tries, "after the close");
    });
}

#[test]
fn signals_without_end_are_no_loop() {
    with_own(|main| {
        let (port, far, count) = counted(|_| {
            let busy = properties(CHARDEV_NAME, ":1.42");
            Answer::Value(chardev(busy))
        });
        for _ in 0..100 {
            for _ in 0..50 {
                signal_owner(&far, "");
            }
            main.run_for(Duration::from_millis(5));
        }
        let tries = count.load(Ordering::Relaxed);
        assert!((2..=10).contains(&tries), "{tries} tries");
        assert_eq!(port.state(), PortState::Connecting);
        main.block_on(port.close());
    });
}

#[test]
fn the_end_of_the_connection_is_the_end_of_the_wait() {
    with_own(|main| {
        let (port, far, _) = counted(|_| Answer::Value(objects(&[])));
        main.run_for(SOON);
        let wait = main.spawn(port.wait_ready());
        far.close_sync(gio::Cancellable::NONE).unwrap();
        let ended = main.join("the end of the wait", &wait);
        assert!(matches!(ended, Err(Error::Closed(_))), "{ended:?}");
        assert_eq!(port.state(), PortState::Closed);
    });
}

/// Another program owns QEMU's name.
#[test]
fn a_squatted_name() {
    with_own(|main| {
        let bus = Bus::start();
        let (squatter, connection) = (bus.connect(), bus.connect());
        let own = || {
            squatter.call_sync(
                Some("org.freedesktop.DBus"),
                "/org/freedesktop/DBus",
                "org.freedesktop.DBus",
                "RequestName",
                Some(&("org.qemu", 0_u32).to_variant()),
                None,
                gio::DBusCallFlags::NONE,
                -1,
                gio::Cancellable::NONE,
            )
        };
        own().expect("nobody has it");
        let name = Some("org.qemu");
        let error = main
            .block_on(QmpPort::find_on_bus(&connection, name))
            .unwrap_err();
        assert!(
            error.to_string().contains("QEMU's D-Bus display: "),
            "{error}"
        );
        // It disconnects: it is not QEMU, either.
        squatter.close_sync(gio::Cancellable::NONE).unwrap();
        let error = main
            .block_on(QmpPort::find_on_bus(&connection, name))
            .unwrap_err();
        assert!(
            error.to_string().contains("QEMU is not on the bus"),
            "{error}"
        );
    });
}

#[test]
fn no_service_is_started() {
    with_own(|main| {
        let folder = tempfile::tempdir().unwrap();
        let (program, trace) = (folder.path().join("service"), folder.path().join("trace"));
        fs::write(
            &program,
            format!("#!/bin/sh\n: >{}\nexit 1\n", trace.display()),
        )
        .unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let bus = Bus::with_service(&program);
        let connection = bus.connect();
        let found = main.block_on(QmpPort::find_on_bus(&connection, Some("org.qemu")));
        let error = found.unwrap_err();
        assert!(
            error.to_string().contains("QEMU is not on the bus"),
            "{error}"
        );
        assert!(!trace.exists());
        // The test can fail: a client that asks starts the service.
        let ping = connection.call_sync(
            Some("org.qemu"),
            "/",
            "org.freedesktop.DBus.Peer",
            "Ping",
            None,
            None,
            gio::DBusCallFlags::NONE,
            -1,
            gio::Cancellable::NONE,
        );
        assert!(ping.is_err() && trace.exists());
    });
}
