// SPDX-License-Identifier: MIT OR Apache-2.0
//! The commands `commands` and `schema`: QEMU's commands and events with their types.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::cli::{Commands, SchemaOf};
use crate::connect::Target;
use crate::failure::{Failure, Kind, Stop};
use crate::output::Output;
use crate::schema::{Entity, Member, MetaType, Schema};
use crate::style::{Line, escaped, label_style};
use crate::suggest;

/// Prints the commands whose names contain the word, each with its arguments.
pub(crate) async fn list(
    target: &Target,
    args: &Commands,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let schema = Schema::load(monitor, port).await?;
            print_commands(&schema, args.word.as_deref().unwrap_or(""), output).await
        })
        .await
}

/// Prints the arguments and return value of a command, or the data of an event.
pub(crate) async fn describe(
    target: &Target,
    args: &SchemaOf,
    output: &mut Output,
) -> Result<(), Stop> {
    target
        .on_port(async |monitor, port| {
            let schema = Schema::load(monitor, port).await?;
            print_description(&schema, &args.name, output).await
        })
        .await
}

pub(crate) async fn print_commands(
    schema: &Schema,
    word: &str,
    output: &mut Output,
) -> Result<(), Stop> {
    let normal = |text: &str| text.to_lowercase().replace('_', "-");
    let wanted = normal(word);
    let has_word = |entity: &&Entity| normal(&entity.name).contains(&wanted);
    let commands: Vec<_> = schema.commands().filter(has_word).collect();
    if commands.is_empty() {
        let text = format!("QEMU has no command with {word:?} in its name");
        return Err(Failure::new(Kind::Qmp, text).into());
    }
    if output.is_json() {
        return print_raw(&commands, output).await;
    }
    let width = |entity: &&&Entity| escaped(&entity.name).chars().count();
    let widest = commands.iter().map(|it| width(&it)).max().unwrap_or(0);
    for command in &commands {
        let arguments = schema.arguments(command);
        let members = arguments.map_or(&[][..], |it| &it.members);
        let mut line = Line::default().styled(&command.name, label_style());
        if !members.is_empty() {
            line = line.plain(" ".repeat(widest - width(&command) + 1));
        }
        for Member { name, optional, .. } in members {
            line = match optional {
                true => line.plain(format!(" [{name}]")),
                false => line.plain(format!(" {name}")),
            };
        }
        if arguments.is_some_and(|it| !it.variants.is_empty()) {
            line = line.plain(" ...");
        }
        output.line(line.plain(remarks(&command.features))).await?;
    }
    Ok(())
}

pub(crate) async fn print_description(
    schema: &Schema,
    name: &str,
    output: &mut Output,
) -> Result<(), Stop> {
    let entity = schema
        .described(name)
        .ok_or_else(|| unknown(schema, name))?;
    if output.is_json() {
        return print_raw(&schema.closure(entity), output).await;
    }
    for line in description(schema, entity)? {
        output.line(line).await?;
    }
    Ok(())
}

/// The error for a name that QEMU does not know.
fn unknown(schema: &Schema, name: &str) -> Failure {
    let text = format!("QEMU has no command or event {name:?}");
    let failure = Failure::new(Kind::Qmp, text);
    let hint = suggest::did_you_mean(name, schema.names());
    failure.hint(hint.unwrap_or_else(|| "spice-qmp commands lists the commands".to_owned()))
}

/// The entities as QEMU sent them.
async fn print_raw(entities: &[&Entity], output: &mut Output) -> Result<(), Stop> {
    let raw: Vec<&RawValue> = entities.iter().filter_map(|it| it.raw.as_deref()).collect();
    output.json(&raw).await
}

