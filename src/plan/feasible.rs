//! Whether a set of requests can all be served at once. Greedy choice alone could give
//! a request that has alternatives the only device for another request.
//!
//! A parent has a limit of its own, and the parents of one board share the board's
//! capacity in a way that only the board knows. So each board is asked which
//! combinations of requests fit on it, and the answers of all boards are combined.

use std::collections::{BTreeMap, BTreeSet};

use super::{Placeholder, PlanRequest};
use crate::model::{MdevTypeId, ParentName};

/// A parent and the type to be made on it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Slot {
    pub(super) board: ParentName,
    pub(super) container: Container,
    pub(super) type_id: MdevTypeId,
}

/// A place for devices that has a limit of its own.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Container {
    /// A function that holds one device, whatever its type.
    Function(ParentName),
    /// A parent that counts each of its types separately.
    Parent(ParentName, MdevTypeId),
}

/// Requests that the same slots can serve.
#[derive(Debug, Clone)]
pub(super) struct Class {
    /// How many such requests there are.
    pub(super) wanted: usize,
    /// The slots that can serve one request.
    pub(super) slots: Vec<Slot>,
}

/// How many combinations are examined. A VM that uses a dozen pools may have more; then
/// the driver decides.
const MOST_COMBINATIONS: usize = 50_000;

/// Requests for the same candidates can be served in any order. Looking ahead helps
/// only when the candidates differ and one request has a choice. `are_within`: the plan
/// is restricted to places that depend on what devices should share.
pub(super) fn is_needed(wanted: &[PlanRequest<'_>], are_within: bool) -> bool {
    let differ = wanted.windows(2).any(|pair| {
        let [one, other] = pair else { return false };
        one.pool.name != other.pool.name
            || one.placeholder != other.placeholder
            || are_within && one.together != other.together
    });
    let has_choice = |one: &PlanRequest<'_>| !matches!(one.placeholder, Placeholder::Function(_));
    differ && wanted.iter().any(has_choice)
}

/// Whether every request can get a slot, given how many devices each container holds
/// and which sets of types a board accepts at once (`takes`; if it accepts a set, it
/// accepts all subsets).
pub(super) fn all_served(
    classes: &[Class],
    room: &BTreeMap<Container, u32>,
    takes: &mut dyn FnMut(&ParentName, &[&MdevTypeId]) -> bool,
) -> bool {
    let wanted: Vec<usize> = classes.iter().map(|class| class.wanted).collect();
    if !is_matched(classes, &wanted, room, None) {
        return false;
    }
    let boards: BTreeSet<&ParentName> = classes
        .iter()
        .flat_map(|class| class.slots.iter().map(|slot| &slot.board))
        .collect();
    // The numbers that the boards so far can serve.
    let mut served = BTreeSet::from([vec![0; wanted.len()]]);
    let mut looked_at = 0;
    for board in boards {
        let mut combinations = Combinations {
            classes,
            wanted: &wanted,
            room,
            board,
            takes,
            found: Vec::new(),
            looked_at: &mut looked_at,
        };
        combinations.extend(&mut vec![0; wanted.len()], 0);
        let found = combinations.found;
        let mut after = BTreeSet::new();
        for before in &served {
            for more in &found {
                looked_at += 1;
                let sum = before.iter().zip(more).zip(&wanted);
                after.insert(
                    sum.map(|((before, more), wanted)| (before + more).min(*wanted))
                        .collect::<Vec<usize>>(),
                );
            }
        }
        if after.contains(&wanted) || looked_at > MOST_COMBINATIONS {
            return true;
        }
        served = after;
    }
    served.contains(&wanted)
}

/// The combinations that fit on one board: how many of each class.
struct Combinations<'a> {
    classes: &'a [Class],
    wanted: &'a [usize],
    room: &'a BTreeMap<Container, u32>,
    board: &'a ParentName,
    takes: &'a mut dyn FnMut(&ParentName, &[&MdevTypeId]) -> bool,
    found: Vec<Vec<usize>>,
    looked_at: &'a mut usize,
}

impl Combinations<'_> {
    /// All combinations that extend `chosen`, which is fixed up to `class`.
    fn extend(&mut self, chosen: &mut Vec<usize>, class: usize) {
        if class == chosen.len() {
            self.found.push(chosen.clone());
            return;
        }
        for number in 0..=self.wanted[class] {
            chosen[class] = number;
            if number > 0 && !self.is_taken(chosen) {
                break;
            }
            self.extend(chosen, class + 1);
        }
        chosen[class] = 0;
    }

    fn is_taken(&mut self, chosen: &[usize]) -> bool {
        *self.looked_at += 1;
        if *self.looked_at > MOST_COMBINATIONS
            || !is_matched(self.classes, chosen, self.room, Some(self.board))
        {
            return false;
        }
        let mut types = Vec::new();
        for (class, &number) in self.classes.iter().zip(chosen) {
            let slot = class.slots.iter().find(|slot| slot.board == *self.board);
            types.extend(
                slot.into_iter()
                    .flat_map(|slot| std::iter::repeat_n(&slot.type_id, number)),
            );
        }
        (self.takes)(self.board, &types)
    }
}

