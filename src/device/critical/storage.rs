//! Disks that hold what is mounted, swap, or anything that the kernel has built on them.

use std::{
    collections::{BTreeMap, BTreeSet},
    io,
};

use super::{
    block::{Blocks, Rank},
    function::Function,
    mounts::{self, Mount},
    need::Need,
    nodes::{self, DeviceNode},
    place, zfs,
};
use crate::{
    device::{Sysfs, list, optional, read, read_lossily},
    model::{PciAddress, visible},
};

/// The host's use of its disks.
#[derive(Debug, Default)]
pub(super) struct Storage {
    blocks: Blocks,
    /// The disks below each PCI function, and for each the directory of its place.
    disks: BTreeMap<PciAddress, Vec<(String, String)>>,
}

/// A server that the host has storage from, and what stands on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct RemoteUse {
    /// The server's address.
    pub(super) address: String,
    /// From the session to the use: `session1`, `sda`, `/`.
    pub(super) names: Vec<String>,
}

impl Storage {
    /// The nodes of what is on a function.
    pub(super) fn nodes_on(&self, sysfs: &dyn Sysfs, function: PciAddress) -> Vec<DeviceNode> {
        let names = self.blocks.names_on(function);
        let names = names.iter().map(String::as_str).collect();
        let mut nodes = nodes::others(sysfs, function, &names);
        nodes.extend(names.into_iter().map(|name| nodes::block(sysfs, name)));
        nodes.sort_unstable();
        nodes
    }

    /// Reads it, with all servers that storage comes from.
    pub(super) fn read(sysfs: &dyn Sysfs) -> (Self, Vec<RemoteUse>) {
        let mut blocks = Blocks::read(sysfs);
        let mut servers = Vec::new();
        let mounts = match mounts::all(sysfs) {
            Ok(mounts) => mounts,
            Err(error) => {
                blocks.unread.push(error.to_string());
                Vec::new()
            }
        };
        note_mounts(sysfs, &mut blocks, &mounts, &mut servers);
        note_swaps(sysfs, &mut blocks, &mounts);
        note_btrfs(sysfs, &mut blocks, &mounts);
        note_elsewhere(sysfs, &mut blocks);
        let pool = |mount: &Mount| {
            let pool = mount.source.split('/').next().unwrap_or_default();
            (pool.to_owned(), mount.point.clone())
        };
        let zfs_mounts = mounts.iter().filter(|mount| mount.kind == "zfs");
        let pools: Vec<(String, String)> = zfs_mounts.map(pool).collect();
        zfs::note(sysfs, &mut blocks, &pools);
        let opaque: Vec<String> = blocks
            .opaque()
            .map(|name| format!("/sys/class/block/{name}: the disks below it are not shown"))
            .collect();
        blocks.unread.extend(opaque);
        let mut disks: BTreeMap<PciAddress, Vec<(String, String)>> = BTreeMap::new();
        for (name, block) in blocks.disks() {
            for path in &block.places {
                let directory = place::parent(path);
                for function in place::functions(directory) {
                    let disk = (name.to_owned(), directory.to_owned());
                    disks.entry(function).or_default().push(disk);
                }
            }
            for remote in &block.remotes {
                for way in blocks.ways(sysfs, name) {
                    let mut names = vec![remote.name.clone()];
                    names.extend(way.names);
                    let address = remote.address.clone();
                    servers.push(RemoteUse { address, names });
                }
            }
        }
        (Self { blocks, disks }, servers)
    }

    /// Why the host needs the disks below a function.
    pub(super) fn needs(&self, sysfs: &dyn Sysfs, function: &Function, needs: &mut Vec<Need>) {
        let mut found = Vec::new();
        let disks = self.disks.get(&function.address);
        for (disk, directory) in disks.into_iter().flatten() {
            for way in self.blocks.ways(sysfs, disk) {
                let mut names = place::steps(directory, function.address);
                names.extend(way.names);
                let why = (way.rank == Rank::Unread).then(|| names.pop()).flatten();
                let mut need = Need::used(function.address, names);
                need.unread = why.map(|why| visible(&why).into_owned());
                found.push((way.rank, need));
            }
        }
        found.sort_by_key(|(rank, _)| *rank);
        needs.extend(found.into_iter().map(|(_, need)| need));
        if disks.is_some() || function.can_hold_disks() {
            let unread = self.blocks.unread.iter();
            needs.extend(unread.map(|why| Need::unread(function.address, why)));
        }
    }
}

fn rank_of(point: &str) -> Rank {
    if point == "/" {
        Rank::Root
    } else {
        Rank::Mount
    }
}

