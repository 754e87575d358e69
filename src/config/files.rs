//! The door to the configuration directories, and a set of files in memory
//! behind it for tests and for checking text that is not on disk yet.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

/// Where pool files are, the strongest place first. Between files of one name
/// the first place wins.
pub const POOL_DIRS: [&str; 3] = [
    "/etc/virt-vgpu/pools.d",
    "/run/virt-vgpu/pools.d",
    "/usr/lib/virt-vgpu/pools.d",
];

/// Largest pool file, in bytes.
pub const MAX_FILE_BYTES: usize = 1 << 20;

/// A directory entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its name in the directory.
    pub name: OsString,
    /// Whether it is a link to /dev/null.
    pub masks: bool,
}

/// Reads configuration files. Paths are absolute, as on the host; the
/// implementation puts its root in front of them.
pub trait ConfigFiles {
    /// The entries of a directory, in any order.
    ///
    /// # Errors
    /// When it cannot be listed; `NotFound` when it does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// The text of a regular file, following links. An implementation must not
    /// block on a FIFO or a device, and reads no more than [`MAX_FILE_BYTES`]
    /// and one byte, so that a larger file is seen to be too large.
    ///
    /// # Errors
    /// When it cannot be read; `NotFound` when it does not exist, `InvalidData`
    /// when it is no UTF-8.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Whether the path is a link to /dev/null.
    ///
    /// # Errors
    /// When that cannot be told. A path that does not exist is false or
    /// `NotFound`, as suits the implementation.
    fn is_mask(&self, path: &Path) -> io::Result<bool>;
}

/// Files in memory.
#[derive(Debug, Clone, Default)]
pub struct MemoryFiles {
    /// Text by path; None is a link to /dev/null.
    files: BTreeMap<PathBuf, Option<String>>,
}

impl MemoryFiles {
    /// No files and no directories.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a file of that text; its directory exists from now on.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        self.files.insert(path.into(), Some(text.into()));
        self
    }

    /// With a link to /dev/null.
    #[must_use]
    pub fn with_mask(mut self, path: impl Into<PathBuf>) -> Self {
        self.files.insert(path.into(), None);
        self
    }
}

impl ConfigFiles for MemoryFiles {
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let inside = self
            .files
            .iter()
            .filter(|(path, _)| path.parent() == Some(dir));
        let entries: Vec<Entry> = inside
            .filter_map(|(path, text)| {
                Some(Entry {
                    name: path.file_name()?.to_owned(),
                    masks: text.is_none(),
                })
            })
            .collect();
        if entries.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(entries)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        match self.files.get(path) {
            Some(Some(text)) => Ok(text.clone()),
            Some(None) => Ok(String::new()),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    fn is_mask(&self, path: &Path) -> io::Result<bool> {
        Ok(self.files.get(path).is_some_and(Option::is_none))
    }
}
