//! Hides secrets in commands before they are logged.

use serde_json::Value;

const HIDDEN: &str = "***";

/// A command with its arguments, fit for a log: the values of members whose
/// name speaks of a secret, the data of `secret` objects and the words of a
/// human monitor command are hidden.
#[must_use]
pub fn redacted(command: &str, arguments: Option<&str>) -> String {
    let Some(arguments) = arguments else {
        return command.to_owned();
    };
    let Ok(mut value) = serde_json::from_str(arguments) else {
        return format!("{command} {HIDDEN}");
    };
    if command == "human-monitor-command" {
        hide_command_line(&mut value);
    }
    hide(&mut value);
    format!("{command} {value}")
}

/// `set_password vnc x` and the like have the secret among their words.
fn hide_command_line(arguments: &mut Value) {
    if let Some(Value::String(line)) = arguments.get_mut("command-line")
        && let Some((first, _)) = line.split_once(' ')
    {
        *line = format!("{first} {HIDDEN}");
    }
}

fn hide(value: &mut Value) {
    match value {
        Value::Array(items) => items.iter_mut().for_each(hide),
        Value::Object(members) => {
            let is_secret_object = members
                .get("qom-type")
                .and_then(Value::as_str)
                .is_some_and(|kind| kind.starts_with("secret"));
            for (name, member) in members {
                if speaks_of_secret(name) || is_secret_object && name == "data" {
                    *member = HIDDEN.into();
                } else {
                    hide(member);
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
        && ["password", "passwd", "passphrase", "secret"]
            .iter()
            .any(|word| name.contains(word))
}
