// SPDX-License-Identifier: MIT OR Apache-2.0
//! `screenshot` and `unplug`.

use std::fs;

use serde_json::{Value, json};

use crate::common::qemu::{Config, Program};
use crate::server::{GREETING, Server};
use crate::tool::{assert_has, run};
use crate::{on_each_of, unix};

fn with_screen() -> Config {
    Config::new().arg("-vga").arg("std").running()
}

#[test]
fn a_picture_of_the_screen() {
    for program in Program::all() {
        let config = with_screen().arg("-device").arg("bochs-display,id=second");
        let qemu = config.start(&program);
        let address = unix(&qemu);
        let file = qemu.dir().join("screen.png");
        let path = file.display().to_string();
        // While another monitor exists, QEMU keeps sets that are not removed.
        let mut monitor = qemu.monitor();

        let saved = run(&address, &["screenshot", &path]).ok();
        let png = fs::read(&file).expect("a file");
        let side = |at: usize| u32::from_be_bytes(png[at..at + 4].try_into().expect("4 bytes"));
        let (width, height) = (side(16), side(20));
        assert!(png.starts_with(b"\x89PNG\r\n\x1a\n") && png.ends_with(b"IEND\xaeB`\x82"));
        assert_eq!(saved, format!("Saved {path} ({width} x {height}).\n"));

        let second = [
            "--json",
            "screenshot",
            &path,
            "--device",
            "second",
            "--head",
            "0",
        ];
        let saved = run(&address, &second).ok_json();
        let bytes = fs::metadata(&file).expect("a file").len();
        assert_eq!(
            (&saved["file"], &saved["bytes"]),
            (&json!(path), &json!(bytes))
        );
        assert!(saved["width"].as_u64() > Some(0), "{saved}");

        let none = ["screenshot", &path, "--device", "none"];
        assert_has(&run(&address, &none).failed(1), "Device 'none' not found");
        assert_eq!(
            fs::metadata(&file).expect("a file").len(),
            bytes,
            "it stays"
        );
        let folder = qemu.dir().display().to_string();
        let error = run(&address, &["screenshot", &folder]).failed(1);
        assert_has(&error, &format!("{folder}: Is a directory"));
        let error = run(&address, &["screenshot", &path, "--head", "1"]).failed(2);
        assert_has(&error, "--device");

        let sets = monitor.execute("query-fdsets", None).expect("query-fdsets");
        let open = |set: &Value| set["fds"].as_array().is_some_and(|it| !it.is_empty());
        let sets = sets.as_array().expect("a list");
        assert!(!sets.iter().any(open), "{sets:?}");
    }
}

#[test]
fn no_descriptor_goes_over_spice() {
    for program in Program::all() {
        let qemu = with_screen().start(&program);
        let path = qemu.dir().join("screen.png");
        let file = path.display().to_string();
        let error = run(&qemu.spice_uri(), &["screenshot", &file]).failed(2);
        assert_has(&error, "exec screendump filename=/path format=png");
        assert!(!path.exists());
        let dump = format!("filename={file}");
        run(
            &qemu.spice_uri(),
            &["exec", "screendump", &dump, "format=png"],
        )
        .ok();
        assert!(path.exists());
    }
}

#[test]
fn devices_are_unplugged_to_the_end() {
    let config = || {
        let tablet = ["-usb", "-device", "usb-tablet,id=tablet"];
        let net = ["-device", "e1000,id=net"];
        let args = tablet.into_iter().chain(net);
        args.fold(Config::new(), Config::arg)
    };
    on_each_of(config, |qemu, address| {
        assert_eq!(
            run(address, &["unplug", "tablet"]).ok(),
            "Unplugged tablet.\n"
        );
        let gone = run(address, &["unplug", "tablet"]).failed(1);
        assert_has(&gone, "device_del: Device 'tablet' not found");
        assert_has(
            &gone,
            "hint: spice-qmp exec qom-list path=/machine/peripheral",
        );

        let mut monitor = qemu.monitor();
        let tablet = json!({"driver": "usb-tablet", "id": "t2"});
        monitor
            .execute("device_add", Some(tablet))
            .expect("a device");
        drop(monitor);
        let unplugged = run(address, &["--json", "unplug", "/machine/peripheral/t2"]).ok_json();
        assert_eq!(unplugged, json!({"unplugged": "/machine/peripheral/t2"}));

        // Without a guest, it is never released.
        let error = run(address, &["unplug", "net", "--timeout", "2"]).failed(4);
        assert_has(&error, "unplugging net: no answer within 2000 ms");
        assert_has(&error, "hint: it may still do so");
    });
}

#[test]
fn a_guest_that_refuses() {
    let server = Server::start(GREETING, |command| {
        match command {
        "device_del" => vec![
            r#"{"event":"ACPI_DEVICE_OST","data":{"info":{"device":"d1","source":3,"status":1,"slot":"0","slot-type":"DIMM"}},"timestamp":{"seconds":1,"microseconds":1}}"#.into(),
            r#"{"return":{},"id":$ID}"#.into(),
        ],
        _ => Vec::new(),
    }
    });
    let error = run(&server.address(), &["unplug", "d1"]).failed(1);
    assert_has(&error, "device_del: the guest does not let go of d1");
}
