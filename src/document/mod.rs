//! A TOML text with positions: tables and values that know their line and the path of
//! their key, so that every error names both. This module knows TOML's types and
//! nothing about pools.

use std::path::Path;

use toml::{
    Spanned,
    de::{DeTable, DeValue},
};

use crate::rule::{
    filter::accepted_list,
    spelling::{did_you_mean, shown},
};

mod error;

pub use error::ConfigError;

/// A value and where it was written.
#[derive(Debug, Clone)]
pub struct Written<T> {
    /// The value.
    pub value: T,
    /// The value's position.
    pub at: Position,
}

/// A key and its line.
#[derive(Debug, Clone)]
pub struct Position {
    /// The key, with the tables around it.
    pub key: String,
    /// The line, counted from 1.
    pub line: usize,
}

impl Position {
    /// An error at this position.
    #[must_use]
    pub fn refuse(&self, file: &Path, what: &str, accepted: &[&str]) -> ConfigError {
        ConfigError {
            file: file.to_owned(),
            line: self.line,
            key: Some(self.key.clone()),
            message: format!("{what}{}", accepted_list(accepted)),
        }
    }

    /// The position of a key that is missing from the table here.
    pub fn inside(&self, key: &str) -> Self {
        Self {
            key: joined(&self.key, key),
            line: self.line,
        }
    }
}

fn joined(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

/// The offsets at which the lines of a text end. They are computed once, so that a
/// large file with many small tables is not counted from its start for each table.
#[derive(Debug)]
pub struct LineEnds(Vec<usize>);

impl LineEnds {
    /// Finds the line ends of the text.
    #[must_use]
    pub fn of(text: &str) -> Self {
        Self(text.match_indices('\n').map(|(offset, _)| offset).collect())
    }
}

/// The text, its name and its lines.
#[derive(Debug, Clone, Copy)]
pub struct TomlText<'t> {
    /// The file that it was read from.
    pub file: &'t Path,
    /// The text.
    pub text: &'t str,
    /// Its lines.
    pub line_ends: &'t LineEnds,
}

impl<'t> TomlText<'t> {
    /// The line of a byte, counted from 1.
    fn line(&self, offset: usize) -> usize {
        self.line_ends.0.partition_point(|end| *end < offset) + 1
    }

    /// Parses the text.
    ///
    /// # Errors
    /// When the text is not TOML.
    pub fn parse(&self) -> Result<Spanned<DeTable<'t>>, ConfigError> {
        DeTable::parse(self.text).map_err(|error| {
            let words: Vec<&str> = error.message().split_whitespace().collect();
            ConfigError {
                file: self.file.to_owned(),
                line: self.line(error.span().map_or(0, |span| span.start)),
                key: None,
                message: format!("not valid TOML: {}", words.join(" ")),
            }
        })
    }

    /// The top-level table of the text.
    #[must_use]
    pub fn top<'d>(self, table: &'d Spanned<DeTable<'t>>) -> Table<'d, 't> {
        let at = Position {
            key: String::new(),
            line: 1,
        };
        Table::new(self, table.get_ref(), at)
    }
}

/// A table's entries, in the order of the file.
#[derive(Debug)]
pub struct Table<'d, 't> {
    source: TomlText<'t>,
    /// Where the table begins.
    pub at: Position,
    entries: Vec<(&'d str, Node<'d, 't>)>,
}

impl<'d, 't> Table<'d, 't> {
    fn new(source: TomlText<'t>, table: &'d DeTable<'t>, at: Position) -> Self {
        let mut pairs: Vec<_> = table.iter().collect();
        pairs.sort_by_key(|(key, _)| key.span().start);
        let entries = pairs.into_iter().map(|(key, value)| {
            let at = Position {
                key: joined(&at.key, &shown(key.get_ref())),
                line: source.line(key.span().start),
            };
            let node = Node { source, value, at };
            (key.get_ref().as_ref(), node)
        });
        Self {
            source,
            entries: entries.collect(),
            at,
        }
    }

    /// The value of a key, if it is there.
    pub fn get(&self, key: &str) -> Option<&Node<'d, 't>> {
        let (_, node) = self.entries.iter().find(|(name, _)| *name == key)?;
        Some(node)
    }

    /// Refuses the first key that is not accepted here. For a key that is valid
    /// elsewhere, `elsewhere` says why it is wrong here.
    ///
    /// # Errors
    /// Names the key and what is wrong.
    pub fn check_keys(
        &self,
        accepted: &[&str],
        elsewhere: impl Fn(&str) -> Option<String>,
    ) -> Result<(), ConfigError> {
        let mut entries = self.entries.iter();
        let Some((name, node)) = entries.find(|(name, _)| !accepted.contains(name)) else {
            return Ok(());
        };
        let what = elsewhere(name)
            .unwrap_or_else(|| format!("unknown key{}", did_you_mean(&shown(name), accepted)));
        Err(node.refuse(&what, accepted))
    }

    /// The value of a one-line text, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn text(&self, key: &str) -> Result<Option<Written<String>>, ConfigError> {
        self.get(key).map(Node::text).transpose()
    }

