//! The choice itself: for each request the first candidate in order of preference
//! that has room and leaves room for the requests still to come. It asks the
//! supply and nobody else, and carries nothing out.

use std::collections::BTreeMap;

use super::{
    Assignment, Candidate, Failed, Interface, Nearness, Plan, Refusal, RefusalKind, Rejection,
    Source, Supply, Wanted, feasible,
};
use crate::{
    capacity::{Placement, choose_placement},
    config::{self, Pool},
    device::{
        mdev::{self, Offer},
        nvml::Placements,
        step::Step,
        vendor_vfio,
    },
    model::{DomainName, MdevTypeId, ParentName, PoolName, TypeSelector},
};

/// What makes the device on the candidate, puts it in its place, and gives it its
/// parameters.
fn making(
    candidate: &Candidate,
    type_id: &MdevTypeId,
    placement: Option<Placement>,
    wanted: &Wanted<'_>,
) -> Vec<Step> {
    let (step, attributes) = match candidate.interface {
        Interface::Mdev => {
            let step = mdev::creation(&candidate.parent, type_id, wanted.uuid);
            // The kernel puts the driver's name in front of its types' ids.
            let nvidias = type_id.as_str().starts_with("nvidia-");
            (step, nvidias.then(|| mdev::nvidia_attributes(wanted.uuid)))
        }
        Interface::VendorVfio => {
            let function = &candidate.parent.name;
            let name = wanted.pool.device_type.as_str();
            let step = vendor_vfio::assignment(function, type_id, name);
            (step, Some(vendor_vfio::attributes(function)))
        }
    };
    let mut steps = vec![step];
    if let Some(directory) = attributes {
        steps.extend(placement.map(|place| vendor_vfio::placing(&directory, place.id)));
        steps.extend(wanted.parameters.step(&directory));
    }
    steps
}

/// Where in a GPU's memory a device goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// Sizes are not mixed there, or nobody tells the places: the driver chooses.
    Anywhere,
    /// There.
    At(Placement),
    /// Other devices, those of this plan among them, cover every place.
    Nowhere,
}

/// What a market is about.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ask<'a> {
    pub(super) pool: &'a Pool,
    pub(super) source: &'a Source,
}

impl<'a> Ask<'a> {
    fn of(wanted: &'a Wanted<'a>) -> Self {
        Self {
            pool: wanted.pool,
            source: &wanted.source,
        }
    }

    pub(super) fn key(self) -> MarketKey<'a> {
        (&self.pool.name, self.source)
    }
}

pub(super) struct Planner<'a> {
    pub(super) domain: &'a DomainName,
    pub(super) wanted: &'a [Wanted<'a>],
    pub(super) supply: &'a dyn Supply,
    pub(super) nearness: &'a Nearness,
    pub(super) failed: &'a Failed,
    pub(super) markets: BTreeMap<MarketKey<'a>, Market>,
    pub(super) taken: Vec<Assignment>,
}

/// Requests of one pool share their candidates, unless the XML names one.
pub(super) type MarketKey<'a> = (&'a PoolName, &'a Source);

/// A pool's candidates with the offers asked for so far.
pub(super) struct Market {
    pub(super) candidates: Vec<Candidate>,
    /// None for one that was not asked yet.
    pub(super) offers: Vec<Option<Option<Offer>>>,
}