fn description(schema: &Schema, entity: &Entity) -> Result<Vec<Line>, Failure> {
    let command = entity.meta_type == MetaType::Command;
    let kind = if command { "command" } else { "event" };
    let mut page = Page {
        schema,
        lines: Vec::new(),
        shown: BTreeMap::new(),
        room: MOST_TEXT,
    };
    page.push(
        Line::default()
            .styled(&entity.name, label_style())
            .plain(format!(" ({kind}){}", remarks(&entity.features))),
    )?;
    if let Some(arguments) = schema.arguments(entity) {
        page.object(arguments, &entity.name, 1)?;
    }
    if let Some(returned) = schema.returned(entity).filter(|it| !it.is_empty()) {
        let path = "what it returns";
        let text = page.type_of(returned, 0);
        page.push(
            Line::default()
                .styled("returns", label_style())
                .plain(" ")
                .plain(text),
        )?;
        page.inside(returned, path, 1)?;
    }
    Ok(page.lines)
}

/// The printed description of an entity. Each object is printed once: types are recursive.
struct Page<'s> {
    schema: &'s Schema,
    lines: Vec<Line>,
    /// Where objects were printed, by the names of their types.
    shown: BTreeMap<&'s str, String>,
    /// How many bytes may still be printed.
    room: usize,
}

/// A server can multiply its output by types that others refer to.
const MOST_TEXT: usize = 1 << 20;

/// How deeply printed objects nest. QEMU's nest five deep.
const DEEPEST: usize = 32;

impl<'s> Page<'s> {
    fn push(&mut self, line: Line) -> Result<(), Failure> {
        let room = self.room.checked_sub(line.render(false).len());
        self.room = room.ok_or_else(|| {
            Failure::new(Kind::Connection, "QEMU's schema is too large to be printed")
        })?;
        self.lines.push(line);
        Ok(())
    }

    /// The members of an object, and of its variants.
    fn object(&mut self, object: &'s Entity, path: &str, depth: usize) -> Result<(), Failure> {
        self.shown.insert(&object.name, path.to_owned());
        self.members(object, path, depth)?;
        for variant in &object.variants {
            let Some(of) = self.schema.get(&variant.of).filter(|it| !it.is_empty()) else {
                continue;
            };
            let tag = object.tag.as_deref().unwrap_or_default();
            let label = format!("with {tag}={}:", variant.case);
            let line = Line::from("  ".repeat(depth)).styled(label, label_style());
            self.push(line)?;
            self.members(of, path, depth + 1)?;
        }
        Ok(())
    }

    fn members(&mut self, object: &'s Entity, path: &str, depth: usize) -> Result<(), Failure> {
        let width = |member: &Member| escaped(&member.name).chars().count();
        let widest = object.members.iter().map(width).max().unwrap_or(0);
        for member in &object.members {
            let path = match depth {
                1 => member.name.clone(),
                _ => format!("{path}.{}", member.name),
            };
            let of = self.schema.get(&member.of);
            let shown = of.and_then(|of| self.shown_as(of));
            let mut line = Line::from("  ".repeat(depth))
                .plain(&member.name)
                .plain(" ".repeat(widest.min(40).saturating_sub(width(member)) + 2))
                .plain(of.map_or("?".to_owned(), |of| self.type_of(of, 0)));
            if let Some(place) = &shown {
                line = line.plain(format!(" (see {place})"));
            }
            if member.optional {
                line = line.plain(", optional");
            }
            self.push(line.plain(remarks(&member.features)))?;
            if let Some(of) = of {
                self.inside(of, &path, depth + 1)?;
            }
        }
        Ok(())
    }

    /// Prints the object in a type, unless it was printed already.
    fn inside(&mut self, of: &'s Entity, path: &str, depth: usize) -> Result<(), Failure> {
        if depth > DEEPEST {
            return Ok(());
        }
        match self.object_in(of) {
            Some(object) if !self.shown.contains_key(&*object.name) => {
                self.object(object, path, depth)
            }
            _ => Ok(()),
        }
    }

    /// Where the object in a type was printed.
    fn shown_as(&self, of: &'s Entity) -> Option<String> {
        self.shown.get(&*self.object_in(of)?.name).cloned()
    }

