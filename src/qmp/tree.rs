// SPDX-License-Identifier: MIT OR Apache-2.0
//! Builds a tree from JSON text, with any type of node.
//!
//! Numbers are passed on as text: what `serde_json` makes of them depends on the
//! features that other crates of a program enable (`arbitrary_precision`).

use std::borrow::Cow;

use super::PeerError;
use super::json::{Scanner, said};
use super::limits::MAX_TREE_SIZE;

/// Creates the nodes.
pub(crate) trait Builder {
    type Node;

    fn null(&mut self) -> Self::Node;
    fn bool(&mut self, value: bool) -> Self::Node;
    /// A number as JSON writes it.
    fn number(&mut self, text: &str) -> Result<Self::Node, String>;
    fn string(&mut self, text: Cow<'_, str>) -> Result<Self::Node, String>;
    fn array(&mut self, items: Vec<Self::Node>) -> Self::Node;
    fn object(&mut self, members: Vec<(Cow<'_, str>, Self::Node)>) -> Result<Self::Node, String>;
}

/// Why there is no tree.
#[derive(Debug)]
pub(crate) enum NoTree {
    /// The text is longer than [`MAX_TREE_SIZE`].
    TooLarge(PeerError),
    /// It is not JSON, nests too deeply, or contains something that the builder refuses.
    Unfit(String),
}

impl From<String> for NoTree {
    fn from(reason: String) -> Self {
        Self::Unfit(reason)
    }
}

/// Builds the tree of a text that nests at most `max_depth` levels.
pub(crate) fn build<B: Builder>(
    text: &str,
    max_depth: usize,
    builder: &mut B,
) -> Result<B::Node, NoTree> {
    if text.len() > MAX_TREE_SIZE {
        let limit = MAX_TREE_SIZE;
        return Err(NoTree::TooLarge(PeerError::TreeTooLarge { limit }));
    }
    let mut reader = Reader {
        text,
        scanner: Scanner::new(text.as_bytes()),
        max_depth,
        builder,
    };
    let node = reader.node(0)?;
    reader.scanner.token();
    if reader.scanner.at < text.len() {
        return Err(String::from(reader.scanner.malformed("trailing characters")).into());
    }
    Ok(node)
}

struct Reader<'t, 'b, B> {
    text: &'t str,
    scanner: Scanner<'t>,
    max_depth: usize,
    builder: &'b mut B,
}

impl<B: Builder> Reader<'_, '_, B> {
    fn node(&mut self, depth: usize) -> Result<B::Node, String> {
        let first = self.scanner.token();
        let start = self.scanner.at;
        match first {
            b'{' | b'[' if depth == self.max_depth => {
                Err(format!("it nests deeper than {depth} levels"))
            }
            b'{' => self.object(depth + 1),
            b'[' => self.array(depth + 1),
            b'"' => {
                self.scanner.escaped = false;
                self.scanner.string()?;
                let string = &self.text[start..self.scanner.at];
                self.builder.string(said(string, self.scanner.escaped))
            }
            b'-' | b'0'..=b'9' => {
                self.scanner.number()?;
                self.builder.number(&self.text[start..self.scanner.at])
            }
            b't' => {
                self.scanner.word("true")?;
                Ok(self.builder.bool(true))
            }
            b'f' => {
                self.scanner.word("false")?;
                Ok(self.builder.bool(false))
            }
            b'n' => {
                self.scanner.word("null")?;
                Ok(self.builder.null())
            }
            _ => Err(self.scanner.malformed("expected a value").into()),
        }
    }

    fn array(&mut self, depth: usize) -> Result<B::Node, String> {
        let mut items = Vec::new();
        self.list(b']', |reader| {
            items.push(reader.node(depth)?);
            Ok(())
        })?;
        Ok(self.builder.array(items))
    }

    fn object(&mut self, depth: usize) -> Result<B::Node, String> {
        let mut members = Vec::new();
        self.list(b'}', |reader| {
            reader.scanner.escaped = false;
            let name = reader.scanner.name()?;
            let name = said(&reader.text[name], reader.scanner.escaped);
            members.push((name, reader.node(depth)?));
            Ok(())
        })?;
        self.builder.object(members)
    }

    /// Reads a list from bracket to bracket, with commas between its items.
    fn list(
        &mut self,
        close: u8,
        mut one: impl FnMut(&mut Self) -> Result<(), String>,
    ) -> Result<(), String> {
        self.scanner.at += 1;
        if self.scanner.token() == close {
            self.scanner.at += 1;
            return Ok(());
        }
        loop {
            one(self)?;
            let next = self.scanner.token();
            if next != close && next != b',' {
                return Err(self.scanner.malformed("expected a comma or an end").into());
            }
            self.scanner.at += 1;
            if next == close {
                return Ok(());
            }
        }
    }
}
