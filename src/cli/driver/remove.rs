//! `virt-vgpu driver remove`: a driver set goes, unless something uses it.

use std::{fmt, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{alone, lending, named, pools, size};
use crate::{
    claims,
    cli::{confirm::confirm, output},
    device::maintenance,
    host::Host,
    model::{DriverSetName, SetDisc, pools_in_words},
};

/// Remove a driver set.
///
/// One that a pool lends to VMs, or whose disc is in a VM, stays; so does one that a
/// change of the host's driver needs that is not complete.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver remove nvidia-580.65.05
  virt-vgpu driver remove nvidia-580.65.05 --dry-run
  virt-vgpu driver remove nvidia-580.65.05 --yes      does not ask: for scripts

Exit code 0 when the set is gone, 1 when not.")]
pub(super) struct Remove {
    /// The set.
    name: DriverSetName,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: DriverSetName,
    removed: bool,
    directory: String,
    bytes: u64,
}

impl Remove {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let name = &self.name;
        let undone = format!("driver set '{name}' was not removed");
        let set = named(host, name, &undone)?;
        let pools = lending(&pools(host), name);
        if !pools.is_empty() {
            bail!(
                "{undone}: {} lends it to VMs (guest-driver); give the pools another one first",
                pools_in_words(&pools)
            );
        }
        let (claims, damaged) = claims::load_all(host).with_context(|| undone.clone())?;
        if let Some(damaged) = damaged.into_iter().next() {
            return Err(damaged).context(undone);
        }
        let is_its = |media: &claims::ClaimedMedia| {
            SetDisc::at(&media.image).is_some_and(|disc| disc.set == *name)
        };
        let has_it = |claim: &&claims::Claim| claim.media.as_ref().is_some_and(is_its);
        if let Some(claim) = claims.iter().find(has_it) {
            bail!(
                "{undone}: domain '{}' runs with its disc; shut it down first",
                claim.domain_name
            );
        }
        let noted = maintenance::read(host).with_context(|| undone.clone())?;
        let change = noted.and_then(|noted| noted.load);
        if let Some(load) = change.filter(|load| load.needs(name)) {
            bail!(
                "{undone}: 'virt-vgpu driver load {}' is not complete, and needs it; run it \
                 again, or end it with 'virt-vgpu maintenance leave --force'",
                load.set
            );
        }
        let mut report = Report {
            name: name.clone(),
            removed: false,
            directory: name.directory(),
            bytes: set.parts.iter().map(|one| one.size).sum(),
        };
        if !self.dry_run {
            if !self.yes {
                let question = format!("{report}remove driver set '{name}'?");
                confirm(&question, &undone)?;
            }
            // Discs with licence tokens go with it.
            let _alone = alone(host, "virt-vgpu driver remove").with_context(|| undone.clone())?;
            host.remove_directory(&report.directory)
                .with_context(|| format!("cannot remove {}", report.directory))?;
            report.removed = true;
        }
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verb = if self.removed {
            "removed"
        } else {
            "would remove"
        };
        writeln!(f, "{verb} {} ({})", self.directory, size(self.bytes))
    }
}
