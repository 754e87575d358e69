//! All block devices: where each lies, and which ones are built on which: partitions,
//! and what the kernel lists as `slaves` and `holders` (device mapper with LVM, dm-crypt
//! and multipath, md, bcache, DRBD).

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    io,
};

use super::{fabric, place};
use crate::{
    device::{Sysfs, at, list, optional, read},
    model::PciAddress,
};

const CLASS: &str = "/sys/class/block";

/// The block devices of the host.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    devices: BTreeMap<String, Block>,
    /// What could not be read, so that a disk may be in use though nothing shows it.
    pub(super) unread: Vec<String>,
}

/// One block device, or one partition.
#[derive(Debug, Default)]
pub(super) struct Block {
    /// The directories in which it or its paths lie. A head of NVMe multipath lies below
    /// no PCI function, but its controllers do.
    pub(super) places: Vec<String>,
    /// Servers that it comes from, each with the name of the session.
    pub(super) remotes: Vec<Remote>,
    /// The devices directly above it.
    above: BTreeSet<String>,
    is_partition: bool,
    is_virtual: bool,
    /// Whether it is built on another device.
    has_below: bool,
    /// How it is used by itself.
    uses: Vec<Use>,
}

/// A server that a disk comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Remote {
    /// The session or controller: `session1`, `nvme2`.
    pub(super) name: String,
    /// The server's address.
    pub(super) address: String,
}

/// A use of a block device.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Use {
    /// The most important use has the lowest rank.
    pub(super) rank: Rank,
    /// In words: a mount point, `swap`, `ZFS pool tank`.
    pub(super) label: String,
}

/// How important a use is to a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Rank {
    Root,
    Mount,
    Swap,
    Other,
    /// It is not known whether it is in use; the label says why.
    Unread,
}

/// The way from a block device to a use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Way {
    pub(super) rank: Rank,
    /// Device names and the use: `sda`, `sda2`, `md0`, `/`.
    pub(super) names: Vec<String>,
}

impl Blocks {
    pub(super) fn read(sysfs: &dyn Sysfs) -> Self {
        let mut blocks = Self::default();
        if let Err(error) = blocks.read_all(sysfs) {
            blocks.unread.push(error.to_string());
        }
        blocks
    }

    fn read_all(&mut self, sysfs: &dyn Sysfs) -> io::Result<()> {
        for name in list(sysfs, CLASS)? {
            match place::target(sysfs, &format!("{CLASS}/{name}")) {
                Ok(path) => {
                    let mut block = Block {
                        is_virtual: path.starts_with("/sys/devices/virtual/"),
                        ..Block::default()
                    };
                    block.places.push(path);
                    self.devices.insert(name, block);
                }
                Err(error) if place::is_gone(&error) => {}
                Err(error) => self.unread.push(error.to_string()),
            }
        }
        for name in self.names() {
            self.read_below(sysfs, &name);
        }
        Ok(())
    }

    /// Finds what a device is built on, or what is built on it.
    fn read_below(&mut self, sysfs: &dyn Sysfs, name: &str) {
        let Some(path) = self.path(name) else {
            return;
        };
        let disk = place::name(place::parent(&path)).to_owned();
        let is_partition = self.devices.contains_key(&disk);
        if is_partition {
            self.stack(&disk, name);
            if let Some(block) = self.devices.get_mut(name) {
                block.is_partition = true;
            }
        }
        let is_virtual = self.devices.get(name).is_some_and(|block| block.is_virtual);
        if is_virtual && !is_partition {
            self.read_links(sysfs, name, &path, Links::Slaves);
            self.read_backing(sysfs, name, &path);
        } else {
            self.read_links(sysfs, name, &path, Links::Holders);
        }
        if !is_partition {
            let found = fabric::places(sysfs, name, &path);
            self.unread.extend(found.unread);
            if let Some(block) = self.devices.get_mut(name) {
                block.places.extend(found.places);
                block.remotes.extend(found.remotes);
            }
        }
    }

