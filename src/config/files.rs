//! Access to the configuration directories, and a set of files in memory for tests and
//! for checking a text that is not on disk yet.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use crate::model::proposed;

/// The directories of pool files, the strongest first. Of several files with the same
/// name, the one in the first directory counts.
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

/// Why a file is not trusted: other users can change something on its path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Distrust {
    /// The file itself, a directory, a link, or the target of a link.
    pub culprit: PathBuf,
    /// What is wrong with it.
    pub wrong: Wrong,
}

/// How other users can change a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrong {
    /// It belongs to that user, who is not root.
    Owner(u32),
    /// Its mode lets its group or everybody write.
    Mode(u32),
}

impl fmt::Display for Distrust {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let culprit = self.culprit.display();
        let command = match self.wrong {
            Wrong::Owner(user) => {
                write!(f, "{culprit} belongs to user {user}")?;
                "chown -h root"
            }
            Wrong::Mode(mode) => {
                write!(
                    f,
                    "others than root can write to {culprit} (mode {mode:04o})"
                )?;
                "chmod go-w"
            }
        };
        let mend = proposed(command, culprit);
        write!(f, "; see that it holds what it should, then run {mend}")
    }
}

/// Reads configuration files. Paths are absolute, as on the host; the
/// implementation puts its root in front of them.
pub trait ConfigFiles {
    /// The entries of a directory, in any order.
    ///
    /// # Errors
    /// When it cannot be listed; `NotFound` when it does not exist.
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>>;

    /// The text of a regular file, following links. An implementation must not block on
    /// a FIFO or a device. It reads at most one byte more than [`MAX_FILE_BYTES`], so
    /// that the caller notices a file that is too large.
    ///
    /// # Errors
    /// When it cannot be read; `NotFound` when it does not exist, `InvalidData` when it
    /// is not UTF-8.
    fn read(&self, path: &Path) -> io::Result<String>;

    /// Why the file at the path must not be trusted; None if only root, or the user of
    /// this process, can change it.
    ///
    /// # Errors
    /// When this cannot be checked; `NotFound` when nothing is there.
    fn distrust(&self, _path: &Path) -> io::Result<Option<Distrust>> {
        Ok(None)
    }

    /// Whether the path is a link to /dev/null.
    ///
    /// # Errors
    /// When this cannot be checked. For a path that does not exist an implementation
    /// may return false or `NotFound`.
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

    /// Adds a file with that text; its directory exists from now on.
    #[must_use]
    pub fn with(mut self, path: impl Into<PathBuf>, text: impl Into<String>) -> Self {
        self.files.insert(path.into(), Some(text.into()));
        self
    }

    /// Adds a link to /dev/null.
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
