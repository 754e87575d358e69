//! `virt-vgpu attach`: gives a domain devices of a pool from its next start on, and
//! with `--live` at once.

use std::{process::ExitCode, time::Duration};

use anyhow::{Context, anyhow, bail};
use clap::{
    Args,
    builder::{PossibleValuesParser, TypedValueParser},
};
use serde::Serialize;

use super::{output, target::Edit};
use crate::{
    config::{self, Pool, PoolError},
    definition::{
        self, AttachRequest, Attachment, CdRomOutcome, Change, FilledDevice, HostdevChange,
        RequestChange, Target,
    },
    domain::{DomainDef, Request},
    host::{
        Host,
        libvirt::{Domain, Libvirt},
    },
    hotplug::{self, PlugError, Plugged},
    model::{DeviceName, DomainName, DomainUuid, MdevModel, PoolName, Together},
    rule::spelling::did_you_mean,
};

/// Give a domain devices from a pool.
///
/// Writes a request into the domain's metadata and a placeholder <hostdev> into its
/// persistent definition. A start by any libvirt client then gets the device. The
/// command describes the wanted state: a second run changes nothing, and it
/// completes an interrupted run and corrects the devices of a cloned domain.
///
/// With --live a running domain also gets the devices at once. If one of them is
/// not available or cannot be plugged in, nothing changes. The guest sees a
/// hot-plugged device: its operating system must find it, and its firmware never
/// sees it. A q35 machine needs an unused pcie-root-port for each device. A
/// transient domain has no definition, so it needs --live.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  virt-vgpu attach ws7 --pool cad                   one device, gpu0
  virt-vgpu attach ws7 --pool cad --count 2         two in all: gpu0 and gpu1
  virt-vgpu attach ws7 --pool cad --name render     one, of that name
  virt-vgpu attach ws7 --pool cad --guest-drivers   with the pool's driver CD-ROM
  virt-vgpu attach ws7 --pool cad --count 2 --together pcie-root
  virt-vgpu attach ws7 --pool cad --live            running: plugged in at once
  virt-vgpu attach ws7 --pool cad --dry-run

Exit code 0 when the domain has the devices, else 1; then nothing has changed.")]
pub(super) struct Attach {
    /// The domain's name, UUID or ID.
    domain: String,

    /// The pool that the devices come from.
    #[arg(long, value_name = "POOL")]
    pool: PoolName,

    /// The device's name in the domain; with --count, NAME-0, NAME-1 and so on
    /// [default: the first free of gpu0, gpu1, ...; pci0, ... for whole PCI devices].
    #[arg(long, value_name = "NAME")]
    name: Option<DeviceName>,

    /// How many devices of the pool the domain will have.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u8).range(1..=64))]
    count: u8,

    /// Ask for the pool's guest drivers on a CD-ROM.
    #[arg(long)]
    guest_drivers: bool,

    /// Prefer devices near the domain's other devices with the same value: behind one
    /// PCIe switch or root port, else on one NUMA node (pcie-root); on one NUMA node
    /// (numa).
    #[arg(long, value_name = "WHAT", value_parser = together_parser())]
    together: Option<Together>,

    /// Plug the devices into the running domain too.
    #[arg(long)]
    live: bool,

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
    devices: Vec<FilledDevice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    guest_driver_cdrom: Option<CdRomOutcome>,
    /// The devices that were plugged into the running domain.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    plugged: Vec<Plugged>,
    /// Why optional devices are not plugged in.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    notes: Vec<String>,
    #[serde(skip)]
    live: bool,
    #[serde(skip)]
    takes_effect: String,
}

/// The result of `--live`.
#[derive(Debug, Default)]
struct Live {
    plugged: Vec<Plugged>,
    notes: Vec<String>,
}

/// How long to wait for the guest to release a device again after another one has
/// failed.
const UNDO_PATIENCE: Duration = Duration::from_secs(10);

