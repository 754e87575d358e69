//! Reads NVIDIA's bundles, which are ZIP archives, and distrusts them: an archive may come from
//! anywhere. Only files with the names of drivers are taken out of it, each under its plain name.
//! Whatever no bundle of NVIDIA's has is a reason to refuse the whole archive.

use std::io::{self, Read, Seek, Write};

use zip::{CompressionMethod, ZipArchive, read::ZipFile, result::ZipError};

use super::part::{HEAD, Part};

/// The most files of an archive; bundles have some thirty.
const MOST_FILES: usize = 4096;

/// The most bytes of one file, and of all. Drivers have up to 1.5 GiB.
const LARGEST: u64 = 8 << 30;
const LARGEST_TOGETHER: u64 = 24 << 30;

/// By how much a driver may shrink in an archive. Drivers are compressed already.
const RATIO: u64 = 50;

/// A driver in an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What it is.
    pub part: Part,
    /// Its number in the archive.
    pub index: usize,
    /// How many bytes it has.
    pub size: u64,
}

/// What an archive has.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Listing {
    /// The drivers, in the order of the archive.
    pub drivers: Vec<Entry>,
    /// Files that are no drivers, by their names in the archive.
    pub others: Vec<String>,
}

/// Opens an archive and looks at each of its files.
///
/// # Errors
/// Why nothing is taken out of it: a clause about the archive.
pub fn list<R: Read + Seek>(source: R) -> Result<(ZipArchive<R>, Listing), String> {
    let mut archive = ZipArchive::new(source).map_err(|error| told(&error))?;
    if archive.len() > MOST_FILES {
        return Err(format!(
            "has {} files, more than any bundle of NVIDIA's",
            archive.len()
        ));
    }
    let mut listing = Listing::default();
    let mut total: u64 = 0;
    let mut places = Vec::new();
    for index in 0..archive.len() {
        let file = archive.by_index_raw(index).map_err(|error| told(&error))?;
        let name = checked_name(&file)?;
        check_kind(&file, &name)?;
        total = total.saturating_add(file.size());
        if file.size() > LARGEST || total > LARGEST_TOGETHER {
            return Err(format!(
                "would need more than {} GiB for '{name}' and what comes before it; no bundle is \
                 that large",
                LARGEST_TOGETHER >> 30
            ));
        }
        let start = file.data_start();
        places.push((
            start,
            start.saturating_add(file.compressed_size()),
            name.clone(),
        ));
        if file.is_dir() {
            continue;
        }
        let plain = name.rsplit('/').next().unwrap_or_default();
        match Part::named(plain) {
            Some(part) => {
                check_size(&file, &name)?;
                listing.drivers.push(Entry {
                    part,
                    index,
                    size: file.size(),
                });
            }
            None => listing.others.push(name),
        }
    }
    places.sort_unstable();
    let overlap = places.windows(2).find(|two| two[1].0 < two[0].1);
    if let Some(two) = overlap {
        return Err(format!(
            "has '{}' and '{}' in one place: it was made to fill disks",
            two[0].2, two[1].2
        ));
    }
    Ok((archive, listing))
}

/// The name of a file in the archive, if it is one that could lie in a folder of its own.
fn checked_name<R: Read>(file: &ZipFile<'_, R>) -> Result<String, String> {
    let shown = || crate::model::visible(&String::from_utf8_lossy(file.name_raw())).into_owned();
    let Ok(name) = std::str::from_utf8(file.name_raw()) else {
        return Err(format!("has a file whose name is not UTF-8: '{}'", shown()));
    };
    let mut parts = name.strip_suffix('/').unwrap_or(name).split('/');
    let is_strange = |part: &str| matches!(part, "" | "." | "..");
    if name.contains(['\\', ':']) || name.chars().any(char::is_control) || parts.any(is_strange) {
        return Err(format!(
            "has the file '{}', which would lie outside its folder or has a name that no bundle has",
            shown()
        ));
    }
    Ok(name.to_owned())
}

