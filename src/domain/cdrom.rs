//! The CD-ROM with a pool's guest drivers: its free bus and target in a domain, its
//! XML, and how it is recognised later. This module decides from the definition alone;
//! the hook fills the drive.

use std::{collections::BTreeSet, fmt::Write as _};

use super::{
    DomainDef, DrivePosition,
    definition::Disk,
    error::{DomainError, Problem},
};
use crate::model::DomainUuid;

/// The CD-ROM's name among a domain's devices. No request may have this name.
pub(super) const CDROM_NAME: &str = "guest-drivers";

/// The CD-ROM's alias.
pub const CDROM_ALIAS: &str = "ua-vgpu-guest-drivers";

/// The directory of the ISO paths, one for each domain.
pub const MEDIA_DIRECTORY: &str = "/var/lib/virt-vgpu/media";

/// The path that is always the source of the domain's CD-ROM. The hook puts an ISO
/// there and removes it.
#[must_use]
pub fn media_path(domain: DomainUuid) -> String {
    format!("{MEDIA_DIRECTORY}/{domain}.iso")
}

/// A CD-ROM that fits into a domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CdRom {
    /// The target, as in `sdb`.
    pub target: String,
    /// The bus: `sata`, `ide`, `scsi` or `usb`.
    pub bus: &'static str,
    /// The `<disk>` to attach.
    pub xml: String,
}

/// A bus that a CD-ROM can be on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bus {
    Ide,
    Sata,
    Scsi,
    Usb,
}

impl Bus {
    const fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::Sata => "sata",
            Self::Scsi => "scsi",
            Self::Usb => "usb",
        }
    }

    /// libvirt wants the prefix that fits the bus
    /// (`virDomainDiskDefDstValidate`, `virDomainDiskBusTypeToString`).
    const fn target_prefix(self) -> &'static str {
        match self {
            Self::Ide => "hd",
            Self::Sata | Self::Scsi | Self::Usb => "sd",
        }
    }

    /// The place of the `index`-th drive. libvirt derives it from the target's name
    /// (`virDomainDiskDefAssignAddress`): two IDE buses of two drives, six SATA drives,
    /// 16 SCSI units of which unit 7 is the controller itself. A USB drive has no such
    /// place.
    fn position(self, index: u32) -> Option<DrivePosition> {
        let (controller, bus, unit) = match self {
            Self::Ide => (index / 4, index % 4 / 2, index % 2),
            Self::Sata => (index / 6, 0, index % 6),
            Self::Scsi => (index / 15, 0, index % 15 + u32::from(index % 15 >= 7)),
            Self::Usb => return None,
        };
        Some(DrivePosition {
            controller,
            bus,
            target: 0,
            unit,
        })
    }

    /// How many drives to look at before giving up. The i440fx has only two IDE
    /// channels; libvirt adds other controllers as needed.
    const fn drives(self) -> u32 {
        match self {
            Self::Ide => 4,
            Self::Sata | Self::Scsi | Self::Usb => 26 * 27,
        }
    }
}

/// The CD-ROM for a domain that does not have one of ours yet.
///
/// # Errors
/// When the domain has a CD-ROM of ours, or no target name is left.
pub fn cdrom(domain: &DomainDef, iso_path: &str) -> Result<CdRom, DomainError> {
    if let Some(disk) = find_cdrom(domain) {
        let target = disk.target.clone();
        return Err(DomainError::new(Problem::CdRomPresent(target)));
    }
    let buses = buses(domain);
    let (bus, target, position) = buses
        .iter()
        .find_map(|bus| free(domain, *bus).map(|(target, position)| (*bus, target, position)))
        .ok_or_else(|| {
            let last = buses.last().copied().unwrap_or(Bus::Sata);
            DomainError::new(Problem::NoFreeTarget(last.name()))
        })?;
    Ok(CdRom {
        xml: disk_xml(Some(iso_path), bus.name(), &target, position, true),
        target,
        bus: bus.name(),
    })
}

/// Our CD-ROM in the domain. It is found by its alias, or by its source if the alias
/// was lost.
#[must_use]
pub fn find_cdrom(domain: &DomainDef) -> Option<&Disk> {
    let path = media_path(domain.uuid);
    let cdroms = || domain.disks.iter().filter(|disk| disk.is_cdrom());
    cdroms()
        .find(|disk| disk.alias.as_deref() == Some(CDROM_ALIAS))
        .or_else(|| cdroms().find(|disk| disk.source.as_ref() == Some(&path)))
}

/// The XML that detaches our CD-ROM; `None` when the domain has none. libvirt compares
/// only the target (`virDomainDiskRemoveByName`).
#[must_use]
pub fn detach_cdrom(domain: &DomainDef) -> Option<String> {
    let disk = find_cdrom(domain)?;
    let path = media_path(domain.uuid);
    let source = disk.source.as_deref().unwrap_or(&path);
    let bus = disk.bus.as_deref().unwrap_or("sata");
    Some(disk_xml(
        Some(source),
        bus,
        &disk.target,
        disk.position,
        false,
    ))
}

