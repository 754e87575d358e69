//! `virt-vgpu host`: settings of whole GPUs that pools want, shown and made.
//!
//! # Who waits for whom
//!
//! | lock | held for | by |
//! |---|---|---|
//! | a GPU's | all that is done to it | `host apply` |
//! | the driver's | one run of `sriov-manage`, one question to NVML | `host apply` |
//! | the host's | one change of a setting, at most as long as a hook's own driver may take | `host apply`, hooks |
//!
//! In that order. Waiting and `sriov-manage` take longer than a hook's patience,
//! so the host lock is not held then: a GPU without functions makes no vGPU that
//! a hook could get in between. Once its functions have types, a start may be
//! faster than the setting; the setting is then refused like any other on a GPU
//! in use, and names the domain. At boot no daemon starts a VM before all is set.

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::host::Host;

mod apply;
mod module_options;
mod show;
mod sriov;
mod state;
mod survey;
mod users;
mod work;

/// Show and make the settings of whole GPUs that pools want.
///
/// Virtual functions, mixed sizes (heterogeneous mode) and the vGPU scheduler of
/// each GPU that a pool of kind nvidia-vgpu takes. All of it is gone when the
/// driver is loaded anew; it is made again at boot and when a GPU appears, by
/// virt-vgpu-host.service and virt-vgpu-host@ADDRESS.service.
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

/// The GPUs whose pools want different settings, each in words.
pub(super) fn conflicts(host: &Host) -> anyhow::Result<Vec<String>> {
    Ok(survey::Survey::read(host)?.conflicts())
}
