//! How the pools that take a GPU want it set. Settings are the GPU's as a whole, so its
//! pools have to agree.

use super::scheduler::InWords;
use crate::{config::Pool, device::nvml::Scheduler, model::PoolName};

/// How a GPU is to be set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WantedSettings {
    /// The pools that take it, in the order of their names.
    pub pools: Vec<PoolName>,
    /// Whether sizes are mixed on it.
    pub heterogeneous: bool,
    /// How time is shared, with the first pool that says so; None: as it is.
    pub scheduler: Option<(Scheduler, PoolName)>,
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
        pools: pools.iter().map(|pool| pool.name.clone()).collect(),
        heterogeneous: first.mixes_sizes(),
        scheduler: scheduler.map(|(pool, wanted)| (wanted, pool.name.clone())),
    }))
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
