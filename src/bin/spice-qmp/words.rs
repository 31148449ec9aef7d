// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parses a line that a person types, or a script contains: a command and its arguments.

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::arguments;

/// The meaning of a line.
#[derive(Debug)]
pub(crate) enum Entry<'a> {
    /// Nothing: the line is empty, or a comment.
    Nothing,
    /// A command of the shell itself, such as `.help`, with its arguments.
    Own(&'a str, &'a str),
    /// A command line of the human monitor.
    Human(&'a str),
    Command(Command),
}

/// A QMP command.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) arguments: Option<Box<RawValue>>,
}

/// A command in QMP's format. Its id is ignored: the tool uses its own.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Request {
    execute: String,
    arguments: Option<Box<RawValue>>,
    #[serde(rename = "id")]
    _id: Option<serde::de::IgnoredAny>,
}

/// Parses a line. The error quotes nothing that may be a secret.
pub(crate) fn parse(line: &str) -> Result<Entry<'_>, String> {
    let line = line.trim();
    if line.is_empty() || line.starts_with('#') {
        return Ok(Entry::Nothing);
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    let rest = rest.trim_start();
    Ok(match name {
        "hmp" => Entry::Human(rest),
        _ if name.starts_with('.') => Entry::Own(name, rest),
        _ => Entry::Command(parse_command(line)?),
    })
}

/// Parses a command with its arguments, likewise.
pub(crate) fn parse_command(line: &str) -> Result<Command, String> {
    let line = line.trim();
    if line.starts_with('{') {
        return parse_request(line);
    }
    let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((line, ""));
    Ok(Command {
        name: name.to_owned(),
        arguments: parse_arguments(rest.trim_start())?,
    })
}

fn parse_request(line: &str) -> Result<Command, String> {
    let request: Request = serde_json::from_str(line).map_err(|error| {
        if error.is_data() {
            r#"this is not {"execute": NAME, "arguments": {...}}"#.to_owned()
        } else {
            format!("this is not JSON: {error}")
        }
    })?;
    let arguments = request
        .arguments
        .map(|it| arguments::parse_object(it.get()));
    Ok(Command {
        name: request.execute,
        arguments: arguments.transpose()?,
    })
}

/// `key=value ...`, or one JSON object.
fn parse_arguments(text: &str) -> Result<Option<Box<RawValue>>, String> {
    if text.starts_with('{') {
        return arguments::parse_object(text).map(Some);
    }
    arguments::parse(&split(text)?)
}

/// Splits a line into words, with quotes as in a shell. JSON after a `=` needs none, even
/// if it contains spaces.
fn split(mut text: &str) -> Result<Vec<String>, String> {
    let mut words = Vec::new();
    loop {
        text = text.trim_start();
        if text.is_empty() || text.starts_with('#') {
            return Ok(words);
        }
        let (word, rest) = next_word(text)?;
        words.push(word);
        text = rest;
    }
}

fn next_word(text: &str) -> Result<(String, &str), String> {
    let mut word = String::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        match c {
            c if c.is_whitespace() => break,
            '\'' => {
                let (inside, after) = after.split_once('\'').ok_or(UNCLOSED)?;
                word.push_str(inside);
                rest = after;
            }
            '"' => rest = in_double_quotes(after, &mut word)?,
            '\\' => {
                let mut chars = after.chars();
                word.push(chars.next().ok_or("the line ends with a backslash")?);
                rest = chars.as_str();
            }
            '{' | '[' if word.ends_with('=') && !word[..word.len() - 1].contains('=') => {
                // Text such as [::1] is not JSON.
                let json = json_at(rest).unwrap_or(&rest[..1]);
                word.push_str(json);
                rest = &rest[json.len()..];
            }
            c => {
                word.push(c);
                rest = after;
            }
        }
    }
    Ok((word, rest))
}

