//! `[pci]` in a pool file.

use crate::document::{ConfigError, Table};

/// The name of the table.
pub(super) const TABLE: &str = "pci";

const KEYS: &[&str] = &["keep-bound"];

/// `[pci]`, validated.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// Whether the devices stay bound to `vfio-pci` after their VM has stopped.
    pub(super) keep_bound: bool,
}

impl Settings {
    /// Reads the table at the top of a pool file, if it is there.
    pub(super) fn read(top: &Table<'_, '_>) -> Result<Self, ConfigError> {
        let Some(node) = top.get(TABLE) else {
            return Ok(Self::default());
        };
        let table = node.table("a table, [pci]")?;
        table.check_keys(KEYS, |_| None)?;
        Ok(Self {
            keep_bound: table.flag("keep-bound")?.unwrap_or_default(),
        })
    }
}
