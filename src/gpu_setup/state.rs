//! How a GPU is now, as far as sysfs and NVML tell.

use anyhow::Context;

use super::{
    instances,
    steps::Actual,
    users::User,
    wanted::{WantedMig, WantedSettings},
};
use crate::{
    device::{
        Sysfs, driver_option,
        nvml::{Failure, GpuFacts, Nvml},
        our_instances,
        readiness::{self, Driver},
    },
    host::Host,
    model::PciAddress,
};

/// Reads what sysfs tells; NVML is not asked.
pub(super) fn of(host: &Host, gpu: PciAddress) -> anyhow::Result<Actual> {
    let cannot = || format!("cannot look at {gpu}");
    Ok(Actual {
        driver: readiness::driver(host, gpu).with_context(cannot)?,
        functions: readiness::functions(host, gpu).with_context(cannot)?,
        facts: None,
        mig: None,
        in_use: false,
        loaded_with_scheduler: false,
    })
}

/// Adds what NVML tells, where the driver is there and keeps its settings from
/// now on, or where MIG mode matters, which is switched first of all.
pub(super) fn complete(
    host: &Host,
    gpu: PciAddress,
    wanted: Option<&WantedSettings>,
    users: &[User],
    mut actual: Actual,
) -> Actual {
    actual.in_use = !users.is_empty();
    actual.loaded_with_scheduler = loaded_with_scheduler(host, gpu, wanted);
    let keeps = !actual.functions.are_missing();
    if actual.driver != Driver::Nvidia || !(keeps || needs_mode(host, gpu, wanted)) {
        return actual;
    }
    let facts = facts(host, gpu);
    actual.mig = Some(instances::read(host, gpu, &facts, users));
    actual.facts = keeps.then_some(facts);
    actual
}

/// Whether MIG mode has to be looked at before there are virtual functions: pools want it on,
/// or it was switched on for pools.
pub(super) fn needs_mode(host: &Host, gpu: PciAddress, wanted: Option<&WantedSettings>) -> bool {
    match wanted.map(|wanted| &wanted.mig) {
        Some(WantedMig::On(_)) => true,
        // An unreadable note is told.
        Some(WantedMig::Off) => {
            our_instances::read(host, gpu).map_or(true, |noted| noted.is_anything())
        }
        Some(WantedMig::ByOthers) | None => false,
    }
}

/// NVML's facts about a GPU.
pub(super) fn facts(host: &Host, gpu: PciAddress) -> Result<GpuFacts, Failure> {
    host.nvml().gpu(gpu)
}

/// Whether the running driver was given the wanted scheduler when it was loaded.
fn loaded_with_scheduler(host: &Host, gpu: PciAddress, wanted: Option<&WantedSettings>) -> bool {
    let wanted = wanted.and_then(|wanted| wanted.scheduler.as_ref());
    let wanted = wanted.and_then(|(scheduler, _)| driver_option::encode(scheduler).ok());
    let params = host.read(driver_option::LOADED).unwrap_or_default();
    let loaded = driver_option::loaded(&params);
    wanted.is_some() && loaded.get(&gpu).copied() == wanted
}
