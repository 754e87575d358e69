//! Directories that appear as a whole or not at all: what is put into one lies beside the others
//! under a name of its own until it is complete.
//!
//! The name of an unfinished one is `.new.RANDOM`, that of one that is being removed
//! `.old.RANDOM`. Its maker keeps it locked, which distinguishes it from what a crash has left;
//! the next one to work there removes that.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Seek, SeekFrom, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

use fs2::FileExt;
use nix::{
    fcntl::{AT_FDCWD, OFlag, RenameFlags, renameat2},
    sys::{stat::futimens, time::TimeSpec},
};

use super::{
    Host,
    files::{self, effect},
    replacing::random,
};

const NEW: &str = ".new.";
const OLD: &str = ".old.";

/// The mode of a directory that everybody may look into.
const OPEN: u32 = 0o755;

/// The mode of a directory with secrets.
const PRIVATE: u32 = 0o700;

/// A directory that is not complete yet. Dropping it removes it.
#[derive(Debug)]
pub struct NewDirectory {
    path: PathBuf,
    parent: PathBuf,
    /// Keeps it locked.
    _lock: File,
    is_put: bool,
}

/// A file in such a directory.
#[derive(Debug)]
pub struct NewFile {
    file: File,
    path: PathBuf,
}

/// A file of anybody's, opened for reading.
#[derive(Debug)]
pub struct GivenFile {
    file: File,
    size: u64,
}

impl GivenFile {
    /// How many bytes it had when it was opened.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.size
    }
}

impl Read for GivenFile {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.file.read(buffer)
    }
}

impl Seek for GivenFile {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

impl Host {
    /// Makes a directory below `parent`, and removes what others have left unfinished there.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn new_directory(&self, parent: &str) -> io::Result<NewDirectory> {
        self.new_directory_of_mode(parent, OPEN)
    }

    /// The same for secrets: only its owner may look into it, from its first moment on.
    ///
    /// # Errors
    /// As [`Self::new_directory`].
    pub fn new_private_directory(&self, parent: &str) -> io::Result<NewDirectory> {
        self.new_directory_of_mode(parent, PRIVATE)
    }

    /// Makes a directory of ours for secrets, which only root may look into; one that is there
    /// gets that mode.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn make_private_directory(&self, path: &str) -> io::Result<()> {
        let place = self.path(path);
        if let Some((above, _)) = path.rsplit_once('/') {
            self.make_directory(above, OPEN)?;
        }
        self.make_directory(path, PRIVATE)?;
        match fs::metadata(&place)?.permissions().mode() & 0o7777 {
            PRIVATE => Ok(()),
            _ => effect("chmod", &place, || {
                fs::set_permissions(&place, fs::Permissions::from_mode(PRIVATE))
            }),
        }
    }

    fn new_directory_of_mode(&self, parent: &str, mode: u32) -> io::Result<NewDirectory> {
        let place = self.path(parent);
        if !place.is_dir() {
            self.make_directory(parent, OPEN)?;
            fs::set_permissions(&place, fs::Permissions::from_mode(OPEN))?;
        }
        let parent = place;
        let path = parent.join(format!("{NEW}{}", random()));
        let _alone = alone(&parent)?;
        remove_leftovers(&parent)?;
        effect("mkdir", &path, || make(&path, mode))?;
        let lock = open(&path)?;
        lock.lock_exclusive()?;
        Ok(NewDirectory {
            path,
            parent,
            _lock: lock,
            is_put: false,
        })
    }

    /// Removes a directory: first its name, in one step, then what is in it.
    ///
    /// # Errors
    /// The kernel's errno; what is left is removed the next time.
    pub fn remove_directory(&self, path: &str) -> io::Result<()> {
        let path = self.path(path);
        let parent = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let old = parent.join(format!("{OLD}{}", random()));
        let _alone = alone(parent)?;
        remove_leftovers(parent)?;
        effect("rename", &path, || fs::rename(&path, &old))?;
        effect("remove", &old, || fs::remove_dir_all(&old))
    }

    /// Opens a file of anybody's for reading. The path is that of the machine, wherever the host
    /// is that this stands for.
    ///
    /// # Errors
    /// The kernel's errno; `InvalidInput` for what is no regular file.
    pub fn open_given(&self, path: &Path) -> io::Result<GivenFile> {
        // A named pipe would wait for its writer.
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(OFlag::O_NONBLOCK.bits())
            .open(path)?;
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            let what = "it is no regular file";
            return Err(io::Error::new(io::ErrorKind::InvalidInput, what));
        }
        Ok(GivenFile {
            file,
            size: metadata.len(),
        })
    }

    /// The names in a directory of anybody's, sorted; None: it is no directory.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn list_given(&self, path: &Path) -> io::Result<Option<Vec<String>>> {
        if !path.metadata()?.is_dir() {
            return Ok(None);
        }
        files::list(path).map(Some)
    }
}

