//! Names of PCI vendors and devices from the distribution's `pci.ids`.

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

    /// The lines of one vendor: its own, then its devices'.
    fn vendor_lines(&self, vendor: u16) -> impl Iterator<Item = &str> {
        let start = format!("{vendor:04x}  ");
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
}