impl Attach {
    pub(super) fn run(&self, host: &Host) -> anyhow::Result<ExitCode> {
        let pool = usable_pool(host, &self.pool)?;
        let libvirt = self.edit.connection.open_served()?;
        let domain = libvirt.domain(&self.domain)?;
        let target = self.read(host, domain)?;
        let to_attach = AttachRequest {
            pool: &pool,
            name: self.name.as_ref(),
            count: usize::from(self.count),
            guest_drivers: self.guest_drivers,
            together: self.together,
        };
        let cannot = || format!("cannot attach to domain '{}'", self.domain);
        let def = &target.definition.def;
        let choose = |names: &[DeviceName]| match target.transient {
            true => Ok(definition::mdev_placeholders(
                def.uuid,
                names,
                MdevModel::VfioPci,
            )),
            false => {
                let def = with_requests(def, &to_attach, names);
                definition::placeholders(host, &libvirt, &def, &pool, names)
            }
        };
        let mut attachment =
            Attachment::work_out(&target.definition, &to_attach, choose).with_context(cannot)?;
        if target.transient {
            attachment.changes.clear();
        }
        let asking = match &target.live {
            Some(live) => attachment.live_requests(live).with_context(cannot)?,
            None => None,
        };
        let asking = Vec::from_iter(asking);
        let live = if self.edit.dry_run {
            foresee(host, &libvirt, &target, &attachment)
        } else {
            carry_out(host, &libvirt, &target, &attachment, &asking)
        };
        let Live { plugged, mut notes } = live.with_context(cannot)?;
        notes.extend(definition::asks_for_nothing(&target.definition.xml));
        let report = Report {
            domain: target.definition.def.name.clone(),
            domain_uuid: target.definition.def.uuid,
            dry_run: self.edit.dry_run,
            running: target.running,
            changed: !(attachment.changes.is_empty() && asking.is_empty() && plugged.is_empty()),
            devices: attachment.devices,
            guest_driver_cdrom: attachment.cdrom,
            plugged,
            notes,
            live: self.live,
            takes_effect: target.takes_effect(),
        };
        output::report(self.edit.json, &report)?;
        Ok(ExitCode::SUCCESS)
    }

    fn read(&self, host: &Host, domain: Domain) -> anyhow::Result<Target> {
        if !self.live {
            return Target::read(host, domain, &self.domain);
        }
        let target = Target::read_running(host, domain, &self.domain)?;
        if target.transient && self.guest_drivers {
            bail!(
                "domain '{}' is transient, and a CD-ROM drive cannot be plugged into a running \
                 domain; leave out --guest-drivers",
                self.domain
            );
        }
        Ok(target)
    }
}

fn together_parser() -> impl TypedValueParser<Value = Together> {
    PossibleValuesParser::new(Together::ALL.map(Together::as_str))
        .try_map(|word| word.parse::<Together>())
}

/// The domain with the requests of those devices, as they will be.
fn with_requests(
    def: &DomainDef,
    to_attach: &AttachRequest<'_>,
    names: &[DeviceName],
) -> DomainDef {
    let mut def = def.clone();
    for name in names {
        let present = def.requests.iter_mut().find(|one| one.name == *name);
        if let Some(request) = present {
            request.together = to_attach.together.or(request.together);
            continue;
        }
        let mut request = Request::new(name.clone(), to_attach.pool.name.clone());
        request.together = to_attach.together;
        def.requests.push(request);
    }
    def
}

/// Plugs in the devices and makes the changes, or leaves everything as it was. The
/// definition comes last: libvirt adds controllers to it for its devices, and they
/// would stay.
fn carry_out(
    host: &Host,
    libvirt: &Libvirt,
    target: &Target,
    attachment: &Attachment,
    asking: &[Change],
) -> anyhow::Result<Live> {
    let domain = &target.domain;
    let mut live = Live::default();
    if target.live.is_none() {
        definition::carry_out_noted(host, target, &attachment.changes)?;
        return Ok(live);
    }
    definition::carry_out(domain, asking)?;
    let plug = |names: &[DeviceName]| hotplug::plug(host, libvirt, domain, names);
    let plugged = by_turns(attachment, plug, &mut live).map_err(anyhow::Error::from);
    let done =
        plugged.and_then(|()| definition::carry_out_noted(host, target, &attachment.changes));
    let Err(error) = done else {
        return Ok(live);
    };
    let mut failures = Vec::new();
    let plugged: Vec<DeviceName> = live.plugged.iter().map(|one| one.name.clone()).collect();
    if !plugged.is_empty() {
        let undone = hotplug::unplug(host, domain, &plugged, UNDO_PATIENCE);
        failures.extend(undone.err().map(|error| format!("{error:#}")));
    }
    failures.extend(definition::take_back(domain, asking));
    Err(match failures.as_slice() {
        [] => error,
        failures => anyhow!(
            "{error:#}; undoing the earlier changes failed: {}",
            failures.join("; ")
        ),
    })
}

/// The devices that would be plugged in.
fn foresee(
    host: &Host,
    libvirt: &Libvirt,
    target: &Target,
    attachment: &Attachment,
) -> anyhow::Result<Live> {
    let mut outcome = Live::default();
    if let Some(live) = &target.live {
        let def = asking(&live.def, attachment);
        let plug = |names: &[DeviceName]| hotplug::foresee(host, libvirt, &def, names);
        by_turns(attachment, plug, &mut outcome)?;
    }
    Ok(outcome)
}

