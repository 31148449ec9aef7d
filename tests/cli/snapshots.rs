// SPDX-License-Identifier: MIT OR Apache-2.0
//! `snapshot`.

use std::path::Path;
use std::process::Command;
use std::sync::mpsc;

use rustix::process::Signal;
use serde_json::json;

use crate::common::qemu::{Config, Program};
use crate::server::{GREETING, Server};
use crate::tool::{LIMIT, Tool, assert_has, run};
use crate::{run_state, unix};

fn disk(dir: &Path) -> String {
    let file = dir.join("disk.qcow2");
    let made = Command::new("qemu-img")
        .args(["create", "-q", "-f", "qcow2"])
        .arg(&file)
        .arg("16M")
        .status();
    assert!(made.expect("qemu-img").success());
    let file = file.display();
    format!("driver=qcow2,node-name=disk,file.driver=file,file.filename={file}")
}

#[test]
fn snapshots_are_saved_loaded_and_deleted() {
    for program in Program::all() {
        for over_spice in [false, true] {
            let dir = tempfile::tempdir().expect("a folder");
            let blockdev = disk(dir.path());
            let qemu = Config::new()
                .arg("-blockdev")
                .arg(&blockdev)
                .arg("-device")
                .arg("virtio-blk,drive=disk,id=hd0")
                .running()
                .start(&program);
            let address = if over_spice {
                qemu.spice_uri()
            } else {
                unix(&qemu)
            };
            let snapshot = |args: &[&str]| run(&address, &[&["snapshot"], args].concat());
            let none = snapshot(&["list"]);
            assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""));
            assert_has(&none.stderr, "note: the machine has no snapshots\n");

            assert_eq!(snapshot(&["save", "a b"]).ok(), "Saved a b.\n");
            let twice = snapshot(&["save", "a b"]).failed(1);
            assert_has(&twice, "the drive hd0 has a snapshot \"a b\" already");
            let text = snapshot(&["list"]).ok();
            assert!(
                text.starts_with("a b  20") && text.ends_with(" MiB\n"),
                "{text}"
            );
            let list = snapshot(&["list", "--json"]).ok_json();
            assert_eq!(
                (&list[0]["tag"], &list[0]["loadable"]),
                (&json!("a b"), &json!(true))
            );
            assert!(list[0]["state-size"].as_u64() > Some(0), "{list}");

            let loaded = snapshot(&["load", "a b", "--json"]).ok_json();
            assert_eq!(loaded, json!({"loaded": "a b"}));
            assert_eq!(run_state(&qemu), "running");
            assert_eq!(snapshot(&["delete", "a b"]).ok(), "Deleted a b.\n");
            for action in ["load", "delete"] {
                let error = snapshot(&[action, "a b"]).failed(1);
                assert_has(&error, "there is no snapshot \"a b\"");
                assert_has(&error, "hint: spice-qmp snapshot list lists them");
            }
            assert_eq!(run_state(&qemu), "running");
        }
    }
}

#[test]
fn a_machine_without_disks_has_none() {
    for program in Program::all() {
        let qemu = Config::new().start(&program);
        let error = run(&unix(&qemu), &["snapshot", "save", "x"]).failed(1);
        assert_has(&error, "no disk that can be written to");
        assert_has(&run(&unix(&qemu), &["snapshot", "save"]).failed(2), "<TAG>");
    }
}

/// QEMU does not stop half way, so the tool waits.
#[test]
fn a_signal_does_not_leave_it_half_done() {
    let (came, begun) = mpsc::channel();
    let server = Server::start(GREETING, move |command| {
        match command {
        "query-block" => vec![
            r#"{"return":[{"device":"","qdev":"hd0","removable":false,"locked":false,"inserted":{"node-name":"n","drv":"qcow2","file":"f","ro":false,"image":{"format":"qcow2"}}}],"id":$ID}"#.into(),
        ],
        "snapshot-save" => {
            came.send(()).expect("the test waits");
            vec![String::new()]
        }
        _ => Vec::new(),
    }
    });
    let mut tool = Tool::start(&server.address(), &["snapshot", "save", "x"]);
    begun.recv_timeout(LIMIT).expect("the command");
    tool.signal(Signal::INT);
    tool.wait_error_line("QEMU does not stop this half way");
    assert!(tool.is_running());
    tool.signal(Signal::INT);
    let ended = tool.end();
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(130), ""));
}
