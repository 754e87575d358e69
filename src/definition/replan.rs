//! Chooses other virtual functions for devices whose own functions, those in the
//! definition, cannot serve now.

use anyhow::Context;
use serde::Serialize;

use super::{
    Definition, Target,
    attachment::device,
    change::{Change, Device},
    placeholder::{self, Named, Reserved, whole_card},
};
use crate::{
    allocate::{AllocateError, Demand, PlacedRequest, devices_wanted},
    claims, config,
    device::{optional, vendor_vfio},
    domain::{self, Card, DomainDef, Hostdev},
    host::{Host, libvirt::Libvirt},
    model::{DeviceName, PciAddress, PoolName},
    plan::{Failed, Obstacle, Placeholder, Plan, RefusalKind},
};

/// A device that gets another placeholder in the XML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    pub device: DeviceName,
    /// None: a mediated device.
    pub from: Option<PciAddress>,
    pub to: Option<PciAddress>,
    /// Why the former function cannot serve.
    pub reason: String,
}

/// The result for a definition's devices.
#[derive(Debug, Default)]
pub struct Replanned {
    pub moves: Vec<Move>,
    pub changes: Vec<Change>,
    /// Devices whose function another domain has, and for which no other is free.
    pub stuck: Vec<Stuck>,
}

/// A device that keeps a function that it cannot get.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stuck {
    pub device: DeviceName,
    pub function: PciAddress,
    /// Why it cannot get the function.
    pub reason: String,
}

impl std::fmt::Display for Stuck {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self {
            device,
            function,
            reason,
        } = self;
        write!(
            f,
            "{device} stays at {function}, and nothing else is free: {reason}; stop a domain that \
             uses the pool, or add devices to it"
        )
    }
}

/// Whether a function that another definition also names is acceptable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shared {
    /// It is acceptable, for a start: the first domain that starts gets it.
    WillDo,
    /// Only if there is no function that nobody names, for example after cloning.
    OnlyIfNeeded,
}

/// Chooses other sources for devices whose own cannot serve now. A saved domain is left
/// alone: it starts from the XML of its state, which the hook changes.
pub(super) fn replan(
    host: &Host,
    libvirt: &Libvirt,
    target: &Target,
    named: &Named,
) -> anyhow::Result<Replanned> {
    let mut replanned = Replanned::default();
    if target.saved {
        return Ok(replanned);
    }
    let def = &target.definition.def;
    let found = elsewhere(host, libvirt, def, named, Shared::OnlyIfNeeded)?;
    replanned.stuck = found.stuck;
    replanned.changes = changes_for(target, &found.others)?;
    replanned.moves = found.others.into_iter().map(Move::from).collect();
    Ok(replanned)
}

/// The changes of a definition for these devices.
pub fn changes_for(target: &Target, others: &[Elsewhere]) -> anyhow::Result<Vec<Change>> {
    let mut changes = Vec::new();
    for other in others {
        changes.extend(exchange(target, other)?);
    }
    Ok(changes)
}

/// A device whose placeholder in the XML cannot serve now, and a placeholder that can.
#[derive(Debug)]
pub struct Elsewhere {
    pub device: DeviceName,
    /// The placeholder in the XML.
    pub from: Hostdev,
    /// The other placeholder, with the functions that come along.
    pub to: Card,
    pub reason: String,
}

impl From<Elsewhere> for Move {
    fn from(other: Elsewhere) -> Self {
        Self {
            device: other.device,
            from: other.from.handle.pci(),
            to: other.to.first.handle.pci(),
            reason: other.reason,
        }
    }
}

/// The result of [`elsewhere`].
#[derive(Debug, Default)]
pub struct Found {
    pub others: Vec<Elsewhere>,
    /// Devices whose function another domain has, and for which no other is free.
    pub stuck: Vec<Stuck>,
}

