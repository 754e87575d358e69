//! Which device a domain gets, or why it gets none: a function of the requests,
//! the pools, what the host offers and what is in use. It asks the host through
//! [`Supply`] only, so a plan can be made on a fixture, in memory, or under the
//! lock of a live host, and is the same everywhere.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::{
    capacity::{Placement, choose_placement},
    config::{self, Pool},
    device::{
        mdev::{self, Offer, Parent},
        numa::NumaTopology,
        nvml::Placements,
        parameters::Parameters,
        step::Step,
        vendor_vfio,
    },
    model::{
        DeviceName, DomainName, MdevTypeId, MdevUuid, NumaNode, ParentName, PoolName, TypeSelector,
    },
};

pub mod host_settings;

mod failed;
mod feasible;
mod refusal;
mod supply;
mod survey;

pub use failed::Failed;
pub use refusal::{Refusal, RefusalKind, Rejection};
pub use supply::{Detail, HostSupply, Standing};
pub use survey::{Surveyed, survey};

/// What stands for a device in the domain XML.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// A mediated device, made anywhere under the UUID of the request.
    Mdev,
    /// This virtual function and no other.
    Function(ParentName),
    /// A virtual function, whichever is free: the XML is changed on the way.
    Functions,
    /// Nothing yet: whatever the pool's drivers make, the XML is written after the
    /// plan.
    Any,
}

/// A device to plan for.
#[derive(Debug, Clone)]
pub struct Wanted<'a> {
    /// The request's name.
    pub device: &'a DeviceName,
    /// The UUID that the request always has; a mediated device's.
    pub uuid: MdevUuid,
    /// What the domain XML names.
    pub source: Source,
    /// The pool it comes from.
    pub pool: &'a Pool,
    /// Devices of the pool that claims hold now, over all domains.
    pub pool_in_use: u32,
    /// What it is given beyond its type.
    pub parameters: Parameters,
}

/// What the host has for a pool.
pub trait Supply {
    /// The parents that there are for pools of this kind, in ascending order of
    /// address. Whether the pool's rules take one is the first question of [`Self::offer`],
    /// because to answer it costs reading: a start asks in order of preference
    /// and stops at the first parent with room.
    ///
    /// # Errors
    /// A text, when the host cannot be read at all.
    fn candidates(&self, pool: &Pool, source: &Source) -> Result<Vec<Candidate>, String>;

    /// What one of them has for the pool, as of now; None when the pool's rules
    /// do not take it.
    fn offer(&self, pool: &Pool, candidate: &Candidate) -> Option<Offer>;

    /// The names of all types of the candidate's GPU and the places that they can
    /// have now, where sizes are mixed; empty where nobody tells.
    fn places(&self, candidate: &Candidate) -> Vec<(String, Placements)>;
}

/// How a candidate makes a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Interface {
    /// It is the parent of mediated devices.
    Mdev,
    /// It is a virtual function that becomes a vGPU itself.
    VendorVfio,
}

/// A parent that may serve a pool, if the pool's rules take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The parent; a virtual function is its only device's own.
    pub parent: Parent,
    /// How it makes one.
    pub interface: Interface,
    /// Its board: the physical function, or itself.
    pub board: ParentName,
    /// Where its memory is near, if it says so.
    pub node: Option<NumaNode>,
    /// Mediated devices on its board, whoever made them.
    pub in_use: u32,
}

/// Where the domain's memory and CPUs are.
#[derive(Debug, Clone, Default)]
pub struct Nearness {
    /// The nodes that the domain is bound to; empty when it is not bound.
    pub nodes: Vec<NumaNode>,
    /// The host's layout, needed only with nodes.
    pub topology: NumaTopology,
}

impl Nearness {
    /// Distance from the nearest of the domain's nodes. A device without a node
    /// is farther than any that has one; without a preference all are equal.
    fn distance(&self, node: Option<NumaNode>) -> u32 {
        if self.nodes.is_empty() {
            return 0;
        }
        let Some(node) = node else { return u32::MAX };
        let known = self
            .nodes
            .iter()
            .filter_map(|&from| self.topology.distance(from, node))
            .min();
        known.unwrap_or(if self.nodes.contains(&node) {
            10
        } else {
            u32::MAX - 1
        })
    }
}

