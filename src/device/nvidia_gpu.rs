//! The GPUs of NVIDIA's driver: the physical functions that are bound to it. What
//! makes vGPUs on one (itself, or its virtual functions, and by which interface)
//! is found by looking, never by the name of the board.

use std::{fmt::Display, io};

use super::{PCI_DEVICES, Sysfs, optional};
use crate::model::PciAddress;

/// The functions that NVIDIA's driver has.
pub(super) const BOUND: &str = "/sys/bus/pci/drivers/nvidia";

/// Every GPU, in ascending order of address.
///
/// # Errors
/// When sysfs cannot be read.
pub fn all(sysfs: &dyn Sysfs) -> io::Result<Vec<PciAddress>> {
    let names = optional(sysfs.list(BOUND))?.unwrap_or_default();
    // The driver's own attributes are no addresses.
    let addresses = names.iter().filter_map(|name| name.parse().ok());
    let is_physical = |gpu: &PciAddress| !sysfs.exists(&format!("{PCI_DEVICES}/{gpu}/physfn"));
    let mut gpus: Vec<PciAddress> = addresses.filter(is_physical).collect();
    gpus.sort_unstable();
    Ok(gpus)
}

/// Whether the GPU's vGPUs are on virtual functions that are not there yet: it has
/// SR-IOV, no types of its own, and nobody has enabled any.
#[must_use]
pub fn lacks_functions(sysfs: &dyn Sysfs, gpu: impl Display) -> bool {
    let path = format!("{PCI_DEVICES}/{gpu}");
    let number = |attribute: &str| -> u32 {
        let text = sysfs.read(&format!("{path}/{attribute}"));
        text.ok().and_then(|text| text.parse().ok()).unwrap_or(0)
    };
    number("sriov_totalvfs") > 0
        && number("sriov_numvfs") == 0
        && !sysfs.exists(&format!("{path}/mdev_supported_types"))
}
