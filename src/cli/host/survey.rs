//! The host's GPUs, and what the pools want of each.

use anyhow::{Context, anyhow};

use crate::{
    cli::near,
    config::{self, Pool},
    device::{
        gpu_fields::{AskedOnce, GpuFields},
        pci::DeviceFields,
        readiness::{self, Driver},
        vendor_vfio,
    },
    host::{Host, PciIds},
    model::PciAddress,
    plan::host_settings::{Conflict, Wish, pools_of, wish},
    rule::evaluate,
};

/// A GPU and what is wanted of it.
#[derive(Debug)]
pub(super) struct Surveyed {
    pub(super) gpu: PciAddress,
    /// None: no pool takes it.
    pub(super) wish: Result<Option<Wish>, Box<Conflict>>,
}

/// All of them.
#[derive(Debug)]
pub(super) struct Survey {
    pub(super) gpus: Vec<Surveyed>,
    /// Pools that cannot be used: what they want is not known.
    pub(super) problems: Vec<String>,
}

impl Survey {
    pub(super) fn read(host: &Host) -> anyhow::Result<Self> {
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
        let verdict = |gpu: PciAddress, pool: &Pool| {
            let fields = DeviceFields {
                sysfs: host,
                names: &names,
                name: &gpu.into(),
                path: &format!("/sys/bus/pci/devices/{gpu}"),
                gpu: Some(GpuFields {
                    nvml: Some(&nvml),
                    profile: Some(&pool.device_type),
                }),
            };
            evaluate(&pool.rules, &fields)
        };
        let survey = |gpu: PciAddress| Surveyed {
            gpu,
            wish: wish(&pools_of(&pools, |pool| verdict(gpu, pool))),
        };
        let gpus = readiness::all(host).context("cannot look for GPUs")?;
        Ok(Self {
            gpus: gpus.into_iter().map(survey).collect(),
            problems,
        })
    }

    /// The GPUs whose pools do not agree, in words.
    pub(super) fn conflicts(&self) -> Vec<String> {
        let conflicts = self.gpus.iter().filter_map(|known| {
            let conflict = known.wish.as_ref().err()?;
            Some(format!("{}: {conflict}", known.gpu))
        });
        conflicts.collect()
    }

    /// The GPUs of these addresses.
    pub(super) fn choose(&self, host: &Host, texts: &[String]) -> anyhow::Result<Vec<&Surveyed>> {
        let mut chosen = Vec::new();
        for surveyed in texts.iter().map(|text| self.one(host, text)) {
            chosen.push(surveyed?);
        }
        chosen.sort_by_key(|surveyed| surveyed.gpu);
        chosen.dedup_by_key(|surveyed| surveyed.gpu);
        Ok(chosen)
    }

    fn one(&self, host: &Host, text: &str) -> anyhow::Result<&Surveyed> {
        let parsed = text.parse::<PciAddress>().ok();
        let found = parsed.and_then(|gpu| self.gpus.iter().find(|known| known.gpu == gpu));
        found.ok_or_else(|| self.unknown(host, text, parsed))
    }

    fn unknown(&self, host: &Host, text: &str, parsed: Option<PciAddress>) -> anyhow::Error {
        let text = near::one_line(text);
        if let Some(function) = parsed {
            if let Ok(Some(gpu)) = vendor_vfio::gpu(host, function) {
                return anyhow!(
                    "{function} is a virtual function: settings are those of its GPU, {gpu}"
                );
            }
            if let Ok(Driver::Other(driver)) = readiness::driver(host, function) {
                return anyhow!(
                    "{function} is not for vGPUs: its driver is '{driver}', not nvidia; bind it to \
                     nvidia first"
                );
            }
        }
        let have: Vec<String> = self
            .gpus
            .iter()
            .map(|known| known.gpu.to_string())
            .collect();
        anyhow!(
            "there is no GPU '{text}': {}; 'virt-vgpu host show' lists all",
            near::what_there_is(&near::canonical(&text), &have)
        )
    }

    /// What is wanted of a GPU, if it is there and its pools agree.
    pub(super) fn wish(&self, gpu: PciAddress) -> Option<&Wish> {
        let known = self.gpus.iter().find(|known| known.gpu == gpu)?;
        known.wish.as_ref().ok()?.as_ref()
    }
}
