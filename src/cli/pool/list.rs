//! `virt-vgpu pool list`: all pools, the broken ones too.

use std::{fmt, path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use crate::{
    allocate::Look,
    cli::output::{self, Table},
    config::{self, Placement, Pool},
    host::Host,
    kind::Kind,
    model::PoolName,
    plan::{Detail, HostSupply},
    rule::Verdict,
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

#[derive(Debug, Serialize)]
struct Report {
    pools: Vec<PoolReport>,
    broken: Vec<BrokenReport>,
    masked: Vec<MaskedReport>,
    ignored: Vec<IgnoredReport>,
}

#[derive(Debug, Serialize)]
struct PoolReport {
    name: PoolName,
    kind: &'static dyn Kind,
    #[serde(rename = "type")]
    device_type: String,
    placement: Placement,
    /// Most devices at once, 0 for as many as fit.
    instances: u32,
    rules: usize,
    /// Devices that the rules take.
    devices: usize,
    #[serde(serialize_with = "crate::cli::output::path")]
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct BrokenReport {
    name: PoolName,
    error: String,
}

#[derive(Debug, Serialize)]
struct MaskedReport {
    name: PoolName,
    #[serde(serialize_with = "crate::cli::output::path")]
    file: PathBuf,
}

#[derive(Debug, Serialize)]
struct IgnoredReport {
    #[serde(serialize_with = "crate::cli::output::path")]
    file: PathBuf,
    reason: String,
}

impl List {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let report = gather(host)?;
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn gather(host: &Host) -> anyhow::Result<Report> {
    let look = Look::new(host);
    let supply = look
        .supply(Detail::default())
        .context("cannot look for devices")?;
    let loaded = config::load_all(host);
    let (mut pools, mut broken) = (Vec::new(), Vec::new());
    for (name, pool) in loaded.pools {
        match pool {
            Ok(pool) => pools.push(pool_report(&supply, pool).context("cannot look for devices")?),
            Err(error) => broken.push(BrokenReport {
                name,
                error: error.to_string(),
            }),
        }
    }
    let masked = loaded.masked.into_iter();
    let ignored = loaded.ignored.into_iter();
    Ok(Report {
        pools,
        broken,
        masked: masked
            .map(|(name, file)| MaskedReport { name, file })
            .collect(),
        ignored: ignored
            .map(|ignored| IgnoredReport {
                file: ignored.path,
                reason: ignored.reason,
            })
            .collect(),
    })
}

fn pool_report(supply: &HostSupply<'_>, pool: Pool) -> std::io::Result<PoolReport> {
    let standings = supply.standings(&pool)?;
    let members = standings
        .iter()
        .filter(|standing| matches!(standing.verdict, Verdict::Match { .. }));
    let device_type = pool.type_name().to_owned();
    Ok(PoolReport {
        devices: members.count(),
        name: pool.name,
        kind: pool.kind,
        device_type,
        placement: pool.placement,
        instances: pool.instances,
        rules: pool.rules.len(),
        file: pool.origin,
    })
}

impl fmt::Display for Report {
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
        for BrokenReport { name, error } in &self.broken {
            writeln!(
                f,
                "pool '{name}' cannot be used: {}",
                output::one_line(error)
            )?;
        }
        for MaskedReport { name, file } in &self.masked {
            writeln!(
                f,
                "pool '{name}' is masked by {}",
                output::one_line(file.display())
            )?;
        }
        for IgnoredReport { file, reason } in &self.ignored {
            let (file, reason) = (output::one_line(file.display()), output::one_line(reason));
            writeln!(f, "ignored: {file}: {reason}")?;
        }
        Ok(())
    }
}
