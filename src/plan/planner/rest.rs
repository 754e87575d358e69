//! Checks whether the remaining requests fit in addition to the devices of the plan.

use std::collections::BTreeMap;

use super::{Ask, Planner};
use crate::{
    config::Pool,
    model::{MdevTypeId, ParentName},
    plan::{
        Candidate,
        feasible::{self, Class, Container, Slot},
    },
};

impl Planner<'_> {
    /// Whether the requests from `index` on still fit in addition to the devices of the
    /// plan.
    pub(super) fn rest_fits(&mut self, index: usize) -> bool {
        let wanted = self.wanted.get(index..).unwrap_or_default();
        // The remaining capacity depends on the devices that are being tried.
        self.boards.left.clear();
        let mut room: BTreeMap<Container, u32> = BTreeMap::new();
        let mut boards: BTreeMap<ParentName, (&Pool, Candidate)> = BTreeMap::new();
        let mut classes: Vec<Class> = Vec::new();
        for ask in self.asks() {
            let of_it = wanted.iter().filter(|one| Ask::of(one).key() == ask.key());
            let wanted = of_it.count();
            if wanted == 0 {
                continue;
            }
            let mut slots = Vec::new();
            for position in 0..self.choices[&ask.key()].candidates.len() {
                let Some((id, left)) = self.room(ask, position) else {
                    continue;
                };
                let candidate = &self.choices[&ask.key()].candidates[position];
                let parent = candidate.parent.name.clone();
                let slot = Slot {
                    board: candidate.board.clone(),
                    container: match ask.pool.devices.holds_one(candidate, &id) {
                        true => Container::Function(parent),
                        false => Container::Parent(parent, id.clone()),
                    },
                    type_id: id,
                };
                boards
                    .entry(candidate.board.clone())
                    .or_insert_with(|| (ask.pool, candidate.clone()));
                room.insert(slot.container.clone(), left);
                slots.push(slot);
            }
            classes.push(Class { wanted, slots });
        }
        let fits = feasible::all_served(&classes, &room, &mut |board, types| {
            boards
                .get(board)
                .is_none_or(|(pool, candidate)| self.takes(pool, candidate, types))
        });
        self.boards.left.clear();
        fits
    }

    /// Whether all of these fit on the candidate's board, in addition to devices that
    /// do not exist yet.
    fn takes(&mut self, pool: &Pool, candidate: &Candidate, types: &[&MdevTypeId]) -> bool {
        let mut made = self.taken.made_on_board(&candidate.board);
        let Some(board) = self.board(pool, candidate) else {
            return true;
        };
        types.iter().all(|&id| {
            let left = board.left_beside(&made, id);
            made.push((id.clone(), None));
            left != Some(0)
        })
    }
}
