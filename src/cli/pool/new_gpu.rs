//! A `--device` of `pool create --profile`: a GPU of NVIDIA's driver, looked at for
//! the profile, and turned into a rule.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};

use super::new_device::Resolved;
use crate::{
    cli::near,
    config::NewDevice,
    device::{PCI_DEVICES, Sysfs, link_name, nvidia_gpu, vendor_vfio},
    host::{Deadline, Host, NvmlChild},
    model::{ParentName, PciAddress, ProfileName},
    plan::HostSupply,
    rule::spelling::nearest,
};

/// Finds the GPU of that address; one of its virtual functions stands for it.
pub(super) fn resolve(
    host: &Host,
    supply: &HostSupply<'_>,
    profile: &ProfileName,
    text: &str,
) -> anyhow::Result<Resolved> {
    let gpus = nvidia_gpu::all(host).context("cannot look for GPUs")?;
    let named = near::canonical(text);
    let physical = link_name(host, &format!("{PCI_DEVICES}/{named}/physfn")).ok();
    let name = physical.clone().unwrap_or_else(|| named.clone());
    let Some(&gpu) = gpus.iter().find(|gpu| gpu.to_string() == name) else {
        return Err(no_gpu(host, &gpus, text));
    };
    let known = known_profiles(host, supply, gpu)?;
    let mut notes = Vec::from_iter(
        physical.map(|gpu| format!("{named} is a virtual function: the pool takes its GPU, {gpu}")),
    );
    if known.is_empty() {
        notes.push(format!(
            "{gpu}: whether it has the profile '{profile}' cannot be told yet: {}",
            why_unknown(host, gpu)
        ));
    } else if !known.iter().any(|name| profile.means(name)) {
        return Err(no_such_profile(gpu, profile, &known));
    }
    Ok(Resolved {
        device: NewDevice::Itself(gpu.to_string()),
        note: (!notes.is_empty()).then(|| notes.join("; ")),
    })
}

/// The full names of the profiles that the GPU is known to have: from sysfs as far
/// as they can be made now, else all of them from NVML.
fn known_profiles(
    host: &Host,
    supply: &HostSupply<'_>,
    gpu: PciAddress,
) -> anyhow::Result<BTreeSet<String>> {
    let mut known = BTreeSet::new();
    let name: ParentName = gpu.to_string().parse()?;
    let mdev = supply.mdev();
    // All functions of a GPU have the same types.
    let parent = mdev.parents().iter().find(|one| mdev.board(one) == name);
    if let Some(parent) = parent {
        let types = mdev.types(parent).context("cannot read its types")?;
        known.extend(types.into_iter().filter_map(|one| one.name));
    }
    if known.is_empty() {
        let patience = Deadline::after(NvmlChild::PATIENCE);
        if let Ok(types) = NvmlChild::new(host, patience).types(gpu) {
            known.extend(types.into_iter().map(|one| one.name));
        }
    }
    if known.is_empty() {
        let functions = vendor_vfio::all_functions(host).context("cannot list functions")?;
        let of_gpu = functions.iter().filter(|(_, physical)| *physical == gpu);
        for (function, _) in of_gpu {
            let creatable = vendor_vfio::creatable(host, function)?;
            known.extend(creatable.into_iter().map(|one| one.name));
            if !known.is_empty() {
                break;
            }
        }
    }
    Ok(known)
}

fn why_unknown(host: &Host, gpu: PciAddress) -> String {
    if nvidia_gpu::lacks_functions(host, gpu) {
        return format!(
            "its virtual functions are not there; 'virt-vgpu host apply {gpu}' makes them"
        );
    }
    "its driver lists no types now; see 'virt-vgpu profiles'".to_owned()
}

fn no_gpu(host: &Host, gpus: &[PciAddress], text: &str) -> anyhow::Error {
    let name = near::canonical(text);
    let path = format!("{PCI_DEVICES}/{name}");
    if name.parse::<PciAddress>().is_ok() && host.exists(&path) {
        let why = match link_name(host, &format!("{path}/driver")) {
            Ok(driver) => format!("its driver is '{driver}', not 'nvidia'"),
            Err(_) => "no driver is bound to it".to_owned(),
        };
        return anyhow!("{name} is no GPU that makes vGPUs: {why}");
    }
    let have: Vec<String> = gpus.iter().map(ToString::to_string).collect();
    let shown = near::one_line(text);
    if have.is_empty() {
        return anyhow!(
            "there is no GPU '{shown}': NVIDIA's driver has none on this host; is it loaded?"
        );
    }
    anyhow!(
        "there is no GPU '{shown}': {}; 'virt-vgpu profiles' lists all",
        near::what_there_is(&name, &have)
    )
}

fn no_such_profile(
    gpu: PciAddress,
    profile: &ProfileName,
    known: &BTreeSet<String>,
) -> anyhow::Error {
    let short = |name: &str| name.rsplit(' ').next().unwrap_or_default().to_owned();
    let names: Vec<String> = known.iter().map(|name| short(name)).collect();
    let lower = profile.as_str().to_lowercase();
    let same = names.iter().find(|name| name.to_lowercase() == lower);
    let references: Vec<&str> = names.iter().map(String::as_str).collect();
    let meant = same
        .map(String::as_str)
        .or_else(|| nearest(profile.as_str(), &references))
        .map(|name| format!(" (did you mean '{name}'?)"))
        .unwrap_or_default();
    anyhow!(
        "{gpu} has no profile '{profile}'{meant}; it has {}",
        names.join(", ")
    )
}
