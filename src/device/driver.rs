//! Which driver a PCI function has, and which one it is reserved for. Formats: kernel
//! `Documentation/ABI/testing/sysfs-bus-pci`, `drivers/pci/pci-sysfs.c`
//! (`driver_override_show`).

use std::io;

use super::{PCI_DEVICES, Sysfs, at, link_name, optional};
use crate::model::{DriverName, PciAddress};

/// The drivers of PCI functions.
pub const PCI_DRIVERS: &str = "/sys/bus/pci/drivers";

/// A function's address, written here, makes the kernel look for a driver for it.
pub const PROBE: &str = "/sys/bus/pci/drivers_probe";

/// The driver that makes a whole function available to QEMU.
pub const VFIO_PCI: &str = "vfio-pci";

/// The driver of a PCI function.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Driver {
    /// The driver that is bound; None if none is.
    pub bound: Option<DriverName>,
    /// The driver that is reserved for the function by `driver_override`; None if the
    /// kernel chooses.
    pub reserved: Option<DriverName>,
}

/// The driver of a function; None if there is no such function.
///
/// # Errors
/// When sysfs cannot be read, with the path.
pub fn of(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<Driver>> {
    let path = override_attribute(function);
    let Some(text) = optional(sysfs.read(&path)).map_err(|error| at(&path, &error))? else {
        return Ok(None);
    };
    let reserved = match text.as_str() {
        // The kernel writes this for a missing text; an empty text reserves nothing either.
        "(null)" | "" => None,
        name => Some(parsed(&path, name)?),
    };
    Ok(Some(Driver {
        bound: bound(sysfs, function)?,
        reserved,
    }))
}

/// The driver that is bound to a function; None if none is, or there is no such function.
///
/// # Errors
/// When sysfs cannot be read, with the path.
pub fn bound(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<DriverName>> {
    let link = link(function);
    let name = optional(link_name(sysfs, &link))?;
    name.map(|name| parsed(&link, &name)).transpose()
}

fn parsed(path: &str, name: &str) -> io::Result<DriverName> {
    let parsed = name.parse::<DriverName>();
    parsed.map_err(|wrong| io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {wrong}")))
}

/// The link to the function's driver.
#[must_use]
pub fn link(function: PciAddress) -> String {
    format!("{PCI_DEVICES}/{function}/driver")
}

/// The attribute that reserves a driver for the function.
#[must_use]
pub fn override_attribute(function: PciAddress) -> String {
    format!("{PCI_DEVICES}/{function}/driver_override")
}

/// Whether the driver is there to be bound.
#[must_use]
pub fn is_loaded(sysfs: &dyn Sysfs, driver: &str) -> bool {
    sysfs.exists(&format!("{PCI_DRIVERS}/{driver}"))
}

/// Whether the function's configuration space can be read. One that was pulled out, or that
/// has not woken up, reads as all ones (`PCI_POSSIBLE_ERROR`), its header type too; that is
/// what the kernel's "Unknown header type 7f" means. The ids of a virtual function read as
/// ones even if all is well, so they do not count.
///
/// # Errors
/// When sysfs cannot be read, with the path.
pub fn answers(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<bool> {
    const HEADER_TYPE: usize = 0x0e;
    const ALL_ONES: u8 = 0xff;
    let path = format!("{PCI_DEVICES}/{function}/config");
    let header = sysfs.read_bytes(&path, HEADER_TYPE + 1);
    let header = header.map_err(|error| at(&path, &error))?;
    Ok(header
        .get(HEADER_TYPE)
        .is_some_and(|byte| *byte != ALL_ONES))
}
