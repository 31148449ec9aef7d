//! Hides secrets in commands before they are logged.

use std::cmp::Reverse;

use serde_json::Value;

use super::request::check_command;

const HIDDEN: &str = "***";

/// A command with its arguments, fit for a log: the values of members whose name
/// speaks of a secret are hidden, and what else may be one.
#[must_use]
pub fn redacted(command: &str, arguments: Option<&str>) -> String {
    if check_command(command).is_err() {
        // Who takes this for a human monitor may have typed a password.
        return HIDDEN.into();
    }
    let Some(arguments) = arguments else {
        return command.to_owned();
    };
    match serde_json::from_str(arguments) {
        Ok(mut value @ Value::Object(_)) => {
            let found = hide(command, &mut value);
            // It may have been given twice, once in a wrong place.
            without(&found, &format!("{command} {value}"))
        }
        // It will not be sent, whatever it is.
        _ => format!("{command} {HIDDEN}"),
    }
}

/// What a server sent, fit for a log. A text that is all of a reply is the output of
/// a human monitor command, or a property, of which nothing is known.
#[must_use]
pub fn redacted_payload(json: &str) -> String {
    match serde_json::from_str(json) {
        Ok(Value::String(_)) | Err(_) => HIDDEN.into(),
        Ok(mut value) => {
            hide_members(&mut value, false, &mut Vec::new());
            value.to_string()
        }
    }
}

/// The secrets in a command's arguments, which an error must not repeat.
pub(super) fn secrets(command: &str, arguments: Option<&str>) -> Vec<Box<str>> {
    let read = |arguments| serde_json::from_str(arguments).ok();
    arguments
        .and_then(read)
        .map(|mut value| hide(command, &mut value))
        .unwrap_or_default()
}

/// QEMU's words without the secrets of the command that it speaks of.
pub(super) fn without(secrets: &[Box<str>], text: &str) -> String {
    secrets.iter().fold(text.to_owned(), |text, secret| {
        text.replace(&**secret, HIDDEN)
    })
}

/// Hides what may be a secret, and returns it, the longest first: one secret may
/// have another in it.
fn hide(command: &str, arguments: &mut Value) -> Vec<Box<str>> {
    let mut secrets = Vec::new();
    let found = &mut secrets;
    match command {
        "human-monitor-command" => hide_command_line(arguments, found),
        // `change vnc password x` (before QEMU 6)
        "change" if speaks(arguments, "target") => take(arguments, "arg", found),
        "qom-set" if speaks(arguments, "property") => take(arguments, "value", found),
        // What is typed into the guest.
        "ringbuf-write" => take(arguments, "data", found),
        // Single keys are in no error.
        "send-key" => take(arguments, "keys", &mut Vec::new()),
        "input-send-event" => take(arguments, "events", &mut Vec::new()),
        _ => {}
    }
    hide_members(arguments, false, found);
    secrets.sort_by_key(|secret| Reverse(secret.len()));
    secrets
}

/// Whether a member's value is a name of a secret.
fn speaks(arguments: &Value, member: &str) -> bool {
    let name = arguments.get(member).and_then(Value::as_str);
    name.is_some_and(|name| name == "data" || speaks_of_secret(name))
}

/// Hides a member of the arguments.
fn take(arguments: &mut Value, member: &str, found: &mut Vec<Box<str>>) {
    if let Some(value) = arguments.get_mut(member) {
        take_value(value, found);
    }
}

fn take_value(value: &mut Value, found: &mut Vec<Box<str>>) {
    collect(value, found);
    *value = HIDDEN.into();
}

/// Adds all texts and numbers, but for what is too short to be told from others.
fn collect(value: &Value, found: &mut Vec<Box<str>>) {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Number(number) => number.to_string(),
        Value::Array(items) => return items.iter().for_each(|item| collect(item, found)),
        Value::Object(members) => return members.values().for_each(|it| collect(it, found)),
        Value::Null | Value::Bool(_) => return,
    };
    if text.len() >= SHORTEST && text != HIDDEN {
        found.push(text.into());
    }
}

