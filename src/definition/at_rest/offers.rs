//! What the host offers to stopped domains, by the plan that the hook would make. One
//! look at the host serves all domains.

use std::{cell::RefCell, collections::BTreeMap, rc::Rc};

use anyhow::{Context, anyhow};

use super::choice::{Offers, Rank, Stopped};
use crate::{
    allocate::{Demand, Look, PlacedRequest, devices_wanted, nearness_of},
    claims::Seen,
    config::{self, Pool},
    definition::replan::{Blocked, refusal_of},
    device::mdev::Offer,
    domain::DomainDef,
    host::Host,
    model::{DomainName, DomainUuid, NumaNode, ParentName, PciAddress, PoolName},
    plan::{self, Detail, Failed, HostSupply, Obstacle, Placeholder},
    rule::Verdict,
};

/// The offers of a host.
pub(super) struct ByPlan<'a> {
    host: &'a Host,
    look: Look<'a>,
    definitions: BTreeMap<DomainUuid, &'a DomainDef>,
    /// The functions in claims, with their domains.
    claimed: BTreeMap<PciAddress, DomainName>,
    pools: RefCell<BTreeMap<PoolName, Option<Rc<Pool>>>>,
    seen: RefCell<BTreeMap<PoolName, Rc<Seen>>>,
    lists: RefCell<BTreeMap<ListKey, Rc<Functions>>>,
    /// The list for each domain; None for a domain with several devices.
    of_domains: RefCell<BTreeMap<DomainUuid, Option<Rc<Functions>>>>,
    refusals: RefCell<BTreeMap<(PoolName, PciAddress), Option<Blocked>>>,
    /// Boards that were found full, with the refusal, or to have room for one more.
    boards: RefCell<BTreeMap<(PoolName, ParentName), Option<Blocked>>>,
    /// How much fits on the boards of each pool.
    rooms: RefCell<BTreeMap<PoolName, BTreeMap<ParentName, u32>>>,
}

/// The order of a pool's functions depends on the NUMA nodes of the domain.
type ListKey = (PoolName, Vec<NumaNode>);

/// The functions that a pool may have.
#[derive(Debug)]
struct Functions {
    /// Best first.
    order: Vec<PciAddress>,
    boards: BTreeMap<PciAddress, ParentName>,
}

impl<'a> ByPlan<'a> {
    /// The offers to these domains, of which none has a claim.
    pub(super) fn new(
        host: &'a Host,
        definitions: BTreeMap<DomainUuid, &'a DomainDef>,
        claimed: BTreeMap<PciAddress, DomainName>,
    ) -> Self {
        Self {
            host,
            look: Look::new(host),
            definitions,
            claimed,
            pools: RefCell::default(),
            seen: RefCell::default(),
            lists: RefCell::default(),
            of_domains: RefCell::default(),
            refusals: RefCell::default(),
            boards: RefCell::default(),
            rooms: RefCell::default(),
        }
    }

    /// Why the domain would be refused the devices that it names.
    pub(super) fn blocked(&self, stopped: &Stopped) -> anyhow::Result<Option<Blocked>> {
        let Some(def) = self.definitions.get(&stopped.domain) else {
            return Ok(None);
        };
        // Invalid requests, and pools that cannot be used, are reported elsewhere.
        let Ok(wanted) = devices_wanted(def) else {
            return Ok(None);
        };
        if let [one] = wanted.as_slice() {
            if let Some(function) = function_of(one) {
                return self.blocked_alone(def, one, function);
            }
        }
        self.refusal(def, wanted)
    }

    fn refusal(
        &self,
        def: &DomainDef,
        wanted: Vec<PlacedRequest<'_>>,
    ) -> anyhow::Result<Option<Blocked>> {
        let Ok(demand) = Demand::load(self.host, def, wanted) else {
            return Ok(None);
        };
        let seen = self.seen_for(&demand)?;
        refusal_of(demand.plan_from(&self.look, &seen, &Failed::default()))
    }

    /// Why a domain would be refused that function as its only device. The driver is
    /// asked as little as possible, because starts ask it at the same time: whether one
    /// more fits is asked once for each board.
    fn blocked_alone(
        &self,
        def: &DomainDef,
        placed: &PlacedRequest<'_>,
        function: PciAddress,
    ) -> anyhow::Result<Option<Blocked>> {
        let name = &placed.request.pool;
        let key = (name.clone(), function);
        if let Some(known) = self.refusals.borrow().get(&key) {
            return Ok(known.clone());
        }
        let placeholder = Placeholder::Function(function);
        let mut of_board = None;
        let mut blocked = None;
        if let Some(pool) = self.pool(name).filter(|pool| pool.is_chosen_ahead()) {
            let supply = self.supply(true, Detail::default())?;
            let candidates = supply.candidates(&pool, &placeholder).unwrap_or_default();
            if let [candidate] = candidates.as_slice() {
                let board = (name.clone(), candidate.board.clone());
                let known = self.boards.borrow().get(&board).cloned();
                blocked = match known {
                    Some(None) => (pool.devices.is_free(supply.view(), candidate) == Some(true))
                        .then_some(None),
                    full => full,
                };
                of_board = Some(board);
            }
        }
        let blocked = match blocked {
            Some(blocked) => blocked,
            None => {
                let placed = PlacedRequest {
                    placeholder,
                    ..placed.clone()
                };
                self.refusal(def, vec![placed])?
            }
        };
        if let Some(board) = of_board {
            let full = |one: &Blocked| one.obstacle == Obstacle::Board;
            if blocked.as_ref().is_none_or(full) {
                self.boards.borrow_mut().insert(board, blocked.clone());
            }
        }
        self.refusals.borrow_mut().insert(key, blocked.clone());
        Ok(blocked)
    }

