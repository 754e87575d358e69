//! IOMMU groups: the functions that VFIO can only hand out together, because the hardware
//! cannot keep them apart. Layout: kernel `Documentation/ABI/testing/sysfs-kernel-iommu_groups`,
//! `Documentation/driver-api/vfio.rst`.

use std::io;

use super::{PCI_DEVICES, Sysfs, link_name, list, optional, pci};
use crate::model::PciAddress;

/// All groups, directories named by number. Empty if the IOMMU is off.
pub const GROUPS: &str = "/sys/kernel/iommu_groups";

/// Whether the host has any group.
///
/// # Errors
/// When the directory cannot be listed.
pub fn is_on(sysfs: &dyn Sysfs) -> io::Result<bool> {
    Ok(!optional(list(sysfs, GROUPS))?
        .unwrap_or_default()
        .is_empty())
}

/// The number of a function's group; None if it has none.
///
/// # Errors
/// When sysfs cannot be read.
pub fn group_of(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<String>> {
    optional(link_name(
        sysfs,
        &format!("{PCI_DEVICES}/{function}/iommu_group"),
    ))
}

/// The PCI functions of a group that have to be handed out together, in ascending order.
/// Bridges are not among them: they stay with their driver, and VFIO accepts that
/// (`vfio_dev_driver_allowed`, `driver_managed_dma` of `pcieport`).
///
/// # Errors
/// When sysfs cannot be read.
pub fn endpoints(sysfs: &dyn Sysfs, group: &str) -> io::Result<Vec<PciAddress>> {
    let names = list(sysfs, &format!("{GROUPS}/{group}/devices"))?;
    let mut endpoints = Vec::new();
    for name in names {
        // Devices of other buses are no PCI functions, and none of them is a bridge.
        let Ok(function) = name.parse::<PciAddress>() else {
            continue;
        };
        if !pci::is_bridge(sysfs, function)? {
            endpoints.push(function);
        }
    }
    endpoints.sort_unstable();
    Ok(endpoints)
}
