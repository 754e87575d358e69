//! The choice itself: for each request the first candidate in order of preference
//! that has room and leaves room for the requests still to come. It asks the
//! supply and nobody else, and carries nothing out.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Announced, Assignment, Candidate, Failed, Interface, MadeAs, Nearness, Plan, Refusal,
    RefusalKind, Rejection, Source, Supply, Wanted,
    feasible::{self, Class, Seat, Slot},
};
use crate::{
    capacity::{Placement, choose_placement, more_beside, more_of},
    config::{self, Pool},
    device::{
        gpu::{self, GpuState},
        mdev::{self, Offer},
        nvml::Placements,
        step::Step,
        vendor_vfio,
    },
    model::{DomainName, Handle, MdevTypeId, ParentName, PoolName, TypeSelector, VgpuTypeId},
};

/// What makes the device on the candidate, puts it in its place, and gives it its
/// parameters.
fn making(candidate: &Candidate, assignment: &Assignment, wanted: &Wanted<'_>) -> Vec<Step> {
    let type_id = &assignment.type_id;
    let (step, attributes) = match candidate.interface {
        Interface::Mdev => {
            let step = mdev::creation(&candidate.parent, type_id, wanted.uuid);
            let nvidias = type_id.is_nvidias();
            (step, nvidias.then(|| mdev::nvidia_attributes(wanted.uuid)))
        }
        Interface::VendorVfio(function) => {
            let name = wanted.pool.device_type().as_str();
            let step = vendor_vfio::assignment(function, type_id, name);
            (step, Some(vendor_vfio::attributes(function)))
        }
    };
    let mut steps = vec![step];
    if let Some(directory) = attributes {
        steps.extend(
            assignment
                .placement
                .map(|place| vendor_vfio::placing(&directory, place.id)),
        );
        steps.extend(wanted.parameters.step(&directory));
    }
    steps
}

/// What libvirt and the kernel will know the device by.
fn handle(candidate: &Candidate, wanted: &Wanted<'_>) -> Handle {
    match candidate.interface {
        Interface::Mdev => Handle::Mdev(wanted.uuid),
        Interface::VendorVfio(function) => Handle::Pci(function),
    }
}

fn made_as(candidate: &Candidate) -> MadeAs {
    let parent = &candidate.parent.name;
    match candidate.interface {
        Interface::Mdev => MadeAs {
            word: "mdev",
            rests_on: mdev::class_parent(parent).path(),
            can_wedge: false,
        },
        Interface::VendorVfio(function) => MadeAs {
            word: "vendor-vfio",
            rests_on: vendor_vfio::driver_link(function),
            can_wedge: true,
        },
    }
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
    pub(super) boards: Boards,
}

/// The GPUs that have been asked for what all their functions have together.
#[derive(Debug, Default)]
pub(super) struct Boards {
    /// As they stand; None for a board that is no GPU of NVIDIA's.
    states: BTreeMap<ParentName, Option<GpuState>>,
    /// What each is, by its PCI ids.
    models: BTreeMap<ParentName, Option<String>>,
    /// The same of what the domain has already; None for not looked yet.
    beside: Option<Option<String>>,
    /// What is left of a type beside so many devices of the plan.
    left: BTreeMap<(ParentName, MdevTypeId, usize), Option<u32>>,
}

