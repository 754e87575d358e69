//! `virt-vgpu host`: shows and applies the settings of whole GPUs that pools need.

use std::process::ExitCode;

use anyhow::anyhow;
use clap::{Args, Subcommand};

use crate::{
    device::{
        near,
        readiness::{self, Driver},
        vendor_vfio,
    },
    gpu_setup::{Survey, Surveyed},
    host::Host,
    model::PciAddress,
    rule::spelling,
};

mod apply;
mod show;

/// Show and apply the settings of whole GPUs that pools need.
///
/// The settings are virtual functions, mixed sizes (heterogeneous mode) and the
/// vGPU scheduler of each GPU that a pool of kind nvidia-vgpu takes. They are lost
/// when the driver is loaded again. virt-vgpu-host.service and
/// virt-vgpu-host@ADDRESS.service apply them at boot and when a GPU appears.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu host show
  virt-vgpu host apply --all --dry-run
  virt-vgpu host apply 0000:3b:00.0
  systemctl mask --runtime virt-vgpu-host@0000:3b:00.0.service   leave it as it is")]
pub(super) struct HostVerb {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Show(show::Show),
    Apply(apply::Apply),
}

impl HostVerb {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        match &self.verb {
            Verb::Show(verb) => verb.run(host),
            Verb::Apply(verb) => verb.run(host),
        }
    }
}

/// The GPUs of these addresses.
fn chosen<'s>(
    survey: &'s Survey,
    host: &Host,
    texts: &[String],
) -> anyhow::Result<Vec<&'s Surveyed>> {
    let mut chosen = Vec::new();
    for surveyed in texts.iter().map(|text| one(survey, host, text)) {
        chosen.push(surveyed?);
    }
    chosen.sort_by_key(|surveyed| surveyed.gpu);
    chosen.dedup_by_key(|surveyed| surveyed.gpu);
    Ok(chosen)
}

fn one<'s>(survey: &'s Survey, host: &Host, text: &str) -> anyhow::Result<&'s Surveyed> {
    let parsed = text.parse::<PciAddress>().ok();
    let found = parsed.and_then(|gpu| survey.gpus.iter().find(|known| known.gpu == gpu));
    found.ok_or_else(|| unknown(survey, host, text, parsed))
}

/// The driver that a GPU has while `sriov-manage` makes or removes its virtual functions.
const SRIOV_MANAGE_DRIVER: &str = "pci-pf-stub";

fn unknown(survey: &Survey, host: &Host, text: &str, parsed: Option<PciAddress>) -> anyhow::Error {
    let text = spelling::shown(text);
    if let Some(function) = parsed {
        if let Ok(Some(gpu)) = vendor_vfio::gpu(host, function) {
            return anyhow!(
                "{function} is a virtual function: settings are those of its GPU, {gpu}"
            );
        }
        if let Ok(Driver::Other(driver)) = readiness::driver(host, function) {
            if driver == SRIOV_MANAGE_DRIVER {
                return anyhow!(
                    "{function} is being changed by sriov-manage now, which binds it to {driver} \
                     for a moment; try again, or see whether it was killed ('ps -C sriov-manage')"
                );
            }
            return anyhow!(
                "{function} is not for vGPUs: its driver is '{driver}', not nvidia; bind it to \
                     nvidia first"
            );
        }
    }
    no_such_gpu(&text, survey.gpus.iter().map(|known| known.gpu))
}

/// Says that there is no GPU of that name, and which there are.
pub(super) fn no_such_gpu(text: &str, have: impl Iterator<Item = PciAddress>) -> anyhow::Error {
    let have: Vec<String> = have.map(|gpu| gpu.to_string()).collect();
    anyhow!(
        "there is no GPU '{text}': {}; 'virt-vgpu host show' lists all",
        near::what_there_is(&near::canonical(text), &have)
    )
}
