//! `virt-vgpu maintenance status`.

use std::{collections::BTreeSet, fmt, process::ExitCode, time::Duration};

use anyhow::anyhow;
use clap::Args;
use serde::Serialize;

use super::{holders_in_lines, libvirt_or_tell};
use crate::{
    cli::{output, target::Connection},
    device::maintenance::{self, Load, LoadStep, Maintenance, ShutDown},
    host::Host,
    maintenance::{Holders, at_work, holders, loaded_driver},
    model::{DomainName, PciAddress, UtcTime},
};

/// Show which GPUs are in maintenance, who still uses them, and how far a change of the
/// driver has come.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu maintenance status
  virt-vgpu maintenance status --json | jq '.holders.domains[].domain'

Exit code 0, or 1 when it cannot be told.")]
pub(super) struct Status {
    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Report {
    in_maintenance: bool,
    /// In seconds since 1970.
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<u64>,
    gpus: BTreeSet<PciAddress>,
    holders: Holders,
    /// Whether a driver is loaded.
    driver_loaded: bool,
    /// Its version; null where it does not tell.
    driver: Option<String>,
    /// Services that were stopped.
    services: Vec<String>,
    /// Domains that were shut down.
    shut_down: Vec<DomainName>,
    /// The change of the driver that was begun last.
    #[serde(skip_serializing_if = "Option::is_none")]
    load: Option<Load>,
    /// The command that is at work now.
    #[serde(skip_serializing_if = "Option::is_none")]
    at_work: Option<String>,
    /// What there is to do.
    next: String,
}

impl Status {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let noted = maintenance::read(host)?;
        let driver = loaded_driver(host)?;
        let at_work = at_work(host).map_err(|error| {
            anyhow!(
                "cannot tell whether a command of maintenance is at work: {error}; run it as root"
            )
        })?;
        let holders = match &noted {
            Some(noted) => {
                let libvirt = libvirt_or_tell(host, &self.connection);
                holders(host, libvirt.as_ref(), noted)?
            }
            None => Holders::default(),
        };
        let next = next(noted.as_ref(), &holders, at_work.as_deref());
        let noted = noted.as_ref();
        let report = Report {
            in_maintenance: noted.is_some(),
            since: noted.map(|noted| noted.since),
            gpus: noted.map(|noted| noted.gpus.clone()).unwrap_or_default(),
            holders,
            driver_loaded: driver.is_some(),
            driver: driver.and_then(|driver| driver.version),
            services: noted
                .map(|noted| noted.services.clone())
                .unwrap_or_default(),
            shut_down: noted
                .map(|noted| names(&noted.shut_down))
                .unwrap_or_default(),
            load: noted.and_then(|noted| noted.load.clone()),
            at_work,
            next,
        };
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn names(domains: &[ShutDown]) -> Vec<DomainName> {
    domains.iter().map(|one| one.name.clone()).collect()
}

/// What there is to do, in a sentence.
fn next(noted: Option<&Maintenance>, holders: &Holders, at_work: Option<&str>) -> String {
    let Some(noted) = noted else {
        return "no GPU is in maintenance; 'virt-vgpu maintenance enter' begins it".to_owned();
    };
    if let Some(at_work) = at_work {
        return format!("wait for {at_work}");
    }
    match &noted.load {
        Some(load) if load.step != LoadStep::Done => {
            let back = match &load.from_set {
                Some(from) if *from != load.set => {
                    format!(", or 'virt-vgpu driver load {from}' for the former driver")
                }
                _ => String::new(),
            };
            format!(
                "run 'virt-vgpu driver load {}' again{back}: the change was cut off at '{}'",
                load.set, load.step
            )
        }
        _ if !holders.is_nobody() => {
            "'virt-vgpu maintenance enter --shutdown' shuts VMs down, '--migrate URI' moves them; \
             'virt-vgpu maintenance leave' lets VMs have the GPUs again"
                .to_owned()
        }
        _ => "'virt-vgpu driver load NAME' changes the driver; 'virt-vgpu maintenance leave' lets \
              VMs have the GPUs again"
            .to_owned(),
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let driver = match (&self.driver, self.driver_loaded) {
            (Some(version), _) => version.as_str(),
            (None, true) => "loaded, its version is not known",
            (None, false) => "not loaded",
        };
        if let Some(since) = self.since {
            let gpus: Vec<String> = self.gpus.iter().map(ToString::to_string).collect();
            writeln!(
                f,
                "in maintenance since {}: {}",
                UtcTime::after_epoch(Duration::from_secs(since)),
                gpus.join(", ")
            )?;
            let holders = holders_in_lines(&self.holders);
            match holders.is_empty() {
                true => writeln!(f, "nobody uses them")?,
                false => write!(f, "in use:\n{holders}")?,
            }
            writeln!(f, "driver: {driver}")?;
        }
        if let Some(load) = &self.load {
            let set = &load.set;
            match (&load.failed, load.step, &self.at_work) {
                (None, LoadStep::Done, _) => writeln!(f, "driver set '{set}' was loaded")?,
                (Some(why), LoadStep::Done, _) => writeln!(
                    f,
                    "driver set '{set}' was not loaded: {}; {}",
                    output::one_line(why),
                    match &load.from {
                        Some(_) => "the former driver is back",
                        None => "there was no driver before",
                    }
                )?,
                (Some(why), _, _) => writeln!(
                    f,
                    "driver set '{set}' was not loaded: {}; nor did going back succeed",
                    output::one_line(why)
                )?,
                (None, step, Some(_)) => writeln!(f, "driver set '{set}': {step}, now")?,
                (None, step, None) => writeln!(f, "driver set '{set}': cut off at '{step}'")?,
            }
        }
        if !self.services.is_empty() {
            writeln!(f, "stopped services: {}", self.services.join(", "))?;
        }
        if !self.shut_down.is_empty() {
            let names: Vec<&str> = self.shut_down.iter().map(DomainName::as_str).collect();
            writeln!(f, "shut down for it: {}", names.join(", "))?;
        }
        match self.in_maintenance {
            true => writeln!(f, "next: {}", output::one_line(&self.next)),
            false => writeln!(f, "{}", output::one_line(&self.next)),
        }
    }
}