fn check_kind<R: Read>(file: &ZipFile<'_, R>, name: &str) -> Result<(), String> {
    const TYPE: u32 = 0o170_000;
    const REGULAR: u32 = 0o100_000;
    const DIRECTORY: u32 = 0o040_000;
    // Archives of other systems tell no type.
    let told = file.unix_mode().map_or(0, |mode| mode & TYPE);
    if !matches!(told, 0 | REGULAR | DIRECTORY) {
        return Err(format!("has '{name}', which is a link or no file at all"));
    }
    if file.encrypted() {
        return Err(format!("has '{name}', which is encrypted"));
    }
    match file.compression() {
        CompressionMethod::Stored | CompressionMethod::Deflated => Ok(()),
        other => Err(format!(
            "has '{name}', compressed as {other}, which is not supported; unpack the archive, and \
             add the folder"
        )),
    }
}

fn check_size<R: Read>(file: &ZipFile<'_, R>, name: &str) -> Result<(), String> {
    const SMALL: u64 = 16 << 20;
    if file.size() > SMALL && file.size() / RATIO > file.compressed_size() {
        return Err(format!(
            "has '{name}', which shrinks to less than a {RATIO}th: no driver does"
        ));
    }
    Ok(())
}

/// Takes a driver out of the archive. Its first bytes are checked before anything is written.
/// `written` is told how many bytes there are so far.
///
/// # Errors
/// What is wrong with the archive; or that the copy cannot be written.
pub fn take_out<R: Read + Seek>(
    archive: &mut ZipArchive<R>,
    entry: &Entry,
    to: &mut dyn Write,
    written: &mut dyn FnMut(u64),
) -> Result<(), NotTaken> {
    let file = archive.by_index(entry.index);
    let file = file.map_err(|error| NotTaken::Archive(told(&error)))?;
    copy(file, entry, to, written)
}

/// Why a driver was not copied.
#[derive(Debug)]
pub enum NotTaken {
    /// The source is not what it should be; a clause about it.
    Archive(String),
    /// The copy cannot be written.
    Copy(io::Error),
}

/// Copies exactly as many bytes as the entry has.
///
/// # Errors
/// As [`take_out`].
pub fn copy(
    mut from: impl Read,
    entry: &Entry,
    to: &mut dyn Write,
    written: &mut dyn FnMut(u64),
) -> Result<(), NotTaken> {
    const PART: usize = 1 << 20;
    let file = &entry.part.file;
    let bad =
        |error: &io::Error| NotTaken::Archive(format!("has '{file}', which is damaged: {error}"));
    let mut buffer = vec![0; PART];
    let mut done: u64 = 0;
    let mut filled = fill(&mut from, &mut buffer[..HEAD]).map_err(|error| bad(&error))?;
    let head = &buffer[..filled];
    entry
        .part
        .check(head)
        .map_err(|why| NotTaken::Archive(format!("has '{file}', which {why}")))?;
    loop {
        done += u64::try_from(filled).unwrap_or(u64::MAX);
        if done > entry.size {
            return Err(NotTaken::Archive(format!(
                "has '{file}', which is longer than it says"
            )));
        }
        to.write_all(&buffer[..filled]).map_err(NotTaken::Copy)?;
        written(done);
        filled = fill(&mut from, &mut buffer).map_err(|error| bad(&error))?;
        if filled == 0 {
            break;
        }
    }
    match done == entry.size {
        true => Ok(()),
        false => Err(NotTaken::Archive(format!(
            "has '{file}', which ends after {done} of {} bytes",
            entry.size
        ))),
    }
}

/// As many bytes as fit, or as there are.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

fn told(error: &ZipError) -> String {
    match error {
        ZipError::InvalidArchive(_) => {
            "is no complete ZIP archive; see whether it was downloaded to its end".to_owned()
        }
        ZipError::Io(error) => format!("cannot be read: {error}"),
        other => format!("cannot be read: {other}"),
    }
}
