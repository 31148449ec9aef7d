//! What was measured, as a table for people, for documents and for machines.

use std::fmt::Write;

use serde_json::{Value, json};

use crate::counted::Counted;
use crate::measure::{Figures, Unit};

/// One who did a workload.
#[derive(Clone, Debug)]
pub struct Row {
    pub workload: String,
    pub title: String,
    pub who: String,
    pub unit: Unit,
    pub figures: Figures,
    pub target: Option<f64>,
    pub counted: Counted,
}

impl Row {
    pub fn new(
        workload: &str,
        title: &str,
        who: &str,
        unit: Unit,
        figures: Figures,
        target: Option<f64>,
    ) -> Self {
        Self {
            workload: workload.into(),
            title: title.into(),
            who: who.into(),
            unit,
            figures,
            // It is ours to reach.
            target: target.filter(|_| who == "ours"),
            counted: Counted::default(),
        }
    }
}

/// All that a run has found.
#[derive(Default)]
pub struct Report {
    pub rows: Vec<Row>,
    left_out: Vec<(String, String)>,
}

/// The peer that ours is compared with.
const PEER: &str = "spice-gtk helper";

impl Report {
    pub fn add(&mut self, row: Row) {
        // The table comes at the end; this tells that it goes on.
        eprintln!(
            "{:22} {:34} {:>12} {}",
            row.workload,
            row.who,
            short(row.figures.median()),
            row.unit.name()
        );
        self.rows.push(row);
    }

    pub fn leave_out(&mut self, what: &str, why: &str) {
        let entry = (what.to_owned(), why.to_owned());
        if !self.left_out.contains(&entry) {
            self.left_out.push(entry);
        }
    }

    /// How many times as fast as spice-gtk's helper, in the same workload.
    fn against_peer(&self, row: &Row) -> Option<f64> {
        let peer = self
            .rows
            .iter()
            .find(|other| other.workload == row.workload && other.who == PEER)?;
        times_as_good(row, peer.figures.median())
    }

    fn cells(&self, row: &Row) -> [String; 9] {
        let counted = &row.counted;
        let figure = |value: Option<f64>| value.map_or_else(String::new, short);
        [
            row.who.clone(),
            format!("{} {}", short(row.figures.median()), row.unit.name()),
            format!(
                "{} - {}",
                short(row.figures.min()),
                short(row.figures.max())
            ),
            self.against_peer(row)
                .map_or_else(String::new, |times| format!("{} x", short(times))),
            row.target.map_or_else(String::new, |target| {
                let reached = if reached(row, target) { "yes" } else { "no" };
                format!("{}: {reached}", short(target))
            }),
            figure(counted.allocations),
            figure(counted.bytes),
            figure(counted.instructions),
            counted.memory(),
        ]
    }

    /// The rows of each workload, with its title.
    fn workloads(&self) -> Vec<(&str, Vec<&Row>)> {
        let mut all: Vec<(&str, Vec<&Row>)> = Vec::new();
        for row in &self.rows {
            match all.iter_mut().find(|(title, _)| *title == row.title) {
                Some((_, rows)) => rows.push(row),
                None => all.push((&row.title, vec![row])),
            }
        }
        all
    }

    /// The table for a terminal.
    pub fn text(&self) -> String {
        let mut lines: Vec<Line> = Vec::new();
        for (title, rows) in self.workloads() {
            lines.push(Line::Title(title));
            let cells = rows.into_iter().map(|row| self.cells(row));
            lines.extend(cells.map(|cells| Line::Cells(cells.into())));
        }
        let width = |column: usize| {
            let cells = lines.iter().filter_map(|line| match line {
                Line::Cells(cells) => Some(cells),
                Line::Title(_) => None,
            });
            let widest = cells.map(|cells| cells[column].chars().count()).max();
            widest
                .unwrap_or_default()
                .max(HEADS[column].chars().count())
        };
        let widths: Vec<_> = (0..HEADS.len()).map(width).collect();
        let line = |cells: &[String]| {
            let mut text = String::from(" ");
            for (number, (cell, width)) in cells.iter().zip(&widths).enumerate() {
                let _ = if number == 0 {
                    write!(text, " {cell:width$}")
                } else {
                    write!(text, "  {cell:>width$}")
                };
            }
            text.truncate(text.trim_end().len());
            text + "\n"
        };
        let mut table = line(&HEADS.map(str::to_owned));
        for entry in &lines {
            match entry {
                Line::Title(title) => table = table + title + "\n",
                Line::Cells(cells) => table += &line(cells),
            }
        }
        for (what, why) in &self.left_out {
            let _ = writeln!(table, "left out: {what}: {why}");
        }
        table
    }

    /// The table for a document.
    pub fn markdown(&self) -> String {
        let mut text = format!(
            "| {} |\n|---|{}\n",
            HEADS.join(" | "),
            "--:|".repeat(HEADS.len() - 1)
        );
        for (title, rows) in self.workloads() {
            let _ = writeln!(text, "| **{title}** |{}", " |".repeat(HEADS.len() - 1));
            for row in rows {
                let _ = writeln!(text, "| {} |", self.cells(row).join(" | "));
            }
        }
        for (what, why) in &self.left_out {
            let _ = writeln!(text, "\nLeft out: {what}: {why}");
        }
        text
    }

    /// The same for machines.
    pub fn json(&self) -> Value {
        let rows: Vec<_> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "workload": row.workload,
                    "title": row.title,
                    "who": row.who,
                    "unit": row.unit.name(),
                    "median": row.figures.median(),
                    "min": row.figures.min(),
                    "max": row.figures.max(),
                    "times_spice_gtk": self.against_peer(row),
                    "target": row.target,
                    "reached": row.target.map(|target| reached(row, target)),
                    "counted": row.counted,
                })
            })
            .collect();
        let left_out: Vec<_> = self
            .left_out
            .iter()
            .map(|(what, why)| json!({ "what": what, "why": why }))
            .collect();
        json!({ "rows": rows, "left_out": left_out })
    }
}

/// A line of the table.
enum Line<'a> {
    Title(&'a str),
    Cells(Vec<String>),
}

const HEADS: [&str; 9] = [
    "who",
    "median",
    "min - max",
    "vs. spice-gtk",
    "to reach",
    "allocs/msg",
    "bytes/msg",
    "instr./msg",
    "peak / kept",
];

fn times_as_good(row: &Row, other: f64) -> Option<f64> {
    let times = if row.unit.is_rate() {
        row.figures.median() / other
    } else {
        other / row.figures.median()
    };
    times.is_finite().then_some(times)
}

fn reached(row: &Row, target: f64) -> bool {
    if row.unit.is_rate() {
        row.figures.median() >= target
    } else {
        row.figures.median() <= target
    }
}

/// Three digits, or all that are before the point.
pub fn short(value: f64) -> String {
    let digits = match value.abs() {
        size if size >= 100.0 || size == 0.0 => 0,
        size if size >= 10.0 => 1,
        size if size >= 1.0 => 2,
        _ => 3,
    };
    format!("{value:.digits$}")
}
