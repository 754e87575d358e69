//! Other virtual functions for the devices whose own, the ones that the definition
//! names, cannot serve now.

use anyhow::Context;
use serde::Serialize;

use super::{
    Target,
    attachment::{device, existing},
    change::{Change, Device},
    placeholder::{self, Named, Reserved},
};
use crate::{
    allocate::{AllocateError, Demand, PlacedRequest, devices_wanted},
    claims, config,
    device::{optional, vendor_vfio},
    domain::{self, DomainDef, Hostdev},
    host::{Host, libvirt::Libvirt},
    model::{DeviceName, PciAddress, PoolName},
    plan::{Failed, Placeholder, RefusalKind},
};

/// A device that gets another placeholder in the XML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    pub device: DeviceName,
    /// None: a mediated device.
    pub from: Option<PciAddress>,
    pub to: Option<PciAddress>,
    /// Why the former would not do.
    pub reason: String,
}

/// What has become of a definition's devices.
#[derive(Debug, Default)]
pub struct Replanned {
    pub moves: Vec<Move>,
    pub changes: Vec<Change>,
    /// Devices whose function somebody else has, and for which there is no other.
    pub stuck: Vec<Stuck>,
}

/// A device that stays where it cannot be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    pub device: DeviceName,
    pub function: PciAddress,
    /// Why it cannot be had.
    pub reason: String,
}

/// Whether a function that another definition names as well will do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// For a start it will: whoever starts first gets it.
    WillDo,
    /// Not as long as there is one that nobody names, as after a clone.
    OnlyIfNeeded,
}

/// Other sources for the devices whose own cannot serve now. A saved domain starts
/// from the XML of its state, which the hook changes on the way.
pub fn replan(
    host: &Host,
    libvirt: &Libvirt,
    target: &Target,
    named: &Named,
    shared: Shared,
) -> anyhow::Result<Replanned> {
    let mut replanned = Replanned::default();
    if target.saved {
        return Ok(replanned);
    }
    let found = elsewhere(host, libvirt, &target.definition.def, named, shared)?;
    replanned.stuck = found.stuck;
    for other in found.others {
        replanned.changes.extend(exchange(target, &other)?);
        replanned.moves.push(other.into());
    }
    Ok(replanned)
}

/// A device that its placeholder in the XML cannot serve now, and another placeholder that can.
#[derive(Debug)]
pub struct Elsewhere {
    pub device: DeviceName,
    /// What stands for it in the XML.
    pub from: Hostdev,
    pub to: Hostdev,
    pub reason: String,
}

impl From<Elsewhere> for Move {
    fn from(other: Elsewhere) -> Self {
        Self {
            device: other.device,
            from: other.from.handle.pci(),
            to: other.to.handle.pci(),
            reason: other.reason,
        }
    }
}

/// What [`elsewhere`] has found.
#[derive(Debug, Default)]
pub struct Found {
    pub others: Vec<Elsewhere>,
    /// Devices whose function somebody else has, and for which there is no other.
    pub stuck: Vec<Stuck>,
}

/// Other sources for the devices of a domain of that XML.
pub fn elsewhere(
    host: &Host,
    libvirt: &Libvirt,
    def: &DomainDef,
    named: &Named,
    shared: Shared,
) -> anyhow::Result<Found> {
    let mut found = Found::default();
    let reserved = named.reserved(def.uuid);
    let mut planned = def.clone();
    for placed in devices_wanted(def)? {
        let Some((reason, must)) = reason_to_move(host, def, &placed, &reserved, shared)? else {
            continue;
        };
        let name = &placed.request.name;
        let pool = config::load_pool(host, &placed.request.pool)?;
        let other = if pool.is_chosen_ahead() {
            placeholder::choose_free(host, &reserved, &planned, &pool, name)?
        } else {
            // Made on whatever parent the start finds.
            let model = placeholder::model(host, &pool)?.unwrap_or_default();
            Some(Hostdev::mdev_placeholder(placed.uuid, name, model))
        };
        let other = other.filter(|other| is_better(other, &placed.placeholder, must, &reserved));
        let Some((to, from)) = other.zip(def.placeholder_of(name).cloned()) else {
            // A GPU that is merely full may have room again by the time of the start.
            let is_stuck = must && is_taken(host, def, &placed.placeholder)?;
            let function = function_of(&placed.placeholder).filter(|_| is_stuck);
            found.stuck.extend(function.map(|function| Stuck {
                device: name.clone(),
                function,
                reason,
            }));
            continue;
        };
        if to.handle.pci().is_some() {
            placeholder::check_libvirt(&pool, libvirt.version()?)?;
            // The next device must not be planned onto the same function.
            for hostdev in planned.hostdevs.iter_mut().filter(|one| **one == from) {
                hostdev.handle = to.handle;
            }
        }
        found.others.push(Elsewhere {
            device: name.clone(),
            from,
            to,
            reason,
        });
    }
    Ok(found)
}

/// A function that a domain runs with.
#[derive(Debug)]
pub struct Held {
    pub name: DeviceName,
    /// The pool that it came from.
    pub pool: PoolName,
    pub function: PciAddress,
}

