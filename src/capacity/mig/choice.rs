//! Which of several GPUs gets one more instance.

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
    let mut best: Option<(Loss, u32, Choice)> = None;
    for (at, candidate) in candidates.iter().enumerate() {
        let Some(judge) = judges.get_mut(candidate.judge) else {
            continue;
        };
        let Some(slots) = judge.best_place(candidate.occupied, profile) else {
            continue;
        };
        let loss = Loss::of(judge, candidate.occupied, profile, slots);
        let free = candidate.occupied.free(judge.board());
        let choice = Choice {
            candidate: at,
            slots,
        };
        let is_better = best.is_none_or(|(least, fewest, _)| {
            loss.compared_with(least).then(free.cmp(&fewest)).is_lt()
        });
        if is_better {
            best = Some((loss, free, choice));
        }
    }
    best.map(|(.., choice)| choice)
}

/// What a GPU loses of its room, and the room when it is empty: models differ in the number
/// of slots.
#[derive(Debug, Clone, Copy)]
struct Loss {
    lost: u128,
    of: u128,
}

impl Loss {
    fn of(judge: &mut Usefulness<'_>, before: Occupied, profile: ProfileId, slots: Slots) -> Self {
        let board = judge.board();
        let mut after = before;
        after.add(board, profile, slots);
        Self {
            lost: judge.room(before).saturating_sub(judge.room(after)),
            of: judge.room(Occupied::NOTHING),
        }
    }

    fn compared_with(self, other: Self) -> std::cmp::Ordering {
        (self.lost * other.of).cmp(&(other.lost * self.of))
    }
}
