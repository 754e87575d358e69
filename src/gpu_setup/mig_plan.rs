//! The steps of MIG: the mode before the virtual functions, the GPU instances after them.

use super::{
    instances::{MigState, NOT_YET, Needs, NotTold},
    scheduler::{Comparison, InWords, comparison, outside},
    steps::{Actual, NamedPlace, SetupPlan, SetupStep, step_in_words},
    wanted::{MigPool, WantedMig, WantedSettings},
};
use crate::{
    capacity::mig::{Board, Instance, InstanceNeed, Layout, ProfileId, Reason, Why},
    device::nvml::GpuInstance,
    model::{PciAddress, PoolName, pools_in_words},
};

/// Adds what switches the mode. Whether the virtual functions are removed for that. Nothing is
/// switched for pools that do not get what they want afterwards.
pub(super) fn add_mode(
    plan: &mut SetupPlan,
    gpu: PciAddress,
    wanted: &WantedSettings,
    actual: &Actual,
) -> bool {
    match (&wanted.mig, &actual.mig) {
        (WantedMig::On(pools), Some(Ok(mig))) => add_mode_on(plan, gpu, pools, mig, actual),
        (WantedMig::On(pools), Some(Err(why))) => {
            let pools = pools_of(pools);
            plan.obstacles.push(match why {
                NotTold::NoMig => {
                    format!("it has no MIG; let the rules of {pools} match other GPUs")
                }
                NotTold::Note(why) => why.clone(),
                NotTold::Other(why) => format!(
                    "how it is divided cannot be told: {why}; see whether 'nvidia-smi' works"
                ),
            });
            false
        }
        (WantedMig::Off, Some(Ok(mig))) => add_mode_off(plan, gpu, wanted, mig, actual),
        (WantedMig::Off, Some(Err(NotTold::Note(why)))) => {
            plan.obstacles.push(why.clone());
            false
        }
        (WantedMig::On(_), None) | (WantedMig::Off, _) | (WantedMig::ByOthers, _) => false,
    }
}

fn pools_of(pools: &[MigPool]) -> String {
    let names: Vec<_> = pools.iter().map(|pool| pool.pool.clone()).collect();
    pools_in_words(&names)
}

fn add_mode_on(
    plan: &mut SetupPlan,
    gpu: PciAddress,
    pools: &[MigPool],
    mig: &MigState,
    actual: &Actual,
) -> bool {
    match layout(gpu, pools, mig, &here(mig, actual)) {
        Ok((layout, needs)) => {
            let mut settings = SetupPlan::default();
            for (one, need) in mig.after(&layout, &needs.instances) {
                add_settings(&mut settings, mig, &one, need);
            }
            if !settings.obstacles.is_empty() {
                plan.obstacles.append(&mut settings.obstacles);
                return false;
            }
        }
        Err(Unplanned::Never(why)) => {
            plan.obstacles.push(why);
            return false;
        }
        Err(Unplanned::NotYet(why)) => {
            plan.pending = Some(why);
            return false;
        }
    }
    if let Some(foreign) = lost(mig, actual) {
        plan.obstacles.push(format!(
            "it has no virtual functions, and GPU instances that virt-vgpu has not created would \
             be lost when they are created: {foreign}; destroy them ('nvidia-smi mig -dgi -i \
             {gpu}') when nobody needs them"
        ));
        return false;
    }
    if mig.on && mig.pending {
        return false;
    }
    if !mig.on && actual.functions.enabled > 0 {
        let why = "MIG mode is switched without them".to_owned();
        plan.add(SetupStep::RemoveFunctions, why);
    }
    let state = match (mig.on, mig.pending) {
        (true, _) => "it waits to be switched off",
        (false, true) => "it waits to be switched on",
        (false, false) => "it is off",
    };
    let why = format!("for {}; {state}", pools_of(pools));
    plan.add(SetupStep::SetMig(true), why);
    !mig.on && actual.functions.enabled > 0
}

/// GPU instances of others that new virtual functions would cost.
fn lost(mig: &MigState, actual: &Actual) -> Option<String> {
    let named: Vec<String> = mig.foreign().map(|one| one.to_string()).collect();
    (actual.functions.are_missing() && !named.is_empty()).then(|| named.join(", "))
}

