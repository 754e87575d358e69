//! Maintenance mode: keeps GPUs from starts of VMs, gets running VMs off them, changes the
//! host's driver, and puts everything back afterwards. What is going on is in the note of
//! [`crate::device::maintenance`], written before each effect: whoever comes after a power
//! cut knows from it where the work has stopped.

use std::{collections::BTreeSet, io, time::Duration};

use anyhow::{Context, anyhow};

use crate::{
    device::maintenance::{self, Maintenance, NOTE},
    events,
    host::{Deadline, Host, HostLock, MaintenanceLock, since_1970},
    model::PciAddress,
};

mod driver;
mod holders;
mod install;
mod load;
mod plan;
mod services;
mod vacate;

pub use driver::loaded_driver;
pub use holders::{Holder, Holders, holders};
pub use install::Installer;
pub use load::{LoadReport, load, set_up};
pub use plan::{LoadPlan, plan_load};
pub use services::restart;
pub use vacate::{Left, migrate, shut_down};

/// How long another command of the kind is waited for.
const OTHERS: Duration = Duration::from_secs(10);

/// How long starts and stops of VMs are waited for.
const STARTS: Duration = Duration::from_secs(60);

/// The directory of the note, where the package has not made it.
const STATE: &str = "/var/lib/virt-vgpu";
const DIRECTORY: u32 = 0o755;

/// What locks are held for.
const PURPOSE: &str = "virt-vgpu maintenance";

/// Maintenance at work: no other command of the kind runs.
#[derive(Debug)]
pub struct Work<'a> {
    host: &'a Host,
    _alone: MaintenanceLock,
    noted: Option<Maintenance>,
}

impl<'a> Work<'a> {
    /// Begins.
    ///
    /// # Errors
    /// When another command is at work, or the note cannot be read.
    pub fn begin(host: &'a Host, purpose: &str) -> anyhow::Result<Self> {
        let alone = MaintenanceLock::acquire(host, purpose, Deadline::after(OTHERS))?;
        Ok(Self {
            host,
            _alone: alone,
            noted: maintenance::read(host)?,
        })
    }

    /// What is noted; None: there is no maintenance.
    #[must_use]
    pub fn noted(&self) -> Option<&Maintenance> {
        self.noted.as_ref()
    }

    /// Keeps GPUs from all starts that plan from now on, in addition to those of before. Starts
    /// that have planned already have claims, so they are seen.
    ///
    /// # Errors
    /// When it cannot be noted; then nothing has changed.
    pub fn enter(&mut self, gpus: &BTreeSet<PciAddress>) -> anyhow::Result<()> {
        let before = self.noted.clone();
        let mut next = before.unwrap_or_else(|| Maintenance::begun(since_1970()));
        next.gpus.extend(gpus);
        let made = self.host.make_directory(STATE, DIRECTORY);
        made.with_context(|| format!("cannot make {STATE}"))?;
        let _planning = self.while_nobody_plans()?;
        self.write(next)?;
        gpus.iter()
            .for_each(|gpu| events::log_maintenance(*gpu, true));
        Ok(())
    }

    /// Lets starts have these GPUs again. The note goes with the last of them.
    ///
    /// # Errors
    /// When the note cannot be changed; it then stays as it is.
    pub fn leave(&mut self, gpus: &BTreeSet<PciAddress>) -> anyhow::Result<()> {
        let _planning = self.while_nobody_plans()?;
        let left = self.noted.iter().flat_map(|noted| &noted.gpus);
        let left: BTreeSet<PciAddress> = left.filter(|gpu| !gpus.contains(gpu)).copied().collect();
        if left.is_empty() {
            self.host
                .remove_file(NOTE)
                .with_context(|| format!("cannot remove {NOTE}"))?;
            self.noted = None;
        } else {
            self.change(|noted| noted.gpus = left)?;
        }
        gpus.iter()
            .for_each(|gpu| events::log_maintenance(*gpu, false));
        Ok(())
    }

    /// Takes a change to the note.
    ///
    /// # Errors
    /// When it cannot be written, or there is no maintenance.
    fn change(&mut self, change: impl FnOnce(&mut Maintenance)) -> anyhow::Result<()> {
        let mut next = self
            .noted
            .clone()
            .ok_or_else(|| anyhow!("there is no maintenance"))?;
        change(&mut next);
        self.write(next)
    }

    fn while_nobody_plans(&self) -> anyhow::Result<HostLock> {
        Ok(HostLock::acquire(
            self.host,
            PURPOSE,
            Deadline::after(STARTS),
        )?)
    }

    fn write(&mut self, next: Maintenance) -> anyhow::Result<()> {
        const MODE: u32 = 0o644;
        if self.noted.as_ref() == Some(&next) {
            return Ok(());
        }
        let put = |noted: &Maintenance| -> anyhow::Result<()> {
            let text = serde_json::to_string_pretty(noted)?;
            let written = self.host.replace_file(NOTE, text.as_bytes(), MODE);
            written.with_context(|| format!("cannot write {NOTE}"))
        };
        if let Err(error) = put(&next) {
            // It may be there all the same, and what it tells is not done.
            match &self.noted {
                Some(before) => drop(put(before)),
                None => drop(self.host.remove_file(NOTE)),
            }
            return Err(error);
        }
        self.noted = Some(next);
        Ok(())
    }
}

/// What another command of maintenance is doing now; None: there is none.
///
/// # Errors
/// When that cannot be told.
pub fn at_work(host: &Host) -> io::Result<Option<String>> {
    MaintenanceLock::holder(host)
}
