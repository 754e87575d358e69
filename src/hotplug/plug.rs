//! Plugging devices in.

use std::{io, time::Duration};

use anyhow::{Context, anyhow};

use super::{
    PlugError, Plugged,
    live::{self, Live},
    unplug,
};
use crate::{
    allocate::{self, AllocateError, Base, Demand, Making, PlacedRequest},
    claims::{self, Claim, ClaimedDevice, State},
    config::{self, Pool, PoolError},
    definition::{self, Named},
    domain::{DomainDef, Request},
    events,
    host::{
        ClaimLock, Deadline, Host,
        libvirt::{Domain, Libvirt, LibvirtError},
    },
    model::{DeviceName, MdevUuid, ParentName, PoolName, domain_word, proposed},
    plan::{Failed, Placeholder},
};

/// As long as a hook's deadline: the domain's own hook may wait for the lock of its
/// claim.
const PATIENCE: Duration = allocate::PATIENCE;

/// How long to wait for a guest to release a device that it has only just received,
/// after another device of the same call has failed.
const UNDO_PATIENCE: Duration = Duration::from_secs(10);

/// Plugs devices into a running domain whose live metadata asks for them: all or none.
/// Devices that it already has are not in the result.
///
/// # Errors
/// The reason; the domain, its claim and the host are then unchanged, except for
/// [`PlugError::HalfDone`].
pub fn plug(
    host: &Host,
    libvirt: &Libvirt,
    domain: &Domain,
    names: &[DeviceName],
) -> Result<Vec<Plugged>, PlugError> {
    let live = Live::read(domain)?;
    let missing = missing(&live.def, names)?;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = placeholders(host, libvirt, &live, &missing)?;
    let made = make(host, &live, wanted)?;
    attach(host, domain, &live, &made)?;
    Ok(made.devices.iter().map(Plugged::from).collect())
}

/// What [`plug`] would do for a domain with that XML. Nothing is changed.
///
/// # Errors
/// Why a device is not available.
pub fn foresee(
    host: &Host,
    libvirt: &Libvirt,
    def: &DomainDef,
    names: &[DeviceName],
) -> Result<Vec<Plugged>, PlugError> {
    let live = Live {
        def: def.clone(),
        persistent: None,
    };
    let missing = missing(&live.def, names)?;
    if missing.is_empty() {
        return Ok(Vec::new());
    }
    let wanted = placeholders(host, libvirt, &live, &missing)?;
    let claim = claims::load(host, def.uuid).map_err(AllocateError::from)?;
    let held = claim.map(|claim| claim.devices).unwrap_or_default();
    let mut demand = Demand::load(host, &live.def, placed_requests(def, &wanted))?;
    let is_wanted = |device: &ClaimedDevice| wanted.iter().any(|(one, _)| one.name == device.name);
    let (replaced, others): (Vec<_>, Vec<_>) = held.into_iter().partition(is_wanted);
    demand.beside = Some(pools(host, def, &others)?);
    demand.present = present(&others);
    demand.replaced = replaced;
    let plan = demand.replan(host, &Failed::default())?;
    Ok(plan.assignments.iter().map(Plugged::from).collect())
}

/// The devices that a running domain lacks and may get at any time: optional devices,
/// and devices whose parent disappeared but which its claim still names. A device that
/// is leaving was never attached, or was removed on purpose.
#[must_use]
pub fn lacking(host: &Host, def: &DomainDef, claim: Option<&Claim>) -> Vec<DeviceName> {
    let is_lost = |request: &Request| {
        let claim = claim.filter(|claim| claim.state == State::Committed);
        let mut devices = claim.into_iter().flat_map(|claim| {
            let devices = claim.devices.iter();
            devices.filter(|device| !claim.leaving.contains(&device.name))
        });
        devices
            .any(|device| device.name == request.name && matches!(device.is_there(host), Ok(false)))
    };
    let lacks = |request: &&Request| {
        !live::has_named(def, &request.name) && (request.optional == Some(true) || is_lost(request))
    };
    let names = def.requests.iter().filter(lacks);
    names.map(|request| request.name.clone()).collect()
}

/// The result for a domain's optional devices.
#[derive(Debug, Default)]
pub struct Optional {
    pub plugged: Vec<Plugged>,
    /// Why the others were not plugged in, one line each.
    pub notes: Vec<String>,
}

/// Plugs in the optional devices that a running domain lacks, one by one. A device that
/// is not free is not an error.
pub fn plug_optional(host: &Host, libvirt: &Libvirt, domain: &Domain) -> Optional {
    match live::definition(domain) {
        Ok(def) => each(&def, |names| plug(host, libvirt, domain, names)),
        Err(error) => Optional {
            notes: vec![format!("{error:#}")],
            ..Optional::default()
        },
    }
}