fn add_mode_off(
    plan: &mut SetupPlan,
    gpu: PciAddress,
    wanted: &WantedSettings,
    mig: &MigState,
    actual: &Actual,
) -> bool {
    if !mig.on && !mig.pending {
        return false;
    }
    let pools = pools_in_words(&wanted.pools);
    let is_for_nobody = wanted.pools.is_empty();
    if !mig.noted.switched_on && !is_for_nobody {
        plan.obstacles.push(format!(
            "MIG mode is on, and {pools} {} time-sliced vGPUs, which it does not make then; \
             virt-vgpu has not switched it on and leaves it so; when no VM uses the GPU, \
             '/usr/lib/nvidia/sriov-manage -d {gpu}' and then 'nvidia-smi -i {gpu} -mig 0' switch \
             it off",
            if wanted.pools.len() == 1 {
                "has"
            } else {
                "have"
            }
        ));
        return false;
    }
    let foreign: Vec<String> = mig.foreign().map(|one| one.to_string()).collect();
    let stays_on = !foreign.is_empty() || !mig.noted.switched_on;
    if stays_on && !is_for_nobody {
        plan.obstacles.push(format!(
            "MIG mode stays on for GPU instances that virt-vgpu has not created: {}; destroy them \
             ('nvidia-smi mig -dgi -i {gpu}') when nobody needs them",
            foreign.join(", ")
        ));
        return false;
    }
    for one in mig.instances.iter().filter(|one| one.ours) {
        let why = match is_for_nobody {
            true => "no pool takes the GPU any more",
            false => "MIG mode is switched off without it",
        };
        plan.add(
            SetupStep::DestroyInstance(named(&mig.board, one)),
            why.to_owned(),
        );
    }
    if stays_on {
        return false;
    }
    let has_functions = actual.functions.enabled > 0;
    if has_functions {
        let why = "MIG mode is switched without them".to_owned();
        plan.add(SetupStep::RemoveFunctions, why);
    }
    let why = match is_for_nobody {
        true => "virt-vgpu switched it on for pools that have gone".to_owned(),
        false => format!("for {pools}; virt-vgpu switched it on for pools that have gone"),
    };
    plan.add(SetupStep::SetMig(false), why);
    if is_for_nobody && has_functions {
        let why = "they were there, and not only pools of vGPUs use them".to_owned();
        plan.add(SetupStep::EnableFunctions, why);
    }
    has_functions
}

/// Adds the GPU instances that go and come, and draws what will be there.
pub(super) fn add_instances(
    plan: &mut SetupPlan,
    gpu: PciAddress,
    wanted: &WantedSettings,
    actual: &Actual,
) {
    let (WantedMig::On(pools), Some(Ok(mig))) = (&wanted.mig, &actual.mig) else {
        return;
    };
    // Told with the mode.
    let Ok((layout, needs)) = layout(gpu, pools, mig, &here(mig, actual)) else {
        return;
    };
    for one in &layout.destroyed {
        let place = named(&mig.board, &one.instance);
        let why = match one.why {
            Why::NotNeeded if mig.goes_with_vms(place.place) => {
                "it came with VMs that do not use it any more"
            }
            Why::NotNeeded => "no pool needs it",
            Why::InTheWay => "in the way of others; it is created again elsewhere",
        };
        plan.add(SetupStep::DestroyInstance(place), why.to_owned());
    }
    for new in &layout.created {
        let place = NamedPlace::of(&mig.board, new.profile, new.slots);
        let its = needs.instances.iter();
        let its = its.filter(|need| need.profile == new.profile);
        let its: Vec<PoolName> = its.flat_map(|need| need.pools.clone()).collect();
        let why = format!("for {}", pools_in_words(&its));
        plan.add(SetupStep::CreateInstance(place), why);
    }
    let after = mig.after(&layout, &needs.instances);
    for (one, need) in &after {
        add_settings(plan, mig, one, need);
    }
    let has_fewer = |need: &InstanceNeed| {
        let its = after.iter().filter(|(_, its)| *its == need);
        its.count() < need.instances as usize
    };
    if needs.instances.iter().any(has_fewer) {
        let used = layout.kept.iter().filter(|one| !one.users.is_empty());
        let used: Vec<String> = used
            .map(|one| format!("{} by {}", named(&mig.board, one), one.users.join(", ")))
            .collect();
        plan.pending.get_or_insert(format!(
            "its GPU instances have vGPUs of other sizes than its pools want: {}; when nobody uses \
             them any more, 'virt-vgpu host apply {gpu}' makes the change",
            used.join("; ")
        ));
    }
    for one in layout.blocked.iter().filter(|one| one.ours) {
        plan.stays.push(format!(
            "GPU instance {} stays until it is not in use any more by {}; no pool needs it",
            named(&mig.board, one),
            one.users.join(", ")
        ));
    }
    plan.layout = Some(layout.drawn(&mig.board));
    plan.notes.extend(needs.unused);
}

