//! The name of a parent: a device in sysfs that makes devices for VMs.

use std::{fmt, str::FromStr};

use super::{InvalidName, PciAddress, names::is_directory_name, serde_as_text};

/// The kernel name of a device that can make devices for VMs: a PCI function, whose
/// name is its address, or a device with another name, as in `mtty`.
///
/// Addresses come before other names, each in ascending order.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ParentName(Form);

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Form {
    Pci(PciAddress),
    /// Never an address as the kernel writes it.
    Other(String),
}

impl ParentName {
    /// The address of a PCI function; None for other devices.
    #[must_use]
    pub fn pci(&self) -> Option<PciAddress> {
        match self.0 {
            Form::Pci(address) => Some(address),
            Form::Other(_) => None,
        }
    }
}

impl From<PciAddress> for ParentName {
    fn from(address: PciAddress) -> Self {
        Self(Form::Pci(address))
    }
}

impl PartialEq<PciAddress> for ParentName {
    fn eq(&self, address: &PciAddress) -> bool {
        self.pci() == Some(*address)
    }
}

impl fmt::Display for ParentName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Form::Pci(address) => address.fmt(f),
            Form::Other(text) => f.pad(text),
        }
    }
}

impl FromStr for ParentName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        // Sysfs writes an address in only one way. Any other text is the name of a
        // directory.
        let address = text.parse::<PciAddress>().ok();
        if let Some(address) = address.filter(|address| address.to_string() == text) {
            return Ok(Self(Form::Pci(address)));
        }
        if is_directory_name(text) {
            return Ok(Self(Form::Other(text.to_owned())));
        }
        const WANTED: &str = "a device name of sysfs (as in 0000:3b:00.0)";
        Err(InvalidName::new(WANTED, text))
    }
}

serde_as_text!(ParentName);

#[cfg(test)]
mod tests {
    use std::cmp::Ordering;

    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_the_kernels_text_is_an_address() {
        let address = PciAddress::new(0, 0x3b, 0, 4).unwrap();
        let name: ParentName = "0000:3b:00.4".parse().unwrap();
        assert_eq!(name.pci(), Some(address));
        assert_eq!(name, ParentName::from(address));
        assert_eq!(name, address);
        for text in [
            "00000000:3B:00.4",
            "3b:00.4",
            "0000:3B:00.4",
            "mtty",
            "0.0.0313",
        ] {
            let name: ParentName = text.parse().unwrap();
            assert_eq!(name.pci(), None, "{text}");
            assert_eq!(name.to_string(), text);
        }
    }

    #[test]
    fn names_that_would_leave_their_directory_are_refused() {
        for text in ["", ".", "..", "a/b", "/", "a\n", "a\0", &"x".repeat(256)] {
            assert!(text.parse::<ParentName>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn a_name_takes_the_width_that_is_wanted() {
        for text in ["mtty", "0000:3b:00.4"] {
            let name: ParentName = text.parse().unwrap();
            assert_eq!(format!("{name:<14}|"), format!("{text:<14}|"));
        }
    }

    proptest! {
        #[test]
        fn printing_and_parsing_round_trip(
            domain: u32, bus: u8, slot in 0u8..32, function in 0u8..8, text: String,
        ) {
            let address = PciAddress::new(domain, bus, slot, function).unwrap();
            let name: ParentName = address.to_string().parse().unwrap();
            prop_assert_eq!(&name, &ParentName::from(address));
            let json = serde_json::to_string(&name).unwrap();
            prop_assert_eq!(&json, &format!("\"{address}\""));
            prop_assert_eq!(serde_json::from_str::<ParentName>(&json).unwrap(), name);
            if let Ok(name) = text.parse::<ParentName>() {
                prop_assert_eq!(name.to_string(), text);
            }
        }

        /// Addresses of one PCI domain sort like their texts.
        #[test]
        fn addresses_are_ordered_as_their_texts(
            domain in 0u32..0x10000, buses: [u8; 2], slots in [0u8..32, 0u8..32],
        ) {
            let name = |at: usize| ParentName::from(
                PciAddress::new(domain, buses[at], slots[at], 0).unwrap(),
            );
            let by_text = name(0).to_string().cmp(&name(1).to_string());
            prop_assert_eq!(name(0).cmp(&name(1)), by_text);
            prop_assert_eq!(name(0).cmp(&"mtty".parse().unwrap()), Ordering::Less);
        }
    }
}