/// One request's device.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Assignment {
    /// The request's name.
    pub device: DeviceName,
    /// Its pool.
    pub pool: PoolName,
    /// The UUID it is made under.
    pub uuid: MdevUuid,
    /// How it is made.
    #[serde(skip)]
    pub interface: Interface,
    /// Where it is made.
    pub parent: ParentName,
    /// The parent's board, as far as the plan has looked.
    #[serde(skip)]
    pub board: ParentName,
    /// As what it is made.
    #[serde(rename = "type")]
    pub type_id: MdevTypeId,
    /// Where in its GPU's memory, if the plan says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub placement: Option<Placement>,
    /// Its parameters that keep the VM from being saved and migrated.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub against_migration: Vec<&'static str>,
    /// Why there, for people.
    pub reason: String,
}

/// Devices for all of a domain's requests and the steps that make them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// In the order of the requests.
    pub assignments: Vec<Assignment>,
    /// In the order of the assignments.
    pub steps: Vec<Step>,
    /// The assignment that each step is for.
    #[serde(skip)]
    pub owners: Vec<usize>,
}

/// Plans devices for all the requests, or for none.
///
/// # Errors
/// A refusal that names every candidate of the pool that could not serve.
pub fn plan(
    domain: &DomainName,
    wanted: &[Wanted<'_>],
    supply: &dyn Supply,
    nearness: &Nearness,
    failed: &Failed,
) -> Result<Plan, Refusal> {
    Planner {
        domain,
        wanted,
        supply,
        nearness,
        failed,
        markets: BTreeMap::new(),
        taken: Vec::new(),
    }
    .run()
}

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
struct Ask<'a> {
    pool: &'a Pool,
    source: &'a Source,
}

impl<'a> Ask<'a> {
    fn of(wanted: &'a Wanted<'a>) -> Self {
        Self {
            pool: wanted.pool,
            source: &wanted.source,
        }
    }

    fn key(self) -> MarketKey<'a> {
        (&self.pool.name, self.source)
    }
}

struct Planner<'a> {
    domain: &'a DomainName,
    wanted: &'a [Wanted<'a>],
    supply: &'a dyn Supply,
    nearness: &'a Nearness,
    failed: &'a Failed,
    markets: BTreeMap<MarketKey<'a>, Market>,
    taken: Vec<Assignment>,
}

/// Requests of one pool share their candidates, unless the XML names one.
type MarketKey<'a> = (&'a PoolName, &'a Source);

/// A pool's candidates with the offers asked for so far.
struct Market {
    candidates: Vec<Candidate>,
    /// None for one that was not asked yet.
    offers: Vec<Option<Option<Offer>>>,
}

impl<'a> Planner<'a> {
    fn run(mut self) -> Result<Plan, Refusal> {
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
    fn order(&self, ask: Ask<'a>) -> Vec<usize> {
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

    fn offer(&mut self, ask: Ask<'a>, position: usize) -> Option<Offer> {
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
        for position in 0..count {
            let Some(offer) = self.offer(Ask::of(wanted), position) else {
                continue;
            };
            let candidate = &self.markets[&Ask::of(wanted).key()].candidates[position];
            let parent = candidate.parent.name.clone();
            let reason = self.why_not(wanted, candidate, offer);
            candidates.push(Rejection {
                candidate: parent,
                reason,
            });
        }
        candidates.sort_by(|a, b| a.candidate.cmp(&b.candidate));
        if let Source::Function(function) = &wanted.source {
            let reason = match candidates.pop() {
                Some(rejection) => rejection.reason,
                None if count == 0 => {
                    "it is no virtual function of this host (see 'virt-vgpu host show')".to_owned()
                }
                None => "the pool's rules do not take its GPU".to_owned(),
            };
            let function = function.clone();
            let kind = RefusalKind::Function { function, reason };
            return Refusal::new(self.domain, wanted, kind);
        }
        Refusal::new(self.domain, wanted, RefusalKind::NoCandidate { candidates })
    }

    fn why_not(&self, wanted: &Wanted<'a>, candidate: &Candidate, offer: Offer) -> String {
        match offer {
            Offer::NoSuchType => format!("has no {}", wanted.pool.type_in_words()),
            Offer::Unreadable(why) | Offer::Taken(why) => why,
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
