//! All candidates of a pool as a domain would see them, best first: for people who ask
//! why a device was chosen.

use std::collections::BTreeMap;

use super::{
    Candidate, Failed, HostSupply, Nearness, Placeholder,
    planner::{Ask, Boards, Choices, Planner, Taken},
};
use crate::{
    config::Pool,
    device::mdev::Offer,
    model::{DomainName, ParentName, PciAddress},
};

/// A candidate and its offer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Surveyed {
    /// The candidate.
    pub candidate: Candidate,
    /// What it offers of the pool's type.
    pub offer: Offer,
}

/// The pool's candidates in the order in which a plan tries them for the
/// domain's first device.
///
/// # Errors
/// A text, when the host cannot be read.
pub fn survey(
    domain: &DomainName,
    pool: &Pool,
    supply: &HostSupply<'_>,
    nearness: &Nearness,
) -> Result<Vec<Surveyed>, String> {
    let ask = Ask {
        pool,
        placeholder: &Placeholder::Any,
        together: None,
    };
    let failed = Failed::default();
    let mut planner = planner(domain, ask, supply, nearness, &failed)?;
    let order = planner.order(ask);
    let surveyed = order.into_iter().filter_map(|position| {
        let offer = planner.offer(ask, position)?;
        let candidate = planner.choices[&ask.key()].candidates[position].clone();
        Some(Surveyed { candidate, offer })
    });
    Ok(surveyed.collect())
}

/// The PCI functions of the pool's kind, with their boards, in the order in which a plan
/// tries them for a domain's only device. Whether they can be had is not asked.
///
/// # Errors
/// A text, when the host cannot be read.
pub fn in_order(
    domain: &DomainName,
    pool: &Pool,
    supply: &HostSupply<'_>,
    nearness: &Nearness,
) -> Result<Vec<(PciAddress, ParentName)>, String> {
    let ask = Ask {
        pool,
        placeholder: &Placeholder::Functions,
        together: None,
    };
    let failed = Failed::default();
    let planner = planner(domain, ask, supply, nearness, &failed)?;
    let order = planner.order(ask).into_iter();
    let functions = order.filter_map(|position| {
        let candidate = &planner.choices[&ask.key()].candidates[position];
        Some((candidate.function()?, candidate.board.clone()))
    });
    Ok(functions.collect())
}

/// A planner with the pool's candidates and no request.
fn planner<'a>(
    domain: &'a DomainName,
    ask: Ask<'a>,
    supply: &'a HostSupply<'_>,
    nearness: &'a Nearness,
    failed: &'a Failed,
) -> Result<Planner<'a>, String> {
    let candidates = supply.candidates(ask.pool, ask.placeholder)?;
    let offers = vec![None; candidates.len()];
    let choices = Choices {
        candidates,
        offers,
        places: Vec::new(),
    };
    Ok(Planner {
        domain,
        wanted: &[],
        supply,
        nearness,
        failed,
        choices: BTreeMap::from([(ask.key(), choices)]),
        taken: Taken::beside(supply.view().announced()),
        boards: Boards::default(),
        within: BTreeMap::new(),
    })
}
