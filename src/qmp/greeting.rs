// SPDX-License-Identifier: MIT OR Apache-2.0
//! The greeting that a server sends when a connection opens.

use std::fmt;

use serde::{Deserialize, Deserializer};

use super::limits::{MAX_CAPABILITIES, MAX_NAME, MAX_PACKAGE};
use super::{json, strings};

/// What the server says about itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Greeting {
    /// QEMU's version.
    pub version: Version,
    /// The capabilities that it offers, such as `oob`: at most [`MAX_CAPABILITIES`], with
    /// names of at most [`MAX_NAME`] bytes.
    pub capabilities: Vec<String>,
}

/// QEMU's version, from the greeting or `query-version`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Version {
    /// The three numbers.
    pub qemu: VersionTriple,
    /// The distributor's package, or an empty string; at most [`MAX_PACKAGE`] bytes of it.
    #[serde(default, deserialize_with = "package")]
    pub package: String,
}

/// Major, minor and micro version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub struct VersionTriple {
    /// 10 in 10.0.2.
    pub major: u32,
    /// 0 in 10.0.2.
    pub minor: u32,
    /// 2 in 10.0.2.
    pub micro: u32,
}

impl fmt::Display for VersionTriple {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.micro)
    }
}

/// Parses the value of the member `QMP`, which is JSON. Copies only what it
/// keeps.
pub(super) fn parse(greeting: &str) -> Result<Greeting, String> {
    let [version, capabilities] = members(greeting, "greeting", ["version", "capabilities"])?;
    let version = version.ok_or("greeting: it has no version")?;
    let [qemu, package] = members(version, "version", ["qemu", "package"])?;
    let qemu = qemu.ok_or("version: it has no member `qemu`")?;
    let numbers = members(qemu, "version", ["major", "minor", "micro"])?;
    let [major, minor, micro] = numbers.map(|number| number?.parse().ok());
    let triple = || {
        Some(VersionTriple {
            major: major?,
            minor: minor?,
            micro: micro?,
        })
    };
    let package = package.map(|package| string(package, MAX_PACKAGE));
    let names = capabilities.map_or(Some(Vec::new()), |array| {
        let names = json::items(array)?.filter_map(name).take(MAX_CAPABILITIES);
        // It lives as long as the connection: drop unused capacity.
        Some(names.collect::<Vec<_>>().into_boxed_slice().into_vec())
    });
    Ok(Greeting {
        version: Version {
            qemu: triple().ok_or("version: it has not three numbers")?,
            package: package
                .unwrap_or(Some(String::new()))
                .ok_or("version: its package is not a string")?,
        },
        capabilities: names.ok_or("greeting: its capabilities are not an array")?,
    })
}

/// The values of the members with these names, verbatim.
fn members<'a, const N: usize>(
    object: &'a str,
    what: &str,
    names: [&str; N],
) -> Result<[Option<&'a str>; N], String> {
    let mut found = [None; N];
    let members = json::check_object(object, 1, |name, value| {
        match names.iter().position(|it| *it == name) {
            Some(at) if found[at].replace(value).is_some() => {
                Err(format!("duplicate member `{name}`"))
            }
            _ => Ok(()),
        }
    });
    members.map_err(|problem| format!("{what}: {problem}"))?;
    Ok(found)
}

/// The start of a string, safe to convert to a C string.
fn string(json: &str, limit: usize) -> Option<String> {
    json.starts_with('"').then(|| {
        strings::cut(
            strings::without_nul(strings::unquoted_start(json, limit)),
            limit,
        )
    })
}

/// The name of a capability. Ignored if it is not a string, or if it is too
/// long.
fn name(json: &str) -> Option<String> {
    // A few bytes more, so that a name that is too long is recognised.
    string(json, MAX_NAME + 4).filter(|name| name.len() <= MAX_NAME)
}

fn package<'de, D: Deserializer<'de>>(reader: D) -> Result<String, D::Error> {
    let package = String::deserialize(reader)?;
    Ok(strings::cut(
        strings::without_nul(package.into()),
        MAX_PACKAGE,
    ))
}
