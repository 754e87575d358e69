//! `virt-vgpu detach`: removes a domain's requests for devices, and with `--live`
//! gives the devices back at once.

use std::{collections::BTreeSet, process::ExitCode, time::Duration};

use anyhow::{Context, anyhow};
use clap::{ArgGroup, Args};
use serde::Serialize;

use super::{output, target::Edit};
use crate::{
    definition::{self, Change, Definition, Target, existing, existing_cdrom},
    domain::{self, ALIAS_PREFIX, DomainDef, Hostdev},
    host::Host,
    hotplug::{self, Plugged},
    model::{DeviceName, DomainName, DomainUuid, Handle, MdevUuid, PciAddress, PoolName},
};

/// Remove devices of pools from a domain.
///
/// Removes the requests from the domain's metadata, the placeholders from its
/// persistent definition, and the guest-driver CD-ROM if no request asks for it any
/// more. A running domain keeps its devices until it stops.
///
/// With --live the guest is asked to release the devices, and they are given back
/// at once. The guest's operating system must release them. If it does not run or
/// does not answer, the domain keeps the devices, and they stay in the definition
/// too.
#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("which").required(true).args(["names", "pool", "all"]),
    after_help = "Examples:
  virt-vgpu detach ws7 --name gpu1
  virt-vgpu detach ws7 --name gpu0 --name gpu1
  virt-vgpu detach ws7 --pool cad      all of that pool
  virt-vgpu detach ws7 --all
  virt-vgpu detach ws7 --all --live    running: out of the guest at once

Exit code 0 when the domain no longer has any of these devices, else 1;
then nothing has changed, except devices that the guest released with --live."
)]
pub(super) struct Detach {
    /// The domain's name, UUID or ID.
    domain: String,

    /// A device's name in the domain; may be given several times.
    #[arg(long = "name", value_name = "NAME")]
    names: Vec<DeviceName>,

    /// All devices of that pool; the pool need not exist any more.
    #[arg(long, value_name = "POOL")]
    pool: Option<PoolName>,

    /// All devices of all pools.
    #[arg(long)]
    all: bool,

    /// Remove the devices from the running domain too.
    #[arg(long)]
    live: bool,

    /// How long the guest may take to release the devices.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 20,
        requires = "live",
        value_parser = clap::value_parser!(u64).range(0..=3600)
    )]
    wait: u64,

    #[command(flatten)]
    edit: Edit,
}

#[derive(Debug, Serialize)]
struct Report {
    domain: DomainName,
    domain_uuid: DomainUuid,
    dry_run: bool,
    running: bool,
    changed: bool,
    devices: Vec<DetachedDevice>,
    guest_driver_cdrom_removed: bool,
    /// The devices that the running domain gave back.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    unplugged: Vec<Plugged>,
    #[serde(skip)]
    takes_effect: String,
    /// The domain's other devices.
    #[serde(skip)]
    others: Vec<DeviceName>,
}

#[derive(Debug, Serialize)]
struct DetachedDevice {
    name: DeviceName,
    /// The pool of its request.
    pool: Option<PoolName>,
    /// The UUIDs of its hostdevs.
    uuids: Vec<MdevUuid>,
    /// The virtual functions that its hostdevs name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    functions: Vec<PciAddress>,
}

impl Detach {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let target = if self.live {
            let domain = self.edit.connection.find_served(&self.domain)?;
            Target::read_running(host, domain, &self.domain)?
        } else {
            let domain = self.edit.connection.find(&self.domain)?;
            Target::read(host, domain, &self.domain)?
        };
        let cannot = || format!("cannot detach from domain '{}'", self.domain);
        let held = match &target.live {
            Some(live) => hotplug::held(host, live.def.uuid).with_context(cannot)?,
            None => Vec::new(),
        };
        let names = self.chosen_of_both(&target, &held);
        let (changes, mut report) = self.work_out(&target, &names).with_context(cannot)?;
        if target.live.is_some() {
            report.unplugged = if self.edit.dry_run {
                let named = held.into_iter().filter(|one| names.contains(&one.name));
                named.collect()
            } else {
                let patience = Duration::from_secs(self.wait);
                self.carry_out(host, &target, &changes, &names, patience)
                    .with_context(cannot)?
            };
            report.changed |= !report.unplugged.is_empty();
        } else if !self.edit.dry_run {
            definition::carry_out(&target.domain, &changes).with_context(cannot)?;
        }
        output::report(self.edit.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }

