// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands and arguments of a QEMU: only their names are kept of the reply to
//! `query-qmp-schema`.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;

use crate::qmp::limits::MAX_TREE_SIZE;
use crate::qmp::{Error, PeerError, misfit};

/// The commands of a QEMU, and their arguments: [`Machine::load_schema`].
///
/// It is immutable, and may be used from any thread.
///
/// ```no_run
/// # async fn f(machine: spice_qmp::Machine) -> Result<(), spice_qmp::Error> {
/// let schema = machine.load_schema().await?;
/// if schema.has_argument("screendump", "format") {
///     println!("this QEMU can write PNG files");
/// }
/// # Ok(()) }
/// ```
///
/// [`Machine::load_schema`]: super::Machine::load_schema
#[derive(Debug, Clone, PartialEq, Eq, glib::SharedBoxed)]
#[shared_boxed_type(name = "SpiceQmp1Schema", nullable)]
pub struct Schema(Arc<Inner>);

/// What a [`Schema`] points to.
#[doc(hidden)]
#[derive(Debug, PartialEq, Eq)]
pub struct Inner {
    /// One line per command, sorted: its name, and the names of its arguments, sorted,
    /// with a space before each.
    text: Box<str>,
    /// The end of each line, after its newline.
    ends: Box<[u32]>,
}

impl Schema {
    /// Whether QEMU has the command.
    pub fn has_command(&self, command: &str) -> bool {
        self.line(command).is_some()
    }

    /// Whether QEMU has the command with the argument, which it may accept only together with
    /// some value of another one: `blockdev-add` accepts `filename` with some drivers.
    pub fn has_argument(&self, command: &str, argument: &str) -> bool {
        let line = self.line(command);
        line.is_some_and(|line| line.split(' ').skip(1).any(|name| name == argument))
    }

    /// The names of all commands, sorted.
    pub fn list_commands(&self) -> impl Iterator<Item = &str> {
        (0..self.0.ends.len()).map(|index| self.command(index))
    }

    /// How many bytes the names occupy.
    #[doc(hidden)]
    pub fn size(&self) -> usize {
        self.0.text.len() + size_of_val(&*self.0.ends)
    }

    fn line(&self, command: &str) -> Option<&str> {
        let (mut low, mut high) = (0, self.0.ends.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.command(middle).cmp(command) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => return Some(self.at(middle)),
            }
        }
        None
    }

    fn command(&self, index: usize) -> &str {
        let line = self.at(index);
        line.split_once(' ').map_or(line, |(command, _)| command)
    }

    fn at(&self, index: usize) -> &str {
        let end_of = |index: usize| self.0.ends[index] as usize;
        let start = index.checked_sub(1).map_or(0, end_of);
        &self.0.text[start..end_of(index) - 1]
    }

    /// Parses the reply to `query-qmp-schema`.
    pub(super) fn from_json(reply: &str) -> Result<Self, Error> {
        read(reply).map_err(|reason| {
            Error::from(PeerError::UnexpectedReply {
                command: COMMAND.into(),
                reason: reason.into(),
            })
        })
    }
}

pub(super) const COMMAND: &str = "query-qmp-schema";

/// How many bytes of names are kept. Arguments that many commands share are stored for each
/// of them: a peer with 20,000 of both could make 400 MB out of a reply of 1 MiB. The names
/// of QEMU 10.0 take 13 kB.
const MAX_NAMES: usize = 256 << 10;

/// How many members and variants of types are visited, for the same reason; QEMU 10.0 has
/// a few thousand.
const MAX_STEPS: usize = 1 << 17;

/// An element of the reply (QAPI type `SchemaInfo`).
#[derive(Deserialize)]
struct Entity<'a> {
    #[serde(borrow)]
    name: Name<'a>,
    #[serde(borrow, rename = "meta-type")]
    kind: Name<'a>,
    #[serde(borrow, rename = "arg-type")]
    arguments: Option<Name<'a>>,
    #[serde(borrow, default)]
    members: Vec<Member<'a>>,
    #[serde(borrow, default)]
    variants: Vec<Variant<'a>>,
}

