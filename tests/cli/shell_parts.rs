// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the shell has of the machine: `.status`, `.drives`, `.jobs` and `.events`.

use crate::common::qemu::Config;
use crate::on_each_of;
use crate::server::Server;
use crate::shell::run_script;
use crate::terminal::{GREETING, assert_plain, hostile};
use crate::tmux::Terminal;
use crate::tool::assert_has;

const DISK: &str = "driver=null-co,node-name=disk,size=67108864,read-zeroes=on";
const COPY: &str = "driver=null-co,node-name=copy,size=67108864";

fn with_parts() -> Config {
    let config = Config::new().arg("-blockdev").arg(DISK);
    let config = config.arg("-blockdev").arg(COPY);
    config.arg("-device").arg("ide-cd,id=cd0")
}

#[test]
fn a_person_looks_at_them() {
    on_each_of(with_parts, |_, address| {
        let terminal = Terminal::shell(address);
        terminal.wait_last("(qmp)");
        terminal.type_text(".dr");
        terminal.press(&["Tab"]);
        terminal.wait_last("(qmp) .drives");
        terminal.press(&["Enter"]);
        terminal.wait_text("\ncd0  removable  -\n");
        terminal.enter(".jobs");
        terminal.wait_text("\nspice-qmp: note: no jobs\n");
        terminal.enter("blockdev-backup job-id=nightly device=disk target=copy sync=full speed=1");
        terminal.wait_text("{}\n(qmp)");
        terminal.enter(".jobs");
        terminal.wait_text("\nnightly  backup  running  ");
        terminal.enter(".status");
        terminal.wait_text("\nstate    prelaunch\nrunning  no\nQEMU     ");

        terminal.enter(".events off");
        terminal.enter("cont");
        terminal.wait(|screen| screen.contains("(qmp) cont\n{}\n(qmp)"));
        terminal.enter(".events on");
        terminal.enter("stop");
        let screen = terminal.wait_text("\nSTOP\n");
        assert!(!screen.contains("\nRESUME\n"), "{screen}");
        terminal.enter(".events");
        terminal.wait_text("error: .events is followed by on or off");
        terminal.enter(".jobs nightly");
        terminal.wait_text("error: nothing may follow .jobs");
        terminal.enter("help");
        terminal.wait_text("hint: .help explains the shell");
        terminal.enter(".help .drives");
        terminal.wait_text("\n.drives  ");
        terminal.press(&["C-d"]);
        terminal.ended(0);
    });
}

#[test]
fn a_script_looks_at_them() {
    on_each_of(with_parts, |_, address| {
        let script = ".status\n.drives\n.jobs\n";
        let ended = run_script(address, &["shell"], script);
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert_has(&ended.stdout, "state    prelaunch\n");
        assert_has(&ended.stdout, "\ncd0  removable  -\n");
        assert_eq!(ended.stderr, "spice-qmp: note: no jobs\n");
        let json = run_script(address, &["--json", "shell"], script).ok();
        let lines: Vec<_> = json.lines().collect();
        assert_eq!(lines.len(), 3, "{json}");
        assert_has(lines[0], r#""status":"prelaunch""#);
        assert_has(lines[1], r#"[{"id":"cd0","#);
        assert_eq!(lines[2], "[]");
        // The events of a script are shown where it asks for them.
        let events = run_script(address, &["shell"], ".events on\ncont\n.events off\nstop\n");
        let lines = events.ok();
        assert_eq!(lines.lines().collect::<Vec<_>>(), ["RESUME", "{}", "{}"]);
        let ended = run_script(address, &["shell"], ".drives cd0\n");
        assert_eq!(
            ended.failed(2),
            "spice-qmp: error: nothing may follow .drives\n"
        );
    });
}

#[test]
fn a_server_acts_on_no_terminal() {
    let server = Server::start(GREETING, hostile);
    for line in [".status", ".drives", ".jobs", ".events on\nquery-name"] {
        let ended = run_script(&server.address(), &["shell"], &format!("{line}\n"));
        let text = ended.ok();
        assert_has(&text, "PWNED");
        assert_plain(&text, text.lines().count());
        assert!(!text.contains("\nspice-qmp: all is well"), "{text}");
    }
}
