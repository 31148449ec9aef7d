// SPDX-License-Identifier: MIT OR Apache-2.0
//! QEMU's schema: the reply to `query-qmp-schema`, in which types have numbers instead of
//! names.

use std::collections::BTreeMap;

use serde::de::{Deserialize, Deserializer, IgnoredAny};
use serde_json::value::RawValue;
use spice_qmp::QmpPort;

use crate::failure::{Failure, Kind, Stop};
use crate::monitor::Monitor;

/// The commands, events and types of a QEMU, by name.
#[derive(Debug)]
pub(crate) struct Schema(BTreeMap<String, Entity>);

/// A command, an event or a type (QAPI type `SchemaInfo`).
#[derive(Debug, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) struct Entity {
    pub(crate) name: String,
    pub(crate) meta_type: MetaType,
    /// The arguments of a command or the data of an event: an object.
    arg_type: Option<String>,
    ret_type: Option<String>,
    element_type: Option<String>,
    /// The members of an object; those of an alternate have no name, those of an enum no type.
    #[serde(default)]
    pub(crate) members: Vec<Member>,
    #[serde(default)]
    values: Vec<String>,
    /// The member whose value chooses one of the variants.
    pub(crate) tag: Option<String>,
    #[serde(default)]
    pub(crate) variants: Vec<Variant>,
    #[serde(default)]
    pub(crate) features: Vec<String>,
    /// The entity as QEMU sent it.
    #[serde(skip)]
    pub(crate) raw: Option<Box<RawValue>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum MetaType {
    Alternate,
    Array,
    Builtin,
    Command,
    Enum,
    Event,
    Object,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Member {
    #[serde(default)]
    pub(crate) name: String,
    #[serde(default, rename = "type")]
    pub(crate) of: String,
    /// Whether it has a default, which is always null.
    #[serde(default, rename = "default", deserialize_with = "is_there")]
    pub(crate) optional: bool,
    #[serde(default)]
    pub(crate) features: Vec<String>,
}

#[derive(Debug, serde::Deserialize)]
pub(crate) struct Variant {
    pub(crate) case: String,
    #[serde(rename = "type")]
    pub(crate) of: String,
}

fn is_there<'de, D: Deserializer<'de>>(deserializer: D) -> Result<bool, D::Error> {
    IgnoredAny::deserialize(deserializer).map(|_| true)
}

/// QEMU 10.0's takes 200 kB.
const LONGEST: usize = 4 << 20;

impl Schema {
    /// Asks QEMU.
    pub(crate) async fn load(monitor: &Monitor, port: &QmpPort) -> Result<Self, Stop> {
        let reply = monitor.execute(port, "query-qmp-schema", ()).await?;
        Ok(Self::parse(reply.get())?)
    }

    pub(crate) fn parse(reply: &str) -> Result<Self, Failure> {
        let wrong = |why: String| {
            Failure::new(
                Kind::Connection,
                format!("QEMU's schema cannot be read: {why}"),
            )
        };
        if reply.len() > LONGEST {
            return Err(wrong(format!("it is longer than {LONGEST} bytes")));
        }
        let entities: Vec<Box<RawValue>> =
            serde_json::from_str(reply).map_err(|error| wrong(error.to_string()))?;
        let mut by_name = BTreeMap::new();
        for raw in entities {
            let mut entity: Entity =
                serde_json::from_str(raw.get()).map_err(|error| wrong(error.to_string()))?;
            entity.raw = Some(raw);
            by_name.insert(entity.name.clone(), entity);
        }
        Ok(Self(by_name))
    }

    pub(crate) fn get(&self, name: &str) -> Option<&Entity> {
        self.0.get(name)
    }

    pub(crate) fn command(&self, name: &str) -> Option<&Entity> {
        self.get(name)
            .filter(|entity| entity.meta_type == MetaType::Command)
    }

    /// The commands, by name.
    pub(crate) fn commands(&self) -> impl Iterator<Item = &Entity> {
        let all = self.0.values();
        all.filter(|entity| entity.meta_type == MetaType::Command)
    }

    /// A command or an event of this name.
    pub(crate) fn described(&self, name: &str) -> Option<&Entity> {
        self.get(name).filter(|entity| entity.is_named())
    }

    /// The names of the commands and events.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        let named = self.0.values().filter(|entity| entity.is_named());
        named.map(|entity| entity.name.as_str())
    }

    /// The object with the arguments of a command, or the data of an event.
    pub(crate) fn arguments(&self, entity: &Entity) -> Option<&Entity> {
        self.get(entity.arg_type.as_deref()?)
    }

    /// What a command returns.
    pub(crate) fn returned(&self, entity: &Entity) -> Option<&Entity> {
        self.get(entity.ret_type.as_deref()?)
    }

    /// The element type of an array.
    pub(crate) fn element(&self, entity: &Entity) -> Option<&Entity> {
        self.get(entity.element_type.as_deref()?)
    }

    /// The alternatives of an alternate.
    pub(crate) fn alternatives<'s>(
        &'s self,
        entity: &'s Entity,
    ) -> impl Iterator<Item = &'s Entity> {
        let alternate = entity.meta_type == MetaType::Alternate;
        let members = entity.members.iter().filter(move |_| alternate);
        members.filter_map(|member| self.get(&member.of))
    }

    /// An entity, and all entities that it refers to, each once.
    pub(crate) fn closure<'s>(&'s self, entity: &'s Entity) -> Vec<&'s Entity> {
        let mut found = vec![entity];
        let mut seen = std::collections::BTreeSet::from([entity.name.as_str()]);
        let mut at = 0;
        while let Some(&entity) = found.get(at) {
            for name in entity.references() {
                if let Some(next) = self.get(name)
                    && seen.insert(&next.name)
                {
                    found.push(next);
                }
            }
            at += 1;
        }
        found
    }
}

