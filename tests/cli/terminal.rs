// SPDX-License-Identifier: MIT OR Apache-2.0
//! Texts of servers neither act on the terminal nor break lines.

use std::process::{Command, Stdio};

use serde_json::Value;

use crate::common::qemu::{Config, Mode, Program};
use crate::server::{REPEAT, Server};
use crate::tool::{Tool, assert_has, command, run};

/// All kinds of characters that act on terminals, as JSON has them.
const HOSTILE: &str = r"\u001b]0;PWNED\u0007\u001b[2J\u009b2J\r\nspice-qmp: all is well\u0085\u000b\u000c\u2028\u2029\u202e\u2066\u200f\u061c\u007f\u0000\u0008";

pub(crate) const GREETING: &str = concat!(
    r#"{"QMP":{"version":{"qemu":{"micro":2,"minor":0,"major":10},"package":""#,
    r"\u001b[2J\r\nall is well\u202e\u009b",
    r#""},"capabilities":["\u001b[2J"]}}"#
);

/// The command's name is similar to a plain one.
const SCHEMA: &str = concat!(
    r#"{"return":[{"name":"abcdef\u061c","meta-type":"command","arg-type":"0"},"#,
    r#"{"name":"0","meta-type":"object","members":[]}],"id":$ID}"#,
);

/// Of a line.
const END: &str = "\r\n";

pub(crate) fn hostile(command: &str) -> Vec<String> {
    // A run state is a C string.
    let state = HOSTILE.replace(r"\u0000", "");
    let rest = format!(
        r#""data":{{"{HOSTILE}":"{HOSTILE}"}},"timestamp":{{"seconds":1,"microseconds":1}}}}"#
    );
    match command {
        "qmp_capabilities" => Vec::new(),
        "query-status" => vec![
            format!(r#"{{"return":{{"status":"{state}","running":true}},"id":$ID}}"#),
            format!(r#"{REPEAT}{{"event":"{state}",{rest}{END}{{"event":"PLAIN",{rest}"#),
        ],
        "abcdef" => vec![format!(
            r#"{{"error":{{"class":"CommandNotFound","desc":"{state}"}},"id":$ID}}"#
        )],
        "query-qmp-schema" => vec![SCHEMA.to_owned()],
        "query-name" => vec![format!(
            r#"{{"return":{{"{HOSTILE}":"{HOSTILE}"}},"id":$ID}}"#
        )],
        "query-block" => {
            vec![format!(
            r#"{{"return":[{{"qdev":"d1","device":"{HOSTILE}","removable":true,"locked":false,
                "io-status":"{HOSTILE}","inserted":{{"file":"{HOSTILE}","ro":false,
                "node-name":"{HOSTILE}","drv":"{HOSTILE}","image":{{"snapshots":[{{
                "name":"{HOSTILE}","vm-state-size":1,"date-sec":1,"date-nsec":0,
                "vm-clock-sec":0,"vm-clock-nsec":0}}]}}}}}}],"id":$ID}}"#
        )
        .replace('\n', " ")]
        }
        "query-jobs" => vec![format!(
            r#"{{"return":[{{"id":"{HOSTILE}","type":"{HOSTILE}","status":"{HOSTILE}","current-progress":1,"total-progress":2,"error":"{HOSTILE}"}}],"id":$ID}}"#
        )],
        "human-monitor-command" => vec![format!(r#"{{"return":"{HOSTILE}","id":$ID}}"#)],
        // `nul-in-error` is a case of its own.
        _ => vec![format!(
            r#"{{"error":{{"class":"{state}","desc":"{state}"}},"id":$ID}}"#
        )],
    }
}

#[track_caller]
pub(crate) fn assert_plain(text: &str, lines: usize) {
    let acts = |c: char| {
        c.is_control() && c != '\n'
            || ('\u{2028}'..='\u{202e}').contains(&c)
            || ('\u{2066}'..='\u{2069}').contains(&c)
            || matches!(c, '\u{200e}' | '\u{200f}' | '\u{61c}')
    };
    assert!(!text.contains(acts), "{text:?}");
    assert_eq!(text.lines().count(), lines, "{text:?}");
}

const ENDLESS: &[&str] = &["watch"];

const CASES: [(&[&str], usize); 34] = [
    (&["status"], 3),
    (&["--json", "status"], 1),
    (&["pause"], 1),
    (&["--json", "pause"], 1),
    (&["quit"], 1),
    (&["exec", "query-name"], 1),
    (&["--json", "exec", "query-name"], 1),
    (&["exec", "stop"], 1),
    // The text contains a line end.
    (&["hmp", "info"], 2),
    (&["--json", "hmp", "info"], 1),
    (&["events", "--count", "1"], 1),
    (&["exec", "--wait-for", "PLAIN", "query-name"], 2),
    (&["wait", "PLAIN", "--", "query-name"], 1),
    (&["--json", "wait", "PLAIN", "--", "stop"], 1),
    // With a hint.
    (&["exec", "abcdef"], 2),
    (&["screenshot", "/dev/null"], 1),
    (&["--json", "screenshot", "/dev/null"], 1),
    (&["unplug", "disk1"], 1),
    (&["--json", "unplug", "disk1"], 1),
    (&["drives"], 1),
    (&["--json", "drives"], 1),
    (&["insert", "d1", "file"], 1),
    (&["--json", "insert", "d1", "file"], 1),
    (&["eject", "d1"], 1),
    (&["jobs"], 1),
    (&["--json", "jobs"], 1),
    (&["job", "blockdev-backup"], 1),
    (&["--json", "job", "blockdev-backup"], 1),
    (&["snapshot", "list"], 1),
    (&["--json", "snapshot", "list"], 1),
    (&["snapshot", "save", "x"], 1),
    (&["--json", "snapshot", "delete", "x"], 1),
    (ENDLESS, 1),
    (&["--json", "watch"], 1),
];

