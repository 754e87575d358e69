//! Creations that failed during one start.

use std::collections::BTreeMap;

use super::{Candidate, Plan};
use crate::model::{MdevTypeId, ParentName};

/// Creations that the driver refused in this run, with the reasons. The driver's answer
/// counts more than the attributes, which said that the device fits. A parent or board
/// that made some devices and then refused is asked again, but for no more than it made.
/// Virtual functions of one board share its memory. So a board that has refused a type
/// twice is not asked for that type at each of its other functions.
#[derive(Debug, Clone, Default)]
pub struct Failed {
    parents: BTreeMap<(ParentName, MdevTypeId), Refused>,
    boards: BTreeMap<(ParentName, MdevTypeId), Refused>,
}

#[derive(Debug, Clone)]
struct Refused {
    times: u32,
    /// How many devices of the plan had been made before; the smallest number of all
    /// failures, so that each refusal leaves less to be planned.
    made: usize,
    reason: String,
}

impl Failed {
    /// After this many refusals of one type a board is not asked again.
    const TRIES: u32 = 2;

    /// Records that the assignment with that number was refused, after those before it
    /// were made.
    pub fn note(&mut self, plan: &Plan, number: usize, reason: &str) {
        let Some(assignment) = plan.assignments.get(number) else {
            return;
        };
        let before = plan.assignments.get(..number).unwrap_or_default();
        let (parent, board) = (&assignment.parent, &assignment.board);
        let on_parent = before.iter().filter(|one| one.parent == *parent).count();
        let on_board = before.iter().filter(|one| one.board == *board).count();
        for (refusals, place, made) in [
            (&mut self.parents, parent, on_parent),
            (&mut self.boards, board, on_board),
        ] {
            let refused = refusals.entry((place.clone(), assignment.type_id.clone()));
            let refused = refused.or_insert_with(|| Refused {
                times: 0,
                made,
                reason: reason.to_owned(),
            });
            refused.times += 1;
            refused.made = refused.made.min(made);
        }
    }

    /// Whether nothing has failed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.parents.is_empty()
    }

    /// Whether the board has made some devices and then refused to make more than
    /// `planned`, of any type.
    pub(super) fn has_refused(&self, board: &ParentName, planned: usize) -> bool {
        let mut boards = self.boards.iter();
        boards
            .any(|((one, _), refused)| one == board && refused.made > 0 && planned >= refused.made)
    }

    /// Why the candidate must not be asked for one more of the type, given the devices
    /// planned on it and on its board.
    pub(super) fn reason(
        &self,
        candidate: &Candidate,
        type_id: &MdevTypeId,
        (on_parent, on_board): (usize, usize),
    ) -> Option<String> {
        let parent = (candidate.parent.name.clone(), type_id.clone());
        if let Some(refused) = self.parents.get(&parent) {
            if on_parent >= refused.made {
                return Some(refused.reason.clone());
            }
        }
        let board = (candidate.board.clone(), type_id.clone());
        let refused = self.boards.get(&board)?;
        let is_barred = refused.times >= Self::TRIES && on_board >= refused.made;
        is_barred.then(|| match refused.made {
            0 => format!("its board {} refuses {type_id}", candidate.board),
            made => format!(
                "its board {} makes {made} at once and refuses one more {type_id}",
                candidate.board
            ),
        })
    }
}
