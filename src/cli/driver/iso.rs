//! `virt-vgpu driver iso`: a disc with the drivers for guests.

use std::{fmt, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::named;
use crate::{cli::output, driver_set::disc, host::Host, model::DriverSetName};

/// Make the disc of a driver set: an ISO image for guests.
///
/// It has the drivers for Linux and Windows, a script for each that installs them without
/// questions, and checksums. 'driver add' makes it by itself; the same set gives the
/// same bytes on any machine. The image is readable for QEMU.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver iso nvidia-580.65.05

Exit code 0 when the disc was made, 1 when not.")]
pub(super) struct Iso {
    /// The set.
    name: DriverSetName,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    name: DriverSetName,
    image: String,
}

impl Iso {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let name = &self.name;
        let undone = format!("no disc was made of driver set '{name}'");
        let set = named(host, name, &undone)?;
        disc::make(host, &set).context(undone)?;
        let report = Report {
            name: name.clone(),
            image: name.disc(),
        };
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "made {}", self.image)
    }
}
