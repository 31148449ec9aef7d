//! Hides secrets in commands before they are logged.

use serde_json::Value;

const HIDDEN: &str = "***";

/// A command with its arguments, fit for a log: the values of members whose
/// name speaks of a secret, the data of `secret` objects, the words of a human
/// monitor command and the new password of `change` are hidden.
#[must_use]
pub fn redacted(command: &str, arguments: Option<&str>) -> String {
    let Some(arguments) = arguments else {
        return command.to_owned();
    };
    let Ok(mut value) = serde_json::from_str(arguments) else {
        return format!("{command} {HIDDEN}");
    };
    match command {
        "human-monitor-command" => hide_command_line(&mut value),
        "change" => hide_new_password(&mut value),
        _ => {}
    }
    hide(&mut value, false);
    format!("{command} {value}")
}

/// `set_password vnc x` and the like have the secret among their words.
fn hide_command_line(arguments: &mut Value) {
    if let Some(Value::String(line)) = arguments.get_mut("command-line") {
        let mut words = line.split_ascii_whitespace();
        let first = words.next().unwrap_or_default();
        if words.next().is_some() {
            *line = format!("{first} {HIDDEN}");
        }
    }
}

/// `change vnc password x` (before QEMU 6) has the secret in a member named `arg`.
fn hide_new_password(arguments: &mut Value) {
    let target = arguments.get("target").and_then(Value::as_str);
    if target.is_some_and(speaks_of_secret)
        && let Some(arg) = arguments.get_mut("arg")
    {
        *arg = HIDDEN.into();
    }
}

/// Hides what speaks of a secret; within a `secret` object also its `data`,
/// which before QEMU 6 is in its `props`.
fn hide(value: &mut Value, in_secret: bool) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(|item| hide(item, in_secret)),
        Value::Object(members) => {
            let kind = members.get("qom-type").and_then(Value::as_str);
            let in_secret = in_secret || kind.is_some_and(|kind| kind.starts_with("secret"));
            for (name, member) in members {
                if speaks_of_secret(name) || in_secret && name == "data" {
                    *member = HIDDEN.into();
                } else {
                    hide(member, in_secret);
                }
            }
        }
        _ => {}
    }
}

/// Names of secrets themselves; `password-secret` and `key-secret` only name an object.
fn speaks_of_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    !name.ends_with("-secret")
        && ["password", "passwd", "passphrase", "secret", "cookie"]
            .iter()
            .any(|word| name.contains(word))
}

#[cfg(test)]
mod tests {
    use super::redacted;

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
    fn arguments_that_cannot_be_read_are_hidden() {
        assert_eq!(redacted("stop", None), "stop");
        assert_eq!(redacted("x", Some(r#"{"password":"x""#)), "x ***");
        let deep = format!("{}1{}", "[".repeat(500), "]".repeat(500));
        assert_eq!(redacted("x", Some(&deep)), "x ***");
        assert_eq!(
            redacted("human-monitor-command", Some("[]")),
            "human-monitor-command []"
        );
    }
}
