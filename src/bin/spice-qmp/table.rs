// SPDX-License-Identifier: MIT OR Apache-2.0
//! Formats columns of text.

use crate::style::escaped;

/// The rows as lines, with characters that act on terminals escaped.
pub(crate) fn lines<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let rows: Vec<_> = rows
        .iter()
        .map(|row| row.each_ref().map(|it| escaped(it)))
        .collect();
    let width = |cell: &String| cell.chars().count();
    let column = |at: usize| rows.iter().map(|row| width(&row[at])).max();
    let widths: [usize; N] = std::array::from_fn(|at| column(at).unwrap_or(0).min(WIDEST));
    let line = |row: &[String; N]| {
        let mut line = String::new();
        for (cell, widest) in row.iter().zip(widths) {
            let space = widest.saturating_sub(width(cell)) + 2;
            line.push_str(cell);
            line.extend(std::iter::repeat_n(' ', space));
        }
        line.truncate(line.trim_end().len());
        line
    };
    rows.iter().map(line).collect()
}

/// A longer cell shifts the cells after it to the right.
const WIDEST: usize = 60;

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(rows: &[[&str; 3]]) -> Vec<String> {
        let rows: Vec<_> = rows.iter().map(|row| row.map(str::to_owned)).collect();
        lines(&rows)
    }

    #[test]
    fn columns_are_as_wide_as_their_cells() {
        assert_eq!(
            rows(&[["a", "b\x1b", ""], ["漢字", "", "c"]]),
            [r"a   b\x1b", "漢字         c"]
        );
        assert_eq!(rows(&[]), [""; 0]);
    }

    #[test]
    fn one_long_cell_does_not_widen_all_lines() {
        let long = "x".repeat(1000);
        let lines = rows(&[[&long, "b", "c"], ["a", "b", "c"]]);
        assert_eq!(lines[0], format!("{long}  b  c"));
        assert_eq!(lines[1].len(), WIDEST + 6);
    }
}
