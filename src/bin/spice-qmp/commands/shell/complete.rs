// SPDX-License-Identifier: MIT OR Apache-2.0
//! Completes a line, from the schema of the connected QEMU.

use super::ids::Ids;
use crate::schema::{Entity, Member, MetaType, Schema};

/// The candidates for the end of a line.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    /// Where that end begins.
    pub(crate) start: usize,
    pub(crate) candidates: Vec<String>,
    /// The ids that QEMU must be asked for, too.
    pub(crate) ids: Option<Ids>,
}

/// The shell's own commands.
pub(crate) const OWN: [&str; 8] = [
    ".commands",
    ".drives",
    ".events",
    ".help",
    ".jobs",
    ".quit",
    ".status",
    "hmp",
];

/// More are of no use to a person.
const MOST: usize = 1000;

/// Completes a line that ends at the cursor.
pub(crate) fn complete(schema: &Schema, line: &str) -> Completion {
    let start = line.rfind(char::is_whitespace);
    let start = start.map_or(0, |at| {
        at + line[at..].chars().next().map_or(0, char::len_utf8)
    });
    let (before, word) = line.split_at(start);
    let mut words = before.split_whitespace();
    let Some(command) = words.next() else {
        let commands = schema.commands().map(|it| it.name.as_str());
        return fitting(
            start,
            word,
            commands.chain(OWN).map(|name| format!("{name} ")),
        );
    };
    if command == ".help" {
        let commands = schema.commands().map(|it| format!("{} ", it.name));
        return fitting(start, word, commands);
    }
    if command == ".events" {
        let values = ["off ", "on "].map(str::to_owned);
        return fitting(start, word, values.into_iter());
    }
    let command = schema.command(command);
    let Some((command, arguments)) = command.and_then(|it| Some((it, schema.arguments(it)?)))
    else {
        return Completion::default();
    };
    let given = Given(words.filter_map(|word| word.split_once('=')).collect());
    let Some((key, value)) = word.split_once('=') else {
        return fitting(start, word, keys(schema, arguments, word, &given));
    };
    let place = start + key.len() + 1;
    let (path, name) = parts(key);
    let object = walk(schema, arguments, path, &given);
    let member = object.and_then(|object| find(schema, object, path, name, &given));
    let of = member.and_then(|member| schema.get(&member.of));
    let Some(of) = of else {
        return Completion::default();
    };
    let mut values = fitting(place, value, values(schema, of).map(|it| format!("{it} ")));
    values.ids = Ids::of(&command.name, key);
    values
}

/// The values that were given already, by key.
struct Given<'a>(Vec<(&'a str, &'a str)>);

impl Given<'_> {
    fn value(&self, key: &str) -> Option<&str> {
        let pair = self.0.iter().find(|(given, _)| *given == key);
        pair.map(|(_, value)| *value)
    }

    /// Whether a key was given, or one inside it.
    fn has(&self, key: &str) -> bool {
        let inside = |given: &str| {
            let rest = given.strip_prefix(key);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        self.0.iter().any(|(given, _)| inside(given))
    }
}

/// Those that begin with the typed text, and that a terminal may show.
pub(crate) fn fitting(
    start: usize,
    typed: &str,
    candidates: impl Iterator<Item = String>,
) -> Completion {
    let plain = |text: &String| {
        let text = text.strip_suffix(' ').unwrap_or(text);
        let fits = |c: char| c.is_ascii_graphic() && !matches!(c, '\'' | '"' | '\\');
        !text.is_empty() && text.chars().all(fits)
    };
    let fit = candidates.filter(|text| text.starts_with(typed) && plain(text));
    Completion {
        start,
        candidates: fit.take(MOST).collect(),
        ids: None,
    }
}

/// The keys that may follow: `key=`, and `key.` for an object.
fn keys<'a>(
    schema: &'a Schema,
    arguments: &'a Entity,
    word: &'a str,
    given: &'a Given<'_>,
) -> impl Iterator<Item = String> {
    let (path, _) = parts(word);
    let object = walk(schema, arguments, path, given);
    let members = object.map(|object| members(schema, object, path, given));
    let members = members.into_iter().flatten();
    members.flat_map(move |member| {
        let key = format!("{path}{}", member.name);
        let of = schema.get(&member.of);
        let is_object = of.is_some_and(|of| object_in(schema, of).is_some());
        let only_object = of.is_some_and(|of| of.meta_type == MetaType::Object);
        let inside = is_object.then(|| format!("{key}."));
        let whole = (!only_object && !given.has(&key)).then(|| format!("{key}="));
        whole.into_iter().chain(inside)
    })
}

/// A key as the path of its object, including the last dot, and the name in that object.
fn parts(key: &str) -> (&str, &str) {
    key.split_at(key.rfind('.').map_or(0, |dot| dot + 1))
}