#[derive(Deserialize)]
struct Member<'a> {
    /// Members of an alternate have none.
    #[serde(borrow)]
    name: Option<Name<'a>>,
}

#[derive(Deserialize)]
struct Variant<'a> {
    #[serde(borrow, rename = "type")]
    object: Name<'a>,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

fn read(reply: &str) -> Result<Schema, String> {
    if reply.len() > MAX_TREE_SIZE {
        return Err(format!("it is longer than {MAX_TREE_SIZE} bytes"));
    }
    let entities: Vec<Entity<'_>> = serde_json::from_str(reply).map_err(|e| misfit(&e))?;
    let (mut commands, mut objects) = (BTreeMap::new(), BTreeMap::new());
    for (index, entity) in entities.iter().enumerate() {
        let duplicate = match &*entity.kind.0 {
            "command" => commands.insert(&entity.name, entity).is_some(),
            "object" => objects.insert(&entity.name, (index, entity)).is_some(),
            _ => false,
        };
        if duplicate {
            return Err("a name appears twice".into());
        }
    }

    let (mut text, mut ends) = (String::new(), Vec::with_capacity(commands.len()));
    // The last command, counted from 1, that visited an object.
    let mut seen = vec![0; entities.len()];
    let mut steps = 0;
    for (number, (name, command)) in (1_u32..).zip(commands) {
        let mut arguments = Vec::new();
        let mut types: Vec<_> = command.arguments.iter().collect();
        while let Some(object) = types.pop() {
            let Some(&(index, object)) = objects.get(object) else {
                return Err("a type is missing".into());
            };
            if std::mem::replace(&mut seen[index], number) == number {
                continue;
            }
            steps += 1 + object.members.len() + object.variants.len();
            if steps > MAX_STEPS {
                return Err("its types are too large".into());
            }
            for member in &object.members {
                let Some(name) = &member.name else {
                    return Err("an argument has no name".into());
                };
                arguments.push(name);
            }
            types.extend(object.variants.iter().map(|variant| &variant.object));
        }
        arguments.sort_unstable();
        arguments.dedup();
        push(&mut text, name)?;
        for argument in arguments {
            text.push(' ');
            push(&mut text, argument)?;
        }
        text.push('\n');
        ends.push(u32::try_from(text.len()).map_err(|error| error.to_string())?);
    }
    Ok(Schema(Arc::new(Inner {
        text: text.into(),
        ends: ends.into(),
    })))
}

