//! `virt-vgpu attach`: a domain asks for devices of a pool from now on.

use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::Args;
use serde::Serialize;

use super::{output, target::Edit};
use crate::{
    config::{self, Kind, Pool, PoolError},
    definition::{
        self, Attachment, CdRomOutcome, HostdevChange, Named, Outcome, RequestChange, Reserved,
        Seat, Target, Wish,
    },
    host::{Host, libvirt::Libvirt},
    model::{DeviceName, DomainName, DomainUuid, PoolName},
    rule::spelling::did_you_mean,
};

/// Give a domain devices from a pool.
///
/// Writes a request into the domain's metadata and a placeholder <hostdev> into
/// its persistent definition; a start by any libvirt client then gets the device.
/// Says what shall be, not what to add: a second run changes nothing, and one
/// that was interrupted, or the devices of a cloned domain, are put right.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu attach ws7 --pool cad                   one device, gpu0
  virt-vgpu attach ws7 --pool cad --count 2         two in all: gpu0 and gpu1
  virt-vgpu attach ws7 --pool cad --name render     one, of that name
  virt-vgpu attach ws7 --pool cad --guest-drivers   with the pool's driver CD-ROM
  virt-vgpu attach ws7 --pool cad --dry-run

Exit code 0 when the domain has the devices, 1 when not; then nothing has
changed.")]
pub(super) struct Attach {
    /// The domain's name, UUID or ID.
    domain: String,

    /// The pool that the devices come from.
    #[arg(long, value_name = "POOL")]
    pool: PoolName,

    /// The device's name in the domain; with --count, NAME-0, NAME-1 and so on
    /// [default: the first free of gpu0, gpu1, ...].
    #[arg(long, value_name = "NAME")]
    name: Option<DeviceName>,

    /// How many devices of the pool the domain shall have.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=16))]
    count: u8,

    /// Ask for the pool's guest drivers on a CD-ROM.
    #[arg(long)]
    guest_drivers: bool,

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
    devices: Vec<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_driver_cdrom: Option<CdRomOutcome>,
    #[serde(skip)]
    takes_effect: String,
}

impl Attach {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let pool = usable_pool(host, &self.pool)?;
        let libvirt = self.edit.connection.open_served()?;
        let domain = libvirt.domain(&self.domain)?;
        let target = Target::read(host, domain, &self.domain)?;
        let wish = Wish {
            pool: &pool,
            name: self.name.as_ref(),
            count: usize::from(self.count),
            guest_drivers: self.guest_drivers,
        };
        let cannot = || format!("cannot attach to domain '{}'", self.domain);
        let seats = |names: &[DeviceName]| seats(host, &libvirt, &target, &pool, names);
        let attachment =
            Attachment::work_out(&target.definition, &wish, seats).with_context(cannot)?;
        if !self.edit.dry_run {
            definition::carry_out(&target.domain, &attachment.changes).with_context(cannot)?;
        }
        let report = Report {
            domain: target.definition.def.name.clone(),
            domain_uuid: target.definition.def.uuid,
            dry_run: self.edit.dry_run,
            running: target.running,
            changed: !attachment.changes.is_empty(),
            devices: attachment.devices,
            guest_driver_cdrom: attachment.cdrom,
            takes_effect: target.takes_effect(),
        };
        output::report(self.edit.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }
}

/// What stands for each of the new devices. libvirt is asked what other domains
/// have only where functions are chosen.
fn seats(
    host: &Host,
    libvirt: &Libvirt,
    target: &Target,
    pool: &Pool,
    names: &[DeviceName],
) -> anyhow::Result<Vec<Seat>> {
    let def = &target.definition.def;
    let reserved = match pool.kind {
        Kind::NvidiaVgpu if !names.is_empty() => Named::read(libvirt)?.reserved(def.uuid),
        _ => Reserved::default(),
    };
    let seats = definition::choose(host, &reserved, def, pool, names)?;
    if seats.iter().any(|seat| matches!(seat, Seat::Function(_))) {
        definition::check_libvirt(libvirt.version()?)?;
    }
    Ok(seats)
}

/// The pool, as the hook would load it.
fn usable_pool(host: &Host, name: &PoolName) -> anyhow::Result<Pool> {
    match config::load_pool(host, name) {
        Err(PoolError::NotFound { .. }) => {
            let loaded = config::load_all(host);
            let names: Vec<&str> = loaded.pools.keys().map(PoolName::as_str).collect();
            let meant = did_you_mean(name.as_str(), &names);
            if names.is_empty() {
                bail!(
                    "there is no pool '{name}', nor any other; make one with 'virt-vgpu pool create'"
                );
            }
            bail!(
                "there is no pool '{name}'{meant}; there are: {}",
                names.join(", ")
            )
        }
        loaded => loaded.with_context(|| format!("pool '{name}' cannot be used")),
    }
}

impl std::fmt::Display for Report {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let domain = &self.domain;
        if self.dry_run && self.changed {
            writeln!(f, "nothing is changed yet; without --dry-run:")?;
        }
        for device in self.devices.iter().filter(|one| !one.is_unchanged()) {
            let line = line(device, domain);
            writeln!(f, "{line}; {}", self.takes_effect)?;
        }
        match &self.guest_driver_cdrom {
            Some(CdRomOutcome::Added(target)) => writeln!(
                f,
                "added the guest-driver CD-ROM to {domain} as {target}; {}",
                self.takes_effect
            )?,
            Some(CdRomOutcome::Mended(target)) => writeln!(
                f,
                "mended the guest-driver CD-ROM {target} of {domain}: it had the path of \
                 another domain; {}",
                self.takes_effect
            )?,
            None => {}
        }
        if !self.changed {
            let names: Vec<&str> = self.devices.iter().map(|one| one.name.as_str()).collect();
            let pool = self.devices.first().map(|one| one.pool.as_str());
            let (names, pool) = (names.join(", "), pool.unwrap_or_default());
            writeln!(f, "nothing to do: {domain} has {names} from pool {pool}")?;
        }
        Ok(())
    }
}

fn line(device: &Outcome, domain: &DomainName) -> String {
    let Outcome {
        name,
        uuid,
        pool,
        request,
        hostdev,
        function,
    } = device;
    let source = match function {
        Some(function) => function.to_string(),
        None => format!("uuid {uuid}"),
    };
    match (request, hostdev) {
        (RequestChange::Added, HostdevChange::Added) => {
            format!("attached {name} ({source}) from pool {pool} to {domain}")
        }
        (RequestChange::Added, HostdevChange::Later) => format!(
            "requested {name} from pool {pool} for {domain}; it is optional, so the domain starts \
             without it and virt-vgpud plugs it in when one is free"
        ),
        (_, HostdevChange::Mended) => format!(
            "mended {name} ({source}) of {domain}: its hostdev had the UUID of another domain"
        ),
        (RequestChange::Added, HostdevChange::Unchanged) => {
            format!("completed {name} ({source}) of {domain}: its request was missing")
        }
        (_, HostdevChange::Added) => {
            format!("completed {name} ({source}) of {domain}: its hostdev was missing")
        }
        (_, HostdevChange::Unchanged | HostdevChange::Later) => {
            format!("changed what {name} of {domain} asks for")
        }
    }
}
