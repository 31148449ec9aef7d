// SPDX-License-Identifier: MIT OR Apache-2.0
//! Styled lines of text for a terminal. Control characters in the text are
//! escaped, wherever it comes from, and styles are added last.

use std::fmt::{Display, Write as _};
use std::io::{self, Write as _};

use anstream::{AutoStream, ColorChoice};
use anstyle::{AnsiColor, Style};

/// One line of text. Line breaks and other control characters in its parts are
/// written as escapes.
#[derive(Debug, Default)]
pub(crate) struct Line(Vec<Span>);

#[derive(Debug)]
struct Span {
    text: String,
    style: Style,
}

impl Line {
    /// Appends plain text.
    pub(crate) fn plain(self, text: impl Display) -> Self {
        self.styled(text, Style::new())
    }

    /// Appends text in a style.
    pub(crate) fn styled(mut self, text: impl Display, style: Style) -> Self {
        let text = escaped(&text.to_string());
        self.0.push(Span { text, style });
        self
    }

    /// The text of the line, with its line end.
    pub(crate) fn render(&self, colors: bool) -> String {
        let mut line = String::new();
        for Span { text, style } in &self.0 {
            if colors {
                // Writing to a string does not fail.
                let _ = write!(line, "{style}{text}{style:#}");
            } else {
                line.push_str(text);
            }
        }
        line.push('\n');
        line
    }
}

impl<T: Display> From<T> for Line {
    fn from(text: T) -> Self {
        Self::default().plain(text)
    }
}

/// Whether a stream shows colours.
pub(crate) fn shows_colors(stream: &impl anstream::stream::RawStream) -> bool {
    AutoStream::choice(stream) != ColorChoice::Never
}

/// Writes a line to standard error.
pub(crate) fn print_error_line(line: impl Into<Line>) {
    let line = line.into().render(shows_colors(&io::stderr()));
    // If it cannot be written, there is nowhere to report that.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// The style of a label such as `error:`.
pub(crate) fn error_style() -> Style {
    Style::new().fg_color(Some(AnsiColor::Red.into())).bold()
}

/// The style of a label such as `hint:`.
pub(crate) fn label_style() -> Style {
    Style::new().bold()
}

/// The colour of a run state.
pub(crate) fn run_state_style(status: &str, running: bool) -> Style {
    let color = match status {
        _ if running => AnsiColor::Green,
        "guest-panicked" | "internal-error" | "io-error" | "watchdog" => AnsiColor::Red,
        _ => AnsiColor::Yellow,
    };
    Style::new().fg_color(Some(color.into())).bold()
}

/// The text with an escape in place of each character that must not reach a
/// terminal: `\n`, `\x1b`, `\u{202e}`.
pub(crate) fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\t' | '\n' | '\r' => safe.extend(c.escape_default()),
            c if !acts_on_terminals(c) => safe.push(c),
            c if u32::from(c) < 0x100 => {
                let _ = write!(safe, "\\x{:02x}", u32::from(c));
            }
            c => safe.extend(c.escape_unicode()),
        }
    }
    safe
}

/// [`escaped`], but line ends and tabs stay.
pub(crate) fn escaped_lines(text: &str) -> String {
    let mut safe = String::with_capacity(text.len() + 1);
    for line in text.lines() {
        for (at, part) in line.split('\t').enumerate() {
            if at > 0 {
                safe.push('\t');
            }
            safe.push_str(&escaped(part));
        }
        safe.push('\n');
    }
    safe
}

/// Whether a character can move the cursor, start an escape sequence, break a line
/// or change the order of the text around it.
pub(crate) fn acts_on_terminals(c: char) -> bool {
    matches!(
        c,
        // C0, DEL and C1.
        '\0'..='\x1f' | '\x7f'..='\u{9f}'
        // Marks, embeddings, overrides and isolates of bidirectional text.
        | '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}'
        // Separators of lines and paragraphs.
        | '\u{2028}' | '\u{2029}'
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_control_character_is_escaped() {
        for c in (0..0x3000).filter_map(char::from_u32) {
            let text = escaped(&format!("a{c}b"));
            assert!(!text.chars().any(acts_on_terminals), "{c:?}: {text:?}");
            assert_eq!(text.contains(c), !acts_on_terminals(c), "{c:?}");
        }
    }

    #[test]
    fn escapes_are_readable() {
        let text = "\x1b]0;x\x07\r\n\t\u{85}\u{202e}\u{2028} grün 漢 \\";
        assert_eq!(
            escaped(text),
            r"\x1b]0;x\x07\r\n\t\x85\u{202e}\u{2028} grün 漢 \"
        );
    }

    #[test]
    fn lines_and_tabs_stay() {
        let text = "a\tb\r\n\n\x1b[2J\u{202e}\rc\td\u{2028}\n";
        let expected = "a\tb\n\n\\x1b[2J\\u{202e}\\rc\td\\u{2028}\n";
        assert_eq!(escaped_lines(text), expected);
        assert_eq!(escaped_lines("end"), "end\n");
        assert_eq!(escaped_lines(""), "");
    }

    #[test]
    fn a_line_is_one_line_and_has_only_its_own_styles() {
        let line = Line::from("a\nb").styled("\x1b[31mred\x1b[0m", error_style());
        assert_eq!(line.render(false), "a\\nb\\x1b[31mred\\x1b[0m\n");
        let colored = line.render(true);
        assert_eq!(colored.matches("\x1b[31mred").count(), 0);
        assert_eq!(colored.lines().count(), 1);
        assert!(colored.contains("\x1b["));
    }
}