/// The object at a path such as `file.cache.`
fn walk<'s>(
    schema: &'s Schema,
    mut object: &'s Entity,
    path: &str,
    given: &Given<'_>,
) -> Option<&'s Entity> {
    let mut at = 0;
    while let Some(dot) = path[at..].find('.') {
        let (before, name) = (&path[..at], &path[at..at + dot]);
        let member = find(schema, object, before, name, given)?;
        object = object_in(schema, schema.get(&member.of)?)?;
        at += dot + 1;
    }
    Some(object)
}

fn find<'s>(
    schema: &'s Schema,
    object: &'s Entity,
    path: &str,
    name: &str,
    given: &Given<'_>,
) -> Option<&'s Member> {
    let mut members = members(schema, object, path, given);
    members.find(|member| member.name == name)
}

/// The members of an object, including those of the variant that its tag selects.
fn members<'s>(
    schema: &'s Schema,
    object: &'s Entity,
    path: &str,
    given: &Given<'_>,
) -> impl Iterator<Item = &'s Member> {
    let tag = object.tag.as_ref();
    let chosen = tag.and_then(|tag| given.value(&format!("{path}{tag}")));
    let variant = chosen.and_then(|chosen| object.variants.iter().find(|it| it.case == chosen));
    let variant = variant.and_then(|variant| schema.get(&variant.of));
    let more = variant.into_iter().flat_map(|it| &it.members);
    object.members.iter().chain(more)
}

/// The object in a type: the type itself, or an alternative.
fn object_in<'s>(schema: &'s Schema, of: &'s Entity) -> Option<&'s Entity> {
    let is_object = |of: &&Entity| of.meta_type == MetaType::Object;
    Some(of)
        .filter(is_object)
        .or_else(|| schema.alternatives(of).find(is_object))
}

/// The values of a type that has a fixed set of them.
fn values<'s>(schema: &'s Schema, of: &'s Entity) -> impl Iterator<Item = &'s str> {
    let types = std::iter::once(of).chain(schema.alternatives(of));
    types.flat_map(|of| {
        let truths = ["true", "false"].into_iter();
        let truths = truths.filter(|_| of.name == "bool");
        of.values().chain(truths)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::tests::SMALL;

    fn completed(line: &str) -> Vec<String> {
        let schema = Schema::parse(SMALL).unwrap();
        let completion = complete(&schema, line);
        let whole = |text: &String| format!("{}{text}", &line[..completion.start]);
        completion.candidates.iter().map(whole).collect()
    }

    #[test]
    fn commands() {
        assert_eq!(completed("d"), ["device_del "]);
        assert_eq!(completed("  st"), ["  stop "]);
        assert_eq!(completed(".h"), [".help "]);
        assert_eq!(completed(".help st"), [".help stop "]);
        assert_eq!(completed(".events "), [".events off ", ".events on "]);
        assert_eq!(completed("").len(), 4 + OWN.len());
        assert!(completed("nothing ").is_empty() && completed("stop ").is_empty());
    }

    #[test]
    fn arguments() {
        assert_eq!(
            completed("blockdev-add "),
            [
                "blockdev-add driver=",
                "blockdev-add read-only=",
                "blockdev-add cache.",
            ]
        );
        let with_file = completed("blockdev-add driver=file ");
        assert!(with_file.contains(&"blockdev-add driver=file filename=".to_owned()));
        assert!(!with_file.contains(&"blockdev-add driver=file driver=".to_owned()));
        assert_eq!(
            completed("blockdev-add cache.d"),
            ["blockdev-add cache.direct="]
        );
        assert_eq!(
            completed("blockdev-add driver=raw f"),
            [
                "blockdev-add driver=raw file=",
                "blockdev-add driver=raw file.",
            ]
        );
        assert_eq!(
            completed("blockdev-add driver=raw file.driver=file file.f"),
            ["blockdev-add driver=raw file.driver=file file.filename="]
        );
    }

    #[test]
    fn values() {
        assert_eq!(
            completed("blockdev-add driver=n"),
            ["blockdev-add driver=null-co "]
        );
        assert_eq!(
            completed("blockdev-add cache.direct="),
            [
                "blockdev-add cache.direct=true ",
                "blockdev-add cache.direct=false ",
            ]
        );
        assert_eq!(
            completed("blockdev-add driver=raw file.driver=r"),
            ["blockdev-add driver=raw file.driver=raw "]
        );
        let schema = Schema::parse(SMALL).unwrap();
        let ids = complete(&schema, "device_del id=").ids;
        assert_eq!(ids, Some(Ids::Devices));
        assert!(completed("device_del x=").is_empty());
    }

    #[test]
    fn text_that_acts_on_terminals_is_not_a_candidate() {
        let texts = ["a\x1b[2J", "a b", "a\u{9b}", "a'", "ab"];
        let fit = fitting(0, "a", texts.iter().map(|&text| text.to_owned()));
        assert_eq!(fit.candidates, ["ab"]);
        let many = (0..2 * MOST).map(|i| i.to_string());
        assert_eq!(fitting(0, "", many).candidates.len(), MOST);
    }
}
