//! `virt-vgpu pool preview`: what the rules of a pool take, and why not the rest.

use std::{
    fmt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    candidates::{self, Candidate},
    load, other_pools,
};
use crate::{
    allocate::Look,
    cli::output,
    config::{self, ConfigFiles, Pool},
    host::Host,
    kind::Words,
    model::{PciAddress, PoolName},
    plan::Detail,
    rule::{Field, fields_used},
};

/// Show which devices a pool's rules take, and why not the others.
///
/// Lists every device of the host that makes mediated devices, or every GPU for a
/// pool of kind nvidia-vgpu: the rule that takes it, or for each rule the first
/// condition that does not hold. A device that another pool takes too is told.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu pool preview cad
  virt-vgpu pool preview --file ./cad.toml     before the file is installed
  virt-vgpu pool preview cad --json | jq -r '.devices[] | select(.matches).address'

Exit code 0 also when no device matches, 1 when the pool cannot be used.")]
pub(super) struct Preview {
    /// The pool.
    #[arg(required_unless_present = "file", conflicts_with = "file")]
    name: Option<PoolName>,

    /// A pool file that is not installed yet.
    #[arg(long)]
    file: Option<PathBuf>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    pool: PoolName,
    #[serde(serialize_with = "crate::cli::output::path")]
    file: PathBuf,
    #[serde(rename = "type")]
    device_type: String,
    devices: Vec<Candidate>,
    /// GPUs that NVIDIA's driver does not have, for a pool of them: what has each.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unbound: Vec<Unbound>,
    warnings: Vec<String>,
    #[serde(skip)]
    words: Words,
}

#[derive(Debug, Serialize)]
struct Unbound {
    address: PciAddress,
    reason: String,
}

impl Preview {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let pool = match (&self.file, &self.name) {
            (Some(file), _) => read_file(file)?,
            (None, Some(name)) => load(host, name)?,
            (None, None) => anyhow::bail!("no pool was named"),
        };
        let report = gather(host, pool)?;
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// Reads a pool file that the user names: a path of theirs, not of the host
/// that `--root` puts in place of this one.
pub(super) fn read_file(file: &Path) -> anyhow::Result<Pool> {
    let cannot = || format!("cannot use {}", file.display());
    let path = std::path::absolute(file).with_context(cannot)?;
    let text = Host::new("/").read(&path).with_context(cannot)?;
    let stem = file.file_stem().unwrap_or_default().to_string_lossy();
    let name: PoolName = match stem.parse() {
        Ok(name) => name,
        Err(invalid) => anyhow::bail!("{}: {invalid}; rename the file", cannot()),
    };
    Ok(config::parse(name, file, &text)?)
}

fn gather(host: &Host, pool: Pool) -> anyhow::Result<Report> {
    let look = Look::new(host);
    let supply = look
        .free_supply(Detail::default(), None)
        .context("cannot look for devices")?;
    let others = other_pools(config::load_all(host), &pool.name);
    let unbound = pool.kind.unbound(supply.view());
    let mut warnings = pool.warnings();
    // Nobody but NVML tells it, and a rule on what is not told matches nothing.
    if fields_used(&pool.rules).contains(&Field::GpuMemoryMib) {
        if let Err(failure) = supply.facts() {
            let field = Field::GpuMemoryMib;
            warnings.push(format!("'{field}' is not known now: {}", failure.message));
        }
    }
    let device_type = pool.type_name().to_owned();
    Ok(Report {
        unbound: unbound
            .into_iter()
            .map(|(address, reason)| Unbound { address, reason })
            .collect(),
        words: pool.kind.words(),
        devices: candidates::candidates(&supply, &pool, &others)
            .context("cannot look for devices")?,
        warnings,
        pool: pool.name,
        file: pool.origin,
        device_type,
    })
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = self.devices.len();
        let members = self.devices.iter().filter(|one| one.matches).count();
        let Self {
            pool, device_type, ..
        } = self;
        writeln!(
            f,
            "pool '{pool}' (type '{device_type}'), {}",
            self.file.display()
        )?;
        if all == 0 {
            let unbound = self.words.unbound.filter(|_| !self.unbound.is_empty());
            let nothing =
                unbound.map_or(self.words.host_has_none, |words| words.host_has_none_bound);
            writeln!(f, "\n{nothing}")?;
        }
        if members > 0 {
            writeln!(f, "\nin the pool ({members} of {all}):")?;
            write!(f, "{}", candidates::members(&self.devices).indented())?;
        }
        if members < all {
            writeln!(f, "\nnot in the pool ({} of {all}):", all - members)?;
            write!(f, "{}", candidates::rejected(&self.devices))?;
        }
        if let Some(words) = self.words.unbound.filter(|_| !self.unbound.is_empty()) {
            writeln!(f, "\n{}:", words.heading)?;
            for Unbound { address, reason } in &self.unbound {
                writeln!(f, "  {address}\n    {reason}")?;
            }
        }
        for warning in &self.warnings {
            writeln!(f, "\nwarning: {}", output::one_line(warning))?;
        }
        Ok(())
    }
}
