// SPDX-License-Identifier: MIT OR Apache-2.0
//! Standard output: text for people, JSON for programs, flushed line by line.
//!
//! While the reader is slow, writing waits in the main loop, so that a signal still ends
//! the tool and SPICE is still served.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, ErrorKind, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};

use glib::IOCondition;
use serde::Serialize;

use crate::failure::Stop;
use crate::json_text::{Formatter, Layout, compact};
use crate::style::{Line, escaped_lines, shows_colors};
use crate::wait::ready;

/// Where results are written.
pub(crate) struct Output {
    json: bool,
    colors: bool,
    /// Standard output without Rust's buffer.
    file: io::Result<File>,
    /// How many bytes can be written at once without blocking; unlimited for a file.
    at_once: usize,
    /// Lines that wait to be written, and their size in bytes.
    queue: VecDeque<String>,
    queued: usize,
}

/// A writable pipe accepts this many bytes (`PIPE_BUF`).
const PIECE: usize = 4096;

/// How many bytes of lines wait for a slow reader.
const QUEUE: usize = 16 << 20;

impl Output {
    pub(crate) fn new(json: bool) -> Self {
        let file = io::stdout().as_fd().try_clone_to_owned().map(File::from);
        let is_file = file.as_ref().is_ok_and(|file| {
            let metadata = file.metadata();
            metadata.is_ok_and(|it| it.is_file())
        });
        Self {
            json,
            colors: shows_colors(&io::stdout()),
            file,
            at_once: if is_file { usize::MAX } else { PIECE },
            queue: VecDeque::new(),
            queued: 0,
        }
    }

    /// Whether it is for programs (`--json`).
    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    /// Whether it is for people, on a terminal.
    pub(crate) fn is_for_people(&self) -> bool {
        !self.json && io::stdout().is_terminal()
    }

    /// Whether text is coloured.
    pub(crate) fn has_colors(&self) -> bool {
        self.colors
    }

    /// One line of text.
    pub(crate) async fn line(&mut self, line: impl Into<Line>) -> Result<(), Stop> {
        let line = line.into().render(self.colors);
        self.write(&line).await
    }

    /// Several lines of text, at once.
    pub(crate) async fn lines(
        &mut self,
        lines: impl IntoIterator<Item = Line>,
    ) -> Result<(), Stop> {
        let lines = lines.into_iter().map(|line| line.render(self.colors));
        let text: String = lines.collect();
        self.write(&text).await
    }

    /// Text of several lines, with its tabs.
    pub(crate) async fn text(&mut self, text: &str) -> Result<(), Stop> {
        let lines = escaped_lines(text);
        self.write(&lines).await
    }

    /// One line of JSON.
    pub(crate) async fn json(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        self.write_json(&text, Layout::Compact).await
    }

    /// Queues one line of JSON.
    pub(crate) fn queue_json(&mut self, value: &impl Serialize) -> Result<(), Stop> {
        let text = serde_json::to_string(value).map_err(io::Error::from)?;
        let line = compact(&text) + "\n";
        self.queued += line.len();
        self.queue.push_back(line);
        Ok(())
    }

    /// Whether lines are queued.
    pub(crate) fn has_queued(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Whether more lines can be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.queued < QUEUE
    }

    /// Writes some of the queued lines.
    pub(crate) async fn write_queued(&mut self) -> Result<(), Stop> {
        let mut piece = String::new();
        while let Some(line) = self.queue.front()
            && (piece.is_empty() || piece.len() + line.len() <= PIECE)
        {
            piece.push_str(line);
            self.queue.pop_front();
        }
        self.queued -= piece.len();
        self.write(&piece).await
    }

    /// JSON text that a person may read: over several lines on a terminal, unless
    /// `--json` requests one line.
    pub(crate) async fn json_text(&mut self, text: &str) -> Result<(), Stop> {
        let layout = if self.is_for_people() {
            Layout::Pretty
        } else {
            Layout::Compact
        };
        self.write_json(text, layout).await
    }

    async fn write_json(&mut self, text: &str, layout: Layout) -> Result<(), Stop> {
        let mut formatter = Formatter::new(text, layout);
        let mut piece = String::new();
        // Piece by piece: formatted, it may be much longer.
        while formatter.fill(&mut piece, PIECE) {
            self.write(&piece).await?;
            piece.clear();
        }
        piece.push('\n');
        self.write(&piece).await
    }

    async fn write(&mut self, text: &str) -> Result<(), Stop> {
        let file = self.file.as_ref();
        let mut file = file.map_err(|error| io::Error::from(error.kind()))?;
        // Each piece in one write, so that lines of several writers stay whole.
        for mut piece in text.as_bytes().chunks(self.at_once) {
            while !piece.is_empty() {
                writable().await;
                match file.write(piece) {
                    Ok(written) => piece = &piece[written..],
                    Err(error)
                        if matches!(
                            error.kind(),
                            ErrorKind::WouldBlock | ErrorKind::Interrupted
                        ) => {}
                    Err(error) => return Err(error.into()),
                }
            }
        }
        Ok(())
    }
}

/// Waits until standard output is writable, or closed.
pub(crate) async fn writable() {
    ready(io::stdout().as_raw_fd(), IOCondition::OUT).await;
}
