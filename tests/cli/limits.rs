// SPDX-License-Identifier: MIT OR Apache-2.0
//! `--timeout` ends commands that would run until QEMU exits.

use serde_json::json;

use crate::common::qemu::Config;
use crate::on_each_of;
use crate::server::{GREETING, REPEAT, Server};
use crate::tool::{assert_has, run};

#[test]
fn events_and_watch_end_in_time() {
    on_each_of(Config::new, |_, address| {
        let events = run(address, &["--timeout", "2", "events"]).failed(4);
        assert_has(&events, "QEMU did not end within 2000 ms (");
        let args = ["--json", "events", "--timeout", "2", "--count", "3", "STOP"];
        let error = run(address, &args).failed_json(4);
        let message = "0 of 3 events came within 2000 ms";
        assert_eq!(error, json!({"kind": "timeout", "message": message}));

        let watch = run(address, &["watch", "--timeout", "2"]);
        assert_eq!(watch.code, Some(4), "{watch:?}");
        assert_has(&watch.stdout, "prelaunch");
        assert_has(&watch.stderr, "error: QEMU did not end within 2000 ms");
    });
}

/// A server that sends events without a pause, and changes its state with each.
#[test]
fn a_storm_ends_in_time() {
    let server = Server::start(GREETING, |command| match command {
        "query-status" => {
            let line = |name| {
                format!(r#"{{"event":"{name}","timestamp":{{"seconds":1,"microseconds":2}}}}"#)
            };
            let storm = format!("{}\r\n{}\r\n", line("STOP"), line("RESUME")).repeat(500);
            vec![
                r#"{"return":{"status":"running","running":true},"id":$ID}"#.into(),
                format!("{REPEAT}{storm}"),
            ]
        }
        _ => Vec::new(),
    });
    for command in ["events", "watch"] {
        let ended = run(&server.address(), &["--timeout", "2", command]);
        assert_eq!(ended.code, Some(4), "{}", ended.stderr);
        assert_has(&ended.stderr, "within 2000 ms");
    }
}
