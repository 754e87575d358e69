//! `virt-vgpu pool delete`: files of the administrator go, one of a package is
//! masked, since the package owns it.

use std::{fmt, path::Path, process::ExitCode, time::Duration};

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use crate::{
    claims,
    cli::{confirm::confirm, output},
    config::{self, ConfigFiles, POOL_DIRS},
    device::Sysfs,
    host::{Deadline, Host, HostLock},
    model::{DeviceName, DomainName, DomainUuid, PoolName},
    report::pool::{masked, not_found},
};

/// Delete a pool.
///
/// Removes its file from /etc and /run; a file that came with a package is
/// masked by a link to /dev/null in /etc. Devices in use stay with their domains
/// until they stop; a domain that still asks for the pool will not start.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu pool delete cad
  virt-vgpu pool delete cad --dry-run
  virt-vgpu pool delete cad --yes      does not ask: for scripts

udev knows the new pools of a GPU or of another device that makes mediated devices
(ID_VIRT_VGPU_POOLS) after its next event, or after 'udevadm trigger'.

Exit code 0 when the pool is gone, 1 when not.")]
pub(super) struct Delete {
    /// The pool.
    name: PoolName,

    /// Do not ask.
    #[arg(long)]
    yes: bool,

    /// Only say what would be done.
    #[arg(long)]
    dry_run: bool,

    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Report {
    pool: PoolName,
    deleted: bool,
    actions: Vec<Action>,
    /// Domains that keep devices of it.
    holders: Vec<Holder>,
    problems: Vec<String>,
}

#[derive(Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "action")]
enum Action {
    /// The file goes.
    Remove { file: String },
    /// The file becomes a link to /dev/null, so that another one does not count.
    Mask { file: String, hides: String },
}

#[derive(Debug, PartialEq, Eq, Serialize)]
struct Holder {
    domain: DomainName,
    domain_uuid: DomainUuid,
    devices: Vec<DeviceName>,
}

/// How long to wait for a hook that is at work.
const PATIENCE: Duration = Duration::from_secs(25);

impl Delete {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let mut report = gather(host, &self.name)?;
        if !self.dry_run {
            if !self.yes {
                let question = format!("{report}delete pool '{}'?", self.name);
                confirm(&question, &format!("pool '{}' was not deleted", self.name))?;
            }
            // Not before the question: starts would wait for the answer.
            let deadline = Deadline::after(PATIENCE);
            let _lock = HostLock::acquire(host, "virt-vgpu pool delete", deadline)?;
            let now = gather(host, &self.name)?;
            if now.actions != report.actions {
                bail!(
                    "pool '{}' was not deleted: its files have changed meanwhile; try again",
                    self.name
                );
            }
            report = now;
            for action in &report.actions {
                action.carry_out(host)?;
            }
            report.deleted = true;
        }
        output::report(self.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

fn gather(host: &Host, name: &PoolName) -> anyhow::Result<Report> {
    let (claims, damaged) = claims::load_all(host).context("cannot read the claims")?;
    let holders = claims.into_iter().map(|claim| {
        let devices = claim.devices.into_iter();
        let ours = devices.filter(|device| device.pool == *name);
        Holder {
            domain: claim.domain_name,
            domain_uuid: claim.domain,
            devices: ours.map(|device| device.name).collect(),
        }
    });
    Ok(Report {
        pool: name.clone(),
        deleted: false,
        actions: actions(host, name)?,
        holders: holders
            .filter(|holder| !holder.devices.is_empty())
            .collect(),
        problems: damaged.iter().map(ToString::to_string).collect(),
    })
}

/// The actions after which no pool file of that name is in effect. A file in a weaker
/// directory must not take effect when the stronger one is removed.
fn actions(host: &Host, name: &PoolName) -> anyhow::Result<Vec<Action>> {
    let [administrator, _, vendor] = POOL_DIRS;
    let mut actions = Vec::new();
    let mut link = None;
    for dir in POOL_DIRS {
        let file = format!("{dir}/{name}.toml");
        if !host.exists(&file) {
            continue;
        }
        let path = Path::new(&file);
        if { host.is_mask(path) }.with_context(|| format!("cannot read {file}"))? {
            // It hides the weaker ones, and goes on to do so.
            link = Some(file);
            break;
        }
        actions.push(if dir == vendor {
            Action::Mask {
                file: format!("{administrator}/{name}.toml"),
                hides: file,
            }
        } else {
            Action::Remove { file }
        });
    }
    match (actions.is_empty(), link) {
        (false, _) => Ok(actions),
        (true, Some(link)) => Err(masked(name, &link)),
        (true, None) => Err(not_found(name, &config::load_all(host))),
    }
}

impl Action {
    fn carry_out(&self, host: &Host) -> anyhow::Result<()> {
        match self {
            Self::Remove { file } => host
                .remove_file(file)
                .with_context(|| format!("cannot remove {file}")),
            Self::Mask { file, .. } => host
                .make_directory(POOL_DIRS[0], 0o755)
                .and_then(|()| host.replace_link(file, Path::new("/dev/null")))
                .with_context(|| format!("cannot make {file} a link to /dev/null")),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (removed, made) = if self.deleted {
            ("removed", "made")
        } else {
            ("would remove", "would make")
        };
        for action in &self.actions {
            match action {
                Action::Remove { file } => writeln!(f, "{removed} {file}")?,
                Action::Mask { file, hides } => writeln!(
                    f,
                    "{made} {file} a link to /dev/null: it masks {hides}, which belongs to a \
                     package"
                )?,
            }
        }
        for holder in &self.holders {
            let devices: Vec<&str> = holder.devices.iter().map(DeviceName::as_str).collect();
            writeln!(
                f,
                "note: domain '{}' holds {} of it until it stops",
                holder.domain,
                devices.join(", ")
            )?;
        }
        for problem in &self.problems {
            writeln!(f, "problem: {}", output::one_line(problem))?;
        }
        Ok(())
    }
}
