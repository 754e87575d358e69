//! What the pools of a GPU need of it: MIG mode or not, and how many GPU instances.

use super::board::ProfileId;
use crate::{device::nvml::Scheduler, model::PoolName};

/// What one pool needs of a GPU.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolNeed {
    /// The pool.
    pub pool: PoolName,
    /// None: its vGPUs are time-sliced, which needs MIG mode to be off.
    pub in_instances: Option<InInstances>,
}

/// vGPUs that live in GPU instances.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct InInstances {
    /// The profile of the instances; NVML tells it for each vGPU type.
    pub profile: ProfileId,
    /// Frame buffer of a vGPU in MiB.
    pub framebuffer_mib: u64,
    /// The most of them in one instance (`nvmlVgpuTypeGetMaxInstancesPerGpuInstance`), or
    /// fewer if the pool says so.
    pub most_per_instance: u32,
    /// For how many vGPUs there are to be instances.
    pub vgpus: u32,
    /// How many more a VM's start may ask for.
    pub later: u32,
    /// Whether its instances may have vGPUs of several sizes.
    pub mixes_sizes: bool,
    /// How they share the time of an instance; None: any way.
    pub scheduler: Option<Scheduler>,
}

/// What all pools of a GPU need of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GpuNeed {
    /// Whether MIG mode has to be on.
    pub mig: bool,
    /// In the order of the profiles' numbers.
    pub instances: Vec<InstanceNeed>,
}

/// GPU instances of one profile that pools need.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceNeed {
    /// The pools.
    pub pools: Vec<PoolName>,
    /// The profile.
    pub profile: ProfileId,
    /// How many have to be there.
    pub instances: u32,
    /// How many more the pools may want later.
    pub later: u32,
    /// How likely it is that they do, in comparison with others.
    pub weight: u32,
    /// The vGPUs that one of them takes; None: several sizes.
    pub vgpus: Option<OneSize>,
    /// How these share its time; None: any way.
    pub scheduler: Option<Scheduler>,
}

/// vGPUs of one size in a GPU instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct OneSize {
    /// Frame buffer of each in MiB.
    pub framebuffer_mib: u64,
    /// How many of them.
    pub most: u32,
}

/// A GPU is in MIG mode or not, and two pools disagree.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool '{mig}' needs GPU instances and pool '{time_sliced}' has time-sliced vGPUs, which a GPU \
     cannot have at once; let their rules match different GPUs"
)]
pub struct ModeConflict {
    /// The first pool that needs MIG mode.
    pub mig: PoolName,
    /// The first that needs it off.
    pub time_sliced: PoolName,
}

/// What the pools need; None without pools. One instance has vGPUs of one size, unless its
/// pools mix sizes; pools with the same profile and size share instances, whatever the
/// series of their types. Pools with different schedulers do not.
///
/// # Errors
/// When some pools need MIG mode and others need it off.
pub fn gpu_need(pools: &[PoolNeed]) -> Result<Option<GpuNeed>, ModeConflict> {
    let mig = pools.iter().find(|pool| pool.in_instances.is_some());
    let time_sliced = pools.iter().find(|pool| pool.in_instances.is_none());
    if let (Some(mig), Some(time_sliced)) = (mig, time_sliced) {
        return Err(ModeConflict {
            mig: mig.pool.clone(),
            time_sliced: time_sliced.pool.clone(),
        });
    }
    if pools.is_empty() {
        return Ok(None);
    }
    let mut groups: Vec<(SharedBy, Vec<(&PoolName, InInstances)>)> = Vec::new();
    for pool in pools {
        let Some(its) = pool.in_instances else {
            continue;
        };
        let key = SharedBy::of(its);
        match groups.iter_mut().find(|(known, _)| *known == key) {
            Some((_, members)) => members.push((&pool.pool, its)),
            None => groups.push((key, vec![(&pool.pool, its)])),
        }
    }
    groups.sort_by_key(|(key, _)| *key);
    Ok(Some(GpuNeed {
        mig: mig.is_some(),
        instances: groups
            .iter()
            .map(|(key, members)| need(key, members))
            .collect(),
    }))
}

/// What vGPUs must have in common to be in one instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct SharedBy {
    profile: ProfileId,
    /// None: sizes are mixed.
    size: Option<OneSize>,
    scheduler: Option<Scheduler>,
}

impl SharedBy {
    fn of(its: InInstances) -> Self {
        let size = OneSize {
            framebuffer_mib: its.framebuffer_mib,
            most: its.most_per_instance,
        };
        Self {
            profile: its.profile,
            size: (!its.mixes_sizes).then_some(size),
            scheduler: its.scheduler,
        }
    }
}

fn need(key: &SharedBy, members: &[(&PoolName, InInstances)]) -> InstanceNeed {
    let later = members.iter().map(|(_, its)| its.later);
    let now = instances_for(members, |its| its.vgpus);
    let at_most = instances_for(members, |its| its.vgpus.saturating_add(its.later));
    InstanceNeed {
        pools: members.iter().map(|(pool, _)| (*pool).clone()).collect(),
        profile: key.profile,
        instances: now,
        later: at_most.saturating_sub(now),
        weight: later.fold(0, u32::saturating_add),
        vgpus: key.size,
        scheduler: key.scheduler,
    }
}

/// How many instances that many vGPUs of each pool fill. Large ones come first. vGPU `n` of
/// a size that fits `m` times lies at `n/m` of the instance, which on Blackwell is so in
/// equal-size and in mixed mode (the driver's `kernel_vgpu_mgr.c`).
fn instances_for(members: &[(&PoolName, InInstances)], count: fn(&InInstances) -> u32) -> u32 {
    let mut sizes: Vec<(u32, u32)> = Vec::new();
    for (_, its) in members {
        let most = its.most_per_instance.max(1);
        match sizes.iter_mut().find(|(known, _)| *known == most) {
            Some((_, sum)) => *sum = sum.saturating_add(count(its)),
            None => sizes.push((most, count(its))),
        }
    }
    sizes.sort_unstable();
    let mut full = 0_u32;
    let mut partly: Vec<Vec<Share>> = Vec::new();
    for (most, mut left) in sizes {
        for instance in &mut partly {
            left -= fill(instance, most, left);
        }
        full = full.saturating_add(left / most);
        let mut next = Vec::new();
        if fill(&mut next, most, left % most) > 0 {
            partly.push(next);
        }
    }
    full.saturating_add(u32::try_from(partly.len()).unwrap_or(u32::MAX))
}

/// The `number`-th of `most` equal parts of an instance.
#[derive(Debug, Clone, Copy)]
struct Share {
    number: u32,
    most: u32,
}

impl Share {
    fn overlaps(self, other: Self) -> bool {
        let begins_before_end = |one: Self, other: Self| {
            u64::from(one.number) * u64::from(other.most)
                < (u64::from(other.number) + 1) * u64::from(one.most)
        };
        begins_before_end(self, other) && begins_before_end(other, self)
    }
}

/// Puts up to `left` vGPUs into the instance; how many it took.
fn fill(instance: &mut Vec<Share>, most: u32, left: u32) -> u32 {
    let mut taken = 0;
    for number in 0..most {
        if taken == left {
            break;
        }
        let share = Share { number, most };
        if instance.iter().all(|other| !other.overlaps(share)) {
            instance.push(share);
            taken += 1;
        }
    }
    taken
}
