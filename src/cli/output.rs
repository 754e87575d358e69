//! Printing: JSON for programs, aligned columns for people.

use std::{
    borrow::Cow,
    fmt::{Display, Write as _},
    io::{self, IsTerminal, Write as _},
};

use anyhow::Context as _;
use serde::Serialize;
use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

use crate::model::{visible, visible_file, visible_lines};

/// Prints a report, as JSON or for people.
pub(super) fn report(as_json: bool, report: &(impl Serialize + Display)) -> anyhow::Result<()> {
    if as_json {
        json(report)
    } else {
        text(&report.to_string())
    }
}

/// Prints a report as JSON. Characters on which a terminal acts are escaped.
pub(super) fn json(report: &impl Serialize) -> anyhow::Result<()> {
    print(&(escaped(&serde_json::to_string_pretty(report)?) + "\n"))
}

/// Prints lines for people.
pub(super) fn text(text: &str) -> anyhow::Result<()> {
    print(&visible_lines(text))
}

/// Prints the text of a file: unchanged, because it may be stored in a file, but made
/// safe for a terminal.
pub(super) fn document(text: &str) -> anyhow::Result<()> {
    if io::stdout().is_terminal() {
        print(&visible_file(text))
    } else {
        print(text)
    }
}

/// A closed pipe is no failure: `virt-vgpu devices | head` has what it wants. A full disk
/// is one, because the text in the file is cut.
fn print(text: &str) -> anyhow::Result<()> {
    let mut out = io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            Err(error).context("cannot print")
        }
        _ => Ok(()),
    }
}

/// JSON in which invisible characters of its texts are escaped. Outside of texts JSON
/// has only line breaks, and line breaks in texts are escaped already.
fn escaped(json: &str) -> String {
    let mut text = String::with_capacity(json.len());
    for c in json.chars() {
        if c == '\n' || matches!(visible(c.encode_utf8(&mut [0; 4])), Cow::Borrowed(_)) {
            text.push(c);
            continue;
        }
        for unit in c.encode_utf16(&mut [0; 2]) {
            let _ = write!(text, "\\u{unit:04x}");
        }
    }
    text
}

/// A foreign text as part of one of our lines.
pub(super) fn one_line(text: impl Display) -> String {
    /// In characters: longer texts than sixty terminal lines are shown only in JSON.
    const LONGEST: usize = 5000;
    let whole = text.to_string();
    let mut text: String = whole.chars().take(LONGEST).collect();
    if text.len() < whole.len() {
        text.push('…');
    }
    visible(&text).into_owned()
}

/// Longest cell of a table, in columns. Longer values are complete in the JSON.
const WIDEST: usize = 400;

/// A value in a table; an empty one is `-`, so that columns can be cut.
fn cell(value: &str) -> String {
    if value.is_empty() {
        return "-".to_owned();
    }
    // More than this is never shown.
    let value: String = value.chars().take(WIDEST + 1).collect();
    let value = visible(&value);
    if value.width() <= WIDEST {
        return value.into_owned();
    }
    let mut left = WIDEST - 1;
    let fits = |c: &char| match left.checked_sub(c.width().unwrap_or(0)) {
        Some(rest) => {
            left = rest;
            true
        }
        None => false,
    };
    let mut shown: String = value.chars().take_while(fits).collect();
    shown.push('…');
    shown
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

    /// Adds a row.
    pub(super) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows
            .push(cells.into_iter().map(|value| cell(&value)).collect());
    }

    /// Whether there is nothing under the heading.
    pub(super) fn is_empty(&self) -> bool {
        self.rows.len() == 1
    }

    /// The table, as a part of a text that has a heading of its own.
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
                .map(|cell| cell.width())
                .max()
        };
        let widths: Vec<usize> = (0..columns)
            .map(|column| width(column).unwrap_or(0))
            .collect();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(cell);
                let padding = width.saturating_sub(cell.width()) + 2;
                line.extend(std::iter::repeat_n(' ', padding));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn table(cells: &[&str]) -> String {
        let mut table = Table::new(&["NAME", "X"]);
        for cell in cells {
            table.row([(*cell).to_owned(), "x".to_owned()]);
        }
        table.to_string()
    }

    #[test]
    fn columns_are_as_wide_as_a_terminal_shows_them() {
        assert_eq!(
            table(&["ws7", "仮想マシン", "n\u{303}", ""]),
            "NAME        X\n\
             ws7         x\n\
             仮想マシン  x\n\
             n\u{303}           x\n\
             -           x\n"
        );
    }

    #[test]
    fn a_value_cannot_be_a_row_or_turn_one_round() {
        assert_eq!(
            table(&["a\nws8  x", "\u{202e}b\u{9b}2J"]),
            "NAME               X\n\
             a\\nws8  x          x\n\
             \\u{202e}b\\u{9b}2J  x\n"
        );
    }

    #[test]
    fn no_value_is_too_long_for_a_table() {
        for long in [
            "x".repeat(70_000),
            "仮".repeat(70_000),
            "\u{9b}".repeat(70_000),
        ] {
            let text = table(&[&long]);
            let row = text.lines().nth(1).unwrap();
            assert!(row.width() <= WIDEST + 3, "{}", row.width());
            assert!(row.ends_with("…  x") || row.ends_with("…   x"), "{row}");
        }
        let just = "x".repeat(WIDEST);
        assert!(table(&[&just]).contains(&format!("{just}  x")));
    }

    #[test]
    fn json_keeps_its_texts_and_hides_nothing() {
        let text = escaped(&serde_json::to_string_pretty(&["\u{9b}1m\u{e0041}\u{7f}é\n"]).unwrap());
        assert_eq!(text, "[\n  \"\\u009b1m\\udb40\\udc41\\u007fé\\n\"\n]");
    }

    proptest! {
        #[test]
        fn json_is_read_back_as_it_was(texts: Vec<String>) {
            let json = escaped(&serde_json::to_string_pretty(&texts).unwrap());
            let hidden = |line: &str| matches!(visible(line), Cow::Owned(_));
            prop_assert!(!json.lines().any(hidden), "{}", json);
            prop_assert_eq!(serde_json::from_str::<Vec<String>>(&json).unwrap(), texts);
        }
    }
}
