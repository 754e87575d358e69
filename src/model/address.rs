//! PCI addresses in sysfs form.

use std::{fmt, str::FromStr};

use super::{InvalidName, serde_as_text};

/// A PCI function: domain, bus, slot, function.
///
/// Shown as sysfs shows it (`0000:3b:00.4`). Parsing also takes NVIDIA's form
/// with an eight-digit, upper-case domain (`00000000:3B:00.4`) and libvirt's
/// short form without a domain (`3b:00.4`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PciAddress {
    domain: u32,
    bus: u8,
    slot: u8,
    function: u8,
}

impl PciAddress {
    /// Its domain, its bus and its slot: those of all functions of its card.
    #[must_use]
    pub fn slot(self) -> (u32, u8, u8) {
        (self.domain, self.bus, self.slot)
    }

    /// Its domain and its bus.
    #[must_use]
    pub fn bus(self) -> (u32, u8) {
        (self.domain, self.bus)
    }

    const WANTED: &'static str = "a PCI address (dddd:bb:ss.f, as in 0000:3b:00.0)";

    /// Checks the ranges that PCI sets: slot below 32, function below 8.
    #[must_use]
    pub fn new(domain: u32, bus: u8, slot: u8, function: u8) -> Option<Self> {
        (slot < 32 && function < 8).then_some(Self {
            domain,
            bus,
            slot,
            function,
        })
    }
}

impl PciAddress {
    /// The four numbers separately, as in libvirt's XML.
    #[must_use]
    pub fn parts(self) -> (u32, u8, u8, u8) {
        (self.domain, self.bus, self.slot, self.function)
    }
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            domain,
            bus,
            slot,
            function,
        } = self;
        f.pad(&format!("{domain:04x}:{bus:02x}:{slot:02x}.{function}"))
    }
}

impl FromStr for PciAddress {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let invalid = || InvalidName::new(Self::WANTED, text);
        let hex = |digits: &str, lengths: std::ops::RangeInclusive<usize>| {
            (lengths.contains(&digits.len()) && digits.bytes().all(|b| b.is_ascii_hexdigit()))
                .then(|| u32::from_str_radix(digits, 16).ok())
                .flatten()
                .ok_or_else(invalid)
        };
        let (rest, function) = text.rsplit_once('.').ok_or_else(invalid)?;
        let (rest, slot) = rest.rsplit_once(':').ok_or_else(invalid)?;
        let (domain, bus) = match rest.rsplit_once(':') {
            Some((domain, bus)) => (hex(domain, 4..=8)?, bus),
            None => (0, rest),
        };
        let byte = |value: u32| u8::try_from(value).map_err(|_| invalid());
        Self::new(
            domain,
            byte(hex(bus, 2..=2)?)?,
            byte(hex(slot, 2..=2)?)?,
            byte(hex(function, 1..=1)?)?,
        )
        .ok_or_else(invalid)
    }
}

serde_as_text!(PciAddress);

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_three_written_forms_are_one_address() {
        let wanted = PciAddress::new(0, 0x3b, 0, 4).unwrap();
        for text in ["0000:3b:00.4", "00000000:3B:00.4", "3b:00.4"] {
            assert_eq!(text.parse::<PciAddress>().unwrap(), wanted, "{text}");
        }
        assert_eq!(wanted.to_string(), "0000:3b:00.4");
    }

    #[test]
    fn what_is_out_of_range_or_malformed_is_refused() {
        for text in [
            "",
            ".",
            ":",
            "0000:3b:00",
            "0000:3b:20.0",
            "0000:3b:00.8",
            "0000:3b:0.0",
            "000:3b:00.0",
            "0000:3b:00.00",
            "0000:zz:00.0",
            "+000:3b:00.0",
            " 0000:3b:00.0",
            "0000:3b:00.0\n",
            "0:0000:3b:00.0",
            "123456789:3b:00.0",
        ] {
            assert!(text.parse::<PciAddress>().is_err(), "{text:?}");
        }
        assert_eq!(
            "3b".parse::<PciAddress>().unwrap_err().to_string(),
            "'3b' is not a PCI address (dddd:bb:ss.f, as in 0000:3b:00.0)"
        );
    }

    proptest! {
        #[test]
        fn printing_and_parsing_round_trip(domain: u32, bus: u8, slot in 0u8..32, function in 0u8..8) {
            let address = PciAddress::new(domain, bus, slot, function).unwrap();
            prop_assert_eq!(address.to_string().parse::<PciAddress>().unwrap(), address);
        }

        #[test]
        fn no_text_panics(text: String) {
            let _ = text.parse::<PciAddress>();
        }
    }
}
