//! The exact search for the places of several instances: every combination that differs in
//! what it leaves free is looked at once.

use std::collections::HashMap;

use super::{
    board::{Board, Slots},
    occupied::Occupied,
    usefulness::{Usefulness, Worth},
};

/// How many combinations are compared. NVIDIA's boards have a few hundred; a board with many
/// more small instances gets the best of these.
const MOST_COMPARED: u32 = 20_000;

/// Instances of one profile to find places for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// The profile's place in the board's list.
    pub profile: usize,
    /// How many.
    pub instances: u32,
    /// Where one exists that may stay or go.
    pub idle: Vec<Slots>,
}

/// Places that have been found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    /// How many of them are places where an instance exists.
    kept: u32,
    worth: Worth,
    /// Profile and slots.
    pub places: Vec<(usize, Slots)>,
}

/// The best places: the most instances stay where they are; then the rest is the most
/// useful; then the lowest slots for the largest instances. None if they do not all fit.
/// The groups are in the board's order.
pub(super) fn best_places(
    taken: Occupied,
    groups: &[Group],
    usefulness: &mut Usefulness<'_>,
) -> Option<Found> {
    let board = usefulness.board();
    let mut search = Search {
        board,
        groups,
        usefulness,
        known: HashMap::new(),
        compared: 0,
    };
    search.group(0, taken)
}

struct Search<'s, 'b> {
    board: &'b Board,
    groups: &'s [Group],
    usefulness: &'s mut Usefulness<'b>,
    /// The best places of all groups from one on.
    known: HashMap<(usize, Occupied), Option<Found>>,
    compared: u32,
}

impl Search<'_, '_> {
    /// The best places of the groups from `number` on.
    fn group(&mut self, number: usize, taken: Occupied) -> Option<Found> {
        let Some(group) = self.groups.get(number) else {
            self.compared += 1;
            return Some(Found {
                kept: 0,
                worth: self.usefulness.worth(taken),
                places: Vec::new(),
            });
        };
        if let Some(known) = self.known.get(&(number, taken)) {
            return known.clone();
        }
        let found = self.instance(number, group.instances, 0, taken);
        self.known.insert((number, taken), found.clone());
        found
    }

    /// The best places of `left` instances of the group, at places from `from` on, and of
    /// the groups after it.
    fn instance(
        &mut self,
        number: usize,
        left: u32,
        from: usize,
        taken: Occupied,
    ) -> Option<Found> {
        if left == 0 {
            return self.group(number + 1, taken);
        }
        let group = &self.groups[number];
        if taken.fitting(self.board, group.profile) < left {
            return None;
        }
        let mut best: Option<Found> = None;
        for (at, &place) in self
            .board
            .places(group.profile)
            .iter()
            .enumerate()
            .skip(from)
        {
            if best.is_some() && self.compared >= MOST_COMPARED {
                break;
            }
            if !taken.accepts(self.board, group.profile, place) {
                continue;
            }
            let after = taken.with(self.board, group.profile, place);
            let Some(mut found) = self.instance(number, left - 1, at + 1, after) else {
                continue;
            };
            found.kept += u32::from(group.idle.contains(&place));
            let is_better = best
                .as_ref()
                .is_none_or(|best| (found.kept, found.worth) > (best.kept, best.worth));
            if is_better {
                found.places.insert(0, (group.profile, place));
                best = Some(found);
            }
        }
        best
    }
}

/// Whether the instances fit.
pub(super) fn fit(board: &Board, taken: Occupied, groups: &[Group]) -> bool {
    let wanted: Vec<u32> = groups.iter().map(|group| group.instances).collect();
    let largest = Subsets::new(board, groups).largest(0, taken);
    largest.total == wanted.iter().sum::<u32>()
}

/// The largest parts of the groups that fit: as many instances as possible; for each way to
/// do so, how many of each group.
pub(super) fn largest_parts(board: &Board, taken: Occupied, groups: &[Group]) -> Vec<Vec<u32>> {
    Subsets::new(board, groups).largest(0, taken).parts
}

#[derive(Debug, Clone, Default)]
struct Largest {
    total: u32,
    /// Of each group from one on.
    parts: Vec<Vec<u32>>,
}

struct Subsets<'s> {
    board: &'s Board,
    groups: &'s [Group],
    known: HashMap<(usize, Occupied), Largest>,
}

impl<'s> Subsets<'s> {
    fn new(board: &'s Board, groups: &'s [Group]) -> Self {
        Self {
            board,
            groups,
            known: HashMap::new(),
        }
    }

    fn largest(&mut self, number: usize, taken: Occupied) -> Largest {
        if number == self.groups.len() {
            return Largest {
                total: 0,
                parts: vec![Vec::new()],
            };
        }
        if let Some(known) = self.known.get(&(number, taken)) {
            return known.clone();
        }
        let mut largest = Largest::default();
        self.add(number, 0, 0, taken, &mut largest);
        self.known.insert((number, taken), largest.clone());
        largest
    }

    /// With `placed` instances of the group, and more of them at places from `from` on.
    fn add(
        &mut self,
        number: usize,
        placed: u32,
        from: usize,
        taken: Occupied,
        largest: &mut Largest,
    ) {
        let after = self.largest(number + 1, taken);
        let total = placed + after.total;
        if total > largest.total || largest.parts.is_empty() {
            *largest = Largest {
                total,
                parts: Vec::new(),
            };
        }
        if total == largest.total {
            for mut part in after.parts {
                part.insert(0, placed);
                if !largest.parts.contains(&part) {
                    largest.parts.push(part);
                }
            }
        }
        let group = &self.groups[number];
        if placed == group.instances {
            return;
        }
        let profile = group.profile;
        for (at, &place) in self.board.places(profile).iter().enumerate().skip(from) {
            if taken.accepts(self.board, profile, place) {
                let with = taken.with(self.board, profile, place);
                self.add(number, placed + 1, at + 1, with, largest);
            }
        }
    }
}