/// Finds other sources for the devices of a domain with that XML.
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
    let mut to_move = Vec::new();
    for placed in devices_wanted(def)? {
        if let Some((reason, must)) = reason_to_move(host, def, &placed, &reserved, shared)? {
            // A function that cannot serve is nothing that others should be near.
            let goes = must && placed.request.together.is_some();
            let from = def.placeholder_of(&placed.request.name);
            planned.hostdevs.retain(|one| !goes || Some(one) != from);
            to_move.push((placed, reason, must));
        }
    }
    for (placed, reason, must) in to_move {
        let name = &placed.request.name;
        let pool = config::load_pool(host, &placed.request.pool)?;
        let other = if pool.is_chosen_ahead() {
            placeholder::choose_free(host, &reserved, &planned, &pool, name)?
        } else {
            // A mediated device can be made on any parent.
            let model = placeholder::model(host, &pool)?.unwrap_or_default();
            Some(Hostdev::mdev_placeholder(placed.uuid, name, model).into())
        };
        let is_better =
            |other: &Card| is_better(&other.first, &placed.placeholder, must, &reserved);
        let other = other.filter(is_better);
        let Some((to, from)) = other.zip(def.placeholder_of(name).cloned()) else {
            let is_gone = planned.placeholder_of(name).is_none();
            let from = def.placeholder_of(name).filter(|_| is_gone);
            planned.hostdevs.extend(from.cloned());
            // If all GPUs are merely full, one may have space again by the time of the
            // start.
            let is_stuck = must && is_taken(host, def, &placed.placeholder)?;
            let function = function_of(&placed.placeholder).filter(|_| is_stuck);
            found.stuck.extend(function.map(|function| Stuck {
                device: name.clone(),
                function,
                reason,
            }));
            continue;
        };
        if to.first.handle.pci().is_some() {
            placeholder::check_libvirt(&pool, libvirt.version()?)?;
            // The next device must not get the same function.
            let next = Hostdev {
                handle: to.first.handle,
                ..from.clone()
            };
            match planned.hostdevs.iter_mut().find(|one| **one == from) {
                Some(hostdev) => *hostdev = next,
                None => planned.hostdevs.push(next),
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

/// A function of a running domain.
#[derive(Debug)]
pub struct Held {
    pub name: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    pub function: PciAddress,
}

/// Changes the definition of a running domain to the functions that it has now, for its
/// next start. After a migration or a restore they can differ.
pub fn follow(host: &Host, target: &Target, has: &[Held]) -> anyhow::Result<Replanned> {
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
        let next = Hostdev::placeholder(now, name).with_rom(&from.rom);
        let pool = config::load_pool(host, &placed.request.pool).ok();
        let card = pool.and_then(|pool| whole_card(host, &pool, &next));
        let other = Elsewhere {
            device: name.clone(),
            from: from.clone(),
            to: card.unwrap_or_else(|| next.into()),
            reason: "the domain is running with it".to_owned(),
        };
        replanned.changes.extend(exchange(target, &other)?);
        replanned.moves.push(other.into());
    }
    Ok(replanned)
}

/// Why a domain cannot have what its definition names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Blocked {
    pub(super) reason: String,
    pub(super) obstacle: Obstacle,
}

/// Why the device should get another placeholder, and whether it must.
fn reason_to_move(
    host: &Host,
    def: &DomainDef,
    placed: &PlacedRequest<'_>,
    reserved: &Reserved,
    shared: Shared,
) -> anyhow::Result<Option<(String, bool)>> {
    match refusal(host, def, placed)? {
        // A driver that is slow must not lose all the domains of its GPU for that.
        Some(Blocked {
            obstacle: Obstacle::Unknown,
            ..
        }) if shared == Shared::OnlyIfNeeded => {}
        Some(Blocked { reason, .. }) => return Ok(Some((reason, true))),
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

/// Whether the function belongs to another domain, or must not be used.
///
/// # Errors
/// When this cannot be determined.
pub(super) fn is_taken(
    host: &Host,
    def: &DomainDef,
    placeholder: &Placeholder,
) -> anyhow::Result<bool> {
    let Some(function) = function_of(placeholder) else {
        return Ok(false);
    };
    let claimed = claims::functions(host, Some(def.uuid)).context("cannot read the claims")?;
    let quarantined = claims::quarantine_reasons(host).context("cannot read the quarantine")?;
    // A function that disappeared with its GPU belongs to nobody.
    let typed = optional(vendor_vfio::current(host, function))?.flatten();
    Ok(claimed.contains_key(&function) || quarantined.contains_key(&function) || typed.is_some())
}

/// Whether the other placeholder justifies a change.
fn is_better(other: &Hostdev, placeholder: &Placeholder, must: bool, reserved: &Reserved) -> bool {
    let is_reserved = |function: PciAddress| reserved.by(function).is_some();
    Placeholder::from(other.handle) != *placeholder
        && (must || !other.handle.pci().is_some_and(is_reserved))
}

/// Why the device cannot be planned with its present placeholder. None when it can, and
/// when another placeholder would not help: the pool has reached its limit, or a
/// parameter is invalid for every device.
fn refusal(
    host: &Host,
    def: &DomainDef,
    placed: &PlacedRequest<'_>,
) -> anyhow::Result<Option<Blocked>> {
    let demand = Demand::load(host, def, vec![placed.clone()])?;
    let vgpus = demand.pools.values().any(|pool| pool.is_chosen_ahead());
    if !vgpus {
        let is_function = function_of(&placed.placeholder).is_some();
        return Ok(is_function.then(|| Blocked {
            reason: "its pool hands out mediated devices".to_owned(),
            obstacle: Obstacle::Itself,
        }));
    }
    refusal_of(demand.plan(host, &Failed::default()))
}

/// Why the plan gives none of the named devices. None when it does, and when other
/// devices would not help.
pub(super) fn refusal_of(planned: Result<Plan, AllocateError>) -> anyhow::Result<Option<Blocked>> {
    let refusal = match planned {
        Err(AllocateError::Refused(refusal)) => refusal,
        Err(error @ AllocateError::Io { .. }) => return Err(error.into()),
        Ok(_) | Err(_) => return Ok(None),
    };
    Ok(match refusal.kind {
        RefusalKind::Function {
            reason, obstacle, ..
        } => Some(Blocked { reason, obstacle }),
        RefusalKind::NoCandidate { .. } => Some(Blocked {
            reason: refusal.to_string(),
            obstacle: Obstacle::Itself,
        }),
        RefusalKind::Limit { .. } | RefusalKind::Unreadable { .. } => None,
    })
}

pub(super) fn function_of(placeholder: &Placeholder) -> Option<PciAddress> {
    match placeholder {
        Placeholder::Function(function) => Some(*function),
        Placeholder::Mdev | Placeholder::Functions | Placeholder::Any => None,
    }
}

/// Removes the hostdev and adds the other one with the same guest address and all the
/// rest: a guest treats a device at another address as a new one.
pub(super) fn exchange(target: &Target, other: &Elsewhere) -> anyhow::Result<Vec<Change>> {
    exchange_card(&target.definition, &other.device, &other.from, &other.to)
}

/// The changes that give the device those functions in place of its present ones. libvirt
/// refuses two devices at one place, so all that go are removed before the first is added.
pub(super) fn exchange_card(
    definition: &Definition,
    name: &DeviceName,
    from: &Hostdev,
    to: &Card,
) -> anyhow::Result<Vec<Change>> {
    let exchanges = domain::exchanges(&definition.xml, &definition.def, name, from, to)?;
    let edit = |(hostdev, text): &(Hostdev, String)| Device {
        whole: text.clone(),
        ..device(name, hostdev)
    };
    let former = exchanges.iter().rev().filter_map(|one| {
        let before = one.before.as_ref()?;
        Some(Change::Detach(edit(before)))
    });
    let next = exchanges.iter().filter_map(|one| {
        let after = one.after.as_ref()?;
        Some(Change::Attach(edit(after)))
    });
    Ok(former.chain(next).collect())
}

#[cfg(test)]
#[path = "replan_tests.rs"]
mod tests;
