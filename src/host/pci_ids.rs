//! Names of PCI vendors, devices and classes from the distribution's `pci.ids`.

use std::cell::OnceCell;

use super::Host;
use crate::device::pci::PciNames;

/// Where distributions keep the list (Debian, Fedora; `pciutils`' own place).
const PLACES: [&str; 3] = [
    "/usr/share/misc/pci.ids",
    "/usr/share/hwdata/pci.ids",
    "/usr/share/pci.ids",
];

/// The list, read when the first name is asked for.
#[derive(Debug)]
pub struct PciIds<'a> {
    host: &'a Host,
    text: OnceCell<String>,
}

impl<'a> PciIds<'a> {
    /// The list of that host.
    #[must_use]
    pub fn new(host: &'a Host) -> Self {
        Self {
            host,
            text: OnceCell::new(),
        }
    }

    fn text(&self) -> &str {
        self.text.get_or_init(|| {
            let bytes = PLACES
                .iter()
                .find_map(|place| std::fs::read(self.host.path(place)).ok());
            String::from_utf8_lossy(&bytes.unwrap_or_default()).into_owned()
        })
    }

    /// The name of a class of devices, given by its first two bytes, as "VGA compatible
    /// controller".
    #[must_use]
    pub fn class(&self, base: u8, sub: u8) -> Option<String> {
        let start = format!("\t{sub:02x}  ");
        let lines: Vec<&str> = self.section(format!("C {base:02x}  ")).collect();
        let of_sub = lines.iter().find_map(|line| line.strip_prefix(&start));
        let of_base = || Some(lines.first()?.split_at_checked("C 00  ".len())?.1);
        Some(of_sub.or_else(of_base)?.trim().to_owned())
    }

    /// The lines of one vendor: its own, then its devices'.
    fn vendor_lines(&self, vendor: u16) -> impl Iterator<Item = &str> {
        self.section(format!("{vendor:04x}  "))
    }

    /// The line with that start, and the indented ones below it.
    fn section(&self, start: String) -> impl Iterator<Item = &str> {
        let mut lines = self
            .text()
            .lines()
            .skip_while(move |line| !line.starts_with(&start));
        let first = lines.next();
        first
            .into_iter()
            .chain(lines.take_while(|line| line.starts_with(['\t', '#']) || line.is_empty()))
    }
}

impl PciNames for PciIds<'_> {
    fn vendor(&self, vendor: u16) -> Option<String> {
        let line = self.vendor_lines(vendor).next()?;
        Some(line.split_once("  ")?.1.trim().to_owned())
    }

    fn device(&self, vendor: u16, device: u16) -> Option<String> {
        let start = format!("\t{device:04x}  ");
        let line = self
            .vendor_lines(vendor)
            .find_map(|line| line.strip_prefix(&start))?;
        Some(line.trim().to_owned())
    }

    fn host(&self) -> Option<String> {
        if !self.host.is_real() {
            return std::fs::read_to_string(self.host.path("/etc/hostname"))
                .ok()
                .map(|name| name.trim().to_owned());
        }
        nix::unistd::gethostname().ok()?.into_string().ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_found_under_their_vendor_only() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/share/misc")).unwrap();
        let list = "# comment\n10de  NVIDIA Corporation\n\t1eb8  TU104GL [Tesla T4]\n\t\t10de 12a2  Tesla T4\n10df  Emulex Corporation\n\t26b9  Not an L40S\n";
        std::fs::write(root.path().join("usr/share/misc/pci.ids"), list).unwrap();
        let host = Host::new(root.path());
        let names = PciIds::new(&host);
        assert_eq!(names.vendor(0x10de).as_deref(), Some("NVIDIA Corporation"));
        assert_eq!(
            names.device(0x10de, 0x1eb8).as_deref(),
            Some("TU104GL [Tesla T4]")
        );
        assert_eq!(names.device(0x10de, 0x26b9), None);
        assert_eq!(names.vendor(0x1234), None);
    }

    #[test]
    fn a_class_has_the_name_of_its_second_byte_or_of_its_first() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("usr/share/misc")).unwrap();
        let list = "8086  Intel Corporation\n\t0300  Not a class\nC 02  Network controller\n\t80  Network controller\nC 03  Display controller\n\t00  VGA compatible controller\n\t\t00  VGA controller\n\t02  3D controller\nC 04  Multimedia controller\n";
        std::fs::write(root.path().join("usr/share/misc/pci.ids"), list).unwrap();
        let host = Host::new(root.path());
        let names = PciIds::new(&host);
        for (base, sub, wanted) in [
            (3, 0, Some("VGA compatible controller")),
            (3, 2, Some("3D controller")),
            (3, 0x80, Some("Display controller")),
            (4, 0, Some("Multimedia controller")),
            (0x80, 0x86, None),
        ] {
            assert_eq!(names.class(base, sub).as_deref(), wanted, "{base} {sub}");
        }
    }
}
