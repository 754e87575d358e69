//! All candidates of a pool as a domain would see them, best first: for people who ask
//! why a device was chosen.

use std::collections::BTreeMap;

use super::{
    Candidate, Failed, HostSupply, Nearness, Placeholder,
    planner::{Ask, Boards, Choices, Planner, Taken},
};
use crate::{config::Pool, device::mdev::Offer, model::DomainName};

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
    let placeholder = &Placeholder::Any;
    let ask = Ask { pool, placeholder };
    let candidates = supply.candidates(pool, placeholder)?;
    let offers = vec![None; candidates.len()];
    let choices = Choices { candidates, offers };
    let mut planner = Planner {
        domain,
        wanted: &[],
        supply,
        nearness,
        failed: &Failed::default(),
        choices: BTreeMap::from([(ask.key(), choices)]),
        taken: Taken::beside(supply.view().announced()),
        boards: Boards::default(),
    };
    let order = planner.order(ask);
    let surveyed = order.into_iter().filter_map(|position| {
        let offer = planner.offer(ask, position)?;
        let candidate = planner.choices[&ask.key()].candidates[position].clone();
        Some(Surveyed { candidate, offer })
    });
    Ok(surveyed.collect())
}
