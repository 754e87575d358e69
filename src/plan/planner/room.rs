//! What is left on a candidate beside the devices that are not there yet: by itself, on
//! its board, and by what all devices of one VM must have in common.

use std::{collections::BTreeSet, rc::Rc};

use super::{Ask, AskKey, Planner, count};
use crate::{
    config::Pool,
    device::mdev::Offer,
    kind::{Board, PlacementChoice},
    model::MdevTypeId,
    plan::{Candidate, PlanRequest},
};

impl<'a> Planner<'a> {
    /// The type's id and how many are left on a candidate, if any.
    pub(super) fn room(&mut self, ask: Ask<'a>, position: usize) -> Option<(MdevTypeId, u32)> {
        if self.is_spoken_for(ask, position) {
            return None;
        }
        let Some(Offer::Type { id, available }) = self.offer(ask, position) else {
            return None;
        };
        let candidate = self.choices[&ask.key()].candidates[position].clone();
        if self.refused(&candidate, &id).is_some() {
            return None;
        }
        let holds_one = ask.pool.devices.holds_one(&candidate, &id);
        let of_type = (!holds_one).then_some(&id);
        let taken = self.taken.count_on(&candidate.parent.name, of_type);
        let mut left = available.saturating_sub(count(taken));
        if left > 0 {
            if let Some(on_board) = self.left_on_board(ask.pool, &candidate, &id) {
                left = left.min(on_board);
            }
        }
        if left == 0
            || self.place(ask.pool, &candidate) == PlacementChoice::Nowhere
            || self.other_board_type(ask.pool, &candidate).is_some()
        {
            return None;
        }
        Some((id, left))
    }

    /// Whether the candidate is a virtual function that has a device, or is about to have
    /// one: it holds one, and its driver need not be asked.
    pub(super) fn is_spoken_for(&self, ask: Ask<'a>, position: usize) -> bool {
        let candidate = &self.choices[&ask.key()].candidates[position];
        let has_device = candidate.has_device && ask.pool.devices.functions_hold_one();
        candidate.board != candidate.parent.name
            && (has_device || self.taken.count_on(&candidate.parent.name, None) > 0)
    }

    /// What the driver has refused there in this very run.
    pub(super) fn refused(&self, candidate: &Candidate, id: &MdevTypeId) -> Option<String> {
        let on_parent = self.taken.planned_on(&candidate.parent.name).count();
        let on_board = self.taken.planned_on_board(&candidate.board).count();
        self.failed.reason(candidate, id, (on_parent, on_board))
    }

    /// What the candidate's board still takes of the type beside the devices that are not
    /// there yet. None without such devices, when the driver's own word holds, and where
    /// nobody knows a board's sums.
    pub(super) fn left_on_board(
        &mut self,
        pool: &Pool,
        candidate: &Candidate,
        id: &MdevTypeId,
    ) -> Option<u32> {
        let board = &candidate.board;
        let planned = self.taken.planned_on_board(board).count();
        // What is being made there for others is no reason to read all that a board tells:
        // its driver says no where there is no room for both, and then there is another plan.
        if planned == 0 {
            return None;
        }
        let key = (board.clone(), id.clone(), planned);
        if let Some(left) = self.boards.left.get(&key) {
            return *left;
        }
        let made = self.taken.made_on_board(board);
        let state = self.board(pool, candidate);
        let left = state.and_then(|state| state.left_beside(&made, id));
        self.boards.left.insert(key, left);
        left
    }

    /// Whether the first of several devices decides what board the others can be on.
    pub(super) fn is_of_several_board_types(&mut self, wanted: &'a [PlanRequest<'a>]) -> bool {
        let wanted = wanted.iter();
        let alike: Vec<&PlanRequest<'a>> = wanted
            .filter(|one| one.pool.devices.wants_one_board_type())
            .collect();
        if alike.len() < 2 || !self.taken.planned.is_empty() {
            return false;
        }
        let keys: BTreeSet<AskKey<'a>> = alike.into_iter().map(|one| Ask::of(one).key()).collect();
        let candidates = keys.iter().flat_map(|key| &self.choices[key].candidates);
        let types: BTreeSet<Option<String>> = candidates
            .map(|candidate| self.boards.board_type(self.supply, candidate))
            .collect();
        types.len() > 1
    }

    /// The device, or the rest, whose board is of another type than the candidate's, where
    /// the devices of one VM have to be on one: those of NVIDIA's driver (Virtual GPU
    /// Software User Guide, "Multiple vGPUs"). What does not say what it is may be the
    /// same.
    pub(super) fn other_board_type(
        &mut self,
        pool: &Pool,
        candidate: &Candidate,
    ) -> Option<String> {
        if !pool.devices.wants_one_board_type()
            || (self.wanted.len() < 2 && self.beside().is_none())
        {
            return None;
        }
        let board_type = self.boards.board_type(self.supply, candidate)?;
        if self.beside().is_some_and(|beside| *beside != board_type) {
            return Some("the vGPUs that the domain has".to_owned());
        }
        let is_of_the_kind = |other| {
            self.pool(other)
                .is_some_and(|other| other.kind == pool.kind)
        };
        let mut planned = self.taken.planned.iter();
        let other = planned.find(|one| {
            let of_board = self.boards.types.get(&one.board).cloned().flatten();
            is_of_the_kind(&one.pool) && of_board.is_some_and(|other| other != board_type)
        })?;
        Some(format!("'{}' of this domain", other.device))
    }

    fn beside(&mut self) -> Option<&String> {
        let view = self.supply.view();
        let beside = &mut self.boards.beside;
        beside
            .get_or_insert_with(|| view.board_type_beside())
            .as_ref()
    }

    /// The board that the candidate is or belongs to.
    pub(super) fn board(&mut self, pool: &Pool, candidate: &Candidate) -> Option<Rc<dyn Board>> {
        let view = self.supply.view();
        let state = self.boards.states.entry(candidate.board.clone());
        state
            .or_insert_with(|| pool.devices.board(view, candidate))
            .clone()
    }

    /// Where the pool's next device goes on the candidate's board.
    pub(super) fn place(&self, pool: &Pool, candidate: &Candidate) -> PlacementChoice {
        let taken = self.taken.places_on_board(&candidate.board);
        pool.devices.place(self.supply.view(), candidate, &taken)
    }
}
