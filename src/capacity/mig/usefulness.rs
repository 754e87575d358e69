//! How much the free part of a GPU is worth. Two numbers are compared, both weighted by what
//! the pools may still want.
//!
//! *Accepted*: how many of the next three instances fit, on average over what they may be,
//! each at its best place, while nothing is given back. It chooses the place on a GPU: with
//! it, the acceptance on one A100 stays within 1 % of the best possible, which was found
//! from all states and their transitions. One instance ahead is too near (any of two places
//! may do for each profile alone), and from four on it matters that instances are also given
//! back.
//!
//! *Room*: how many slots can still be filled with each profile alone. It chooses the GPU:
//! of many GPUs, what one does not accept goes to another, so what counts is the sum over
//! all of them. Choosing by *accepted* would spread instances over all GPUs, since the first
//! instance costs a GPU little; and then none is left for a large one.
//!
//! `tests/bench/README.md` has the comparison with other ways to choose.

use std::collections::HashMap;

use super::{
    board::{Board, ProfileId, Slots},
    occupied::Occupied,
};

/// How many instances ahead *accepted* looks.
const AHEAD: u8 = 3;

/// What pools may still want of a GPU, beyond the instances that are to be there already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Later {
    /// Of this profile.
    pub profile: ProfileId,
    /// This many instances at most.
    pub instances: u32,
    /// How likely, in comparison with the others.
    pub weight: u32,
}

/// The worth of what is free: more is better, and the first number that differs decides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Worth {
    accepted: u128,
    room: u128,
    /// As `room`, for all profiles alike: what no pool wants today may be wanted tomorrow.
    any_room: u128,
}

/// Judges what is free on a GPU. It remembers what it has calculated, so GPUs of one model
/// with the same pools share one.
#[derive(Debug, Clone)]
pub struct Usefulness<'b> {
    board: &'b Board,
    /// Profiles that may be wanted: index, most instances, weight.
    later: Vec<(usize, u32, u128)>,
    judged: HashMap<Occupied, Worth>,
    accepted: HashMap<(Occupied, u8), u128>,
}

impl<'b> Usefulness<'b> {
    /// `later`: what pools may still want. Without any, every profile is as likely as any
    /// other.
    #[must_use]
    pub fn new(board: &'b Board, later: &[Later]) -> Self {
        let mut wanted: Vec<(usize, u32, u128)> = Vec::new();
        for more in later.iter().filter(|more| more.instances > 0) {
            let Some(profile) = board.index(more.profile) else {
                continue;
            };
            let weight = u128::from(more.weight);
            match wanted.iter_mut().find(|(known, ..)| *known == profile) {
                Some((_, instances, sum)) => {
                    *instances = instances.saturating_add(more.instances);
                    *sum += weight;
                }
                None => wanted.push((profile, more.instances, weight)),
            }
        }
        wanted.retain(|(.., weight)| *weight > 0);
        if wanted.is_empty() {
            let all = 0..board.profiles().len();
            wanted = all.map(|profile| (profile, u32::MAX, 1)).collect();
        }
        Self {
            board,
            later: wanted,
            judged: HashMap::new(),
            accepted: HashMap::new(),
        }
    }

    /// The GPU's profiles.
    #[must_use]
    pub fn board(&self) -> &'b Board {
        self.board
    }

    /// The worth of what is free.
    pub(super) fn worth(&mut self, occupied: Occupied) -> Worth {
        if let Some(&known) = self.judged.get(&occupied) {
            return known;
        }
        let accepted = self.accepted(occupied, AHEAD);
        let wanted = self.later.iter();
        let all = 0..self.board.profiles().len();
        let worth = Worth {
            accepted,
            room: wanted
                .map(|&(profile, most, weight)| weight * self.slots_for(occupied, profile, most))
                .sum(),
            any_room: all
                .map(|profile| self.slots_for(occupied, profile, u32::MAX))
                .sum(),
        };
        self.judged.insert(occupied, worth);
        worth
    }

    /// The place for one more instance that leaves the most useful rest; None if it does not
    /// fit.
    #[must_use]
    pub fn best_place(&mut self, occupied: Occupied, profile: ProfileId) -> Option<Slots> {
        let profile = self.board.index(profile)?;
        let mut best: Option<(Worth, Slots)> = None;
        for place in occupied.places(self.board, profile) {
            let worth = self.worth(occupied.with(self.board, profile, place));
            if best.is_none_or(|(known, _)| worth > known) {
                best = Some((worth, place));
            }
        }
        best.map(|(_, place)| place)
    }

    /// How many slots can be filled with each profile alone, weighted.
    pub(super) fn room(&mut self, occupied: Occupied) -> u128 {
        self.worth(occupied).room
    }

    fn slots_for(&self, occupied: Occupied, profile: usize, most: u32) -> u128 {
        let size = self.board.profiles().get(profile).map_or(0, |its| its.size);
        let fitting = occupied.fitting(self.board, profile).min(most);
        u128::from(fitting) * u128::from(size)
    }

    /// How many of the next instances fit, times the sum of all weights to the power of
    /// `ahead`: whole numbers, so that places that are equally good are seen to be so.
    /// Weights are below 2^32 and profiles at most 32, so it stays below 3 × 2^111.
    fn accepted(&mut self, occupied: Occupied, ahead: u8) -> u128 {
        if ahead == 0 {
            return 0;
        }
        if let Some(&known) = self.accepted.get(&(occupied, ahead)) {
            return known;
        }
        let all: u128 = self.later.iter().map(|(.., weight)| weight).sum();
        let one = all.pow(u32::from(ahead) - 1);
        let refused = self.accepted(occupied, ahead - 1);
        let mut sum = 0;
        for at in 0..self.later.len() {
            let (profile, _, weight) = self.later[at];
            let mut best = None;
            for place in occupied.places(self.board, profile) {
                let after = match ahead {
                    1 => 0,
                    _ => self.accepted(occupied.with(self.board, profile, place), ahead - 1),
                };
                best = best.max(Some(one + after));
                if ahead == 1 {
                    break;
                }
            }
            sum += weight * best.unwrap_or(refused);
        }
        self.accepted.insert((occupied, ahead), sum);
        sum
    }
}
