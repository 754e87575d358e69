//! A domain as this program sees it: its identity, its requests, and the devices that
//! can conflict with them. Plain data, without XML.

use std::collections::BTreeSet;

use super::{GuestSlot, Hostdev, Request};
use crate::model::{CpuSet, DomainName, DomainUuid};

/// The parts of a domain's XML that matter here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DomainDef {
    /// The domain's UUID.
    pub uuid: DomainUuid,
    /// The domain's name.
    pub name: DomainName,
    /// The devices that it asks for, in the order of the metadata.
    pub requests: Vec<Request>,
    /// Its mediated devices and host PCI functions, whoever wrote them, in the order of
    /// the XML.
    pub hostdevs: Vec<Hostdev>,
    /// Its disks, CD-ROMs and floppies.
    pub disks: Vec<Disk>,
    /// The places of host SCSI devices on SCSI controllers: disks share the controllers
    /// with them.
    pub scsi_hostdevs: Vec<DrivePosition>,
    /// Its controllers: SCSI, SATA, IDE, USB and all others.
    pub controllers: Vec<Controller>,
    /// Every alias that a user set (`ua-…`). libvirt refuses a second device with the
    /// same alias. The aliases that libvirt generates at start are not included.
    pub aliases: BTreeSet<String>,
    /// The slots of the guest's PCI buses that the XML gives to devices.
    pub slots: BTreeSet<GuestSlot>,
    /// The host nodes that the memory is bound to, by `<memory nodeset>` and
    /// `<memnode>`; empty if the XML does not say.
    pub memory_nodes: CpuSet,
    /// The host CPUs that the vCPUs may run on: `<vcpu cpuset>`, otherwise all of
    /// `<vcpupin>`; empty if the XML does not say.
    pub cpus: CpuSet,
    /// The machine type, as in `pc-q35-10.0`.
    pub machine: Option<String>,
    /// The guest's architecture, as in `x86_64`.
    pub arch: Option<String>,
}

/// A `<disk>`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Disk {
    /// `disk`, `cdrom`, `floppy` or `lun`.
    pub device: String,
    /// The bus, as in `sata`.
    pub bus: Option<String>,
    /// The target's name, as in `sda`; libvirt keeps it unique in the domain,
    /// whatever the bus.
    pub target: String,
    /// Its file, when it is backed by a file and a medium is inserted.
    pub source: Option<String>,
    /// Its alias.
    pub alias: Option<String>,
    /// Its place on its controller, when the XML gives one.
    pub position: Option<DrivePosition>,
}

impl Disk {
    /// Whether it is a CD-ROM drive.
    #[must_use]
    pub fn is_cdrom(&self) -> bool {
        self.device == "cdrom"
    }
}

/// `<address type='drive'>`: a place on a SCSI, SATA or IDE controller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DrivePosition {
    /// The index of the controller among those of its type.
    pub controller: u32,
    /// The bus of the controller; IDE has two.
    pub bus: u32,
    /// The SCSI target.
    pub target: u32,
    /// The unit on the bus.
    pub unit: u32,
}

/// A `<controller>`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Controller {
    /// `scsi`, `sata`, `ide`, `usb`, `pci`, …
    pub kind: String,
    /// Its index among those of its type.
    pub index: u32,
    /// Its model, as in `virtio-scsi`; USB's `none` means that there is no USB.
    pub model: Option<String>,
}
