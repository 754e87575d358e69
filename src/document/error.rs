//! A mistake in a text, with its position.

use std::{fmt, path::PathBuf};

/// A mistake in one of our files, with its position. It is shown on one line:
/// `FILE:LINE: key 'KEY': WHAT; accepted: A, B`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// The line, counted from 1.
    pub line: usize,
    /// The key, with the tables around it, as in `rule.where.op`; None when the text is
    /// not TOML.
    pub key: Option<String>,
    /// What is wrong, and which values are accepted.
    pub message: String,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: ", self.file.display(), self.line)?;
        if let Some(key) = &self.key {
            write!(f, "key '{key}': ")?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for ConfigError {}
