//! The IOMMU, interrupt remapping, groups and `vfio-pci`.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Check, Findings, Looks, Severity, Trouble, boot_loader,
    view::{COMMAND_LINE, View, lacks, says, some},
};
use crate::{
    device::{iommu, link_name, optional, pci},
    kind::Subject,
    model::PciAddress,
};

pub const OFF: Check = Check {
    id: "iommu-off",
    severity: Severity::Error,
    about: "the IOMMU is off in the firmware or on the kernel's command line",
    explanation: "Without an IOMMU a device could write to all of the host's memory, so the kernel \
        gives no device to a VM. The IOMMU must be on in two places. In the firmware's setup it is \
        called VT-d (Intel) or AMD-Vi or IOMMU (AMD); if it is on, the firmware has an ACPI table \
        DMAR (Intel) or IVRS (AMD). Kernels for Intel also need 'intel_iommu=on' on their command \
        line, unless they were built with it; kernels for AMD use the IOMMU unless \
        'amd_iommu=off' or 'iommu=off' turns it off. Mediated devices that a driver makes in \
        software need no IOMMU.",
    look: Looks::At(off),
};

/// The processor's maker and its words.
struct Maker {
    firmware: &'static str,
    table: &'static str,
    on: &'static str,
    off: &'static [&'static str],
    name: &'static str,
}

const INTEL: Maker = Maker {
    name: "Intel",
    firmware: "VT-d",
    table: "/sys/firmware/acpi/tables/DMAR",
    on: "intel_iommu=on",
    off: &["intel_iommu=off", "iommu=off"],
};

const AMD: Maker = Maker {
    name: "AMD",
    firmware: "AMD-Vi",
    table: "/sys/firmware/acpi/tables/IVRS",
    on: "amd_iommu=on",
    off: &["amd_iommu=off", "iommu=off"],
};

const CPU: &str = "/proc/cpuinfo";

