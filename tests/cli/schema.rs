// SPDX-License-Identifier: MIT OR Apache-2.0
//! `commands` and `schema`: the schema of each QEMU.

use crate::on_each;
use crate::server::{GREETING, Server};
use crate::tool::{assert_has, run};

#[test]
fn the_commands_of_this_qemu() {
    on_each(|_, address| {
        let all = run(address, &["commands"]).ok();
        let names = run(address, &["exec", "query-commands"]).ok_json();
        let count = names.as_array().expect("a list").len();
        assert_eq!(all.lines().count(), count, "{all}");
        let line = |text: &str, name: &str| {
            let is_named = |line: &&str| line.split(' ').next() == Some(name);
            text.lines().find(is_named).map(str::to_owned)
        };
        assert_eq!(line(&all, "stop").as_deref(), Some("stop"));
        let add = line(&all, "blockdev-add").expect("a command");
        assert!(add.contains(" driver [node-name] ") && add.ends_with(" ..."));

        let some = run(address, &["commands", "DEVICE_"]).ok();
        let del = line(&some, "device_del").expect("a command");
        assert_eq!(
            del.split_whitespace().collect::<Vec<_>>(),
            ["device_del", "id"]
        );
        assert!(line(&some, "stop").is_none());
        let json = run(address, &["commands", "--json", "device-del"]).ok_json();
        assert_eq!(json[0]["meta-type"], "command");
        assert_eq!(json.as_array().expect("a list").len(), 1);
        let none = run(address, &["commands", "xyz"]).failed(1);
        assert_has(&none, "QEMU has no command with \"xyz\"");
    });
}

#[test]
fn what_a_command_takes_and_returns() {
    on_each(|_, address| {
        let jobs = run(address, &["schema", "query-jobs"]).ok();
        assert_has(&jobs, "query-jobs (command)\nreturns [object]\n  id ");
        assert_has(&jobs, "\n  error             str, optional\n");
        let add = run(address, &["schema", "blockdev-add"]).ok();
        assert_has(&add, "\n  with driver=file:\n    filename ");
        assert_has(&add, "\n    direct    bool, optional\n");
        assert_has(&add, "object|str (see blockdev-add)");
        let event = run(address, &["schema", "STOP"]).ok();
        assert_eq!(event, "STOP (event)\n");

        let json = run(address, &["--json", "schema", "device_del"]).ok_json();
        assert_eq!(json[0]["name"], "device_del");
        let object = json.as_array().expect("a list").iter();
        let mut object = object.filter(|it| it["name"] == json[0]["arg-type"]);
        assert_eq!(
            object.next().expect("its arguments")["members"][0]["name"],
            "id"
        );

        let wrong = run(address, &["schema", "query_blok"]).failed(1);
        assert_has(&wrong, "hint: did you mean query-block?");
        // A type has no name that people know.
        run(address, &["schema", "str"]).failed(1);
    });
}

/// With any names that a server gives its commands.
#[test]
fn names_act_on_no_terminal() {
    let server = Server::start(GREETING, |command| {
        match command {
        "query-qmp-schema" => vec![
            r#"{"return":[
                {"name":"a\u001b[2J\r\nb","meta-type":"command","arg-type":"o","ret-type":"o"},
                {"name":"b","meta-type":"command","arg-type":"o","ret-type":"o"},
                {"name":"o","meta-type":"object","tag":"\u009b","members":[{"name":"\u202e\n","type":"e"}],
                 "variants":[{"case":"\u001b","type":"p"}]},
                {"name":"p","meta-type":"object","members":[{"name":"\u0007","type":"\u001b"}]},
                {"name":"e","meta-type":"enum","values":["\u001b[31m","\u2028"]}],"id":$ID}"#
                .replace('\n', ""),
        ],
        _ => Vec::new(),
    }
    });
    for args in [
        &["commands"][..],
        &["--json", "commands"],
        &["schema", "b"],
        &["--json", "schema", "b"],
    ] {
        let text = run(&server.address(), args).ok();
        let acts = |c: char| c.is_control() && c != '\n' || matches!(c, '\u{202e}' | '\u{2028}');
        assert!(!text.contains(acts), "{text:?}");
    }
    let listed = run(&server.address(), &["commands"]).ok();
    assert_eq!(listed.lines().count(), 2, "{listed}");
}

/// A server that has no schema, or a wrong one.
#[test]
fn what_is_no_schema() {
    let server = Server::start(GREETING, |command| match command {
        "query-qmp-schema" => vec![r#"{"return":[{"name":1}],"id":$ID}"#.into()],
        _ => Vec::new(),
    });
    let failed = run(&server.address(), &["commands"]).failed(3);
    assert_has(&failed, "QEMU's schema cannot be read");
}
