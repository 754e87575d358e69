//! What can be said about a PCI function before anything is done to it: whether it can be
//! handed out, and what goes with it.

use std::{cell::RefCell, collections::BTreeMap, io, rc::Rc};

use crate::{
    device::{
        PCI_DEVICES, Sysfs,
        driver::{self, Driver, VFIO_PCI},
        iommu,
        mdev::{self, Offer, Parent},
        optional, pci, read,
    },
    kind::{Candidate, HostView},
    model::PciAddress,
};

/// Why no function at all can be handed out.
pub(super) const NO_IOMMU: &str = "this host has no IOMMU groups; enable the IOMMU in the \
                                   firmware and in the kernel, then 'dmesg | grep -i iommu' \
                                   shows it";

/// The functions that the rules of a pool can take. Bridges are among them, so that a
/// person is told why a rule that takes one gets nothing.
pub(super) fn all(sysfs: &dyn Sysfs) -> io::Result<Vec<Parent>> {
    let functions = pci::functions(sysfs)?.into_iter();
    Ok(functions.map(|(one, _)| mdev::pci_function(one)).collect())
}

/// The function of that address, if there is one.
pub(super) fn subject(sysfs: &dyn Sysfs, function: PciAddress) -> Option<Parent> {
    let parent = mdev::pci_function(function);
    sysfs.exists(&parent.path()).then_some(parent)
}

/// A function as a candidate.
pub(super) fn of(view: &HostView<'_>, function: PciAddress) -> Candidate {
    let parent = mdev::pci_function(function);
    Candidate {
        node: view.node(&parent),
        board: parent.name.clone(),
        parent,
        device: Some(function.into()),
        in_use: 0,
        has_device: false,
    }
}

/// A function's IOMMU group and the drivers of all its endpoints.
#[derive(Debug, Clone)]
pub(super) struct Group {
    /// Its number.
    pub(super) number: String,
    /// The endpoints with their drivers, in ascending order.
    pub(super) endpoints: Vec<(PciAddress, Driver)>,
}

/// The groups that were read, by function; with the reason if a function has none or it
/// cannot be read.
#[derive(Debug, Default)]
struct Groups(RefCell<BTreeMap<PciAddress, Result<Rc<Group>, Offer>>>);

/// The function's group.
///
/// # Errors
/// What the function offers therefore.
pub(super) fn group(view: &HostView<'_>, function: PciAddress) -> Result<Rc<Group>, Offer> {
    let groups = view.found::<Groups>();
    if let Some(group) = groups.0.borrow().get(&function) {
        return group.clone();
    }
    let group = read_group(view.sysfs(), function).map(Rc::new);
    groups.0.borrow_mut().insert(function, group.clone());
    group
}

fn read_group(sysfs: &dyn Sysfs, function: PciAddress) -> Result<Group, Offer> {
    let unreadable = |error: io::Error| Offer::Unreadable(error.to_string());
    let Some(number) = iommu::group_of(sysfs, function).map_err(unreadable)? else {
        return Err(Offer::Taken(match iommu::is_on(sysfs) {
            Ok(false) => NO_IOMMU.to_owned(),
            _ => "it has no IOMMU group, so VFIO cannot isolate it".to_owned(),
        }));
    };
    let mut endpoints = Vec::new();
    for one in iommu::endpoints(sysfs, &number).map_err(unreadable)? {
        // A function that has just been pulled out is not in the group any more.
        if let Some(driver) = driver::of(sysfs, one).map_err(unreadable)? {
            endpoints.push((one, driver));
        }
    }
    Ok(Group { number, endpoints })
}

/// What the function offers.
pub(super) fn offer(view: &HostView<'_>, function: PciAddress) -> Offer {
    why_not(view, function).unwrap_or_else(|| match ids(view.sysfs(), function) {
        Ok(ids) => match ids.parse() {
            Ok(id) => Offer::Type { id, available: 1 },
            Err(_) => Offer::Unreadable(format!("its ids read as '{ids}'")),
        },
        Err(error) => Offer::Unreadable(error.to_string()),
    })
}