impl<'a> Planner<'a> {
    pub(super) fn run(mut self) -> Result<Plan, Refusal> {
        self.check_limits()?;
        for wanted in self.wanted {
            let key = Ask::of(wanted).key();
            if !self.markets.contains_key(&key) {
                let candidates = self.supply.candidates(wanted.pool, &wanted.source);
                let candidates = candidates.map_err(|why| {
                    Refusal::new(self.domain, wanted, RefusalKind::Unreadable { reason: why })
                })?;
                let offers = vec![None; candidates.len()];
                self.markets.insert(key, Market { candidates, offers });
            }
        }
        let (mut steps, mut owners) = (Vec::new(), Vec::new());
        for (index, wanted) in self.wanted.iter().enumerate() {
            let (candidate, type_id, mut reason) = self.choose(index, wanted)?;
            let placement = match self.place(wanted.pool, &candidate) {
                Place::At(placement) => {
                    reason.push_str(&format!(", at {} of its memory", placement.id));
                    Some(placement)
                }
                Place::Anywhere | Place::Nowhere => None,
            };
            steps.extend(making(&candidate, &type_id, placement, wanted));
            owners.resize(steps.len(), index);
            self.taken.push(Assignment {
                device: wanted.device.clone(),
                pool: wanted.pool.name.clone(),
                uuid: wanted.uuid,
                interface: candidate.interface,
                parent: candidate.parent.name,
                board: candidate.board,
                type_id,
                placement,
                against_migration: wanted.parameters.against_migration(),
                reason,
            });
        }
        Ok(Plan {
            assignments: self.taken,
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
                    wanted: u32::try_from(asked.count()).unwrap_or(u32::MAX),
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
        wanted: &'a Wanted<'a>,
    ) -> Result<(Candidate, MdevTypeId, String), Refusal> {
        let order = self.order(Ask::of(wanted));
        let look_ahead = feasible::is_needed(self.wanted.get(index..).unwrap_or_default());
        let mut room = Vec::new();
        for position in order {
            let Some((type_id, left)) = self.room(Ask::of(wanted), position) else {
                continue;
            };
            if look_ahead {
                room.push((position, type_id, left));
            } else {
                return Ok(self.chosen(Ask::of(wanted), position, type_id, left));
            }
        }
        for (position, type_id, left) in room {
            let (candidate, type_id, reason) =
                self.chosen(Ask::of(wanted), position, type_id, left);
            if self.rest_fits(index, &candidate, &type_id) {
                return Ok((candidate, type_id, reason));
            }
        }
        Err(self.no_candidate(wanted))
    }

    fn chosen(
        &self,
        ask: Ask<'a>,
        position: usize,
        type_id: MdevTypeId,
        left: u32,
    ) -> (Candidate, MdevTypeId, String) {
        let candidate = self.markets[&ask.key()].candidates[position].clone();
        let reason = self.reason(ask.pool, &candidate, &type_id, left);
        (candidate, type_id, reason)
    }

    /// Positions of the pool's candidates, best first: what another request names
    /// last, then a board that would have to hold two types (few drivers can), then
    /// the board by placement, then by distance, then by address.
    pub(super) fn order(&self, ask: Ask<'a>) -> Vec<usize> {
        let pool = ask.pool;
        let candidates = &self.markets[&ask.key()].candidates;
        let mut order: Vec<usize> = (0..candidates.len()).collect();
        order.sort_by_cached_key(|&position| {
            let candidate = &candidates[position];
            let in_use = self.in_use(candidate);
            let load = match pool.placement {
                config::Placement::Pack => u32::MAX - in_use,
                config::Placement::Spread => in_use,
            };
            let mixed = self
                .on_board(&candidate.board)
                .any(|other| self.selector(&other.pool) != Some(&pool.device_type));
            let named = self.is_named(&candidate.parent.name);
            // Equals keep their order, which is that of the addresses.
            (named, mixed, load, self.nearness.distance(candidate.node))
        });
        order
    }

    /// Whether a request is for this function and no other.
    fn is_named(&self, function: &ParentName) -> bool {
        let mut wanted = self.wanted.iter();
        wanted.any(|one| matches!(&one.source, Source::Function(name) if name == function))
    }

    /// Devices of this plan on a board.
    fn on_board(&self, board: &ParentName) -> impl Iterator<Item = &Assignment> {
        self.taken
            .iter()
            .filter(move |assignment| assignment.board == *board)
    }

    /// The type that a pool of this plan hands out.
    fn selector(&self, pool: &PoolName) -> Option<&TypeSelector> {
        let wanted = self
            .wanted
            .iter()
            .find(|wanted| wanted.pool.name == *pool)?;
        Some(&wanted.pool.device_type)
    }

    /// Devices on the candidate's board, those of this plan included.
    fn in_use(&self, candidate: &Candidate) -> u32 {
        let planned = self.on_board(&candidate.board).count();
        candidate
            .in_use
            .saturating_add(u32::try_from(planned).unwrap_or(u32::MAX))
    }

    pub(super) fn offer(&mut self, ask: Ask<'a>, position: usize) -> Option<Offer> {
        let supply = self.supply;
        let market = self.markets.get_mut(&ask.key())?;
        let candidate = &market.candidates[position];
        market.offers[position]
            .get_or_insert_with(|| supply.offer(ask.pool, candidate))
            .clone()
    }

    /// The type's id and how many are left on a candidate, if any.
    fn room(&mut self, ask: Ask<'a>, position: usize) -> Option<(MdevTypeId, u32)> {
        let Some(Offer::Type { id, available }) = self.offer(ask, position) else {
            return None;
        };
        let candidate = &self.markets[&ask.key()].candidates[position];
        if self.failed.reason(candidate, &id).is_some() {
            return None;
        }
        let (pool, parent) = (ask.pool, &candidate.parent.name);
        let taken = self
            .taken
            .iter()
            .filter(|a| a.parent == *parent && a.type_id == id)
            .count();
        let left = available.saturating_sub(u32::try_from(taken).unwrap_or(u32::MAX));
        if left == 0 || self.place(pool, candidate) == Place::Nowhere {
            return None;
        }
        Some((id, left))
    }

    /// The places that the candidate's GPU has besides those of this plan.
    fn places(&self, candidate: &Candidate) -> Vec<(String, Placements)> {
        let mut places = self.supply.places(candidate);
        let taken: Vec<Placement> = { self.on_board(&candidate.board) }
            .filter_map(|other| other.placement)
            .collect();
        for (
            _,
            Placements {
                size, creatable, ..
            },
        ) in &mut places
        {
            let size = *size;
            creatable.retain(|&id| !taken.iter().any(|one| one.overlaps(Placement { id, size })));
        }
        places
    }

    /// Where the pool's next device goes on the candidate's GPU.
    fn place(&self, pool: &Pool, candidate: &Candidate) -> Place {
        if !pool.heterogeneous {
            return Place::Anywhere;
        }
        let places = self.places(candidate);
        let mut named = places.iter();
        let Some((_, wanted)) = named.find(|(name, _)| pool.device_type.means_name(name)) else {
            return Place::Anywhere;
        };
        let chosen = choose_placement(wanted, places.iter().map(|(_, places)| places));
        chosen.map_or(Place::Nowhere, Place::At)
    }

    /// Whether the requests behind `index` still find devices when this one
    /// takes its own from `candidate`.
    fn rest_fits(&mut self, index: usize, candidate: &Candidate, type_id: &MdevTypeId) -> bool {
        let wanted = self.wanted;
        let mut slots: BTreeMap<(ParentName, MdevTypeId), u32> = BTreeMap::new();
        let mut choices = Vec::new();
        for request in wanted.get(index + 1..).unwrap_or_default() {
            let mut choice = Vec::new();
            for position in 0..self.markets[&Ask::of(request).key()].candidates.len() {
                if let Some((id, left)) = self.room(Ask::of(request), position) {
                    let parent = self.markets[&Ask::of(request).key()].candidates[position]
                        .parent
                        .name
                        .clone();
                    slots.insert((parent.clone(), id.clone()), left);
                    choice.push((parent, id));
                }
            }
            choices.push(choice);
        }
        if let Some(left) = slots.get_mut(&(candidate.parent.name.clone(), type_id.clone())) {
            *left -= 1;
        }
        feasible::all_served(&choices, &slots)
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

    fn no_candidate(&mut self, wanted: &'a Wanted<'a>) -> Refusal {
        let count = self.markets[&Ask::of(wanted).key()].candidates.len();
        let mut candidates = Vec::new();
        let mut has_room = false;
        for position in 0..count {
            let Some(offer) = self.offer(Ask::of(wanted), position) else {
                continue;
            };
            let candidate = &self.markets[&Ask::of(wanted).key()].candidates[position];
            let parent = candidate.parent.name.clone();
            has_room |= !matches!(offer, Offer::NoRoom(_) | Offer::Type { available: 0, .. });
            let reason = self.why_not(wanted, candidate, offer);
            candidates.push(Rejection {
                candidate: parent,
                reason,
            });
        }
        candidates.sort_by(|a, b| a.candidate.cmp(&b.candidate));
        if let Source::Function(function) = &wanted.source {
            let passing = count == 0 || (!candidates.is_empty() && !has_room);
            let reason = match candidates.pop() {
                Some(rejection) => rejection.reason,
                None if count == 0 => {
                    "it is no virtual function of this host (see 'virt-vgpu host show')".to_owned()
                }
                None => "the pool's rules do not take its GPU".to_owned(),
            };
            let kind = RefusalKind::Function {
                function: function.clone(),
                reason,
                passing,
            };
            return Refusal::new(self.domain, wanted, kind);
        }
        Refusal::new(self.domain, wanted, RefusalKind::NoCandidate { candidates })
    }

    fn why_not(&self, wanted: &Wanted<'a>, candidate: &Candidate, offer: Offer) -> String {
        match offer {
            Offer::NoSuchType => format!("has no {}", wanted.pool.type_in_words()),
            Offer::Unreadable(why) | Offer::Taken(why) | Offer::NoRoom(why) => why,
            Offer::Type { id, available: 0 } => format!("no {id} left"),
            Offer::Type { id, .. } => {
                if let Some(why) = self.failed.reason(candidate, &id) {
                    return why;
                }
                let others: Vec<&str> = self
                    .taken
                    .iter()
                    .filter(|a| a.parent == candidate.parent.name)
                    .map(|a| a.device.as_str())
                    .collect();
                if others.is_empty() {
                    format!("its last {id} is needed for another device of this domain")
                } else {
                    format!(
                        "its last {id} goes to '{}' of this domain",
                        others.join("', '")
                    )
                }
            }
        }
    }
}
