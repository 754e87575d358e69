//! `virt-vgpu pool preview`: what the rules of a pool take, and why not the rest.

use std::{fmt, path::PathBuf, process::ExitCode};

use clap::Args;

use super::candidates;
use crate::{
    cli::output,
    host::Host,
    model::PoolName,
    report::pool::{self, PoolPreview, Unbound},
};

/// Show which devices a pool's rules take, and why not the others.
///
/// Lists every device of the host that makes mediated devices, every GPU for a pool
/// of kind nvidia-vgpu, or every PCI device for one of kind pci: the rule that takes
/// it, or for each rule the first condition that does not hold. A device that another
/// pool takes too is told.
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

impl Preview {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let pool = match (&self.file, &self.name) {
            (Some(file), _) => pool::read_file(file)?,
            (None, Some(name)) => pool::load(host, name)?,
            (None, None) => anyhow::bail!("no pool was named"),
        };
        output::report(self.json, &pool::preview(host, pool)?)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for PoolPreview {
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