/// Adds what sets one GPU instance as its pools want it. One that is in use stays as it is until
/// then.
pub(super) fn add_settings(
    plan: &mut SetupPlan,
    mig: &MigState,
    one: &GpuInstance,
    need: &InstanceNeed,
) {
    let place = NamedPlace {
        name: ProfileId::new(one.profile).map_or_else(String::new, |id| mig.board.name(id)),
        place: one.place(),
    };
    let pools = pools_in_words(&need.pools);
    let mixes = need.vgpus.is_none();
    let mut steps = Vec::new();
    match one.heterogeneous {
        Some(is) if is != mixes => {
            let why = format!("for {pools}; it is {}", if is { "on" } else { "off" });
            steps.push((
                SetupStep::SetInstanceHeterogeneous(place.clone(), mixes),
                why,
            ));
        }
        None if mixes => plan.obstacles.push(format!(
            "its GPU instances cannot mix sizes; take heterogeneous = true out of {pools}"
        )),
        Some(_) | None => {}
    }
    if let Some(wanted) = need.scheduler {
        let excess = mig
            .limits
            .as_ref()
            .and_then(|limits| outside(&wanted, limits));
        match (one.scheduler, excess) {
            (_, Some(excess)) => plan.obstacles.push(format!(
                "{pools} {} what the card does not take: {excess}; change [scheduler]",
                if need.pools.len() == 1 {
                    "wants"
                } else {
                    "want"
                }
            )),
            (None, None) => plan.obstacles.push(format!(
                "its driver has no schedulers of GPU instances; take [scheduler] out of {pools}"
            )),
            (Some(is), None) => match comparison(&wanted, &is) {
                Comparison::Same => {}
                // Some drivers tell parameters only while a VM runs.
                Comparison::Untold if !mig.users_at(place.place).is_empty() => {}
                Comparison::Untold | Comparison::Different => {
                    let why = format!("for {pools}; it is {}", InWords(&is));
                    steps.push((SetupStep::SetInstanceScheduler(place.clone(), wanted), why));
                }
            },
        }
    }
    let is_ours = mig.noted.made.contains(&place.place) || one.id == NOT_YET;
    match (mig.users_at(place.place), steps.first()) {
        (_, None) => {}
        (_, Some((step, _))) if !is_ours => plan.notes.push(format!(
            "'{}' is left out: virt-vgpu has not created it",
            step_in_words(mig.gpu, step)
        )),
        ([], Some(_)) => {
            for (step, why) in steps {
                plan.add(step, why);
            }
        }
        (users, Some((step, _))) => {
            let what = step_in_words(mig.gpu, step);
            let waits = format!("'{what}' waits: it is in use by {}", users.join(", "));
            plan.pending.get_or_insert(waits);
        }
    }
}

/// The GPU instances that are there when the steps for the virtual functions are done: new
/// functions cost the GPU its instances.
fn here(mig: &MigState, actual: &Actual) -> Vec<Instance> {
    match mig.on && !actual.functions.are_missing() {
        true => mig.instances.clone(),
        false => Vec::new(),
    }
}

fn layout(
    gpu: PciAddress,
    pools: &[MigPool],
    mig: &MigState,
    here: &[Instance],
) -> Result<(Layout, Needs), Unplanned> {
    let needs = mig.needs(pools).map_err(Unplanned::Never)?;
    let layout = Layout::plan(&mig.board, here, &needs.instances).map_err(|refused| {
        let why = format!("its GPU instances cannot be as its pools need them: {refused}");
        match &refused.reason {
            Reason::InTheWay { instances } if instances.iter().all(|(_, one)| one.ours) => {
                Unplanned::NotYet(format!(
                    "{why}; when nobody uses them any more, 'virt-vgpu host apply {gpu}' makes the \
                     change"
                ))
            }
            _ => Unplanned::Never(why),
        }
    })?;
    Ok((layout, needs))
}

/// Why there is no layout.
enum Unplanned {
    /// There is none as long as the pools are as they are.
    Never(String),
    /// VMs use what is in the way.
    NotYet(String),
}

fn named(board: &Board, one: &Instance) -> NamedPlace {
    NamedPlace::of(board, one.profile, one.slots)
}
