//! The attributes of a device that rules ask for, each read only when a filter needs
//! it. Formats: kernel `Documentation/ABI/testing/sysfs-bus-pci`.

use std::io;

use super::{
    PCI_DEVICES, Sysfs, gpu_fields::GpuFields, link_name, list, optional, pci_serial, read,
};
use crate::{
    model::{ParentName, PciAddress},
    rule::{Class, Field, FieldValue, Fields},
};

/// Names that are not in sysfs; looked up only when a rule filters by them.
pub trait PciNames {
    /// The vendor's name, from the distribution's `pci.ids`.
    fn vendor(&self, vendor: u16) -> Option<String>;
    /// The device's name, from the same file.
    fn device(&self, vendor: u16, device: u16) -> Option<String>;
    /// The host's own name.
    fn host(&self) -> Option<String>;
}

/// A device in sysfs as the rules see it: a PCI function, or a software device, which
/// has its kernel name as address and few other fields. An attribute that cannot be
/// read counts as missing, so a rule that needs it does not match.
pub struct DeviceFields<'a> {
    /// Reading access to the host.
    pub sysfs: &'a dyn Sysfs,
    /// Reading access to names.
    pub names: &'a dyn PciNames,
    /// The device's kernel name.
    pub name: &'a ParentName,
    /// The device's directory in sysfs, or a link to it.
    pub path: &'a str,
    /// Further facts about a GPU; None for pools of other kinds.
    pub gpu: Option<GpuFields<'a>>,
}

impl std::fmt::Debug for DeviceFields<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceFields")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl Fields for DeviceFields<'_> {
    fn field(&self, field: Field) -> Option<FieldValue> {
        match field {
            Field::Host => self.names.host().map(FieldValue::Text),
            Field::Address => Some(FieldValue::Text(self.name.to_string())),
            Field::SlotLabel => self.slot_label().map(FieldValue::Text),
            Field::Class => Some(FieldValue::Text(self.class().to_string())),
            Field::Vendor => self.names.vendor(self.id("vendor")?).map(FieldValue::Text),
            Field::Device => self
                .names
                .device(self.id("vendor")?, self.id("device")?)
                .map(FieldValue::Text),
            Field::ClassId => self.attribute("class", field),
            Field::VendorId => self.attribute("vendor", field),
            Field::DeviceId => self.attribute("device", field),
            Field::SubsystemId => {
                let (vendor, device) = (self.id("subsystem_vendor")?, self.id("subsystem_device")?);
                Some(FieldValue::Text(format!("{vendor:04x}:{device:04x}")))
            }
            Field::Driver => self.link("driver").map(FieldValue::Text),
            // The kernel writes -1 if there is no node.
            Field::NumaNode => {
                let value = self.attribute("numa_node", field)?;
                (!matches!(value, FieldValue::Number(..0))).then_some(value)
            }
            Field::IommuGroup => field.info().value_type.read(&self.link("iommu_group")?),
            Field::VirtualFunction => Some(FieldValue::Bool(
                self.sysfs.exists(&format!("{}/physfn", self.path)),
            )),
            Field::PhysicalFunction => self.link("physfn").map(FieldValue::Text),
            Field::GpuName | Field::GpuUuid | Field::GpuMemoryMib | Field::ProfileId => {
                let address = self.name.pci()?;
                self.gpu?.field(self.sysfs, address, field)
            }
            Field::Serial => pci_serial::read(self.sysfs, self.path).map(FieldValue::Text),
            Field::Netdev
            | Field::Mac
            | Field::LinkSpeedMbps
            | Field::Bus
            | Field::PortPath
            | Field::UsbVersion
            | Field::SpeedMbps
            | Field::InterfaceDriver => None,
        }
    }
}

impl DeviceFields<'_> {
    fn text(&self, attribute: &str) -> Option<String> {
        self.sysfs.read(&format!("{}/{attribute}", self.path)).ok()
    }

    fn attribute(&self, attribute: &str, field: Field) -> Option<FieldValue> {
        field.info().value_type.read(&self.text(attribute)?)
    }

    fn link(&self, link: &str) -> Option<String> {
        link_name(self.sysfs, &format!("{}/{link}", self.path)).ok()
    }

    fn id(&self, attribute: &str) -> Option<u16> {
        u16::from_str_radix(self.text(attribute)?.trim_start_matches("0x"), 16).ok()
    }

    /// The slot with this device's address without the function
    /// (`/sys/bus/pci/slots/NAME/address`), otherwise the firmware's label.
    fn slot_label(&self) -> Option<String> {
        const SLOTS: &str = "/sys/bus/pci/slots";
        let name = self.name.to_string();
        let (slot, _function) = name.rsplit_once('.')?;
        let slots = self.sysfs.list(SLOTS).unwrap_or_default();
        slots
            .into_iter()
            .find(|name| {
                self.sysfs
                    .read(&format!("{SLOTS}/{name}/address"))
                    .is_ok_and(|text| text == slot)
            })
            .or_else(|| self.text("label"))
    }

    fn class(&self) -> Class {
        let code = self
            .text("class")
            .and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
        code.map_or(Class::Unknown, class_of)
    }
}

/// The label of a PCI class code (base class, subclass, interface; PCI Code and
/// ID Assignment Specification).
fn class_of(code: u32) -> Class {
    match (code >> 16, code >> 8 & 0xff) {
        (0x01, _) => Class::Storage,
        (0x02, _) | (0x0d, _) => Class::Network,
        (0x03, _) => Class::Gpu,
        (0x04, 0x01 | 0x03) => Class::Audio,
        (0x04, _) => Class::Media,
        (0x09, _) => Class::Hid,
        (0x0c, 0x03) => Class::Usb,
        (0x12, _) => Class::Fpga,
        _ => Class::Pci,
    }
}

/// Whether the function is a virtual function of another one.
#[must_use]
pub fn is_virtual(sysfs: &dyn Sysfs, function: PciAddress) -> bool {
    sysfs.exists(&format!("{PCI_DEVICES}/{function}/physfn"))
}

/// Whether the function is a bridge of any kind, a host bridge included: base class 06 of
/// the PCI Code and ID Assignment Specification. A bridge is never handed out.
///
/// # Errors
/// When its class cannot be read, with the path.
pub fn is_bridge(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<bool> {
    const BRIDGE: &str = "0x06";
    let class = read(sysfs, &format!("{PCI_DEVICES}/{function}/class"))?;
    Ok(class.starts_with(BRIDGE))
}

/// What it means that the kernel has no [`reset_methods`] for a function.
pub const NO_RESET: &str = "the kernel knows no way to reset it: it may not work for a second VM \
                            until the host reboots";

/// How the kernel can reset the function between two VMs, best first: "flr", "bus" and so on.
/// Empty if it knows no way.
///
/// # Errors
/// When sysfs cannot be read, with the path.
pub fn reset_methods(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Vec<String>> {
    let path = format!("{PCI_DEVICES}/{function}/reset_method");
    let text = optional(read(sysfs, &path))?.unwrap_or_default();
    Ok(text.split_whitespace().map(str::to_owned).collect())
}

/// The addresses of all PCI functions with their directories.
///
/// # Errors
/// When the bus is there but cannot be listed.
pub fn functions(sysfs: &dyn Sysfs) -> io::Result<Vec<(PciAddress, String)>> {
    let names = optional(list(sysfs, PCI_DEVICES))?.unwrap_or_default();
    let function = |name: &String| Some((name.parse().ok()?, format!("{PCI_DEVICES}/{name}")));
    Ok(names.iter().filter_map(function).collect())
}
