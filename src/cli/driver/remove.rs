//! `virt-vgpu driver remove`: a driver set goes, unless something uses it.

use std::{fmt, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::size;
use crate::{
    cli::{confirm::confirm, output},
    driver_set,
    host::Host,
    model::DriverSetName,
};

/// Remove a driver set.
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
        let set = driver_set::find(host, name).with_context(|| undone.clone())?;
        let Some(set) = set else {
            bail!("there is no driver set '{name}'; 'virt-vgpu driver list' lists them");
        };
        let mut report = Report {
            name: name.clone(),
            removed: false,
            directory: driver_set::path(name),
            bytes: set.parts.iter().map(|one| one.size).sum(),
        };
        if !self.dry_run {
            if !self.yes {
                let question = format!("{report}remove driver set '{name}'?");
                confirm(&question, &undone)?;
            }
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
