// SPDX-License-Identifier: MIT OR Apache-2.0
//! Recognises names and texts in JSON that mark secrets.

use std::cmp::Reverse;

use serde_json::Value;

/// What is shown in place of a secret.
pub(super) const HIDDEN: &str = "***";

/// The secrets that were found in a command, the longest first once they are
/// [sorted](Self::sort): one secret may contain another.
#[derive(Debug, Default)]
pub(super) struct Found {
    texts: Vec<Box<str>>,
    /// The same, and possible parts of secrets: they are removed from errors.
    parts: Vec<Box<str>>,
    /// Secrets so short that they may be part of other words: they are only looked for
    /// within QEMU's quotes.
    quoted: Vec<Box<str>>,
}

/// Hiding a shorter secret would also hide other words of an error.
const SHORTEST: usize = 3;

/// A shorter word is hidden only where it stands alone, not within longer ones: `cat` within
/// `duplicate` stays.
const SHORTEST_WITHIN: usize = 6;

impl Found {
    fn add(&mut self, text: &str) {
        if text == HIDDEN || text.is_empty() {
        } else if text.len() < SHORTEST {
            self.quoted.push(format!("'{text}'").into());
        } else {
            self.texts.push(text.into());
            self.parts.push(text.into());
        }
    }

    /// Adds a command line, and as parts each of its words and their components.
    fn add_words(&mut self, line: &str) {
        self.add(line);
        for word in line.split_whitespace() {
            let word = word.trim_matches(['"', '\'']);
            let parts = [word].into_iter().chain(word.split([':', '=', '@', ',']));
            let parts = parts.filter(|part| part.len() >= SHORTEST);
            self.parts.extend(parts.map(Box::from));
        }
    }

    /// Adds all texts and numbers.
    fn add_value(&mut self, value: &Value) {
        match value {
            Value::String(text) => self.add(text),
            Value::Number(number) => self.add(&number.to_string()),
            Value::Array(items) => items.iter().for_each(|item| self.add_value(item)),
            Value::Object(members) => members.values().for_each(|it| self.add_value(it)),
            Value::Null | Value::Bool(_) => {}
        }
    }

    pub(super) fn sort(&mut self) {
        for secrets in [&mut self.texts, &mut self.parts] {
            secrets.sort_by_key(|secret| Reverse(secret.len()));
        }
    }

    /// The text without the secrets, their parts, and short ones in quotes.
    pub(super) fn without(&self, text: &str) -> String {
        without(text, self.parts.iter().chain(&self.quoted))
    }

    /// The text without whole secrets.
    pub(super) fn without_texts(&self, text: &str) -> String {
        without(text, self.texts.iter())
    }
}

fn without<'s>(text: &str, secrets: impl Iterator<Item = &'s Box<str>>) -> String {
    secrets.fold(text.to_owned(), |text, secret| {
        if secret.len() < SHORTEST_WITHIN && secret.chars().all(char::is_alphanumeric) {
            without_word(&text, secret)
        } else {
            text.replace(&**secret, HIDDEN)
        }
    })
}

/// The text without a word; longer words that contain it stay.
fn without_word(text: &str, word: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    let mut end = 0;
    for (start, _) in text.match_indices(word) {
        let (before, after) = (&text[..start], &text[start + word.len()..]);
        let beside = [before.chars().next_back(), after.chars().next()];
        if !beside.into_iter().flatten().any(char::is_alphanumeric) {
            shown.push_str(&text[end..start]);
            shown.push_str(HIDDEN);
            end = start + word.len();
        }
    }
    shown + &text[end..]
}

/// Hides a value of any type.
pub(super) fn take_value(value: &mut Value, found: &mut Found) {
    found.add_value(value);
    *value = HIDDEN.into();
}

/// Hides keys that are typed, except the names of their kinds in errors.
pub(super) fn take_keys(keys: &mut Value, found: &mut Found) {
    fn add(value: &Value, found: &mut Found) {
        match value {
            Value::Array(items) => items.iter().for_each(|item| add(item, found)),
            Value::Object(members) => {
                let members = members.iter().filter(|(name, _)| *name != "type");
                members.for_each(|(_, value)| add(value, found));
            }
            value => found.add_value(value),
        }
    }
    add(keys, found);
    *keys = HIDDEN.into();
}

