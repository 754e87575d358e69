//! Signs that the firmware or the kernel had no room for a card or its virtual functions.

use super::{
    Check, Findings, Looks, Severity, Trouble, boot_loader, iommu,
    view::{View, attribute, says, some},
};
use crate::{
    device::{link_name, optional},
    model::PciAddress,
};

const TOTAL: &str = "sriov_totalvfs";
const ENABLED: &str = "sriov_numvfs";

/// The physical functions that can have virtual functions, with how many.
fn physical(view: &View<'_>) -> Result<Vec<(PciAddress, u64)>, Trouble> {
    let mut found = Vec::new();
    for function in view.functions()? {
        if let Some(total) = view.number(&attribute(function, TOTAL))? {
            found.push((function, total));
        }
    }
    Ok(found)
}

pub const OFF: Check = Check {
    id: "sriov-off",
    severity: Severity::Warning,
    about: "a card with SR-IOV may have no virtual functions",
    explanation: "The card has the SR-IOV capability, but allows no virtual functions. For most \
        cards SR-IOV has to be on in two places: in the firmware's setup ('SR-IOV Support'), and \
        in the card's own firmware, with its maker's tool (mlxconfig for NVIDIA's network cards, \
        displaymodeselector for some of NVIDIA's workstation GPUs, bnxtnvm, or the card's boot \
        menu).",
    look: Looks::At(off),
};

fn off(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for (function, total) in physical(view)? {
        if total == 0 {
            found.add(
                format!("{function} has SR-IOV but allows no virtual functions"),
                [says(&attribute(function, TOTAL), 0)],
                "turn SR-IOV on in the firmware's setup and in the card's own settings, then \
                 reboot the host",
                [],
            );
        }
    }
    Ok(())
}

pub const FEWER: Check = Check {
    id: "sriov-fewer-functions",
    severity: Severity::Error,
    about: "a card has fewer virtual functions than it says are enabled",
    explanation: "The kernel has enabled virtual functions, but not all of them have appeared. The \
        usual reasons are in the firmware's setup: ARI is off, or there is no room for the \
        functions ('Above 4G Decoding' is off, or 'PCI bus numbers' are too few). The parameter \
        'pci=realloc' lets the kernel place the devices again.",
    look: Looks::At(fewer),
};

fn fewer(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for (function, _) in physical(view)? {
        let path = attribute(function, ENABLED);
        let Some(enabled) = view.number(&path)? else {
            continue;
        };
        let directory = format!("{}/{function}", crate::device::PCI_DEVICES);
        let names = view.list(&directory)?;
        let there = names
            .iter()
            .filter(|name| name.starts_with("virtfn"))
            .count();
        if u64::try_from(there).unwrap_or(u64::MAX) < enabled {
            let change = boot_loader::add(view, "pci=realloc");
            found.add(
                format!("{function} has only {there} of its {enabled} virtual functions"),
                [
                    says(&path, enabled),
                    says(&format!("{directory}/virtfn*"), there),
                ],
                format!(
                    "turn on ARI, SR-IOV and 'Above 4G Decoding' in the firmware's setup; if they \
                     are on, {}",
                    change.advice
                ),
                change.commands,
            );
        }
    }
    Ok(())
}

pub const NO_ROOM: Check = Check {
    id: "bars-unassigned",
    severity: Severity::Warning,
    about: "a card, or its virtual functions, have no place in the address space",
    explanation: "Each card asks for ranges of addresses (BARs) for its memory. If a range has no \
        place, the card does not work; if the range of its virtual functions has none, they \
        cannot be enabled ('not enough MMIO resources for SR-IOV'). GPUs ask for many GiB, which \
        fit only above 4 GiB: 'Above 4G Decoding' in the firmware's setup must be on, sometimes \
        with a larger 'MMIO High Size'. The parameter 'pci=realloc' lets the kernel place the \
        devices again.",
    look: Looks::At(no_room),
};

/// A line of `resource` that asks for memory and has no place: `IORESOURCE_UNSET`, or an address
/// of zero (kernel `include/linux/ioport.h`).
fn is_unplaced(line: &str) -> bool {
    const MEMORY: u64 = 0x200;
    const UNSET: u64 = 0x2000_0000;
    let mut numbers = line.split_ascii_whitespace().map(|word| {
        let digits = word.trim_start_matches("0x");
        u64::from_str_radix(digits, 16).unwrap_or_default()
    });
    let (start, end) = (numbers.next().unwrap_or(1), numbers.next().unwrap_or(0));
    let flags = numbers.next().unwrap_or_default();
    flags & MEMORY != 0 && (flags & UNSET != 0 || (start == 0 && end > 0))
}

fn no_room(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const OF_THE_CARD: usize = 6;
    const ROM: usize = 6;
    for function in view.functions()? {
        let path = attribute(function, "resource");
        let Some(text) = view.read(&path)? else {
            continue;
        };
        let unplaced: Vec<(usize, &str)> = text
            .lines()
            .enumerate()
            // Option ROMs have no place on many healthy hosts.
            .filter(|(number, line)| *number != ROM && is_unplaced(line))
            .collect();
        let Some(&(number, line)) = unplaced.first() else {
            continue;
        };
        if !iommu::is_endpoint(view, function)? {
            continue;
        }
        let what = match number < OF_THE_CARD {
            true => format!("{function} has no place in the address space for its BAR {number}"),
            false => {
                format!("{function} has no place in the address space for its virtual functions")
            }
        };
        let change = boot_loader::add(view, "pci=realloc");
        found.add(
            what,
            [says(&format!("{path}, line {}", number + 1), line)],
            format!(
                "turn on 'Above 4G Decoding' in the firmware's setup; if it is on, {}",
                change.advice
            ),
            change.commands,
        );
    }
    Ok(())
}

