//! `virt-vgpu driver list`: the driver sets, and who uses them.

use std::{fmt, process::ExitCode};

use clap::Args;
use serde::Serialize;

use super::{lending, pools, size};
use crate::{
    cli::output::{self, Table},
    device::Sysfs,
    driver_set::{self, DriverVersion, Pair, System, release_of},
    host::Host,
    model::{DriverSetName, PoolName},
};

/// List the driver sets.
///
/// DISC says whether the set has a disc for guests, POOLS which pools lend it to VMs.
/// SUPPORTED says whether NVIDIA supports the guests' drivers with the host's driver of
/// the set: drivers of one release, or guests of the release before.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu driver list
  virt-vgpu driver list --json | jq -r '.sets[].name'

Exit code 0, or 1 when a set cannot be read.")]
pub(super) struct List {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Serialize)]
struct Report {
    sets: Vec<SetReport>,
    problems: Vec<String>,
}

#[derive(Debug, Serialize)]
struct SetReport {
    name: DriverSetName,
    /// The release of vGPU software; null where it is not known.
    release: Option<u16>,
    host: Option<DriverVersion>,
    guests: Vec<GuestReport>,
    /// Those that lend its disc to VMs.
    pools: Vec<PoolName>,
    /// Whether it has a disc.
    disc: bool,
    bytes: u64,
}

#[derive(Debug, Serialize)]
struct GuestReport {
    system: System,
    version: DriverVersion,
    file: String,
    /// Null without a host's driver, or where it is not known.
    supported: Option<bool>,
}

impl List {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let (sets, problems) = driver_set::all(host)?;
        let all_pools = pools(host);
        let sets = sets.iter().map(|set| {
            let guests = set.guests().map(|(part, pair)| GuestReport {
                system: part.system,
                version: part.version.clone(),
                file: part.file.clone(),
                supported: match pair {
                    Some(Pair::Supported) => Some(true),
                    Some(Pair::Unsupported(_)) => Some(false),
                    Some(Pair::Unknown) | None => None,
                },
            });
            let guests: Vec<GuestReport> = guests.collect();
            let pools = lending(&all_pools, &set.name);
            let disc = host.exists(&set.name.disc());
            let host = set.host().cloned();
            let version = host.as_ref().or(guests.first().map(|one| &one.version));
            SetReport {
                name: set.name.clone(),
                release: version.and_then(release_of).map(|one| one.number),
                host,
                guests,
                pools,
                disc,
                bytes: set.parts.iter().map(|one| one.size).sum(),
            }
        });
        let report = Report {
            sets: sets.collect(),
            problems,
        };
        output::report(self.json, &report)?;
        Ok(match report.problems.is_empty() {
            true => ExitCode::SUCCESS,
            false => ExitCode::FAILURE,
        })
    }
}

impl SetReport {
    /// `Linux 580.65.06 (run, deb), Windows 580.88`.
    fn guests_in_words(&self) -> String {
        let mut linux = Vec::new();
        let mut words = Vec::new();
        for guest in &self.guests {
            match guest.system {
                System::LinuxRun => linux.push("run"),
                System::LinuxDeb => linux.push("deb"),
                System::LinuxRpm => linux.push("rpm"),
                _ => words.push(format!("Windows {}", guest.version)),
            }
        }
        let of_linux = self.guests.iter().find(|one| one.system != System::Windows);
        if let Some(one) = of_linux {
            words.insert(0, format!("Linux {} ({})", one.version, linux.join(", ")));
        }
        words.join(", ")
    }

    fn supported(&self) -> &'static str {
        let mut known = self.guests.iter().map(|one| one.supported);
        match &self.host {
            None => "",
            Some(_) if self.guests.is_empty() => "",
            Some(_) if known.clone().all(|one| one == Some(true)) => "yes",
            Some(_) if known.any(|one| one == Some(false)) => "no",
            Some(_) => "not known",
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.sets.is_empty() {
            writeln!(
                f,
                "no driver sets; 'virt-vgpu driver add BUNDLE.zip' stores one"
            )?;
        } else {
            let mut table = Table::new(&[
                "NAME",
                "RELEASE",
                "HOST",
                "GUESTS",
                "SUPPORTED",
                "DISC",
                "POOLS",
                "SIZE",
            ]);
            for set in &self.sets {
                table.row([
                    set.name.to_string(),
                    set.release.map_or_else(String::new, |one| one.to_string()),
                    set.host
                        .as_ref()
                        .map_or_else(String::new, ToString::to_string),
                    set.guests_in_words(),
                    set.supported().to_owned(),
                    if set.disc { "yes" } else { "no" }.to_owned(),
                    set.pools
                        .iter()
                        .map(PoolName::as_str)
                        .collect::<Vec<_>>()
                        .join(", "),
                    size(set.bytes),
                ]);
            }
            write!(f, "{table}")?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
