//! Computes what is left on a candidate after subtracting the devices that do not exist
//! yet: its own limit, the limit of its board, and the rules for all devices of one VM.

use std::{collections::BTreeSet, rc::Rc};

use super::{Ask, AskKey, Planner, count};
use crate::{
    config::Pool,
    device::mdev::Offer,
    kind::{Board, PlacementChoice},
    model::MdevTypeId,
    plan::{Candidate, Placeholder, PlanRequest},
};

impl<'a> Planner<'a> {
    /// The type's id and how many are left on a candidate, if any.
    pub(super) fn room(&mut self, ask: Ask<'a>, position: usize) -> Option<(MdevTypeId, u32)> {
        if self.is_spoken_for(ask, position) || !self.is_within(ask, position) {
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

    /// The first request whose function, named in the XML, cannot serve whatever the other
    /// requests get. Where there is one, those with a choice fit nowhere for its sake.
    pub(super) fn named_without_room(&mut self) -> Option<&'a PlanRequest<'a>> {
        let planned = std::mem::take(&mut self.taken.planned);
        self.boards.left.clear();
        let mut named = self.wanted.iter();
        let culprit = named.find(|one| {
            let ask = Ask::of(one);
            let is_named = matches!(one.placeholder, Placeholder::Function(_));
            let mut positions = 0..self.choices[&ask.key()].candidates.len();
            is_named && !positions.any(|position| self.room(ask, position).is_some())
        });
        if culprit.is_none() {
            self.taken.planned = planned;
        }
        self.boards.left.clear();
        culprit
    }

    /// Whether the candidate is a function that has a device, or is about to get one: it
    /// holds only one, so its driver need not be asked.
    pub(super) fn is_spoken_for(&self, ask: Ask<'a>, position: usize) -> bool {
        let candidate = &self.choices[&ask.key()].candidates[position];
        let has_device = candidate.has_device && ask.pool.devices.functions_hold_one();
        candidate.board != candidate.parent.name
            && (has_device || self.taken.count_on(&candidate.parent.name, None) > 0)
    }

    /// The driver's refusal in this run, if there was one.
    pub(super) fn refused(&self, candidate: &Candidate, id: &MdevTypeId) -> Option<String> {
        let on_parent = self.taken.planned_on(&candidate.parent.name).count();
        let on_board = self.taken.planned_on_board(&candidate.board).count();
        self.failed.reason(candidate, id, (on_parent, on_board))
    }

    /// How many of the type still fit on the candidate's board, in addition to devices
    /// that do not exist yet. None if there are no such devices (then the driver's own
    /// answer holds) or if the board's capacity is unknown.
    pub(super) fn left_on_board(
        &mut self,
        pool: &Pool,
        candidate: &Candidate,
        id: &MdevTypeId,
    ) -> Option<u32> {
        let board = &candidate.board;
        let planned = self.taken.planned_on_board(board).count();
        // Devices that are being made there for others are no reason to read the whole
        // board: if both do not fit, the driver refuses, and we replan.
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

    /// Whether the first of several devices decides which boards are possible for the
    /// others.
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

    /// Names the device whose board has another type than the candidate's, if all
    /// devices of the VM must be on one type of board. NVIDIA's driver requires that
    /// (Virtual GPU Software User Guide, "Multiple vGPUs"). A board of unknown type
    /// counts as the same.
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

    /// The place for the pool's next device on the candidate's board.
    pub(super) fn place(&self, pool: &Pool, candidate: &Candidate) -> PlacementChoice {
        let taken = self.taken.places_on_board(&candidate.board);
        pool.devices.place(self.supply.view(), candidate, &taken)
    }
}
