//! Files of our own: replaced whole or not at all, with every step on disk
//! before the next one starts.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::{
        ffi::OsStrExt,
        fs::{DirBuilderExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
};

use nix::{
    dir::Dir,
    errno::Errno,
    fcntl::{OFlag, openat},
    sys::stat::{Mode, makedev},
    time::{ClockId, clock_gettime},
};

use super::{Host, fault, replacing::FileTarget};

/// Names in a directory, sorted.
pub(super) fn list(path: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    each_entry(path, |name, _| {
        // Names in sysfs and in our directories are always UTF-8.
        if let Ok(name) = std::str::from_utf8(name) {
            names.push(name.to_owned());
        }
    })?;
    names.sort_unstable();
    Ok(names)
}

/// Calls `each` with the name and the inode number of every entry of a directory. A host
/// with hundreds of virtual functions has large directories, and every start reads them.
pub(super) fn each_entry(path: &Path, mut each: impl FnMut(&[u8], u64)) -> io::Result<()> {
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    let mut directory = Dir::open(path, flags, Mode::empty())?;
    for entry in directory.iter() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            each(name, entry.ino());
        }
    }
    Ok(())
}

/// Reads at most that many bytes of a file that the user names. The path is not below
/// any root.
///
/// # Errors
/// The kernel's errno; `InvalidData` when it is not UTF-8.
pub fn read_at_most(path: &Path, bytes: u64) -> io::Result<String> {
    let mut text = String::new();
    File::open(path)?.take(bytes).read_to_string(&mut text)?;
    Ok(text)
}

/// The state of a directory's entries at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirectoryStamp {
    /// The directory's inode number and time of change; None if it does not exist.
    changed: Option<(u64, i64, i64)>,
    /// Names and inode numbers of the entries, if the last change is so recent that the next
    /// change may get the same time. The kernel uses the time of its last tick for files
    /// (`ktime_get_coarse_real_ts64`).
    entries: Option<Vec<(OsString, u64)>>,
}

/// What kind of file there is at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FileState {
    /// Whether it is a regular file.
    pub is_file: bool,
    /// Whether somebody may execute it.
    pub is_executable: bool,
    /// When its inode last changed: seconds since 1970.
    pub changed: u64,
    /// When its contents last changed: seconds and nanoseconds since 1970.
    pub modified: (i64, i64),
    /// The number of its owner.
    pub owner: u32,
    /// Its permissions: the lowest nine bits of its mode.
    pub permissions: u32,
}

impl From<fs::Metadata> for FileState {
    fn from(metadata: fs::Metadata) -> Self {
        const ANYBODY: u32 = 0o111;
        Self {
            is_file: metadata.is_file(),
            is_executable: metadata.mode() & ANYBODY != 0,
            changed: u64::try_from(metadata.ctime()).unwrap_or_default(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            owner: metadata.uid(),
            permissions: metadata.mode() & 0o777,
        }
    }
}

impl Host {
    /// The state of a file, or of the file that a link leads to.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn file_state(&self, path: &str) -> io::Result<FileState> {
        fs::metadata(self.path(path)).map(FileState::from)
    }

    /// Where a file lies that links may lead to; the path itself, if that cannot be told.
    #[must_use]
    pub fn place_of(&self, path: &str) -> PathBuf {
        let found = fs::canonicalize(self.path(path));
        let place = found.and_then(|place| {
            let root = fs::canonicalize(self.path("/"))?;
            let below = place.strip_prefix(root).map_err(io::Error::other)?;
            Ok(Path::new("/").join(below))
        });
        place.unwrap_or_else(|_| PathBuf::from(path))
    }

