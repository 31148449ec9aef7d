// SPDX-License-Identifier: MIT OR Apache-2.0
//! The results as a table, for people and for docs/performance.md.

use std::fmt::Write;

use crate::measure::{Figures, Goal, Row, Unit};
use crate::{HELPER, OURS};

/// The rows that matter to users, with which the page starts.
const FELT: [&str; 10] = [
    "events",
    "qmp-event",
    "storm",
    "timer",
    "spice",
    "qemu-spice",
    "socket",
    "ready",
    "reply-9m",
    "idle",
];

/// All results of a run.
#[derive(Default)]
pub struct Report {
    pub rows: Vec<Row>,
    /// Instructions per message, by row and participant, if they were requested.
    pub instructions: Vec<(&'static str, &'static str, f64)>,
    pub left_out: Vec<String>,
}

impl Report {
    /// Everything, for a terminal.
    pub fn text(&self) -> String {
        let mut text = String::new();
        for row in &self.rows {
            let _ = writeln!(text, "{}: {}", row.id, row.title);
            for [who, median, range, ratio, count] in self.lines(row) {
                let _ = writeln!(text, "  {who:30}{median:>10}  {range:22}{ratio:6}{count}");
            }
            for goal in &row.goals {
                let _ = writeln!(text, "  {}: {}", words(row, goal), verdict(row, goal));
            }
        }
        text + &self.left_out.join("\n")
    }

    /// The table of what matters to users, followed by everything else, for a document.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "| | {OURS} | {HELPER} | others | goal | reached |\n|---|--:|--:|--:|---|---|\n"
        );
        for id in FELT {
            let Some(row) = self.rows.iter().find(|row| row.id == id) else {
                continue;
            };
            let (mut ours, mut helper, mut others) = (String::new(), String::new(), Vec::new());
            for [who, median, ..] in self.lines(row) {
                match who.as_str() {
                    OURS => ours = median,
                    HELPER => helper = median,
                    _ => others.push(format!("{who} {median}")),
                }
            }
            let goals = |each: fn(&Row, &Goal) -> String| {
                let goals = row.goals.iter().map(|goal| each(row, goal));
                goals.collect::<Vec<_>>().join("<br>")
            };
            let (title, others) = (row.title, others.join("<br>"));
            let (goals, reached) = (goals(words), goals(verdict));
            let _ = writeln!(
                text,
                "| {title} | {ours} | {helper} | {others} | {goals} | {reached} |"
            );
        }
        text += "\n<details><summary>All rows</summary>\n\n\
            | who | median | min - max | ours ÷ theirs | instructions |\n|---|--:|--:|--:|--:|\n";
        for row in &self.rows {
            let _ = write!(text, "| **{}**", row.title);
            for goal in &row.goals {
                let _ = write!(text, "<br>{}: {}", words(row, goal), verdict(row, goal));
            }
            text += " | | | | |\n";
            for line in self.lines(row) {
                let _ = writeln!(text, "| {} |", line.join(" | "));
            }
        }
        for what in &self.left_out {
            let _ = writeln!(text, "\n{what}");
        }
        text + "\n</details>\n"
    }

    /// A row's participants, with median, range, ratio to this library, and instructions.
    fn lines(&self, row: &Row) -> Vec<[String; 5]> {
        let line = |(who, it): &(&'static str, Figures)| {
            let mut counts = self.instructions.iter();
            let count = counts.find(|(id, name, _)| id == &row.id && name == who);
            let [median, min, max] =
                [it.median(), it.min(), it.max()].map(|figure| row.unit.text(figure));
            [
                (*who).to_owned(),
                median,
                format!("{min} - {max}"),
                ratio(row, who),
                count.map_or_else(String::new, |(.., count)| format!("{count:.0}")),
            ]
        };
        row.results.iter().map(line).collect()
    }
}

/// The ratio of this library to another participant, round by round.
fn ratio(row: &Row, who: &str) -> String {
    match (row.of(OURS), row.of(who)) {
        (Some(ours), Some(theirs)) if who != OURS => {
            let ratio = ours.ratio(theirs);
            if ratio.is_finite() {
                format!("{ratio:.2}")
            } else {
                String::new()
            }
        }
        _ => String::new(),
    }
}

/// A goal in words.
fn words(row: &Row, goal: &Goal) -> String {
    let sign = if row.unit.is_rate() { "≥" } else { "≤" };
    let who = if goal.who == OURS {
        String::new()
    } else {
        format!("{} ", goal.who)
    };
    match goal.of {
        Some(other) => format!("{who}{sign} {} × {other}", goal.factor),
        None => format!("{who}{sign} {}", row.unit.text(goal.factor)),
    }
}

/// Whether a goal is reached; a twentieth is noise if a clock measured it.
fn verdict(row: &Row, goal: &Goal) -> String {
    let Some(now) = row.reached(goal) else {
        return "not measured".into();
    };
    let exact = matches!(row.unit, Unit::Bytes | Unit::Count);
    let is = |factor: f64| {
        if row.unit.is_rate() {
            now * factor >= goal.factor
        } else {
            now <= goal.factor * factor
        }
    };
    let reached = match (is(1.0), is(1.05) && !exact) {
        (true, _) => "yes",
        (_, true) => "within noise",
        _ => "no",
    };
    match goal.of {
        Some(_) => format!("{now:.2}: {reached}"),
        None => reached.into(),
    }
}

impl Unit {
    /// A figure with its unit, in three digits.
    pub fn text(self, figure: f64) -> String {
        let (figure, unit) = match self {
            Unit::Ns => (figure, " ns"),
            Unit::Us => (figure, " µs"),
            Unit::Ms => (figure, " ms"),
            Unit::PerSecond if figure >= 1e6 => (figure / 1e6, " M/s"),
            Unit::PerSecond if figure >= 1e4 => (figure / 1e3, " k/s"),
            Unit::PerSecond => (figure, " /s"),
            Unit::Bytes if figure >= 1e6 => (figure / 1e6, " MB"),
            Unit::Bytes => (figure, " B"),
            Unit::Count => (figure, ""),
        };
        let digits = match figure.abs() {
            size if size >= 100.0 || size == 0.0 => 0,
            size if size >= 10.0 => 1,
            size if size >= 1.0 => 2,
            _ => 3,
        };
        format!("{figure:.digits$}{unit}")
    }
}