    fn read_links(&mut self, sysfs: &dyn Sysfs, name: &str, path: &str, links: Links) {
        let directory = format!("{path}/{}", links.directory());
        let found = match list(sysfs, &directory) {
            Ok(found) => found,
            Err(error) if place::is_gone(&error) => {
                // The kernel gives every such device the directory.
                let must_have = place::is_numbered(name, "dm-") || name.starts_with("md");
                if links == Links::Slaves && must_have && sysfs.exists(path) {
                    self.unread.push(error.to_string());
                }
                return;
            }
            Err(error) => {
                self.unread.push(error.to_string());
                return;
            }
        };
        for other in found {
            match links {
                Links::Slaves => self.stack(&other, name),
                Links::Holders => self.stack(name, &other),
            }
        }
    }

    /// A loop device or zram on a whole disk. One on a file needs nothing more: the file's
    /// file system is mounted.
    fn read_backing(&mut self, sysfs: &dyn Sysfs, name: &str, path: &str) {
        let attribute = if place::is_numbered(name, "loop") {
            "loop/backing_file"
        } else if place::is_numbered(name, "zram") {
            "backing_dev"
        } else {
            return;
        };
        match optional(read(sysfs, &format!("{path}/{attribute}"))) {
            Ok(Some(file)) => {
                if let Some(below) = self.at_path(sysfs, &file) {
                    self.stack(&below, name);
                }
            }
            Ok(None) => {}
            Err(error) => self.unread.push(error.to_string()),
        }
    }

    /// Notes that a device is built on another.
    fn stack(&mut self, below: &str, above: &str) {
        match self.devices.get_mut(below) {
            Some(block) => {
                block.above.insert(above.to_owned());
            }
            None => self.unread.push(format!(
                "{above} is built on {below}, which is not in {CLASS}"
            )),
        }
        if let Some(block) = self.devices.get_mut(above) {
            block.has_below = true;
        }
    }

    fn path(&self, name: &str) -> Option<String> {
        self.devices.get(name)?.places.first().cloned()
    }

    /// The names of all devices.
    pub(super) fn names(&self) -> Vec<String> {
        self.devices.keys().cloned().collect()
    }

    /// The names of the devices whose way leads over a function, and of their partitions.
    pub(super) fn names_on(&self, function: PciAddress) -> Vec<String> {
        let part = format!("/{function}/");
        let is_on = |block: &Block| block.places.iter().any(|place| place.contains(&part));
        let disks = self.devices.iter().filter(|(_, block)| is_on(block));
        let mut names = Vec::new();
        for (name, block) in disks {
            let partitions = block.above.iter().filter(|above| {
                let above = self.devices.get(*above);
                above.is_some_and(|above| above.is_partition)
            });
            names.extend([name].into_iter().chain(partitions).cloned());
        }
        names.sort_unstable();
        names.dedup();
        names
    }

    /// All devices that are no partitions.
    pub(super) fn disks(&self) -> impl Iterator<Item = (&str, &Block)> {
        let disks = self.devices.iter().filter(|(_, block)| !block.is_partition);
        disks.map(|(name, block)| (name.as_str(), block))
    }

