//! The choice itself: for each request the first candidate in order of preference
//! that has room and leaves room for the requests still to come. It asks the
//! supply and nobody else, and carries nothing out.

use std::{
    collections::{BTreeMap, BTreeSet},
    rc::Rc,
};

use super::{
    Assignment, Candidate, Failed, HostSupply, Nearness, Placeholder, Plan, PlanRequest, Refusal,
    RefusalKind, answers::Answer, feasible,
};
use crate::{
    config::{self, Pool},
    device::{
        mdev::{Offer, Parent},
        step::Step,
    },
    kind::{Board, PlacementChoice, ToMake},
    model::{DomainName, MdevTypeId, ParentName, PciAddress, PoolName},
};

mod rest;
mod room;
mod taken;
mod why_not;

pub(super) use taken::Taken;

/// What makes the device on the candidate.
fn making(candidate: &Candidate, assignment: &Assignment, wanted: &PlanRequest<'_>) -> Vec<Step> {
    let made = ToMake {
        type_id: &assignment.type_id,
        uuid: wanted.uuid,
        placement: assignment.placement,
        parameters: &wanted.parameters,
    };
    wanted.pool.devices.steps(candidate, &made)
}

/// What candidates are asked for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) pool: &'a Pool,
    pub(super) placeholder: &'a Placeholder,
}

impl<'a> Ask<'a> {
    fn of(wanted: &'a PlanRequest<'a>) -> Self {
        Self {
            pool: wanted.pool,
            placeholder: &wanted.placeholder,
        }
    }

    pub(super) fn key(self) -> AskKey<'a> {
        (&self.pool.name, self.placeholder)
    }
}

pub(super) struct Planner<'a> {
    pub(super) domain: &'a DomainName,
    pub(super) wanted: &'a [PlanRequest<'a>],
    pub(super) supply: &'a HostSupply<'a>,
    pub(super) nearness: &'a Nearness,
    pub(super) failed: &'a Failed,
    pub(super) choices: BTreeMap<AskKey<'a>, Choices>,
    pub(super) taken: Taken<'a>,
    pub(super) boards: Boards,
}

/// The boards that have been asked for what all that makes devices on them has together.
#[derive(Default)]
pub(super) struct Boards {
    /// As they stand; None for a board whose sums nobody knows.
    states: BTreeMap<ParentName, Option<Rc<dyn Board>>>,
    /// What each is, by its PCI ids.
    types: BTreeMap<ParentName, Option<String>>,
    /// The same of what the domain has already; None for not looked yet.
    beside: Option<Option<String>>,
    /// What is left of a type beside so many devices of the plan.
    left: BTreeMap<(ParentName, MdevTypeId, usize), Option<u32>>,
}

impl Boards {
    /// What the candidate's board is.
    fn board_type(&mut self, supply: &HostSupply<'_>, candidate: &Candidate) -> Option<String> {
        let board_type = self.types.entry(candidate.board.clone());
        board_type
            .or_insert_with(|| supply.view().board_type(candidate))
            .clone()
    }
}

/// Requests of one pool share their candidates, unless the XML names one.
pub(super) type AskKey<'a> = (&'a PoolName, &'a Placeholder);

/// A pool's candidates with the offers asked for so far.
pub(super) struct Choices {
    pub(super) candidates: Vec<Candidate>,
    /// None for one that was not asked yet.
    pub(super) offers: Vec<Option<Option<Offer>>>,
}

impl<'a> Planner<'a> {
    pub(super) fn run(mut self) -> Result<Plan, Refusal> {
        self.check_limits()?;
        for wanted in self.wanted {
            let key = Ask::of(wanted).key();
            if !self.choices.contains_key(&key) {
                let candidates = self.supply.candidates(wanted.pool, &wanted.placeholder);
                let candidates = candidates.map_err(|why| {
                    Refusal::new(self.domain, wanted, RefusalKind::Unreadable { reason: why })
                })?;
                let offers = vec![None; candidates.len()];
                self.choices.insert(key, Choices { candidates, offers });
            }
        }
        let (mut steps, mut owners) = (Vec::new(), Vec::new());
        for (index, wanted) in self.wanted.iter().enumerate() {
            let (candidate, assignment) = self.choose(index, wanted)?;
            steps.extend(making(&candidate, &assignment, wanted));
            owners.resize(steps.len(), index);
            self.taken.planned.push(assignment);
        }
        Ok(Plan {
            assignments: self.taken.planned,
            steps,
            owners,
        })
    }

    /// `instances` bounds the pool whatever the hardware could still do.
    fn check_limits(&self) -> Result<(), Refusal> {
        let mut planned: BTreeMap<&PoolName, u32> = BTreeMap::new();
        for wanted in self.wanted {
            let limit = wanted.pool.instances;
            let count = planned
                .entry(&wanted.pool.name)
                .or_insert(wanted.pool_in_use);
            if limit != 0 && *count >= limit {
                let pool = &wanted.pool.name;
                let asked = self.wanted.iter().filter(|one| one.pool.name == *pool);
                let kind = RefusalKind::Limit {
                    limit,
                    in_use: wanted.pool_in_use,
                    wanted: self::count(asked.count()),
                };
                return Err(Refusal::new(self.domain, wanted, kind));
            }
            *count = count.saturating_add(1);
        }
        Ok(())
    }

