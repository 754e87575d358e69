//! Chooses a candidate for each request: the first one in order of preference on which
//! the request fits, and with which the remaining requests still fit too. The planner
//! asks only the supply, and carries nothing out.

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
        topology::{Common, Place},
    },
    kind::{Board, PlacementChoice, ToMake},
    model::{DomainName, MdevTypeId, ParentName, PciAddress, PoolName, Together},
};

mod rest;
mod room;
mod taken;
mod together;
mod why_not;

pub(super) use taken::Taken;

/// A question to candidates.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) pool: &'a Pool,
    pub(super) placeholder: &'a Placeholder,
    pub(super) together: Option<Together>,
}

impl<'a> Ask<'a> {
    fn of(wanted: &'a PlanRequest<'a>) -> Self {
        Self {
            pool: wanted.pool,
            placeholder: &wanted.placeholder,
            together: wanted.together,
        }
    }

    pub(super) fn key(self) -> AskKey<'a> {
        (&self.pool.name, self.placeholder, self.together)
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
    /// The plan is restricted to candidates there, for requests that say so.
    pub(super) within: BTreeMap<Together, Common>,
}

/// The boards whose total capacity has been read.
#[derive(Default)]
pub(super) struct Boards {
    /// The state of each board; None for a board with unknown capacity.
    states: BTreeMap<ParentName, Option<Rc<dyn Board>>>,
    /// The type of each board, by its PCI ids.
    types: BTreeMap<ParentName, Option<String>>,
    /// The type of the board that the domain already uses; None: not read yet.
    beside: Option<Option<String>>,
    /// How many of a type are left, in addition to that many devices of the plan.
    left: BTreeMap<(ParentName, MdevTypeId, usize), Option<u32>>,
}

impl Boards {
    /// The type of the candidate's board.
    fn board_type(&mut self, supply: &HostSupply<'_>, candidate: &Candidate) -> Option<String> {
        let board_type = self.types.entry(candidate.board.clone());
        board_type
            .or_insert_with(|| supply.view().board_type(candidate))
            .clone()
    }
}

/// Requests for one pool share their candidates, unless the XML names one, or they should
/// share something with different devices.
pub(super) type AskKey<'a> = (&'a PoolName, &'a Placeholder, Option<Together>);

/// A pool's candidates with the offers that were read so far.
pub(super) struct Choices {
    pub(super) candidates: Vec<Candidate>,
    /// None for a candidate that was not asked yet.
    pub(super) offers: Vec<Option<Option<Offer>>>,
    /// Where the candidates are; empty if that was not needed yet.
    pub(super) places: Vec<Place>,
}

/// Why there is no plan.
enum Unplanned<'a> {
    /// No candidate can serve the request.
    NoCandidate(&'a PlanRequest<'a>),
    Refused(Refusal),
}

impl<'a> Planner<'a> {
    pub(super) fn run(mut self) -> Result<Plan, Refusal> {
        self.check_limits()?;
        self.find_candidates()?;
        match self.attempt() {
            Ok(plan) => Ok(self.bring_together(plan)),
            Err(Unplanned::NoCandidate(wanted)) => {
                let culprit = self.named_without_room().unwrap_or(wanted);
                Err(self.no_candidate(culprit))
            }
            Err(Unplanned::Refused(refusal)) => Err(refusal),
        }
    }

    fn find_candidates(&mut self) -> Result<(), Refusal> {
        for wanted in self.wanted {
            let key = Ask::of(wanted).key();
            if !self.choices.contains_key(&key) {
                let candidates = self.supply.candidates(wanted.pool, &wanted.placeholder);
                let candidates = candidates.map_err(|why| {
                    Refusal::new(self.domain, wanted, RefusalKind::Unreadable { reason: why })
                })?;
                let offers = vec![None; candidates.len()];
                let choices = Choices {
                    candidates,
                    offers,
                    places: Vec::new(),
                };
                self.choices.insert(key, choices);
            }
        }
        Ok(())
    }

