//! Each device that a pool could take, and whether it does: what `create`,
//! `preview` and `show` have in common.

use std::{collections::BTreeSet, io};

use serde::Serialize;

use crate::{
    capacity::Fit,
    config::Pool,
    device::mdev::{Offer, Parent},
    model::{MdevTypeId, ParentName, PoolName},
    plan::HostSupply,
    rule::Verdict,
};

/// A parent of mediated devices or a GPU, seen from one pool.
#[derive(Debug, Serialize)]
pub struct Candidate {
    /// Its kernel name.
    pub address: ParentName,
    #[serde(skip)]
    device: Parent,
    /// Whether the pool's rules take it.
    pub matches: bool,
    /// The first rule that does.
    pub rule: Option<String>,
    /// For each rule, its first filter that does not hold.
    pub reasons: Vec<String>,
    /// The id that the pool's type has there.
    #[serde(rename = "type")]
    pub type_id: Option<MdevTypeId>,
    /// How many more can be made there now.
    pub available: u32,
    /// Whether so many will fit; else there may be fewer.
    pub exact: bool,
    /// Why the type cannot be made there although a rule takes the device.
    pub problem: Option<String>,
    /// Other pools whose rules take it too.
    pub also_in: Vec<PoolName>,
}

/// Every device that the pool's rules could take, seen from that pool.
///
/// # Errors
/// When sysfs cannot be read.
pub fn candidates(
    supply: &HostSupply<'_>,
    pool: &Pool,
    others: &[Pool],
) -> io::Result<Vec<Candidate>> {
    let others = others
        .iter()
        .map(|other| Ok((other, taken_by(supply, other)?)))
        .collect::<io::Result<Vec<_>>>()?;
    let mut found = Vec::new();
    for standing in supply.standings(pool)? {
        let (rule, reasons) = match standing.verdict {
            Verdict::Match { rule } => (Some(rule), Vec::new()),
            Verdict::NoMatch { reasons } => (None, reasons),
        };
        let (room, exact) = supply.room(pool, &standing.parent);
        let (type_id, available, problem) = match room {
            Offer::Type { id, available } => (Some(id), available, None),
            Offer::NoSuchType => (None, 0, Some(format!("has no type '{}'", pool.type_name()))),
            Offer::Unreadable(why) | Offer::Taken(why) | Offer::NoRoom(why) => (None, 0, Some(why)),
        };
        // A pool of vGPUs takes GPUs, one of mediated devices what makes them.
        let board = supply.board(&standing.parent);
        let takes = |other: &Pool, taken: &BTreeSet<ParentName>| {
            let gpus = other.is_of_gpus();
            taken.contains(if gpus { &board } else { &standing.parent.name })
        };
        let also_in = others
            .iter()
            .filter(|(other, taken)| takes(other, taken))
            .map(|(other, _)| other.name.clone());
        found.push(Candidate {
            address: standing.parent.name.clone(),
            device: standing.parent.clone(),
            matches: rule.is_some(),
            rule,
            reasons,
            type_id,
            available,
            exact,
            problem,
            also_in: also_in.collect(),
        });
    }
    Ok(found)
}

/// The devices that a pool's rules take; with the boards of those that are on
/// virtual functions, to compare with a pool of GPUs.
fn taken_by(supply: &HostSupply<'_>, pool: &Pool) -> io::Result<BTreeSet<ParentName>> {
    let mut taken = BTreeSet::new();
    for standing in supply.standings(pool)? {
        if matches!(standing.verdict, Verdict::Match { .. }) {
            taken.insert(supply.board(&standing.parent));
            taken.insert(standing.parent.name);
        }
    }
    Ok(taken)
}

/// How many more the pool can hand out beside the `in_use` that it has handed out.
pub(super) fn free(
    supply: &HostSupply<'_>,
    pool: &Pool,
    in_use: u32,
    candidates: &[Candidate],
) -> Fit {
    let members = candidates.iter().filter(|one| one.matches);
    let offers = members.filter_map(|one| {
        let (id, available) = (one.type_id.clone()?, one.available);
        Some((&one.device, Offer::Type { id, available }, one.exact))
    });
    supply.free(pool, in_use, offers)
}
