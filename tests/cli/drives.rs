// SPDX-License-Identifier: MIT OR Apache-2.0
//! `drives`, `insert` and `eject`.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::common::qemu::{Config, Program};
use crate::on_each_of;
use crate::server::{GREETING, Server};
use crate::tool::{assert_has, run};

/// Media, and a machine with a disk and a drive for them.
fn media() -> (TempDir, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("a.iso");
    fs::write(&file, vec![7; 64 << 10]).expect("a file");
    let path = file.display().to_string();
    (folder, path)
}

fn config() -> Config {
    let args = [
        "-device",
        "ide-cd,id=cd0",
        "-blockdev",
        "driver=null-co,node-name=disk,size=1048576,read-zeroes=on",
        "-device",
        "virtio-blk,drive=disk,id=hd0",
    ];
    args.into_iter().fold(Config::new(), Config::arg)
}

#[test]
fn a_medium_comes_and_goes() {
    let (_folder, iso) = media();
    on_each_of(config, |_, address| {
        let text = run(address, &["drives"]).ok();
        let lines: Vec<_> = text.lines().collect();
        assert!(lines.contains(&"cd0  removable  -"), "{text}");
        let disk = |line: &&str| line.starts_with("hd0  fixed      json:{");
        assert!(lines.iter().any(disk), "{text}");

        let insert = ["insert", "cd0", &iso, "--format", "raw", "--read-only"];
        let inserted = format!("Inserted {iso} into cd0.\n");
        assert_eq!(run(address, &insert).ok(), inserted);
        let drives = run(address, &["--json", "drives"]).ok_json();
        let cd = json!({
            "id": "cd0", "name": "cd0", "removable": true, "medium": iso, "read-only": true,
            "locked": false, "tray-open": false, "io-status": "ok",
        });
        let drives = drives.as_array().expect("a list");
        assert!(drives.contains(&cd), "{drives:?}");
        let disk = |it: &Value| it["id"] == "/machine/peripheral/hd0/virtio-backend";
        assert!(drives.iter().any(disk), "{drives:?}");

        let text = run(address, &["drives"]).ok();
        assert_has(&text, &format!("cd0  removable, read-only  {iso}\n"));
        assert_eq!(
            run(address, &["--json", "insert", "cd0", &iso]).ok_json(),
            cd
        );
        let ejected = run(address, &["--json", "eject", "cd0"]).ok_json();
        assert_eq!(
            (&ejected["medium"], &ejected["tray-open"]),
            (&json!(null), &json!(true))
        );
        assert_has(
            &run(address, &["drives"]).ok(),
            "cd0  removable, tray open  -\n",
        );
        assert_eq!(
            run(address, &["eject", "--force", "cd0"]).ok(),
            "Ejected cd0.\n"
        );
    });
}

#[test]
fn what_cannot_be_changed() {
    let (_folder, iso) = media();
    on_each_of(config, |_, address| {
        for args in [&["eject", "none"][..], &["insert", "none", &iso]] {
            let error = run(address, args).failed(1);
            assert_has(&error, "error: there is no drive \"none\"\n");
            assert_has(&error, "hint: spice-qmp drives lists them\n");
        }
        let error = run(address, &["eject", "hd0"]).failed(1);
        assert_has(&error, "is not removable");
        let error = run(address, &["insert", "cd0", "/no/such"]).failed(1);
        assert_has(&error, "No such file or directory");
        let error = run(
            address,
            &["--json", "insert", "cd0", &iso, "--format", "qcow2"],
        );
        assert_eq!(error.failed_json(1)["kind"], "qmp");
        let both = ["insert", "cd0", &iso, "--read-only", "--writable"];
        assert_has(&run(address, &both).failed(2), "cannot be used with");
    });
}

