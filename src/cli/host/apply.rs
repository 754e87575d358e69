//! `virt-vgpu host apply`: sets up GPUs as their pools need them.

use std::{fmt, process::ExitCode, time::Duration};

use anyhow::bail;
use clap::Args;
use serde::Serialize;

use super::chosen;
use crate::{
    cli::{confirm::confirm, output},
    device::maintenance,
    gpu_setup::{Asked, Job, JobReport, JobResult, Survey, Surveyed, carry_out},
    host::{Host, is_root},
};

/// Set up GPUs as their pools need them.
///
/// The steps, in this order: wait for the driver, switch MIG mode, create the
/// virtual functions (sriov-manage -e), wait for their vGPU types, destroy and
/// create GPU instances, switch mixed sizes, set the scheduler. Steps that are not
/// needed are skipped. Only GPUs that a pool of kind nvidia-vgpu takes are touched.
/// A GPU that needs a step but has vGPUs in use is not changed, except that GPU
/// instances nobody uses come and go beside others; the other GPUs are set up
/// anyway. A GPU in maintenance is set up by 'virt-vgpu maintenance leave'. GPU instances that virt-vgpu has not created are never destroyed.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu host apply --all --dry-run    print the steps
  virt-vgpu host apply --all
  virt-vgpu host apply 0000:3b:00.0 --wait 120
  virt-vgpu host apply --renew 0000:3b:00.0    remedy for functions that hang:
                                          recreates all of the GPU's functions
  virt-vgpu host apply --all --json | jq '.gpus[] | {gpu, result}'

Exit code 0 when everything is as requested, 1 when a GPU was refused or
failed, or a pool cannot be used.")]
pub(super) struct Apply {
    /// These GPUs: addresses in any notation.
    #[arg(value_name = "GPU", required_unless_present = "all")]
    gpus: Vec<String>,

    /// All GPUs that a pool takes.
    #[arg(long, conflicts_with_all = ["gpus", "renew"])]
    all: bool,

    /// Only print the steps.
    #[arg(long)]
    dry_run: bool,

    /// Remove all virtual functions and create them again.
    #[arg(long)]
    renew: bool,

    /// Do not ask before functions are recreated.
    #[arg(long)]
    yes: bool,

    /// Seconds to wait for the driver, and again for the functions' types.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    wait: u64,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    gpus: Vec<JobReport>,
    /// Problems that do not belong to a single GPU.
    problems: Vec<String>,
}

impl Apply {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        if !self.dry_run && host.is_real() && !is_root() {
            bail!(
                "only root can set up GPUs; run it as root, or with --dry-run to \
                 see the steps"
            );
        }
        host.wait_for_drivers();
        let survey = match self.dry_run {
            true => Survey::read(host)?,
            false => Survey::read_alone(host)?,
        };
        let chosen = if self.all {
            let named = |surveyed: &&Surveyed| !matches!(surveyed.wanted, Ok(None));
            survey.gpus.iter().filter(named).collect()
        } else {
            chosen(&survey, host, &self.gpus)?
        };
        let mut jobs: Vec<Job> = chosen.into_iter().map(Job::new).collect();
        if let Some(noted) = maintenance::read(host)? {
            for job in &mut jobs {
                job.spare(&noted);
            }
        }
        let mut problems = survey.problems.clone();
        if self.dry_run {
            for job in &mut jobs {
                job.foresee(host, self.renew);
            }
        } else {
            if self.renew && !self.yes {
                confirm_renewal(&jobs)?;
            }
            let asked = Asked {
                wait: Duration::from_secs(self.wait),
                renew: self.renew,
            };
            problems.extend(carry_out(host, &survey, &mut jobs, asked));
        }
        let report = Report {
            dry_run: self.dry_run,
            gpus: jobs.into_iter().map(|job| job.report).collect(),
            problems,
        };
        output::report(self.json, &report)?;
        Ok(report.exit_code())
    }
}

/// Running VMs would lose their functions, so a person has to want it.
fn confirm_renewal(jobs: &[Job]) -> anyhow::Result<()> {
    let gpus: Vec<String> = jobs.iter().map(|job| job.report.gpu.to_string()).collect();
    let gpus = gpus.join(", ");
    let question = format!("remove and recreate all virtual functions of {gpus}?");
    confirm(&question, "nothing was renewed")
}

impl Report {
    fn exit_code(&self) -> ExitCode {
        let bad = |gpu: &JobReport| matches!(gpu.result, JobResult::Refused | JobResult::Failed);
        if self.gpus.iter().any(bad) || !self.problems.is_empty() {
            ExitCode::FAILURE
        } else {
            ExitCode::SUCCESS
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gpus.is_empty() {
            writeln!(f, "no pool takes a GPU: nothing to do")?;
        }
        for gpu in &self.gpus {
            write!(f, "{gpu}")?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}

impl fmt::Display for JobReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let result = match self.result {
            JobResult::NothingToDo => "nothing to do",
            JobResult::WouldBeSet => "would be set",
            JobResult::Set => "set",
            JobResult::InMaintenance => "in maintenance",
            JobResult::Refused => "REFUSED",
            JobResult::Failed => "FAILED",
        };
        match &self.reason {
            Some(reason) => writeln!(f, "{}: {result}: {}", self.gpu, output::one_line(reason))?,
            None => writeln!(f, "{}: {result}", self.gpu)?,
        }
        let would = self.steps.iter().any(|step| !step.done);
        for (index, step) in self.steps.iter().enumerate() {
            let mark = match (would, step.done) {
                (false, _) => "done: ",
                (true, true) => "done:     ",
                (true, false) => "not done: ",
            };
            let mark = match self.result {
                JobResult::WouldBeSet => format!("{}. ", index + 1),
                _ => mark.to_owned(),
            };
            writeln!(f, "  {mark}{} ({})", step.what, output::one_line(&step.why))?;
        }
        if let Some(layout) = &self.layout {
            writeln!(f, "  GPU instances: {layout}")?;
        }
        for note in &self.notes {
            writeln!(f, "  note: {}", output::one_line(note))?;
        }
        Ok(())
    }
}