fn note_mounts(
    sysfs: &dyn Sysfs,
    blocks: &mut Blocks,
    mounts: &[Mount],
    servers: &mut Vec<RemoteUse>,
) {
    let mut numbered: BTreeMap<&str, Option<String>> = BTreeMap::new();
    for mount in mounts {
        let rank = rank_of(&mount.point);
        if mount.has_device() {
            let name = numbered.entry(&mount.device).or_insert_with(|| {
                let name = blocks.numbered(sysfs, &mount.device);
                let unread = |error: io::Error| {
                    let why = format!("{error} (it is mounted at {})", mount.point);
                    blocks.unread.push(why);
                };
                name.map_err(unread).ok()
            });
            if let Some(name) = name {
                blocks.used(name, rank, &mount.point);
            }
        } else if let Some(address) = server(mount) {
            let names = vec![mount.kind.clone(), mount.point.clone()];
            servers.push(RemoteUse { address, names });
        } else if mount.kind == "autofs" {
            note_automount(sysfs, blocks, &mount.point);
        } else if mount.kind.starts_with("fuse") {
            // A user's own program says what its source is. Its device, if it has one, has it
            // open.
        } else if mount.source.starts_with("/dev/") {
            // bcachefs names all its devices in this way.
            for source in mount.source.split(':') {
                match blocks.at_path(sysfs, source) {
                    Some(name) => blocks.used(&name, rank, &mount.point),
                    None if matches!(mount.kind.as_str(), "btrfs" | "bcachefs") => {
                        let why = format!("{source}, mounted at {}, is not found", mount.point);
                        blocks.unread.push(why);
                    }
                    None => {}
                }
            }
        }
        // An external log of XFS and its realtime device.
        for key in ["logdev", "rtdev"] {
            if let Some(name) = mount
                .option(key)
                .and_then(|path| blocks.at_path(sysfs, path))
            {
                blocks.used(&name, rank, &mount.point);
            }
        }
    }
}

/// The device that systemd mounts at that point when somebody looks (`x-systemd.automount`).
/// Only the list of file systems names it.
fn note_automount(sysfs: &dyn Sysfs, blocks: &mut Blocks, point: &str) {
    const LIST: &str = "/etc/fstab";
    let text = match optional(read_lossily(sysfs, LIST)) {
        Ok(text) => text.unwrap_or_default(),
        Err(error) => {
            blocks.unread.push(error.to_string());
            return;
        }
    };
    for entry in mounts::file_systems(&text) {
        if entry.point == point {
            if let Some(name) = blocks.at_path(sysfs, &entry.node()) {
                blocks.used(&name, rank_of(point), point);
            }
        }
    }
}

/// The address of a network file system's server, as the kernel shows it.
fn server(mount: &Mount) -> Option<String> {
    let is_remote = matches!(mount.kind.as_str(), "nfs" | "nfs4" | "cifs" | "smb3");
    let address = is_remote.then(|| mount.option("addr"))?;
    address.map(str::to_owned)
}

fn note_swaps(sysfs: &dyn Sysfs, blocks: &mut Blocks, mounts: &[Mount]) {
    let swaps = match mounts::swaps(sysfs) {
        Ok(swaps) => swaps,
        Err(error) => {
            blocks.unread.push(error.to_string());
            return;
        }
    };
    for swap in swaps {
        if swap.is_file {
            let is_above = |mount: &&Mount| {
                let rest = swap.path.strip_prefix(mount.point.trim_end_matches('/'));
                rest.is_some_and(|rest| rest.starts_with('/'))
            };
            // The file system of the file is mounted, so that it is noted already; this adds
            // the file's name where the file system has one device.
            let mount = mounts.iter().filter(is_above);
            let mount = mount.max_by_key(|mount| mount.point.len());
            let name = mount
                .filter(|mount| mount.has_device())
                .and_then(|mount| blocks.numbered(sysfs, &mount.device).ok());
            if let Some(name) = name {
                blocks.used(&name, Rank::Swap, &format!("swap file {}", swap.path));
            }
        } else if let Some(name) = blocks.at_path(sysfs, &swap.path) {
            blocks.used(&name, Rank::Swap, "swap");
        } else {
            let why = format!("/proc/swaps: {} is not found", swap.path);
            blocks.unread.push(why);
        }
    }
}

/// All devices of each btrfs. The mount table names one of them at most.
fn note_btrfs(sysfs: &dyn Sysfs, blocks: &mut Blocks, mounts: &[Mount]) {
    const ALL: &str = "/sys/fs/btrfs";
    let mut sets = Vec::new();
    let mut read = || -> io::Result<()> {
        for name in optional(list(sysfs, ALL))?.unwrap_or_default() {
            // Beside the file systems there is `features`.
            let directory = format!("{ALL}/{name}/devices");
            sets.extend(optional(list(sysfs, &directory))?);
        }
        Ok(())
    };
    if let Err(error) = read() {
        blocks.unread.push(error.to_string());
    }
    let mut unseen: BTreeSet<usize> = (0..sets.len()).collect();
    for mount in mounts.iter().filter(|mount| mount.kind == "btrfs") {
        let Some(name) = blocks.at_path(sysfs, &mount.source) else {
            // Noted with the other mounts.
            continue;
        };
        match sets.iter().position(|set| set.contains(&name)) {
            Some(set) => {
                unseen.remove(&set);
                for device in sets.get(set).into_iter().flatten() {
                    blocks.used(device, rank_of(&mount.point), &mount.point);
                }
            }
            None => {
                let why = format!(
                    "{ALL}: {name} is not found (it is mounted at {})",
                    mount.point
                );
                blocks.unread.push(why);
            }
        }
    }
    for set in unseen {
        for device in sets.get(set).into_iter().flatten() {
            blocks.used(device, Rank::Other, "mounted btrfs");
        }
    }
}

