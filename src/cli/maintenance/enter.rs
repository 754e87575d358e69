//! `virt-vgpu maintenance enter`.

use std::{collections::BTreeSet, fmt, process::ExitCode, time::Duration};

use anyhow::Context;
use clap::Args;
use serde::Serialize;

use super::{chosen, holders_in_lines, left_in_lines, libvirt_or_tell, only_root};
use crate::{
    cli::{confirm::confirm, output, target::Connection},
    device::maintenance::{self, Maintenance},
    host::{
        Host,
        libvirt::{Destination, Libvirt},
        since_1970,
    },
    maintenance::{Holders, Left, Work, holders, migrate, shut_down},
    model::PciAddress,
};

/// Keep GPUs from all starts of VMs.
///
/// From now on no VM gets anything of these GPUs; a start that needs one is refused with
/// the reason, or gets a device of another GPU of its pool. Without GPU, all GPUs that
/// NVIDIA's driver has are meant, as a change of the driver needs it. VMs that have
/// devices now are listed. --shutdown asks their guests to shut down, and waits;
/// --migrate moves them to another host, one after the other, with their definitions;
/// --migrateuri and --listen-address are virsh's.
/// No VM is ever killed, and a transient one, of which nothing would be left, is not
/// shut down. Further GPUs can be added at any time.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu maintenance enter --dry-run              who would have to go
  virt-vgpu maintenance enter
  virt-vgpu maintenance enter 0000:3b:00.0 --shutdown --timeout 300
  virt-vgpu maintenance enter --migrate qemu+ssh://host2/system --yes

Exit code 0 when the GPUs are in maintenance and, where that was asked for, no
VM has them any more; 1 when not.")]
pub(super) struct Enter {
    /// These GPUs: addresses in any notation [default: all].
    #[arg(value_name = "GPU")]
    gpus: Vec<String>,

    /// Shut down the VMs that have devices of the GPUs.
    #[arg(long)]
    shutdown: bool,

    /// Seconds that guests have for it.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 180,
        requires = "shutdown"
    )]
    timeout: u64,

    /// Migrate these VMs to the host with that libvirt URI, with their definitions.
    #[arg(long, value_name = "URI", conflicts_with = "shutdown")]
    migrate: Option<String>,

    /// Where the VMs' data goes, as tcp://ADDRESS [default: as the other host tells].
    #[arg(long, value_name = "URI", requires = "migrate")]
    migrateuri: Option<String>,

    /// The address on which the other host listens for the data.
    #[arg(long, value_name = "ADDRESS", requires = "migrate")]
    listen_address: Option<String>,

    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Do not ask before VMs are shut down or moved.
    #[arg(long)]
    yes: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,

    #[command(flatten)]
    connection: Connection,
}

#[derive(Debug, Serialize)]
struct Report {
    dry_run: bool,
    /// The GPUs that are in maintenance now.
    gpus: BTreeSet<PciAddress>,
    /// Who has devices of them, or their driver.
    holders: Holders,
    /// Domains that should have gone, and have not.
    left: Vec<Left>,
}

impl Enter {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        if !self.dry_run {
            let hint = ", or with --dry-run to see what it would do";
            only_root(host, "keep GPUs from VMs", hint)?;
        }
        let gpus = chosen(host, &self.gpus)?;
        let libvirt = match self.shutdown || self.migrate.is_some() {
            true => Some(self.connection.open_served()?),
            false => libvirt_or_tell(host, &self.connection),
        };
        // One that cannot be reached is told before anything is done.
        let to = self.migrate.as_deref().map(|uri| self.destination(uri));
        let to = to.transpose()?;
        let foreseen = foreseen(host, &gpus)?;
        let would_go = holders(host, libvirt.as_ref(), &foreseen)?;
        if self.dry_run {
            let report = Report {
                dry_run: true,
                gpus: foreseen.gpus,
                holders: would_go,
                left: Vec::new(),
            };
            output::report(self.json, &report)?;
            return Ok(ExitCode::SUCCESS);
        }
        self.ask(&would_go)?;
        let mut work = Work::begin(host, "virt-vgpu maintenance enter")?;
        work.enter(&gpus)?;
        let noted = work.noted().cloned().unwrap_or(foreseen);
        let entered = || "the GPUs are in maintenance; who has them cannot be told";
        let mut now = holders(host, libvirt.as_ref(), &noted).with_context(entered)?;
        let mut left = Vec::new();
        if let Some(libvirt) = libvirt.as_ref().filter(|_| !now.domains.is_empty()) {
            if self.shutdown {
                let timeout = Duration::from_secs(self.timeout);
                left = shut_down(&mut work, libvirt, &now.domains, timeout)?;
            } else if let Some(to) = &to {
                left = migrate(&work, libvirt, &now.domains, to);
            }
            if self.shutdown || self.migrate.is_some() {
                now = holders(host, Some(libvirt), &noted).with_context(entered)?;
            }
        }
        let report = Report {
            dry_run: false,
            gpus: noted.gpus,
            holders: now,
            left,
        };
        output::report(self.json, &report)?;
        let should_be_free = self.shutdown || self.migrate.is_some();
        Ok(
            match report.left.is_empty() && (!should_be_free || report.holders.is_nobody()) {
                true => ExitCode::SUCCESS,
                false => ExitCode::FAILURE,
            },
        )
    }

    fn destination(&self, uri: &str) -> anyhow::Result<Destination> {
        Ok(Destination {
            libvirt: Libvirt::open(uri)?,
            data: self.migrateuri.clone(),
            listen_address: self.listen_address.clone(),
        })
    }

    fn ask(&self, holders: &Holders) -> anyhow::Result<()> {
        let domains: Vec<&str> = holders
            .domains
            .iter()
            .map(|one| one.domain.as_str())
            .collect();
        let what = match (&self.migrate, self.shutdown) {
            (Some(uri), _) => format!("migrate {} to {uri}", domains.join(", ")),
            (None, true) => format!("shut down {}", domains.join(", ")),
            (None, false) => return Ok(()),
        };
        if self.yes || domains.is_empty() {
            return Ok(());
        }
        confirm(
            &format!("{what}, and keep these GPUs from VMs?"),
            "no GPU is in maintenance that was not before",
        )
    }
}

/// The note as it would be.
fn foreseen(host: &Host, gpus: &BTreeSet<PciAddress>) -> anyhow::Result<Maintenance> {
    let before = maintenance::read(host)?;
    let mut foreseen = before.unwrap_or_else(|| Maintenance::begun(since_1970()));
    foreseen.gpus.extend(gpus);
    Ok(foreseen)
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let gpus: Vec<String> = self.gpus.iter().map(ToString::to_string).collect();
        let would = if self.dry_run {
            "would be in maintenance"
        } else {
            "in maintenance"
        };
        writeln!(f, "{would}: {}", gpus.join(", "))?;
        let holders = holders_in_lines(&self.holders);
        if holders.is_empty() {
            writeln!(f, "nobody uses them")?;
        } else {
            write!(f, "in use:\n{holders}")?;
        }
        f.write_str(&left_in_lines(&self.left))
    }
}