    /// The first candidate in order of preference that has room and leaves room
    /// for the requests still to come.
    fn choose(
        &mut self,
        index: usize,
        wanted: &'a PlanRequest<'a>,
    ) -> Result<(Candidate, Assignment), Refusal> {
        let ask = Ask::of(wanted);
        let rest = self.wanted.get(index..).unwrap_or_default();
        let look_ahead = feasible::is_needed(rest) || self.is_of_several_board_types(rest);
        let mut tried = BTreeSet::new();
        let mut order = self.order(ask).into_iter();
        while let Some(position) = order.next() {
            let Some((type_id, left)) = self.room(ask, position) else {
                continue;
            };
            let candidate = self.choices[&ask.key()].candidates[position].clone();
            let assignment = self.assigned(wanted, &candidate, type_id, left);
            if !look_ahead {
                self.ask_further(ask, &candidate, order);
                return Ok((candidate, assignment));
            }
            // Functions of a board mostly are alike to all requests: what one leaves,
            // its neighbour leaves too.
            let named = self.is_named(candidate.function());
            let takers = self.takers(&candidate.parent.name);
            if !tried.insert((
                candidate.board.clone(),
                assignment.type_id.clone(),
                named,
                takers,
            )) {
                continue;
            }
            self.taken.planned.push(assignment);
            let fits = self.rest_fits(index + 1);
            let assignment = self.taken.planned.pop();
            if let (true, Some(assignment)) = (fits, assignment) {
                return Ok((candidate, assignment));
            }
        }
        Err(self.no_candidate(wanted))
    }

    /// Asks candidates behind the one that is chosen ([`crate::kind::Detail::ahead`]). Where
    /// functions of one board are alike, one of each PCI bus is asked: to find their boards
    /// would cost more than to ask again.
    fn ask_further(
        &mut self,
        ask: Ask<'a>,
        chosen: &Candidate,
        order: impl Iterator<Item = usize>,
    ) {
        let mut ahead = self.supply.ahead();
        if ahead == 0 || self.supply.is_settled() {
            return;
        }
        let bus = |candidate: &Candidate| {
            let address = candidate.parent.name.pci()?;
            is_alike(ask, candidate).then(|| address.bus())
        };
        let mut asked: BTreeSet<_> = bus(chosen).into_iter().collect();
        for position in order {
            if self.is_spoken_for(ask, position) {
                continue;
            }
            let bus = bus(&self.choices[&ask.key()].candidates[position]);
            if bus.is_some_and(|bus| !asked.insert(bus)) {
                continue;
            }
            self.offer(ask, position);
            ahead -= 1;
            if ahead == 0 {
                break;
            }
        }
    }

    /// Which pools of the plan take the parent.
    fn takers(&mut self, parent: &ParentName) -> Vec<bool> {
        let asks: Vec<Ask<'a>> = self.asks();
        let takes = asks.into_iter().map(|ask| {
            let candidates = &self.choices[&ask.key()].candidates;
            let position = candidates.iter().position(|one| one.parent.name == *parent);
            position.is_some_and(|position| self.room(ask, position).is_some())
        });
        takes.collect()
    }