    /// The names in the definition and in the run. A name that only the claim has
    /// is left over from an interrupted detach.
    fn chosen_of_both(&self, target: &Target, held: &[Plugged]) -> Vec<DeviceName> {
        let mut names = self.chosen(&target.definition);
        if let Some(live) = &target.live {
            names.extend(self.chosen(live));
        }
        let of_pool = |one: &&Plugged| self.all || self.pool.as_ref() == Some(&one.pool);
        names.extend(held.iter().filter(of_pool).map(|one| one.name.clone()));
        names.into_iter().collect()
    }

    fn work_out(
        &self,
        target: &Target,
        names: &[DeviceName],
    ) -> anyhow::Result<(Vec<Change>, Report)> {
        let def = &target.definition.def;
        let mut chosen = self.chosen(&target.definition);
        chosen.retain(|name| names.contains(name));
        let mut element = target.definition.element.clone();
        let (mut changes, mut devices) = (Vec::new(), Vec::new());
        for name in &chosen {
            let (mut uuids, mut functions) = (Vec::new(), Vec::new());
            for hostdev in hostdevs_of(def, name) {
                let device = existing(&target.definition, name, hostdev)?;
                changes.push(Change::Detach(device));
                match hostdev.handle {
                    Handle::Mdev(uuid) => uuids.push(uuid),
                    Handle::Pci(function) => functions.push(function),
                }
            }
            let request = def.requests.iter().find(|request| request.name == *name);
            if let Some(old) = element.as_deref().filter(|_| request.is_some()) {
                element = domain::remove_request(old, name)?;
            }
            if request.is_some() || !uuids.is_empty() || !functions.is_empty() {
                devices.push(DetachedDevice {
                    name: name.clone(),
                    pool: request.map(|request| request.pool.clone()),
                    uuids,
                    functions,
                });
            }
        }
        let left = || {
            def.requests
                .iter()
                .filter(|one| !chosen.contains(&one.name))
        };
        let wanted = left().any(|request| request.guest_drivers == Some(true));
        let cdrom = (!wanted)
            .then(|| existing_cdrom(&target.definition))
            .transpose()?
            .flatten();
        let guest_driver_cdrom_removed = cdrom.is_some();
        changes.extend(cdrom.map(Change::Detach));
        // The requests come last: while a request exists without its hostdev, the
        // hook refuses a start and says what is missing.
        changes.extend(Change::metadata(
            target.definition.element.as_deref(),
            element.as_deref(),
        )?);
        if target.transient {
            changes.clear();
        }
        if let Some(live) = &target.live {
            changes.extend(without_requests(live, names)?);
        }
        let report = Report {
            domain: def.name.clone(),
            domain_uuid: def.uuid,
            dry_run: self.edit.dry_run,
            running: target.running,
            changed: !changes.is_empty(),
            devices,
            guest_driver_cdrom_removed: guest_driver_cdrom_removed && !target.transient,
            unplugged: Vec::new(),
            takes_effect: if target.running {
                format!(
                    "{} is running and keeps its devices until it stops",
                    def.name
                )
            } else {
                target.takes_effect()
            },
            others: left().map(|request| request.name.clone()).collect(),
        };
        Ok((changes, report))
    }

    /// Makes the changes and unplugs the devices. A device that the guest does not
    /// release stays in the guest and in the definition.
    fn carry_out(
        &self,
        host: &Host,
        target: &Target,
        changes: &[Change],
        names: &[DeviceName],
        patience: Duration,
    ) -> anyhow::Result<Vec<Plugged>> {
        // Edits that can be undone come first.
        definition::carry_out(&target.domain, changes)?;
        hotplug::unplug(host, &target.domain, names, patience).map_err(|error| {
            let is_out = |name: &&DeviceName| !error.held.contains(name);
            let out: Vec<DeviceName> = names.iter().filter(is_out).cloned().collect();
            let failures = match self.work_out(target, &out) {
                Ok((kept, _)) => {
                    definition::take_back(&target.domain, &definition::beyond(changes, &kept))
                }
                Err(cause) => vec![format!("{cause:#}")],
            };
            let mut line = format!("{error:#}");
            let unsaid = out.iter().filter(|name| !error.out.contains(name));
            let unsaid: Vec<String> = unsaid.map(|name| format!("'{name}'")).collect();
            if !unsaid.is_empty() {
                let unsaid = unsaid.join(", ");
                line += &format!("; {unsaid}, which it did not have, is detached");
            }
            if !failures.is_empty() {
                let failures = failures.join("; ");
                line += &format!("; restoring the definition failed too: {failures}");
            }
            anyhow!(line)
        })
    }

