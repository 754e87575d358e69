//! The locks that each thread holds.

use std::{cell::RefCell, path::PathBuf};

use super::{Held, Rank};

thread_local! {
    static HELD: RefCell<Vec<(Rank, PathBuf)>> = const { RefCell::new(Vec::new()) };
}

/// To be called before a lock is waited for.
pub(super) fn check(rank: Rank, path: &std::path::Path) {
    HELD.with_borrow(|held| {
        for (other, of) in held {
            assert!(
                (other, of.as_path()) < (&rank, path),
                "the lock {} is taken while {} is held",
                path.display(),
                of.display()
            );
        }
    });
}

pub(super) fn note(rank: Rank, path: PathBuf) {
    HELD.with_borrow_mut(|held| held.push((rank, path)));
}

/// Whether the thread holds the host lock.
pub(in super::super) fn is_planning() -> bool {
    HELD.with_borrow(|held| held.iter().any(|(rank, _)| *rank == Rank::Host))
}

impl Drop for Held {
    fn drop(&mut self) {
        HELD.with_borrow_mut(|held| {
            let mine = (self.rank, &self.path);
            let place = held.iter().position(|(rank, path)| (*rank, path) == mine);
            if let Some(place) = place {
                held.swap_remove(place);
            }
        });
    }
}
