//! One PCI function, with the few facts that say which questions concern it.

use std::io;

use super::place;
use crate::{
    device::{PCI_DEVICES, Sysfs, iommu, link_name, list, optional, read},
    model::PciAddress,
};

/// A PCI function.
#[derive(Debug, Clone)]
pub(super) struct Function {
    pub(super) address: PciAddress,
    /// Base class and subclass: `0x0106`.
    pub(super) class: u16,
    pub(super) vendor: u16,
    pub(super) device: u16,
}

impl Function {
    /// Reads the function's numbers.
    ///
    /// # Errors
    /// When one of them cannot be read, or is no number.
    pub(super) fn read(sysfs: &dyn Sysfs, address: PciAddress) -> io::Result<Self> {
        let number = |name: &str| {
            let path = format!("{PCI_DEVICES}/{address}/{name}");
            let text = read(sysfs, &path)?;
            let number = u32::from_str_radix(text.trim_start_matches("0x"), 16);
            number.map_err(|error| {
                io::Error::new(io::ErrorKind::InvalidData, format!("{path}: {error}"))
            })
        };
        let low = |number: u32| u16::try_from(number & 0xffff).unwrap_or_default();
        Ok(Self {
            address,
            class: low(number("class")? >> 8),
            vendor: low(number("vendor")?),
            device: low(number("device")?),
        })
    }

    /// The base class.
    pub(super) fn base(&self) -> u16 {
        self.class >> 8
    }

    /// Its directory, or a link to it.
    pub(super) fn directory(&self) -> String {
        format!("{PCI_DEVICES}/{}", self.address)
    }

    /// Whether a disk or a network interface can hang on it. On displays, and on devices for
    /// sound and pictures, there is none; of all others it is not known.
    pub(super) fn can_hold_devices(&self) -> bool {
        !matches!(self.base(), 0x03 | 0x04)
    }

    /// Whether disks are to be expected on it: storage, SD cards, USB, Fibre Channel.
    pub(super) fn can_hold_disks(&self) -> bool {
        self.base() == 0x01 || matches!(self.class, 0x0805 | 0x0c03 | 0x0c04)
    }

    /// Whether it is a host bridge, or a bridge to another PCI bus. VFIO lets these be in
    /// the group of a device that a VM has (`vfio_dev_viable`, `driver_managed_dma`).
    pub(super) fn is_bus_bridge(&self) -> bool {
        matches!(self.class, 0x0600 | 0x0604..=0x0609)
    }

    /// Its driver.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub(super) fn driver(&self, sysfs: &dyn Sysfs) -> io::Result<Option<String>> {
        optional(link_name(sysfs, &format!("{}/driver", self.directory())))
    }

    /// Whether it lies on a root bus: part of the processor or of the chipset.
    pub(super) fn is_integrated(&self, sysfs: &dyn Sysfs) -> bool {
        // Of one that cannot be told, the worst is taken.
        place::target(sysfs, &self.directory())
            .map_or(true, |path| place::functions(&path).len() == 1)
    }

    /// Its virtual functions.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub(super) fn virtual_functions(&self, sysfs: &dyn Sysfs) -> io::Result<Vec<PciAddress>> {
        let directory = self.directory();
        let enabled = optional(read(sysfs, &format!("{directory}/sriov_numvfs")))?;
        if enabled.is_none_or(|number| number == "0") {
            return Ok(Vec::new());
        }
        let mut functions = Vec::new();
        for name in list(sysfs, &directory)? {
            if place::is_numbered(&name, "virtfn") {
                let address = link_name(sysfs, &format!("{directory}/{name}"))?;
                functions.extend(address.parse::<PciAddress>().ok());
            }
        }
        functions.sort_unstable();
        Ok(functions)
    }

    /// The IOMMU group with its functions; None if it has no group.
    ///
    /// # Errors
    /// When sysfs cannot be read.
    pub(super) fn group(
        sysfs: &dyn Sysfs,
        address: PciAddress,
    ) -> io::Result<Option<(String, Vec<PciAddress>)>> {
        let Some(group) = iommu::group_of(sysfs, address)? else {
            return Ok(None);
        };
        let names = list(
            sysfs,
            &format!("{PCI_DEVICES}/{address}/iommu_group/devices"),
        )?;
        let members = names.iter().filter_map(|name| name.parse().ok()).collect();
        Ok(Some((group, members)))
    }
}
