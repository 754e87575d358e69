//! `virt-vgpu maintenance leave`.

use std::{collections::BTreeSet, fmt, process::ExitCode};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{chosen, only_root};
use crate::{
    cli::{output, target::Connection},
    device::maintenance::{LoadStep, Maintenance, ShutDown},
    events,
    gpu_setup::{JobReport, JobResult},
    host::{Host, libvirt::Libvirt},
    maintenance::{Work, loaded_driver, restart, set_up},
    model::{DomainName, PciAddress},
};

/// Let VMs have GPUs again.
///
/// Services that 'driver load' has stopped are started, the GPUs are set up for their
/// pools as at boot, and then starts of VMs get their devices again. Without GPU, all
/// are meant. VMs that 'maintenance enter --shutdown' has shut down are named, and
/// started with --start. A change of the driver that was cut off keeps the GPUs in
/// maintenance: complete it with 'virt-vgpu driver load', or pass --force.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu maintenance leave
  virt-vgpu maintenance leave --start    and start VMs that were shut down
  virt-vgpu maintenance leave 0000:3b:00.0

Exit code 0 when all is as before, 1 when not.")]
pub(super) struct Leave {
    /// These GPUs: addresses in any notation [default: all].
    #[arg(value_name = "GPU")]
    gpus: Vec<String>,

    /// Start the VMs that were shut down for the maintenance.
    #[arg(long)]
    start: bool,

    /// Also if a change of the driver was cut off.
    #[arg(long)]
    force: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Report {
    /// The GPUs that VMs can have again.
    gpus: BTreeSet<PciAddress>,
    /// The GPUs that are still in maintenance.
    still: BTreeSet<PciAddress>,
    /// Services that were started.
    services: Vec<String>,
    /// How GPUs were set up.
    set_up: Vec<JobReport>,
    /// Domains that were shut down for the maintenance and do not run.
    not_running: Vec<DomainName>,
    /// Domains that were started.
    started: Vec<DomainName>,
    problems: Vec<String>,
}

impl Leave {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        only_root(host, "end maintenance", "")?;
        let mut work = Work::begin(host, "virt-vgpu maintenance leave")?;
        let Some(noted) = work.noted().cloned() else {
            bail!("no GPU is in maintenance; 'virt-vgpu maintenance enter' begins it");
        };
        let gpus = match self.gpus.is_empty() {
            true => noted.gpus.clone(),
            // One that is not there any more can be named, too.
            false => self.named(host, &noted)?,
        };
        if let Some(why) = cut_off(host, &noted)?.filter(|_| !self.force) {
            bail!("the GPUs stay in maintenance: {why}");
        }
        let mut problems = Vec::new();
        let still: BTreeSet<PciAddress> = noted.gpus.difference(&gpus).copied().collect();
        let mut services = Vec::new();
        if still.is_empty() && !noted.services.is_empty() {
            let restarted = restart(host, &noted.services);
            services = restarted.started;
            let failed = restarted.failed.iter();
            problems.extend(failed.map(|one| events::one_line(&one.why)));
        }
        let (set_up, others) = set_up(host, &gpus).context("the GPUs stay in maintenance")?;
        problems.extend(others);
        work.leave(&gpus)?;
        let (mut not_running, mut started) = (Vec::new(), Vec::new());
        if still.is_empty() && !noted.shut_down.is_empty() {
            let libvirt = match self.connection.open_for(host) {
                Ok(libvirt) => libvirt,
                Err(error) => {
                    problems.push(events::one_line(&error));
                    None
                }
            };
            if libvirt.is_none() {
                let names: Vec<&str> = noted.shut_down.iter().map(|it| it.name.as_str()).collect();
                problems.push(format!(
                    "VMs that were shut down for the maintenance were not looked at: {}; 'virsh start \
                     NAME' starts one",
                    names.join(", ")
                ));
            }
            if let Some(libvirt) = libvirt {
                for one in &noted.shut_down {
                    match self.start(&libvirt, one) {
                        Ok(Run::Started) => started.push(one.name.clone()),
                        Ok(Run::Not) => not_running.push(one.name.clone()),
                        Ok(Run::Already) => {}
                        Err(error) => problems.push(format!(
                            "domain '{}': {}",
                            one.name,
                            events::one_line(&error)
                        )),
                    }
                }
            }
        }
        let report = Report {
            gpus,
            still,
            services,
            set_up,
            not_running,
            started,
            problems,
        };
        output::report(self.json, &report)?;
        let is_bad = |gpu: &JobReport| matches!(gpu.result, JobResult::Failed | JobResult::Refused);
        let is_well = report.problems.is_empty() && !report.set_up.iter().any(is_bad);
        Ok(match is_well {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }

    fn named(&self, host: &Host, noted: &Maintenance) -> anyhow::Result<BTreeSet<PciAddress>> {
        let mut named = BTreeSet::new();
        for text in &self.gpus {
            let known = text.parse().ok().filter(|gpu| noted.gpus.contains(gpu));
            match known {
                Some(gpu) => drop(named.insert(gpu)),
                None => {
                    let gpus = chosen(host, std::slice::from_ref(text))?;
                    let gpus: Vec<String> = gpus.iter().map(ToString::to_string).collect();
                    bail!(
                        "{} is not in maintenance; 'virt-vgpu maintenance status' shows what is",
                        gpus.join(", ")
                    );
                }
            }
        }
        Ok(named)
    }

    fn start(&self, libvirt: &Libvirt, one: &ShutDown) -> anyhow::Result<Run> {
        // One that was undefined meanwhile is nobody's concern.
        let Some(domain) = libvirt.domain_by_uuid(one.uuid)? else {
            return Ok(Run::Already);
        };
        if domain.is_active()? {
            return Ok(Run::Already);
        }
        if !self.start {
            return Ok(Run::Not);
        }
        domain.start()?;
        Ok(Run::Started)
    }
}

enum Run {
    Already,
    Started,
    Not,
}

/// Why a change of the driver keeps GPUs in maintenance.
fn cut_off(host: &Host, noted: &Maintenance) -> anyhow::Result<Option<String>> {
    let Some(load) = noted
        .load
        .as_ref()
        .filter(|load| load.step != LoadStep::Done)
    else {
        return Ok(None);
    };
    let now = match loaded_driver(host)? {
        Some(driver) => match driver.version {
            Some(version) => format!("driver {version} is loaded now"),
            None => "a driver is loaded now".to_owned(),
        },
        None => "no driver is loaded now".to_owned(),
    };
    Ok(Some(format!(
        "'virt-vgpu driver load {}' stopped at '{}', and {now}; run it again, or load another driver \
         set, or pass --force",
        load.set, load.step
    )))
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names = |gpus: &BTreeSet<PciAddress>| {
            let gpus: Vec<String> = gpus.iter().map(ToString::to_string).collect();
            gpus.join(", ")
        };
        for gpu in &self.set_up {
            write!(f, "{gpu}")?;
        }
        if !self.services.is_empty() {
            writeln!(f, "started {}", self.services.join(", "))?;
        }
        writeln!(f, "VMs can have them again: {}", names(&self.gpus))?;
        if !self.still.is_empty() {
            writeln!(f, "still in maintenance: {}", names(&self.still))?;
        }
        for domain in &self.started {
            writeln!(f, "started domain '{domain}'")?;
        }
        if !self.not_running.is_empty() {
            let names: Vec<&str> = self.not_running.iter().map(DomainName::as_str).collect();
            writeln!(
                f,
                "shut down for the maintenance: {}; 'virsh start NAME' starts one",
                names.join(", ")
            )?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
