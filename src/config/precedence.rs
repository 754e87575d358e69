//! Which pool files count: `/etc` beats `/run` beats `/usr/lib` for each name, and a
//! link to /dev/null masks the name in the weaker directories. A pure function of
//! directory listings.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

use super::Entry;
use crate::model::PoolName;

/// The suffix of pool files. All other files in the directories, such as an editor's
/// backup or a `.dpkg-old`, are ignored.
pub(super) const ENDING: &str = ".toml";

/// The contents of one directory.
#[derive(Debug, Clone)]
pub struct Listing {
    /// The directory.
    pub dir: PathBuf,
    /// Its entries, in any order.
    pub entries: Vec<Entry>,
}

/// A file that could not be a pool, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IgnoredFile {
    /// The file or directory.
    pub path: PathBuf,
    /// Why it does not count, in one line.
    pub reason: String,
}

/// The files that count.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effective {
    /// The file of each pool.
    pub pools: BTreeMap<PoolName, PathBuf>,
    /// The link to /dev/null of each masked pool.
    pub masked: BTreeMap<PoolName, PathBuf>,
    /// Pool files whose names are not valid pool names.
    pub ignored: Vec<IgnoredFile>,
}

/// Decides which files count; the strongest directory comes first.
#[must_use]
pub fn effective(listings: &[Listing]) -> Effective {
    let mut result = Effective::default();
    for Listing { dir, entries } in listings {
        let mut entries: Vec<&Entry> = entries.iter().collect();
        entries.sort_by(|a, b| a.name.cmp(&b.name));
        for entry in entries {
            result.add(dir, entry);
        }
    }
    result
}

impl Effective {
    fn add(&mut self, dir: &Path, entry: &Entry) {
        let path = dir.join(&entry.name);
        let text = entry.name.to_string_lossy();
        // A file whose name is only the suffix is hidden, so it is not meant to be
        // read.
        let Some(stem) = text.strip_suffix(ENDING).filter(|stem| !stem.is_empty()) else {
            return;
        };
        let name: PoolName = match stem.parse() {
            Ok(name) => name,
            Err(invalid) => {
                self.ignored.push(IgnoredFile {
                    path,
                    reason: format!("{invalid}; rename the file"),
                });
                return;
            }
        };
        if self.pools.contains_key(&name) || self.masked.contains_key(&name) {
            return;
        }
        let map = if entry.masks {
            &mut self.masked
        } else {
            &mut self.pools
        };
        map.insert(name, path);
    }
}
