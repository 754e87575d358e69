//! What can be said about a PCI function before anything is done to it: whether it can be
//! handed out, and what goes with it.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    io,
    rc::Rc,
};

use crate::{
    device::{
        PCI_DEVICES, Sysfs,
        driver::{self, Driver, VFIO_PCI},
        iommu,
        mdev::{self, Offer, Parent},
        optional, pci, read,
    },
    kind::{Candidate, HostView},
    model::{DriverName, PciAddress},
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

/// The groups that were read. A group may have hundreds of functions, so what concerns all
/// of them is found out once.
#[derive(Debug, Default)]
struct Groups {
    /// By number.
    read: RefCell<BTreeMap<String, Rc<Group>>>,
    /// By number, what keeps functions of the group back.
    hindrances: RefCell<BTreeMap<String, Rc<Hindrances>>>,
    /// By function, why it has no group, or none that can be read.
    failed: RefCell<BTreeMap<PciAddress, Offer>>,
}

/// What keeps functions of a group from being handed out.
#[derive(Debug)]
struct Hindrances {
    /// Why a function must not be taken along, in ascending order: the first two say it for
    /// each function of the group.
    beside: Vec<(PciAddress, Offer)>,
    /// Why the functions cannot be bound. This is asked only where nothing else keeps them
    /// back: the group of a VM is not opened.
    binding: OnceCell<Result<(), String>>,
}

/// The function's group.
///
/// # Errors
/// What the function offers therefore.
pub(super) fn group(view: &HostView<'_>, function: PciAddress) -> Result<Rc<Group>, Offer> {
    let sysfs = view.sysfs();
    let groups = view.found::<Groups>();
    if let Some(offer) = groups.failed.borrow().get(&function) {
        return Err(offer.clone());
    }
    let group = number_of(sysfs, function).and_then(|number| {
        if let Some(known) = groups.read.borrow().get(&number) {
            return Ok(Rc::clone(known));
        }
        let group = Rc::new(endpoints_of(sysfs, number)?);
        let mut read = groups.read.borrow_mut();
        read.insert(group.number.clone(), Rc::clone(&group));
        Ok(group)
    });
    if let Err(offer) = &group {
        let mut failed = groups.failed.borrow_mut();
        failed.insert(function, offer.clone());
    }
    group
}

/// The same, read now.
pub(super) fn read_group(sysfs: &dyn Sysfs, function: PciAddress) -> Result<Group, Offer> {
    endpoints_of(sysfs, number_of(sysfs, function)?)
}

fn number_of(sysfs: &dyn Sysfs, function: PciAddress) -> Result<String, Offer> {
    let number = iommu::group_of(sysfs, function).map_err(unreadable)?;
    number.ok_or_else(|| {
        Offer::Taken(match iommu::is_on(sysfs) {
            Ok(false) => NO_IOMMU.to_owned(),
            _ => "it has no IOMMU group, so VFIO cannot isolate it".to_owned(),
        })
    })
}

fn endpoints_of(sysfs: &dyn Sysfs, number: String) -> Result<Group, Offer> {
    let mut endpoints = Vec::new();
    for one in iommu::endpoints(sysfs, &number).map_err(unreadable)? {
        // A function that has just been pulled out is not in the group any more.
        if let Some(driver) = driver::of(sysfs, one).map_err(unreadable)? {
            endpoints.push((one, driver));
        }
    }
    Ok(Group { number, endpoints })
}

/// The functions of one card that cannot be handed out apart, in ascending order: those of
/// the function's slot in its IOMMU group. Virtual functions are no card, although they share
/// a slot.
pub(super) fn card(sysfs: &dyn Sysfs, group: &Group, function: PciAddress) -> Vec<PciAddress> {
    if pci::is_virtual(sysfs, function) {
        return vec![function];
    }
    let endpoints = group.endpoints.iter().map(|(one, _)| *one);
    endpoints
        .filter(|one| one.slot() == function.slot())
        .collect()
}

/// What the function offers.
pub(super) fn offer(view: &HostView<'_>, function: PciAddress) -> Offer {
    let ids = fits(view, function).and_then(|()| ids(view.sysfs(), function).map_err(unreadable));
    match ids {
        Err(offer) => offer,
        Ok(ids) => match ids.parse() {
            Ok(id) => Offer::Type { id, available: 1 },
            Err(_) => Offer::Unreadable(format!("its ids read as '{ids}'")),
        },
    }
}

fn unreadable(error: io::Error) -> Offer {
    Offer::Unreadable(error.to_string())
}

/// The vendor and the device, as `lspci -n` shows them.
fn ids(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<String> {
    let id = |name: &str| {
        let text = read(sysfs, &format!("{PCI_DEVICES}/{function}/{name}"))?;
        Ok::<_, io::Error>(text.trim_start_matches("0x").to_owned())
    };
    Ok(format!("{}:{}", id("vendor")?, id("device")?))
}

/// Whether the function can be handed out.
///
/// # Errors
/// What it offers if not.
fn fits(view: &HostView<'_>, function: PciAddress) -> Result<(), Offer> {
    let sysfs = view.sysfs();
    if let Some(why) = view.withheld(function) {
        return Err(Offer::Taken(why));
    }
    if pci::is_bridge(sysfs, function).map_err(unreadable)? {
        let why = "it is a bridge, which cannot be passed to a VM";
        return Err(Offer::Taken(why.to_owned()));
    }
    if let Some(why) = virtual_functions(sysfs, function).map_err(unreadable)? {
        return Err(Offer::Taken(why));
    }
    let group = group(view, function)?;
    let hindrances = hindrances(view, &group);
    let mut beside = hindrances.beside.iter();
    if let Some((_, offer)) = beside.find(|(other, _)| *other != function) {
        return Err(offer.clone());
    }
    let binding = hindrances
        .binding
        .get_or_init(|| can_be_bound(sysfs, &group));
    binding.clone().map_err(Offer::Taken)
}

fn hindrances(view: &HostView<'_>, group: &Group) -> Rc<Hindrances> {
    let groups = view.found::<Groups>();
    let number = &group.number;
    if let Some(known) = groups.hindrances.borrow().get(number) {
        return Rc::clone(known);
    }
    let others = group.endpoints.iter().map(|(one, _)| *one);
    let hindrance = |other: PciAddress| {
        let why = match view.withheld_beside(other) {
            Some(why) => Ok(Some(why)),
            None => virtual_functions(view.sysfs(), other),
        };
        let taken = |why| {
            Offer::Taken(format!(
                "its IOMMU group {number} also holds {other}: {why}"
            ))
        };
        let offer = why.map_or_else(|error| Some(unreadable(error)), |why| why.map(taken));
        Some((other, offer?))
    };
    let hindrances = Rc::new(Hindrances {
        beside: others.filter_map(hindrance).take(2).collect(),
        binding: OnceCell::new(),
    });
    let mut known = groups.hindrances.borrow_mut();
    known.insert(number.clone(), Rc::clone(&hindrances));
    hindrances
}

/// Whether the group's functions can be bound to `vfio-pci`, and nobody uses them.
///
/// # Errors
/// Why not.
fn can_be_bound(sysfs: &dyn Sysfs, group: &Group) -> Result<(), String> {
    let endpoints = group.endpoints.iter();
    let with_vfio = endpoints.filter(|(function, driver)| is_vfio(sysfs, *function, driver));
    let with_vfio = with_vfio.count();
    let node = format!("/dev/vfio/{}", group.number);
    if with_vfio > 0 && sysfs.is_group_open(&node) {
        return Err(format!(
            "another process has {node} open; 'fuser {node}' names it"
        ));
    }
    if with_vfio < group.endpoints.len() && !driver::is_loaded(sysfs, VFIO_PCI) {
        return Err(format!(
            "the driver {VFIO_PCI} is not loaded; 'modprobe {VFIO_PCI}' loads it"
        ));
    }
    Ok(())
}

/// Whether the driver is `vfio-pci`, or another one that offers the function to VFIO (the
/// kernel's variant drivers, as `mlx5_vfio_pci`).
pub(super) fn is_vfio(sysfs: &dyn Sysfs, function: PciAddress, driver: &Driver) -> bool {
    let bound = driver.bound.as_ref().map(DriverName::as_str);
    bound == Some(VFIO_PCI)
        || (bound.is_some() && sysfs.exists(&format!("{PCI_DEVICES}/{function}/vfio-dev")))
}

/// A sentence about the function's virtual functions, which would vanish with its driver.
fn virtual_functions(sysfs: &dyn Sysfs, function: PciAddress) -> io::Result<Option<String>> {
    let path = format!("{PCI_DEVICES}/{function}/sriov_numvfs");
    let Some(count) = optional(read(sysfs, &path))?.filter(|count| count != "0") else {
        return Ok(None);
    };
    let (functions, them) = match count.as_str() {
        "1" => ("function", "it"),
        _ => ("functions", "them"),
    };
    Ok(Some(format!(
        "it has {count} virtual {functions}, which would vanish; 'echo 0 > {path}' removes {them} \
         when nobody uses {them}"
    )))
}