/// The running domain with its future requests.
fn asking(live: &DomainDef, attachment: &Attachment) -> DomainDef {
    let mut def = live.clone();
    let wanted = &attachment.requests;
    def.requests
        .retain(|one| wanted.iter().all(|request| request.name != one.name));
    def.requests.extend(wanted.iter().cloned());
    def
}

/// First all required devices or none; then the optional devices one by one.
fn by_turns(
    attachment: &Attachment,
    plug: impl Fn(&[DeviceName]) -> Result<Vec<Plugged>, PlugError>,
    live: &mut Live,
) -> Result<(), PlugError> {
    let requests = attachment.requests.iter();
    let (optional, needed): (Vec<_>, Vec<_>) =
        requests.partition(|request| request.optional == Some(true));
    let needed: Vec<DeviceName> = needed
        .into_iter()
        .map(|request| request.name.clone())
        .collect();
    live.plugged.extend(plug(&needed)?);
    for request in optional {
        match plug(std::slice::from_ref(&request.name)) {
            Ok(plugged) => live.plugged.extend(plugged),
            Err(PlugError::NoRoom(refusal)) => live
                .notes
                .push(format!("{} is not plugged in: {refusal}", request.name)),
            Err(error) => return Err(error),
        }
    }
    Ok(())
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
        for device in &self.devices {
            let plugged = self.plugged.iter().find(|one| one.name == device.name);
            match plugged {
                Some(plugged) if device.is_unchanged() => writeln!(
                    f,
                    "plugged {} ({}) of pool {} into {domain} {}",
                    plugged.name,
                    plugged.source(),
                    plugged.pool,
                    plugged.place()
                )?,
                Some(plugged) => {
                    let line = line(device, domain, Some(plugged));
                    writeln!(f, "{line}; plugged in {}", plugged.place())?;
                }
                None if device.is_unchanged() => {}
                None if self.live && device.hostdev == HostdevChange::Later => {
                    writeln!(f, "{}", line(device, domain, None))?;
                }
                None => {
                    let line = line(device, domain, None);
                    writeln!(f, "{line}; {}", self.takes_effect)?;
                }
            }
        }
        for note in &self.notes {
            writeln!(f, "{}", output::one_line(note))?;
        }
        match &self.guest_driver_cdrom {
            Some(CdRomOutcome::Added(target)) => writeln!(
                f,
                "added the guest-driver CD-ROM to {domain} as {target}; {}",
                self.takes_effect
            )?,
            Some(CdRomOutcome::Mended(target)) => writeln!(
                f,
                "corrected the guest-driver CD-ROM {target} of {domain}: it had the path of \
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

fn line(device: &FilledDevice, domain: &DomainName, plugged: Option<&Plugged>) -> String {
    let FilledDevice {
        name,
        pool,
        request,
        hostdev,
        function,
        ..
    } = device;
    // The UUID of a transient domain's device is known only after plugging in.
    let source = match (function, plugged) {
        (None, Some(plugged)) => plugged.source(),
        _ => device.source(),
    };
    match (request, hostdev) {
        (RequestChange::Added, HostdevChange::Added) => {
            format!("attached {name} ({source}) from pool {pool} to {domain}")
        }
        (RequestChange::Added, HostdevChange::Later) if plugged.is_some() => {
            format!("requested {name} from pool {pool} for {domain}")
        }
        (RequestChange::Added, HostdevChange::Later) => format!(
            "requested {name} from pool {pool} for {domain}; it is optional, so the domain starts \
             without it and virt-vgpud plugs it in when one is free"
        ),
        (_, HostdevChange::Mended) => format!(
            "corrected {name} ({source}) of {domain}: its hostdev had the UUID of another domain"
        ),
        (_, HostdevChange::Remodelled) => format!(
            "corrected {name} ({source}) of {domain}: its hostdev had another model than its type"
        ),
        (_, HostdevChange::Completed) => {
            format!("completed {name} ({source}) of {domain}: functions of its card were missing")
        }
        (RequestChange::Added, HostdevChange::Unchanged) => {
            format!("completed {name} ({source}) of {domain}: its request was missing")
        }
        (_, HostdevChange::Added) => {
            format!("completed {name} ({source}) of {domain}: its hostdev was missing")
        }
        (_, HostdevChange::Unchanged | HostdevChange::Later) => {
            format!("changed the request {name} of {domain}")
        }
    }
}
