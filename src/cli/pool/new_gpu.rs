//! A `--device` of `pool create --profile`: a GPU of NVIDIA's driver, looked at for
//! the profile, and turned into a rule.

use std::collections::BTreeSet;

use anyhow::{Context, anyhow};

use super::new_device::Resolved;
use crate::{
    config::NewDevice,
    device::{PCI_DEVICES, Sysfs, gpu, link_name, readiness, vendor_vfio},
    host::Host,
    model::{PciAddress, ProfileName},
    report::{near, pool::known_profiles},
    rule::spelling::nearest,
};

/// Finds the GPU of that address; one of its virtual functions stands for it.
pub(super) fn resolve(host: &Host, profile: &ProfileName, text: &str) -> anyhow::Result<Resolved> {
    let gpus = gpu::all(host).context("cannot look for GPUs")?;
    let named = text.parse::<PciAddress>().ok();
    let physical = named.and_then(|function| vendor_vfio::gpu(host, function).ok()?);
    let Some(gpu) = physical.or(named).filter(|gpu| gpus.contains(gpu)) else {
        return Err(no_gpu(host, &gpus, text));
    };
    let known = known_profiles(host, gpu)?;
    let mut notes = Vec::from_iter(named.zip(physical).map(|(function, gpu)| {
        format!("{function} is a virtual function: the pool takes its GPU, {gpu}")
    }));
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

fn why_unknown(host: &Host, gpu: PciAddress) -> String {
    if readiness::lacks_functions(host, gpu) {
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
        // A virtual function stands for its GPU, so the GPU's driver is what counts.
        let physical = link_name(host, &format!("{path}/physfn")).ok();
        let whose = match &physical {
            Some(gpu) => format!("the driver of its GPU, {gpu},"),
            None => "its driver".to_owned(),
        };
        let gpu = physical.as_ref().unwrap_or(&name);
        let why = match link_name(host, &format!("{PCI_DEVICES}/{gpu}/driver")) {
            Ok(driver) if driver == readiness::DRIVER => {
                format!("{whose} is 'nvidia', which does not list it")
            }
            Ok(driver) => format!("{whose} is '{driver}', not 'nvidia'"),
            Err(_) if physical.is_some() => format!("no driver is bound to its GPU, {gpu}"),
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