/// Appends the text before the next quote, and returns the text after it.
fn in_double_quotes<'a>(text: &'a str, word: &mut String) -> Result<&'a str, String> {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '"' => return Ok(chars.as_str()),
            '\\' => match chars.next() {
                Some(c @ ('"' | '\\')) => word.push(c),
                Some(c) => word.extend(['\\', c]),
                None => break,
            },
            c => word.push(c),
        }
    }
    Err(UNCLOSED.into())
}

const UNCLOSED: &str = "a quote is not closed";

/// The JSON value at the beginning of a text.
fn json_at(text: &str) -> Option<&str> {
    let mut values = serde_json::Deserializer::from_str(text).into_iter::<&RawValue>();
    values.next()?.ok()?;
    Some(&text[..values.byte_offset()])
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn parsed(line: &str) -> Result<(String, Value), String> {
        match parse(line)? {
            Entry::Command(Command { name, arguments }) => {
                let arguments = arguments.map(|it| serde_json::from_str(it.get()).unwrap());
                Ok((name, arguments.unwrap_or_default()))
            }
            entry => panic!("{entry:?}"),
        }
    }

    #[test]
    fn commands_and_their_arguments() {
        for (line, name, arguments) in [
            ("stop", "stop", json!(null)),
            ("  stop  ", "stop", json!(null)),
            ("stop # now", "stop", json!(null)),
            (r#"a '{"b": 1}'"#, "a", json!({"b": 1})),
            (r#"a {"b": "x # y"}"#, "a", json!({"b": "x # y"})),
            ("device_del id=disk1", "device_del", json!({"id": "disk1"})),
            ("a b.c=1  b.d=true", "a", json!({"b": {"c": 1, "d": true}})),
            (r#"a {"b": [1, 2]}"#, "a", json!({"b": [1, 2]})),
            (
                r#"a b={"c": "d e"} f=1"#,
                "a",
                json!({"b": {"c": "d e"}, "f": 1}),
            ),
            (
                r"a b=[1, 2] c=[::1]:4444",
                "a",
                json!({"b": [1, 2], "c": "[::1]:4444"}),
            ),
            (
                r#"a b='c d' e="f g" h=i\ j"#,
                "a",
                json!({"b": "c d", "e": "f g", "h": "i j"}),
            ),
            (
                r#"a b='"3"' c="3" d="a\"\\\n""#,
                "a",
                json!({"b": "3", "c": 3, "d": "a\"\\\\n"}),
            ),
            (r#"a b="" c=''"#, "a", json!({"b": "", "c": ""})),
            (r#"{"execute": "a"}"#, "a", json!(null)),
            (
                r#"{"execute": "a", "arguments": {"b": 1}, "id": 7}"#,
                "a",
                json!({"b": 1}),
            ),
        ] {
            assert_eq!(parsed(line), Ok((name.to_owned(), arguments)), "{line}");
        }
    }

    #[test]
    fn lines_that_are_not_qmp_commands() {
        assert!(matches!(parse(""), Ok(Entry::Nothing)));
        assert!(matches!(parse(" # stop"), Ok(Entry::Nothing)));
        assert!(matches!(parse(".help"), Ok(Entry::Own(".help", ""))));
        assert!(matches!(
            parse(".help  stop"),
            Ok(Entry::Own(".help", "stop"))
        ));
        assert!(matches!(parse("hmp"), Ok(Entry::Human(""))));
        assert!(matches!(
            parse(r#"hmp  info "a b" "#),
            Ok(Entry::Human(r#"info "a b""#))
        ));
    }

    #[test]
    fn invalid_lines_are_refused_and_not_quoted() {
        for line in [
            "a geheim",
            "a b='geheim",
            "a b=\"geheim",
            "a b=geheim\\",
            "a b=geheim b=1",
            "a {\"b\": \"geheim\"",
            "a {} geheim",
            r#"{"execute": "a", "password": "geheim"}"#,
            r#"{"execute": "a", "arguments": "geheim"}"#,
            r#"{"execute": "a"} geheim"#,
        ] {
            let error = parse(line).expect_err(line);
            assert!(!error.contains("geheim"), "{error}");
        }
    }
}