#[test]
fn a_machine_without_drives() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let ended = run(&qemu.spice_uri(), &["drives"]);
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), ""));
        assert_eq!(ended.stderr, "spice-qmp: note: the machine has no drives\n");
        let none = run(&qemu.spice_uri(), &["--json", "drives"]).ok_json();
        assert_eq!(none, json!([]));
    }
}

fn drive(id: &str, name: &str, medium: Option<&str>) -> String {
    let inserted = medium.map(|file| json!({"file": file, "ro": true}));
    json!({
        "qdev": id, "device": name, "removable": true, "locked": true, "tray_open": false,
        "inserted": inserted,
    })
    .to_string()
}

#[test]
fn a_drive_that_the_guest_has_locked() {
    let server = Server::start(GREETING, |command| {
        match command {
        "query-block" => {
            let drive = drive("cd0", "", Some("a.iso"));
            vec![format!(r#"{{"return":[{drive}],"id":$ID}}"#)]
        }
        "eject" => vec![
            r#"{"error":{"class":"GenericError","desc":"Device 'cd0' is locked and force was not specified, wait for tray to open and try again"},"id":$ID}"#.into(),
        ],
        _ => Vec::new(),
    }
    });
    let error = run(&server.address(), &["eject", "cd0"]).failed(1);
    assert_has(&error, "hint: the guest was asked to unlock it");
    assert_has(&error, "--force");
}

#[test]
fn a_medium_that_was_lost() {
    let lost = AtomicBool::new(false);
    let server = Server::start(GREETING, move |command| match command {
        "query-block" => {
            let medium = (!lost.load(Ordering::Relaxed)).then_some("old.iso");
            let drive = drive("cd0", "", medium);
            vec![format!(r#"{{"return":[{drive}],"id":$ID}}"#)]
        }
        "blockdev-change-medium" => {
            lost.store(true, Ordering::Relaxed);
            vec![r#"{"error":{"class":"GenericError","desc":"it is in use"},"id":$ID}"#.into()]
        }
        _ => Vec::new(),
    });
    let error = run(&server.address(), &["insert", "cd0", "new.iso"]).failed(1);
    assert_has(&error, "it is in use");
    assert_has(&error, "(the drive is empty now: old.iso was removed)");
    assert_has(&error, "hint: spice-qmp insert puts that back");
}

#[test]
fn an_ambiguous_drive_name_is_refused() {
    let server = Server::start(GREETING, |command| match command {
        "query-block" => {
            let drives = [drive("a", "cd", None), drive("b", "cd", None)].join(",");
            vec![format!(r#"{{"return":[{drives}],"id":$ID}}"#)]
        }
        _ => Vec::new(),
    });
    let error = run(&server.address(), &["eject", "cd"]).failed(1);
    assert_has(&error, "several drives are called \"cd\"");
    assert_has(&error, "hint: use the id: a or b");
    run(&server.address(), &["eject", "b"]).ok();
}

/// The id of the device, which QEMU does not take everywhere, names its drive, too.
#[test]
fn a_device_names_its_drive() {
    let server = Server::start(GREETING, |command| match command {
        "query-block" => {
            let id = "/machine/peripheral/us0/us0.0/legacy[0]";
            let drives = [drive(id, "stick", None), drive("a", "us", None)].join(",");
            vec![format!(r#"{{"return":[{drives}],"id":$ID}}"#)]
        }
        _ => Vec::new(),
    });
    for name in ["us0", "stick"] {
        assert_eq!(
            run(&server.address(), &["eject", name]).ok(),
            format!("Ejected {name}.\n")
        );
    }
    let error = run(&server.address(), &["eject", "us0.0"]).failed(1);
    assert_has(&error, "there is no drive \"us0.0\"");
}

#[test]
fn a_list_that_does_not_come() {
    let server = Server::start(GREETING, |command| match command {
        "query-block" => vec![String::new()],
        _ => Vec::new(),
    });
    let error = run(&server.address(), &["drives", "--timeout", "1"]).failed(4);
    assert_has(&error, "query-block: no answer within 1000 ms");
}