/// A shorter secret is none, and would make other words of an error unreadable.
const SHORTEST: usize = 3;

/// `set_password vnc x` and the like have the secret among their words.
fn hide_command_line(arguments: &mut Value, found: &mut Vec<Box<str>>) {
    if let Some(Value::String(line)) = arguments.get_mut("command-line") {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        let rest: Vec<_> = words.map(Value::from).collect();
        if !rest.is_empty() {
            collect(&rest.into(), found);
            *line = format!("{first} {HIDDEN}");
        }
    }
}

/// Hides what speaks of a secret; within a `secret` object also its `data`,
/// which before QEMU 6 is in its `props`; and logins within addresses of images.
fn hide_members(value: &mut Value, in_secret: bool, found: &mut Vec<Box<str>>) {
    match value {
        Value::Array(items) => {
            for item in items {
                hide_members(item, in_secret, found);
            }
        }
        Value::Object(members) => {
            let kind = members.get("qom-type").and_then(Value::as_str);
            let in_secret = in_secret || kind.is_some_and(|kind| kind.starts_with("secret"));
            for (name, member) in members {
                if speaks_of_secret(name) || in_secret && name == "data" {
                    take_value(member, found);
                } else {
                    hide_members(member, in_secret, found);
                }
            }
        }
        Value::String(text) if has_login(text) => take_value(value, found),
        _ => {}
    }
}

/// Whether the address of an image has a login in it: `https://user:x@host`,
/// `json:{...}`, `rbd:pool/image:key=x`.
fn has_login(text: &str) -> bool {
    let authority = text.split_once("://").map(|(_, rest)| rest);
    authority.is_some_and(|rest| rest.contains('@'))
        || text.starts_with("json:")
        || text.contains(":key=")
}

/// What names of secrets have in them.
const WORDS: [&str; 8] = [
    "password",
    "passwd",
    "passphrase",
    "secret",
    "cookie",
    "token",
    "credential",
    "passcode",
];