    /// Whether a domain with one device could have that one instead.
    fn can_have(&self, stopped: &Stopped, function: PciAddress) -> anyhow::Result<bool> {
        let Some(def) = self.definitions.get(&stopped.domain) else {
            return Ok(false);
        };
        let wanted = devices_wanted(def).unwrap_or_default();
        match wanted.as_slice() {
            [one] => Ok(self.blocked_alone(def, one, function)?.is_none()),
            _ => Ok(false),
        }
    }

    /// Whether the pool has mediated devices for the domain, so that its definition needs
    /// more than another address.
    pub(super) fn has_mediated(&self, stopped: &Stopped) -> anyhow::Result<bool> {
        let Some(def) = self.definitions.get(&stopped.domain) else {
            return Ok(false);
        };
        for placed in devices_wanted(def).unwrap_or_default() {
            let Some(pool) = self.pool(&placed.request.pool) else {
                continue;
            };
            if !pool.is_chosen_ahead() {
                return Ok(true);
            }
            let supply = self.supply(false, Detail::default())?;
            let candidates = supply.candidates(&pool, &Placeholder::Mdev);
            let mut candidates = candidates.unwrap_or_default().into_iter();
            let has_room =
                |offer| matches!(offer, Some(Offer::Type { available, .. }) if available > 0);
            if candidates.any(|one| has_room(supply.offer(&pool, &one))) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// All facts of the claims for plans of these pools.
    fn seen_for(&self, demand: &Demand<'_>) -> anyhow::Result<Rc<Seen>> {
        let mut pools = demand.pools.keys();
        let (Some(pool), None) = (pools.next(), pools.next()) else {
            return Ok(Rc::new(demand.see_claims(&self.look)?));
        };
        if let Some(seen) = self.seen.borrow().get(pool) {
            return Ok(Rc::clone(seen));
        }
        let seen = Rc::new(demand.see_claims(&self.look)?);
        let mut known = self.seen.borrow_mut();
        known.insert(pool.clone(), Rc::clone(&seen));
        Ok(seen)
    }

    fn pool(&self, name: &PoolName) -> Option<Rc<Pool>> {
        let mut pools = self.pools.borrow_mut();
        let pool = pools.entry(name.clone());
        pool.or_insert_with(|| config::load_pool(self.host, name).ok().map(Rc::new))
            .clone()
    }

    fn supply(&self, functions_only: bool, detail: Detail) -> anyhow::Result<HostSupply<'_>> {
        let detail = Detail {
            boards: true,
            functions_only,
            ..detail
        };
        let view = self.look.view(detail).context("cannot look for devices")?;
        let view = self.look.without(view, self.claimed.clone());
        Ok(HostSupply::of(view.context("cannot read the quarantine")?))
    }

    /// The functions for a domain with one device.
    fn list(&self, stopped: &Stopped) -> anyhow::Result<Option<Rc<Functions>>> {
        if let Some(known) = self.of_domains.borrow().get(&stopped.domain) {
            return Ok(known.clone());
        }
        let list = match self.alone(stopped) {
            Some((def, pool)) => Some(self.list_of(def, &pool)?),
            None => None,
        };
        let mut known = self.of_domains.borrow_mut();
        known.insert(stopped.domain, list.clone());
        Ok(list)
    }

    fn list_of(&self, def: &DomainDef, pool: &Pool) -> anyhow::Result<Rc<Functions>> {
        let nearness = nearness_of(def, &self.look.sysfs).context("cannot read the NUMA layout")?;
        let key = (pool.name.clone(), nearness.nodes.clone());
        if let Some(list) = self.lists.borrow().get(&key) {
            return Ok(Rc::clone(list));
        }
        let detail = Detail {
            nodes: !nearness.nodes.is_empty(),
            ..Detail::default()
        };
        let supply = self.supply(true, detail)?;
        let in_order = plan::in_order(&def.name, pool, &supply, &nearness);
        let in_order = in_order.map_err(|why| anyhow!("pool '{}': {why}", pool.name))?;
        let list = Rc::new(Functions {
            order: in_order.iter().map(|(function, _)| *function).collect(),
            boards: in_order.into_iter().collect(),
        });
        self.lists.borrow_mut().insert(key, Rc::clone(&list));
        Ok(list)
    }

    /// The domain and its pool, if it has a single device.
    fn alone(&self, stopped: &Stopped) -> Option<(&'a DomainDef, Rc<Pool>)> {
        let def = *self.definitions.get(&stopped.domain)?;
        let wanted = devices_wanted(def).ok()?;
        let [one] = wanted.as_slice() else {
            return None;
        };
        let pool = self.pool(&one.request.pool)?;
        pool.is_chosen_ahead().then_some((def, pool))
    }

    /// Other devices for a domain with several.
    fn together(
        &self,
        stopped: &Stopped,
        is_avoided: &dyn Fn(PciAddress) -> bool,
    ) -> anyhow::Result<Option<Vec<PciAddress>>> {
        let Some(def) = self.definitions.get(&stopped.domain) else {
            return Ok(None);
        };
        let Ok(mut wanted) = devices_wanted(def) else {
            return Ok(None);
        };
        // The definition as it would be after the moves of this run.
        let mut names = stopped.names.iter();
        for placed in &mut wanted {
            if let Placeholder::Function(function) = &mut placed.placeholder {
                *function = *names.next().unwrap_or(function);
            }
        }
        let is_function: Vec<bool> = wanted
            .iter()
            .map(|one| function_of(one).is_some())
            .collect();
        let Ok(mut demand) = Demand::load(self.host, def, wanted) else {
            return Ok(None);
        };
        let mut seen = demand.see_claims(&self.look)?;
        let others = self
            .definitions
            .values()
            .filter(|other| other.uuid != def.uuid);
        for other in others {
            let avoided = other.functions().filter(|function| is_avoided(*function));
            for function in avoided {
                seen.functions
                    .entry(function)
                    .or_insert_with(|| other.name.clone());
            }
        }
        let Ok(plan) = demand.replan_from(&self.look, &seen, &Failed::default()) else {
            return Ok(None);
        };
        let chosen = plan.assignments.iter().zip(is_function);
        let functions = chosen.filter(|(_, is_function)| *is_function);
        let functions = functions.map(|(one, _)| one.handle.pci());
        // A device that would no longer be a function needs more than another address.
        Ok(functions.collect())
    }
}

fn function_of(placed: &PlacedRequest<'_>) -> Option<PciAddress> {
    match placed.placeholder {
        Placeholder::Function(function) => Some(function),
        Placeholder::Mdev | Placeholder::Functions | Placeholder::Any => None,
    }
}

impl Offers for ByPlan<'_> {
    type Error = anyhow::Error;

