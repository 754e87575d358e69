//! `virt-vgpu status`: prints the state of pools and devices.

use std::{process::ExitCode, time::Duration};

use clap::Args;

use super::{
    output::{self, Table},
    target::Connection,
};
use crate::{
    host::{Deadline, Host, complain, libvirt::guest_devices},
    report::{self, ClaimState, Foreign, StatusReport},
};

mod foreign;
mod guests;

/// Show pools with their free capacity, devices in use, and problems.
///
/// No start or stop has to wait for this command. If something changes meanwhile,
/// it looks again, so nothing is shown half done. Devices that others made on a
/// pool's devices take space from the pool. Notes name them, together with
/// mdevctl's definitions: those that mdevctl will make at the next boot, and those
/// that it makes on request. Plans count only existing devices: a definition takes
/// no space before it is started.
///
/// For vGPUs of NVIDIA that VMs use, it shows the driver in the guest and its
/// licence, as far as the host's driver tells them. With --guests, the agents of
/// Windows guests are asked as well (libvirt 12.7 or newer): they know the driver also
/// with a whole GPU.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu status
  virt-vgpu status --json | jq '.pools[] | {name, free}'
  virt-vgpu status --json | jq -r '.claims[] | select(.state == \"stale\") | .domain'
  virt-vgpu status --json | jq '.foreign // []'     what others made there
  virt-vgpu status --json | jq '.claims[] | {domain, guests: [.devices[].guest]}'

Exit code 0 whether or not there are problems; they are in 'problems'.")]
pub(super) struct Status {
    /// Also ask the agents in guests which driver they have; a guest may be slow.
    #[arg(long)]
    guests: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

impl Status {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let mut report = report::status(host)?;
        if self.guests {
            self.ask_guests(host, &mut report)?;
        }
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

impl Status {
    /// Asks the agents of all VMs that run with devices of ours. One that cannot tell is left out.
    fn ask_guests(&self, host: &Host, report: &mut StatusReport) -> anyhow::Result<()> {
        /// For each guest.
        const PATIENCE: Duration = Duration::from_secs(3);
        let uri = self.connection.open_served()?.uri();
        for claim in &mut report.claims {
            if claim.state != ClaimState::InUse {
                continue;
            }
            let deadline = Deadline::after(PATIENCE);
            match guest_devices(&uri, claim.domain_uuid, deadline) {
                Ok(Some(devices)) => {
                    let told = devices.into_iter();
                    let told = told.filter_map(|one| Some((one.driver_name?, one.driver_version?)));
                    let told: Vec<(String, String)> = told.collect();
                    report::add_from_agent(host, claim, &told);
                }
                Ok(None) => complain(&format!(
                    "virt-vgpu: the agent of domain '{}' does not answer",
                    claim.domain
                )),
                Err(error) => complain(&format!("virt-vgpu: domain '{}': {error}", claim.domain)),
            }
        }
        Ok(())
    }
}

impl std::fmt::Display for StatusReport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut pools = Table::new(&["POOL", "TYPE", "PARENTS", "IN USE", "FREE", "LIMIT"]);
        for pool in &self.pools {
            let limit = if pool.instances == 0 {
                String::new()
            } else {
                pool.instances.to_string()
            };
            pools.row([
                pool.name.to_string(),
                pool.device_type.clone(),
                pool.parents.to_string(),
                pool.in_use.to_string(),
                if pool.exact {
                    pool.free.to_string()
                } else {
                    format!("at most {}", pool.free)
                },
                limit,
            ]);
        }
        if pools.is_empty() && self.has_pool_files {
            writeln!(f, "no pool that can be used")?;
        } else if pools.is_empty() {
            writeln!(f, "no pools; make one with 'virt-vgpu pool create'")?;
        } else {
            write!(f, "{pools}")?;
        }
        let mut devices = Table::new(&[
            "DOMAIN", "DEVICE", "POOL", "TYPE", "PARENT", "UUID", "STATE",
        ]);
        for claim in &self.claims {
            for device in &claim.devices {
                let state = match (claim.state, device.present) {
                    (_, false) if device.unknown => "unknown",
                    (ClaimState::Starting, false) => "starting",
                    (_, false) => "missing",
                    (ClaimState::InUse, true) => "in use",
                    (ClaimState::Starting, true) => "starting",
                    (ClaimState::Ending, true) => "ending",
                    (ClaimState::Stale, true) => "stale",
                    (ClaimState::Unknown, true) => "unknown",
                };
                devices.row([
                    claim.domain.to_string(),
                    device.name.to_string(),
                    device.pool.to_string(),
                    device.type_id.to_string(),
                    device.parent.to_string(),
                    device.uuid.to_string(),
                    state.to_owned(),
                ]);
            }
        }
        let blocked = self.claims.iter().flat_map(|claim| {
            let devices = claim.devices.iter();
            devices.map(move |device| (&claim.domain, device))
        });
        let blocked: Vec<String> = blocked
            .filter(|(_, device)| !device.against_migration.is_empty())
            .map(|(domain, device)| {
                let (name, why) = (&device.name, device.against_migration.join(", "));
                format!("note: {domain} cannot be saved or migrated: {name} has {why}")
            })
            .collect();
        if devices.is_empty() {
            writeln!(f, "\nno devices in use")?;
        } else {
            write!(f, "\n{devices}")?;
        }
        let guests = guests::table(&self.claims);
        if !guests.is_empty() {
            write!(f, "\n{guests}")?;
        }
        for claim in &self.claims {
            if let Some(disc) = &claim.guest_disc {
                let note = format!("disc: {} has that of {}", claim.domain, disc.words);
                writeln!(f, "\n{}", output::one_line(note))?;
            }
        }
        for note in blocked {
            writeln!(f, "\n{}", output::one_line(note))?;
        }
        for note in self.foreign.iter().flat_map(Foreign::notes) {
            writeln!(f, "\nnote: {}", output::one_line(note))?;
        }
        for problem in &self.problems {
            writeln!(f, "\nproblem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
