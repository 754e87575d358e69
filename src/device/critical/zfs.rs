//! The pools of ZFS and their disks. The mount table names a pool and no device, and ZFS
//! does not enter itself as a holder of its disks. What is known without its own tools:
//! the imported pools (`/proc/spl/kstat/zfs`), and what udev's database says is on each
//! partition (`ID_FS_TYPE=zfs_member`, with the pool's name as label).

use std::{collections::BTreeSet, io};

use super::{
    block::{Blocks, Rank},
    place,
};
use crate::device::{Sysfs, list, optional, read};

/// Notes the pools' use of disks. A pool whose disks are not found has others than udev's
/// database says: it was imported under another name, or made since udev looked. `mounted` are the pools that the mount table names, each
/// with a mount point.
pub(super) fn note(sysfs: &dyn Sysfs, blocks: &mut Blocks, mounted: &[(String, String)]) {
    let mut pools: BTreeSet<String> = mounted.iter().map(|(pool, _)| pool.clone()).collect();
    match imported(sysfs) {
        Ok(imported) => pools.extend(imported),
        Err(error) => blocks.unread.push(error.to_string()),
    }
    if pools.is_empty() {
        return;
    }
    let mut without_disks = pools.clone();
    let mut doubtful = Vec::new();
    for name in blocks.names() {
        let member = match member(sysfs, &name) {
            Ok(Member::Other) => continue,
            Ok(member) => member,
            Err(error) => {
                if !can_be_ram_alone(&name) {
                    let label = format!("{error}, and a ZFS pool is imported");
                    blocks.used(&name, Rank::Unread, &label);
                }
                continue;
            }
        };
        match member {
            Member::Of(pool) if pools.contains(&pool) => {
                without_disks.remove(&pool);
                blocks.used(&name, Rank::Other, &format!("ZFS pool {pool}"));
                for (_, point) in mounted.iter().filter(|(of, _)| *of == pool) {
                    let rank = if point == "/" {
                        Rank::Root
                    } else {
                        Rank::Mount
                    };
                    blocks.used(&name, rank, point);
                }
            }
            // A pool that is not imported: of a VM, or exported.
            Member::Of(_) | Member::Nothing => doubtful.push(name),
            Member::Other => {}
            Member::OfUnknown => {
                let label = format!("{name} may be a disk of an imported ZFS pool");
                blocks.used(&name, Rank::Unread, &label);
            }
        }
    }
    let Some(pool) = without_disks.first() else {
        return;
    };
    for name in doubtful {
        if !can_be_ram_alone(&name) && !blocks.is_used(&name) {
            let label =
                format!("{name} may be a disk of ZFS pool {pool}, whose disks are not found");
            blocks.used(&name, Rank::Unread, &label);
        }
    }
}

/// The imported pools. Each has a directory, beside files about ZFS itself.
fn imported(sysfs: &dyn Sysfs) -> io::Result<Vec<String>> {
    const STATES: &str = "/proc/spl/kstat/zfs";
    let Some(names) = optional(list(sysfs, STATES))? else {
        return Ok(Vec::new());
    };
    let is_pool = |name: &String| sysfs.list(&format!("{STATES}/{name}")).is_ok();
    Ok(names.into_iter().filter(is_pool).collect())
}

/// What udev found on a device.
enum Member {
    /// Something else.
    Other,
    /// Nothing.
    Nothing,
    /// A disk of that pool.
    Of(String),
    /// A spare or cache disk, which has no label; or several signatures at once.
    OfUnknown,
}

fn member(sysfs: &dyn Sysfs, name: &str) -> io::Result<Member> {
    // The hidden paths of NVMe multipath have no number, and nobody can open them.
    let Some(number) = optional(read(sysfs, &format!("/sys/class/block/{name}/dev")))? else {
        return Ok(Member::Other);
    };
    let text = read(sysfs, &format!("/run/udev/data/b{number}"))?;
    let property = |key: &str| {
        let mut lines = text.lines();
        lines.find_map(|line| {
            line.strip_prefix("E:")?
                .strip_prefix(key)?
                .strip_prefix('=')
        })
    };
    // In the plain label udev replaces what is not safe in a name; in the other one it writes
    // it as `\x20` (`blkid_encode_string`).
    let encoded = property("ID_FS_LABEL_ENC");
    let encoded = encoded.map(|text| place::unescaped(text, "\\x", 2, 16));
    let label = encoded.or_else(|| property("ID_FS_LABEL").map(str::to_owned));
    Ok(match (property("ID_FS_TYPE"), label) {
        (Some("zfs_member"), Some(pool)) => Member::Of(pool),
        (Some("zfs_member"), None) => Member::OfUnknown,
        (None, _) if property("ID_FS_AMBIVALENT").is_some() => Member::OfUnknown,
        (Some(_), _) => Member::Other,
        // A disk with partitions holds nothing beside them.
        (None, _) if property("ID_PART_TABLE_TYPE").is_some() => Member::Other,
        (None, _) => Member::Nothing,
    })
}

/// Devices that hold no disk of a pool unless they lie on a disk.
fn can_be_ram_alone(name: &str) -> bool {
    ["loop", "ram", "zram", "zd"]
        .iter()
        .any(|kind| place::is_numbered(name, kind))
}
