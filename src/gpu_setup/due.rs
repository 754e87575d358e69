//! Changes of MIG that pools want and that are not made yet: the daemon makes them as soon as
//! they can be made, and `status` says what they wait for.

use std::time::Duration;

use super::{
    state,
    steps::{Actual, PlannedStep, SetupStep, setup_plan, step_in_words},
    survey::Survey,
    users,
    wanted::{WantedMig, WantedSettings},
};
use crate::{
    config,
    device::{Sysfs, maintenance, our_instances},
    host::{Deadline, DriverLock, Host, LockError},
    kind::GpuInstances,
    model::PciAddress,
};

/// How long a command waits for NVIDIA's driver before it says nothing of these changes: `host
/// apply` may have it for itself for minutes.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A GPU that is not divided as its pools want it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Due {
    /// The GPU.
    pub gpu: PciAddress,
    /// When it can be changed.
    pub when: When,
}

/// When a change can be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum When {
    /// Now: nobody uses what has to be changed.
    Now,
    /// Nothing has to be changed, but GPU instances that starts have made are not in use any
    /// more: the names of these.
    Idle(Vec<String>),
    /// When others have ended; a sentence that names them.
    Later(String),
    /// Not at all as long as the pools are as they are; a sentence with the next step.
    Never(String),
}

/// Whether MIG matters on this host: a pool wants GPU instances, or virt-vgpu has made some.
/// Reads nothing but files.
#[must_use]
pub fn uses_mig(host: &Host) -> bool {
    let loaded = config::load_all(host);
    let mut pools = loaded.pools.values().filter_map(|pool| pool.as_ref().ok());
    let wants = pools.any(|pool| {
        let settings = pool.devices.gpu_settings();
        settings.is_some_and(|its| matches!(its.gpu_instances, GpuInstances::Made(_)))
    });
    wants || has_notes(host)
}

fn has_notes(host: &Host) -> bool {
    let notes = host.list(our_instances::DIRECTORY);
    notes.is_ok_and(|notes| !notes.is_empty())
}

/// The GPUs that are not divided as their pools want it. NVML is asked, for each GPU whose
/// pools use MIG, within the deadline.
///
/// # Errors
/// When others use NVIDIA's driver as a whole for longer than that.
pub fn due(host: &Host, survey: &Survey, deadline: Deadline) -> Result<Vec<Due>, LockError> {
    let mut found = Vec::new();
    // If it cannot be read, whoever changes a GPU says so.
    let maintenance = maintenance::read(host).ok().flatten();
    let is_spared = |gpu| {
        maintenance
            .as_ref()
            .is_some_and(|it| it.gpus.contains(&gpu))
    };
    for known in &survey.gpus {
        let Ok(Some(wanted)) = &known.wanted else {
            continue;
        };
        let gpu = known.gpu;
        if is_spared(gpu) {
            continue;
        }
        if !state::needs_mode(host, gpu, Some(wanted)) {
            continue;
        }
        let _driver = DriverLock::acquire(host, "virt-vgpu", deadline)?;
        found.extend(look(host, gpu, wanted).map(|when| Due { gpu, when }));
    }
    Ok(found)
}

fn look(host: &Host, gpu: PciAddress, wanted: &WantedSettings) -> Option<When> {
    let seen = state::of(host, gpu).and_then(|actual| Ok((actual, users::users(host, gpu)?)));
    let (actual, users) = match seen {
        Ok(seen) => seen,
        Err(error) => return Some(When::Never(format!("{error:#}"))),
    };
    let actual = state::complete(host, gpu, Some(wanted), &users, actual);
    let plan = setup_plan(gpu, wanted, &actual);
    if let Some(why) = plan.obstacles.into_iter().next() {
        return Some(When::Never(why));
    }
    if let Some(why) = plan.pending.filter(|_| plan.steps.is_empty()) {
        return Some(When::Later(why));
    }
    let needing = plan.steps.iter().find(|one| one.step.needs_free_gpu());
    if let (Some(planned), Some(refusal)) = (needing, users::refusal(gpu, &users)) {
        let what = step_in_words(gpu, &planned.step);
        return Some(When::Later(format!("'{what}' waits: {refusal}")));
    }
    let idle = idle(&plan.steps, &actual);
    if plan.steps.len() > idle.len() || note_is_old(wanted, &actual) {
        return Some(When::Now);
    }
    if !idle.is_empty() {
        return Some(When::Idle(idle));
    }
    plan.stays.into_iter().next().map(When::Later)
}

/// The GPU instances that starts have made and that are given back.
fn idle(steps: &[PlannedStep], actual: &Actual) -> Vec<String> {
    let goes = steps.iter().map(|planned| &planned.step);
    let goes = goes.filter_map(|step| match step {
        SetupStep::DestroyInstance(its) if actual.gives_back(step) => Some(its.to_string()),
        _ => None,
    });
    goes.collect()
}

/// Whether starts would go by GPU instances that are not there any more.
fn note_is_old(wanted: &WantedSettings, actual: &Actual) -> bool {
    let (WantedMig::On(pools), Some(Ok(mig))) = (&wanted.mig, &actual.mig) else {
        return false;
    };
    let Ok(needs) = mig.needs(pools) else {
        return false;
    };
    mig.note(&needs.instances, pools, mig.noted.boot.clone()) != mig.noted
}
