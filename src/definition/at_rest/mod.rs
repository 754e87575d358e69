//! Keeps stopped domains right at rest: the device that a definition names must be one
//! that the domain could have if it were the next to start. Whoever starts it by libvirt
//! alone cannot choose another one. The choice is computed for all domains at once, from
//! one look at the host, and then carried out one domain at a time.

use std::{collections::BTreeSet, time::Duration};

use anyhow::Context;

use super::{
    Move, Named, Stuck, Target,
    placeholder::{check_libvirt, whole_card},
    redo::carry_out_noted,
    replan::{Elsewhere, exchange, function_of, is_taken},
};
use crate::{
    allocate::devices_wanted,
    claims, config,
    domain::{Card, DomainDef, Hostdev},
    host::{
        Host,
        libvirt::{Domain, Libvirt, StoppedDomain},
    },
    model::{DomainUuid, PciAddress},
};

mod choice;
mod offers;

use choice::{Cause, Names, Stopped, choose};
use offers::ByPlan;

/// What has to be done so that every stopped domain could be the next one to start.
#[derive(Debug, Default)]
pub struct AtRest {
    /// Domains that get other devices, domains that start at boot first.
    pub moves: Vec<(DomainUuid, Vec<Move>)>,
    /// Domains whose device another domain has, and for which no other is free.
    pub stuck: Vec<(DomainUuid, Stuck)>,
    /// Domains that need more than another address.
    pub others: Vec<DomainUuid>,
}

/// Computes it from the recorded definitions. Domains with a claim are starting, running
/// or stopping: they are left alone. So is a domain with a saved state: it starts from the
/// XML of that state, which the hook changes.
///
/// # Errors
/// When the host or the claims cannot be read.
pub fn at_rest(host: &Host, named: &Named, inactive: &[StoppedDomain]) -> anyhow::Result<AtRest> {
    let claimed = claims::functions(host, None).context("cannot read the claims")?;
    let with_claim = claims::domains(host).context("cannot read the claims")?;
    let with_claim: BTreeSet<DomainUuid> = with_claim.into_iter().collect();
    let mut stopped = Vec::new();
    let mut names = Names::default();
    let mut ours = BTreeSet::new();
    for one in inactive {
        let Some(def) = named.definition(one.uuid) else {
            continue;
        };
        let functions = functions_wanted(def);
        if one.saved || with_claim.contains(&one.uuid) || functions.is_empty() {
            continue;
        }
        ours.insert(one.uuid);
        stopped.push(Stopped {
            domain: one.uuid,
            autostart: one.autostart,
            names: functions,
        });
        // The domain can have functions besides those that it asks for.
        let asked = stopped.last().map(|one| one.names.clone());
        let is_asked =
            |function: &PciAddress| asked.as_ref().is_some_and(|asked| asked.contains(function));
        let more: Vec<_> = def.functions().filter(|one| !is_asked(one)).collect();
        names.add(one.autostart, &more);
    }
    if stopped.is_empty() {
        return Ok(AtRest::default());
    }
    for def in named.definitions().filter(|def| !ours.contains(&def.uuid)) {
        let mut inactive = inactive.iter();
        let autostart = inactive.any(|one| one.uuid == def.uuid && one.autostart);
        let functions: Vec<PciAddress> = def.functions().collect();
        names.add(autostart, &functions);
    }
    let definitions = named.definitions().map(|def| (def.uuid, def)).collect();
    let offers = ByPlan::new(host, definitions, claimed);
    let chosen = choose(&stopped, names.clone(), &offers)?;

    let mut found = AtRest::default();
    let order = |index: &usize| stopped.get(*index).map(|one| !one.autostart);
    let mut moves: Vec<(usize, (Vec<PciAddress>, Cause))> = chosen.moves.into_iter().collect();
    moves.sort_by_key(|(index, _)| order(index));
    for (index, (to, cause)) in moves {
        let Some((one, def)) = stopped.get(index).and_then(|one| {
            let def = named.definition(one.domain)?;
            Some((one, def))
        }) else {
            continue;
        };
        let reason = match cause {
            Cause::Refused => {
                let blocked = offers.blocked(one)?;
                blocked.map(|one| one.reason).unwrap_or_default()
            }
            Cause::Shared => shared_reason(named, one),
            Cause::Crowded => {
                "its board has too little room for all domains that start at boot".to_owned()
            }
        };
        found.moves.push((one.domain, moves_of(def, &to, &reason)));
    }
    for index in chosen.without {
        let Some(one) = stopped.get(index) else {
            continue;
        };
        if offers.has_mediated(one)? {
            found.others.push(one.domain);
            continue;
        }
        let (Some(def), Some(blocked)) = (named.definition(one.domain), offers.blocked(one)?)
        else {
            continue;
        };
        for placed in devices_wanted(def).unwrap_or_default() {
            let Some(function) = function_of(&placed.placeholder) else {
                continue;
            };
            if is_taken(host, def, &placed.placeholder)? {
                let stuck = Stuck {
                    device: placed.request.name.clone(),
                    function,
                    reason: blocked.reason.clone(),
                };
                found.stuck.push((one.domain, stuck));
            }
        }
    }
    Ok(found)
}

