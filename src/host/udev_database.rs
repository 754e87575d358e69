//! What udev's databases say about the machine's PCI functions, for people: names from the
//! hardware database (hwdb(7)), and the properties that udev's rules gave them. A directory
//! that stands in for the machine has neither. Rules of pools do not use this: the hook reads
//! the same names without libudev, from `pci.ids`.

use std::{collections::BTreeMap, ffi::OsStr};

use libudev::{Device, Hwdb};

use super::Host;
use crate::model::PciAddress;

/// udev's databases.
pub struct UdevDatabase {
    hwdb: Option<Hwdb>,
    is_real: bool,
}

impl std::fmt::Debug for UdevDatabase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UdevDatabase")
            .field("has_hwdb", &self.hwdb.is_some())
            .finish_non_exhaustive()
    }
}

/// Names from the hardware database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HwdbNames {
    /// The vendor's.
    pub vendor: Option<String>,
    /// The device's; where the database knows the card, with the card's.
    pub device: Option<String>,
    /// That of the class, as "VGA compatible controller".
    pub class: Option<String>,
}

impl UdevDatabase {
    /// The databases of that host. A database that is not there knows nothing.
    #[must_use]
    pub fn of(host: &Host) -> Self {
        let is_real = host.is_real();
        Self {
            hwdb: is_real.then(Hwdb::new).and_then(Result::ok),
            is_real,
        }
    }

    /// The names of a device with that `modalias`.
    #[must_use]
    pub fn names(&self, modalias: &str) -> HwdbNames {
        // The crate panics if it cannot pass the text on.
        match &self.hwdb {
            Some(hwdb) if !modalias.contains('\0') => {
                let answers = hwdb.query(modalias);
                let answers = answers.map(|one| (one.name().to_owned(), one.value().to_owned()));
                HwdbNames::from_answers(answers)
            }
            _ => HwdbNames::default(),
        }
    }

    /// The properties of a function whose names begin with `ID_`: the kernel's own have other
    /// names.
    #[must_use]
    pub fn properties(&self, function: PciAddress) -> BTreeMap<String, String> {
        if !self.is_real {
            return BTreeMap::new();
        }
        let device = Device::from_subsystem_sysname("pci".to_owned(), function.to_string());
        let Ok(device) = device else {
            return BTreeMap::new();
        };
        let properties = device.properties();
        let text = |text: &OsStr| text.to_string_lossy().into_owned();
        properties
            .map(|one| (text(one.name()), text(one.value())))
            .filter(|(name, _)| name.starts_with("ID_"))
            .collect()
    }
}

impl HwdbNames {
    /// Reads the properties that the database has for a device. The name of a subclass says
    /// more than that of its class.
    fn from_answers<T: AsRef<OsStr>>(answers: impl Iterator<Item = (T, T)>) -> Self {
        let mut names = Self::default();
        let mut base_class = None;
        for (name, value) in answers {
            let place = match name.as_ref().as_encoded_bytes() {
                b"ID_VENDOR_FROM_DATABASE" => &mut names.vendor,
                b"ID_MODEL_FROM_DATABASE" => &mut names.device,
                b"ID_PCI_SUBCLASS_FROM_DATABASE" => &mut names.class,
                b"ID_PCI_CLASS_FROM_DATABASE" => &mut base_class,
                _ => continue,
            };
            let value = value.as_ref().to_string_lossy();
            let value = value.trim();
            // An administrator can blot a name out.
            *place = (!value.is_empty()).then(|| value.to_owned());
        }
        names.class = names.class.or(base_class);
        names
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(answers: &[(&str, &str)]) -> HwdbNames {
        HwdbNames::from_answers(answers.iter().copied())
    }

    fn names(vendor: &str, device: &str, class: &str) -> HwdbNames {
        let name = |name: &str| (!name.is_empty()).then(|| name.to_owned());
        HwdbNames {
            vendor: name(vendor),
            device: name(device),
            class: name(class),
        }
    }

    #[test]
    fn answers_are_read_by_their_names() {
        let vendor = ("ID_VENDOR_FROM_DATABASE", "NVIDIA Corporation");
        let model = ("ID_MODEL_FROM_DATABASE", "AD102GL [L40S]");
        let class = ("ID_PCI_CLASS_FROM_DATABASE", "Display controller");
        let subclass = ("ID_PCI_SUBCLASS_FROM_DATABASE", "3D controller");
        let interface = ("ID_PCI_INTERFACE_FROM_DATABASE", "VGA controller");
        let all = [interface, subclass, vendor, class, model];
        let wanted = names("NVIDIA Corporation", "AD102GL [L40S]", "3D controller");
        assert_eq!(read(&all), wanted);
        let wanted = names("NVIDIA Corporation", "", "Display controller");
        assert_eq!(read(&[class, vendor]), wanted);
        assert_eq!(read(&[interface]), HwdbNames::default());
        assert_eq!(read(&[]), HwdbNames::default());
    }

    #[test]
    fn a_name_can_be_blotted_out_and_set_again() {
        let is = |name| ("ID_MODEL_FROM_DATABASE", name);
        assert_eq!(read(&[is("X"), is(" ")]), HwdbNames::default());
        assert_eq!(read(&[is(""), is(" Y ")]), names("", "Y", ""));
    }

    #[test]
    fn a_directory_has_no_database() {
        let root = tempfile::tempdir().unwrap();
        let database = UdevDatabase::of(&Host::new(root.path()));
        let t4 = "pci:v000010DEd00001EB8sv000010DEsd000012A2bc03sc02i00";
        assert_eq!(database.names(t4), HwdbNames::default());
        let first = "0000:00:00.0".parse().unwrap();
        assert_eq!(database.properties(first), BTreeMap::new());
    }

    #[test]
    fn a_text_that_libudev_cannot_take_has_no_names() {
        let database = UdevDatabase::of(&Host::new("/"));
        assert_eq!(database.names("pci:\0"), HwdbNames::default());
    }
}