/// Hides the words of a human monitor command except its name: `set_password vnc x`
/// and the like contain the secret, and a line that is not a command may have been
/// typed into the wrong place.
pub(super) fn hide_command_line(line: &mut Value, found: &mut Found) {
    let Value::String(text) = line else {
        return;
    };
    let mut words = text.split_ascii_whitespace();
    let Some(name) = words.next() else {
        return;
    };
    if !HUMAN_MONITOR_COMMANDS.contains(&name) {
        found.add_words(text);
        *text = HIDDEN.into();
    } else if let rest @ [_, ..] = &words.collect::<Vec<_>>()[..] {
        for word in rest {
            found.add(word);
        }
        *text = format!("{name} {HIDDEN}");
    }
}

/// Commands of QEMU's human monitor (7.2 and 10.0).
#[rustfmt::skip]
const HUMAN_MONITOR_COMMANDS: [&str; 102] = [
    "announce_self", "balloon", "block_job_cancel", "block_job_complete", "block_job_pause",
    "block_job_resume", "block_job_set_speed", "block_resize", "block_set_io_throttle",
    "block_stream", "boot_set", "c", "calc_dirty_rate", "cancel_vcpu_dirty_limit", "change",
    "chardev-add", "chardev-change", "chardev-remove", "chardev-send-break",
    "client_migrate_info", "closefd", "commit", "cont", "cpu", "delvm", "device_add",
    "device_del", "drive_add", "drive_backup", "drive_del", "drive_mirror",
    "dump-guest-memory", "dumpdtb", "eject", "exit_preconfig", "expire_password", "gdbserver",
    "getfd", "gpa2hpa", "gpa2hva", "gva2gpa", "help", "hostfwd_add", "hostfwd_remove", "i",
    "info", "loadvm", "log", "logfile", "mce", "memsave", "migrate", "migrate_cancel",
    "migrate_continue", "migrate_incoming", "migrate_pause", "migrate_recover",
    "migrate_set_capability", "migrate_set_parameter", "migrate_start_postcopy",
    "mouse_button", "mouse_move", "mouse_set", "nbd_server_add", "nbd_server_remove",
    "nbd_server_start", "nbd_server_stop", "netdev_add", "netdev_del", "nmi", "o",
    "object_add", "object_del", "one-insn-per-tb", "p", "pcie_aer_inject_error", "pmemsave",
    "print", "q", "qemu-io", "qom-get", "qom-list", "qom-set", "quit", "ringbuf_read",
    "ringbuf_write", "savevm", "screendump", "sendkey", "set_link", "set_password",
    "singlestep", "snapshot_blkdev", "stop", "stopcapture", "sum", "system_powerdown",
    "system_reset", "system_wakeup", "trace-event", "watchdog_action", "x",
];

/// Hides the command that a migration runs through, and anything that is not a known
/// address, which QEMU quotes.
pub(super) fn hide_migration_uri(uri: &mut Value, found: &mut Found) {
    const SHOWN: [&str; 7] = ["tcp:", "unix:", "vsock:", "fd:", "file:", "rdma:", "defer"];
    if let Value::String(text) = uri
        && !SHOWN.iter().any(|scheme| text.starts_with(scheme))
    {
        found.add_words(text);
        let scheme = "exec:";
        let is_exec = text.starts_with(scheme);
        if let Some(command) = text.strip_prefix(scheme) {
            found.add_words(command);
        }
        *text = format!("{}{HIDDEN}", if is_exec { scheme } else { "" });
    }
}

/// Hides members whose name suggests a secret; within a `secret` object also its `data`,
/// which before QEMU 6 is in its `props`; commands of a migration; and what
/// [`hidden_text`] finds in texts.
pub(super) fn hide_members(value: &mut Value, in_secret: bool, found: &mut Found) {
    match value {
        Value::Array(items) => {
            for item in items {
                hide_members(item, in_secret, found);
            }
        }
        Value::Object(members) => {
            let text = |name: &str| members.get(name).and_then(Value::as_str);
            let kind = text("qom-type");
            let in_secret = in_secret || kind.is_some_and(|kind| kind.starts_with("secret"));
            // A pair of a name and a value, as `qom-list-get` returns them.
            let names = ["name", "key", "property"];
            let is_pair = names
                .map(text)
                .into_iter()
                .flatten()
                .any(is_property_of_secret);
            let runs = text("transport") == Some("exec");
            for (name, member) in members {
                if matches!(member, Value::Bool(_) | Value::Null) {
                    continue;
                }
                let hides = speaks_of_secret(name)
                    || in_secret && name == "data"
                    || is_pair && matches!(&**name, "value" | "val");
                if runs && name == "args" {
                    take_command(member, found);
                } else if hides {
                    take_value(member, found);
                } else {
                    hide_members(member, in_secret, found);
                }
            }
        }
        Value::String(text) => {
            if let Some(shown) = hidden_text(text, found) {
                found.add(text);
                *text = shown;
            }
        }
        _ => {}
    }
}