    fn is_refused(&self, stopped: &Stopped) -> anyhow::Result<bool> {
        // A driver that is slow must not lose all the domains of its GPU for that.
        let blocked = self.blocked(stopped)?;
        Ok(blocked.is_some_and(|one| one.obstacle != Obstacle::Unknown))
    }

    fn others(
        &self,
        stopped: &Stopped,
        rank: &dyn Fn(PciAddress) -> Rank,
    ) -> anyhow::Result<Option<Vec<PciAddress>>> {
        if let Some(list) = self.list(stopped)? {
            let mut order = list.order.clone();
            order.sort_by_cached_key(|function| rank(*function));
            for function in order {
                if self.can_have(stopped, function)? {
                    return Ok(Some(vec![function]));
                }
            }
            return Ok(None);
        }
        let is_named = |function| rank(function) != (false, 0, 0);
        match self.together(stopped, &is_named)? {
            None => self.together(stopped, &|_| false),
            distinct => Ok(distinct),
        }
    }

    fn board(&self, stopped: &Stopped, device: PciAddress) -> anyhow::Result<Option<ParentName>> {
        if !self.can_have(stopped, device)? {
            return Ok(None);
        }
        let list = self.list(stopped)?;
        Ok(list.and_then(|list| list.boards.get(&device).cloned()))
    }

    fn room(&self, stopped: &Stopped, board: &ParentName) -> anyhow::Result<u32> {
        let Some((_, pool)) = self.alone(stopped) else {
            return Ok(0);
        };
        if let Some(rooms) = self.rooms.borrow().get(&pool.name) {
            // A board that is not in the pool has no room for it.
            return Ok(rooms.get(board).copied().unwrap_or_default());
        }
        let supply = self.supply(false, Detail::default())?;
        let standings = supply.standings(&pool);
        let standings = standings.with_context(|| format!("pool '{}'", pool.name))?;
        let mut rooms: BTreeMap<ParentName, u32> = BTreeMap::new();
        for one in &standings {
            if !matches!(one.verdict, Verdict::Match { .. }) {
                continue;
            }
            let (Offer::Type { available, .. }, _) = supply.room(&pool, &one.parent) else {
                continue;
            };
            let sum = rooms.entry(supply.board(&one.parent)).or_default();
            *sum = sum.saturating_add(available);
        }
        let room = rooms.get(board).copied().unwrap_or_default();
        self.rooms.borrow_mut().insert(pool.name.clone(), rooms);
        Ok(room)
    }
}