impl Entity {
    /// The values of an enum.
    pub(crate) fn values(&self) -> impl Iterator<Item = &str> {
        let is_enum = self.meta_type == MetaType::Enum;
        // Before QEMU 6.2 there were only these.
        let values = self.values.iter().map(String::as_str);
        let members = self.members.iter().map(|member| member.name.as_str());
        let old = values.filter(|_| self.members.is_empty());
        members.chain(old).filter(move |_| is_enum)
    }

    /// Whether it is an object without members, which means no arguments or no result.
    pub(crate) fn is_empty(&self) -> bool {
        let object = self.meta_type == MetaType::Object;
        object && self.members.is_empty() && self.variants.is_empty()
    }

    /// Whether its name is meant for people: types have numbers.
    fn is_named(&self) -> bool {
        matches!(self.meta_type, MetaType::Command | MetaType::Event)
    }

    fn references(&self) -> impl Iterator<Item = &str> {
        let types = [&self.arg_type, &self.ret_type, &self.element_type];
        let types = types.into_iter().flatten().map(String::as_str);
        let members = self.members.iter().map(|member| member.of.as_str());
        let variants = self.variants.iter().map(|variant| variant.of.as_str());
        types.chain(members).chain(variants)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A schema with one entity of each kind.
    pub(crate) const SMALL: &str = r#"[
        {"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
        {"name": "device_del", "meta-type": "command", "arg-type": "9", "ret-type": "0"},
        {"name": "query-jobs", "meta-type": "command", "arg-type": "0", "ret-type": "[7]", "features": ["unstable"]},
        {"name": "blockdev-add", "meta-type": "command", "arg-type": "2", "ret-type": "0"},
        {"name": "STOP", "meta-type": "event", "arg-type": "0"},
        {"name": "0", "meta-type": "object", "members": []},
        {"name": "2", "meta-type": "object", "tag": "driver",
            "members": [{"name": "driver", "type": "3"}, {"name": "read-only", "type": "bool", "default": null},
                {"name": "cache", "type": "6", "default": null}],
            "variants": [{"case": "file", "type": "4"}, {"case": "raw", "type": "8"}, {"case": "null-co", "type": "0"}]},
        {"name": "3", "meta-type": "enum", "members": [{"name": "file"}, {"name": "raw"}, {"name": "null-co"}],
            "values": ["file", "raw", "null-co"]},
        {"name": "4", "meta-type": "object", "members": [{"name": "filename", "type": "str"}]},
        {"name": "5", "meta-type": "alternate", "members": [{"type": "2"}, {"type": "str"}]},
        {"name": "6", "meta-type": "object", "members": [
            {"name": "direct", "type": "bool", "default": null, "features": ["deprecated"]},
            {"name": "sizes", "type": "[int]", "default": null}]},
        {"name": "7", "meta-type": "object", "members": [{"name": "id", "type": "str"}]},
        {"name": "8", "meta-type": "object", "members": [{"name": "file", "type": "5"}]},
        {"name": "9", "meta-type": "object", "members": [{"name": "id", "type": "str"},
            {"name": "old", "type": "10", "default": null}]},
        {"name": "10", "meta-type": "enum", "values": ["a", "b"]},
        {"name": "[7]", "meta-type": "array", "element-type": "7"},
        {"name": "[int]", "meta-type": "array", "element-type": "int"},
        {"name": "int", "meta-type": "builtin", "json-type": "int"},
        {"name": "bool", "meta-type": "builtin", "json-type": "boolean"},
        {"name": "str", "meta-type": "builtin", "json-type": "string"},
        {"name": "new", "meta-type": "newer"}
    ]"#;

    #[test]
    fn existing_entities_are_found() {
        let schema = Schema::parse(SMALL).unwrap();
        let commands: Vec<_> = schema.commands().map(|it| it.name.as_str()).collect();
        assert_eq!(
            commands,
            ["blockdev-add", "device_del", "query-jobs", "stop"]
        );
        assert!(schema.described("STOP").is_some() && schema.described("3").is_none());
        let values: Vec<_> = schema.get("10").unwrap().values().collect();
        assert_eq!(values, ["a", "b"]);
        let object = schema.arguments(schema.command("device_del").unwrap());
        let optional: Vec<_> = object
            .unwrap()
            .members
            .iter()
            .map(|it| it.optional)
            .collect();
        assert_eq!(optional, [false, true]);
    }

    #[test]
    fn the_closure_has_everything_that_is_referred_to() {
        let schema = Schema::parse(SMALL).unwrap();
        let names = |name| {
            let closure = schema.closure(schema.get(name).unwrap());
            closure.iter().map(|it| it.name.clone()).collect::<Vec<_>>()
        };
        assert_eq!(names("query-jobs"), ["query-jobs", "0", "[7]", "7", "str"]);
        // In a cycle.
        assert_eq!(names("blockdev-add").len(), 12);
    }

    #[test]
    fn wrong_schemas_are_errors() {
        for wrong in ["{}", "[1]", r#"[{"name": "a"}]"#, "[[[[", ""] {
            assert!(Schema::parse(wrong).is_err(), "{wrong}");
        }
        let long = format!("[{}]", " ".repeat(LONGEST));
        assert!(Schema::parse(&long).is_err());
    }
}
