//! NVIDIA's vGPUs as virtual functions: a function becomes a vGPU when a type is
//! written to the driver's own VFIO interface (vendor-specific VFIO).

use std::{cell::OnceCell, collections::BTreeMap, io};

use crate::{
    device::{
        mdev::{self, Offer},
        step::{Act, Attribute, Check, Setting, Step, Undo},
        vendor_vfio,
    },
    kind::{Candidate, HostView, MadeAs, ToMake, vgpu_settings::settings},
    model::{MdevTypeId, PciAddress, TypeSelector},
};

/// The word in claims for a vGPU on a virtual function.
pub(in crate::kind) const WORD: &str = "vendor-vfio";

/// Every function that can become a vGPU; empty until it is needed.
#[derive(Debug, Default)]
struct Found(OnceCell<Vec<Candidate>>);

/// Every function that can become a vGPU.
pub(super) fn all(view: &HostView<'_>) -> Result<Vec<Candidate>, String> {
    let found = view.found::<Found>();
    if let Some(functions) = found.0.get() {
        return Ok(functions.clone());
    }
    let functions = find(view)?;
    Ok(found.0.get_or_init(|| functions).clone())
}

fn find(view: &HostView<'_>) -> Result<Vec<Candidate>, String> {
    let sysfs = view.sysfs();
    let cannot = |e: io::Error| format!("cannot list virtual functions: {e}");
    let functions = vendor_vfio::all_functions(sysfs).map_err(cannot)?;
    let mut of_gpus: BTreeMap<PciAddress, Vec<PciAddress>> = BTreeMap::new();
    for &(function, gpu) in &functions {
        of_gpus.entry(gpu).or_default().push(function);
    }
    let in_use = of_gpus.into_iter().map(|(gpu, functions)| {
        let types = vendor_vfio::current_of_each(sysfs, &functions);
        // A function that cannot be read does not count as in use.
        let in_use = types.iter().filter(|one| matches!(one, Ok(Some(_))));
        (gpu, u32::try_from(in_use.count()).unwrap_or(u32::MAX))
    });
    let in_use: BTreeMap<PciAddress, u32> = in_use.collect();
    let candidate = |(function, gpu): (PciAddress, PciAddress)| {
        let in_use = in_use.get(&gpu).copied().unwrap_or_default();
        of(view, function, gpu, in_use)
    };
    Ok(functions.into_iter().map(candidate).collect())
}

/// The one function that the XML names. No other function is read.
pub(super) fn one(view: &HostView<'_>, function: PciAddress) -> Result<Vec<Candidate>, String> {
    let gpu = vendor_vfio::gpu(view.sysfs(), function);
    let gpu = gpu.map_err(|e| format!("{function}: {e}"))?;
    let candidate = gpu.map(|gpu| of(view, function, gpu, 0));
    Ok(candidate.into_iter().collect())
}

fn of(view: &HostView<'_>, function: PciAddress, gpu: PciAddress, in_use: u32) -> Candidate {
    let parent = mdev::pci_function(function);
    Candidate {
        node: view.node(&parent),
        parent,
        device: Some(function.into()),
        board: gpu.into(),
        in_use,
        has_device: false,
    }
}

/// A virtual function's offer.
pub(super) fn offer(view: &HostView<'_>, profile: &TypeSelector, function: PciAddress) -> Offer {
    let sysfs = view.sysfs();
    let read = || -> io::Result<Offer> {
        if !vendor_vfio::is_function(sysfs, function) {
            return Ok(Offer::Taken("its driver makes no vGPUs of it".to_owned()));
        }
        if let Some(why) = view.withheld(function) {
            return Ok(Offer::Taken(why));
        }
        if let Some(id) = vendor_vfio::current(sysfs, function)? {
            if view.is_own(function) {
                return Ok(Offer::Taken(format!(
                    "this domain has it, with the type {id}"
                )));
            }
            let what = format!("already has the type {id}, but belongs to no domain of ours");
            return Ok(Offer::Taken(what));
        }
        let creatable = vendor_vfio::creatable(sysfs, function)?;
        let nothing = creatable.is_empty();
        let meant = creatable
            .into_iter()
            .find(|one| profile.means_name(&one.name));
        Ok(
            match meant.and_then(|one| one.id.to_string().parse().ok()) {
                Some(id) => Offer::Type { id, available: 1 },
                None if nothing => {
                    Offer::NoRoom(format!("a {profile} does not fit on its GPU now"))
                }
                // The driver lists only types that can be created now.
                None => Offer::NoRoom(format!(
                    "its GPU makes no {profile} now, only vGPUs of other sizes or profiles"
                )),
            },
        )
    };
    read().unwrap_or_else(|error| Offer::Unreadable(error.to_string()))
}

/// Whether the function itself is the reason why it offers nothing.
pub(super) fn is_spoken_for(view: &HostView<'_>, function: PciAddress) -> bool {
    view.withheld(function).is_some()
        || !matches!(vendor_vfio::current(view.sysfs(), function), Ok(None))
}

/// How a vGPU on a function is made, for the claim.
pub(in crate::kind) fn made_as(function: PciAddress) -> MadeAs {
    MadeAs {
        word: WORD,
        rests_on: vendor_vfio::driver_link(function),
        can_wedge: true,
    }
}

/// The steps that give a function its type, its place and its parameters.
pub(super) fn steps(function: PciAddress, profile: &str, made: &ToMake<'_>) -> Vec<Step> {
    let mut steps = vec![assignment(function, made.type_id, profile)];
    steps.extend(settings(&vendor_vfio::attributes(function), made));
    steps
}

/// The write that gives a free function its type, its undo, and the conditions that hold
/// afterwards. A function with a type accepts no other type: the driver answers `EPERM`
/// even for the same type.
pub(in crate::kind) fn assignment(function: PciAddress, id: &MdevTypeId, name: &str) -> Step {
    let device = mdev::pci_function(function).path();
    let path = vendor_vfio::type_attribute(function);
    Step {
        what: format!("make {function} a {name} (type {id})"),
        act: Act::Write(Attribute {
            path: path.clone(),
            value: format!("{id}\n"),
        }),
        undo: Some(release(function)),
        needs_no_undo: None,
        checks: vec![
            Check::Reads {
                path,
                value: id.to_string(),
            },
            Check::Openable { device },
        ],
    }
}

/// The write that frees a function. It fails with `EPERM` while QEMU has the vGPU open, and
/// with `EBUSY` while the driver's plugin is still ending.
fn release(function: PciAddress) -> Undo {
    let path = vendor_vfio::type_attribute(function);
    Undo::Setting(Setting {
        write: Attribute {
            path: path.clone(),
            value: "0\n".to_owned(),
        },
        setting: path,
        free: "0".to_owned(),
    })
}