/// What [`plug_optional`] would do for a domain with that XML.
pub fn foresee_optional(host: &Host, libvirt: &Libvirt, def: &DomainDef) -> Optional {
    each(def, |names| foresee(host, libvirt, def, names))
}

fn each(
    def: &DomainDef,
    plug: impl Fn(&[DeviceName]) -> Result<Vec<Plugged>, PlugError>,
) -> Optional {
    let mut outcome = Optional::default();
    for name in optional(def) {
        match plug(std::slice::from_ref(name)) {
            Ok(plugged) => outcome.plugged.extend(plugged),
            Err(error) => outcome
                .notes
                .push(format!("{name} is not plugged in: {error:#}")),
        }
    }
    outcome
}

/// The optional devices that a domain with that XML lacks.
fn optional(def: &DomainDef) -> impl Iterator<Item = &DeviceName> {
    let requests = def.requests.iter();
    let lacks =
        |request: &&Request| request.optional == Some(true) && !live::has_named(def, &request.name);
    requests.filter(lacks).map(|request| &request.name)
}

/// The requests of those devices that the guest does not have.
fn missing(def: &DomainDef, names: &[DeviceName]) -> Result<Vec<Request>, PlugError> {
    let mut missing = Vec::new();
    for name in names {
        let request = def.requests.iter().find(|request| request.name == *name);
        let request = request.ok_or_else(|| PlugError::NotAsked {
            domain: def.name.clone(),
            device: name.clone(),
        })?;
        if !live::has_named(def, name) {
            missing.push(request.clone());
        }
    }
    Ok(missing)
}

/// The placeholder for each device. The plan may choose another virtual function.
/// libvirt can still be asked here which functions other domains name.
fn placeholders(
    host: &Host,
    libvirt: &Libvirt,
    live: &Live,
    missing: &[Request],
) -> Result<Vec<(Request, Placeholder)>, PlugError> {
    let mut reserved = None;
    let mut planned = live.def.clone();
    let mut placeholders = Vec::new();
    for request in missing {
        let pool = load_pool(host, &live.def, request)?;
        let placeholder = if pool.is_chosen_ahead() {
            match written(live, request) {
                Some(placeholder) => placeholder,
                None => {
                    let reserved = match &reserved {
                        Some(reserved) => reserved,
                        None => reserved.insert(
                            Named::read(libvirt)
                                .map_err(PlugError::Other)?
                                .reserved(planned.uuid),
                        ),
                    };
                    let name = &request.name;
                    let chosen = definition::choose_free(host, reserved, &planned, &pool, name);
                    let chosen = chosen.map_err(PlugError::Other)?;
                    let placeholder = chosen
                        .as_ref()
                        .map(|one| Placeholder::from(one.first.handle));
                    // So that the next device does not get the same function.
                    planned.hostdevs.extend(chosen.map(|card| card.first));
                    placeholder.unwrap_or(Placeholder::Any)
                }
            }
        } else {
            Placeholder::Mdev
        };
        if matches!(placeholder, Placeholder::Function(_)) {
            definition::check_libvirt(&pool, libvirt.version()?).map_err(PlugError::Other)?;
        }
        placeholders.push((request.clone(), placeholder));
    }
    Ok(placeholders)
}

/// The placeholder in the definition for the next start.
fn written(live: &Live, request: &Request) -> Option<Placeholder> {
    let hostdev = live
        .persistent
        .as_ref()?
        .def
        .placeholder_of(&request.name)?;
    Some(hostdev.handle.into())
}

fn load_pool(host: &Host, def: &DomainDef, request: &Request) -> Result<Pool, AllocateError> {
    config::load_pool(host, &request.pool).map_err(|cause| unusable(def, &request.pool, cause))
}

fn unusable(def: &DomainDef, pool: &PoolName, cause: PoolError) -> AllocateError {
    AllocateError::Pool {
        domain: def.name.to_string(),
        pool: pool.clone(),
        cause: Box::new(cause),
    }
}

fn placed_requests<'a>(
    def: &DomainDef,
    wanted: &'a [(Request, Placeholder)],
) -> Vec<PlacedRequest<'a>> {
    let placed = |(request, placeholder): &'a (Request, Placeholder)| PlacedRequest {
        request,
        uuid: MdevUuid::for_device(def.uuid, &request.name),
        placeholder: placeholder.clone(),
    };
    wanted.iter().map(placed).collect()
}