    /// Each pool and placeholder once.
    fn asks(&self) -> Vec<Ask<'a>> {
        let mut asks: Vec<Ask<'a>> = Vec::new();
        for ask in self.wanted.iter().map(Ask::of) {
            if asks.iter().all(|other| other.key() != ask.key()) {
                asks.push(ask);
            }
        }
        asks
    }

    fn assigned(
        &self,
        wanted: &PlanRequest<'a>,
        candidate: &Candidate,
        type_id: MdevTypeId,
        left: u32,
    ) -> Assignment {
        let mut reason = self.reason(wanted.pool, candidate, &type_id, left);
        let placement = match self.place(wanted.pool, candidate) {
            PlacementChoice::At(placement) => {
                reason.push_str(&format!(", at {} of its memory", placement.id));
                Some(placement)
            }
            PlacementChoice::Anywhere | PlacementChoice::Nowhere => None,
        };
        Assignment {
            device: wanted.device.clone(),
            pool: wanted.pool.name.clone(),
            uuid: wanted.uuid,
            handle: candidate.handle(wanted.uuid),
            made_as: wanted.pool.devices.made_as(candidate),
            parent: candidate.parent.name.clone(),
            board: candidate.board.clone(),
            type_id,
            placement,
            against_migration: wanted.parameters.against_migration(),
            reason,
        }
    }

    /// Positions of the pool's candidates, best first: what another request names
    /// last, then a board that has refused to make that many, then a board that would
    /// have to hold two types (few drivers can), then the board by placement, then by
    /// distance, then by address.
    pub(super) fn order(&self, ask: Ask<'a>) -> Vec<usize> {
        let pool = ask.pool;
        let candidates = &self.choices[&ask.key()].candidates;
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_cached_key(|&position| {
            let candidate = &candidates[position];
            let in_use = self.in_use(candidate);
            let load = match pool.placement {
                config::Placement::Pack => u32::MAX - in_use,
                config::Placement::Spread => in_use,
            };
            let mixed = self
                .taken
                .planned_on_board(&candidate.board)
                .any(|other| !self.is_of_one_type(pool, &other.pool));
            let named = self.is_named(candidate.function());
            let planned = self.taken.planned_on_board(&candidate.board).count();
            let refused = self.failed.has_refused(&candidate.board, planned);
            // Equals keep their order, which is that of the addresses.
            let distance = self.nearness.distance(candidate.node);
            (named, refused, mixed, load, distance)
        });
        order
    }

    /// Whether a request is for this function and no other.
    fn is_named(&self, function: Option<PciAddress>) -> bool {
        let Some(function) = function else {
            return false;
        };
        let mut wanted = self.wanted.iter();
        wanted.any(|one| one.placeholder == Placeholder::Function(function))
    }

    /// A pool of this plan.
    fn pool(&self, name: &PoolName) -> Option<&Pool> {
        let mut wanted = self.wanted.iter();
        let wanted = wanted.find(|wanted| wanted.pool.name == *name)?;
        Some(wanted.pool)
    }

    /// Whether the pool hands out what another of this plan does.
    fn is_of_one_type(&self, pool: &Pool, other: &PoolName) -> bool {
        let other = self.pool(other);
        other.is_some_and(|other| other.is_of_one_type_with(pool))
    }

    /// Devices on the candidate's board, those that are not there yet included.
    fn in_use(&self, candidate: &Candidate) -> u32 {
        let taken = self.taken.count_on_board(&candidate.board);
        candidate.in_use.saturating_add(count(taken))
    }

    pub(super) fn offer(&mut self, ask: Ask<'a>, position: usize) -> Option<Offer> {
        let supply = self.supply;
        let known = match supply.is_settled() {
            true => self.answer_of_board(ask, position),
            false => None,
        };
        let choices = self.choices.get_mut(&ask.key())?;
        let candidate = &choices.candidates[position];
        let offer = &mut choices.offers[position];
        if let Some(known) = known {
            return supply.offer_as_known(ask.pool, candidate, known);
        }
        if offer.is_none() && supply.is_too_late() {
            return Some(Offer::Unreadable("it was not asked".to_owned()));
        }
        let offer = offer.get_or_insert_with(|| supply.offer(ask.pool, candidate));
        if let (Some(answers), Some(Offer::Type { id, available })) = (supply.answers(), &offer) {
            if is_alike(ask, candidate) {
                let answer = Answer {
                    parent: candidate.parent.clone(),
                    type_id: id.clone(),
                    available: *available,
                };
                answers.note(&ask.pool.name, answer);
            }
        }
        offer.clone()
    }

    /// What the driver has said of another function of the same board, where drivers are
    /// not asked any more. Free functions of a board are alike, and worth a try: the driver
    /// has the last word when the device is made.
    fn answer_of_board(&self, ask: Ask<'a>, position: usize) -> Option<Offer> {
        let candidate = self.choices[&ask.key()].candidates.get(position)?;
        if !is_alike(ask, candidate) {
            return None;
        }
        let board = self.supply.board(&candidate.parent);
        let is_function = board != candidate.parent.name;
        let is_on_board = |other: &Parent| {
            *other == candidate.parent || is_function && self.supply.board(other) == board
        };
        let answers = self.supply.answers()?;
        let answer = answers.find(&ask.pool.name, |one| is_on_board(&one.parent))?;
        Some(Offer::Type {
            id: answer.type_id,
            available: answer.available,
        })
    }

    fn reason(
        &self,
        pool: &Pool,
        candidate: &Candidate,
        type_id: &MdevTypeId,
        left: u32,
    ) -> String {
        let in_use = self.in_use(candidate);
        let mut reason = format!("{}: {in_use} in use on {}", pool.placement, candidate.board);
        if !self.nearness.nodes.is_empty() {
            match candidate.node {
                Some(node) => {
                    reason.push_str(&format!(", NUMA node {node}"));
                    let distance = self.nearness.distance(Some(node));
                    if distance < u32::MAX - 1 {
                        reason.push_str(&format!(" at distance {distance}"));
                    }
                }
                None => reason.push_str(", no NUMA node"),
            }
        }
        reason.push_str(&format!(", {left} of {type_id} left"));
        reason
    }
}

/// Whether the candidate is a parent without a device that is like all others of its board,
/// if it is a function of one.
fn is_alike(ask: Ask<'_>, candidate: &Candidate) -> bool {
    candidate.device.is_none() && !candidate.has_device && ask.pool.devices.functions_hold_one()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
