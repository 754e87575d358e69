//! `virt-vgpu driver iso`: a disc with the drivers for guests.

use std::{fmt, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{alone, make_with_tokens, named};
use crate::{cli::output, driver_set::disc, host::Host, model::DriverSetName};

/// Make the discs of a driver set: ISO images for guests.
///
/// A disc has the drivers for Linux and Windows, a script for each that installs them
/// without questions, and checksums. 'driver add' makes it by itself; the same set gives
/// the same bytes on any machine. The image is readable for QEMU. Where there are licence
/// tokens ('driver token'), each VM that has one gets a disc with it: those discs are made
/// too, and only QEMU's user can read them.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver iso nvidia-580.65.05

Exit code 0 when all discs were made, 1 when not.")]
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
    /// The discs with licence tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    token_images: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

impl Iso {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let name = &self.name;
        let undone = format!("no disc was made of driver set '{name}'");
        let set = named(host, name, &undone)?;
        let alone = alone(host, "virt-vgpu driver iso").context(undone.clone())?;
        disc::make(host, &set).context(undone)?;
        let made = make_with_tokens(host, &set, &alone);
        let report = Report {
            name: name.clone(),
            image: name.disc(),
            token_images: made.with_tokens,
            problems: made.problems,
        };
        output::report(self.json, &report)?;
        Ok(match report.problems.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for image in [&self.image].into_iter().chain(&self.token_images) {
            writeln!(f, "made {image}")?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
