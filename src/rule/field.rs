//! The fields that a filter can ask for: one table of name, type and meaning. `device`
//! knows how a field is read from the host, and `kind` knows which devices have it.

use std::fmt;

use super::{FieldType, Operator, spelling::did_you_mean};

/// A field's entry in the registry.
#[derive(Debug, Clone, Copy)]
pub struct FieldInfo {
    /// The name in files.
    pub name: &'static str,
    /// How its values are written and compared.
    pub value_type: FieldType,
    /// Whether this version reads the field. A filter on a field that is not read is
    /// accepted, so that files for later versions can be written now, but it never
    /// matches.
    pub is_read: bool,
    /// One line for the man page.
    pub about: &'static str,
}

const ID: FieldType = FieldType::Hex { digits: 4 };
const CLASS_ID: FieldType = FieldType::Hex { digits: 6 };

macro_rules! fields {
    ($($variant:ident $name:literal $type:expr, $is_read:literal, $about:literal;)+) => {
        /// A property of a device that a filter can ask for.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Field { $(#[doc = $about] $variant),+ }

        impl Field {
            /// Every field, in the order in which messages list them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];
            /// Their names, in the same order.
            pub const NAMES: &'static [&'static str] = &[$($name),+];

            /// The field's entry in the registry.
            #[must_use]
            pub const fn info(self) -> &'static FieldInfo {
                match self {
                    $(Self::$variant => &FieldInfo {
                        name: $name,
                        value_type: $type,
                        is_read: $is_read,
                        about: $about,
                    }),+
                }
            }
        }
    };
}

fields! {
    Host "host" FieldType::Text, true, "Name of the host (uname -n): one file for many hosts.";
    Address "address" FieldType::Address, true, "Kernel name of the device: a PCI address (0000:3b:00.0) or a plain name (mtty).";
    SlotLabel "slot-label" FieldType::Text, true, "Name of the slot in the firmware.";
    Class "class" FieldType::Class, true, "What the device is for, as a label (gpu, network, …).";
    ClassId "class-id" CLASS_ID, true, "PCI class code, six hexadecimal digits (030200).";
    Vendor "vendor" FieldType::Text, true, "Name of the vendor, as in the file pci.ids.";
    VendorId "vendor-id" ID, true, "Vendor id, four hexadecimal digits (10de).";
    Device "device" FieldType::Text, true, "Name of the device model, as in the file pci.ids.";
    DeviceId "device-id" ID, true, "Device or product id, four hexadecimal digits (26b9).";
    SubsystemId "subsystem-id" FieldType::IdPair, true, "Subsystem vendor and device id with a colon between (10de:1851).";
    Driver "driver" FieldType::Text, true, "Kernel driver bound to the device (nvidia); a whole PCI device that a VM has, or that its pool keeps bound, has vfio-pci.";
    Serial "serial" FieldType::Text, true, "Serial number: of a PCI device, from its vital product data, else its PCI Express serial number (00-1b-21-ff-ff-a2-04-10).";
    NumaNode "numa-node" FieldType::Number, true, "NUMA node that the device is attached to.";
    IommuGroup "iommu-group" FieldType::Number, true, "IOMMU group of the device.";
    VirtualFunction "virtual-function" FieldType::Bool, true, "Whether the device is an SR-IOV virtual function.";
    PhysicalFunction "physical-function" FieldType::Address, true, "Address of the physical function that a virtual function belongs to.";
    GpuName "gpu-name" FieldType::Text, true, "Product name of the GPU (NVIDIA L40S).";
    GpuUuid "gpu-uuid" FieldType::Text, true, "UUID of the GPU (GPU-…).";
    GpuMemoryMib "gpu-memory-mib" FieldType::Number, true, "Memory of the GPU in MiB, from NVML.";
    ProfileId "profile-id" FieldType::Number, true, "Number of the pool's profile on the GPU (1153).";
    Netdev "netdev" FieldType::Text, false, "Name of the network interface (ens3f0np0).";
    Mac "mac" FieldType::Text, false, "Permanent MAC address of the network interface.";
    LinkSpeedMbps "link-speed-mbps" FieldType::Number, false, "Speed of the network link in Mbit/s.";
    Bus "bus" FieldType::Number, false, "Number of the USB bus.";
    PortPath "port-path" FieldType::Text, false, "USB bus and ports that lead to the device (1-2.3).";
    UsbVersion "usb-version" FieldType::Decimal, false, "USB version of the device (2.0, 3.2).";
    SpeedMbps "speed-mbps" FieldType::Decimal, false, "Speed of the USB device in Mbit/s (1.5, 480).";
    InterfaceDriver "interface-driver" FieldType::Text, false, "Kernel driver bound to one of the USB device's interfaces.";
}

impl Field {
    /// The field of that name, or an error text.
    pub(super) fn parse(name: &str) -> Result<Self, String> {
        let found = Self::ALL.iter().find(|field| field.info().name == name);
        found.copied().ok_or_else(|| {
            let shown = super::spelling::shown(name);
            let meant = did_you_mean(name, Self::NAMES);
            format!("unknown field '{shown}'{meant}")
        })
    }

    /// The field's name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        self.info().name
    }

    /// The operators that work on the field.
    pub fn operators(self) -> impl Iterator<Item = Operator> {
        let value_type = self.info().value_type;
        let all = Operator::ALL.iter().copied();
        all.filter(move |op| op.works_on(value_type))
    }
}

impl fmt::Display for Field {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_is_found_by_its_name() {
        assert_eq!(Field::ALL.len(), 28);
        for (field, name) in Field::ALL.iter().zip(Field::NAMES) {
            assert_eq!(Field::parse(name), Ok(*field));
            assert!(field.info().about.ends_with('.'), "{name}");
            assert!(field.operators().count() >= 2, "{name}");
        }
    }
}