/// The pools of the devices that the domain has. A deleted pool has no rules any more.
/// If a pool cannot be read, it is unknown which other devices are allowed.
fn pools(
    host: &Host,
    def: &DomainDef,
    held: &[ClaimedDevice],
) -> Result<Vec<(Pool, ParentName)>, AllocateError> {
    let mut pools = Vec::new();
    for device in held {
        match config::load_pool(host, &device.pool) {
            Ok(pool) => pools.push((pool, device.parent.clone())),
            Err(PoolError::NotFound { .. } | PoolError::Masked { .. }) => {}
            Err(cause) => return Err(unusable(def, &device.pool, cause)),
        }
    }
    Ok(pools)
}

/// The names and the parents of the devices that the domain has.
fn present(held: &[ClaimedDevice]) -> Vec<(DeviceName, ParentName)> {
    let held = held.iter();
    held.map(|device| (device.name.clone(), device.parent.clone()))
        .collect()
}

/// Devices that are claimed and exist, but are not attached yet.
struct Made {
    devices: Vec<ClaimedDevice>,
    /// The claim before, if there was one.
    before: Option<Claim>,
    /// The claim as it was written last.
    claim: Claim,
}

/// The wanted devices, sorted by their state in the domain's claim.
struct Sorted {
    /// Devices that exist: an earlier plug was interrupted.
    ready: Vec<ClaimedDevice>,
    /// Devices that the claim names but that do not exist, or differ from the request.
    lost: Vec<ClaimedDevice>,
    /// Devices that must be made, including replacements for lost ones.
    lacking: Vec<(Request, Placeholder)>,
}

fn sort(host: &Host, claim: &Claim, wanted: Vec<(Request, Placeholder)>) -> Sorted {
    let is_ready = |device: &ClaimedDevice, request: &Request| {
        device.pool == request.pool && matches!(device.is_there(host), Ok(true))
    };
    let mut sorted = Sorted {
        ready: Vec::new(),
        lost: Vec::new(),
        lacking: Vec::new(),
    };
    for (request, placeholder) in wanted {
        let its = claim.devices.iter().find(|one| one.name == request.name);
        match its {
            Some(device) if is_ready(device, &request) => {
                sorted.ready.push(device.clone());
                continue;
            }
            Some(device) => sorted.lost.push(device.clone()),
            None => {}
        }
        sorted.lacking.push((request, placeholder));
    }
    sorted
}

/// Claims and makes the devices.
fn make(host: &Host, live: &Live, wanted: Vec<(Request, Placeholder)>) -> Result<Made, PlugError> {
    let deadline = Deadline::after(PATIENCE);
    let lock = lock(host, &live.def, deadline)?;
    let made = make_locked(host, &lock, live, wanted, deadline);
    claims::unlock(host, lock);
    match made? {
        (made, None) => Ok(made),
        (made, Some(cause)) => {
            let failures = take_back(host, &made, &made.devices);
            let what = match failures {
                Ok(()) => "the devices were taken back".to_owned(),
                Err(why) => format!("the devices could not be taken back ({why})"),
            };
            Err(PlugError::Allocate(AllocateError::Io { what, cause }))
        }
    }
}

/// Makes the devices. The second value is the error if the claim could not be updated.
fn make_locked(
    host: &Host,
    lock: &ClaimLock<'_>,
    live: &Live,
    wanted: Vec<(Request, Placeholder)>,
    deadline: Deadline,
) -> Result<(Made, Option<io::Error>), PlugError> {
    let def = &live.def;
    let before = claims::load(host, def.uuid).map_err(AllocateError::from)?;
    let mut claim = match &before {
        Some(before) => before.clone(),
        None => Claim::of_running(host, (def.uuid, def.name.clone())),
    };
    let Sorted {
        ready: mut devices,
        lost,
        lacking,
    } = sort(host, &claim, wanted);
    let released = claims::give_back_lost(host, lock, &claim, &lost, deadline);
    events::log_released(&claim.domain_name, claim.domain, &released);
    if !released.is_complete() {
        return Err(PlugError::Allocate(AllocateError::StillHeld {
            domain: def.name.to_string(),
            why: events::kept_reason(&released),
        }));
    }
    if !lacking.is_empty() {
        let mut others = claim.devices.clone();
        others.retain(|one| !lost.contains(one));
        let mut demand = Demand::load(host, def, placed_requests(def, &lacking))?;
        demand.beside = Some(pools(host, def, &others)?);
        demand.present = present(&others);
        demand.replaced = lost;
        demand.check_uuids_are_free(host, None)?;
        let mut making = Making {
            host,
            lock,
            demand,
            base: Base::Running(Box::new(claim)),
            deadline,
        };
        claim = making.make()?;
        let made = claim.devices.get(others.len()..).unwrap_or_default();
        events::log_allocated("plug", &claim, made);
        devices.extend_from_slice(made);
    }
    claim.take_into_run();
    // From now on QEMU has as much time to open them as at a start.
    let is_made = |name: &DeviceName| devices.iter().any(|device| device.name == *name);
    claim.leaving.retain(|name| !is_made(name));
    claim.touch();
    let made = Made {
        devices,
        before,
        claim,
    };
    let saved = claims::save(host, lock, &made.claim);
    Ok((made, saved.err()))
}

