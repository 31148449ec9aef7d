// SPDX-License-Identifier: MIT OR Apache-2.0
//! Hides secrets in commands before they are logged, and in errors that quote them.
//!
//! Which names and texts mark secrets is decided in `secret.rs`.

use serde_json::Value;

use super::request::check_command;
use super::secret::{self, Found, HIDDEN};

/// A command with its arguments, fit for a log: values of members whose name suggests
/// a secret are hidden, and so is anything else that may be one.
#[must_use]
pub fn redacted(command: &str, arguments: Option<&str>) -> String {
    if check_command(command).is_err() {
        // Someone who mistakes this for a human monitor may have typed a password.
        return HIDDEN.into();
    }
    let Some(arguments) = arguments else {
        return command.to_owned();
    };
    match serde_json::from_str(arguments) {
        Ok(mut value @ Value::Object(_)) => {
            let found = hide(command, &mut value);
            // The member may appear twice, once in a wrong place.
            found.without_texts(&format!("{command} {value}"))
        }
        // It will not be sent, whatever it is.
        _ => format!("{command} {HIDDEN}"),
    }
}

/// What a server sent, fit for a log. A reply that is a single text is the output of
/// a human monitor command, or a property, about which nothing is known.
#[must_use]
pub fn redacted_payload(json: &str) -> String {
    match serde_json::from_str(json) {
        Ok(Value::String(_)) | Err(_) => HIDDEN.into(),
        Ok(mut value) => {
            secret::hide_members(&mut value, false, &mut Found::default());
            value.to_string()
        }
    }
}

/// Removes from QEMU's messages about a command the secrets in its arguments.
pub(super) struct Censor {
    found: Found,
    /// The arguments could not be parsed, so any word may be a secret.
    hides_all: bool,
}

impl Censor {
    pub(super) fn new(command: &str, arguments: Option<&str>) -> Self {
        let value = arguments.map(serde_json::from_str).transpose();
        Self {
            hides_all: value.is_err(),
            found: match value {
                Ok(Some(mut value)) => hide(command, &mut value),
                _ => Found::default(),
            },
        }
    }

    pub(super) fn without_secrets(&self, text: &str) -> String {
        if self.hides_all {
            return HIDDEN.into();
        }
        self.found.without(text)
    }
}

/// Hides what may be a secret, and returns it.
fn hide(command: &str, arguments: &mut Value) -> Found {
    let mut found = Found::default();
    let to = &mut found;
    match command {
        "human-monitor-command" => edit(arguments, "command-line", |line| {
            secret::hide_command_line(line, to);
        }),
        // `change vnc password x` (before QEMU 6)
        "change" if speaks(arguments, "target") => take(arguments, "arg", to),
        "qom-set" if speaks(arguments, "property") => take(arguments, "value", to),
        "migrate" | "migrate-incoming" | "migrate-recover" => edit(arguments, "uri", |uri| {
            secret::hide_migration_uri(uri, to);
        }),
        // Keys typed into the guest.
        "ringbuf-write" => take(arguments, "data", to),
        "send-key" => edit(arguments, "keys", |keys| secret::take_keys(keys, to)),
        "input-send-event" => edit(arguments, "events", |events| secret::take_keys(events, to)),
        // Commands of QEMU's guest agent: what runs in the guest.
        "guest-exec" => {
            for member in ["arg", "env", "input-data"] {
                take(arguments, member, to);
            }
        }
        "guest-file-write" => take(arguments, "buf-b64", to),
        _ => {}
    }
    secret::hide_members(arguments, false, to);
    found.sort();
    found
}

/// Whether a member's value is the name of a secret.
fn speaks(arguments: &Value, member: &str) -> bool {
    let name = arguments.get(member).and_then(Value::as_str);
    name.is_some_and(secret::is_property_of_secret)
}

/// Hides a member of the arguments.
fn take(arguments: &mut Value, member: &str, found: &mut Found) {
    edit(arguments, member, |value| secret::take_value(value, found));
}

fn edit(arguments: &mut Value, member: &str, edit: impl FnOnce(&mut Value)) {
    if let Some(value) = arguments.get_mut(member) {
        edit(value);
    }
}

