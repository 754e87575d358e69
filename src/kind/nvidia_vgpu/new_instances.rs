//! GPU instances that do not exist yet, for pools whose GPU instances are made on demand: how
//! many more fit on a GPU. A start makes one before it plans its vGPU there.

use std::{cell::RefCell, collections::BTreeMap};

use super::in_instances::{InInstances, OnGpu};
use crate::{
    capacity::{
        Placement,
        mig::{self, Board, Cost, Occupied, ProfileId, Slots, Usefulness},
    },
    device::{
        nvml::{GpuInstance, InstancePlace, Told, TypeFacts},
        our_instances::UsedInstance,
        readiness,
    },
    kind::HostView,
    model::{Handle, PciAddress},
};

/// What a GPU has left for a pool's GPU instances.
#[derive(Debug, Clone)]
struct Left {
    /// How many more fit.
    more: u32,
    /// What the GPU loses by the next one; None if none fits.
    cost: Option<Cost>,
}

/// What is left on a GPU, for each pool that differs in what it wants; empty until it is needed.
#[derive(Debug, Default)]
struct Known(RefCell<BTreeMap<(PciAddress, String), Result<Left, String>>>);

/// What the GPU loses by one more GPU instance for the pool; None if none fits, or it is not
/// known.
pub(super) fn cost(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    gpu: PciAddress,
    on_gpu: &OnGpu,
) -> Option<Cost> {
    let (_, profile) = wanted(view, pool, gpu).ok()?;
    left(view, pool, (gpu, on_gpu), profile).ok()?.cost
}

/// The GPU instances that can still be made for the pool, none of which has a number yet; with
/// the type of its vGPUs.
///
/// # Errors
/// Why it cannot be told: a clause with the next step.
pub(super) fn further<'f>(
    view: &'f HostView<'_>,
    pool: &InInstances<'_>,
    gpu: PciAddress,
    on_gpu: &OnGpu,
) -> Result<(&'f TypeFacts, Vec<UsedInstance>), String> {
    let (wanted, profile) = wanted(view, pool, gpu)?;
    let most = wanted.most_per_instance.unwrap_or(1).max(1);
    let vgpus = pool.settings.vgpus_per_instance.map_or(most, Into::into);
    let numbers = 0..left(view, pool, (gpu, on_gpu), profile)?.more;
    let made = numbers.map(|number| UsedInstance {
        id: Placement::new_instance(number),
        place: InstancePlace {
            profile: profile.number(),
            start: 0,
            size: 0,
        },
        pools: Vec::new(),
        types: vec![wanted.name.clone()],
        // Where sizes are mixed, only the first one is known to fit.
        vgpus: Some(if pool.mixes_sizes { 1 } else { vgpus.min(most) }),
        room: most,
        scheduler: pool.scheduler,
        demanded: None,
    });
    Ok((wanted, made.collect()))
}

/// The type of the pool's vGPUs on the GPU, and the profile of their GPU instances.
fn wanted<'f>(
    view: &'f HostView<'_>,
    pool: &InInstances<'_>,
    gpu: PciAddress,
) -> Result<(&'f TypeFacts, ProfileId), String> {
    let facts = view.facts_of(&gpu.into())?;
    let types = facts.types.value().map(Vec::as_slice).unwrap_or_default();
    let wanted = types.iter().find(|one| pool.profile.means_name(&one.name));
    let wanted = wanted.ok_or_else(|| format!("this GPU has no {}", pool.profile))?;
    let profile = wanted.gpu_instance_profile.and_then(ProfileId::new);
    let profile = profile.ok_or_else(|| {
        format!(
            "vGPUs of {} are in no GPU instance on this GPU",
            pool.profile
        )
    })?;
    Ok((wanted, profile))
}

fn left(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    (gpu, on_gpu): (PciAddress, &OnGpu),
    profile: ProfileId,
) -> Result<Left, String> {
    let known = view.found::<Known>();
    let key = (gpu, pool.wishes());
    if let Some(remembered) = known.0.borrow().get(&key) {
        return remembered.clone();
    }
    let left = read_left(view, pool, (gpu, on_gpu), profile);
    known.0.borrow_mut().insert(key, left.clone());
    left
}

/// What is left beside the GPU instances that stay.
fn read_left(
    view: &HostView<'_>,
    pool: &InInstances<'_>,
    (gpu, on_gpu): (PciAddress, &OnGpu),
    profile: ProfileId,
) -> Result<Left, String> {
    let facts = view.facts_of(&gpu.into())?;
    match &facts.mig {
        Told::Value(true) => {}
        Told::Value(false) => {
            return Err(format!(
                "MIG mode is off; 'virt-vgpu host apply {gpu}' switches it on"
            ));
        }
        Told::Unavailable(failure) => return Err(failure.message.clone()),
    }
    let told = match &facts.instances {
        Told::Value(told) => told,
        Told::Unavailable(failure) => return Err(failure.message.clone()),
    };
    let board = Board::told(&told.profiles).map_err(|bad| bad.to_string())?;
    let mut taken = Occupied::NOTHING;
    for one in &told.instances {
        if goes(view, gpu, on_gpu, pool, one) {
            continue;
        }
        if let (Some(profile), Some(slots)) =
            (ProfileId::new(one.profile), Slots::new(one.start, one.size))
        {
            taken.add(&board, profile, slots);
        }
    }
    // Whatever else may be wanted later is not known here.
    let mut judge = Usefulness::new(&board, &[]);
    Ok(Left {
        more: taken.more(&board, profile),
        cost: mig::cost(&mut judge, taken, profile).map(|(cost, _)| cost),
    })
}

/// Whether a GPU instance makes room for another one: a start has made it, or it is for no pool,
/// and nobody uses it any more. One that the pool itself can use is counted as it is.
fn goes(
    view: &HostView<'_>,
    gpu: PciAddress,
    on_gpu: &OnGpu,
    pool: &InInstances<'_>,
    one: &GpuInstance,
) -> bool {
    let place = one.place();
    let mut used = on_gpu.noted.used.iter();
    let used = used.find(|used| used.place == place);
    let is_kept = used.is_some_and(|used| used.demanded.is_none());
    let is_its_own = on_gpu.instances(pool).any(|(its, _)| its.place == place);
    let is_idle = on_gpu.noted.made.contains(&place) && on_gpu.vgpus_in(one.id, &[]) == 0;
    is_idle && !is_kept && !is_its_own && !has_mediated(view, gpu)
}

/// Which GPU instance a mediated device is in, the driver does not tell.
fn has_mediated(view: &HostView<'_>, gpu: PciAddress) -> bool {
    let vgpus = readiness::vgpus(view.sysfs(), gpu);
    vgpus.map_or(true, |vgpus| {
        vgpus
            .iter()
            .any(|vgpu| matches!(vgpu.device, Handle::Mdev(_)))
    })
}
