//! `virt-vgpu driver iso`: a disc with the drivers for guests.

use std::{fmt, process::ExitCode};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{
    alone, are_in_order, make_with_tokens, named,
    running::{Outcome, RunningVm, Update},
};
use crate::{
    cli::{output, target::Connection},
    driver_set::disc,
    host::Host,
    model::DriverSetName,
};

/// Make the discs of a driver set: ISO images for guests.
///
/// A disc has the drivers for Linux and Windows, a script for each that installs them
/// without questions, and checksums. 'driver add' makes it by itself; the same set gives
/// the same bytes on any machine. The image is readable for QEMU. Where there are licence
/// tokens ('driver token'), each VM that has one gets a disc with it: those discs are made
/// too, and only QEMU's user can read them.
///
/// VMs get a disc when they start. --update-running changes it in those that run: in each
/// VM of a pool that lends the set now, whose drive has another set's disc or an earlier
/// one. Then discs are made only where there is none, or none as it should be.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver iso nvidia-580.65.05
  virt-vgpu driver iso nvidia-580.65.05 --update-running --dry-run
  virt-vgpu driver iso nvidia-580.65.05 --update-running

Exit code 0 when all discs were made, and all VMs have theirs; 1 when not.")]
pub(super) struct Iso {
    /// The set.
    name: DriverSetName,

    /// Give running VMs the disc that their pool lends now.
    #[arg(long)]
    update_running: bool,

    /// Also where the guest has locked the drive.
    #[arg(long, requires = "update_running")]
    force: bool,

    /// Only say which VMs would get another disc.
    #[arg(long, requires = "update_running")]
    dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Report {
    name: DriverSetName,
    /// The disc, if it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    image: Option<String>,
    /// The discs with licence tokens.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    token_images: Vec<String>,
    /// What was done to running VMs.
    #[serde(skip_serializing_if = "Option::is_none")]
    running: Option<Vec<RunningVm>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<String>,
}

impl Iso {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let name = &self.name;
        let undone = format!("no disc was made of driver set '{name}'");
        let set = named(host, name, &undone)?;
        let mut report = Report {
            name: name.clone(),
            image: None,
            token_images: Vec::new(),
            running: None,
            problems: Vec::new(),
        };
        // Both would change nothing.
        let is_kept = self.dry_run || (self.update_running && are_in_order(host, &set));
        if !is_kept {
            let alone = alone(host, "virt-vgpu driver iso").context(undone.clone())?;
            disc::make(host, &set).context(undone)?;
            let made = make_with_tokens(host, &set, &alone);
            report.image = Some(name.disc());
            report.token_images = made.with_tokens;
            report.problems = made.problems;
        }
        if self.update_running {
            let update = Update {
                set: name,
                force: self.force,
                dry_run: self.dry_run,
            };
            report.running = Some(update.run(host, &self.connection, &mut report.problems)?);
        }
        output::report(self.json, &report)?;
        let mut running = report.running.iter().flatten();
        let all_have = running.all(|vm| vm.outcome != Outcome::Failed);
        Ok(match report.problems.is_empty() && all_have {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for image in self.image.iter().chain(&self.token_images) {
            writeln!(f, "made {image}")?;
        }
        if let Some(running) = &self.running {
            if running.is_empty() {
                writeln!(
                    f,
                    "no VM runs with a disc of a pool that lends {}",
                    self.name
                )?;
            }
            for vm in running {
                writeln!(f, "{}", output::one_line(vm.to_string()))?;
            }
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