    /// The names to remove: requests, and hostdevs that lost their request.
    fn chosen(&self, definition: &Definition) -> BTreeSet<DeviceName> {
        let requests = definition.def.requests.iter();
        let of_pool = |pool: &PoolName| self.all || self.pool.as_ref() == Some(pool);
        let mut chosen: BTreeSet<DeviceName> = requests
            .filter(|request| of_pool(&request.pool))
            .map(|request| request.name.clone())
            .collect();
        chosen.extend(self.names.iter().cloned());
        if self.all {
            let def = &definition.def;
            let aliases = def.hostdevs.iter().filter_map(|one| one.alias.as_deref());
            chosen
                .extend(aliases.filter_map(|alias| alias.strip_prefix(ALIAS_PREFIX)?.parse().ok()));
        }
        chosen
    }
}

/// The change that removes the requests from the running domain.
fn without_requests(live: &Definition, names: &[DeviceName]) -> anyhow::Result<Option<Change>> {
    let mut element = live.element.clone();
    for name in names {
        if let Some(old) = element.as_deref() {
            element = domain::remove_request(old, name)?;
        }
    }
    Change::live_metadata(live.element.as_deref(), element.as_deref())
}

/// The hostdevs of a name: found by its UUID, or by its alias with a former UUID; with the
/// other functions of its card.
fn hostdevs_of<'t>(def: &'t DomainDef, name: &'t DeviceName) -> impl Iterator<Item = &'t Hostdev> {
    let uuid = MdevUuid::for_device(def.uuid, name);
    let hostdevs = def.hostdevs.iter();
    let own = hostdevs.filter(move |one| one.handle == uuid.into() || one.is_named(name));
    own.chain(def.others_of_card(name))
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            domain,
            takes_effect,
            ..
        } = self;
        if self.dry_run && self.changed {
            writeln!(f, "nothing is changed yet; without --dry-run:")?;
        }
        for DetachedDevice {
            name,
            pool,
            uuids,
            functions,
        } in &self.devices
        {
            let uuids = uuids.iter().map(|uuid| format!("uuid {uuid}"));
            let sources: Vec<String> = uuids
                .chain(functions.iter().map(ToString::to_string))
                .collect();
            let sources = match sources.as_slice() {
                [] => String::new(),
                sources => format!(" ({})", sources.join(", ")),
            };
            let pool = pool.as_ref();
            let pool = pool.map_or(String::new(), |pool| format!(" of pool {pool}"));
            let unplugged = self.unplugged.iter().any(|one| one.name == *name);
            let effect = if unplugged {
                "unplugged from the running domain"
            } else {
                takes_effect
            };
            writeln!(f, "detached {name}{sources}{pool} from {domain}; {effect}")?;
        }
        let listed = |one: &&Plugged| self.devices.iter().any(|device| device.name == one.name);
        for one in self.unplugged.iter().filter(|one| !listed(one)) {
            let (name, source, pool) = (&one.name, one.source(), &one.pool);
            writeln!(
                f,
                "unplugged {name} ({source}) of pool {pool} from {domain}"
            )?;
        }
        if self.guest_driver_cdrom_removed {
            writeln!(
                f,
                "removed the guest-driver CD-ROM from {domain}; {takes_effect}"
            )?;
        }
        if !self.changed {
            write!(f, "nothing to do: {domain} has no such device")?;
            let others: Vec<&str> = self.others.iter().map(DeviceName::as_str).collect();
            match others.as_slice() {
                [] => writeln!(f)?,
                others => writeln!(f, "; it has {}", others.join(", "))?,
            }
        }
        Ok(())
    }
}