/// Hides the words of a command line to be executed.
fn take_command(args: &mut Value, found: &mut Found) {
    match args {
        Value::Array(items) => {
            let words = items.iter().filter_map(Value::as_str);
            words.for_each(|word| found.add_words(word));
            *args = HIDDEN.into();
        }
        other => take_value(other, found),
    }
}

/// The replacement for a text that contains a secret: the address of an image with a login
/// (`https://user:x@host`) or with a query, which may be its signature
/// (`https://host/disk?sig=x`); options (`rbd:pool/image:key=x`, `isa-applesmc,osk=x`);
/// options as JSON (`json:{...}`); commands (`exec:...`, `...-cmd:...`).
fn hidden_text(text: &str, found: &mut Found) -> Option<String> {
    if let Some(json) = text.strip_prefix("json:") {
        if let Ok(mut value) = serde_json::from_str(json) {
            hide_members(&mut value, false, found);
        }
        return Some(HIDDEN.into());
    }
    for command in ["exec:", "-cmd:"] {
        if let Some((before, words)) = text.split_once(command)
            && (command != "exec:" || before.is_empty())
            && words != HIDDEN
        {
            found.add_words(words);
            return Some(format!("{before}{command}{HIDDEN}"));
        }
    }
    let is_url = text.contains("://");
    if let Some((_, rest)) = text.split_once("://")
        && let Some((login, _)) = rest.rsplit_once('@')
    {
        found.add(login);
        if let Some((_, password)) = login.split_once(':') {
            found.add(password);
        }
        add_options(text, found);
        return Some(HIDDEN.into());
    }
    if is_url
        && let Some((before, query)) = text.split_once('?')
        && !options(query, &['&', ';']).all(|(name, _)| PLAIN_OPTIONS.contains(&name))
    {
        found.add(query);
        add_options(query, found);
        return Some(format!("{before}?{HIDDEN}"));
    }
    add_options(text, found).then(|| HIDDEN.into())
}

/// The options in a text: `name=value` between separators.
fn options<'a>(text: &'a str, separators: &[char]) -> impl Iterator<Item = (&'a str, &'a str)> {
    text.split(separators)
        .map(|option| option.split_once('=').unwrap_or((option, "")))
}

/// Adds the values of options that are secrets; returns whether there was one.
fn add_options(text: &str, found: &mut Found) -> bool {
    let mut any = false;
    // A colon may be part of a value, too.
    let separators = [&['?', '&', ';', ',', ':'][..], &['?', '&', ';', ',']];
    for (name, value) in separators.into_iter().flat_map(|it| options(text, it)) {
        let name = name.trim_ascii().to_ascii_lowercase();
        let signs = name.starts_with("x-amz-") || name.starts_with("x-goog-");
        let is_secret = signs || speaks_of_secret(&name) || SECRET_OPTIONS.contains(&&*name);
        if is_secret && !value.is_empty() {
            found.add(value);
            any = true;
        }
    }
    any
}

/// Options in addresses that are not secrets: any other option in a query may be one.
const PLAIN_OPTIONS: [&str; 5] = ["socket", "host_key_check", "debug", "logfile", "transport"];

/// Options in a text whose values are secrets.
const SECRET_OPTIONS: [&str; 8] = [
    "key",
    "sig",
    "signature",
    "auth",
    "pass",
    "pwd",
    "apikey",
    "api_key",
];

/// Substrings of names that mark a secret.
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

/// Whole names that mark a secret: `osk` is a key of Apple's.
const NAMES: [&str; 2] = ["osk", "psk"];

/// Whether a name marks a secret; `password-secret`, `key-secret` and `passwordid` only
/// refer to an object.
fn speaks_of_secret(name: &str) -> bool {
    let name = name.to_ascii_lowercase();
    let names_object = name.ends_with("-secret") || name.ends_with("id");
    NAMES.contains(&&*name) || !names_object && WORDS.iter().any(|word| name.contains(word))
}

/// Whether a property with this name is a secret: `data` belongs to a `secret` object.
pub(super) fn is_property_of_secret(name: &str) -> bool {
    name == "data" || speaks_of_secret(name)
}