    /// The state of a file, or of a link itself.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn link_state(&self, path: &str) -> io::Result<FileState> {
        fs::symlink_metadata(self.path(path)).map(FileState::from)
    }

    /// A stamp of a directory's present entries. [`Self::has_changed_since`] then tells
    /// whether an entry was added, replaced or removed. None if the directory cannot be read.
    #[must_use]
    pub fn directory_stamp(&self, path: &str) -> Option<DirectoryStamp> {
        let tick = clock_gettime(ClockId::CLOCK_REALTIME_COARSE).ok()?;
        let changed = self.changed(path)?;
        let tick = (tick.tv_sec(), tick.tv_nsec());
        let is_settled = changed.is_none_or(|(_, second, part)| (second, part) < tick);
        let entries = match is_settled {
            true => None,
            false => Some(self.entries(path)?),
        };
        Some(DirectoryStamp { changed, entries })
    }

    /// Whether the entries may have changed since the stamp.
    #[must_use]
    pub fn has_changed_since(&self, path: &str, stamp: &DirectoryStamp) -> bool {
        let is_same = self.changed(path).is_some_and(|now| now == stamp.changed);
        let has_same = || match &stamp.entries {
            None => true,
            entries => self.entries(path) == *entries,
        };
        !(is_same && has_same())
    }

    fn changed(&self, path: &str) -> Option<Option<(u64, i64, i64)>> {
        match fs::metadata(self.path(path)) {
            Ok(found) => Some(Some((found.ino(), found.mtime(), found.mtime_nsec()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Some(None),
            Err(_) => None,
        }
    }

    fn entries(&self, path: &str) -> Option<Vec<(OsString, u64)>> {
        let mut entries = Vec::new();
        each_entry(&self.path(path), |name, number| {
            entries.push((OsStr::from_bytes(name).to_owned(), number));
        })
        .ok()?;
        entries.sort_unstable();
        Some(entries)
    }

    /// Reads a file of ours.
    ///
    /// # Errors
    /// The kernel's errno; `InvalidData` when it is not UTF-8.
    pub fn read_file(&self, path: &str) -> io::Result<String> {
        // Opening a pipe in its place would otherwise wait for a writer.
        let mut file = File::options()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(self.path(path))?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        Ok(text)
    }

    /// Reads the files of one of our directories whose names `is_wanted`. For many small
    /// files this is faster than reading each by its path. `each` gets an error for a file
    /// that cannot be read or is not UTF-8, and no call for a file that disappears meanwhile.
    ///
    /// # Errors
    /// When the directory exists but cannot be listed; any error of `each`.
    pub fn read_each(
        &self,
        directory: &str,
        is_wanted: impl Fn(&str) -> bool,
        mut each: impl FnMut(&str, io::Result<&str>) -> io::Result<()>,
    ) -> io::Result<()> {
        let path = self.path(directory);
        let named =
            |error: io::Error| io::Error::new(error.kind(), format!("{directory}: {error}"));
        let names = match list(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            names => names.map_err(named)?,
        };
        let directory = File::open(&path).map_err(named)?;
        let mut bytes = Vec::with_capacity(ATTRIBUTE);
        for name in names.iter().filter(|name| is_wanted(name)) {
            // Never wait for a writer of a pipe, as above.
            let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
            let file = match openat(&directory, name.as_str(), flags, Mode::empty()) {
                Err(Errno::ENOENT) => continue,
                file => file.map(File::from).map_err(io::Error::from),
            };
            bytes.clear();
            let read = file.and_then(|mut file| read_whole(&mut file, &mut bytes));
            let text = read.and_then(|()| {
                std::str::from_utf8(&bytes)
                    .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
            });
            each(name, text)?;
        }
        Ok(())
    }

    /// Puts `contents` at `path`: a reader, and a machine that loses power, sees
    /// the old file or the new one and never a part.
    ///
    /// # Errors
    /// The kernel's errno; the old file is then still there.
    pub fn replace_file(&self, path: &str, contents: &[u8], mode: u32) -> io::Result<()> {
        FileTarget::open(&self.path(path))?.put_file(contents, mode)
    }

    /// Removes a file; one that is not there is no error.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn remove_file(&self, path: &str) -> io::Result<()> {
        match FileTarget::open(&self.path(path)) {
            // A missing directory is not an error either.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            place => place?.remove(),
        }
    }

    /// Removes a symbolic link; a missing link is not an error. Anything else at the path
    /// is not ours and stays.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn remove_link(&self, path: &str) -> io::Result<()> {
        let found = self.path(path).symlink_metadata();
        if found.is_ok_and(|found| !found.is_symlink()) {
            return Ok(());
        }
        self.remove_file(path)
    }

    /// Makes a directory and those above it; one that is there is no error.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn make_directory(&self, path: &str, mode: u32) -> io::Result<()> {
        let target = self.path(path);
        if target.is_dir() {
            return Ok(());
        }
        effect("mkdir", &target, || {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(&target)
        })
    }

    /// Makes `path` a symbolic link to `to`, replacing a link that is there in
    /// one step.
    ///
    /// # Errors
    /// The kernel's errno; `AlreadyExists` when something other than a link is
    /// there, which is not ours to replace.
    pub fn replace_link(&self, path: &str, to: &Path) -> io::Result<()> {
        let target = self.path(path);
        if target
            .symlink_metadata()
            .is_ok_and(|found| !found.is_symlink())
        {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        FileTarget::open(&target)?.put_link(to)
    }
}

/// An effect that tests can let fail, or be the last one.
pub(super) fn effect<T>(
    name: &str,
    path: &Path,
    act: impl FnOnce() -> io::Result<T>,
) -> io::Result<T> {
    fault::before(name, path)?;
    let value = act()?;
    fault::after(name, path);
    Ok(value)
}

