//! `virt-vgpu driver load`: another driver for the host.

use std::{fmt, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::named;
use crate::{
    cli::{confirm::confirm, maintenance::libvirt_or_tell, output, target::Connection},
    device::maintenance,
    host::{Host, is_root},
    maintenance::{LoadPlan, LoadReport, Work, load, plan_load},
    model::DriverSetName,
};

/// Change the host's driver to that of a driver set.
///
/// All GPUs must be in maintenance ('virt-vgpu maintenance enter'), and no VM may have
/// them. The steps: stop the driver's services, remove virtual functions, unload the
/// driver, install the one of the set (the package of the distribution, else NVIDIA's
/// installer), load it, start the services, set up the GPUs for their pools. Then the
/// version is read back. If a step fails, the former driver is installed and loaded
/// again, if a driver set has it. Neither Ctrl-C nor a lost connection stops it. What a
/// reboot is needed for is said before.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver load nvidia-580.65.05 --dry-run
  virt-vgpu driver load nvidia-580.65.05
  virt-vgpu driver load nvidia-580.65.05 --yes --json

Exit code 0 when the driver is loaded, 1 when not.")]
pub(super) struct LoadDriver {
    /// The set.
    name: DriverSetName,

    /// Only print the steps.
    #[arg(long)]
    dry_run: bool,

    /// Also if this driver is loaded already.
    #[arg(long)]
    again: bool,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
enum Report {
    Planned(LoadPlan),
    Done(LoadReport),
}

impl LoadDriver {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let undone = format!("the driver of set '{}' was not loaded", self.name);
        if !self.dry_run && host.is_real() && !is_root() {
            bail!("{undone}: only root can do that; run it as root, or with --dry-run");
        }
        let set = named(host, &self.name, &undone)?;
        let libvirt = libvirt_or_tell(host, &self.connection);
        let plan = |noted: Option<&maintenance::Maintenance>| {
            plan_load(host, libvirt.as_ref(), noted, &set).with_context(|| undone.clone())
        };
        let planned = plan(maintenance::read(host)?.as_ref())?;
        let is_done = planned.is_loaded && !self.again;
        if self.dry_run || is_done {
            output::report(self.json, &Report::Planned(planned))?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut said = Vec::new();
        if !self.yes {
            said.clone_from(&planned.notes);
            let question = format!("{}change the driver?", Report::Planned(planned));
            confirm(&question, &undone)?;
        }
        let mut work = Work::begin(host, "virt-vgpu driver load")?;
        // Things may have changed since.
        let mut plan = plan(work.noted())?;
        plan.notes.retain(|note| !said.contains(note));
        let report = load(&mut work, &set, &plan).with_context(|| undone.clone())?;
        let is_loaded = report.is_loaded;
        output::report(self.json, &Report::Done(report))?;
        Ok(match is_loaded {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Planned(plan) => plan.fmt(f),
            Self::Done(report) => report.fmt(f),
        }
    }
}

impl fmt::Display for LoadPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_loaded {
            writeln!(
                f,
                "driver {} of set '{}' is loaded already; --again installs it once more",
                self.version, self.set
            )?;
        } else {
            let from = self.from.as_deref().unwrap_or("none");
            writeln!(
                f,
                "driver set '{}': from {from} to {}",
                self.set, self.version
            )?;
            for (index, step) in self.steps.iter().enumerate() {
                writeln!(f, "  {}. {step}", index + 1)?;
            }
        }
        for note in &self.notes {
            writeln!(f, "note: {}", output::one_line(note))?;
        }
        Ok(())
    }
}

impl fmt::Display for LoadReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let set = &self.set;
        let state = output::one_line(&self.state);
        for step in &self.steps {
            let mark = if step.done { "done:  " } else { "FAILED:" };
            writeln!(f, "  {mark} {}", step.step)?;
        }
        for gpu in &self.gpus {
            write!(f, "{gpu}")?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {}", output::one_line(problem))?;
        }
        match &self.failed {
            None => writeln!(
                f,
                "{state}; 'virt-vgpu maintenance leave' lets VMs have the GPUs again"
            ),
            Some(why) => writeln!(
                f,
                "driver set '{set}' was not loaded: {}; {state}",
                output::one_line(why)
            ),
        }
    }
}