/// The XML that changes the medium of our CD-ROM in a running domain: to the file at that path, or
/// to none. libvirt finds the drive by its target.
#[must_use]
pub fn cdrom_with(disk: &Disk, source: Option<&str>) -> String {
    let bus = disk.bus.as_deref().unwrap_or("sata");
    disk_xml(source, bus, &disk.target, disk.position, false)
}

/// The buses to try, best first. Every guest that boots from a CD can read from any of
/// them; the machine type decides which ones exist.
fn buses(domain: &DomainDef) -> &'static [Bus] {
    let machine = domain.machine.as_deref().unwrap_or_default();
    let starts = |prefixes: &[&str]| prefixes.iter().any(|prefix| machine.starts_with(prefix));
    let has_scsi = || domain.controllers.iter().any(|one| one.kind == "scsi");
    let has_usb_cdrom = || {
        let on_usb = |disk: &Disk| disk.is_cdrom() && disk.bus.as_deref() == Some("usb");
        domain.disks.iter().any(on_usb)
    };
    match domain.arch.as_deref() {
        Some("x86_64" | "i686") | None => {
            let q35 = machine == "q35" || starts(&["pc-q35-"]);
            let i440fx = !q35
                && (matches!(machine, "pc" | "isapc")
                    || starts(&["pc-i440fx-", "pc-0.", "pc-1.", "rhel"]));
            // The i440fx has IDE built in, and libvirt gives it an AHCI
            // controller when a disk wants SATA. The q35 has AHCI and cannot
            // have IDE ("IDE controllers are unsupported").
            if i440fx {
                &[Bus::Ide, Bus::Sata]
            } else {
                &[Bus::Sata]
            }
        }
        // Arm's and RISC-V's virt, pseries and s390x have neither IDE nor SATA.
        // For SCSI libvirt adds a controller of the machine's own kind
        // (virtio-scsi, on pseries spapr-vscsi). A guest that has its CD-ROMs on
        // USB and no SCSI may lack the driver for it, as Windows on Arm does.
        Some(_) if !has_scsi() && has_usb_cdrom() => &[Bus::Usb, Bus::Scsi],
        Some(_) => &[Bus::Scsi],
    }
}

/// The first free target name and the first free place on that bus. The two are
/// searched separately: a name is in use if any disk of the domain has it, but a place
/// only if it is on the same bus. A high drive letter must not cost another controller.
fn free(domain: &DomainDef, bus: Bus) -> Option<(String, Option<DrivePosition>)> {
    let target = (0..26 * 27)
        .map(|index| format!("{}{}", bus.target_prefix(), letters(index)))
        .find(|name| domain.disks.iter().all(|disk| disk.target != *name))?;
    if bus == Bus::Usb {
        return Some((target, None));
    }
    let mut taken: BTreeSet<_> = domain
        .disks
        .iter()
        .filter(|disk| disk.bus.as_deref() == Some(bus.name()))
        .filter_map(|disk| disk.position.or_else(|| implied(bus, &disk.target)))
        .collect();
    if bus == Bus::Scsi {
        taken.extend(&domain.scsi_hostdevs);
    }
    let position = (0..bus.drives())
        .filter_map(|index| bus.position(index))
        .find(|position| !taken.contains(position))?;
    Some((target, Some(position)))
}

/// The place that libvirt gives to a disk without an address.
fn implied(bus: Bus, target: &str) -> Option<DrivePosition> {
    let letters = target.strip_prefix(bus.target_prefix())?;
    let index = letters.bytes().try_fold(0u32, |index, letter| {
        let digit = letter.is_ascii_lowercase().then(|| letter - b'a' + 1)?;
        index.checked_mul(26)?.checked_add(digit.into())
    })?;
    bus.position(index.checked_sub(1)?)
}

/// Drive letters in libvirt's order: a … z, aa … zz.
fn letters(index: u32) -> String {
    let letter = |number: u32| char::from_u32('a' as u32 + number % 26).unwrap_or('a');
    match (index / 26).checked_sub(1) {
        None => letter(index).to_string(),
        Some(first) => [letter(first), letter(index)].iter().collect(),
    }
}

fn disk_xml(
    source: Option<&str>,
    bus: &str,
    target: &str,
    position: Option<DrivePosition>,
    with_alias: bool,
) -> String {
    let mut xml = String::from(
        "<disk type='file' device='cdrom'>\n  \
           <driver name='qemu' type='raw'/>\n",
    );
    if let Some(path) = source {
        let escaped = quick_xml::escape::escape(path);
        let _ = write!(
            xml,
            "  <source file='{escaped}' startupPolicy='optional'>\n    \
                 <seclabel model='dac' relabel='no'/>\n  \
               </source>\n"
        );
    }
    let _ = write!(
        xml,
        "  <target dev='{target}' bus='{bus}'/>\n  \
           <readonly/>\n"
    );
    if with_alias {
        let _ = writeln!(xml, "  <alias name='{CDROM_ALIAS}'/>");
    }
    if let Some(position) = position {
        let DrivePosition {
            controller,
            bus,
            target,
            unit,
        } = position;
        let _ = writeln!(
            xml,
            "  <address type='drive' controller='{controller}' bus='{bus}' target='{target}' unit='{unit}'/>"
        );
    }
    xml.push_str("</disk>");
    xml
}

#[cfg(test)]
#[path = "cdrom_tests.rs"]
mod tests;