/// Names of secrets themselves; `password-secret` and `key-secret` only name an object.
fn speaks_of_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with("-secret") && WORDS.iter().any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::{redacted, redacted_payload, secrets, without};

    #[test]
    fn secrets_are_hidden_and_the_rest_is_shown() {
        let cases = [
            (
                "set_password",
                r#"{"protocol":"vnc","password":"x","connected":"keep"}"#,
                r#"{"connected":"keep","password":"***","protocol":"vnc"}"#,
            ),
            (
                "object-add",
                r#"{"qom-type":"secret","id":"s","data":"x","format":"raw"}"#,
                r#"{"data":"***","format":"raw","id":"s","qom-type":"secret"}"#,
            ),
            (
                "object-add",
                r#"{"qom-type":"secret_keyring","id":"s","props":{"data":["x"],"format":"raw"}}"#,
                r#"{"id":"s","props":{"data":"***","format":"raw"},"qom-type":"secret_keyring"}"#,
            ),
            (
                "blockdev-add",
                r#"{"file":[{"key-secret":"s","Cookie":"x","cookie-secret":"s"}],"data":1}"#,
                r#"{"data":1,"file":[{"Cookie":"***","cookie-secret":"s","key-secret":"s"}]}"#,
            ),
            (
                "human-monitor-command",
                r#"{"command-line":"set_password\tvnc x","cpu-index":0}"#,
                r#"{"command-line":"set_password ***","cpu-index":0}"#,
            ),
            (
                "human-monitor-command",
                r#"{"command-line":" info "}"#,
                r#"{"command-line":" info "}"#,
            ),
            (
                "change",
                r#"{"device":"vnc","target":"password","arg":"x"}"#,
                r#"{"arg":"***","device":"vnc","target":"password"}"#,
            ),
            (
                "object-add",
                r#"{"qom-type":"secret","id":"s","d\u0061ta":"x","data":"y"}"#,
                r#"{"data":"***","id":"s","qom-type":"secret"}"#,
            ),
            (
                "set_password",
                r#"{"protocol":"vnc","pass\u0077ord":"x"}"#,
                r#"{"password":"***","protocol":"vnc"}"#,
            ),
            (
                "qom-set",
                r#"{"path":"/objects/s","property":"data","value":"x"}"#,
                r#"{"path":"/objects/s","property":"data","value":"***"}"#,
            ),
            (
                "qom-set",
                r#"{"path":"/a","property":"size","value":"x"}"#,
                r#"{"path":"/a","property":"size","value":"x"}"#,
            ),
            (
                "send-key",
                r#"{"keys":[{"type":"qcode","data":"p"}],"hold-time":1}"#,
                r#"{"hold-time":1,"keys":"***"}"#,
            ),
            (
                "blockdev-add",
                r#"{"a":["https://u:x@h/d","https://h/d","json:{}","rbd:p/i:key=x","u@h"]}"#,
                r#"{"a":["***","https://h/d","***","***","u@h"]}"#,
            ),
            (
                "change",
                r#"{"device":"cd","target":"/a.iso","arg":"raw"}"#,
                r#"{"arg":"raw","device":"cd","target":"/a.iso"}"#,
            ),
        ];
        for (command, arguments, expected) in cases {
            let text = redacted(command, Some(arguments));
            assert_eq!(text, format!("{command} {expected}"));
        }
    }

    #[test]
    fn what_is_no_command_is_hidden() {
        assert_eq!(redacted("set_password vnc x", None), "***");
        assert_eq!(redacted("stop\nfaked", Some("{}")), "***");
    }

    #[test]
    fn secrets_are_hidden_in_what_the_server_sends() {
        let cases = [
            (
                r#"{"a":[{"password":"x","key-secret":"s"}]}"#,
                r#"{"a":[{"key-secret":"s","password":"***"}]}"#,
            ),
            (r#"{"status":"running"}"#, r#"{"status":"running"}"#),
            (r#""output""#, "***"),
            ("7", "7"),
        ];
        for (payload, expected) in cases {
            assert_eq!(redacted_payload(payload), expected);
        }
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(redacted_payload(&deep), "***");
    }

    #[test]
    fn an_error_does_not_repeat_a_secret() {
        let arguments = r#"{"protocol":"vnc","pass\u0077ord":"geheim\n","connected":"keep"}"#;
        let found = secrets("set_password", Some(arguments));
        assert_eq!(found, ["geheim\n".into()]);
        assert_eq!(&*without(&found, "vnc: geheim\n!"), "vnc: ***!");
        let line = r#"{"command-line":"change vnc password geheim"}"#;
        let found = secrets("human-monitor-command", Some(line));
        assert_eq!(&*without(&found, "what is geheim?"), "what is ***?");
        // One secret may begin like another, whichever comes first.
        let arguments = r#"{"password":"geheim","passwords":["geheimnis"],"token":"geheimer"}"#;
        let found = secrets("x", Some(arguments));
        assert_eq!(
            &*without(&found, "geheimer geheim geheimnis"),
            "*** *** ***"
        );
        assert!(secrets("device_add", Some(r#"{"id":"a","value":"b"}"#)).is_empty());
        assert!(secrets("set_password", Some(r#"{"password":"a"}"#)).is_empty());
        assert!(secrets("stop", None).is_empty());
    }

    #[test]
    fn arguments_that_cannot_be_read_are_hidden() {
        assert_eq!(redacted("stop", None), "stop");
        assert_eq!(redacted("x", Some(r#"{"password":"x""#)), "x ***");
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(redacted("x", Some(&deep)), "x ***");
        assert_eq!(
            redacted("human-monitor-command", Some("[]")),
            "human-monitor-command ***"
        );
    }
}
