//! Counts devices that do not exist yet but already take space: the devices of the plan
//! so far, and the devices that other domains' claims announce.

use crate::{
    capacity::Placement,
    model::{MdevTypeId, ParentName},
    plan::{Announced, Assignment},
};

/// Devices that take space.
#[derive(Debug, Default)]
pub(in crate::plan) struct Taken<'a> {
    /// The devices of the plan, in the order of the requests.
    pub(super) planned: Vec<Assignment>,
    announced: &'a [Announced],
}

impl<'a> Taken<'a> {
    /// Only the devices that others have announced, and none of the plan yet.
    pub(in crate::plan) fn beside(announced: &'a [Announced]) -> Self {
        Self {
            planned: Vec::new(),
            announced,
        }
    }

    /// Devices of the plan on a board.
    pub(super) fn planned_on_board(&self, board: &ParentName) -> impl Iterator<Item = &Assignment> {
        let planned = self.planned.iter();
        planned.filter(move |one| one.board == *board)
    }

    /// Devices of the plan on a parent.
    pub(super) fn planned_on(&self, parent: &ParentName) -> impl Iterator<Item = &Assignment> {
        let planned = self.planned.iter();
        planned.filter(move |one| one.parent == *parent)
    }

    fn announced_on_board(&self, board: &ParentName) -> impl Iterator<Item = &'a Announced> {
        let announced = self.announced.iter();
        announced.filter(move |one| one.board == *board)
    }

    /// Whether other domains are about to get devices on a board.
    pub(super) fn is_announced_on_board(&self, board: &ParentName) -> bool {
        self.announced_on_board(board).next().is_some()
    }

    /// How many of these devices are on a board.
    pub(super) fn count_on_board(&self, board: &ParentName) -> usize {
        self.planned_on_board(board).count() + self.announced_on_board(board).count()
    }

    /// How many of these devices are on a parent; of that type, or of any type.
    pub(super) fn count_on(&self, parent: &ParentName, of_type: Option<&MdevTypeId>) -> usize {
        let is_meant = |id: &MdevTypeId| of_type.is_none_or(|of_type| of_type == id);
        let planned = self.planned_on(parent);
        let planned = planned.filter(|one| is_meant(&one.type_id)).count();
        let announced = self.announced.iter();
        let announced = announced.filter(|one| one.parent == *parent && is_meant(&one.type_id));
        planned + announced.count()
    }

    /// The devices on a board with their places; announced devices first.
    pub(super) fn made_on_board(&self, board: &ParentName) -> Vec<(MdevTypeId, Option<Placement>)> {
        let announced = self.announced_on_board(board);
        let announced = announced.map(|one| (one.type_id.clone(), one.placement));
        let planned = self.planned_on_board(board);
        let planned = planned.map(|one| (one.type_id.clone(), one.placement));
        announced.chain(planned).collect()
    }

    /// The places on a board that were chosen for these devices.
    pub(super) fn places_on_board(&self, board: &ParentName) -> Vec<Placement> {
        let made = self.made_on_board(board).into_iter();
        made.filter_map(|(_, placement)| placement).collect()
    }
}