    /// A plan for all requests, within the places to which it is restricted.
    fn attempt(&mut self) -> Result<Plan, Unplanned<'a>> {
        self.taken.planned.clear();
        self.boards.left.clear();
        let (mut steps, mut owners) = (Vec::new(), Vec::new());
        for (index, wanted) in self.wanted.iter().enumerate() {
            let chosen = self.choose(index, wanted);
            let (candidate, mut assignment) = chosen.ok_or(Unplanned::NoCandidate(wanted))?;
            let view = self.supply.view();
            assignment.along = wanted.pool.devices.along(view, &candidate);
            assignment.may_be_critical = self.supply.allows_critical(wanted.pool, &candidate);
            if assignment.may_be_critical {
                assignment.from_host = wanted.pool.devices.critical(view, &candidate);
            }
            let making = self.making(&candidate, &assignment, wanted);
            steps.extend(making.map_err(Unplanned::Refused)?);
            owners.resize(steps.len(), index);
            self.taken.planned.push(assignment);
        }
        Ok(Plan {
            assignments: std::mem::take(&mut self.taken.planned),
            steps,
            owners,
        })
    }

    /// The steps that make the device on the candidate.
    fn making(
        &self,
        candidate: &Candidate,
        assignment: &Assignment,
        wanted: &PlanRequest<'_>,
    ) -> Result<Vec<Step>, Refusal> {
        let earlier = self.taken.planned.iter();
        let along = earlier.flat_map(|one| one.handle.pci().into_iter().chain(one.along.clone()));
        let along: Vec<PciAddress> = along.collect();
        let made = ToMake {
            type_id: &assignment.type_id,
            uuid: wanted.uuid,
            placement: assignment.placement,
            parameters: &wanted.parameters,
            along: &along,
        };
        let steps = wanted
            .pool
            .devices
            .steps(self.supply.view(), candidate, &made);
        steps
            .map_err(|reason| Refusal::new(self.domain, wanted, RefusalKind::Unreadable { reason }))
    }

    /// `instances` limits the pool, whatever the hardware could still do.
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

    /// The first candidate in order of preference on which the request fits, and with
    /// which the remaining requests still fit too.
    fn choose(
        &mut self,
        index: usize,
        wanted: &'a PlanRequest<'a>,
    ) -> Option<(Candidate, Assignment)> {
        let ask = Ask::of(wanted);
        let rest = self.wanted.get(index..).unwrap_or_default();
        let look_ahead = feasible::is_needed(rest, !self.within.is_empty())
            || self.is_of_several_board_types(rest);
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
                return Some((candidate, assignment));
            }
            // Functions of a board are mostly the same for all requests: if one does
            // not fit, its neighbour does not fit either.
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
                return Some((candidate, assignment));
            }
        }
        None
    }

    /// Asks candidates in addition to the chosen one ([`crate::kind::Detail::ahead`]). Of
    /// functions that are alike, it asks one on each PCI bus: finding their boards would
    /// cost more than asking again later.
    fn ask_further(
        &mut self,
        ask: Ask<'a>,
        chosen: &Candidate,
        order: impl Iterator<Item = usize>,
    ) {
        let mut ahead = self.supply.ahead();
        if ahead == 0 || self.supply.is_settled() || !self.within.is_empty() {
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
                reason.push_str(&format!(", {placement}"));
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
            along: Vec::new(),
            from_host: None,
            may_be_critical: false,
            type_id,
            placement,
            against_migration: wanted.parameters.against_migration(),
            reason,
        }
    }

    /// The indexes of the pool's candidates, best first. Devices that another request
    /// names come last, then boards that have refused to make that many, then boards
    /// that would have to hold two types (few drivers can), then those that lose most by a GPU
    /// instance that has to be made. The rest is sorted by placement, distance and address.
    pub(super) fn order(&self, ask: Ask<'a>) -> Vec<usize> {
        let pool = ask.pool;
        let candidates = &self.choices[&ask.key()].candidates;
        let mut order: Vec<usize> = (0..candidates.len())
            .filter(|&position| self.is_within(ask, position))
            .collect();
        order.sort_by_cached_key(|&position| {
            let candidate = &candidates[position];
            let in_use = self.in_use(candidate);
            let load = match pool.placement {
                config::Placement::Pack => u32::MAX - in_use,
                config::Placement::Spread => in_use,
            };
            let mixed = self.is_mixed(pool, candidate);
            let named = self.is_named(candidate.function());
            let refused = self.has_refused(candidate);
            let cost = match pool.placement {
                config::Placement::Pack => pool.devices.cost(self.supply.view(), candidate),
                config::Placement::Spread => None,
            };
            // Equal candidates stay in the order of their addresses.
            let distance = self.nearness.distance(candidate.node);
            (named, refused, mixed, cost, load, distance)
        });
        order
    }

    /// Whether the candidate's board would have to hold two types.
    fn is_mixed(&self, pool: &Pool, candidate: &Candidate) -> bool {
        let mut others = self.taken.planned_on_board(&candidate.board);
        others.any(|other| !self.is_of_one_type(pool, &other.pool))
    }

    /// Whether the candidate's board has refused to make so many.
    fn has_refused(&self, candidate: &Candidate) -> bool {
        let planned = self.taken.planned_on_board(&candidate.board).count();
        self.failed.has_refused(&candidate.board, planned)
    }

    /// Whether a request names exactly this function.
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

    /// Whether the pool has the same type as another pool of this plan.
    fn is_of_one_type(&self, pool: &Pool, other: &PoolName) -> bool {
        let other = self.pool(other);
        other.is_some_and(|other| other.is_of_one_type_with(pool))
    }

    /// Devices on the candidate's board, including those that do not exist yet.
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
            return supply.offer_if_taken(ask.pool, candidate, || known);
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

    /// The driver's answer about another function of the same board, for when drivers are
    /// not asked any more. Free functions of a board are equivalent, so the answer is worth
    /// a try: the driver decides when the device is made.
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

/// Whether the driver's answer about the candidate is also true for the other free functions
/// of its board.
fn is_alike(ask: Ask<'_>, candidate: &Candidate) -> bool {
    candidate.device.is_none() && !candidate.has_device && ask.pool.devices.functions_hold_one()
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
