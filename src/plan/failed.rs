//! Creations that failed while a start was being served.

use std::collections::BTreeMap;

use super::{Assignment, Candidate};
use crate::model::{MdevTypeId, ParentName};

/// Creations that the driver refused in this very run, with the reasons: its
/// word counts more than the attributes that promised room. Virtual functions of
/// one board share its memory, so a board that has refused one type twice is not
/// asked for it at each of its other functions.
#[derive(Debug, Clone, Default)]
pub struct Failed {
    parents: BTreeMap<(ParentName, MdevTypeId), String>,
    boards: BTreeMap<(ParentName, MdevTypeId), u32>,
}

impl Failed {
    /// Refusals of one type after which a board is left alone.
    const TRIES: u32 = 2;

    /// Notes that an assignment was refused.
    pub fn note(&mut self, assignment: &Assignment, reason: String) {
        let Assignment {
            parent,
            board,
            type_id,
            ..
        } = assignment;
        self.parents
            .insert((parent.clone(), type_id.clone()), reason);
        *self
            .boards
            .entry((board.clone(), type_id.clone()))
            .or_insert(0) += 1;
    }

    /// Whether nothing has failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// Why the candidate is not to be asked for the type.
    pub(super) fn reason(&self, candidate: &Candidate, type_id: &MdevTypeId) -> Option<String> {
        let parent = (candidate.parent.name.clone(), type_id.clone());
        if let Some(reason) = self.parents.get(&parent) {
            return Some(reason.clone());
        }
        let tries = self
            .boards
            .get(&(candidate.board.clone(), type_id.clone()))?;
        (*tries >= Self::TRIES).then(|| format!("its board {} refuses {type_id}", candidate.board))
    }
}
