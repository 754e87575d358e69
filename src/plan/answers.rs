//! The drivers' answers about functions, kept for all plans that use the same look at a
//! host. It knows pools only by name.

use std::{cell::RefCell, collections::BTreeMap};

use crate::{
    device::mdev::Parent,
    model::{MdevTypeId, PoolName},
};

/// The answers of one look.
#[derive(Debug, Default)]
pub struct Answers(RefCell<BTreeMap<PoolName, Vec<Answer>>>);

/// The offer of a free function for a pool.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// The function.
    pub(super) parent: Parent,
    /// The type's id there.
    pub(super) type_id: MdevTypeId,
    /// How many more can be made.
    pub(super) available: u32,
}

impl Answers {
    pub(super) fn note(&self, pool: &PoolName, answer: Answer) {
        let mut answers = self.0.borrow_mut();
        let of_pool = answers.entry(pool.clone()).or_default();
        of_pool.retain(|other| other.parent != answer.parent);
        of_pool.push(answer);
    }

    /// The first answer for the pool that `is_wanted`.
    pub(super) fn find(
        &self,
        pool: &PoolName,
        is_wanted: impl Fn(&Answer) -> bool,
    ) -> Option<Answer> {
        let answers = self.0.borrow();
        answers
            .get(pool)?
            .iter()
            .find(|one| is_wanted(one))
            .cloned()
    }
}
