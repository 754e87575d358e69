//! The device nodes of what lies on a PCI function, through which programs use it: disks, the
//! drive or the disk's controller itself, devices on USB. Sound, displays and input are left
//! out: a desktop's services have all of these open, and let go when the device goes.

use std::collections::BTreeSet;

use super::place;
use crate::{
    device::{Sysfs, list, read},
    model::PciAddress,
};

/// A device node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeviceNode {
    path: String,
    number: Option<(u32, u32)>,
    is_block: bool,
}

impl DeviceNode {
    /// The node with that path and number.
    #[must_use]
    pub fn new(path: String, number: Option<(u32, u32)>, is_block: bool) -> Self {
        Self {
            path,
            number,
            is_block,
        }
    }

    /// Where udev makes it: `/dev/nvme0n1`.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Major and minor number, by which it is known under any name; None if sysfs does not say.
    #[must_use]
    pub fn number(&self) -> Option<(u32, u32)> {
        self.number
    }

    /// Whether it is that of a block device.
    #[must_use]
    pub fn is_block(&self) -> bool {
        self.is_block
    }
}

/// The classes whose devices programs use by themselves.
const CLASSES: [&str; 5] = ["nvme", "nvme-generic", "scsi_generic", "scsi_tape", "bsg"];

/// The node of a block device.
pub(super) fn block(sysfs: &dyn Sysfs, name: &str) -> DeviceNode {
    // The kernel writes '!' for a '/' in a name.
    let path = format!("/dev/{}", name.replace('!', "/"));
    let number = number(sysfs, &format!("/sys/class/block/{name}"));
    DeviceNode::new(path, number, true)
}

/// The other nodes on a function whose disks have these nodes. What cannot be read has none:
/// nobody is asked about a device that has gone.
pub(super) fn others(
    sysfs: &dyn Sysfs,
    function: PciAddress,
    disks: &BTreeSet<&str>,
) -> Vec<DeviceNode> {
    let part = format!("/{function}/");
    let mut nodes = Vec::new();
    for class in CLASSES {
        for (name, path) in place::of_class(sysfs, class).unwrap_or_default() {
            // A drive with several ways lies below no function, as does its disk.
            let of_disk = name.replacen("ng", "nvme", 1);
            let is_its = path.contains(&part) || disks.contains(of_disk.as_str());
            if is_its {
                let directory = match class {
                    "bsg" => "/dev/bsg",
                    _ => "/dev",
                };
                let number = number(sysfs, &path);
                nodes.push(DeviceNode::new(
                    format!("{directory}/{name}"),
                    number,
                    false,
                ));
            }
        }
    }
    nodes.extend(on_usb(sysfs, &part));
    nodes
}

fn on_usb(sysfs: &dyn Sysfs, part: &str) -> Vec<DeviceNode> {
    const ALL: &str = "/sys/bus/usb/devices";
    let names = list(sysfs, ALL).unwrap_or_default();
    // Interfaces have no node, and a root hub is the controller's own.
    let devices = names
        .iter()
        .filter(|name| !name.contains(':') && !name.starts_with("usb"));
    let node = |name: &String| {
        let path = place::target(sysfs, &format!("{ALL}/{name}")).ok()?;
        if !path.contains(part) {
            return None;
        }
        let of = |attribute: &str| {
            let text = read(sysfs, &format!("{path}/{attribute}")).ok()?;
            text.parse::<u32>().ok()
        };
        let (bus, device) = (of("busnum")?, of("devnum")?);
        let node = format!("/dev/bus/usb/{bus:03}/{device:03}");
        Some(DeviceNode::new(node, number(sysfs, &path), false))
    };
    devices.filter_map(node).collect()
}

/// What `dev` says: `8:1`.
fn number(sysfs: &dyn Sysfs, directory: &str) -> Option<(u32, u32)> {
    let text = read(sysfs, &format!("{directory}/dev")).ok()?;
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}