fn push(text: &mut String, name: &Name<'_>) -> Result<(), String> {
    let name = &*name.0;
    if name.is_empty() || name.contains(|c: char| c == ' ' || c.is_control()) {
        return Err("a name is not one of QMP's".into());
    }
    if text.len() + name.len() > MAX_NAMES {
        return Err(format!("its names take more than {MAX_NAMES} bytes"));
    }
    text.push_str(name);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &str = r#"[
        {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "device_add", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
        {"name": "blockdev-add", "meta-type": "command", "arg-type": "2", "ret-type": "0"},
        {"name": "STOP", "meta-type": "event", "arg-type": "0"},
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "1", "meta-type": "object", "members": [
            {"name": "id", "type": "str", "default": null}, {"name": "driver", "type": "str"}]},
        {"name": "2", "meta-type": "object", "tag": "driver",
            "members": [{"name": "driver", "type": "3"}],
            "variants": [{"case": "file", "type": "4"}, {"case": "raw", "type": "0"}]},
        {"name": "3", "meta-type": "enum", "members": [{"name": "file"}], "values": ["file"]},
        {"name": "4", "meta-type": "object",
            "members": [{"name": "filename", "type": "str"}, {"name": "driver", "type": "3"}],
            "variants": [{"case": "x", "type": "2"}]},
        {"name": "5", "meta-type": "alternate", "members": [{"type": "str"}]},
        {"name": "[str]", "meta-type": "array", "element-type": "str"}
    ]"#;

    #[test]
    fn names_are_found() {
        let schema = Schema::from_json(SMALL).unwrap();
        let commands: Vec<_> = schema.list_commands().collect();
        assert_eq!(commands, ["blockdev-add", "device_add", "stop"]);
        for command in commands {
            assert!(schema.has_command(command), "{command}");
        }
        for command in [
            "",
            "STOP",
            "sto",
            "stop ",
            "stop\n",
            "device_add driver",
            "z",
        ] {
            assert!(!schema.has_command(command), "{command}");
        }
        for argument in ["driver", "id"] {
            assert!(schema.has_argument("device_add", argument));
            assert!(!schema.has_argument("stop", argument));
        }
        for argument in ["", "device_add", "i", "filename", "driver id"] {
            assert!(!schema.has_argument("device_add", argument), "{argument}");
        }
        // Of a variant, in a cycle.
        assert!(schema.has_argument("blockdev-add", "filename"));
        assert!(!schema.has_argument("nothing", "filename"));
    }

    #[test]
    fn an_empty_schema_has_nothing() {
        let schema = Schema::from_json("[]").unwrap();
        assert!(!schema.has_command("") && schema.list_commands().next().is_none());
    }

    #[test]
    fn wrong_schemas_are_errors() {
        let command = r#"{"name": "a", "meta-type": "command", "arg-type": "0"}"#;
        let object = r#"{"name": "0", "meta-type": "object", "members": []}"#;
        for wrong in [
            "{}".into(),
            "[1]".into(),
            r#"[{"name": "a"}]"#.into(),
            r#"[{"name": 1, "meta-type": "command"}]"#.into(),
            format!("[{command}]"),
            format!("[{command}, {command}, {object}]"),
            format!("[{command}, {object}, {object}]"),
            format!("[{command}, {}]", object.replace("[]", "[{}]")),
            format!("[{command}, {}]", object.replace("[]", "{}")),
            format!(
                "[{command}, {}]",
                object.replace("[]", r#"[{"name": "a b"}]"#)
            ),
            format!("[{command}, {}]", object.replace("[]", r#"[{"name": ""}]"#)),
            format!("[{}, {object}]", command.replace("\"a\"", r#""a\n""#)),
            format!("[{}{}]", "[".repeat(1000), "]".repeat(1000)),
            format!("[{}]", " ".repeat(MAX_TREE_SIZE)),
        ] {
            let error = Schema::from_json(&wrong).unwrap_err();
            let Error::Peer(PeerError::UnexpectedReply { command, .. }) = error else {
                panic!("{error}");
            };
            assert_eq!(command.as_ref(), COMMAND);
        }
    }

    /// This many commands, each with the same object of this many members and variants.
    fn multiplied(commands: usize, members: usize, variants: usize) -> String {
        let commands: Vec<_> = (0..commands)
            .map(|i| format!(r#"{{"name": "c{i}", "meta-type": "command", "arg-type": "0"}}"#))
            .collect();
        let members: Vec<_> = (0..members)
            .map(|i| format!(r#"{{"name": "m{i}"}}"#))
            .collect();
        let variants = vec![r#"{"type": "0"}"#; variants];
        let (commands, members, variants) =
            (commands.join(","), members.join(","), variants.join(","));
        format!(
            r#"[{commands}, {{"name": "0", "meta-type": "object",
                "members": [{members}], "variants": [{variants}]}}]"#
        )
    }

    #[test]
    fn what_a_peer_can_multiply_is_bounded() {
        assert!(Schema::from_json(&multiplied(1000, 30, 30)).is_ok());
        let reason = |text: &str| Schema::from_json(text).unwrap_err().to_string();
        let names = reason(&multiplied(1000, 100, 0));
        assert!(names.contains("names take more than"), "{names}");
        let steps = reason(&multiplied(1000, 0, 1000));
        assert!(steps.contains("types are too large"), "{steps}");
    }
}