/// The functions that stand for requested devices, in the order of the requests.
fn functions_wanted(def: &DomainDef) -> Vec<PciAddress> {
    let wanted = devices_wanted(def).unwrap_or_default();
    let functions = wanted.iter().map(|placed| function_of(&placed.placeholder));
    functions.flatten().collect()
}

fn shared_reason(named: &Named, one: &Stopped) -> String {
    let reserved = named.reserved(one.domain);
    let mut others = one.names.iter().filter_map(|name| reserved.by(*name));
    match others.next() {
        Some(other) => format!("domain '{other}' names it too"),
        // It was to get a device that another domain names.
        None => "its device is needed for a domain that starts at boot".to_owned(),
    }
}

/// The devices of a domain that change.
fn moves_of(def: &DomainDef, to: &[PciAddress], reason: &str) -> Vec<Move> {
    let wanted = devices_wanted(def).unwrap_or_default();
    let placed = wanted.iter().filter_map(|placed| {
        let from = function_of(&placed.placeholder)?;
        Some((placed.request.name.clone(), from))
    });
    let changes = placed.zip(to).filter(|((_, from), to)| from != *to);
    let changes = changes.map(|((device, from), to)| Move {
        device,
        from: Some(from),
        to: Some(*to),
        reason: reason.to_owned(),
    });
    changes.collect()
}

/// Carries out the moves of a domain, if it is still stopped and still names these
/// devices. Returns whether it has.
///
/// # Errors
/// When the definition cannot be read or edited; it is unchanged then.
pub fn carry_out_moves(
    host: &Host,
    libvirt: &Libvirt,
    domain: &Domain,
    named: &mut Named,
    moves: &[Move],
    patience: Duration,
) -> anyhow::Result<bool> {
    let name = domain.name()?;
    let mut target = Target::read_within(host, domain.clone(), &name, patience)?;
    let def = &target.definition.def;
    named.note(def);
    if target.running || target.saved {
        return Ok(false);
    }
    let mut changes = Vec::new();
    for one in moves {
        let from = def.placeholder_of(&one.device);
        let (Some(from), Some(to)) = (from, one.to) else {
            return Ok(false);
        };
        if from.handle.pci() != one.from {
            return Ok(false);
        }
        let mut to = Card::from(Hostdev::placeholder(to, &one.device));
        if let Some(request) = def.requests.iter().find(|asked| asked.name == one.device) {
            let pool = config::load_pool(host, &request.pool)?;
            check_libvirt(&pool, libvirt.version()?)?;
            to = whole_card(host, &pool, &to.first).unwrap_or(to);
        }
        let other = Elsewhere {
            device: one.device.clone(),
            from: from.clone(),
            to,
            reason: one.reason.clone(),
        };
        changes.extend(exchange(&target, &other)?);
    }
    let cannot = || format!("cannot replan domain '{name}'");
    carry_out_noted(host, &target, &changes).with_context(cannot)?;
    target.read_again()?;
    named.note(&target.definition.def);
    Ok(true)
}

#[cfg(test)]
#[path = "tests.rs"]
mod tests;
