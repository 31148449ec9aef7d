// SPDX-License-Identifier: MIT OR Apache-2.0
//! Replies to `query-qmp-schema` that take much memory.

use spice_qmp::qmp::limits::MAX_TREE_SIZE;

/// What there is too much of, and whether they are valid schemas all the same.
pub(crate) fn hostile() -> Vec<(&'static str, String, bool)> {
    // As much space as a part may take.
    let room = MAX_TREE_SIZE - 200;
    let many = |part: &dyn Fn(usize) -> String| {
        let mut parts = String::with_capacity(MAX_TREE_SIZE);
        for number in 0.. {
            let part = part(number);
            if parts.len() + part.len() + 1 > room {
                break;
            }
            if number > 0 {
                parts.push(',');
            }
            parts.push_str(&part);
        }
        parts
    };
    let entity = |members: &str, variants: &str| {
        format!(
            r#"[{{"name":"c","meta-type":"command","arg-type":"o"}},{{"name":"o","meta-type":"object","members":[{members}],"variants":[{variants}]}}]"#
        )
    };
    let multiplied = |commands: usize, members: usize| {
        let commands = (0..commands).map(|number| {
            format!(r#"{{"name":"c{number}","meta-type":"command","arg-type":"o"}},"#)
        });
        let members = (0..members).map(|number| format!(r#"{{"name":"m{number}"}},"#));
        let (commands, members) = (commands.collect::<String>(), members.collect::<String>());
        format!(
            r#"[{commands}{{"name":"o","meta-type":"object","members":[{}]}}]"#,
            members.trim_end_matches(',')
        )
    };
    vec![
        (
            "members without names",
            entity(&many(&|_| "{}".into()), ""),
            false,
        ),
        (
            "members",
            entity(&many(&|n| format!(r#"{{"name":"{n:x}"}}"#)), ""),
            false,
        ),
        (
            "escaped names",
            entity(&many(&|_| r#"{"name":"\u0061"}"#.into()), ""),
            true,
        ),
        (
            "variants",
            entity("", &many(&|_| r#"{"type":"o"}"#.into())),
            true,
        ),
        (
            "entities",
            format!("[{}]", many(&|_| r#"{"name":"","meta-type":""}"#.into())),
            true,
        ),
        (
            "commands",
            format!(
                "[{}]",
                many(&|n| format!(r#"{{"name":"{n:x}","meta-type":"command"}}"#))
            ),
            true,
        ),
        (
            "objects",
            format!(
                "[{}]",
                many(&|n| format!(r#"{{"name":"{n:x}","meta-type":"object"}}"#))
            ),
            true,
        ),
        ("commands with the same members", multiplied(1000, 60), true),
        ("members of many commands", multiplied(30, 4000), false),
        ("brackets", format!("[{}]", "[".repeat(room)), false),
        (
            "one name",
            format!(
                r#"[{{"name":"{}","meta-type":"command"}}]"#,
                "x".repeat(room)
            ),
            false,
        ),
    ]
}
