//! Names of PCI functions for people. udev's hardware database knows cards, and may have
//! entries of the administrator's; what it does not know may be in `pci.ids`, which rules of
//! pools compare with.

use crate::{
    device::{pci::PciNames, read},
    host::{Host, HwdbNames, PciIds, UdevDatabase},
};

/// What the names are read from.
#[derive(Debug)]
pub(super) struct Names<'a> {
    host: &'a Host,
    pub(super) database: UdevDatabase,
    ids: &'a PciIds<'a>,
}

impl<'a> Names<'a> {
    pub(super) fn of(host: &'a Host, ids: &'a PciIds<'a>) -> Self {
        Self {
            host,
            database: UdevDatabase::of(host),
            ids,
        }
    }

    /// The names of the function with that directory.
    pub(super) fn at(&self, path: &str) -> HwdbNames {
        let text = |attribute: &str| read(self.host, &format!("{path}/{attribute}")).ok();
        let number = |attribute: &str| {
            let text = text(attribute)?;
            u32::from_str_radix(text.trim_start_matches("0x"), 16).ok()
        };
        let id = |attribute: &str| u16::try_from(number(attribute)?).ok();
        let names = text("modalias").map(|modalias| self.database.names(&modalias));
        let names = names.unwrap_or_default();
        let vendor = || self.ids.vendor(id("vendor")?);
        let device = || self.ids.device(id("vendor")?, id("device")?);
        let class = || {
            let [_, base, sub, _interface] = number("class")?.to_be_bytes();
            self.ids.class(base, sub)
        };
        HwdbNames {
            vendor: names.vendor.or_else(vendor),
            device: names.device.or_else(device),
            class: names.class.or_else(class),
        }
    }
}
