//! `virt-vgpu host show`: the wanted and the present settings of each GPU, and why
//! they differ.

use std::{fmt, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::chosen;
use crate::{
    cli::output::{self, Table},
    device::nvml::Scheduler,
    gpu_setup::{
        GpuSettings, InstanceReport, ModuleOptions, SchedulerInWords, Survey, Surveyed,
        gpu_settings,
    },
    host::Host,
    model::{PoolName, pools_in_words},
};

/// Show wanted and present settings of each GPU, and why they differ.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu host show
  virt-vgpu host show 0000:3b:00.0
  virt-vgpu host show --json | jq '.gpus[] | select(.differences != []) | .gpu'

Exit code 0 whether or not something differs.")]
pub(super) struct Show {
    /// Only these: addresses in any notation.
    #[arg(value_name = "GPU")]
    gpus: Vec<String>,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    gpus: Vec<GpuSettings>,
    problems: Vec<String>,
}

impl Show {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let survey = Survey::read(host)?;
        let chosen: Vec<&Surveyed> = if self.gpus.is_empty() {
            survey.gpus.iter().collect()
        } else {
            chosen(&survey, host, &self.gpus)?
        };
        let options = ModuleOptions::read(host)?;
        let mut gpus = Vec::new();
        for surveyed in chosen {
            gpus.push(gpu_settings(host, surveyed, &options)?);
        }
        let report = Report {
            gpus,
            problems: survey.problems,
        };
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.gpus.is_empty() {
            writeln!(f, "no GPU with NVIDIA's driver, or without a driver")?;
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            let gap = if index > 0 { "\n" } else { "" };
            write!(f, "{gap}{gpu}")?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}

/// `GPU instance 1 (1g.24gb+gfx at 0-2): pool 'cad', best-effort, in use by domain 'ws7'`.
impl fmt::Display for InstanceReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let last = self.start + self.size.saturating_sub(1);
        let slots = match self.size {
            0 | 1 => self.start.to_string(),
            _ => format!("{}-{last}", self.start),
        };
        let mut told = vec![match (self.ours, self.pools.as_slice()) {
            (false, []) => "not from us".to_owned(),
            (_, pools) => pools_in_words(pools),
        }];
        if self.on_demand {
            told.push("made on demand".to_owned());
        }
        if self.heterogeneous == Some(true) {
            told.push("mixes sizes".to_owned());
        }
        if let Some(scheduler) = &self.scheduler {
            told.push(SchedulerInWords(scheduler).to_string());
        }
        if !self.users.is_empty() {
            told.push(format!("in use by {}", self.users.join(", ")));
        }
        write!(
            f,
            "GPU instance {} ({} at {slots}): {}",
            self.id,
            self.profile,
            told.join("; ")
        )
    }
}

impl fmt::Display for GpuSettings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pools: Vec<&str> = self.pools.iter().map(PoolName::as_str).collect();
        let pools = match pools.len() {
            0 => "no pool".to_owned(),
            1 => format!("pool {}", pools[0]),
            _ => format!("pools {}", pools.join(", ")),
        };
        let driver = self.driver.as_deref().unwrap_or("none");
        writeln!(
            f,
            "{}: {pools}, driver {}",
            self.gpu,
            output::one_line(driver)
        )?;
        let mut table = Table::new(&["SETTING", "WANTED", "ACTUAL"]);
        let number = |number: Option<u32>| number.map_or_else(String::new, |n| n.to_string());
        let functions = &self.virtual_functions;
        table.row([
            "virtual functions".to_owned(),
            number(functions.wanted),
            number(functions.actual),
        ]);
        let mode = |on: Option<bool>| match on {
            Some(true) => "on".to_owned(),
            Some(false) => "off".to_owned(),
            None => String::new(),
        };
        // Most GPUs have no MIG, or do not use it.
        if self.mig.actual == Some(true) || self.mig.wanted == Some(true) {
            table.row([
                "MIG mode".to_owned(),
                mode(self.mig.wanted),
                mode(self.mig.actual),
            ]);
        }
        // In MIG mode, each GPU instance has its own.
        let is_divided = self.mig.actual == Some(true) && self.mig.wanted != Some(false);
        if !is_divided {
            table.row([
                "heterogeneous".to_owned(),
                mode(self.heterogeneous.wanted),
                mode(self.heterogeneous.actual),
            ]);
        }
        let scheduler = |one: &Option<Scheduler>| {
            one.as_ref()
                .map_or_else(String::new, |s| SchedulerInWords(s).to_string())
        };
        if !is_divided {
            table.row([
                "scheduler".to_owned(),
                scheduler(&self.scheduler.wanted),
                scheduler(&self.scheduler.actual),
            ]);
        }
        f.write_str(&table.indented())?;
        if let Some(instances) = &self.gpu_instances {
            writeln!(f, "  GPU instances: {instances}")?;
        }
        for instance in &self.instances {
            writeln!(f, "  {instance}")?;
        }
        for user in &self.vgpus {
            match &user.domain {
                Some(domain) => writeln!(f, "  vGPU {}: domain '{domain}'", user.device)?,
                None => writeln!(f, "  vGPU {}: not from us", user.device)?,
            }
        }
        for difference in &self.differences {
            writeln!(f, "  differs: {}", output::one_line(difference))?;
        }
        Ok(())
    }
}