fn maker(view: &View<'_>) -> Result<Option<&'static Maker>, Trouble> {
    let text = view.read(CPU)?.unwrap_or_default();
    Ok(match text {
        text if text.contains("GenuineIntel") => Some(&INTEL),
        text if text.contains("AuthenticAMD") || text.contains("HygonGenuine") => Some(&AMD),
        _ => None,
    })
}

fn off(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let pools = view.pools();
    let is_in_software = |subject| subject == Subject::Parent;
    let needs_none = !pools.is_empty() && pools.iter().all(|p| is_in_software(p.kind.subject()));
    if needs_none || iommu::is_on(view.host)? {
        return Ok(());
    }
    let no_groups = format!("{} has no groups", iommu::GROUPS);
    let Some(maker) = maker(view)? else {
        found.add(
            "the IOMMU is off",
            [
                no_groups,
                says(CPU, "neither an Intel nor an AMD processor"),
            ],
            "turn the IOMMU on in the firmware's setup, as the maker of the board describes it",
            [],
        );
        return Ok(());
    };
    let line = view.command_line()?;
    let turned_off: Vec<&String> = line
        .iter()
        .filter(|word| maker.off.contains(&word.as_str()))
        .collect();
    if let [first, ..] = turned_off.as_slice() {
        found.add(
            format!("the IOMMU is turned off by '{first}' on the kernel's command line"),
            [no_groups, says(COMMAND_LINE, first)],
            format!("remove '{first}' from the kernel's command line, then reboot the host"),
            [],
        );
        return Ok(());
    }
    let has_tables = view.exists("/sys/firmware/acpi/tables");
    if has_tables && !view.exists(maker.table) {
        let is_vm = view
            .read(CPU)?
            .is_some_and(|text| has_flag(&text, "hypervisor"));
        let what = match is_vm {
            true => "this host is a VM without an IOMMU".to_owned(),
            false => format!("the IOMMU ({}) is off in the firmware", maker.firmware),
        };
        let advice = match is_vm {
            true => "give the VM a virtual IOMMU (<iommu> in libvirt's XML)".to_owned(),
            false => format!(
                "turn {} on in the firmware's setup ({} processor), then look again: the kernel's \
                 command line may need '{}' too",
                maker.firmware, maker.name, maker.on
            ),
        };
        found.add(what, [no_groups, lacks(maker.table)], advice, []);
        return Ok(());
    }
    if line.iter().any(|word| word == maker.on) {
        found.add(
            "the IOMMU is off although the kernel's command line turns it on",
            [no_groups, says(COMMAND_LINE, maker.on)],
            format!(
                "see what the kernel says about it, and whether {} is on in the firmware's setup",
                maker.firmware
            ),
            ["journalctl -k -b -g 'DMAR|AMD-Vi|IOMMU'".to_owned()],
        );
        return Ok(());
    }
    let change = boot_loader::add(view, maker.on);
    found.add(
        format!(
            "the IOMMU is off: the kernel's command line has no '{}' ({} processor)",
            maker.on, maker.name
        ),
        [no_groups, says(COMMAND_LINE, line.join(" "))],
        change.advice,
        change.commands,
    );
    Ok(())
}

fn has_flag(cpuinfo: &str, flag: &str) -> bool {
    let mut lines = cpuinfo.lines().filter(|line| line.starts_with("flags"));
    lines.any(|line| line.split_ascii_whitespace().any(|word| word == flag))
}

pub const NO_REMAPPING: Check = Check {
    id: "interrupt-remapping-off",
    severity: Severity::Warning,
    about: "interrupts of devices are not remapped",
    explanation: "A device that a VM controls can send any interrupt to the host, unless the IOMMU \
        remaps its interrupts. Without remapping VFIO refuses to give devices to VMs, or gives \
        them only because 'allow_unsafe_interrupts' of the module vfio_iommu_type1 allows it. \
        Remapping is part of VT-d and AMD-Vi. It is off when the command line says 'nointremap' or \
        'intremap=off', or when the firmware has it off (often together with x2APIC).",
    look: Looks::At(no_remapping),
};

fn no_remapping(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const UNSAFE: &str = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts";
    if !iommu::is_on(view.host)? {
        return Ok(());
    }
    let line = view.command_line()?;
    let turned_off = line
        .iter()
        .find(|word| *word == "nointremap" || word.starts_with("intremap=off"));
    if let Some(word) = turned_off {
        found.add(
            format!("interrupt remapping is turned off by '{word}'"),
            [says(COMMAND_LINE, word)],
            format!("remove '{word}' from the kernel's command line, then reboot the host"),
            [],
        );
    }
    if view.read(UNSAFE)?.as_deref() == Some("Y") {
        found.add(
            "VFIO gives devices to VMs without interrupt remapping",
            [says(UNSAFE, "Y")],
            "if this host can remap interrupts, remove the option 'allow_unsafe_interrupts'; the \
             files that may set it are listed by this command",
            [
                "grep -rs allow_unsafe_interrupts /etc/modprobe.d /run/modprobe.d \
              /usr/lib/modprobe.d /proc/cmdline"
                    .to_owned(),
            ],
        );
    }
    Ok(())
}

pub const SHARED_GROUP: Check = Check {
    id: "iommu-group-shared",
    severity: Severity::Warning,
    about: "several cards are in one IOMMU group, because a bridge above them has no ACS",
    explanation: "The hardware can keep only whole IOMMU groups apart. Cards that share a group go \
        to one VM together or not at all. Groups get large where a PCI bridge or root port above \
        the cards does not have Access Control Services (ACS): then the cards can talk to each \
        other past the IOMMU. A slot that the processor drives itself often has a group of its \
        own; some firmware has a setting 'ACS Enable' or 'PCIe ARI/ACS'. The kernel patch \
        'pcie_acs_override' only hides the problem, and gives up the protection.",
    look: Looks::At(shared_group),
};

/// The slot of a card: the address without the function. A virtual function is of its card.
fn slot(view: &View<'_>, function: PciAddress) -> Result<String, Trouble> {
    let physical = optional(link_name(
        view.host,
        &super::view::attribute(function, "physfn"),
    ))?;
    let name = physical.unwrap_or_else(|| function.to_string());
    let slot = name.rsplit_once('.').map(|(slot, _)| slot.to_owned());
    Ok(slot.unwrap_or(name))
}

fn shared_group(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    for group in view.list(iommu::GROUPS)? {
        let mut cards: BTreeMap<String, BTreeSet<PciAddress>> = BTreeMap::new();
        for function in iommu::endpoints(view.host, &group)? {
            cards
                .entry(slot(view, function)?)
                .or_default()
                .insert(function);
        }
        // Devices of the first bus are the chipset's, and no cards.
        cards.retain(|slot, _| slot.split(':').nth(1) != Some("00"));
        if cards.len() < 2 {
            continue;
        }
        let slots: Vec<&String> = cards.keys().collect();
        let functions: Vec<&PciAddress> = cards.values().flatten().collect();
        found.add(
            format!(
                "the cards {} share IOMMU group {group}: they go to one VM together, or not at all",
                some(&slots)
            ),
            [says(
                &format!("{}/{group}/devices", iommu::GROUPS),
                some(&functions),
            )],
            "put one of the cards into another slot, or look for ACS in the firmware's setup; \
             this command shows how the cards are connected",
            ["lspci -tv".to_owned()],
        );
    }
    Ok(())
}

pub const NO_VFIO_PCI: Check = Check {
    id: "vfio-pci-missing",
    severity: Severity::Error,
    about: "the kernel module vfio-pci is neither loaded nor installed",
    explanation: "Whole PCI devices are bound to the driver vfio-pci while a VM has them, and vGPUs \
        use the same code in the kernel. virt-vgpu loads the module at boot \
        (/usr/lib/modules-load.d/virt-vgpu.conf). The module comes with the kernel; some \
        distributions have it in a package of its own (linux-modules-extra on Ubuntu, \
        kernel-modules on Fedora).",
    look: Looks::At(no_vfio_pci),
};

fn no_vfio_pci(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    const DRIVER: &str = "/sys/bus/pci/drivers/vfio-pci";
    let mut pools = view.pools().iter();
    if view.exists(DRIVER) || !pools.any(|pool| pool.kind.subject() == Subject::Function) {
        return Ok(());
    }
    let Some(release) = view.release()? else {
        return Ok(());
    };
    let modules = format!("/lib/modules/{release}/modules.dep");
    let Some(list) = view.read(&modules)? else {
        // Told by another check.
        return Ok(());
    };
    let has = |line: &str| {
        let file = line.split(':').next().unwrap_or_default();
        let name = file.rsplit('/').next().unwrap_or_default();
        name.starts_with("vfio-pci.ko")
    };
    if list.lines().any(has) {
        found.add(
            "vfio-pci is installed but not loaded",
            [lacks(DRIVER)],
            "load it; it is loaded at boot if systemd-modules-load.service runs",
            ["modprobe vfio-pci".to_owned()],
        );
    } else {
        found.add(
            "the kernel has no module vfio-pci",
            [lacks(DRIVER), says(&modules, "does not list vfio-pci.ko")],
            format!("install the kernel's further modules for {release}, or another kernel"),
            [],
        );
    }
    Ok(())
}

pub const MODULES_GONE: Check = Check {
    id: "kernel-modules-gone",
    severity: Severity::Warning,
    about: "the modules of the running kernel are no longer installed",
    explanation: "An upgrade has removed the modules of the kernel that still runs. What is loaded \
        works on, but nothing else can be loaded: neither vfio-pci nor a driver that a device is \
        given back to. A reboot starts the new kernel with its modules.",
    look: Looks::At(modules_gone),
};

fn modules_gone(view: &View<'_>, found: &mut Findings) -> Result<(), Trouble> {
    let Some(release) = view.release()? else {
        return Ok(());
    };
    let directory = format!("/lib/modules/{release}");
    let others = view.list("/lib/modules")?;
    if view.exists(&directory) || others.is_empty() {
        return Ok(());
    }
    found.add(
        format!("the modules of the running kernel {release} are not installed"),
        [lacks(&directory), says("/lib/modules", some(&others))],
        "reboot the host, so that it runs a kernel that is installed",
        [],
    );
    Ok(())
}

/// Whether the function is an endpoint: no bridge.
pub fn is_endpoint(view: &View<'_>, function: PciAddress) -> Result<bool, Trouble> {
    Ok(!pci::is_bridge(view.host, function)?)
}