fn lock<'a>(
    host: &'a Host,
    def: &DomainDef,
    deadline: Deadline,
) -> Result<ClaimLock<'a>, PlugError> {
    // Leaves enough of the deadline to make devices, and to undo them.
    const LOCK_SHARE: u32 = 2;
    let purpose = format!("plugging devices into domain {}", def.name);
    let deadline = deadline.at_most(deadline.left() / LOCK_SHARE);
    Ok(ClaimLock::acquire(host, def.uuid, &purpose, deadline)?)
}

/// Attaches all of the devices, or takes them back.
fn attach(host: &Host, domain: &Domain, live: &Live, made: &Made) -> Result<(), PlugError> {
    for (done, device) in made.devices.iter().enumerate() {
        let Err(cause) = attach_one(host, domain, live, device) else {
            continue;
        };
        let (attached, rest) = made.devices.split_at(done);
        let mut failures = Vec::new();
        failures.extend(take_back(host, made, rest).err());
        let attached: Vec<DeviceName> = attached.iter().rev().map(|one| one.name.clone()).collect();
        if !attached.is_empty() {
            let undone = unplug::unplug(host, domain, &attached, UNDO_PATIENCE);
            failures.extend(undone.err().map(|error| format!("{error:#}")));
        }
        return Err(cause.with(|cause| hint(cause, live), failures));
    }
    Ok(())
}

enum Attach {
    Libvirt(LibvirtError),
    Other(anyhow::Error),
}

impl Attach {
    /// Adds the errors of undoing.
    fn with(self, hint: impl Fn(&LibvirtError) -> String, failures: Vec<String>) -> PlugError {
        match self {
            Self::Libvirt(cause) if failures.is_empty() => PlugError::NotAttached {
                hint: hint(&cause),
                cause,
            },
            Self::Libvirt(cause) => PlugError::HalfDone {
                hint: hint(&cause),
                cause,
                failures,
            },
            Self::Other(error) if failures.is_empty() => PlugError::Other(error),
            Self::Other(error) => PlugError::Other(anyhow!(
                "{error:#}; undoing the earlier changes failed too: {}",
                failures.join("; ")
            )),
        }
    }
}

fn attach_one(
    host: &Host,
    domain: &Domain,
    live: &Live,
    device: &ClaimedDevice,
) -> Result<(), Attach> {
    let xml = live.hostdev(host, device);
    let xml = xml.context("its hostdev in the definition cannot be read");
    let xml = xml.map_err(Attach::Other)?;
    let what = format!("hostdev '{}'", device.name);
    let Err(error) = domain.attach_live(&xml, &what) else {
        return Ok(());
    };
    // Another program may have attached the same device first.
    match live::definition(domain) {
        Ok(now) if live::has(&now, device) => Ok(()),
        _ => Err(Attach::Libvirt(error)),
    }
}

/// The next step when libvirt says only that the guest has no free slot
/// (`virDomainPCIAddressGetNextAddr`).
fn hint(error: &LibvirtError, live: &Live) -> String {
    if !error.to_string().contains("No more available PCI") {
        return String::new();
    }
    let place = match &live.persistent {
        Some(_) => {
            let edit = proposed("virsh edit", domain_word(&live.def.name, live.def.uuid));
            format!("with {edit} and start it again")
        }
        None => "in the XML that it is created from".to_owned(),
    };
    let is_express = |model: &str| model.starts_with("pcie-");
    let mut models = live
        .def
        .controllers
        .iter()
        .filter_map(|one| one.model.as_deref());
    if models.any(is_express) {
        format!(
            ": the guest has no free PCIe port; add <controller type='pci' \
             model='pcie-root-port'/> {place}"
        )
    } else {
        format!(": the guest has no free PCI slot; take another device out {place}")
    }
}

/// Gives back devices that the domain does not have; the rest of its claim is then
/// unchanged.
fn take_back(host: &Host, made: &Made, devices: &[ClaimedDevice]) -> Result<(), String> {
    unplug::give_back(host, &made.claim, made.before.as_ref(), devices)
}

#[cfg(test)]
mod tests;
