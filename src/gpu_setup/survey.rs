//! The host's GPUs, and what the pools want of each.

use std::path::Path;

use anyhow::Context;

use super::{
    wanted::{Conflict, WantedSettings, wanted_settings},
    work::{OTHERS, PURPOSE},
};
use crate::{
    config::{self, POOL_DIRS, Pool},
    device::{
        gpu_fields::{self, AskedOnce},
        mdev, our_instances, readiness,
    },
    host::{Deadline, DriverLock, Host, PciIds},
    kind::FieldSources,
    model::{PciAddress, PoolName},
    plan::pools_taking,
};

/// A GPU and what is wanted of it.
#[derive(Debug)]
pub struct Surveyed {
    /// The GPU.
    pub gpu: PciAddress,
    /// None: no pool takes it, and nothing on it was made for pools.
    pub wanted: Result<Option<WantedSettings>, Box<Conflict>>,
}

/// All of them.
#[derive(Debug)]
pub struct Survey {
    /// In ascending order of address.
    pub gpus: Vec<Surveyed>,
    /// Pools that cannot be used: what they want is not known.
    pub problems: Vec<String>,
}

impl Survey {
    /// The same, while none of our processes runs `sriov-manage`, which takes a GPU's driver away
    /// for a moment.
    ///
    /// # Errors
    /// As [`Self::read`], and when others have NVIDIA's driver for themselves for too long.
    pub fn read_alone(host: &Host) -> anyhow::Result<Self> {
        let _driver = DriverLock::acquire(host, PURPOSE, Deadline::after(OTHERS))?;
        Self::read(host)
    }

    /// Reads the pools and looks for the GPUs.
    ///
    /// # Errors
    /// When the PCI bus cannot be read.
    pub fn read(host: &Host) -> anyhow::Result<Self> {
        let loaded = config::load_all(host);
        let mut problems = Vec::new();
        let mut pools: Vec<Pool> = Vec::new();
        for pool in loaded.pools.into_values() {
            match pool {
                Ok(pool) => pools.push(pool),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let names = PciIds::new(host);
        let nvml = host.nvml();
        let nvml = AskedOnce::new(&nvml);
        let sources = FieldSources {
            sysfs: host,
            names: &names,
            nvml: Some(&nvml),
        };
        let verdict = |gpu: PciAddress, pool: &Pool| {
            let gpu = mdev::pci_function(gpu);
            pool.devices.verdict(sources, &pool.rules, &gpu)
        };
        // A directory or a pool that cannot be used may have one that takes the GPU, and so may
        // a rule that asks what NVML does not answer now.
        let asks_nvml = |pool: &Pool| {
            let mut fields = pool.rules.iter().flat_map(|rule| &rule.filters);
            fields.any(|filter| gpu_fields::OF_NVML.contains(&filter.field()))
        };
        let are_all_known = problems.is_empty()
            && !pools.iter().any(asks_nvml)
            && loaded.ignored.iter().all(|ignored| {
                let path = &ignored.path;
                !POOL_DIRS
                    .iter()
                    .any(|directory| path == Path::new(directory))
                    && path.extension().is_none_or(|name| name != "toml")
            });
        let is_of_ours = |gpu| {
            // What cannot be read may say so; it is told when the GPU is looked at.
            our_instances::read(host, gpu).map_or(true, |noted| noted.is_anything())
        };
        let survey = |gpu: PciAddress| {
            let wanted = wanted_settings(&pools_taking(&pools, |pool| verdict(gpu, pool)));
            Surveyed {
                gpu,
                wanted: match wanted {
                    Ok(None) if are_all_known && is_of_ours(gpu) => {
                        Ok(Some(WantedSettings::of_no_pool()))
                    }
                    wanted => wanted,
                },
            }
        };
        let gpus = readiness::all(host).context("cannot look for GPUs")?;
        Ok(Self {
            gpus: gpus.into_iter().map(survey).collect(),
            problems,
        })
    }

    /// The GPUs whose pools do not agree, in words.
    pub fn conflicts(&self) -> Vec<String> {
        self.conflicts_where(|_| true)
    }

    /// The same, as far as the pool has to do with it.
    pub fn conflicts_of(&self, pool: &PoolName) -> Vec<String> {
        self.conflicts_where(|conflict| [&conflict.first.0, &conflict.second.0].contains(&pool))
    }

    fn conflicts_where(&self, is_meant: impl Fn(&Conflict) -> bool) -> Vec<String> {
        let conflicts = self.gpus.iter().filter_map(|known| {
            let conflict = known.wanted.as_ref().err()?;
            is_meant(conflict).then(|| format!("{}: {conflict}", known.gpu))
        });
        conflicts.collect()
    }

    /// The wanted settings of a GPU, if it exists and its pools agree.
    pub(super) fn wanted(&self, gpu: PciAddress) -> Option<&WantedSettings> {
        let known = self.gpus.iter().find(|known| known.gpu == gpu)?;
        known.wanted.as_ref().ok()?.as_ref()
    }
}
