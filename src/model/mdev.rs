//! Mediated devices: their UUID and the id of their type.

use std::{fmt, str::FromStr};

use uuid::Uuid;

use super::{
    DeviceName, DomainUuid, InvalidName, checked_text, names::is_directory_name, serde_as_text,
};

/// The UUID by which the kernel and libvirt know a mediated device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MdevUuid(Uuid);

impl MdevUuid {
    /// The fixed UUID of a domain's device: version 5 of the device's name, with the
    /// domain's UUID as name space. It can be written into the domain XML long before
    /// the device exists, and is the same on every host.
    #[must_use]
    pub fn for_device(domain: DomainUuid, device: &DeviceName) -> Self {
        Self(Uuid::new_v5(&domain.as_uuid(), device.as_str().as_bytes()))
    }

    /// Reads the UUID as libvirt reads it in domain XML: hyphens are optional.
    ///
    /// # Errors
    /// When libvirt would not accept it as a UUID.
    pub fn from_xml(text: &str) -> Result<Self, InvalidName> {
        let uuid = super::names::parse_libvirts_uuid(text).map(Self);
        uuid.ok_or_else(|| InvalidName::new("a mediated device's UUID", text))
    }
}

impl fmt::Display for MdevUuid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_hyphenated().fmt(f)
    }
}

impl FromStr for MdevUuid {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        super::names::parse_uuid(text)
            .map(Self)
            .ok_or_else(|| InvalidName::new("a mediated device's UUID", text))
    }
}

serde_as_text!(MdevUuid);

/// How QEMU presents a mediated device: the kernel's `device_api` of its type, and
/// `model` of its hostdev (libvirt's `virMediatedDeviceModelType`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub enum MdevModel {
    /// A PCI device.
    #[default]
    VfioPci,
    /// A channel-attached device of an s390 guest.
    VfioCcw,
    /// A crypto adapter of an s390 guest.
    VfioAp,
}

impl MdevModel {
    /// Every model that libvirt knows.
    pub const ALL: [Self; 3] = [Self::VfioPci, Self::VfioCcw, Self::VfioAp];

    /// The kernel's and libvirt's word.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::VfioPci => "vfio-pci",
            Self::VfioCcw => "vfio-ccw",
            Self::VfioAp => "vfio-ap",
        }
    }
}

impl fmt::Display for MdevModel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl FromStr for MdevModel {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == text);
        found.ok_or_else(|| {
            InvalidName::new(
                "an interface by which libvirt gives mediated devices to VMs (vfio-pci, vfio-ccw, vfio-ap)",
                text,
            )
        })
    }
}

checked_text!(
    /// A type's directory under `mdev_supported_types`, as in `nvidia-558`:
    /// the driver's name, a hyphen, the driver's own id (kernel
    /// `drivers/vfio/mdev/mdev_sysfs.c`).
    MdevTypeId,
    is_directory_name,
    "an mdev type id (as in nvidia-558)"
);

impl MdevTypeId {
    /// Whether it is a type of NVIDIA's driver: the kernel puts the driver's name at
    /// the start of a type's id.
    #[must_use]
    pub fn is_nvidias(&self) -> bool {
        self.as_str().starts_with("nvidia-")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_devices_uuid_is_version_5_of_its_name_in_the_domains_uuid() {
        let domain: DomainUuid = "6ba7b810-9dad-11d1-80b4-00c04fd430c8".parse().unwrap();
        // Domain UUID = RFC 4122's DNS name space; value checked with
        // python3 -c 'import uuid; print(uuid.uuid5(uuid.NAMESPACE_DNS, "gpu0"))'
        assert_eq!(
            MdevUuid::for_device(domain, &"gpu0".parse().unwrap()).to_string(),
            "614bc606-2078-5444-8c9c-4f8e98ae4dcc"
        );
    }

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for text in ["", ".", "..", "a/b", "/", "a\n", "a\0"] {
            assert!(text.parse::<MdevTypeId>().is_err(), "{text:?}");
        }
        assert!("x".repeat(256).parse::<MdevTypeId>().is_err());
        assert!("nvidia-558".parse::<MdevTypeId>().is_ok());
    }

    proptest! {
        #[test]
        fn uuids_round_trip(bits: u128) {
            let uuid = MdevUuid(Uuid::from_u128(bits));
            prop_assert_eq!(uuid.to_string().parse::<MdevUuid>().unwrap(), uuid);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<MdevUuid>();
            let _ = text.parse::<MdevTypeId>();
        }
    }
}
