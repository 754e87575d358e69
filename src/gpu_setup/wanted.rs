//! How the pools that take a GPU want it set. Settings are the GPU's as a whole, so its
//! pools have to agree.

use super::scheduler::InWords;
use crate::{
    config::Pool,
    device::nvml::Scheduler,
    kind::{GpuInstances, MigSettings},
    model::{PoolName, TypeSelector},
};

/// How a GPU is to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSettings {
    /// The pools that take it, in the order of their names; none: see [`Self::of_no_pool`].
    pub pools: Vec<PoolName>,
    /// MIG mode and GPU instances.
    pub mig: WantedMig,
    /// Whether sizes are mixed on it; without MIG.
    pub heterogeneous: bool,
    /// How its time is shared without MIG, with the first pool that says so; None: as it is.
    pub scheduler: Option<(Scheduler, PoolName)>,
}

impl WantedSettings {
    /// For a GPU that no pool takes any more: what was made for pools is taken back.
    pub(super) fn of_no_pool() -> Self {
        Self {
            pools: Vec::new(),
            mig: WantedMig::Off,
            heterogeneous: false,
            scheduler: None,
        }
    }
}

/// What the pools of a GPU want of MIG.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WantedMig {
    /// The mode off: their vGPUs are time-sliced.
    Off,
    /// Their vGPUs are in GPU instances, and somebody else makes these.
    ByOthers,
    /// The mode on, and GPU instances for these pools.
    On(Vec<MigPool>),
}

/// A pool for which GPU instances are made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MigPool {
    /// The pool.
    pub pool: PoolName,
    /// Its vGPUs.
    pub profile: TypeSelector,
    /// Its GPU instances.
    pub settings: MigSettings,
    /// How many vGPUs it has at most; 0: as many as fit.
    pub limit: u32,
    /// Whether they have vGPUs of several sizes.
    pub mixes_sizes: bool,
    /// How vGPUs share the time of one; None: any way.
    pub scheduler: Option<Scheduler>,
}

/// Two pools on one GPU that want different settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "pool '{}' ({}) wants {} and pool '{}' ({}) wants {}; make the two files agree, or let their \
     rules match different GPUs", first.0, first.1, first.2, second.0, second.1, second.2
)]
pub struct Conflict {
    /// A pool, its file, and what it wants.
    pub first: (PoolName, String, String),
    /// The other one.
    pub second: (PoolName, String, String),
}

/// The settings that the GPU's pools want; None without pools.
///
/// # Errors
/// The first two that differ, in the order of the pools.
pub fn wanted_settings(pools: &[&Pool]) -> Result<Option<WantedSettings>, Box<Conflict>> {
    let Some(first) = pools.first() else {
        return Ok(None);
    };
    let mig = wanted_mig(pools)?;
    let names = || pools.iter().map(|pool| pool.name.clone()).collect();
    // The rest are settings of each GPU instance then, and pools that share one agree.
    if mig != WantedMig::Off {
        return Ok(Some(WantedSettings {
            pools: names(),
            mig,
            heterogeneous: false,
            scheduler: None,
        }));
    }
    let sizes = |pool: &Pool| format!("heterogeneous = {}", pool.mixes_sizes());
    if let Some(other) = pools
        .iter()
        .find(|pool| pool.mixes_sizes() != first.mixes_sizes())
    {
        return Err(conflict((first, sizes(first)), (other, sizes(other))));
    }
    let mut schedulers = pools.iter().filter_map(|pool| {
        let settings = pool.devices.gpu_settings()?;
        Some((*pool, Scheduler::from(settings.scheduler.as_ref()?)))
    });
    let scheduler = schedulers.next();
    if let Some((pool, wanted)) = &scheduler {
        if let Some((other, its)) = schedulers.find(|(_, its)| its != wanted) {
            let words = |scheduler| format!("the scheduler {}", InWords(scheduler));
            return Err(conflict((pool, words(wanted)), (other, words(&its))));
        }
    }
    Ok(Some(WantedSettings {
        pools: names(),
        mig,
        heterogeneous: first.mixes_sizes(),
        scheduler: scheduler.map(|(pool, wanted)| (wanted, pool.name.clone())),
    }))
}

/// A GPU is in MIG mode or not.
fn wanted_mig(pools: &[&Pool]) -> Result<WantedMig, Box<Conflict>> {
    let instances = |pool: &Pool| {
        let settings = pool.devices.gpu_settings();
        settings.map_or(GpuInstances::None, |settings| settings.gpu_instances)
    };
    let words = |pool: &Pool| match instances(pool).are_used() {
        true => "vGPUs in GPU instances".to_owned(),
        false => "time-sliced vGPUs".to_owned(),
    };
    let Some(first) = pools.first() else {
        return Ok(WantedMig::Off);
    };
    let differs = |pool: &&&Pool| instances(pool).are_used() != instances(first).are_used();
    if let Some(other) = pools.iter().find(differs) {
        return Err(conflict((first, words(first)), (other, words(other))));
    }
    let are_made = |pool: &Pool| matches!(instances(pool), GpuInstances::Made(_));
    let whose = |pool: &Pool| match are_made(pool) {
        true => "GPU instances that are made for it ([mig])".to_owned(),
        false => "GPU instances that others make (no [mig])".to_owned(),
    };
    // The driver would put its vGPUs into those that are made for others.
    let differs = |pool: &&&Pool| are_made(pool) != are_made(first);
    if let Some(other) = pools.iter().find(differs) {
        return Err(conflict((first, whose(first)), (other, whose(other))));
    }
    if !instances(first).are_used() {
        return Ok(WantedMig::Off);
    }
    let made = pools.iter().filter_map(|pool| match instances(pool) {
        GpuInstances::Made(settings) => Some(MigPool {
            pool: pool.name.clone(),
            profile: pool.devices.selector()?.clone(),
            settings,
            limit: pool.instances,
            mixes_sizes: pool.mixes_sizes(),
            scheduler: pool
                .devices
                .gpu_settings()
                .and_then(|its| its.scheduler.as_ref())
                .map(Scheduler::from),
        }),
        GpuInstances::None | GpuInstances::MadeByOthers => None,
    });
    let made: Vec<MigPool> = made.collect();
    Ok(match made.is_empty() {
        true => WantedMig::ByOthers,
        false => WantedMig::On(made),
    })
}

fn conflict(first: (&Pool, String), second: (&Pool, String)) -> Box<Conflict> {
    let told = |(pool, what): (&Pool, String)| {
        let file = pool.origin.display().to_string();
        (pool.name.clone(), file, what)
    };
    Box::new(Conflict {
        first: told(first),
        second: told(second),
    })
}
