//! Other virtual functions for the devices whose own, the ones that the definition
//! names, cannot serve now.

use serde::Serialize;

use super::{
    Target,
    attachment::{existing, existing_function, function_placeholder, placeholder},
    change::{self, Change},
    seat::{self, Reserved, Seat},
};
use crate::{
    config::{self, Kind},
    domain::{self, DomainDef, alias},
    hook::{AllocateError, Demand, Order, devices_wanted},
    host::{Host, libvirt::Libvirt},
    model::{DeviceName, MdevUuid, PciAddress},
    plan::{Failed, RefusalKind, Source},
};

/// A device that gets another source in the XML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Move {
    pub device: DeviceName,
    /// None: a mediated device.
    pub from: Option<PciAddress>,
    pub to: Option<PciAddress>,
    /// Why the former would not do.
    pub reason: String,
}

/// Other sources for the devices whose own cannot serve now. A saved domain starts
/// from the XML of its state, which the hook changes on the way.
pub fn replan(
    host: &Host,
    libvirt: &Libvirt,
    target: &Target,
) -> anyhow::Result<(Vec<Move>, Vec<Change>)> {
    let (mut moves, mut changes) = (Vec::new(), Vec::new());
    if target.saved {
        return Ok((moves, changes));
    }
    let def = &target.definition.def;
    for other in elsewhere(host, libvirt, def)? {
        changes.extend(exchange(target, &other)?);
        moves.push(other.into());
    }
    Ok((moves, changes))
}

/// A device that its source in the XML cannot serve now, and another source that can.
#[derive(Debug)]
pub struct Elsewhere {
    pub device: DeviceName,
    pub uuid: MdevUuid,
    /// The function that the XML names; None: a mediated device.
    pub from: Option<PciAddress>,
    pub to: Seat,
    pub reason: String,
}

impl From<Elsewhere> for Move {
    fn from(other: Elsewhere) -> Self {
        Self {
            device: other.device,
            from: other.from,
            to: match other.to {
                Seat::Function(function) => Some(function),
                Seat::Mdev => None,
            },
            reason: other.reason,
        }
    }
}

/// Other sources for the devices of a domain of that XML.
pub fn elsewhere(
    host: &Host,
    libvirt: &Libvirt,
    def: &DomainDef,
) -> anyhow::Result<Vec<Elsewhere>> {
    let mut stuck = Vec::new();
    for order in devices_wanted(def)? {
        if let Some(reason) = refusal(host, def, &order)? {
            stuck.push((order, reason));
        }
    }
    let mut others = Vec::new();
    if stuck.is_empty() {
        return Ok(others);
    }
    let reserved = Reserved::read(libvirt, def.uuid)?;
    let mut planned = def.clone();
    for (order, reason) in stuck {
        let name = &order.request.name;
        let pool = config::load_pool(host, &order.request.pool)?;
        let seats = seat::choose_free(host, &reserved, &planned, &pool, name)?;
        let Some(to) = seats.filter(|seat| is_other(*seat, &order.source)) else {
            continue;
        };
        if let Seat::Function(function) = to {
            seat::check_libvirt(libvirt.version()?)?;
            // The next device must not be planned onto the same function.
            let its_alias = alias(name);
            for hostdev in &mut planned.pci_hostdevs {
                if hostdev.alias.as_ref() == Some(&its_alias) {
                    hostdev.address = function;
                }
            }
        }
        others.push(Elsewhere {
            device: name.clone(),
            uuid: order.uuid,
            from: function_of(&order.source),
            to,
            reason,
        });
    }
    Ok(others)
}

/// Why the device cannot be had by itself where the XML has it now; None when it
/// can. Only pools of vGPUs have more than one way to stand in the XML.
fn refusal(host: &Host, def: &DomainDef, order: &Order<'_>) -> anyhow::Result<Option<String>> {
    let demand = Demand::load(host, def, vec![order.clone()])?;
    let vgpus = { demand.pools.values() }.any(|pool| pool.kind == Kind::NvidiaVgpu);
    if !vgpus {
        return Ok(None);
    }
    Ok(match demand.plan(host, &Failed::default()) {
        Ok(_) => None,
        Err(AllocateError::Refused(refusal)) => match refusal.kind {
            RefusalKind::Function { reason, .. } => Some(reason),
            _ => Some(refusal.to_string()),
        },
        Err(error) => Some(error.to_string()),
    })
}

fn function_of(source: &Source) -> Option<PciAddress> {
    match source {
        Source::Function(name) => name.as_str().parse().ok(),
        Source::Mdev | Source::Functions | Source::Any => None,
    }
}

fn is_other(seat: Seat, source: &Source) -> bool {
    match seat {
        Seat::Mdev => *source != Source::Mdev,
        Seat::Function(function) => function_of(source) != Some(function),
    }
}

/// The hostdev out and the other one in, with its guest address and all the rest:
/// a guest takes a moved device for a new one.
fn exchange(target: &Target, other: &Elsewhere) -> anyhow::Result<[Change; 2]> {
    let definition = &target.definition;
    let name = &other.device;
    let former = match other.from {
        Some(function) => existing_function(definition, name, function)?,
        None => existing(definition, name, other.uuid)?,
    };
    let next = match (other.to, other.from) {
        (Seat::Function(function), Some(_)) => {
            let its_alias = alias(name);
            let moved = domain::with_function(&definition.xml, &its_alias, function)?;
            let whole = match moved {
                Some(xml) => domain::function_text(&xml, &its_alias)?,
                None => None,
            };
            let plain = function_placeholder(name, function);
            change::Device {
                whole: whole.unwrap_or_else(|| plain.whole.clone()),
                ..plain
            }
        }
        (Seat::Function(function), None) => function_placeholder(name, function),
        (Seat::Mdev, _) => placeholder(name, other.uuid),
    };
    Ok([Change::Detach(former), Change::Attach(next)])
}