#[cfg(test)]
mod tests {
    use super::{Censor, redacted, redacted_payload};

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
    fn what_is_not_a_command_is_hidden() {
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
        let cases = [
            (
                "set_password",
                r#"{"protocol":"vnc","pass\u0077ord":"geheim\n","connected":"keep"}"#,
                "vnc: geheim\n!",
                "vnc: ***!",
            ),
            (
                "human-monitor-command",
                r#"{"command-line":"change vnc password geheim"}"#,
                "what is geheim?",
                "what is ***?",
            ),
            // One secret may be a prefix of another, whichever comes first.
            (
                "x",
                r#"{"password":"geheim","passwords":["geheimnis"],"token":"geheimer"}"#,
                "geheimer geheim geheimnis",
                "*** *** ***",
            ),
            (
                "device_add",
                r#"{"id":"a","value":"b"}"#,
                "no 'a', 'b'",
                "no 'a', 'b'",
            ),
            // A short secret is not matched within other words.
            (
                "set_password",
                r#"{"password":"a"}"#,
                "'a' is bad at all",
                "*** is bad at all",
            ),
            (
                "send-key",
                r#"{"keys":[{"type":"qcode","data":"A"},{"type":"qcode","data":"geheim"}]}"#,
                "'A', 'geheim' is no 'qcode': Ah",
                "***, '***' is no 'qcode': Ah",
            ),
            (
                "migrate",
                r#"{"uri":"exec:curl -u 'user:geheim' x"}"#,
                "user:geheim: curl: geheim",
                "***: ***: ***",
            ),
            (
                "migrate",
                r#"{"uri":"exec:cat > geheim"}"#,
                "duplicate yank instance: cat > geheim",
                "duplicate yank instance: ***",
            ),
            (
                "migrate",
                r#"{"uri":"exec:cat > geheim"}"#,
                "duplicate: 'cat', cat, concat",
                "duplicate: '***', ***, concat",
            ),
            (
                "migrate",
                r#"{"uri":"exce:geheim"}"#,
                "unknown migration protocol: exce:geheim",
                "unknown migration protocol: ***",
            ),
            (
                "blockdev-add",
                r#"{"url":"https://u:geheim@h/d?sig=abcdef&x=1"}"#,
                "u:geheim, geheim, abcdef",
                "***, ***, ***",
            ),
        ];
        for (command, arguments, text, expected) in cases {
            let censor = Censor::new(command, Some(arguments));
            assert_eq!(censor.without_secrets(text), expected, "{arguments}");
        }
        assert_eq!(Censor::new("stop", None).without_secrets("no"), "no");
        let deep = format!("{{\"a\":{}1{}}}", "[".repeat(500), "]".repeat(500));
        let censor = Censor::new("x", Some(&deep));
        assert_eq!(censor.without_secrets("geheim"), "***");
    }

