//! Printing: JSON for programs, aligned columns for people.

use std::{
    fmt::Display,
    io::{self, Write},
};

use serde::Serialize;

/// Prints a report, as JSON or for people.
pub(super) fn report(as_json: bool, report: &(impl Serialize + Display)) -> anyhow::Result<()> {
    if as_json {
        json(report)
    } else {
        text(&report.to_string())
    }
}

/// Prints a report as JSON.
pub(super) fn json(report: &impl Serialize) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, report).map_err(io::Error::from)?;
    writeln!(out)?;
    Ok(())
}

/// Prints a text as it is.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    io::stdout().lock().write_all(text.as_bytes())?;
    Ok(())
}

/// Rows under a heading, each column as wide as its widest cell.
#[derive(Debug)]
pub(super) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table with that heading and no rows.
    pub(super) fn new(heading: &[&str]) -> Self {
        Self {
            rows: vec![heading.iter().map(|&cell| cell.to_owned()).collect()],
        }
    }

    /// Adds a row; an empty cell is shown as `-`, so that columns can be cut.
    pub(super) fn row<const N: usize>(&mut self, cells: [String; N]) {
        let shown = |cell: String| {
            if cell.is_empty() {
                "-".to_owned()
            } else {
                cell
            }
        };
        self.rows.push(cells.into_iter().map(shown).collect());
    }

    /// Whether there is nothing under the heading.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table as a part of something that has a heading of its own.
    pub(super) fn indented(&self) -> String {
        let lines = self.to_string();
        lines.lines().map(|line| format!("  {line}\n")).collect()
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let columns = self.rows.first().map_or(0, Vec::len);
        let width = |column: usize| {
            self.rows
                .iter()
                .filter_map(|row| row.get(column))
                .map(|cell| cell.chars().count())
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}