    /// The object in a type: the type itself, its elements, or an alternative.
    fn object_in(&self, mut of: &'s Entity) -> Option<&'s Entity> {
        for _ in 0..DEEPEST {
            of = match of.meta_type {
                MetaType::Object => return Some(of).filter(|it| !it.is_empty()),
                MetaType::Array => self.schema.element(of)?,
                MetaType::Alternate => {
                    let mut types = self.schema.alternatives(of);
                    types.find(|it| it.meta_type == MetaType::Object)?
                }
                _ => return None,
            };
        }
        None
    }

    /// A type as a word: `str`, `[int]`, `on|off`.
    fn type_of(&self, of: &Entity, depth: usize) -> String {
        let inner = |of: &Entity| match depth {
            0..4 => self.type_of(of, depth + 1),
            _ => "?".to_owned(),
        };
        match of.meta_type {
            MetaType::Object => "object".to_owned(),
            MetaType::Array => {
                let element = self.schema.element(of);
                format!("[{}]", element.map_or("?".to_owned(), inner))
            }
            MetaType::Enum => alternatives(of.values().map(str::to_owned)),
            // It contains no other alternate.
            MetaType::Alternate if depth > 1 => "?".to_owned(),
            MetaType::Alternate => alternatives(self.schema.alternatives(of).map(inner)),
            _ => of.name.clone(),
        }
    }
}

/// Texts joined by `|`, as many as a person would read.
fn alternatives(texts: impl Iterator<Item = String>) -> String {
    let mut all = String::new();
    for text in texts {
        if !all.is_empty() {
            all.push('|');
        }
        if all.len() > MOST_ALTERNATIVES {
            all.push_str("...");
            break;
        }
        all.push_str(&text);
    }
    all
}

const MOST_ALTERNATIVES: usize = 8 << 10;

fn remarks(features: &[String]) -> String {
    let known = |it: &&String| matches!(&***it, "deprecated" | "unstable");
    let known = features.iter().filter(known);
    known.flat_map(|it| [" (", it, ")"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::SMALL;

    fn text(name: &str) -> String {
        let schema = Schema::parse(SMALL).unwrap();
        let lines = description(&schema, schema.get(name).unwrap()).unwrap();
        lines.iter().map(|line| line.render(false)).collect()
    }

    #[test]
    fn a_command_with_variants() {
        assert_eq!(
            text("blockdev-add"),
            "\
blockdev-add (command)
  driver     file|raw|null-co
  read-only  bool, optional
  cache      object, optional
    direct  bool, optional (deprecated)
    sizes   [int], optional
  with driver=file:
    filename  str
  with driver=raw:
    file  object|str (see blockdev-add)
"
        );
    }

    #[test]
    fn commands_and_events_without_arguments() {
        assert_eq!(text("stop"), "stop (command)\n");
        assert_eq!(text("STOP"), "STOP (event)\n");
        assert_eq!(
            text("query-jobs"),
            "query-jobs (command) (unstable)\nreturns [object]\n  id  str\n"
        );
    }

    /// Types that multiply: each of many members has an enum with many values.
    #[test]
    fn what_a_server_can_multiply_is_bounded() {
        let values: Vec<_> = (0..2000).map(|i| format!("\"value{i}\"")).collect();
        let members: Vec<_> = (0..2000)
            .map(|i| format!(r#"{{"name": "m{i}", "type": "e"}}"#))
            .collect();
        let text = format!(
            r#"[{{"name": "c", "meta-type": "command", "arg-type": "o", "ret-type": "o"}},
                {{"name": "o", "meta-type": "object", "members": [{}]}},
                {{"name": "e", "meta-type": "enum", "values": [{}]}}]"#,
            members.join(","),
            values.join(",")
        );
        let schema = Schema::parse(&text).unwrap();
        assert!(description(&schema, schema.get("c").unwrap()).is_err());
        let circle = r#"[{"name": "c", "meta-type": "command", "arg-type": "o", "ret-type": "a"},
            {"name": "o", "meta-type": "object", "members": [{"name": "m", "type": "a"}, {"name": "n", "type": "b"}]},
            {"name": "a", "meta-type": "array", "element-type": "a"},
            {"name": "b", "meta-type": "alternate", "members": [{"type": "b"}, {"type": "b"}, {"type": "a"}]}]"#;
        let schema = Schema::parse(circle).unwrap();
        let lines = description(&schema, schema.get("c").unwrap()).unwrap();
        assert!(lines.len() < 10, "{lines:?}");
    }
}