/// The vendor and the device, as `lspci -n` shows them.
fn ids(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<String> {
    let id = |name: &str| {
        let text = read(sysfs, &format!("{PCI_DEVICES}/{function}/{name}"))?;
        Ok::<_, io::Error>(text.trim_start_matches("0x").to_owned())
    };
    Ok(format!("{}:{}", id("vendor")?, id("device")?))
}

fn why_not(view: &HostView<'_>, function: PciAddress) -> Option<Offer> {
    let sysfs = view.sysfs();
    if let Some(why) = view.withheld(function) {
        return Some(Offer::Taken(why));
    }
    match pci::is_bridge(sysfs, function) {
        Ok(false) => {}
        Ok(true) => {
            let why = "it is a bridge, which cannot be passed to a VM";
            return Some(Offer::Taken(why.to_owned()));
        }
        Err(error) => return Some(Offer::Unreadable(error.to_string())),
    }
    match virtual_functions(sysfs, function) {
        Ok(None) => {}
        Ok(Some(why)) => return Some(Offer::Taken(why)),
        Err(error) => return Some(Offer::Unreadable(error.to_string())),
    }
    let group = match group(view, function) {
        Ok(group) => group,
        Err(offer) => return Some(offer),
    };
    let others = group.endpoints.iter().map(|(one, _)| *one);
    for other in others.filter(|other| *other != function) {
        if let Some(why) = view.withheld_beside(other) {
            let number = &group.number;
            return Some(Offer::Taken(format!(
                "its IOMMU group {number} also holds {other}: {why}"
            )));
        }
        match virtual_functions(sysfs, other) {
            Ok(None) => {}
            Ok(Some(why)) => {
                let number = &group.number;
                return Some(Offer::Taken(format!(
                    "its IOMMU group {number} also holds {other}: {why}"
                )));
            }
            Err(error) => return Some(Offer::Unreadable(error.to_string())),
        }
    }
    why_not_bound(sysfs, &group)
}

/// Why the group's functions cannot be bound to `vfio-pci`, or are in use.
fn why_not_bound(sysfs: &dyn Sysfs, group: &Group) -> Option<Offer> {
    let is_for_vms = |(function, driver): &&(PciAddress, Driver)| {
        is_vfio(sysfs, *function, driver.bound.as_ref().map(AsRef::as_ref))
    };
    if group.endpoints.iter().any(|one| is_for_vms(&one)) {
        let node = format!("/dev/vfio/{}", group.number);
        if sysfs.is_group_open(&node) {
            return Some(Offer::Taken(format!(
                "another process has {node} open; 'fuser {node}' names it"
            )));
        }
    }
    let all_are = group.endpoints.iter().all(|one| is_for_vms(&one));
    (!all_are && !driver::is_loaded(sysfs, VFIO_PCI)).then(|| {
        Offer::Taken(format!(
            "the driver {VFIO_PCI} is not loaded; 'modprobe {VFIO_PCI}' loads it"
        ))
    })
}

/// Whether the driver is `vfio-pci`, or another one that offers the function to VFIO (the
/// kernel's variant drivers, as `mlx5_vfio_pci`).
pub(super) fn is_vfio(sysfs: &dyn Sysfs, function: PciAddress, driver: Option<&str>) -> bool {
    driver == Some(VFIO_PCI)
        || (driver.is_some() && sysfs.exists(&format!("{PCI_DEVICES}/{function}/vfio-dev")))
}

/// A sentence about the function's virtual functions, which would vanish with its driver.
fn virtual_functions(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<String>> {
    let path = format!("{PCI_DEVICES}/{function}/sriov_numvfs");
    let Some(count) = optional(read(sysfs, &path))?.filter(|count| count != "0") else {
        return Ok(None);
    };
    Ok(Some(format!(
        "it has {count} virtual functions, which would vanish; 'echo 0 > {path}' removes them \
         when nobody uses them"
    )))
}

/// How the function can be reset between two VMs, as the kernel will do it: "flr", "bus" and
/// so on; None if the kernel knows no way.
pub(super) fn reset_methods(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<String>> {
    let text = optional(read(
        sysfs,
        &format!("{PCI_DEVICES}/{function}/reset_method"),
    ))?;
    Ok(text.filter(|text| !text.is_empty()))
}
