//! How libvirt and the kernel identify a device, whatever the kind of its pool.

use std::{fmt, str::FromStr};

use super::{InvalidName, MdevUuid, PciAddress, serde_as_text};

/// A device that a domain can have: the device in the `<source>` of its hostdev, which
/// also has a directory in sysfs.
///
/// The text of a handle is the UUID or the address alone; neither can look like the
/// other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Handle {
    /// A mediated device.
    Mdev(MdevUuid),
    /// A PCI function.
    Pci(PciAddress),
}

impl Handle {
    /// The device's directory in sysfs, or a link to it.
    #[must_use]
    pub fn sysfs_path(self) -> String {
        match self {
            Self::Mdev(uuid) => format!("/sys/bus/mdev/devices/{uuid}"),
            Self::Pci(address) => format!("/sys/bus/pci/devices/{address}"),
        }
    }

    /// The address of a PCI function; None for other devices.
    #[must_use]
    pub fn pci(self) -> Option<PciAddress> {
        match self {
            Self::Pci(address) => Some(address),
            Self::Mdev(_) => None,
        }
    }

    /// The UUID of a mediated device; None for other devices.
    #[must_use]
    pub fn mdev(self) -> Option<MdevUuid> {
        match self {
            Self::Mdev(uuid) => Some(uuid),
            Self::Pci(_) => None,
        }
    }
}

impl From<MdevUuid> for Handle {
    fn from(uuid: MdevUuid) -> Self {
        Self::Mdev(uuid)
    }
}

impl From<PciAddress> for Handle {
    fn from(address: PciAddress) -> Self {
        Self::Pci(address)
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mdev(uuid) => uuid.fmt(f),
            Self::Pci(address) => address.fmt(f),
        }
    }
}

impl FromStr for Handle {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        const WANTED: &str = "a device (the UUID of a mediated device, or a PCI address)";
        if let Ok(uuid) = text.parse() {
            return Ok(Self::Mdev(uuid));
        }
        let address = text.parse().map(Self::Pci);
        address.map_err(|_| InvalidName::new(WANTED, text))
    }
}

serde_as_text!(Handle);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_text_tells_what_it_is() {
        let uuid: MdevUuid = "614bc606-2078-5444-8c9c-4f8e98ae4dcc".parse().unwrap();
        assert_eq!(uuid.to_string().parse(), Ok(Handle::Mdev(uuid)));
        let address: PciAddress = "0000:3b:00.4".parse().unwrap();
        assert_eq!("0000:3b:00.4".parse(), Ok(Handle::Pci(address)));
        assert_eq!(
            Handle::Pci(address).sysfs_path(),
            "/sys/bus/pci/devices/0000:3b:00.4"
        );
        assert_eq!(
            Handle::Mdev(uuid).sysfs_path(),
            "/sys/bus/mdev/devices/614bc606-2078-5444-8c9c-4f8e98ae4dcc"
        );
        let wrong = "mtty".parse::<Handle>().unwrap_err().to_string();
        assert_eq!(
            wrong,
            "'mtty' is not a device (the UUID of a mediated device, or a PCI address)"
        );
    }

    proptest! {
        #[test]
        fn printing_and_parsing_round_trip(number: u128, domain: u32, bus: u8, slot in 0u8..32) {
            let uuid: MdevUuid = uuid::Uuid::from_u128(number).to_string().parse().unwrap();
            let address = PciAddress::new(domain, bus, slot, 3).unwrap();
            for handle in [Handle::Mdev(uuid), Handle::Pci(address)] {
                prop_assert_eq!(handle.to_string().parse::<Handle>().unwrap(), handle);
                let json = serde_json::to_string(&handle).unwrap();
                prop_assert_eq!(serde_json::from_str::<Handle>(&json).unwrap(), handle);
            }
        }
    }
}
