//! Replaces a file through its directory, which is opened once. A file is made there under
//! a temporary name and then renamed in the same directory, even if the path changes
//! meanwhile.
//!
//! A temporary file is `.NAME.RANDOM.tmp`. The name cannot be foreseen, so that no other
//! user of the directory can put a link there, and an existing file is never used. Its
//! maker keeps the file locked, which distinguishes it from the leftovers of a crash.

use std::{
    ffi::{OsStr, OsString},
    fs::File,
    hash::{BuildHasher, Hasher, RandomState},
    io::{self, Write},
    os::unix::{ffi::OsStrExt, fs::OpenOptionsExt},
    path::{Path, PathBuf},
};

use fs2::FileExt;
use nix::{
    fcntl::{OFlag, openat, renameat},
    sys::stat::Mode,
    unistd::{UnlinkatFlags, symlinkat, unlinkat},
};

use super::{fault, files::each_entry};

/// The directory of a file, and the file's name in it.
#[derive(Debug)]
pub(super) struct FileTarget {
    directory: File,
    name: OsString,
    /// The whole path, for faults and for finding leftovers.
    path: PathBuf,
}

impl FileTarget {
    /// Opens the directory of `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let name = path.file_name().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        let directory = File::options()
            .read(true)
            .custom_flags(OFlag::O_DIRECTORY.bits())
            .open(directory)?;
        Ok(Self {
            directory,
            name: name.to_owned(),
            path: path.to_owned(),
        })
    }

    /// Replaces the file by one with those contents.
    pub(super) fn put_file(&self, contents: &[u8], mode: u32) -> io::Result<()> {
        self.put(|name| {
            let file = self.effect("create", || self.create(name, mode))?;
            self.effect("write", || (&file).write_all(contents))?;
            self.effect("fsync", || file.sync_all())?;
            // Returned, because dropping the file releases its lock: only after the rename.
            Ok(Some(file))
        })
    }

    /// Replaces the file by a symbolic link.
    pub(super) fn put_link(&self, to: &Path) -> io::Result<()> {
        self.put(|name| {
            self.effect("symlink", || Ok(symlinkat(to, &self.directory, name)?))?;
            Ok(None)
        })
    }

    fn put(&self, make: impl Fn(&OsStr) -> io::Result<Option<File>>) -> io::Result<()> {
        let temporary = temporary_name(&self.name);
        let made = make(&temporary);
        let done = made.and_then(|_file| {
            self.effect("rename", || {
                let (directory, name) = (&self.directory, self.name.as_os_str());
                Ok(renameat(directory, temporary.as_os_str(), directory, name)?)
            })
        });
        if done.is_err() {
            // Leave nothing behind, for example on a full disk.
            self.unlink(&temporary);
        }
        done?;
        self.sweep();
        self.sync()
    }

    /// Removes the file; a missing file is not an error.
    pub(super) fn remove(&self) -> io::Result<()> {
        self.effect("unlink", || {
            let name = self.name.as_os_str();
            match unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir) {
                Err(nix::errno::Errno::ENOENT) => Ok(()),
                result => Ok(result?),
            }
        })?;
        self.sweep();
        self.sync()
    }

    fn create(&self, name: &OsStr, mode: u32) -> io::Result<File> {
        let flags =
            OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let file = openat(&self.directory, name, flags, Mode::from_bits_truncate(mode))?;
        let file = File::from(file);
        // No other process knows the name yet. A file system without locks is accepted.
        let _ = FileExt::try_lock_exclusive(&file);
        Ok(file)
    }

    /// Removes leftovers of crashes for this file. Errors are ignored: the next call tries
    /// again.
    fn sweep(&self) {
        let Some(directory) = self.path.parent() else {
            return;
        };
        let mut temporary = Vec::new();
        let listed = each_entry(directory, |name, _| {
            let name = OsStr::from_bytes(name);
            if is_temporary_of(name, &self.name) {
                temporary.push(name.to_owned());
            }
        });
        if listed.is_err() {
            return;
        }
        for name in temporary {
            if !self.is_at_work(&name) {
                self.unlink(&name);
            }
        }
    }

    /// Whether the maker of a temporary file is still alive.
    fn is_at_work(&self, name: &OsStr) -> bool {
        let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
        match openat(&self.directory, name, flags, Mode::empty()) {
            Ok(file) => FileExt::try_lock_shared(&File::from(file)).is_err(),
            // A link: its maker needs no time to write it.
            Err(_) => false,
        }
    }

    fn unlink(&self, name: &OsStr) {
        let _ = unlinkat(&self.directory, name, UnlinkatFlags::NoRemoveDir);
    }

    fn sync(&self) -> io::Result<()> {
        self.effect("fsync", || self.directory.sync_all())
    }

    fn effect<T>(&self, name: &str, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        fault::before(name, &self.path)?;
        let value = act()?;
        fault::after(name, &self.path);
        Ok(value)
    }
}