    /// Each contains the secret `geheim` somewhere.
    #[test]
    fn every_known_place_of_a_secret_is_hidden() {
        let cases = [
            ("human-monitor-command", r#"{"command-line":"geheim"}"#),
            (
                "human-monitor-command",
                r#"{"command-line":"geheim geheim"}"#,
            ),
            (
                "human-monitor-command",
                r#"{"command-line":"\u00a0geheim"}"#,
            ),
            ("migrate", r#"{"uri":"exec:curl geheim"}"#),
            ("migrate-incoming", r#"{"uri":"exec:curl geheim"}"#),
            ("migrate-incoming", r#"{"uri":"geheim"}"#),
            (
                "migrate",
                r#"{"channels":[{"channel-type":"main","addr":{"transport":"exec","args":["/bin/sh","-c","geheim x"]}}]}"#,
            ),
            ("x", r#"{"a":{"args":"geheim","transport":"exec"}}"#),
            ("x", r#"{"a":["exec:geheim"]}"#),
            (
                "netdev_add",
                r#"{"guestfwd":[{"str":"tcp:10.0.2.1:80-cmd:curl geheim"}]}"#,
            ),
            (
                "blockdev-add",
                r#"{"filename":"https://s3/d?X-Amz-Date=1&X-Amz-Signature=geheim"}"#,
            ),
            (
                "blockdev-add",
                r#"{"file":{"url":"http://h/d?SIG=geheim"}}"#,
            ),
            ("blockdev-add", r#"{"url":"http://h/d?geheim"}"#),
            (
                "blockdev-add",
                r#"{"url":"http://h/d?socket=x&token=geheim"}"#,
            ),
            (
                "blockdev-add",
                r#"{"a":"json:{\"url\":\"http://h/d?sig=geheim\"}"}"#,
            ),
            ("blockdev-add", r#"{"a":"rbd:p/i:id=x:key=geheim"}"#),
            ("device_add", r#"{"driver":"isa-applesmc","osk":"geheim"}"#),
            ("x", r#"{"a":"isa-applesmc,osk=geheim"}"#),
            ("x", r#"{"a":"secret,id=s,data=x,password=a:geheim"}"#),
            (
                "qom-set",
                r#"{"path":"/a","property":"osk","value":"geheim"}"#,
            ),
            (
                "x",
                r#"{"a":[{"name":"osk","type":"str","value":"geheim"}]}"#,
            ),
            ("x", r#"{"a":[{"value":"geheim","name":"password"}]}"#),
            (
                "guest-exec",
                r#"{"path":"a","arg":["geheim"],"env":["A=geheim"]}"#,
            ),
            ("guest-exec", r#"{"path":"a","input-data":"geheim"}"#),
            ("guest-file-write", r#"{"handle":1,"buf-b64":"geheim"}"#),
            (
                "guest-set-user-password",
                r#"{"username":"a","password":"geheim"}"#,
            ),
            (
                "object-add",
                r#"{"qom-type":"tls-creds-psk","psk":"geheim"}"#,
            ),
        ];
        for (command, arguments) in cases {
            let shown = redacted(command, Some(arguments));
            assert!(!shown.contains("geheim"), "{shown}");
            assert!(shown.contains("***"), "{shown}");
            if command == "x" {
                let shown = redacted_payload(arguments);
                assert!(!shown.contains("geheim"), "{shown}");
            }
        }
    }

    #[test]
    fn what_is_not_a_secret_is_shown() {
        let cases = [
            ("human-monitor-command", r#"{"command-line":"info"}"#),
            ("migrate", r#"{"uri":"tcp:h:4444"}"#),
            ("migrate", r#"{"uri":"unix:/a"}"#),
            (
                "migrate",
                r#"{"channels":[{"addr":{"args":["x"],"transport":"socket"}}]}"#,
            ),
            (
                "object-add",
                r#"{"id":"t","passwordid":"s","qom-type":"tls-creds-x509"}"#,
            ),
            (
                "object-add",
                r#"{"format":"raw","id":"s","keyid":"master","qom-type":"secret"}"#,
            ),
            (
                "blockdev-add",
                r#"{"key-secret":"s","password-secret":"p"}"#,
            ),
            ("blockdev-add", r#"{"filename":"nbd+unix:///e?socket=/a"}"#),
            (
                "blockdev-add",
                r#"{"filename":"ssh://h/a?host_key_check=no"}"#,
            ),
            (
                "blockdev-add",
                r#"{"filename":"/a?b=c","url":"http://h/d"}"#,
            ),
            ("netdev_add", r#"{"cookie64":true,"type":"l2tpv3"}"#),
            ("x", r#"{"a":[{"name":"size","value":"x"}]}"#),
            ("x", r#"{"left-command-key":true,"keyslot":1}"#),
        ];
        for (command, arguments) in cases {
            let same = serde_json::from_str::<serde_json::Value>(arguments).unwrap();
            let shown = redacted(command, Some(arguments));
            assert_eq!(shown, format!("{command} {same}"));
        }
        let shown = redacted("x", Some(r#"{"url":"https://s3/d?sig=x"}"#));
        assert_eq!(shown, r#"x {"url":"https://s3/d?***"}"#);
        let shown = redacted("migrate", Some(r#"{"uri":"exec:cat x"}"#));
        assert_eq!(shown, r#"migrate {"uri":"exec:***"}"#);
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