pub const BUS_NUMBERS: Check = Check {
    id: "bus-numbers-short",
    severity: Severity::Warning,
    about: "the bus numbers behind a bridge do not suffice for a card's virtual functions",
    explanation: "Virtual functions get addresses of their own, after the card's, and many of them \
        reach into the next bus numbers. The firmware gives each bridge a range of bus numbers at \
        boot. If the range is too small, the kernel refuses to enable the functions that lie \
        beyond it. ARI in the firmware's setup puts more functions on one bus; \
        'pci=assign-busses' lets the kernel hand out bus numbers itself.",
    look: Looks::At(bus_numbers),
};

/// The number of the bus that the card's last virtual function is on.
fn last_bus(function: PciAddress, [total, offset, stride]: [u64; 3]) -> Option<u64> {
    const PER_BUS: u64 = 256;
    let name = function.to_string();
    let mut parts = name.split([':', '.']).skip(1);
    let mut number = || u64::from_str_radix(parts.next()?, 16).ok();
    let (bus, slot, part) = (number()?, number()?, number()?);
    let own = bus * PER_BUS + slot * 8 + part;
    let last = stride.checked_mul(total.checked_sub(1)?)?;
    Some(own.checked_add(offset)?.checked_add(last)? / PER_BUS)
}

fn bus_numbers(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for (function, total) in physical(view)? {
        let number = |name: &str| view.number(&attribute(function, name));
        let (Some(offset), Some(stride)) = (number("sriov_offset")?, number("sriov_stride")?)
        else {
            continue;
        };
        // The bridge is the directory above the card's.
        let path = format!("{}/{function}", crate::device::PCI_DEVICES);
        let Some(directory) = optional(view_link(view, &path))? else {
            continue;
        };
        let mut above = directory.rsplit('/').skip(1);
        let Some(bridge) = above
            .next()
            .and_then(|name| name.parse::<PciAddress>().ok())
        else {
            continue;
        };
        let limit = attribute(bridge, "subordinate_bus_number");
        let (Some(most), Some(last)) = (
            view.number(&limit)?,
            last_bus(function, [total, offset, stride]),
        ) else {
            continue;
        };
        if last > most {
            let change = boot_loader::add(view, "pci=assign-busses");
            found.add(
                format!(
                    "the last virtual function of {function} would be on bus {last:#04x}, but its \
                     bridge {bridge} has buses up to {most:#04x}"
                ),
                [
                    says(&limit, most),
                    says(
                        &attribute(function, "sriov_{totalvfs,offset,stride}"),
                        format!("{total}, {offset}, {stride}"),
                    ),
                ],
                format!(
                    "turn on ARI in the firmware's setup; if it is on, {}",
                    change.advice
                ),
                change.commands,
            );
        }
    }
    Ok(())
}

fn view_link(view: &View<'_>, path: &str) -> std::io::Result<String> {
    use crate::device::Sysfs;
    let target = view.host.read_link(path);
    target.map_err(|error| crate::device::at(path, &error))
}

pub const NO_ARI: Check = Check {
    id: "ari-off",
    severity: Severity::Warning,
    about: "ARI is off, so a card's virtual functions need many bus numbers",
    explanation: "Alternative Routing-ID Interpretation (ARI) lets one card have up to 256 functions \
        on its bus instead of 8. Cards with SR-IOV use it for their virtual functions. Without it \
        there are fewer of them, or none. ARI is a setting of the firmware ('ARI Support' or \
        'PCIe ARI'), and the bridge above the card has to have it too.",
    look: Looks::At(no_ari),
};

fn no_ari(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const WITHOUT: u64 = 7;
    let mut cards = Vec::new();
    for (function, total) in physical(view)? {
        let path = attribute(function, "ari_enabled");
        if total > WITHOUT && view.number(&path)? == Some(0) {
            cards.push((function, path, total));
        }
    }
    if cards.is_empty() {
        return Ok(());
    }
    let names: Vec<PciAddress> = cards.iter().map(|(function, ..)| *function).collect();
    let evidence = cards.iter().map(|(function, path, total)| {
        let total = says(&attribute(*function, TOTAL), total);
        format!("{}; {total}", says(path, 0))
    });
    found.add(
        format!("ARI is off above {}", some(&names)),
        evidence,
        "turn on ARI in the firmware's setup; it may need another slot too, below a bridge with \
         ARI",
        ["lspci -vv | grep -E '^[0-9a-f]|ARI'".to_owned()],
    );
    Ok(())
}

/// The driver's name of a link, for evidence.
pub fn driver_link(view: &View<'_>, function: PciAddress) -> Result<String, Trouble> {
    let path = attribute(function, "driver");
    let name = optional(link_name(view.host, &path))?;
    Ok(says(&path, name.as_deref().unwrap_or("none")))
}
