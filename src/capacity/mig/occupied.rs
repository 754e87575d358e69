//! What is taken of a GPU, and what the driver would still accept: the rules of slots, of
//! the most instances of a profile, and of engines.

use super::{
    board::{Board, ProfileId, Slots, engine_counts, greedily},
    layout::Instance,
};

/// What is taken of a GPU. Two sets of instances that leave the same possibilities are
/// usually the same `Occupied`: only what can limit something is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Occupied {
    slots: u64,
    /// For each profile that is limited by more than slots, how many there are.
    counts: [u8; Board::MOST_PROFILES],
    /// The engines in use, of those that can get scarce.
    engines: [u32; 4],
}

impl Occupied {
    /// Nothing is taken.
    pub const NOTHING: Self = Self {
        slots: 0,
        counts: [0; Board::MOST_PROFILES],
        engines: [0; 4],
    };

    /// What these instances take.
    #[must_use]
    pub fn by<'a>(board: &Board, instances: impl IntoIterator<Item = &'a Instance>) -> Self {
        let mut occupied = Self::NOTHING;
        for instance in instances {
            occupied.add(board, instance.profile, instance.slots);
        }
        occupied
    }

    /// One more instance, even of a profile that the GPU does not have (any more).
    pub fn add(&mut self, board: &Board, profile: ProfileId, slots: Slots) {
        self.slots |= slots.bits();
        if let Some(profile) = board.index(profile) {
            *self = self.with(board, profile, slots);
        }
    }

    /// One bit for each slot that is taken.
    #[must_use]
    pub fn slots(self) -> u64 {
        self.slots
    }

    /// How many slots are free.
    #[must_use]
    pub fn free(self, board: &Board) -> u32 {
        board.slots().saturating_sub(self.slots.count_ones())
    }

    /// How many more of a profile fit beside each other; 0 for one that the GPU does not have.
    #[must_use]
    pub fn more(self, board: &Board, profile: ProfileId) -> u32 {
        let profile = board.index(profile);
        profile.map_or(0, |profile| self.fitting(board, profile))
    }

    /// With one more instance; whether it fits has been asked before.
    #[must_use]
    pub(super) fn with(mut self, board: &Board, profile: usize, slots: Slots) -> Self {
        self.slots |= slots.bits();
        if board.is_limited(profile) {
            if let Some(count) = self.counts.get_mut(profile) {
                *count = count.saturating_add(1);
            }
        }
        for &(engine, _) in board.scarce_engines() {
            let needed = engines(board, profile)[engine];
            self.engines[engine] = self.engines[engine].saturating_add(needed);
        }
        self
    }

    /// Whether one more fits there.
    #[must_use]
    pub(super) fn accepts(self, board: &Board, profile: usize, slots: Slots) -> bool {
        self.slots & slots.bits() == 0 && self.left(board, profile) > 0
    }

    /// How many more of a profile fit beside each other.
    #[must_use]
    pub(super) fn fitting(self, board: &Board, profile: usize) -> u32 {
        let by_slots = greedily(self.slots, board.places(profile));
        by_slots.min(self.left(board, profile))
    }

    /// The places for one more of a profile.
    pub(super) fn places(self, board: &Board, profile: usize) -> impl Iterator<Item = Slots> {
        let allowed = self.left(board, profile) > 0;
        let places = board.places(profile).iter().copied();
        places.filter(move |place| allowed && self.slots & place.bits() == 0)
    }

    /// How many more of a profile there may be, whatever the slots say.
    fn left(self, board: &Board, profile: usize) -> u32 {
        let mut left = u32::MAX;
        if board.is_limited(profile) {
            let most = board.profiles().get(profile).map_or(0, |its| its.most);
            let count = self.counts.get(profile).copied().unwrap_or(0);
            left = most.saturating_sub(u32::from(count));
        }
        for &(engine, total) in board.scarce_engines() {
            let free = total.saturating_sub(self.engines[engine]);
            // Without need of it, as many as there may be.
            let enough_for = free.checked_div(engines(board, profile)[engine]);
            left = left.min(enough_for.unwrap_or(u32::MAX));
        }
        left
    }
}

fn engines(board: &Board, profile: usize) -> [u32; 4] {
    let profile = board.profiles().get(profile);
    profile.map_or([0; 4], |profile| engine_counts(profile.engines))
}