/// The definition of a running domain as its next start needs it: with the functions
/// that it has now, where a migration or a restored state has left others in it.
pub fn follow(target: &Target, has: &[Held]) -> anyhow::Result<Replanned> {
    let mut replanned = Replanned::default();
    for placed in devices_wanted(&target.definition.def)? {
        let name = &placed.request.name;
        let is_its = |one: &&Held| one.name == *name && one.pool == placed.request.pool;
        let now = has.iter().find(is_its).map(|one| one.function);
        let from = target.definition.def.placeholder_of(name);
        let from = from.filter(|hostdev| hostdev.handle.pci().is_some());
        let (Some(now), Some(from)) = (now, from) else {
            continue;
        };
        if from.handle == now.into() {
            continue;
        }
        let other = Elsewhere {
            device: name.clone(),
            from: from.clone(),
            to: Hostdev::placeholder(now, name),
            reason: "it is what the domain runs with".to_owned(),
        };
        replanned.changes.extend(exchange(target, &other)?);
        replanned.moves.push(other.into());
    }
    Ok(replanned)
}

/// Why the device should stand elsewhere in the XML, and whether it must.
fn reason_to_move(
    host: &Host,
    def: &DomainDef,
    placed: &PlacedRequest<'_>,
    reserved: &Reserved,
    shared: Shared,
) -> anyhow::Result<Option<(String, bool)>> {
    match refusal(host, def, placed)? {
        // Who starts it will see. A GPU that is late or full must not lose all that stand
        // on it to the others, for good.
        Some((_, Passing(true))) if shared == Shared::OnlyIfNeeded => {}
        Some((reason, _)) => return Ok(Some((reason, true))),
        None => {}
    }
    let other = function_of(&placed.placeholder).and_then(|function| reserved.by(function));
    Ok(match (other, shared) {
        (Some(other), Shared::OnlyIfNeeded) => {
            Some((format!("domain '{other}' names it too"), false))
        }
        _ => None,
    })
}

/// Whether a device may be had again where it is, without anybody's help.
struct Passing(bool);

/// Whether the function is another's, or is not to be used.
///
/// # Errors
/// When that cannot be told.
fn is_taken(host: &Host, def: &DomainDef, placeholder: &Placeholder) -> anyhow::Result<bool> {
    let Some(function) = function_of(placeholder) else {
        return Ok(false);
    };
    let claimed = claims::functions(host, Some(def.uuid)).context("cannot read the claims")?;
    let kept_back = claims::kept_back(host).context("cannot read what is kept back")?;
    // One that is gone with its GPU is nobody's.
    let typed = optional(vendor_vfio::current(host, function))?.flatten();
    Ok(claimed.contains_key(&function) || kept_back.contains_key(&function) || typed.is_some())
}

/// Whether another placeholder is worth the change.
fn is_better(other: &Hostdev, placeholder: &Placeholder, must: bool, reserved: &Reserved) -> bool {
    let is_reserved = |function: PciAddress| reserved.by(function).is_some();
    Placeholder::from(other.handle) != *placeholder
        && (must || !other.handle.pci().is_some_and(is_reserved))
}

/// Why the device cannot be had by itself where the XML has it now; None when it
/// can, and when another place would not help: a pool that has handed out all that it
/// may, a parameter that no device takes.
fn refusal(
    host: &Host,
    def: &DomainDef,
    placed: &PlacedRequest<'_>,
) -> anyhow::Result<Option<(String, Passing)>> {
    let demand = Demand::load(host, def, vec![placed.clone()])?;
    let vgpus = demand.pools.values().any(|pool| pool.is_chosen_ahead());
    if !vgpus {
        let is_function = function_of(&placed.placeholder).is_some();
        let reason = || {
            (
                "its pool hands out mediated devices".to_owned(),
                Passing(false),
            )
        };
        return Ok(is_function.then(reason));
    }
    let refusal = match demand.plan(host, &Failed::default()) {
        Err(AllocateError::Refused(refusal)) => refusal,
        Err(error @ AllocateError::Io { .. }) => return Err(error.into()),
        Ok(_) | Err(_) => return Ok(None),
    };
    Ok(match refusal.kind {
        RefusalKind::Function {
            reason, passing, ..
        } => Some((reason, Passing(passing))),
        RefusalKind::NoCandidate { .. } => Some((refusal.to_string(), Passing(false))),
        RefusalKind::Limit { .. } | RefusalKind::Unreadable { .. } => None,
    })
}

fn function_of(placeholder: &Placeholder) -> Option<PciAddress> {
    match placeholder {
        Placeholder::Function(function) => Some(*function),
        Placeholder::Mdev | Placeholder::Functions | Placeholder::Any => None,
    }
}

/// The hostdev out and the other one in, with its guest address and all the rest:
/// a guest takes a moved device for a new one.
fn exchange(target: &Target, other: &Elsewhere) -> anyhow::Result<[Change; 2]> {
    let definition = &target.definition;
    let name = &other.device;
    let former = existing(definition, name, &other.from)?;
    let handle = other.to.handle;
    let next = match domain::with_source(&definition.xml, &other.from, handle)? {
        Some(xml) => {
            let from = other.from.clone();
            let whole = domain::hostdev_text(&xml, &Hostdev { handle, ..from })?;
            let plain = device(name, &other.to);
            Device {
                whole: whole.unwrap_or_else(|| plain.whole.clone()),
                ..plain
            }
        }
        None => device(name, &other.to),
    };
    Ok([Change::Detach(former), Change::Attach(next)])
}

#[cfg(test)]
#[path = "replan_tests.rs"]
mod tests;
