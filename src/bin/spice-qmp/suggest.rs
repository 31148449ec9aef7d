// SPDX-License-Identifier: MIT OR Apache-2.0
//! Suggests names for a mistyped command.

use std::time::Duration;

use spice_qmp::{Machine, QmpPort};

use crate::monitor::Monitor;

/// How long to wait for the list of QEMU's commands.
const QUESTION_TIMEOUT: Duration = Duration::from_secs(5);

/// How many names are shown.
const SHOWN: usize = 3;

/// A hint that lists QEMU's commands with a similar name.
pub(crate) async fn similar_commands(
    monitor: &Monitor,
    port: &QmpPort,
    name: &str,
) -> Option<String> {
    let machine = Machine::new(port);
    let timeout = QUESTION_TIMEOUT.min(monitor.timeout());
    let schema = glib::future_with_timeout(timeout, machine.load_schema()).await;
    let schema = schema.ok()?.ok()?;
    did_you_mean(name, schema.list_commands())
}

/// A hint that lists the similar names.
pub(crate) fn did_you_mean<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Option<String> {
    let similar = similar(name, names);
    let (last, others) = similar.split_last()?;
    let names = match others {
        [] => (*last).to_owned(),
        others => format!("{} or {last}", others.join(", ")),
    };
    Some(format!(
        "did you mean {names}? (spice-qmp commands lists what this QEMU knows)"
    ))
}

/// The nearest names, if they are near enough.
fn similar<'a>(name: &str, names: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    // QEMU has both `system_reset` and `query-status`.
    let plain = |name: &str| name.to_ascii_lowercase().replace('_', "-").into_bytes();
    let name = plain(name);
    let mut farthest = if name.len() < 5 { 1 } else { 2 };
    let mut nearest = Vec::new();
    for other in names {
        let far = distance(&name, &plain(other));
        if far < farthest {
            nearest.clear();
            farthest = far;
        }
        if far == farthest && nearest.len() < SHOWN {
            nearest.push(other);
        }
    }
    nearest
}

/// How many letters were mistyped, left out, added or swapped with the next one.
fn distance(a: &[u8], b: &[u8]) -> usize {
    if a.len().abs_diff(b.len()) > 2 || a.len() > MAX_NAME {
        return usize::MAX;
    }
    let (mut before, mut last) = (Vec::new(), (0..=b.len()).collect::<Vec<_>>());
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let replaced = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            let mut fewest = replaced.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                fewest = fewest.min(before[j - 2] + 1);
            }
            row.push(fewest);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// The longest name that is compared; the peer chooses the names of its commands.
const MAX_NAME: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, far) in [
            ("", "", 0),
            ("a", "a", 0),
            ("stop", "stpo", 1),
            ("stop", "top", 1),
            ("stop", "stoop", 1),
            ("stop", "step", 1),
            ("query-blok", "query-block", 1),
            ("ab", "ba", 1),
            ("stop", "cont", 4),
            ("query-block", "query-blockstats", usize::MAX),
        ] {
            assert_eq!(distance(a.as_bytes(), b.as_bytes()), far, "{a} {b}");
            assert_eq!(distance(b.as_bytes(), a.as_bytes()), far, "{b} {a}");
        }
        let long = vec![b'a'; MAX_NAME + 1];
        assert_eq!(distance(&long, &long), usize::MAX);
    }

    #[test]
    fn the_nearest_names() {
        let names = [
            "cont",
            "query-block",
            "query-status",
            "stop",
            "system_reset",
            "xstop",
        ];
        for (name, expected) in [
            ("query-blok", &["query-block"][..]),
            ("query_block", &["query-block"]),
            ("system-reset", &["system_reset"]),
            ("QUERY-STATUS", &["query-status"]),
            ("stp", &["stop"]),
            ("ztop", &["stop"]),
            ("sysetm_resett", &["system_reset"]),
            ("reboot", &[]),
            ("x", &[]),
            ("", &[]),
        ] {
            assert_eq!(similar(name, names.into_iter()), expected, "{name}");
        }
        let many = ["abcd1", "abcd2", "abcd3", "abcd4"];
        assert_eq!(similar("abcd5", many.into_iter()), many[..3]);
    }
}
