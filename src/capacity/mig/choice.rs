//! Which of several GPUs gets one more instance.

use std::cmp::Ordering;

use super::{
    board::{ProfileId, Slots},
    occupied::Occupied,
    usefulness::Usefulness,
};

/// A GPU that could get the instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Candidate {
    /// Which of the judges is for it: GPUs of one model with the same pools share one.
    pub judge: usize,
    /// What is taken of it.
    pub occupied: Occupied,
}

/// A GPU and the slots there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Choice {
    /// The place in the list of candidates.
    pub candidate: usize,
    /// Where.
    pub slots: Slots,
}

/// The GPU that loses the least usefulness by one more instance of the profile; if equal,
/// the fullest; then the first. None if it fits on none.
#[must_use]
pub fn choose(
    judges: &mut [Usefulness<'_>],
    candidates: &[Candidate],
    profile: ProfileId,
) -> Option<Choice> {
    let mut best: Option<(Cost, Choice)> = None;
    for (at, candidate) in candidates.iter().enumerate() {
        let Some(judge) = judges.get_mut(candidate.judge) else {
            continue;
        };
        let Some((cost, slots)) = cost(judge, candidate.occupied, profile) else {
            continue;
        };
        let choice = Choice {
            candidate: at,
            slots,
        };
        if best.is_none_or(|(least, _)| cost < least) {
            best = Some((cost, choice));
        }
    }
    best.map(|(_, choice)| choice)
}

/// What a GPU loses by one more instance of the profile, at its best place; None if it does not
/// fit.
#[must_use]
pub fn cost(
    judge: &mut Usefulness<'_>,
    occupied: Occupied,
    profile: ProfileId,
) -> Option<(Cost, Slots)> {
    let board = judge.board();
    let slots = judge.best_place(occupied, profile)?;
    let mut after = occupied;
    after.add(board, profile, slots);
    let cost = Cost {
        lost: judge.room(occupied).saturating_sub(judge.room(after)),
        of: judge.room(Occupied::NOTHING),
        free: occupied.free(board),
    };
    Some((cost, slots))
}

/// What a GPU loses of its room, and its room when it is empty: models differ in the number of
/// slots. If equal, the fullest GPU costs the least.
#[derive(Debug, Clone, Copy)]
pub struct Cost {
    lost: u128,
    of: u128,
    free: u32,
}

impl Ord for Cost {
    fn cmp(&self, other: &Self) -> Ordering {
        let (one, two) = (self.lost * other.of, other.lost * self.of);
        one.cmp(&two).then(self.free.cmp(&other.free))
    }
}

impl PartialOrd for Cost {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Cost {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Cost {}