/// Whether that many requests of each class find slots, on one board or anywhere: a
/// bipartite matching of requests to containers with a limit each (Kuhn's augmenting
/// paths).
fn is_matched(
    classes: &[Class],
    chosen: &[usize],
    room: &BTreeMap<Container, u32>,
    board: Option<&ParentName>,
) -> bool {
    let mut choices: Vec<Vec<&Container>> = Vec::new();
    for (class, &number) in classes.iter().zip(chosen) {
        let slots = class.slots.iter();
        let slots = slots.filter(|slot| board.is_none_or(|board| slot.board == *board));
        let containers: Vec<&Container> = slots.map(|slot| &slot.container).collect();
        choices.extend(std::iter::repeat_n(containers, number));
    }
    let mut holders: BTreeMap<&Container, Vec<usize>> = BTreeMap::new();
    (0..choices.len())
        .all(|request| assign(request, &choices, room, &mut holders, &mut BTreeSet::new()))
}

fn assign<'a>(
    request: usize,
    choices: &[Vec<&'a Container>],
    room: &BTreeMap<Container, u32>,
    holders: &mut BTreeMap<&'a Container, Vec<usize>>,
    tried: &mut BTreeSet<&'a Container>,
) -> bool {
    for &container in &choices[request] {
        let size = room.get(container).copied().unwrap_or(0);
        if size == 0 || !tried.insert(container) {
            continue;
        }
        let present = holders.entry(container).or_default().clone();
        if present.len() < usize::try_from(size).unwrap_or(usize::MAX) {
            holders.entry(container).or_default().push(request);
            return true;
        }
        for (place, other) in present.into_iter().enumerate() {
            if assign(other, choices, room, holders, tried) {
                holders.entry(container).or_default()[place] = request;
                return true;
            }
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Two parents on a board, four boards; every third parent is a function.
    fn slot(number: usize, type_id: usize) -> Slot {
        let parent = format!("0000:{number:02x}:00.1").parse().unwrap();
        let type_id: MdevTypeId = format!("t-{type_id}").parse().unwrap();
        Slot {
            board: format!("0000:{:02x}:00.0", number / 2).parse().unwrap(),
            container: match number % 3 {
                0 => Container::Function(parent),
                _ => Container::Parent(parent, type_id.clone()),
            },
            type_id,
        }
    }

    /// A board with a total limit; a strict board takes only one type.
    #[derive(Debug, Clone)]
    struct Board {
        most: usize,
        strict: bool,
    }

    fn takes(board: &Board, types: &[&MdevTypeId]) -> bool {
        let same = types.windows(2).all(|pair| pair[0] == pair[1]);
        types.len() <= board.most && (same || !board.strict)
    }

    /// Tries every assignment.
    fn naive(
        requests: &[&[Slot]],
        room: &mut BTreeMap<Container, u32>,
        boards: &BTreeMap<ParentName, Board>,
        made: &mut Vec<Slot>,
    ) -> bool {
        let Some((first, rest)) = requests.split_first() else {
            return true;
        };
        first.iter().any(|slot| {
            if room[&slot.container] == 0 {
                return false;
            }
            made.push(slot.clone());
            let on_it = made.iter().filter(|one| one.board == slot.board);
            let types: Vec<&MdevTypeId> = on_it.map(|one| &one.type_id).collect();
            *room.get_mut(&slot.container).unwrap() -= 1;
            let fits = takes(&boards[&slot.board], &types) && naive(rest, room, boards, made);
            *room.get_mut(&slot.container).unwrap() += 1;
            made.pop();
            fits
        })
    }

    proptest! {
        #[test]
        fn agrees_with_trying_everything(
            sizes in prop::collection::vec(0u32..3, 8),
            boards in prop::collection::vec((0usize..4, any::<bool>()), 4),
            demands in prop::collection::vec(
                (1usize..3, prop::collection::btree_set(0usize..8, 0..6), 0usize..2),
                0..4,
            ),
        ) {
            let mut room = BTreeMap::new();
            for (number, &size) in sizes.iter().enumerate() {
                for type_id in 0..2 {
                    room.insert(slot(number, type_id).container, size);
                }
            }
            let boards: BTreeMap<ParentName, Board> = boards.iter().enumerate()
                .map(|(number, &(most, strict))| (slot(number * 2, 0).board, Board { most, strict }))
                .collect();
            let classes: Vec<Class> = demands.iter()
                .map(|(wanted, set, type_id)| Class {
                    wanted: *wanted,
                    slots: set.iter().map(|&number| slot(number, *type_id)).collect(),
                })
                .collect();
            let requests: Vec<&[Slot]> = classes.iter()
                .flat_map(|class| std::iter::repeat_n(class.slots.as_slice(), class.wanted))
                .collect();
            let ours = all_served(&classes, &room, &mut |board, types| takes(&boards[board], types));
            prop_assert_eq!(ours, naive(&requests, &mut room, &boards, &mut Vec::new()));
        }
    }
}