/// What is mounted where the mount table of the first process does not show it (in a
/// container), and devices that hold a log or a cache. The kernel lists these by device.
fn note_elsewhere(sysfs: &dyn Sysfs, blocks: &mut Blocks) {
    for kind in ["ext4", "xfs", "f2fs"] {
        let directory = format!("/sys/fs/{kind}");
        match optional(list(sysfs, &directory)) {
            Ok(names) => {
                for name in names.unwrap_or_default() {
                    note_unless_used(blocks, &name, &format!("mounted {kind}"));
                }
            }
            Err(error) => blocks.unread.push(error.to_string()),
        }
    }
    note_bcachefs(sysfs, blocks);
    note_exports(sysfs, blocks);
    match optional(list(sysfs, "/proc/fs/jbd2")) {
        Ok(names) => {
            for name in names.unwrap_or_default() {
                // A log inside of the file system has its inode behind the name: `sda2-8`.
                let device = name.strip_suffix("-8").unwrap_or(&name);
                note_unless_used(blocks, device, "log of ext4");
            }
        }
        Err(error) => blocks.unread.push(error.to_string()),
    }
    if !sysfs.exists("/sys/fs/bcache") {
        return;
    }
    for name in blocks.names() {
        // A cache has it too, and nothing is built on a cache.
        if sysfs.exists(&format!("/sys/class/block/{name}/bcache")) {
            note_unless_used(blocks, &name, "bcache");
        }
    }
}

/// The devices of each bcachefs, wherever it is mounted (`bch2_dev_sysfs_online`).
fn note_bcachefs(sysfs: &dyn Sysfs, blocks: &mut Blocks) {
    const ALL: &str = "/sys/fs/bcachefs";
    let mut read = || -> io::Result<()> {
        for system in optional(list(sysfs, ALL))?.unwrap_or_default() {
            let directory = format!("{ALL}/{system}");
            for device in optional(list(sysfs, &directory))?.unwrap_or_default() {
                if !place::is_numbered(&device, "dev-") {
                    continue;
                }
                let link = format!("{directory}/{device}/block");
                match place::target(sysfs, &link) {
                    Ok(path) => blocks.used(place::name(&path), Rank::Other, "mounted bcachefs"),
                    // It is missing, or has been taken offline.
                    Err(error) if place::is_gone(&error) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    };
    if let Err(error) = read() {
        blocks.unread.push(error.to_string());
    }
}

/// Disks that the kernel gives to other machines (LIO: iSCSI, NVMe over fabrics, vhost).
fn note_exports(sysfs: &dyn Sysfs, blocks: &mut Blocks) {
    const CORE: &str = "/sys/kernel/config/target/core";
    const NVMET: &str = "/sys/kernel/config/nvmet/subsystems";
    let mut paths = Vec::new();
    let mut read_all = || -> io::Result<()> {
        for adapter in optional(list(sysfs, CORE))?.unwrap_or_default() {
            let adapter = format!("{CORE}/{adapter}");
            for device in directories(sysfs, &adapter)? {
                let path = format!("{adapter}/{device}/udev_path");
                let path = optional(read(sysfs, &path))?;
                paths.extend(path);
            }
        }
        for subsystem in optional(list(sysfs, NVMET))?.unwrap_or_default() {
            let spaces = format!("{NVMET}/{subsystem}/namespaces");
            for space in directories(sysfs, &spaces)? {
                let path = optional(read(sysfs, &format!("{spaces}/{space}/device_path")))?;
                paths.extend(path);
            }
        }
        Ok(())
    };
    if let Err(error) = read_all() {
        blocks.unread.push(error.to_string());
    }
    for path in paths {
        if let Some(name) = blocks.at_path(sysfs, path.trim()) {
            blocks.used(&name, Rank::Other, "exported to other machines");
        }
    }
}

/// The names in a directory; none if it is no directory.
fn directories(sysfs: &dyn Sysfs, directory: &str) -> io::Result<Vec<String>> {
    match list(sysfs, directory) {
        Ok(names) => Ok(names),
        Err(error) if place::is_gone(&error) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn note_unless_used(blocks: &mut Blocks, name: &str, label: &str) {
    if !blocks.is_used(name) {
        blocks.used(name, Rank::Other, label);
    }
}
