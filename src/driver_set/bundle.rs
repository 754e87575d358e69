//! What a person adds: an archive, a folder or single files.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, anyhow, bail};
use sha2::{Digest, Sha256};
use zip::ZipArchive;

use super::{
    DriverSet, Pair, Part, StoredPart, System,
    archive::{self, Entry, Listing, NotTaken},
    pair,
    set::{DIRECTORY, MANIFEST, host_of, place},
};
use crate::{
    host::{GivenFile, Host, NewDirectory},
    model::{DriverSetName, visible},
};

/// The drivers that were found, and where.
#[derive(Debug)]
pub struct Bundle {
    /// In words, for messages.
    from: String,
    source: Source,
    drivers: Vec<Entry>,
    /// Files that are no drivers.
    pub left_out: Vec<String>,
    /// What is worth knowing.
    pub notes: Vec<String>,
}

#[derive(Debug)]
enum Source {
    Archive(Box<ZipArchive<GivenFile>>),
    /// In the order of the drivers.
    Files(Vec<PathBuf>),
}

/// What was given on the command line.
#[derive(Debug, Clone, Copy)]
pub struct Given<'a>(pub &'a [PathBuf]);

impl Bundle {
    /// Finds the drivers and checks that they belong together. Nothing is changed.
    ///
    /// # Errors
    /// What is wrong, with the next step.
    pub fn open(host: &Host, given: Given<'_>) -> anyhow::Result<Self> {
        let mut bundle = match given.0 {
            [one] => match host.list_given(one) {
                Ok(Some(names)) => Self::of_folder(host, one, &names)?,
                Ok(None) if is_archive(one) => Self::of_archive(host, one)?,
                Ok(None) => Self::of_files(host, given.0)?,
                Err(error) => bail!("{}: {error}", shown(one)),
            },
            several => Self::of_files(host, several)?,
        };
        bundle.drivers.sort_by_key(|entry| entry.part.system);
        bundle.check()?;
        Ok(bundle)
    }

    fn of_archive(host: &Host, path: &Path) -> anyhow::Result<Self> {
        let from = shown(path);
        let file = host.open_given(path).with_context(|| from.clone())?;
        let (archive, listing) = archive::list(file).map_err(|why| anyhow!("{from} {why}"))?;
        let Listing { drivers, others } = listing;
        Ok(Self {
            from,
            source: Source::Archive(Box::new(archive)),
            drivers,
            left_out: others,
            notes: Vec::new(),
        })
    }

    /// The folder as it is unpacked: the drivers lie in it, or in folders below.
    fn of_folder(host: &Host, path: &Path, names: &[String]) -> anyhow::Result<Self> {
        let mut files = Vec::new();
        for name in names {
            let below = path.join(name);
            // What cannot be looked at is a link to nowhere, or no driver.
            match host.list_given(&below) {
                Ok(Some(names)) => files.extend(names.iter().map(|name| below.join(name))),
                Ok(None) | Err(_) => files.push(below),
            }
        }
        let is_driver = |path: &PathBuf| part_of(path).is_some();
        let (files, others): (Vec<PathBuf>, Vec<PathBuf>) = files.into_iter().partition(is_driver);
        let mut bundle = Self::of_files(host, &files)?;
        bundle.from = shown(path);
        bundle.left_out = others.iter().map(|path| shown(path)).collect();
        Ok(bundle)
    }

    fn of_files(host: &Host, files: &[PathBuf]) -> anyhow::Result<Self> {
        let (mut drivers, mut left_out) = (Vec::new(), Vec::new());
        for (index, path) in files.iter().enumerate() {
            let Some(part) = part_of(path) else {
                left_out.push(shown(path));
                continue;
            };
            let file = host.open_given(path).with_context(|| shown(path))?;
            drivers.push(Entry {
                part,
                index,
                size: file.size(),
            });
        }
        Ok(Self {
            from: match files {
                [one] => shown(one),
                _ => "what was given".to_owned(),
            },
            source: Source::Files(files.to_vec()),
            drivers,
            left_out,
            notes: Vec::new(),
        })
    }

