//! The refusal of a request: every candidate, and why it cannot serve.

use super::{Ask, Planner};
use crate::{
    device::mdev::Offer,
    model::{MdevTypeId, ParentName},
    plan::{Candidate, Obstacle, Placeholder, PlanRequest, Refusal, RefusalKind, Rejection},
};

impl<'a> Planner<'a> {
    pub(super) fn no_candidate(&mut self, wanted: &'a PlanRequest<'a>) -> Refusal {
        let count = self.choices[&Ask::of(wanted).key()].candidates.len();
        let mut candidates = Vec::new();
        let mut obstacle = Obstacle::Itself;
        for position in 0..count {
            let Some(offer) = self.offer(Ask::of(wanted), position) else {
                continue;
            };
            let candidate = self.choices[&Ask::of(wanted).key()].candidates[position].clone();
            let parent = candidate.parent.name.clone();
            obstacle = match offer {
                Offer::NoRoom(_) | Offer::Type { available: 0, .. } => Obstacle::Board,
                Offer::Unreadable(_) => Obstacle::Unknown,
                _ => Obstacle::Itself,
            };
            let reason = self.why_not(wanted, &candidate, offer);
            candidates.push(Rejection {
                candidate: parent,
                reason,
            });
        }
        let idle = self
            .supply
            .idle(wanted.pool, &wanted.placeholder)
            .into_iter();
        let idle: Vec<Rejection> = idle.map(|one| one.rejection).collect();
        if let Placeholder::Function(function) = &wanted.placeholder {
            let words = wanted.pool.kind.words();
            let reason = match candidates.pop() {
                Some(rejection) => rejection.reason,
                None if count == 0 => match idle.first() {
                    Some(Rejection { candidate, reason }) => {
                        format!("{}; {candidate}: {reason}", words.absent)
                    }
                    None => format!("{} (see '{}')", words.absent, words.lists),
                },
                None => words.not_taken.to_owned(),
            };
            let kind = RefusalKind::Function {
                function: *function,
                reason,
                obstacle,
            };
            return Refusal::new(self.domain, wanted, kind);
        }
        candidates.extend(idle);
        candidates.sort_by(|a, b| a.candidate.cmp(&b.candidate));
        Refusal::new(self.domain, wanted, RefusalKind::NoCandidate { candidates })
    }

    fn why_not(&mut self, wanted: &PlanRequest<'a>, candidate: &Candidate, offer: Offer) -> String {
        match offer {
            Offer::NoSuchType => format!("has no {}", wanted.pool.type_in_words()),
            Offer::Unreadable(why) | Offer::Taken(why) | Offer::NoRoom(why) => why,
            Offer::Type { id, available: 0 } => format!("no {id} left"),
            Offer::Type { id, .. } => {
                if let Some(why) = self.refused(candidate, &id) {
                    return why;
                }
                if self.is_being_made_for_others(candidate) {
                    return format!("its last {id} is being made for another domain");
                }
                if let Some(other) = self.other_board_type(wanted.pool, candidate) {
                    return format!("its board is of another type than that of {other}");
                }
                if let Some(why) = self.why_not_on_board(wanted, candidate, &id) {
                    return why;
                }
                let has_board = self.board(wanted.pool, candidate).is_some();
                let is_of_several_board_types = self.is_of_several_board_types(self.wanted);
                let others: Vec<&str> = self
                    .taken
                    .planned_on(&candidate.parent.name)
                    .map(|one| one.device.as_str())
                    .collect();
                let mut requests = self.wanted.iter();
                let differ = requests.any(|one| !one.pool.is_of_one_type_with(wanted.pool))
                    || is_of_several_board_types;
                if others.is_empty() && differ && has_board {
                    "the devices of this domain do not all fit on it at once".to_owned()
                } else if others.is_empty() {
                    format!("its last {id} is needed for another device of this domain")
                } else {
                    format!(
                        "its last {id} goes to '{}' of this domain",
                        others.join("', '")
                    )
                }
            }
        }
    }

    /// Why a function that is free cannot be used: the type does not fit on its board
    /// in addition to the other devices of this domain.
    fn why_not_on_board(
        &mut self,
        wanted: &PlanRequest<'a>,
        candidate: &Candidate,
        id: &MdevTypeId,
    ) -> Option<String> {
        self.boards.left.clear();
        if self.left_on_board(wanted.pool, candidate, id)? > 0 {
            return None;
        }
        let alike = self
            .wanted
            .iter()
            .filter(|one| one.pool.is_of_one_type_with(wanted.pool));
        let (alike, board) = (alike.count(), &candidate.board);
        let alone = self.board(wanted.pool, candidate)?.left(id)?;
        let others: Vec<&str> = self
            .taken
            .planned_on_board(board)
            .filter(|one| one.type_id != *id)
            .map(|one| one.device.as_str())
            .collect();
        let its_board = (*board != candidate.parent.name).then_some(board);
        Some(match others.as_slice() {
            [] => too_few(its_board, alone, id, alike),
            others => does_not_fit(its_board, id, others),
        })
    }

    /// Whether only other domains' devices, not this plan's, take the remaining space.
    fn is_being_made_for_others(&self, candidate: &Candidate) -> bool {
        self.taken
            .planned_on_board(&candidate.board)
            .next()
            .is_none()
            && self.taken.is_announced_on_board(&candidate.board)
    }
}

/// The reason that a candidate, or its board, has fewer of a type than the domain wants.
fn too_few(its_board: Option<&ParentName>, left: u32, id: &MdevTypeId, wanted: usize) -> String {
    let its_board = its_board.map_or_else(String::new, |board| format!("its board {board} has "));
    format!("{its_board}{left} of {id} left, {wanted} are wanted")
}

/// The reason that a type does not fit beside other devices of the domain.
fn does_not_fit(its_board: Option<&ParentName>, id: &MdevTypeId, others: &[&str]) -> String {
    let on_board = its_board.map_or_else(String::new, |board| format!(" on its board {board}"));
    let others = others.join("', '");
    format!("a {id} does not fit{on_board} beside '{others}' of this domain")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_whole_sentences_with_and_without_a_board() {
        let id: MdevTypeId = "nvidia-231".parse().unwrap();
        let board: ParentName = "0000:41:00.0".parse().unwrap();
        assert_eq!(
            too_few(Some(&board), 1, &id, 2),
            "its board 0000:41:00.0 has 1 of nvidia-231 left, 2 are wanted"
        );
        assert_eq!(
            too_few(None, 1, &id, 2),
            "1 of nvidia-231 left, 2 are wanted"
        );
        assert_eq!(
            does_not_fit(Some(&board), &id, &["gpu0", "gpu1"]),
            "a nvidia-231 does not fit on its board 0000:41:00.0 beside 'gpu0', 'gpu1' of this domain"
        );
        assert_eq!(
            does_not_fit(None, &id, &["gpu0"]),
            "a nvidia-231 does not fit beside 'gpu0' of this domain"
        );
    }
}
