//! Configuration files of the host.

use std::{
    fs::{self, OpenOptions},
    io::{self, Read},
    os::unix::fs::OpenOptionsExt,
    path::Path,
};

use super::{Host, trust};
use crate::config::{ConfigFiles, Distrust, Entry, MAX_FILE_BYTES};

impl Host {
    fn config_path(&self, path: &Path) -> std::path::PathBuf {
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }
}

impl ConfigFiles for Host {
    fn list(&self, dir: &Path) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for entry in fs::read_dir(self.config_path(dir))? {
            let name = entry?.file_name();
            let masks = self.is_mask(&dir.join(&name))?;
            entries.push(Entry { name, masks });
        }
        Ok(entries)
    }

    fn read(&self, path: &Path) -> io::Result<String> {
        // Opening a FIFO for reading would wait for a writer.
        let nonblocking = nix::fcntl::OFlag::O_NONBLOCK.bits();
        let file = OpenOptions::new()
            .read(true)
            .custom_flags(nonblocking)
            .open(self.config_path(path))?;
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let mut text = String::new();
        let most = u64::try_from(MAX_FILE_BYTES)
            .unwrap_or(u64::MAX)
            .saturating_add(1);
        file.take(most).read_to_string(&mut text)?;
        Ok(text)
    }

    fn distrust(&self, path: &Path) -> io::Result<Option<Distrust>> {
        // A place that has no such file has no say, whoever can write to it.
        self.config_path(path).symlink_metadata()?;
        let root = &self.root;
        match self.is_mask(path)? {
            // A device that everybody may write to, and that is the point.
            true => trust::distrust_link(root, path),
            false => trust::distrust(root, path),
        }
    }

    fn is_mask(&self, path: &Path) -> io::Result<bool> {
        match fs::read_link(self.config_path(path)) {
            Ok(target) => Ok(target == Path::new("/dev/null")),
            // EINVAL: it is there and no link.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(false),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}
