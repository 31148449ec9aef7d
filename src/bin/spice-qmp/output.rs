//! Standard output: text for people, JSON for programs, flushed line by line.

use std::fmt::Display;
use std::io::{self, IsTerminal, Stdout, Write};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use serde::Serialize;

use crate::failure::Stop;

/// Where results go.
pub(crate) struct Output {
    json: bool,
    /// Takes the colours out where nobody would see them.
    stream: AutoStream<Stdout>,
}

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        Self {
            json,
            stream: anstream::stdout(),
        }
    }

    /// Whether programs read it (`--json`).
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// One line of text.
    pub(crate) fn line(&mut self, text: impl Display) -> Result<(), Stop> {
        // In one write: a line of several writers stays whole.
        let line = format!("{text}\n");
        let written = self.stream.write_all(line.as_bytes());
        written.and_then(|()| self.stream.flush())?;
        Ok(())
    }

    /// One line of JSON.
    pub(crate) fn json(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        self.line(serde_json::to_string(value).map_err(io::Error::from)?)
    }

    /// JSON that a person may read: spread over lines on a terminal, unless
    /// `--json` asks for one line.
    pub(crate) fn value(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        if self.json || !io::stdout().is_terminal() {
            return self.json(value);
        }
        self.line(serde_json::to_string_pretty(value).map_err(io::Error::from)?)
    }
}

/// The name of a run state in its colour.
pub(crate) fn run_state(status: &str, running: bool) -> String {
    let color = match status {
        _ if running => AnsiColor::Green,
        "guest-panicked" | "internal-error" | "io-error" | "watchdog" => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    styled(status, Style::new().fg_color(Some(color.into())).bold())
}

pub(crate) fn styled(text: &str, style: Style) -> String {
    format!("{style}{text}{style:#}")
}
