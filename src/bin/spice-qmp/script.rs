// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several commands, one per line: `NAME KEY=VALUE...` in the syntax of the shell, or
//! QMP's JSON.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use glib::IOCondition;
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::wait::ready;
use crate::words;

/// A command that is to be executed.
#[derive(Debug)]
pub(crate) struct Command {
    pub(crate) name: String,
    pub(crate) arguments: Option<Box<RawValue>>,
    /// The line number, if it is one of several commands.
    pub(crate) line: Option<usize>,
}

/// Commands in their order.
pub(crate) struct Script {
    commands: VecDeque<Command>,
    /// Where further commands come from.
    stdin: Option<Lines>,
}

impl Script {
    /// One command.
    pub(crate) fn of(command: Command) -> Self {
        Self {
            commands: [command].into(),
            stdin: None,
        }
    }

    /// The commands in a file, which is parsed completely now; `-` is standard input.
    pub(crate) fn read(file: &Path) -> Result<Self, Failure> {
        if file.as_os_str() == "-" {
            return Ok(Self::from_stdin());
        }
        let text = fs::read_to_string(file)
            .map_err(|error| Failure::usage(format!("{}: {error}", file.display())))?;
        let commands = (1..).zip(text.lines()).filter_map(|(line, text)| {
            let command = parse(text, line);
            command.transpose()
        });
        Ok(Self {
            commands: commands.collect::<Result<_, _>>()?,
            stdin: None,
        })
    }

    /// The commands on standard input. Each is executed when its line has arrived.
    pub(crate) fn from_stdin() -> Self {
        let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
        Self {
            commands: VecDeque::new(),
            stdin: Some(Lines {
                file,
                buffer: Vec::new(),
                number: 0,
            }),
        }
    }

    /// The next command; `None` after the last one.
    pub(crate) async fn next(&mut self) -> Result<Option<Command>, Failure> {
        let Some(stdin) = &mut self.stdin else {
            return Ok(self.commands.pop_front());
        };
        loop {
            let Some(line) = stdin.next().await.map_err(|error| unreadable(&error))? else {
                return Ok(None);
            };
            if let Some(command) = parse(&line, stdin.number)? {
                return Ok(Some(command));
            }
        }
    }
}

/// The lines of standard input.
struct Lines {
    /// Standard input without Rust's buffer.
    file: io::Result<File>,
    buffer: Vec<u8>,
    number: usize,
}

impl Lines {
    /// The next line. The main loop runs until it arrives.
    async fn next(&mut self) -> io::Result<Option<String>> {
        let file = self.file.as_ref();
        let mut file = file.map_err(|error| io::Error::from(error.kind()))?;
        let mut looked_at = 0;
        let (end, next) = loop {
            let unseen = &self.buffer[looked_at..];
            if let Some(at) = unseen.iter().position(|&byte| byte == b'\n') {
                break (looked_at + at, looked_at + at + 1);
            }
            looked_at = self.buffer.len();
            ready(file.as_raw_fd(), IOCondition::IN).await;
            let mut piece = [0; 4096];
            match file.read(&mut piece) {
                Ok(0) if self.buffer.is_empty() => return Ok(None),
                Ok(0) => break (self.buffer.len(), self.buffer.len()),
                Ok(read) => self.buffer.extend_from_slice(&piece[..read]),
                Err(error)
                    if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => {}
                Err(error) => return Err(error),
            }
        };
        let rest = self.buffer.split_off(next);
        let mut line = std::mem::replace(&mut self.buffer, rest);
        line.truncate(end);
        self.number += 1;
        let text = String::from_utf8(line);
        text.map(Some)
            .map_err(|_| io::Error::new(ErrorKind::InvalidData, "it is not UTF-8"))
    }
}

fn unreadable(error: &io::Error) -> Failure {
    Failure::usage(format!("standard input: {error}"))
}

/// The command on a line; `None` if the line is empty, or a comment.
fn parse(text: &str, line: usize) -> Result<Option<Command>, Failure> {
    let text = text.trim();
    if text.is_empty() || text.starts_with('#') {
        return Ok(None);
    }
    let command = words::parse_command(text).map_err(|error| {
        Failure::usage(error)
            .hint("spice-qmp exec --help shows how to write commands")
            .in_line(Some(line))
    })?;
    Ok(Some(Command {
        name: command.name,
        arguments: command.arguments,
        line: Some(line),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Option<(String, Option<String>)> {
        let command = parse(text, 7).unwrap_or_else(|failure| panic!("{text}: {failure:?}"))?;
        let arguments = command.arguments.map(|it| it.get().to_owned());
        Some((command.name, arguments))
    }

    #[test]
    fn each_form_of_a_command() {
        for (text, name, arguments) in [
            ("stop", "stop", None),
            ("  stop \t", "stop", None),
            ("stop # now", "stop", None),
            ("a b=1 c.d='x y'", "a", Some(r#"{"b":1,"c":{"d":"x y"}}"#)),
            (
                r#"a b="x\"y" c=x\ y"#,
                "a",
                Some(r#"{"b":"x\"y","c":"x y"}"#),
            ),
            (r#"a '{"b": 1}'"#, "a", Some(r#"{"b": 1}"#)),
            (r#"a   {"b": "x # y"}"#, "a", Some(r#"{"b": "x # y"}"#)),
            (r#"{"execute": "a"}"#, "a", None),
            (
                r#"{"id": [1], "execute": "a", "arguments": {"b": 1.10}}"#,
                "a",
                Some(r#"{"b": 1.10}"#),
            ),
        ] {
            let expected = (name.to_owned(), arguments.map(str::to_owned));
            assert_eq!(parsed(text), Some(expected), "{text}");
        }
        for text in ["", "  ", "# stop", "\t#"] {
            assert_eq!(parsed(text), None);
        }
    }

    #[test]
    fn wrong_lines_are_not_repeated() {
        for text in [
            "a 'geheim",
            "a geheim\\",
            "a geheim",
            "a {geheim}",
            r#"a {"password": "geheim"} x"#,
            r#"a x=1 '{"password": "geheim"}'"#,
            r#"{"execute": "a", "geheim": 1}"#,
            r#"{"exec-oob": "geheim"}"#,
            r#"{"execute": ["geheim"]}"#,
            r#"{"execute": "a", "arguments": ["geheim"]}"#,
            r#"{"execute": "a", "arguments": "geheim"}"#,
            r#"{"execute": "geheim""#,
        ] {
            let failure = format!("{:?}", parse(text, 7).unwrap_err());
            assert!(failure.contains("line 7: "), "{failure}");
            assert!(!failure.contains("geheim"), "{failure}");
        }
    }
}
