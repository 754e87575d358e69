//! GPUs and profiles as people name them: a GPU for a new pool, looked at for the profile,
//! and a profile that no GPU has.

use std::collections::{BTreeMap, BTreeSet};

use super::pool::NvidiaVgpuPool;
use crate::{
    device::{PCI_DEVICES, Sysfs, gpu, link_name, near, readiness, vendor_vfio},
    kind::{HostView, Named, NewDevice},
    model::{PciAddress, TypeSelector, short_name},
    rule::spelling::{self, nearest},
};

impl NvidiaVgpuPool {
    /// The GPU of that address; one of its virtual functions stands for it.
    pub(super) fn gpu_named(&self, view: &HostView<'_>, text: &str) -> Result<Named, String> {
        let sysfs = view.sysfs();
        let gpus = gpu::all(sysfs).map_err(|error| format!("cannot look for GPUs: {error}"))?;
        let named = text.parse::<PciAddress>().ok();
        let physical = named.and_then(|function| vendor_vfio::gpu(sysfs, function).ok()?);
        let Some(gpu) = physical.or(named).filter(|gpu| gpus.contains(gpu)) else {
            return Err(no_gpu(sysfs, &gpus, text));
        };
        let known = known_profiles(view, gpu)?;
        let mut notes = Vec::from_iter(named.zip(physical).map(|(function, gpu)| {
            format!("{function} is a virtual function: the pool takes its GPU, {gpu}")
        }));
        let profile = &self.profile;
        if known.is_empty() {
            notes.push(format!(
                "{gpu}: whether it has the profile '{profile}' cannot be told yet: {}",
                why_unknown(sysfs, gpu)
            ));
        } else if !known.iter().any(|name| profile.means_name(name)) {
            return Err(no_such_profile(gpu, profile.as_str(), &known));
        }
        Ok(Named {
            device: NewDevice::Itself(gpu.to_string()),
            note: (!notes.is_empty()).then(|| notes.join("; ")),
        })
    }

    /// A doubt about a profile of unknown form, unless a GPU of the host has it. A profile of
    /// a missing board is not a doubt, because the file may be for many hosts.
    pub(super) fn unknown_profile(&self, view: &HostView<'_>) -> Option<String> {
        let TypeSelector::Profile(profile) = &self.profile else {
            return None;
        };
        if profile.parts().is_some() {
            return None;
        }
        let gpus = gpu::all(view.sysfs()).unwrap_or_default().into_iter();
        let known: BTreeSet<String> = gpus
            .filter_map(|gpu| known_profiles(view, gpu).ok())
            .flatten()
            .collect();
        if known.iter().any(|name| profile.means(name)) {
            return None;
        }
        // A word is compared in small letters.
        let short: BTreeMap<String, &str> = known
            .iter()
            .map(|name| short_name(name))
            .map(|name| (name.to_lowercase(), name))
            .collect();
        let small: Vec<&str> = short.keys().map(String::as_str).collect();
        let nearest = || nearest(profile.as_str(), &small).map(|name| short[name].to_owned());
        let meant = profile.meant().map(|meant| meant.to_string());
        let meant = meant.or_else(nearest);
        let meant = meant.map_or(String::new(), |name| format!("; did you mean '{name}'?"));
        Some(format!(
            "no GPU of this host has a profile '{profile}', and it is not built as NVIDIA's are: the \
             board, a hyphen, the size in GB, and A, B, C or Q for the series{meant}"
        ))
    }
}

/// The full names of the profiles that the GPU is known to have: all of them where
/// its driver or NVML tell, else those that can be made now.
fn known_profiles(view: &HostView<'_>, gpu: PciAddress) -> Result<BTreeSet<String>, String> {
    let facts = view.facts_of(&gpu.into()).ok();
    let state = gpu::read(view.sysfs(), gpu, facts, &BTreeSet::new());
    let state = state.map_err(|error| format!("cannot read its types: {error}"))?;
    Ok(state.types.into_iter().map(|one| one.name).collect())
}

fn why_unknown(sysfs: &dyn Sysfs, gpu: PciAddress) -> String {
    if readiness::lacks_functions(sysfs, gpu) {
        return format!(
            "its virtual functions do not exist yet; 'virt-vgpu host apply {gpu}' makes them"
        );
    }
    "its driver lists no types now; see 'virt-vgpu profiles'".to_owned()
}

fn no_gpu(sysfs: &dyn Sysfs, gpus: &[PciAddress], text: &str) -> String {
    let name = near::canonical(text);
    let path = format!("{PCI_DEVICES}/{name}");
    if name.parse::<PciAddress>().is_ok() && sysfs.exists(&path) {
        // A virtual function stands for its GPU, so the GPU's driver is what counts.
        let physical = link_name(sysfs, &format!("{path}/physfn")).ok();
        let whose = match &physical {
            Some(gpu) => format!("the driver of its GPU, {gpu},"),
            None => "its driver".to_owned(),
        };
        let gpu = physical.as_ref().unwrap_or(&name);
        let why = match link_name(sysfs, &format!("{PCI_DEVICES}/{gpu}/driver")) {
            Ok(driver) if driver == readiness::DRIVER => {
                format!("{whose} is 'nvidia', which does not list it")
            }
            Ok(driver) => format!("{whose} is '{driver}', not 'nvidia'"),
            Err(_) if physical.is_some() => format!("no driver is bound to its GPU, {gpu}"),
            Err(_) => "no driver is bound to it".to_owned(),
        };
        return format!("{name} is not a GPU that makes vGPUs: {why}");
    }
    let have: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    let shown = spelling::shown(text);
    if have.is_empty() {
        return format!(
            "there is no GPU '{shown}': NVIDIA's driver has none on this host; is it loaded?"
        );
    }
    format!(
        "there is no GPU '{shown}': {}; 'virt-vgpu profiles' lists all",
        near::what_there_is(&name, &have)
    )
}

fn no_such_profile(gpu: PciAddress, profile: &str, known: &BTreeSet<String>) -> String {
    let short = |name: &str| name.rsplit(' ').next().unwrap_or_default().to_owned();
    let names: Vec<String> = known.iter().map(|name| short(name)).collect();
    let lower = profile.to_lowercase();
    let same = names.iter().find(|name| name.to_lowercase() == lower);
    let references: Vec<&str> = names.iter().map(String::as_str).collect();
    let meant = same
        .map(String::as_str)
        .or_else(|| nearest(profile, &references))
        .map(|name| format!(" (did you mean '{name}'?)"))
        .unwrap_or_default();
    format!(
        "{gpu} has no profile '{profile}'{meant}; it has {}",
        names.join(", ")
    )
}
