//! `virt-vgpu host show`: what pools want of each GPU, what is, and why the two
//! differ.

use std::{fmt, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::{
    module_options::ModuleOptions,
    state,
    survey::{Survey, Surveyed},
    users::{self, User},
};
use crate::{
    cli::output::{self, Table},
    device::{
        driver_option::{self, FILE},
        nvml::Scheduler,
        readiness::Driver,
    },
    host::Host,
    model::{PciAddress, PoolName},
    plan::host_settings::{Actual, InWords, Step, Wish, step_in_words, way},
};

/// Show what pools want of each GPU, what is, and why the two differ.
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
    gpus: Vec<GpuReport>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct GpuReport {
    gpu: PciAddress,
    /// Those that take it; empty: it is never touched.
    pools: Vec<PoolName>,
    /// None: no driver is bound.
    driver: Option<String>,
    virtual_functions: Setting<u32>,
    heterogeneous: Setting<bool>,
    scheduler: Setting<Scheduler>,
    vgpus: Vec<User>,
    /// What is not as wanted, and why.
    differences: Vec<String>,
}

/// None: nothing is wanted, or it cannot be told.
#[derive(Debug, Serialize)]
struct Setting<T> {
    wanted: Option<T>,
    actual: Option<T>,
}

impl Show {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let survey = Survey::read(host)?;
        let chosen: Vec<&Surveyed> = if self.gpus.is_empty() {
            survey.gpus.iter().collect()
        } else {
            survey.choose(host, &self.gpus)?
        };
        let options = ModuleOptions::read(host)?;
        let mut gpus = Vec::new();
        for surveyed in chosen {
            gpus.push(gpu_report(host, surveyed, &options)?);
        }
        let report = Report {
            gpus,
            problems: survey.problems,
        };
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn gpu_report(
    host: &Host,
    surveyed: &Surveyed,
    options: &ModuleOptions,
) -> anyhow::Result<GpuReport> {
    let gpu = surveyed.gpu;
    let wish = surveyed.wish.as_ref().ok().and_then(Option::as_ref);
    let (users, doubt) = match users::users(host, gpu) {
        Ok(users) => (users, None),
        Err(error) => (Vec::new(), Some(format!("{error:#}"))),
    };
    let actual = state::complete(host, gpu, wish, &users, state::of(host, gpu)?);
    let mut differences = match (&surveyed.wish, wish) {
        (Err(conflict), _) => vec![conflict.to_string()],
        (_, Some(wish)) => differences(gpu, wish, &actual, &users, options),
        _ => Vec::new(),
    };
    differences.extend(doubt);
    let facts = actual.facts.as_ref().and_then(|facts| facts.as_ref().ok());
    let scheduler = facts.and_then(|facts| facts.scheduler.value());
    let heterogeneous = facts.and_then(|facts| facts.heterogeneous.value());
    let functions = &actual.functions;
    Ok(GpuReport {
        gpu,
        pools: wish.map(|wish| wish.pools.clone()).unwrap_or_default(),
        driver: match actual.driver {
            Driver::Nvidia => Some("nvidia".to_owned()),
            Driver::None => None,
            Driver::Other(name) => Some(name),
        },
        virtual_functions: Setting {
            wanted: wish.map(|_| functions.total),
            actual: Some(functions.enabled),
        },
        heterogeneous: Setting {
            wanted: wish.map(|wish| wish.heterogeneous),
            actual: heterogeneous.map(|mode| mode.enabled),
        },
        scheduler: Setting {
            wanted: wish.and_then(|wish| Some(wish.scheduler.as_ref()?.0)),
            actual: scheduler.copied(),
        },
        vgpus: users,
        differences,
    })
}

/// A sentence for each step that is still to be done, with what holds it up.
fn differences(
    gpu: PciAddress,
    wish: &Wish,
    actual: &Actual,
    users: &[User],
    options: &ModuleOptions,
) -> Vec<String> {
    let way = way(gpu, wish, actual);
    let refusal = users::refusal(gpu, users);
    let reason = |step: &Step| {
        if let Step::SetScheduler(scheduler) = step {
            let waits = driver_option::encode(scheduler).ok();
            if waits.is_some() && options.options.get(&gpu).copied() == waits {
                return format!("it waits in {FILE} until the driver is loaded anew");
            }
        }
        let apply = || match step {
            // Nothing can be done here but to wait for what may never come.
            Step::AwaitDriver => {
                "'modprobe nvidia' loads it, 'journalctl -k -g NVRM' tells what it says".to_owned()
            }
            Step::AwaitTypes if actual.driver == Driver::None => {
                "they come with its driver".to_owned()
            }
            Step::AwaitTypes if actual.functions.total == 0 => {
                "its driver may be one without vGPUs, or not know this kernel; 'systemctl status \
                 nvidia-vgpud' tells whether NVIDIA's types were loaded"
                    .to_owned()
            }
            _ => format!("'virt-vgpu host apply {gpu}' does it"),
        };
        refusal.clone().unwrap_or_else(apply)
    };
    let steps = way.steps.iter().map(|planned| {
        format!(
            "{} ({}): {}",
            step_in_words(gpu, &planned.step),
            planned.why,
            reason(&planned.step)
        )
    });
    steps.chain(way.obstacles.iter().cloned()).collect()
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

impl fmt::Display for GpuReport {
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
        table.row([
            "heterogeneous".to_owned(),
            mode(self.heterogeneous.wanted),
            mode(self.heterogeneous.actual),
        ]);
        let scheduler = |one: &Option<Scheduler>| {
            one.as_ref()
                .map_or_else(String::new, |s| InWords(s).to_string())
        };
        table.row([
            "scheduler".to_owned(),
            scheduler(&self.scheduler.wanted),
            scheduler(&self.scheduler.actual),
        ]);
        f.write_str(&table.indented())?;
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