impl NewDirectory {
    /// Makes a directory in it.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn make_directory(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        effect("mkdir", &path, || make(&path, OPEN))
    }

    /// Makes a file in it that is not there yet.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn create(&self, name: &str, mode: u32) -> io::Result<NewFile> {
        let path = self.path.join(name);
        let file = effect("create", &path, || {
            OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(mode)
                .open(&path)
        })?;
        // The umask is the caller's.
        file.set_permissions(fs::Permissions::from_mode(mode))?;
        Ok(NewFile { file, path })
    }

    /// A second name in it for a file that is already there.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn link(&self, to: &Path, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        effect("link", &path, || fs::hard_link(to, &path))
    }

    /// Gives a file of it, which a program has made, a date: seconds and nanoseconds since 1970.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn date(&self, name: &str, (seconds, nanoseconds): (i64, i64)) -> io::Result<()> {
        let path = self.path.join(name);
        let date = TimeSpec::new(seconds, nanoseconds);
        effect("utimens", &path, || {
            Ok(futimens(&File::open(&path)?, &date, &date)?)
        })
    }

    /// Moves a file of it, which a program has made, elsewhere on the same file system, in place
    /// of one that is there. It gets that mode and, if one is given, that owner.
    ///
    /// # Errors
    /// The kernel's errno.
    pub fn move_out(
        &self,
        name: &str,
        (mode, owner): (u32, Option<u32>),
        target: &Path,
    ) -> io::Result<()> {
        let path = self.path.join(name);
        effect("chmod", &path, || {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        })?;
        if owner.is_some() {
            effect("chown", &path, || chown(&path, owner, None))?;
        }
        effect("fsync", &path, || File::open(&path)?.sync_all())?;
        effect("rename", target, || fs::rename(&path, target))
    }

    /// Where it lies.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives it its name: it is complete.
    ///
    /// # Errors
    /// The kernel's errno; `AlreadyExists` when something of that name is there.
    pub fn put(mut self, name: &str) -> io::Result<()> {
        let target = self.parent.join(name);
        effect("fsync", &self.path, || open(&self.path)?.sync_all())?;
        effect("rename", &target, || {
            let flags = RenameFlags::RENAME_NOREPLACE;
            Ok(renameat2(AT_FDCWD, &self.path, AT_FDCWD, &target, flags)?)
        })?;
        self.is_put = true;
        effect("fsync", &self.parent, || open(&self.parent)?.sync_all())
    }
}

impl Drop for NewDirectory {
    fn drop(&mut self) {
        if !self.is_put {
            // What stays is removed the next time.
            let _ = fs::remove_dir_all(&self.path);
        }
    }
}

impl NewFile {
    /// It has all that it is to have.
    ///
    /// # Errors
    /// The kernel's errno, as when the disk is full.
    pub fn finish(self) -> io::Result<()> {
        effect("fsync", &self.path, || self.file.sync_all())
    }
}

impl Write for NewFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        effect("write", &self.path, || self.file.write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

/// Makes a directory with that mode, whatever the caller's umask is.
fn make(path: &Path, mode: u32) -> io::Result<()> {
    fs::DirBuilder::new().mode(mode).create(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Nobody else makes or removes directories there meanwhile.
fn alone(parent: &Path) -> io::Result<File> {
    let parent = open(parent)?;
    parent.lock_exclusive()?;
    Ok(parent)
}

fn open(directory: &Path) -> io::Result<File> {
    File::options()
        .read(true)
        .custom_flags(OFlag::O_DIRECTORY.bits())
        .open(directory)
}

fn remove_leftovers(parent: &Path) -> io::Result<()> {
    for name in files::list(parent)? {
        if !name.starts_with(NEW) && !name.starts_with(OLD) {
            continue;
        }
        let path = parent.join(&name);
        let is_left = open(&path).and_then(|directory| directory.try_lock_exclusive());
        if is_left.is_ok() {
            fs::remove_dir_all(&path)?;
        }
    }
    Ok(())
}