#[test]
fn in_pipes() {
    let server = Server::start(GREETING, hostile);
    for (args, lines) in CASES {
        let tool = Tool::start(&server.address(), args);
        let text = if args.contains(&"watch") {
            tool.line() + "\n"
        } else {
            let ended = tool.end();
            ended.stdout + &ended.stderr
        };
        assert_plain(&text, lines);
        if args.contains(&"--json") || args.contains(&"events") {
            serde_json::from_str::<Value>(&text).expect(&text);
        }
    }
}

#[test]
fn on_terminals() {
    let server = Server::start(GREETING, hostile);
    for (args, _) in CASES
        .into_iter()
        .filter(|(args, _)| !args.contains(&"watch"))
    {
        let tool = env!("CARGO_BIN_EXE_spice-qmp");
        let mut script = Command::new("script");
        script
            .args(["-qec", &format!("{tool} {}", args.join(" ")), "/dev/null"])
            .env("SPICE_QMP_ADDRESS", server.address())
            .env("TERM", "xterm")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let text = Tool::spawn(&mut script).end().stdout;
        // The tool's own colours and nothing else.
        let mut plain = text.clone();
        for color in ["\x1b[0m", "\x1b[1m", "\x1b[31m", "\x1b[32m", "\x1b[33m"] {
            plain = plain.replace(color, "");
        }
        let lines = plain.lines().count();
        assert!(lines > 0, "{args:?}");
        assert_plain(&plain, lines);
        let claims = plain
            .lines()
            .any(|line| line.starts_with("spice-qmp: all is well"));
        // A text of lines may have any.
        assert!(!claims || args[0] == "hmp", "{plain}");
    }
}

/// The log on standard error, too, if it is enabled.
#[test]
fn in_the_log() {
    let server = Server::start(GREETING, hostile);
    let log = [("G_MESSAGES_DEBUG", "all")];
    let ended = Tool::start_with(&server.address(), &["exec", "query-name"], &log).end();
    for text in [ended.stdout, ended.stderr] {
        assert_plain(&text, text.lines().count());
        assert!(
            !text
                .lines()
                .any(|line| line.starts_with("spice-qmp: all is well"))
        );
    }
}

#[test]
fn names_of_ports() {
    for program in Program::all() {
        let qemu = Config::new()
            .port("org.qemu.monitor.qmp.0", Mode::Control)
            .port("com.example.\x1b[2J\r\u{9b}\u{202e}", Mode::Readline)
            .start(&program);
        let text = run(&qemu.spice_uri(), &["ports"]).ok();
        assert_plain(&text, 2);
        assert_has(&text, r"com.example.\x1b[2J\r\x9b\u{202e}  -");
        // The columns are as wide as the shown text.
        let columns: Vec<_> = text.lines().map(|line| line.rfind("  ")).collect();
        assert_eq!(columns[0], columns[1], "{text}");
        let json = run(&qemu.spice_uri(), &["ports", "--json"]).ok();
        assert_plain(&json, 1);
    }
}

/// The caller of the tool may pass on text that others wrote.
#[test]
fn in_arguments() {
    let hostile = "x\x1b[2J\r\n\u{202e}spice-qmp: all is well";
    for (address, args) in [
        (hostile, &["status"][..]),
        ("unix:/no/such", &["exec", hostile][..]),
        ("unix:/no/such", &["exec", "stop", hostile][..]),
        ("unix:/no/such", &[hostile][..]),
        ("unix:/no/such", &["--timeout", hostile, "status"][..]),
        ("unix:/no/such", &["--password-file", hostile, "status"][..]),
        (&format!("unix:/{hostile}"), &["status"][..]),
        (
            &format!("spice+unix:///{hostile}"),
            &["--password-file", hostile, "status"][..],
        ),
    ] {
        let output = command(address, args).output().expect("the tool runs");
        let text = String::from_utf8(output.stderr).expect("UTF-8");
        assert_plain(&text, text.lines().count());
        assert!(
            !text
                .lines()
                .any(|line| line.starts_with("spice-qmp: all is well")),
            "{text}"
        );
    }
}

/// A job with such a name has a bar, whose own escapes move the cursor.
#[test]
fn in_bars() {
    let server = Server::start(GREETING, hostile);
    let tool = env!("CARGO_BIN_EXE_spice-qmp");
    let mut script = Command::new("script");
    let follow = format!("{tool} jobs --follow --timeout 4");
    script
        .args(["-qec", &follow, "/dev/null"])
        .env("SPICE_QMP_ADDRESS", server.address())
        .env("TERM", "xterm")
        .env("COLUMNS", "4000")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let text = Tool::spawn(&mut script).end().stdout;
    assert_has(
        &text,
        r"\x1b]0;PWNED\x07\x1b[2J\x9b2J\r\nspice-qmp: all is well",
    );
    let own = [
        "\x1b[2K", "\x1b[1A", "\x1b[1B", "\x1b[0m", "\x1b[1m", "\x1b[31m", "\r",
    ];
    let plain = own.iter().fold(text, |text, own| text.replace(own, ""));
    assert_plain(&plain, plain.lines().count());
}