impl Boards {
    /// What the candidate's board is.
    fn model(&mut self, supply: &dyn Supply, candidate: &Candidate) -> Option<String> {
        let model = self.models.entry(candidate.board.clone());
        model.or_insert_with(|| supply.model(candidate)).clone()
    }
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
            let (candidate, assignment) = self.choose(index, wanted)?;
            steps.extend(making(&candidate, &assignment, wanted));
            owners.resize(steps.len(), index);
            self.taken.push(assignment);
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
        wanted: &'a Wanted<'a>,
    ) -> Result<(Candidate, Assignment), Refusal> {
        let ask = Ask::of(wanted);
        let rest = self.wanted.get(index..).unwrap_or_default();
        let look_ahead = feasible::is_needed(rest) || self.is_of_several_models(rest);
        let mut tried = BTreeSet::new();
        for position in self.order(ask) {
            let Some((type_id, left)) = self.room(ask, position) else {
                continue;
            };
            let candidate = self.markets[&ask.key()].candidates[position].clone();
            let assignment = self.assigned(wanted, &candidate, type_id, left);
            if !look_ahead {
                return Ok((candidate, assignment));
            }
            // Functions of a board mostly are alike to all requests: what one leaves,
            // its neighbour leaves too.
            let named = self.is_named(candidate.interface);
            let takers = self.takers(&candidate.parent.name);
            if !tried.insert((
                candidate.board.clone(),
                assignment.type_id.clone(),
                named,
                takers,
            )) {
                continue;
            }
            self.taken.push(assignment);
            let fits = self.rest_fits(index + 1);
            let assignment = self.taken.pop();
            if let (true, Some(assignment)) = (fits, assignment) {
                return Ok((candidate, assignment));
            }
        }
        Err(self.no_candidate(wanted))
    }

    /// Which of the plan's markets take the parent.
    fn takers(&mut self, parent: &ParentName) -> Vec<bool> {
        let asks: Vec<Ask<'a>> = self.asks();
        let takes = asks.into_iter().map(|ask| {
            let candidates = &self.markets[&ask.key()].candidates;
            let position = candidates.iter().position(|one| one.parent.name == *parent);
            position.is_some_and(|position| self.room(ask, position).is_some())
        });
        takes.collect()
    }

    /// Each market once.
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
        wanted: &Wanted<'a>,
        candidate: &Candidate,
        type_id: MdevTypeId,
        left: u32,
    ) -> Assignment {
        let mut reason = self.reason(wanted.pool, candidate, &type_id, left);
        let placement = match self.place(wanted.pool, candidate) {
            Place::At(placement) => {
                reason.push_str(&format!(", at {} of its memory", placement.id));
                Some(placement)
            }
            Place::Anywhere | Place::Nowhere => None,
        };
        Assignment {
            device: wanted.device.clone(),
            pool: wanted.pool.name.clone(),
            uuid: wanted.uuid,
            interface: candidate.interface,
            handle: handle(candidate, wanted),
            made_as: made_as(candidate),
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
                .any(|other| self.selector(&other.pool) != Some(pool.device_type()));
            let named = self.is_named(candidate.interface);
            let planned = self.on_board(&candidate.board).count();
            let refused = self.failed.has_refused(&candidate.board, planned);
            // Equals keep their order, which is that of the addresses.
            let distance = self.nearness.distance(candidate.node);
            (named, refused, mixed, load, distance)
        });
        order
    }

    /// Whether a request is for this function and no other.
    fn is_named(&self, interface: Interface) -> bool {
        let Interface::VendorVfio(function) = interface else {
            return false;
        };
        let mut wanted = self.wanted.iter();
        wanted.any(|one| one.source == Source::Function(function))
    }

    /// Devices of this plan on a board.
    fn on_board(&self, board: &ParentName) -> impl Iterator<Item = &Assignment> {
        self.taken
            .iter()
            .filter(move |assignment| assignment.board == *board)
    }

    /// A pool of this plan.
    fn pool(&self, name: &PoolName) -> Option<&Pool> {
        let mut wanted = self.wanted.iter();
        let wanted = wanted.find(|wanted| wanted.pool.name == *name)?;
        Some(wanted.pool)
    }

    /// Devices of others that are being made on a board.
    fn announced_on(&self, board: &ParentName) -> impl Iterator<Item = &'a Announced> {
        let board = board.clone();
        let announced = self.supply.announced().iter();
        announced.filter(move |one| one.board == board)
    }

    /// Whether others have what is left there, and nothing of this plan does.
    fn is_being_made_for_others(&self, candidate: &Candidate) -> bool {
        self.on_board(&candidate.board).next().is_none()
            && self.announced_on(&candidate.board).next().is_some()
    }

    /// What is being made on a board by others, and what this plan makes, and where.
    fn made_on(&self, board: &ParentName) -> Vec<(MdevTypeId, Option<Placement>)> {
        let announced = self.announced_on(board);
        let announced = announced.map(|one| (one.type_id.clone(), one.placement));
        let made = self.on_board(board);
        let made = made.map(|one| (one.type_id.clone(), one.placement));
        announced.chain(made).collect()
    }

    /// The type that it hands out.
    fn selector(&self, pool: &PoolName) -> Option<&TypeSelector> {
        Some(self.pool(pool)?.device_type())
    }

    /// Devices on the candidate's board, those of this plan included.
    fn in_use(&self, candidate: &Candidate) -> u32 {
        let planned = self.on_board(&candidate.board).count();
        let announced = self.announced_on(&candidate.board).count();
        candidate.in_use.saturating_add(count(planned + announced))
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
        let candidate = self.markets[&ask.key()].candidates[position].clone();
        if self.refused(&candidate, &id).is_some() {
            return None;
        }
        let is_function = is_function(&candidate, &id);
        let taken = self
            .on_parent(&candidate)
            .filter(|one| is_function || one.type_id == id);
        let announced = self.supply.announced().iter().filter(|one| {
            one.parent == candidate.parent.name && (is_function || one.type_id == id)
        });
        let taken = taken.count() + announced.count();
        let mut left = available.saturating_sub(count(taken));
        if left > 0 {
            if let Some(on_board) = self.left_on_board(&candidate, &id) {
                left = left.min(on_board);
            }
        }
        if left == 0
            || self.place(ask.pool, &candidate) == Place::Nowhere
            || self.other_model(ask.pool, &candidate).is_some()
        {
            return None;
        }
        Some((id, left))
    }

    /// Devices of this plan on a parent.
    fn on_parent(&self, candidate: &Candidate) -> impl Iterator<Item = &Assignment> {
        let parent = candidate.parent.name.clone();
        self.taken.iter().filter(move |one| one.parent == parent)
    }

    /// What the driver has refused there in this very run.
    fn refused(&self, candidate: &Candidate, id: &MdevTypeId) -> Option<String> {
        let on_parent = self.on_parent(candidate).count();
        let on_board = self.on_board(&candidate.board).count();
        self.failed.reason(candidate, id, (on_parent, on_board))
    }

    /// What the candidate's board still takes of the type beside the devices of this
    /// plan. None without such devices, when the driver's own word holds, and where
    /// nobody knows a board's sums.
    fn left_on_board(&mut self, candidate: &Candidate, id: &MdevTypeId) -> Option<u32> {
        let board = &candidate.board;
        let planned = self.on_board(board).count();
        let is_announced = self.announced_on(board).next().is_some();
        // What a function's driver is about to make for others is not worth a question to
        // NVML: it says no where there is no room.
        if planned == 0 && !(is_announced && candidate.interface == Interface::Mdev) {
            return None;
        }
        let key = (board.clone(), id.clone(), planned);
        if let Some(left) = self.boards.left.get(&key) {
            return *left;
        }
        let made = self.made_on(board);
        let left = match self.state_of(candidate) {
            Some(state) => left_beside(state, &made, id),
            None => None,
        };
        self.boards.left.insert(key, left);
        left
    }

    /// Whether the first of several vGPUs of NVIDIA decides what board the others can be
    /// on.
    fn is_of_several_models(&mut self, wanted: &'a [Wanted<'a>]) -> bool {
        let wanted = wanted.iter();
        let vgpus: Vec<&Wanted<'a>> = wanted.filter(|one| one.pool.is_of_gpus()).collect();
        if vgpus.len() < 2 || !self.taken.is_empty() {
            return false;
        }
        let keys: BTreeSet<MarketKey<'a>> =
            vgpus.into_iter().map(|one| Ask::of(one).key()).collect();
        let candidates = keys.iter().flat_map(|key| &self.markets[key].candidates);
        let models: BTreeSet<Option<String>> = candidates
            .map(|candidate| self.boards.model(self.supply, candidate))
            .collect();
        models.len() > 1
    }

    /// The device, or the rest, whose board is of another type than the candidate's: the
    /// vGPUs of one VM are of one (NVIDIA's Virtual GPU Software User Guide, "Multiple
    /// vGPUs"). What does not say what it is may be the same.
    fn other_model(&mut self, pool: &Pool, candidate: &Candidate) -> Option<String> {
        if !pool.is_of_gpus() || (self.wanted.len() < 2 && self.beside().is_none()) {
            return None;
        }
        let model = self.boards.model(self.supply, candidate)?;
        if self.beside().is_some_and(|beside| *beside != model) {
            return Some("the vGPUs that the domain has".to_owned());
        }
        let is_vgpu = |pool| self.pool(pool).is_some_and(|pool| pool.is_of_gpus());
        let mut taken = self.taken.iter();
        let other = taken.find(|one| {
            let of_board = self.boards.models.get(&one.board).cloned().flatten();
            is_vgpu(&one.pool) && of_board.is_some_and(|other| other != model)
        })?;
        Some(format!("'{}' of this domain", other.device))
    }

    fn beside(&mut self) -> Option<&String> {
        let supply = self.supply;
        let beside = &mut self.boards.beside;
        beside.get_or_insert_with(|| supply.model_beside()).as_ref()
    }

    /// The GPU that the candidate is or belongs to.
    fn state_of(&mut self, candidate: &Candidate) -> Option<&GpuState> {
        let supply = self.supply;
        let states = &mut self.boards.states;
        let state = states.entry(candidate.board.clone());
        state.or_insert_with(|| supply.gpu(candidate)).as_ref()
    }

    /// The places that the candidate's GPU has besides those of this plan.
    fn places(&self, candidate: &Candidate) -> Vec<(String, Placements)> {
        let mut places = self.supply.places(candidate);
        let announced = self.announced_on(&candidate.board);
        let announced = announced.filter_map(|other| other.placement);
        let planned = self.on_board(&candidate.board);
        let planned = planned.filter_map(|other| other.placement);
        let taken: Vec<Placement> = announced.chain(planned).collect();
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
        if !pool.mixes_sizes() {
            return Place::Anywhere;
        }
        let places = self.places(candidate);
        let mut named = places.iter();
        let Some((_, wanted)) = named.find(|(name, _)| pool.device_type().means_name(name)) else {
            return Place::Anywhere;
        };
        let chosen = choose_placement(wanted, places.iter().map(|(_, places)| places));
        chosen.map_or(Place::Nowhere, Place::At)
    }

    /// Whether the requests from `index` on still find devices beside those that the
    /// plan has.
    fn rest_fits(&mut self, index: usize) -> bool {
        let wanted = self.wanted.get(index..).unwrap_or_default();
        // What is left depends on the devices that are being tried.
        self.boards.left.clear();
        let mut room: BTreeMap<Seat, u32> = BTreeMap::new();
        let mut boards: BTreeMap<ParentName, Candidate> = BTreeMap::new();
        let mut classes: Vec<Class> = Vec::new();
        for ask in self.asks() {
            let of_it = wanted.iter().filter(|one| Ask::of(one).key() == ask.key());
            let wanted = of_it.count();
            if wanted == 0 {
                continue;
            }
            let mut slots = Vec::new();
            for position in 0..self.markets[&ask.key()].candidates.len() {
                let Some((id, left)) = self.room(ask, position) else {
                    continue;
                };
                let candidate = &self.markets[&ask.key()].candidates[position];
                let parent = candidate.parent.name.clone();
                let slot = Slot {
                    board: candidate.board.clone(),
                    seat: match is_function(candidate, &id) {
                        true => Seat::Function(parent),
                        false => Seat::Parent(parent, id.clone()),
                    },
                    type_id: id,
                };
                boards
                    .entry(candidate.board.clone())
                    .or_insert_with(|| candidate.clone());
                room.insert(slot.seat.clone(), left);
                slots.push(slot);
            }
            classes.push(Class { wanted, slots });
        }
        let fits = feasible::all_served(&classes, &room, &mut |board, types| {
            boards
                .get(board)
                .is_none_or(|candidate| self.takes(candidate, types))
        });
        self.boards.left.clear();
        fits
    }

    /// Whether the candidate's board takes all of these beside those of the plan.
    fn takes(&mut self, candidate: &Candidate, types: &[&MdevTypeId]) -> bool {
        let mut made = self.made_on(&candidate.board);
        let Some(state) = self.state_of(candidate) else {
            return true;
        };
        types.iter().all(|&id| {
            let left = left_beside(state, &made, id);
            made.push((id.clone(), None));
            left != Some(0)
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

    fn no_candidate(&mut self, wanted: &'a Wanted<'a>) -> Refusal {
        let count = self.markets[&Ask::of(wanted).key()].candidates.len();
        let mut candidates = Vec::new();
        let mut has_room = false;
        for position in 0..count {
            let Some(offer) = self.offer(Ask::of(wanted), position) else {
                continue;
            };
            let candidate = self.markets[&Ask::of(wanted).key()].candidates[position].clone();
            let parent = candidate.parent.name.clone();
            has_room |= !matches!(offer, Offer::NoRoom(_) | Offer::Type { available: 0, .. });
            let reason = self.why_not(wanted, &candidate, offer);
            candidates.push(Rejection {
                candidate: parent,
                reason,
            });
        }
        let idle = self.supply.idle(wanted.pool, &wanted.source);
        if let Source::Function(function) = &wanted.source {
            let passing = count == 0 || (!candidates.is_empty() && !has_room);
            let reason = match candidates.pop() {
                Some(rejection) => rejection.reason,
                None if count == 0 => match idle.first() {
                    Some(Rejection { candidate, reason }) => {
                        format!("it is no virtual function of this host; {candidate}: {reason}")
                    }
                    None => "it is no virtual function of this host (see 'virt-vgpu host show')"
                        .to_owned(),
                },
                None => "the pool's rules do not take its GPU".to_owned(),
            };
            let kind = RefusalKind::Function {
                function: *function,
                reason,
                passing,
            };
            return Refusal::new(self.domain, wanted, kind);
        }
        candidates.extend(idle);
        candidates.sort_by(|a, b| a.candidate.cmp(&b.candidate));
        Refusal::new(self.domain, wanted, RefusalKind::NoCandidate { candidates })
    }

    fn why_not(&mut self, wanted: &Wanted<'a>, candidate: &Candidate, offer: Offer) -> String {
        match offer {
            Offer::NoSuchType => format!("has no {}", wanted.pool.type_in_words()),
            Offer::Unreadable(why) | Offer::Taken(why) | Offer::NoRoom(why) => why,
            Offer::Type { id, available: 0 } => format!("no {id} left"),
            Offer::Type { id, .. } => {
                if let Some(why) = self.refused(candidate, &id) {
                    return why;
                }
                if self.is_being_made_for_others(candidate) {
                    return format!("its last {id} is being made for another domain");
                }
                if let Some(other) = self.other_model(wanted.pool, candidate) {
                    return format!("its board is of another type than that of {other}");
                }
                if let Some(why) = self.why_not_on_board(wanted, candidate, &id) {
                    return why;
                }
                let has_gpu = self.state_of(candidate).is_some();
                let is_of_several_models = self.is_of_several_models(self.wanted);
                let others: Vec<&str> = self
                    .taken
                    .iter()
                    .filter(|a| a.parent == candidate.parent.name)
                    .map(|a| a.device.as_str())
                    .collect();
                let mut requests = self.wanted.iter();
                let differ = requests
                    .any(|one| one.pool.device_type() != wanted.pool.device_type())
                    || is_of_several_models;
                if others.is_empty() && differ && has_gpu {
                    "it does not take all devices of this domain at once".to_owned()
                } else if others.is_empty() {
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

    /// Why a function that is free itself gets nothing: its board has no room for it
    /// beside the other devices of this domain.
    fn why_not_on_board(
        &mut self,
        wanted: &Wanted<'a>,
        candidate: &Candidate,
        id: &MdevTypeId,
    ) -> Option<String> {
        self.boards.left.clear();
        if self.left_on_board(candidate, id)? > 0 {
            return None;
        }
        let wanted_type = wanted.pool.device_type();
        let alike = self
            .wanted
            .iter()
            .filter(|one| one.pool.device_type() == wanted_type);
        let (alike, board) = (alike.count(), &candidate.board);
        let alone = self.state_of(candidate)?;
        let alone = more_of(alone, vgpu_type(id)?).most();
        let others: Vec<&str> = self
            .on_board(board)
            .filter(|one| one.type_id != *id)
            .map(|one| one.device.as_str())
            .collect();
        let its_board = if *board == candidate.parent.name {
            String::new()
        } else {
            format!("its board {board} has ")
        };
        Some(if others.is_empty() {
            format!("{its_board}{alone} of {id} left, {alike} are wanted")
        } else {
            format!(
                "{its_board}no room for a {id} beside '{}' of this domain",
                others.join("', '")
            )
        })
    }
}

/// How many of a type a GPU takes beside others; None for a type that is not one of
/// the GPU's.
fn left_beside(
    state: &GpuState,
    made: &[(MdevTypeId, Option<Placement>)],
    id: &MdevTypeId,
) -> Option<u32> {
    let id = vgpu_type(id)?;
    state.vgpu_type(id)?;
    let made = made
        .iter()
        .filter_map(|(id, place)| Some((vgpu_type(id)?, *place)));
    Some(more_beside(state, made, id).most())
}

/// The driver's number of a type, of a mediated device or of a virtual function.
fn vgpu_type(id: &MdevTypeId) -> Option<VgpuTypeId> {
    gpu::number(id.as_str()).or_else(|| id.as_str().parse().ok())
}

/// Whether the candidate is a virtual function of an NVIDIA GPU, which holds one
/// device whatever its type.
fn is_function(candidate: &Candidate, id: &MdevTypeId) -> bool {
    let on_a_board = candidate.board != candidate.parent.name;
    matches!(candidate.interface, Interface::VendorVfio(_))
        || (on_a_board && vgpu_type(id).is_some())
}

fn count(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