    /// The drivers, those of the host first.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.drivers.iter().map(|entry| &entry.part)
    }

    /// How many bytes all of them have.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.drivers.iter().map(|entry| entry.size).sum()
    }

    /// `nvidia-580.65.05`: after the host's driver, else after the first one.
    ///
    /// # Errors
    /// Never for a bundle that was opened.
    pub fn default_name(&self) -> anyhow::Result<DriverSetName> {
        let first = self.parts().next();
        let version = host_of(self.parts()).or(first.map(|part| &part.version));
        let version = version.ok_or_else(|| anyhow!("{} has no driver", self.from))?;
        Ok(format!("nvidia-{version}").parse()?)
    }

    /// Whether the drivers belong together.
    fn check(&mut self) -> anyhow::Result<()> {
        let from = &self.from;
        if self.drivers.is_empty() {
            bail!(
                "{from} has no driver of NVIDIA's: none of its files has a name like \
                 NVIDIA-Linux-x86_64-580.65.06-grid.run; give the ZIP archive of vGPU software \
                 as NVIDIA's licensing portal has it, the unpacked folder, or the files"
            );
        }
        for (at, entry) in self.drivers.iter().enumerate() {
            let mut before = self.drivers[..at].iter();
            if let Some(twice) = before.find(|other| other.part.file == entry.part.file) {
                bail!("{from} has {} twice; leave one out", twice.part.file);
            }
        }
        let of = |is_meant: fn(System) -> bool| -> Vec<&Part> {
            self.parts().filter(|part| is_meant(part.system)).collect()
        };
        let is_linux = |system| {
            matches!(
                system,
                System::LinuxRun | System::LinuxDeb | System::LinuxRpm
            )
        };
        for alike in [
            of(System::is_host),
            of(is_linux),
            of(|system| system == System::Windows),
        ] {
            let differs = |part: &&&Part| part.version != alike[0].version;
            if let Some(other) = alike.iter().find(differs) {
                bail!(
                    "{from} has {} and {}, which are of two versions; add each version as a set of \
                     its own",
                    alike[0].file,
                    other.file
                );
            }
        }
        let mut notes = Vec::new();
        if let Some(host) = host_of(self.parts()) {
            for guest in self.parts().filter(|part| !part.system.is_host()) {
                match pair(host, &guest.version) {
                    Pair::Supported => {}
                    Pair::Unsupported(why) => bail!(
                        "{from} has the host's driver {host} and {}, which NVIDIA does not support \
                         together: {why}",
                        guest.file
                    ),
                    Pair::Unknown => notes.push(format!(
                        "whether NVIDIA supports {} on a host with {host} is not known: see the \
                         release notes",
                        guest.file
                    )),
                }
            }
        }
        self.notes.extend(notes);
        Ok(())
    }

    /// Stores the drivers as a set of that name. `progress` is told the file and how many bytes
    /// of all there are so far.
    ///
    /// # Errors
    /// What is wrong with a file, or that the set cannot be written; nothing stays then.
    pub fn store(
        &mut self,
        host: &Host,
        name: &DriverSetName,
        progress: &mut dyn FnMut(&str, u64),
    ) -> anyhow::Result<DriverSet> {
        let cannot = || format!("cannot write to {DIRECTORY}");
        let directory = host.new_directory(DIRECTORY).with_context(cannot)?;
        for below in ["host", "guest"] {
            directory.make_directory(below).with_context(cannot)?;
        }
        let mut before = 0;
        let mut parts = Vec::new();
        let drivers = self.drivers.clone();
        for entry in &drivers {
            let mut told = |bytes| progress(&entry.part.file, before + bytes);
            let sha256 = self.copy(host, &directory, entry, &mut told)?;
            before += entry.size;
            parts.push(StoredPart {
                part: entry.part.clone(),
                size: entry.size,
                sha256,
            });
        }
        let set = DriverSet {
            name: name.clone(),
            parts,
        };
        let text = serde_json::to_vec_pretty(&set)?;
        let mut manifest = directory.create(MANIFEST, 0o644).with_context(cannot)?;
        manifest.write_all(&text).with_context(cannot)?;
        manifest.finish().with_context(cannot)?;
        match directory.put(name.as_str()) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                bail!("there is a driver set '{name}' already; choose another name with --name")
            }
            put => put.with_context(cannot)?,
        }
        Ok(set)
    }

    /// Copies a driver. Returns its SHA-256.
    fn copy(
        &mut self,
        host: &Host,
        directory: &NewDirectory,
        entry: &Entry,
        written: &mut dyn FnMut(u64),
    ) -> anyhow::Result<String> {
        /// Those that are run have to be executable, also on a disc.
        const PROGRAM: u32 = 0o755;
        const PACKAGE: u32 = 0o644;
        let mode = match entry.part.system {
            System::HostRun | System::LinuxRun => PROGRAM,
            _ => PACKAGE,
        };
        let file = &entry.part.file;
        let cannot = || format!("cannot store {file} below {DIRECTORY}");
        let copy = directory
            .create(&place(&entry.part), mode)
            .with_context(cannot)?;
        let mut copy = Hashed {
            to: copy,
            hash: Sha256::new(),
        };
        let done = match &mut self.source {
            Source::Archive(archive) => archive::take_out(archive, entry, &mut copy, written),
            Source::Files(files) => {
                let path = files.get(entry.index).cloned().unwrap_or_default();
                let from = host.open_given(&path).with_context(|| shown(&path))?;
                archive::copy(from, entry, &mut copy, written)
            }
        };
        match done {
            Ok(()) => {}
            Err(NotTaken::Archive(why)) => bail!("{} {why}", self.from),
            Err(NotTaken::Copy(error)) => return Err(error).with_context(cannot),
        }
        copy.to.finish().with_context(cannot)?;
        Ok(format!("{:x}", copy.hash.finalize()))
    }
}

/// Counts the bytes in as they are written.
struct Hashed<W> {
    to: W,
    hash: Sha256,
}

impl<W: Write> Write for Hashed<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.to.write(bytes)?;
        self.hash.update(&bytes[..count]);
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.to.flush()
    }
}

fn is_archive(path: &Path) -> bool {
    let extension = path.extension();
    extension.is_some_and(|extension| extension.eq_ignore_ascii_case("zip"))
}

fn part_of(path: &Path) -> Option<Part> {
    Part::named(path.file_name()?.to_str()?)
}

fn shown(path: &Path) -> String {
    visible(&path.to_string_lossy()).into_owned()
}