    /// Whether there is a device of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.devices.contains_key(name)
    }

    /// The name of the device with that number (`8:1`).
    ///
    /// # Errors
    /// When there is none.
    pub(super) fn numbered(&self, sysfs: &dyn Sysfs, number: &str) -> io::Result<String> {
        let link = format!("/sys/dev/block/{number}");
        let path = place::target(sysfs, &link)?;
        let name = place::name(&path);
        if self.has(name) {
            return Ok(name.to_owned());
        }
        let missing = io::Error::new(io::ErrorKind::NotFound, format!("{name} is not in {CLASS}"));
        Err(at(&link, &missing))
    }

    /// The name of the device with that node in `/dev`: by its own name, by the link that
    /// udev makes, or by the name in the device mapper.
    pub(super) fn at_path(&self, sysfs: &dyn Sysfs, path: &str) -> Option<String> {
        let node = path.strip_prefix("/dev/")?;
        // The kernel writes a slash in a device's name in this way (`cciss!c0d0`).
        let kernel = node.replace('/', "!");
        if self.has(&kernel) {
            return Some(kernel);
        }
        if let Ok(target) = place::target(sysfs, path) {
            let name = place::name(&target);
            if self.has(name) {
                return Some(name.to_owned());
            }
        }
        let mapped = node.strip_prefix("mapper/")?;
        let mut maps = self.devices.keys();
        maps.find(|name| mapper_name(sysfs, name).is_some_and(|found| found == mapped))
            .cloned()
    }

    /// Notes a use of a device.
    pub(super) fn used(&mut self, name: &str, rank: Rank, label: &str) {
        let Some(block) = self.devices.get_mut(name) else {
            return;
        };
        let label = label.to_owned();
        let new = Use { rank, label };
        // Of many mount points the shortest says most.
        let is_mount = |rank: Rank| matches!(rank, Rank::Root | Rank::Mount);
        let is_such = |former: &Use| is_mount(former.rank) && is_mount(rank);
        if let Some(former) = block.uses.iter_mut().find(|former| is_such(former)) {
            let key = |one: &Use| (one.rank, one.label.len(), one.label.clone());
            if key(&new) < key(former) {
                *former = new;
            }
        } else if !block.uses.contains(&new) {
            block.uses.push(new);
        }
    }

    /// Whether a use of the device is known, or something is built on it.
    pub(super) fn is_used(&self, name: &str) -> bool {
        let block = self.devices.get(name);
        block.is_some_and(|block| !block.uses.is_empty() || !block.above.is_empty())
    }

    /// The ways from a device to all uses of it and of what is built on it, the most
    /// important first.
    pub(super) fn ways(&self, sysfs: &dyn Sysfs, device: &str) -> Vec<Way> {
        let mut ways = Vec::new();
        let mut seen = BTreeSet::from([device]);
        let mut waiting = VecDeque::from([(device, vec![shown(sysfs, device)])]);
        while let Some((name, names)) = waiting.pop_front() {
            let block = self.devices.get(name);
            let above = block.map(|block| &block.above).into_iter().flatten();
            for next in above {
                if seen.insert(next) {
                    let mut names = names.clone();
                    names.push(shown(sysfs, next));
                    waiting.push_back((next, names));
                }
            }
            let uses = block.map(|block| block.uses.as_slice()).unwrap_or_default();
            for found in uses {
                let mut names = names.clone();
                names.push(found.label.clone());
                let rank = found.rank;
                ways.push(Way { rank, names });
            }
            // The kernel itself holds the devices below it open.
            let is_top = block.is_none_or(|block| block.above.is_empty() && !block.is_partition);
            if uses.is_empty() && is_top && name != device {
                let mut names = names.clone();
                names.push("active".to_owned());
                let rank = Rank::Other;
                ways.push(Way { rank, names });
            }
        }
        ways.sort_by_key(|way| way.rank);
        ways
    }

    /// The devices in use whose disks cannot be seen, because a driver that is not known
    /// here makes them (multipath of a storage vendor).
    pub(super) fn opaque(&self) -> impl Iterator<Item = &str> {
        const KNOWN: &[&str] = &[
            "loop", "ram", "zram", "zd", "nbd", "rbd", "pmem", "dm-", "md",
        ];
        let is_known = |name: &str| KNOWN.iter().any(|known| name.starts_with(known));
        let opaque = self.devices.iter().filter(move |(name, block)| {
            let is_in_use = !block.uses.is_empty() || !block.above.is_empty();
            let places = &block.places;
            let is_apart = block.is_virtual
                && !block.has_below
                && block.remotes.is_empty()
                && places.iter().all(|path| place::functions(path).is_empty());
            is_in_use && is_apart && !is_known(name)
        });
        opaque.map(|(name, _)| name.as_str())
    }
}

/// The two directories in which the kernel says what is built on what.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Links {
    Slaves,
    Holders,
}

impl Links {
    fn directory(self) -> &'static str {
        match self {
            Self::Slaves => "slaves",
            Self::Holders => "holders",
        }
    }
}

fn mapper_name(sysfs: &dyn Sysfs, name: &str) -> Option<String> {
    place::is_numbered(name, "dm-")
        .then(|| sysfs.read(&format!("{CLASS}/{name}/dm/name")).ok())
        .flatten()
}

/// The name in a chain: that of the device mapper beside the kernel's.
fn shown(sysfs: &dyn Sysfs, name: &str) -> String {
    match mapper_name(sysfs, name) {
        Some(mapped) => format!("{name} ({mapped})"),
        None => name.to_owned(),
    }
}