/// The number of digits of the random part.
const DIGITS: usize = 16;

fn temporary_name(name: &OsStr) -> OsString {
    let mut temporary = OsString::from(".");
    temporary.push(name);
    temporary.push(format!(".{}.tmp", random()));
    temporary
}

/// Digits that cannot be foreseen.
pub(super) fn random() -> String {
    // The keys come from the kernel's random numbers.
    let random = RandomState::new().build_hasher().finish();
    format!("{random:0DIGITS$x}")
}

/// Whether a file is a temporary file for `name`. Earlier versions used `.NAME.tmp`.
fn is_temporary_of(file: &OsStr, name: &OsStr) -> bool {
    let middle = file
        .as_bytes()
        .strip_prefix(b".")
        .and_then(|rest| rest.strip_prefix(name.as_bytes()))
        .and_then(|rest| rest.strip_suffix(b".tmp"));
    match middle {
        Some([]) => true,
        Some([b'.', digits @ ..]) => {
            digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit)
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::{
        collections::BTreeSet,
        fs,
        os::unix::fs::{PermissionsExt, symlink},
    };

    use super::*;

    fn names(directory: &Path) -> BTreeSet<String> {
        let entries = fs::read_dir(directory).unwrap();
        entries
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect()
    }

    /// Otherwise a user of the directory could make root write to any file.
    #[test]
    fn a_link_at_a_name_that_can_be_foreseen_is_not_followed() {
        let root = tempfile::tempdir().unwrap();
        let victim = root.path().join("victim");
        fs::write(&victim, "as it was").unwrap();
        let pools = root.path().join("pools.d");
        fs::create_dir(&pools).unwrap();
        symlink(&victim, pools.join(".cad.toml.tmp")).unwrap();
        let place = FileTarget::open(&pools.join("cad.toml")).unwrap();
        place.put_file(b"new", 0o600).unwrap();
        assert_eq!(fs::read_to_string(&victim).unwrap(), "as it was");
        let file = pools.join("cad.toml");
        assert_eq!(fs::read_to_string(&file).unwrap(), "new");
        assert!(file.symlink_metadata().unwrap().is_file());
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(names(&pools), BTreeSet::from(["cad.toml".to_owned()]));
    }

    #[test]
    fn the_name_is_another_each_time_and_nothing_that_is_there_is_taken() {
        let name = OsStr::new("cad.toml");
        let some: BTreeSet<OsString> = (0..100).map(|_| temporary_name(name)).collect();
        assert_eq!(some.len(), 100);
        assert!(some.iter().all(|one| is_temporary_of(one, name)));
        let root = tempfile::tempdir().unwrap();
        let place = FileTarget::open(&root.path().join("cad.toml")).unwrap();
        for taken in ["file", "link"] {
            match taken {
                "file" => fs::write(root.path().join(taken), "").unwrap(),
                _ => symlink("nowhere", root.path().join(taken)).unwrap(),
            }
            let error = place.create(OsStr::new(taken), 0o644).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        }
    }

    #[test]
    fn the_directory_is_the_one_that_was_opened() {
        let root = tempfile::tempdir().unwrap();
        let (here, there) = (root.path().join("here"), root.path().join("there"));
        fs::create_dir(&here).unwrap();
        fs::create_dir(&there).unwrap();
        let place = FileTarget::open(&here.join("x")).unwrap();
        fs::rename(&here, root.path().join("moved")).unwrap();
        symlink(&there, &here).unwrap();
        place.put_file(b"", 0o600).unwrap();
        assert!(names(&there).is_empty());
        assert_eq!(
            names(&root.path().join("moved")),
            BTreeSet::from(["x".to_owned()])
        );
    }

    #[test]
    fn leftovers_of_this_file_go_and_work_in_progress_stays() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        let stays = [
            ".b.json.0123456789abcdef.tmp",
            ".a.json.0123456789abcde.tmp",
            ".a.json.0123456789abcdeg.tmp",
            ".a.json",
            "a.json.tmp",
        ];
        for name in stays
            .iter()
            .chain(&[".a.json.tmp", ".a.json.0123456789abcdef.tmp"])
        {
            fs::write(path(name), "").unwrap();
        }
        symlink("/dev/null", path(".a.json.aaaaaaaaaaaaaaaa.tmp")).unwrap();
        let place = FileTarget::open(&path("a.json")).unwrap();
        let at_work = OsStr::new(".a.json.bbbbbbbbbbbbbbbb.tmp");
        let other = place.create(at_work, 0o600).unwrap();
        place.put_file(b"1", 0o600).unwrap();
        let mut left: BTreeSet<String> = stays.map(str::to_owned).into();
        left.extend(["a.json".to_owned(), at_work.to_str().unwrap().to_owned()]);
        assert_eq!(names(root.path()), left);
        drop(other);
        place.remove().unwrap();
        assert_eq!(names(root.path()), stays.map(str::to_owned).into());
    }
}
