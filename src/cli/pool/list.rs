//! `virt-vgpu pool list`: all pools, the broken ones too.

use std::{fmt, process::ExitCode};

use clap::Args;

use crate::{
    cli::output::{self, Table},
    host::Host,
    report::pool::{self, BrokenPool, IgnoredFile, MaskedPool, PoolList},
};

/// List all pools.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu pool list
  virt-vgpu pool list --json | jq -r '.pools[].name'
  virt-vgpu pool list --json | jq '.broken'

Exit code 0 also when a pool's file has a mistake; 'virt-vgpu pool check' is
for that.")]
pub(super) struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

impl List {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        output::report(self.json, &pool::list(host)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for PoolList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "POOL",
            "TYPE",
            "PLACEMENT",
            "LIMIT",
            "RULES",
            "DEVICES",
            "FILE",
        ]);
        for pool in &self.pools {
            let limit = match pool.instances {
                0 => String::new(),
                most => most.to_string(),
            };
            table.row([
                pool.name.to_string(),
                pool.device_type.clone(),
                pool.placement.to_string(),
                limit,
                pool.rules.to_string(),
                pool.devices.to_string(),
                pool.file.display().to_string(),
            ]);
        }
        let has_files = !self.broken.is_empty() || !self.ignored.is_empty();
        if table.is_empty() && has_files {
            writeln!(f, "no pool that can be used")?;
        } else if table.is_empty() {
            writeln!(f, "no pools; make one with 'virt-vgpu pool create'")?;
        } else {
            write!(f, "{table}")?;
        }
        let gap = |any: bool| if any { "\n" } else { "" };
        write!(
            f,
            "{}",
            gap(!self.broken.is_empty() || !self.masked.is_empty() || !self.ignored.is_empty())
        )?;
        for BrokenPool { name, error } in &self.broken {
            writeln!(
                f,
                "pool '{name}' cannot be used: {}",
                output::one_line(error)
            )?;
        }
        for MaskedPool { name, file } in &self.masked {
            writeln!(
                f,
                "pool '{name}' is masked by {}",
                output::one_line(file.display())
            )?;
        }
        for IgnoredFile { file, reason } in &self.ignored {
            let (file, reason) = (output::one_line(file.display()), output::one_line(reason));
            writeln!(f, "ignored: {file}: {reason}")?;
        }
        Ok(())
    }
}