/// Reads a file to its end. A short regular file takes one read.
fn read_whole(file: &mut impl Read, bytes: &mut Vec<u8>) -> io::Result<()> {
    bytes.resize(ATTRIBUTE, 0);
    let mut filled = 0;
    loop {
        let count = file.read(&mut bytes[filled..])?;
        filled += count;
        // A read of a regular file returns less than requested only at its end.
        if count == 0 || filled < bytes.len() {
            break;
        }
        bytes.resize(filled + ATTRIBUTE, 0);
    }
    bytes.truncate(filled);
    Ok(())
}

/// Longest text of an attribute, in bytes. sysfs gives a page at most (`sysfs_emit`).
pub(super) const ATTRIBUTE: usize = 4096;

/// Longest text of a file in `/proc`, in bytes. A table of mounts has a line of up to some KiB
/// for each container, and a host may have thousands.
const LONGEST_OF_PROC: usize = 64 << 20;

/// Longest text of other files, in bytes.
pub(super) const LONGEST: usize = 1 << 20;

/// Longest text of the host's file with that path, which is no attribute, in bytes.
pub(super) fn longest(path: &str) -> usize {
    match path.starts_with("/proc/") {
        true => LONGEST_OF_PROC,
        false => LONGEST,
    }
}

/// The error for a file that is longer than that.
pub(super) fn too_long(longest: usize) -> io::Error {
    let text = format!("it holds more than {longest} bytes");
    io::Error::new(io::ErrorKind::FileTooLarge, text)
}

/// Reads an attribute's text, without the white space at its end. One read serves it whole.
///
/// # Errors
/// The kernel's errno; `InvalidData` for text that is not UTF-8, `FileTooLarge` for more
/// than [`ATTRIBUTE`] bytes.
pub(super) fn read_attribute(path: &Path) -> io::Result<String> {
    let mut bytes = Vec::with_capacity(ATTRIBUTE);
    let mut file = File::open(path)?.take(one_more_than(ATTRIBUTE));
    read_whole(&mut file, &mut bytes)?;
    if bytes.len() > ATTRIBUTE {
        return Err(too_long(ATTRIBUTE));
    }
    trimmed_text(bytes)
}

/// Reads another file's text, without the white space at its end. What is no regular file is
/// refused: the writer of a pipe would be waited for.
///
/// # Errors
/// The kernel's errno; `InvalidData` for text that is not UTF-8, `FileTooLarge` for more
/// than `longest` bytes.
pub(super) fn read_text(path: &Path, longest: usize) -> io::Result<String> {
    trimmed_text(contents(path, longest)?)
}

/// The same, with replacements for what is not UTF-8.
///
/// # Errors
/// As [`read_text`], but none for what is not UTF-8.
pub(super) fn read_lossily(path: &Path, longest: usize) -> io::Result<String> {
    let bytes = contents(path, longest)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

fn contents(path: &Path, longest: usize) -> io::Result<Vec<u8>> {
    let file = File::options()
        .read(true)
        .custom_flags(OFlag::O_NONBLOCK.bits())
        .open(path)?;
    let kind = file.metadata()?;
    // A directory has an error of its own; a link to /dev/null stands for an empty file.
    if !kind.is_file() && !kind.is_dir() && !is_null(&kind) {
        let text = "it is no regular file";
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    let mut bytes = Vec::with_capacity(ATTRIBUTE);
    // A read of a list in /proc gives whole lines, so less than was asked for before its end
    // (`seq_read_iter`).
    file.take(one_more_than(longest)).read_to_end(&mut bytes)?;
    match bytes.len() > longest {
        true => Err(too_long(longest)),
        false => Ok(bytes),
    }
}

/// Whether it is `/dev/null` (kernel `Documentation/admin-guide/devices.txt`).
fn is_null(file: &fs::Metadata) -> bool {
    file.file_type().is_char_device() && file.rdev() == makedev(1, 3)
}

/// More than the longest text has: enough to see that a file is longer.
fn one_more_than(longest: usize) -> u64 {
    u64::try_from(longest).unwrap_or(u64::MAX).saturating_add(1)
}

fn trimmed_text(bytes: Vec<u8>) -> io::Result<String> {
    let mut text =
        String::from_utf8(bytes).map_err(|e| io::Error::new(io::ErrorKind::InvalidData, e))?;
    text.truncate(text.trim_end().len());
    Ok(text)
}

/// Reads the first bytes of a file.
pub(super) fn read_bytes(path: &Path, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(length);
    let length = u64::try_from(length).unwrap_or(u64::MAX);
    File::open(path)?.take(length).read_to_end(&mut bytes)?;
    Ok(bytes)
}