    /// A text that should be one of these, if the key is there. The caller checks the text;
    /// this names them if the value is no text at all.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn choice(
        &self,
        key: &str,
        accepted: &[&str],
    ) -> Result<Option<Written<String>>, ConfigError> {
        self.text(key).map_err(|error| ConfigError {
            message: format!("{}{}", error.message, accepted_list(accepted)),
            ..error
        })
    }

    /// The value of a flag, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn flag(&self, key: &str) -> Result<Option<bool>, ConfigError> {
        self.get(key).map(Node::flag).transpose()
    }

    /// The value of a whole number, if the key is there.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn number(&self, key: &str) -> Result<Option<u32>, ConfigError> {
        self.get(key).map(Node::number).transpose()
    }

    /// The error for a table that lacks a required key.
    #[must_use]
    pub fn missing(&self, key: &str, accepted: &[&str]) -> ConfigError {
        let at = self.at.inside(key);
        at.refuse(self.source.file, "is missing", accepted)
    }

    /// The file that the table is in.
    #[must_use]
    pub fn file(&self) -> &'t Path {
        self.source.file
    }
}

/// A value in the file.
#[derive(Debug)]
pub struct Node<'d, 't> {
    source: TomlText<'t>,
    value: &'d Spanned<DeValue<'t>>,
    /// The value's position.
    pub at: Position,
}

impl<'d, 't> Node<'d, 't> {
    /// An error at this value.
    #[must_use]
    pub fn refuse(&self, what: &str, accepted: &[&str]) -> ConfigError {
        self.at.refuse(self.source.file, what, accepted)
    }

    /// Adds this value's position to `value`.
    pub fn written<T>(&self, value: T) -> Written<T> {
        Written {
            value,
            at: self.at.clone(),
        }
    }

    fn wants(&self, wanted: &str) -> ConfigError {
        let found = match self.value.get_ref() {
            DeValue::String(text) => format!("the text '{}'", shown(text)),
            DeValue::Integer(number) => format!("the number {}", shown(&number.to_string())),
            DeValue::Float(number) => format!("the number {}", shown(&number.to_string())),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Datetime(_) => "a date".to_owned(),
            DeValue::Array(_) => "a list".to_owned(),
            DeValue::Table(_) => "a table".to_owned(),
        };
        self.refuse(&format!("wants {wanted}, found {found}"), &[])
    }

    /// A text of one line.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn text(&self) -> Result<Written<String>, ConfigError> {
        match self.value.get_ref() {
            DeValue::String(text) if text.chars().any(char::is_control) => {
                Err(self.refuse("wants one line without control characters", &[]))
            }
            DeValue::String(text) => Ok(self.written(text.clone().into_owned())),
            _ => Err(self.wants("a text in quotes")),
        }
    }

    /// True or false.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn flag(&self) -> Result<bool, ConfigError> {
        let flag = self.value.get_ref().as_bool();
        flag.ok_or_else(|| self.wants("true or false"))
    }

    /// A whole number of 32 bits, as all our numbers are.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn number(&self) -> Result<u32, ConfigError> {
        let integer = self.value.get_ref().as_integer();
        integer
            .and_then(|number| u32::from_str_radix(number.as_str(), number.radix()).ok())
            .ok_or_else(|| self.wants("a whole number from 0 to 4294967295"))
    }

    /// A number with up to six decimal places, in millionths: 2.5 is 2500000. Numbers
    /// with an exponent or a sign are refused.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn millionths(&self, unit: &str) -> Result<u32, ConfigError> {
        const PLACES: usize = 6;
        let text = match self.value.get_ref() {
            DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
            DeValue::Float(number) => number.as_str(),
            _ => "",
        };
        let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        let fits = !whole.is_empty() && digits(whole) && digits(part) && part.len() <= PLACES;
        let millionths = fits.then(|| format!("{whole}{part:0<PLACES$}").parse().ok());
        millionths
            .flatten()
            .ok_or_else(|| self.wants(&format!("a number of {unit}, as in 2.0, below 4294")))
    }

    /// A text, number or boolean, as the text that a filter compares with.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn scalar(&self) -> Result<Written<String>, ConfigError> {
        match self.value.get_ref() {
            DeValue::String(text) => Ok(self.written(text.clone().into_owned())),
            DeValue::Integer(number) => Ok(self.written(number.to_string())),
            DeValue::Float(number) => Ok(self.written(number.to_string())),
            DeValue::Boolean(flag) => Ok(self.written(flag.to_string())),
            _ => Err(self.wants("a text, a number, true or false")),
        }
    }

    /// A table.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn table(&self, wanted: &str) -> Result<Table<'d, 't>, ConfigError> {
        match self.value.get_ref() {
            DeValue::Table(table) => Ok(Table::new(self.source, table, self.at.clone())),
            _ => Err(self.wants(wanted)),
        }
    }

    /// A list of tables.
    ///
    /// # Errors
    /// When the value is something else.
    pub fn tables(&self, wanted: &str) -> Result<Vec<Table<'d, 't>>, ConfigError> {
        let Some(items) = self.value.get_ref().as_array() else {
            return Err(self.wants(wanted));
        };
        let table = |item: &'d Spanned<DeValue<'t>>| {
            let at = Position {
                key: self.at.key.clone(),
                line: self.source.line(item.span().start),
            };
            let node = Node {
                source: self.source,
                value: item,
                at,
            };
            node.table(wanted)
        };
        items.iter().map(table).collect()
    }
}
