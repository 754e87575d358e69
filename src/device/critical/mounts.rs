//! The lines of the mount table and of the list of swaps. Formats: proc(5).

use std::io;

use super::place;
use crate::device::{Sysfs, at, read, read_lossily};

/// One mounted file system.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Mount {
    /// The device's number, `8:1`. Its major number is 0 for a file system that is not on
    /// one block device.
    pub(super) device: String,
    pub(super) point: String,
    pub(super) kind: String,
    pub(super) source: String,
    /// The options of the file system itself.
    options: String,
}

impl Mount {
    /// Whether the number is that of a block device.
    pub(super) fn has_device(&self) -> bool {
        !self.device.starts_with("0:")
    }

    /// An option's value.
    pub(super) fn option(&self, key: &str) -> Option<&str> {
        let mut options = self.options.split(',');
        options.find_map(|option| option.strip_prefix(key)?.strip_prefix('='))
    }
}

/// All mounts of the host: those of its first process. Only root may read that table in
/// every case; for others their own one has to do.
///
/// # Errors
/// When neither can be read, or a line has another form.
pub(super) fn all(sysfs: &dyn Sysfs) -> io::Result<Vec<Mount>> {
    const FIRST: &str = "/proc/1/mountinfo";
    const OWN: &str = "/proc/self/mountinfo";
    let (path, text) = match read_lossily(sysfs, FIRST) {
        Ok(text) => (FIRST, text),
        Err(error) => match read_lossily(sysfs, OWN) {
            Ok(text) => (OWN, text),
            Err(_) => return Err(error),
        },
    };
    if text.is_empty() {
        return Err(at(path, &wrong("it is empty")));
    }
    let mount = |(index, line)| {
        mount(line).ok_or_else(|| at(path, &wrong(&format!("line {} is no mount", index + 1))))
    };
    text.lines().enumerate().map(mount).collect()
}

/// A line of the list of file systems, fstab(5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct FileSystem {
    source: String,
    pub(super) point: String,
}

impl FileSystem {
    /// The node of its device, if it has one.
    pub(super) fn node(&self) -> String {
        let tags = [
            ("UUID=", "by-uuid"),
            ("LABEL=", "by-label"),
            ("PARTUUID=", "by-partuuid"),
            ("PARTLABEL=", "by-partlabel"),
            ("ID=", "by-id"),
        ];
        let by_tag = tags.iter().find_map(|(tag, directory)| {
            let value = self.source.strip_prefix(tag)?.trim_matches('"');
            Some(format!("/dev/disk/{directory}/{value}"))
        });
        by_tag.unwrap_or_else(|| self.source.clone())
    }
}

/// The lines of the list of file systems.
pub(super) fn file_systems(text: &str) -> Vec<FileSystem> {
    let lines = text.lines().map(str::trim);
    let lines = lines.filter(|line| !line.starts_with('#'));
    let entry = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (source, point) = (words.next()?, words.next()?);
        Some(FileSystem {
            source: unescaped(source),
            point: unescaped(point),
        })
    };
    lines.filter_map(entry).collect()
}

fn wrong(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

fn mount(line: &str) -> Option<Mount> {
    let (before, after) = line.split_once(" - ")?;
    let mut before = before.split(' ');
    let device = before.nth(2)?;
    let (major, minor) = device.split_once(':')?;
    let is_number = |text: &str| text.parse::<u32>().is_ok();
    if !is_number(major) || !is_number(minor) {
        return None;
    }
    let point = before.nth(1)?;
    let mut after = after.split(' ');
    let (kind, source) = (after.next()?, after.next()?);
    Some(Mount {
        device: device.to_owned(),
        point: unescaped(point),
        kind: kind.to_owned(),
        source: unescaped(source),
        options: after.next().unwrap_or_default().to_owned(),
    })
}

/// One swap area.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Swap {
    /// The node of its device, or its file.
    pub(super) path: String,
    pub(super) is_file: bool,
}

/// All swap areas; none where the kernel has no swap.
///
/// # Errors
/// When the list cannot be read, or has another form.
pub(super) fn swaps(sysfs: &dyn Sysfs) -> io::Result<Vec<Swap>> {
    const SWAPS: &str = "/proc/swaps";
    let text = match read(sysfs, SWAPS) {
        Ok(text) => text,
        // A kernel without CONFIG_SWAP: /proc itself is there.
        Err(error) if place::is_gone(&error) && sysfs.exists("/proc/version") => {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let swap = |line: &str| {
        let mut words = line.split_ascii_whitespace();
        let (path, kind) = (words.next()?, words.next()?);
        Some(Swap {
            path: unescaped(path),
            is_file: kind == "file",
        })
    };
    let swap = |line| swap(line).ok_or_else(|| at(SWAPS, &wrong("a line is no swap area")));
    text.lines().skip(1).map(swap).collect()
}

/// The kernel writes white space and backslashes as `\040`.
fn unescaped(text: &str) -> String {
    place::unescaped(text, "\\", 3, 8)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_with_optional_fields_and_without_is_a_mount() {
        let with = "36 35 98:0 /mnt1 /mnt\\0402 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue";
        let mount = mount(with).unwrap();
        assert_eq!(
            (mount.device.as_str(), mount.point.as_str()),
            ("98:0", "/mnt 2")
        );
        assert_eq!(
            (mount.kind.as_str(), mount.source.as_str()),
            ("ext3", "/dev/root")
        );
        assert_eq!(mount.option("errors"), Some("continue"));
        assert!(mount.has_device());
        let without = "25 1 0:23 / / rw - zfs rpool/ROOT/pve-1 rw,xattr";
        assert!(!super::mount(without).unwrap().has_device());
    }

    proptest! {
        #[test]
        fn no_text_panics(text: String, line in "[0-9]* [0-9]* [0-9:]* / [\\\\0-9a-z/]* - [a-z ]*") {
            let _ = (mount(&text), mount(&line), unescaped(&text), unescaped(&line));
        }
    }
}
